"""A pair that mirrors on small disks, a client, and what became of what the client was told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, final

import trio

from tests.shows.appending import acknowledged, records_in
from tests.shows.show_pair import NODES, NodeProcess, ShowPair, open_show

RESERVE_BYTES: Final = 4 << 20
SOME_ACKS: Final = 100
STEP_S: Final = 30


@final
class Stage:
    """A pair that mirrors. The first of `names` is the PRIM, at first."""

    def __init__(self, pair: ShowPair, primary: str) -> None:
        self.pair: Final = pair
        self.names: Final = (primary, pair.other(primary))

    @property
    def nodes(self) -> tuple[NodeProcess, NodeProcess]:
        first, second = self.names
        return self.pair.nodes[first], self.pair.nodes[second]

    async def more_acks(self, node: NodeProcess, more: int = SOME_ACKS) -> None:
        before = (await node.ask("appended"))["acks"]
        with trio.fail_after(STEP_S):
            while (await node.ask("appended"))["acks"] < before + more:  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def write_for_good(self, node: NodeProcess) -> None:
        """Files that are on both disks, and then some that are perhaps not: the fewer."""
        await node.ask("append", synced=True)
        await self.more_acks(node, 240)
        await self.end_client(node)
        await node.ask("append", first=40_000)
        await self.more_acks(node, 16)

    async def refused(self, node: NodeProcess, what: str, times: int = 10) -> None:
        """Until its client was refused so often with this."""
        with trio.fail_after(STEP_S):
            while (await node.ask("appended"))["refused"].get(what, 0) < times:  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def end_client(self, node: NodeProcess) -> dict[str, Any]:
        seen: dict[str, Any] = await node.ask("end_append")
        return seen

    async def status(self, node: NodeProcess, **wanted: str) -> dict[str, Any]:
        """The status, once it says what is wanted."""
        status: dict[str, Any] = {}
        with trio.move_on_after(STEP_S):
            while True:
                status = await node.ask("status")
                if all(status[key] == value for key, value in wanted.items()):
                    return status
                await trio.sleep(0.02)
        raise AssertionError(f"{node.name} never is {wanted}: {status}")

    async def serves(self, node: NodeProcess) -> None:
        """It is alone and its service runs: the role may be told before the volumes take writes."""
        await self.status(node, role="ALONE")
        with trio.fail_after(STEP_S):
            while (await node.ask("status"))["service"]["state"] != "started":  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def why(self, node: NodeProcess, what: str) -> dict[str, Any]:
        """The status, once it gives this reason."""
        status: dict[str, Any] = {}
        with trio.move_on_after(STEP_S):
            while True:
                status = await node.ask("status")
                if what in status["why"]:
                    return status
                await trio.sleep(0.02)
        raise AssertionError(f"{node.name} never says {what!r}: {status}")

    async def warned(self, node: NodeProcess, *, of: str) -> str:
        """What the status warns of, once it does."""
        with trio.fail_after(STEP_S):
            while True:
                for warning in (await node.ask("status"))["warnings"]:
                    if of in warning:
                        return str(warning)
                await trio.sleep(0.05)

    async def well(self, node: NodeProcess) -> None:
        """Until it warns of nothing, and has its reserve again."""
        reserve = self.pair.base / node.name / "state" / "reserve"
        with trio.fail_after(STEP_S):
            while (await node.ask("status"))["warnings"]:  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        assert reserve.stat().st_size == RESERVE_BYTES

    def lost(self) -> set[int]:
        """Acknowledged records that one of the copies lacks."""
        held = [records_in(self.pair.data(name)) for name in NODES]
        acked = [acknowledged(self.pair.base / f"{name}.acked") for name in NODES]
        return set.union(*acked) - set.intersection(*held)

    def differing(self) -> set[str]:
        """Files of the client that are not the same on both nodes."""
        first, second = (contents(self.pair.data(name)) for name in NODES)
        return {name for name in first | second if first.get(name) != second.get(name)}


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.glob("records-*")}


@contextlib.asynccontextmanager
async def open_stage(base: Path, **settings: Any) -> AsyncGenerator[Stage]:
    """In the end both nodes have ended, and hold the same, and all that was acknowledged."""
    async with open_show(base, limit_s=80, **settings) as pair:
        await pair.start()
        primary, _ = await pair.wait_mirrored()
        stage = Stage(pair, primary)
        yield stage
    lost, differing = stage.lost(), stage.differing()
    assert not lost, lost
    assert not differing, differing
