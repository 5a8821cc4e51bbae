"""A mounted volume's front: the kernel's requests in, answers out.

One thread calls everything but `invalidate`. Requests are handled as they come; what changes
something is answered when `Changes` says so, and everything else at once. No exception of a
handler ends the mount: the caller gets an errno, the log a line.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.fuse.changing import Changing
from mirrorha.volume.fuse.device import ENDED, NOTHING, Agreement, Device, negotiate
from mirrorha.volume.fuse.directories import Directories
from mirrorha.volume.fuse.freshness import Freshness
from mirrorha.volume.fuse.interface import Known
from mirrorha.volume.fuse.kernel import (
    BATCH_FORGET_IN,
    EXPIRE_ONLY,
    FORGET_IN,
    FORGET_ONE,
    IN_HEADER,
    INTERRUPT_IN,
    NOTIFY_ENTRY,
    NOTIFY_INODE,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    Init,
    Opcode,
)
from mirrorha.volume.fuse.pending import Pending
from mirrorha.volume.fuse.privileges import Privileges
from mirrorha.volume.fuse.reading import Reading
from mirrorha.volume.fuse.replies import Desk
from mirrorha.volume.fuse.requests import Request
from mirrorha.volume.fuse.writing import Writing
from mirrorha.volume.names import bytes_of
from mirrorha.volume.ops import ROOT_FID

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import Space
    from mirrorha.volume.fuse.interface import Changes, View

_log: Final = logging.getLogger(__name__)

# To find out that there is no further request costs as much as one. After so many times in a row
# that there was none, it is looked only every so often; the device tells if there is more.
_LONE_MAX: Final = 8
# On the way of every request: to look a member of an enum up costs more than to compare it.
_WRITE: Final = int(Opcode.WRITE)


@final
class Server:
    """Serves the mount behind one open, non-blocking /dev/fuse. See `interface.Front`.

    Not asked for on purpose, so answered ENOSYS, after which the kernel does without: FLUSH (there
    is nothing that a close could still report), ACCESS (the kernel checks permissions itself),
    TMPFILE, and whatever is newer than we are.

    Args:
        device: Not closed here.
        clock_ns: The time that files are said to have been changed at.
        peer_space: What the other node has room for, if what is changed here is changed there.

    Attributes:
        agreement: What the kernel agreed on; None until it asked.
        has_ended: The kernel speaks no more.
    """

    def __init__(
        self,
        device: int,
        view: View,
        changes: Changes,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        peer_space: Callable[[], Space | None] = lambda: None,
    ) -> None:
        self.agreement: Agreement | None = None
        self.has_ended = False
        self._lone = 0  # how often in a row there was one request to serve, and no more
        self._device: Final = Device(device)
        self._desk: Final = Desk(self._device, view)
        self._pending: Final = Pending(self._desk, changes)
        self._privileges: Final = Privileges(view)
        self._writing: Final = Writing(
            self._desk, changes, self._pending, self._privileges, clock_ns
        )
        reading = self._reading = Reading(
            self._desk,
            Directories(self._desk),
            self._pending.orphans,
            Freshness(self._forget_contents),
            peer_space,
        )
        self._handlers: Final[dict[int, Callable[[Request], None]]] = {
            Opcode.INIT: self._init,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: self._destroy,
            **reading.handlers(),
            **self._writing.handlers(),
            **Changing(
                self._desk, self._pending, self._privileges, self._writing, clock_ns
            ).handlers(),
        }

    @property
    def serving(self) -> bool:
        """Whether this node makes changes. If not, nothing is cached, and nothing opens to write.

        Set before the first change is admitted; taken back once the last was answered, before
        `known` is asked for.
        """
        return self._desk.serving

    @serving.setter
    def serving(self, serving: bool) -> None:
        self._desk.serving = serving
        # Until now, or from now on, others change modes than those that we see.
        self._privileges.plain.clear()

    @property
    def failures(self) -> int:
        """Handlers that failed by a bug."""
        return self._desk.failures.count

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._pending.tokens)

    def fileno(self) -> int:
        """The device: readable when the kernel asks for something."""
        return self._device.fd

    def serve(self, requests_max: int = 32) -> bool:
        """Handle what the kernel asks for, at most so many requests. Never blocks on the kernel.

        False: the connection ended (unmounted, aborted), and never comes back.
        """
        device, buffer, unpack = self._device, self._device.buffer, IN_HEADER.unpack_from
        write = self._writing.write
        if self._lone > _LONE_MAX and self._lone % _LONE_MAX:
            requests_max = 1
        served = 0
        while served < requests_max:
            length = device.receive()
            if length == NOTHING:
                break
            if length == ENDED:
                self.has_ended = True
                return False
            served += 1
            _, opcode, unique, fid, uid, gid, _, _ = unpack(buffer)
            try:
                if opcode == _WRITE:
                    write(unique, fid)
                else:
                    body = device.view[IN_HEADER.size : length]
                    self._handle(opcode, Request(unique, fid, uid, gid, body))
            except OSError as error:
                self._desk.error(unique, error.errno or errno.EIO)
            except OverflowError:
                # An offset that no file has: Python does not even ask the system.
                self._desk.error(unique, errno.EINVAL)
            except Exception:
                self._desk.failures.note(f"in request {opcode}")
                self._desk.error(unique, errno.EIO)
        self._lone = self._lone + 1 if served == 1 else 0
        return not self.has_ended

    @property
    def longest_read_ms(self) -> int:
        """How long the oldest read that waits for the disk has done so; 0 if none does."""
        return self._reading.longest_ms()

    def close(self) -> None:
        """Before the device is closed: other threads answer nothing any more."""
        self._reading.close()

    def fail_pending(self, number: int) -> None:
        """Answer everything that waits with errno `number`; what is said of it later is ignored."""
        self._pending.fail_all(number)

    def known(self) -> Known:
        """What the kernel may have cached, to be handed to `invalidate` in another thread."""
        fids = list(self._desk.known)
        names = self._desk.view.names
        return Known([ROOT_FID, *fids], [entry for fid in fids for entry in names(fid)])

    def invalidate(self, known: Known) -> None:
        """Tell the kernel to forget what it has cached. From a thread that serves no requests.

        Blocks while a change is under way to what is to be forgotten: `serve` must go on meanwhile.
        """
        flags = 0
        if self.agreement is not None and self.agreement.flags & Init.HAS_EXPIRE_ONLY:
            # To be asked for again, but not torn from who has it open or works in it.
            flags = EXPIRE_ONLY
        notify = self._device.notify
        for parent, name in known.entries:
            raw = bytes_of(name)
            head = NOTIFY_ENTRY.pack(parent, len(raw), flags)
            self._note_notified(notify(NOTIFY_INVAL_ENTRY, (head, raw + b"\0")))
        for fid in known.fids:
            self._forget_contents(fid)

    def _forget_contents(self, fid: int) -> None:
        whole = NOTIFY_INODE.pack(fid, 0, 0)
        self._note_notified(self._device.notify(NOTIFY_INVAL_INODE, (whole,)))

    def _note_notified(self, number: int) -> None:
        # What the kernel does not know any more need not be forgotten; and who is gone knows
        # nothing.
        if number not in {0, errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.ENOTCONN}:
            _log.warning("the kernel does not forget: %s", errno.errorcode.get(number, number))

    def _handle(self, opcode: int, request: Request) -> None:
        handler = self._handlers.get(opcode)
        if handler is None:
            self._desk.error(request.unique, errno.ENOSYS)
        else:
            handler(request)

    def _init(self, request: Request) -> None:
        answer, agreement = negotiate(request.body)
        if not answer:
            _log.error("the kernel's FUSE protocol is too old: Linux 5.4 or later is needed")
            self._desk.error(request.unique, errno.EPROTO)
            return
        self.agreement = agreement
        self._desk.data(request.unique, answer)

    def _forget(self, request: Request) -> None:
        self._forgotten(request.fid, FORGET_IN.unpack_from(request.body)[0])

    def _batch_forget(self, request: Request) -> None:
        (count,) = BATCH_FORGET_IN.unpack_from(request.body)
        first = BATCH_FORGET_IN.size
        for fid, references in FORGET_ONE.iter_unpack(
            request.body[first : first + count * FORGET_ONE.size]
        ):
            self._forgotten(fid, references)

    def _forgotten(self, fid: int, references: int) -> None:
        if self._desk.forget(fid, references):
            self._privileges.changed(fid)

    def _interrupt(self, request: Request) -> None:
        self._pending.interrupt(INTERRUPT_IN.unpack_from(request.body)[0])

    def _destroy(self, request: Request) -> None:
        self._desk.error(request.unique, 0)
