"""A session: two nodes that have told each other who they are, and exchange messages since."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import trio

from mirrorha.errors import (
    PeerError,
    PeerLostError,
    PeerProtocolError,
    ensure,
)
from mirrorha.wire.frames import CONTROL_KIND, Frame, encode_frame
from mirrorha.wire.hello import (
    CONTROL,
    STREAM,
    Agreed,
)
from mirrorha.wire.limits import (
    CONTROL_FRAME_BYTES_MAX,
    FRAME_BYTES_MAX,
    JOIN_BYTES_MAX,
    KIB,
    SEND_BATCH_BYTES,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUE_FRAMES_MAX,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mirrorha.net.frame_link import FrameLink
    from mirrorha.wire.codec import Codec

T = TypeVar("T")

# What is queued at the end gets so long to leave. A goodbye is among it, hence not at once.
_DRAIN_S: Final = 2.0
# A frame up to here is sent at once if there is no line: a turn of the writer takes longer.
_AT_ONCE_BYTES_MAX: Final = 64 * KIB
_FRAME_BYTES_MAX_OF: Final = {CONTROL: CONTROL_FRAME_BYTES_MAX, STREAM: FRAME_BYTES_MAX}


@final
class Session(Generic[T]):
    """Messages and frames to and from the peer, over a connection on which both said hello.

    Sending puts a whole frame into a queue, from which one task, the writer, takes it: frames are
    never mixed, and a cancelled send has either queued its frame or not, the session goes on. The
    queue is bounded; senders wait for room. Only cancelling the writer breaks the session. One
    task at a time may receive.

    `dial` and `serve_sessions` make sessions and run their writers.

    Args:
        link: Both have said hello on it. The session owns it.
        agreed: What the two agreed upon.
        codec: Of the control messages.
        path: Our address and the peer's that this node dialled it over, None if the peer did.
    """

    def __init__(
        self,
        link: FrameLink,
        *,
        agreed: Agreed,
        codec: Codec[T],
        path: tuple[str | None, str] | None = None,
    ) -> None:
        self.agreed: Final = agreed
        self.path: Final = path
        self._frame_bytes_max: Final = _FRAME_BYTES_MAX_OF.get(agreed.peer.kind, FRAME_BYTES_MAX)
        link.trust(self._frame_bytes_max, whom=f"node '{agreed.peer.node}'")
        self._link: Final = link
        self._codec: Final = codec
        self._queue: Final[collections.deque[list[bytes | memoryview]]] = collections.deque()
        self._unsent_bytes = 0  # in the queue, and of it what the writer is sending
        self._has_work = trio.Event()
        self._room: Final = trio.lowlevel.ParkingLot()
        self._has_writer = False
        self._writer_done: Final = trio.Event()
        self._fault: PeerError | None = None
        self._is_closing = False

    @property
    def peer(self) -> str:
        """The other node's name."""
        return self.agreed.peer.node

    @property
    def fault(self) -> PeerError | None:
        """Why nothing can be sent any more, or None."""
        return self._fault

    def send_nowait(self, message: T) -> None:
        """Queue a control message; never blocks.

        Raises:
            trio.WouldBlock: the queue is full: the peer takes less than it is sent. Nothing was
                queued.
            PeerError: the session is over.
        """
        self.send_frame_nowait(CONTROL_KIND, self._codec.encode(message))

    async def send(self, message: T) -> None:
        """Queue a control message, waiting for room. Always a checkpoint.

        Returning means neither that it was sent nor that it will arrive. Cancelled, nothing was
        queued.

        Raises:
            PeerError: the session is over.
        """
        await self.send_frame(CONTROL_KIND, self._codec.encode(message))

    def send_frame_nowait(self, kind: int, *parts: bytes | memoryview) -> None:
        """Queue a frame, as `send_nowait`. Large parts are not copied: do not change them."""
        self._check_open()
        buffers = encode_frame(kind, *parts, frame_bytes_max=self._frame_bytes_max)
        size_bytes = _size_of(buffers)
        if not self._has_room(size_bytes):
            raise trio.WouldBlock
        self._enqueue(buffers, size_bytes)

    async def send_frame(self, kind: int, *parts: bytes | memoryview) -> None:
        """Queue a frame, as `send`. Large parts are not copied: do not change them.

        One task's frames keep their order. Several tasks' may overtake each other.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        buffers = encode_frame(kind, *parts, frame_bytes_max=self._frame_bytes_max)
        size_bytes = _size_of(buffers)
        has_waited = False
        while not self._has_room(size_bytes):
            await self._room.park()
            self._check_open()
            has_waited = True
        self._enqueue(buffers, size_bytes)
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def receive(self) -> T:
        """Return the next control message. Always a checkpoint; cancelling loses nothing.

        Raises:
            PeerLostError: the connection ended, politely or not; which is no news of the peer.
            PeerProtocolError: the peer broke the protocol. Close the session.
        """
        frame = await self.receive_frame()
        try:
            if frame.kind != CONTROL_KIND:
                raise PeerProtocolError(f"{self._link.whom} sends frames of kind {frame.kind} here")
            return self._codec.decode(frame.body)
        except PeerProtocolError as error:
            self._end(error)
            raise

    async def receive_frame(self) -> Frame:
        """Return the next frame of any kind, as `receive`."""
        try:
            return await self._link.receive_frame()
        except PeerError as error:
            self._end(error)
            raise

    async def run_writer(self) -> None:
        """Send what is queued until the session ends. Raises nothing but what cancels it."""
        ensure(not self._has_writer, "a session has one writer")
        self._has_writer = True
        try:
            while self._fault is None:
                if self._queue or self._link.has_unsent:
                    await self._write_batch()
                elif self._is_closing:
                    return
                else:
                    await self._has_work.wait()
                    self._has_work = trio.Event()
        except PeerError as error:
            self._end(error)
        except trio.Cancelled:
            # Whoever owned the session is gone too: the peer is to see that, and at once.
            await self._link.aclose()
            raise
        finally:
            self._end(self._closed_here())
            self._writer_done.set()

    async def aclose(self) -> None:
        """Send what is queued, for _DRAIN_S at most, and close. Idempotent.

        Cancelled, it closes at once, which may cut off what was sent last.
        """
        self._is_closing = True
        self._has_work.set()
        try:
            # The writer may have been started and not yet have had its turn: it will.
            with trio.move_on_after(_DRAIN_S):
                await self._writer_done.wait()
        finally:
            self._end(self._closed_here())
            await self._link.aclose()

    async def __aenter__(self) -> Self:
        """Close the session when the block is left. No checkpoint: cancelled, it would be lost."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            # What went wrong is not to be delayed by politeness.
            with trio.CancelScope() as at_once:
                at_once.cancel()
                await self.aclose()

    async def _write_batch(self) -> None:
        """Send what is queued, up to about SEND_BATCH_BYTES, small pieces joined."""
        batch: list[bytes | memoryview] = []
        small: list[bytes | memoryview] = []
        batch_bytes = 0
        while self._queue and batch_bytes < SEND_BATCH_BYTES:
            for buffer in self._queue.popleft():
                batch_bytes += len(buffer)
                if len(buffer) <= 2 * JOIN_BYTES_MAX:
                    small.append(buffer)
                else:
                    batch += [b"".join(small), buffer]
                    small = []
        batch.append(b"".join(small))
        await self._link.send([buffer for buffer in batch if len(buffer)])
        self._unsent_bytes -= batch_bytes
        self._room.unpark_all()

    def _check_open(self) -> None:
        if self._fault is not None:
            raise type(self._fault)(str(self._fault)) from self._fault
        if self._is_closing:
            raise self._closed_here()

    def _closed_here(self) -> PeerLostError:
        return PeerLostError(f"the session with {self._link.whom} was closed here")

    def _has_room(self, size_bytes: int) -> bool:
        return (
            self._unsent_bytes + size_bytes <= SEND_QUEUE_BYTES_MAX
            and len(self._queue) < SEND_QUEUE_FRAMES_MAX
        )

    def _enqueue(self, buffers: list[bytes | memoryview], size_bytes: int) -> None:
        if size_bytes <= _AT_ONCE_BYTES_MAX and self._unsent_bytes == 0 and self._send_now(buffers):
            return
        self._queue.append(buffers)
        self._unsent_bytes += size_bytes
        self._has_work.set()

    def _send_now(self, buffers: list[bytes | memoryview]) -> bool:
        """Send a frame past the writer, which has nothing to do."""
        try:
            is_sent = self._link.send_now(buffers)
        except PeerError as error:
            self._end(error)
            raise
        if self._link.has_unsent:
            self._has_work.set()
        return is_sent

    def _end(self, error: PeerError) -> None:
        """Refuse to send from now on, for the first reason that was given."""
        if self._fault is None:
            self._fault = error
        self._queue.clear()
        self._has_work.set()
        self._room.unpark_all()


def _size_of(buffers: list[bytes | memoryview]) -> int:
    return sum(len(buffer) for buffer in buffers)
