"""A witness that is killed at any point forgets nothing that it has acknowledged."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio

from mirrorha.arbiters import WitnessArbiter
from mirrorha.errors import ArbiterOutcomeUnknownError, ArbiterUnavailableError
from tests.arbiters.witness_rig import keys_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PROGRAM: Final = Path(__file__).with_name("witness_process.py")


@attrs.frozen
class Site:
    """Where a killable witness keeps its things."""

    directory: Path

    @asynccontextmanager
    async def witness(self, *, fsyncs: int = 0) -> AsyncGenerator[Killable]:
        """A witness in a process, until the end of the block; then it is killed if it lives."""
        files = [self.directory / name for name in ("state", "key.pem", "ca.pem")]
        process = await trio.lowlevel.open_process(
            [sys.executable, PROGRAM, *files, str(fsyncs)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            with trio.fail_after(60):
                port = int(await process.stdout.receive_some(100))
            context = keys_of(["orders"])["orders"].client()
            arbiters = [
                WitnessArbiter(f"127.0.0.1:{port}", "orders", context, deadline_s=30)
                for _ in range(2)
            ]
            yield Killable(process, *arbiters)
            for arbiter in arbiters:
                await arbiter.aclose()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()

    def version(self) -> int:
        """What the file says now, with no witness to ask; 0: there is none."""
        path = self.directory / "state" / "orders.json"
        return int(json.loads(path.read_bytes())["version"]) if path.exists() else 0


@attrs.frozen
class Killable:
    process: trio.Process
    arbiter: WitnessArbiter
    other: WitnessArbiter


@pytest.fixture
def site(tmp_path: Path) -> Site:
    keys = keys_of(["orders"])["orders"]
    keys.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = keys.authority.issue_cert("orders")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "key.pem")
    return Site(tmp_path)


@pytest.mark.parametrize("fsyncs", range(1, 6))
async def test_killed_at_each_point_of_a_write(site: Site, fsyncs: int) -> None:
    acked = 0
    async with site.witness(fsyncs=fsyncs) as killed:
        with contextlib.suppress(ArbiterOutcomeUnknownError):
            while acked < 10:
                before = b"%d" % acked if acked else None
                assert await killed.arbiter.compare_and_swap(before, b"%d" % (acked + 1))
                acked += 1
        await killed.process.wait()
    assert acked == (fsyncs - 1) // 2, "a swap is acknowledged after its second fsync"
    # Killed before the rename, it has not happened; after it, it has, and nobody knew.
    landed = acked + (fsyncs % 2 == 0)
    assert site.version() == landed
    async with site.witness() as again:
        assert await again.arbiter.read() == (b"%d" % landed if landed else None)
        assert await again.arbiter.compare_and_swap(b"%d" % landed if landed else None, b"x")


async def test_killed_at_any_moment(site: Site) -> None:
    """Two nodes count together while the witness is killed, again and again."""
    rng = random.Random(1)
    acked = version = 0
    for _ in range(4):
        async with site.witness() as running:
            found = await running.arbiter.read()
            assert int(found or b"0") >= acked, "an acknowledged swap was lost"
            acked = int(found or b"0")
            async with trio.open_nursery() as nursery:
                was_of_use = trio.Event()
                tallies = [
                    Tally(acked, arbiter, was_of_use)
                    for arbiter in (running.arbiter, running.other)
                ]
                for tally in tallies:
                    nursery.start_soon(tally.count_until_killed)
                await was_of_use.wait()
                await trio.sleep(rng.uniform(0, 0.2))
                running.process.kill()
            acked = max(tally.acked for tally in tallies)
        # One more of each, that nobody has heard of, may have landed; never one less.
        assert acked <= site.version() <= acked + 2
        assert site.version() >= version
        version = site.version()


async def test_killed_right_after_the_acknowledgement(site: Site) -> None:
    acked: bytes | None = None
    for number in range(4):
        async with site.witness() as running:
            assert await running.arbiter.read() == acked
            for step in range(3):
                new = b"%d.%d" % (number, step)
                assert await running.arbiter.compare_and_swap(acked, new)
                acked = new
            running.process.kill()


@attrs.define
class Tally:
    """The highest number that this node was told has been written."""

    acked: int
    arbiter: WitnessArbiter
    was_of_use: trio.Event

    async def count_until_killed(self) -> None:
        try:
            while True:
                found = int(await self.arbiter.read() or b"0")
                assert found >= self.acked, "the record fell"
                if await self.arbiter.compare_and_swap(
                    b"%d" % found if found else None, b"%d" % (found + 1)
                ):
                    self.acked = found + 1
                    self.was_of_use.set()
        except (ArbiterUnavailableError, ArbiterOutcomeUnknownError):
            return
