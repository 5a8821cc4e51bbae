"""Frames over a trio stream: TLS between the nodes, plain on a trusted network, memory in tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.errors import PeerError, PeerLostError
from mirrorha.net.tls import peer_error_from
from mirrorha.net.tls_stream import TlsStream
from mirrorha.wire.frames import Frame, FrameReader
from mirrorha.wire.limits import HELLO_FRAME_BYTES_MAX, RECEIVE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

# TLS says farewell. A peer that does not take it in time learns from the missing connection.
_CLOSE_S: Final = 1.0
_STREAM_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


async def hang_up(stream: trio.abc.Stream) -> None:
    """Close so that what was sent last arrives, or after _CLOSE_S. Closes also when cancelled.

    A connection that is closed while something unread has come in is reset, and what is still on
    its way is lost with it. So the other side is told that nothing follows, and what it still sends
    is thrown away until it closes too.
    """
    try:
        with (
            trio.move_on_after(_CLOSE_S),
            contextlib.suppress(*_STREAM_ERRORS, trio.BusyResourceError),
        ):
            transport = stream
            if isinstance(stream, TlsStream):
                await stream.send_farewell()
                transport = stream.transport
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
            while await transport.receive_some(RECEIVE_BYTES_MAX):
                pass
    finally:
        await trio.aclose_forcefully(stream)


@final
class FrameLink:
    """Sends and receives frames; one task may do each. All failures come out as PeerError.

    Args:
        stream: Where the frames travel. The link owns it. TLS has shaken hands already.
        whom: The other side, as people should read it in errors.
    """

    def __init__(self, stream: trio.abc.Stream, *, whom: str) -> None:
        self._stream = stream
        self._reader = FrameReader(HELLO_FRAME_BYTES_MAX)
        self._is_broken = False
        self.whom = whom

    def trust(self, frame_bytes_max: int, *, whom: str) -> None:
        """Let longer frames in from now on, for the other side is known to be `whom`."""
        self._reader.allow(frame_bytes_max)
        self.whom = whom

    async def end_tls(self, *, deadline_s: float) -> None:
        """Go on without TLS, if there is any; both sides must, and send nothing meanwhile.

        Raises:
            PeerError: as for receiving; or it took longer than deadline_s.
        """
        if not isinstance(self._stream, TlsStream):
            return
        try:
            with trio.fail_after(deadline_s):
                self._stream = await self._stream.unwrap()
        except trio.TooSlowError as error:
            raise PeerLostError(f"{self.whom} did not end TLS within {deadline_s:g} s") from error
        except _STREAM_ERRORS as error:
            raise self._broken(error) from error

    async def receive_frame(self) -> Frame:
        """Return the next frame. Always a checkpoint; cancelling loses nothing.

        Raises:
            PeerLostError: the connection ended or broke.
            PeerRefusedError: TLS reports that the other side does not accept us.
            PeerProtocolError: what arrived is no frame.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        frame = self._reader.next_frame()
        if frame is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return frame
        while frame is None:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES_MAX)
            except _STREAM_ERRORS as error:
                raise self._broken(error) from error
            if not data:
                where = "" if self._reader.is_between_frames else " within a frame"
                raise PeerLostError(f"{self.whom} closed the connection{where}")
            self._reader.feed(data)
            frame = self._reader.next_frame()
        return frame

    async def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send whole frames; returns when the operating system has taken all of it.

        Cancelled or failed, it leaves half a frame behind: send nothing more, and close.

        Raises:
            PeerError: as for receiving.
        """
        try:
            if isinstance(self._stream, TlsStream):
                await self._stream.send_many(buffers)
            else:
                await self._stream.send_all(b"".join(buffers))
        except _STREAM_ERRORS as error:
            raise self._broken(error) from error

    def send_now(self, buffers: Sequence[bytes | memoryview]) -> bool:
        """Send whole frames without waiting, if that can be done. False: nothing was done.

        After True look at `has_unsent`: if so, `send(())` is due.

        Raises:
            PeerError: as for receiving.
        """
        if not isinstance(self._stream, TlsStream):
            return False
        try:
            return self._stream.send_now(buffers)
        except _STREAM_ERRORS as error:
            raise self._broken(error) from error

    @property
    def has_unsent(self) -> bool:
        """Whether `send_now` could not get rid of all."""
        return isinstance(self._stream, TlsStream) and self._stream.has_unsent

    def _broken(self, error: BaseException) -> PeerError:
        self._is_broken = True
        return peer_error_from(error, whom=self.whom)

    async def aclose(self) -> None:
        """Close: by `hang_up`, or at once if the connection is broken. Idempotent."""
        if self._is_broken:
            await trio.aclose_forcefully(self._stream)
        else:
            self._is_broken = True
            await hang_up(self._stream)
