"""What a breakage is: one rule of the design, and what stands in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

Fn = Callable[..., Any]


@attrs.frozen
class Breakage:
    """One rule that can be taken out.

    Attributes:
        rule: which rule of the design, in words.
        owner, name: the module or class, and the function in it that is replaced.
        make: given the function as it is, makes the one without the rule.
        also: another breakage of the same rule, where two functions hold it.
        mode, production, wide: of the seeds that look for it; see `run.run_seed`.
        directed: the scenario in `tests/sim` that is red without it, where seeds seldom are.
    """

    rule: str
    owner: Any
    name: str
    make: Callable[[Fn], Fn]
    also: str = ""
    mode: str = "arbiter"
    production: bool = False
    wide: bool = False
    directed: str = ""


def answer(value: object) -> Callable[[Fn], Fn]:
    """Always this, whatever is asked."""
    return lambda _real: lambda *_args, **_kwargs: value
