"""Sessions: nobody is connected before both have agreed, and nothing is mixed up or lost after."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing

from mirrorha.errors import PeerError, PeerLostError, PeerProtocolError, PeerRefusedError
from mirrorha.net.frame_link import FrameLink
from mirrorha.net.handshake import answer, handshake
from mirrorha.net.session import Session
from mirrorha.wire.frames import CONTROL_KIND, HELLO_KIND, STREAM_KIND_MIN, encode_frame
from mirrorha.wire.hello import HELLO_CODEC, Agreed, Hello, Refused, Welcome
from mirrorha.wire.limits import (
    CONTROL_FRAME_BYTES_MAX,
    HELLO_FRAME_BYTES_MAX,
    MIB,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUE_FRAMES_MAX,
)
from tests.net.session_support import (
    CODEC,
    Note,
    lyon_for,
    memory_tls_pair,
    sessions_over,
    shake_hands,
    tcp_pair,
    tcp_tls_pair,
    tls_over,
)
from tests.wire.hellos import LYON, PARIS, but

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def meet(mine: Hello, theirs: Callable[[Hello], Hello]) -> list[Agreed | PeerError]:
    """Have Paris call Lyon; return what each side makes of it, the caller first."""
    one, other = await memory_tls_pair()
    found: dict[int, Agreed | PeerError] = {}

    async def call() -> None:
        try:
            link = FrameLink(one, whom="the called")
            found[0] = await handshake(link, hello=mine, deadline_s=5)
        except PeerError as error:
            found[0] = error

    async def be_called() -> None:
        try:
            link = FrameLink(other, whom="the caller")
            found[1] = await answer(link, hello_for=theirs, deadline_s=5)
        except PeerError as error:
            found[1] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(be_called)
    return [found[0], found[1]]


# Hello.


async def test_nodes_that_fit_are_connected() -> None:
    warning = ("'probe.port' differs: '1' on 'lyon', '9010' on 'paris'",)
    answered = but(LYON, may_differ={"probe.port": "1"})
    assert await meet(PARIS, lambda _: answered) == [
        Agreed(version=1, peer=answered, warnings=warning),
        Agreed(version=1, peer=PARIS, warnings=warning),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"node": "nice"}, "means to talk to 'lyon', but this is 'nice'"),
        ({"peer": "nice"}, "means to talk to 'nice', but this is 'paris'"),
        ({"node": "paris", "peer": "lyon"}, "both sides call themselves 'paris'"),
        ({"cluster": "bills"}, "'bills' on 'lyon', 'orders' on 'paris'"),
        ({"cluster_id": "c2"}, "'c2' on 'lyon', 'c1' on 'paris'"),
        ({"version_min": 2, "version_max": 3}, "'2 to 3' on 'lyon', '1' on 'paris'"),
        ({"must_agree": {"ack": "durable"}}, "'ack' must agree and differs: 'durable' on 'lyon', "),
    ],
)
async def test_differences_are_named_on_both_sides(changes: dict[str, Any], words: str) -> None:
    caller, called = await meet(PARIS, lambda _: but(LYON, **changes))
    assert isinstance(caller, PeerRefusedError)
    assert words in caller.reason
    assert isinstance(called, PeerRefusedError)
    assert words in called.reason


async def test_the_called_may_refuse_for_reasons_of_its_own() -> None:
    def refuse(_: Hello) -> Hello:
        raise PeerRefusedError("there is no volume 'v7' here\x1b[31m")

    caller, called = await meet(but(PARIS, kind="stream", volume="v7"), refuse)
    assert isinstance(caller, PeerRefusedError)
    assert "the called refuses the connection: there is no volume 'v7' here?[31m" in caller.reason
    assert isinstance(called, PeerRefusedError)


@pytest.mark.parametrize("we_call", [True, False])
async def test_silence_ends_at_the_deadline(
    we_call: bool, autojump_clock: trio.testing.MockClock
) -> None:
    one, _silent = await memory_tls_pair()
    link = FrameLink(one, whom="lyon")
    began_s = trio.current_time()
    if we_call:
        with pytest.raises(PeerLostError, match="did not say hello within 3 s"):
            await handshake(link, hello=PARIS, deadline_s=3)
    else:
        with pytest.raises(PeerLostError, match="did not say hello within 3 s"):
            await answer(link, hello_for=lyon_for, deadline_s=3)
    assert trio.current_time() - began_s == pytest.approx(3)


def frame(kind: int, body: bytes) -> bytes:
    return b"".join(encode_frame(kind, body))


def said(message: Hello | Welcome | Refused) -> bytes:
    return frame(HELLO_KIND, HELLO_CODEC.encode(message))


ODD_CALLERS: Final[dict[str, tuple[bytes, type[PeerError], str]]] = {
    "control before hello": (frame(CONTROL_KIND, b"\x92\x01\x05"), PeerProtocolError, "kind 2"),
    "stream before hello": (frame(STREAM_KIND_MIN, b""), PeerProtocolError, "kind 16"),
    "welcome before hello": (said(Welcome(1)), PeerProtocolError, "before it says hello"),
    "hello twice": (said(PARIS) * 2, PeerProtocolError, "hello twice"),
    "another version": (said(PARIS) + said(Welcome(2)), PeerProtocolError, "version 2, not 1"),
    "no message": (frame(HELLO_KIND, b"\xc1"), PeerProtocolError, "cannot be read"),
    "not our protocol": (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", PeerProtocolError, "no frame"),
    "too long": (
        frame(HELLO_KIND, bytes(HELLO_FRAME_BYTES_MAX))[:24],
        PeerProtocolError,
        "65536 bytes exceeds",
    ),
    "another program": (said(but(PARIS, magic="etcd")), PeerRefusedError, "'etcd', not mirrorha"),
    "refused before hello": (said(Refused("go away")), PeerRefusedError, "go away"),
    "refused after hello": (said(PARIS) + said(Refused("no room")), PeerRefusedError, "no room"),
    "gone at once": (b"", PeerLostError, "closed the connection$"),
    "gone within a frame": (said(PARIS)[:30], PeerLostError, "within a frame"),
    "gone after hello": (said(PARIS), PeerLostError, "closed the connection$"),
}


@pytest.mark.parametrize("what", ODD_CALLERS)
async def test_callers_that_do_not_follow_the_protocol(what: str) -> None:
    raw, kind, words = ODD_CALLERS[what]
    one, other = await memory_tls_pair()
    await one.send_all(raw)
    await one.send_farewell()
    with pytest.raises(kind, match=words):
        await answer(FrameLink(other, whom="the caller"), hello_for=lyon_for, deadline_s=5)


async def test_a_refusal_that_was_followed_by_a_reset_is_heard() -> None:
    """Whoever refuses may be gone before we have said hello: its reason counts, not the reset."""
    listener = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    listener.close()
    other.sendall(said(Refused("not you")))
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    link = FrameLink(trio.SocketStream(trio.socket.from_stdlib_socket(one)), whom="lyon")
    with pytest.raises(PeerRefusedError, match="not you"):
        await handshake(link, hello=PARIS, deadline_s=5)
    await link.aclose()


# Messages.


PAIRS: Final = pytest.mark.parametrize("make_pair", [memory_tls_pair, tcp_pair, tcp_tls_pair])
if TYPE_CHECKING:
    MakePair = Callable[[], Awaitable[tuple[trio.abc.Stream, trio.abc.Stream]]]


@PAIRS
async def test_messages_arrive_in_order(make_pair: MakePair) -> None:
    async with sessions_over(*await make_pair()) as (paris, lyon):
        assert (paris.peer, lyon.peer) == ("lyon", "paris")
        for number in range(50):
            paris.send_nowait(Note(number))
            await lyon.send(Note(-number))
        for number in range(50):
            assert await lyon.receive() == Note(number)
            assert await paris.receive() == Note(-number)


@PAIRS
async def test_frames_arrive_in_order_whatever_their_size(make_pair: MakePair) -> None:
    """Some are sent at once, some wait in line, some find the socket full in their middle."""
    sizes = [random.Random(7).choice([0, 10, 5_000, 60_000, 70_000, MIB]) for _ in range(120)]
    bodies = [number.to_bytes(4) + bytes(size) for number, size in enumerate(sizes)]
    async with (
        sessions_over(*await make_pair(), kind="stream") as (paris, lyon),
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            for body in bodies:
                await paris.send_frame(16, body)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        for body in bodies:
            assert (await lyon.receive_frame()).body == body


async def test_a_small_frame_does_not_overtake_a_large_one() -> None:
    one, other = await tcp_tls_pair()
    async with sessions_over(one, other, kind="stream") as (paris, lyon):
        for size in (MIB, 1, 100_000, 2):
            paris.send_frame_nowait(16, bytes(size))
        for size in (MIB, 1, 100_000, 2):
            assert len((await lyon.receive_frame()).body) == size


async def test_what_a_full_socket_left_behind_is_sent_without_another_send() -> None:
    one, other = await tcp_tls_pair()
    async with sessions_over(one, other, kind="stream") as (paris, lyon):
        await trio.testing.wait_all_tasks_blocked()
        sent = 0
        while not one.has_unsent:
            paris.send_frame_nowait(16, bytes(60_000))
            sent += 1
        with trio.fail_after(10):
            for _ in range(sent):
                assert len((await lyon.receive_frame()).body) == 60_000


async def test_two_that_flood_each_other_and_read_do_not_stall() -> None:
    """Who receives must never wait for room to send: the other side may do just the same."""
    count, body = 400, bytes(60_000)
    async with (
        sessions_over(*await tcp_tls_pair(), kind="stream") as pair,
        trio.open_nursery() as nursery,
    ):

        async def send(session: Session[Note]) -> None:
            for _ in range(count):
                await session.send_frame(16, body)

        async def receive(session: Session[Note]) -> None:
            with trio.fail_after(20):
                for _ in range(count):
                    assert (await session.receive_frame()).body == body

        for session in pair:
            nursery.start_soon(send, session)
            nursery.start_soon(receive, session)


@PAIRS
async def test_frames_of_many_senders_are_not_mixed(make_pair: MakePair) -> None:
    """Each frame takes several sends of the stream: none comes between its parts."""
    bodies = [bytes([sender]) * (MIB - sender) for sender in range(1, 9)]
    async with (
        sessions_over(*await make_pair(), kind="stream") as (paris, lyon),
        trio.open_nursery() as nursery,
    ):
        for body in bodies:
            nursery.start_soon(paris.send_frame, 16, b"head", memoryview(body))
        received = [bytes((await lyon.receive_frame()).body) for _ in bodies]
        assert sorted(received) == sorted(b"head" + body for body in bodies)


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with sessions_over(*await memory_tls_pair()) as (paris, lyon):
        for number in range(3):
            await paris.send(Note(number))
        await trio.testing.wait_all_tasks_blocked()
        for expected in range(3):
            # At first all of it is in the stream, later in the link.
            with trio.CancelScope() as scope:
                scope.cancel()
                await lyon.receive()
            assert scope.cancelled_caught
            assert (await lyon.receive()).number == expected


async def fill(session: Session[Note]) -> int:
    """Queue large messages until there is no room; return how many."""
    for number in range(10_000):
        try:
            session.send_nowait(Note(number, "x" * 200_000))
        except trio.WouldBlock:
            return number
        await trio.testing.wait_all_tasks_blocked()
    raise AssertionError("the queue has no end")


async def test_the_queue_is_bounded_and_senders_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with sessions_over(*trio.testing.lockstep_stream_pair()) as (paris, lyon):
        queued = await fill(paris)
        assert queued == SEND_QUEUE_BYTES_MAX // 200_000
        with trio.move_on_after(60) as scope:
            await paris.send(Note(-1, "x" * 200_000))
        assert scope.cancelled_caught
        # Cancelled while it waited for room: nothing of it was queued, and the session goes on.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(paris.send, Note(-2, "x" * 200_000))
            numbers = [(await lyon.receive()).number for _ in range(queued + 1)]
        assert numbers == [*range(queued), -2]


async def test_the_queue_is_bounded_in_frames() -> None:
    async with sessions_over(*trio.testing.lockstep_stream_pair()) as (paris, _):
        for number in range(SEND_QUEUE_FRAMES_MAX):
            paris.send_nowait(Note(number))
        with pytest.raises(trio.WouldBlock):
            paris.send_nowait(Note(-1))


async def test_a_large_frame_waits_for_a_whole_place() -> None:
    async with sessions_over(*trio.testing.lockstep_stream_pair(), kind="stream") as (paris, _):
        paris.send_frame_nowait(16, bytes(2 * MIB - 24))
        paris.send_frame_nowait(16, bytes(2 * MIB - 24))
        with pytest.raises(trio.WouldBlock):
            paris.send_frame_nowait(16, b"x")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (frame(STREAM_KIND_MIN, b""), "kind 16"),
        (frame(CONTROL_KIND, b"\x92\x63\x05"), "cannot be read"),
        (frame(CONTROL_KIND, bytes(CONTROL_FRAME_BYTES_MAX))[:24], "262144 bytes exceeds"),
        (b"\x00" * 24, "no frame"),
    ],
    ids=["another kind", "no message", "too long", "no frame"],
)
async def test_a_peer_that_breaks_the_protocol_ends_the_session(
    raw: bytes, words: str, autojump_clock: trio.testing.MockClock
) -> None:
    one, other = await memory_tls_pair()
    async with sessions_over(one, other) as (paris, lyon):
        await one.send_all(raw)
        with pytest.raises(PeerProtocolError, match=words):
            await lyon.receive()
        with pytest.raises(PeerProtocolError, match=words):
            await lyon.send(Note(1))
        assert isinstance(lyon.fault, PeerProtocolError)
        await lyon.aclose()
        with pytest.raises(PeerLostError):
            await paris.receive()


async def test_a_stream_session_takes_long_frames_and_a_control_session_does_not() -> None:
    body = os.urandom(MIB)
    async with sessions_over(*await memory_tls_pair(), kind="stream") as (paris, lyon):
        await paris.send_frame(16, body)
        assert (await lyon.receive_frame()).body == body


# Ends.


@PAIRS
async def test_what_is_queued_arrives_before_the_end(make_pair: MakePair) -> None:
    async with sessions_over(*await make_pair()) as (paris, lyon):
        for number in range(100):
            paris.send_nowait(Note(number))

        async def close() -> None:
            async with paris:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            assert [(await lyon.receive()).number for _ in range(100)] == list(range(100))
            with pytest.raises(PeerLostError, match="closed the connection"):
                await lyon.receive()
            await lyon.aclose()
        for session in (paris, lyon):
            with pytest.raises(PeerLostError):
                await session.send(Note(0))
            with pytest.raises(PeerLostError):
                session.send_nowait(Note(0))
            with pytest.raises(PeerLostError):
                await session.receive()
            await session.aclose()


@pytest.mark.parametrize("secure", [True, False])
async def test_what_was_sent_last_survives_that_something_was_left_unread(secure: bool) -> None:
    """A socket that is closed with something unread is reset, and drops what it has to send."""
    last = os.urandom(200_000)
    one, other = await tcp_pair()
    # So that most of it is still on this side when Paris has handed all of it over.
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 30)
    one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 << 20)
    other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    pair: tuple[trio.abc.Stream, trio.abc.Stream] = (one, other)
    if secure:
        tls_pair = tls_over(one, other)
        await shake_hands(*tls_pair)
        pair = tls_pair
    async with (
        sessions_over(*pair, kind="stream") as (paris, lyon),
        trio.open_nursery() as nursery,
    ):
        await lyon.send_frame(16, b"never read")
        await paris.send_frame(17, last)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(paris.aclose)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await lyon.receive_frame()).body == last
        with pytest.raises(PeerLostError, match="closed the connection"):
            await lyon.receive_frame()
        await lyon.aclose()


async def test_closing_is_bounded_while_the_peer_takes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with sessions_over(*trio.testing.lockstep_stream_pair()) as (paris, _):
        paris.send_nowait(Note(1))
        began_s = trio.current_time()
        await paris.aclose()
        assert trio.current_time() - began_s <= 4


async def test_closing_is_bounded_while_the_peer_never_stops_sending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = trio.testing.memory_stream_pair()
    async with sessions_over(one, other) as (paris, _), trio.open_nursery() as nursery:

        async def flood() -> None:
            while True:
                await other.send_all(bytes(1000))
                await trio.sleep(0.01)

        nursery.start_soon(flood)
        began_s = trio.current_time()
        await paris.aclose()
        assert trio.current_time() - began_s <= 4
        nursery.cancel_scope.cancel()


async def test_closing_when_cancelled_closes_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with sessions_over(*trio.testing.lockstep_stream_pair()) as (paris, lyon):
        paris.send_nowait(Note(1))
        await trio.testing.wait_all_tasks_blocked()
        paris.send_nowait(Note(2))
        began_s = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await paris.aclose()
        assert scope.cancelled_caught
        assert await lyon.receive() == Note(1)
        with pytest.raises(PeerLostError):
            await lyon.receive()
        assert trio.current_time() == began_s


async def test_closing_wakes_who_waits() -> None:
    async with sessions_over(*trio.testing.lockstep_stream_pair()) as (paris, _):
        await fill(paris)

        async def send() -> None:
            with pytest.raises(PeerLostError):
                await paris.send(Note(1, "x" * 200_000))

        async def receive() -> None:
            with pytest.raises(PeerLostError):
                await paris.receive()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await paris.aclose()


async def test_a_cancelled_writer_ends_the_session_for_both() -> None:
    one, other = await tcp_pair()
    async with sessions_over(one, other) as (paris, lyon):
        async with trio.open_nursery() as nursery:
            link = FrameLink(one, whom="lyon")
            session = Session(link, agreed=paris.agreed, codec=CODEC)
            nursery.start_soon(session.run_writer)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(PeerLostError):
            session.send_nowait(Note(1))
        with trio.fail_after(10), pytest.raises(PeerLostError):
            await lyon.receive()


@pytest.mark.parametrize("make_pair", [tcp_pair, tcp_tls_pair])
async def test_what_the_peer_said_before_it_left_can_be_read_after_our_sends_failed(
    make_pair: MakePair,
) -> None:
    """Its goodbye, say: it spares us the wait until its silence counts as death."""
    async with sessions_over(*await make_pair()) as (paris, lyon):
        paris.send_nowait(Note(1, "goodbye"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await paris.aclose()
        with trio.fail_after(10):
            while lyon.fault is None:
                with contextlib.suppress(PeerLostError):
                    await lyon.send(Note(2))
        assert await lyon.receive() == Note(1, "goodbye")


async def test_the_first_reason_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with sessions_over(*await memory_tls_pair()) as (paris, lyon):
        await paris.aclose()
        fault = paris.fault
        await lyon.aclose()
        await paris.aclose()
        assert paris.fault is fault


async def test_sessions_work_without_tls() -> None:
    async with sessions_over(*await tcp_pair()) as (paris, lyon):
        await paris.send(Note(1))
        assert await lyon.receive() == Note(1)
