"""How records are numbered: above what was seen, and never twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core import epochs

TOP = st.integers(0, 1 << 22)


@given(TOP, st.booleans())
def test_every_way_leads_above_what_was_seen(top: int, is_second: bool) -> None:
    made = (
        epochs.above(top),
        epochs.above_of_pair(top, is_second=is_second),
        epochs.forced_above(top, is_second=is_second),
    )
    assert min(made) > top
    assert max(made) <= top + 7


@given(TOP, TOP, st.booleans())
def test_a_forced_epoch_is_no_cas(one: int, other: int, is_second: bool) -> None:
    forced = epochs.forced_above(one, is_second=is_second)
    assert forced != epochs.above(other)
    assert forced != epochs.above_of_pair(other, is_second=is_second)
    assert forced != epochs.above_of_pair(other, is_second=not is_second)


@given(TOP, TOP)
def test_what_two_nodes_make_apart_is_not_the_same(one: int, other: int) -> None:
    for make in (epochs.above_of_pair, epochs.forced_above):
        assert make(one, is_second=False) != make(other, is_second=True)


@given(TOP, TOP)
def test_of_a_pair_the_number_is_compared_first(one: int, other: int) -> None:
    mine = epochs.above_of_pair(one, is_second=True)
    theirs = epochs.above_of_pair(other, is_second=False)
    if epochs.number_of(mine) != epochs.number_of(theirs):
        assert (mine > theirs) == (epochs.number_of(mine) > epochs.number_of(theirs))


def test_the_first_record_of_an_arbiter_is_number_one() -> None:
    assert epochs.above(0) == 1
    assert epochs.above(1) == 1 + epochs.STEP
