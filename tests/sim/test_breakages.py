"""Every rule that can be taken out is missed: by a seed here, or by a directed scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from mirrorha.testing.sim.breakages import BREAKAGES, broken, run_like, run_without
from mirrorha.testing.sim.run import run_seed

# Found by `python -m mirrorha.testing.simulate --breakages --seeds 1000`: the first seed that is
# red without the rule. Where the simulator changes what a seed does, look for it again.
CAUGHT: Final = {
    "release-early": 0,
    "nonce-after": 0,
    "no-sync": 0,
    "freeze-one": 28,
    "no-cut": 2,
    "peer-nonce-after": 1,
    "lost-register-alone": 9,
    "join-ack-alone": 1,
    "quiet-one": 54,
    "drop-joiner": 19,
    "promote-unclean": 30,
    "remake-by-epoch": 11,
    "no-fresh-cas": 83,
    "no-nonce": 7,
    "own-old-record": 24,
    "ack-before-peer": 10,
    "accept-unasked": 4,
    "fill-unasked": 4,
    "durable-peer-only": 0,
    "durable-applied": 1,
    "fsync-here-only": 2,
    "flush-here-only": 1,
    "commit-without-promise": 0,
    "port-proves-death": 2,
    "restarted-starts-alone": 0,
    "split-ignored": 24,
    "nobody-gives-way": 0,
    "rescue-forgotten": 103,
    "rescue-late": 85,
    "rescue-content": 36,
    "rescue-deleted": 93,
    "rotate": 26,
    "rotate-unresolved": 128,
    "undriven-goes-on": 162,
    "compare-in-flight": 9,
    "repair-not-restated": 1,
    "half-filled-untold": 913,
}
# These are a half of another one: the rule is held in two places.
HALVES: Final = {each.also for each in BREAKAGES.values() if each.also}
HERE: Final = Path(__file__).parent
DIRECTED_IN: Final = (
    "test_scenarios.py",
    "disk_scenarios.py",
    "test_pairwise.py",
    "test_forcing.py",
    "test_forcing_pair.py",
    "test_forcing_again.py",
    "test_filled.py",
    "test_put_back.py",
    "test_service_limit.py",
    "test_isolation.py",
)
DIRECTED: Final = tuple(HERE / name for name in DIRECTED_IN)


@pytest.mark.parametrize("name", CAUGHT)
def test_a_seed_notices_the_missing_rule(name: str) -> None:
    assert run_without(name, CAUGHT[name]).problem


@pytest.mark.parametrize("name", CAUGHT)
def test_the_same_seed_is_clean_with_it(name: str) -> None:
    assert not run_like(BREAKAGES[name], CAUGHT[name]).problem


def test_every_breakage_is_noticed_by_a_seed_or_a_scenario() -> None:
    directed = "".join(path.read_text() for path in DIRECTED)
    missed = {name for name in BREAKAGES if name not in CAUGHT and f'"{name}")' not in directed}
    assert missed <= HALVES


def test_the_directed_scenarios_that_are_named_exist() -> None:
    directed = "".join(path.read_text() for path in DIRECTED)
    named = [each.directed for each in BREAKAGES.values() if each.directed]
    assert named
    for scenario in named:
        assert f"def {scenario}()" in directed


def test_a_breakage_ends_with_its_block() -> None:
    before = run_seed(0, trace=True).trace
    with broken("release-early"):
        assert run_seed(0).problem
    assert run_seed(0, trace=True).trace == before


def failed_seeds() -> list[tuple[int, list[str]]]:
    """Of `seeds.txt`: the seed, and the flags that its run had."""
    found = []
    for line in (HERE / "seeds.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            seed, *words = line.split()
            last = max((n for n, word in enumerate(words) if word.startswith("--")), default=-1)
            has_mode = last >= 0 and words[last] == "--mode"
            found.append((int(seed), words[: last + 1 + has_mode]))
    return found


@pytest.mark.parametrize(("seed", "flags"), failed_seeds())
def test_seeds_that_failed_once_stay_clean(seed: int, flags: list[str]) -> None:
    mode = flags[flags.index("--mode") + 1] if "--mode" in flags else "arbiter"
    wide, production = "--wide" in flags, "--production" in flags
    assert not run_seed(seed, mode=mode, wide=wide, production=production).problem
