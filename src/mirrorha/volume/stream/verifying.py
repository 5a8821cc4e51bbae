"""Comparing with the follower, beside everything else that a source does.

What is compared, and why it gives no false alarm, stands in `mirrorha.volume.verify.comparison`;
here a comparison is begun, fed and ended, and its questions get their place in the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from mirrorha.core.orders import AnyVerifyOrder, SetVerifyRate, StartVerify, StopVerify, VerifyEnded
from mirrorha.volume.disk import RecordTouched
from mirrorha.volume.events import DiskDone, Received, Reported, Send, Tick
from mirrorha.volume.ops import SetAttributes, Truncate, Write
from mirrorha.volume.stream.pending import Outbox, Position, Stance
from mirrorha.volume.stream.source import Source
from mirrorha.volume.tasks.task import TaskEffect
from mirrorha.volume.touched import TouchedLog
from mirrorha.volume.verify.comparison import Comparison
from mirrorha.volume.verify.messages import Looked

_NOT_MIRRORED: Final = "this volume does not mirror to a follower at the moment"


@final
class Verifying:
    """At most one comparison at a time, while the volume is a source that mirrors."""

    def __init__(
        self, out: Outbox, position: Position, touched: TouchedLog, source: Source
    ) -> None:
        self._out = out
        self._touched = touched
        self._source = source
        self._line = _Line(position, source)
        self._comparison: Comparison | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a comparison has begun, and not ended."""
        return self._comparison is not None

    def order(self, order: AnyVerifyOrder) -> None:
        """Begin, change or end a comparison. One that is under way is replaced by another."""
        match order:
            case StartVerify():
                self._start(order)
            case SetVerifyRate():
                if self._comparison is not None:
                    self._comparison.set_rate(order.rate_bytes_per_s)
            case StopVerify():
                self.stop(order.why)

    def stop(self, why: str) -> None:
        """End what is under way, if anything is: the node has other plans, or the peer is gone."""
        comparison = self._comparison
        if comparison is not None:
            self._perform(comparison, comparison.stop(why))

    def on_looked(self, message: Looked) -> bool:
        """The follower answers. False: nobody asked."""
        comparison = self._comparison
        if comparison is None or not self._source.terms.streaming:
            return False
        self._perform(comparison, comparison.step(Received(message), self._out.now_ms))
        return True

    def tick(self) -> None:
        if self._comparison is not None:
            self._perform(self._comparison, self._comparison.step(Tick(), self._out.now_ms))

    def _start(self, order: StartVerify) -> None:
        self.stop("another comparison was begun")
        source = self._source
        if source.stance is not Stance.MIRROR or not source.terms.streaming or self._out.failure:
            ended = VerifyEnded(order.session, _NOT_MIRRORED, files=0, bytes=0, differences=0)
            self._out.report(ended)
            return
        comparison = Comparison(order, epoch=source.terms.epoch, line=self._line)
        self._comparison = comparison
        source.on_touched = comparison.touched
        self._perform(comparison, comparison.start(self._out.now_ms))

    def _perform(self, comparison: Comparison, effects: Sequence[TaskEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    # A question about what has been applied stands behind that in the stream.
                    self._source.send_applied()
                    self._out.send(message)
                case Reported(report):
                    self._out.report(report)
                case _:
                    if isinstance(effect.request, RecordTouched):
                        self._touched.pin(effect.request.keys)
                    along = (comparison, effect.token)
                    self._out.call(effect.lane, effect.request, self._disk_done, along)
        if comparison.is_over and comparison is self._comparison:
            self._comparison = None
            self._source.on_touched = None

    def _disk_done(self, along: tuple[Comparison, int], result: object) -> None:
        comparison, token = along
        if comparison is self._comparison:
            self._perform(comparison, comparison.step(DiskDone(token, result), self._out.now_ms))


@final
class _Line:
    """See `mirrorha.volume.verify.repair.Line`."""

    def __init__(self, position: Position, source: Source) -> None:
        self._position = position
        self._source = source

    @property
    def seq(self) -> int:
        return self._position.seq

    def restate(self, op: Write | Truncate | SetAttributes) -> bool:
        return self._source.restate(op)
