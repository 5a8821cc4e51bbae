"""How fast two processes on this machine talk over TLS 1.3: an echo of 4 KiB, 1 MiB in a row.

Compares a blocking `ssl` socket, `trio.SSLStream`, our TLS stream, and a session on top of it with
frames, checksums and its queue. Run it alone: it uses two cores.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from mirrorha.net.frame_link import FrameLink
from mirrorha.net.handshake import answer, handshake
from mirrorha.net.keys import create_keys, load_keys, node_dns_name
from mirrorha.net.session import Session
from mirrorha.net.tls import client_context, server_context
from mirrorha.net.tls_stream import TlsStream
from mirrorha.wire.codec import Codec
from mirrorha.wire.hello import MAGIC, Hello

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

ECHOES: Final = 2_000
ECHO_BYTES: Final = 4096
BULK: Final = 256
BULK_BYTES: Final = 1 << 20
NAME: Final = node_dns_name(cluster="bench", node="lyon")
KIND: Final = 16


class Note(msgspec.Struct, array_like=True, tag=1):
    number: int


class Channel(Protocol):
    """One end of a connection: whole messages of a known length."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self, count: int) -> object: ...


class BlockingChannel:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self.buffer = bytearray(BULK_BYTES)

    async def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    async def receive(self, count: int) -> object:
        view, filled = memoryview(self.buffer), 0
        while filled < count:
            filled += self.connection.recv_into(view[filled:count])
        return view


class StreamChannel:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self, count: int) -> object:
        received = bytearray()
        while len(received) < count:
            received += await self.stream.receive_some(count - len(received))
        return received


class SessionChannel:
    def __init__(self, session: Session[Note]) -> None:
        self.session = session

    async def send(self, data: bytes) -> None:
        await self.session.send_frame(KIND, data)

    async def receive(self, count: int) -> object:
        return (await self.session.receive_frame()).body


@contextlib.asynccontextmanager
async def blocking(
    connection: socket.socket, context: ssl.SSLContext, *, calls: bool
) -> AsyncGenerator[Channel]:
    with context.wrap_socket(
        connection, server_side=not calls, server_hostname=NAME if calls else None
    ) as wrapped:
        yield BlockingChannel(wrapped)


@contextlib.asynccontextmanager
async def trios(
    connection: socket.socket, context: ssl.SSLContext, *, calls: bool
) -> AsyncGenerator[Channel]:
    transport = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    stream = trio.SSLStream(transport, context, server_hostname=NAME, server_side=not calls)
    await stream.do_handshake()
    yield StreamChannel(stream)


async def ours(connection: socket.socket, context: ssl.SSLContext, *, calls: bool) -> TlsStream:
    transport = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    name = NAME if calls else None
    stream = TlsStream(transport, context, server_hostname=name, server_side=not calls)
    await stream.do_handshake()
    return stream


@contextlib.asynccontextmanager
async def our_streams(
    connection: socket.socket, context: ssl.SSLContext, *, calls: bool
) -> AsyncGenerator[Channel]:
    yield StreamChannel(await ours(connection, context, calls=calls))


@contextlib.asynccontextmanager
async def our_sessions(
    connection: socket.socket, context: ssl.SSLContext, *, calls: bool
) -> AsyncGenerator[Channel]:
    link = FrameLink(await ours(connection, context, calls=calls), whom="the other")
    agreed = await (
        handshake(link, hello=hello("paris", "lyon"), deadline_s=5)
        if calls
        else answer(link, hello_for=lambda _: hello("lyon", "paris"), deadline_s=5)
    )
    async with trio.open_nursery() as nursery:
        session = Session(link, agreed=agreed, codec=Codec[Note](Note))
        nursery.start_soon(session.run_writer)
        async with session:
            yield SessionChannel(session)


def hello(node: str, peer: str) -> Hello:
    return Hello(MAGIC, 1, 1, "bench", None, node, peer, "stream", "v", "1", "b")


WAYS: Final = {
    "blocking ssl socket": blocking,
    "trio.SSLStream": trios,
    "TlsStream": our_streams,
    "Session": our_sessions,
}


async def call(channel: Channel) -> str:
    taken_us = []
    small, large = bytes(ECHO_BYTES), os.urandom(BULK_BYTES)
    for _ in range(ECHOES):
        began = time.perf_counter()
        await channel.send(small)
        await channel.receive(ECHO_BYTES)
        taken_us.append((time.perf_counter() - began) * 1e6)
    began = time.perf_counter()
    for _ in range(BULK):
        await channel.send(large)
    await channel.receive(1)
    rate = BULK * BULK_BYTES / (time.perf_counter() - began) / 1e6
    quantiles = statistics.quantiles(taken_us, n=100)
    return f"{quantiles[49]:7.0f} µs {quantiles[98]:7.0f} µs {rate:8.0f} MB/s"


async def be_called(channel: Channel) -> None:
    for _ in range(ECHOES):
        await channel.receive(ECHO_BYTES)
        await channel.send(bytes(ECHO_BYTES))
    for _ in range(BULK):
        await channel.receive(BULK_BYTES)
    await channel.send(b"x")


def measure(way: str, directory: Path) -> str:
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trio.run(run, way, connection, directory, False)
        os._exit(0)
    connection = socket.create_connection(listener.getsockname())
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    result = trio.run(run, way, connection, directory, True)
    os.waitpid(child, 0)
    return result


async def run(way: str, connection: socket.socket, directory: Path, calls: bool) -> str:
    node = "paris" if calls else "lyon"
    keys = load_keys(directory, node=node)
    context = client_context(keys) if calls else server_context(keys)
    with trio.fail_after(120):
        async with WAYS[way](connection, context, calls=calls) as channel:
            if calls:
                return await call(channel)
            await be_called(channel)
            return ""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        create_keys(directory, cluster="bench", nodes=["paris", "lyon"])
        print(f"{'':20} {'echo p50':>10} {'p99':>10} {'1 MiB':>12}")
        for way in sys.argv[1:] or WAYS:
            print(f"{way:20} {measure(way, directory)}", flush=True)


if __name__ == "__main__":
    main()
