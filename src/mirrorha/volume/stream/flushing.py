"""Making things durable on both nodes: fsync, changes that wait for it, and the drain of a swap.

One batch is under way at a time: its files are synced by one request here and one there, at the
same time. Whoever asks meanwhile goes with the next batch: that is the group commit. A batch is
answered for only while callers may be answered at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final

import msgspec

from mirrorha.core.words import Ack
from mirrorha.volume.disk import SyncFiles, SyncTree
from mirrorha.volume.events import Lane
from mirrorha.volume.op_rules import durable_with
from mirrorha.volume.ops import AnyOp
from mirrorha.volume.stream.messages import FlushRequest
from mirrorha.volume.stream.pending import Outbox, Position, Terms, VolumeSettings

# More files than this in a batch: syncing the whole tree at once is not dearer.
FILES_MAX: Final = 8
NOTHING: Final = -1  # below every seq
_TREE: Final = 0  # in the place of a fid


class _Asked(msgspec.Struct):
    """A flush that is in no batch yet. It covers what was emitted to the tree before it."""

    barrier: int
    fid: int
    token: int  # the caller's; of a drain: the order's
    data_only: bool = False


class _Batch(msgspec.Struct):
    flush: int
    fids: list[int]  # none: the whole tree
    data_only: list[int]  # those of them whose content and size suffice for all who ask
    after_seq: int
    callers: list[int]
    drains: list[int]
    synced: bool  # here
    peer_done: bool
    since_ms: int


@final
class Flusher:
    """A source's flushes."""

    def __init__(
        self,
        out: Outbox,
        terms: Terms,
        position: Position,
        settings: VolumeSettings,
        *,
        durable: Callable[[], None],
        drained: Callable[[int], None],
    ) -> None:
        """`durable()` is called when `durable_seq` has risen, `drained(token)` after a drain."""
        self._out = out
        self._terms = terms
        self._position = position
        self._durable = durable
        self._drained = drained
        self._covers_changes = settings.ack is Ack.DURABLE
        self._asked: deque[_Asked] = deque()
        # The fids of changes that wait for their durability, of which that of data never suffices.
        self._changed: dict[int, bool] = {}
        self._batch: _Batch | None = None
        self._flush = 0
        # Every change up to here is durable wherever it must be. Kept only with ack="durable".
        self.durable_seq = NOTHING

    @property
    def waits_for_peer_since_ms(self) -> int | None:
        """Since when the follower owes us a flush, None if it owes none."""
        batch = self._batch
        if batch is None or batch.peer_done or not self._terms.mirrored:
            return None
        return batch.since_ms

    def ask(self, token: int, fid: int, *, data_only: bool) -> None:
        """A caller wants `fid` durable, with all that was done to it before, or its data."""
        self._asked.append(_Asked(self._out.tree_issued, fid, token, data_only))

    def ask_tree(self, token: int) -> None:
        """A drain wants the whole tree durable."""
        self._asked.append(_Asked(self._out.tree_issued, _TREE, token))

    def changed(self, op: AnyOp) -> None:
        """`op` has been applied. With ack="durable" the next batch makes it so."""
        if self._covers_changes:
            for fid in durable_with(op):
                self._changed[fid] = False

    def advance(self) -> None:
        """Finish the batch if it is done, and begin the next one if anybody waits."""
        if self._batch is None and not self._asked and not self._changed:
            return
        while self._terms.answering and not self._out.failure:
            batch = self._batch
            if batch is not None:
                if not batch.synced or (self._terms.mirrored and not batch.peer_done):
                    return
                self._finish(batch)
            if not self._begin():
                return

    def peer_done(self, flush: int) -> bool:
        """The follower answers a flush. False: not one that we wait for."""
        batch = self._batch
        if batch is None or batch.flush != flush or batch.peer_done:
            return False
        batch.peer_done = True
        return True

    def resend(self) -> None:
        """The stream starts anew: ask again for what was asked on an earlier one."""
        if self._batch is not None:
            self._batch.peer_done = False
            self._batch.since_ms = self._out.now_ms
            self._request(self._batch)

    def abandon(self) -> list[int]:
        """Forget everything asked. Returns the callers who got no answer."""
        callers = [asked.token for asked in self._asked if asked.fid != _TREE]
        if self._batch is not None:
            callers += self._batch.callers
        self._asked.clear()
        self._changed.clear()
        self._batch = None
        self.durable_seq = NOTHING  # the stream may come back to lower numbers
        return callers

    def _begin(self) -> bool:
        if self._terms.mirrored and not self._terms.streaming:
            return False
        fids = self._changed  # with whether data suffices
        callers: list[int] = []
        drains: list[int] = []
        while self._asked and self._asked[0].barrier <= self._out.tree_finished:
            asked = self._asked.popleft()
            fids[asked.fid] = asked.data_only and fids.get(asked.fid, True)
            (drains if asked.fid == _TREE else callers).append(asked.token)
        if not fids:
            return False
        self._changed = {}
        self._flush += 1
        whole = _TREE in fids or len(fids) > FILES_MAX
        batch = _Batch(
            flush=self._flush,
            fids=[] if whole else list(fids),
            data_only=[] if whole else [fid for fid, suffices in fids.items() if suffices],
            after_seq=self._position.seq,
            callers=callers,
            drains=drains,
            synced=False,
            peer_done=False,
            since_ms=self._out.now_ms,
        )
        self._batch = batch
        self._request(batch)  # first: the follower's disk is to work while ours does
        request = SyncFiles(batch.fids, batch.data_only) if batch.fids else SyncTree()
        self._out.call(Lane.SYNC, request, self._synced, batch)
        return True

    def _request(self, batch: _Batch) -> None:
        terms = self._terms
        if terms.mirrored and terms.streaming:
            wanted = (batch.after_seq, batch.fids, batch.data_only)
            self._out.send(FlushRequest(terms.epoch, batch.flush, *wanted))

    def _synced(self, batch: _Batch, _result: object) -> None:
        batch.synced = True

    def _finish(self, batch: _Batch) -> None:
        self._batch = None
        for token in batch.callers:
            self._out.acknowledge(token, None)
        self.durable_seq = max(self.durable_seq, batch.after_seq)
        self._durable()
        for token in batch.drains:
            self._drained(token)
