"""A whole state, and everything that can happen next in it.

What an event does to a node depends on that node alone. So it is worked out once for each node and
event, by the production core, and looked up ever after: the states of the pair are combinations of
far fewer states of nodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, final

import attrs

from mirrorha.core import events as v
from mirrorha.core.messages import AnyMessage, PeerState, Prepare, Prepared, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.register import Register
from mirrorha.core.state import Stage
from mirrorha.errors import InvariantViolation
from mirrorha.testing.explore import actor as a
from mirrorha.testing.explore.scene import NAMES, STEP_MS, Budget
from mirrorha.testing.explore.terms import Term, Terms, nonce_text
from mirrorha.testing.sim.world import Violation

Action = tuple[Any, ...]
Queue = tuple[Term, ...]
_ABSENT: Final[Term] = ()
_FRESH: Final = 1 << 20
_OPEN_MODES: Final = ("log", "mirror")
_PATIENT_MODES: Final = (*_OPEN_MODES, "frozen", "paused", "replaying")
_PACK: Final = struct.Struct("<IIII")


@attrs.frozen
class Facts:
    """What the explorer must know of a node to see what can happen. Names: places in the term."""

    up: bool = False
    linked: bool = False
    asked: bool = False
    attempt: tuple[Term, Term] | None = None
    nonces: tuple[int, ...] = ()
    open_volumes: tuple[str, ...] = ()
    values: int = 0
    unsynced: int = 0
    mirrors: bool = False
    can_suspect: bool = False
    waits: bool = False  # for its peer, and no longer than so long
    repeats: bool = False  # what it said, if there is no answer
    wants: int = 0  # the epoch of the record that it would have next
    epoch: int = 0
    incarnation: int = 0
    image_nonces: tuple[int, ...] | None = None


@attrs.frozen
class Told:
    """What a record says. `nonces`: (member, place in the term)."""

    epoch: int
    primary: str
    members: tuple[str, ...]
    nonces: tuple[tuple[str, int], ...]


@attrs.frozen
class Rest:
    """What of a state is neither a node nor a message. All bounded.

    Attributes:
        acked: the values whose write was acknowledged, as bits.
        alone: of these, by node: those that rest on its page cache only.
        primaries: (epoch, node): who acknowledged in it.
        left: of the budget.
    """

    linked: bool
    acked: int
    alone: tuple[int, int]
    primaries: tuple[tuple[int, int], ...]
    left: tuple[int, ...]


@attrs.define(slots=True)
class State:
    """One state, with its names as they are."""

    sites: list[Term]
    control: list[Queue]
    stream: list[tuple[Queue, ...]]
    register: Term
    former: Term  # what stood there, if the arbiter lost it
    replies: list[tuple[str, Term] | None]  # decided by the arbiter, on their way
    late: tuple[tuple[Term, Term], ...]
    linked: bool
    acked: int
    alone: list[int]
    primaries: tuple[tuple[int, int], ...]
    left: list[int]

    def copy(self) -> State:
        return State(
            self.sites[:],
            self.control[:],
            self.stream[:],
            self.register,
            self.former,
            self.replies[:],
            self.late,
            self.linked,
            self.acked,
            self.alone[:],
            self.primaries,
            self.left[:],
        )


_FIELDS: Final = tuple(field.name for field in attrs.fields(Budget))
WRITES, CRASHES, BREAKS, SUSPICIONS, UNANSWERED, DELAYED, SWAPS, IMAGES, LOSSES, HURRIES = (
    _FIELDS.index(name)
    for name in (
        "writes",
        "crashes",
        "breaks",
        "suspicions",
        "unanswered",
        "delayed",
        "swaps",
        "images",
        "losses",
        "hurries",
    )
)


@final
class World:
    """All that was worked out so far, and how states follow each other."""

    def __init__(self, budget: Budget, *, reduce: bool = True) -> None:
        self.budget = budget
        self.volumes = ("a", "b")[: budget.volumes]
        self.modes = _PATIENT_MODES if budget.patience else _OPEN_MODES
        self.epochs = budget.epochs
        self.terms = Terms()
        self.facts: dict[int, Facts] = {}
        self.told: dict[int, Told] = {}
        self.memo: dict[Any, Any] = {}
        self.reduce = reduce
        self._numbers: dict[Any, int] = {}
        self._parts: list[Any] = []
        self._may_serve: dict[Any, bool] = {}
        self._states: set[int] = set()
        self.preparing: set[int] = set()

    # ---- nodes ----

    def site_term(self, actor: a.Actor) -> Term:
        term = self.terms.freeze(*a.dismantle(actor))
        if term[0] not in self.facts:
            self.facts[term[0]] = self._look(actor, term)
        return term

    def _look(self, actor: a.Actor, term: Term) -> Facts:
        places = {name: place for place, name in enumerate(term[1:])}

        def relative(record: Register | None) -> Term:
            found = self.register_term(record)
            return found and (found[0], *(places[name] for name in found[1:]))

        values = unsynced = 0
        for platter in actor.platters.values():
            values |= sum(1 << value for value in platter.cache)
            unsynced |= sum(1 << value for value in platter.cache[platter.synced :])
        by_text = {nonce_text(name): place for name, place in places.items() if not name & 1}

        def shown(meta: Meta) -> tuple[int, ...]:
            return tuple(by_text[nonce] for nonce in sorted(meta.nonces()) if nonce in by_text)

        nonces = shown(actor.meta)
        image_nonces = None if actor.image is None else shown(actor.image[0])
        s = actor.state
        if s is None:
            return Facts(nonces=nonces, values=values, unsynced=unsynced, image_nonces=image_nonces)
        detector: Any = s.detector
        joining = s.decision is not None and s.decision.stage is Stage.SHADOW
        waiting = s.standing in (Standing.WAITING, Standing.TARGET)
        heard = bool(s.link) and s.peer is not None
        waits = waiting and not heard and a.waits_since_ms(s) > -STEP_MS
        return Facts(
            up=True,
            linked=bool(s.link),
            asked=bool(s.asked),
            attempt=None
            if s.sent is None or not s.cas_asked
            else (relative(s.sent[0]), relative(s.sent[1])),
            nonces=nonces,
            open_volumes=tuple(
                name for name, volume in actor.volumes.items() if volume.mode in self.modes
            ),
            values=values,
            unsynced=unsynced,
            mirrors=s.is_mirrored and s.decision is None,
            can_suspect=not detector.lost and (bool(s.paired) or joining),
            waits=waits,
            repeats=s.resume_ms > 0,
            wants=s.decision.record.epoch if s.decision and s.decision.record else 0,
            epoch=s.epoch,
            incarnation=s.meta.incarnation,
            image_nonces=image_nonces,
        )

    def register_term(self, record: Register | None) -> Term:
        if record is None:
            return _ABSENT
        term = self.terms.freeze(record)
        if term[0] not in self.told:
            places = {nonce_text(name): place for place, name in enumerate(term[1:])}
            self.told[term[0]] = Told(
                epoch=record.epoch,
                primary=record.primary,
                members=tuple(sorted(record.in_sync)),
                nonces=tuple((member, places[nonce]) for member, nonce in record.nonces),
            )
        return term

    def run(self, state: State, who: int, kind: str, payload: Term = (), extra: Any = None) -> None:
        """An event at one node: change its term, and put what it sends and acknowledges in place.

        Raises:
            Violation: the node or its volumes did what they must not.
        """
        names = list(state.sites[who][1:])
        pattern: list[int] = []
        if payload:
            index = {name: place for place, name in enumerate(names)}
            for name in payload[1:]:
                place = index.get(name)
                if place is None:
                    place = index[name] = len(names)
                    names.append(name)
                pattern.append(2 * place + (name & 1))
        crashes = bool(state.left[CRASHES])
        key = (state.sites[who][0], kind, extra, crashes, payload[:1], tuple(pattern))
        result = self.memo.get(key)
        if result is None:
            local = tuple(2 * place + (name & 1) for place, name in enumerate(names))
            site = (state.sites[who][0], *local[: len(state.sites[who]) - 1])
            given = payload[:1] + tuple(pattern)
            result = self.memo[key] = self._work_out(
                site, kind, given, extra, draws=len(names), crashes=crashes
            )
        if isinstance(result, str):
            raise Violation(result)
        self._take_in(state, who, names, result)

    def _take_in(self, state: State, who: int, names: list[int], result: Any) -> None:
        known = len(names)
        fresh = _FRESH * (1 + who)

        def absolute(term: Term) -> Term:
            return (
                term[0],
                *[names[name >> 1] if name >> 1 < known else name + 2 * fresh for name in term[1:]],
            )

        site, control, stream, acked = result
        state.sites[who] = absolute(site)
        if state.linked:
            for message in control:
                self._enqueue(state, who, absolute(message))
            for volume, message in stream:
                queues = list(state.stream[who])
                queues[volume] = (*queues[volume], absolute(message))
                state.stream[who] = tuple(queues)
        reply = state.replies[who]
        if reply is not None and reply[0] == "read" and not self.facts[site[0]].asked:
            state.replies[who] = None  # nobody asks for that any more
        for value, epoch, both in acked:
            self._acked(state, who, value, epoch, both=both)

    def _enqueue(self, state: State, who: int, message: Term) -> None:
        """Two states in a row: only the second matters.

        The receiver could act on the first alone only by hearing it before the second is sent;
        that is a choice of its own, and the two orders lead to one state, for hearing it changes
        nothing at the sender.
        """
        queue = state.control[who]
        if queue and queue[-1][0] in self._states and message[0] in self._states:
            queue = queue[:-1]
        state.control[who] = (*queue, message)

    def _acked(self, state: State, who: int, value: int, epoch: int, *, both: bool) -> None:
        before = dict(state.primaries).get(epoch)
        if before is None:
            state.primaries = tuple(sorted((*state.primaries, (epoch, who))))
        elif before != who:
            raise Violation(f"I3 both acknowledged in epoch {epoch}")
        landed = state.register or state.former
        members = self.told[landed[0]].members if landed else ()
        if not both and members != (NAMES[who],):
            raise Violation(f"I2 {NAMES[who]} acknowledged alone against the register")
        if members == (NAMES[who],):
            # Also where both have it: the peer is not admitted yet, and may never be.
            state.alone[who] |= 1 << value
        state.acked |= 1 << value

    def _work_out(
        self, site: Term, kind: str, payload: Term, extra: Any, *, draws: int, crashes: bool
    ) -> Any:
        """Let production code do it."""
        actor = a.assemble(*self.terms.thaw(site), volumes=len(self.volumes), draws=draws)
        try:
            self._happen(actor, kind, payload, extra)
            outcome = actor.settle()
        except (Violation, InvariantViolation) as problem:
            return str(problem)
        if self.reduce and not crashes and actor.node is not None:
            a.settle_down(actor)
        control = tuple(self.message_term(message) for message in outcome.control)
        stream = tuple(
            (self.volumes.index(volume), self.terms.freeze(message))
            for volume, message in outcome.stream
        )
        term = self.site_term(actor)
        actor.volumes.clear()  # they refer to each other
        return term, control, stream, outcome.acked

    def message_term(self, message: AnyMessage) -> Term:
        term = self.terms.freeze(*a.dismantle_message(message))
        if isinstance(message, PeerState):
            self._states.add(term[0])
        elif isinstance(message, Prepare | Prepared):
            self.preparing.add(term[0])
        return term

    def _happen(self, actor: a.Actor, kind: str, payload: Term, extra: Any) -> None:  # noqa: C901, PLR0912 - one line for each event
        match kind:
            case "hear":
                message = a.assemble_message(*self.terms.thaw(payload))
                actor.give(v.Heard(message=message))
            case "get":
                actor.volumes[self.volumes[extra]].receive(self.terms.thaw(payload)[0])
            case "read":
                found = self.terms.thaw(payload)[0] if payload else v.Gone.ABSENT
                actor.give(v.RegisterRead(token=1, found=found))
            case "cas":
                actor.give(v.CasDone(token=1, outcome=v.CasOutcome(extra)))
            case "write":
                actor.volumes[extra[0]].write(extra[1])
            case "time":
                actor.pass_time()
            case "suspect":
                actor.suspect()
            case "open":
                actor.open_link(extra)
            case "close":
                actor.close_link()
            case "kill":
                actor.crash(power=extra)
            case "start":
                actor.start()
            case "swap":
                actor.give(v.Command(operation="x", verb=v.Verb.SWAP))
            case "image":
                actor.take_image()
            case "restore":
                actor.restore_image()
            case "forget":
                a.forget(actor, frozenset(nonce_text(2 * place) for place in extra))
            case _:
                raise Violation(f"nothing is called {kind}")

    # ---- the same state, however it came about ----

    def encode(self, state: State) -> bytes:
        """Equal for states with equal futures."""
        self._bury(state)
        names: dict[int, int] = {}

        def rename(term: Term) -> Term:
            renamed = [term[0]]
            for name in term[1:]:
                new = names.get(name)
                if new is None:
                    new = names[name] = 2 * len(names) + (name & 1)
                renamed.append(new)
            return tuple(renamed)

        def queue(terms: Queue) -> Queue:
            return tuple(map(rename, terms)) if terms else terms

        first = self._number(rename(state.sites[0]))
        second = self._number(rename(state.sites[1]))
        mail = (
            queue(state.control[0]),
            queue(state.control[1]),
            tuple(map(queue, state.stream[0])),
            tuple(map(queue, state.stream[1])),
        )
        register = rename(state.register) if state.register else _ABSENT
        replies = tuple(
            reply and (reply[0], rename(reply[1]) if reply[1] else _ABSENT)
            for reply in state.replies
        )
        late = state.late
        if late:
            late = tuple(
                (rename(base) if base else _ABSENT, rename(record)) for base, record in sorted(late)
            )
        rest = (
            register,
            rename(state.former) if state.former else _ABSENT,
            replies,
            late,
            state.linked,
            state.acked,
            tuple(state.alone),
            state.primaries,
            tuple(state.left),
        )
        return _PACK.pack(first, second, self._number(mail), self._number(rest))

    def _number(self, part: Any) -> int:
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._parts)
            self._parts.append(part)
        return number

    def decode(self, key: bytes) -> State:
        first, second, mail, rest = (self._parts[number] for number in _PACK.unpack(key))
        register, former, replies, late, linked, acked, alone, primaries, left = rest
        return State(
            [first, second],
            [mail[0], mail[1]],
            [mail[2], mail[3]],
            register,
            former,
            list(replies),
            late,
            linked,
            acked,
            list(alone),
            primaries,
            list(left),
        )

    def _bury(self, state: State) -> None:
        """Forget what can never matter again.

        A record whose base is no longer the register can never land. An admission nonce that
        stands in no record which has landed or may land will never be asked for.
        """
        if state.late:
            keeps_absent = state.left[LOSSES] or not state.register
            state.late = tuple(
                one
                for one in state.late
                if one[0] == state.register or (not one[0] and keeps_absent)
            )
        if state.primaries:
            ups = [self.facts[site[0]] for site in state.sites]
            oldest = min((facts.epoch for facts in ups if facts.up), default=0)
            state.primaries = tuple(one for one in state.primaries if one[0] >= oldest)
        gone = ~state.acked
        state.alone[0] &= ~gone
        state.alone[1] &= ~gone
        live: set[int] = {*state.register[1:], *state.former[1:]}
        strong = self.terms.strong
        weak = False
        for term in self._all_terms(state):
            limit = strong[term[0]] + 1
            live.update(term[1:limit])
            weak = weak or len(term) > limit
        if weak:
            self._forget(state, live)

    def _all_terms(self, state: State) -> Iterator[Term]:
        yield from state.sites
        yield from state.control[0]
        yield from state.control[1]
        for base, record in state.late:
            if base:
                yield base
            yield record
        for reply in state.replies:
            if reply is not None and reply[1]:
                yield reply[1]

    def _forget(self, state: State, live: set[int]) -> None:
        strong = self.terms.strong
        for who in (0, 1):
            site = state.sites[who]
            limit = strong[site[0]]
            dead = [
                place for place, name in enumerate(site[1:]) if place >= limit and name not in live
            ]
            if dead:
                self.run(state, who, "forget", extra=tuple(dead))
            queue = state.control[who]
            for index, message in enumerate(queue):
                limit = strong[message[0]]
                if any(name not in live for name in message[1 + limit :]):
                    queue = (*queue[:index], self._forget_in(message, live), *queue[index + 1 :])
            state.control[who] = queue

    def _forget_in(self, message: Term, live: set[int]) -> Term:
        dead = frozenset(nonce_text(name) for name in message[1:] if name not in live)
        whole = a.assemble_message(*self.terms.thaw(message))
        if isinstance(whole, PeerState):
            return self.message_term(a.forget_nonces(whole, dead))
        return message

    # ---- what is wrong with a state ----

    def judge(self, state: State) -> None:
        """I1: whoever may serve has every acknowledged write."""
        landed = state.register or state.former
        if not landed or not state.acked:
            return
        for who in (0, 1):
            site = state.sites[who]
            facts = self.facts[site[0]]
            missing = state.acked & ~facts.values
            if missing and facts.up and self._serves(site, landed):
                values = [value for value in range(missing.bit_length()) if missing >> value & 1]
                raise Violation(f"I1 {NAMES[who]} may serve and lacks acknowledged {values}")

    def _serves(self, site: Term, register: Term) -> bool:
        index = {name: place for place, name in enumerate(site[1:])}
        for name in register[1:]:
            index.setdefault(name, len(index))
        pattern = tuple(2 * index[name] for name in register[1:])
        key = (site[0], register[0], pattern)
        known = self._may_serve.get(key)
        if known is None:
            local = tuple(2 * place + (name & 1) for place, name in enumerate(site[1:]))
            thawed = self.terms.thaw((site[0], *local))
            actor = a.assemble(*thawed, volumes=len(self.volumes), draws=0)
            record = self.terms.thaw((register[0], *pattern))[0]
            known = self._may_serve[key] = a.may_serve(actor, record)
        return known
