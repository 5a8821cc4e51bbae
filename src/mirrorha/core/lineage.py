"""Lineage: who may be filled from whom, and how much must be compared.

A generation is one line of authority. A node draws a new one whenever it begins to acknowledge
alone; a joiner takes over the source's chain. So if the target's newest generation stands in the
source's chain, everything the target ever acknowledged is in the source; if it does not, the two
have acknowledged apart: a split.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

#: How the name of a generation begins that an operator forced; and of one whose data was half of
#: one copy and half of another. It goes wherever the data goes: a joiner takes over the chain.
FORCED: Final = "forced"
FORCED_INCONSISTENT: Final = "forced-inconsistent"
#: Of one that was not known to be the latest: the touched logs may lack what it lacks.
FORCED_STALE: Final = "forced-stale"


class Rule(enum.Enum):
    """Which rule gave the verdict. Logs print it, tests assert it.

    LOG_DAMAGED is no verdict of lineage: a volume may find out that its logs do not hold what the
    lineage says they do.
    """

    NEWCOMER = "newcomer-accepted"
    SINCE_BASE = "since-base"
    OLDER_THAN_BASE = "older-than-base"
    LOG_DAMAGED = "touched-log-damaged"
    SOURCE_IS_BEHIND = "source-is-behind"
    SPLIT = "split"
    NOT_OURS = "not-ours"
    RESCUED = "split-rescued"


class Work(enum.Enum):
    """What a resync has to compare."""

    TOUCHED = "touched"
    EVERYTHING = "everything"
    REFUSED = "refused"


@attrs.frozen
class Verdict:
    work: Work
    rule: Rule


def judge(
    *,
    source: tuple[str, ...],
    base: str | None,
    target: tuple[str, ...],
    target_accepted: bool,
) -> Verdict:
    """Whether a target with chain `target` may be filled from a source with chain `source`.

    Args:
        source: the source's generations, oldest first; never empty.
        base: the generation that the source last shared with its peer, None if still shared.
        target: the target's generations; empty for a node that never belonged.
        target_accepted: the target's directories are empty, or an operator gave them up.
    """
    if not target:
        if target_accepted:
            return Verdict(Work.EVERYTHING, Rule.NEWCOMER)
        return Verdict(Work.REFUSED, Rule.NOT_OURS)
    newest = target[-1]
    if newest not in source:
        if target_accepted:
            return Verdict(Work.EVERYTHING, Rule.NEWCOMER)
        behind = source[-1] in target
        return Verdict(Work.REFUSED, Rule.SOURCE_IS_BEHIND if behind else Rule.SPLIT)
    if base is not None and base in source and source.index(newest) < source.index(base):
        return Verdict(Work.EVERYTHING, Rule.OLDER_THAN_BASE)
    return Verdict(Work.TOUCHED, Rule.SINCE_BASE)


def rotated(
    lineage: tuple[str, ...], base: str | None, *, generation: str
) -> tuple[tuple[str, ...], str | None]:
    """Chain and base once this node goes on alone under `generation`.

    The base is set by the first rotation after the two were in sync and stays until they are again.
    """
    if base is None and lineage:
        base = lineage[-1]
    if generation.startswith((FORCED_INCONSISTENT, FORCED_STALE)):
        base = generation  # no touched log tells where this copy differs from any other
    return (*lineage, generation), base


def forced_in(lineage: tuple[str, ...]) -> tuple[str, ...]:
    """The generations of a chain that an operator forced, oldest first."""
    return tuple(each for each in lineage if each.startswith(f"{FORCED}-"))


def is_inconsistent(lineage: tuple[str, ...]) -> bool:
    """Whether the data descends from a copy that was forced while it was inconsistent."""
    return any(each.startswith(FORCED_INCONSISTENT) for each in lineage)
