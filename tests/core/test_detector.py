"""The detector's rules, one by one."""

from __future__ import annotations

import pytest

from mirrorha.core.detector import (
    Detector,
    IncarnationChanged,
    PathState,
    PeerBeat,
    Proof,
    Rule,
    Standing,
)
from mirrorha.errors import InvariantViolation

PULSE_MS = 250
TIMEOUT_MS = 3_000
STALL_MS = 2_000
A, B = "10.0.1.10 → 10.0.2.10", "192.168.9.1 → 192.168.9.2"


class Bench:
    """A detector, the time, and beats that arrive at the moment they are told."""

    def __init__(self, *paths: str) -> None:
        self.now_ms = 1_000
        self.sequence = 0
        self.detector = Detector(
            paths or (A, B),
            pulse_ms=PULSE_MS,
            timeout_ms=TIMEOUT_MS,
            stall_ms=STALL_MS,
            now_ms=self.now_ms,
        )

    def hear(
        self,
        path: str = A,
        *,
        incarnation: int = 1,
        echo: int | None = None,
        loop_age_ms: int = 0,
        goodbye: bool = False,
    ) -> IncarnationChanged | None:
        self.sequence += 1
        beat = PeerBeat(
            incarnation=incarnation,
            sequence=self.sequence,
            echo_sequence=self.sequence if echo is None else echo,
            loop_age_ms=loop_age_ms,
            goodbye=goodbye,
        )
        return self.detector.heard(path, beat=beat, heard_at_ms=self.now_ms, now_ms=self.now_ms)

    def wait(self, wait_ms: int, *, hear_on: tuple[str, ...] = (), echo: int | None = None) -> None:
        """Let time pass, ticking when due, and hearing a beat at every pulse on some paths."""
        until_ms = self.now_ms + wait_ms
        while self.now_ms < until_ms:
            self.now_ms = min(until_ms, self.detector.next_deadline_ms())
            self.detector.tick(self.now_ms)
            for path in hear_on:
                self.hear(path, echo=echo)

    def be_late(self, gap_ms: int) -> None:
        self.now_ms += gap_ms
        self.detector.tick(self.now_ms)

    @property
    def standing(self) -> Standing:
        return self.detector.verdict(self.now_ms).standing

    @property
    def rule(self) -> Rule:
        return self.detector.verdict(self.now_ms).rule

    @property
    def proof(self) -> Proof | None:
        return self.detector.verdict(self.now_ms).proof

    def state(self, path: str) -> PathState:
        return self.detector.path_states(self.now_ms)[path]


def test_a_peer_that_was_never_heard_is_undecided_first_and_lost_then() -> None:
    bench = Bench()
    bench.wait(TIMEOUT_MS - 1)
    assert (bench.standing, bench.rule) == (Standing.UNDECIDED, Rule.NOT_HEARD_YET)
    bench.wait(1)
    assert (bench.standing, bench.rule) == (Standing.LOST, Rule.NEVER_HEARD)
    assert bench.proof is None


def test_a_peer_is_lost_after_the_timeout_and_not_a_millisecond_before() -> None:
    bench = Bench()
    bench.wait(5_000, hear_on=(A, B))
    bench.wait(TIMEOUT_MS - 1)
    assert (bench.standing, bench.rule) == (Standing.HEARD, Rule.HEARD)
    bench.wait(1)
    assert (bench.standing, bench.rule) == (Standing.LOST, Rule.SILENT_EVERYWHERE)
    assert bench.detector.verdict(bench.now_ms).silent


def test_one_path_is_enough() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    bench.wait(2 * TIMEOUT_MS, hear_on=(B,))
    assert bench.standing is Standing.HEARD
    assert (bench.state(A), bench.state(B)) == (PathState.SILENT, PathState.UP)


def test_a_lost_peer_that_is_heard_again_is_heard() -> None:
    bench = Bench()
    bench.hear()
    bench.wait(TIMEOUT_MS)
    assert bench.standing is Standing.LOST
    assert bench.hear() is None
    assert bench.standing is Standing.HEARD


def test_a_beat_counts_from_when_it_arrived_not_from_when_it_was_told() -> None:
    bench = Bench()
    bench.hear(B)
    bench.wait(1_000)
    beat = PeerBeat(incarnation=1, sequence=2)
    bench.detector.heard(A, beat=beat, heard_at_ms=bench.now_ms - 600, now_ms=bench.now_ms)
    bench.wait(TIMEOUT_MS - 600)
    assert bench.standing is Standing.LOST


def test_an_older_beat_told_later_takes_nothing_back() -> None:
    bench = Bench()
    bench.hear(B)
    bench.wait(1_000)
    bench.sequence += 10
    newest_ms = bench.now_ms
    bench.hear(loop_age_ms=5_000)
    old = PeerBeat(incarnation=1, sequence=bench.sequence - 1, loop_age_ms=0)
    bench.detector.heard(A, beat=old, heard_at_ms=newest_ms - 700, now_ms=newest_ms)
    assert bench.rule is Rule.PEER_LOOP_STALLED
    bench.wait(TIMEOUT_MS - 1)
    assert bench.standing is not Standing.LOST


# Own lateness


def test_after_we_were_late_nobody_is_judged_for_a_full_interval() -> None:
    bench = Bench()
    bench.hear()
    bench.be_late(60_000)
    assert (bench.standing, bench.rule) == (Standing.UNDECIDED, Rule.LISTENED_LATE)
    bench.wait(TIMEOUT_MS - 1)
    assert (bench.standing, bench.rule) == (Standing.UNDECIDED, Rule.LISTENED_LATE)
    bench.wait(1)
    assert (bench.standing, bench.rule) == (Standing.LOST, Rule.SILENT_EVERYWHERE)


def test_a_verdict_asked_for_before_the_late_tick_knows_it_too() -> None:
    bench = Bench()
    bench.hear()
    bench.now_ms += 60_000
    assert (bench.standing, bench.rule) == (Standing.UNDECIDED, Rule.LISTENED_LATE)


def test_late_is_more_than_half_the_timeout_after_the_tick_was_due() -> None:
    for gap_ms, late in (
        (PULSE_MS + TIMEOUT_MS // 2, False),
        (PULSE_MS + TIMEOUT_MS // 2 + 1, True),
    ):
        bench = Bench()
        bench.hear()
        bench.wait(TIMEOUT_MS - gap_ms)
        bench.be_late(gap_ms)
        assert (bench.rule is Rule.LISTENED_LATE) is late


def test_being_late_after_the_peer_was_lost_takes_the_verdict_back() -> None:
    # Who slept for an hour must not act on what it believed before: the peer may serve by now.
    bench = Bench()
    bench.hear()
    bench.wait(TIMEOUT_MS)
    assert bench.standing is Standing.LOST
    bench.be_late(3_600_000)
    assert bench.standing is Standing.UNDECIDED


def test_a_late_listener_counts_as_our_own_lateness() -> None:
    bench = Bench()
    bench.hear()
    listened_at_ms = bench.now_ms
    while bench.now_ms - listened_at_ms < 2 * TIMEOUT_MS:
        bench.now_ms += PULSE_MS
        bench.detector.tick(bench.now_ms, listened_at_ms=listened_at_ms)
    assert (bench.standing, bench.rule) == (Standing.UNDECIDED, Rule.LISTENED_LATE)
    bench.wait(TIMEOUT_MS)
    assert bench.standing is Standing.LOST


def test_a_proof_needs_no_listening() -> None:
    bench = Bench()
    bench.hear()
    bench.detector.goodbye(1, now_ms=bench.now_ms)
    bench.be_late(60_000)
    verdict = bench.detector.verdict(bench.now_ms)
    assert verdict.lost
    assert verdict.proof is Proof.GOODBYE
    assert not verdict.silent, "silence was not established: we were not listening"


# One way


def test_a_path_whose_echo_stands_still_is_one_way_out() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    frozen = bench.sequence - 1  # A's last; the very last was B's
    for _ in range(TIMEOUT_MS // PULSE_MS):
        assert bench.state(A) is PathState.UP
        bench.wait(PULSE_MS, hear_on=(A,), echo=frozen)
        bench.hear(B)
    assert (bench.state(A), bench.state(B)) == (PathState.ONE_WAY_OUT, PathState.UP)
    assert bench.rule is Rule.HEARD
    bench.hear(A)
    assert bench.state(A) is PathState.UP


def test_a_peer_that_hears_us_on_no_path_is_heard_one_way() -> None:
    bench = Bench()
    bench.wait(2 * TIMEOUT_MS, hear_on=(A, B), echo=0)
    assert (bench.standing, bench.rule) == (Standing.HEARD, Rule.HEARD_ONE_WAY)


def test_a_path_that_comes_back_has_a_timeout_to_echo() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A,))
    bench.wait(2 * TIMEOUT_MS)
    bench.hear(A, echo=0)
    assert bench.state(A) is PathState.UP
    bench.wait(TIMEOUT_MS, hear_on=(A,), echo=0)
    assert bench.state(A) is PathState.ONE_WAY_OUT


def test_our_own_lateness_blames_no_echo() -> None:
    # Late by less than the timeout, so the path was never silent: only its echo got old, because
    # a node that does not run does not send.
    bench = Bench()
    bench.wait(1_000, hear_on=(A,))
    frozen = bench.sequence
    bench.wait(1_200, hear_on=(A,), echo=frozen)
    bench.be_late(1_900)
    bench.hear(A, echo=frozen)
    assert bench.state(A) is PathState.UP
    assert bench.rule is Rule.HEARD
    bench.wait(TIMEOUT_MS, hear_on=(A,), echo=frozen)
    assert bench.state(A) is PathState.ONE_WAY_OUT


# Where sessions go


def test_a_session_leaves_a_silent_path_before_the_peer_could_be_lost() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    bench.wait(TIMEOUT_MS // 2 - 1, hear_on=(B,))
    assert bench.detector.is_passable(A, bench.now_ms)
    bench.wait(PULSE_MS, hear_on=(B,))
    assert not bench.detector.is_passable(A, bench.now_ms)
    assert bench.detector.is_passable(B, bench.now_ms)


def test_a_session_leaves_a_path_on_which_the_peer_does_not_hear_us() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A,))
    bench.wait(TIMEOUT_MS // 2 + PULSE_MS, hear_on=(A,), echo=0)
    assert not bench.detector.is_passable(A, bench.now_ms)
    bench.hear(A)
    assert bench.detector.is_passable(A, bench.now_ms)


def test_two_lost_beats_move_no_session() -> None:
    detector = Detector((A, B), pulse_ms=1_000, timeout_ms=3_000, now_ms=0)
    beat = PeerBeat(incarnation=1, sequence=1, echo_sequence=1)
    detector.heard(A, beat=beat, heard_at_ms=0, now_ms=0)
    for now_ms in (1_000, 2_000, 2_999):
        detector.tick(now_ms)
        assert detector.is_passable(A, now_ms)


def test_a_path_of_a_new_incarnation_has_an_interval_to_be_heard() -> None:
    bench = Bench()
    bench.wait(5_000, hear_on=(A, B))
    bench.hear(B, incarnation=2)
    assert bench.detector.is_passable(A, bench.now_ms)


def test_what_we_were_too_late_to_hear_moves_no_session() -> None:
    bench = Bench()
    bench.wait(5_000, hear_on=(A, B))
    bench.be_late(TIMEOUT_MS)
    assert bench.detector.is_passable(A, bench.now_ms)


# Stalled


def test_a_peer_whose_loop_does_not_turn_is_stalled_and_never_lost() -> None:
    bench = Bench()
    bench.hear(loop_age_ms=STALL_MS - 1)
    assert bench.standing is Standing.HEARD
    for _ in range(100):
        bench.wait(PULSE_MS)
        bench.hear(loop_age_ms=STALL_MS)
        assert (bench.standing, bench.rule) == (Standing.STALLED, Rule.PEER_LOOP_STALLED)
    bench.hear(loop_age_ms=0)
    assert bench.standing is Standing.HEARD


# Proofs of death


def test_a_goodbye_loses_the_peer_at_once_though_it_is_heard() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    bench.hear(goodbye=True)
    assert (bench.standing, bench.rule) == (Standing.LOST, Rule.GOODBYE)
    bench.hear(B)  # sent before it, or by what is left of it
    assert bench.rule is Rule.GOODBYE


def test_a_goodbye_of_a_dead_incarnation_means_nothing_for_the_living() -> None:
    bench = Bench()
    bench.hear(incarnation=4)
    bench.detector.goodbye(3, now_ms=bench.now_ms)
    bench.hear(incarnation=3, goodbye=True)
    assert bench.standing is Standing.HEARD


def test_a_goodbye_may_be_the_first_thing_heard() -> None:
    bench = Bench()
    bench.detector.goodbye(2, now_ms=bench.now_ms)
    assert (bench.rule, bench.detector.incarnation) == (Rule.GOODBYE, 2)


def test_a_goodbye_ends_with_the_next_incarnation() -> None:
    bench = Bench()
    bench.hear(goodbye=True)
    assert bench.hear(incarnation=2) == IncarnationChanged(dead=1, alive=2)
    assert (bench.standing, bench.proof) == (Standing.HEARD, None)


def test_refused_on_every_path_loses_the_peer_before_it_is_silent() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    probed_ms = bench.now_ms
    bench.wait(50)
    bench.detector.refused_everywhere(1, probed_since_ms=probed_ms, now_ms=bench.now_ms)
    verdict = bench.detector.verdict(bench.now_ms)
    assert (verdict.rule, verdict.silent) == (Rule.REFUSED_EVERYWHERE, False)
    bench.wait(TIMEOUT_MS)
    verdict = bench.detector.verdict(bench.now_ms)
    assert (verdict.rule, verdict.silent) == (Rule.REFUSED_EVERYWHERE, True)


@pytest.mark.parametrize("beat_first", [True, False])
def test_a_beat_after_the_probe_began_contradicts_it(beat_first: bool) -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    probed_ms = bench.now_ms
    bench.wait(50)
    if beat_first:
        bench.hear()
    bench.detector.refused_everywhere(1, probed_since_ms=probed_ms, now_ms=bench.now_ms)
    if not beat_first:
        bench.hear()
    assert bench.standing is Standing.HEARD


def test_refusals_prove_nothing_of_a_peer_that_was_never_met_or_lives_anew() -> None:
    bench = Bench()
    bench.detector.refused_everywhere(1, probed_since_ms=bench.now_ms, now_ms=bench.now_ms)
    assert bench.standing is Standing.UNDECIDED
    bench.hear(incarnation=2)
    bench.wait(10)
    bench.detector.refused_everywhere(1, probed_since_ms=bench.now_ms, now_ms=bench.now_ms)
    assert bench.standing is Standing.HEARD


def test_refusals_do_not_replace_a_goodbye() -> None:
    bench = Bench()
    bench.hear(goodbye=True)
    bench.wait(10)
    bench.detector.refused_everywhere(1, probed_since_ms=bench.now_ms, now_ms=bench.now_ms)
    assert bench.rule is Rule.GOODBYE


def test_a_new_incarnation_is_the_death_of_the_old() -> None:
    bench = Bench()
    assert bench.hear(incarnation=4) is None
    assert bench.hear(incarnation=6) == IncarnationChanged(dead=4, alive=6)
    assert bench.hear(incarnation=5) is None, "beats of the dead say nothing"
    of_old = bench.detector.verdict_of(4, bench.now_ms)
    assert (of_old.standing, of_old.rule) == (Standing.LOST, Rule.INCARNATION_CHANGED)
    assert of_old.proof is Proof.INCARNATION_CHANGED
    assert bench.detector.verdict_of(6, bench.now_ms).standing is Standing.HEARD
    assert bench.detector.verdict_of(7, bench.now_ms).rule is Rule.NOT_HEARD_YET


def test_beats_of_the_dead_keep_nobody_alive() -> None:
    bench = Bench()
    bench.hear(incarnation=6)
    for _ in range(TIMEOUT_MS // PULSE_MS):
        bench.wait(PULSE_MS)
        bench.hear(incarnation=5)
    assert bench.rule is Rule.SILENT_EVERYWHERE


def test_a_new_incarnation_met_by_hello_has_a_full_interval_to_be_heard() -> None:
    bench = Bench()
    bench.wait(1_000, hear_on=(A, B))
    bench.wait(TIMEOUT_MS - 1)
    met = bench.detector.meet(2, now_ms=bench.now_ms)
    assert met == IncarnationChanged(dead=1, alive=2)
    bench.wait(TIMEOUT_MS - 1)
    assert (bench.standing, bench.rule) == (Standing.UNDECIDED, Rule.NOT_HEARD_YET)
    bench.wait(1)
    assert (bench.standing, bench.rule) == (Standing.LOST, Rule.NEVER_HEARD)


def test_the_echo_of_an_old_incarnation_is_not_held_against_the_new() -> None:
    bench = Bench()
    bench.sequence = 10_000
    bench.wait(1_000, hear_on=(A,))
    bench.hear(A, incarnation=2, echo=5)
    bench.wait(TIMEOUT_MS - PULSE_MS)
    bench.hear(A, incarnation=2, echo=6)
    bench.wait(PULSE_MS)
    assert bench.state(A) is PathState.UP


# What callers must not do


def test_time_does_not_run_backwards() -> None:
    bench = Bench()
    for call in (
        lambda: bench.detector.tick(bench.now_ms - 1),
        lambda: bench.detector.verdict(bench.now_ms - 1),
        lambda: bench.detector.goodbye(1, now_ms=bench.now_ms - 1),
    ):
        with pytest.raises(InvariantViolation, match="backwards"):
            call()


def test_a_beat_from_the_future_is_a_bug_of_ours() -> None:
    bench = Bench()
    beat = PeerBeat(incarnation=1, sequence=1)
    with pytest.raises(InvariantViolation, match="by one clock"):
        bench.detector.heard(A, beat=beat, heard_at_ms=bench.now_ms + 1, now_ms=bench.now_ms)


@pytest.mark.parametrize(
    ("paths", "pulse_ms", "timeout_ms", "stall_ms"),
    [
        ((), 250, 3_000, 2_000),
        ((A, A), 250, 3_000, 2_000),
        ((A,), 0, 3_000, 2_000),
        ((A,), 250, 749, 2_000),
        ((A,), 250, 3_000, 0),
    ],
)
def test_nonsense_is_refused(
    paths: tuple[str, ...], pulse_ms: int, timeout_ms: int, stall_ms: int
) -> None:
    with pytest.raises(InvariantViolation):
        Detector(paths, pulse_ms=pulse_ms, timeout_ms=timeout_ms, stall_ms=stall_ms, now_ms=0)
