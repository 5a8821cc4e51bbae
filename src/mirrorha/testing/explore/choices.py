"""Everything that can happen next in a state, kind or unkind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from mirrorha.testing.explore.scene import NAMES
from mirrorha.testing.explore.terms import Term
from mirrorha.testing.explore.world import (
    BREAKS,
    CRASHES,
    DELAYED,
    HURRIES,
    IMAGES,
    LOSSES,
    SUSPICIONS,
    SWAPS,
    UNANSWERED,
    WRITES,
    Action,
    Facts,
    State,
    World,
)
from mirrorha.testing.sim.world import Violation

UNKNOWN: Final = "unknown"
NOT_SENT: Final = "not-sent"


def choices(world: World, state: State) -> Iterator[Action]:
    """Each with its name and whom it concerns."""
    facts = [world.facts[site[0]] for site in state.sites]
    if world.reduce and not state.left[CRASHES]:
        # A node that has started and does nothing yet is, to everybody else, one that is down: no
        # choice is lost by starting it at once. With a crash left, it could crash on the way.
        for who in (0, 1):
            if not facts[who].up and facts[who].image_nonces is None:
                yield ("start", who)
                return
    for who in (0, 1):
        if facts[who].up:
            yield from _at(world, state, who, facts[who])
        else:
            yield ("start", who)
            if _can_restore(world, state, who, facts[who]):
                yield ("restore", who)
    yield from _between(state, facts)


def _can_restore(world: World, state: State, who: int, facts: Facts) -> bool:
    """Not an image of a running node while the register still names it alone by the same record.

    That defeats everything, and is promised to nobody.
    """
    if facts.image_nonces is None or not state.register:
        return False
    site, told = state.sites[who], world.told[state.register[0]]
    kept = {site[1 + place] for place in facts.image_nonces}
    named = {state.register[1 + place] for _, place in told.nonces}
    return told.members != (NAMES[who],) or not kept & named


def _at(world: World, state: State, who: int, facts: Facts) -> Iterator[Action]:
    if state.control[1 - who]:
        yield ("hear", who)
    for volume, queue in enumerate(state.stream[1 - who]):
        if queue:
            yield ("get", who, volume)
    yield from _at_the_arbiter(world, state, who, facts)
    if facts.waits or (facts.repeats and _is_quiet(state)):
        yield ("time", who)
    elif facts.repeats and state.left[HURRIES]:
        yield ("hurry", who)
    if facts.can_suspect and (state.left[SUSPICIONS] or not state.linked):
        yield ("suspect", who)
    yield from _from_outside(state, who, facts)


def _at_the_arbiter(world: World, state: State, who: int, facts: Facts) -> Iterator[Action]:
    """A lost read needs no choice: it is one that is not answered yet, for the node asks again."""
    if state.replies[who] is not None:
        yield ("reply", who)
    elif facts.asked and facts.wants <= world.epochs:  # beyond, the arbiter is silent
        if not _is_preparing(world, state) or state.left[HURRIES]:
            yield ("read", who)
        if state.left[DELAYED]:
            yield ("serve", who)
    elif facts.attempt is not None:
        yield from _fates(world, state, who, facts.attempt)


def _from_outside(state: State, who: int, facts: Facts) -> Iterator[Action]:
    left = state.left
    if left[WRITES]:
        for volume in facts.open_volumes:
            yield ("write", who, volume)
    if left[CRASHES]:
        yield ("kill", who)
        yield ("power", who)
    if left[SWAPS] and facts.mirrors:
        yield ("swap", who)
    if left[IMAGES] and left[CRASHES]:
        yield ("image", who)


def _is_preparing(world: World, state: State) -> bool:
    """A record that one proposed is on its way to the peer, or the peer's consent on its way back.

    It proposes another one at each answer of the arbiter. Those are further apart than a message
    takes to and fro; else, proposals would queue up without end.
    """
    queues = state.control
    return any(message[0] in world.preparing for queue in queues for message in queue)


def _is_quiet(state: State) -> bool:
    """Nothing is under way between the nodes: a deadline is longer than a message takes.

    What a node does when it is over is to say the same again: with no such rule, without end.
    """
    return not any(state.control) and not any(map(any, state.stream))


def _fates(world: World, state: State, who: int, attempt: tuple[Term, Term]) -> Iterator[Action]:
    if world.told[attempt[1][0]].epoch > world.epochs:
        return  # the arbiter is silent from here on
    yield ("cas", who)
    if state.left[UNANSWERED]:
        yield ("mute", who)
        yield ("linger", who)
        yield ("unsent", who)
    if state.left[DELAYED]:
        yield ("decide", who)


def _between(state: State, facts: list[Facts]) -> Iterator[Action]:
    for index, (base, _record) in enumerate(state.late):
        if base == state.register:
            yield ("late", index)
    if state.linked and state.left[BREAKS]:
        yield ("break",)
    if not state.linked and facts[0].up and facts[1].up:
        yield ("connect",)
    if state.left[LOSSES] and state.register:
        yield ("lose",)


# ---- doing it ----


def apply(world: World, before: State, action: Action) -> State:
    """The state after `action`.

    Raises:
        Violation: it must not have come to this.
    """
    state = before.copy()
    kind = action[0]
    if kind in _JOINT:
        _JOINT[kind](world, state, action)
    else:
        _LOCAL[kind](world, state, action[1], action)
    return state


def _hear(world: World, state: State, who: int, _action: Action) -> None:
    message = state.control[1 - who][0]
    state.control[1 - who] = state.control[1 - who][1:]
    world.run(state, who, "hear", message)


def _get(world: World, state: State, who: int, action: Action) -> None:
    queues = list(state.stream[1 - who])
    message, queues[action[2]] = queues[action[2]][0], queues[action[2]][1:]
    state.stream[1 - who] = tuple(queues)
    world.run(state, who, "get", message, action[2])


def _read(world: World, state: State, who: int, _action: Action) -> None:
    world.run(state, who, "read", state.register)


def _serve(_world: World, state: State, who: int, _action: Action) -> None:
    state.left[DELAYED] -= 1
    state.replies[who] = ("read", state.register)


def _reply(world: World, state: State, who: int, _action: Action) -> None:
    reply, state.replies[who] = state.replies[who], None
    if reply is None:
        return
    kind, found = reply
    if kind == "read":
        world.run(state, who, "read", found)
    else:
        world.run(state, who, "cas", extra=kind)


def attempt_of(world: World, state: State, who: int) -> tuple[Term, Term]:
    """The CAS that this node has sent, and waits for."""
    site = state.sites[who]
    attempt = world.facts[site[0]].attempt
    if attempt is None:
        raise Violation(f"{NAMES[who]} has sent nothing")
    base, record = attempt

    def absolute(term: Term) -> Term:
        return term and (term[0], *(site[1 + place] for place in term[1:]))

    return absolute(base), absolute(record)


def _land(world: World, state: State, base: Term, record: Term) -> str:
    if state.register != base:
        return "refused"
    told = world.told[record[0]]
    # A disk that goes back forgets what it promised; what follows from that is what rules are for.
    restored = state.left[IMAGES] < world.budget.images
    for member, place in told.nonces:
        site = state.sites[NAMES.index(member)]
        held = {site[1 + where] for where in world.facts[site[0]].nonces}
        if record[1 + place] not in held and not restored:
            raise Violation(f"5.0 {told.epoch} landed without the nonce of {member} on disk")
    state.register, state.former = record, ()
    if len(told.members) == len(NAMES):
        # What both have rests on both from now on.
        first, second = (world.facts[site[0]].values for site in state.sites)
        state.alone = [mask & ~(first & second) for mask in state.alone]
    return "won"


def _cas(world: World, state: State, who: int, _action: Action) -> None:
    outcome = _land(world, state, *attempt_of(world, state, who))
    world.run(state, who, "cas", extra=outcome)


def _decide(world: World, state: State, who: int, _action: Action) -> None:
    state.left[DELAYED] -= 1
    outcome = _land(world, state, *attempt_of(world, state, who))
    state.replies[who] = (outcome, ())


def _mute(world: World, state: State, who: int, _action: Action) -> None:
    state.left[UNANSWERED] -= 1
    _land(world, state, *attempt_of(world, state, who))
    world.run(state, who, "cas", extra=UNKNOWN)


def _linger(world: World, state: State, who: int, _action: Action) -> None:
    state.left[UNANSWERED] -= 1
    state.late = (*state.late, attempt_of(world, state, who))
    world.run(state, who, "cas", extra=UNKNOWN)


def _unsent(world: World, state: State, who: int, _action: Action) -> None:
    state.left[UNANSWERED] -= 1
    world.run(state, who, "cas", extra=NOT_SENT)


def _write(world: World, state: State, who: int, action: Action) -> None:
    state.left[WRITES] -= 1
    value = world.budget.writes - state.left[WRITES]
    world.run(state, who, "write", extra=(action[2], value))


def _local(world: World, state: State, who: int, action: Action) -> None:
    world.run(state, who, action[0])


def _spending(item: int) -> Doing:
    def act(world: World, state: State, who: int, action: Action) -> None:
        state.left[item] -= 1
        world.run(state, who, action[0])

    return act


def _hurry(world: World, state: State, who: int, _action: Action) -> None:
    state.left[HURRIES] -= 1
    world.run(state, who, "time")


def _suspect(world: World, state: State, who: int, _action: Action) -> None:
    if state.linked:
        state.left[SUSPICIONS] -= 1
    world.run(state, who, "suspect")


def _crash(world: World, state: State, who: int, action: Action) -> None:
    state.left[CRASHES] -= 1
    power = action[0] == "power"
    facts = world.facts[state.sites[who][0]]
    if facts.attempt is not None and state.replies[who] is None:
        state.late = (*state.late, attempt_of(world, state, who))
    state.replies[who] = None
    if power:
        # Acknowledged alone and never synced: void once that node's power is lost (I1).
        state.acked &= ~(facts.unsynced & state.alone[who])
    linked = state.linked
    world.run(state, who, "kill", extra=power)
    _cut(world, state, (1 - who,) if linked else ())


def _restore(world: World, state: State, who: int, _action: Action) -> None:
    world.run(state, who, "restore")


def _cut(world: World, state: State, concerned: tuple[int, ...]) -> None:
    state.linked = False
    state.control = [(), ()]
    state.stream = [((),) * len(world.volumes)] * 2
    for who in concerned:
        world.run(state, who, "close")


def _late(world: World, state: State, action: Action) -> None:
    base, record = state.late[action[1]]
    state.late = state.late[: action[1]] + state.late[action[1] + 1 :]
    _land(world, state, base, record)


def _break(world: World, state: State, _action: Action) -> None:
    state.left[BREAKS] -= 1
    _cut(world, state, (0, 1))


def _connect(world: World, state: State, _action: Action) -> None:
    state.linked = True
    numbers = [world.facts[site[0]].incarnation for site in state.sites]
    for who in (0, 1):
        world.run(state, who, "open", extra=numbers[1 - who])


def _lose(_world: World, state: State, _action: Action) -> None:
    state.left[LOSSES] -= 1
    state.former, state.register = state.register, ()


Doing = Callable[[World, State, int, Action], None]
_JOINT: Final[dict[str, Callable[[World, State, Action], None]]] = {
    "late": _late,
    "break": _break,
    "connect": _connect,
    "lose": _lose,
}
_LOCAL: Final[dict[str, Doing]] = {
    "hear": _hear,
    "get": _get,
    "read": _read,
    "serve": _serve,
    "reply": _reply,
    "cas": _cas,
    "decide": _decide,
    "mute": _mute,
    "linger": _linger,
    "unsent": _unsent,
    "write": _write,
    "time": _local,
    "start": _local,
    "suspect": _suspect,
    "swap": _spending(SWAPS),
    "image": _spending(IMAGES),
    "hurry": _hurry,
    "kill": _crash,
    "power": _crash,
    "restore": _restore,
}


# ---- for people ----


def describe(world: World, state: State, action: Action) -> str:
    """A line of the trace."""
    kind = action[0]
    if kind in _JOINT:
        return _describe_joint(world, state, action)
    who = action[1]
    name = NAMES[who]
    texts = {
        "read": f"arbiter answers {name}'s read",
        "serve": f"arbiter answers {name}'s read, the answer is delayed",
        "reply": f"the delayed answer reaches {name}",
        "write": f"a client writes on {name}",
        "time": f"time passes on {name}",
        "hurry": f"{name} says it again before it can have an answer",
        "start": f"{name} starts",
        "suspect": f"{name} takes its peer for lost",
        "swap": f"swap asked on {name}",
        "image": f"an image of {name}'s disk is taken",
        "kill": f"{name} is killed",
        "power": f"{name} loses power",
        "restore": f"{name}'s disk is restored from the image",
    }
    if kind in texts:
        return texts[kind]
    if kind == "hear":
        strong = world.terms.thaw(state.control[1 - who][0])[0]
        what = "PeerState" if isinstance(strong, dict) else type(strong).__name__
        return f"{name} hears {what}"
    if kind == "get":
        return f"{name} gets {world.terms.thaw(state.stream[1 - who][action[2]][0])[0][0]}"
    told = world.told[attempt_of(world, state, who)[1][0]]
    fates = {
        "cas": "is answered",
        "decide": "is decided, the answer is delayed",
        "mute": "is done, the reply is lost",
        "linger": "lingers",
        "unsent": "is not sent",
    }
    return f"{name}'s CAS {told.epoch} {told.primary} {list(told.members)} {fates[kind]}"


def _describe_joint(world: World, state: State, action: Action) -> str:
    if action[0] == "late":
        told = world.told[state.late[action[1]][1][0]]
        return f"a late CAS lands: {told.epoch} {told.primary} {list(told.members)}"
    texts = {
        "break": "the link breaks",
        "connect": "the link opens",
        "lose": "the arbiter loses the register",
    }
    return texts[action[0]]
