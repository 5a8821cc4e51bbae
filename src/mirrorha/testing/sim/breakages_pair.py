"""Rules of the pair without an arbiter (5.4) that can be taken out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mirrorha.core import evidence, goodbye, lineage, pairwise
from mirrorha.core.detector import Proof as DeathProof
from mirrorha.core.evidence import Proof
from mirrorha.core.messages import RegisterCopy, Standing
from mirrorha.core.state import State
from mirrorha.core.turn import Turn
from mirrorha.testing.sim.breakage import Breakage, Fn, answer


def _port_proves_death(real: Fn) -> Fn:
    def proof(turn: Turn) -> Proof:
        s = turn.s
        refused = s.detector.verdict(turn.now_ms).proof is DeathProof.REFUSED_EVERYWHERE
        if refused and not s.link and evidence.is_in_session(s):
            return Proof.STOPPED
        found: Proof = real(turn)
        return found

    return proof


def _restarted_starts_alone(real: Fn) -> Fn:
    def proof(turn: Turn) -> Proof:
        s = turn.s
        if s.standing is Standing.WAITING and not s.link and not s.meta.outdated:
            return Proof.STOPPED
        found: Proof = real(turn)
        return found

    return proof


def _grants_anybody(_real: Fn) -> Fn:
    def may_grant(s: State) -> bool:
        return s.peer is not None

    return may_grant


def _grants_both(_real: Fn) -> Fn:
    def on_heard(turn: Turn, theirs: RegisterCopy, *, agreed: bool) -> None:
        s = turn.s
        if theirs.leaving and s.peer is not None:
            s.pair.grants = s.peer.incarnation

    return on_heard


def _not_rotated(real: Fn) -> Fn:
    def rotated(
        chain: tuple[str, ...], base: str | None, *, generation: str
    ) -> tuple[tuple[str, ...], str | None]:
        if chain:
            return chain, base
        first: tuple[tuple[str, ...], str | None] = real(chain, base, generation=generation)
        return first

    return rotated


def _counts_pauses(_real: Fn) -> Fn:
    def listened_ms(_s: State, hole_ms: int, deaf_ms: int) -> int:
        return max(hole_ms, deaf_ms)

    return listened_ms


def _three_answers_do(_real: Fn) -> Fn:
    def is_row(s: State) -> bool:
        return s.pair.answers >= evidence.ANSWERS_MIN

    return is_row


OF_PAIR: Final[Mapping[str, Breakage]] = {
    "commit-without-promise": Breakage(
        "5.4 a change lands before the peer has promised it",
        pairwise,
        "_may_land",
        answer(value=True),
        mode="consistent",
    ),
    "port-proves-death": Breakage(
        "5.4 consistent believes a refusing port",
        evidence,
        "proof",
        _port_proves_death,
        mode="consistent",
    ),
    "restarted-starts-alone": Breakage(
        "5.4 a restarted node goes alone though it was not alone last",
        evidence,
        "proof",
        _restarted_starts_alone,
        mode="consistent",
    ),
    "granted-also-leaves": Breakage(
        "5.4 who granted a goodbye asks for one as well",
        goodbye,
        "may_ask",
        answer(value=True),
        also="gave-up-still-grants",
        mode="consistent",
        directed="test_a_node_that_has_granted_does_not_ask",
    ),
    "gave-up-still-grants": Breakage(
        "5.4 who gave up its standing still grants",
        goodbye,
        "_may_grant",
        _grants_anybody,
        mode="consistent",
    ),
    "both-granted": Breakage(
        "5.4 of two that ask at once both are granted",
        goodbye,
        "on_heard",
        _grants_both,
        mode="consistent",
    ),
    "doubt-ignored": Breakage(
        "5.4 prepared, not known to be committed, and going alone",
        pairwise,
        "is_in_doubt",
        answer(value=False),
        mode="available",
    ),
    "split-ignored": Breakage(
        "5.4 a split is not reported",
        pairwise,
        "_report_split",
        answer(value=None),
        mode="available",
    ),
    "nobody-gives-way": Breakage(
        "5.4 the losing side of a split serves on",
        pairwise,
        "_yield_to",
        answer(value=None),
        mode="available",
    ),
    "epochs-fall": Breakage(
        "5.4 the winner of a split stays below the other's epoch",
        pairwise,
        "_raise_epoch",
        answer(value=None),
        mode="available",
    ),
    "first-answer-counts": Breakage(
        "5.4 an isolation check that answers needs no more silence",
        evidence,
        "_is_row",
        answer(value=True),
        mode="available",
        directed="test_a_network_that_comes_back_whole_splits_nobody",
    ),
    "short-row": Breakage(
        "5.4 the peer need not be silent for the whole timeout to a node that is connected",
        evidence,
        "_is_row",
        _three_answers_do,
        mode="available",
        directed="test_a_pause_of_the_peer_when_all_comes_back_splits_nobody",
    ),
    "row-through-a-pause": Breakage(
        "5.4 silence counts in which the node did not listen",
        evidence,
        "_listened_ms",
        _counts_pauses,
        mode="available",
        directed="test_answers_while_nobody_listens_to_heartbeats_split_nobody",
    ),
    "row-through-a-beat": Breakage(
        "5.4 a beat between two answers does not end the row",
        evidence,
        "_has_heard",
        answer(value=False),
        mode="available",
        directed="test_a_beat_between_two_answers_ends_the_row",
    ),
    "silence-not-needed": Breakage(
        "5.4 available goes on while the peer is heard",
        evidence,
        "_is_silent",
        answer(value=True),
        mode="available",
        directed="test_a_refusing_port_needs_the_silence_too",
    ),
    "rotate": Breakage(
        "5.1.2 nothing rotates when a node goes on alone",
        lineage,
        "rotated",
        _not_rotated,
        mode="available",
    ),
}
