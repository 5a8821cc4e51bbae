"""Isolation checks: does somebody else answer, or is it this node that is cut off?

Evidence about ourselves, never about the peer, and never authority.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import struct
from typing import Final

import trio

from mirrorha.config import parse_isolation
from mirrorha.errors import LocalUsageError
from mirrorha.net import dial
from mirrorha.net.paths import family_of, socket_address

_log: Final = logging.getLogger(__name__)

# ICMP's types of echo request and reply, of IPv4 (RFC 792) and IPv6 (RFC 4443).
_ECHO: Final = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
_PROTOCOL: Final = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_PAYLOAD_BYTES: Final = 16
_REPLY_BYTES_MAX: Final = 512
_NO_RIGHTS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT})

_sequence: Final = itertools.count(1)


async def answers(address: str, timeout_s: float) -> bool:
    """Whether the host of an isolation check answers within `timeout_s` seconds.

    `tcp://host:port`: it accepts a connection, which is closed at once. A refusal is no answer:
    a firewall on this node says the same. `icmp://host`: it answers one ping; without the right to
    send one there is no answer, and the log says what gives it.

    Always a checkpoint; cancel-safe. Whatever goes wrong on the way is "no answer".

    Raises:
        LocalUsageError: the address is none of the two.
    """
    scheme, host, port = _parse(address)
    with trio.move_on_after(timeout_s):
        try:
            if port is None:
                return await _is_pinged(host)
            stream = await dial.open_tcp_stream(host, port)
        except OSError as error:
            _log.debug("isolation check %s: %s", address, error.strerror or error)
            return False
        await trio.aclose_forcefully(stream)
        return True
    _log.debug("isolation check %s: no answer within %g s (%s)", address, timeout_s, scheme)
    return False


async def _is_pinged(host: str) -> bool:
    """Send one echo request on an unprivileged ping socket, and wait for its answer."""
    address = (await dial.resolve(host, 0))[0]
    family = family_of(address)
    with _open_ping_socket(family, host) as sock:
        request, reply = _ECHO[family]
        number = next(_sequence) & 0xFFFF
        payload = os.urandom(_PAYLOAD_BYTES)
        await sock.connect(socket_address(address, 0))
        await sock.send(_packet(request, number, payload))
        while True:
            packet = await sock.recv(_REPLY_BYTES_MAX)
            if _is_reply(packet, kind=reply, number=number, payload=payload):
                return True


def _open_ping_socket(family: socket.AddressFamily, host: str) -> trio.socket.SocketType:
    try:
        return trio.socket.socket(family, socket.SOCK_DGRAM, _PROTOCOL[family])
    except OSError as error:
        if error.errno in _NO_RIGHTS:
            _log.warning(
                "isolation check icmp://%s: this process may not send pings, which counts as no "
                "answer; allow its group by the sysctl net.ipv4.ping_group_range, or check a "
                "tcp:// address instead",
                host,
            )
        raise


def _packet(kind: int, number: int, payload: bytes) -> bytes:
    """An echo request. The kernel fills in identifier and checksum on a ping socket."""
    return struct.pack("!BBHHH", kind, 0, 0, 0, number) + payload


def _is_reply(packet: bytes, *, kind: int, number: int, payload: bytes) -> bool:
    """Whether this answers that request: the payload is random, so no stray one does."""
    if len(packet) < 8:
        return False
    found, code, _, _, sequence = struct.unpack("!BBHHH", packet[:8])
    return (found, code, sequence, packet[8:]) == (kind, 0, number, payload)


def _parse(address: str) -> tuple[str, str, int | None]:
    try:
        return parse_isolation(address)
    except ValueError as error:
        raise LocalUsageError(f"{error}: expected 'icmp://HOST' or 'tcp://HOST:PORT'") from error
