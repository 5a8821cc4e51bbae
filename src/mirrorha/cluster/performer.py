"""Performs what the core asks for: at once what can be, the rest in tasks that answer by events."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.cluster.feed import NodeEvent
from mirrorha.core import effects as e
from mirrorha.core.events import IsolationChecked, PortRefused
from mirrorha.net.death import probe_death
from mirrorha.net.isolation import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.cluster.authority import Authority
    from mirrorha.cluster.care import Care
    from mirrorha.cluster.fencing import Fencing
    from mirrorha.cluster.links import Links
    from mirrorha.cluster.loop import Loop
    from mirrorha.cluster.operations import Operations
    from mirrorha.cluster.traffic import Traffic
    from mirrorha.cluster.volumes import Volumes
    from mirrorha.net.heartbeat import HeartbeatThread
    from mirrorha.net.paths import HeartbeatPath

_log: Final = logging.getLogger("mirrorha")

#: A process that is killed closes its connections before its listeners, some milliseconds apart;
#: a peer that is starting again refuses for longer. So its port is tried some times.
PROBE_PAUSES_MS: Final = (0, 20, 60, 150, 400)
#: How long an isolation check may take: a round trip, and two that were lost.
ISOLATION_S: Final = 2.0


@final
class Performer:
    """One for each run of a node. `perform` never blocks.

    Args:
        nursery: where what takes time goes on.
        told: told of what happens, for history, log and readers.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        loop: Loop,
        authority: Authority,
        links: Links,
        volumes: Volumes,
        care: Care,
        traffic: Traffic,
        fencing: Fencing,
        beats: HeartbeatThread,
        operations: Operations,
        paths: Sequence[HeartbeatPath],
        isolation: Sequence[str],
        clock_ms: Callable[[], int],
        told: Callable[[NodeEvent], None],
    ) -> None:
        self._nursery: Final = nursery
        self._loop: Final = loop
        self._links: Final = links
        self._paths: Final = tuple(paths)
        self._isolation: Final = tuple(isolation)
        self._clock_ms: Final = clock_ms
        self._told: Final = told
        self._care: Final = care
        self._traffic: Final = traffic
        self._volumes: Final = volumes
        self._phase = 0  # the token of the service's latest start or stop
        start_soon = nursery.start_soon
        self._performers: Final[dict[type, Callable[..., object]]] = {
            e.SendPeer: lambda each: links.send(each.link, each.message),
            e.ReadRegister: lambda each: start_soon(authority.read, each),
            e.Cas: lambda each: start_soon(authority.swap, each),
            e.Give: lambda each: volumes.order(each.volume, each.order),
            e.StartService: self._start_service,
            e.StopService: self._stop_service,
            e.SayGoodbye: lambda _: beats.say_goodbye(),
            e.ProbePort: lambda each: start_soon(self._probe, each),
            e.DropLink: lambda each: links.drop(each.link, each.why),
            e.MarkVolumes: lambda each: volumes.mark(each.cluster_id),
            e.RoleMoved: self._role_moved,
            e.Note: self._note,
            e.CommandDone: operations.done,
            e.Feed: lambda each: loop.give(each.event),
            e.RunIsolationChecks: lambda each: start_soon(self._check_isolation, each),
            e.AskFencer: lambda each: start_soon(fencing.ask, each),
        }

    def perform(self, effect: e.AnyEffect) -> None:
        """Begin `effect`. What it brings comes back as an event."""
        self._performers[type(effect)](effect)

    def note(self, rule: str, text: str, *, alarm: bool = True) -> None:
        """Tell of something that the core did not decide."""
        self._note(e.Note(rule=rule, text=text, alarm=alarm))

    def _start_service(self, effect: e.StartService) -> None:
        self._phase = effect.token
        self._nursery.start_soon(self._start_on_open_volumes, effect)

    def _stop_service(self, effect: e.StopService) -> None:
        self._phase = effect.token
        self._nursery.start_soon(self._stop_without_traffic, effect)

    async def _start_on_open_volumes(self, effect: e.StartService) -> None:
        """A worker hears of its orders a moment later: until then its mount is read-only."""
        await self._volumes.settle()
        await self._traffic.wait_before_start()
        if self._phase == effect.token:  # else it is to be stopped meanwhile, and was not started
            await self._care.start(effect)

    async def _stop_without_traffic(self, effect: e.StopService) -> None:
        await self._traffic.wait_before_stop()
        await self._care.stop(effect)

    async def _probe(self, effect: e.ProbePort) -> None:
        """Whether the peer's host says that nobody listens there any more."""
        for pause_ms in PROBE_PAUSES_MS:
            await trio.sleep(pause_ms / 1000)
            if self._links.is_open:
                return
            since_ms = self._clock_ms()
            if await probe_death(self._paths):
                self._loop.give(
                    PortRefused(incarnation=effect.incarnation, probed_since_ms=since_ms)
                )
                return

    async def _check_isolation(self, effect: e.RunIsolationChecks) -> None:
        """Whether every address that shows that we are not cut off answers."""
        silent: list[str] = []

        async def check(address: str) -> None:
            if not await answers(address, ISOLATION_S):
                silent.append(address)

        async with trio.open_nursery() as nursery:
            for address in self._isolation:
                nursery.start_soon(check, address)
        all_answered = bool(self._isolation) and not silent
        self._loop.give(IsolationChecked(token=effect.token, all_answered=all_answered))

    def _role_moved(self, effect: e.RoleMoved) -> None:
        _log.info(
            "%s e%d %s → %s (%s): %s",
            self._loop.state.me,
            effect.epoch,
            effect.from_role.value,
            effect.to_role.value,
            effect.rule,
            effect.why,
            extra={
                "epoch": effect.epoch,
                "role": effect.to_role.value,
                "from_role": effect.from_role.value,
                "rule": effect.rule,
                "why": effect.why,
            },
        )
        self._tell(
            kind="role",
            epoch=effect.epoch,
            role=effect.to_role,
            rule=effect.rule,
            text=effect.why,
            from_role=effect.from_role,
        )

    def _note(self, effect: e.Note) -> None:
        s = self._loop.state
        level = logging.WARNING if effect.alarm else logging.INFO
        role, rule, text = s.role.value, effect.rule, effect.text
        facts = {"epoch": s.epoch, "role": role, "rule": rule, "why": text}
        _log.log(level, "%s e%d %s (%s): %s", s.me, s.epoch, role, rule, text, extra=facts)
        kind = "alarm" if effect.alarm else "note"
        self._tell(kind=kind, epoch=s.epoch, role=s.role, rule=effect.rule, text=effect.text)

    def _tell(self, **facts: object) -> None:
        node = self._loop.state.me
        self._told(NodeEvent(at_s=time.time(), node=node, **facts))  # type: ignore[arg-type]
