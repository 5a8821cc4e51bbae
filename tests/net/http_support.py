"""A server under test, and a client that says whatever it likes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from mirrorha.net import http_listen
from mirrorha.net.http import HttpLimits, HttpServer, Request, Response, text_response

if TYPE_CHECKING:
    import ssl


@attrs.define
class Site:
    """What the server under test has seen, and how to reach it."""

    server: HttpServer
    port: int
    secure: bool = False
    requests: list[Request] = attrs.field(factory=list)
    streams_ended: int = 0

    def url(self, path: str = "/") -> str:
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}{path}"


async def count_up(site: Site) -> AsyncGenerator[bytes, None]:
    try:
        for number in range(1_000_000):
            yield f"data: {number}\n\n".encode()
            await trio.sleep(0.01)
    finally:
        site.streams_ended += 1


async def flood(site: Site) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            yield b"x" * 65536
    finally:
        site.streams_ended += 1


async def three() -> AsyncGenerator[bytes, None]:
    for piece in (b"one\n", b"two\n", b"three"):
        yield piece


async def breaking() -> AsyncGenerator[bytes, None]:
    yield b"one\n"
    raise ZeroDivisionError("in the stream")


async def answer(site: Site, request: Request) -> Response:
    """The handler under test: one path for each way to answer."""
    site.requests.append(request)
    match request.path:
        case "/slow":
            await trio.sleep(0.3)
            return text_response(200, "slow")
        case "/hang":
            await trio.sleep_forever()
        case "/huge":
            return Response(body=b"x" * 32 * 1024 * 1024)
        case "/events":
            return Response(headers=(("Content-Type", "text/event-stream"),), body=count_up(site))
        case "/flood":
            return Response(body=flood(site))
        case "/three":
            return Response(body=three())
        case "/breaking":
            return Response(body=breaking())
        case "/raise":
            raise ZeroDivisionError("in the handler")
        case "/exit":
            raise SystemExit("in the handler")
        case "/bad-header":
            return Response(headers=(("X-Text", "a\r\nSet-Cookie: b"),))
    return text_response(200, f"{request.method} {request.path} {len(request.body)}")


QUICK = HttpLimits(
    connections_max=8,
    header_bytes_max=8 * 1024,
    body_bytes_max=64 * 1024,
    idle_ms=5_000,
    request_read_ms=400,
    write_stall_ms=400,
    grace_ms=500,
)


@asynccontextmanager
async def serving(
    limits: HttpLimits = QUICK, context: ssl.SSLContext | None = None
) -> AsyncGenerator[Site, None]:
    """Serve on a free port of loopback for as long as the block lasts."""
    plain = await http_listen.open_tcp(0, host="127.0.0.1")
    port = plain[0].socket.getsockname()[1]

    async def handler(request: Request) -> Response:
        return await answer(site, request)

    site = Site(HttpServer(handler, limits=limits), port, secure=context is not None)
    listeners = plain if context is None else http_listen.with_tls(plain, context)
    async with trio.open_nursery() as nursery:
        await nursery.start(site.server.serve, listeners)
        yield site
        nursery.cancel_scope.cancel()


async def connect(site: Site) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", site.port)


async def read_all(stream: trio.abc.ReceiveStream, *, within_s: float = 3) -> bytes:
    """Read until the server closes or resets, and fail if it does not in time."""
    received = bytearray()
    with trio.fail_after(within_s):
        try:
            while piece := await stream.receive_some(65536):
                received += piece
        except trio.BrokenResourceError:
            received += b"<reset>"
    return bytes(received)


async def until(holds: Callable[[], bool], *, within_s: float = 3) -> None:
    """Wait for what another program or the kernel brings about: there is no event to wait for."""
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)


async def say(site: Site, raw: bytes) -> bytes:
    """Send `raw`, half-close, and return everything the server answers."""
    async with await connect(site) as stream:
        await stream.send_all(raw)
        await stream.send_eof()
        return await read_all(stream)
