"""Rules of an operator's force (5.5) that can be taken out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from mirrorha.core import acting, epochs, forcing, join, lineage, overriding, pairwise
from mirrorha.core.events import Command, Gone
from mirrorha.core.messages import PeerState, Standing
from mirrorha.core.register import Register
from mirrorha.core.state import State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Allow, Mode
from mirrorha.testing.sim.breakage import Breakage, Fn, answer


def _like_a_cas(_real: Fn) -> Fn:
    def forced_above(top: int, *, is_second: bool) -> int:
        return epochs.above(top)

    return forced_above


def _whatever_is_allowed(real: Fn) -> Fn:
    def obstacle(s: State, allowed: Collection[Allow]) -> str:
        found: str = real(s, {*allowed, Allow.INCONSISTENT})
        return found

    return obstacle


def _in_memory_only(real: Fn) -> Fn:
    def be_secondary(turn: Turn, command: Command) -> None:
        real(turn, command)
        turn.change(outdated=False, stood_down=False)

    return be_secondary


def _whoever_asks(real: Fn) -> Fn:
    """As if the node had served ever since."""

    def may_confirm(turn: Turn, found: Register | Gone) -> bool:
        s, standing, mode = turn.s, turn.s.standing, turn.s.mode
        s.standing, s.mode = Standing.SOURCE, Mode.LOG
        try:
            confirms: bool = real(turn, found)
        finally:
            s.standing, s.mode = standing, mode
        return confirms

    return may_confirm


def _acceptance_lasts(real: Fn) -> Fn:
    def serve_alone(turn: Turn, record: Register, *, why: str, proven: bool) -> None:
        accepted = turn.s.accepted
        real(turn, record, why=why, proven=proven)
        turn.s.accepted = accepted

    return serve_alone


def _newcomer(real: Fn) -> Fn:
    """Who was being filled is filled, by whomever."""

    def judge(s: State, peer: PeerState) -> lineage.Verdict:
        if peer.inconsistent:
            peer = msgspec.structs.replace(peer, accepted=True)
        verdict: lineage.Verdict = real(s, peer)
        return verdict

    return judge


def _as_if_whole(real: Fn) -> Fn:
    """As if the peer had told that its copy is whole."""

    def why_not_secondary(s: State) -> str:
        peer = s.peer
        if peer is not None:
            s.peer = msgspec.structs.replace(peer, inconsistent=False)
        try:
            found: str = real(s)
        finally:
            s.peer = peer
        return found

    return why_not_secondary


OF_FORCE: Final[Mapping[str, Breakage]] = {
    "forced-epoch-of-a-cas": Breakage(
        "5.5 a forced epoch is one that a CAS makes",
        epochs,
        "forced_above",
        _like_a_cas,
        directed="cut_off_and_forced",
    ),
    "force-unmarked": Breakage(
        "5.5 a forced generation looks like ordinary history",
        forcing,
        "_mark",
        answer(value=""),
        directed="outdated_and_forced",
    ),
    "fills-unconfirmed": Breakage(
        "5.5 a node that was forced without the arbiter joins its peer before it wins a CAS",
        forcing,
        "may_fill_peer",
        answer(value=True),
        directed="unconfirmed_beside_a_peer_that_waits",
    ),
    "forced-stays": Breakage(
        "5.5 a forced node serves on beside a peer that serves by the arbiter's word",
        forcing,
        "_yield",
        answer(value=None),
        directed="unconfirmed_meets_one_that_serves",
    ),
    "confirms-over-the-peer": Breakage(
        "5.5 a forced node takes what the peer won since, before they meet",
        forcing,
        "_may_confirm",
        answer(value=True),
        directed="both_serve_apart",
    ),
    "old-force-counts": Breakage(
        "5.5 a node that waits takes what the peer won since it was forced, perhaps long ago",
        forcing,
        "_may_confirm",
        _whoever_asks,
        directed="restored_after_the_peer_went_on",
    ),
    "stays-below-a-force": Breakage(
        "5.5 a record that a forced node knew stays in force after that node gave way to it",
        forcing,
        "_rise_above",
        answer(value=None),
        directed="restored_after_it_gave_way",
    ),
    "silence-is-giving-way": Breakage(
        "5.5 a forced node takes what the peer won since, though the peer has not spoken of it",
        forcing,
        "_gives_way",
        answer(value=True),
        directed="peer_serves_and_was_not_heard",
    ),
    "peer-does-not-wait": Breakage(
        "5.5 a peer that starts takes the register from under a forced node that it sees",
        forcing,
        "peer_goes_first",
        answer(value=False),
        directed="unconfirmed_and_its_peer_returns",
    ),
    "inconsistent-unasked": Breakage(
        "I6 inconsistent data is forced without a flag of its own",
        overriding,
        "obstacle",
        _whatever_is_allowed,
        directed="half_filled_and_forced",
    ),
    "acceptance-lasts": Breakage(
        "5.5 what a node acknowledges after it was given up is given up as well",
        acting,
        "_serve_alone",
        _acceptance_lasts,
        directed="given_up_and_forced",
    ),
    "half-filled-untold": Breakage(
        "I8 what a half filled node acknowledged, and another source lacks, is overwritten untold",
        join,
        "judge",
        _newcomer,
        wide=True,
    ),
    "half-filled-is-left": Breakage(
        "5.5 the only copy that is whole is given up while the peer is filled from it",
        forcing,
        "_why_not_secondary",
        _as_if_whole,
        directed="given_up_while_the_peer_is_filled",
    ),
    "given-up-in-memory": Breakage(
        "5.5 a standing that was given up is back after a restart",
        forcing,
        "be_secondary",
        _in_memory_only,
        directed="given_up_and_restarted",
    ),
    "gave-up-unheard": Breakage(
        "5.4 who gives a side up follows the other one only once that speaks again",
        pairwise,
        "_give_way",
        answer(value=None),
        mode="available",
        directed="both_sides_given_up",
    ),
    "forced-below-a-promise": Breakage(
        "5.5 a force stays below what its node had promised",
        forcing,
        "_rise_above_promise",
        answer(value=None),
        mode="consistent",
        directed="left_out_and_forced",
    ),
}
