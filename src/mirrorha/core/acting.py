"""What follows once a record is known to have landed: the only module that changes standings.

Every function here leaves the volumes with orders that fit the new standing, and the durable
state changed in the same step: nothing of it is visible before that is on disk.
"""

from __future__ import annotations

from typing import Final

import attrs

from mirrorha.core import authority, lineage
from mirrorha.core.effects import MarkVolumes, SayGoodbye
from mirrorha.core.messages import Adopt, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.orders import Close, Follow, Freeze, ServeAlone, ServeMirror
from mirrorha.core.register import Register
from mirrorha.core.roles import Trigger
from mirrorha.core.state import Kind
from mirrorha.core.turn import Turn
from mirrorha.core.words import Mode, Role

# How long a follower may take to say that it follows, before it is told again.
RESUME_EVERY_MS: Final = 300


def go_alone(turn: Turn, record: Register, *, why: str, proven: bool) -> None:
    """A CAS `{me}` of this incarnation is won (5.1.2, 5.1.4): rotate, then release.

    The caller has had every volume confirm that it is frozen and synced since before the CAS was
    sent. Rotation is one write for all volumes, so none is released before it is done for all.
    """
    turn.keep(attrs.evolve(turn.s.meta.with_held(record), unconfirmed=None))
    _serve_alone(turn, record, why=why, proven=proven)


def go_alone_unconfirmed(turn: Turn, record: Register, *, why: str) -> None:
    """An operator forces this node without the arbiter: `record` stands nowhere but here.

    So it is neither held nor seen: of the register this node knows what it knew before.
    """
    meta = turn.s.meta
    turn.keep(attrs.evolve(meta, unconfirmed=record, top_epoch=max(meta.top_epoch, record.epoch)))
    _serve_alone(turn, record, why=why, proven=False)


def _serve_alone(turn: Turn, record: Register, *, why: str, proven: bool) -> None:
    s = turn.s
    was_serving = s.standing is Standing.SOURCE
    mark = s.meta.forcing
    generation = f"{mark}-{s.nonce()}" if mark else s.nonce()
    chain, base = lineage.rotated(s.meta.lineage, s.meta.base, generation=generation)
    meta = attrs.evolve(
        s.meta,
        lineage=chain,
        base=base,
        # What an OS crash took is void now: nobody who is left has it.
        all_durable=s.meta.all_durable and not s.meta.unclean,
        unclean=False,
        dirty=True,
        stopped_alone=True,
    )
    turn.keep(_as_forced(meta, record) if mark else meta)
    s.mine.update(nonce for _, nonce in record.nonces)
    s.standing = Standing.SOURCE
    s.mode = Mode.LOG
    s.epoch = record.epoch
    s.paired = 0
    s.adopted = False
    s.accepted = False  # a person gave up what was here then, not what is acknowledged from now on
    s.unresolved.clear()
    s.decision = None
    s.frozen = False
    s.excluded = ""
    s.join_after_ms = turn.now_ms + s.settings.join_backoff_ms
    turn.do(MarkVolumes(record.cluster_id))
    turn.order(ServeAlone(epoch=record.epoch, generation=meta.generation))
    turn.move(Trigger.FORCED if mark else Trigger.WON_ALONE, why)
    if not was_serving:
        fence_ms = 0 if proven else s.settings.fence_delay_ms
        s.serve_after_ms = turn.now_ms + fence_ms


def _as_forced(meta: Meta, record: Register) -> Meta:
    """By an operator's word this copy is the one that counts, whatever it was worth before."""
    return attrs.evolve(
        meta,
        forcing="",
        forced=(*meta.forced, record.epoch),
        outdated=False,
        stood_down=False,
        inconsistent=False,
        all_durable=False,
    )


def mirror(turn: Turn) -> None:
    """As the source of a pair: open a new round of the stream. The follower is told its number.

    With a stream down, stay frozen: the meeting opens the round once they are all there.
    """
    s = turn.s
    s.resume_ms = turn.now_ms + RESUME_EVERY_MS
    if len(s.streams) < len(s.settings.volumes):
        s.mode = Mode.MIRROR
        s.frozen = False
        s.round = 0
        turn.note_frozen()
        turn.order(Freeze(token=0))
        return
    s.mode = Mode.MIRROR
    s.frozen = False
    s.round = s.next_token()
    turn.order(ServeMirror(epoch=s.epoch, generation=s.meta.generation, round=s.round))


def follow(turn: Turn, generation: str, round_number: int) -> None:
    """As a follower: be told the round that the source has opened; 0: none yet, stay frozen."""
    s = turn.s
    s.round = round_number
    if not round_number:
        turn.note_frozen()
        turn.order(Freeze(token=0))
        return
    s.frozen = False
    turn.order(Follow(epoch=s.epoch, generation=generation, round=round_number))


def be_paired_source(turn: Turn, record: Register, trigger: Trigger, why: str) -> None:
    """`record` landed: it names both, and this node as primary. Mirror in its epoch.

    Nothing is acknowledged until the follower has shown where it is.
    """
    s = turn.s
    was_serving = s.standing is Standing.SOURCE
    _keep_pair(turn, record)
    s.mine.update(nonce for _, nonce in record.nonces)
    s.standing = Standing.SOURCE
    s.epoch = record.epoch
    s.adopted = False
    s.unresolved.clear()
    s.decision = None
    s.excluded = ""
    s.join_failures = 0
    mirror(turn)
    turn.move(trigger, why)
    if not was_serving:
        s.serve_after_ms = turn.now_ms


def tell_adopt(turn: Turn) -> None:
    """Tell the peer which record landed; it acts on it, or has already."""
    s = turn.s
    if s.meta.held is not None:
        source = s.standing is Standing.SOURCE
        turn.send(
            Adopt(
                record=authority.to_wire(s.meta.held),
                generation=s.meta.generation,
                round=s.round if source else 0,
            )
        )


def be_follower(
    turn: Turn, record: Register, trigger: Trigger, why: str, *, round_number: int
) -> None:
    """`record` landed: it names both, and the peer as primary. Follow in its epoch."""
    s = turn.s
    _keep_pair(turn, record)
    s.standing = Standing.FOLLOWER
    s.epoch = record.epoch
    s.unfilled = ""
    s.adopted = False
    s.unresolved.clear()
    s.decision = None
    follow(turn, s.meta.generation, round_number)
    turn.move(trigger, why)


def be_frozen_member(turn: Turn, record: Register) -> None:
    """`record` was read: it names both and me. Stand where it says, frozen, and see who is there.

    Pending changes stay pending: they are answered once it is known who acknowledges.
    """
    s = turn.s
    primary = record.primary == s.me
    _keep_pair(turn, record)
    s.standing = Standing.SOURCE if primary else Standing.FOLLOWER
    s.mode = Mode.FROZEN
    s.epoch = record.epoch
    s.adopted = False
    s.unresolved.clear()
    s.decision = None
    s.frozen = False
    turn.note_frozen()
    # Token 0: nobody waits for the answer; the next decision freezes again and asks.
    turn.order(Freeze(token=0))
    trigger = Trigger.READ_PRIMARY if primary else Trigger.READ_SECOND
    turn.move(trigger, f"the register names {record.primary} as primary, and both in sync")


def _keep_pair(turn: Turn, record: Register) -> None:
    """`record` landed and names both: one generation, and nobody is alone."""
    turn.keep(
        attrs.evolve(
            turn.s.meta.with_held(record), base=None, dirty=True, stopped_alone=False, forcing=""
        )
    )


def step_down(turn: Turn, why: str) -> None:
    """This node has no authority, or no use of it: answer everything pending, then wait.

    The volumes are closed first and the service stopped after: a blocked writer sits in a system
    call and could not be stopped before its write is answered.
    """
    s = turn.s
    if s.standing in (Standing.STOPPED, Standing.WAITING) and s.decision is None:
        s.why = why
        return
    was = s.standing
    s.standing = Standing.WAITING
    if s.decision is not None and s.decision.kind is Kind.LEAVE and s.stop_asked is None:
        s.stop_asked = (s.decision.operation, s.decision.why)  # it goes on from here
    s.decision = None
    s.paired = 0
    s.mode = Mode.FROZEN
    s.frozen = True
    turn.order(Close(why=why, primary=primary_now(turn)))
    if was is not Standing.STOPPED and s.role is not Role.STOP:
        turn.move(Trigger.STEPPED_DOWN, why)


def hand_over(turn: Turn, why: str) -> None:
    """Nothing drives a volume: nothing is acknowledged from now on, and the peer need not wait.

    Until the volumes were opened anew.
    """
    turn.s.sick = why
    turn.do(SayGoodbye(why))
    step_down(turn, why)


def give_up(turn: Turn, why: str) -> None:
    """This node's disk failed: nothing is acknowledged from now on, and the peer need not wait."""
    s = turn.s
    s.sick = why
    turn.do(SayGoodbye(why))
    text = f"this node's disk failed: {why}. Once it is well, 'mirrorha stop' and 'mirrorha start'"
    step_down(turn, f"{text} on {s.me} bring this node back")


def remember_failure(turn: Turn) -> None:
    """What was acknowledged, and not written back yet, may be gone: as after an OS crash (5.1.7).

    It outlives this process: the next one finds a disk that answers, and nothing missing to see.
    """
    turn.change(unclean=True)


def forget_admission(turn: Turn) -> None:
    """A directory was put back to an older day: so what this node holds is, whatever it was then.

    As where the whole disk was put back: the nonces by which it is known are of later days.
    """
    s = turn.s
    text = (
        f"the disk of a volume of {s.me} was put back to an older day: this copy lacks what was "
        "acknowledged since, and is outdated"
    )
    turn.change(unclean=True, voided=s.meta.every_nonce(), unconfirmed=None, forcing="")
    turn.note("disk-put-back", text, alarm=True)


def primary_now(turn: Turn) -> str | None:
    """Who may write now, as far as this node knows."""
    s = turn.s
    if s.peer is not None and s.peer.standing is Standing.SOURCE:
        return s.other
    if s.standing is Standing.SOURCE:
        return s.me
    if isinstance(s.seen, Register) and s.seen.primary != s.me:
        return s.seen.primary
    return None
