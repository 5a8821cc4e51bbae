"""A small model of a volume that obeys the orders: an append-only list with a page cache.

It stands in for the production machine where many thousands of runs of the *core* are wanted, and
in the exhaustive exploration. The simulator also runs the production machine on a memory disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import attrs

from mirrorha.core import orders as o
from mirrorha.testing.sim.world import Violation, World

Message = tuple[object, ...]

# In these a client may wait for an answer.
SOURCES: Final = ("log", "mirror", "replaying", "paused", "frozen")


def _nothing(*_arguments: object) -> None:
    """Nobody wants to know."""


@attrs.define
class Platter:
    """What survives: `cache` a process crash, its first `synced` entries a loss of power."""

    cache: list[int] = attrs.Factory(list)
    synced: int = 0
    rescued: set[int] = attrs.Factory(set)  # durable at once

    def lose_power(self, world: World) -> None:
        kept = world.between(self.synced, len(self.cache))
        del self.cache[kept:]
        self.synced = len(self.cache)

    @property
    def in_limbo(self) -> set[int]:
        """A model moves nothing aside."""
        return set()

    def put(self, value: int) -> None:
        """Something that was there before there was a cluster."""
        self.cache.append(value)
        self.synced = len(self.cache)

    def surely_holds(self, values: set[int]) -> bool:
        """Whether all of these are on the disk. One that was written lately is found quickly."""
        latest = set(self.cache[max(0, self.synced - 512) : self.synced])
        return values <= latest or values <= set(self.cache[: self.synced])

    def as_image(self, world: World) -> Platter:
        return Platter(self.cache[: self.synced], self.synced, set(self.rescued))


@final
class ModelVolume:
    """One volume of one incarnation of one node."""

    def __init__(
        self,
        world: World,
        name: str,
        platter: Platter,
        *,
        send: Callable[[Message], None],
        report: Callable[[o.AnyReport], None],
        acked: Callable[[int, int, bool], None],
        on_synced: Callable[[set[int]], None],
        on_more: Callable[[set[int]], None] = _nothing,
        on_fsynced: Callable[[set[int], bool], None] = _nothing,
        durable: bool = False,
    ) -> None:
        """`durable`: acknowledge what is on every disk that it must be on.

        `on_synced` is told all that the disk holds, `on_more` what it holds besides, `on_fsynced`
        what a client's fsync covered and whether on both disks.
        """
        self.world, self.name, self.platter = world, name, platter
        self._send, self._report, self._acked, self._on_synced = send, report, acked, on_synced
        self._on_more, self._on_fsynced = on_more, on_fsynced
        self.durable = durable
        self.mode = "closed"
        self.epoch = 0
        self.replied = 0  # entries below this one were acknowledged, or were here before
        self.waiting: list[int] = []
        self.dead = False
        self.session = 0
        self.rescue = ""
        self.round = 0
        self._begin: tuple[int, int] | None = None
        self._peer_seq = 0  # what the follower has on its disk; kept for durable ones only
        self._asked = 0
        self._fsyncs: dict[int, set[int]] = {}

    # ---- a client ----

    def write(self, value: int) -> None:
        if self.dead:
            return
        if self.mode in ("log", "mirror"):
            self._apply(value)
        elif self.mode in ("frozen", "paused", "replaying"):
            self.waiting.append(value)

    def _apply(self, value: int) -> None:
        cache = self.platter.cache
        before = cache[-1] if cache else 0
        cache.append(value)
        if self.mode == "mirror":
            self._send(("op", self.epoch, len(cache), value, before))
        if self.durable:
            self._sync_soon(self._settle)
        elif self.mode == "log":
            self.replied = len(cache)
            self._acked(value, self.epoch, False)

    def _sync_soon(self, then: Callable[[], None]) -> None:
        """What is applied by then becomes durable."""

        def done() -> None:
            if not self.dead:
                self._sync_more()
                then()

        self.world.after(self.world.between(0, 5), done)

    def _settle(self) -> None:
        """Acknowledge what is durable wherever it must be."""
        limits = {"log": self.platter.synced}
        limits["mirror"] = limits["paused"] = self._limit()
        limit = limits.get(self.mode, 0)
        for index in range(self.replied, limit):
            self._acked(self.platter.cache[index], self.epoch, self.mode != "log")
        self.replied = max(self.replied, limit)
        self._check_drained()

    def _limit(self) -> int:
        """Up to where both disks have it."""
        return min(self._peer_seq, self.platter.synced)

    def fsync(self) -> None:
        """A client wants what it was acknowledged so far on the disks."""
        if self.dead:
            return
        values = set(self.platter.cache[: self.replied])
        if self.mode == "log":
            self._fsync_alone(self.epoch, values)
        elif self.mode == "mirror":
            self._asked += 1
            number = self._asked
            self._fsyncs[number] = values
            self._send(("fsync", self.epoch, number))

    def _fsync_alone(self, epoch: int, values: set[int]) -> None:
        def done() -> None:
            if not self.dead and self.mode == "log" and self.epoch == epoch:
                self._sync_more()
                self._on_fsynced(values, False)

        self.world.after(self.world.between(0, 20), done)

    def _admit(self) -> None:
        waiting, self.waiting = self.waiting, []
        for value in waiting:
            self.write(value)

    # ---- orders ----

    def order(self, order: o.AnyOrder) -> None:
        if not self.dead:
            getattr(self, "_do_" + type(order).__name__)(order)

    def _later(self, report: o.AnyReport, low: int = 0, high: int = 5) -> None:
        def tell() -> None:
            if not self.dead:
                self._report(report)

        self.world.after(self.world.between(low, high), tell)

    def _do_Freeze(self, order: o.Freeze) -> None:
        if self.mode != "closed":
            self.mode = "frozen" if self.mode in SOURCES else "quiet"
        self._later(o.Frozen(token=order.token))

    def _do_Sync(self, order: o.Sync) -> None:
        def done() -> None:
            if not self.dead:
                self._sync()
                self._report(o.Synced(token=order.token))

        self.world.after(self.world.between(0, 20), done)

    def _sync(self) -> None:
        self.platter.synced = len(self.platter.cache)
        self._on_synced(set(self.platter.cache))

    def _sync_more(self) -> None:
        more = self.platter.cache[self.platter.synced :]
        self.platter.synced = len(self.platter.cache)
        self._on_more(set(more))

    def _do_ServeAlone(self, order: o.ServeAlone) -> None:
        if self.durable:
            self._sync_more()
        if self.mode not in SOURCES:
            self.replied = len(self.platter.cache)  # nobody here waits for an answer
        self.mode, self.epoch = "log", order.epoch
        cache = self.platter.cache
        first, self.replied = min(self.replied, len(cache)), len(cache)
        for value in cache[first:]:
            self._acked(value, self.epoch, False)
        self._admit()

    def _do_ServeMirror(self, order: o.ServeMirror) -> None:
        if self.mode not in SOURCES:
            self.replied = len(self.platter.cache)
        self.epoch, self.round, self.mode = order.epoch, order.round, "replaying"
        self._peer_seq = 0
        self._fsyncs = {}
        self._send(("begin", order.epoch, order.round))

    def _do_Follow(self, order: o.Follow) -> None:
        self.epoch, self.round, self.mode = order.epoch, order.round, "expecting"
        self.waiting = []
        self._meet()

    def _meet(self) -> None:
        """The source's question and the node's order, of one round, whichever came first."""
        if self.mode == "expecting" and self._begin == (self.epoch, self.round):
            self.mode = "follow"
            if self.durable:
                self._sync_more()
            self._send(("at", self.epoch, self.round, len(self.platter.cache)))

    def _do_BecomeTarget(self, order: o.BecomeTarget) -> None:
        self.mode, self.session, self.epoch = "target", order.session, order.epoch
        self.rescue = order.rescue
        self._keep(self.platter.cache[len(self.platter.cache) // 2 :])
        del self.platter.cache[len(self.platter.cache) // 2 :]  # neither old nor new
        self.platter.synced = min(self.platter.synced, len(self.platter.cache))

    def _keep(self, values: list[int]) -> None:
        """Before these are overwritten."""
        if self.rescue:
            self.platter.rescued.update(values)

    def _do_StartResync(self, order: o.StartResync) -> None:
        self.session = order.session
        self._later(o.NearlyEqual(session=order.session), 20, 400)

    def _do_CutOver(self, order: o.CutOver) -> None:
        if self.durable:
            self._sync_more()
            self._settle()
        self.mode = "paused"
        self._send(("copy", self.session, order.token, tuple(self.platter.cache)))

    def _do_Drain(self, order: o.Drain) -> None:
        if self.mode == "mirror":
            self.mode = "paused"
        self._drain = order.token
        self._check_drained()

    _drain = 0

    def _check_drained(self) -> None:
        if self._drain and self.mode == "paused" and self.replied == len(self.platter.cache):
            self._send(("flush", self.epoch, self._drain))
            self._drain = 0

    def _do_Close(self, order: o.Close) -> None:
        self.mode, self.waiting = "closed", []

    # ---- the stream ----

    def link_up(self) -> None:
        self._begin = None
        if not self.dead:
            self._report(o.StreamUp())

    def link_down(self) -> None:
        self._begin = None
        if self.dead:
            return
        if self.mode in ("mirror", "replaying"):
            self.mode = "frozen"
        elif self.mode in ("follow", "expecting"):
            self.mode = "quiet"
        elif self.mode in ("target",):
            self._report(o.ResyncFailed(session=self.session, text="the stream broke"))
        self._report(o.StreamDown())

    def receive(self, message: Message) -> None:
        if not self.dead:
            getattr(self, "_on_" + str(message[0]))(*message[1:])

    def _on_op(self, epoch: int, seq: int, value: int, before: int) -> None:
        cache = self.platter.cache
        if self.mode != "follow" or epoch != self.epoch:
            return
        if seq == len(cache) + 1:
            if (cache[-1] if cache else 0) != before:
                raise Violation(f"I5 {self.name}: the follower is no prefix of the stream")
            cache.append(value)
        elif seq > len(cache) + 1:
            raise Violation(f"I5 {self.name}: gap in the stream")
        if self.durable:
            self._sync_soon(lambda: self._ack(epoch, seq))
        else:
            self._send(("ack", epoch, seq))

    def _ack(self, epoch: int, seq: int) -> None:
        if self.mode == "follow" and epoch == self.epoch:
            self._send(("ack", epoch, seq))

    def _on_ack(self, epoch: int, seq: int) -> None:
        if self.mode not in ("mirror", "paused") or epoch != self.epoch:
            return
        if self.durable:
            self._peer_seq = max(self._peer_seq, seq)
            self._settle()
            return
        for index in range(self.replied, seq):
            self._acked(self.platter.cache[index], epoch, True)
        self.replied = max(self.replied, seq)
        self._check_drained()

    def _on_begin(self, epoch: int, number: int) -> None:
        self._begin = (epoch, number)
        if self.mode == "follow":
            self.mode = "quiet"  # the round that we were in is over
        self._meet()

    def _on_at(self, epoch: int, number: int, applied: int) -> None:
        if self.mode != "replaying" or (epoch, number) != (self.epoch, self.round):
            return
        self.mode = "mirror"
        cache = self.platter.cache
        if applied > len(cache):
            raise Violation(f"I5 {self.name}: the follower is ahead of its source")
        self._on_ack(epoch, applied)
        for index in range(applied, len(cache)):
            before = cache[index - 1] if index else 0
            self._send(("op", epoch, index + 1, cache[index], before))
        self._admit()

    def _on_copy(self, session: int, token: int, content: tuple[int, ...]) -> None:
        if self.mode != "target" or session != self.session:
            return
        self._keep([value for value in self.platter.cache if value not in content])
        self.platter.cache[:] = content
        self._sync()
        if self.rescue:
            kept = len(self.platter.rescued)
            self._report(o.Rescued(self.session, self.rescue, self.rescue, kept, kept))
        self._send(("copied", session, token))

    def _on_copied(self, session: int, token: int) -> None:
        if self.mode == "paused" and session == self.session:
            self._sync()
            self.replied = len(self.platter.cache)
            self._report(o.CutDone(token=token))

    def _on_flush(self, epoch: int, token: int) -> None:
        if self.mode == "follow" and epoch == self.epoch:
            self._sync()
            self._send(("flushed", epoch, token))

    def _on_flushed(self, epoch: int, token: int) -> None:
        if self.mode == "paused" and epoch == self.epoch:
            self._sync()
            self._report(o.Drained(token=token))

    def _on_fsync(self, epoch: int, number: int) -> None:
        if self.mode == "follow" and epoch == self.epoch:
            self._sync_more()
            self._send(("fsynced_there", epoch, number))

    def _on_fsynced_there(self, epoch: int, number: int) -> None:
        values = self._fsyncs.pop(number, None)
        if self.mode in ("mirror", "paused") and epoch == self.epoch and values is not None:
            self._sync_more()
            self._on_fsynced(values, True)
