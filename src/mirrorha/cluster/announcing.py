"""Tells the program, and whoever is to be notified, of what happens on a node."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from mirrorha.cluster.feed import EventStream, NodeEvent
from mirrorha.containment import Raised, call, contain
from mirrorha.core.change import RoleChange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log: Final = logging.getLogger("mirrorha")


async def tell_roles(
    cluster: str, events: EventStream, functions: Sequence[Callable[[RoleChange], object]]
) -> None:
    """Tell the program of changes of role, one after the other, until `events` ends."""
    limiter = trio.CapacityLimiter(1)
    async for event in events:
        if not isinstance(event, NodeEvent) or event.from_role is None:
            continue
        change = RoleChange(
            cluster=cluster,
            node=event.node,
            epoch=event.epoch,
            from_role=event.from_role,
            to_role=event.role,
            why=event.text,
        )
        for function in functions:
            outcome = await contain(partial(call, function, change, limiter=limiter))
            if isinstance(outcome, Raised):
                _log.warning("on_role: %s", outcome.text)
