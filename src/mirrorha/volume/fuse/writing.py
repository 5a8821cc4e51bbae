"""Requests that change what is in a file. WRITE is the hot path of a mount."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.events import Failure
from mirrorha.volume.fuse.kernel import (
    COPY_FILE_RANGE_IN,
    FALLOCATE_IN,
    IN_HEADER,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
    Opcode,
)
from mirrorha.volume.ops import Fallocate, Truncate, Write
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.events import Reply
    from mirrorha.volume.fuse.interface import Changes
    from mirrorha.volume.fuse.pending import Pending
    from mirrorha.volume.fuse.privileges import Privileges
    from mirrorha.volume.fuse.replies import Desk
    from mirrorha.volume.fuse.requests import Request
    from mirrorha.volume.ops import AnyOp

_BODY: Final = IN_HEADER.size
_CONTENT: Final = IN_HEADER.size + WRITE_IN.size
_UNSET_TOKEN: Final = 0


@final
class Writing:
    """Handles changes of content.

    Args:
        clock_ns: The time that files are said to have been changed at.
    """

    def __init__(
        self,
        desk: Desk,
        changes: Changes,
        pending: Pending,
        privileges: Privileges,
        clock_ns: Callable[[], int],
    ) -> None:
        self._desk: Final = desk
        self._device: Final = desk.device
        self._view: Final = desk.view
        self._changes: Final = changes
        self._pending: Final = pending
        self._tokens: Final = pending.tokens
        self._orphans: Final = pending.orphans
        self._privileges: Final = privileges
        self._plain: Final = privileges.plain
        self._clock_ns: Final = clock_ns

    def handlers(self) -> dict[int, Callable[[Request], None]]:
        """Who handles what. `write` is called without any of this."""
        return {Opcode.COPY_FILE_RANGE: self._copy, Opcode.FALLOCATE: self._fallocate}

    def write(self, unique: int, fid: int) -> None:
        """Handle the WRITE that the device has just read."""
        device = self._device
        _, offset, size, write_flags, _, _ = WRITE_IN.unpack_from(device.buffer, _BODY)
        data = bytes(device.view[_CONTENT : _CONTENT + size])
        op = Write(fid, offset, data, self._clock_ns())
        if fid in self._plain or not write_flags & WRITE_KILL_SUIDGID:
            self._write(unique, op)
        else:
            self.without_privileges(unique, fid, lambda is_first: self._write(unique, op, is_first))

    def without_privileges(self, unique: int, fid: int, then: Callable[[bool], None]) -> None:
        """Go on once the file has no set-user-id bits; False: this took a change.

        Raises:
            OSError: the file is no more.
        """
        taking = self._privileges.to_take(fid)
        if taking is None:
            then(True)
        else:
            self._pending.change(unique, taking, lambda _: then(False))

    def truncate(self, unique: int, fid: int, size_bytes: int, then: Callable[[], None]) -> None:
        """Go on once the file has this size."""
        op = Truncate(fid, size_bytes, self._clock_ns())
        self._pending.change(unique, op, lambda _: then())

    def _write(self, unique: int, op: Write, is_first: bool = True) -> None:
        tokens = self._tokens
        if op.fid in self._orphans.fids:
            self._written(unique, op, self._orphans.change(op))
            return

        def then(reply: Reply) -> None:
            if tokens.pop(unique, None) is None:
                return
            if reply.failure is Failure.NONE:
                self._device.reply(WRITE_OUT.pack(WRITE_OUT.size, 0, unique, len(op.data)))
            else:
                self._written(unique, op, reply)

        tokens[unique] = _UNSET_TOKEN
        token = self._changes.change(op, then)
        if is_first and unique in tokens:
            tokens[unique] = token

    def _written(self, unique: int, op: Write, reply: Reply) -> None:
        """Answer a write that did not go as it mostly does."""
        if type(reply.op) is Write and reply.op.data:
            # As much as there was room for: whoever writes the rest is told why it does not fit.
            size = len(reply.op.data)
            self._device.reply(WRITE_OUT.pack(WRITE_OUT.size, 0, unique, size))
            return

        def done(written: AnyOp | None) -> None:
            size = len(written.data) if type(written) is Write else 0
            self._device.reply(WRITE_OUT.pack(WRITE_OUT.size, 0, unique, size))

        self._pending.settle(unique, op, reply, done)

    def _copy(self, request: Request) -> None:
        fields = COPY_FILE_RANGE_IN.unpack_from(request.body)
        _, offset_in, fid_out, _, offset_out, length, flags = fields
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        unique, fid_in, size = request.unique, request.fid, min(length, WRITE_BYTES_MAX)

        def then(is_first: bool) -> None:
            data = self._at_hand(fid_in, offset_in, size)
            if not data:
                self._device.reply(WRITE_OUT.pack(WRITE_OUT.size, 0, unique, 0))
                return
            self._write(unique, Write(fid_out, offset_out, data, self._clock_ns()), is_first)

        self._unprivileged(request, fid_out, then)

    def _at_hand(self, fid: int, offset: int, size: int) -> bytes:
        """What is to be copied: as much as one request may take, for everybody else waits.

        So the data need not go through the caller. Fewer bytes than it asked for are in order.

        Raises:
            OSError: EOPNOTSUPP, it would have to come from the disk. Then the kernel copies by
                itself, and has it read as anything else that is read.
        """
        into = memoryview(bytearray(size))
        count = self._view.read_at_hand(fid, offset, into)
        if count < 0:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return bytes(into[:count])

    def _unprivileged(self, request: Request, fid: int, then: Callable[[bool], None]) -> None:
        """Go on once the file has nothing that a change by this caller takes away.

        The kernel says of a WRITE whether it does, and of these requests not.
        """
        if request.uid:
            self.without_privileges(request.unique, fid, then)
        else:
            then(True)

    def _fallocate(self, request: Request) -> None:
        _, offset, length, mode = FALLOCATE_IN.unpack_from(request.body)
        unique = request.unique
        op = Fallocate(request.fid, mode, offset, length, self._clock_ns())

        def then(is_first: bool) -> None:
            self._pending.change(
                unique, op, lambda _: self._desk.error(unique, 0), is_first=is_first
            )

        self._unprivileged(request, request.fid, then)
