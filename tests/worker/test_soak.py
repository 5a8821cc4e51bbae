"""Writers that never stop, while streams are cut, roles change places and a worker is killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from mirrorha.core.orders import (
    BecomeTarget,
    CutDone,
    CutOver,
    Freeze,
    Frozen,
    NearlyEqual,
    ServeAlone,
    StartResync,
)
from tests.worker.process_pair import NODES, ProcessPair, open_processes
from tests.worker.worker_pair import tree

ROUNDS = 12
# Changes of all kinds by a program that takes EROFS, EIO and ENOTCONN for "later".
BUSY = """
import os, random, sys, time
root, seed, until = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
chance = random.Random(seed)
done = 0
while time.monotonic() < until:
    try:
        name = f"{root}/{seed}-{chance.randrange(8)}"
        what = chance.randrange(6)
        if what < 3:
            fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, os.urandom(chance.randrange(1, 40_000)), chance.randrange(200_000))
                if chance.random() < 0.2:
                    os.fsync(fd)
            finally:
                os.close(fd)
        elif what == 3:
            os.rename(name, f"{root}/{seed}-{chance.randrange(8)}")
        elif what == 4:
            os.truncate(name, chance.randrange(100_000))
        else:
            os.unlink(name)
        done += 1
    except FileNotFoundError:
        pass
    except OSError:
        time.sleep(0.01)
print(done)
"""
# Writes number after number, each to its place, and notes elsewhere which were acknowledged.
CLERK = """
import os, sys, time
number = int(sys.argv[3])
with open(sys.argv[2], "a", buffering=1) as ledger:
    while True:
        try:
            fd = os.open(sys.argv[1] + "/journal", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                while True:
                    if os.pwrite(fd, number.to_bytes(8, "big"), number * 8) == 8:
                        ledger.write(f"{number}\\n")
                        number += 2
            finally:
                os.close(fd)
        except OSError:
            time.sleep(0.01)
"""


class Play:
    """What the two clusters would order."""

    def __init__(self, pair: ProcessPair, chance: random.Random) -> None:
        self.pair = pair
        self.chance = chance
        self.source = "paris"
        self.epoch = self.round = self.session = 1

    @property
    def other(self) -> str:
        return NODES[1 - NODES.index(self.source)]

    async def meet(self) -> None:
        self.round += 1
        await self.pair.connect(plain=self.chance.random() < 0.5)
        await self.pair.mirror(self.source, epoch=self.epoch, round_=self.round)

    async def cut(self) -> None:
        """The stream breaks, and the same two meet again."""
        self.pair.cut()
        await self.meet()

    async def swap(self) -> None:
        self.source = self.other
        self.epoch += 1
        self.round += 1
        # All that was acknowledged is on both; what was not may go either way.
        leaving = self.pair.nodes[self.other].engine
        leaving.order(Freeze(self.epoch))
        await self.pair.nodes[self.other].wait_report(Frozen)
        await self.join()

    async def lose(self) -> None:
        """The follower's worker is killed and comes back."""
        node = self.pair.nodes[self.other]
        node.engine.kill()
        with trio.fail_after(10):
            await node.ended.wait()
        self.pair.cut()
        serving = self.pair.nodes[self.source]
        serving.engine.order(Freeze(self.epoch))
        await serving.wait_report(Frozen)
        self.epoch += 1
        serving.engine.order(ServeAlone(self.epoch, f"g{self.epoch}"))
        await self.pair.start(self.other)
        await self.pair.connect()
        await self.join()

    async def join(self) -> None:
        """Make the other one equal, whatever it holds."""
        serving, target = self.pair.nodes[self.source], self.pair.nodes[self.other]
        self.session += 1
        serving.engine.order(ServeAlone(self.epoch, f"g{self.epoch}"))
        target.engine.order(BecomeTarget(self.epoch, self.session))
        serving.engine.order(StartResync(self.epoch, self.session, everything=False, seed=1))
        await serving.wait_report(NearlyEqual)
        serving.engine.order(CutOver(self.session))
        await serving.wait_report(CutDone)
        self.epoch += 1
        self.round += 1
        await self.pair.mirror(self.source, epoch=self.epoch, round_=self.round)


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_trees_are_equal_after_a_wild_time(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with open_processes(tmp_path) as pair:
        await pair.start_both()
        play = Play(pair, chance)
        await play.meet()
        writers = []
        for number, node in enumerate(pair.nodes.values()):
            writers.append(node.spawn(BUSY, number, 60))
            writers.append(node.spawn(CLERK, tmp_path / f"ledger{number}", number + 1))
        try:
            for _ in range(ROUNDS):
                await trio.sleep(chance.random() * 0.3)
                await chance.choice((play.cut, play.cut, play.swap, play.lose))()
        finally:
            for writer in writers:
                writer.kill()
                await trio.to_thread.run_sync(writer.communicate)
        await play.cut()  # everything that was pending has arrived
        await pair.stop_both()
    paris, lyon = (tree(tmp_path / name / "root") for name in NODES)
    assert paris == lyon
    journal = paris["journal"][1]
    acknowledged = [
        int(line)
        for number in (0, 1)
        for line in (tmp_path / f"ledger{number}").read_text().split()
    ]
    assert len(acknowledged) > 100
    for number in acknowledged:
        assert journal[number * 8 : number * 8 + 8] == number.to_bytes(8, "big"), number
