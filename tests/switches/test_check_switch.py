"""The conformance suite passes what keeps the contract, and finds what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mirrorha.abc import Switch
from mirrorha.errors import LocalUsageError, SwitchError
from mirrorha.switches import Command
from mirrorha.testing.check_switch import SwitchConformanceError, check_switch
from mirrorha.testing.fake_switch import MemorySwitch, SwitchStore


async def test_the_fake_is_a_switch(autojump_clock: MockClock) -> None:
    store = SwitchStore()
    await check_switch(lambda: MemorySwitch(store))
    assert not store.is_engaged


class _Broken(Switch):
    """Keeps to the contract but for what a class below breaks."""

    kind = "broken"

    def __init__(self, inner: MemorySwitch) -> None:
        self.inner = inner

    async def engage(self) -> None:
        await self.inner.engage()

    async def disengage(self) -> None:
        await self.inner.disengage()

    async def is_engaged(self) -> bool:
        return await self.inner.is_engaged()


class _Deaf(_Broken):
    async def disengage(self) -> None:
        await trio.lowlevel.checkpoint()


class _OnlyOnce(_Broken):
    async def engage(self) -> None:
        self.inner.store.is_engaged = not self.inner.store.is_engaged


class _Forgetful(_Broken):
    """Believes what it did itself."""

    mine = False

    async def engage(self) -> None:
        self.mine = True

    async def disengage(self) -> None:
        self.mine = False

    async def is_engaged(self) -> bool:
        return self.mine


class _Late(_Broken):
    """A thread that was left behind, say."""

    async def engage(self) -> None:
        trio.lowlevel.spawn_system_task(self._land)
        await trio.sleep(0.02)

    async def _land(self) -> None:
        await trio.sleep(0.02)
        self.inner.store.is_engaged = True


class _Hanging(_Broken):
    async def engage(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("make", [_Broken, _Deaf, _OnlyOnce, _Forgetful, _Late, _Hanging])
async def test_it_finds_what_breaks_the_contract(
    make: Callable[[MemorySwitch], Switch], autojump_clock: MockClock
) -> None:
    store = SwitchStore()
    if make is _Broken:
        await check_switch(lambda: make(MemorySwitch(store)))
        return
    with pytest.raises(SwitchConformanceError):
        await check_switch(lambda: make(MemorySwitch(store)))


@pytest.fixture
def command(tmp_path: Path) -> Callable[[], Command]:
    """Clients are a file."""
    mark = str(tmp_path / "here")

    def make() -> Command:
        return Command(
            engage=["touch", mark], disengage=["rm", "-f", mark], status=["test", "-e", mark]
        )

    return make


async def test_commands_are_a_switch(command: Callable[[], Command]) -> None:
    await check_switch(command)


async def test_what_a_command_says_is_told() -> None:
    switch = Command(
        engage=["sh", "-c", "echo out of paper; exit 3"],
        disengage=["/nowhere/at/all"],
        status=["sh", "-c", "exit 2"],
    )
    with pytest.raises(SwitchError, match="sh ended with status 3: out of paper"):
        await switch.engage()
    with pytest.raises(SwitchError, match="/nowhere/at/all"):
        await switch.disengage()
    with pytest.raises(SwitchError, match="ended with status 2"):
        await switch.is_engaged()


async def test_a_command_knows_for_whom_it_works() -> None:
    switch = Command(
        engage=["sh", "-c", 'test "$MIRRORHA_NODE" = paris'],
        disengage=["true"],
        status=["true"],
        environment={"MIRRORHA_NODE": "paris"},
    )
    await switch.engage()


def test_a_command_has_a_program() -> None:
    with pytest.raises(LocalUsageError):
        Command(engage=[], disengage=["true"], status=["true"])
