"""What holds of the detector whatever happens, and the mirror test."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core.detector import (
    Detector,
    IncarnationChanged,
    PeerBeat,
    Proof,
    Rule,
    Standing,
    Verdict,
)

PULSE_MS = 100
TIMEOUT_MS = 1_000
STALL_MS = 700
# A tick is due a pulse after the last call; late is more than half the timeout after that.
LATE_AFTER_MS = PULSE_MS + TIMEOUT_MS // 2
PATHS = ("a", "b")


@attrs.frozen
class Step:
    """Time passes, then one thing happens."""

    gap_ms: int
    what: str
    path: str = "a"
    incarnation: int = 1
    delay_ms: int = 0
    echo: int | None = None
    loop_age_ms: int = 0


gaps = st.one_of(
    st.integers(0, PULSE_MS),
    st.integers(0, LATE_AFTER_MS),
    st.sampled_from([LATE_AFTER_MS, LATE_AFTER_MS + 1, TIMEOUT_MS - 1, TIMEOUT_MS]),
    st.integers(0, 3 * TIMEOUT_MS),
)
on_time = st.integers(0, LATE_AFTER_MS)


def steps(what: list[str], gap: st.SearchStrategy[int] = gaps) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.builds(
            Step,
            gap_ms=gap,
            what=st.sampled_from(what),
            path=st.sampled_from(PATHS),
            incarnation=st.integers(1, 3),
            delay_ms=st.integers(0, 300),
            echo=st.none() | st.integers(0, 50),
            loop_age_ms=st.sampled_from([0, 0, STALL_MS - 1, STALL_MS, 10_000]),
        ),
        max_size=60,
    )


QUIET = ["tick", "tick", "tick", "late listener", "meet", "beat"]
ALL = [*QUIET, "goodbye", "goodbye beat", "refused"]


def make() -> Detector:
    return Detector(PATHS, pulse_ms=PULSE_MS, timeout_ms=TIMEOUT_MS, stall_ms=STALL_MS, now_ms=0)


class Run:
    """Drives a detector and keeps, apart from it, what an onlooker knows."""

    def __init__(self) -> None:
        self.detector = make()
        self.now_ms = 0
        self.sequence = 0
        self.heard_ms: int | None = None  # of the newest incarnation, on any path
        self.listening_since_ms = 0
        self.incarnation = 0
        self.proven = False

    def do(self, step: Step) -> Verdict:
        # Asked before anybody ticked: the verdict must hold then, too.
        self.now_ms += step.gap_ms
        if step.gap_ms > LATE_AFTER_MS:
            self.listening_since_ms = self.now_ms
        self.check(self.detector.verdict(self.now_ms))
        getattr(self, "_" + step.what.replace(" ", "_"))(step)
        verdict = self.detector.verdict(self.now_ms)
        self.check(verdict)
        return verdict

    def check(self, verdict: Verdict) -> None:
        """The two promises: nobody is lost by silence while heard, or while we were not there."""
        if verdict.standing is Standing.LOST and verdict.proof is None:
            assert self.heard_ms is None or self.now_ms - self.heard_ms >= TIMEOUT_MS
            assert self.now_ms - self.listening_since_ms >= TIMEOUT_MS
        if verdict.silent:
            assert self.now_ms - self.listening_since_ms >= TIMEOUT_MS
        if not self.proven:
            assert verdict.proof is None
        assert verdict.lost == (verdict.rule in LOST_RULES)

    def _tick(self, _step: Step) -> None:
        self.detector.tick(self.now_ms)

    def _late_listener(self, _step: Step) -> None:
        self.detector.tick(self.now_ms, listened_at_ms=self.now_ms - LATE_AFTER_MS - 1)
        self.listening_since_ms = self.now_ms

    def _meet(self, step: Step) -> None:
        self._know(step.incarnation)
        self.detector.meet(step.incarnation, now_ms=self.now_ms)

    def _beat(self, step: Step, *, goodbye: bool = False) -> None:
        self._know(step.incarnation)
        heard_at_ms = self.now_ms - step.delay_ms
        if step.incarnation == self.incarnation:
            self.heard_ms = max(heard_at_ms, self.heard_ms or heard_at_ms)
            self.proven = self.proven or goodbye
        self.sequence += 1
        self.detector.heard(
            step.path,
            beat=PeerBeat(
                incarnation=step.incarnation,
                sequence=self.sequence,
                echo_sequence=step.echo,
                loop_age_ms=step.loop_age_ms,
                goodbye=goodbye,
            ),
            heard_at_ms=heard_at_ms,
            now_ms=self.now_ms,
        )

    def _goodbye_beat(self, step: Step) -> None:
        self._beat(step, goodbye=True)

    def _goodbye(self, step: Step) -> None:
        self._know(step.incarnation)
        self.proven = self.proven or step.incarnation == self.incarnation
        self.detector.goodbye(step.incarnation, now_ms=self.now_ms)

    def _refused(self, step: Step) -> None:
        self.proven = self.proven or step.incarnation == self.incarnation
        self.detector.refused_everywhere(
            step.incarnation, probed_since_ms=self.now_ms - step.delay_ms, now_ms=self.now_ms
        )

    def _know(self, incarnation: int) -> None:
        if incarnation > self.incarnation:
            self.incarnation = incarnation
            self.heard_ms = None
            self.proven = False


LOST_RULES = {
    Rule.NEVER_HEARD,
    Rule.SILENT_EVERYWHERE,
    Rule.GOODBYE,
    Rule.REFUSED_EVERYWHERE,
    Rule.INCARNATION_CHANGED,
}


@given(steps(ALL))
def test_never_lost_by_silence_while_heard_or_while_we_were_late(plan: list[Step]) -> None:
    run = Run()
    for step in plan:
        run.do(step)


@given(steps(ALL))
def test_it_is_deterministic(plan: list[Step]) -> None:
    one, other = Run(), Run()
    for step in plan:
        assert one.do(step) == other.do(step)
        assert one.detector.next_deadline_ms() == other.detector.next_deadline_ms()


@given(steps(ALL))
def test_asking_changes_nothing(plan: list[Step]) -> None:
    asked, plain = Run(), Run()
    for step in plan:
        asked.do(step)
        for _ in range(2):
            asked.detector.path_states(asked.now_ms)
            asked.detector.verdict_of(2, asked.now_ms + 5)
        plain.now_ms += step.gap_ms
        getattr(plain, "_" + step.what.replace(" ", "_"))(step)
        assert asked.detector.verdict(asked.now_ms) == plain.detector.verdict(plain.now_ms)


@given(steps(ALL))
def test_silence_everywhere_loses_the_peer_in_the_end(plan: list[Step]) -> None:
    run = Run()
    for step in plan:
        run.do(step)
    run.detector.tick(run.now_ms)
    silent_since_ms = run.now_ms
    while not run.detector.verdict(run.now_ms).lost:
        due_ms = run.detector.next_deadline_ms()
        assert run.now_ms < due_ms <= run.now_ms + PULSE_MS
        run.now_ms = due_ms
        run.detector.tick(run.now_ms)
        assert run.now_ms <= silent_since_ms + TIMEOUT_MS, "one interval is enough"


@given(steps(ALL))
def test_nothing_changes_by_itself_before_the_next_deadline(plan: list[Step]) -> None:
    run = Run()
    for step in plan:
        run.do(step)
        before_ms = max(run.now_ms, run.detector.next_deadline_ms() - 1)
        assert run.detector.verdict(before_ms) == run.detector.verdict(run.now_ms)
        assert run.detector.path_states(before_ms) == run.detector.path_states(run.now_ms)


@given(steps(ALL), st.lists(on_time, max_size=20))
def test_once_lost_it_stays_lost_until_heard_or_we_are_late(
    plan: list[Step], waits: list[int]
) -> None:
    run = Run()
    for step in plan:
        run.do(step)
    run.detector.tick(run.now_ms)
    was_lost = False
    for wait_ms in [*waits, *[PULSE_MS] * 12]:
        run.now_ms += wait_ms
        lost = run.detector.verdict(run.now_ms).lost
        assert lost or not was_lost
        run.detector.tick(run.now_ms)
        was_lost = lost
    assert was_lost


@given(steps(ALL), st.integers(0, 5 * TIMEOUT_MS))
def test_a_goodbye_is_final_for_its_incarnation(plan: list[Step], gap_ms: int) -> None:
    run = Run()
    run.detector.goodbye(3, now_ms=0)
    run.incarnation, run.proven = 3, True
    for step in plan:  # nothing in a plan is newer than 3
        verdict = run.do(step)
        assert (verdict.standing, verdict.proof) == (Standing.LOST, Proof.GOODBYE)
    assert run.detector.verdict(run.now_ms + gap_ms).lost


@given(steps(ALL))
def test_every_change_of_incarnation_is_told_once(plan: list[Step]) -> None:
    run = Run()
    known = 0
    for step in plan:
        run.now_ms += step.gap_ms
        changed = run.detector.meet(step.incarnation, now_ms=run.now_ms)
        if known and step.incarnation > known:
            assert changed == IncarnationChanged(dead=known, alive=step.incarnation)
        else:
            assert changed is None
        known = max(known, step.incarnation)
        for dead in range(1, known):
            assert run.detector.verdict_of(dead, run.now_ms).proof is Proof.INCARNATION_CHANGED


# The mirror: two detectors over links that lose beats by direction and path.


@attrs.frozen
class Weather:
    """For one pulse: what gets lost from the left, from the right; who sleeps through it."""

    lost_from_left: frozenset[str]
    lost_from_right: frozenset[str]
    left_sleeps: bool
    right_sleeps: bool

    def mirrored(self) -> Weather:
        return Weather(
            self.lost_from_right, self.lost_from_left, self.right_sleeps, self.left_sleeps
        )


class Side:
    def __init__(self) -> None:
        self.detector = make()
        self.sequence = 0
        self.heard: dict[str, int] = {}

    def send(self, path: str) -> PeerBeat:
        self.sequence += 1
        return PeerBeat(incarnation=1, sequence=self.sequence, echo_sequence=self.heard.get(path))

    def hear(self, path: str, beat: PeerBeat, now_ms: int) -> None:
        self.heard[path] = beat.sequence
        self.detector.heard(path, beat=beat, heard_at_ms=now_ms, now_ms=now_ms)


def play(weathers: list[Weather]) -> list[tuple[object, object]]:
    """Both sides' views after every pulse."""
    left, right, views = Side(), Side(), []
    for number, weather in enumerate(weathers, start=1):
        now_ms = number * PULSE_MS
        awake = [
            side
            for side, sleeps in ((left, weather.left_sleeps), (right, weather.right_sleeps))
            if not sleeps
        ]
        for side in awake:
            side.detector.tick(now_ms)
        for path in PATHS:
            beats = {id(side): side.send(path) for side in awake}
            if left in awake and right in awake:
                if path not in weather.lost_from_left:
                    right.hear(path, beats[id(left)], now_ms)
                if path not in weather.lost_from_right:
                    left.hear(path, beats[id(right)], now_ms)
        views.append((view(left, now_ms), view(right, now_ms)))
    return views


def view(side: Side, now_ms: int) -> object:
    return side.detector.verdict(now_ms), side.detector.path_states(now_ms)


losses = st.sets(st.sampled_from(PATHS)).map(frozenset)
weather = st.builds(Weather, losses, losses, st.booleans(), st.booleans())
# Weather lasts: a change with each pulse would never silence anything.
weathers = st.lists(st.tuples(weather, st.integers(1, 15)), min_size=1, max_size=8).map(
    lambda spells: [one for one, pulses in spells for _ in range(pulses)]
)


@given(weathers)
def test_swapping_the_nodes_swaps_the_verdicts(plan: list[Weather]) -> None:
    as_is = play(plan)
    mirrored = play([one.mirrored() for one in plan])
    assert [(right, left) for left, right in as_is] == mirrored


def test_a_one_way_cut_is_seen_from_both_sides_as_what_it_is() -> None:
    calm = Weather(frozenset(), frozenset(), left_sleeps=False, right_sleeps=False)
    cut = Weather(frozenset(PATHS), frozenset(), left_sleeps=False, right_sleeps=False)
    left, right = play([calm] * 10 + [cut] * 11)[-1]
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[0].rule is Rule.HEARD_ONE_WAY
    assert right[0].rule is Rule.SILENT_EVERYWHERE
