"""The witness with hostile clients: each is bounded, and none is felt by an honest one.

Time is a `MockClock` that only moves when a test says so: no honest client is ever late.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha.arbiters.witness_door import Connection, Connections, WitnessLimits, source_of
from mirrorha.arbiters.witness_wire import (
    FRAME_BYTES_MAX,
    Hello,
    Read,
    Refused,
    Swap,
    decode_reply,
    encode_frame,
)
from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import ArbiterUnavailableError, LocalUsageError, PeerProtocolError
from mirrorha.state.atomic import write_atomically
from tests.arbiters.test_witness_wire import client_hello, in_records
from tests.arbiters.witness_rig import HELLO, Keys, Running, running_witness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LIMITS = WitnessLimits()
GARBAGE = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "our frame in plain text": encode_frame(HELLO),
    "zeros": bytes(1000),
    "a huge length": b"\xff" * 100_000,
    "a TLS alert": bytes.fromhex("15 0303 0002 02 28"),
    "half a ClientHello": client_hello("orders")[:100],
    "a ClientHello in crumbs": in_records(client_hello("orders")[5:], 1),
    "a ClientHello and garbage": client_hello("orders") + b"\x16\x03\x03\0\x05hello" * 10,
    "a damaged ClientHello": client_hello("orders").replace(b"orders", b"order\xff"),
    "no server name": client_hello(None),
    "an unknown server name": client_hello("invoices"),
    "a path for a server name": client_hello("orders").replace(b"orders", b"../../"),
}


def in_frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


async def until(predicate: Callable[[], bool]) -> None:
    while not predicate():
        await wait_all_tasks_blocked(0.001)


async def is_well(running: Running) -> None:
    """An honest client is served, and whoever was hostile is not there any more."""
    arbiter = running.arbiter()
    before = await arbiter.read()
    assert await arbiter.compare_and_swap(before, (before or b"") + b"+")
    await arbiter.aclose()
    await until(lambda: running.witness.connections == 0)
    assert running.witness.counts["bugs"] == 0


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("end", ["close", "reset", "silence"])
async def test_garbage(tmp_path: Path, mock_clock: MockClock, garbage: bytes, end: str) -> None:
    async with running_witness(tmp_path) as running:
        stream = await running.tcp()
        await send_if_open(stream, garbage)
        if end == "reset":
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end == "silence":
            await until(lambda: running.witness.counts["connections"] == 1)
            mock_clock.jump(LIMITS.handshake_s)
        else:
            await stream.aclose()
        await is_well(running)


async def send_if_open(stream: trio.abc.SendStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        return


async def test_every_pace_of_a_first_message_ends_in_time(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Slow loris: a byte now and then does not buy more time."""
    async with running_witness(tmp_path) as running:
        stream = await running.tcp()
        for byte in client_hello("orders")[:60]:
            await send_if_open(stream, bytes([byte]))
            await wait_all_tasks_blocked(0.001)
            mock_clock.jump(LIMITS.handshake_s / 50)
        await is_well(running)
        assert running.witness.counts["too slow"] == 1


async def test_tls_1_2_is_refused(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        context = running.keys["orders"].client()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(trio.BrokenResourceError):
            await running.tls(context=context)
        await is_well(running)


async def test_a_client_without_a_certificate_is_refused(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with running_witness(tmp_path) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        running.keys["orders"].authority.configure_trust(context)
        await hears_nothing(await running.tls(context=context))
        await is_well(running)


async def test_a_certificate_of_another_ca_is_refused(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Also one that calls itself by the same names."""
    async with running_witness(tmp_path, ["orders", "stock"]) as running:
        for issuer in (running.keys["stock"].authority, Keys("orders").authority):
            context = running.keys["orders"].client("orders", issuer=issuer)
            await hears_nothing(await running.tls(context=context))
        await is_well(running)


async def hears_nothing(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """The handshake seemed to work, as it does in TLS 1.3; not a byte of ours is answered."""
    await send_if_open(stream, encode_frame(HELLO) + encode_frame(Read(1)))
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


async def test_silence_after_the_handshake(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        await running.tls()
        mock_clock.jump(LIMITS.handshake_s)
        await is_well(running)
        assert running.witness.counts["too slow"] == 1


@pytest.mark.parametrize(
    "first",
    [
        encode_frame(Read(1)),
        encode_frame(Swap(1, None, b"x")),
        encode_frame(Hello("mirrorha-wire", 1, 1)),
        encode_frame(HELLO) * 2,
        encode_frame(HELLO) + encode_frame(Swap(1, None, b"x")),
        b"\0\0\0\0",
        b"\0\0\0\x01x",
        struct.pack(">I", FRAME_BYTES_MAX + 1),
        b"\xff" * 20_000,
    ],
    ids=lambda raw: raw[:12].hex(),
)
async def test_nothing_but_a_hello_begins(
    tmp_path: Path, mock_clock: MockClock, first: bytes
) -> None:
    async with running_witness(tmp_path) as running:
        stream = await running.tls()
        await stream.send_all(first)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert await running.arbiter().read() is None
        await running.aclose()
        await until(lambda: running.witness.connections == 0)
        assert running.witness.counts["not our protocol"] == 1


async def test_versions_without_overlap_are_refused_with_a_reason(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with running_witness(tmp_path) as running:
        for version_min, version_max in ((2, 9), (0, 0), (2, 0)):
            stream = await running.tls()
            await stream.send_all(encode_frame(Hello("mirrorha-witness", version_min, version_max)))
            reply = decode_reply(bytes(await stream.receive_some())[4:])
            assert isinstance(reply, Refused)
            assert "upgrade the older one" in reply.why
        await running.aclose()
        await is_well(running)


@pytest.mark.parametrize(
    "request_",
    [
        encode_frame(HELLO),
        encode_frame(Read(1)) * 2,
        struct.pack(">I", 2**32 - 1),
        in_frame(b"\x93\x02\x01" + b"\x91" * 5000),
        in_frame(msgspec.msgpack.encode([3, 1])),
        in_frame(msgspec.msgpack.encode([3, 1, None, bytes(RECORD_BYTES_MAX + 1)])),
        in_frame(msgspec.msgpack.encode([3, 1, bytes(RECORD_BYTES_MAX + 1), b""])),
        in_frame(msgspec.msgpack.encode([103, 1, None, 0])),
    ],
    ids=["hello again", "two at once", "huge", "nested", "short", "large", "larger", "a reply"],
)
async def test_a_bad_request_ends_the_connection(
    tmp_path: Path, mock_clock: MockClock, request_: bytes
) -> None:
    async with running_witness(tmp_path) as running:
        channel = await running.welcomed()
        await channel._stream.send_all(request_)
        with pytest.raises((PeerProtocolError, trio.BrokenResourceError)):
            await channel.receive()
        await is_well(running)
        assert running.witness.counts["not our protocol"] == 1


@pytest.mark.parametrize("ends", [True, False])
async def test_half_a_request(tmp_path: Path, mock_clock: MockClock, ends: bool) -> None:
    async with running_witness(tmp_path) as running:
        channel = await running.welcomed()
        await channel._stream.send_all(encode_frame(Swap(1, None, b"x" * 1000))[:500])
        if ends:
            await channel._stream.aclose()
        else:
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(LIMITS.request_s)
        await is_well(running)
        assert running.witness.counts["not our protocol" if ends else "too slow"] == 1


async def test_an_idle_client_is_let_go_and_comes_back(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        assert await arbiter.compare_and_swap(None, b"1")
        assert running.witness.connections == 1
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(LIMITS.idle_s)
        await until(lambda: running.witness.connections == 0)
        # Not unknown: the client notices before it sends.
        assert await arbiter.compare_and_swap(b"1", b"2")


async def test_a_client_that_never_reads(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        assert await running.arbiter().compare_and_swap(None, b"x" * (RECORD_BYTES_MAX - 10))
        counts = running.witness.counts
        channel = await running.welcomed()
        asked = waited = 0
        while not counts["too slow"]:
            if counts["reads"] == asked:
                # One request at a time, as is asked for, until the buffers between are full.
                asked, waited = asked + 1, 0
                await channel.send(Read(asked))
            await wait_all_tasks_blocked(0.001)
            waited += 1
            if waited % 100 == 0:
                mock_clock.jump(LIMITS.reply_s)
        assert asked > 10
        await running.aclose()
        await is_well(running)


class TestFloods:
    async def test_of_strangers_does_not_keep_an_honest_client_out(
        self, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        limits = WitnessLimits(handshaking_max=4)
        async with running_witness(tmp_path, limits=limits) as running:
            for number in range(1, 21):
                await running.tcp()
                await until(lambda: running.witness.counts["connections"] == number)  # noqa: B023
                assert running.witness.connections <= 4
            arbiter = running.arbiter()
            assert await arbiter.compare_and_swap(None, b"1")
            assert running.witness.connections <= 5

    async def test_an_established_client_does_not_feel_it(
        self, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        limits = WitnessLimits(handshaking_max=4, connections_max=6)
        async with running_witness(tmp_path, limits=limits) as running:
            arbiter = running.arbiter()
            assert await arbiter.compare_and_swap(None, b"1")
            for _ in range(20):
                await running.tcp()
            await until(lambda: running.witness.counts["connections"] == 21)
            assert await arbiter.compare_and_swap(b"1", b"2")
            assert running.witness.counts["connections"] == 21, "on the connection that it had"

    async def test_of_one_clusters_connections(self, tmp_path: Path, mock_clock: MockClock) -> None:
        limits = WitnessLimits(per_cluster_max=3)
        async with running_witness(tmp_path, ["orders", "stock"], limits=limits) as running:
            neighbour = running.arbiter("stock")
            assert await neighbour.read() is None
            arbiters = [running.arbiter() for _ in range(10)]
            for _ in range(2):
                for arbiter in arbiters:
                    await arbiter.read()
                    await until(lambda: running.witness.connections <= 3 + 1)
            assert await neighbour.read() is None
            assert running.witness.counts["connections"] == 1 + 2 * 10, "the neighbour kept its own"

    async def test_a_cluster_whose_connections_are_all_busy_is_told(
        self, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        wakes = threading.Event()

        def write(path: Path, data: bytes) -> None:
            wakes.wait(timeout=60)
            write_atomically(path, data)

        limits = WitnessLimits(per_cluster_max=2)
        async with (
            running_witness(tmp_path, write=write, limits=limits) as running,
            trio.open_nursery() as nursery,
        ):
            record = running.witness._records["orders"]
            nursery.start_soon(running.arbiter().compare_and_swap, None, b"1")
            nursery.start_soon(running.arbiter().compare_and_swap, None, b"2")
            await until(lambda: record._lock.statistics().tasks_waiting == 1)
            with pytest.raises(ArbiterUnavailableError, match="of this cluster are busy"):
                await running.arbiter().read()
            wakes.set()

    async def test_up_to_the_bound_of_all(self, tmp_path: Path, mock_clock: MockClock) -> None:
        limits = WitnessLimits(connections_max=2, per_cluster_max=2)
        async with running_witness(tmp_path, ["orders", "stock"], limits=limits) as running:
            held = [running.arbiter("stock"), running.arbiter("stock")]
            for arbiter in held:
                await arbiter.read()
            with pytest.raises(ArbiterUnavailableError):
                await running.arbiter("orders").read()
            assert running.witness.counts["no room"] == 1
            await held[0].aclose()
            await until(lambda: running.witness.connections == 1)
            assert await running.arbiter("orders").read() is None


class Table:
    """Connections in a table, and which of them it has dropped."""

    def __init__(self, **limits: int) -> None:
        self.table = Connections(WitnessLimits(**limits))
        self.dropped: list[str] = []

    def connection(self, name: str, source: str = "10.0.0.1") -> Connection:
        return Connection(lambda: self.dropped.append(name), source)

    def admitted(
        self, name: str, cluster: str | None = None, *, source: str = "10.0.0.1"
    ) -> Connection:
        connection = self.connection(name, source)
        assert self.table.admit(connection)
        if cluster is not None:
            assert self.table.join(connection, cluster)
            connection.is_idle = True
        return connection


class TestWhoIsDropped:
    def test_of_strangers_the_oldest(self) -> None:
        door = Table(handshaking_max=2)
        for name in "abcde":
            door.admitted(name)
        assert door.dropped == ["a", "b", "c"]
        assert len(door.table) == 2
        assert door.table.dropped == 3

    def test_of_strangers_from_one_source_the_oldest(self) -> None:
        door = Table(handshaking_per_source_max=2)
        door.admitted("honest", source="10.0.0.9")
        for name in "abcd":
            door.admitted(name)
        assert door.dropped == ["a", "b"]
        door.admitted("known", "orders")
        assert door.dropped == ["a", "b", "c"]
        door.admitted("e")
        assert door.dropped == ["a", "b", "c"], "who is known is no stranger any more"

    def test_of_strangers_one_of_the_source_that_has_the_most(self) -> None:
        door = Table(handshaking_max=3)
        door.admitted("honest", source="10.0.0.9")
        for name in "abc":
            door.admitted(name)
        door.admitted("also honest", source="10.0.0.8")
        assert door.dropped == ["a", "b"]

    def test_a_stranger_before_a_new_one_is_refused(self) -> None:
        door = Table(connections_max=2)
        door.admitted("known", "orders")
        door.admitted("stranger")
        door.admitted("newer", "orders")
        assert door.dropped == ["stranger"]
        assert not door.table.admit(door.connection("newest"))
        assert door.dropped == ["stranger"]
        assert len(door.table) == 2

    def test_of_a_cluster_the_one_that_was_idle_the_longest(self) -> None:
        door = Table(per_cluster_max=3)
        first, second, third = (door.admitted(name, "orders") for name in "123")
        door.table.touch(first)
        door.admitted("4", "orders")
        assert door.dropped == ["2"]
        third.is_idle = False
        door.admitted("5", "orders")
        assert door.dropped == ["2", "1"]
        assert second.cluster == third.cluster

    def test_one_that_has_left_is_not_counted(self) -> None:
        door = Table(per_cluster_max=1)
        first = door.admitted("1", "orders")
        door.table.leave(first)
        door.table.leave(first)
        door.table.touch(first)
        door.admitted("2", "orders")
        assert door.dropped == []
        assert len(door.table) == 1

    async def test_use_counts_not_age(self, tmp_path: Path, mock_clock: MockClock) -> None:
        limits = WitnessLimits(per_cluster_max=2)
        async with running_witness(tmp_path, limits=limits) as running:
            older, newer, newest = (running.arbiter() for _ in range(3))
            for arbiter in (older, newer, older, newest, older):
                await arbiter.read()
            assert running.witness.counts["connections"] == 3, "the older one never lost its own"


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_source_is_what_its_owner_cannot_vary(address: str, source: str) -> None:
    assert source_of(address) == source


class ScarceListener(socket.socket):
    """Listens while the process has no file descriptors left, three times."""

    shortages = 3

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.shortages:
            self.shortages -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_shortage_of_files_passes(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running, trio.open_nursery() as nursery:
        with socket.create_server(("127.0.0.1", 0)) as made:
            listener = ScarceListener(fileno=made.detach())
        with listener:
            listener.setblocking(False)
            nursery.start_soon(running.witness.accept_for_ever, listener, nursery)
            running.witness.port = listener.getsockname()[1]
            stream = await running.tcp()
            for shortage in range(1, 4):
                await until(lambda: running.witness.counts["not accepted"] == shortage)  # noqa: B023
                mock_clock.jump(0.1)
            await until(lambda: running.witness.counts["connections"] == 1)
            await stream.aclose()
            await is_well(running)
            nursery.cancel_scope.cancel()


async def test_hostile_clients_fill_no_log(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mirrorha.witness")
    async with running_witness(tmp_path) as running:
        for _ in range(40):
            stream = await running.tcp()
            await stream.send_all(b"GET /secret HTTP/1.1\r\n\r\n")
            await stream.aclose()
        await until(lambda: running.witness.counts["not our protocol"] == 40)
    troubles = [r.getMessage() for r in caplog.records if "not our protocol" in r.getMessage()]
    assert [text.rsplit(" ", 1)[1] for text in troubles] == ["1)", "2)", "4)", "8)", "16)", "32)"]
    assert not any("secret" in text for text in caplog.messages)


async def test_a_bug_ends_one_connection_and_is_logged(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def write(_path: Path, _data: bytes) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(AssertionError):  # noqa: PT012 - the rig has the last word on bugs
        async with running_witness(tmp_path, write=write) as running:
            channel = await running.welcomed()
            await channel.send(Swap(1, None, b"x"))
            with pytest.raises(trio.BrokenResourceError):
                await channel.receive()
            assert await running.arbiter().read() is None
    assert "ZeroDivisionError: a bug" in caplog.text


@pytest.mark.parametrize("name", [field.name for field in WitnessLimits.__attrs_attrs__])
def test_limits_are_above_zero(name: str) -> None:
    with pytest.raises(LocalUsageError, match=name):
        WitnessLimits(**{name: 0})
