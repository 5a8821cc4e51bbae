"""Which paths of a volume stay on this node: the patterns of `exclude`. Pure.

A pattern without "/" is about a name, at any depth; one with "/" about a path from the volume's
root. "*" is any part of one name and "?" any one character of it; "**" between slashes is any
number of names, also none, and at the end everything in a directory, but not the directory. What is
below an excluded directory is excluded too. Capital and small letters differ, and a "." at the
beginning of a name is a character like any other.

What may become of the names in a directory depends on what is left of each pattern once the path to
it was followed: its *outlook*. Two directories with the same outlook have the same rules for
everything below, so one that is moved keeps it, or what it holds would change sides in silence.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Places in patterns: which one, and how many of its parts were followed.
Outlook: TypeAlias = frozenset[tuple[int, int]]

#: As a part of a pattern.
_ANY_DEPTH: Final = "**"
#: Of what is excluded, and of everything below.
EXCLUDED: Final[Outlook] = frozenset({(-1, -1)})


@final
class Exclusion:
    """The patterns of one volume. False if there are none.

    Args:
        patterns: lawful ones, see `mirrorha.config.patterns`.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: Final = tuple(
            tuple(None if part == _ANY_DEPTH else _compiled(part) for part in _parts_of(pattern))
            for pattern in patterns
        )
        #: That of the volume's root.
        self.root: Final[Outlook] = self._closed((index, 0) for index in range(len(self._patterns)))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def below(self, outlook: Outlook, name: str) -> Outlook:
        """The outlook of what has this name in a directory with that one."""
        if outlook is EXCLUDED or not outlook:
            return outlook  # no pattern is about anything below
        places = []
        for index, place in outlook:
            parts = self._patterns[index]
            part = parts[place]
            if part is None:
                places.append((index, place))
            elif part.fullmatch(name):
                if place + 1 == len(parts):
                    return EXCLUDED
                places.append((index, place + 1))
        return self._closed(places)

    def of(self, names: Iterable[str]) -> Outlook:
        """The outlook of a path, by the names that lead to it from the root."""
        outlook = self.root
        for name in names:
            outlook = self.below(outlook, name)
        return outlook

    def excludes(self, path: str) -> bool:
        """Whether a path, relative to the volume's root, stays on this node."""
        return self.of(part for part in path.split("/") if part) is EXCLUDED

    def _closed(self, places: Iterable[tuple[int, int]]) -> Outlook:
        """With the places behind each "**", which may stand for no name at all."""
        closed = set()
        for index, place in places:
            closed.add((index, place))
            while self._patterns[index][place] is None:
                place += 1  # noqa: PLW2901 - on to what follows; a pattern never ends with it
                closed.add((index, place))
        return frozenset(closed)


def _parts_of(pattern: str) -> tuple[str, ...]:
    """The parts of a pattern, from the volume's root: one for each name, or _ANY_DEPTH."""
    parts = tuple(pattern.split("/"))
    if len(parts) == 1:
        return (_ANY_DEPTH, *parts)
    # What ends so is about what is in a directory, not about the directory.
    return (*parts, "*") if parts[-1] == _ANY_DEPTH else parts


def _compiled(part: str) -> re.Pattern[str]:
    first, *others = (_literally(piece) for piece in part.split("*"))
    text = first
    if others:
        *inner, last = others
        # Each at the first place where it fits, for good: what comes after it and fits behind a
        # later one fits behind that too. To try them all takes seconds for a long name.
        text += "".join(f"(?>.*?{piece})" for piece in inner if piece) + f".*{last}"
    # Names may have line ends in them.
    return re.compile(text, re.DOTALL)


def _literally(piece: str) -> str:
    return "".join("." if each == "?" else re.escape(each) for each in piece)
