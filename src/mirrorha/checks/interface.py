"""A check that watches a network interface."""

from __future__ import annotations

from typing import ClassVar, final

import attrs

from mirrorha.abc import Check
from mirrorha.errors import CheckFailedError
from mirrorha.net.link_state import read_link, wait_link_lost


@final
@attrs.frozen
class Interface(Check):
    """A network interface is up and has a link. That it has none is noticed at once.

    Args:
        interface: Its name, such as "eth0".
    """

    kind: ClassVar[str] = "interface"
    fall: ClassVar[int] = 1

    interface: str

    def __str__(self) -> str:
        return f"interface {self.interface}"

    async def check(self) -> None:
        """Look at the interface.

        Raises:
            CheckFailedError: it is down, without a link, or not there.
        """
        try:
            link = await read_link(self.interface)
        except OSError as error:
            raise CheckFailedError(f"{self.interface}: {error.strerror}") from error
        if not link.is_up:
            raise CheckFailedError(f"{self.interface} is switched off")
        if not link.is_running:
            raise CheckFailedError(f"{self.interface} has no link: is the cable in?")

    async def wait_unwell(self) -> None:
        """Return once the interface is down, without a link, or gone."""
        await wait_link_lost(self.interface)
