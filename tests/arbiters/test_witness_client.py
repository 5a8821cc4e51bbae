"""`WitnessArbiter` tells "surely nothing happened" from "it may have", whatever the witness does.

Time is a `MockClock` that only moves when a test says so.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mirrorha.arbiters import WitnessArbiter
from mirrorha.arbiters.witness_wire import (
    Channel,
    Failed,
    Found,
    Read,
    Refused,
    Request,
    Swap,
    Swapped,
    Welcome,
    decode_request,
    encode_frame,
)
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
)
from tests.arbiters.witness_rig import keys_of, running_witness

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

CLOSE = object()
SILENCE = object()


@attrs.define
class Scripted:
    """A witness that answers what the test says, and counts what it was asked."""

    arbiter: WitnessArbiter
    address: str
    connections: int = 0
    asked: list[Request] = attrs.Factory(list)
    was_asked: trio.Event = attrs.Factory(trio.Event)

    async def serve(
        self,
        greeting: object,
        answers: list[object],
        stream: trio.SSLStream[trio.SocketStream],
    ) -> None:
        self.connections += 1
        channel = Channel(stream)
        with suppress(trio.BrokenResourceError):
            await channel.receive()
            if await self._say(stream, greeting):
                while await channel.wait_begun():
                    self.asked.append(decode_request(await channel.receive()))
                    self.was_asked.set()
                    if not await self._say(stream, answers.pop(0)):
                        break
        await trio.aclose_forcefully(stream)

    @staticmethod
    async def _say(stream: trio.SSLStream[trio.SocketStream], answer: object) -> bool:
        if answer is SILENCE:
            await trio.sleep_forever()
        if answer is CLOSE:
            return False
        await stream.send_all(
            answer if isinstance(answer, bytes) else encode_frame(answer)  # type: ignore[arg-type]
        )
        return True


@asynccontextmanager
async def scripted(
    *answers: object, greeting: object = Welcome(1, "orders")
) -> AsyncGenerator[Scripted]:
    keys = keys_of(["orders"])["orders"]
    async with trio.open_nursery() as nursery:
        witness: Scripted
        listeners = await nursery.start(
            partial(
                trio.serve_ssl_over_tcp,
                lambda stream: witness.serve(greeting, list(answers), stream),
                0,
                keys.server(),
                host="127.0.0.1",
            )
        )
        address = f"127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}"
        witness = Scripted(WitnessArbiter(address, "orders", keys.client()), address)
        yield witness
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await witness.arbiter.aclose()


async def outcome(arbiter: WitnessArbiter, call: str) -> str:
    """What the caller of "read" or "swap" learns, as one word."""
    try:
        if call == "read":
            return f"read {await arbiter.read()!r}"
        return f"swap {await arbiter.compare_and_swap(None, b'new')}"
    except ArbiterUnavailableError:
        return "unavailable"
    except ArbiterOutcomeUnknownError:
        return "unknown"


@pytest.mark.parametrize(
    "answer",
    [
        CLOSE,
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x03abc",
        Welcome(1, "orders"),
        Refused("changed my mind"),
        Found(2, b"x", 1),
        Swapped(2, True, 1),
        Failed(2, "nothing", "of another request"),
        encode_frame(Swapped(1, True, 1)) * 2,
        encode_frame(Found(1, b"x", 1)) * 2,
        Read(1),
    ],
    ids=repr,
)
async def test_an_answer_that_is_none(mock_clock: MockClock, answer: object) -> None:
    for call, learned in (("read", "unavailable"), ("swap", "unknown")):
        async with scripted(answer) as witness:
            assert await outcome(witness.arbiter, call) == learned
            assert witness.arbiter._connection is None, "it is not used again"


async def jump_once(event: trio.Event, mock_clock: MockClock) -> None:
    await event.wait()
    mock_clock.jump(2.5)


@pytest.mark.parametrize(
    ("answer", "read", "swap"),
    [
        (Found(1, b"x", 1), "read b'x'", "unknown"),
        (Found(1, None, 0), "read None", "unknown"),
        (Swapped(1, True, 1), "unavailable", "swap True"),
        (Swapped(1, False, 1), "unavailable", "swap False"),
        (Failed(1, "nothing", "full"), "unavailable", "unavailable"),
        (Failed(1, "unknown", "broken"), "unavailable", "unknown"),
        (SILENCE, "unavailable", "unknown"),
    ],
    ids=repr,
)
async def test_an_answer(mock_clock: MockClock, answer: object, read: str, swap: str) -> None:
    for call, learned in (("read", read), ("swap", swap)):
        async with scripted(answer) as witness, trio.open_nursery() as nursery:
            if answer is SILENCE:
                nursery.start_soon(jump_once, witness.was_asked, mock_clock)
            assert await outcome(witness.arbiter, call) == learned
            is_answered = learned not in ("unknown", "unavailable") or isinstance(answer, Failed)
            assert (witness.arbiter._connection is not None) is is_answered
            assert len(witness.asked) == 1, "one attempt a call"


@pytest.mark.parametrize(
    "greeting",
    [
        CLOSE,
        Refused("not today"),
        Welcome(2, "orders"),
        Welcome(0, "orders"),
        Welcome(1, "stock"),
        Found(1, b"x", 1),
        b"\0\0\0\x01x",
        b"\xff" * 100,
    ],
    ids=repr,
)
async def test_before_the_welcome_surely_nothing_happened(
    mock_clock: MockClock, greeting: object
) -> None:
    async with scripted(greeting=greeting) as witness:
        for call in ("read", "swap"):
            assert await outcome(witness.arbiter, call) == "unavailable"
        assert witness.asked == []


async def test_a_refusal_is_told_in_its_own_words(mock_clock: MockClock) -> None:
    async with scripted(greeting=Refused("upgrade the older one")) as witness:
        with pytest.raises(ArbiterUnavailableError, match="upgrade the older one"):
            await witness.arbiter.read()
    async with scripted(Failed(1, "nothing", "move the file away")) as witness:
        with pytest.raises(ArbiterUnavailableError, match="move the file away"):
            await witness.arbiter.compare_and_swap(None, b"1")


async def test_a_witness_that_never_welcomes(mock_clock: MockClock) -> None:
    async with scripted(greeting=SILENCE) as witness, trio.open_nursery() as nursery:
        nursery.start_soon(jump_when_connected, witness, mock_clock)
        with pytest.raises(ArbiterUnavailableError, match=r"no answer within 2\.0 s"):
            await witness.arbiter.compare_and_swap(None, b"1")


async def jump_when_connected(witness: Scripted, mock_clock: MockClock) -> None:
    while not witness.connections:
        await wait_all_tasks_blocked(0.001)
    mock_clock.jump(2.5)


async def test_a_host_that_accepts_and_is_silent(mock_clock: MockClock) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    arbiter = WitnessArbiter(f"127.0.0.1:{port}", "orders", keys_of(["orders"])["orders"].client())

    async def accept() -> None:
        async with await listener.accept() as stream:
            await stream.receive_some()
            mock_clock.jump(2.5)
            await trio.sleep_forever()

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(ArbiterUnavailableError, match="no answer"):
            await arbiter.compare_and_swap(None, b"1")
        nursery.cancel_scope.cancel()


async def test_nobody_there(mock_clock: MockClock) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    arbiter = WitnessArbiter(f"127.0.0.1:{port}", "orders", keys_of(["orders"])["orders"].client())
    for call in ("read", "swap"):
        assert await outcome(arbiter, call) == "unavailable"
    with pytest.raises(ArbiterUnavailableError, match=f"witness 127.0.0.1, port {port}: .*refused"):
        await arbiter.read()


async def test_a_host_that_has_no_address(mock_clock: MockClock) -> None:
    context = keys_of(["orders"])["orders"].client()
    arbiter = WitnessArbiter("no such host:9600", "orders", context)
    assert await outcome(arbiter, "swap") == "unavailable"


async def test_what_does_not_speak_tls(mock_clock: MockClock) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    arbiter = WitnessArbiter(f"127.0.0.1:{port}", "orders", keys_of(["orders"])["orders"].client())

    async def greet() -> None:
        async with await listener.accept() as stream:
            await stream.send_all(b"220 mail.example ESMTP\r\n")
            await stream.receive_some()

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        with pytest.raises(ArbiterUnavailableError, match="does not speak TLS"):
            await arbiter.compare_and_swap(None, b"1")


async def test_a_name_is_looked_up(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        context = running.keys["orders"].client()
        arbiter = WitnessArbiter(f"localhost:{running.witness.port}", "orders", context)
        assert await arbiter.read() is None
        await arbiter.aclose()


async def test_the_connection_is_kept(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        for _ in range(5):
            before = await arbiter.read()
            assert await arbiter.compare_and_swap(before, (before or b"") + b"x")
        assert running.witness.counts["connections"] == 1


async def test_a_connection_closed_while_idle_is_made_again(mock_clock: MockClock) -> None:
    """As after a restart of the witness. Nothing is unknown, for nothing was sent."""
    keys = keys_of(["orders"])["orders"]
    served = 0

    async def serve_one_request(stream: trio.SSLStream[trio.SocketStream]) -> None:
        nonlocal served
        channel = Channel(stream)
        await channel.receive()
        await channel.send(Welcome(1, "orders"))
        request = decode_request(await channel.receive())
        assert isinstance(request, Swap)
        served += 1
        await channel.send(Swapped(request.number, True, served))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, serve_one_request, 0, keys.server(), host="127.0.0.1")
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
        arbiter = WitnessArbiter(f"127.0.0.1:{port}", "orders", keys.client())
        for number in range(3):
            assert await arbiter.compare_and_swap(None, b"%d" % number)
            assert arbiter._connection is not None
            await trio.lowlevel.wait_readable(arbiter._connection.sock.fileno())
        await arbiter.aclose()
        nursery.cancel_scope.cancel()
    assert served == 3


async def test_the_reply_to_a_cancelled_call_is_nobody_elses(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with scripted(SILENCE) as witness:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(witness.arbiter.compare_and_swap, None, b"1")
            await witness.was_asked.wait()
            nursery.cancel_scope.cancel()
        assert witness.arbiter._connection is None


async def test_calls_may_overlap(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        won: list[bool] = []

        async def swap(number: int) -> None:
            won.append(await arbiter.compare_and_swap(None, b"%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(swap, number)
                nursery.start_soon(arbiter.read)
        assert sorted(won) == [False] * 9 + [True]


async def test_a_call_behind_a_hanging_one_ends_in_time_too(mock_clock: MockClock) -> None:
    learned: list[str] = []

    async def ask(arbiter: WitnessArbiter, call: str) -> None:
        learned.append(f"{call}: {await outcome(arbiter, call)}")

    async with scripted(SILENCE) as witness, trio.open_nursery() as nursery:
        nursery.start_soon(ask, witness.arbiter, "swap")
        await witness.was_asked.wait()
        mock_clock.jump(1.0)
        # 1 s behind the first: the first ends at 2 s, and this is then sent.
        nursery.start_soon(ask, witness.arbiter, "swap")
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(1.0)
        while witness.connections < 2:
            await wait_all_tasks_blocked(0.001)
        while len(witness.asked) < 2:
            await wait_all_tasks_blocked(0.001)
        mock_clock.jump(1.0)
    assert learned == ["swap: unknown", "swap: unknown"]


async def test_closing_is_idempotent_and_not_the_end(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running_witness(tmp_path) as running:
        arbiter = running.arbiter()
        await arbiter.aclose()
        assert await arbiter.read() is None
        await arbiter.aclose()
        await arbiter.aclose()
        assert await arbiter.read() is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":9600",
        "host:0",
        "host:65536",
        "host:x",
        "::1:9600",
        "h:-1",
        "h:٣",
        "h: 1",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(LocalUsageError, match="host:port"):
        WitnessArbiter(address, "orders", keys_of(["orders"])["orders"].client())


@pytest.mark.parametrize("address", ["10.0.3.5:9600", "[::1]:9600", "witness.example:1"])
def test_addresses(address: str) -> None:
    WitnessArbiter(address, "orders", keys_of(["orders"])["orders"].client())


def test_contexts_that_check_nothing_are_refused() -> None:
    context = keys_of(["orders"])["orders"].client()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(LocalUsageError, match=r"less than TLS 1\.3"):
        WitnessArbiter("h:1", "orders", context)
    context.check_hostname = False
    with pytest.raises(LocalUsageError, match="does not check the certificate"):
        WitnessArbiter("h:1", "orders", context)
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(LocalUsageError, match="does not check the certificate"):
        WitnessArbiter("h:1", "orders", context)


@pytest.mark.parametrize("cluster", ["", "a b", "10.0.0.1", "../up"])
def test_names_that_cannot_be_sent_are_refused(cluster: str) -> None:
    with pytest.raises(LocalUsageError, match="cluster name"):
        WitnessArbiter("h:1", cluster, keys_of(["orders"])["orders"].client())
