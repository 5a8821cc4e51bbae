"""One node of a state, brought to life: it takes in one event, and what follows by itself settles.

Volumes, persists and the service answer at once. Messages and the arbiter do not: what is asked of
them is the outcome, for the explorer to choose from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

import attrs

from mirrorha.core import authority, lineage, steady
from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core.messages import AnyMessage, PeerState, Standing
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.register import Register
from mirrorha.core.state import State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Mode
from mirrorha.testing.explore.scene import (
    STEP_MS,
    TOKEN_BASE,
    Dice,
    Suspicion,
    settings_of,
)
from mirrorha.testing.sim.model_volume import Message, ModelVolume, Platter
from mirrorha.testing.sim.world import Violation

LINK: Final = 1  # there is at most one session; what an older one left is gone when it breaks
UNREAD_MS: Final = -(10**9)
_SPLITS: Final = {lineage.Rule.SPLIT.value, lineage.Rule.SOURCE_IS_BEHIND.value}
_VOLUME: Final = ("mode", "epoch", "replied", "waiting", "session", "round", "_begin", "_drain")
_ANEW: Final = ("settings", "meta", "rng", "detector", "told", "tokens")
# Where nothing but being late by `NEVER_MS` can be told from a time.
_TIMELESS: Final = (
    "now_ms",
    "frozen_since_ms",
    "linked_ms",
    "streams_down_ms",
    "ask_next_ms",
    "serve_after_ms",
    "join_after_ms",
)
_UNUSED: Final = {
    "why": "",
    "why_told": "",
    "why_ms": 0,
    "last_peer": None,
    "stale": 0,
    "join_failures": 0,
    "progress": {},
}


@attrs.frozen
class Outcome:
    """What one event led to, for everybody else."""

    control: tuple[AnyMessage, ...] = ()
    stream: tuple[tuple[str, Message], ...] = ()
    acked: tuple[tuple[int, int, bool], ...] = ()  # value, epoch, whether both have it
    problem: str = ""


@final
class Actor:
    """One node, its volumes and its disk.

    Attributes:
        durable: what is on disk; `None`: just what the node itself says.
        image: a copy of the disk, taken earlier.
    """

    def __init__(self, name: str, volumes: int) -> None:
        self.name = name
        self.settings = settings_of(name, volumes)
        self.node: Node | None = None
        self.durable: Meta | None = Meta(node=name)
        self.platters = {volume: Platter() for volume in self.settings.volumes}
        self.volumes: dict[str, ModelVolume] = {}
        self.image: tuple[Meta, dict[str, Platter]] | None = None
        self.boot = 1
        self._told: PeerState | None = None
        self._soon: deque[Callable[[], None]] = deque()
        self._inbox: deque[v.AnyEvent] = deque()
        self._control: list[AnyMessage] = []
        self._stream: list[tuple[str, Message]] = []
        self._acked: list[tuple[int, int, bool]] = []

    @property
    def state(self) -> State | None:
        return None if self.node is None else self.node.state

    @property
    def meta(self) -> Meta:
        """What a crash would leave."""
        if self.durable is not None:
            return self.durable
        return self._live().meta

    def _live(self) -> State:
        if self.node is None:
            raise Violation(f"{self.name} is down")
        return self.node.state

    # ---- the part of a `World` that a model volume needs: what it asks for later happens next ----

    def after(self, _delay_ms: int, action: Callable[[], None]) -> None:
        self._soon.append(action)

    def between(self, low: int, _high: int) -> int:
        return low

    def _open_volume(self, name: str) -> ModelVolume:
        world: Any = self
        return ModelVolume(
            world,
            name,
            self.platters[name],
            send=lambda message: self._stream_send(name, message),
            report=lambda report: self.give(v.VolumeReported(name, report)),
            acked=lambda value, epoch, both: self._acked.append((value, epoch, both)),
            on_synced=lambda _values: None,
        )

    def _stream_send(self, volume: str, message: Message) -> None:
        if self._live().link:
            self._stream.append((volume, message))

    # ---- the loop ----

    def give(self, event: v.AnyEvent) -> None:
        self._inbox.append(event)

    def settle(self) -> Outcome:
        """Until nothing is left that happens by itself."""
        for _ in range(1_000):
            if self._inbox:
                self._step(self._inbox.popleft())
            elif self._soon:
                self._soon.popleft()()
            else:
                return Outcome(tuple(self._control), tuple(self._stream), tuple(self._acked))
        raise Violation("I10 something spins")

    def _step(self, event: v.AnyEvent) -> None:
        if self.node is None:
            return
        before = self.meta
        batch = self.node.step(event, 0)
        self._persist(before, batch)
        for effect in batch.after:
            self._perform(effect)

    def _persist(self, before: Meta, batch: e.Batch) -> None:
        """On disk before anything else of the step is visible: what the node says is durable."""
        self.durable = None

    def _perform(self, effect: e.AnyEffect) -> None:
        match effect:
            case e.SendPeer():
                self._control_send(effect)
            case e.Give():
                self.volumes[effect.volume].order(effect.order)
            case e.StartService():
                self.give(v.ServiceStarted(token=effect.token))
            case e.StopService():
                self.give(v.ServiceStopped(token=effect.token))
            case e.Note() if effect.rule in _SPLITS:
                raise Violation(f"I8 {self.name} reports a split, and there is none: {effect.text}")
            case _:
                pass  # what is asked of the arbiter stands in the state: `asked`, `sent`

    def _control_send(self, effect: e.SendPeer) -> None:
        message = effect.message
        if isinstance(message, PeerState):
            message = plain(message)
            if message == self._told:
                return  # only words for people changed
            self._told = message
            if self._control and isinstance(self._control[-1], PeerState):
                self._control.pop()
        self._control.append(message)

    # ---- what can happen to it ----

    def start(self) -> None:
        meta, boot = begin_incarnation(self.meta, boot_id=f"boot-{self.boot}")
        dice: Any = Dice(0)
        self.node = Node(self.settings, meta, boot, rng=dice, now_ms=0)
        suspicion: Any = Suspicion()
        self.node.state.detector = suspicion
        self.durable = None
        self.volumes = {name: self._open_volume(name) for name in self.platters}
        # Whether there are files is asked of a node that never belonged to a cluster only.
        self.give(v.VolumesInspected(has_files=False, ours=True))
        self.give(v.Command(operation="", verb=v.Verb.START))

    def crash(self, *, power: bool) -> None:
        self.durable = self.meta
        self.node = None
        self.volumes.clear()
        if power:
            self.boot += 1
            for platter in self.platters.values():
                del platter.cache[platter.synced :]

    def open_link(self, incarnation: int) -> None:
        self._live().detector.lost = False  # type: ignore[attr-defined]
        self._told = None
        self.give(v.LinkOpened(link=LINK, incarnation=incarnation))
        for volume in self.volumes.values():
            volume.link_up()

    def close_link(self) -> None:
        self.give(v.LinkClosed(link=LINK))
        for volume in self.volumes.values():
            volume.link_down()

    def suspect(self) -> None:
        self._live().detector.lost = True  # type: ignore[attr-defined]
        self.give(v.Tick())

    def pass_time(self) -> None:
        """Long enough for every deadline that there is."""
        s = self._live()
        s.since_ms -= STEP_MS
        s.unlinked_ms -= STEP_MS
        s.resume_ms = 0
        self.give(v.Tick())

    def take_image(self) -> None:
        synced = {
            name: Platter(platter.cache[: platter.synced], platter.synced)
            for name, platter in self.platters.items()
        }
        self.image = self.meta, synced

    def restore_image(self) -> None:
        """The disk as it was; the machine was off, so this is an OS crash to whoever starts."""
        if self.image is not None:
            self.durable, self.platters = self.image
            self.image = None
            self.boot += 1


def plain(message: PeerState) -> PeerState:
    """Without what is for people only."""
    fields = {field: getattr(message, field) for field in message.__struct_fields__}
    return PeerState(**{**fields, "why": "", "number": 0, "service": "", "role": ""})


# ---- as a value, and back ----


def settle_down(actor: Actor) -> None:
    """No crash can happen any more: forget what only one would bring to light.

    What is not synced yet, which boot of the machine this is, and whether it stopped in good order.
    """
    for platter in actor.platters.values():
        platter.synced = len(platter.cache)
    actor.boot = 0
    quiet: dict[str, Any] = {"boot_id": "", "dirty": False}
    if actor.durable is not None:
        actor.durable = attrs.evolve(actor.durable, **quiet)
    s = actor.state
    if s is not None:
        s.meta = attrs.evolve(s.meta, **quiet)


def dismantle(actor: Actor) -> tuple[Any, Any]:
    """All that the future depends on. The second part holds names that keep nothing alive."""
    meta = actor.meta
    disk = [(name, p.cache, p.synced) for name, p in actor.platters.items()]
    image: Any = None
    weak_image: Any = ()
    if actor.image is not None:
        kept, platters = actor.image
        image = (_strong_meta(kept), [(n, p.cache, p.synced) for n, p in platters.items()])
        weak_image = kept.intended
    s = actor.state
    strong: Any = None
    weak: Any = (meta.intended, weak_image)
    if s is not None:
        live, nonces = _dismantle_state(s)
        volumes = [
            (name, {key: volume.__dict__[key] for key in _VOLUME if key in volume.__dict__})
            for name, volume in actor.volumes.items()
        ]
        ahead = None if actor.durable is None else _strong_meta(s.meta)
        strong = (live, volumes, ahead)
        own = sorted(s.mine & s.meta.nonces())
        weak = (meta.intended, weak_image, own, nonces, ahead and s.meta.intended)
    return (actor.name, actor.boot, _strong_meta(meta), disk, image, strong), weak


def _strong_meta(meta: Meta) -> Meta:
    return attrs.evolve(meta, intended=())


def _dismantle_state(s: State) -> tuple[dict[str, Any], Any]:
    fields: dict[str, Any] = {
        name: getattr(s, name)
        for name in (field.name for field in attrs.fields(State))
        if name not in _ANEW and name not in _UNUSED and name not in _TIMELESS and name != "mine"
    }
    suspicion: Any = s.detector
    fields["detector"] = (suspicion.lost, suspicion.incarnation)
    # Requests are answered to the node that asked, one at a time: only whether one is out matters.
    fields["asked"], fields["cas_asked"] = int(bool(s.asked)), int(bool(s.cas_asked))
    fields["service_token"] = int(bool(s.service_token))
    fields["told_number"] = int(bool(s.told_number))
    fields["asked_knowing"] = s.asked_knowing if s.asked else (None, 0)
    fields["seen"] = s.seen is not None and s.seen == s.meta.held
    fields["answered_ms"] = UNREAD_MS if s.answered_ms == UNREAD_MS else 0
    fields["streams"] = sorted(s.streams)
    fields["register_problem"] = "x" if s.register_problem else ""
    fields["excluded"] = "x" if s.excluded else ""
    fields["since_ms"] = fields["unlinked_ms"] = waits_since_ms(s)
    fields["resume_ms"] = max(s.resume_ms, 0)
    if s.decision is not None:
        fields["decision"] = attrs.evolve(
            s.decision, why="", since_ms=0, next_ms=0, missing=_sorted(s.decision.missing)
        )
    nonces: Any = ()
    if s.peer is not None:
        fields["peer"], nonces = dismantle_message(s.peer)
    return fields, nonces


def waits_since_ms(s: State) -> int:
    """Since when a starting node waits for its peer, as far as it matters.

    It counts for a waiting node that does not hear its peer, from when it changed its role or lost
    the link last, whichever was later. A target comes to wait without changing its role.
    """
    waiting = s.standing in (Standing.WAITING, Standing.TARGET)
    if not waiting or (s.link and s.peer is not None):
        return 0
    return max(s.since_ms, s.unlinked_ms, -STEP_MS)


def _sorted(names: set[str]) -> Any:
    return sorted(names)  # a set is pickled in an order of its own


def dismantle_message(message: AnyMessage) -> tuple[Any, Any]:
    if not isinstance(message, PeerState):
        return message, ()
    fields = {field: getattr(message, field) for field in message.__struct_fields__}
    nonces = sorted(fields.pop("nonces"))
    fields["why"] = ""
    return fields, nonces


def assemble_message(strong: Any, weak: Any) -> AnyMessage:
    if isinstance(strong, dict):
        return PeerState(**strong, nonces=frozenset(weak))
    message: AnyMessage = strong
    return message


def assemble(strong: Any, weak: Any, *, volumes: int, draws: int) -> Actor:
    """Bring it back to life; its next draw has the number `draws`."""
    name, boot, meta, disk, image, live = strong
    actor = Actor(name, volumes)
    actor.boot = boot
    actor.platters = {volume: Platter(cache, synced) for volume, cache, synced in disk}
    meta = attrs.evolve(meta, intended=weak[0])
    if image is not None:
        kept = attrs.evolve(image[0], intended=weak[1])
        actor.image = kept, {n: Platter(cache, synced) for n, cache, synced in image[1]}
    actor.durable = meta
    if live is not None:
        fields, plain_volumes, ahead = live
        if ahead is None:
            actor.durable = None
        else:
            meta = attrs.evolve(ahead, intended=weak[4])
        actor.node = _assemble_node(fields, weak, meta, actor.settings, draws)
        told = actor.node.state.told
        actor._told = told and plain(told)
        for volume, kept_fields in plain_volumes:
            opened = actor.volumes[volume] = actor._open_volume(volume)
            opened.__dict__.update(kept_fields)
    return actor


def _assemble_node(
    fields: dict[str, Any], weak: Any, meta: Meta, settings: Any, draws: int
) -> Node:
    fields = {**fields, "settings": settings, "meta": meta, "rng": Dice(draws)}
    lost, incarnation = fields["detector"]
    fields["detector"] = Suspicion(lost=lost, incarnation=incarnation)
    fields["tokens"] = TOKEN_BASE + draws - 1
    fields["mine"] = set(weak[2])
    fields["streams"] = set(fields["streams"])
    fields["seen"] = meta.held if fields["seen"] else None
    if fields["peer"] is not None:
        fields["peer"] = assemble_message(fields["peer"], weak[3])
    if fields["decision"] is not None:
        fields["decision"].missing = set(fields["decision"].missing)
    s = State(**fields)
    if s.link:
        # Whatever changed was told at the end of the step that changed it.
        s.told = steady.describe(Turn(s, 0))
    node = Node.__new__(Node)
    node._s = s
    return node


def forget(actor: Actor, dead: frozenset[str]) -> None:
    """These nonces are in no record that has landed or can still: nobody will ever ask for them."""

    def living(meta: Meta) -> Meta:
        kept = [one for one in meta.intended if not dead & {nonce for _, nonce in one.nonces}]
        return attrs.evolve(meta, intended=tuple(kept))

    if actor.durable is not None:
        actor.durable = living(actor.durable)
    if actor.image is not None:
        actor.image = living(actor.image[0]), actor.image[1]
    s = actor.state
    if s is not None:
        s.meta = living(s.meta)
        if s.peer is not None:
            s.peer = forget_nonces(s.peer, dead)


def forget_nonces(message: PeerState, dead: frozenset[str]) -> PeerState:
    fields = {field: getattr(message, field) for field in message.__struct_fields__}
    return PeerState(**{**fields, "nonces": message.nonces - dead})


# ---- what the explorer asks of a node without changing it ----


def may_serve(actor: Actor, register: Register) -> bool:
    """It serves alone, or may go on alone as soon as it likes."""
    s = actor.state
    if s is None:
        return False
    allowed = authority.bar(s, register) is authority.Bar.NONE
    return allowed or (s.standing is Standing.SOURCE and s.mode is Mode.LOG)
