"""Connections for streams at the door: handed over, and no way for strangers to harm the node."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio

from mirrorha.errors import PeerLostError, PeerRefusedError
from mirrorha.net.raw_stream import RawStream
from mirrorha.net.session_dial import AddressPair, dial, dial_raw
from mirrorha.net.session_server import ServeCounts, open_listeners, serve_sessions
from mirrorha.wire.preface import PREFACE_BYTES, encode_preface, stream_label
from tests.net.session_support import CODEC, Note, lyon_for, tls_of
from tests.wire.hellos import PARIS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mirrorha.net.session import Session

STRANGER_S: Final = 0.3
PREFACE: Final = encode_preface("/srv/orders")
SECRET: Final = b"let me in"  # stands for TLS and the hellos


@attrs.define
class Lyon:
    """A node that is called, and in whose place of a worker an echo sits."""

    port: int
    counts: ServeCounts = attrs.field(factory=ServeCounts)
    taken: list[str] = attrs.field(factory=list)
    under_way: int = 0
    turned_away: list[str] = attrs.field(factory=list)

    async def on_stream(self, label: str, raw: RawStream, admitted: Callable[[], None]) -> None:
        """Take who says the secret, then echo; end when the caller does."""
        if label != stream_label("/srv/orders"):
            return
        assert not raw.dials
        self.taken.append(label)
        self.under_way += 1
        try:
            said = b""
            while len(said) < len(SECRET):
                more = await raw.stream.receive_some(len(SECRET) - len(said))
                if not more:
                    raise PeerLostError(f"{raw.whom} went away")
                said += more
            if said != SECRET:
                raise PeerRefusedError("that is not the secret")
            admitted()
            while data := await raw.stream.receive_some():
                await raw.stream.send_all(data)
        finally:
            self.under_way -= 1

    async def call(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def check_is_well(self) -> None:
        """Both kinds of connections are taken."""
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                session: Session[Note] = await dial(
                    [AddressPair(None, "127.0.0.1", self.port)],
                    nursery=nursery,
                    tls=tls_of("paris", peer="lyon"),
                    hello=PARIS,
                    codec=CODEC,
                )
                await session.send(Note(1))
                assert await session.receive() == Note(1)
                nursery.cancel_scope.cancel()
            raw = await dial_raw(
                [AddressPair(None, "127.0.0.1", self.port)], peer="lyon", preface=PREFACE
            )
            async with raw.stream:
                assert raw.dials
                assert raw.path == (None, "127.0.0.1")
                await check_echo(raw.stream)


async def check_echo(stream: trio.SocketStream) -> None:
    await stream.send_all(SECRET + b"?")
    assert await stream.receive_some() == b"?"


@contextlib.asynccontextmanager
async def lyon_serving(
    *, handshake_s: float = STRANGER_S, unknown_max: int = 16, takes_streams: bool = True
) -> AsyncGenerator[Lyon]:
    listeners = await open_listeners(["127.0.0.1"], 0)
    lyon = Lyon(port=listeners[0].socket.getsockname()[1])

    async def echo(session: Session[Note]) -> None:
        while True:
            await session.send(await session.receive())

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await serve_sessions(
            listeners,
            tls=tls_of("lyon", peer="paris"),
            hello_for=lyon_for,
            codec=CODEC,
            on_session=echo,
            on_stream=lyon.on_stream if takes_streams else None,
            turned_away=lambda host, error: lyon.turned_away.append(str(error)),
            handshake_s=handshake_s,
            unknown_max=unknown_max,
            counts=lyon.counts,
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield lyon
        nursery.cancel_scope.cancel()
    assert lyon.under_way == 0


async def ends(stream: trio.SocketStream) -> None:
    with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(65536):
            pass
    await trio.aclose_forcefully(stream)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - what no event tells
            await trio.sleep(0.005)


async def test_a_stream_goes_on_beyond_a_strangers_time() -> None:
    async with lyon_serving() as lyon, await lyon.call() as stream:
        await stream.send_all(PREFACE)
        await check_echo(stream)
        await trio.sleep(2 * STRANGER_S)
        await stream.send_all(b"!")
        assert await stream.receive_some() == b"!"
        assert lyon.counts.admitted == 1
        assert lyon.counts.lost == 0


async def test_not_a_byte_beyond_the_preface_is_taken() -> None:
    async with lyon_serving() as lyon, await lyon.call() as stream:
        await stream.send_all(PREFACE + SECRET + b"at once")
        assert await stream.receive_some() == b"at once"


async def test_a_preface_may_come_in_pieces() -> None:
    async with lyon_serving(handshake_s=10) as lyon, await lyon.call() as stream:
        for at in range(PREFACE_BYTES):
            await stream.send_all(PREFACE[at : at + 1])
            await trio.lowlevel.checkpoint()
        await check_echo(stream)


async def test_streams_that_nobody_takes_are_closed() -> None:
    async with lyon_serving() as lyon:
        stream = await lyon.call()
        await stream.send_all(encode_preface("/srv/elsewhere"))
        await ends(stream)
        assert lyon.taken == []
        await lyon.check_is_well()
    async with lyon_serving(takes_streams=False) as lyon:
        stream = await lyon.call()
        await stream.send_all(PREFACE)
        await ends(stream)
        await until(lambda: lyon.counts.violations == 1)  # to TLS it is noise


SAYINGS: Final = {
    "half of it": PREFACE[:20],
    "its first byte": b"M",
    "no end": b"M" * 100_000,
    "another version": PREFACE.replace(b" 1 ", b" 9 ") + bytes(1000),
    "no label": b"MIRRORHA-STREAM 1 " + bytes(100),
    "nothing after it": PREFACE,
    "half a secret": PREFACE + SECRET[:3],
    "another secret": PREFACE + b"let me out" + bytes(1000),
}


@pytest.mark.parametrize("what", SAYINGS)
@pytest.mark.parametrize("how", ["is silent", "closes"])
async def test_strangers_cost_their_place_for_a_strangers_time(what: str, how: str) -> None:
    async with lyon_serving() as lyon:
        stranger = await lyon.call()
        with contextlib.suppress(trio.BrokenResourceError):
            await stranger.send_all(SAYINGS[what])
        if how == "closes":
            await stranger.aclose()
        else:
            began_s = trio.current_time()
            await ends(stranger)
            assert trio.current_time() - began_s < 20 * STRANGER_S
        await until(lambda: lyon.counts.lost + lyon.counts.violations + lyon.counts.refused == 1)
        assert len(lyon.turned_away) == 1
        assert lyon.under_way == 0
        assert lyon.counts.admitted == 0
        await lyon.check_is_well()


async def test_a_byte_at_a_time_wins_no_time() -> None:
    async with lyon_serving() as lyon:
        stranger = await lyon.call()
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(10):
            for byte in PREFACE + SECRET:
                await stranger.send_all(bytes([byte]))
                await trio.sleep(STRANGER_S / 10)
                if lyon.counts.lost:
                    break
        assert lyon.counts.lost == 1
        assert lyon.counts.admitted == 0
        await trio.aclose_forcefully(stranger)


@pytest.mark.parametrize("said", [b"M", PREFACE, PREFACE + SECRET[:3]])
async def test_many_strangers_keep_neither_peer_nor_streams_out(said: bytes) -> None:
    async with lyon_serving(unknown_max=4, handshake_s=60) as lyon:
        async with await lyon.call() as stream:
            await stream.send_all(PREFACE)
            await check_echo(stream)
            strangers = []
            for _ in range(300):
                strangers.append(await lyon.call())
                await strangers[-1].send_all(said)
            await until(lambda: lyon.counts.called == 301)
            await lyon.check_is_well()
            assert lyon.under_way <= 1 + 4, "who is evicted is given up by whoever took it"
            await stream.send_all(b"still here")
            assert await stream.receive_some() == b"still here"
        for stranger in strangers:
            await trio.aclose_forcefully(stranger)
