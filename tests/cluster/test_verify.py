"""`verify` on a pair as it is: what a disk has changed by itself is found and repaired."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from mirrorha.cluster import verifying
from mirrorha.cluster.feed import NodeEvent
from mirrorha.config import VerifyConfig
from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError
from mirrorha.wire.limits import BLOCK_BYTES
from tests.cluster.rig import TestNode, open_pair, start_pair, wait_mirrored, wait_until

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(1, 251)) * 2000
OFFSET = 3 * BLOCK_BYTES + 17


def flip(path: Path, offset: int) -> None:
    """Change one byte, and leave no trace of it but that."""
    before = path.stat()
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 0xFF]), offset)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def verified(node: TestNode) -> dict[str, Any]:
    (volume,) = node.cluster.status()["volumes"]
    found: dict[str, Any] = volume["verify"]
    return found


async def write_on(node: TestNode, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """An application that goes on writing, into the file that is compared too."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        number = 0
        while True:
            number += 1
            async with node.data.open("journal", "r+b") as file:
                await file.seek(number % BLOCK_BYTES)
                await file.write(number.to_bytes(4, "big"))
            await node.write(f"other-{number % 20}", number.to_bytes(4, "big") * 100)


async def test_one_flipped_byte_is_found_and_repaired_while_the_application_writes(
    tmp_path: Path,
) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("journal", CONTENT)
        events = first.cluster.events()
        flip(second.site.data(second.name) / "journal", OFFSET)
        async with trio.open_nursery() as nursery:
            writing = await nursery.start(write_on, first)
            with pytest.raises(CommandRefusedError, match=r"journal: content, bytes 196608 to"):
                await first.cluster.verify(rate_bytes_per_s=0)
            seen = verified(first)
            assert (seen["state"], seen["differences"], seen["repaired"]) == ("done", 1, 0)
            (found,) = seen["found"]
            assert (found["path"], found["what"]) == ("journal", "content")
            assert (found["offset"], found["length"]) == (3 * BLOCK_BYTES, BLOCK_BYTES)
            assert found["mine"] != found["theirs"]
            assert first.cluster.status()["colour"] == "orange"
            assert "--repair" in first.cluster.status()["warnings"][0]
            async for event in events:
                if isinstance(event, NodeEvent) and event.rule == "copies-differ":
                    assert event.kind == "alarm"
                    break
            text = await first.cluster.verify(repair=True, found=True)
            assert "1 differences, 1 repaired" in text
            writing.cancel()
        assert first.cluster.status()["colour"] == "green"
        assert first.cluster.role is Role.PRIM
        assert "no difference" in await first.cluster.verify(rate_bytes_per_s=0)
        assert first.files() == second.files()


@pytest.mark.parametrize("changes", [{}, {"split_brain": "consistent"}])
async def test_what_no_op_can_repair_is_made_the_same_by_a_resync(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    async with open_pair(tmp_path, **changes) as pair:
        first, second = await start_pair(pair)
        await first.write("journal", CONTENT)
        os.setxattr(second.site.data(second.name) / "journal", "user.odd", b"1")
        with pytest.raises(CommandRefusedError, match="journal: xattrs"):
            await first.cluster.verify()
        text = await first.cluster.verify(repair=True, source=first.name)
        before, after = text.split("\n")
        assert "1 differences, 0 repaired" in before
        assert "no difference" in after
        assert [what for what, _ in first.told] == ["start"], "the service went on"
        assert await wait_mirrored(pair) == (first, second)
        assert os.listxattr(second.site.data(second.name) / "journal") == []


async def test_nobody_is_left_out_for_a_repair_while_the_arbiter_is_away(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("journal", CONTENT)
        os.setxattr(second.site.data(second.name) / "journal", "user.odd", b"1")
        first.cluster._arbiter._path = first.site.base  # type: ignore[union-attr]
        with pytest.raises(CommandRefusedError, match="the arbiter does not answer"):
            await first.cluster.verify(repair=True)
        assert (first.cluster.role, second.cluster.role) == (Role.PRIM, Role.SECOND)


async def test_who_may_not_is_told_what_to_do(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        with pytest.raises(CommandRefusedError, match=f"{first.name} serves, and compares"):
            await second.cluster.verify()
        with pytest.raises(CommandRefusedError, match=r"`mirrorha swap`, then `mirrorha verify"):
            await first.cluster.verify(repair=True, source=second.name)
        with pytest.raises(CommandRefusedError, match="no volume here"):
            await first.cluster.verify("/nowhere")
        with pytest.raises(CommandRefusedError, match="nothing is being compared"):
            await first.cluster.stop_verify()
        with pytest.raises(CommandRefusedError, match="no difference is known"):
            await first.cluster.verify(found=True)
        await second.end(says_goodbye=True)
        await first.cluster.wait_role(Role.ALONE)
        with pytest.raises(CommandRefusedError, match="is ALONE"):
            await first.cluster.verify()


async def test_it_ends_with_the_peer_and_can_be_stopped_and_hurried(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("large", bytes(range(256)) * 40_000)
        texts: list[str] = []

        async def verify() -> None:
            with pytest.raises(CommandRefusedError) as caught:
                await first.cluster.verify(rate_bytes_per_s=1)
            texts.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(verify)
            await wait_until(lambda: (verified(first) or {}).get("bytes"))
            assert verified(first)["state"] == "running"
            with pytest.raises(CommandRefusedError, match="being compared already"):
                await first.cluster.verify()
            await first.cluster.stop_verify()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(verify)
            await wait_until(lambda: verified(first)["state"] == "running")
            await second.end()
        assert "stopped by an operator" in texts[0]
        assert "stopped:" in texts[1]
        await first.cluster.wait_role(Role.ALONE)
        await second.start()
        await wait_mirrored(pair)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.cluster.verify, None)
            await wait_until(lambda: verified(first)["state"] == "running")
            assert "50MB/s" in await first.cluster.verify(rate_bytes_per_s=50_000_000)
            assert verified(first)["rate_bytes_per_s"] == 50_000_000


async def test_what_stays_on_one_node_is_not_compared(tmp_path: Path) -> None:
    async with open_pair(tmp_path, exclude=("*.tmp", "cache")) as pair:
        first, second = await start_pair(pair)
        await first.write("journal", CONTENT)
        await first.write("mine.tmp", b"here")
        (second.site.data(second.name) / "theirs.tmp").write_bytes(b"there")
        os.utime(
            second.site.data(second.name), ns=(0, first.site.data(first.name).stat().st_mtime_ns)
        )
        assert "no difference" in await first.cluster.verify()


async def test_a_swap_ends_it_and_the_other_node_goes_on(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("large", bytes(range(256)) * 40_000)
        async with trio.open_nursery() as nursery:

            async def verify() -> None:
                with pytest.raises(CommandRefusedError, match="something else to do"):
                    await first.cluster.verify(rate_bytes_per_s=1)

            nursery.start_soon(verify)
            await wait_until(lambda: (verified(first) or {}).get("bytes"))
            await first.cluster.swap()
        assert await wait_mirrored(pair) == (second, first)
        assert "no difference" in await second.cluster.verify(rate_bytes_per_s=0)


async def test_it_is_done_by_itself_and_what_came_of_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "AGAIN_S", 0.05)
    async with open_pair(tmp_path, verify=VerifyConfig(every_s=3600)) as pair:
        first, second = await start_pair(pair)
        await wait_until(lambda: (verified(first) or {}).get("state") == "done")
        done = verified(first)
        kept = first.site.state(first.name) / "volumes"
        (file,) = [each / "verify.json" for each in kept.iterdir()]
        await wait_until(lambda: file.exists() and json.loads(file.read_text())["state"] == "done")
        assert verified(second) is None
        for node in (second, first):
            await node.end(says_goodbye=True)
        first.make(verify=VerifyConfig(every_s=3600))
        second.make(verify=VerifyConfig(every_s=3600))
        for node in (first, second):
            await node.start()
        await wait_mirrored(pair)
        assert verified(first)["ended"] == done["ended"], "not again before its time"
