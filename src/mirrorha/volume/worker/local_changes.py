"""Changes to what stays on this node: made at once, and never told to the peer.

It stands between the mount and the driver of a volume with patterns of `exclude`; without any,
there is none. A node makes such changes whenever it makes others, also while those are held:
nothing of them rests on the peer, or on the node's authority over what is mirrored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from mirrorha.core.orders import AnyReport, StopReason, Trouble
from mirrorha.errors import ensure
from mirrorha.volume.disk import ApplyHere, Outcome, SyncFiles
from mirrorha.volume.disk_thread import DiskThread, perform_one
from mirrorha.volume.events import DiskDone, Failure, Reply
from mirrorha.volume.op_rules import NAMING
from mirrorha.volume.ops import is_local

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import Disk
    from mirrorha.volume.ops import AnyOp
    from mirrorha.volume.worker.driver import Driver
    from mirrorha.volume.worker.loop import Loop

    Then: TypeAlias = Callable[[Reply], None]

#: Of what was answered at once. The driver's are positive.
_ANSWERED: Final = -1
_NOT_SERVING: Final = "this volume does not serve here"


@final
class LocalChanges:
    """Makes changes of what is excluded, and passes all others on to the driver.

    Implements `mirrorha.volume.fuse.interface.Changes`. In the loop's thread.

    Args:
        report: takes what the node must know.
    """

    def __init__(
        self, driver: Driver, disk: Disk, loop: Loop, *, report: Callable[[AnyReport], None]
    ) -> None:
        self._driver: Final = driver
        self._perform: Final = disk.perform
        self._report: Final = report
        self._flushes: Final[dict[int, Then]] = {}
        self._token = _ANSWERED
        self._has_failed = False
        self._lane: Final = DiskThread(
            "local-sync",
            perform=disk.perform,
            deliver=self._flushed,
            hand_over=loop.from_thread,
        )

    def change(self, op: AnyOp, then: Then) -> int:
        """See `Changes.change`."""
        if is_local(op.fid) or type(op) in NAMING:
            reply = self._change(op)
            if reply is not None:
                then(reply)
                return _ANSWERED
        return self._driver.change(op, then)

    def flush(self, fid: int, then: Then, *, data_only: bool = False) -> int:
        """See `Changes.flush`. Durable on this node: there is no other."""
        if not is_local(fid):
            return self._driver.flush(fid, then, data_only=data_only)
        self._token -= 1
        self._flushes[self._token] = then
        self._driver.syncs_in_threads += 1
        self._lane.submit((self._token, SyncFiles([fid], [fid] if data_only else [])))
        return self._token

    def withdraw(self, token: int) -> bool:
        """See `Changes.withdraw`."""
        return token > 0 and self._driver.withdraw(token)

    def end(self, wait_s: float) -> bool:
        """End the thread. Whether nothing uses the disk any more."""
        self._lane.stop()
        return self._lane.join(wait_s)

    def _change(self, op: AnyOp) -> Reply | None:
        """What became of it; None if it is the driver's."""
        if not self._driver.serves:
            return Reply(_ANSWERED, Failure.NOT_PRIMARY, why=_NOT_SERVING)
        done = perform_one(self._perform, _ANSWERED, ApplyHere(op))
        if done.failure:
            return self._failed(done)
        outcome = done.result
        if outcome is None:
            return None
        ensure(isinstance(outcome, Outcome), "what is applied has an outcome")
        failure = Failure.ERRNO if outcome.errno else Failure.NONE  # type: ignore[attr-defined]
        return Reply(_ANSWERED, failure, outcome.errno, outcome.done)  # type: ignore[attr-defined]

    def _flushed(self, done: list[DiskDone]) -> None:
        self._driver.syncs_in_threads -= len(done)
        for each in done:
            then = self._flushes.pop(each.token)
            then(self._failed(each) if each.failure else Reply(each.token, Failure.NONE))

    def _failed(self, done: DiskDone) -> Reply:
        if not self._has_failed:
            self._has_failed = True
            self._report(Trouble(StopReason.OWN_DISK, done.failure))
        return Reply(done.token, Failure.UNKNOWN, why=done.failure)
