"""Connections for the streams of volumes: prefaced, and secured by nobody yet."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import attrs

from mirrorha.errors import PeerLostError
from mirrorha.wire.preface import FIRST_BYTE, PREFACE_BYTES, decode_preface

if TYPE_CHECKING:
    import trio


@attrs.frozen(kw_only=True, eq=False)
class RawStream:
    """A connection on which nothing was said but the preface.

    Attributes:
        dials: this node made the connection: so it is TLS's client, and says hello first.
        whom: the other side, as people should read it in errors.
        path: our address and the peer's that this node dialled it over, None if the peer did.
    """

    stream: trio.SocketStream
    dials: bool
    whom: str
    path: tuple[str | None, str] | None = None


async def take_preface(stream: trio.SocketStream, *, whom: str) -> str | None:
    """What volume the caller's connection is for; None, and nothing read: it began otherwise.

    Reads the preface and not a byte beyond it. Blocks without limit: bound it.

    Raises:
        PeerLostError: the caller closed the connection, or it broke.
        PeerProtocolError: it began like a preface and went on differently.
    """
    try:
        first = await stream.socket.recv(1, socket.MSG_PEEK)
        if first and first != FIRST_BYTE:
            return None
        raw = b""
        while len(raw) < PREFACE_BYTES:
            more = await stream.socket.recv(PREFACE_BYTES - len(raw))
            if not more:
                raise PeerLostError(f"{whom} closed the connection")
            raw += more
    except OSError as error:
        raise PeerLostError(f"the connection to {whom} broke: {error.strerror}") from error
    return decode_preface(raw)
