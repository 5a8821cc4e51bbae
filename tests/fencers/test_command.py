"""A command confirms that the peer is stopped by ending with 0, and by nothing else."""

from __future__ import annotations

import pytest

from mirrorha.errors import FencerError, LocalUsageError
from mirrorha.fencers import Command


async def test_status_0_confirms() -> None:
    fencer = Command(["sh", "-c", 'test "$MIRRORHA_PEER$MIRRORHA_NODE" = lyonparis'])
    assert await fencer.fence("lyon", environment={"MIRRORHA_NODE": "paris"}) is True


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["sh", "-c", "echo no such outlet; exit 1"], "sh ended with status 1: no such outlet"),
        (["sh", "-c", "kill -9 $$"], "sh was killed by SIGKILL"),
        (["/nowhere/at/all"], "/nowhere/at/all ended with status 127"),
        (["sh\0"], "cannot be run"),
    ],
)
async def test_nothing_else_does(command: list[str], text: str) -> None:
    with pytest.raises(FencerError, match=text):
        await Command(command).fence("lyon", environment={})


def test_it_has_a_program() -> None:
    with pytest.raises(LocalUsageError):
        Command([])
