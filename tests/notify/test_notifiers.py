"""A command and a webhook tell what they are given, and say when they could not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mirrorha.errors import LocalUsageError, NotifyError
from mirrorha.net.http import HttpServer, Request, Response, text_response
from mirrorha.notify import Command, Notice, Webhook

NOTICE = Notice(
    subject="check",
    cluster="orders",
    node="paris",
    epoch=7,
    role="PRIM",
    at_s=1_700_000_000.25,
    text="tcp 127.0.0.1:8080: refused\0!",
)


def test_a_notice_is_a_line_and_a_document() -> None:
    assert NOTICE.title == "orders: paris PRIM: check: tcp 127.0.0.1:8080: refused\0!"
    over = attrs.evolve(NOTICE, is_over=True, text="x")
    assert over.title == "orders: paris PRIM: check is over: x"
    assert over.document() == {
        "schema": 1,
        "subject": "check",
        "over": True,
        "cluster": "orders",
        "node": "paris",
        "epoch": 7,
        "role": "PRIM",
        "at": "2023-11-14T22:13:20.250Z",
        "text": "x",
        "title": over.title,
    }


async def test_a_command_finds_it_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("MIRRORHA_")]:
        monkeypatch.delenv(name)  # a command gets this process's environment too
    written = tmp_path / "told"
    await Command(["sh", "-c", f'env | grep MIRRORHA_ > "{written}"']).tell(NOTICE)
    told = dict(line.partition("=")[::2] for line in written.read_text().splitlines())
    text = "tcp 127.0.0.1:8080: refused!"
    assert told == {
        "MIRRORHA_CLUSTER": "orders",
        "MIRRORHA_NODE": "paris",
        "MIRRORHA_EPOCH": "7",
        "MIRRORHA_ROLE": "PRIM",
        "MIRRORHA_SUBJECT": "check",
        "MIRRORHA_OVER": "0",
        "MIRRORHA_TEXT": text,
        "MIRRORHA_TITLE": f"orders: paris PRIM: check: {text}",
    }


@pytest.mark.parametrize("command", [["false"], ["/nowhere/at/all"], ["sh\0"]])
async def test_a_command_that_fails_is_an_error(command: list[str]) -> None:
    with pytest.raises(NotifyError):
        await Command(command).tell(NOTICE)


@attrs.define
class Ear:
    """A server that hears webhooks."""

    status: int = 200
    heard: list[Request] = attrs.field(factory=list)

    async def answer(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        self.heard.append(request)
        return text_response(self.status, "heard")


async def listen(nursery: trio.Nursery, ear: Ear) -> str:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = HttpServer(ear.answer)
    await nursery.start(server.serve, listeners)
    port: Any = listeners[0].socket.getsockname()[1]
    return f"http://127.0.0.1:{port}/hooks/s3cret"


async def test_a_webhook_posts_the_document(nursery: trio.Nursery, tmp_path: Path) -> None:
    ear = Ear()
    token = tmp_path / "token"
    token.write_text("abc\n")
    url = await listen(nursery, ear)
    with trio.fail_after(10):
        await Webhook(url, token_file=str(token)).tell(NOTICE)
    (request,) = ear.heard
    assert (request.method, request.path) == ("POST", "/hooks/s3cret")
    assert json.loads(request.body) == NOTICE.document()
    assert request.headers["authorization"] == "Bearer abc"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [199 + 201, 404, 500, 302])
async def test_any_other_answer_is_an_error(nursery: trio.Nursery, status: int) -> None:
    url = await listen(nursery, Ear(status=status))
    with trio.fail_after(10), pytest.raises(NotifyError, match=f"answered {status}"):
        await Webhook(url).tell(NOTICE)


async def test_what_is_secret_in_a_url_is_not_told() -> None:
    url = "http://127.0.0.1:1/hooks/s3cret"
    with trio.fail_after(10), pytest.raises(NotifyError) as caught:
        await Webhook(url).tell(NOTICE)
    assert "s3cret" not in f"{caught.value} {Webhook(url)}"
    with pytest.raises(NotifyError) as caught:
        await Webhook(url, token_file="/nowhere/at/all").tell(NOTICE)
    assert "/nowhere/at/all cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    "token", [b"s3cret\n# made on Monday\n", "s3cr\u00e9t".encode(), b"s3cret\0", b"s3\xff", b" \n"]
)
async def test_a_token_that_cannot_be_sent_is_not_told(tmp_path: Path, token: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(token)
    with pytest.raises(NotifyError) as caught:
        await Webhook("http://127.0.0.1:1/x", token_file=str(file)).tell(NOTICE)
    assert "s3" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/s3cret",
        "http://host/s3 cret",
        "http://host/s3cr\u00e9t",
        "http://host:99999/s3cret",
        "http://[bad/s3cret",
        "file:///s3cret",
        "http:///s3cret",
    ],
)
def test_a_url_that_cannot_be_asked_for_is_refused_and_not_told(url: str) -> None:
    with pytest.raises(LocalUsageError) as caught:
        Webhook(url)
    assert "s3" not in str(caught.value)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(LocalUsageError):
        Command([])
