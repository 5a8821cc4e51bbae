"""What an exploration is made of: the names, the bounds, and what stands in for time and chance."""

from __future__ import annotations

from typing import Final, final

import attrs

from mirrorha.core.detector import IncarnationChanged, PeerBeat, Proof, Rule, Verdict
from mirrorha.core.detector import Standing as Heard
from mirrorha.core.settings import Settings

NAMES: Final = ("lyon", "paris")
STEP_MS: Final = 1_000
NEVER_MS: Final = 10**9
# Draws are recognised by these: in a state, they are names and not values.
NONCE_PREFIX: Final = "a5a5"
TOKEN_BASE: Final = 1 << 40


@final
class Suspicion:
    """A detector without time: the explorer says when this node takes its peer for lost."""

    def __init__(self, *, lost: bool = False, incarnation: int | None = None) -> None:
        self.lost = lost
        self.incarnation = incarnation

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
    """Draws that differ from each other, and show that they were drawn."""

    def __init__(self, drawn: int) -> None:
        self.drawn = drawn

    def getrandbits(self, bits: int) -> int:
        """A nonce begins with `NONCE_PREFIX`; the rest says which draw it was."""
        number = self.drawn
        self.drawn += 1
        return (int(NONCE_PREFIX, 16) << 48 | number) & ((1 << bits) - 1)


@attrs.frozen
class Budget:
    """How often each unkindness may happen on the way to a state; a swap counts as one.

    Attributes:
        writes: acknowledgements that a client asks for.
        epochs: records of the register, the first of the mirrored pair among them.
        crashes: of a process, or of a machine.
        breaks: of the link between the nodes; a crash breaks it as well.
        suspicions: false ones, with the link up. Without a link, a node may always suspect.
        unanswered: CAS attempts without an answer: never sent, lost, or landing later.
        delayed: answers of the arbiter, to a read or a CAS, that are true when they are given
            and arrive after other things have happened.
        swaps: asked for by an operator.
        images: of a node's disk, taken at any time; restored after its crash.
        losses: of the register, by the arbiter.
        hurries: a node says something again while the first time is still under way.
        volumes: how many a node has.
        patience: whether a client's write can wait in a volume that acknowledges nothing now.
    """

    writes: int = 3
    epochs: int = 4
    crashes: int = 1
    breaks: int = 0
    suspicions: int = 0
    unanswered: int = 1
    delayed: int = 1
    swaps: int = 0
    images: int = 0
    losses: int = 0
    hurries: int = 0
    volumes: int = 1
    patience: int = 0


def other(name: str) -> str:
    return NAMES[1] if name == NAMES[0] else NAMES[0]


def settings_of(name: str, volumes: int) -> Settings:
    """A deadline is now or never, but for the wait for the peer at a start: that one is chosen."""
    return Settings(
        node=name,
        peer=other(name),
        first=NAMES[0],
        volumes=("a", "b")[:volumes],
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
