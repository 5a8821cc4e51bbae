"""A check that pings."""

from __future__ import annotations

from typing import ClassVar, final

import attrs

from mirrorha.abc import Check
from mirrorha.errors import CheckFailedError, describe
from mirrorha.net.ping import PingForbiddenError, ping


@final
@attrs.frozen
class Ping(Check):
    """A host answers one ping in each attempt: clients beyond that host can reach this node.

    Needs the right to send pings: root, CAP_NET_RAW, or a group that the sysctl
    net.ipv4.ping_group_range names. Without it the check fails, and says so.

    Args:
        address: The host's IP address.
    """

    kind: ClassVar[str] = "ping"

    address: str

    def __str__(self) -> str:
        return f"ping {self.address}"

    async def check(self) -> None:
        """Ping once.

        Raises:
            CheckFailedError: the host cannot be reached, or this process may not ping.
        """
        try:
            await ping(self.address)
        except PingForbiddenError as error:
            raise CheckFailedError(error.strerror) from error
        except OSError as error:
            raise CheckFailedError(
                f"{self.address}: {error.strerror or describe(error)}"
            ) from error
