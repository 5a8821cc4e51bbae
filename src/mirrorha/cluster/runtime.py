"""One run of a node: its parts put together, run side by side, and ended in order."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.cluster.announcing import tell_roles
from mirrorha.cluster.authority import Authority
from mirrorha.cluster.care import Care
from mirrorha.cluster.disks import read_disks
from mirrorha.cluster.feed import Feed, NodeEvent
from mirrorha.cluster.fencing import Fencing
from mirrorha.cluster.links import Links
from mirrorha.cluster.loop import Loop
from mirrorha.cluster.notifying import Notifying, sight_of
from mirrorha.cluster.operations import Operations
from mirrorha.cluster.performer import Performer
from mirrorha.cluster.security import Security, load_security
from mirrorha.cluster.settings import (
    beat_paths,
    core_settings,
    dial_addresses,
    volume_names,
)
from mirrorha.cluster.state_room import RESERVE_NAME, StateRoom
from mirrorha.cluster.status import View, VolumeView, document
from mirrorha.cluster.store import MetaStore
from mirrorha.cluster.stream_ends import stream_end_of
from mirrorha.cluster.traffic import Traffic
from mirrorha.cluster.verifying import Verifying
from mirrorha.cluster.volumes import Volumes
from mirrorha.cluster.workers import Workers
from mirrorha.config import may_differ, must_agree, to_ms
from mirrorha.containment import contain
from mirrorha.core.events import BeatHeard, Command, Verb
from mirrorha.core.meta import begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError
from mirrorha.net.heartbeat import HeartbeatThread, monotonic_ms
from mirrorha.net.session_server import open_listeners
from mirrorha.probe import ProbeServer, ProbeState
from mirrorha.service import ServiceState
from mirrorha.state.boot import read_boot_id
from mirrorha.state.history import HISTORY_NAME, History, HistoryEvent, open_history
from mirrorha.state.lock import StateLock
from mirrorha.state.meta import META_NAME
from mirrorha.volume.local_disk.identity import layout_problems
from mirrorha.volume.local_disk.owners import owners_text
from mirrorha.wire.beat import Heart, Status
from mirrorha.wire.hello import MAGIC, VERSION_MAX, VERSION_MIN, Hello

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.cluster.at_rest import Document
    from mirrorha.cluster.plan import Plan
    from mirrorha.core.effects import AnyEffect
    from mirrorha.core.meta import Meta
    from mirrorha.core.state import State

_log: Final = logging.getLogger("mirrorha")

#: How long the end of a node waits for its goodbye to leave, and for the arbiter to be released.
GOODBYE_MS: Final = 200
RELEASE_S: Final = 1.0


@attrs.frozen(kw_only=True)
class Seams:
    """What tests replace: time, chance, and whether an ended node says goodbye."""

    clock_ms: Callable[[], int] = monotonic_ms
    wall_s: Callable[[], float] = time.time
    rng: random.Random = attrs.field(factory=random.SystemRandom)
    boot_id: Callable[[], str] = read_boot_id
    says_goodbye: bool = True


@final
class Runtime:
    """A node between the begin and the end of one `run`.

    Args:
        feed: told of everything that happens.
        changed: called after each step, for whoever waits for something.
    """

    def __init__(
        self, plan: Plan, *, feed: Feed, changed: Callable[[], None], seams: Seams
    ) -> None:
        self._plan: Final = plan
        self._config: Final = plan.config
        self._feed: Final = feed
        self._changed: Final = changed
        self._seams: Final = seams
        self._paths: Final = beat_paths(plan.config)
        self._path_names: Final[dict[tuple[str | None, str], str]] = {
            (each.local, each.peer): each.name for each in self._paths
        }
        self._names: Final = volume_names(plan.config)
        self._state_dir: Final = Path(plan.config.me.state_dir)
        self._room: Final = StateRoom(self._state_dir, told=self._note)
        self.history: History | None = None
        self._store: Final = MetaStore(
            self._state_dir / META_NAME,
            limit_s=plan.config.timing.disk_max_s,
            room=self._room,
        )
        self._silent = False
        self._boot_id = ""
        self._parts: _Parts | None = None
        self.probe_port: int | None = None

    # ---- for the public face ----

    @property
    def parts(self) -> _Parts | None:
        """The parts, once the node runs."""
        return self._parts

    def document(self) -> Document | None:
        """The status document; None before the node runs."""
        parts = self._parts
        return None if parts is None else document(self._view(parts))

    def _view(self, parts: _Parts) -> View:
        return View(
            cluster=self._config.name,
            link=self._config.link,
            state=parts.loop.state,
            now_ms=self._seams.clock_ms(),
            wall_s=self._seams.wall_s(),
            volumes=[self._volume_view(parts, each.name, each.path) for each in self._names],
            heartbeats=parts.beats.statistics(),
            service=parts.care.service,
            checks=parts.care.checks,
            switches=parts.traffic.switches,
            link_trouble=parts.links.refusal,
            warnings=(
                *parts.volumes.warnings,
                *filter(None, [self._room.warning]),
                *parts.links.warnings,
                *self._plan.warnings,
            ),
            differing=parts.verifying.warnings,
            arbiter_kind=parts.authority.kind,
            arbiter_trouble=parts.authority.trouble,
            is_arbiter_reachable=parts.authority.is_reachable,
        )

    def _volume_view(self, parts: _Parts, name: str, path: str) -> VolumeView:
        return VolumeView(
            name=name,
            path=path,
            status=parts.volumes.status(name),
            verify=parts.verifying.document(name),
        )

    # ---- the run ----

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled.

        Raises:
            LocalUsageError, StateError: the node cannot be started.
            InvariantViolation, StateError: it must not go on, and has been fenced.
        """
        security = await trio.to_thread.run_sync(
            load_security, self._config, limiter=trio.CapacityLimiter(1)
        )
        lock = await StateLock.acquire(self._state_dir)
        try:
            await trio.to_thread.run_sync(self._room.begin, limiter=trio.CapacityLimiter(1))
            # What cannot be written there is left out: no reserve is spent on it.
            async with open_history(self._state_dir / HISTORY_NAME) as self.history:
                await self._run_locked(security, task_status)
        finally:
            self.history = None
            with trio.CancelScope(shield=True):
                if await self._is_over():
                    lock.release()
                else:
                    _log.error("a thread hangs in a disk: this program must end before it can run")

    async def _run_locked(self, security: Security, task_status: trio.TaskStatus[None]) -> None:
        node = await self._begin()
        me = self._config.me
        listeners = await open_listeners(me.addresses, me.port)
        beats = self._start_beats(security, node.state.meta)
        try:
            async with trio.open_nursery() as beneath:
                try:
                    async with trio.open_nursery() as nursery:
                        parts = self._parts = self._assemble(nursery, node, security, beats)
                        beneath.start_soon(parts.volumes.run)
                        await self._start_parts(nursery, parts, listeners)
                        task_status.started()
                finally:
                    # The last of all: a service that is being stopped may still have files open.
                    if self._parts is not None:
                        self._parts.volumes.end()
        finally:
            for listener in listeners:
                listener.socket.close()
            with trio.CancelScope(shield=True):
                await self._end(beats)

    async def _start_parts(
        self, nursery: trio.Nursery, parts: _Parts, listeners: Sequence[trio.SocketListener]
    ) -> None:
        nursery.start_soon(self._close_volumes_at_end, parts)
        await nursery.start(parts.care.run)
        await nursery.start(parts.traffic.run)
        await nursery.start(parts.verifying.run)
        nursery.start_soon(parts.links.run, listeners)
        nursery.start_soon(self._take_beats, parts)
        nursery.start_soon(tell_roles, self._config.name, self._feed.open(), self._plan.on_role)
        nursery.start_soon(self._room.run)
        parts.notifying.start(nursery)
        if self._plan.probe is not None:
            server = ProbeServer(self._plan.probe, lambda: self._probe_state(parts))
            self.probe_port = await nursery.start(server.run)
        parts.loop.give(Command(operation="", verb=Verb.START))
        nursery.start_soon(parts.loop.run)

    async def _close_volumes_at_end(self, parts: _Parts) -> None:
        """First of all every change is answered: what waits for one cannot be stopped."""
        try:
            await trio.sleep_forever()
        finally:
            parts.volumes.close_all("this node ends")

    async def _begin(self) -> Node:
        """Begin an incarnation; durable before anything else happens."""
        roots = [Path(each.path) for each in self._names]
        problems = await trio.to_thread.run_sync(
            layout_problems, roots, self._state_dir, limiter=trio.CapacityLimiter(1)
        )
        if problems:
            raise LocalUsageError("; ".join(problems))
        self._boot_id = self._seams.boot_id()
        disks = await trio.to_thread.run_sync(read_disks, roots, limiter=trio.CapacityLimiter(1))
        found = await self._store.load(node=self._config.me.name)
        meta, boot = begin_incarnation(
            found, boot_id=self._boot_id, disks=disks, at_least=to_ms(self._seams.wall_s())
        )
        node = Node(
            core_settings(
                self._config,
                self._paths,
                has_arbiter=self._plan.arbiter is not None,
                has_fencer=bool(self._plan.fencers),
            ),
            meta,
            boot,
            rng=self._seams.rng,
            now_ms=self._seams.clock_ms(),
        )
        await self._store.save(node.state.meta)
        _log.info("%s starts, incarnation %d after %s", meta.node, meta.incarnation, boot.value)
        return node

    def _start_beats(self, security: Security, meta: Meta) -> HeartbeatThread:
        config = self._config
        heart = Heart(
            cluster=config.name,
            node=config.me.name,
            peer=config.peer.name,
            key=security.heartbeat_key,
            incarnation=meta.incarnation,
        )
        return HeartbeatThread.start(
            self._paths,
            heart,
            pulse_ms=to_ms(config.heartbeat.pulse_s),
            timeout_ms=to_ms(config.heartbeat.timeout_s),
            clock_ms=self._seams.clock_ms,
        )

    def _assemble(
        self, nursery: trio.Nursery, node: Node, security: Security, beats: HeartbeatThread
    ) -> _Parts:
        config, plan, seams = self._config, self._plan, self._seams
        loop = Loop(
            node,
            clock_ms=seams.clock_ms,
            persist=self._store.save,
            perform=self._perform,
            on_step=self._stepped,
            fence=self._fence,
            listened_at_ms=lambda: beats.listened_at_ms,
        )
        care = Care(
            config,
            phases=plan.phases,
            checkers=plan.checkers,
            can_promote=plan.can_promote,
            give=loop.give,
        )
        volumes = self._make_volumes(loop, care, security)
        links = self._make_links(loop, volumes, security)
        authority = Authority(plan.arbiter, loop.give)
        operations = Operations(loop.give)
        traffic = Traffic(plan.switches, self._note_or_alarm)
        performer = Performer(
            nursery,
            loop=loop,
            authority=authority,
            links=links,
            volumes=volumes,
            care=care,
            traffic=traffic,
            fencing=self._make_fencing(loop),
            beats=beats,
            operations=operations,
            paths=self._paths,
            isolation=config.isolation,
            clock_ms=seams.clock_ms,
            told=self._happened,
        )
        return _Parts(
            loop=loop,
            volumes=volumes,
            links=links,
            care=care,
            traffic=traffic,
            notifying=Notifying(plan.notified, cluster=config.name, wall_s=seams.wall_s),
            authority=authority,
            operations=operations,
            beats=beats,
            performer=performer,
            verifying=self._make_verifying(loop, volumes, authority),
            incarnation=node.state.meta.incarnation,
        )

    def _make_volumes(self, loop: Loop, care: Care, security: Security) -> Volumes:
        workers = Workers(self._config, keys=security.keys, reserve=self._state_dir / RESERVE_NAME)
        return Volumes(
            self._config,
            self._names,
            give=loop.give,
            state=lambda: loop.state,
            opened=self._opened,
            slow=self._slow,
            workers=workers,
            may_unmount=lambda: care.service.state is ServiceState.STOPPED,
            clock_ms=self._seams.clock_ms,
            rng=self._seams.rng,
            make_room=self._room.give_up,
        )

    def _make_fencing(self, loop: Loop) -> Fencing:
        return Fencing(
            self._plan.fencers,
            cluster=self._config.name,
            state=lambda: loop.state,
            give=loop.give,
            note=self._note_or_alarm,
        )

    def _make_verifying(self, loop: Loop, volumes: Volumes, authority: Authority) -> Verifying:
        return Verifying(
            self._config.verify,
            self._names,
            self._state_dir,
            volumes=volumes,
            state=lambda: loop.state,
            give=loop.give,
            note=self._note_or_alarm,
            does_arbiter_answer=authority.answers,
            wall_s=self._seams.wall_s,
            rng=self._seams.rng,
        )

    def _make_links(self, loop: Loop, volumes: Volumes, security: Security) -> Links:
        config = self._config
        hello = self._hello(loop)
        return Links(
            loop,
            dials=config.me.name < config.peer.name,
            addresses=dial_addresses(config),
            tls=security.tls,
            hello=hello,
            stream_end=lambda name: stream_end_of(
                volumes.driver(name),
                name,
                tls=security.tls,
                hello=hello,
                plain=config.link == "plain",
            ),
            volumes=[each.name for each in self._names],
            peer=config.peer.name,
            is_passable=lambda path: self._is_passable(loop.state, path),
            note=self._note,
            rng=self._seams.rng,
        )

    def _is_passable(self, state: State, path: tuple[str | None, str]) -> bool:
        """Whether heartbeats pass between these two addresses; an unknown pair is not judged."""
        name = self._path_names.get(path)
        return name is None or state.detector.is_passable(name, self._seams.clock_ms())

    def _hello(self, loop: Loop) -> Callable[[str, str], Hello]:
        config = self._config
        agree = must_agree(config, arbiter=self._plan.arbiter_text)
        differ = may_differ(config)
        # Else a file's owner would be lost with a swap there and back.
        agree["owners"] = owners_text()

        def make(kind: str, volume: str) -> Hello:
            meta = loop.state.meta
            return Hello(
                magic=MAGIC,
                version_min=VERSION_MIN,
                version_max=VERSION_MAX,
                cluster=config.name,
                cluster_id=meta.cluster_id,
                node=config.me.name,
                peer=config.peer.name,
                kind=kind,
                volume=volume,
                incarnation=str(meta.incarnation),
                boot_id=self._boot_id,
                must_agree=agree,
                may_differ=differ,
            )

        return make

    async def _end(self, beats: HeartbeatThread) -> None:
        """After everything else: nothing is acknowledged or served any more. Bounded."""
        parts = self._parts
        if parts is not None:
            parts.operations.end()
        self._feed.end()
        stopped = parts is not None and parts.care.service.state is ServiceState.STOPPED
        limiter = trio.CapacityLimiter(1)
        if stopped and self._seams.says_goodbye:
            # True by now: every change is answered and the service stopped.
            await trio.to_thread.run_sync(
                lambda: beats.say_goodbye(wait_ms=GOODBYE_MS), limiter=limiter
            )
        await trio.to_thread.run_sync(beats.stop, limiter=limiter)
        if self._plan.arbiter is not None:
            with trio.move_on_after(RELEASE_S):
                await contain(self._plan.arbiter.aclose)

    async def _is_over(self) -> bool:
        """Whether no thread of this run can write anything any more."""
        parts, self._parts = self._parts, None
        volumes_idle = parts is None or await parts.volumes.wait_idle()
        return await self._store.close() and volumes_idle

    # ---- in between; the parts exist before any of them runs ----

    def _perform(self, effect: AnyEffect) -> None:
        if self._parts is not None:
            self._parts.performer.perform(effect)

    def _note(self, rule: str, text: str) -> None:
        self._note_or_alarm(rule, text, True)

    def _note_or_alarm(self, rule: str, text: str, alarm: bool) -> None:
        if self._parts is not None:
            self._parts.performer.note(rule, text, alarm=alarm)

    def _opened(self) -> None:
        if self._parts is not None:
            self._parts.links.volumes_changed()

    def _slow(self, name: str) -> None:
        if self._parts is not None:
            self._parts.links.drop_stream(name)

    async def _take_beats(self, parts: _Parts) -> None:
        async for heard in parts.beats:
            parts.loop.give(
                BeatHeard(path=heard.path, beat=heard.facts, heard_at_ms=heard.heard_at_ms)
            )
            if not parts.links.is_open:
                parts.links.nudge()

    def _stepped(self, state: State, now_ms: int) -> None:
        """After each step of the core. Never blocks."""
        parts = self._parts
        if parts is None:
            return
        parts.beats.note_alive()
        parts.beats.set_status(
            Status(role=state.role, epoch=state.epoch, stopping=state.hold_service)
        )
        if state.meta.incarnation != parts.incarnation:
            parts.incarnation = state.meta.incarnation
            parts.beats.renew(state.meta.incarnation)
            parts.links.drop_all("this node goes on as a new incarnation")
        self._watch_link(parts, state, now_ms)
        parts.care.look(state)
        parts.traffic.look(state, now_ms)
        if parts.notifying.is_wanted:
            checks, switches = parts.care.checks, parts.traffic.switches
            parts.notifying.look(sight_of(state, checks=checks, switches=switches), now_ms)
        self._changed()

    def _watch_link(self, parts: _Parts, state: State, now_ms: int) -> None:
        """A session that cannot be alive any more is dropped, so that a new one is dialled."""
        if refusal := parts.beats.refusal:
            parts.links.note_beats_refused(refusal)
        newest = state.detector.incarnation or 0
        if 0 < parts.links.incarnation < newest:
            parts.links.drop_all("the peer runs as a newer incarnation")
        silent = state.detector.verdict(now_ms).silent
        if silent and not self._silent:
            parts.links.drop_all("the peer is silent on every path")
        self._silent = silent
        if len(self._paths) > 1:
            parts.links.leave_lost_paths()

    def _fence(self, why: str) -> None:
        """The node must not go on: nothing is acknowledged from here on, and the peer may know."""
        parts = self._parts
        if parts is not None:
            parts.volumes.close_all(why)
            parts.beats.say_goodbye()

    def _happened(self, event: NodeEvent) -> None:
        self._feed.tell(event)
        if self.history is not None:
            self.history.record(
                HistoryEvent(
                    kind=event.kind,
                    at_ms=to_ms(event.at_s),
                    node=event.node,
                    epoch=event.epoch,
                    role=event.role,
                    rule=event.rule,
                    text=event.text,
                    from_role=event.from_role,
                )
            )
        if event.kind == "role" and event.role is Role.STOP and self._parts is not None:
            self._parts.volumes.close_for_now()

    def _probe_state(self, parts: _Parts) -> ProbeState:
        return parts.care.probe_state(parts.loop.state, now_ms=self._seams.clock_ms())


@attrs.define(kw_only=True, eq=False)
class _Parts:
    """What runs side by side."""

    loop: Loop
    volumes: Volumes
    links: Links
    care: Care
    traffic: Traffic
    notifying: Notifying
    authority: Authority
    operations: Operations
    beats: HeartbeatThread
    performer: Performer
    verifying: Verifying
    incarnation: int
