"""The fixture `mirrorha_pair`, and the seed it gets. Loaded by pytest where mirrorha is installed.

Nothing of mirrorha is imported before a test asks for the fixture.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from mirrorha.testing.kit import SimulatedPair


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--mirrorha-seed`."""
    parser.getgroup("mirrorha").addoption(
        "--mirrorha-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of the simulated pairs of every test, also of those that are marked",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "mirrorha_seed(n): the seed of this test's simulated pair")


@pytest.fixture
def mirrorha_pair(
    request: pytest.FixtureRequest,
) -> Callable[..., AbstractAsyncContextManager[SimulatedPair]]:
    """`mirrorha.testing.kit.open_pair` with this run's seed. Use `autojump_clock` beside it."""
    from mirrorha.testing.kit import open_pair  # noqa: PLC0415 - see above

    seed = request.config.getoption("--mirrorha-seed")
    marker = request.node.get_closest_marker("mirrorha_seed")
    if seed is None:
        seed = marker.args[0] if marker is not None else 0
    return functools.partial(open_pair, seed=seed)
