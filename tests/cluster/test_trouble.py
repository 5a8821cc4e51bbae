"""What a node does when something is wrong: it says so, waits or ends, and deletes nothing."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from mirrorha.checks import Checker, Custom
from mirrorha.cluster.feed import Gap, NodeEvent
from mirrorha.config import ServiceConfig, TimingConfig
from mirrorha.core.words import Role
from mirrorha.errors import (
    CommandRefusedError,
    LocalUsageError,
    NotPrimaryError,
    OutcomeUnknownError,
    StateError,
)
from mirrorha.net import http_client
from mirrorha.probe import HealthProbe
from mirrorha.state.meta import META_NAME
from tests.cluster.rig import (
    NAMES,
    Site,
    TestNode,
    open_pair,
    read_tree,
    start_pair,
    wait_mirrored,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_damaged_state_is_no_new_node(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (lyon, _):
        state = lyon.site.state("lyon")
        state.mkdir(parents=True)
        (state / META_NAME).write_bytes(b'{"format": 1')
        with pytest.raises(StateError, match="damaged"):
            await lyon.start()
        assert (state / META_NAME).read_bytes() == b'{"format": 1'


async def test_one_process_at_a_time_runs_a_node(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (lyon, _):
        await lyon.start()
        double = TestNode(lyon.site, "lyon", lyon.nursery)
        with pytest.raises(LocalUsageError, match="runs this node already"):
            await double.start()
        await lyon.end()
        await double.start()
        await double.end()


async def test_a_state_that_cannot_be_written_ends_the_node_and_the_other_goes_on(
    tmp_path: Path,
) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("a", b"1")
        first.stop_s = 2.0

        def full(path: Path, raw: bytes) -> None:
            raise OSError(errno.EIO, "I/O error")

        first.cluster._runtime._store._write = full
        async with trio.open_nursery() as nursery:

            async def pause() -> None:
                with pytest.raises(CommandRefusedError, match="the node has ended"):
                    await first.cluster.pause()  # has to be written down

            nursery.start_soon(pause)
            # It fences itself first, says goodbye, and only then stops its service.
            await second.cluster.wait_role(Role.ALONE)
            assert [what for what, _ in first.told] == ["start"]
            with pytest.raises(NotPrimaryError):
                await first.write("b", b"2")
            await first.ended.wait()
        assert isinstance(first.error, StateError)
        assert second.files() == {"a": b"1"}
        assert [what for what, _ in first.told] == ["start", "stop"]


async def test_a_volume_that_would_hold_its_own_state_is_refused(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (lyon, _):
        # By a detour that the configuration alone does not show.
        lyon.site.data("lyon").rmdir()
        lyon.site.state("lyon").mkdir(parents=True)
        (lyon.site.state("lyon") / "inner").mkdir()
        lyon.site.data("lyon").symlink_to(lyon.site.state("lyon") / "inner")
        with pytest.raises(LocalUsageError, match="inside of the state directory"):
            await lyon.start()


async def test_changes_that_wait_are_answered_when_the_node_ends(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        answers: list[BaseException] = []

        async def write() -> None:
            try:
                await first.write("waiting", b"?")
            except (NotPrimaryError, OutcomeUnknownError) as error:
                answers.append(error)
            except OSError as error:  # it was still looking for the name
                if error.errno != errno.EIO:
                    raise
                answers.append(error)

        await second.end()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(0.01)
            await first.end()
        assert len(answers) <= 1
        with pytest.raises(NotPrimaryError):
            await first.write("later", b"?")


@pytest.mark.parametrize("what", ["foreign", "missing", "replaced"])
async def test_a_directory_that_is_not_the_volume_is_never_touched(
    tmp_path: Path, what: str
) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.write("precious", b"1")
        await second.end()
        data = second.site.data(second.name)
        data.rename(tmp_path / "kept")
        if what != "missing":
            data.mkdir()
            (data / "somebody's").write_bytes(b"file")
        if what == "foreign":
            marker = json.dumps({"schema": 1, "volume": "another-volume"})
            (data / ".mirrorha-volume").write_text(marker)
        await second.start()
        await second.cluster.wait_role(Role.WAIT)
        await wait_until(lambda: second.cluster.status()["colour"] == "red")
        status = second.cluster.status()
        assert status["role"] == "WAIT"
        assert str(data) in status["why"]
        await trio.sleep(0.5)
        assert first.cluster.role is Role.ALONE, "nobody takes it in"
        if what != "missing":
            assert read_tree(data) == {"somebody's": b"file"}
            data.rename(tmp_path / "aside")
        # The directory is there again: it goes on by itself.
        (tmp_path / "kept").rename(data)
        assert await wait_mirrored(pair) == (first, second)
        assert second.files() == {"precious": b"1"}


async def test_two_nodes_of_different_settings_refuse_each_other_by_name(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (lyon, paris):
        paris.cluster._added[0] = attrs.evolve(paris.cluster._added[0], ack="durable")
        await lyon.start()
        await paris.start()
        await wait_until(lambda: lyon.cluster.status()["peer"]["refused"])
        await wait_until(lambda: paris.cluster.status()["peer"]["refused"])
        for node in (lyon, paris):
            assert "'ack' must agree and differs" in node.cluster.status()["peer"]["refused"]
            assert node.cluster.role is Role.WAIT


async def test_a_service_that_fails_is_restarted_then_handed_over(tmp_path: Path) -> None:
    service = ServiceConfig(start_timeout_s=5, stop_timeout_s=5, restart_limit=1)
    async with open_pair(tmp_path, service=service) as pair:
        well = {"lyon": True, "paris": True}
        for node in pair:

            async def check(name: str = node.name) -> bool:
                await trio.lowlevel.checkpoint()
                return well[name]

            node.cluster.check(Checker(Custom(check), every_s=0.1, fall=1))
        first, second = await start_pair(pair)
        well[first.name] = False
        await wait_until(lambda: len(first.told) == 3)
        assert [what for what, _ in first.told] == ["start", "stop", "start"]
        well[first.name] = False
        await second.cluster.wait_role(Role.PRIM)
        await wait_until(lambda: second.is_serving)
        assert first.cluster.role is Role.SECOND


def may_hand_over(node: TestNode) -> bool:
    """Whether `node` believes that its peer would serve."""
    state = node.cluster._state
    return state is not None and state.peer is not None and state.peer.promotable


async def test_a_node_whose_check_fails_is_not_handed_the_service(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        well = {"lyon": True, "paris": True}
        for node in pair:

            async def check(name: str = node.name) -> bool:
                await trio.lowlevel.checkpoint()
                return well[name]

            node.cluster.check(
                Checker(Custom(check), every_s=0.1, fall=1, when="second", on_failure="hand_over")
            )
        first, second = await start_pair(pair)
        well[second.name] = False
        await wait_until(lambda: not may_hand_over(first))
        with pytest.raises(CommandRefusedError):
            await first.cluster.swap()
        well[second.name] = True
        await wait_until(lambda: may_hand_over(first))
        await first.cluster.swap()
        await wait_until(lambda: second.is_serving)


async def test_a_restart_ends_when_the_service_is_started_again(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        first, second = await start_pair(pair)
        await first.cluster.restart()
        assert [what for what, _ in first.told] == ["start", "stop", "start"]
        with pytest.raises(CommandRefusedError, match="does not run here"):
            await second.cluster.restart()


async def test_the_probe_finds_the_node_that_serves(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        for node in pair:
            node.cluster.probe(HealthProbe(port=0, host="127.0.0.1"))
        first, second = await start_pair(pair)

        async def ask(node: TestNode) -> int:
            url = f"http://127.0.0.1:{node.cluster.probe_port}/primary"
            return (await http_client.fetch("GET", url, deadline_s=5)).status

        assert (await ask(first), await ask(second)) == (200, 503)
        await first.cluster.swap()
        await wait_until(lambda: second.is_serving)
        assert (await ask(first), await ask(second)) == (503, 200)


async def test_what_happens_is_told_and_kept(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        events = pair[0].cluster.events()
        await start_pair(pair)
        told = []
        while not told or (told[-1].from_role, told[-1].role) != (Role.ALONE, Role.PRIM):
            told.append(await anext(events))
        roles = [(each.from_role, each.role) for each in told if each.from_role is not None]
        assert roles == [
            (Role.STOP, Role.WAIT),
            (Role.WAIT, Role.ALONE),
            (Role.ALONE, Role.PRIM),
        ]
        with trio.fail_after(5):
            while len(await pair[0].cluster.history(limit=100)) < len(told):  # noqa: ASYNC110
                await trio.sleep(0.01)
        kept = await pair[0].cluster.history(limit=100)
        assert [each.text for each in kept][: len(told)] == [each.text for each in told]


async def test_a_slow_reader_is_told_of_its_gap(tmp_path: Path) -> None:
    node = TestNode(Site(tmp_path), NAMES[0], None)  # type: ignore[arg-type]
    events = node.cluster.events()
    for number in range(1030):
        node.cluster._feed.tell(
            NodeEvent(
                kind="note",
                at_s=0.0,
                node="lyon",
                epoch=1,
                role=Role.WAIT,
                rule="r",
                text=str(number),
            )
        )
    node.cluster._feed.end()
    read = [each async for each in events]
    assert read[0] == Gap(6)
    assert [each.text for each in read[1:]] == [str(number) for number in range(6, 1030)]


async def test_keys_that_were_used_enough_are_replaced_under_a_working_pair(tmp_path: Path) -> None:
    """TLS limits what one key may encrypt: the connections are made anew, and nobody notices."""
    timing = TimingConfig(wait_peer_s=1, peer_slow_max_s=20)  # a busy machine is no slow peer
    async with open_pair(tmp_path, timing=timing) as pair:
        first, second = await start_pair(pair)
        epoch = first.cluster.status()["epoch"]
        for node in pair:
            links = node.cluster._runtime.parts.links
            links._tls.records_max = 40
            links.drop_all("to begin with connections that last so long only")
        await wait_mirrored(pair)
        for number in range(60):
            await first.write(f"f{number}", b"%d" % number)
        await wait_mirrored(pair)
        assert (first.cluster.role, second.cluster.role) == (Role.PRIM, Role.SECOND)
        assert first.cluster.status()["epoch"] == epoch, "nobody went on alone for it"
        assert first.files() == second.files() == {f"f{n}": b"%d" % n for n in range(60)}
