"""Random lives of a pair: changes, slow disks, breaking links, crashes, and a node's orders.

The orders are those that `core.Node` may give, in the sequences in which it may give them; what it
knows of the register is a variable here. Same seed, same life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator

import pytest

from mirrorha.core.orders import (
    AnyReport,
    BecomeTarget,
    Close,
    CutDone,
    CutOver,
    Drain,
    Drained,
    Follow,
    Freeze,
    Frozen,
    NearlyEqual,
    Replayed,
    ResyncFailed,
    ServeAlone,
    ServeMirror,
    StartResync,
    StreamDown,
    Sync,
    Synced,
    Trouble,
)
from mirrorha.core.words import Ack
from mirrorha.volume.events import Change, Failure, Flush, Reply
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
    Create,
    Rename,
    SetAttributes,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.stream.pending import SOURCE, VolumeSettings
from mirrorha.wire.limits import SEGMENT_BYTES
from tests.volume.stream_pair import Node, Pair, demand

Steps = Generator[None, None, None]


class Life:
    """One seed's pair, with the node's side of it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.ack = self.chance.choice([Ack.APPLIED, Ack.APPLIED, Ack.DURABLE])
        settings = VolumeSettings(
            ack=self.ack,
            window_ops_max=self.chance.choice([1, 3, 100]),
            checkpoint_ms=self.chance.choice([10, 100]),
            touched_max=self.chance.choice([8, 1000]),
            hot_checkpoints=self.chance.choice([1, 3]),
            message_bytes_max=self.chance.choice([1, 200, 100_000]),
            peer_slow_max_ms=1_000_000,
            disk_max_ms=1_000_000,
        )
        self.pair = Pair(settings, self.chance)
        self.pair.on_reply = self.replied
        self.epoch = 0
        self.generation = "g0"
        self.round = 0
        self.prim = self.pair.nodes[0]
        self.in_sync: set[int] = set()
        self.token = 0
        self.asked: dict[int, Change | Flush] = {}  # not answered yet, on a machine that lives
        self.asked_of: dict[int, Node] = {}
        self.acked: set[int] = set()  # ids of acknowledged ops
        self.wrote: dict[int, list[int]] = {}  # flush token: acknowledged ops on its file before
        self.of_file: dict[int, list[int]] = {}
        self.fids: list[int] = []
        self.faults = True
        self.steady = False  # in MIRROR, with no more faults to come
        self.counts = dict.fromkeys(("acked", "mirrored", "takeover", "swap", "replay", "join"), 0)

    # ---- callers -------------------------------------------------------------------------------

    def ask(self) -> None:
        node = self.prim if self.chance.random() < 0.95 else self.chance.choice(self.pair.nodes)
        self.token += 1
        self.asked_of[self.token] = node
        event: Change | Flush
        if self.fids and self.chance.random() < 0.15:
            event = Flush(self.token, self.chance.choice(self.fids), self.chance.random() < 0.5)
            self.wrote[self.token] = list(self.of_file.get(event.fid, ()))
        else:
            event = Change(self.token, self.op())
        self.asked[self.token] = event
        self.pair.give(node, event)

    def op(self) -> AnyOp:
        chance, stamp = self.chance, self.token
        names = [f"n{n}" for n in range(4)]
        if not self.fids or chance.random() < 0.15:
            return Create(0, ROOT_FID, chance.choice(names), 0o600, 0, 0, stamp)
        fid = chance.choice(self.fids)
        match chance.randrange(12):
            case 0:
                return Truncate(fid, chance.randrange(3) * SEGMENT_BYTES, stamp)
            case 1:
                return Unlink(fid, ROOT_FID, chance.choice(names), stamp)
            case 2:
                return Rename(
                    fid, ROOT_FID, chance.choice(names), ROOT_FID, chance.choice(names), 0, stamp
                )
            case 3:
                return SetAttributes(fid, None, None, None, chance.choice([None, stamp]))
            case _:
                offset = chance.randrange(4) * SEGMENT_BYTES - chance.choice([0, 1])
                return Write(fid, max(offset, 0), b"xy", stamp)

    def replied(self, node: Node, reply: Reply) -> None:
        event = self.asked.pop(reply.token, None)
        demand(event is not None, f"two replies, or one to nobody: {reply}")
        demand(self.asked_of[reply.token] is node, "a reply of the wrong node")
        if reply.failure is not Failure.NONE:
            return
        # A former primary may still hear what its follower acknowledged before that froze: the
        # promise is that every member holds it, whoever says so.
        holders = [self.pair.nodes[i] for i in self.in_sync]
        if isinstance(event, Flush):
            for holder in holders:
                wrote = self.wrote[reply.token]
                self.check_durable(holder, event.fid, wrote, data_only=event.data_only)
        elif reply.op is not None:
            self.counts["acked"] += 1
            self.counts["mirrored"] += len(holders) == 2
            stamp: int = reply.op.mtime_ns  # type: ignore[union-attr,assignment]
            self.acked.add(stamp)
            for holder in holders:
                demand(stamp in holder.disk.history, f"I1: acknowledged, not on both: {reply}")
                if self.ack is Ack.DURABLE and isinstance(reply.op, Write | Create | SetAttributes):
                    self.check_durable(holder, reply.op.fid, [stamp], data_only=False)
            self.of_file.setdefault(reply.op.fid, []).append(stamp)
            if isinstance(reply.op, Create):
                self.fids.append(reply.op.fid)

    def check_durable(self, holder: Node, fid: int, stamps: list[int], *, data_only: bool) -> None:
        """Whatever these ops wrote and what is still there is there on the disk, too."""
        disk = holder.disk
        if not set(stamps) <= set(disk.history):
            raise AssertionError("I1 is checked before")
        if fid not in disk.tree.files:
            return
        demand(fid in disk.durable.files, f"{fid} was acknowledged as durable and is not there")
        if disk.tree.attributes[fid] in stamps and not data_only:
            found = disk.durable.attributes[fid]
            demand(found == disk.tree.attributes[fid], f"the attributes of {fid}: {found}")
        for offset, stamp in disk.tree.files[fid].items():
            if stamp in stamps:
                found = disk.durable.files[fid].get(offset)
                demand(found == stamp, f"{fid} at {offset} was acknowledged as durable: {found}")

    # ---- the register, and the node --------------------------------------------------------------

    @property
    def second(self) -> Node:
        return self.prim.peer

    def win(self, prim: Node, *members: Node) -> None:
        """A CAS was won. Whoever may serve now holds every acknowledged change."""
        self.epoch += 1
        self.prim = prim
        self.in_sync = {self.pair.nodes.index(member) for member in members}
        for member in members:
            missing = self.acked - set(member.disk.history)
            demand(not missing, f"I1: a member of in_sync lacks {sorted(missing)}")

    def new_token(self) -> int:
        self.token += 1
        return self.token

    def until(self, node: Node, report: AnyReport, give_up: Callable[[], bool]) -> Steps:
        while report not in node.reports and not give_up():
            yield

    def pause(self) -> Steps:
        while self.chance.random() < 0.6:
            yield

    def both(self, *orders: tuple[Node, object]) -> Steps:
        """Give orders to both nodes, in any order, and not at once."""
        shuffled = list(orders)
        self.chance.shuffle(shuffled)
        for node, order in shuffled:
            self.pair.order(node, order)  # type: ignore[arg-type]
            yield from self.pause()

    def freeze_and_sync(self, node: Node) -> Steps:
        for order, report in ((Freeze, Frozen), (Sync, Synced)):
            token = self.new_token()
            self.pair.order(node, order(token))
            yield from self.until(node, report(token), lambda: False)

    def go_alone(self, node: Node) -> Steps:
        """5.1.2 for the primary, 5.1.4 for the other."""
        yield from self.freeze_and_sync(node)
        self.counts["takeover"] += node is not self.prim
        former = self.prim
        self.win(node, node)
        self.generation = f"g{self.epoch}"
        if self.chance.random() < 0.5:
            yield from self.pause()
        self.pair.order(node, ServeAlone(self.epoch, self.generation))
        if former is not node:
            yield from self.pause()
            self.pair.order(former, Close("the other node serves", "other"))

    def crash(self, node: Node, *, os_crash: bool) -> None:
        """What was given to the disk may or may not have been done."""
        for calls in node.lanes.values():
            while calls and self.chance.random() < 0.5:
                node.disk.perform(calls.popleft().request)
        if os_crash:
            node.disk.os_crash()
        node.disk.source = node.peer.disk.source = None
        if self.pair.link:
            self.pair.disconnect(self.chance.randrange(2))
        for token in [t for t, of in self.asked_of.items() if of is node]:
            self.asked.pop(token, None)
        node.boot()
        if os_crash and node.disk.tree == node.disk.durable:
            # Its history is no longer what its tree shows: it must be made equal before it counts.
            node.disk.history = []

    def broken(self) -> bool:
        return not self.pair.link

    def failed(self) -> bool:
        return any(isinstance(r, ResyncFailed) for n in self.pair.nodes for r in n.reports)

    def lost(self) -> bool:
        """Broken, or it was since the last orders: a node orders again after every StreamUp."""
        reports = self.pair.nodes[0].reports + self.pair.nodes[1].reports
        return self.broken() or StreamDown() in reports

    def mirrored(self) -> Steps:
        """A pair in MIRROR, until something happens to it."""
        while True:
            self.second.disk.source = self.prim.disk
            for _ in range(self.chance.randrange(200)):
                if self.lost():
                    break
                yield
            choice = self.chance.choice(["replay", "swap", "swap", "alone", "takeover", "crash"])
            if not self.faults:
                if self.prim.volume.streaming:
                    self.steady = True
                    yield
                    continue
                choice = "replay"
            if choice == "replay":
                yield from self.replay()
            elif choice == "swap":
                yield from self.swap()
            elif choice == "crash":
                yield from self.crash_one()
                return
            else:
                yield from self.go_alone(self.prim if choice == "alone" else self.second)
                return

    def replay(self) -> Steps:
        """5.1.3, with or without another CAS."""
        for node in self.pair.nodes:
            if self.chance.random() < 0.4:
                self.pair.order(node, Freeze(self.new_token()))
        while self.broken():
            yield
        if self.chance.random() < 0.5:
            for node in self.pair.nodes:
                self.pair.order(node, Freeze(self.new_token()))
            yield from self.pause()
            self.win(self.prim, self.prim, self.second)
        yield from self.serve()
        self.counts["replay"] += 1

    def serve(self) -> Steps:
        prim, second, epoch = self.prim, self.second, self.epoch
        self.round += 1
        for node in self.pair.nodes:
            node.reports.clear()
        yield from self.both(
            (prim, ServeMirror(epoch, self.generation, self.round)),
            (second, Follow(epoch, self.generation, self.round)),
        )
        if self.chance.random() < 0.2:  # a node may come back to a round that it has left
            self.pair.order(second, Freeze(0))
            yield from self.pause()
            self.pair.order(second, Follow(epoch, self.generation, self.round))
        if self.chance.random() < 0.9:
            yield from self.until(prim, Replayed(epoch), self.lost)
            if Replayed(epoch) not in prim.reports:
                yield from self.replay()

    def swap(self) -> Steps:
        token = self.new_token()
        self.pair.order(self.prim, Drain(token))
        for _ in range(300):
            if Drained(token) in self.prim.reports or self.lost():
                break
            yield
        if Drained(token) not in self.prim.reports or self.chance.random() < 0.3:
            # Nothing has changed: undone in the same epoch.
            yield from self.replay()
            return
        demand(self.prim.disk.history == self.second.disk.history, "drained: both hold all")
        demand(self.prim.disk.durable == self.prim.disk.tree, "drained: synced here")
        demand(self.second.disk.durable == self.second.disk.tree, "drained: synced there")
        self.prim.disk.source = self.second.disk.source = None
        self.win(self.second, self.prim, self.second)
        self.counts["swap"] += 1
        while self.broken():
            yield
        yield from self.serve()

    def crash_one(self) -> Steps:
        os_crash = self.chance.random() < 0.5
        if self.chance.random() < 0.5:
            self.crash(self.second, os_crash=os_crash)
            yield from self.go_alone(self.prim)
        elif self.chance.random() < 0.5:
            former = self.prim
            self.crash(former, os_crash=os_crash)
            yield from self.go_alone(former.peer)
        else:  # both, and their systems survive: whoever starts goes on alone (5.2)
            for node in self.pair.nodes:
                self.crash(node, os_crash=False)
            yield from self.go_alone(self.chance.choice(self.pair.nodes))

    def alone(self) -> Steps:
        """5.1.6, as often as it takes."""
        prim, second = self.prim, self.second
        prim.disk.source = second.disk.source = None
        session = 0
        while True:
            for _ in range(self.chance.randrange(100)):
                yield
            if self.faults and self.chance.random() < 0.2:
                self.crash(second, os_crash=self.chance.random() < 0.5)
            if self.faults and self.chance.random() < 0.1:
                self.crash(prim, os_crash=False)
                yield from self.go_alone(prim)
            session += 1
            for node in self.pair.nodes:
                node.reports.clear()
            yield from self.both(
                (second, BecomeTarget(self.epoch, session)),
                (prim, StartResync(self.epoch, session, False, 0)),
            )
            yield from self.until(prim, NearlyEqual(session), self.failed)
            if self.failed():
                continue
            token = self.new_token()
            self.pair.order(prim, CutOver(token))
            yield from self.until(prim, CutDone(token), self.failed)
            if not self.failed() and not self.broken() and self.chance.random() < 0.9:
                yield from self.admit()
                return
            self.pair.order(prim, ServeAlone(self.epoch, self.generation))  # given up before a CAS

    def admit(self) -> Steps:
        """The target is admitted, or perhaps admitted."""
        prim, second = self.prim, self.second
        demand(prim.disk.tree == second.disk.tree, "I7: trees differ at cut-over")
        demand(second.disk.durable == second.disk.tree, "the target has synced")
        second.disk.source = prim.disk
        self.counts["join"] += 1
        if self.chance.random() < 0.7:
            self.win(prim, prim, second)
            yield from self.serve()
            return
        self.in_sync = {0, 1}  # the outcome is unknown: only what both hold is acknowledged
        yield from self.serve()
        for _ in range(self.chance.randrange(50)):
            yield
        self.win(prim, prim, second)
        while self.broken():
            yield
        yield from self.serve()

    def run(self) -> Steps:
        self.win(self.prim, self.prim)
        self.pair.order(self.prim, ServeAlone(self.epoch, self.generation))
        while True:
            yield from self.alone()
            yield from self.mirrored()

    # ---- chance ----------------------------------------------------------------------------------

    def move(self, node_moves: Steps) -> None:
        chance = self.chance.random()
        busy = self.pair.busy()
        if chance < 0.15:
            if len(self.asked) < 20:
                self.ask()
        elif chance < 0.2:
            self.pair.tick(self.chance.randrange(20))
        elif chance < 0.204 and self.faults and self.pair.link:
            self.pair.disconnect(self.chance.randrange(2))
        elif chance < 0.25 and not self.pair.link:
            self.pair.connect(self.chance.randrange(2))
        elif chance < 0.45 or not busy:
            next(node_moves)
        else:
            self.chance.choice(busy)()

    def live(self, moves: int) -> None:
        node_moves = self.run()
        for _ in range(moves):
            self.move(node_moves)
        self.faults = False
        for _ in range(20_000):
            self.move(node_moves)
            if self.steady:
                break
        else:
            raise AssertionError("it never comes back to MIRROR")
        self.end()

    def end(self) -> None:
        """All callers are answered; both hold the same, and all that was acknowledged."""
        self.pair.settle()
        demand(not self.asked, f"in MIRROR, at rest, and never answered: {self.asked}")
        for node in self.pair.nodes:
            self.pair.order(node, Close("the end", None))
        self.pair.settle()
        demand(not self.asked, f"never answered: {self.asked}")
        first, second = self.pair.nodes
        demand(self.acked <= set(first.disk.history), "I1: lost in the end")
        demand(first.disk.history == second.disk.history, "I5: histories differ in the end")
        demand(first.disk.tree == second.disk.tree, "trees differ in the end")
        demand(not self.pair.resets, f"nobody broke the protocol: {self.pair.resets}")
        for node in self.pair.nodes:
            found = [r for r in node.reports if isinstance(r, Trouble)]
            demand(not found, f"nothing was wrong: {found}")


@pytest.mark.parametrize("seed", range(150))
def test_a_random_life(seed: int) -> None:
    Life(seed).live(moves=3_000)


def test_lives_see_what_they_should() -> None:
    """The lives are worth something only if they go through all of it."""
    total: dict[str, int] = {}
    for seed in range(32):
        life = Life(1_000 + seed)
        life.live(moves=3_000)
        for name, count in life.counts.items():
            total[name] = total.get(name, 0) + count
    assert min(total.values()) >= 10, total
    assert total["mirrored"] > 300, total


def test_same_seed_same_life() -> None:
    lives = [Life(5), Life(5)]
    for life in lives:
        life.live(moves=1_500)
    assert lives[0].pair.nodes[0].replies == lives[1].pair.nodes[0].replies


def test_a_source_is_a_stance_with_callers() -> None:
    assert {stance.value for stance in SOURCE} == {"log", "mirror", "drain", "cut", "frozen"}
