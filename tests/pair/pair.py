"""The processes of a run: two nodes, a client, a witness or an address that answers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final, final

import trio

from mirrorha.arbiters.witness_server import serve_witness
from mirrorha.cli.demo.ledger import JOURNAL, read_journal
from mirrorha.cli.demo.place import CLUSTER, NODES
from mirrorha.cli.demo.process import Speaker
from mirrorha.mount_table import read_mount_table
from mirrorha.net.keys import load_keys
from mirrorha.net.tls import witness_server_context
from mirrorha.volume.names import RESCUE_NAME
from tests.pair import network
from tests.pair.network import Way
from tests.pair.place import GROUPS, ISOLATION_HOST, WITNESS_HOST, Place
from tests.pair.record import Record, Round

STEP_S: Final = 30.0
NODE_MODULE: Final = "tests.pair.node"
READ_S: Final = 10.0
STATUS_S: Final = 0.1  # a node tells its status this often


class PairError(Exception):
    """A round could not be played to its end. The directory is kept, with the logs."""


@final
class Pair:
    """The processes of one run, and what they said."""

    def __init__(self, place: Place, *, workers: int, broken: bool = False) -> None:
        self.place, self._workers, self._broken = place, workers, broken
        self.nodes = {name: Speaker(name, place.root / f"{name}.log") for name in NODES}
        self.client = Speaker("client", place.root / "client.log")
        self.record = Record(place.record)
        self.leaving: set[str] = set()  # told to end by themselves
        self.given_up: set[int] = set()  # acknowledged on a side of a split that lost,
        self.kept: dict[str, set[int]] = {name: set() for name in NODES}  # and by which node
        self.rounds = 0  # played to the end

    async def open(self, nursery: trio.Nursery) -> None:
        """Until the two nodes mirror and the client's transactions are acknowledged."""
        if not self.place.setup.split_brain:
            await self._start_witness(nursery)
        elif self.place.setup.split_brain == "available":
            await nursery.start(self._answer_isolation_checks)
        if self.place.setup.networks == 2:
            network.keep_apart(*self._between_networks())
        for name in NODES:
            await self.start_node(nursery, name)
        await self.wait("the two nodes mirror", self.is_mirrored)
        ports = [str(port) for port in self.place.service_ports.values()]
        arguments = ["--ports", *ports, "--record", str(self.place.record)]
        arguments += ["--workers", str(self._workers)]
        await self.client.start(nursery, "mirrorha.cli.demo.client", *arguments)
        await self.wait("a first acknowledgement", lambda: bool(self.record.read()))

    async def _start_witness(self, nursery: trio.Nursery) -> None:
        keys = load_keys(self.place.root / "keys", node="witness", cluster=CLUSTER)
        contexts = {CLUSTER: witness_server_context(keys)}
        await nursery.start(
            lambda task_status: serve_witness(
                state_dir=self.place.root / "witness",
                contexts=contexts,
                host=WITNESS_HOST,
                port=self.place.witness_port,
                task_status=task_status,
            )
        )

    async def _answer_isolation_checks(self, task_status: trio.TaskStatus[object]) -> None:
        async def take(stream: trio.SocketStream) -> None:
            await stream.aclose()

        port = self.place.isolation_port
        await trio.serve_tcp(take, port, host=ISOLATION_HOST, task_status=task_status)

    async def start_node(self, nursery: trio.Nursery, name: str) -> None:
        place = self.place
        arguments = ["--config", str(place.config), "--node", name]
        arguments += ["--port", str(place.service_ports[name])]
        arguments += ["--probe-port", str(place.probe_ports[name])]
        arguments += ["--group", str(GROUPS[name]), "--block-s", str(place.setup.block_s)]
        arguments += ["--broken"] if self._broken else []
        await self.nodes[name].start(nursery, NODE_MODULE, *arguments)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await self._finish()

    def check_ended(self) -> None:
        """After an orderly end the directories are ordinary ones, and hold what was promised."""
        entries = read_mount_table().entries.values()
        left = [one for one in entries if one.mount_point.startswith(str(self.place.root))]
        if left:
            raise PairError(f"mounts were left behind: {left}")
        ended = Round(kind="end", primary="")
        self.count(ended)
        if ended.lost and not self._broken:
            raise PairError(f"{ended.lost} acknowledged transactions are not in the directories")
        for name, kept in self.kept.items():
            if not kept <= self.rescued(name):  # which a mount does not show
                missing = len(kept - self.rescued(name))
                raise PairError(f"{missing} acknowledged transactions are not in {name}'s rescue")

    async def _finish(self) -> None:
        for process in (self.client, *self.nodes.values()):
            if process.is_running:
                os.kill(process.pid, signal.SIGCONT)
        await self.client.finish()
        for name, node in self.nodes.items():
            await node.finish()
            events = "".join(json.dumps(event) + "\n" for event in node.events)
            (self.place.root / f"{name}.events").write_text(events)

    # ---- the network ----

    def between(self, number: int) -> tuple[Way, ...]:
        """Both ways between the nodes in one network: 0 is the first."""
        one, other = (self.place.hosts(name)[number] for name in NODES)
        return network.both_ways((one, other))

    def all_between(self) -> tuple[Way, ...]:
        """Everything between the two nodes, to and fro."""
        return tuple(way for i in range(self.place.setup.networks) for way in self.between(i))

    def all_from(self, name: str) -> tuple[Way, ...]:
        """Everything from this node to the other one."""
        return tuple(way for way in self.all_between() if way.source in self.place.hosts(name))

    def to_witness(self) -> tuple[Way, ...]:
        """Whoever asks the witness does so from the address that the kernel picks."""
        hosts = [host for name in NODES for host in self.place.hosts(name)]
        return network.both_ways(*((host, WITNESS_HOST) for host in (*hosts, WITNESS_HOST)))

    def _between_networks(self) -> tuple[Way, ...]:
        """The two are not connected: no address of the one reaches one of the other."""
        mine, theirs = (self.place.hosts(name) for name in NODES)
        return network.both_ways((mine[0], theirs[1]), (mine[1], theirs[0]))

    # ---- looking ----

    def status(self, name: str) -> dict[str, Any]:
        return self.nodes[name].said.get("status") or {}

    def worker(self, name: str) -> int:
        """The process that serves the node's mount, or 0."""
        return self.status(name)["volumes"][0]["worker_pid"] or 0

    def with_role(self, *roles: str) -> list[str]:
        return [
            name
            for name, node in self.nodes.items()
            if node.is_running and self.status(name).get("role") in roles
        ]

    def primary(self) -> str:
        (name,) = self.with_role("PRIM")
        return name

    def other(self, name: str) -> str:
        return next(other for other in NODES if other != name)

    def is_mirrored(self) -> bool:
        primary, second = self.with_role("PRIM"), self.with_role("SECOND")
        if len(primary) != 1 or len(second) != 1:
            return False
        status = self.status(primary[0])
        return bool(status["service"]["state"] == "started" and status["colour"] == "green")

    def has_acknowledged(self, name: str, since_s: float) -> bool:
        port = self.place.service_ports[name]
        return any(row.port == port for row in self.record.since(since_s))

    def rules(self, name: str, since_s: float) -> list[str]:
        """What the node said since then that it did, by the names of the rules."""
        return [one["event"]["rule"] for one in self.nodes[name].events if one["at_s"] > since_s]

    def heard(self, name: str, rule: str, since_s: float) -> float:
        """How long after `since_s` the node first said that `rule` had fired."""
        told: list[float] = [
            one["at_s"] for one in self.nodes[name].events if one["event"]["rule"] == rule
        ]
        return round(min(at_s for at_s in told if at_s > since_s) - since_s, 3)

    async def wait(self, what: str, done: Callable[[], bool], *, at_most_s: float = STEP_S) -> None:
        with trio.move_on_after(at_most_s):
            while not done():  # it looks at files and other processes
                for process in (self.client, *self.nodes.values()):
                    if process.has_failed and process.name not in self.leaving:
                        raise PairError(f"{process.name} ended by itself while: {what}")
                await trio.sleep(0.01)
            return
        states = "; ".join(
            f"{name} {self.status(name).get('role')}: {self.status(name).get('why')}"
            for name in self.nodes
        )
        raise PairError(f"{what}: not within {at_most_s:.0f} s ({states})")

    async def mirror_again(self, played: Round, since_s: float) -> None:
        """Wait until the nodes mirror, and note how long that took."""
        await self.wait("the nodes mirror again", self.is_mirrored)
        played.mirrored_s = time.monotonic() - since_s

    async def wait_told(self) -> None:
        """Until both nodes have told their status once more."""
        await trio.sleep(2 * STATUS_S)

    # ---- counting ----

    def judge(self, played: Round, at_s: float) -> None:
        """Fill in what the client's record says of the time since `at_s`."""
        rows = self.record.since(at_s)
        times = [at_s, *(row.at_s for row in rows)]
        gaps = [(after - before, after) for before, after in itertools.pairwise(times)]
        played.silence_s, ended_s = max(gaps, default=(0.0, at_s))
        played.resumed_s = ended_s - at_s
        former = self.place.service_ports[played.primary]
        by_other = [row.at_s for row in rows if row.port != former]
        taken_s = min(by_other, default=None)
        if taken_s is not None:
            played.late = sum(row.port == former and row.at_s > taken_s for row in rows)

    def held(self, name: str) -> set[int]:
        """The transactions in this node's journal."""
        # By a process of its own: whoever looks at a mount that hangs, hangs.
        path = str(self.place.data(name) / JOURNAL)
        done = subprocess.run(["cat", path], capture_output=True, timeout=READ_S, check=True)
        return read_journal(done.stdout)

    def rescued(self, name: str) -> set[int]:
        """The transactions in the journals that this node has kept of splits."""
        rooms = (self.place.data(name) / RESCUE_NAME).glob(f"*/files/{JOURNAL}")
        return {number for room in rooms for number in read_journal(room.read_bytes())}

    def count(self, played: Round) -> None:
        """Which acknowledged transactions the journals lack, while the nodes mirror."""
        acknowledged = {row.number for row in self.record.read()} - self.given_up
        played.acknowledged = len(acknowledged)
        for name in NODES:
            played.lost = max(played.lost, len(acknowledged - self.held(name)))


def seconds_since(at_s: float) -> float:
    return round(time.monotonic() - at_s, 3)
