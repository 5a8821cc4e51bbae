"""A change of role, as the service, its commands and the history see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from mirrorha.core.words import Role


@attrs.frozen(kw_only=True)
class RoleChange:
    """Why the service is started or stopped.

    Attributes:
        cluster: the cluster's name.
        node: this node's name.
        epoch: the register's number under which this node acts.
        from_role: what this node was.
        to_role: what it is becoming.
        why: one sentence for people, and the rule that fired.
    """

    cluster: str
    node: str
    epoch: int
    from_role: Role
    to_role: Role
    why: str
