"""Rules of the core that can be taken out one at a time, to see that the simulator notices.

A check counts only if it was seen to fail. Each breakage replaces one function of the production
core (or of the simulated driver, for what the driver has to hold) while its block lasts; the
production code carries no hooks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs
import msgspec

from mirrorha.core import acting, alone, authority, join, meeting, remaking, serving, swap
from mirrorha.core import node as node_module
from mirrorha.core.authority import Bar
from mirrorha.core.effects import Cas, Give, SendPeer
from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.messages import PeerState, Prepared, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.orders import Freeze, ServeAlone
from mirrorha.core.register import Register
from mirrorha.core.state import Decision, ServiceState, Stage, State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Mode
from mirrorha.testing.sim.breakage import Breakage, Fn, answer
from mirrorha.testing.sim.breakages_force import OF_FORCE
from mirrorha.testing.sim.breakages_pair import OF_PAIR
from mirrorha.testing.sim.breakages_volume import OF_VOLUME
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.run import Outcome, run_seed


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Take out the rule of that name while the block lasts."""
    breakage = BREAKAGES[name]
    real = getattr(breakage.owner, breakage.name)
    setattr(breakage.owner, breakage.name, breakage.make(real))
    try:
        if breakage.also:
            with broken(breakage.also):
                yield
        else:
            yield
    finally:
        setattr(breakage.owner, breakage.name, real)


# ---- what may be acknowledged ----


def _replay_unresolved(real: Fn) -> Fn:
    def pursue(turn: Turn) -> None:
        s = turn.s
        kept, s.unresolved = s.unresolved, []
        if s.peer is not None:
            s.peer = msgspec.structs.replace(s.peer, unresolved=False)
        real(turn)
        s.unresolved = kept

    return pursue


def _resume_unresolved(real: Fn) -> Fn:
    def on_resume(turn: Turn, message: object) -> None:
        s = turn.s
        kept, s.unresolved = s.unresolved, []
        asked, s.cas_asked = s.cas_asked, 0
        real(turn, message)
        s.unresolved, s.cas_asked = kept, asked

    return on_resume


def _unknown_is_no(real: Fn) -> Fn:
    def on_cas(turn: Turn, decision: Decision, outcome: CasOutcome) -> None:
        unknown = outcome is CasOutcome.UNKNOWN
        real(turn, decision, CasOutcome.NOT_SENT if unknown else outcome)

    return on_cas


def _freeze_one(standing: Standing) -> Callable[[Fn], Fn]:
    """Only the first volume is frozen before the decision; the others flow on."""

    def make(real: Fn) -> Fn:
        def order(turn: Turn, what: object) -> None:
            if turn.s.standing is not standing or not isinstance(what, Freeze) or not what.token:
                real(turn, what)
                return
            first = turn.s.settings.volumes[0]
            turn.do(Give(first, what))
            if turn.s.decision is not None:
                turn.s.decision.missing = {first}

        return order

    return make


def _no_sync(real: Fn) -> Fn:
    def on_frozen(turn: Turn, decision: Decision) -> None:
        turn.enter(decision, Stage.SYNC)
        real(turn, decision)

    return on_frozen


def _release_early(_real: Fn) -> Fn:
    def attempt(turn: Turn, base: Register | None) -> None:
        s = turn.s
        me = frozenset({s.me})
        record = authority.make_record(s, primary=s.me, members=me, base=base)
        acting.go_alone(turn, record, why="without asking", proven=False)

    return attempt


# ---- what a record is worth ----


def _as_after_a_crash(_real: Fn) -> Fn:
    return acting.remember_failure


def _bar_without(*forgiven: Bar) -> Callable[[Fn], Fn]:
    def make(real: Fn) -> Fn:
        def bar(s: State, record: Register, *, chosen: bool = False) -> Bar:
            verdict: Bar = real(s, record, chosen=chosen)
            return Bar.NONE if verdict in forgiven else verdict

        return bar

    return make


def _read_is_held(real: Fn) -> Fn:
    def with_held(meta: Meta, record: Register) -> Meta:
        kept: Meta = real(meta, record)
        return attrs.evolve(kept, held=record)

    return with_held


def _old_licence(real: Fn) -> Fn:
    def on_read(turn: Turn, decision: Decision, found: Register | Gone) -> None:
        if isinstance(found, Register) and found.is_alone(turn.s.me):
            turn.s.mine.update(nonce for _, nonce in found.nonces)
        real(turn, decision, found)

    return on_read


def _own_old_record(real: Fn) -> Fn:
    def on_read(turn: Turn, decision: Decision, found: Register | Gone) -> None:
        if isinstance(found, Register) and found.is_alone(turn.s.me):
            turn.s.unresolved.clear()
        real(turn, decision, found)

    return on_read


def _effects_first(kind: type) -> Callable[[Fn], Fn]:
    """The driver lets these out before the state that they depend on is on disk."""

    def make(real: Fn) -> Fn:
        def step(node: SimNode, batch: Any) -> None:
            first = tuple(one for one in batch.after if _is(one, kind))
            if first and batch.persist is not None:
                rest = tuple(one for one in batch.after if not _is(one, kind))
                node._perform(attrs.evolve(batch, persist=None, after=first))
                batch = attrs.evolve(batch, after=rest)
            real(node, batch)

        return step

    return make


def _is(effect: object, kind: type) -> bool:
    if kind is Prepared:
        return isinstance(effect, SendPeer) and isinstance(effect.message, Prepared)
    return isinstance(effect, kind)


# ---- joining ----


def _drop_joiner(real: Fn) -> Fn:
    def poll_shadow(turn: Turn, decision: Decision) -> None:
        if turn.s.link:
            real(turn, decision)
            return
        turn.s.unresolved.clear()
        turn.s.mode = Mode.LOG
        turn.s.frozen = False
        join.break_off(turn, "the joiner is dropped")

    return poll_shadow


def _acknowledge_alone(real: Fn) -> Fn:
    def go_shadow(turn: Turn, decision: Decision) -> None:
        real(turn, decision)
        s = turn.s
        turn.order(ServeAlone(epoch=s.epoch, generation=s.meta.generation))

    return go_shadow


def _no_cut(_real: Fn) -> Fn:
    def cut_if_fresh(turn: Turn, decision: Decision) -> None:
        join.on_cut(turn, decision)

    return cut_if_fresh


def _rotate_unresolved(real: Fn) -> Fn:
    def poll_shadow(turn: Turn, decision: Decision) -> None:
        if not turn.s.link and turn.s.unresolved:
            join._rotate(turn)
        real(turn, decision)

    return poll_shadow


# ---- swap ----


def _abort_locally(real: Fn) -> Fn:
    def on_cas(turn: Turn, decision: Decision, outcome: CasOutcome) -> None:
        if outcome is CasOutcome.UNKNOWN:
            swap.abort(turn, "the arbiter did not answer")
        else:
            real(turn, decision, outcome)

    return on_cas


def _no_drain(real: Fn) -> Fn:
    def poll(turn: Turn, decision: Decision) -> None:
        idle = turn.s.service is ServiceState.OFF
        if decision.stage is Stage.STOP_SERVICE and idle:
            swap.on_drained(turn, decision)
        else:
            real(turn, decision)

    return poll


# ---- a lost register ----


def _by_epoch(_real: Fn) -> Fn:
    def source(turn: Turn) -> str | None:
        s, peer = turn.s, turn.s.peer
        if peer is None:
            return None
        mine, theirs = (s.meta.top_epoch, s.me), (peer.top_epoch, s.other)
        return max(mine, theirs)[1]

    return source


def _alone_with_it(_real: Fn) -> Fn:
    def remake(turn: Turn, found: Register | Gone) -> None:
        s = turn.s
        if s.decision is None:
            alone.begin(turn, "the register was lost", chosen=True)
        elif s.decision.stage is Stage.ASK:
            alone.attempt(turn, None if isinstance(found, Gone) else found)

    return remake


def _no_memory_of_epochs(real: Fn) -> Fn:
    def problem_with(s: State, found: Register | Gone) -> str:
        problem: str = real(s, found)
        return "" if "went back" in problem else problem

    return problem_with


# ---- first start ----


def _accepts_unasked(real: Fn) -> Fn:
    def on_peer_state(turn: Turn, message: PeerState) -> None:
        real(turn, message)
        if message.initiated and turn.s.meta.cluster_id is None and not turn.s.initiated:
            turn.s.accepted = True

    return on_peer_state


def run_without(name: str, seed: int) -> Outcome:
    """One seed of the kind that looks for this rule, without it."""
    breakage = BREAKAGES[name]
    with broken(name):
        return run_like(breakage, seed)


def run_like(breakage: Breakage, seed: int) -> Outcome:
    """The same seed with every rule in place."""
    return run_seed(seed, mode=breakage.mode, production=breakage.production, wide=breakage.wide)


BREAKAGES: Final[Mapping[str, Breakage]] = {
    "replay-unresolved": Breakage(
        "5.1.3 replay although a CAS is unresolved",
        meeting,
        "pursue",
        _replay_unresolved,
        also="resume-unresolved",
    ),
    "resume-unresolved": Breakage(
        "5.1.4 follow again although an own CAS may land",
        meeting,
        "on_resume",
        _resume_unresolved,
    ),
    "ack-unresolved": Breakage(
        "5.1.4 an unknown takeover counts as failed",
        alone,
        "on_cas",
        _unknown_is_no,
        wide=True,
        directed="takeover_unresolved_at_meeting",
    ),
    "adopt-overtaken": Breakage(
        "5.1.5 adopt a record that an own CAS may replace",
        authority,
        "may_land_upon",
        answer(value=False),
        wide=True,
        directed="adopting_what_may_be_replaced",
    ),
    "freeze-one": Breakage(
        "5.1.2 only one volume frozen before the CAS", Turn, "order", _freeze_one(Standing.SOURCE)
    ),
    "quiet-one": Breakage(
        "5.1.4 only one volume quiet before the CAS",
        Turn,
        "order",
        _freeze_one(Standing.FOLLOWER),
    ),
    "no-sync": Breakage("5.1.2 no sync before the CAS", alone, "on_frozen", _no_sync),
    "release-early": Breakage(
        "5.1.2 frozen writes released before the CAS is won", alone, "attempt", _release_early
    ),
    "no-nonce": Breakage(
        "5.0 membership without the nonce",
        authority,
        "bar",
        _bar_without(Bar.NO_NONCE),
    ),
    "read-is-held": Breakage(
        "5.0 who reads its name holds the nonce", Meta, "with_held", _read_is_held, wide=True
    ),
    "nonce-after": Breakage(
        "5.0 own nonce durable after the CAS", SimNode, "_take_in", _effects_first(Cas)
    ),
    "peer-nonce-after": Breakage(
        "5.0 the peer's nonce durable after it confirmed",
        SimNode,
        "_take_in",
        _effects_first(Prepared),
    ),
    "no-fresh-cas": Breakage(
        "5.1.5 LOG on an earlier incarnation's record",
        alone,
        "on_read",
        _old_licence,
    ),
    "own-old-record": Breakage(
        "5.1.5 the base of an unresolved CAS counts as won", alone, "on_read", _own_old_record
    ),
    "promote-unclean": Breakage(
        "5.1.7 an OS crash counts for nothing", authority, "bar", _bar_without(Bar.UNCLEAN)
    ),
    "failure-forgotten": Breakage(
        "5.1.7 a failed disk counts for nothing once the process has ended",
        acting,
        "remember_failure",
        answer(value=None),
        wide=True,
        directed="failed_disk_on_the_prim",
    ),
    "drop-joiner": Breakage(
        "5.1.6 link lost, admission unknown: alone",
        join,
        "_poll_shadow",
        _drop_joiner,
    ),
    "join-ack-alone": Breakage(
        "5.1.6 admission unknown: acknowledge alone", join, "_go_shadow", _acknowledge_alone
    ),
    "no-cut": Breakage(
        "5.1.6 no pause and last pass before the CAS", join, "_cut_if_fresh", _no_cut
    ),
    "swap-abort-local": Breakage(
        "5.3 a swap aborted without a CAS",
        swap,
        "on_cas",
        _abort_locally,
        wide=True,
        directed="swap_with_lost_reply",
    ),
    "swap-no-drain": Breakage(
        "5.3 a swap before the peer has all", swap, "poll", _no_drain, wide=True
    ),
    "remake-by-epoch": Breakage(
        "5.0 lost register made for the highest epoch", remaking, "_source", _by_epoch
    ),
    "lost-register-alone": Breakage(
        "5.0 lost register made by one node alone", remaking, "remake", _alone_with_it
    ),
    "rotate-unresolved": Breakage(
        "5.1.6 a generation rotates while an admission is unresolved",
        join,
        "_poll_shadow",
        _rotate_unresolved,
        wide=True,
    ),
    "epoch-forgotten": Breakage(
        "5.0 a register of a lower epoch than was seen is acted on",
        authority,
        "problem_with",
        _no_memory_of_epochs,
        wide=True,
    ),
    "fill-unasked": Breakage(
        "5.0 files of a newcomer are overwritten unasked",
        meeting,
        "may_be_filled",
        answer(value=True),
        wide=True,
    ),
    "accept-unasked": Breakage(
        "5.0 an init that saw no peer gives up what the peer holds",
        node_module,
        "_on_peer_state",
        _accepts_unasked,
        wide=True,
    ),
    "undriven-goes-on": Breakage(
        "7 a node whose volume nothing drives goes on",
        acting,
        "hand_over",
        answer(value=None),
        wide=True,
    ),
    "to-and-fro": Breakage(
        "8 a service that can be started nowhere is tried for ever",
        serving,
        "is_within_limit",
        answer(value=True),
        directed="start_fails_on_both",
    ),
    "put-back-is-a-crash": Breakage(
        "5.0 a node whose volume was put back to an older day is one whose system crashed",
        acting,
        "forget_admission",
        _as_after_a_crash,
        directed="both_lose_power_and_the_primarys_disk_is_put_back",
    ),
    **OF_FORCE,
    **OF_PAIR,
    **OF_VOLUME,
}

# What the models of the design could take out and this code cannot, and why.
NOT_TAKEN_OUT: Final[Mapping[str, str]] = {
    "5.1.7 every CAS counts as an admission": (
        "`ack` changes only with a restart of both nodes, which ends in an admission"
    ),
    "5.1.7 the source does not sync at a join": (
        "what it held before this incarnation was synced when it went alone, the rest is at its ack"
    ),
    "5.1.2 only one volume's generation rotates": "a node has one generation for all its volumes",
    "7 only the source's touched log is used": (
        "a seed has to lose an op of a file that both left alone; see test_resync_doubt.py"
    ),
    "7 no checkpoint number compared at a meeting": (
        "an image that shows it was taken while the same record held; see test_resync_doubt.py"
    ),
    "5.1.7 a live image restored while the same record holds": "a stated non-promise as yet",
}
