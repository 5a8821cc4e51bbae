"""Connections for streams given away, as they are to workers: between two real nodes."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final, final

import pytest
import trio

from mirrorha.cluster.spoken import CODEC
from mirrorha.cluster.stream_ends import WorkerEnd, stream_end_of
from mirrorha.core.words import Role
from mirrorha.errors import PeerError, PeerProtocolError
from mirrorha.net.raw_stream import RawStream
from mirrorha.net.session import Session
from mirrorha.net.session_dial import greet
from mirrorha.net.session_server import answer_caller
from mirrorha.volume.engine import Engine
from mirrorha.wire.hello import HELLO_CODEC, Hello
from mirrorha.wire.preface import encode_preface
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until
from tests.net.session_support import tcp_pair, tls_of
from tests.wire.hellos import LYON, PARIS, but

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.volume.driver import StreamSocket


@final
class FakeWorker:
    """Does in this process what a worker does with a connection that it was given."""

    def __init__(self, engine: Engine, tls: Any) -> None:
        self._engine: Final = engine
        self._tls: Final = tls
        self.given = 0

    async def run_socket(
        self, handed: StreamSocket, *, admitted: Callable[[], None], plain: bool = False
    ) -> None:
        assert not plain
        self.given += 1
        copy = socket.socket(fileno=os.dup(handed.socket.fileno()))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(copy))
        async with stream:
            link, agreed = await self._greet(stream, handed)
            if agreed.peer.incarnation != handed.peer_incarnation:
                raise PeerProtocolError("of an earlier life")
            admitted()
            async with trio.open_nursery() as nursery:
                session = Session(link, agreed=agreed, codec=CODEC)
                nursery.start_soon(session.run_writer)
                await self._engine.run_stream(session)

    async def _greet(self, stream: trio.SocketStream, handed: StreamSocket) -> Any:
        mine = HELLO_CODEC.decode(handed.hello)
        assert isinstance(mine, Hello)
        if handed.dials:
            return await greet(stream, tls=self._tls, hello=mine, whom=handed.whom)
        return await answer_caller(
            stream, tls=self._tls, hello_for=lambda _: mine, whom=handed.whom
        )


def employ(node: TestNode) -> list[FakeWorker]:
    """Have a started node hand its streams to a worker from now on."""
    links = node.cluster._runtime.parts.links
    volumes = node.cluster._runtime.parts.volumes
    workers: list[FakeWorker] = []

    def end(name: str) -> Any:
        engine = volumes.driver(name)
        if engine is None:
            return None
        if not workers or workers[-1]._engine is not engine:
            workers.append(FakeWorker(engine, links._tls))
        worker: Any = workers[-1]
        return WorkerEnd(worker, hello=lambda: links._hello("stream", name), plain=False)

    links._stream_end = end
    links.drop_all("to begin with workers")
    return workers


@pytest.mark.parametrize("who", ["lyon", "paris", "both"])
async def test_streams_are_given_away_where_a_worker_is_and_only_there(
    tmp_path: Path, who: str
) -> None:
    async with open_pair(tmp_path) as pair:
        await start_pair(pair)
        workers = [employ(node) for node in pair if who in (node.name, "both")]
        await trio.sleep(0.1)
        first, second = await wait_mirrored(pair)
        await first.write("a", b"1")
        assert all(each[-1].given for each in workers)
        # One that is dropped is dialled again, and ends nothing else.
        given = workers[0][-1].given
        for node in pair:
            node.cluster._runtime.parts.links.drop_stream(str(node.site.data("lyon")))
        await wait_until(lambda: workers[0][-1].given > given)
        await wait_mirrored(pair)
        assert (first.cluster.role, second.cluster.role) == (Role.PRIM, Role.SECOND)
        await first.write("b", b"2")
        assert first.files() == second.files() == {"a": b"1", "b": b"2"}


async def test_a_stranger_displaces_no_stream(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, _ = await start_pair(pair)
        paris = pair[1]
        workers = employ(paris)
        await trio.sleep(0.1)
        await wait_mirrored(pair)
        epoch = first.cluster.status()["epoch"]
        links = paris.cluster._runtime.parts.links
        stream = links._streams[str(paris.site.data("lyon"))]
        strangers = []
        for _ in range(40):
            stranger = await trio.open_tcp_stream("127.0.0.1", paris.site.ports[1])
            await stranger.send_all(encode_preface(str(paris.site.data("lyon"))) + b"\x16\x03")
            strangers.append(stranger)
        await wait_until(lambda: workers[-1].given > 30)
        await first.write("a", b"1")
        assert links._streams[str(paris.site.data("lyon"))] is stream
        assert first.cluster.status()["epoch"] == epoch
        for stranger in strangers:
            await trio.aclose_forcefully(stranger)


async def test_no_stream_without_a_volume() -> None:
    def hello(kind: str, volume: str) -> Hello:
        raise AssertionError("nothing is said")

    assert stream_end_of(None, "v", tls=None, hello=hello, plain=False) is None


# A stream's way, for whoever is on it.

SAID: Final = b"a secret of one's own" * 100


class Speaker(Engine):  # type: ignore[misc] - it is final for everybody else
    """In the place of a volume: says and hears a few frames."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def run_stream(self, session: Any) -> None:
        for _ in range(3):
            await session.send_frame(20, SAID)
            self.heard.append(bytes((await session.receive_frame()).body))


async def relayed_pair(
    nursery: trio.Nursery, seen: bytearray
) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two connected streams, and all that travels between them."""

    async def pass_on(source: trio.SocketStream, to: trio.SocketStream) -> None:
        async with source:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some():
                    seen.extend(data)
                    await to.send_all(data)
                await to.send_eof()

    one, inner = await tcp_pair()
    other, outer = await tcp_pair()
    nursery.start_soon(pass_on, inner, outer)
    nursery.start_soon(pass_on, outer, inner)
    return one, other


@pytest.mark.parametrize("plain", [False, True])
async def test_on_a_plain_link_a_stream_is_readable_once_both_are_known(plain: bool) -> None:
    seen = bytearray()
    admitted: list[str] = []
    speakers = {"paris": Speaker(), "lyon": Speaker()}
    async with trio.open_nursery() as nursery:
        streams = await relayed_pair(nursery, seen)

        async def carry(name: str, stream: trio.SocketStream) -> None:
            own, theirs = (PARIS, LYON) if name == "paris" else (LYON, PARIS)
            hello = but(own, kind="stream", volume="v")
            end = stream_end_of(
                speakers[name],
                "v",
                tls=tls_of(name, peer=own.peer),
                hello=lambda kind, volume: hello,
                plain=plain,
            )
            assert end is not None
            raw = RawStream(stream=stream, dials=name == "paris", whom=own.peer)
            async with stream:
                await end.carry(
                    raw, peer_incarnation=theirs.incarnation, admitted=lambda: admitted.append(name)
                )

        with trio.fail_after(10):
            async with trio.open_nursery() as ends:
                for name, stream in zip(("paris", "lyon"), streams, strict=True):
                    ends.start_soon(carry, name, stream)
        nursery.cancel_scope.cancel()
    assert sorted(admitted) == ["lyon", "paris"]
    assert all(each.heard == [SAID] * 3 for each in speakers.values())
    assert (SAID in seen) is plain
    assert seen[0] == 0x16, "it begins with TLS in any case"
    assert b"applied" not in seen, "what the hellos say is not for everybody"


async def test_a_stream_of_an_earlier_life_is_not_admitted() -> None:
    async with trio.open_nursery() as nursery:
        one, other = await relayed_pair(nursery, bytearray())

        async def carry(name: str, stream: trio.SocketStream, incarnation: str) -> None:
            hello = but(PARIS if name == "paris" else LYON, kind="stream", volume="v")
            peer = "lyon" if name == "paris" else "paris"
            end = stream_end_of(
                Speaker(), "v", tls=tls_of(name, peer=peer), hello=lambda *_: hello, plain=False
            )
            assert end is not None
            raw = RawStream(stream=stream, dials=name == "paris", whom=peer)
            async with stream:
                with contextlib.suppress(PeerError):
                    await end.carry(
                        raw,
                        peer_incarnation=incarnation,
                        admitted=lambda: admitted.append(name),
                    )

        admitted: list[str] = []
        with trio.fail_after(10):
            async with trio.open_nursery() as ends:
                ends.start_soon(carry, "paris", one, "7")
                ends.start_soon(carry, "lyon", other, "7")
        assert admitted == []
        nursery.cancel_scope.cancel()


async def test_a_pair_mirrors_over_a_plain_link(tmp_path: Path) -> None:
    async with open_pair(tmp_path, link="plain", trusted_network=True) as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        assert first.files() == second.files() == {"a": b"1"}
        assert first.cluster.status()["link"] == "plain"


async def test_nodes_of_different_links_refuse_each_other_by_name(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (lyon, paris):
        paris.make(link="plain", trusted_network=True)
        await lyon.start()
        await paris.start()
        await wait_until(lambda: lyon.cluster.status()["peer"]["refused"])
        assert "'link' must agree and differs" in lyon.cluster.status()["peer"]["refused"]
