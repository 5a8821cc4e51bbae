"""Rules of an operator's force (5.5) that can be taken out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from mirrorha.core import epochs, forcing, overriding, pairwise
from mirrorha.core.events import Command
from mirrorha.core.state import State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Allow
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
