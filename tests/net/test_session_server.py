"""Whoever calls, and however: the node goes on, and the peer gets in."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Final, Self

import attrs
import pytest
import trio
import trio.testing

from mirrorha.errors import (
    InvariantViolation,
    LocalUsageError,
    PeerError,
    PeerLostError,
    PeerRefusedError,
)
from mirrorha.net.certificates import WITNESS
from mirrorha.net.frame_link import FrameLink
from mirrorha.net.handshake import handshake
from mirrorha.net.session_dial import AddressPair, dial
from mirrorha.net.session_server import ServeCounts, open_listeners, serve_sessions
from mirrorha.net.tls import client_context
from mirrorha.net.tls_stream import TlsStream
from mirrorha.wire.frames import HELLO_KIND, encode_frame
from mirrorha.wire.hello import HELLO_CODEC, Hello
from tests.net.session_support import CODEC, Note, keys_of, lyon_for, tls_of
from tests.wire.hellos import PARIS, but

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mirrorha.net.session import Session

# Strangers get so long here. Long enough for an honest handshake on a machine that is busy.
STRANGER_S: Final = 1.0


async def echo(session: Session[Note]) -> None:
    while True:
        await session.send(await session.receive())


async def check_echo(session: Session[Note]) -> None:
    with trio.fail_after(10):
        await session.send(Note(7))
        assert await session.receive() == Note(7)


async def close_when_cancelled(session: Session[Note]) -> None:
    async with session:
        await trio.sleep_forever()


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what another end of a socket does, of which nothing here is told."""
    with trio.fail_after(10):
        while not happened():  # noqa: ASYNC110
            await trio.sleep(0.01)


@attrs.define
class Lyon:
    """A node that is called, and can be seen to be well."""

    port: int
    nursery: trio.Nursery
    counts: ServeCounts = attrs.field(factory=ServeCounts)

    def addresses(self) -> list[AddressPair]:
        return [AddressPair("127.0.0.1", "127.0.0.1", self.port)]

    async def called_by_paris(self, *, hello: Hello = PARIS) -> Session[Note]:
        return await dial(
            self.addresses(),
            nursery=self.nursery,
            tls=tls_of("paris", peer="lyon"),
            hello=hello,
            codec=CODEC,
        )

    async def check_is_well(self) -> None:
        """The peer can connect, now, and is answered."""
        with trio.fail_after(10):
            async with await self.called_by_paris() as session:
                await check_echo(session)
        assert self.counts.faults == 0


@contextlib.asynccontextmanager
async def lyon_serving(
    on_session: Callable[[Session[Note]], Awaitable[None]] = echo,
    *,
    hello_for: Callable[[Hello], Hello] = lyon_for,
    unknown_max: int = 16,
    secure: bool = True,
    handshake_s: float = STRANGER_S,
) -> AsyncGenerator[Lyon]:
    listeners = await open_listeners(["127.0.0.1"], 0)
    async with trio.open_nursery() as nursery:
        lyon = Lyon(port=listeners[0].socket.getsockname()[1], nursery=nursery)

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_sessions(
                listeners,
                tls=tls_of("lyon", peer="paris") if secure else None,
                hello_for=hello_for,
                codec=CODEC,
                on_session=on_session,
                handshake_s=handshake_s,
                unknown_max=unknown_max,
                counts=lyon.counts,
                task_status=task_status,
            )

        await nursery.start(serve)
        yield lyon
        # What is still connected, stuck or half-way must not delay the end.
        began_s = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began_s < 1


class Stranger:
    """A plain TCP connection that says whatever it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    @classmethod
    async def call(cls, lyon: Lyon) -> Self:
        return cls(await trio.open_tcp_stream("127.0.0.1", lyon.port))

    async def ends(self) -> None:
        """Wait until the other side ends it."""
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(65536):
                pass
        await trio.aclose_forcefully(self.stream)

    async def reset(self) -> None:
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self.stream)


def client_hello() -> bytes:
    """What a caller of the right cluster says first."""
    outgoing = ssl.MemoryBIO()
    context = client_context(keys_of("paris"))
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="lyon.orders.mirrorha")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO_RECORD: Final = client_hello()

SAYINGS: Final[dict[str, list[bytes]]] = {
    "HTTP": [b"GET / HTTP/1.1\r\nHost: lyon\r\n\r\n"],
    "zeros": [bytes(100_000)],
    "noise": [os.urandom(50_000)],
    "a frame without TLS": encode_frame(HELLO_KIND, HELLO_CODEC.encode(PARIS)),  # type: ignore[dict-item]
    "a record that claims to be long": [b"\x16\x03\x03\xff\xff" + bytes(70_000)],
    "a message that claims to be long": [b"\x16\x03\x03\x40\x00\x01\xff\xff\xff" + bytes(20_000)],
    "a ClientHello, then noise": [HELLO_RECORD, os.urandom(5_000)],
    "a ClientHello, twice": [HELLO_RECORD, HELLO_RECORD],
    "an alert": [b"\x15\x03\x03\x00\x02\x02\x28"],
    "data before the handshake": [b"\x17\x03\x03\x00\x10" + bytes(16)],
    "a changed ClientHello": [HELLO_RECORD[:60] + b"\xff\xff" + HELLO_RECORD[62:]],
}


@pytest.mark.parametrize("what", SAYINGS)
async def test_strangers_that_say_something_else(what: str) -> None:
    async with lyon_serving() as lyon:
        stranger = await Stranger.call(lyon)
        for saying in SAYINGS[what]:
            with contextlib.suppress(trio.BrokenResourceError):
                await stranger.stream.send_all(saying)
        await stranger.ends()
        await lyon.check_is_well()
        assert lyon.counts.violations + lyon.counts.lost + lyon.counts.refused >= 1


@pytest.mark.parametrize("length", [0, 5, len(HELLO_RECORD) - 1, len(HELLO_RECORD)])
@pytest.mark.parametrize("how", ["closes", "resets", "is silent"])
async def test_strangers_that_stop_half_way(length: int, how: str) -> None:
    async with lyon_serving() as lyon:
        stranger = await Stranger.call(lyon)
        await stranger.stream.send_all(HELLO_RECORD[:length])
        match how:
            case "closes":
                await stranger.stream.aclose()
            case "resets":
                await stranger.reset()
            case _:
                await stranger.ends()
        await lyon.check_is_well()


async def test_a_stranger_that_says_a_byte_at_a_time_has_its_time_like_everybody() -> None:
    async with lyon_serving() as lyon:
        stranger = await Stranger.call(lyon)
        began_s = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(10):
            for at in range(len(HELLO_RECORD)):
                await stranger.stream.send_all(HELLO_RECORD[at : at + 1])
                await trio.sleep(0.02)
                if lyon.counts.lost:
                    break
        assert trio.current_time() - began_s < 5
        assert lyon.counts.lost == 1
        await trio.aclose_forcefully(stranger.stream)


async def test_strangers_that_hold_all_places_do_not_keep_the_peer_out() -> None:
    async with lyon_serving(unknown_max=4, handshake_s=60) as lyon:
        strangers = [await Stranger.call(lyon) for _ in range(20)]
        await lyon.check_is_well()
        assert lyon.counts.evicted == 17  # 16 for strangers, and one for the peer
        for stranger in strangers[:17]:
            await stranger.ends()
        for stranger in strangers[17:]:
            await trio.aclose_forcefully(stranger.stream)


async def test_places_are_taken_by_those_only_who_are_unknown_now() -> None:
    async with (
        lyon_serving(unknown_max=2, handshake_s=60) as lyon,
        await lyon.called_by_paris() as session,
    ):
        for number in range(6):
            await trio.aclose_forcefully((await Stranger.call(lyon)).stream)
            await until(lambda number=number: lyon.counts.lost == number + 1)  # type: ignore[misc]
        assert lyon.counts.evicted == 0
        await check_echo(session)


# Callers with a certificate.


async def call_with(
    lyon: Lyon, context: ssl.SSLContext, *, name: str = "lyon.orders.mirrorha"
) -> TlsStream:
    tcp = await trio.open_tcp_stream("127.0.0.1", lyon.port)
    stream = TlsStream(tcp, context, server_hostname=name)
    await stream.do_handshake()
    return stream


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("lyon", "both sides show the certificate of 'lyon'"),
        (WITNESS, "the witness's certificate, not that of 'paris'"),
        ("nice", r"a certificate for 'nice\.orders\.mirrorha', not for 'paris'"),
    ],
)
async def test_callers_that_are_not_the_peer_are_told_so(
    shown: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with lyon_serving() as lyon:
        stream = await call_with(lyon, client_context(keys_of(shown)))
        link = FrameLink(stream, whom="lyon")
        with pytest.raises(PeerRefusedError, match=words):
            await handshake(link, hello=PARIS, deadline_s=5)
        await link.aclose()
        await lyon.check_is_well()
        assert lyon.counts.refused == 1
        assert lyon.counts.admitted == 1
    assert any(
        record.levelno == logging.WARNING and "certificate" in record.message
        for record in caplog.records
    )


async def test_a_caller_of_another_authority() -> None:
    async with lyon_serving() as lyon:
        with pytest.raises(PeerRefusedError, match="mirrorha keys init"):
            await dial(
                lyon.addresses(),
                nursery=lyon.nursery,
                tls=tls_of("paris", peer="lyon", authority="two"),
                hello=PARIS,
                codec=CODEC,
            )
        await lyon.check_is_well()
        assert lyon.counts.admitted == 1


async def test_a_caller_that_checks_nothing_is_refused_and_told_so() -> None:
    """The hello is sent before the refusal has come in; the reason must not get lost for that."""
    async with lyon_serving() as lyon:
        context = client_context(keys_of("paris", authority="two"))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        link = FrameLink(await call_with(lyon, context), whom="lyon")
        with pytest.raises(PeerRefusedError, match="lyon refuses the connection"):
            await handshake(link, hello=PARIS, deadline_s=5)
        await link.aclose()
        await lyon.check_is_well()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"".join(encode_frame(HELLO_KIND, b"\xc1"))[:-1],
        b"".join(encode_frame(HELLO_KIND, HELLO_CODEC.encode(PARIS))),
        b"".join(encode_frame(HELLO_KIND, HELLO_CODEC.encode(but(PARIS, cluster="bills")))),
        b"".join(encode_frame(2, bytes(1000))),
        b"".join(encode_frame(HELLO_KIND, bytes(100_000))),
        os.urandom(100_000),
    ],
    ids=["nothing", "HTTP", "part", "no answer", "another cluster", "control", "long", "noise"],
)
@pytest.mark.parametrize("how", ["closes", "resets", "is silent"])
async def test_the_peer_gone_mad(said: bytes, how: str) -> None:
    async with lyon_serving() as lyon:
        stream = await call_with(lyon, client_context(keys_of("paris")))
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(said)
        stranger = Stranger(stream.transport)  # type: ignore[arg-type]
        match how:
            case "closes":
                await stream.aclose()
            case "resets":
                await stranger.reset()
            case _:
                await stranger.ends()
        # A connection that was reset is noticed whenever Lyon gets to it.
        counts = lyon.counts
        await until(lambda: counts.lost + counts.violations + counts.refused > 0)
        assert lyon.counts.faults == 0
        assert lyon.counts.admitted == 0
        await lyon.check_is_well()


async def test_a_caller_that_sends_and_never_reads_is_ended() -> None:
    """Nor does it make us keep what it does not take."""

    async def flood(session: Session[Note]) -> None:
        while True:
            await session.send(Note(1, "x" * 100_000))

    async with lyon_serving(flood) as lyon:
        session = await lyon.called_by_paris()
        lyon.nursery.start_soon(close_when_cancelled, session)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert session.fault is None
    # `lyon_serving` checks that it does not delay the end.


async def test_refusals_name_what_differs_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    async with lyon_serving() as lyon:
        with pytest.raises(PeerRefusedError) as caught:
            await lyon.called_by_paris(hello=but(PARIS, must_agree={"ack": "durable"}))
        words = "'ack' must agree and differs: 'applied' on 'lyon', 'durable' on 'paris'"
        assert words in caught.value.reason
        await lyon.check_is_well()
    assert any(words in record.message for record in caplog.records)


# What runs on a session.


async def test_a_fault_of_ours_ends_one_session_and_is_logged_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stumble(session: Session[Note]) -> None:
        note = await session.receive()
        raise ZeroDivisionError(str(note.number))

    async with lyon_serving(stumble) as lyon:
        for number in range(3):
            session = await lyon.called_by_paris()
            await session.send(Note(number))
            with pytest.raises(PeerLostError):
                await session.receive()
            await session.aclose()
        assert lyon.counts.faults == 3
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(faults) == 1  # the same again is counted, not logged
    assert faults[0].exc_info is not None


@pytest.mark.parametrize("in_a_nursery", [True, False])
async def test_a_broken_invariant_behind_the_hello_is_not_swallowed(in_a_nursery: bool) -> None:
    async def violate(session: Session[Note]) -> None:
        if not in_a_nursery:
            raise InvariantViolation("seen")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive)
            raise InvariantViolation("seen")

    with pytest.RaisesGroup(InvariantViolation, flatten_subgroups=True, allow_unwrapped=True):
        async with lyon_serving(violate) as lyon, await lyon.called_by_paris() as session:
            with contextlib.suppress(PeerLostError):
                await session.receive()
            await trio.sleep(5)


async def test_a_broken_invariant_before_the_hello_does_not_stop_the_node() -> None:
    """Else a stranger could, if only it found one."""

    def stumble_over_a_stream(theirs: Hello) -> Hello:
        if theirs.kind == "stream":
            raise InvariantViolation("found by a stranger")
        return lyon_for(theirs)

    async with lyon_serving(hello_for=stumble_over_a_stream) as lyon:
        with pytest.raises(PeerLostError):
            await lyon.called_by_paris(hello=but(PARIS, kind="stream"))
        assert lyon.counts.faults == 1
        lyon.counts.faults = 0
        await lyon.check_is_well()


async def test_a_session_ends_with_what_runs_on_it() -> None:
    async def answer_once(session: Session[Note]) -> None:
        await session.send(await session.receive())

    async with lyon_serving(answer_once) as lyon:
        session = await lyon.called_by_paris()
        await session.send(Note(1))
        assert await session.receive() == Note(1)
        with pytest.raises(PeerLostError, match="closed the connection"):
            await session.receive()
        await session.aclose()


async def test_several_sessions_at_once() -> None:
    async with lyon_serving() as lyon:
        of_a_volume = but(PARIS, kind="stream", volume="v1")
        async with (
            await lyon.called_by_paris() as control,
            await lyon.called_by_paris(hello=of_a_volume) as stream,
        ):
            assert stream.agreed.peer.volume == "v1"
            for session in (control, stream):
                await check_echo(session)


async def test_a_plain_link() -> None:
    async with lyon_serving(secure=False) as lyon:
        session = await dial(
            lyon.addresses(), nursery=lyon.nursery, tls=None, hello=PARIS, codec=CODEC
        )
        async with session:
            await check_echo(session)
        with pytest.raises(PeerError):
            await lyon.called_by_paris()
        await until(lambda: lyon.counts.violations == 1)


# Dialling.


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


async def dial_all(nursery: trio.Nursery, *addresses: AddressPair) -> Session[Note]:
    return await dial(
        addresses,
        nursery=nursery,
        tls=tls_of("paris", peer="lyon"),
        hello=PARIS,
        codec=CODEC,
        connect_s=1,
        handshake_s=0.5,
    )


async def test_the_first_address_that_works_is_taken() -> None:
    dead = AddressPair(None, "127.0.0.1", free_port())
    unusable = AddressPair("192.0.2.1", "127.0.0.1", free_port())
    async with lyon_serving() as lyon:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            never_answers = AddressPair(None, "127.0.0.1", silent.getsockname()[1])
            session = await dial_all(lyon.nursery, dead, unusable, never_answers, *lyon.addresses())
        async with session:
            await check_echo(session)


async def test_the_source_address_is_used() -> None:
    seen: list[str] = []
    listeners = await open_listeners(["127.0.0.1"], 0)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            stream = await listeners[0].accept()
            seen.append(stream.socket.getpeername()[0])
            await trio.aclose_forcefully(stream)

        nursery.start_soon(accept)
        with pytest.raises(PeerError):
            await dial_all(nursery, AddressPair("127.0.0.2", "127.0.0.1", port))
    assert seen == ["127.0.0.2"]
    await listeners[0].aclose()


async def test_all_failures_are_told() -> None:
    ports = [free_port(), free_port()]
    async with trio.open_nursery() as nursery:
        with pytest.raises(PeerLostError) as caught:
            await dial_all(nursery, *(AddressPair(None, "127.0.0.1", port) for port in ports))
    for port in ports:
        assert f"127.0.0.1 port {port}" in str(caught.value)
    assert str(caught.value).count("Connection refused") == 2
    # It is evidence that the peer's host answers and its program is gone.
    cause = caught.value.__cause__
    assert cause is not None
    assert isinstance(cause.__cause__, ConnectionRefusedError)


async def test_a_refusal_is_not_hidden_by_other_failures() -> None:
    async with lyon_serving(
        hello_for=lambda theirs: but(lyon_for(theirs), cluster="bills")
    ) as lyon:
        dead = AddressPair(None, "127.0.0.1", free_port())
        with pytest.raises(PeerRefusedError, match="'bills' on 'lyon'"):
            await dial_all(lyon.nursery, *lyon.addresses(), dead)
        with pytest.raises(PeerRefusedError, match="'bills' on 'lyon'"):
            await dial_all(lyon.nursery, dead, *lyon.addresses())


async def test_a_caller_that_reaches_itself() -> None:
    """An address of Lyon that is in truth an address of Paris."""
    listeners = await open_listeners(["127.0.0.1"], 0)
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_sessions(
                listeners,
                tls=tls_of("paris", peer="lyon"),
                hello_for=lambda _: PARIS,
                codec=CODEC,
                on_session=echo,
                task_status=task_status,
            )

        await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(PeerRefusedError, match=r"lyon\.orders\.mirrorha"):
            await dial_all(nursery, AddressPair(None, "127.0.0.1", port))
        nursery.cancel_scope.cancel()


async def test_a_cancelled_dial_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.1) as scope:
                await dial_all(nursery, AddressPair(None, "127.0.0.1", silent.getsockname()[1]))
        assert scope.cancelled_caught
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass


async def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(LocalUsageError, match=r"192\.0\.2\.1 port 9500"):
        await open_listeners(["192.0.2.1"], 9500)


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalUsageError, match="no other node running"):
            await open_listeners(["127.0.0.3", "127.0.0.1"], port)
        # The one that could be had was given back.
        [listener] = await open_listeners(["127.0.0.3"], port)
        await listener.aclose()
