"""What happens on a node, as it happens; also over the ends and the starts of its process."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from mirrorha.cli import client
from mirrorha.cli.exits import NOT_RUNNING, UNKNOWN, CommandError

if TYPE_CHECKING:
    from mirrorha.cli.place import Place

_PATH: Final = "/events?only=event"
#: How often a node that does not run is asked for.
LOOK_EVERY_S: Final = 0.5
#: So much of what happened meanwhile is asked for.
MISSED_MAX: Final = 1_000
#: An event's time is rounded once more where it is kept.
_SAME_MS: Final = 2


def until_the_end(place: Place) -> Iterator[dict[str, Any]]:
    """Each event until the node ends.

    Raises:
        CommandError: the node does not run, or fell silent.
    """
    for _, event in client.stream(place, _PATH):
        yield event


def follow(place: Place, *, every_s: float = LOOK_EVERY_S) -> Iterator[dict[str, Any]]:
    """Each event for ever; after the node's next start also what its history has of meanwhile.

    `every_s`: how often a node that does not run is asked for.

    Raises:
        CommandError: it may not be asked.
    """
    last: dict[str, Any] | None = None
    while True:
        try:
            for event in _of_one_life(place, last):
                yield event
                last = event if "at" in event else last
        except CommandError as error:
            if error.code not in (NOT_RUNNING, UNKNOWN):
                raise
        time.sleep(every_s)


def _of_one_life(place: Place, last: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    missed: list[dict[str, Any]] = []
    for name, event in client.stream(place, _PATH, says_opened=True):
        if name != client.OPENED:
            if not any(_is_same(event, each) for each in missed):
                yield event
        elif last is not None:
            missed = _later(place, last)
            yield from missed


def _later(place: Place, last: dict[str, Any]) -> list[dict[str, Any]]:
    """What the history has after `last`, oldest first; all of it if that is not in it."""
    found: list[dict[str, Any]] = client.get(place, f"/history?limit={MISSED_MAX}")["events"]
    known = [index for index, each in enumerate(found) if _is_same(each, last)]
    return found[known[-1] + 1 :] if known else found


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.get("kind") == "gap" or other.get("kind") == "gap":
        return False
    keys = one.keys() - {"at"}
    is_alike = all(one[key] == other.get(key) for key in keys)
    return is_alike and abs(_ms(one["at"]) - _ms(other["at"])) <= _SAME_MS


def _ms(at: str) -> int:
    return round(datetime.datetime.fromisoformat(at).timestamp() * 1000)
