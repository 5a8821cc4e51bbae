"""Two copies of the register that differ: whose stands, and is it a split?

A split: both nodes acknowledged writes without the other. The lineages show it, for each has a
generation that the other lacks. Nothing is ever merged: by policy one side's data stands, or a
person says whose; the other side is filled, and what differs there is kept before (`rescue`).
"""

from __future__ import annotations

import enum

import attrs

from mirrorha.core import epochs
from mirrorha.core.messages import Record, RegisterCopy


class Rule(enum.Enum):
    """Why it is this copy that stands."""

    SAME = "same-copy"
    OTHER_CLUSTER = "copies-of-two-clusters"
    ONE_IS_NEW = "one-has-no-copy"
    HIGHER = "the-higher-epoch"
    ONE_GAVE_UP = "one-gave-up-its-standing"
    NOT_APART = "one-acknowledged-nothing-apart"
    SPLIT = "split"


class Stands(enum.Enum):
    """Whose copy stands, as seen from one of the two."""

    BOTH = "both"
    MINE = "mine"
    THEIRS = "theirs"
    NEITHER = "neither"


@attrs.frozen
class Verdict:
    stands: Stands
    rule: Rule


def compare(
    mine: RegisterCopy, theirs: RegisterCopy, *, me: str, other: str, first: str, policy: str
) -> Verdict:
    """Whose copy stands. The peer, asked the same with the nodes exchanged, says the same.

    Args:
        first: the first node of the configuration: it decides where nothing else does.
        policy: `split_policy`.
    """
    if mine.copy == theirs.copy:
        return Verdict(Stands.BOTH, Rule.SAME)
    if mine.copy is None or theirs.copy is None:
        return _pick(mine.copy is not None, Rule.ONE_IS_NEW)
    if mine.copy.cluster_id != theirs.copy.cluster_id:
        return Verdict(Stands.NEITHER, Rule.OTHER_CLUSTER)
    are_apart = _is_alone(mine.copy, me) and _is_alone(theirs.copy, other)
    # Two of the same epoch are of two lives of one node: its disk is an old image. No number says
    # which of them came later.
    if not are_apart and mine.copy.epoch != theirs.copy.epoch:
        return _pick(mine.copy.epoch > theirs.copy.epoch, Rule.HIGHER)
    if mine.outdated != theirs.outdated:
        return _pick(theirs.outdated, Rule.ONE_GAVE_UP)
    preferred = _preferred(mine, theirs, me=me, other=other, first=first, policy=policy) == me
    if is_split(mine.lineage, theirs.lineage):
        if policy == "refuse":
            return Verdict(Stands.NEITHER, Rule.SPLIT)
        return _pick(preferred, Rule.SPLIT)
    i_am_behind = _newest_in(mine.lineage, theirs.lineage)
    if i_am_behind == _newest_in(theirs.lineage, mine.lineage):
        return _pick(preferred, Rule.NOT_APART)
    return _pick(not i_am_behind, Rule.NOT_APART)


def is_split(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Each of the two lineages ends in a generation that the other lacks."""
    if not mine or not theirs:
        return False
    return not _newest_in(mine, theirs) and not _newest_in(theirs, mine)


def name_of(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """The name of a split: the same on both sides, and for as long as it lasts."""
    first_mine = next((each for each in mine if each not in theirs), "")
    first_theirs = next((each for each in theirs if each not in mine), "")
    return "/".join(sorted((first_mine, first_theirs)))


def _pick(mine: bool, rule: Rule) -> Verdict:
    return Verdict(Stands.MINE if mine else Stands.THEIRS, rule)


def _is_alone(record: Record, node: str) -> bool:
    return [name for name, _ in record.nonces] == [node]


def _newest_in(chain: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return not chain or chain[-1] in other


def _preferred(
    mine: RegisterCopy, theirs: RegisterCopy, *, me: str, other: str, first: str, policy: str
) -> str:
    """By policy. `newest`: whose authority changed last; if that is equal, the former PRIM."""
    if policy == "newest" and mine.copy is not None and theirs.copy is not None:
        my_number = epochs.number_of(mine.copy.epoch)
        their_number = epochs.number_of(theirs.copy.epoch)
        if my_number != their_number:
            return me if my_number > their_number else other
    parted = [each for each in (mine.parted, theirs.parted) if each is not None]
    if not parted:
        return first
    return max(parted, key=lambda record: (record.epoch, record.primary)).primary
