"""Without an arbiter, the two nodes keep the register between them (design, 5.4).

The rest of the core asks what it always asks, to read the register and to compare-and-swap; here
it is answered. Each node has a copy. With both there, a change is prepared durably on both and then
made by its proposer: only it decides, so it always knows; the peer that promised does not, and
gives no answer until both have met again. Without the peer, `evidence` says what stands in its
place.
"""

from __future__ import annotations

from typing import Final

from mirrorha.core import acting, alone, authority, evidence, goodbye, split
from mirrorha.core.effects import Cas, DropLink, Feed, ReadRegister, SendPeer
from mirrorha.core.events import CasDone, CasOutcome, Gone, RegisterRead
from mirrorha.core.messages import Record, RegisterCopy, Standing
from mirrorha.core.register import Register
from mirrorha.core.split import Rule, Stands
from mirrorha.core.state import Kind, State
from mirrorha.core.turn import Turn

# As long as an arbiter may take.
PROPOSAL_MAX_MS: Final = 2_000


# ---- what the rest of the core asks ----


def answer(turn: Turn) -> None:
    """At the end of a step: answer what it asked of the register, in a later step."""
    for request in turn.take_register_requests():
        if isinstance(request, ReadRegister):
            turn.do(Feed(RegisterRead(token=request.token, found=_read(turn))))
        else:
            _swap(turn, request)
    _tell(turn)


def _read(turn: Turn) -> Register | Gone | None:
    """The register, or None: no answer, because nobody may act now on what this node has."""
    s, meta = turn.s, turn.s.meta
    if is_in_doubt(s) or meta.disputed:
        _no_answer(turn)
        return None
    if s.link:
        stands = whose_stands(s)
        settled = stands in (Stands.BOTH, Stands.MINE)
        return (meta.copy or Gone.ABSENT) if settled else None
    if meta.copy is None:
        return Gone.ABSENT  # on which nobody acts alone but by an operator's word
    if not {s.me, s.other} <= meta.copy.in_sync:
        return meta.copy  # it was alone last, or is no member
    evidence.ask_fencer(turn)
    if evidence.proof(turn) is evidence.Proof.NONE:
        _no_answer(turn)
        return None
    return meta.copy


def is_in_doubt(s: State) -> bool:
    """What this node promised may have landed or not: it goes on by neither."""
    return s.meta.promised is not None


def _no_answer(turn: Turn) -> None:
    """Say why, and what would end it: a waiting node always, others when it matters to them."""
    s = turn.s
    why = evidence.why_not(turn)
    if s.decision is not None and s.decision.kind is Kind.ALONE:
        _tell_why(turn, why)
    elif s.standing is Standing.WAITING:
        s.why = why


def _tell_why(turn: Turn, why: str) -> None:
    """Aloud, once."""
    s = turn.s
    if s.standing is Standing.WAITING:
        s.why = why
    if s.pair.why != why:
        s.pair.why = why
        turn.note("no-answer-from-the-pair", why, alarm=True)


def _swap(turn: Turn, request: Cas) -> None:
    """A compare-and-swap: at once if this node's word is enough, else it is proposed."""
    s, meta, pair = turn.s, turn.s.meta, turn.s.pair
    if request.expected != meta.copy:
        _done(turn, request.token, CasOutcome.REFUSED)
    elif is_in_doubt(s) or meta.disputed:
        _done(turn, request.token, CasOutcome.NOT_SENT)
    elif _is_mine_to_change(turn, request):
        _install(turn, request.new)
        _done(turn, request.token, CasOutcome.WON)
    elif s.link and whose_stands(s) is Stands.BOTH:
        pair.proposed, pair.proposed_token = request.new, request.token
        pair.proposed_ms = turn.now_ms
    else:
        _done(turn, request.token, CasOutcome.NOT_SENT)


def _is_mine_to_change(turn: Turn, request: Cas) -> bool:
    """Whether this change needs nothing of the peer, or something stands in its place."""
    s = turn.s
    if request.expected is None:
        return s.initiated and not s.link
    if s.other in request.new.in_sync:
        return False
    if s.other not in request.expected.in_sync:
        return True
    return evidence.proof(turn) is not evidence.Proof.NONE


def _done(turn: Turn, token: int, outcome: CasOutcome) -> None:
    turn.do(Feed(CasDone(token=token, outcome=outcome)))


# ---- our copy ----


def whose_stands(s: State) -> Stands | None:
    """Whose copy stands, with the peer there; None: it has not told yet."""
    if s.pair.heard is None:
        return None
    return compare(s, s.pair.heard).stands


def is_agreed(s: State) -> bool:
    """Both copies are known to be the same; always so with an arbiter, which has the only one."""
    return s.settings.arbiter or whose_stands(s) is Stands.BOTH


def compare(s: State, theirs: RegisterCopy) -> split.Verdict:
    """Whose copy stands, and by which rule."""
    settings = s.settings
    return split.compare(
        _describe(s),
        theirs,
        me=s.me,
        other=s.other,
        first=settings.first,
        policy=settings.split_policy,
    )


def _install(turn: Turn, record: Register) -> None:
    """Make `record` our copy: from when this step is durable, it has landed."""
    s, meta = turn.s, turn.s.meta
    parted = meta.parted
    if len(record.in_sync) > 1:
        parted = None
    elif meta.copy is not None and len(meta.copy.in_sync) > 1:
        parted = meta.copy
    turn.change(copy=record, promised=None, parted=parted)
    if len(record.in_sync) > 1 or s.me not in record.in_sync:
        turn.change(disputed=False)
    if len(record.in_sync) > 1:
        turn.change(split="")
    if s.pair.proposed is not None and s.pair.proposed != record:
        _withdraw(turn)
    if s.me not in record.in_sync and s.standing in (Standing.SOURCE, Standing.FOLLOWER):
        turn.ask_now()  # so that the rest of this node learns of it


def _withdraw(turn: Turn) -> None:
    """Our proposal is given up. Only we could have made it land: it never will."""
    pair = turn.s.pair
    if pair.proposed is not None:
        pair.proposed = None
        _done(turn, pair.proposed_token, CasOutcome.NOT_SENT)


# ---- the session ----


def on_session(turn: Turn) -> None:
    """A session opened or closed: what was told or asked in another one is over."""
    pair = turn.s.pair
    pair.heard = pair.told = None
    pair.leaving = False
    pair.grants = 0
    _withdraw(turn)
    if turn.s.link:
        evidence.forget(turn)


def on_heard(turn: Turn, theirs: RegisterCopy) -> None:
    """What the peer has and wants. Every order of these leads to the same end."""
    s = turn.s
    s.pair.heard = theirs
    _settle_promise(turn, theirs)
    _report_split(turn, theirs)
    _settle_copies(turn, theirs)
    _settle_proposal(turn, theirs)
    _consider(turn, theirs)
    goodbye.on_heard(turn, theirs, agreed=is_agreed(s))


def _settle_promise(turn: Turn, theirs: RegisterCopy) -> None:
    """Did what we promised land? The proposer knows."""
    promised = turn.s.meta.promised
    if promised is None:
        return
    record = authority.to_wire(promised)
    if theirs.copy == record:
        _install(turn, promised)
    elif theirs.proposed != record:
        turn.change(promised=None)


def _settle_copies(turn: Turn, theirs: RegisterCopy) -> None:
    s, meta = turn.s, turn.s.meta
    verdict = compare(s, theirs)
    if verdict.rule is Rule.OTHER_CLUSTER:
        _tell_why(turn, f"{s.other} belongs to another cluster: is its state_dir the right one?")
    elif verdict.stands is Stands.NEITHER:
        turn.change(disputed=True)
        acting.step_down(turn, evidence.why_not(turn))
    elif verdict.stands is Stands.THEIRS:
        _yield_to(turn, theirs, verdict.rule)
    else:
        s.pair.gave_up = meta.copy if theirs.outdated else None
        turn.change(disputed=False)
        _regain(turn, theirs)


def _regain(turn: Turn, theirs: RegisterCopy) -> None:
    """This node left in good order, but its peer's operating system crashed before it went on.

    Then this copy is the better one, and nobody has made use of what was given up: it counts again.
    """
    s, meta = turn.s, turn.s.meta
    both = meta.copy is not None and {s.me, s.other} <= meta.copy.in_sync
    unused = both and is_agreed(s) and not theirs.outdated
    unused = unused and s.peer is not None and s.peer.unclean
    if meta.outdated and unused and not meta.inconsistent and s.standing is Standing.WAITING:
        turn.change(outdated=False)


def _yield_to(turn: Turn, theirs: RegisterCopy, rule: Rule) -> None:
    """The peer's copy stands. A lower epoch is not taken over: the peer raises it first."""
    s, meta = turn.s, turn.s.meta
    if rule in (Rule.SPLIT, Rule.NOT_APART):
        turn.change(outdated=True, stopped_alone=False, disputed=False)
        why = f"{s.other} went on as well ({rule.value}), and its data stands"
        acting.step_down(turn, alone.why_gave_up(turn) if rule is Rule.SPLIT else why)
    if theirs.copy is not None and theirs.copy.epoch > (meta.copy.epoch if meta.copy else 0):
        _install(turn, authority.from_wire(theirs.copy))


def _report_split(turn: Turn, theirs: RegisterCopy) -> None:
    """Once on each node, for each split."""
    s, meta = turn.s, turn.s.meta
    if not split.is_split(meta.lineage, theirs.lineage):
        return
    name = split.name_of(meta.lineage, theirs.lineage)
    if meta.split == name:
        return
    turn.change(split=name)
    turn.note(
        "split",
        f"both nodes acknowledged writes apart from each other; by split_policy "
        f"'{s.settings.split_policy}' {_stands_text(s, theirs)}. Nothing was overwritten: "
        "'mirrorha resync NODE --full' on the node that waits gives up its writes",
        alarm=True,
    )


def _stands_text(s: State, theirs: RegisterCopy) -> str:
    texts = {Stands.MINE: f"{s.me}'s data stands", Stands.THEIRS: f"{s.other}'s data stands"}
    return texts.get(compare(s, theirs).stands, "a person chooses whose data stands")


def _settle_proposal(turn: Turn, theirs: RegisterCopy) -> None:
    """The peer has promised ours: we decide. Of two that propose at once, the first node stays."""
    s, pair = turn.s, turn.s.pair
    if pair.proposed is None:
        return
    if _may_land(pair.proposed, theirs):
        record, pair.proposed = pair.proposed, None
        _install(turn, record)
        _done(turn, pair.proposed_token, CasOutcome.WON)
    elif theirs.proposed is not None and s.me != s.settings.first:
        _withdraw(turn)


def _may_land(proposed: Register, theirs: RegisterCopy) -> bool:
    """Prepared durably on both: here before it was proposed, there because the peer says so."""
    return theirs.promised == authority.to_wire(proposed)


def _consider(turn: Turn, theirs: RegisterCopy) -> None:
    """Promise what the peer proposes, unless we propose ourselves or disagree on the base."""
    s, pair, meta = turn.s, turn.s.pair, turn.s.meta
    if theirs.proposed is None or pair.proposed is not None or not is_agreed(s):
        return
    record = authority.from_wire(theirs.proposed)
    above = record.epoch > (meta.copy.epoch if meta.copy else 0)
    ours = meta.cluster_id in (None, record.cluster_id)
    if above and ours and meta.promised != record and not meta.disputed:
        turn.change(promised=record)


# ---- of its own accord ----


def advance(turn: Turn) -> None:
    """Once per step, before the rest of the core looks at it."""
    s, pair = turn.s, turn.s.pair
    if pair.proposed is not None and turn.now_ms - pair.proposed_ms >= PROPOSAL_MAX_MS:
        _withdraw(turn)
        if s.link and s.detector.verdict(turn.now_ms).lost:
            turn.do(DropLink(s.link, f"{s.other} does not answer"))
    _raise_epoch(turn)


def _raise_epoch(turn: Turn) -> None:
    """After a split, epochs must not fall on the side that yields: rise above it, alone."""
    s, heard, copy = turn.s, turn.s.pair.heard, turn.s.meta.copy
    if not s.is_alone or s.decision is not None or s.cas_asked or heard is None or copy is None:
        return
    if whose_stands(s) is not Stands.MINE or heard.copy is None or heard.copy.epoch < copy.epoch:
        return
    s.mine.clear()  # what was won before does not count: only a new record will do
    alone.begin(turn, f"rising above the epoch of {s.other}", proven=True, chosen=True)


def _tell(turn: Turn) -> None:
    """Tell our half when the session opens, and at every change of it.

    That this node gives up its standing goes ahead of what else the step says: a peer that hears
    our farewell answers, and if this process has ended by then, its session breaks, with whatever
    it has not taken in yet.
    """
    s = turn.s
    if not s.link:
        return
    half = _describe(s)
    if s.pair.told != half:
        gives_up = s.pair.told is not None and half.outdated and not s.pair.told.outdated
        s.pair.told = half
        tell = turn.do_first if gives_up else turn.do
        tell(SendPeer(s.link, half))


def _describe(s: State) -> RegisterCopy:
    meta, pair = s.meta, s.pair
    return RegisterCopy(
        copy=_wire(meta.copy),
        proposed=_wire(pair.proposed),
        promised=_wire(meta.promised),
        parted=_wire(meta.parted),
        outdated=meta.outdated,
        lineage=meta.lineage,
        leaving=pair.leaving,
        grants=pair.grants,
    )


def _wire(record: Register | None) -> Record | None:
    return None if record is None else authority.to_wire(record)
