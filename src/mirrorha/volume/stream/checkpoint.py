"""Checkpoints: what is durable on both nodes need not be compared after a crash.

A source's side. A round covers the changes that both nodes had applied when it began; both sync
their trees; then the entries of the touched log that it covers may be forgotten, here first. An
entry that was used lately is kept for some rounds, for to make it again costs a commit.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

import msgspec

from mirrorha.volume.disk import RetireTouched, SyncTree
from mirrorha.volume.events import Lane
from mirrorha.volume.stream.messages import Checkpoint, Retire
from mirrorha.volume.stream.pending import Outbox, Terms, VolumeSettings
from mirrorha.volume.touched import RETIRED_MAX, TouchedLog

# A crowded log does not wait for its time, but neither does it sync without a pause.
CROWDED_SHARE: Final = 10


class _Round(msgspec.Struct):
    seq: int  # what it covers, in the stream's numbers
    stamp: int  # the same in the touched log's
    synced: bool = False
    peer_done: bool = False


@final
class Checkpointer:
    """A source's checkpoints. Runs only while it streams."""

    def __init__(
        self, out: Outbox, terms: Terms, touched: TouchedLog, settings: VolumeSettings
    ) -> None:
        self._out = out
        self._terms = terms
        self._touched = touched
        self._settings = settings
        self._round: _Round | None = None
        self._done: deque[_Round] = deque()  # oldest first; their entries may still be kept
        self._cut: _Round | None = None  # covers more entries than could be forgotten at once
        self._last_ms = 0

    def restart(self) -> None:
        """The stream starts anew: what was under way is void."""
        self._round = self._cut = None
        self._done.clear()
        self._last_ms = self._out.now_ms

    def tick(self, *, seq: int, stamp: int) -> None:
        """Begin a round if it is time. Both nodes have applied what `seq` and `stamp` cover."""
        entries = len(self._touched)
        if not self._terms.streaming or self._round is not None or not entries:
            return
        wait_ms = self._settings.checkpoint_ms
        if entries > self._settings.touched_max:
            wait_ms //= CROWDED_SHARE
        if self._out.now_ms - self._last_ms < wait_ms:
            return
        self._last_ms = self._out.now_ms
        if self._cut is not None:
            self._forget(self._cut)
            return
        if self._done and self._done[-1].stamp == stamp:
            self._retire(self._done[-1])  # nothing new to sync; what is kept grows older
            return
        self._round = _Round(seq, stamp)
        self._out.send(Checkpoint(self._terms.epoch, seq))
        self._out.call(Lane.SYNC, SyncTree(), self._synced, self._round)

    def peer_done(self, seq: int) -> bool:
        """The follower holds it. False: not the round that we wait for."""
        if self._round is None or self._round.seq != seq or self._round.peer_done:
            return False
        self._round.peer_done = True
        self._finish(self._round)
        return True

    def _synced(self, round_: _Round, _result: object) -> None:
        if round_ is self._round:
            round_.synced = True
            self._finish(round_)

    def _finish(self, round_: _Round) -> None:
        if round_.synced and round_.peer_done:
            self._round = None
            self._retire(round_)

    def _retire(self, newest: _Round) -> None:
        self._done.append(newest)
        if len(self._touched) > self._settings.touched_max:
            cut = newest
        elif len(self._done) > self._settings.hot_checkpoints:
            cut = self._done[0]
        else:
            return
        while len(self._done) > self._settings.hot_checkpoints:
            self._done.popleft()
        self._forget(cut)

    def _forget(self, cut: _Round) -> None:
        keys = self._touched.covered(cut.stamp)
        self._cut = cut if len(keys) == RETIRED_MAX else None
        checkpoint = (self._terms.epoch, cut.seq)
        if keys or checkpoint > self._touched.retired:
            self._touched.forget(keys)
            self._out.call(Lane.TREE, RetireTouched(keys, *checkpoint), self._retired, checkpoint)

    def _retired(self, checkpoint: tuple[int, int], _result: object) -> None:
        self._touched.retire(checkpoint)
        if self._terms.streaming and checkpoint[0] == self._terms.epoch:
            self._out.send(Retire(*checkpoint))
