"""Connect over TCP by name or address."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from functools import partial
from typing import Final

import trio

#: How long one of several addresses of a host is tried before the next.
CONNECT_S: Final = 2


async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
    """Connect to the first address of `host` that answers. The last one has no limit of time.

    Raises:
        OSError: the name is unknown, or no address can be connected to.
    """
    addresses = await resolve(host, port)
    for address in addresses[:-1]:
        with trio.move_on_after(CONNECT_S), suppress(OSError):
            return await trio.open_tcp_stream(address, port)
    return await trio.open_tcp_stream(addresses[-1], port)


async def resolve(host: str, port: int) -> list[str]:
    """Look up a host's addresses, in a thread of its own; a numeric one is its own.

    trio would use the program's default thread limiter, which file operations on a volume that
    stands still can fill: and on this answer a decision about that volume may wait.

    Raises:
        OSError: the name is unknown.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await trio.to_thread.run_sync(
        look_up, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
    )
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
