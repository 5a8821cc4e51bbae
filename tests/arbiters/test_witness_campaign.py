"""A few rounds of the campaign, and that it notices a witness that forgets."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mirrorha.errors import ArbiterOutcomeUnknownError
from mirrorha.state.atomic import write_atomically
from tests.arbiters.power_loss import Platter, lose_power
from tests.arbiters.witness_campaign import Fallen, Register, campaign, running, write_keys


async def test_epochs_never_fall_and_have_one_winner(tmp_path: Path) -> None:
    """`benchmarks/campaign_witness.py` does this a hundred times."""
    found = await campaign(tmp_path, rounds=6, seed=1)
    assert found.kills == 6
    assert found.power_losses == 3
    assert found.cut_short >= 4
    assert found.wins > 0
    assert found.epochs >= found.wins


def test_an_epoch_that_falls_or_has_two_winners_is_noticed() -> None:
    register = Register()
    register.hear(b"7 paris 0", asked_at=0)
    register.hear(b"7 paris 0", asked_at=7)
    with pytest.raises(Fallen, match="epoch 7: "):
        register.hear(b"7 lyon 0", asked_at=7)
    with pytest.raises(Fallen, match="epoch 0 was read after 7"):
        register.hear(None, asked_at=7)


def contents_after_power_loss(base: Path, *, synced: bool) -> set[bytes]:
    """What a file may hold that was replaced just before the power was lost."""
    found = set()
    for seed in range(40):
        directory, notes = base / f"{synced}-{seed}", base / f"{synced}-{seed}-durable"
        directory.mkdir()
        platter = Platter(directory, notes)
        path = directory / "record"
        write_atomically(path, b"old", fsync=platter.fsync)
        fsync = platter.fsync if synced else _only_names(platter)
        write_atomically(path, b"new", fsync=fsync)
        lose_power(directory, notes, random.Random(seed))
        found.add(path.read_bytes())
    return found


def _only_names(platter: Platter) -> object:
    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            platter.fsync(descriptor)

    return fsync


def test_what_was_synced_survives_and_nothing_else_need(tmp_path: Path) -> None:
    assert contents_after_power_loss(tmp_path, synced=True) == {b"new"}
    # Its name is there, and of what is in it some.
    assert contents_after_power_loss(tmp_path, synced=False) > {b"new", b""}


async def test_what_a_killed_witness_left_unsynced_is_not_told_before_it_is_synced(
    tmp_path: Path,
) -> None:
    """Seen by a campaign: read after the kill, and gone after the power loss that followed."""
    write_keys(tmp_path)
    state, notes = tmp_path / "state", tmp_path / "durable"
    state.mkdir()
    async with running(tmp_path, fsyncs=2) as arbiter:  # killed between the rename and its sync
        with pytest.raises(ArbiterOutcomeUnknownError):
            await arbiter.compare_and_swap(None, b"1 paris 0")
    async with running(tmp_path) as arbiter:
        told = await arbiter.read()
    for seed in range(8):
        lose_power(state, notes, random.Random(seed))
        async with running(tmp_path) as arbiter:
            assert await arbiter.read() == told == b"1 paris 0"
