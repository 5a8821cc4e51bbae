"""A witness that is killed, or loses power, in the middle of a swap, again and again.

Two nodes go on counting epochs with it. What they were told, in order: no epoch ever falls, and
none has two winners.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

import attrs
import trio

from mirrorha.arbiters import WitnessArbiter
from mirrorha.errors import ArbiterOutcomeUnknownError, ArbiterUnavailableError
from tests.arbiters.power_loss import lose_power
from tests.arbiters.witness_rig import keys_of

PROGRAM: Final = Path(__file__).with_name("witness_process.py")
START_S: Final = 30.0
# A witness lives for at most so many swaps; each has two fsyncs, and dies in one of them.
SWAPS_MAX: Final = 8


class Fallen(Exception):  # noqa: N818 - a verdict
    """The witness forgot, or said two things of one epoch."""


@final
@attrs.define
class Register:
    """All that was ever said of it, by swaps that were acknowledged and by reads.

    Attributes:
        said: for each epoch the record that named it.
        highest: the highest epoch that anybody was told.
        unknown: swaps of which nobody knows whether they have landed.
    """

    said: dict[int, bytes] = attrs.Factory(dict)
    highest: int = 0
    wins: int = 0
    unknown: int = 0

    def hear(self, record: bytes | None, *, asked_at: int) -> int:
        """A record that was read; `asked_at` is what was the highest epoch before. Its epoch."""
        epoch = epoch_of(record)
        if epoch < asked_at:
            raise Fallen(f"epoch {epoch} was read after {asked_at}")
        if record is not None and self.said.setdefault(epoch, record) != record:
            raise Fallen(f"epoch {epoch}: {record!r}, and before {self.said[epoch]!r}")
        self.highest = max(self.highest, epoch)
        return epoch


def epoch_of(record: bytes | None) -> int:
    return 0 if record is None else int(record.split()[0])


@attrs.frozen(kw_only=True)
class Campaign:
    """What a campaign showed. `cut_short`: witnesses that died in the middle of a swap."""

    kills: int
    power_losses: int
    cut_short: int
    epochs: int
    wins: int
    unknown: int


async def campaign(directory: Path, *, rounds: int, seed: int) -> Campaign:
    """Kill so many witnesses, each within a swap, and have every second one lose its power.

    Raises:
        Fallen: an epoch fell, or has two winners.
    """
    rng = random.Random(seed)
    state, notes = directory / "state", directory / "durable"
    state.mkdir()
    write_keys(directory)
    register, losses, cut_short = Register(), 0, 0
    for number in range(rounds):
        unknown = register.unknown
        await _live_and_die(directory, register, fsyncs=rng.randint(1, 2 * SWAPS_MAX))
        cut_short += register.unknown > unknown
        if number % 2:
            lose_power(state, notes, rng)
            losses += 1
    async with running(directory) as arbiter:
        register.hear(await arbiter.read(), asked_at=register.highest)
    return Campaign(
        kills=rounds,
        power_losses=losses,
        cut_short=cut_short,
        epochs=register.highest,
        wins=register.wins,
        unknown=register.unknown,
    )


async def _live_and_die(directory: Path, register: Register, *, fsyncs: int) -> None:
    """Two nodes swap with a witness until it dies."""
    process, arbiters = await _start(directory, fsyncs=fsyncs)
    try:  # one that died while it started answers nobody
        async with trio.open_nursery() as nursery:
            for name, arbiter in zip(("paris", "lyon"), arbiters, strict=True):
                nursery.start_soon(_count, register, arbiter, name)
    finally:
        await _end(process, arbiters)


async def _count(register: Register, arbiter: WitnessArbiter, name: str) -> None:
    """Win epochs until the witness is gone."""
    try:
        while True:
            highest = register.highest
            found = await arbiter.read()
            epoch = register.hear(found, asked_at=highest)
            mine = b"%d %s %d" % (epoch + 1, name.encode(), register.unknown)
            if await arbiter.compare_and_swap(found, mine):
                register.wins += 1
                register.hear(mine, asked_at=epoch + 1)
    except ArbiterOutcomeUnknownError:
        register.unknown += 1
    except ArbiterUnavailableError:
        return


@asynccontextmanager
async def running(directory: Path, *, fsyncs: int = 0) -> AsyncGenerator[WitnessArbiter]:
    """A witness that dies in place of a certain fsync, or is killed at the end of the block."""
    process, arbiters = await _start(directory, fsyncs=fsyncs)
    try:
        yield arbiters[0]
    finally:
        await _end(process, arbiters)


async def _start(
    directory: Path, *, fsyncs: int
) -> tuple[trio.Process, tuple[WitnessArbiter, WitnessArbiter]]:
    files = [directory / name for name in ("state", "key.pem", "ca.pem")]
    process = await trio.lowlevel.open_process(
        [sys.executable, PROGRAM, *files, str(fsyncs), directory / "durable"],
        stdout=subprocess.PIPE,
    )
    if process.stdout is None:
        raise RuntimeError("the witness cannot say its port")
    with trio.fail_after(START_S):
        port = int(await process.stdout.receive_some(100) or b"1")  # it is dead: nobody
    context = keys_of(["orders"])["orders"].client()
    one, other = (
        WitnessArbiter(f"127.0.0.1:{port}", "orders", context, deadline_s=START_S) for _ in range(2)
    )
    return process, (one, other)


async def _end(process: trio.Process, arbiters: tuple[WitnessArbiter, WitnessArbiter]) -> None:
    with trio.CancelScope(shield=True):
        for arbiter in arbiters:
            await arbiter.aclose()
        process.kill()
        await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


def write_keys(directory: Path) -> None:
    keys = keys_of(["orders"])["orders"]
    keys.authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = keys.authority.issue_cert("orders")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "key.pem")
