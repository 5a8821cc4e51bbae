"""One echo request and its answer, over IPv4 or IPv6."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from typing import Final, final

import trio

from mirrorha.net import dial
from mirrorha.net.paths import family_of, socket_address

# ICMP's types of echo request and reply, of IPv4 (RFC 792) and IPv6 (RFC 4443).
_ECHO: Final = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
_PROTOCOL: Final = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_HEADER: Final = struct.Struct("!BBHHH")
_PAYLOAD_BYTES: Final = 16
_REPLY_BYTES_MAX: Final = 512
_NO_RIGHTS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT})

_sequence: Final = itertools.count(1)


@final
class PingForbiddenError(PermissionError):
    """This process may not send pings at all; the text says what gives it the right."""


async def ping(host: str) -> None:
    """Send one echo request, and return when it is answered. Has no limit of time. Cancel-safe.

    Raises:
        PingForbiddenError: this process has the right to neither kind of socket for it.
        OSError: the name is unknown, or the host cannot be reached.
    """
    address = (await dial.resolve(host, 0))[0]
    family = family_of(address)
    with _open_socket(family) as sock:
        is_raw = sock.type == socket.SOCK_RAW
        request, reply = _ECHO[family]
        number = next(_sequence) & 0xFFFF
        payload = os.urandom(_PAYLOAD_BYTES)
        await sock.connect(socket_address(address, 0))
        await sock.send(_packet(request, number, payload))
        while True:
            packet = await sock.recv(_REPLY_BYTES_MAX)
            if is_raw and family == socket.AF_INET:
                packet = _without_ip_header(packet)
            if _is_reply(packet, kind=reply, number=number, payload=payload):
                return


def _open_socket(family: socket.AddressFamily) -> trio.socket.SocketType:
    """A socket for pings alone, for which a group needs a right; else one that root may open."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            return trio.socket.socket(family, kind, _PROTOCOL[family])
        except OSError as error:
            if error.errno not in _NO_RIGHTS:
                raise
    raise PingForbiddenError(
        errno.EPERM,
        "this process may not send pings; allow its group by the sysctl "
        "net.ipv4.ping_group_range, or give it CAP_NET_RAW",
    )


def _packet(kind: int, number: int, payload: bytes) -> bytes:
    """An echo request. Identifier and checksum are right for a raw socket of IPv4.

    On all other sockets the kernel fills them in. Whose answer it is, the payload tells.
    """
    without = _HEADER.pack(kind, 0, 0, 0, number) + payload
    return _HEADER.pack(kind, 0, _checksum(without), 0, number) + payload


def _checksum(content: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _without_ip_header(packet: bytes) -> bytes:
    return packet[(packet[0] & 0x0F) * 4 :] if packet else packet


def _is_reply(packet: bytes, *, kind: int, number: int, payload: bytes) -> bool:
    """Whether this answers that request: the payload is random, so no stray one does."""
    if len(packet) < _HEADER.size:
        return False
    found, code, _, _, sequence = _HEADER.unpack_from(packet)
    return (found, code, sequence, packet[_HEADER.size :]) == (kind, 0, number, payload)
