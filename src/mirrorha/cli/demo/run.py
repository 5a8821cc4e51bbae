"""The demonstration itself: set up, load, kill -9, fail over, come back, swap, and count."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final, final

import attrs
import click
import trio
from rich.console import Console
from rich.table import Table

from mirrorha.arbiters.witness_server import serve_witness
from mirrorha.cli.demo.ledger import JOURNAL, read_journal
from mirrorha.cli.demo.picture import Picture
from mirrorha.cli.demo.place import CLUSTER, NODES, Place, prepare
from mirrorha.cli.demo.process import Speaker
from mirrorha.errors import MirrorHAError
from mirrorha.net.keys import load_keys
from mirrorha.net.tls import witness_server_context

STEP_S: Final = 60.0
SCHEMA: Final = 1


class DemoError(MirrorHAError):
    """The demonstration could not be carried through; its directory is kept, with the logs."""


@attrs.frozen
class Acknowledgement:
    number: int
    at_s: float
    port: int


@attrs.define
class Result:
    """What the demonstration measured. Times in seconds since the kill, or since the command."""

    schema: int = SCHEMA
    acknowledged_before_kill: int = 0
    acknowledged: int = 0
    detected_s: float | None = None
    takeover_s: float | None = None
    first_acknowledgement_s: float | None = None
    resync_bytes: int = 0
    rejoined_s: float | None = None
    swap_s: float | None = None
    lost: dict[str, int] = attrs.Factory(dict)
    broken: bool = False

    @property
    def lost_in_all(self) -> int:
        """Acknowledged transactions that a node's copy lacks at the end; the worse of the two."""
        return max(self.lost.values(), default=0)


@final
class Demo:
    """One run, in a directory of its own."""

    def __init__(
        self, place: Place, console: Console, *, transactions: int, broken: bool, quiet: bool
    ) -> None:
        self._place, self._console = place, console
        self._transactions, self._broken = transactions, broken
        self._nodes = {name: Speaker(name, place.root / f"{name}.log") for name in NODES}
        self._client = Speaker("client", place.root / "client.log")
        self._picture = Picture(console, self._nodes, quiet=quiet)
        self.result = Result(broken=broken)

    async def run(self) -> Result:
        with self._picture:
            async with trio.open_nursery() as nursery:
                try:
                    await self._play(nursery)
                finally:
                    with trio.CancelScope(shield=True):
                        for process in (self._client, *self._nodes.values()):
                            await process.finish()
                nursery.cancel_scope.cancel()
        self._count()
        return self.result

    async def _play(self, nursery: trio.Nursery) -> None:
        self._picture.step("starting a witness and two nodes")
        await self._start_witness(nursery)
        for name in NODES:
            await self._start_node(nursery, name)
        await self._wait("the two nodes mirror", self._is_mirrored)
        nursery.start_soon(self._draw)
        ports = [str(self._place.service_ports[name]) for name in NODES]
        record = str(self._place.record)
        await self._client.start(
            nursery, "mirrorha.cli.demo.client", "--ports", *ports, "--record", record
        )
        self._picture.step(f"mirroring; a client writes {self._transactions:,} transactions")
        wanted = self._transactions
        await self._wait(
            "transactions are acknowledged", lambda: self._acknowledged() >= wanted, at_most_s=300
        )
        await trio.sleep(random.uniform(0, 0.5))  # noqa: S311 - a random moment, no secret
        killed = await self._kill_primary()
        await self._return(nursery, killed)
        await self._swap_back(killed)
        await self._client.finish()
        # The SECOND first, so that nothing fails over.
        for role in (self._role_of("SECOND"), self._role_of("PRIM")):
            if role:
                await self._nodes[role].command("stop")
                await self._nodes[role].finish()

    async def _start_witness(self, nursery: trio.Nursery) -> None:
        keys = await trio.to_thread.run_sync(
            lambda: load_keys(self._place.root / "keys", node="witness", cluster=CLUSTER)
        )
        state_dir = self._place.root / "witness"
        context = witness_server_context(keys)
        await nursery.start(
            lambda task_status: serve_witness(
                state_dir=state_dir,
                contexts={CLUSTER: context},
                host="127.0.0.3",
                port=self._place.witness_port,
                task_status=task_status,
            )
        )

    async def _start_node(self, nursery: trio.Nursery, name: str) -> None:
        arguments = ["--config", str(self._place.config), "--node", name]
        arguments += ["--port", str(self._place.service_ports[name])]
        arguments += ["--broken"] if self._broken else []
        await self._nodes[name].start(nursery, "mirrorha.cli.demo.node", *arguments)

    async def _kill_primary(self) -> str:
        name = self._role_of("PRIM")
        if name is None:
            raise DemoError("no node is PRIM")
        survivor = next(other for other in NODES if other != name)
        self.result.acknowledged_before_kill = self._acknowledged()
        events_before = len(self._nodes[survivor].events)
        at_s = time.monotonic()
        self._nodes[name].kill()
        self._picture.step(f"kill -9 {name}, the PRIM (process {self._nodes[name].pid})")
        await self._wait(f"{survivor} is ALONE", lambda: self._role_of("ALONE") == survivor)
        port = self._place.service_ports[survivor]
        await self._wait("a first acknowledgement", lambda: self._first(port, at_s) is not None)
        self._note_takeover(self._nodes[survivor].events[events_before:], at_s)
        first = self._first(port, at_s)
        self.result.first_acknowledgement_s = first.at_s - at_s if first else None
        self._picture.step(
            f"{survivor} took over; first acknowledgement "
            f"{self.result.first_acknowledgement_s or 0:.3f} s after the kill"
        )
        await trio.sleep(1)
        return name

    def _note_takeover(self, events: list[dict[str, Any]], at_s: float) -> None:
        for line in events:
            event = line["event"]
            rule = event.get("rule", "")
            if rule == "going-alone" and self.result.detected_s is None:
                self.result.detected_s = line["at_s"] - at_s
            if rule == "won-alone" and self.result.takeover_s is None:
                self.result.takeover_s = line["at_s"] - at_s

    async def _return(self, nursery: trio.Nursery, name: str) -> None:
        began_s = time.monotonic()
        self._picture.step(f"{name} starts again and is brought up to date")
        await self._start_node(nursery, name)
        await self._wait("the two nodes mirror again", self._is_mirrored)
        self.result.rejoined_s = time.monotonic() - began_s
        for node in self._nodes.values():
            self._note_resync(node.events)
        self._picture.step(f"{name} is in sync after {self.result.rejoined_s:.1f} s")
        await trio.sleep(1)

    async def _swap_back(self, name: str) -> None:
        primary = self._role_of("PRIM")
        if primary is None or primary == name:
            return
        self._picture.step(f"swap: {name} takes the service back")
        at_s = time.monotonic()
        await self._nodes[primary].command("swap")
        port = self._place.service_ports[name]
        await self._wait("the swap is done", lambda: self._first(port, at_s) is not None)
        first = self._first(port, at_s)
        self.result.swap_s = first.at_s - at_s if first else None
        await self._wait("the two nodes mirror", self._is_mirrored)
        await trio.sleep(1)

    # ---- looking ----

    async def _draw(self) -> None:
        before, before_s = 0, time.monotonic()
        while True:
            await trio.sleep(0.25)
            now, now_s = self._acknowledged(), time.monotonic()
            self._picture.measure(now, (now - before) / (now_s - before_s))
            before, before_s = now, now_s

    def _note_resync(self, events: list[dict[str, Any]]) -> None:
        for line in events:
            if line["event"]["rule"] == "resynchronised":
                self.result.resync_bytes = int(line["event"]["text"].split()[0])

    async def _wait(self, what: str, done: Any, *, at_most_s: float = STEP_S) -> None:
        with trio.move_on_after(at_most_s):
            while not done():
                self._check_alive()
                await trio.sleep(0.01)
            return
        states = ", ".join(
            f"{name}: {(node.said.get('status') or {}).get('why', 'says nothing')}"
            for name, node in self._nodes.items()
        )
        raise DemoError(f"{what}: not within {at_most_s:.0f} s ({states})")

    def _check_alive(self) -> None:
        """A process that ended by itself has written why."""
        for process in (self._client, *self._nodes.values()):
            if process.has_failed:
                lines = process.log.read_text(errors="replace").strip().splitlines()
                why = lines[-1] if lines else "it said nothing"
                raise DemoError(f"{process.name} ended: {why}")

    def _role_of(self, role: str) -> str | None:
        for name, node in self._nodes.items():
            status = node.said.get("status") or {}
            if node.is_running and status.get("role") == role:
                return name
        return None

    def _is_mirrored(self) -> bool:
        primary, second = self._role_of("PRIM"), self._role_of("SECOND")
        if primary is None or second is None:
            return False
        status = self._nodes[primary].said["status"]
        return bool(status["service"]["state"] == "started" and status["colour"] == "green")

    def _acknowledged(self) -> int:
        return int(self._client.said.get("acknowledged", 0))

    def _first(self, port: int, since_s: float) -> Acknowledgement | None:
        """The first acknowledgement by the node at `port` after `since_s`."""
        later = (one for one in self._record() if one.port == port and one.at_s > since_s)
        return min(later, key=lambda one: one.at_s, default=None)

    def _record(self) -> list[Acknowledgement]:
        if not self._place.record.exists():
            return []
        whole = self._place.record.read_text().rpartition("\n")[0]
        rows = (line.split() for line in whole.split("\n") if line)
        return [Acknowledgement(int(row[0]), float(row[1]), int(row[2])) for row in rows]

    def _count(self) -> None:
        """Against the files of both nodes: which acknowledged transactions are not there."""
        acknowledged = {one.number for one in self._record()}
        self.result.acknowledged = len(acknowledged)
        for name in NODES:
            journal = self._place.data(name) / JOURNAL
            held = read_journal(journal.read_bytes()) if journal.exists() else set()
            self.result.lost[name] = len(acknowledged - held)


def report(result: Result, console: Console) -> None:
    """The table at the end."""
    table = Table(title="What happened", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")

    def seconds(value: float | None) -> str:
        return "—" if value is None else f"{value:.3f} s"

    rows = [
        ("transactions acknowledged before the kill", f"{result.acknowledged_before_kill:,}"),
        ("death detected after", seconds(result.detected_s)),
        ("takeover decided after", seconds(result.takeover_s)),
        ("first acknowledgement after the kill", seconds(result.first_acknowledgement_s)),
        ("killed node in sync again, from its start", seconds(result.rejoined_s)),
        ("sent to bring it up to date", f"{result.resync_bytes:,} bytes"),
        ("first acknowledgement after the swap command", seconds(result.swap_s)),
        ("transactions acknowledged in all", f"{result.acknowledged:,}"),
    ]
    rows += [
        (f"acknowledged, and not in the file on {name}", f"{lost:,}")
        for name, lost in result.lost.items()
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if result.lost_in_all:
        console.print(f"[bold red]{result.lost_in_all:,} acknowledged transactions were lost.[/]")
        if result.broken:
            console.print("As it must be: --broken answers clients before the write is mirrored.")
    else:
        console.print("[bold green]No acknowledged transaction was lost.[/]")


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def run_demo(
    *,
    transactions: int = 5_000,
    broken: bool = False,
    keep: bool = False,
    as_json: bool = False,
    color: bool | None = None,
) -> int | None:
    """Run the demonstration and print what came of it.

    Returns how many acknowledged transactions were lost; None if it could not be carried through,
    which was said on the way.
    """
    console = Console(stderr=as_json, highlight=False, no_color=color is False)
    root = Path(tempfile.mkdtemp(prefix="mirrorha-demo-"))
    demo = Demo(prepare(root), console, transactions=transactions, broken=broken, quiet=as_json)
    result: Result | None = None
    try:
        result = trio.run(demo.run)
    except* MirrorHAError as group:
        for error in _leaves(group):
            console.print(f"[bold red]{error}[/]")
    if result is None:
        console.print(f"Logs are in {root}")
        return None
    if as_json:
        click.echo(json.dumps({**attrs.asdict(result), "lost_in_all": result.lost_in_all}))
    else:
        report(result, console)
    if keep:
        console.print(f"Data, logs and the client's record are in {root}")
    else:
        shutil.rmtree(root)
    return result.lost_in_all
