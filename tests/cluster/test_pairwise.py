"""Two nodes without an arbiter: the register is kept between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError
from tests.cluster.rig import open_pair, start_pair, wait_mirrored, wait_until

if TYPE_CHECKING:
    from pathlib import Path


async def test_consistent_starts_swaps_and_lets_a_stopped_node_go(tmp_path: Path) -> None:
    async with open_pair(tmp_path, split_brain="consistent") as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        await first.cluster.swap()
        assert await wait_mirrored(pair) == (second, first)
        await second.cluster.stop()
        await first.cluster.wait_role(Role.ALONE)
        await wait_until(lambda: first.is_serving)
        await first.write("b", b"2")
        await second.cluster.start()
        assert await wait_mirrored(pair) == (first, second)
        assert first.files() == second.files() == {"a": b"1", "b": b"2"}


async def test_consistent_never_goes_on_without_proof(tmp_path: Path) -> None:
    async with open_pair(tmp_path, split_brain="consistent") as pair:
        first, second = await start_pair(pair)
        await first.end()  # as if killed: its port refuses, which proves nothing here
        with trio.move_on_after(2):
            await second.cluster.wait_role(Role.ALONE)
        assert second.cluster.role is not Role.ALONE
        assert not second.is_serving
        await first.start()
        assert await wait_mirrored(pair)


async def test_an_operator_goes_on_without_proof_and_has_a_node_give_up(tmp_path: Path) -> None:
    async with open_pair(tmp_path, split_brain="consistent") as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        await first.end()
        await wait_until(lambda: "must come back" in second.cluster.status()["why"])
        status = second.cluster.status()
        assert "to override: 'mirrorha force-primary'" in status["why"]
        assert status["override"]["command"] == "mirrorha force-primary"
        assert status["peer"]["last"]["role"] == "PRIM"
        assert "is ALONE now" in await second.cluster.force_primary()
        await wait_until(lambda: second.is_serving)
        await second.write("b", b"2")
        (generation,) = second.cluster.status()["forced"]["generations"]
        assert generation.startswith("forced-")
        rules = [each.rule for each in await second.cluster.history(limit=50)]
        assert "forced" in rules
        await first.start()
        assert await wait_mirrored(pair) == (second, first)
        assert first.cluster.status()["forced"]["generations"] == [generation]

        with pytest.raises(CommandRefusedError, match="in sync"):
            await second.cluster.force_primary()
        await second.cluster.force_secondary()
        await first.cluster.wait_role(Role.ALONE, Role.PRIM)
        assert await wait_mirrored(pair) == (first, second)
        assert first.files() == second.files() == {"a": b"1", "b": b"2"}


async def test_available_goes_on_if_its_isolation_checks_answer(tmp_path: Path) -> None:
    # Of another host than the two nodes: nobody's own answer tells whether it is cut off.
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.9")
    isolation = [f"tcp://127.0.0.9:{listener.socket.getsockname()[1]}"]
    async with listener, open_pair(tmp_path, split_brain="available", isolation=isolation) as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        await first.end()
        await second.cluster.wait_role(Role.ALONE)
        await wait_until(lambda: second.is_serving)
        await first.start()
        assert await wait_mirrored(pair) == (second, first)
        assert first.files() == second.files() == {"a": b"1"}
