"""Getting to know the other worker on a new TCP connection: TLS, and the two hellos.

It blocks, so it runs in a thread of its own that lives as long, bounded. What is said and in which
order is `mirrorha.net.session`'s; a plain link is authenticated the same way, and then leaves TLS.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs

from mirrorha.errors import PeerError, PeerLostError, PeerProtocolError, PeerRefusedError, ensure
from mirrorha.net.certificates import (
    check_peer_names,
    client_side_context,
    node_dns_name,
    peer_error_of,
    server_side_context,
)
from mirrorha.wire.frames import HELLO_KIND, FrameReader, encode_frame
from mirrorha.wire.hello import (
    HELLO_CODEC,
    Agreed,
    Disagreement,
    Hello,
    Refused,
    Welcome,
    compare,
    encode_hello,
    printable,
    shortened,
)
from mirrorha.wire.limits import HELLO_FRAME_BYTES_MAX, REASON_LENGTH_MAX

if TYPE_CHECKING:
    from mirrorha.volume.worker.messages import Connection, KeysAt

T = TypeVar("T")

#: For all of it. A few round trips, and milliseconds of arithmetic.
HANDSHAKE_S: Final = 5.0
_RECEIVE_BYTES: Final = 16 * 1024


@attrs.define(eq=False)
class Shaken:
    """A connection on which both sides have said who they are.

    Attributes:
        connection: non-blocking.
        tls: what encrypts, with what has arrived and what is to be sent; None on a plain link.
        reader: may hold the beginning of what follows.
        agreed: what the two agreed upon.
    """

    connection: socket.socket
    tls: TlsEnds | None
    reader: FrameReader
    agreed: Agreed


@attrs.define(eq=False)
class TlsEnds:
    """TLS over two buffers in memory."""

    object: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


def shake_hands(connection: socket.socket, asked: Connection, keys: KeysAt) -> Shaken:
    """Do all of it. Blocks for HANDSHAKE_S at most. The socket is closed unless it succeeds.

    Raises:
        PeerRefusedError: the two do not belong together; both sides learn why.
        PeerError: the other side broke off, was too slow, or said what it should not.
        LocalUsageError: this node's keys cannot be read.
    """
    try:
        mine = HELLO_CODEC.decode(asked.hello)
        ensure(isinstance(mine, Hello), "what a connection comes with is a hello")
        talk = _Talk(connection, mine, asked, keys)  # type: ignore[arg-type]
        return talk.run()
    except BaseException:
        connection.close()
        raise


@final
class _Talk:
    """One handshake, by a deadline."""

    def __init__(
        self, connection: socket.socket, mine: Hello, asked: Connection, keys: KeysAt
    ) -> None:
        self._connection = connection
        self._mine = mine
        self._asked = asked
        self._deadline_s = time.monotonic() + HANDSHAKE_S
        self._reader = FrameReader(HELLO_FRAME_BYTES_MAX)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        make = client_side_context if asked.dialled else server_side_context
        context = make(authority_pem=keys.authority_pem, path=Path(keys.path))
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=not asked.dialled,
            server_hostname=(
                node_dns_name(cluster=mine.cluster, node=mine.peer) if asked.dialled else None
            ),
        )

    def run(self) -> Shaken:
        try:
            self._drive(self._tls.do_handshake)
            agreed = self._say_hello() if self._asked.dialled else self._answer_hello()
            tls: TlsEnds | None = TlsEnds(self._tls, self._incoming, self._outgoing)
            if self._asked.plain:
                self._drive(self._tls.unwrap)
                tls = None
                self._reader.feed(self._incoming.read())  # of what follows already
        except ssl.SSLError as error:
            with contextlib.suppress(OSError):
                self._flush()  # the alert that says why
            raise peer_error_of(error, whom=self._asked.whom, else_=str(error)) from error
        except TimeoutError as error:
            raise self._too_slow() from error
        except OSError as error:
            raise PeerLostError(f"the connection to {self._asked.whom} broke: {error}") from error
        self._connection.settimeout(0)
        return Shaken(self._connection, tls, self._reader, agreed)

    # ---- hellos ----

    def _say_hello(self) -> Agreed:
        self._check_names()
        try:
            self._send(self._mine)
        except OSError:
            # Whoever refuses us has said so before it closed: TLS's alert, or a `Refused`.
            with contextlib.suppress(OSError, PeerLostError, PeerProtocolError):
                self._receive()
            raise
        verdict = self._judge(self._receive_hello())
        self._send(_word_for(verdict))
        self._hear_verdict(verdict)
        return _conclude(verdict)

    def _answer_hello(self) -> Agreed:
        try:
            self._check_names()
        except PeerRefusedError as refusal:
            # It is of our cluster: so it deserves to know.
            self._send(Refused(reason=shortened(refusal.reason, REASON_LENGTH_MAX)))
            raise
        theirs = self._receive_hello()
        self._send(self._mine)
        verdict = self._judge(theirs)
        self._hear_verdict(verdict)
        self._send(_word_for(verdict))
        return _conclude(verdict)

    def _check_names(self) -> None:
        mine = self._mine
        check_peer_names(self._tls, cluster=mine.cluster, node=mine.node, peer=mine.peer)

    def _judge(self, theirs: Hello) -> Agreed | Disagreement | PeerRefusedError:
        verdict = compare(self._mine, theirs)
        wanted = self._asked.incarnation
        if isinstance(verdict, Agreed) and wanted and theirs.incarnation != wanted:
            return PeerRefusedError(
                f"this stream is of incarnation {printable(theirs.incarnation)}, the control "
                f"session of {printable(wanted)}: one of them is left over"
            )
        return verdict

    def _hear_verdict(self, verdict: Agreed | Disagreement | PeerRefusedError) -> None:
        if not isinstance(verdict, Agreed):
            # Ours will be the reason. But closing before its word has come in could cut ours off.
            with contextlib.suppress(PeerError, OSError):
                self._receive()
            return
        message = self._receive()
        if isinstance(message, Hello):
            raise PeerProtocolError(f"{self._asked.whom} says hello twice")
        if message.version != verdict.version:
            raise PeerProtocolError(
                f"{self._asked.whom} welcomes us in version {message.version}, "
                f"not {verdict.version}"
            )

    def _receive_hello(self) -> Hello:
        message = self._receive()
        if isinstance(message, Hello):
            return message
        raise PeerProtocolError(f"{self._asked.whom} welcomes us before it says hello")

    # ---- messages ----

    def _send(self, message: Hello | Welcome | Refused) -> None:
        is_hello = isinstance(message, Hello)
        encoded = encode_hello(message) if is_hello else HELLO_CODEC.encode(message)  # type: ignore[arg-type]
        for buffer in encode_frame(HELLO_KIND, encoded, frame_bytes_max=HELLO_FRAME_BYTES_MAX):
            self._tls.write(buffer)
        self._flush()

    def _receive(self) -> Hello | Welcome:
        frame = self._reader.next_frame()
        while frame is None:
            data = self._drive(lambda: self._tls.read(_RECEIVE_BYTES))
            if not data:
                raise PeerLostError(f"{self._asked.whom} closed the connection before a hello")
            self._reader.feed(data)
            frame = self._reader.next_frame()
        if frame.kind != HELLO_KIND:
            raise PeerProtocolError(
                f"{self._asked.whom} sends frames of kind {frame.kind} before a hello"
            )
        message = HELLO_CODEC.decode(frame.body)
        if isinstance(message, Refused):
            reason = printable(message.reason)
            raise PeerRefusedError(f"{self._asked.whom} refuses the connection: {reason}")
        return message

    # ---- bytes ----

    def _drive(self, action: Callable[[], T]) -> T:
        """Do something with TLS, moving bytes both ways until it is done."""
        while True:
            try:
                done = action()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return done

    def _fill(self) -> None:
        self._bound()
        data = self._connection.recv(_RECEIVE_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        records = self._outgoing.read()
        if records:
            self._bound()
            self._connection.sendall(records)

    def _bound(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise self._too_slow()
        self._connection.settimeout(left_s)

    def _too_slow(self) -> PeerLostError:
        return PeerLostError(f"{self._asked.whom} did not say hello within {HANDSHAKE_S:g} s")


def _word_for(verdict: Agreed | Disagreement | PeerRefusedError) -> Welcome | Refused:
    if isinstance(verdict, Disagreement):
        return verdict.as_refused()
    if isinstance(verdict, PeerRefusedError):
        return Refused(reason=shortened(verdict.reason, REASON_LENGTH_MAX))
    return Welcome(version=verdict.version)


def _conclude(verdict: Agreed | Disagreement | PeerRefusedError) -> Agreed:
    if isinstance(verdict, Disagreement):
        raise PeerRefusedError(verdict.reason)
    if isinstance(verdict, PeerRefusedError):
        raise verdict
    return verdict
