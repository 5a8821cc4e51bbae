"""The stream to the peer's worker: frames over one non-blocking TCP connection.

What is sent is collected and leaves with `flush`, in as few system calls as its bytes need. What
finds no room is kept: the machine's windows bound how much that is.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final, final

from mirrorha.errors import PeerError, PeerLostError, PeerProtocolError
from mirrorha.net.certificates import peer_error_of
from mirrorha.net.keepalive import keep_socket_alive
from mirrorha.volume.worker.loop import IN, OUT
from mirrorha.wire.frames import encode_frame
from mirrorha.wire.limits import (
    FRAME_BYTES_MAX,
    KIB,
    MIB,
    RECEIVE_BYTES_MAX,
    TLS_RECORD_BYTES,
    TLS_RECORDS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.worker.handshake import Shaken, TlsEnds
    from mirrorha.volume.worker.loop import Loop
    from mirrorha.wire.frames import Frame

#: Taken in one turn, so that the kernel's requests have theirs.
_TURN_BYTES_MAX: Final = 2 * MIB
# At first: messages are small. What a large one has beyond that is received where it belongs, if
# it is worth a system call of its own.
_FIRST_BYTES: Final = 64 * KIB
_DIRECT_BYTES_MIN: Final = 32 * KIB
# What is encrypted at once: whole records. More at a time would be fresh memory for each frame,
# which costs more than to encrypt it.
_PIECE_BYTES: Final = 8 * TLS_RECORD_BYTES
#: More can only be kept if the windows do not hold: then rather no stream than no memory.
UNSENT_BYTES_MAX: Final = 256 * MIB
# What one system call takes: IOV_MAX is 1024.
_BUFFERS_MAX: Final = 512

_Buffer = bytes | memoryview


@final
class PeerStream:
    """One connection, from its handshake on. All methods are for the loop's thread.

    Args:
        shaken: owned from now on.
        on_frame: takes frames in their order. It may raise PeerProtocolError: then this ends.
        on_end: told why, once, when the stream has ended by itself or broke; it is closed then.
        whom: the other side, as people should read it in errors.
    """

    def __init__(
        self,
        shaken: Shaken,
        *,
        loop: Loop,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[PeerError], None],
        whom: str,
        records_max: int = TLS_RECORDS_MAX,
    ) -> None:
        self._socket: Final = shaken.connection
        self._tls: Final = shaken.tls
        self._reader: Final = shaken.reader
        self._loop: Final = loop
        self._on_frame: Final = on_frame
        self._on_end: Final = on_end
        self._whom: Final = whom
        self._records_left = records_max
        self._reader.allow(FRAME_BYTES_MAX)
        is_plain = shaken.tls is None
        room_bytes = _FIRST_BYTES if is_plain else RECEIVE_BYTES_MAX
        self._room: Final = memoryview(bytearray(room_bytes))
        self._plain: Final = memoryview(bytearray(0 if is_plain else RECEIVE_BYTES_MAX))
        self._collected: list[_Buffer] = []
        self._unsent: deque[_Buffer] = deque()
        self._unsent_bytes = 0
        self._waits_for_room = False
        self._is_over = False
        keep_socket_alive(self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # trio, which made the connection, has the kernel take 16 KiB more than it can send now:
        # a write of 1 MiB would leave in nine pieces, and wake the peer for each. 0: no such bound.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
        loop.watch(self._socket.fileno(), self._ready)
        # The other side may have gone on at once: some of it came with its last word.
        loop.soon(self._begin)

    def fileno(self) -> int:
        """Readable when something has come from the peer."""
        return self._socket.fileno()

    def send(self, kind: int, *parts: _Buffer) -> None:
        """Collect a frame for the next `flush`. Large parts are not copied: do not change them."""
        self._collected += encode_frame(kind, *parts)

    def flush(self) -> None:
        """Send what was collected, as far as there is room now. A failure goes to `on_end`."""
        collected = self._collected
        if not collected:
            return
        self._collected = []
        if self._is_over:
            return
        try:
            if self._tls is None:
                self._queue(collected)
            else:
                self._encrypt(collected)
            self._write_if_room()
        except (OSError, PeerError) as error:
            self._end(error)
        if self._records_left <= 0:
            self._end(PeerLostError("enough was sent under these keys: it is to be dialled again"))

    def close(self) -> None:
        """Close at once; `on_end` is not called. Idempotent."""
        if not self._is_over:
            self._is_over = True
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    # ---- what arrives ----

    def _begin(self) -> None:
        try:
            if not self._is_over:
                if self._tls is not None:
                    self._decrypt(self._tls)
                self._take_frames()
        except (OSError, PeerError) as error:
            self._end(error)

    def _ready(self, events: int) -> None:
        try:
            if events & OUT:
                self._write()
            if events & ~OUT and not self._is_over:
                self._receive()
        except (OSError, PeerError) as error:
            self._end(error)

    def _receive(self) -> None:
        left_bytes = _TURN_BYTES_MAX
        receive = self._receive_plain if self._tls is None else self._receive_tls
        while left_bytes > 0 and not self._is_over:
            count = receive()
            if not count:
                return  # epoll says if there is more
            left_bytes -= count

    def _receive_plain(self) -> int:
        """Receive once, and take the frames. How much came, 0 if there is no more now."""
        reader = self._reader
        direct = reader.room(_DIRECT_BYTES_MIN)
        room = self._room if direct is None else direct
        try:
            count = self._socket.recv_into(room)
        except BlockingIOError:
            return 0
        if count == 0:
            raise self._closed()
        if direct is None:
            reader.feed(room[:count])
        else:
            reader.received(count)
        self._take_frames()
        return count if count == len(room) else 0

    def _receive_tls(self) -> int:
        """As `_receive_plain`."""
        tls, room = self._tls, self._room
        try:
            count = self._socket.recv_into(room)
        except BlockingIOError:
            return 0
        if tls is None:
            return 0
        if count:
            tls.incoming.write(room[:count])
        else:
            tls.incoming.write_eof()
        self._decrypt(tls)
        return count if count == len(room) else 0

    def _decrypt(self, tls: TlsEnds) -> None:
        """Take the frames in all that can be decrypted now."""
        reader, plain = self._reader, self._plain
        has_more = True
        while has_more and not self._is_over:
            direct = reader.room(_DIRECT_BYTES_MIN)
            if direct is None:
                filled, has_more, fault = self._read(tls, plain)
                reader.feed(plain[:filled])
            else:
                filled, has_more, fault = self._read(tls, direct)
                reader.received(filled)
            self._take_frames()
            if fault is not None:
                raise self._closed() if isinstance(fault, EOFError) else fault
        if tls.outgoing.pending and not self._is_over:  # what OpenSSL has to say by itself
            self._queue([tls.outgoing.read()])
            self._write()

    def _read(self, tls: TlsEnds, room: memoryview) -> tuple[int, bool, Exception | None]:
        """Fill `room`: how much of it, whether there may be more, and what came after that."""
        read = tls.object.read
        filled = 0
        try:
            while filled < len(room):
                count: int = read(len(room) - filled, room[filled:])  # type: ignore[assignment]
                if count == 0:
                    return filled, False, EOFError()
                filled += count
        except ssl.SSLWantReadError:
            return filled, False, None
        except ssl.SSLError as error:
            return filled, False, error  # what came before it is good
        return filled, True, None

    def _take_frames(self) -> None:
        reader, on_frame = self._reader, self._on_frame
        while not self._is_over:
            frame = reader.next_frame()
            if frame is None:
                return
            on_frame(frame)

    def _closed(self) -> PeerLostError:
        where = "" if self._reader.is_between_frames else " within a frame"
        return PeerLostError(f"{self._whom} closed the stream{where}")

    # ---- what leaves ----

    def _queue(self, buffers: list[_Buffer]) -> None:
        for each in buffers:
            self._unsent.append(each)
            self._unsent_bytes += len(each)
        if self._unsent_bytes > UNSENT_BYTES_MAX:
            raise PeerProtocolError(f"{self._whom} takes nothing, and its windows are full")

    def _encrypt(self, buffers: list[_Buffer]) -> None:
        """What is large leaves piece by piece: the peer decrypts one beside the next."""
        tls = self._tls
        if tls is None:
            return
        for buffer in buffers if len(buffers) == 1 else _joined(buffers):
            for piece in _pieces(buffer):
                tls.object.write(piece)
                self._records_left -= -(-len(piece) // TLS_RECORD_BYTES)
                if tls.outgoing.pending >= _PIECE_BYTES:
                    self._queue([tls.outgoing.read()])
                    self._write_if_room()
        if tls.outgoing.pending:
            self._queue([tls.outgoing.read()])

    def _write_if_room(self) -> None:
        if not self._waits_for_room:
            self._write()

    def _write(self) -> None:
        """Send what is there until there is no more room; then wait for some."""
        unsent = self._unsent
        while unsent:
            try:
                if len(unsent) == 1:
                    sent = self._socket.send(unsent[0])
                else:
                    sent = self._socket.sendmsg(_first(unsent))
            except BlockingIOError:
                break
            self._unsent_bytes -= sent
            while sent:
                head = unsent[0]
                if sent < len(head):
                    unsent[0] = memoryview(head)[sent:]
                    break
                sent -= len(head)
                unsent.popleft()
        if bool(unsent) != self._waits_for_room:
            self._waits_for_room = bool(unsent)
            self._loop.watch_for(self._socket.fileno(), IN | OUT if unsent else IN)

    def _end(self, error: Exception) -> None:
        if self._is_over:
            return
        if isinstance(error, ssl.SSLError):
            with contextlib.suppress(OSError, ValueError):
                if self._tls is not None:
                    self._socket.send(self._tls.outgoing.read())  # the alert that says why
        self.close()
        if not isinstance(error, PeerError):
            error = peer_error_of(error, whom=self._whom, else_=str(error))
        self._on_end(error)


def _first(buffers: deque[_Buffer]) -> list[_Buffer]:
    if len(buffers) <= _BUFFERS_MAX:
        return list(buffers)
    return [buffers[index] for index in range(_BUFFERS_MAX)]


def _pieces(buffer: _Buffer) -> tuple[_Buffer, ...] | list[_Buffer]:
    if len(buffer) <= _PIECE_BYTES:
        return (buffer,)
    whole = memoryview(buffer)
    return [whole[at : at + _PIECE_BYTES] for at in range(0, len(whole), _PIECE_BYTES)]


def _joined(buffers: list[_Buffer]) -> list[_Buffer]:
    """The same bytes in fewer pieces: each becomes TLS records of its own."""
    joined: list[_Buffer] = []
    small: list[_Buffer] = []
    for buffer in buffers:
        if len(buffer) <= TLS_RECORD_BYTES:
            small.append(buffer)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(buffer)
    if small:
        joined.append(b"".join(small))
    return joined
