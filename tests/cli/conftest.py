"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cli_support import Cli, Running, make_cli, running_node


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return make_cli(tmp_path)


@pytest.fixture
def running(cli: Cli) -> Iterator[Running]:
    with running_node(cli) as running:
        yield running
