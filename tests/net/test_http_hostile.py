"""Whatever a client does, the server goes on, blames nobody else, and holds bounded memory."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import AsyncExitStack, suppress
from typing import Final

import attrs
import pytest
import trio

from mirrorha.net.http_client import fetch
from tests.net.http_support import QUICK, Site, connect, read_all, say, serving, until

#: What is sent, and what the server says first (None: nothing at all).
ATTACKS: Final[dict[str, tuple[bytes, bytes | None]]] = {
    "bytes after Connection: close": (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /more HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200",
    ),
    "HTTP/1.0 with trailing bytes": (b"GET / HTTP/1.0\r\n\r\ntrailing", b"HTTP/1.1 200"),
    "WebSocket upgrade, then garbage": (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x05hello",
        b"HTTP/1.1 200",
    ),
    "h2c upgrade": (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",
        b"HTTP/1.1 200",
    ),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"HTTP/1.1 505"),
    "random bytes": (random.Random(7).randbytes(5_000), b"HTTP/1.1 400"),
    "zeros": (b"\0" * 5_000, b"HTTP/1.1 400"),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 512, b"HTTP/1.1 400"),
    "bad chunk size": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n",
        b"HTTP/1.1 400",
    ),
    "100 KB header": (
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 431",
    ),
    "100 KB of short headers": (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 17_000 + b"\r\n",
        b"HTTP/1.1 431",
    ),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"HTTP/1.1 400"),
    "undecodable target": (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
    "raw bytes in the target": (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
    "NUL in the target": (b"GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
    "half an IPv6 host": (b"GET http://[::/ HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
    "target without a slash": (b"GET etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
    "CONNECT": (b"CONNECT y:80 HTTP/1.1\r\nHost: y\r\n\r\n", b"HTTP/1.1 400"),
    "1,000 query fields": (
        b"GET /?" + b"a&" * 1_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HTTP/1.1 400",
    ),
    "length of 30 digits": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"HTTP/1.1 4",
    ),
    "length of 5,000 digits": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"HTTP/1.1 4",
    ),
    "negative length": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 400",
    ),
    "length and chunks that disagree": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"zz\r\n\r\n",
        b"HTTP/1.1 400",
    ),
    "declared body too large": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\nExpect: 100-continue\r\n\r\n",
        b"HTTP/1.1 413",
    ),
    "Expect: 100-continue, then close": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        b"HTTP/1.1 100",
    ),
    "body cut short": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nab",
        b"HTTP/1.1 400",
    ),
    "nothing at all": (b"", None),
    "empty lines": (b"\r\n" * 100, None),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_it_answers_and_goes_on(name: str) -> None:
    raw, expected = ATTACKS[name]
    async with serving() as site:
        received = await say(site, raw)
        if expected is None:
            assert received in (b"", b"<reset>") or received.startswith(b"HTTP/1.1 400")
        else:
            assert received.startswith(expected), received[:100]
        await _is_well(site)


async def test_50_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as site:
        raw = b"".join(b"GET /n%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(50))
        received = await say(site, raw)
        places = [received.index(b"GET /n%d 0\n" % n) for n in range(50)]
        assert places == sorted(places)
        await _is_well(site)


async def test_a_request_in_two_steps_with_trailing_bytes() -> None:
    async with serving() as site, await connect(site) as stream:
        await stream.send_all(b"GET / HT")
        await trio.sleep(0.05)
        await stream.send_all(b"TP/1.0\r\n\r\ntrailing")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200")
        await _is_well(site)


async def test_a_handler_that_hangs_gives_its_place_back() -> None:
    """Else as many as there are places would keep everybody out for ever."""
    limits = attrs.evolve(QUICK, handler_ms=300)
    async with serving(limits=limits) as site, AsyncExitStack() as clients:
        hanging = [await clients.enter_async_context(await connect(site)) for _ in range(8)]
        for stream in hanging:
            await stream.send_all(b"GET /hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for stream in hanging:
            assert (await read_all(stream)).startswith(b"HTTP/1.1 503")
        assert site.server.stats.faults == 8, "which is no client's fault"
        assert (await fetch("GET", site.url(), deadline_s=3)).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1.1\r\nHo",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nab",
        b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["after connect", "in head", "in body", "in handler", "in events", "in a long answer"],
)
async def test_reset(raw: bytes) -> None:
    async with serving() as site:
        stream = await connect(site)
        await stream.send_all(raw)
        await trio.sleep(0.05)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await _is_empty(site)
        await _is_well(site)


@pytest.mark.parametrize(
    "half",
    [b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"],
    ids=["head", "body"],
)
async def test_half_a_request_then_silence(half: bytes) -> None:
    async with serving() as site, await connect(site) as stream:
        await stream.send_all(half)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 408")
        await _is_well(site)


async def test_drop_by_drop_is_no_way_to_hold_on() -> None:
    """Each byte arrives in time; the request does not."""
    async with serving() as site, await connect(site) as stream:
        began = trio.current_time()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        with suppress(trio.BrokenResourceError):
            for _ in range(200):
                await stream.send_all(b"y")
                await trio.sleep(0.02)
        assert trio.current_time() - began < QUICK.request_read_ms / 1000 + 1.2
        await _is_well(site)


@pytest.mark.parametrize("path", [b"/huge", b"/flood"])
async def test_a_client_that_never_reads_is_cut(path: bytes) -> None:
    limits = attrs.evolve(QUICK, idle_ms=60_000, request_read_ms=60_000)
    async with serving(limits) as site, await connect(site) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await until(lambda: site.server.stats.open == 1)
        await _is_empty(site)
        assert site.server.stats.stalled == 1
        assert (await read_all(stream)).endswith(b"<reset>"), "the kernel keeps nothing either"
        await _is_well(site)


async def test_a_slow_reader_is_not_cut() -> None:
    """It takes far longer than the stall limit altogether, but never stands still for it."""
    async with serving() as site, await connect(site) as stream:
        await stream.send_all(b"GET /huge HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = 0
        while piece := await stream.receive_some(1024 * 1024):
            received += len(piece)
            await trio.sleep(0.03)
        assert received > 32 * 1024 * 1024
        assert site.server.stats.stalled == 0


@pytest.mark.parametrize(
    ("head", "piece", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: " + b"y" * 1000 + b"\r\n", b"431"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400\r\n" + b"z" * 1024 + b"\r\n",
            b"413",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"e" * 1000,
            b"4",
        ),
    ],
    ids=["headers", "chunks", "chunk extension"],
)
async def test_an_endless_request_is_refused_early(
    head: bytes, piece: bytes, status: bytes
) -> None:
    limits = attrs.evolve(QUICK, request_read_ms=60_000)  # size alone must stop it
    async with serving(limits) as site, await connect(site) as stream, trio.open_nursery() as n:
        sent, answers = 0, list[bytes]()

        async def listen() -> None:
            answers.append(await read_all(stream))

        n.start_soon(listen)
        await stream.send_all(head)
        with suppress(trio.BrokenResourceError):
            while sent < 64 * 1024 * 1024:
                await stream.send_all(piece)
                sent += len(piece)
        assert sent < 16 * 1024 * 1024, "the rest never left the sender's kernel"
        await until(lambda: bool(answers))
        assert answers[0].startswith(b"HTTP/1.1 " + status)
        assert site.server.stats.bad_requests == 1
        await _is_well(site)


@pytest.mark.parametrize("opening", [b"", b"GET / HTTP/1.1\r\nHo"], ids=["silent", "half"])
async def test_a_crowd_does_not_keep_a_probe_out(opening: bytes) -> None:
    async with serving() as site, AsyncExitStack() as crowd:
        for _ in range(5 * QUICK.connections_max):
            stream = await crowd.enter_async_context(await connect(site))
            await stream.send_all(opening)
        await _is_well(site)
        assert site.server.stats.evicted >= 4 * QUICK.connections_max
        assert site.server.stats.open <= QUICK.connections_max


async def test_when_all_are_being_answered_the_newcomer_is_closed() -> None:
    async with serving() as site, AsyncExitStack() as crowd:
        for _ in range(QUICK.connections_max):
            stream = await crowd.enter_async_context(await connect(site))
            await stream.send_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(0.1)
        async with await connect(site) as newcomer:
            assert await read_all(newcomer) in (b"", b"<reset>")
        assert site.server.stats.turned_away == 1


async def test_idle_connections_are_closed() -> None:
    limits = attrs.evolve(QUICK, idle_ms=150)
    async with serving(limits) as site, await connect(site) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_all(stream)).endswith(b"GET / 0\n")


async def _is_well(site: Site) -> None:
    """The server answers the next client, and took none of it for its own fault."""
    answer = await fetch("GET", site.url("/well"), deadline_s=3)
    assert answer.status == 200
    assert site.server.stats.faults == 0


async def _is_empty(site: Site) -> None:
    await until(lambda: site.server.stats.open == 0)
