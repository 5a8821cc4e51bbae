"""Two real nodes, a witness and a client with its own record, in a network of their own.

    python tests/pair/harness.py --kind cut --rounds 3

makes a network namespace, runs itself again inside it, plays the rounds there and prints one JSON
object a round. The nodes have the loopback addresses 127.0.0.1 and 127.0.0.2, the witness has
127.0.0.3: dropping what goes between two of them is a cut. The namespace, whatever still runs in
it, and (unless something failed, or `--root` names it) the directory are removed at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import attrs
import trio

from mirrorha.arbiters.witness_server import serve_witness
from mirrorha.cli.demo.ledger import JOURNAL, read_journal
from mirrorha.cli.demo.place import CLUSTER, HOSTS, NODES, Place, prepare
from mirrorha.cli.demo.process import Speaker
from mirrorha.net.keys import load_keys
from mirrorha.net.tls import witness_server_context

WITNESS_HOST: Final = "127.0.0.3"
TIMEOUT_S: Final = 1.0  # the heartbeat timeout in the demonstration's configuration
STEP_S: Final = 30.0
ROUND_S: Final = 90.0  # beyond this a round is stuck, and its processes are killed
BLOCK_S: Final = 4.0  # see blockable_node.py
NODE_MODULE: Final = "tests.pair.blockable_node"
CHECKOUT: Final = Path(__file__).parents[2]
TABLE: Final = "cut"


class PairError(Exception):
    """A round could not be played to its end. The directory is kept, with the logs."""


@attrs.frozen
class Acknowledgement:
    number: int
    at_s: float
    port: int


@attrs.define(kw_only=True)
class Round:
    """What one round measured. Times in seconds since the fault, or since the command.

    Attributes:
        resumed_s: when the first transaction after the longest silence was acknowledged.
        silence_s: the longest time without any acknowledgement.
        late: acknowledgements by the former primary after the first one by the new one.
        mirrored_s: from the end of the fault until both nodes mirror again.
        lost: acknowledged transactions that a node's journal lacks in the end; the worse one.
        notes: what only this kind of round has to say.
    """

    kind: str
    primary: str
    served_by: str = ""
    resumed_s: float = 0.0
    silence_s: float = 0.0
    mirrored_s: float = 0.0
    late: int = 0
    lost: int = 0
    acknowledged: int = 0
    load: float = 0.0
    notes: dict[str, Any] = attrs.Factory(dict)


@final
class Record:
    """The client's record, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.rows: list[Acknowledgement] = []

    def read(self) -> list[Acknowledgement]:
        if self._path.exists():
            with self._path.open("rb") as record:
                record.seek(self._offset)
                whole = record.read().rpartition(b"\n")[0]
            if whole:
                self._offset += len(whole) + 1
                for line in whole.split(b"\n"):
                    number, at_s, port = line.split()
                    self.rows.append(Acknowledgement(int(number), float(at_s), int(port)))
        return self.rows

    def since(self, at_s: float) -> list[Acknowledgement]:
        later = []
        for row in reversed(self.read()):
            if row.at_s <= at_s:
                break
            later.append(row)
        return later[::-1]


def drop_between(*pairs: tuple[str, str]) -> None:
    """From now on nothing arrives between the addresses of each pair, either way."""
    rules = "".join(
        f"ip saddr {one} ip daddr {other} drop; ip saddr {other} ip daddr {one} drop; "
        for one, other in pairs
    )
    chain = f"chain input {{ type filter hook input priority 0; {rules}}}"
    _nft(f"add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{ {chain}; }}\n")


def heal() -> None:
    """Everything passes again."""
    _nft(f"delete table inet {TABLE}\n")


def _nft(rules: str) -> None:
    program = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise PairError("nft is not installed")
    subprocess.run([program, "-f", "-"], input=rules, text=True, check=True, timeout=10)


@final
class Pair:
    """The processes of one run, and what they said."""

    def __init__(self, place: Place, *, workers: int, broken: bool = False) -> None:
        self.place, self._workers, self._broken = place, workers, broken
        self.nodes = {name: Speaker(name, place.root / f"{name}.log") for name in NODES}
        self.client = Speaker("client", place.root / "client.log")
        self.record = Record(place.record)
        self.leaving: set[str] = set()  # told to end by themselves

    async def open(self, nursery: trio.Nursery) -> None:
        """Until the two nodes mirror and the client's transactions are acknowledged."""
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
        for name in NODES:
            await self.start_node(nursery, name)
        await self.wait("the two nodes mirror", self.is_mirrored)
        ports = [str(port) for port in self.place.service_ports.values()]
        arguments = ["--ports", *ports, "--record", str(self.place.record)]
        arguments += ["--workers", str(self._workers)]
        await self.client.start(nursery, "mirrorha.cli.demo.client", *arguments)
        await self.wait("a first acknowledgement", lambda: bool(self.record.read()))

    async def start_node(self, nursery: trio.Nursery, name: str) -> None:
        port = str(self.place.service_ports[name])
        arguments = ["--config", str(self.place.config), "--node", name, "--port", port]
        arguments += ["--broken"] if self._broken else []
        await self.nodes[name].start(nursery, NODE_MODULE, *arguments)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            for process in (self.client, *self.nodes.values()):
                if process.is_running:
                    os.kill(process.pid, signal.SIGCONT)
            await self.client.finish()
            for name, node in self.nodes.items():
                await node.finish()
                events = "".join(json.dumps(event) + "\n" for event in node.events)
                (self.place.root / f"{name}.events").write_text(events)

    # ---- looking ----

    def status(self, name: str) -> dict[str, Any]:
        return self.nodes[name].said.get("status") or {}

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

    def count(self, played: Round) -> None:
        """Which acknowledged transactions the journals lack, while the nodes mirror."""
        acknowledged = {row.number for row in self.record.read()}
        played.acknowledged = len(acknowledged)
        for name in NODES:
            held = read_journal((self.place.data(name) / JOURNAL).read_bytes())
            played.lost = max(played.lost, len(acknowledged - held))


# ---- the kinds of rounds ----


async def kill(pair: Pair, nursery: trio.Nursery) -> Round:
    """kill -9 of the primary; then it is started again."""
    name = pair.primary()
    survivor = pair.other(name)
    at_s = time.monotonic()
    pair.nodes[name].kill()
    await pair.wait("the survivor serves", lambda: pair.has_acknowledged(survivor, at_s))
    await trio.sleep(0.5)
    played = Round(kind="kill", primary=name, served_by=survivor)
    pair.judge(played, at_s)
    back_s = time.monotonic()
    await pair.start_node(nursery, name)
    await pair.wait("the killed node is back", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - back_s
    return played


async def cut(pair: Pair, nursery: trio.Nursery) -> Round:
    """Nothing passes between the nodes, and both reach the witness; then the cut is healed."""
    del nursery
    name = pair.primary()
    at_s = time.monotonic()
    drop_between((HOSTS["paris"], HOSTS["lyon"]))
    await pair.wait("one node is ALONE", lambda: bool(pair.with_role("ALONE")))
    await trio.sleep(TIMEOUT_S + 1)  # time enough for a second one to make a mistake
    played = Round(kind="cut", primary=name, served_by=",".join(pair.with_role("ALONE", "PRIM")))
    pair.judge(played, at_s)
    back_s = time.monotonic()
    heal()
    await pair.wait("the nodes mirror again", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - back_s
    return played


async def stop(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary is stopped for longer than the timeout, and woken with writes in flight."""
    name = pair.primary()
    survivor = pair.other(name)
    port = pair.place.service_ports[name]
    waiting = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
    at_s = time.monotonic()
    os.kill(pair.nodes[name].pid, signal.SIGSTOP)
    for number, stream in enumerate(waiting, start=1):
        await stream.send_all(b"%d 1\n" % (-number))
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(survivor, at_s))
    await trio.sleep(0.5)
    answers: list[bytes] = []
    for stream in waiting:
        nursery.start_soon(_take_answer, stream, answers)
    played = Round(kind="stop", primary=name, served_by=survivor)
    # The client gives each answer 2 s: the service is there before it looks.
    played.notes["service_started_s"] = pair.heard(survivor, "service-started", at_s)
    woken_s = time.monotonic()
    os.kill(pair.nodes[name].pid, signal.SIGCONT)
    await pair.wait("the woken node stepped down", lambda: name in pair.with_role("WAIT", "SECOND"))
    played.notes["stepped_down_s"] = round(time.monotonic() - woken_s, 3)
    await pair.wait("the writes in flight were refused", lambda: len(answers) == len(waiting))
    played.notes["answers_after_waking"] = [answer.decode() for answer in answers if answer]
    pair.judge(played, at_s)
    await pair.wait("the nodes mirror again", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - woken_s
    return played


async def _take_answer(stream: trio.SocketStream, answers: list[bytes]) -> None:
    """What comes until the connection ends."""
    received = b""
    try:
        async with stream:
            while part := await stream.receive_some(4096):
                received += part
    except trio.BrokenResourceError:
        pass
    answers.append(received)


async def swap(pair: Pair, nursery: trio.Nursery) -> Round:
    """The nodes exchange their roles on command."""
    del nursery
    name = pair.primary()
    target = pair.other(name)
    at_s = time.monotonic()
    await pair.nodes[name].command("swap")
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(target, at_s))
    played = Round(kind="swap", primary=name, served_by=target)
    await pair.wait("the nodes mirror", lambda: pair.is_mirrored() and pair.primary() == target)
    played.mirrored_s = time.monotonic() - at_s
    await trio.sleep(0.3)
    pair.judge(played, at_s)
    return played


async def isolate(pair: Pair, nursery: trio.Nursery) -> Round:
    """The nodes are cut off from each other and from the witness; the witness returns first."""
    del nursery
    name = pair.primary()
    at_s = time.monotonic()
    between = (HOSTS["paris"], HOSTS["lyon"])
    # Whoever asks the witness does so from the address that the kernel picks.
    drop_between(between, *((host, WITNESS_HOST) for host in (*HOSTS.values(), WITNESS_HOST)))
    await trio.sleep(TIMEOUT_S + 2.5)
    cut_s = at_s + 0.1  # what was under way has ended
    alone = len(pair.record.since(cut_s))
    back_s = time.monotonic()
    drop_between(between)
    await pair.wait("one node serves", lambda: bool(pair.record.since(back_s)))
    await trio.sleep(0.5)
    played = Round(kind="isolate", primary=name, served_by=",".join(pair.with_role("ALONE")))
    pair.judge(played, at_s)
    played.notes["acknowledged_while_isolated"] = alone
    played.notes["resumed_after_healing_s"] = round(pair.record.since(back_s)[0].at_s - back_s, 3)
    healed_s = time.monotonic()
    heal()
    await pair.wait("the nodes mirror again", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - healed_s
    return played


async def leave(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary is stopped in good order; then it is started again."""
    name = pair.primary()
    target = pair.other(name)
    at_s = time.monotonic()
    pair.leaving.add(name)
    await pair.nodes[name].command("stop")
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(target, at_s))
    await trio.sleep(0.3)
    played = Round(kind="leave", primary=name, served_by=target)
    pair.judge(played, at_s)
    await pair.nodes[name].finish()
    pair.leaving.remove(name)
    back_s = time.monotonic()
    await pair.start_node(nursery, name)
    await pair.wait("the node that left is back", pair.is_mirrored)
    played.mirrored_s = time.monotonic() - back_s
    return played


async def block(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary's event loop is blocked for longer than the timeout; its heartbeats go on."""
    del nursery
    name = pair.primary()
    epoch = pair.status(name)["epoch"]
    at_s = time.monotonic()
    os.kill(pair.nodes[name].pid, signal.SIGUSR1)
    await trio.sleep(BLOCK_S)
    await pair.wait(
        "the client is served again",
        lambda: bool(pair.record.since(at_s + BLOCK_S)),
    )
    await trio.sleep(TIMEOUT_S)  # time enough to decide something late
    await pair.wait("the nodes mirror", pair.is_mirrored)
    played = Round(kind="block", primary=name, served_by=pair.primary())
    pair.judge(played, at_s)
    played.mirrored_s = played.resumed_s
    played.notes["decisions"] = pair.status(played.served_by)["epoch"] - epoch
    return played


Kind = Callable[[Pair, trio.Nursery], Awaitable[Round]]
KINDS: Final[dict[str, Kind]] = {
    "kill": kill,
    "cut": cut,
    "stop": stop,
    "swap": swap,
    "isolate": isolate,
    "leave": leave,
    "block": block,
}


async def run_inside(root: Path, kind: str, *, rounds: int, workers: int, broken: bool) -> None:
    """Play the rounds; print each as a line of JSON."""
    pair = Pair(prepare(root), workers=workers, broken=broken)
    async with trio.open_nursery() as nursery:
        try:
            await pair.open(nursery)
            for _ in range(rounds):
                await trio.sleep(0.5)  # under load, from a settled state
                with trio.fail_after(ROUND_S):
                    played = await KINDS[kind](pair, nursery)
                await trio.sleep(0.3)
                pair.count(played)
                played.load = os.getloadavg()[0]
                print(json.dumps(attrs.asdict(played)), flush=True)
        finally:
            await pair.close()
        nursery.cancel_scope.cancel()


# ---- the network of its own ----


@contextmanager
def network() -> Iterator[str]:
    """The name of a network namespace with loopback up. What runs in it at the end is killed."""
    name = f"mirrorha-pair-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        for pid in _ip("netns", "pids", name).split():
            os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments],
        check=True,
        timeout=10,
        capture_output=True,
        text=True,
    )
    return done.stdout


def play(
    kind: str,
    *,
    root: Path,
    rounds: int = 1,
    workers: int = 4,
    at_most_s: float | None = None,
    broken: bool = False,
) -> Iterator[Round]:
    """Play rounds in a network of their own; yield each as it ends.

    Args:
        broken: the ledger answers before it writes, so that transactions must be lost.

    Raises:
        PairError: a round could not be played to its end; `root` has the logs.
    """
    with network() as name, (root / "harness.log").open("w+") as log:
        command = ["ip", "netns", "exec", name, sys.executable, __file__, "--inside"]
        command += ["--kind", kind, "--rounds", str(rounds), "--workers", str(workers)]
        command += ["--root", str(root)]
        command += ["--broken"] if broken else []
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as inside:
            limit = threading.Timer(at_most_s or STEP_S + rounds * ROUND_S, inside.kill)
            limit.start()
            try:
                for line in inside.stdout or ():
                    yield Round(**json.loads(line))
                status = inside.wait()
            finally:
                limit.cancel()
                inside.kill()
        if status != 0:
            log.seek(0)
            raise PairError(f"{kind}: {log.read()[-4000:]}\nlogs are in {root}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--broken", action="store_true", help="answer before the write")
    parser.add_argument("--inside", action="store_true", help="do not make a network")
    options = parser.parse_args()
    root = options.root or Path(tempfile.mkdtemp(prefix="mirrorha-pair-"))
    if options.inside:
        rounds, workers, broken = options.rounds, options.workers, options.broken
        trio.run(
            lambda: run_inside(root, options.kind, rounds=rounds, workers=workers, broken=broken)
        )
        return
    played_rounds = play(
        options.kind,
        root=root,
        rounds=options.rounds,
        workers=options.workers,
        broken=options.broken,
    )
    for played in played_rounds:
        print(json.dumps(attrs.asdict(played)), flush=True)
    if options.root is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
