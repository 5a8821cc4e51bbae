"""Requests that wait for a change to be made.

Files that lost their last name while they are open are changed on this node alone, at once.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.events import Failure, Reply
from mirrorha.volume.fuse.replies import errno_of
from mirrorha.volume.ops import (
    Fallocate,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Truncate,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.fuse.interface import Changes, View
    from mirrorha.volume.fuse.replies import Desk
    from mirrorha.volume.ops import AnyOp

#: What changes one file, whatever its names.
_OF_A_FILE: Final = frozenset({Write, Truncate, Fallocate, SetAttributes, SetXattr})
_REMOVING: Final = frozenset({Unlink, Rmdir, Rename})
_NO_TOKEN: Final = 0


@final
class Orphans:
    """Which open files have no name any more, and how they are changed.

    Found out late at times: a change that waited behind the removal of the last name comes back
    with ESTALE, and is then carried out here.
    """

    def __init__(self, view: View) -> None:
        self.fids: Final[set[int]] = set()
        self._view: Final = view

    def settle(self, op: AnyOp, reply: Reply) -> Reply:
        """What became of `op`, now that everybody who knows the tree has seen it."""
        if reply.failure is Failure.NONE:
            if type(op) in _REMOVING and reply.op is not None:
                self._note_removed(reply.op)
        elif reply.errno == errno.ESTALE and type(op) in _OF_A_FILE and self.note(op.fid):
            return self.change(op)
        return reply

    def change(self, op: AnyOp) -> Reply:
        """Change an orphan."""
        try:
            return Reply(_NO_TOKEN, Failure.NONE, op=self._view.change_orphan(op))
        except OSError as error:
            return Reply(_NO_TOKEN, Failure.ERRNO, error.errno or errno.EIO)

    def note(self, fid: int) -> bool:
        """Look whether `fid` is an orphan, and remember it."""
        if self._view.is_orphan(fid):
            self.fids.add(fid)
            return True
        return False

    def released(self, fid: int) -> None:
        """Somebody closed `fid`: it may be no more."""
        if fid in self.fids and not self._view.is_orphan(fid):
            self.fids.remove(fid)

    def _note_removed(self, done: AnyOp) -> None:
        gone = done.replaced if isinstance(done, Rename) else done.fid
        if gone:
            self.note(gone)


@final
class Pending:
    """Asks for changes on behalf of requests, and answers those that fail.

    A request waits for one change or flush at a time. `tokens` has what each waits for, 0 if it
    cannot be taken back.
    """

    def __init__(self, desk: Desk, changes: Changes) -> None:
        self.tokens: Final[dict[int, int]] = {}
        self.orphans: Final = Orphans(desk.view)
        self._desk: Final = desk
        self._changes: Final = changes

    def change(
        self,
        unique: int,
        op: AnyOp,
        done: Callable[[AnyOp | None], None],
        *,
        is_first: bool = True,
    ) -> None:
        """Have `op` done, then call `done` with what was done: it answers, or asks for more.

        Args:
            is_first: Nothing was changed for this request before, so it may be interrupted.
        """
        step = _Step(self, unique, op, done)
        if op.fid in self.orphans.fids and type(op) in _OF_A_FILE:
            step.finish(self.orphans.change(op))
            return
        self.tokens[unique] = _NO_TOKEN
        token = self._changes.change(op, step)
        if is_first and not step.is_called:
            self.tokens[unique] = token

    def flush(self, unique: int, fid: int, *, data_only: bool) -> None:
        """Answer once `fid`, or its data, is durable. Nothing of an orphan survives a crash."""
        if fid in self.orphans.fids:
            self._desk.error(unique, 0)
            return
        step = _Step(self, unique, None, lambda _: self._desk.error(unique, 0))
        self.tokens[unique] = _NO_TOKEN
        token = self._changes.flush(fid, step, data_only=data_only)
        if not step.is_called:
            self.tokens[unique] = token

    def interrupt(self, unique: int) -> None:
        """The caller got a signal: what was not applied yet need not be."""
        token = self.tokens.get(unique, _NO_TOKEN)
        if token and self._changes.withdraw(token):
            del self.tokens[unique]
            self._desk.error(unique, errno.EINTR)

    def fail_all(self, number: int) -> None:
        """Refuse all that wait; what is said of them later is not listened to."""
        uniques = list(self.tokens)
        self.tokens.clear()
        for unique in uniques:
            self._desk.error(unique, number)

    def settle(
        self,
        unique: int,
        op: AnyOp | None,
        reply: Reply,
        done: Callable[[AnyOp | None], None],
    ) -> None:
        """Go on with a request whose change came back; `op` None was a flush. Never raises."""
        try:
            if op is not None:
                reply = self.orphans.settle(op, reply)
            number = errno_of(reply)
            if number:
                self._desk.error(unique, number)
            else:
                done(reply.op)
        except OSError as error:
            self._desk.error(unique, error.errno or errno.EIO)
        except Exception:
            self._desk.failures.note(f"after {type(op).__name__}")
            self._desk.error(unique, errno.EIO)


@final
class _Step:
    """What to call once a change was made."""

    __slots__ = ("_done", "_op", "_pending", "_unique", "is_called")

    def __init__(
        self,
        pending: Pending,
        unique: int,
        op: AnyOp | None,
        done: Callable[[AnyOp | None], None],
    ) -> None:
        self.is_called = False
        self._pending: Final = pending
        self._unique: Final = unique
        self._op: Final = op
        self._done: Final = done

    def __call__(self, reply: Reply) -> None:
        self.is_called = True
        if self._pending.tokens.pop(self._unique, None) is not None:
            self.finish(reply)

    def finish(self, reply: Reply) -> None:
        """Go on, whether anybody waited for a token or not."""
        self._pending.settle(self._unique, self._op, reply, self._done)
