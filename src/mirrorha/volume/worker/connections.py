"""The connections to the peer's worker: at most one carries the stream, the newest counts."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import (
    MirrorHAError,
    PeerError,
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
)
from mirrorha.volume.worker.handshake import shake_hands
from mirrorha.volume.worker.messages import Connection, Linked, Unlinked
from mirrorha.volume.worker.stream_socket import PeerStream
from mirrorha.wire.limits import TLS_RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.worker.driver import Driver
    from mirrorha.volume.worker.handshake import Shaken
    from mirrorha.volume.worker.loop import Loop
    from mirrorha.volume.worker.messages import FromWorker, KeysAt

_log: Final = logging.getLogger(__name__)

#: Handshakes at the same time. The application's process passes one on at a time.
HANDSHAKES_MAX: Final = 8


@attrs.define(eq=False)
class _Current:
    number: int
    stream: PeerStream


@final
class Connections:
    """Gets to know who is at the other end, and gives the driver its stream.

    Everything but the handshakes runs in the loop's thread, and nothing raises.

    Args:
        tell: says what became of a connection.
        keys: None: every connection is refused.
        records_max: see `PeerStream`.
    """

    def __init__(
        self,
        loop: Loop,
        driver: Driver,
        *,
        tell: Callable[[FromWorker], None],
        keys: KeysAt | None,
        records_max: int = TLS_RECORDS_MAX,
    ) -> None:
        self._records_max: Final = records_max
        self._loop: Final = loop
        self._driver: Final = driver
        self._tell: Final = tell
        self._keys: Final = keys
        self._shaking: dict[int, socket.socket] = {}
        self._current: _Current | None = None

    def take(self, asked: Connection, descriptor: int) -> None:
        """Get to know whoever is at the other end of a TCP connection, in a thread."""
        connection = socket.socket(fileno=descriptor)
        if self._keys is None or len(self._shaking) >= HANDSHAKES_MAX:
            connection.close()
            self._say_over(asked.number, PeerLostError("this worker takes no connection now"))
            return
        self._shaking[asked.number] = connection
        threading.Thread(
            target=self._shake,
            args=(connection, asked, self._keys),
            name="mirrorha-hello",
            daemon=True,
        ).start()

    def disconnect(self, number: int, why: str) -> None:
        """Close a connection, or all if the number is 0; of the stream the machine learns."""
        for each, connection in self._shaking.items():
            if number in (0, each):
                _shut(connection)  # its thread fails now
        current = self._current
        if current is not None and number in (0, current.number):
            self._drop(current, PeerLostError(why))

    def reset(self, why: str) -> None:
        """The peer broke the stream's protocol: close it."""
        _log.warning("the stream is closed: %s", why)
        if self._current is not None:
            self._drop(self._current, PeerProtocolError(why))

    # ---- in a thread ----

    def _shake(self, connection: socket.socket, asked: Connection, keys: KeysAt) -> None:
        try:
            shaken = shake_hands(connection, asked, keys)
        except MirrorHAError as error:
            failure: Exception = error
        except Exception as error:
            _log.exception("a bug in the handshake")
            failure = error
        else:
            self._loop.from_thread(lambda: self._adopt(asked, shaken))
            return
        self._loop.from_thread(lambda: self._give_up(asked, failure))

    # ---- in the loop ----

    def _give_up(self, asked: Connection, error: Exception) -> None:
        self._shaking.pop(asked.number, None)
        self._say_over(asked.number, error)

    def _adopt(self, asked: Connection, shaken: Shaken) -> None:
        self._shaking.pop(asked.number, None)
        if self._current is not None:
            if self._current.number > asked.number:
                shaken.connection.close()
                self._say_over(asked.number, PeerLostError("a newer connection was there first"))
                return
            self._drop(self._current, PeerLostError("a newer connection has come"))
        stream = PeerStream(
            shaken,
            loop=self._loop,
            on_frame=self._driver.take,
            on_end=lambda error: self._ended(asked.number, error),
            whom=asked.whom,
            records_max=self._records_max,
        )
        self._current = _Current(asked.number, stream)
        self._tell(Linked(asked.number, shaken.agreed.warnings))
        self._driver.link_up(stream)

    def _ended(self, number: int, error: PeerError) -> None:
        if self._current is not None and self._current.number == number:
            self._current = None
            self._driver.link_down()
            self._say_over(number, error)

    def _drop(self, current: _Current, error: PeerError) -> None:
        self._current = None
        current.stream.close()
        self._driver.link_down()
        self._say_over(current.number, error)

    def _say_over(self, number: int, error: Exception) -> None:
        fault = "lost"
        if isinstance(error, PeerRefusedError):
            fault = "refused"
        elif isinstance(error, PeerProtocolError) or not isinstance(error, PeerError):
            fault = "protocol"
        self._tell(Unlinked(number, fault, str(error)))


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed already, by its thread
