"""Reads the server name out of a TLS client's first message (RFC 8446, 4.1.2; RFC 6066, 3).

Pure. It proves nothing: the name picks the context of the handshake that does.
"""

from __future__ import annotations

from typing import Final, final

from mirrorha.errors import PeerProtocolError

#: A first message has a few hundred bytes, up to some thousand with post-quantum keys.
CLIENT_HELLO_BYTES_MAX: Final = 16 * 1024
#: A fatal alert "unrecognized_name", as a TLS record of its own.
UNRECOGNIZED_NAME: Final = bytes.fromhex("15 0303 0002 02 70")

_RECORD_HEADER_BYTES: Final = 5
_RECORD_BYTES_MAX: Final = 16 * 1024
# Clients send their first message in one record, or in two. The search begins anew with each
# byte that comes, so that thousands of small records would cost thousands of searches.
_RECORDS_MAX: Final = 8
_MESSAGE_HEADER_BYTES: Final = 4
_CONTENT_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_EXTENSION_SERVER_NAME: Final = 0
_NAME_TYPE_HOST: Final = 0


def find_client_hello(received: bytes | bytearray) -> bytes | None:
    """Return the body of the first message, or None while more of it must be received.

    Raises:
        PeerProtocolError: this is not the beginning of a TLS handshake, or a very long one.
    """
    message = bytearray()
    start = 0
    for _ in range(_RECORDS_MAX):
        if len(received) - start < _RECORD_HEADER_BYTES:
            return None
        content, major = received[start], received[start + 1]
        size = int.from_bytes(received[start + 3 : start + 5], "big")
        if content != _CONTENT_HANDSHAKE or major != 3 or not 0 < size <= _RECORD_BYTES_MAX:
            raise PeerProtocolError("this is not the beginning of a TLS handshake")
        start += _RECORD_HEADER_BYTES
        message += received[start : start + size]
        start += size
        if len(message) >= _MESSAGE_HEADER_BYTES:
            end = _MESSAGE_HEADER_BYTES + int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or end > CLIENT_HELLO_BYTES_MAX:
                raise PeerProtocolError("this is no first message of a TLS client")
            if len(message) >= end:
                return bytes(message[_MESSAGE_HEADER_BYTES:end])
    raise PeerProtocolError("the first message comes in too many pieces")


def server_name(client_hello: bytes) -> str | None:
    """Return the host name that the client asks for, or None if it asks for none.

    Raises:
        PeerProtocolError: the message is malformed.
    """
    hello = _Cursor(client_hello)
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if hello.is_empty:
        return None
    extensions = hello.vector(2)
    while not extensions.is_empty:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _EXTENSION_SERVER_NAME:
            return _host_name(body.vector(2))
    return None


def _host_name(names: _Cursor) -> str | None:
    while not names.is_empty:
        kind, name = names.number(1), names.vector(2)
        if kind == _NAME_TYPE_HOST:
            try:
                return name.rest().decode("ascii")
            except UnicodeDecodeError as error:
                raise PeerProtocolError("the server name is not ASCII") from error
    return None


@final
class _Cursor:
    """Reads on in some bytes, and never over their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise PeerProtocolError("a TLS message is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_bytes: int) -> _Cursor:
        return _Cursor(self.take(self.number(length_bytes)))
