"""The packets by which neighbours learn who has an address: ARP and neighbour discovery. Pure."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

BROADCAST: Final = b"\xff" * 6
ETH_ARP: Final = 0x0806
ETH_IPV6: Final = 0x86DD

_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST: Final = 1
_ARP_REPLY: Final = 2
_NOWHERE: Final = bytes(6)

_IPV6: Final = struct.Struct("!IHBB16s16s")
_ICMPV6: Final = 58
_SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136
_OVERRIDE: Final = 0x2000_0000
_OPTION_TARGET: Final = 2
#: Nobody beyond the link can make one, for routers count down.
HOPS: Final = 255
_ALL_NODES: Final = ipaddress.IPv6Address("ff02::1")
_SOLICITED: Final = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13]
_UNSPECIFIED: Final = bytes(16)


# IPv4 ------------------------------------------------------------------------------------------


def arp_probe(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """Ask who has `address`, without saying that we do: nobody's cache is touched (RFC 5227)."""
    return _arp(_ARP_REQUEST, mac, bytes(4), _NOWHERE, address.packed)


def arp_announcements(mac: bytes, address: ipaddress.IPv4Address) -> tuple[bytes, bytes]:
    """Say that we have it, as a request and as a reply: some systems heed only one of them."""
    own = address.packed
    return (
        _arp(_ARP_REQUEST, mac, own, _NOWHERE, own),
        _arp(_ARP_REPLY, mac, own, BROADCAST, own),
    )


def arp_claimant(packet: bytes, address: ipaddress.IPv4Address) -> bytes | None:
    """Who says in this ARP packet that it has `address`; None if nobody does."""
    if len(packet) < _ARP.size:
        return None
    hardware, protocol, hardware_len, protocol_len, _, mac, sender, _, _ = _ARP.unpack_from(packet)
    is_ipv4 = (hardware, protocol, hardware_len, protocol_len) == (1, 0x0800, 6, 4)
    return mac if is_ipv4 and sender == address.packed else None


def _arp(kind: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _ARP.pack(1, 0x0800, 6, 4, kind, mac, sender, target_mac, target)


# IPv6 ------------------------------------------------------------------------------------------


def solicitation(address: ipaddress.IPv6Address) -> tuple[bytes, bytes]:
    """Where to send the question who has `address`, and the question (RFC 4862, 5.4.2)."""
    group = _SOLICITED + address.packed[13:]
    message = struct.pack("!BBHI16s", _SOLICITATION, 0, 0, 0, address.packed)
    return multicast_mac(group), _ipv6(_UNSPECIFIED, group, message)


def advertisement(mac: bytes, address: ipaddress.IPv6Address) -> tuple[bytes, bytes]:
    """Where to send it, and the news that we have `address`: who knows it otherwise corrects it."""
    group = _ALL_NODES.packed
    message = struct.pack("!BBHI16s", ADVERTISEMENT, 0, 0, _OVERRIDE, address.packed)
    message += struct.pack("!BB6s", _OPTION_TARGET, 1, mac)
    return multicast_mac(group), _ipv6(address.packed, group, message)


def advertised(message: bytes, address: ipaddress.IPv6Address) -> bytes | None:
    """Who says in this ICMPv6 message that it has `address`; None if nobody does."""
    if len(message) < 24 or message[0] != ADVERTISEMENT or message[8:24] != address.packed:
        return None
    rest = message[24:]
    while len(rest) >= 8 and rest[1]:
        if rest[0] == _OPTION_TARGET:
            return rest[2:8]
        rest = rest[8 * rest[1] :]
    return b""


def multicast_mac(group: bytes) -> bytes:
    """Where a multicast of IPv6 goes on an Ethernet."""
    return b"\x33\x33" + group[12:]


def _ipv6(source: bytes, target: bytes, message: bytes) -> bytes:
    checksum = _checksum(source + target + struct.pack("!II", len(message), _ICMPV6) + message)
    message = message[:2] + checksum + message[4:]
    return _IPV6.pack(6 << 28, len(message), _ICMPV6, HOPS, source, target) + message


def _checksum(covered: bytes) -> bytes:
    total = sum(word for (word,) in struct.iter_unpack("!H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def mac_text(mac: bytes) -> str:
    """As people write it."""
    return mac.hex(":") if mac else "another machine"
