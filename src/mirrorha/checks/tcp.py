"""A check that connects."""

from __future__ import annotations

import math
from typing import ClassVar, final

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.errors import CheckFailedError, LocalUsageError, describe
from mirrorha.net import dial


@final
@attrs.frozen
class Tcp(Check):
    """The service accepts connections on a port. Nothing is sent.

    Args:
        port: The port.
        host: Where; by default this machine.
        timeout_s: Seconds until a connection that is not made has failed, if that is to be sooner
            than what the `Checker` says.

    Raises:
        LocalUsageError: the port is none.
    """

    kind: ClassVar[str] = "tcp"

    port: int
    host: str = attrs.field(default="127.0.0.1", kw_only=True)
    timeout_s: float = attrs.field(default=math.inf, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.port < 2**16:
            raise LocalUsageError(f"a TCP port is 1 to 65535, not {self.port}")

    def __str__(self) -> str:
        return f"tcp {self.host}:{self.port}"

    async def check(self) -> None:
        """Connect and close.

        Raises:
            CheckFailedError: refused, unreachable, or no answer in time.
        """
        where = f"{self.host}:{self.port}"
        with trio.move_on_after(self.timeout_s):
            try:
                stream = await dial.open_tcp_stream(self.host, self.port)
            except OSError as exc:
                reason = describe(exc.__cause__ or exc)
                raise CheckFailedError(f"cannot connect to {where}: {reason}") from exc
            await trio.aclose_forcefully(stream)
            return
        raise CheckFailedError(f"{where} accepts no connection within {self.timeout_s:g} s")
