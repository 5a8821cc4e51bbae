"""The other machines on a link: is an address taken, and here is who has it now."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, final

import trio

from mirrorha.switches import packets

#: How often the question and the news are sent: one packet can be lost, three are not.
QUESTIONS: Final = 2
NEWS: Final = 3
NEWS_PAUSE_S: Final = 0.05

_ETHERNET: Final = 1  # ARPHRD_ETHER
_RECEIVE_BYTES: Final = 2048
_ICMP6_FILTER: Final = 1  # <linux/icmpv6.h>
_IPV6_RECVHOPLIMIT: Final = 51
_IPV6_HOPLIMIT: Final = 52

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@final
class Link:
    """An interface's link, for packets about one address. Made by `open_link`."""

    def __init__(self, sender: trio.socket.SocketType, interface: str, address: IpAddress) -> None:
        self._sender: Final = sender
        self._interface: Final = interface
        self._address: Final = address
        _, _, _, kind, mac = sender.getsockname()
        self._mac: Final[bytes] = mac
        #: Others there can be asked: else (the loopback, a tunnel) nobody is told anything.
        self.has_neighbours: Final = kind == _ETHERNET

    async def find_owner(self, within_s: float) -> bytes | None:
        """Ask who has the address; return whoever answers, or None if nobody does in time.

        Raises:
            OSError: nothing can be sent there.
        """
        if not self.has_neighbours or within_s <= 0:
            return None
        if isinstance(self._address, ipaddress.IPv4Address):
            return await self._find_by_arp(self._address, within_s)
        return await self._find_by_icmp(self._address, within_s)

    async def announce(self, times: int = NEWS) -> None:
        """Tell everybody there that this node has the address now. Raises OSError."""
        if not self.has_neighbours:
            return
        for number in range(times):
            if number:
                await trio.sleep(NEWS_PAUSE_S)
            for target, packet in self._news():
                await self._send(target, packet)

    def _news(self) -> list[tuple[bytes, bytes]]:
        if isinstance(self._address, ipaddress.IPv4Address):
            both = packets.arp_announcements(self._mac, self._address)
            return [(packets.BROADCAST, packet) for packet in both]
        return [packets.advertisement(self._mac, self._address)]

    async def _find_by_arp(self, address: ipaddress.IPv4Address, within_s: float) -> bytes | None:
        question = packets.arp_probe(self._mac, address)
        for _ in range(QUESTIONS):
            await self._send(packets.BROADCAST, question)
            with trio.move_on_after(within_s / QUESTIONS):
                while True:
                    packet = await self._sender.recv(_RECEIVE_BYTES)
                    mac = packets.arp_claimant(packet, address)
                    if mac not in (None, self._mac):
                        return mac
        return None

    async def _find_by_icmp(self, address: ipaddress.IPv6Address, within_s: float) -> bytes | None:
        target, question = packets.solicitation(address)
        with _icmp_receiver(self._interface) as receiver:
            for _ in range(QUESTIONS):
                await self._send(target, question)
                with trio.move_on_after(within_s / QUESTIONS):
                    while True:
                        mac = await self._receive_advertised(receiver, address)
                        if mac not in (None, self._mac):
                            return mac
        return None

    async def _receive_advertised(
        self, receiver: trio.socket.SocketType, address: ipaddress.IPv6Address
    ) -> bytes | None:
        message, ancillary, _, _ = await receiver.recvmsg(_RECEIVE_BYTES, 256)
        hops = [
            struct.unpack("=i", value)[0]
            for level, kind, value in ancillary
            if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT)
        ]
        return packets.advertised(message, address) if hops == [packets.HOPS] else None

    async def _send(self, target: bytes, packet: bytes) -> None:
        is_arp = isinstance(self._address, ipaddress.IPv4Address)
        protocol = packets.ETH_ARP if is_arp else packets.ETH_IPV6
        await self._sender.sendto(packet, (self._interface, protocol, 0, 0, target))


@asynccontextmanager
async def open_link(interface: str, address: IpAddress) -> AsyncGenerator[Link]:
    """Open the link of `interface`, for packets about `address`. Raises OSError."""
    is_arp = isinstance(address, ipaddress.IPv4Address)
    # Nothing is received of IPv6 there: that would be all the traffic of the interface. And
    # nothing of ARP before it is bound, for that would be of all interfaces.
    with trio.socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sender:
        await sender.bind((interface, packets.ETH_ARP if is_arp else 0))
        yield Link(sender, interface, address)


def _icmp_receiver(interface: str) -> trio.socket.SocketType:
    """A socket that hears the neighbours' advertisements on an interface, and nothing else."""
    receiver = trio.socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    try:
        wanted = packets.ADVERTISEMENT
        words = [0xFFFF_FFFF] * 8  # a bit that is set bars a type
        words[wanted >> 5] &= ~(1 << (wanted & 31))
        receiver.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
        receiver.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except BaseException:
        receiver.close()
        raise
    return receiver
