"""What the target of a resync keeps, where it acknowledged something that the source never had.

Before anything is changed the disk notes how everything is. After that a file is kept before the
first change of its content, and before it is removed; attributes are noted before they are changed.
Every request is answered when what it kept is durable, and only then is the change asked for.

What was compared, and is what the source has, is nobody's own any more: what the source's
application makes of it later is not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

from mirrorha.core.orders import BecomeTarget, Rescued
from mirrorha.errors import VolumeError, ensure
from mirrorha.volume.disk import (
    AnyRequest,
    BeginRescue,
    Entry,
    KeepAttributes,
    KeepFiles,
    KeepNames,
    NoteRenamed,
    NoteReplaced,
    Outcome,
    PunchHole,
    RescueSum,
    SumRescue,
    SyncTree,
)
from mirrorha.volume.events import Lane, Reported
from mirrorha.volume.ops import AnyOp, SetAttributes, SetXattr
from mirrorha.volume.resync.disk_steps import errno_name
from mirrorha.volume.resync.plan import batches
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.tasks.task import Box, Call, Receive, Steps, Tasks

_ATTRIBUTES: Final = (SetAttributes, SetXattr)
# As many are kept by one request, at most: their syncs share what the file system writes.
_AT_ONCE: Final = 64


@final
class Rescuing:
    """Keeps what must be, if the order says so; does nothing else.

    Args:
        tasks: Those of the session.
    """

    def __init__(self, order: BecomeTarget, tasks: Tasks) -> None:
        self._order: Final = order
        self._files: Final = _Together(tasks, KeepFiles)
        self._attributes: Final = _Together(tasks, KeepAttributes)
        self._replaced: Final = _Together(tasks, NoteReplaced)
        self.is_on: Final = bool(order.rescue)
        self._equal: Final = FidSet()
        self._asked: Final = FidSet()  # whose content is kept, or was nothing to keep
        self._has_noted_names = False

    def begin(self) -> Steps[None]:
        """Have everything noted as it is. Before anything is changed."""
        if not self.is_on:
            return
        # What was acknowledged and not synced is now: what is moved need not be.
        yield Call(SyncTree(), Lane.SYNC)
        order, again = self._order, False
        while (yield from _asked(BeginRescue(order.rescue, order.peer_generation, again))):
            again = True

    def before_change(self, changes: Sequence[AnyOp | PunchHole]) -> Steps[None]:
        """Keep what these changes are about to replace."""
        if not self.is_on:
            return
        own = [one for one in changes if one.fid not in self._equal]
        noted = {one.fid: None for one in own if isinstance(one, _ATTRIBUTES)}
        kept = {one.fid: None for one in own if not isinstance(one, _ATTRIBUTES)}
        kept = {fid: None for fid in kept if fid not in self._asked}
        yield from self._attributes.ask(list(noted))
        yield from self._files.ask(list(kept))
        for fid in kept:
            self._asked.add(fid)

    def before_removal(self, entries: Iterable[Entry]) -> Steps[None]:
        """Keep what is about to be removed from limbo for good. It may be gone from there then."""
        if self.is_on:
            names = [entry.name for entry in entries if entry.fid not in self._equal]
            yield from _all_of(KeepNames, names)

    def now_equal(self, fids: Sequence[int]) -> Steps[None]:
        """These were compared, all of each, and are what the source has."""
        if self.is_on:
            yield from self._replaced.ask([fid for fid in fids if fid not in self._equal])
            for fid in fids:
                self._equal.add(fid)

    def after_pass(self) -> Steps[None]:
        """All names are the source's. Once in a session."""
        if self.is_on and not self._has_noted_names:
            self._has_noted_names = True
            while (yield from _asked(NoteRenamed())):
                pass

    def report(self) -> Steps[None]:
        """Nothing is changed any more: say what was kept."""
        if self.is_on:
            found = yield Call(SumRescue())
            ensure(isinstance(found, RescueSum), "a disk says what it has kept")
            yield Reported(
                Rescued(
                    self._order.session,
                    self._order.rescue,
                    found.directory,
                    found.files,
                    found.content_bytes,
                )
            )


@final
class _Together:
    """Asks for what several tasks want at the same time by one request.

    What makes them durable is shared: one after the other, small files would take many times as
    long.
    """

    def __init__(self, tasks: Tasks, make: Callable[[list[int]], AnyRequest]) -> None:
        self._tasks: Final = tasks
        self._make: Final = make
        self._waiting: Final[deque[tuple[list[int], Box[None]]]] = deque()
        self._is_at_work = False

    def ask(self, fids: list[int]) -> Steps[None]:
        """Have it done; returns when it is."""
        if not fids:
            return
        done: Box[None] = Box(self._tasks)
        self._waiting.append((fids, done))
        if not self._is_at_work:
            self._is_at_work = True
            self._tasks.spawn(self._work())
        yield Receive(done)

    def _work(self) -> Steps[None]:
        while self._waiting:
            count = min(len(self._waiting), _AT_ONCE)
            some = [self._waiting.popleft() for _ in range(count)]
            wanted = dict.fromkeys(fid for fids, _ in some for fid in fids)
            yield from _all_of(self._make, list(wanted))
            for _, done in some:
                done.put(None)
        self._is_at_work = False


def _all_of(make: Callable[[list[Any]], AnyRequest], wanted: Sequence[Any]) -> Steps[None]:
    for batch in batches(wanted, _AT_ONCE):
        left = list(batch)
        while left:
            left = yield from _asked(make(left))


def _asked(request: AnyRequest) -> Steps[Any]:
    """Have something kept. Nothing is changed before.

    Raises:
        VolumeError: it cannot be.
    """
    result = yield Call(request)
    if isinstance(result, Outcome):
        raise VolumeError(
            "what only this node acknowledged cannot be kept in the rescue directory, and nothing "
            f"of it is overwritten before: {errno_name(result.errno)}; make room in the volume's "
            "file system"
        )
    return result
