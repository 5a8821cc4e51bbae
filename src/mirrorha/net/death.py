"""Is the peer's death proven by its own host? Then nobody needs to wait for silence."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final

import trio

from mirrorha.net.paths import HeartbeatPath, family_of, socket_address

if TYPE_CHECKING:
    from collections.abc import Sequence

# From <linux/in.h> and <linux/in6.h>; the socket module does not name them.
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25


async def probe_death(paths: Sequence[HeartbeatPath], *, timeout_ms: int = 500) -> bool:
    """Whether every path shows that nothing listens on the peer's port, while its host answers.

    Tries a TCP connection on all paths at once. True only if each was refused by the peer's own
    host; a connection, no answer in time, no route, or an ICMP message in place of the refusal
    (a firewall's way) is no proof. A firewall that answers as the host would cannot be told from
    it. Takes `timeout_ms` at most; cancel-safe.
    """
    refusals = 0

    async def probe(path: HeartbeatPath) -> None:
        nonlocal refusals
        if await _is_refused(path):
            refusals += 1
        else:
            nursery.cancel_scope.cancel()

    with trio.move_on_after(timeout_ms / 1000):
        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(probe, path)
    return len(paths) > 0 and refusals == len(paths)


async def _is_refused(path: HeartbeatPath) -> bool:
    family = family_of(path.local)
    try:
        with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
            _queue_icmp_errors(sock, family)
            await sock.bind(socket_address(path.local, 0))
            try:
                await sock.connect(socket_address(path.peer, path.peer_port))
            except ConnectionRefusedError:
                return not _may_be_icmp(sock)
    except OSError:
        return False  # nothing could be learnt, which is not a proof
    return False


def _queue_icmp_errors(sock: trio.socket.SocketType, family: socket.AddressFamily) -> None:
    """Have the kernel keep the ICMP message that a connection failed by, if there was one.

    Linux before 5.8 keeps it only for who asked; since then it always does.
    """
    if sys.platform != "linux":
        return
    if family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def _may_be_icmp(sock: trio.socket.SocketType) -> bool:
    """Whether a refusal came as an ICMP message: then a firewall may have said it, not the host.

    Where that cannot be told, it may.
    """
    if sys.platform != "linux":
        return True
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        raw.setblocking(False)
        try:
            raw.recvmsg(1, 512, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return False
        return True
