"""Every interleaving in a small scope: clean with the rules, and red without one of them."""

from __future__ import annotations

import attrs
import pytest

from mirrorha.core import epochs
from mirrorha.testing.explore.breakages import KNOWN, NONE, broken
from mirrorha.testing.explore.choices import apply, choices, describe
from mirrorha.testing.explore.run import explore, first_state, main
from mirrorha.testing.explore.scene import NAMES, Budget
from mirrorha.testing.explore.world import World
from mirrorha.testing.sim.breakages import BREAKAGES

A_CRASH = attrs.evolve(NONE, crashes=1)
QUICK = [loss for loss, known in KNOWN.items() if known.quick]


def test_a_healthy_pair_is_where_it_begins() -> None:
    world = World(NONE)
    state = first_state(world)
    told = world.told[state.register[0]]
    assert told.members == NAMES
    assert told.epoch + (NONE.epochs - 1) * epochs.STEP == world.epochs


@pytest.mark.parametrize(
    "scope",
    [
        A_CRASH,
        attrs.evolve(NONE, breaks=1, epochs=2),
        attrs.evolve(NONE, suspicions=1, epochs=2),
        attrs.evolve(NONE, delayed=1, suspicions=1, epochs=2, writes=0),
    ],
)
def test_nothing_is_lost_in_a_small_scope(scope: Budget) -> None:
    found = explore(scope, states_max=60_000)
    assert not found.problem, "\n".join(found.trace)
    assert found.complete
    assert found.states >= 1_000


@pytest.mark.parametrize("loss", QUICK)
def test_it_finds_what_a_missing_rule_costs(loss: str) -> None:
    found = explore(KNOWN[loss].budget, states_max=30_000, without=loss)
    assert found.problem
    assert found.trace


@pytest.mark.parametrize("loss", QUICK)
def test_it_is_clean_with_that_rule(loss: str) -> None:
    found = explore(KNOWN[loss].budget, states_max=2_000)
    assert not found.problem, "\n".join(found.trace)


def test_every_rule_of_the_core_that_has_a_known_loss_is_one_that_the_simulator_takes_out() -> None:
    assert {known.breakage for known in KNOWN.values()} - {""} <= set(BREAKAGES)


def test_the_way_to_a_loss_is_a_shortest_one_and_says_what_happens() -> None:
    found = explore(A_CRASH, states_max=5_000, without="promote_unclean")
    assert found.problem.startswith("I1")
    assert found.trace == (
        "a client writes on lyon",
        "paris gets op",
        "lyon gets ack",
        "lyon loses power",
        "lyon starts",
    )


@pytest.mark.parametrize("loss", ["promote_unclean", "no_sync"])
def test_what_is_left_out_hides_no_loss(loss: str) -> None:
    reduced = explore(KNOWN[loss].budget, states_max=30_000, without=loss)
    whole = explore(KNOWN[loss].budget, states_max=60_000, without=loss, reduce=False)
    assert reduced.problem == whole.problem
    assert len(reduced.trace) == len(whole.trace)


def test_what_is_left_out_only_makes_more_states() -> None:
    reduced = explore(A_CRASH, states_max=60_000)
    whole = explore(A_CRASH, states_max=60_000, reduce=False)
    assert (reduced.complete, reduced.problem) == (whole.complete, whole.problem) == (True, "")
    assert reduced.states < whole.states


def test_a_lost_register_is_not_made_again_on_old_news() -> None:
    """5.0: both suspect each other, paris wins, the register is lost, and the news is under way.

    The explorer found that lyon, with what paris had said before, made the register again for
    itself: two nodes alone in one epoch, and an acknowledged write lost.
    """
    world = World(attrs.evolve(NONE, suspicions=2, losses=1))
    state = first_state(world)
    for text in (
        "lyon takes its peer for lost",
        "paris takes its peer for lost",
        "arbiter answers paris's read",
        "paris's CAS 5 paris ['paris'] is answered",
        "a client writes on paris",
        "the arbiter loses the register",
        "arbiter answers lyon's read",
    ):
        found = [one for one in choices(world, state) if describe(world, state, one) == text]
        assert found, text
        state = apply(world, state, found[0])
        world.judge(state)
    assert world.facts[state.sites[0][0]].attempt is None


def test_no_order_of_losing_the_register_and_suspecting_loses_a_write() -> None:
    found = explore(attrs.evolve(NONE, suspicions=2, losses=1), states_max=20_000)
    assert not found.problem, "\n".join(found.trace)


def test_waiting_writes_and_hasty_repetitions_lose_nothing() -> None:
    for unkind in ({"patience": 1}, {"hurries": 1}):
        scope = attrs.evolve(NONE, breaks=1, epochs=2, **unkind)
        found = explore(scope, states_max=60_000)
        assert found.complete, "\n".join(found.trace)


def test_a_rule_is_back_once_the_block_ends() -> None:
    with broken("promote_unclean"):
        pass
    assert not explore(A_CRASH, states_max=1_000).problem


def test_the_command_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    scope = ["--writes", "1", "--epochs", "1", "--crashes", "0", "--unanswered", "0"]
    assert main([*scope, "--delayed", "0"]) == 0
    assert "violations: none; exhausted" in capsys.readouterr().out
    assert main(["--without", "release_early", "--states", "1000"]) == 1
    out = capsys.readouterr().out
    assert "stopped at a violation" in out
    assert "  1 " in out
    assert main(["--states", "100"]) == 0
    assert "stopped at the limit" in capsys.readouterr().out
