"""Every interleaving in a small scope: clean with the rules, and red without one of them."""

from __future__ import annotations

import attrs

from mirrorha.core import authority
from mirrorha.core.state import State
from mirrorha.testing.explore.run import explore, first_scene
from mirrorha.testing.explore.scene import Budget

SMALL = Budget(
    writes=1, epochs=2, crashes=1, breaks=0, suspicions=1, unanswered=0, ticks=1, swaps=0
)


def test_a_healthy_pair_is_where_it_begins() -> None:
    scene = first_scene(SMALL)
    assert scene.register is not None
    assert scene.register.in_sync == {"lyon", "paris"}


def test_nothing_is_lost_in_a_small_scope() -> None:
    found = explore(SMALL, states_max=2_500)
    assert not found.problem, "\n".join(found.trace)
    assert found.states >= 2_000


def test_it_finds_a_node_that_lost_its_cache_and_serves(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    # The rule of unclean nodes (5.1.7) taken out: the shortest way to a lost write is found.
    real = authority.bar

    def forgiving(s: State, record: object, *, chosen: bool = False) -> authority.Bar:
        return real(s, record, chosen=True)  # type: ignore[arg-type]

    monkeypatch.setattr(authority, "bar", forgiving)
    found = explore(attrs.evolve(SMALL, suspicions=0), states_max=60_000)
    assert found.problem.startswith("I1")
    assert len(found.trace) <= 12
