"""Two copies of the register that differ: every verdict, and its mirror."""

from __future__ import annotations

import itertools

import pytest

from mirrorha.core.messages import Record, RegisterCopy
from mirrorha.core.split import Rule, Stands, Verdict, compare, is_split, name_of

BOTH = Record("c", 4, "paris", (("lyon", "1"), ("paris", "2")))
SWAPPED = Record("c", 6, "lyon", (("lyon", "3"), ("paris", "4")))
LYON = Record("c", 8, "lyon", (("lyon", "5"),))
LYON_LATER = Record("c", 10, "lyon", (("lyon", "6"),))
PARIS = Record("c", 7, "paris", (("paris", "7"),))
# As the same epochs were made by another life of the node, whose disk is an old image.
BOTH_AGAIN = Record("c", 4, "lyon", (("lyon", "9"), ("paris", "10")))
LYON_AGAIN = Record("c", 8, "lyon", (("lyon", "11"),))
FOREIGN = Record("d", 8, "paris", (("paris", "8"),))


def half(
    copy: Record | None,
    *lineage: str,
    outdated: bool = False,
    parted: Record | None = None,
) -> RegisterCopy:
    return RegisterCopy(
        copy=copy,
        proposed=None,
        promised=None,
        parted=parted,
        outdated=outdated,
        lineage=lineage,
    )


def judged(lyon: RegisterCopy, paris: RegisterCopy, policy: str = "former_prim") -> Verdict:
    """What lyon says; paris must say the same of the same copy."""
    mine = compare(lyon, paris, me="lyon", other="paris", first="lyon", policy=policy)
    theirs = compare(paris, lyon, me="paris", other="lyon", first="lyon", policy=policy)
    mirrored = {Stands.MINE: Stands.THEIRS, Stands.THEIRS: Stands.MINE}
    assert theirs == Verdict(mirrored.get(mine.stands, mine.stands), mine.rule)
    return mine


@pytest.mark.parametrize("policy", ["former_prim", "newest", "refuse"])
def test_both_sides_always_agree(policy: str) -> None:
    """The mirror of every verdict, over everything that two halves can be."""
    copies = [None, BOTH, BOTH_AGAIN, SWAPPED, LYON, LYON_AGAIN, LYON_LATER, PARIS, FOREIGN]
    chains = [(), ("g",), ("g", "l"), ("g", "p"), ("g", "l", "m")]
    parted = [None, BOTH, BOTH_AGAIN]
    halves = [
        half(copy, *chain, outdated=outdated, parted=last)
        for copy, chain, outdated, last in itertools.product(copies, chains, (False, True), parted)
    ]
    for lyon, paris in itertools.product(halves, repeat=2):
        judged(lyon, paris, policy)


def test_who_has_a_copy_tells_who_has_none() -> None:
    assert judged(half(BOTH, "g"), half(None)) == Verdict(Stands.MINE, Rule.ONE_IS_NEW)


def test_the_higher_epoch_stands_unless_both_went_alone() -> None:
    assert judged(half(BOTH, "g"), half(PARIS, "g", "p")) == Verdict(Stands.THEIRS, Rule.HIGHER)
    assert judged(half(SWAPPED, "g"), half(BOTH, "g")) == Verdict(Stands.MINE, Rule.HIGHER)


def test_of_one_epoch_made_twice_the_copy_of_who_did_not_give_up_stands() -> None:
    lyon, paris = half(LYON_AGAIN, "g", "l"), half(LYON, "g", outdated=True)
    assert judged(lyon, paris) == Verdict(Stands.MINE, Rule.ONE_GAVE_UP)
    paris = half(LYON, "g")
    assert judged(lyon, paris) == Verdict(Stands.MINE, Rule.NOT_APART)
    paris = half(LYON, "g", "p")
    assert judged(lyon, paris, "refuse") == Verdict(Stands.NEITHER, Rule.SPLIT)


def test_after_a_split_the_former_prim_stands_whatever_the_epochs() -> None:
    lyon = half(LYON_LATER, "g", "l", parted=BOTH)
    paris = half(PARIS, "g", "p", parted=BOTH)
    assert judged(lyon, paris) == Verdict(Stands.THEIRS, Rule.SPLIT)
    assert judged(lyon, paris, "newest") == Verdict(Stands.MINE, Rule.SPLIT)
    assert judged(lyon, paris, "refuse") == Verdict(Stands.NEITHER, Rule.SPLIT)


def test_who_acknowledged_nothing_apart_gives_way_without_a_split() -> None:
    lyon = half(LYON_LATER, "g", parted=SWAPPED)
    paris = half(PARIS, "g", "p", parted=SWAPPED)
    assert judged(lyon, paris, "refuse") == Verdict(Stands.THEIRS, Rule.NOT_APART)


def test_a_side_that_gave_up_stays_down() -> None:
    lyon = half(LYON_LATER, "g", "l", parted=BOTH, outdated=True)
    paris = half(PARIS, "g", "p", parted=BOTH)
    assert judged(lyon, paris, "refuse") == Verdict(Stands.THEIRS, Rule.ONE_GAVE_UP)


def test_two_clusters_have_nothing_to_say_to_each_other() -> None:
    assert judged(half(LYON, "g"), half(FOREIGN, "x")).rule is Rule.OTHER_CLUSTER


def test_a_split_has_one_name_for_as_long_as_it_lasts() -> None:
    assert is_split(("g", "l"), ("g", "p"))
    assert not is_split(("g", "l"), ("g",))
    assert not is_split((), ("g",))
    assert name_of(("g", "l"), ("g", "p")) == name_of(("g", "p", "q"), ("g", "l", "m"))
