"""Two workers' drivers in one process, or two worker processes: the test plays both clusters."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mirrorha.core.orders import AnyReport
from mirrorha.core.words import Ack
from mirrorha.net.keys import create_keys, load_keys
from mirrorha.volume.events import Failure, Reply
from mirrorha.volume.opening import OpenVolume, open_volume
from mirrorha.volume.ops import ROOT_FID, AnyOp, Create, Write
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.worker.connections import Connections
from mirrorha.volume.worker.driver import Driver
from mirrorha.volume.worker.loop import Loop
from mirrorha.volume.worker.messages import Connection, FromWorker, KeysAt, Linked, Unlinked
from mirrorha.volume.worker.short_syncs import ShortSyncs
from mirrorha.wire.hello import MAGIC, STREAM, VERSION_MAX, VERSION_MIN, Hello, encode_hello
from mirrorha.wire.limits import TLS_RECORDS_MAX

NODES = ("paris", "lyon")
CLUSTER = "orders"
VOLUME = "/srv/orders"
T0 = 1_700_000_000_000_000_000
WAIT_S = 10.0


def keys_for_both(directory: Path) -> dict[str, KeysAt]:
    created = create_keys(directory, cluster=CLUSTER, nodes=NODES)
    found = {}
    for node in NODES:
        keys = load_keys(created.bundles[node], node=node, cluster=CLUSTER)
        found[node] = KeysAt(path=str(keys.path), authority_pem=keys.authority_pem)
    return found


def hello(node: str, **others: Any) -> bytes:
    peer = NODES[1 - NODES.index(node)]
    fields: dict[str, Any] = {
        "magic": MAGIC,
        "version_min": VERSION_MIN,
        "version_max": VERSION_MAX,
        "cluster": CLUSTER,
        "cluster_id": None,
        "node": node,
        "peer": peer,
        "kind": STREAM,
        "volume": VOLUME,
        "incarnation": "7",
        "boot_id": "b",
    }
    return encode_hello(Hello(**{**fields, **others}))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = socket.create_connection(server.getsockname())
        called, _ = server.accept()
    return caller, called


def _open(root: Path, state: Path) -> OpenVolume:
    return open_volume(root, state, rng=random.Random(1))


class Node:
    """A driver over a real disk, in a loop of its own thread, without a mount."""

    def __init__(self, name: str, path: Path, keys: KeysAt, **settings: Any) -> None:
        self.name = name
        self.root = path / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        freeze_max_ms = settings.pop("freeze_max_ms", 60_000)
        records_max = settings.pop("records_max", TLS_RECORDS_MAX)
        open_one = settings.pop("open_one", _open)
        clock_ns = settings.pop("clock_ns", time.monotonic_ns)  # how long a sync takes
        self.opened = open_one(self.root, path / "state")
        self.loop = Loop()
        self.reports: list[AnyReport] = []
        self.told: list[FromWorker] = []
        self.faults: list[Exception] = []
        self._changed = threading.Condition()
        machine = Volume(
            VolumeSettings(**{"ack": Ack.APPLIED, **settings}),
            touched=self.opened.touched,
            resyncs=ComparingResyncs(),
        )
        self.driver = Driver(
            machine,
            self.opened.disk,
            self.loop,
            report=lambda report: self._note(self.reports, report),
            on_fault=lambda error: self._note(self.faults, error),
            reset=self._reset,
            freeze_max_ms=freeze_max_ms,
            short_syncs=ShortSyncs(clock_ns=clock_ns),
        )
        self.connections = Connections(
            self.loop,
            self.driver,
            tell=lambda told: self._note(self.told, told),
            keys=keys,
            records_max=records_max,
        )
        self.machine = machine
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _note(self, where: list[Any], what: Any) -> None:
        with self._changed:
            where.append(what)
            self._changed.notify_all()

    def _reset(self, why: str) -> None:
        self.connections.reset(why)

    def do(self, call: Callable[[], Any]) -> Any:
        """Have the loop's thread do something; its result."""
        done = threading.Event()
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(call())
            except BaseException as error:
                result.append(error)
            done.set()

        self.loop.from_thread(run)
        assert done.wait(WAIT_S), "the loop hangs"
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def order(self, *orders: Any) -> None:
        for order in orders:
            self.do(lambda order=order: self.driver.order(order))

    def wait_report(self, kind: type[Any]) -> Any:
        return self._wait(self.reports, kind)

    def wait_told(self, kind: type[Any]) -> Any:
        return self._wait(self.told, kind)

    def _wait(self, where: list[Any], kind: type[Any]) -> Any:
        def find() -> Any:
            return next((each for each in where if isinstance(each, kind)), None)

        with self._changed:
            assert self._changed.wait_for(find, WAIT_S), f"no {kind.__name__} in {where}"
            return find()

    def ask(self, op: AnyOp) -> Asked:
        """Ask for a change."""
        asked = Asked()
        asked.token = self.do(lambda: self.driver.change(op, asked.answer))
        return asked

    def ask_flush(self, fid: int, *, data_only: bool = False) -> Asked:
        asked = Asked()
        asked.token = self.do(lambda: self.driver.flush(fid, asked.answer, data_only=data_only))
        return asked

    def create(self, name: str) -> int:
        op = self.ask(Create(0, ROOT_FID, name, 0o644, -1, -1, T0)).done().op
        assert isinstance(op, Create)
        return op.fid

    def write(self, fid: int, offset: int, data: bytes) -> Asked:
        return self.ask(Write(fid, offset, data, T0 + 1))

    def close(self) -> None:
        self.do(lambda: self.connections.disconnect(0, "the test ends"))
        self.do(lambda: self.driver.close("the test ends"))
        self.loop.from_thread(self.loop.stop)
        self._thread.join(WAIT_S)
        assert self.driver.end(WAIT_S)
        self.loop.close()
        self.opened.close()


class Asked:
    """A caller, and the answer."""

    def __init__(self) -> None:
        self.token = 0
        self.replies: list[Reply] = []
        self._answered = threading.Event()

    def answer(self, reply: Reply) -> None:
        self.replies.append(reply)
        self._answered.set()

    @property
    def is_answered(self) -> bool:
        return self._answered.is_set()

    def reply(self) -> Reply:
        assert self._answered.wait(WAIT_S), "no answer came"
        assert len(self.replies) == 1
        return self.replies[0]

    def done(self) -> Reply:
        reply = self.reply()
        assert reply.failure is Failure.NONE, reply
        return reply


class Pair:
    """Two nodes."""

    def __init__(self, path: Path, **settings: Any) -> None:
        keys = keys_for_both(path / "keys")
        self.paris = Node("paris", path / "paris", keys["paris"], **settings)
        self.lyon = Node("lyon", path / "lyon", keys["lyon"], **settings)
        self.connected = 0

    def connect(self, *, plain: bool = False, lyon_says: dict[str, Any] | None = None) -> None:
        caller, called = tcp_pair()
        self.pass_on(caller, called, plain=plain, lyon_says=lyon_says)

    def pass_on(
        self,
        caller: socket.socket,
        called: socket.socket,
        *,
        plain: bool = False,
        lyon_says: dict[str, Any] | None = None,
    ) -> None:
        self.connected += 1
        mine = Connection(self.connected, hello("paris"), True, "7", plain, "lyon")
        theirs = Connection(
            self.connected, hello("lyon", **(lyon_says or {})), False, "7", plain, "paris"
        )
        sockets = caller.detach(), called.detach()
        self.paris.do(lambda: self.paris.connections.take(mine, sockets[0]))
        self.lyon.do(lambda: self.lyon.connections.take(theirs, sockets[1]))

    def wait_linked(self) -> None:
        for node in (self.paris, self.lyon):
            node.wait_told(Linked)
            node.told[:] = [each for each in node.told if not isinstance(each, Linked)]

    def wait_unlinked(self) -> tuple[Unlinked, Unlinked]:
        found = self.paris.wait_told(Unlinked), self.lyon.wait_told(Unlinked)
        for node in (self.paris, self.lyon):
            node.told.clear()
        return found

    def close(self) -> None:
        self.paris.close()
        self.lyon.close()


@contextlib.contextmanager
def open_pair(path: Path, **settings: Any) -> Iterator[Pair]:
    pair = Pair(path, **settings)
    try:
        yield pair
    finally:
        pair.close()


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """What a directory holds: of each file its mtime and content."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }
