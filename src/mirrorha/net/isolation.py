"""Isolation checks: does somebody else answer, or is it this node that is cut off?

Evidence about ourselves, never about the peer, and never authority.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from mirrorha.config import parse_isolation
from mirrorha.errors import LocalUsageError
from mirrorha.net import dial
from mirrorha.net.ping import PingForbiddenError, ping

_log: Final = logging.getLogger(__name__)


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
                await ping(host)
                return True
            stream = await dial.open_tcp_stream(host, port)
        except PingForbiddenError as error:
            _log.warning(
                "isolation check %s: %s, or check a tcp:// address instead; until then, this "
                "counts as no answer",
                address,
                error.strerror,
            )
            return False
        except OSError as error:
            _log.debug("isolation check %s: %s", address, error.strerror or error)
            return False
        await trio.aclose_forcefully(stream)
        return True
    _log.debug("isolation check %s: no answer within %g s (%s)", address, timeout_s, scheme)
    return False


def _parse(address: str) -> tuple[str, str, int | None]:
    try:
        return parse_isolation(address)
    except ValueError as error:
        raise LocalUsageError(f"{error}: expected 'icmp://HOST' or 'tcp://HOST:PORT'") from error
