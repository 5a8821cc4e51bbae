"""The register without an arbiter, as both disks show it: what landed, by what right; splits.

Independent of the code under test: it sees only what became durable, and what the world answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import attrs

from mirrorha.core.meta import Meta
from mirrorha.core.orders import BecomeTarget
from mirrorha.core.register import Register
from mirrorha.testing.sim.forced import Forces
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.oracle import Oracle
from mirrorha.testing.sim.owed import Owed, owed_of
from mirrorha.testing.sim.world import Violation, World

# From the answer of the isolation checks to the moment at which going alone is durable.
ISOLATION_COUNTS_MS: Final = 1_500


@attrs.define
class Branch:
    """One line of authority: the last record that landed on it, and what its clients were told.

    `by_force`: an operator forced the other node, and by right this one may go on as well.
    """

    oracle: Oracle
    register: Register | None = None
    by_force: bool = False
    landed: list[Register] = attrs.Factory(list)


@attrs.define
class Fork:
    """Both went on. `acked`: who acknowledged alone; `reports`: alarms, by node, life and name."""

    acked: set[str]
    reports: list[tuple[str, int, str]] = attrs.Factory(list)


@final
class SharedRegister:
    """Watches the copies of both nodes.

    Attributes:
        branches: by node; the same object unless both went on apart.
        isolation: whether a node's isolation checks answer.
        isolation_delay_ms: called when they are asked: how long that takes.
        lying_firewall: during a cut, a port that nobody reaches is reported as refusing.
        on_alone: called when a node's copy names it alone, before it acts on that.
        on_promise: called when a promise became durable: the moment between prepare and commit.
    """

    def __init__(
        self,
        world: World,
        nodes: dict[str, SimNode],
        forces: Forces,
        owed: Owed,
        *,
        is_available: bool,
    ) -> None:
        self.world, self.nodes, self.is_available = world, nodes, is_available
        self.forces, self.owed = forces, owed
        branch = Branch(Oracle(world))
        self.branches = dict.fromkeys(("lyon", "paris"), branch)
        self.isolation: dict[str, bool] = {"lyon": True, "paris": True}
        self.isolation_delay_ms: Callable[[SimNode], int] = lambda _node: world.between(0, 2_000)
        self.chosen: set[str] = set()  # by an operator, to begin the cluster without the peer
        self.lying_firewall = False
        self.fencer_works = 0.7
        self.on_promise: Callable[[SimNode], None] = lambda _node: None
        self.on_alone: Callable[[SimNode], None] = lambda _node: None
        self.fork: Fork | None = None
        self.forks: list[Fork] = []
        self._left_behind: dict[str, Branch] = {}
        self._alone: set[str] = set()  # acknowledged alone since both were in sync
        self._kept: set[str] = set()  # lost a split; what they acknowledged must stay
        self._answered_ms: dict[str, int] = {}
        self._fenced: dict[str, int] = {}  # by whom, in which of its lives

    def oracles(self) -> list[Oracle]:
        kept = [each.oracle for each in (*self.branches.values(), *self._left_behind.values())]
        return list({id(oracle): oracle for oracle in kept}.values())

    # ---- what became durable ----

    def persisted(self, node: SimNode, peer: SimNode, before: Meta) -> None:
        after = node.durable.meta
        both = after.outdated and peer.durable.meta.outdated
        if both and not (after.stood_down or peer.durable.meta.stood_down):
            raise Violation("5.4 both nodes gave up their standing: nobody is left")
        if after.copy != before.copy:
            landed = self.branches[node.name].landed
            settles = self.forces.is_forced(node) and before.promised in landed
            # A force goes on from above what this node promised, whether it knew its end or not.
            self._copy_changed(node, peer, before.promised if settles else before.copy, after)
            if after.copy is not None and after.copy.is_alone(node.name):
                self.on_alone(node)
        if after.rescue != before.rescue or after.inconsistent != before.inconsistent:
            self.owed.check()
        if before.rescue and not after.rescue:
            self._kept.discard(node.name)  # it has become what its peer is
        if after.promised is not None and after.promised != before.promised:
            self.world.count("promised")
            self.on_promise(node)

    def _copy_changed(
        self, node: SimNode, peer: SimNode, before: Register | None, after: Meta
    ) -> None:
        now, name = after.copy, node.name
        if now is None:
            raise Violation(f"5.4 {name} forgot its copy of the register")
        if before is not None and now.epoch <= before.epoch:
            raise Violation(f"I3 {name}'s copy falls from {before.epoch} to {now.epoch}")
        branch, other = self.branches[name], self.branches[peer.name]
        if now in branch.landed:
            self._left_behind.pop(name, None)  # it learns what its peer did
        elif now in other.landed:
            self._gives_way(name, other)
        elif before == branch.register:
            self._land(branch, node, peer, now)
        else:
            self._fork(node, peer, before, now)

    def _gives_way(self, name: str, other: Branch) -> None:
        self.world.count("split: one side gave way")
        self.owed.add(name, self.branches[name].oracle)
        self.branches[name] = other
        if name in self._alone:
            self._kept.add(name)

    def _fork(self, node: SimNode, peer: SimNode, before: Register | None, now: Register) -> None:
        left = self._left_behind.pop(node.name, None)
        forced = self.forces.is_forced(node)
        if forced and (left is None or left.register != before):
            other = self.branches[peer.name]
            left = Branch(
                other.oracle.clone(), before, True, [*other.landed]
            )  # from what it knew last
        allowed = self.is_available or forced or (left is not None and left.by_force)
        if not allowed or left is None or left.register != before:
            raise Violation(
                f"I8 {node.name} makes epoch {now.epoch} from a record that its peer has replaced"
            )
        self.world.count("split")
        self.branches[node.name] = left
        self._land(left, node, peer, now)
        if not forced:
            self.fork = None
        self._may_split(node, peer)

    def _land(self, branch: Branch, node: SimNode, peer: SimNode, now: Register) -> None:
        before = branch.register
        for name, nonce in now.nonces:
            if nonce not in self.nodes[name].durable.meta.nonces():
                raise Violation(f"5.0 {name}'s admission nonce is not durable before the change")
        others = set() if node.name in self.chosen else {peer.name}
        concerned = now.in_sync | (before.in_sync if before else others)
        consents = peer.durable.meta.promised == now
        if peer.name in concerned and not consents:
            removed = before is not None and peer.name not in now.in_sync
            if not removed or not self._may_remove(node, peer):
                raise Violation(
                    f"5.4 {node.name} makes epoch {now.epoch} {sorted(now.in_sync)} without "
                    f"{peer.name}'s promise, and without proof"
                )
            if peer.durable.meta.copy == before:
                self._leave_behind(peer, branch, now_forced=self.forces.is_forced(node))
        if self.forces.is_forced(node):
            self.forces.settle(branch.oracle, node)
            self._may_split(node, peer)
        self.world.say(f"register ({node.name}): {now.epoch} {now.primary} {sorted(now.in_sync)}")
        branch.oracle.landed(before, now)
        branch.register = now
        branch.landed.append(now)
        if len(now.in_sync) > 1:
            self._alone = set()
            self._kept.clear()
            self._fenced.clear()
            self.fork = None

    def _leave_behind(self, peer: SimNode, branch: Branch, *, now_forced: bool) -> None:
        """The peer may go on from here apart; one that was forced out may be doing so already."""
        twin = Branch(branch.oracle.clone(), branch.register, now_forced, [*branch.landed])
        before = branch.register
        if now_forced and before is not None and before.is_alone(peer.name):
            self.branches[peer.name] = twin
        else:
            self._left_behind[peer.name] = twin

    def _may_split(self, node: SimNode, peer: SimNode) -> None:
        """Whoever acknowledged alone before is apart from the one that an operator forces.

        Unless that one was all but admitted, and has everything.
        """
        if self.fork is None:
            self.fork = Fork(acked=set(self._alone))
            if self.forces.is_forced(node) and self._has_all(node, peer):
                self.fork.acked.discard(peer.name)
            self.forks.append(self.fork)

    def _may_remove(self, node: SimNode, peer: SimNode) -> bool:
        if self.forces.is_forced(node):
            return True
        if peer.durable.meta.outdated:
            return True
        if self._fenced.get(node.name) == node.life:
            return True
        since_ms = self.world.now_ms - self._answered_ms.get(node.name, -(10**9))
        return self.is_available and since_ms <= ISOLATION_COUNTS_MS

    # ---- what is acknowledged, reported, overwritten ----

    def acked(self, name: str, *, both: bool) -> None:
        if not both:
            self._alone.add(name)
            if self.fork is not None:
                self.fork.acked.add(name)

    def reported(self, node: SimNode) -> None:
        """I8: exactly when both acknowledged apart, and once by each process while it lasts."""
        report = (node.name, node.life, node.durable.meta.split)
        if self.fork is None:
            raise Violation(f"I8 {node.name} reports a split, and there is none")
        if report in self.fork.reports:
            raise Violation(f"I8 {node.name} reports a split again")
        self.fork.reports.append(report)

    def overwritten(self, node: SimNode, order: BecomeTarget) -> None:
        if order.rescue:
            self.world.count("rescue")
        elif node.name in self._kept and not self._is_on_peer(node):
            raise Violation(f"{node.name}'s side of a split is overwritten and is not kept")

    def _has_all(self, node: SimNode, peer: SimNode) -> bool:
        oracle = self.branches[peer.name].oracle
        return all(
            owed_of(oracle, peer.name, volume) <= set(store.cache)
            for volume, store in node.durable.platters.items()
        )

    def _is_on_peer(self, node: SimNode) -> bool:
        """A node may be forced that was all but admitted: then it has what its peer alone wrote."""
        peer = self.nodes[node.settings.peer]
        owed = self.owed.of(node.name)
        return self.forces.were_asked and all(
            owed_of(oracle, node.name, volume) <= set(store.cache)
            for volume, store in peer.durable.platters.items()
            for oracle in owed
        )

    def accepted(self, node: SimNode) -> None:
        """An operator gave this node's side up."""
        self._kept.discard(node.name)
        self._alone.discard(node.name)
        if self.fork is not None and self.forces.were_asked and not self.fork.reports:
            self.fork.acked.discard(node.name)  # before anybody could know of a split

    def check_reports(self) -> None:
        """I8, at the end: what both acknowledged apart from each other was reported."""
        self.owed.check()
        for fork in self.forks:
            if len(fork.acked) > 1 and not fork.reports:
                raise Violation("I8 a split was never reported")
            if len(fork.acked) <= 1 and fork.reports:
                self.world.count("split reported though one side acknowledged nothing")

    # ---- what the world answers ----

    def heal(self) -> None:
        self.lying_firewall = False
        self.isolation = dict.fromkeys(self.isolation, True)
        self.on_promise = self.on_alone = lambda _node: None

    def check_isolation(self, node: SimNode, answer: Callable[[bool], None]) -> None:
        life = node.life

        def tell() -> None:
            answers = self.isolation[node.name]
            self.world.count(f"isolation checks answered: {answers}")
            if answers and node.life == life:
                self._answered_ms[node.name] = self.world.now_ms
            answer(answers)

        self.world.after(self.isolation_delay_ms(node), tell)

    def fence(self, node: SimNode, peer: SimNode, answer: Callable[[bool], None]) -> None:
        life = node.life
        works = self.world.chance(self.fencer_works)

        def tell() -> None:
            if works and (node.life == life or self.world.chance(0.5)):
                self.world.count("fenced")
                peer.crash(power=True)
                if node.life == life:
                    self._fenced[node.name] = life
            answer(works)

        self.world.after(self.world.between(20, 1_500), tell)
