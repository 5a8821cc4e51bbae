"""The socket pair between an application's process and its worker: one message, one packet.

Neither end ever waits for the other: what finds no room is kept, in order and bounded, and only
the newest of what replaces itself.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections import deque
from typing import Any, Final, NamedTuple, TypeAlias, final

import msgspec

from mirrorha.errors import MirrorHAError, ensure
from mirrorha.volume.worker.messages import (
    MESSAGE_BYTES_MAX,
    FromWorker,
    Status,
    ToWorker,
)

#: What waits for an end that does not read. Reports are few; a stopped parent reads none.
KEPT_MAX: Final = 4096
#: Taken at once, so that other events have their turn.
TAKEN_MAX: Final = 64
_DESCRIPTORS_MAX: Final = 4
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_DESCRIPTORS_MAX * array.array("i").itemsize)
_TEXT_CHARS_MAX: Final = 200

AnyMessage: TypeAlias = ToWorker | FromWorker


class ControlClosedError(MirrorHAError):
    """The other process has closed its end, or is gone."""


class ControlBrokenError(MirrorHAError):
    """The other process sends what is no message, or takes none. Both are of one installation:
    was it upgraded while the application ran? Start the application again."""


class Packet(NamedTuple):
    """A message, and the descriptor that came with it; -1 without. The receiver closes it."""

    message: Any
    descriptor: int


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, neither of which is inherited."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs


@final
class Control:
    """One end. Any thread may send; one receives.

    Args:
        end: owned from now on.
        incoming: the union of what the other end may say.
    """

    def __init__(self, end: socket.socket, *, incoming: Any) -> None:
        end.setblocking(False)
        self._socket: Final = end
        self._decoder: Final = msgspec.msgpack.Decoder(incoming)
        self._encoder: Final = msgspec.msgpack.Encoder()
        self._lock: Final = threading.Lock()
        self._kept: deque[tuple[bytes, int, bool]] = deque()
        self._is_closed = False

    def fileno(self) -> int:
        """For whoever waits until it can be read or written."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` is due once the socket can be written."""
        return bool(self._kept)

    def send(self, message: AnyMessage, descriptor: int = -1) -> None:
        """Send, or keep it until the other end has room. Never blocks.

        A descriptor is taken over, and closed once it was passed on. After `close` nothing is
        sent.

        Raises:
            ControlClosedError: nobody is there any more.
            ControlBrokenError: the other end has not read for long.
        """
        packet = self._encoder.encode(message)
        ensure(len(packet) <= MESSAGE_BYTES_MAX, f"a {type(message).__name__} fits in a packet")
        replaces = isinstance(message, Status)
        with self._lock:
            if self._is_closed:
                _close(descriptor)
                return
            if replaces and self._kept and self._kept[-1][2]:
                self._kept.pop()
            self._kept.append((packet, descriptor, replaces))
            self._flush_locked()
            if len(self._kept) > KEPT_MAX:
                raise ControlBrokenError("the other process takes no messages")

    def flush(self) -> None:
        """Send what was kept, as far as there is room. Raises as `send`."""
        with self._lock:
            self._flush_locked()

    def receive(self) -> list[Packet]:
        """What has arrived, some of it if it is much; never blocks.

        Raises:
            ControlClosedError: as `send`, once everything has been taken.
            ControlBrokenError: what arrived is no message of the other end.
        """
        packets: list[Packet] = []
        while len(packets) < TAKEN_MAX:
            try:
                # Not `socket.recv_fds`: Python 3.11's ignores its flags.
                raw, ancillary, _, _ = self._socket.recvmsg(
                    MESSAGE_BYTES_MAX + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except OSError as error:
                raise ControlClosedError(f"the control socket broke: {error}") from error
            if not raw:
                if packets:
                    break
                raise ControlClosedError("the other process has closed the control socket")
            packets.append(self._decode(raw, _descriptors(ancillary)))
        return packets

    def close(self) -> None:
        """Close this end. Idempotent; never blocks."""
        with self._lock:
            self._is_closed = True
            for _, descriptor, _ in self._kept:
                _close(descriptor)
            self._kept.clear()
            self._socket.close()

    def _decode(self, raw: bytes, descriptors: list[int]) -> Packet:
        try:
            message = self._decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            for each in descriptors:
                _close(each)
            text = str(error)[:_TEXT_CHARS_MAX]
            raise ControlBrokenError(f"what arrived is no message: {text}") from error
        for each in descriptors[1:]:
            _close(each)
        return Packet(message, descriptors[0] if descriptors else -1)

    def _flush_locked(self) -> None:
        while self._kept:
            packet, descriptor, _ = self._kept[0]
            try:
                if descriptor >= 0:
                    socket.send_fds(self._socket, [packet], [descriptor])
                else:
                    self._socket.send(packet, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                raise ControlClosedError(f"the other process is gone: {error}") from error
            self._kept.popleft()
            _close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
    return list(found)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.close(descriptor)
