"""Getting to know the other worker on a new TCP connection: TLS, and the two hellos.

It blocks, so it runs in a thread of its own that lives as long, bounded. A plain link is
authenticated the same way, and then leaves TLS.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs

from mirrorha.errors import PeerError, PeerLostError, PeerRefusedError, ensure
from mirrorha.net.certificates import (
    check_peer_names,
    client_side_context,
    node_dns_name,
    peer_error_of,
    server_side_context,
)
from mirrorha.wire.frames import FrameReader
from mirrorha.wire.greeting import HANDSHAKE_S, Hear, be_greeted, greet, refuse
from mirrorha.wire.hello import (
    HELLO_CODEC,
    Agreed,
    Difference,
    Disagreement,
    Hello,
    HelloRule,
    compare,
    printable,
)
from mirrorha.wire.limits import HELLO_FRAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorha.volume.worker.messages import Connection, KeysAt
    from mirrorha.wire.frames import Frame
    from mirrorha.wire.greeting import Greeting, Step

T = TypeVar("T")

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
        with self._translated():
            self._drive(self._tls.do_handshake)
        agreed = self._carry_out(self._greeting())
        tls: TlsEnds | None = TlsEnds(self._tls, self._incoming, self._outgoing)
        if self._asked.plain:
            with self._translated():
                self._drive(self._tls.unwrap)
            tls = None
            self._reader.feed(self._incoming.read())  # of what follows already
        self._connection.settimeout(0)
        return Shaken(self._connection, tls, self._reader, agreed)

    # ---- hellos ----

    def _greeting(self) -> Greeting:
        mine, whom = self._mine, self._asked.whom
        try:
            check_peer_names(self._tls, cluster=mine.cluster, node=mine.node, peer=mine.peer)
        except PeerRefusedError as refusal:
            if not self._asked.dialled:  # it is of our cluster: so it deserves to know
                self._perform(refuse(refusal))
            raise
        if self._asked.dialled:
            return greet(mine, whom=whom, judge=self._judge)
        return be_greeted(lambda _theirs: mine, whom=whom, judge=self._judge)

    def _judge(self, mine: Hello, theirs: Hello) -> Agreed | Disagreement:
        verdict = compare(mine, theirs)
        wanted = self._asked.incarnation
        if isinstance(verdict, Agreed) and wanted and theirs.incarnation != wanted:
            text = (
                f"this stream is of incarnation {printable(theirs.incarnation)}, the control "
                f"session of {printable(wanted)}: one of them is left over"
            )
            return Disagreement((Difference(HelloRule.LEFT_OVER, text),))
        return verdict

    def _carry_out(self, words: Greeting) -> Agreed:
        with contextlib.closing(words):
            try:
                step = next(words)
                while True:
                    try:
                        heard = self._perform(step)
                    except PeerError as error:
                        step = words.throw(error)
                    else:
                        step = words.send(heard)
            except StopIteration as end:
                agreed: Agreed = end.value
                return agreed

    def _perform(self, step: Step) -> Frame | None:
        with self._translated():
            if isinstance(step, Hear):
                return self._receive()
            for buffer in step.buffers:
                self._tls.write(buffer)
            self._flush()
            return None

    def _receive(self) -> Frame:
        frame = self._reader.next_frame()
        while frame is None:
            data = self._drive(lambda: self._tls.read(_RECEIVE_BYTES))
            if not data:
                raise PeerLostError(f"{self._asked.whom} closed the connection before a hello")
            self._reader.feed(data)
            frame = self._reader.next_frame()
        return frame

    # ---- bytes ----

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        whom = self._asked.whom
        try:
            yield
        except ssl.SSLError as error:
            with contextlib.suppress(OSError, PeerLostError):
                self._flush()  # the alert that says why
            raise peer_error_of(error, whom=whom, else_=str(error)) from error
        except TimeoutError as error:
            raise self._too_slow() from error
        except OSError as error:
            raise PeerLostError(f"the connection to {whom} broke: {error}") from error

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
