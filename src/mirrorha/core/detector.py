"""Is the peer there? The decision alone: beats, time and proofs go in, a named verdict comes out.

Silence is a third value. A peer is *lost* by silence only when every path has been silent for the
whole timeout while we were surely listening; until that can be said it is *undecided*. A proof of
death (a goodbye, a port that refuses on every path, a newer incarnation) needs no waiting.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import ensure

if TYPE_CHECKING:
    from collections.abc import Mapping


class Standing(enum.Enum):
    """What the verdict says of the peer's incarnation."""

    HEARD = "heard"
    STALLED = "stalled"  # heard, but its application's loop does not turn: not lost
    UNDECIDED = "undecided"  # silent, and too early to say
    LOST = "lost"


class Rule(enum.Enum):
    """Why the verdict is what it is. Logs print it, operators search for it."""

    HEARD = "heard"
    HEARD_ONE_WAY = "heard-but-does-not-hear-us"
    PEER_LOOP_STALLED = "peer-loop-stalled"
    NOT_HEARD_YET = "not-heard-yet"
    LISTENED_LATE = "own-loop-was-late"
    NEVER_HEARD = "never-heard"
    SILENT_EVERYWHERE = "silent-on-every-path"
    GOODBYE = "goodbye"
    REFUSED_EVERYWHERE = "refused-on-every-path"
    INCARNATION_CHANGED = "incarnation-changed"


class Proof(enum.Enum):
    """Evidence of death that is more than silence. What each is worth, the authority decides."""

    GOODBYE = "goodbye"
    REFUSED_EVERYWHERE = "refused-on-every-path"
    INCARNATION_CHANGED = "incarnation-changed"


class PathState(enum.Enum):
    """One pair of addresses, as seen from here."""

    UP = "up"
    ONE_WAY_OUT = "one_way_out"  # we hear them, they do not hear us
    SILENT = "silent"


@attrs.frozen(kw_only=True)
class PeerBeat:
    """What the detector needs of an authenticated beat.

    Attributes:
        incarnation: which run of the peer sent it; it rises with each start.
        sequence: rises with each beat of an incarnation, over all paths together.
        echo_sequence: the highest sequence of *our present incarnation* that the peer had heard
            on this path, or None.
        loop_age_ms: how long ago the peer's application loop last turned.
        goodbye: the peer gives up: go on without this incarnation.
    """

    incarnation: int
    sequence: int
    echo_sequence: int | None = None
    loop_age_ms: int = 0
    goodbye: bool = False


@attrs.frozen(kw_only=True)
class IncarnationChanged:
    """The peer runs anew: the incarnation `dead` is over, for good."""

    dead: int
    alive: int


@attrs.frozen(kw_only=True)
class Verdict:
    """What can be said of one incarnation of the peer at one moment.

    Attributes:
        incarnation: the one spoken of, or None while none is known.
        proof: the evidence beyond silence, or None.
        silent: silence alone would have lost the peer as well. Who does not trust a refused
            port on its own asks for `proof` and `silent`.
    """

    standing: Standing
    rule: Rule
    incarnation: int | None
    proof: Proof | None = None
    silent: bool = False

    @property
    def lost(self) -> bool:
        return self.standing is Standing.LOST


_RULE_OF_PROOF: Final[Mapping[Proof, Rule]] = {
    Proof.GOODBYE: Rule.GOODBYE,
    Proof.REFUSED_EVERYWHERE: Rule.REFUSED_EVERYWHERE,
    Proof.INCARNATION_CHANGED: Rule.INCARNATION_CHANGED,
}


@attrs.define
class _Path:
    """What was heard on one path of the peer's present incarnation."""

    heard_ms: int | None = None
    echo_sequence: int = -1
    # When the echo last advanced; the moment the path was heard (again), until it does.
    echo_ms: int = 0

    def is_silent(self, *, now_ms: int, timeout_ms: int) -> bool:
        return self.heard_ms is None or now_ms - self.heard_ms >= timeout_ms


@final
class Detector:
    """Judges the peer from beats, ticks and proofs. One per node, fed by the core alone.

    Every method that takes `now_ms` must be given times that never fall. The owner calls `tick`
    at `next_deadline_ms()` at the latest; how late it comes is how the detector knows that we
    ourselves were not listening.

    Args:
        paths: the names of the pairs of addresses; at least one.
        pulse_ms: how often the peer sends on each path, and how often we want to be ticked.
        timeout_ms: silence on every path for this long loses the peer; at least three pulses.
        stall_ms: a peer whose application loop is at least this old is stalled.
    """

    def __init__(
        self,
        paths: tuple[str, ...],
        *,
        pulse_ms: int,
        timeout_ms: int,
        now_ms: int,
        stall_ms: int = 2_000,
    ) -> None:
        ensure(len(paths) > 0, "there is at least one heartbeat path")
        ensure(len(set(paths)) == len(paths), "heartbeat paths have different names")
        ensure(pulse_ms > 0, "the pulse is positive")
        # Two lost datagrams in a row are routine. It also keeps a tick that is late by half the
        # timeout, and not yet counted as late, well inside the timeout.
        ensure(timeout_ms >= 3 * pulse_ms, "the timeout spans three pulses at least")
        ensure(stall_ms > 0, "the stall threshold is positive")
        self._pulse_ms = pulse_ms
        self._timeout_ms = timeout_ms
        self._stall_ms = stall_ms
        self._late_after_ms = pulse_ms + timeout_ms // 2
        # A session moves before a peer could be lost; two lost datagrams in a row move none.
        self._impassable_after_ms = max(timeout_ms // 2, 3 * pulse_ms)
        self._paths = {name: _Path() for name in paths}
        self._incarnation: int | None = None
        self._newest_sequence = -1
        self._peer_loop_age_ms = 0
        self._proof: Proof | None = None
        self._newest_heard_ms: int | None = None
        self._refused_since_ms = 0
        self._seen_ms = now_ms
        # Silence counts from here at the earliest: the start of a full interval of listening.
        self._listening_since_ms = now_ms
        self._was_late = False
        #: Counts the signs of life of the peer's present incarnation: its first, and each beat.
        self.signs = 0

    @property
    def incarnation(self) -> int | None:
        """The highest incarnation of the peer that is known, dead or alive."""
        return self._incarnation

    def tick(self, now_ms: int, *, listened_at_ms: int | None = None) -> None:
        """Note that our loop turns.

        Args:
            listened_at_ms: when whoever hears the beats for us last surely did, if that is
                somebody else (the heartbeat thread). A late listener counts as our own lateness.
        """
        self._observe(now_ms)
        if listened_at_ms is not None and now_ms - listened_at_ms > self._late_after_ms:
            self._start_over(now_ms, was_late=True)

    def heard(
        self, path: str, *, beat: PeerBeat, heard_at_ms: int, now_ms: int
    ) -> IncarnationChanged | None:
        """Take in an authenticated beat that arrived on `path` at `heard_at_ms`.

        Returns the change if it is the first of a newer incarnation; then every older one is
        dead. Beats of older incarnations change nothing.
        """
        ensure(path in self._paths, "beats come on known paths")
        ensure(heard_at_ms <= now_ms, "a beat is heard before it is told; both by one clock")
        changed = self.meet(beat.incarnation, now_ms=now_ms)
        if beat.incarnation != self._incarnation:
            return None
        self.signs += 1
        self._note(self._paths[path], beat=beat, heard_at_ms=heard_at_ms)
        if beat.sequence > self._newest_sequence:
            self._newest_sequence = beat.sequence
            self._peer_loop_age_ms = beat.loop_age_ms
        if self._newest_heard_ms is None or heard_at_ms > self._newest_heard_ms:
            self._newest_heard_ms = heard_at_ms
        if beat.goodbye:
            self._proof = Proof.GOODBYE
        elif self._proof is Proof.REFUSED_EVERYWHERE and heard_at_ms > self._refused_since_ms:
            self._proof = None  # who beats is not dead, whatever its port answers
        return changed

    def meet(self, incarnation: int, *, now_ms: int) -> IncarnationChanged | None:
        """Learn that the peer runs as `incarnation`, from a beat or an authenticated hello.

        Returns the change if an older incarnation was known: it is dead.
        """
        self._observe(now_ms)
        known = self._incarnation
        if known is not None and incarnation <= known:
            return None
        self._incarnation = incarnation
        self.signs += 1
        self._newest_sequence = -1
        self._newest_heard_ms = None
        self._peer_loop_age_ms = 0
        self._proof = None
        self._paths = {name: _Path() for name in self._paths}
        # The new incarnation was not heard on any path yet: it has a full interval for that.
        self._start_over(now_ms, was_late=False)
        return None if known is None else IncarnationChanged(dead=known, alive=incarnation)

    def goodbye(self, incarnation: int, *, now_ms: int) -> IncarnationChanged | None:
        """The peer's `incarnation` said, authenticated, that it gives up.

        It stays dead however often it is heard: to come back it becomes a newer incarnation.
        """
        changed = self.meet(incarnation, now_ms=now_ms)
        if incarnation == self._incarnation:
            self._proof = Proof.GOODBYE
        return changed

    def refused_everywhere(self, incarnation: int, *, probed_since_ms: int, now_ms: int) -> None:
        """The connections to `incarnation` were reset and its port refuses on every path.

        A beat heard after the probing began contradicts it, before this call or later: then it
        proves nothing. It says nothing of an incarnation that was never heard or met.

        Args:
            probed_since_ms: when the first of those refusals was asked for.
        """
        ensure(probed_since_ms <= now_ms, "a probe begins before its result is told")
        self._observe(now_ms)
        if incarnation != self._incarnation or self._proof is not None:
            return
        if self._newest_heard_ms is None or self._newest_heard_ms <= probed_since_ms:
            self._refused_since_ms = probed_since_ms
            self._proof = Proof.REFUSED_EVERYWHERE

    def verdict(self, now_ms: int) -> Verdict:
        """Judge the peer's present incarnation. Changes nothing."""
        ensure(now_ms >= self._seen_ms, "time does not run backwards")
        late_now = self._is_late(now_ms)
        fresh_for_ms = 0 if late_now else now_ms - self._listening_since_ms
        silent = fresh_for_ms >= self._timeout_ms and self._is_silent(now_ms)
        if self._proof is not None:
            rule = _RULE_OF_PROOF[self._proof]
            return self._say(Standing.LOST, rule, proof=self._proof, silent=silent)
        if silent:
            never = all(path.heard_ms is None for path in self._paths.values())
            rule = Rule.NEVER_HEARD if never else Rule.SILENT_EVERYWHERE
            return self._say(Standing.LOST, rule, silent=True)
        if self._is_silent(now_ms):
            late = late_now or self._was_late
            rule = Rule.LISTENED_LATE if late else Rule.NOT_HEARD_YET
            return self._say(Standing.UNDECIDED, rule)
        return self._judge_heard(now_ms)

    def verdict_of(self, incarnation: int, now_ms: int) -> Verdict:
        """Judge one incarnation, such as the one that a session was opened with.

        An older one than is known is dead. Of a newer one nothing is known.
        """
        verdict = self.verdict(now_ms)
        if self._incarnation is None or incarnation > self._incarnation:
            return Verdict(
                standing=Standing.UNDECIDED, rule=Rule.NOT_HEARD_YET, incarnation=incarnation
            )
        if incarnation == self._incarnation:
            return verdict
        return Verdict(
            standing=Standing.LOST,
            rule=Rule.INCARNATION_CHANGED,
            incarnation=incarnation,
            proof=Proof.INCARNATION_CHANGED,
            silent=True,
        )

    def path_states(self, now_ms: int) -> dict[str, PathState]:
        """The state of every path, by name. Changes nothing."""
        return {name: self._path_state(path, now_ms) for name, path in self._paths.items()}

    def is_passable(self, name: str, now_ms: int) -> bool:
        """Whether a session had better run over this path: beats have passed lately, both ways.

        Sooner than `path_states` says so, for to move a session costs little. Changes nothing.
        """
        path = self._paths[name]
        # A path that was not heard yet, or not listened to, has a full interval for that.
        heard_ms = max(path.heard_ms or 0, self._listening_since_ms)
        echo_ms = max(path.echo_ms, self._listening_since_ms)
        return now_ms - min(heard_ms, echo_ms) < self._impassable_after_ms

    def next_deadline_ms(self) -> int:
        """When to call `tick` next, at the latest. At most a pulse after the last call."""
        changes = [self._listening_since_ms + self._timeout_ms]
        for path in self._paths.values():
            if path.heard_ms is not None:
                changes.append(path.heard_ms + self._timeout_ms)
                changes.append(path.echo_ms + self._timeout_ms)
        soon = [change for change in changes if change > self._seen_ms]
        return min([self._seen_ms + self._pulse_ms, *soon])

    def _observe(self, now_ms: int) -> None:
        ensure(now_ms >= self._seen_ms, "time does not run backwards")
        if self._is_late(now_ms):
            self._start_over(now_ms, was_late=True)
        self._seen_ms = now_ms

    def _is_late(self, now_ms: int) -> bool:
        """Our loop is late by more than half the timeout, counted from when a tick was due."""
        return now_ms - self._seen_ms > self._late_after_ms

    def _start_over(self, now_ms: int, *, was_late: bool) -> None:
        """Whatever silence there was so far no longer counts."""
        self._listening_since_ms = now_ms
        self._was_late = was_late

    def _note(self, path: _Path, *, beat: PeerBeat, heard_at_ms: int) -> None:
        back = path.is_silent(now_ms=heard_at_ms, timeout_ms=self._timeout_ms)
        echo = -1 if beat.echo_sequence is None else beat.echo_sequence
        if back or echo > path.echo_sequence:
            path.echo_ms = max(path.echo_ms, heard_at_ms)
        path.echo_sequence = max(path.echo_sequence, echo)
        path.heard_ms = heard_at_ms if path.heard_ms is None else max(path.heard_ms, heard_at_ms)

    def _is_silent(self, now_ms: int) -> bool:
        return all(
            path.is_silent(now_ms=now_ms, timeout_ms=self._timeout_ms)
            for path in self._paths.values()
        )

    def _judge_heard(self, now_ms: int) -> Verdict:
        if self._peer_loop_age_ms >= self._stall_ms:
            return self._say(Standing.STALLED, Rule.PEER_LOOP_STALLED)
        if PathState.UP not in self.path_states(now_ms).values():
            return self._say(Standing.HEARD, Rule.HEARD_ONE_WAY)
        return self._say(Standing.HEARD, Rule.HEARD)

    def _path_state(self, path: _Path, now_ms: int) -> PathState:
        if path.is_silent(now_ms=now_ms, timeout_ms=self._timeout_ms):
            return PathState.SILENT
        # While we were late we sent nothing, so there was nothing new to echo.
        heard_us_ms = max(path.echo_ms, self._listening_since_ms)
        if not self._is_late(now_ms) and now_ms - heard_us_ms >= self._timeout_ms:
            return PathState.ONE_WAY_OUT
        return PathState.UP

    def _say(
        self, standing: Standing, rule: Rule, *, proof: Proof | None = None, silent: bool = False
    ) -> Verdict:
        return Verdict(
            standing=standing,
            rule=rule,
            incarnation=self._incarnation,
            proof=proof,
            silent=silent,
        )
