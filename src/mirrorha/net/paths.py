"""The pairs of addresses that two nodes can reach each other over."""

from __future__ import annotations

import ipaddress
import socket

import attrs

from mirrorha.errors import LocalUsageError
from mirrorha.wire.beat import PATHS_MAX


@attrs.frozen(kw_only=True)
class Endpoint:
    """Where one node can be reached: numeric addresses in the order of the configuration."""

    addresses: tuple[str, ...]
    port: int


@attrs.frozen(kw_only=True)
class HeartbeatPath:
    """One pair of addresses. `index` is the same on both nodes and part of every beat."""

    index: int
    local: str
    local_port: int
    peer: str
    peer_port: int

    @property
    def name(self) -> str:
        """How people see it: "10.0.1.10 → 10.0.2.10"."""
        return f"{self.local} → {self.peer}"


def heartbeat_paths(
    mine: Endpoint, peer: Endpoint, *, listed_first: bool
) -> tuple[HeartbeatPath, ...]:
    """Every pair of addresses of one family.

    Args:
        listed_first: whether the configuration lists this node before its peer. It makes the
            indices the same on both.

    Raises:
        LocalUsageError: an address is not numeric, or no pair has one family, or too many pairs.
    """
    first, second = (mine, peer) if listed_first else (peer, mine)
    paths = []
    for i, one in enumerate(first.addresses):
        for j, other in enumerate(second.addresses):
            if family_of(one) is not family_of(other):
                continue
            local, remote = (one, other) if listed_first else (other, one)
            paths.append(
                HeartbeatPath(
                    index=i * len(second.addresses) + j,
                    local=local,
                    local_port=mine.port,
                    peer=remote,
                    peer_port=peer.port,
                )
            )
    if not paths:
        raise LocalUsageError(
            f"no address of {mine.addresses} has the family of one of {peer.addresses}; "
            "give both nodes an IPv4 address, or both an IPv6 address"
        )
    if paths[-1].index >= PATHS_MAX:
        raise LocalUsageError(f"there are more than {PATHS_MAX} pairs of addresses; list fewer")
    return tuple(paths)


def family_of(address: str) -> socket.AddressFamily:
    """The family of a numeric address, whether or not any machine has it.

    Raises:
        LocalUsageError: it is a name, or nonsense. Names are not asked for: that can block.
    """
    try:
        version = ipaddress.ip_address(address).version
    except ValueError as error:
        raise LocalUsageError(
            f"'{address}' is not an IPv4 or IPv6 address; heartbeats need addresses, not names"
        ) from error
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def socket_address(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What a socket wants for a numeric address and a port. Never asks a name server.

    Raises:
        OSError: the interface that a link-local address names is not there (now).
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=flags)
    sockaddr: tuple[str, int] | tuple[str, int, int, int] = found[0][4]  # type: ignore[assignment]
    return sockaddr
