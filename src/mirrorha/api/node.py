"""What the API asks of a node. `mirrorha.Cluster` is one; tests have another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mirrorha.core.words import Role


class Happening(Protocol):
    """Something that happened on a node: `mirrorha.cluster.feed.NodeEvent`."""

    @property
    def kind(self) -> str: ...
    @property
    def at_s(self) -> float: ...
    @property
    def node(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def role(self) -> Role: ...
    @property
    def rule(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def from_role(self) -> Role | None: ...


class Missed(Protocol):
    """So many events were left out, for the reader was too slow: `mirrorha.cluster.feed.Gap`."""

    @property
    def missed(self) -> int: ...


class ManagedNode(Protocol):
    """A node that is run by this process.

    The commands return, for people, what was done. They raise `CommandRefusedError` with the
    reason otherwise; cancelled, they are carried out nevertheless.
    """

    def status(self) -> Mapping[str, Any]:
        """The status document. From memory: neither blocks nor touches a disk."""

    def events(self) -> AsyncIterator[Happening | Missed]:
        """What happens from now on. Cancelling a wait for the next one must lose nothing."""

    async def history(self, *, limit: int) -> Sequence[Happening]:
        """The latest `limit` events that this node keeps, oldest first.

        Raises `MirrorHAError` if they cannot be had now.
        """

    async def start(self) -> str: ...
    async def stop(self) -> str: ...
    async def restart(self) -> str: ...
    async def swap(self) -> str: ...
    async def pause(self) -> str: ...
    async def resume(self) -> str: ...
    async def init(self) -> str: ...
    async def accept(self) -> str: ...
    async def acknowledge(self) -> str: ...
    async def force_primary(self, *, without_arbiter: bool, inconsistent_data: bool) -> str: ...
    async def force_secondary(self) -> str: ...

    async def verify(
        self,
        volume: str | None = None,
        *,
        repair: bool = False,
        rate_bytes_per_s: int | None = None,
        source: str | None = None,
        found: bool = False,
    ) -> str: ...

    async def stop_verify(self, volume: str | None = None) -> str: ...
    async def set_resync_rate(self, rate_bytes_per_s: int) -> str: ...
