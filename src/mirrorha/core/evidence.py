"""Without an arbiter: what stands in the place of the absent peer's part (design, 5.4).

To remove a peer that cannot be asked takes its durable word that it gave up its standing, or a
confirmed stop, or, in `available`, isolation checks that answer while it is silent. The last two
count only inside an unbroken session as PRIM or SECOND of this incarnation: who was away cannot
know what happened meanwhile. A refusing port proves nothing here.
"""

from __future__ import annotations

import enum
from typing import Final

from mirrorha.core.effects import AskFencer, RunIsolationChecks
from mirrorha.core.events import FencerAnswered, IsolationChecked
from mirrorha.core.messages import Standing
from mirrorha.core.state import Kind, Stage, State
from mirrorha.core.turn import Turn

# How long an answer of the isolation checks counts: as long as it takes to act on it at once.
ISOLATION_FRESH_MS: Final = 1_000
CHECK_EVERY_MS: Final = 500
# Answers that are further apart are not in a row: a check may take two seconds.
ROW_GAP_MS: Final = 3_000
# A cable that is plugged in again brings back both, whatever answers and the peer, and what answers
# may be quicker. So the peer must stay silent for the whole timeout from an answer on; and, once it
# is lost, through three answers, in which a session would have been opened anew.
ANSWERS_MIN: Final = 3
# Checks begin when so many beats are missing: two lost datagrams in a row are routine.
BEATS_MISSED: Final = 2
# What the peer sends while this node stands still can be lost, and some pauses could fill a row. So
# a pause counts for one beat at most, and for none if it is longer than this. Loops are late at
# times: to begin the row anew at each would keep a busy node from ever going on.
BEATS_IN_HOLE_MAX: Final = 2
HOLE_MAX_MS: Final = 100  # however quick the beats are
# Every loop turns some milliseconds late: of short pulses much would be lost, step by step.
LATE_MS: Final = 10
FENCE_EVERY_MS: Final = 5_000
# After this time without an answer, the request is made again.
ANSWER_MAX_MS: Final = 10_000


class Proof(enum.Enum):
    """Why this node may go on without asking the peer."""

    NONE = "no-proof"
    GAVE_UP = "peer-gave-up-its-standing"
    STOPPED = "peer-confirmed-stopped"
    NOT_CUT_OFF = "isolation-checks-answered"


def proof(turn: Turn) -> Proof:
    """What there is at this moment to remove the peer from our copy."""
    s, pair = turn.s, turn.s.pair
    if pair.gave_up is not None and pair.gave_up == s.meta.copy:
        return Proof.GAVE_UP
    if not is_in_session(s) or s.link:
        return Proof.NONE
    if pair.stopped and pair.stopped == s.paired:
        return Proof.STOPPED
    if _is_available(s) and _is_silent(turn) and _is_connected(turn):
        return Proof.NOT_CUT_OFF
    return Proof.NONE


def is_in_session(s: State) -> bool:
    """This incarnation has been half of the pair that our copy names, without a break."""
    pair = s.is_mirrored or s.standing is Standing.FOLLOWER
    copy = s.meta.copy
    return pair and bool(s.paired) and copy is not None and s.epoch == copy.epoch


def ask_fencer(turn: Turn) -> None:
    """While this node would go on alone, and has frozen."""
    s, pair = turn.s, turn.s.pair
    decision = s.decision
    if decision is None or decision.kind is not Kind.ALONE or not is_in_session(s) or s.link:
        return
    if s.settings.fencer and turn.now_ms >= pair.fence_ms and _is_lost(turn):
        pair.fencing = s.next_token()
        pair.fence_ms = turn.now_ms + ANSWER_MAX_MS
        turn.do(AskFencer(pair.fencing, incarnation=s.paired))


def on_fencer(turn: Turn, event: FencerAnswered) -> None:
    s, pair = turn.s, turn.s.pair
    if not event.token or event.token != pair.fencing:
        s.stale += 1
        return
    pair.fencing = 0
    pair.fence_ms = turn.now_ms + FENCE_EVERY_MS
    if event.stopped:
        pair.stopped = s.paired
        turn.note("fenced", f"{s.other} is confirmed to be stopped")
        turn.ask_now()


def on_isolation(turn: Turn, event: IsolationChecked) -> None:
    s, pair = turn.s, turn.s.pair
    if not event.token or event.token != pair.checking:
        s.stale += 1
        return
    pair.checking = 0
    pair.check_ms = turn.now_ms + CHECK_EVERY_MS
    if not event.all_answered:
        _end_row(s)
        return
    if pair.answered_ms is None or turn.now_ms - pair.answered_ms > ROW_GAP_MS:
        _end_row(s)
        pair.looked_ms = turn.now_ms  # what was heard before it says nothing
    pair.answered_ms = turn.now_ms
    if _is_silent(turn) and not s.link and not _is_first_the_prims(s):
        pair.answers += 1
        turn.ask_now()


def _is_first_the_prims(s: State) -> bool:
    """A SECOND begins to count when the PRIM has had its head start: else that is none."""
    decision = s.decision
    undecided = decision is None or decision.stage is Stage.HEAD_START
    return s.standing is Standing.FOLLOWER and undecided


def look(turn: Turn, listened_at_ms: int | None) -> None:
    """Once per step: how long has the peer been silent to a node that is connected, and listens?

    Args:
        listened_at_ms: when the heartbeats were last surely listened to, as far as it is known.
    """
    s, pair = turn.s, turn.s.pair
    if not _is_available(s):
        return
    hole_ms, pair.looked_ms = turn.now_ms - pair.looked_ms, turn.now_ms
    if _has_heard(turn):
        _end_row(s)
    elif pair.answered_ms is not None:
        deaf_ms = 0 if listened_at_ms is None else turn.now_ms - listened_at_ms
        pair.listened_ms += _listened_ms(s, hole_ms, deaf_ms)
    _check(turn)


def _has_heard(turn: Turn) -> bool:
    """Anything of the peer since the last step."""
    pair, signs = turn.s.pair, turn.s.detector.signs
    if pair.signs == signs:
        return False
    pair.signs, pair.sign_ms = signs, turn.now_ms
    return True


def _check(turn: Turn) -> None:
    """Ask the isolation checks as soon as beats are missing: the silence counts from an answer."""
    s, pair = turn.s, turn.s.pair
    unheard_ms = turn.now_ms - pair.sign_ms
    is_missing = unheard_ms > BEATS_MISSED * s.settings.pulse_ms
    if is_missing and is_in_session(s) and turn.now_ms >= pair.check_ms:
        pair.checking = s.next_token()
        pair.check_ms = turn.now_ms + ANSWER_MAX_MS
        turn.do(RunIsolationChecks(pair.checking))


def _listened_ms(s: State, hole_ms: int, deaf_ms: int) -> int:
    """What the time since the last step counts.

    Args:
        hole_ms: that time.
        deaf_ms: how long ago the heartbeats were last surely listened to: up to a pulse if all is
            well, so it is not what has passed.
    """
    pulse_ms = s.settings.pulse_ms
    too_long = max(hole_ms, deaf_ms) > max(BEATS_IN_HOLE_MAX * pulse_ms, HOLE_MAX_MS)
    return 0 if too_long else min(hole_ms, pulse_ms + LATE_MS)


def _end_row(s: State) -> None:
    s.pair.answers = s.pair.listened_ms = 0
    s.pair.answered_ms = None


def forget(turn: Turn) -> None:
    """A new session began: what was learnt of the peer's absence is over."""
    pair = turn.s.pair
    pair.stopped = pair.fencing = pair.checking = 0
    pair.fence_ms = pair.check_ms = 0
    _end_row(turn.s)
    pair.why = ""


def why_not(turn: Turn) -> str:
    """Why this node does not go on without its peer, and what would end that."""
    s, meta = turn.s, turn.s.meta
    other = s.other
    if meta.disputed:
        return (
            "both nodes acknowledged writes apart from each other (a split): 'mirrorha resync NODE "
            f"--full' gives up those of {s.me} or of {other}"
        )
    if meta.promised is not None:
        return f"a change was being agreed when {other} was lost: both must meet again to settle it"
    if meta.outdated:
        return f"this node gave up its standing to {other}: waiting for it"
    if not is_in_session(s):
        return (
            f"both nodes were in sync and this one was not alone last: waiting for {other}, "
            "for it may have gone on. Start it; no command overrides this yet"
        )
    if _is_available(s):
        return (
            f"{other} cannot be reached, and is not silent everywhere or not all isolation checks "
            f"answer: this node may be the one that is cut off. It goes on once {other} is back, "
            "or once they all answer"
        )
    return (
        f"{other} is lost, and nothing proves that it stopped (split_brain = 'consistent'): it "
        "must come back. No command overrides this yet; an arbiter would spare the wait"
    )


def _is_available(s: State) -> bool:
    return s.settings.split_brain == "available"


def _is_silent(turn: Turn) -> bool:
    """No incarnation of the peer was heard for the whole timeout, on any path."""
    return turn.s.detector.verdict(turn.now_ms).silent


def _is_connected(turn: Turn) -> bool:
    """Isolation checks answer, and have for so long that the peer would have been heard too."""
    pair = turn.s.pair
    fresh = pair.answered_ms is not None and turn.now_ms - pair.answered_ms <= ISOLATION_FRESH_MS
    return fresh and _is_row(turn.s)


def _is_row(s: State) -> bool:
    least_ms = s.settings.timeout_ms + _head_start_ms(s)
    return s.pair.answers >= ANSWERS_MIN and s.pair.listened_ms >= least_ms


def _head_start_ms(s: State) -> int:
    """For how much longer a SECOND listens, unless its decision needs no head start."""
    proven = s.decision is not None and s.decision.proven
    return s.settings.takeover_delay_ms if s.standing is Standing.FOLLOWER and not proven else 0


def _is_lost(turn: Turn) -> bool:
    return turn.s.detector.verdict_of(turn.s.paired, turn.now_ms).lost
