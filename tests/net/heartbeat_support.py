"""Two heartbeat threads on the loopback interface, in real time, and somebody on the wire."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import threading
from typing import TYPE_CHECKING

import trio

from mirrorha.net.heartbeat import HeardBeat, HeartbeatThread, PathStatistics, monotonic_ms
from mirrorha.net.paths import Endpoint, HeartbeatPath, heartbeat_paths
from mirrorha.wire.beat import Heart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PULSE_MS = 20
TIMEOUT_MS = 200
KEY = bytes(range(32))
ONE, TWO = "127.0.0.1", "127.0.0.2"


# Below the range that the kernel gives out by itself; apart for processes that run at once.
_ports = itertools.count(20_000 + os.getpid() % 1_000 * 10)


def free_port() -> int:
    """A UDP port that nobody uses on any address now."""
    for port in _ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            return port
    raise AssertionError("there are more ports than tests")


def heart_of(node: str, *, incarnation: int = 1, key: bytes = KEY) -> Heart:
    peer = {"paris": "lyon", "lyon": "paris"}[node]
    return Heart(cluster="orders", node=node, peer=peer, key=key, incarnation=incarnation)


def start(
    node: str,
    paths: Sequence[HeartbeatPath],
    *,
    incarnation: int = 1,
    clock_ms: Callable[[], int] = monotonic_ms,
) -> HeartbeatThread:
    return HeartbeatThread.start(
        paths,
        heart_of(node, incarnation=incarnation),
        pulse_ms=PULSE_MS,
        timeout_ms=TIMEOUT_MS,
        clock_ms=clock_ms,
    )


@contextlib.contextmanager
def running(
    node: str, paths: Sequence[HeartbeatPath], *, incarnation: int = 1
) -> Iterator[HeartbeatThread]:
    thread = start(node, paths, incarnation=incarnation)
    try:
        yield thread
    finally:
        assert thread.stop()


def direct(
    *addresses: str,
) -> tuple[tuple[HeartbeatPath, ...], tuple[HeartbeatPath, ...]]:
    """Both nodes' paths, every address of one with every address of the other."""
    paris = Endpoint(addresses=addresses, port=free_port())
    lyon = Endpoint(addresses=addresses, port=free_port())
    return (
        heartbeat_paths(paris, lyon, listed_first=True),
        heartbeat_paths(lyon, paris, listed_first=False),
    )


class Wire:
    """One path with somebody on it, who can cut, record, and send what he likes."""

    def __init__(self, index: int, address: str) -> None:
        self.paris_port, self.lyon_port = free_port(), free_port()
        self.to_paris = self._socket(address, self.paris_port)
        self.to_lyon = self._socket(address, self.lyon_port)
        paris_side = self.to_paris.getsockname()[1]
        lyon_side = self.to_lyon.getsockname()[1]
        self.paris = HeartbeatPath(
            index=index,
            local=address,
            local_port=self.paris_port,
            peer=address,
            peer_port=paris_side,
        )
        self.lyon = HeartbeatPath(
            index=index,
            local=address,
            local_port=self.lyon_port,
            peer=address,
            peer_port=lyon_side,
        )
        self.cut = False
        self.from_paris: list[bytes] = []
        self.from_lyon: list[bytes] = []

    @staticmethod
    def _socket(address: str, peer_port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 0))
        sock.connect((address, peer_port))
        return sock

    def carry(self, sock: socket.socket) -> None:
        # What `select` saw may be a refusal that a `send` of another thread has taken meanwhile.
        with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
            raw = sock.recv(2048, socket.MSG_DONTWAIT)
            record, onward = (
                (self.from_paris, self.to_lyon)
                if sock is self.to_paris
                else (self.from_lyon, self.to_paris)
            )
            record.append(raw)
            if not self.cut:
                onward.send(raw)

    def inject(self, sock: socket.socket, raw: bytes) -> None:
        with contextlib.suppress(ConnectionRefusedError):
            sock.send(raw)


@contextlib.contextmanager
def wires(*addresses: str) -> Iterator[list[Wire]]:
    """Wires that are served by a thread, so that a blocked test loop does not block them."""
    made = [Wire(index, address) for index, address in enumerate(addresses)]
    owner = {sock: wire for wire in made for sock in (wire.to_paris, wire.to_lyon)}
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            for sock in select.select(list(owner), [], [], 0.05)[0]:
                owner[sock].carry(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join(5)
        assert not thread.is_alive()
        for sock in owner:
            sock.close()


async def eventually(condition: Callable[[], bool], *, within_s: float = 5) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - other threads change it, and set no event
            await trio.sleep(0.005)


async def take(thread: HeartbeatThread, *, while_s: float) -> list[HeardBeat]:
    taken = []
    with trio.move_on_after(while_s):
        async for heard in thread:
            taken.append(heard)
    return taken


async def until(thread: HeartbeatThread, wanted: Callable[[HeardBeat], bool]) -> HeardBeat:
    with trio.fail_after(5):
        async for heard in thread:
            if wanted(heard):
                return heard
    raise AssertionError("the beats ended")


async def listening(wire: Wire) -> None:
    """Wait until paris has its socket: what is injected before goes nowhere."""
    await eventually(lambda: len(wire.from_paris) > 0)


def figures(thread: HeartbeatThread, index: int = 0) -> PathStatistics:
    return thread.statistics()[index]
