"""A cluster's keys, two nodes that could talk to each other, and streams between them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio
import trio.testing

from mirrorha.net.frame_link import FrameLink
from mirrorha.net.handshake import answer, handshake
from mirrorha.net.keys import NodeKeys, create_keys, load_keys
from mirrorha.net.session import Session
from mirrorha.net.tls import PeerTls
from mirrorha.net.tls_stream import TlsStream
from mirrorha.wire.codec import Codec
from mirrorha.wire.hello import Hello
from tests.wire.hellos import LYON, PARIS, but

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Note(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What the tests' sessions carry."""

    number: int
    text: str = ""


CODEC: Final[Codec[Note]] = Codec(Note)


def lyon_for(theirs: Hello) -> Hello:
    """What Lyon answers: kind and volume are the caller's choice."""
    return but(LYON, kind=theirs.kind, volume=theirs.volume)


@functools.cache
def keys_of(node: str, *, authority: str = "one", cluster: str = "orders") -> NodeKeys:
    """The same for every test; `authority` tells sets apart that were made separately."""
    return load_keys(_directory(authority, cluster), node=node, cluster=cluster)


@functools.cache
def _directory(authority: str, cluster: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=f"mirrorha-test-{authority}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    create_keys(directory, cluster=cluster, nodes=["paris", "lyon", "nice"])
    return directory


def tls_of(node: str, *, peer: str, authority: str = "one") -> PeerTls:
    return PeerTls(keys_of(node, authority=authority), peer=peer)


def tls_over(caller: trio.abc.Stream, called: trio.abc.Stream) -> tuple[TlsStream, TlsStream]:
    """Paris calls Lyon."""
    return (
        tls_of("paris", peer="lyon").wrap_outgoing(caller),
        tls_of("lyon", peer="paris").wrap_incoming(called),
    )


async def shake_hands(*streams: TlsStream) -> None:
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.do_handshake)


async def memory_tls_pair() -> tuple[TlsStream, TlsStream]:
    pair = tls_over(*trio.testing.memory_stream_pair())
    await shake_hands(*pair)
    return pair


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    one = await trio.open_tcp_stream("127.0.0.1", port)
    other = await listener.accept()
    await listener.aclose()
    return one, other


async def tcp_tls_pair() -> tuple[TlsStream, TlsStream]:
    pair = tls_over(*await tcp_pair())
    await shake_hands(*pair)
    return pair


@contextlib.asynccontextmanager
async def sessions_over(
    caller: trio.abc.Stream, called: trio.abc.Stream, *, kind: str = "control"
) -> AsyncGenerator[tuple[Session[Note], Session[Note]]]:
    """Two sessions that have said hello, with their writers running; closed at once in the end."""
    sessions: dict[str, Session[Note]] = {}

    async def call() -> None:
        link = FrameLink(caller, whom="lyon")
        agreed = await handshake(link, hello=but(PARIS, kind=kind), deadline_s=5)
        sessions["paris"] = Session(link, agreed=agreed, codec=CODEC)

    async def be_called() -> None:
        link = FrameLink(called, whom="paris")
        agreed = await answer(link, hello_for=lyon_for, deadline_s=5)
        sessions["lyon"] = Session(link, agreed=agreed, codec=CODEC)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(be_called)
    async with trio.open_nursery() as nursery:
        for session in sessions.values():
            nursery.start_soon(session.run_writer)
        try:
            yield sessions["paris"], sessions["lyon"]
        finally:
            for stream in (caller, called):
                await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
