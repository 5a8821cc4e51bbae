"""The loop that owns the core: durable before visible, and an end that fences."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing

from mirrorha.cluster.inbox import MESSAGES_MAX, Inbox
from mirrorha.cluster.loop import Loop
from mirrorha.core import events as v
from mirrorha.core.detector import PeerBeat
from mirrorha.core.effects import ReadRegister, RoleMoved
from mirrorha.core.messages import Prepared
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.orders import Progress
from mirrorha.core.settings import Settings
from mirrorha.errors import InvariantViolation, StateError


def beat(path: str, sequence: int, incarnation: int = 1) -> v.BeatHeard:
    facts = PeerBeat(incarnation=incarnation, sequence=sequence)
    return v.BeatHeard(path=path, beat=facts, heard_at_ms=sequence)


class Rig:
    """A loop on simulated time whose persist and effects are written down."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.persist_s = 0.0
        self.persist_error: Exception | None = None
        settings = Settings(
            node="lyon", peer="paris", first="lyon", volumes=("a",), paths=("one", "two")
        )
        meta, boot = begin_incarnation(Meta(node="lyon"), boot_id="b")
        self.node = Node(settings, meta, boot, rng=random.Random(1), now_ms=self.now_ms())
        self.loop = Loop(
            self.node,
            clock_ms=self.now_ms,
            persist=self.persist,
            perform=self.log.append,
            on_step=lambda state, now_ms: None,
            fence=lambda why: self.log.append(("fence", why)),
        )

    def now_ms(self) -> int:
        return int(trio.current_time() * 1000)

    async def persist(self, meta: Meta) -> None:
        self.log.append("persist begins")
        await trio.sleep(self.persist_s)
        if self.persist_error is not None:
            raise self.persist_error
        self.log.append("persisted")


async def test_nothing_is_performed_before_the_state_is_durable(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    rig.persist_s = 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.loop.run)
        rig.loop.give(v.Command(operation="p", verb=v.Verb.PAUSE))  # changes the state
        await trio.sleep(4.9)
        assert rig.log == ["persist begins"]
        await trio.sleep(0.2)
        assert rig.log[1] == "persisted"
        assert len(rig.log) > 2
        nursery.cancel_scope.cancel()


async def test_it_ticks_by_itself_by_the_cores_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.loop.run)
        rig.loop.give(v.Command(operation="", verb=v.Verb.START))
        rig.loop.give(v.VolumesInspected(has_files=False, ours=True))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert any(isinstance(each, RoleMoved) for each in rig.log)
    assert any(isinstance(each, ReadRegister) for each in rig.log), "it asked, with nobody asking"


async def test_a_state_that_cannot_be_written_fences_the_node(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    rig.persist_error = StateError("no room")
    rig.loop.give(v.Command(operation="p", verb=v.Verb.PAUSE))
    with pytest.raises(StateError, match="no room"):
        await rig.loop.run()
    assert rig.log == ["persist begins", ("fence", "no room")], "and nothing was performed"


async def test_a_bug_of_the_core_fences_the_node(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.loop.give(v.Command(operation="p", verb="no verb"))  # type: ignore[arg-type]
    with pytest.raises(InvariantViolation, match="KeyError"):
        await rig.loop.run()
    assert rig.log[-1][0] == "fence"


async def test_the_latest_beat_of_a_path_replaces_one_that_waits() -> None:
    inbox = Inbox()
    inbox.put(beat("one", 1))
    inbox.put(v.Tick())
    inbox.put(beat("one", 2))
    inbox.put(beat("two", 3))
    inbox.put(beat("one", 4, incarnation=2))
    taken = [inbox.take() for _ in range(5)]
    assert taken == [beat("one", 2), v.Tick(), beat("two", 3), beat("one", 4, 2), None]
    inbox.put(beat("one", 5))
    assert inbox.take() == beat("one", 5)


async def test_of_progress_only_the_latest_counts() -> None:
    inbox = Inbox()
    for done in range(1000):
        inbox.put(v.VolumeReported("a", Progress(1, done, 1000, 0, 0)))
    assert len(inbox) == 1
    assert inbox.take() == v.VolumeReported("a", Progress(1, 999, 1000, 0, 0))


async def test_a_peer_that_says_too_much_waits() -> None:
    inbox = Inbox()
    for number in range(MESSAGES_MAX):
        await inbox.wait_room()
        inbox.put(v.Heard(message=Prepared(nonce=str(number))))
    had_room = []

    async def say_more() -> None:
        await inbox.wait_room()
        had_room.append(len(inbox))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_more)
        await trio.testing.wait_all_tasks_blocked()
        assert had_room == []
        inbox.take()
    assert had_room == [MESSAGES_MAX - 1]
