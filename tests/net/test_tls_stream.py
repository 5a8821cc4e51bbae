"""The TLS stream is a trio stream in every respect, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from mirrorha.errors import LocalUsageError
from mirrorha.wire.limits import RECEIVE_BYTES_MAX
from tests.net.session_support import (
    keys_of,
    memory_tls_pair,
    shake_hands,
    tcp_tls_pair,
    tls_of,
    tls_over,
)
from tests.requirements import require_program

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.net.tls_stream import TlsStream


async def lockstep_tls_pair() -> tuple[TlsStream, TlsStream]:
    pair = tls_over(*trio.testing.lockstep_stream_pair())
    await shake_hands(*pair)
    return pair


async def test_it_is_a_trio_stream(autojump_clock: trio.testing.MockClock) -> None:
    await trio.testing.check_two_way_stream(memory_tls_pair, lockstep_tls_pair)


async def receive_exactly(stream: TlsStream, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = await stream.receive_some()
        assert data, "the stream ended early"
        received += data
    assert len(received) == count
    return bytes(received)


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 262_144, 262_145, 3_000_001])
async def test_all_bytes_arrive_in_order(size: int) -> None:
    one, other = await tcp_tls_pair()
    sent = os.urandom(size)
    parts: list[bytes | bytearray | memoryview] = [sent[:7], memoryview(sent)[7:], b"", b"end"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_many, parts)
        with trio.fail_after(30):
            assert await receive_exactly(other, size + 3) == sent + b"end"
    await one.aclose()
    assert await other.receive_some() == b""
    await other.aclose()


async def test_both_ways_at_once() -> None:
    """Neither direction waits for the other: both send more than any buffer holds."""
    pair = await tcp_tls_pair()
    sent = os.urandom(8 << 20)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for stream in pair:
                nursery.start_soon(stream.send_all, sent)
            for stream in pair:
                assert await receive_exactly(stream, len(sent)) == sent
    for stream in pair:
        await trio.aclose_forcefully(stream)


async def test_a_receive_is_bounded() -> None:
    one, other = await memory_tls_pair()
    await one.send_all(bytes(RECEIVE_BYTES_MAX + 100))
    assert len(await other.receive_some(10)) == 10
    assert len(await other.receive_some(20_000)) == 20_000
    assert len(await other.receive_some(1 << 30)) <= RECEIVE_BYTES_MAX


async def test_a_cancelled_receive_loses_nothing() -> None:
    one, other = await memory_tls_pair()
    with trio.move_on_after(0) as scope:
        await other.receive_some()
    assert scope.cancelled_caught
    await one.send_all(b"here")
    with trio.CancelScope() as scope:
        scope.cancel()
        await other.receive_some()
    assert scope.cancelled_caught
    assert await other.receive_some() == b"here"


async def test_a_send_cancelled_half_way_breaks_sending_and_only_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = await lockstep_tls_pair()
    with trio.move_on_after(1) as scope:
        await one.send_all(b"never received")
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await one.send_all(b"after a gap")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.send_all, b"still good")
        assert await one.receive_some() == b"still good"


async def test_a_send_cancelled_before_it_began_breaks_nothing() -> None:
    one, other = await memory_tls_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.send_all(b"not this")
    assert scope.cancelled_caught
    await one.send_all(b"this")
    assert await other.receive_some() == b"this"


async def test_a_connection_cut_off_is_no_end() -> None:
    """Whoever cuts a connection must not make us believe that the other side had finished."""
    one, other = await memory_tls_pair()
    await one.send_all(b"first")
    await one.transport.aclose()
    assert await other.receive_some() == b"first"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await other.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLEOFError)


async def test_a_changed_record_is_refused_after_what_was_good() -> None:
    caller, called = trio.testing.memory_stream_pair()
    one, other = tls_over(caller, called)
    await shake_hands(one, other)
    await one.send_all(b"good")
    await one.send_all(b"changed on its way")
    wire = caller.send_stream
    assert isinstance(wire, trio.testing.MemorySendStream)
    receiving = called.receive_stream
    assert isinstance(receiving, trio.testing.MemoryReceiveStream)
    raw = bytearray(await called.receive_some())
    raw[-1] ^= 1
    receiving.put_data(raw)
    assert await other.receive_some() == b"good"
    with pytest.raises(trio.BrokenResourceError) as caught:
        await other.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_plain_text_is_refused() -> None:
    caller, called = trio.testing.memory_stream_pair()
    stranger = tls_of("lyon", peer="paris").wrap_incoming(called)
    await caller.send_all(b"GET / HTTP/1.1\r\nHost: paris\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stranger.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_nothing_is_sent_before_the_handshake() -> None:
    caller, called = trio.testing.memory_stream_pair()
    one, _ = tls_over(caller, called)
    with pytest.raises(LocalUsageError, match="do_handshake"):
        await one.send_all(b"secret")
    with pytest.raises(LocalUsageError, match="do_handshake"):
        await one.receive_some()
    await one.aclose()
    assert await called.receive_some() == b""


async def test_closing_is_bounded_while_the_other_side_takes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, _ = await lockstep_tls_pair()
    began_s = trio.current_time()
    await one.aclose()
    assert trio.current_time() - began_s <= 1.0
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")


async def test_closing_while_another_task_is_stuck_sending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, _ = await lockstep_tls_pair()

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        began_s = trio.current_time()
        await one.aclose()
    assert trio.current_time() == began_s


async def test_after_a_farewell_one_can_still_receive() -> None:
    one, other = await memory_tls_pair()
    await one.send_farewell()
    assert await other.receive_some() == b""
    await other.send_all(b"answer")
    assert await one.receive_some() == b"answer"
    with pytest.raises(trio.BrokenResourceError):
        await one.send_all(b"more")


async def test_what_is_sent_now_is_out_before_anybody_else_has_a_turn() -> None:
    one, other = await tcp_tls_pair()
    assert one.send_now([b"now ", memoryview(b"and here")])
    assert not one.has_unsent
    assert await other.receive_some() == b"now and here"
    for stream in (one, other):
        await trio.aclose_forcefully(stream)


async def test_what_cannot_be_sent_now_is_sent_in_order_later() -> None:
    one, other = await tcp_tls_pair()
    sent = bytearray()
    while not one.has_unsent:
        piece = os.urandom(65_536)
        assert one.send_now([piece])
        sent += piece
    assert not one.send_now([b"not in the line"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"behind it")
        with trio.fail_after(30):
            assert await receive_exactly(other, len(sent) + 9) == sent + b"behind it"
    for stream in (one, other):
        await trio.aclose_forcefully(stream)


async def test_who_receives_never_waits_for_room_to_send() -> None:
    """The other side may do just the same, and then both would wait for ever."""
    pair = await tcp_tls_pair()
    for stream in pair:
        while not stream.has_unsent:
            assert stream.send_now([bytes(65_536)])
    for stream in pair:
        fill_up(stream.transport)
    with trio.fail_after(10):
        for stream in pair:
            assert await stream.receive_some()
    for stream in pair:
        await trio.aclose_forcefully(stream)


def fill_up(transport: trio.abc.Stream) -> None:
    """Leave no room in a socket. What is put there stands behind all that the test receives."""
    assert isinstance(transport, trio.SocketStream)
    for size in (65_536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(transport.socket.fileno(), bytes(size))


async def test_nothing_is_sent_now_past_a_sender_that_waits() -> None:
    one, other = await tcp_tls_pair()
    large = os.urandom(16 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, large)
        await trio.testing.wait_all_tasks_blocked()
        assert not one.send_now([b"in between"])
        with trio.fail_after(30):
            assert await receive_exactly(other, len(large)) == large
    for stream in (one, other):
        await trio.aclose_forcefully(stream)


async def test_sending_now_works_on_sockets_that_are_well_only() -> None:
    one, _ = await memory_tls_pair()
    assert not one.send_now([b"x"])
    one, other = await tcp_tls_pair()
    await trio.aclose_forcefully(other.transport)

    async def send_on() -> None:
        while one.send_now([b"x"]):
            await trio.lowlevel.checkpoint()

    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await send_on()
    assert not one.send_now([b"x"])
    await trio.aclose_forcefully(one)
    assert not one.send_now([b"x"])


async def test_keys_are_not_used_for_ever() -> None:
    """OpenSSL would go on with them; what was sent before arrives, and the end is a clean one."""
    one, other = await tcp_tls_pair()
    one._records_left = 3
    with trio.fail_after(10):
        await one.send_all(bytes(40_000))
        assert not one.send_now([b"more"])
        with pytest.raises(trio.BrokenResourceError, match="enough was sent under these keys"):
            await one.send_all(b"more")
        assert await receive_exactly(other, 40_000) == bytes(40_000)
        assert await other.receive_some() == b""
        await other.send_all(b"still said")
        assert await receive_exactly(one, 10) == b"still said"
    for stream in (one, other):
        await trio.aclose_forcefully(stream)


class Tap(trio.abc.Stream):
    """A stream that tells when something arrives on it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.arrived = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        self.arrived.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def connect_when_ready(port: int) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.05)


async def test_another_implementation_may_change_keys_at_any_time(tmp_path: Path) -> None:
    """Python cannot ask for it, OpenSSL's own program can. Both directions get new keys."""
    openssl = require_program("openssl")
    keys = keys_of("lyon")
    authority = tmp_path / "authority.pem"
    authority.write_text(keys.authority_pem)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"{openssl} s_server -tls1_3 -num_tickets 0 -Verify 2 -accept 127.0.0.1:{port}"
    files = ["-cert", str(keys.path), "-key", str(keys.path), "-CAfile", str(authority)]
    server = await trio.lowlevel.open_process(
        [*command.split(), *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        with trio.fail_after(30):
            tap = Tap(await connect_when_ready(port))
            stream = tls_of("paris", peer="lyon").wrap_outgoing(tap)
            await stream.do_handshake()
            for number in range(3):
                line = b"line %d\n" % number
                async with trio.open_nursery() as nursery:

                    async def expect(line: bytes = line) -> None:
                        assert await stream.receive_some() == line

                    nursery.start_soon(expect)
                    tap.arrived = trio.Event()
                    await server.stdin.send_all(b"K\n")
                    await tap.arrived.wait()
                    await server.stdin.send_all(line)
                await stream.send_all(line)
                printed = b""
                while line not in printed:
                    printed += await server.stdout.receive_some()
            await stream.aclose()
    finally:
        server.kill()
        await server.wait()
        await trio.aclose_forcefully(server.stdin)
        await trio.aclose_forcefully(server.stdout)
