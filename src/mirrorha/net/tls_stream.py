"""TLS over any trio stream, many records for every turn of the loop.

`trio.SSLStream` returns one record of 16 KiB per call and sends as many. This one takes as much
as the socket has, decrypts all of it, and encrypts large data in large batches: about twice as
fast, and quicker to answer. It may be used wherever a `trio.abc.Stream` is expected.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from mirrorha.errors import LocalUsageError
from mirrorha.wire.limits import (
    RECEIVE_BYTES_MAX,
    SEND_BATCH_BYTES,
    TLS_RECORD_BYTES,
    TLS_RECORDS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# A stranger's handshake fits in one of these, and costs us no more at once.
_HANDSHAKE_RECEIVE_BYTES: Final = 16 * 1024
# For the last record, so that the other side learns that, or why, we leave. Nothing depends on it.
_FAREWELL_S: Final = 1.0
# Elsewhere a socket is no file descriptor.
_CAN_WRITE_TO_SOCKETS: Final = os.name == "posix"


@final
class _OneTask:
    """Refuses a second task in a block that one task is in."""

    __slots__ = ("_is_in", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_in = False

    def __enter__(self) -> None:
        if self._is_in:
            raise trio.BusyResourceError(f"another task {self._what} this TLS stream")
        self._is_in = True

    def __exit__(self, *_: object) -> None:
        self._is_in = False


@final
class _AfterTls(trio.abc.Stream):
    """A transport from which something was received already."""

    def __init__(self, transport: trio.abc.Stream, received: bytes) -> None:
        self._transport: Final = transport
        self._received = received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._received:
            return await self._transport.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        limit = max_bytes or len(self._received)
        some, self._received = self._received[:limit], self._received[limit:]
        return some

    async def aclose(self) -> None:
        await self._transport.aclose()


@final
class TlsStream(trio.abc.Stream):
    """A TLS connection over `transport`, which it owns and closes.

    Call `do_handshake` first. Then one task may send while another one receives. Errors are those
    of every trio stream; the `ssl.SSLError` behind a `trio.BrokenResourceError` is its cause.

    A send that is cancelled or fails leaves half a record behind: later ones are refused with
    `trio.BrokenResourceError`. What the other side had sent can still be received. A receive may be
    cancelled without loss.

    Args:
        transport: The stream that carries the records.
        context: What to demand of the other side, and what to show it.
        server_side: Whether we were called. A caller needs `server_hostname`.
        server_hostname: The name that the other side's certificate must have.
        records_max: So many records are sent; then the stream is broken, and to be dialled anew.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        records_max: int = TLS_RECORDS_MAX,
    ) -> None:
        self._records_left = records_max
        self.transport: Final = transport
        self._incoming: Final = ssl.MemoryBIO()
        self._outgoing: Final = ssl.MemoryBIO()
        self.ssl_object: Final = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._sending: Final = trio.Lock()
        self._one_sender: Final = _OneTask("sends on")
        self._one_receiver: Final = _OneTask("receives from")
        self._plain = memoryview(b"")  # room for what is decrypted; a stranger gets none
        self._unsent = b""  # records that `send_now` could not get rid of
        self._send_fault: BaseException | None = None
        self._receive_fault: BaseException | None = None
        self._is_closed = False

    async def do_handshake(self) -> None:
        """Agree on keys and check certificates. Blocks without limit: bound it.

        A client learns only when it first receives that the server refuses its certificate.

        Raises:
            trio.BrokenResourceError: caused by an `ssl.SSLError` if there is no agreement.
        """
        with self._one_sender, self._one_receiver:
            while True:
                try:
                    self.ssl_object.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill(_HANDSHAKE_RECEIVE_BYTES)
                except ssl.SSLError as error:
                    await self._fail(error)
                else:
                    break
            await self._flush()
            self._plain = memoryview(bytearray(RECEIVE_BYTES_MAX))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; returns when the operating system has taken all of it."""
        await self.send_many((data,))

    async def send_many(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all `buffers` in order, with no more system calls than their bytes need."""
        with self._one_sender:
            self._check_usable(self._send_fault)
            if self._records_left <= 0:
                await self._leave()
            await self._lock()
            try:
                for data in buffers:
                    await self._encrypt(memoryview(data))
                await self._flush_locked()
            finally:
                self._sending.release()

    def send_now(self, buffers: Iterable[bytes | bytearray | memoryview]) -> bool:
        """Send as much of all `buffers` as needs no waiting, and keep the rest for the next send.

        It spares two turns of the loop, and cannot be cancelled. False: nothing was done, for this
        would have to wait in a line, or the transport is no socket. After True look at
        `has_unsent`: if so, `send_many(())` is due. Meant for messages, not for bulk: all of it is
        encrypted in memory first.

        Raises:
            trio.BrokenResourceError: the connection broke.
        """
        has_line = self._sending.locked() or self._unsent or self._send_fault is not None
        if has_line or self._is_closed or not _CAN_WRITE_TO_SOCKETS:
            return False
        if not isinstance(self.transport, trio.SocketStream):
            return False
        if self._records_left <= 0:
            return False  # a send that may wait has to say farewell
        for data in buffers:
            self._encrypt_batch(memoryview(data), 0, len(data))
        records = self._outgoing.read()
        try:
            sent_bytes = os.write(self.transport.socket.fileno(), records)
        except BlockingIOError:
            sent_bytes = 0
        except OSError as error:
            self._send_fault = error
            raise trio.BrokenResourceError(f"sending failed: {error.strerror}") from error
        self._unsent = records[sent_bytes:]
        return True

    @property
    def has_unsent(self) -> bool:
        """Whether something is encrypted and still here."""
        return bool(self._unsent or self._outgoing.pending)

    async def wait_send_all_might_not_block(self) -> None:
        """Block until the transport would take some."""
        with self._one_sender:
            self._check_usable(self._send_fault)
            async with self._sending:
                await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, waiting for the first byte; b"" once the other side closed.

        Args:
            max_bytes: Return no more; there is a limit of RECEIVE_BYTES_MAX in any case.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._one_receiver:
            self._check_usable(self._receive_fault)
            await trio.lowlevel.checkpoint_if_cancelled()
            limit_bytes = min(max_bytes or RECEIVE_BYTES_MAX, RECEIVE_BYTES_MAX)
            has_waited = False
            while True:
                try:
                    received = self._decrypt(limit_bytes)
                except ssl.SSLError as error:
                    await self._fail(error)
                if received is not None:
                    break
                await self._answer_change_of_keys()
                await self._fill(RECEIVE_BYTES_MAX)
                has_waited = True
            if not has_waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return received

    async def send_farewell(self) -> None:
        """Say, as TLS demands, that nothing follows; nothing can be sent from then on.

        Before the handshake is done there is nothing to say.

        Raises:
            trio.BrokenResourceError: it could not be said.
        """
        with self._one_sender:
            if self._plain:
                self._check_usable(self._send_fault)
                self._prepare_farewell()
            await self._flush()

    async def unwrap(self) -> trio.abc.Stream:
        """End TLS in both directions, and return what goes on below it. Blocks: bound it.

        Both sides must do so, with nothing unread before. This stream is closed from then on, its
        transport is not.

        Raises:
            trio.BrokenResourceError: the other side did not do so, or the connection broke.
        """
        with self._one_sender, self._one_receiver:
            self._check_usable(self._send_fault)
            while True:
                try:
                    self.ssl_object.unwrap()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill(RECEIVE_BYTES_MAX)
                except ssl.SSLError as error:
                    await self._fail(error)
                else:
                    break
            await self._flush()
            self._is_closed = True
        # OpenSSL reads record by record: what came after the last one is still there.
        return _AfterTls(self.transport, self._incoming.read())

    async def aclose(self) -> None:
        """Say that nothing follows, for a second at most, and close. Idempotent.

        Cancelled, it closes all the same. It does not wait until the other side has closed.
        """
        can_say = self._plain and self._send_fault is None and not self._sending.locked()
        if can_say and not self._is_closed:
            self._prepare_farewell()
        self._is_closed = True
        try:
            await self._say_prepared()
        finally:
            await self.transport.aclose()

    def _check_usable(self, fault: BaseException | None) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this TLS stream was closed")
        if fault is not None:
            raise trio.BrokenResourceError("this TLS stream broke before") from fault
        if not self._plain:
            raise LocalUsageError("call do_handshake() before anything is sent or received")

    async def _leave(self) -> NoReturn:
        """Before a send begins: the limit is so far off that one which has begun may be ended.

        The other side hears a farewell, so that it hangs up and whoever receives here knows too.
        """
        self._prepare_farewell()
        await self._flush()
        fault = trio.BrokenResourceError("enough was sent under these keys: dial again")
        self._send_fault = fault
        raise fault

    def _prepare_farewell(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            # It "wants to read" the other side's farewell, for which we do not wait.
            self.ssl_object.unwrap()

    def _decrypt(self, limit_bytes: int) -> bytes | None:
        """Return what can be decrypted now; None: nothing yet; b"": the other side closed."""
        # With a buffer it returns how much it put there; its type says bytes in any case.
        read: Callable[[int, memoryview], int] = self.ssl_object.read  # type: ignore[assignment]
        view, filled = self._plain, 0
        try:
            while filled < limit_bytes:
                count = read(limit_bytes - filled, view[filled:limit_bytes])
                if count == 0:
                    break
                filled += count
        except ssl.SSLWantReadError:
            if filled == 0:
                return None
        except ssl.SSLError:
            # What came before the fault is good; OpenSSL reports the fault again next time.
            if filled == 0:
                raise
        return bytes(view[:filled])

    async def _answer_change_of_keys(self) -> None:
        """Send what OpenSSL has to say while we receive, unless that would have to wait.

        It would wait for a peer that may wait for us to read. The next sender takes it along.
        """
        if not self._outgoing.pending or self._unsent or self._sending.locked():
            return
        with contextlib.suppress(trio.BrokenResourceError):
            if not self.send_now(()) and self._send_fault is None:
                await self._flush()

    async def _encrypt(self, data: memoryview) -> None:
        """Encrypt, and send whenever a batch is full. The caller holds the lock."""
        at, end = 0, len(data)
        while at < end:
            room_bytes = SEND_BATCH_BYTES - self._outgoing.pending
            at = self._encrypt_batch(data, at, min(end, at + max(1, room_bytes)))
            if self._outgoing.pending >= SEND_BATCH_BYTES:
                await self._flush_locked()

    def _encrypt_batch(self, data: memoryview, at: int, end: int) -> int:
        write = self.ssl_object.write
        try:
            while at < end:
                written_bytes = write(data[at:end])
                at += written_bytes
                self._records_left -= -(-written_bytes // TLS_RECORD_BYTES)
        except ssl.SSLError as error:
            self._send_fault = error
            raise trio.BrokenResourceError("TLS refused to send") from error
        return at

    async def _fill(self, bytes_max: int) -> None:
        data = await self.transport.receive_some(bytes_max)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self.has_unsent:
            await self._lock()
            try:
                await self._flush_locked()
            finally:
                self._sending.release()

    async def _lock(self) -> None:
        # Mostly free: spares a turn of the loop. What is cancelled here has sent nothing.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()

    async def _flush_locked(self) -> None:
        records, self._unsent = self._unsent + self._outgoing.read(), b""
        try:
            await self.transport.send_all(records)
        except BaseException as error:
            # Some of it may be out. Cancelled or not, records after a gap mean nothing.
            is_failure = isinstance(error, Exception)
            self._send_fault = error if is_failure else RuntimeError("a send was cancelled")
            raise

    async def _fail(self, error: ssl.SSLError) -> NoReturn:
        """Send the alert that OpenSSL has prepared, then raise."""
        if error.reason == "UNEXPECTED_EOF_WHILE_READING":  # Python before 3.11.4 says no more
            error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was cut off")
            error.reason = "UNEXPECTED_EOF_WHILE_READING"
        self._receive_fault = error
        await self._say_prepared()
        raise trio.BrokenResourceError(f"TLS failed: {error.reason or error}") from error

    async def _say_prepared(self) -> None:
        """Try to send the last record. If a sender is stuck, so would this be."""
        if self._sending.locked() or self._send_fault is not None:
            return
        with (
            trio.move_on_after(_FAREWELL_S),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self._flush()
