"""What users may implement. Everything else in mirrorha is final.

Each class here has a conformance suite in `mirrorha.testing` (`check_arbiter`, `check_switch`, …)
that our own adapters, our fakes and yours pass alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping


class Arbiter(ABC):
    """A linearizable place that keeps one small record, the register, as opaque bytes.

    An instance is bound to one cluster's record. Both methods make at most one attempt and
    take at most about two seconds; the cluster decides when to try again.
    """

    #: One word for the status document: "witness", "s3", "local", …
    kind: ClassVar[str]

    @abstractmethod
    async def read(self) -> bytes | None:
        """Return the record as it is now (a linearizable read), or None if there is none.

        Raises:
            ArbiterUnavailableError: no answer. Silence is neither "absent" nor "unchanged".
        """

    @abstractmethod
    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        """Replace the record by `new` if it equals `expected` (None: if there is no record).

        Returns True once `new` is durably the record; False if the record surely differed and
        this request can no longer take effect.

        Raises:
            ArbiterUnavailableError: the request surely never took effect and never will.
            ArbiterOutcomeUnknownError: it was sent and the reply is missing; it may land later.
                A cancelled call counts as this.
        """

    async def aclose(self) -> None:  # noqa: B027 - most arbiters hold nothing
        """Release connections. Idempotent."""


class Switch(ABC):
    """Moves clients to this node: a virtual IP, a route. Both methods must be idempotent.

    The cluster runs a reconcile loop ("who should hold it, who does"): a failure is shown and
    tried again, and never changes a role. No two calls of one switch overlap; one that takes too
    long, or is not wanted any more, is cancelled, and the next call finds whatever it left.
    """

    kind: ClassVar[str]

    @abstractmethod
    async def engage(self) -> None:
        """Make clients reach this node. Returns when they do, as far as can be known."""

    @abstractmethod
    async def disengage(self) -> None:
        """Stop clients from reaching this node."""

    @abstractmethod
    async def is_engaged(self) -> bool:
        """Whether clients reach this node now. Raises if that cannot be known."""

    async def renew(self) -> None:  # noqa: B027 - most switches hold until they are told
        """Keep what lapses by itself; called every few seconds while it is engaged."""


class Fencer(ABC):
    """Confirms that the peer is stopped. Silence and errors are no answer."""

    kind: ClassVar[str]

    @abstractmethod
    async def fence(self, peer: str, *, environment: Mapping[str, str]) -> bool:
        """Stop `peer` and return True only once it is *known* to be stopped.

        Returning False, raising or taking too long all mean "not confirmed".
        """


class Check(ABC):
    """Is the service well? Instances are used by one node and never concurrently."""

    kind: ClassVar[str]

    #: How many failed attempts in a row make a failure, where the `Checker` does not say.
    fall: ClassVar[int] = 2

    @abstractmethod
    async def check(self) -> None:
        """Return if well; raise with a text for the operator if not.

        A check that does not return within its timeout counts as failed.
        """

    async def wait_unwell(self) -> None:
        """Return once there is a sign that what was well is so no longer: it is checked at once.

        For what need not be asked again and again, such as the end of a process. Begun after
        `check` has returned, and cancelled before it is called again; so it must look itself
        whether something happened in between. By default it never returns.
        """
        await trio.sleep_forever()
