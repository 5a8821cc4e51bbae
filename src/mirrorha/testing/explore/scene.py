"""A state of the exploration: everything that the future depends on."""

from __future__ import annotations

from typing import Any, Final, final

import attrs

from mirrorha.core.detector import IncarnationChanged, PeerBeat, Proof, Rule, Verdict
from mirrorha.core.detector import Standing as Heard
from mirrorha.core.messages import AnyMessage
from mirrorha.core.meta import Meta
from mirrorha.core.node import Node
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.testing.sim.model_volume import Message, Platter

NAMES: Final = ("lyon", "paris")
STEP_MS: Final = 1_000
NEVER_MS: Final = 10**9


@final
class Suspicion:
    """A detector without time: the explorer says when this node takes its peer for lost."""

    def __init__(self) -> None:
        self.lost = False
        self.incarnation: int | None = None

    def tick(self, now_ms: int, *, listened_at_ms: int | None = None) -> None:
        """Nothing depends on time here."""

    def heard(self, path: str, *, beat: PeerBeat, heard_at_ms: int, now_ms: int) -> None:
        """No beats are sent."""

    def meet(self, incarnation: int, *, now_ms: int) -> IncarnationChanged | None:
        if self.incarnation is None or incarnation > self.incarnation:
            self.incarnation, self.lost = incarnation, False
        return None

    def goodbye(self, incarnation: int, *, now_ms: int) -> None:
        if incarnation == self.incarnation:
            self.lost = True

    def refused_everywhere(self, incarnation: int, *, probed_since_ms: int, now_ms: int) -> None:
        """The explorer probes no ports."""

    def next_deadline_ms(self) -> int:
        return NEVER_MS

    def verdict(self, now_ms: int) -> Verdict:
        return self.verdict_of(self.incarnation or 0, now_ms)

    def verdict_of(self, incarnation: int, now_ms: int) -> Verdict:
        if self.incarnation is not None and incarnation < self.incarnation:
            rule, proof = Rule.INCARNATION_CHANGED, Proof.INCARNATION_CHANGED
            return Verdict(
                standing=Heard.LOST, rule=rule, incarnation=incarnation, proof=proof, silent=True
            )
        standing = Heard.LOST if self.lost else Heard.HEARD
        rule = Rule.SILENT_EVERYWHERE if self.lost else Rule.HEARD
        return Verdict(standing=standing, rule=rule, incarnation=incarnation)


@final
class Dice:
    """Draws that differ, and are forgotten when states are compared."""

    def __init__(self) -> None:
        self.drawn = 0

    def getrandbits(self, bits: int) -> int:
        self.drawn += 1
        return (0xA5A5 << 48 | self.drawn) & ((1 << bits) - 1)


@attrs.define
class Budget:
    """How often each unkindness may still happen on the way to a state."""

    writes: int = 2
    epochs: int = 4
    crashes: int = 1
    breaks: int = 1
    suspicions: int = 1
    unanswered: int = 1
    ticks: int = 2
    swaps: int = 0


@attrs.define
class Site:
    """One node in a state."""

    node: Node | None = None
    meta: Meta = attrs.field(factory=lambda: Meta(node=""))
    platter: Platter = attrs.Factory(Platter)
    volume: dict[str, Any] = attrs.Factory(dict)
    boot: int = 1


@attrs.define
class Scene:
    """One state: everything that the future depends on."""

    budget: Budget
    sites: dict[str, Site]
    dice: Dice
    register: Register | None = None
    link: int = 0
    links: int = 0
    now_ms: int = 0
    control: dict[str, list[AnyMessage]] = attrs.Factory(lambda: {name: [] for name in NAMES})
    stream: dict[str, list[Message]] = attrs.Factory(lambda: {name: [] for name in NAMES})
    reads: dict[str, int] = attrs.Factory(dict)
    attempts: dict[str, tuple[int, Register | None, Register]] = attrs.Factory(dict)
    late: list[tuple[Register | None, Register]] = attrs.Factory(list)
    acked: list[int] = attrs.Factory(list)
    alone: dict[int, str] = attrs.Factory(dict)  # acknowledged on one page cache, and whose
    value: int = 0
    primaries: dict[int, str] = attrs.Factory(dict)


def other(name: str) -> str:
    return NAMES[1] if name == NAMES[0] else NAMES[0]


def settings_of(name: str) -> Settings:
    return Settings(
        node=name,
        peer=other(name),
        first=NAMES[0],
        volumes=("a",),
        paths=("one",),
        wait_peer_ms=STEP_MS,
        freeze_max_ms=NEVER_MS,
        fence_delay_ms=0,
        takeover_delay_ms=0,
        peer_slow_max_ms=NEVER_MS,
        arbiter_retry_ms=0,
        arbiter_watch_ms=NEVER_MS,
        arbiter_fresh_ms=NEVER_MS,
        join_backoff_ms=0,
        swap_stop_max_ms=NEVER_MS,
    )
