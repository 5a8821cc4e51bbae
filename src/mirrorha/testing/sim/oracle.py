"""What was acknowledged, and on whose word it rests. Independent of the code under test."""

from __future__ import annotations

from typing import final

import attrs

from mirrorha.core.register import Register
from mirrorha.testing.sim.world import Violation, World


@attrs.define
class Acked:
    """One acknowledged write.

    Attributes:
        rests: node -> whether its disk holds it (else only its page cache does). A write rests on
            every node that the promise names; it is void once none is left.
        epoch: in which it was acknowledged.
        shadow: the same for a joiner whose admission is not known to have landed yet.
        shadow_lost: a joiner that lost power before it landed, and the write with it.
    """

    volume: str
    value: int
    rests: dict[str, bool]
    epoch: int
    shadow: dict[str, bool] = attrs.Factory(dict)
    shadow_lost: set[str] = attrs.Factory(set)


@final
class Oracle:
    """Keeps the record that a client would keep, and judges the nodes by it (I1, I2, I3)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.acked: list[Acked] = []
        self._primaries: dict[int, str] = {}
        self._disk: dict[tuple[str, str], set[int]] = {}

    def ack(
        self,
        *,
        volume: str,
        value: int,
        epoch: int,
        by: str,
        other: str | None,
        now: Register,
        durable: bool = False,
    ) -> None:
        """A client got its answer from `by`; the peer `other` had applied it too, if not None.

        It rests on the page caches of those of them that the register names at this moment;
        with `durable`, on their disks.
        """
        before = self._primaries.setdefault(epoch, by)
        if before != by:
            raise Violation(f"I3 {before} and {by} both acknowledged in epoch {epoch}")
        holders = {by} if other is None else {by, other}
        rests = holders & now.in_sync
        if not rests or (other is None and not now.is_alone(by)):
            raise Violation(
                f"I2 {by} acknowledged {'alone' if other is None else 'with its peer'} in epoch "
                f"{epoch} while the register names {sorted(now.in_sync)} in epoch {now.epoch}"
            )
        if by not in rests and value not in self._disk.get((str(other), volume), ()):
            raise Violation(
                f"I1 {by} acknowledged {value} of {volume} in epoch {epoch}, which rests on "
                f"{other} alone since epoch {now.epoch}, and is not on its disk"
            )
        self.acked.append(
            Acked(
                volume=volume,
                value=value,
                rests=dict.fromkeys(rests, durable),
                epoch=epoch,
                shadow=dict.fromkeys(holders - rests if by in rests else (), durable),
            )
        )

    def synced(self, node: str, volume: str, values: set[int]) -> None:
        """`node` has these on its disk now.

        That alone promises nothing: a write that no client fsynced is void once both that hold
        it have lost power. It counts once the register rests on it: when it names the node alone,
        and when it admits a joiner.
        """
        self._disk[node, volume] = values

    def synced_more(self, node: str, volume: str, values: set[int]) -> None:
        """`node` has these on its disk as well."""
        self._disk.setdefault((node, volume), set()).update(values)

    def fsynced(self, volume: str, values: set[int], holders: set[str]) -> None:
        """A client was told that these are on the disks of `holders`."""
        for one in self.acked:
            if one.volume == volume and one.value in values:
                for rests in (one.rests, one.shadow):
                    rests.update(dict.fromkeys(holders & rests.keys(), True))

    def clone(self) -> Oracle:
        """The same record, for a node that may go on from here apart from its peer."""
        twin = Oracle(self.world)
        twin.acked = [
            attrs.evolve(
                one,
                rests=dict(one.rests),
                shadow=dict(one.shadow),
                shadow_lost=set(one.shadow_lost),
            )
            for one in self.acked
        ]
        twin._primaries = self._primaries  # one primary an epoch, wherever it acknowledges
        twin._disk = {key: set(values) for key, values in self._disk.items()}
        return twin

    def _on_disk(self, node: str, one: Acked) -> bool:
        return one.value in self._disk.get((node, one.volume), ())

    def os_crashed(self, node: str) -> None:
        """What was only in its page cache no longer rests on it."""
        for one in self.acked:
            if one.shadow.get(node) is False:
                one.shadow_lost.add(node)
            for rests in (one.rests, one.shadow):
                if node in rests and not rests[node]:
                    del rests[node]

    def restored(self, node: str) -> None:
        """Its disk was replaced by an old image: nothing rests on it."""
        for one in self.acked:
            one.rests.pop(node, None)
            one.shadow.pop(node, None)

    def settled_for(self, node: str, volume: str, values: set[int]) -> None:
        """An operator chose to go on with what `node` holds, whatever that lacks."""
        for one in self.acked:
            if one.volume == volume:
                one.rests = {node: False} if one.value in values else {}
                one.shadow = {}

    def landed(self, before: Register | None, now: Register) -> None:
        """A record landed. Named alone: all rests on that node. A join: on the joiner as well."""
        if len(now.in_sync) == 1:
            (node,) = now.in_sync
            for one in self.acked:
                if node in one.rests or node in one.shadow:
                    on_disk = self._on_disk(node, one)
                    if len(one.rests) > 1 and not on_disk:
                        raise Violation(
                            f"I1 epoch {now.epoch} drops the peer of {node}, whose disk lacks "
                            f"{one.value} of {one.volume}, which both had acknowledged"
                        )
                    one.rests = {node: on_disk}
                one.shadow = {}
                one.shadow_lost = set()
        elif before is not None and len(before.in_sync) == 1:
            (source,) = before.in_sync
            (joiner,) = now.in_sync - before.in_sync
            for one in self.acked:
                if source in one.rests:
                    # What it did not get by the stream, it got and synced by the resync.
                    if joiner not in one.shadow_lost:
                        one.rests[joiner] = one.shadow.get(joiner, True)
                    one.rests[source] = one.rests[source] or self._on_disk(source, one)
                one.shadow = {}
                one.shadow_lost = set()

    def lost_unheard(self, node: str) -> None:
        """The record `{node}` landed, and was lost before that node learnt of it.

        Nothing tells of it any more: what it made of a copy's standing is void as well, and an
        un-fsynced write rests on the page caches again.
        """
        for one in self.acked:
            if node in one.rests:
                one.rests[node] = False

    def check_holds(
        self, node: str, volume: str, values: set[int], *, where: str, epoch: int
    ) -> None:
        """I1: a primary of `epoch` has every write acknowledged up to then that is not void.

        A node that was stopped for long may still learn that it had become one. What was
        acknowledged after that epoch it cannot have, and it can acknowledge nothing.
        """
        for one in self.acked:
            earlier = one.volume == volume and one.epoch <= epoch
            if earlier and one.rests and one.value not in values:
                raise Violation(
                    f"I1 {where}: {node} lacks acknowledged write {one.value} of {volume}, "
                    f"which rests on {one.rests}"
                )
