"""Have the kernel end a connection over which nothing passes any more.

TCP alone never notices that on a connection that has nothing to send, and after a quarter of an
hour on one that has. Heartbeats tell of lost networks; this is for what lets them through and
connections not: a firewall that forgot them, a network that drops large packets.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import trio

#: Silence before the kernel asks, how often it does, and what of it ends the connection.
IDLE_S: Final = 1
EVERY_S: Final = 1
UNANSWERED_MAX: Final = 5
#: The same for what was sent; on Linux it bounds the silence as well. A peer that takes nothing
#: for so long is not lost by it: it is dialled again, and what it lacks is replayed.
UNACKNOWLEDGED_MAX_MS: Final = 5_000

_OPTIONS: Final = (
    ("TCP_KEEPIDLE", IDLE_S),
    ("TCP_KEEPINTVL", EVERY_S),
    ("TCP_KEEPCNT", UNANSWERED_MAX),
    ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MAX_MS),
)


class _HasOptions(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(stream: trio.SocketStream) -> None:
    """Set it up, as far as this system has the options."""
    keep_socket_alive(stream.socket)


def keep_socket_alive(connection: _HasOptions) -> None:
    """The same for whatever has a socket's options."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
