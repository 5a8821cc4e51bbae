"""Two nodes, as they are: start, write, swap, stop, crash, rejoin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError, NotPrimaryError
from tests.cluster.rig import open_pair, start_pair, wait_mirrored, wait_until

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_first_start_makes_a_pair_that_mirrors(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        assert first.name == "lyon", "nobody has files: the first [[node]] begins"
        await first.write("journal", b"one")
        assert second.files() == first.files() == {"journal": b"one"}
        assert [what for what, _ in first.told] == ["start"]
        assert second.told == []


async def test_the_node_that_has_files_is_the_one_to_begin_with(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        data = pair[1].site.data("paris")
        (data / "deep").mkdir(parents=True)
        (data / "deep" / "old").write_bytes(b"here before")
        first, second = await start_pair(pair)
        assert first.name == "paris"
        assert second.files() == {"deep/old": b"here before"}


async def test_a_write_on_the_second_names_the_primary(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        with pytest.raises(NotPrimaryError) as caught:
            await second.write("journal", b"no")
        assert caught.value.primary == first.name
        assert first.files() == second.files() == {}


@pytest.mark.parametrize("asked", ["first", "second"])
async def test_a_swap_exchanges_the_roles(tmp_path: Path, asked: str) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        await (first if asked == "first" else second).cluster.swap()
        assert await wait_mirrored(pair) == (second, first)
        await second.write("b", b"2")
        assert first.files() == second.files() == {"a": b"1", "b": b"2"}
        assert [what for what, _ in first.told] == ["start", "stop"]
        with pytest.raises(NotPrimaryError):
            await first.write("c", b"3")


async def test_a_stopped_node_hands_over_at_once_and_comes_back(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        began = trio.current_time()
        await first.cluster.stop()
        await second.cluster.wait_role(Role.ALONE)
        # It said goodbye: nobody waits for silence, nor for a fencing delay.
        assert trio.current_time() - began < 0.5
        await wait_until(lambda: second.is_serving)
        assert first.cluster.role is Role.STOP
        await second.write("b", b"2")
        (first.site.data(first.name) / "offline").write_bytes(b"an ordinary directory now")
        await first.cluster.start()
        assert await wait_mirrored(pair) == (second, first)
        assert first.files() == second.files() == {"a": b"1", "b": b"2"}


async def test_after_a_crash_the_other_has_every_acknowledged_write(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        acknowledged = {}

        async def write_on() -> None:
            for number in range(10_000):
                await first.write(f"f{number}", b"%d" % number)
                acknowledged[f"f{number}"] = b"%d" % number

        async with trio.open_nursery() as nursery:

            async def writer() -> None:
                with pytest.raises(Exception):  # noqa: B017 - whichever: it is not acknowledged
                    await write_on()

            nursery.start_soon(writer)
            await wait_until(lambda: len(acknowledged) > 50)
            await first.end()
        await second.cluster.wait_role(Role.ALONE)
        held = second.files()
        assert {name: held.get(name) for name in acknowledged} == acknowledged
        await wait_until(lambda: second.is_serving)
        await second.write("after", b"alone")
        await first.start()
        assert await wait_mirrored(pair) == (second, first)
        assert first.files() == second.files()


async def test_a_command_that_cannot_be_carried_out_says_why(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        lyon, _ = pair
        await lyon.start()
        with pytest.raises(CommandRefusedError, match="only a PRIM"):
            await lyon.cluster.swap()
