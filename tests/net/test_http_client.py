"""The HTTP client: one bounded exchange, and errors that say whether anything was sent."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from mirrorha.errors import HttpError, LocalUsageError
from mirrorha.net import http_listen
from mirrorha.net.http_client import LINE_BYTES_MAX, ServerSentEvent, fetch, open_stream
from tests.net.http_support import serving, until


@asynccontextmanager
async def saying(*pieces: bytes, hang: bool = False) -> AsyncGenerator[str, None]:
    """A server that reads a little and then says `pieces`, whatever it was asked."""
    (listener,) = await http_listen.open_tcp(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            for piece in pieces:
                try:
                    await stream.send_all(piece)
                except trio.BrokenResourceError:
                    return
            if hang:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield f"http://127.0.0.1:{port}/"
        nursery.cancel_scope.cancel()


async def failure_of(url: str, *, deadline_s: float = 2) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await fetch("GET", url, deadline_s=deadline_s, body_bytes_max=10_000)
    assert url in str(caught.value)
    return caught.value


async def test_refused_means_not_sent() -> None:
    async with saying() as url:
        pass
    failure = await failure_of(url)
    assert not failure.sent
    assert "refused" in str(failure)


async def test_unknown_host_means_not_sent() -> None:
    assert not (await failure_of("http://nobody.invalid/")).sent


async def test_no_answer_means_it_may_have_been_done() -> None:
    async with saying(hang=True) as url:
        began = trio.current_time()
        failure = await failure_of(url, deadline_s=0.2)
        assert failure.sent
        assert "within 0.2 s" in str(failure)
        assert trio.current_time() - began < 0.5


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "complete message"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000, "more than 10000"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "buffer too long"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3, "without an answer"),
    ],
    ids=["closes", "cut short", "SSH", "too long", "endless head", "only continue"],
)
async def test_what_is_no_whole_answer(raw: bytes, said: str) -> None:
    async with saying(raw) as url:
        failure = await failure_of(url)
        assert failure.sent
        with pytest.raises(HttpError, match=said):
            raise failure


async def test_an_answer_given_before_the_request_was_read_is_heard() -> None:
    async with serving() as site:
        answer = await fetch("POST", site.url(), body=b"x" * 8_000_000, deadline_s=3)
        assert answer.status == 413


async def test_any_status_is_an_answer() -> None:
    async with saying(b"HTTP/1.1 503 No\r\nX-A: b\r\nContent-Length: 2\r\n\r\n[]") as url:
        answer = await fetch("GET", url, deadline_s=2)
        assert (answer.status, answer.headers["x-a"], answer.json()) == (503, "b", [])


async def test_a_body_that_is_no_json_says_so() -> None:
    async with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]") as url:
        answer = await fetch("GET", url, deadline_s=2)
        with pytest.raises(HttpError, match="no JSON"):
            answer.json()


@pytest.mark.parametrize("url", ["", "/x", "ftp://x/", "http://", "http://[::/", "http://x:y/"])
async def test_what_is_no_url_is_the_callers_fault(url: str) -> None:
    with pytest.raises(LocalUsageError, match="is not a URL"):
        await fetch("GET", url, deadline_s=1)


async def test_a_header_cannot_be_split() -> None:
    with pytest.raises(LocalUsageError, match="cannot be asked"):
        await fetch("GET", "http://x/", headers=(("A", "b\r\nC: d"),), deadline_s=1)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:{port}/", "127.0.0.1:{port}"),
        ("http://localhost:{port}/", "localhost:{port}"),
    ],
)
async def test_host_is_what_the_url_says(url: str, host: str) -> None:
    async with serving() as site:
        await fetch("GET", url.format(port=site.port), deadline_s=3)
        assert site.requests[0].headers["host"] == host.format(port=site.port)


async def test_an_unknown_authority_is_refused_before_anything_is_sent() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serving(context=context) as site:
        failure = await failure_of(site.url())
        assert not failure.sent
        assert "CERTIFICATE_VERIFY_FAILED" in str(failure)
        assert not site.requests


SSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    b": comment\n\nretry: 1000\n\nevent: status\r\ndata: {\r\ndata:  1}\r\n\r\n"
    b"event: empty\n\ndata\n\nid: 7\ndata: \xc3",
    b"\xa9\n\ndata: cut off",
)


async def test_events_are_read_piece_by_piece() -> None:
    async with saying(*SSE) as url, open_stream("GET", url, deadline_s=2) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        events = [await stream.receive_event() for _ in range(4)]
    assert events == [
        ServerSentEvent("status", "{\n 1}"),
        ServerSentEvent("message", ""),
        ServerSentEvent("message", "é"),
        None,
    ]


async def test_lines_are_read_as_they_come() -> None:
    async with serving() as site, open_stream("GET", site.url("/three"), deadline_s=2) as stream:
        lines = [await stream.receive_line() for _ in range(4)]
        assert lines == ["one", "two", "three", None]


async def test_leaving_the_block_ends_the_stream_on_the_server() -> None:
    async with serving() as site:
        async with open_stream("GET", site.url("/events"), deadline_s=2) as stream:
            assert (await stream.receive_event()) == ServerSentEvent("message", "0")
        await until(lambda: site.streams_ended == 1)


async def test_silence_is_an_error() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\nline\npart"
    async with (
        saying(head, hang=True) as url,
        open_stream("GET", url, deadline_s=2, silence_s=0.1) as stream,
    ):
        assert await stream.receive_line() == "line"
        with pytest.raises(HttpError, match=r"silent for 0\.1 s"):
            await stream.receive_line()


async def test_no_answer_to_a_stream_is_an_error() -> None:
    async with saying(hang=True) as url:
        with pytest.raises(HttpError, match=r"within 0\.1 s"):
            async with open_stream("GET", url, deadline_s=0.1):
                pass


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: " + b"y" * 65536 + b"\n"])
async def test_an_endless_line_or_event_is_an_error(piece: bytes) -> None:
    pieces = (b"HTTP/1.1 200 OK\r\n\r\n", *[piece] * (3 * LINE_BYTES_MAX // len(piece)))
    async with saying(*pieces, hang=True) as url, open_stream("GET", url, deadline_s=2) as stream:
        with pytest.raises(HttpError, match="of more than"):
            await stream.receive_event()
