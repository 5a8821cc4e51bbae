"""How records are numbered, so that no two ways of making one ever make the same number.

From the lowest bit: whether a compare-and-swap made the record, or an operator's word without one;
then, where no arbiter tells two apart, which node; above that a number that rises. Comparing two
epochs compares those numbers first. Records of before have epochs of any kind: nothing is ever
concluded from an epoch but which one is higher.
"""

from __future__ import annotations

from typing import Final

#: From one record of an arbiter to the next.
STEP: Final = 2
_CAS: Final = 1
_NODE_BIT: Final = 1
_NUMBER_BIT: Final = 2


def above(top: int) -> int:
    """The epoch of a CAS at an arbiter, above `top`: the next odd one."""
    return (top + 1) | _CAS


def above_of_pair(top: int, *, is_second: bool) -> int:
    """The same of a change that two nodes agree on, or one makes apart from the other."""
    return _number_above(top) | is_second << _NODE_BIT | _CAS


def forced_above(top: int, *, is_second: bool) -> int:
    """An epoch above `top` that no CAS makes, and the other node's operator neither."""
    return _number_above(top) | is_second << _NODE_BIT


def number_of(epoch: int) -> int:
    """How often authority had changed hands: to compare what two nodes did apart."""
    return epoch >> _NUMBER_BIT


def _number_above(top: int) -> int:
    return ((top >> _NUMBER_BIT) + 1) << _NUMBER_BIT
