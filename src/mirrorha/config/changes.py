"""What another configuration would change, and what it takes for that to come into force."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, final

import attrs

from mirrorha.config.agreement import Entry, entries
from mirrorha.config.model import ClusterConfig
from mirrorha.errors import LocalUsageError


class How(enum.Enum):
    """What it takes for a change to come into force."""

    LIVE = "live"  # a running node takes it over
    RESTART = "restart"  # of each node's process, one after the other: the service goes on
    TOGETHER = "together"  # both nodes have to be stopped before either starts with it
    NEVER = "never"  # by this command


#: Tables that a running node takes over, with the fields that they are.
LIVE: Final[Mapping[str, str]] = {
    "check": "checks",
    "notify": "notifications",
    "verify": "verify",
    "resync": "resync",
    "log": "log",
}
_NODE_KEYS_TOGETHER: Final = frozenset({"addresses", "port"})
#: What tells a cluster and its nodes apart: another one is another cluster, or another node.
_NEVER: Final = frozenset({("cluster", "name"), ("node", "name"), ("node", "state_dir")})


@final
@attrs.frozen
class Change:
    """One value that differs. Texts are None where there is no such value; without secrets."""

    place: str
    before: str | None
    after: str | None
    how: How

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "place": self.place,
            "before": self.before,
            "after": self.after,
            "how": self.how.value,
        }

    def __str__(self) -> str:
        return f"{self.place}: {self.before or 'nothing'} → {self.after or 'nothing'}"


def changes(before: ClusterConfig, after: ClusterConfig) -> tuple[Change, ...]:
    """What `after` changes, in the order of a file."""
    old = {each.place: each for each in entries(before)}
    new = {each.place: each for each in entries(after)}
    places = [*new, *(place for place in old if place not in new)]
    return tuple(
        _change(old.get(place), new.get(place))
        for place in places
        if _text(old.get(place)) != _text(new.get(place))
    )


def _change(old: Entry | None, new: Entry | None) -> Change:
    either = new or old
    if either is None:
        raise LocalUsageError("a change has two sides")
    return Change(either.place, _text(old), _text(new), _how(either))


def _text(entry: Entry | None) -> str | None:
    return None if entry is None else entry.text


def _how(entry: Entry) -> How:
    if entry.table in LIVE:
        return How.LIVE
    if (entry.table, entry.key) in _NEVER:
        return How.NEVER
    if entry.table == "node":
        return How.TOGETHER if entry.key in _NODE_KEYS_TOGETHER else How.RESTART
    return How.TOGETHER if entry.is_agreed else How.RESTART


def with_live(running: ClusterConfig, wanted: ClusterConfig) -> ClusterConfig:
    """`running` with what it can take over of `wanted`.

    Raises:
        ConfigError: the two do not go together, as a check of a volume that is not there yet.
    """
    live = {field: getattr(wanted, field) for field in LIVE.values()}
    by_node = {
        **{place: each for place, each in running.differing.items() if not _is_live(place)},
        **{place: each for place, each in wanted.differing.items() if _is_live(place)},
    }
    return attrs.evolve(running, differing=by_node, **live)


def _is_live(place: str) -> bool:
    return place.partition(".")[0].partition("[")[0] in LIVE
