"""What a node is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorha.abc import Arbiter
    from mirrorha.checks.runner import Checker
    from mirrorha.cluster.fencing import FencerRule
    from mirrorha.config import ClusterConfig
    from mirrorha.core.change import RoleChange
    from mirrorha.notify import NotifyRule
    from mirrorha.probe import HealthProbe
    from mirrorha.service import Phases
    from mirrorha.switches.keeper import SwitchRule


@attrs.frozen(kw_only=True)
class Plan:
    """What a node is made of, as its program said.

    Attributes:
        arbiter: None: the two nodes keep the register between them.
        arbiter_text: what the arbiter is, in one line that both nodes compare.
    """

    config: ClusterConfig
    arbiter: Arbiter | None
    arbiter_text: str
    phases: Phases
    checkers: Sequence[Checker]
    switches: Sequence[SwitchRule]
    fencers: Sequence[FencerRule]
    notified: Sequence[NotifyRule]
    probe: HealthProbe | None
    can_promote: Sequence[Callable[[], object]]
    on_role: Sequence[Callable[[RoleChange], object]]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What it says of itself that a person should know."""
        if self.fencers and self.arbiter is not None:
            return ("no fencer is asked beside an arbiter: the register decides who may write",)
        return ()
