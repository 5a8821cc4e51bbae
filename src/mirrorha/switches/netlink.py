"""Addresses of interfaces, asked for and changed in the kernel's own words (rtnetlink).

Everything here blocks, as a rule for a tenth of a millisecond: call it in a thread. Nothing but
the standard library is imported, for `guardian` is to start quickly and to stay small.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_addr.h>
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ADDRESS: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_LIFETIMES: Final = struct.Struct("=IIII")  # preferred, valid, made, changed
_ERROR: Final = struct.Struct("=i")
_FLAGS: Final = struct.Struct("=I")

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_REQUEST, _ACK, _REPLACE, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x400, 0x300

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_CACHEINFO: Final = 6
_IFA_FLAGS: Final = 8

#: The kernel does not look for a duplicate itself: until that has ended, an address is of no use.
NO_DETECTION: Final = 0x02
#: It found one nevertheless: the address is there, and unusable.
DETECTION_FAILED: Final = 0x08

#: The kernel's switch for that another address of IPv4 becomes the primary one.
PROMOTION: Final = "/proc/sys/net/ipv4/conf/{}/promote_secondaries"

#: A kernel that has not answered by then holds a lock of its own.
ANSWER_S: Final = 5.0
RECEIVE_BYTES: Final = 64 * 1024


class HeldAddress(NamedTuple):
    """An address that an interface has. `valid_s` None: for ever."""

    interface: Interface
    flags: int
    valid_s: int | None

    @property
    def is_usable(self) -> bool:
        return not self.flags & DETECTION_FAILED


def addresses(index: int) -> list[HeldAddress]:
    """What addresses interface number `index` has.

    Raises:
        OSError: the kernel refused, or did not answer in time.
    """
    body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, index)
    found = []
    for kind, answer in _ask(_RTM_GETADDR, _DUMP, body):
        if kind == _RTM_NEWADDR and _ADDRESS.unpack_from(answer)[4] == index:
            found.append(_parse(answer))
    return found


def add_address(index: int, interface: Interface, *, lapse_s: int) -> None:
    """Give an address to an interface, or renew it there: it lapses by itself in `lapse_s`.

    Of IPv6, it is never chosen as the source of this node's own connections, and the kernel looks
    for no duplicate: whoever calls this has.

    Raises:
        OSError: as the kernel says, among them PermissionError.
    """
    flags, preferred_s = 0, lapse_s
    if interface.version == 6:
        flags, preferred_s = NO_DETECTION, 0
    body = _describe(index, interface)
    body += _attribute(_IFA_CACHEINFO, _LIFETIMES.pack(preferred_s, lapse_s, 0, 0))
    body += _attribute(_IFA_FLAGS, _FLAGS.pack(flags))
    _ask(_RTM_NEWADDR, _CREATE | _REPLACE | _ACK, body)


def remove_address(index: int, address: Address) -> None:
    """Take an address from an interface, with whatever prefix lengths it is there.

    Nothing is done where it is not, or no such interface.

    Raises:
        OSError: as the kernel says, among them PermissionError.
    """
    for held in addresses(index):
        if held.interface.ip == address:
            remove_interface(index, held.interface)


def remove_interface(index: int, interface: Interface) -> None:
    """Take an address from an interface, if it is there with just this prefix length.

    Raises:
        OSError: as the kernel says, among them PermissionError.
    """
    try:
        _ask(_RTM_DELADDR, _ACK, _describe(index, interface))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def keep_others(name: str) -> None:
    """Have the other addresses of an interface stay when one of IPv4 goes.

    Of several in one network the kernel calls the first one primary, and takes all of them when
    that one goes; then ours could take the node's own along, or another cluster's.

    Raises:
        OSError: it cannot be set here.
    """
    path = PROMOTION.format(name)
    with open(path) as stream:
        is_kept = stream.read().strip() != "0"
    if not is_kept:
        with open(path, "w") as stream:
            stream.write("1")


def _describe(index: int, interface: Interface) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    packed = interface.ip.packed
    head = _ADDRESS.pack(family, interface.network.prefixlen, 0, 0, index)
    return head + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)


def _attribute(kind: int, value: bytes) -> bytes:
    padding = -len(value) % 4
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(padding)


def _parse(answer: bytes) -> HeldAddress:
    _, prefix, flags, _, _ = _ADDRESS.unpack_from(answer)
    attributes = dict(_attributes(answer[_ADDRESS.size :]))
    # Of a point-to-point link the other end is ADDRESS; else both are the same.
    packed = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
    if _IFA_FLAGS in attributes:
        (flags,) = _FLAGS.unpack(attributes[_IFA_FLAGS])
    valid_s = None
    if _IFA_CACHEINFO in attributes:
        seconds = _LIFETIMES.unpack(attributes[_IFA_CACHEINFO])[1]
        valid_s = None if seconds == 0xFFFF_FFFF else seconds
    interface = ipaddress.ip_interface(f"{ipaddress.ip_address(packed)}/{prefix}")
    return HeldAddress(interface, flags, valid_s)


def _attributes(rest: bytes) -> Iterator[tuple[int, bytes]]:
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if length < _ATTRIBUTE.size:
            return
        yield kind, rest[_ATTRIBUTE.size : length]
        rest = rest[length + -length % 4 :]


def _ask(kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """Ask the kernel; return its messages. Raises OSError with what it refuses."""
    request = _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0) + body
    found: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.settimeout(ANSWER_S)
        one.sendto(request, (0, 0))
        while True:
            for answer_kind, answer in _messages(one.recv(RECEIVE_BYTES)):
                if answer_kind == _NLMSG_DONE:
                    return found
                if answer_kind == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(answer)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found
                found.append((answer_kind, answer))


def _messages(rest: bytes) -> Iterator[tuple[int, bytes]]:
    while len(rest) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(rest)
        if length < _HEADER.size:
            raise OSError(errno.EBADMSG, "the kernel's answer has no length")
        yield kind, rest[_HEADER.size : length]
        rest = rest[length + -length % 4 :]
