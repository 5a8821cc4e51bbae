"""The HTTP server does what a well-behaved client expects."""

from __future__ import annotations

import os
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from mirrorha.errors import LocalUsageError
from mirrorha.net import http_listen
from mirrorha.net.http import HttpServer, Request, Response, parse_target, text_response
from mirrorha.net.http_client import fetch
from tests.net.http_support import QUICK, connect, read_all, say, serving, until

GET = b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n"


async def test_answers_and_keeps_the_connection() -> None:
    async with serving() as site, await connect(site) as stream:
        for number in range(3):
            await stream.send_all(GET % (b"/n%d" % number, b""))
            received = await stream.receive_some(65536)
            assert received.startswith(b"HTTP/1.1 200 ")
            assert received.endswith(b"GET /n%d 0\n" % number)
        assert site.server.stats.requests == 3
        assert site.server.stats.open == 1


async def test_http_1_0_without_host_is_answered_and_closed() -> None:
    async with serving() as site:
        received = await say(site, b"OPTIONS /primary HTTP/1.0\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"OPTIONS /primary 0\n")


async def test_head_has_the_length_but_no_body() -> None:
    async with serving() as site:
        received = await say(site, b"HEAD /abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"content-length: 12" in received.lower()
        assert received.endswith(b"\r\n\r\n")


async def test_the_request_arrives_whole_and_decoded() -> None:
    async with serving() as site:
        body = b"b" * 50_000
        await fetch(
            "PUT",
            site.url("/a%20b?x=1&y=%C3%A9&x=2"),
            body=body,
            headers=(("X-One", "1"), ("X-One", "2")),
            deadline_s=3,
        )
        (request,) = site.requests
        assert (request.method, request.path) == ("PUT", "/a b")
        assert request.query == {"x": "2", "y": "é"}
        assert request.headers["x-one"] == "1, 2"
        assert request.body == body
        assert request.peer_address == "127.0.0.1"
        assert request.peer_uid is None
        assert not request.secure


async def test_continue_is_said_before_the_body_is_awaited() -> None:
    async with serving() as site, await connect(site) as stream:
        await stream.send_all(GET % (b"/", b"Content-Length: 2\r\nExpect: 100-continue\r\n"))
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"ab")
        assert b"GET / 2\n" in await stream.receive_some(1000)


async def test_streams_are_chunked() -> None:
    async with serving() as site:
        answer = await fetch("GET", site.url("/three"), deadline_s=3)
        assert answer.body == b"one\ntwo\nthree"
        assert answer.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("path", ["/raise", "/exit"])
async def test_a_handler_that_raises_is_answered_500(path: str) -> None:
    async with serving() as site:
        answer = await fetch("GET", site.url(path), deadline_s=3)
        assert answer.status == 500
        assert "Error" not in answer.text, "what went wrong is for the log"
        assert site.server.stats.faults == 1
        assert (await fetch("GET", site.url(), deadline_s=3)).status == 200


async def test_a_header_cannot_be_split() -> None:
    async with serving() as site:
        received = await say(site, GET % (b"/bad-header", b""))
        assert b"Set-Cookie" not in received
        assert site.server.stats.faults == 1


async def test_a_stream_that_raises_is_visibly_cut() -> None:
    async with serving() as site:
        received = await say(site, GET % (b"/breaking", b""))
        assert b"one\n" in received
        assert b"0\r\n\r\n" not in received
        assert site.server.stats.faults == 1


async def test_close_lets_a_request_in_flight_finish_and_ends_the_others() -> None:
    async with (
        serving() as site,
        await connect(site) as idle,
        await connect(site) as events,
        await connect(site) as slow,
    ):
        await events.send_all(GET % (b"/events", b""))
        await slow.send_all(GET % (b"/slow", b""))
        await trio.sleep(0.1)
        began = trio.current_time()
        site.server.close()
        assert await read_all(idle) == b""
        assert (await read_all(events)).startswith(b"HTTP/1.1 200 ")
        assert trio.current_time() - began < 0.1, "they need not wait for the slow one"
        received = await read_all(slow)
        assert b"connection: close" in received.lower()
        assert received.endswith(b"slow\n")
        assert site.streams_ended == 1
        with pytest.raises(OSError, match="connect"):
            await connect(site)


async def test_close_ends_what_hangs_after_the_grace() -> None:
    async with serving() as site, await connect(site) as hanging:
        await hanging.send_all(GET % (b"/hang", b""))
        await trio.sleep(0.05)
        site.server.close()
        assert await read_all(hanging, within_s=QUICK.grace_ms / 1000 + 1) == b""


async def test_cancel_waits_for_nothing() -> None:
    patient = attrs.evolve(QUICK, grace_ms=60_000, write_stall_ms=60_000)
    async with AsyncExitStack() as clients:
        async with serving(patient) as site:
            for path in (b"/hang", b"/huge", b"/events"):
                client = await clients.enter_async_context(await connect(site))
                await client.send_all(GET % (path, b""))
            await until(lambda: len(site.requests) == 3)
            assert site.server.stats.open == 3
            began = trio.current_time()
        assert trio.current_time() - began < 30
        assert site.server.stats.open == 0


async def test_unix_socket_tells_who_asks(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return text_response(200, "ok")

    listener = await http_listen.open_unix(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    async with trio.open_nursery() as nursery:
        await nursery.start(HttpServer(handler).serve, [listener])
        answer = await fetch("GET", "http://node/x", unix_path=path, deadline_s=3)
        assert answer.text == "ok\n"
        with pytest.raises(LocalUsageError, match="another process listens"):
            await http_listen.open_unix(path)
        nursery.cancel_scope.cancel()
    assert seen[0].peer_uid == os.getuid()
    assert seen[0].peer_address == ""
    await trio.aclose_forcefully(await http_listen.open_unix(path))  # the leftover is replaced


async def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    precious = tmp_path / "api.sock"
    precious.write_text("precious")
    with pytest.raises(LocalUsageError, match="not a socket"):
        await http_listen.open_unix(str(precious))
    assert precious.read_text() == "precious"


async def test_a_taken_port_is_refused_in_plain_words() -> None:
    async with serving() as site:
        with pytest.raises(LocalUsageError, match=f"127.0.0.1:{site.port}.*another process"):
            await http_listen.open_tcp(site.port, host="127.0.0.1")


async def test_tls_serves_and_survives_a_plaintext_client() -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    async with serving(context=server_context) as site:
        assert b"HTTP/1.1" not in await say(site, GET % (b"/", b""))
        async with await connect(site) as stalled:
            answer = await fetch("GET", site.url(), ssl_context=client_context, deadline_s=3)
            assert answer.text == "GET / 0\n"
            assert site.requests[0].secure
            assert site.requests[0].peer_address == "127.0.0.1"
            assert await read_all(stalled) == b"", "a handshake may not take for ever"
        assert site.server.stats.broken == 2
        assert site.server.stats.faults == 0


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", {}),
        (b"*", "*", {}),
        (b"/a/../b", "/a/../b", {}),
        (b"//evil/x", "//evil/x", {}),
        (b"/x?a=b=c&d", "/x", {"a": "b=c", "d": ""}),
        (b"http://host:80/x?y=1", "/x", {"y": "1"}),
        (b"http://host", "/", {}),
    ],
)
def test_targets(target: bytes, path: str, query: dict[str, str]) -> None:
    assert parse_target(target) == (path, query)
