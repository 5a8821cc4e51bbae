"""What an operator forced, as the disks and the register show it, and what that cost.

Independent of the code under test: what is lost by a force is counted and kept, and only that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from mirrorha.core import events as v
from mirrorha.core import lineage, split
from mirrorha.core.words import Allow
from mirrorha.testing.sim.oracle import Oracle
from mirrorha.testing.sim.world import Violation, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorha.core.meta import Meta
    from mirrorha.core.register import Register
    from mirrorha.testing.sim.node import SimNode
    from mirrorha.testing.sim.oracle import Acked
    from mirrorha.testing.sim.pair import Pair


@attrs.define
class Line:
    """A node that acknowledges apart from the register, for an operator forced one of the two.

    `record`: by which it acknowledges. `life`: of the node, in which it began to.
    """

    oracle: Oracle
    record: Register
    life: int = 0


@final
class Forces:
    """Watches both nodes for what an operator forces.

    Attributes:
        lines: of nodes that go on apart from the register: what their clients were told.
        lost: acknowledged writes that a force gave up.
    """

    def __init__(self, world: World, pair: Pair) -> None:
        self.world, self.pair = world, pair
        self.lines: dict[str, Line] = {}
        self.lost: list[Acked] = []
        self._allowed: dict[str, frozenset[Allow]] = {}
        self._epochs: set[int] = set()
        # What was tried to make a force good, and whether by a node that has served ever since.
        self._tried: dict[Register, bool] = {}
        self._asked = False
        self._told: set[str] = set()  # generations that one had and the other lacked

    def ask(self, node: SimNode, verb: v.Verb, *allowed: Allow) -> None:
        """The operator gives the command, once, and says what it may cost."""
        self._asked = True
        self.world.say(f"operator: {verb.value} on {node.name} {[each.value for each in allowed]}")
        if verb is v.Verb.FORCE_PRIMARY:
            before = self._allowed.get(node.name, frozenset())
            self._allowed[node.name] = before | frozenset(allowed)
        operation = f"{verb.value} {node.name}"
        node.give(v.Command(operation=operation, verb=verb, allowed=frozenset(allowed)))

    @property
    def were_asked(self) -> bool:
        return self._asked

    def is_forced(self, node: SimNode) -> bool:
        """What this node is making durable, or trying, is what an operator forces."""
        return bool(node.durable.meta.forcing) and node.name in self._allowed

    # ---- splits ----

    def split_told(self, node: SimNode) -> None:
        """I8, with an arbiter: each has a generation that the other lacks, as it said itself."""
        mine, peer = node.durable.meta.lineage, node.node.state.peer if node.node else None
        theirs = peer.lineage if peer is not None else ()
        if self.pair.shared is None and not split.is_split(mine, theirs):
            raise Violation(f"I8 {node.name} reports a split, and there is none")
        self._told |= set(mine) ^ set(theirs)

    def is_told(self, node: SimNode) -> bool:
        """Whether a person was told that this node's writes are on one side of a split."""
        mine, theirs = (each.durable.meta.lineage for each in (node, self.pair.peer(node)))
        return bool((set(mine) - set(theirs)) & self._told)

    def overwritten(self, node: SimNode) -> None:
        """I8: what a node acknowledged apart is not given up before a person was told."""
        mine, theirs = (each.durable.meta.lineage for each in (node, self.pair.peer(node)))
        if split.is_split(mine, theirs) and not self.is_told(node):
            raise Violation(f"I8 {node.name}'s side of a split is overwritten and nobody said so")

    def line_of(self, node: str) -> Line | None:
        return self.lines.get(node)

    def oracles(self) -> list[Oracle]:
        return [line.oracle for line in self.lines.values()]

    # ---- what became durable, and what landed ----

    def persisted(self, node: SimNode, before: Meta) -> None:
        after = node.durable.meta
        self._check_generation(node, before, after)
        if after.unconfirmed is not None and after.unconfirmed != before.unconfirmed:
            self._check_epoch(after.unconfirmed)
            self.world.count("forced without the arbiter")
            line = Line(self.pair.oracle_of(node.name).clone(), after.unconfirmed, node.life)
            self.settle(line.oracle, node)
            self.lines[node.name] = line
        line_now = self.lines.get(node.name)
        if after.unconfirmed is not None:
            serves = line_now is not None and line_now.life == node.life
            tried = set(after.intended) - set(before.intended)
            self._tried.update(dict.fromkeys(tried, serves or bool(after.forcing)))
        if line_now is None or after.unconfirmed == line_now.record:
            return
        if after.seen_epoch > line_now.record.epoch or before.unconfirmed is not None:
            self.world.count("forced line ended")
            del self.lines[node.name]  # it has learnt of the record that its own gave way to
            self._lose(node.name, line_now.oracle, self.pair.oracle)

    def _check_generation(self, node: SimNode, before: Meta, after: Meta) -> None:
        new = after.lineage[-1] if after.lineage[:-1] == before.lineage and after.lineage else ""
        if new in self.pair.peer(node).durable.meta.lineage:
            return  # taken over from it
        forced = bool(lineage.forced_in((new,)))
        if forced and node.name not in self._allowed:
            raise Violation(f"5.5 {node.name} calls a generation forced, and nobody forced it")
        if new and before.forcing and not forced:
            raise Violation(f"5.5 {node.name} begins a generation by force that looks ordinary")
        if new and before.inconsistent and not after.inconsistent:
            allowed = Allow.INCONSISTENT in self._allowed.get(node.name, ())
            if not lineage.is_inconsistent((new,)) or not allowed:
                raise Violation(f"I6 {node.name} serves inconsistent data, and nobody allowed it")

    def _check_epoch(self, record: Register) -> None:
        """I3: no two ways lead to one epoch."""
        landed = {each.epoch for each in self.pair.arbiter.landed}
        if record.epoch in landed | self._epochs:
            raise Violation(f"5.5 the forced epoch {record.epoch} is that of another record")
        self._epochs.add(record.epoch)

    def landing(self, before: Register | None, now: Register) -> None:
        """A record lands at the arbiter: was it forced, or does it make good what was?"""
        if now.epoch in self._epochs:
            raise Violation(f"5.5 a CAS makes epoch {now.epoch}, which was forced without one")
        node = self.pair.nodes[now.primary]
        line = self.lines.get(node.name)
        meta = node.durable.meta
        if not now.is_alone(node.name):
            return
        self._check_made_good(node, before, now)
        if line is not None and meta.unconfirmed == line.record:
            self.world.count("forced line made good")
            self._part(before, self.pair.peer(node), self.pair.oracle)
            self._lose(self.pair.peer(node).name, self.pair.oracle, line.oracle)
            self.pair.oracle = line.oracle
            del self.lines[node.name]
        elif meta.forcing or self._tried.get(now):
            self.world.count("forced by a cas")
            self._part(before, self.pair.peer(node), self.pair.oracle)
            self.settle(self.pair.oracle, node)

    def _check_made_good(self, node: SimNode, before: Register | None, now: Register) -> None:
        """What the operator could not know of is not taken by a disk, but by who serves."""
        serves, meta = self._tried.get(now, True), node.durable.meta
        unknown = before is not None and before.epoch > meta.seen_epoch
        if not serves and unknown and before is not None and node.name not in before.in_sync:
            raise Violation(
                f"5.5 {node.name} was forced once, waits, and takes epoch {before.epoch}, which "
                f"{before.primary} has won since"
            )

    def _part(self, before: Register | None, peer: SimNode, oracle: Oracle) -> None:
        """Until it learns of this record, the peer may acknowledge by the one before."""
        if before is not None and before.is_alone(peer.name) and peer.name not in self.lines:
            self.lines[peer.name] = Line(oracle.clone(), before)

    # ---- what it costs ----

    def settle(self, oracle: Oracle, node: SimNode) -> None:
        """The operator goes on with what `node` holds, whatever that lacks."""
        for name, store in node.durable.platters.items():
            held = set(store.cache)
            lacked = [
                one
                for one in oracle.acked
                if one.volume == name and one.rests and one.value not in held
            ]
            self._give_up(self.pair.peer(node).name, lacked)
            oracle.settled_for(node.name, name, held)

    def _lose(self, name: str, old: Oracle, new: Oracle) -> None:
        """What was acknowledged only on the line that is given up, which was this node's."""
        kept = {(one.volume, one.value) for one in new.acked}
        self._give_up(name, [one for one in old.acked if (one.volume, one.value) not in kept])

    def _give_up(self, name: str, lost: Sequence[Acked]) -> None:
        """The service has them no more. What this node has of them, it keeps."""
        for one in lost:
            self.world.count("write lost by force")
            self.lost.append(one)
        owed = Oracle(self.world)
        owed.acked = [attrs.evolve(one, rests=dict(one.rests), shadow={}) for one in lost]
        self.pair.owed.add(name, owed)
