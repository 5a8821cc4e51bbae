"""Who may be filled from whom: every verdict, and its mirror."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core.lineage import Rule, Verdict, Work, judge, rotated

CHAINS = st.lists(st.sampled_from("abcdef"), max_size=5, unique=True).map(tuple)


def verdict(source: str, target: str, *, base: str | None = None, accepted: bool = False) -> Rule:
    return judge(
        source=tuple(source),
        base=base,
        target=tuple(target),
        target_accepted=accepted,
    ).rule


def test_each_rule() -> None:
    assert verdict("abc", "ab", base="a") is Rule.SINCE_BASE
    assert verdict("abc", "abc") is Rule.SINCE_BASE
    assert verdict("abc", "a", base="b") is Rule.OLDER_THAN_BASE
    assert verdict("ab", "abc") is Rule.SOURCE_IS_BEHIND
    assert verdict("abx", "aby") is Rule.SPLIT
    assert verdict("ab", "") is Rule.NOT_OURS
    assert verdict("ab", "", accepted=True) is Rule.NEWCOMER
    assert verdict("abx", "aby", accepted=True) is Rule.NEWCOMER


def test_what_was_acknowledged_since_the_two_were_one_is_all_that_is_compared() -> None:
    for target in ("a", "ab", "abc"):
        judged = judge(
            source=("a", "b", "c"), base="a", target=tuple(target), target_accepted=False
        )
        assert judged == Verdict(Work.TOUCHED, Rule.SINCE_BASE)
    judged = judge(source=("a", "b"), base="b", target=("a",), target_accepted=False)
    assert judged == Verdict(Work.EVERYTHING, Rule.OLDER_THAN_BASE)


@given(CHAINS.filter(bool), CHAINS.filter(bool))
def test_exchanging_the_nodes_exchanges_the_verdict(
    one: tuple[str, ...], two: tuple[str, ...]
) -> None:
    """Of two different lines at most one may be filled from the other, unless they contain each
    other's newest; a split is one from both sides."""
    here = judge(source=one, base=None, target=two, target_accepted=False)
    there = judge(source=two, base=None, target=one, target_accepted=False)
    assert (here.rule is Rule.SPLIT) == (there.rule is Rule.SPLIT)
    if here.rule is Rule.SOURCE_IS_BEHIND:
        assert there.work is not Work.REFUSED
    if here.work is Work.REFUSED and there.work is Work.REFUSED:
        assert here.rule is there.rule is Rule.SPLIT


@given(CHAINS.filter(bool))
def test_nothing_unaccepted_is_ever_overwritten(target: tuple[str, ...]) -> None:
    """A generation that the source does not know was acknowledged without it."""
    judged = judge(source=("x", "y"), base="x", target=target, target_accepted=False)
    assert judged.work is Work.REFUSED


@given(CHAINS, st.sampled_from([None, "a"]))
def test_rotation_appends_and_keeps_the_first_base(
    chain: tuple[str, ...], base: str | None
) -> None:
    after, kept = rotated(chain, base, generation="new")
    assert after == (*chain, "new")
    assert kept == (base or (chain[-1] if chain else None))
    assert rotated(after, kept, generation="newer")[1] == (kept or "new")
