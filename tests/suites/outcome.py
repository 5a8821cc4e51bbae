"""What a suite that others wrote found in a directory, and whether another one does as well."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import attrs

TEXT_MAX: Final = 1500  # of what a suite said about a failure: the end tells most


@attrs.frozen
class Found:
    """What a suite found in one directory.

    Attributes:
        passed: names of what was tried and went well.
        failed: of what did not, with what the suite said.
        broken: why it says nothing at all, if it does not.
    """

    passed: frozenset[str]
    failed: dict[str, str]
    broken: str = ""


@attrs.frozen
class Suite:
    """One suite, in a long or a short form.

    Attributes:
        run: in this directory, with that one for its notes; the third one says whether in short.
        programs: that it needs.
        unsupported: what need not be tried on a mount, with the reason.
    """

    name: str
    run: Callable[[Path, Path, bool], Found]
    programs: tuple[str, ...]
    unsupported: Mapping[str, str] = attrs.field(factory=dict)


def judge(plain: Found, subject: Found, unsupported: Collection[str] = ()) -> list[str]:
    """What is wrong with `subject`: all that goes well in a plain directory, and not there."""
    faults = []
    if plain.broken:
        faults.append(f"the suite itself is broken: {plain.broken}")
    if subject.broken:
        faults.append(subject.broken)
    for name, text in sorted(subject.failed.items()):
        if name not in plain.failed:
            faults.append(f"{name} failed: {text[-TEXT_MAX:]}")
    # What is not tried is not known to be well.
    for name in sorted(plain.passed - subject.passed - subject.failed.keys() - {*unsupported}):
        faults.append(f"{name} was not tried")
    return faults
