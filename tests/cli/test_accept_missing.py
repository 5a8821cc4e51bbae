"""A person says that files which are gone were meant to be gone."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mirrorha.cli import exits
from mirrorha.cli.inventory import load
from mirrorha.cli.place import Place
from mirrorha.cluster.settings import volume_names
from mirrorha.cluster.volumes import volume_state_dir
from mirrorha.errors import VolumeError
from mirrorha.volume.opening import OpenVolume, open_volume
from tests.cli.cli_support import Cli, make_cli
from tests.requirements import require_root


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = make_cli(tmp_path)
    root = cli.root / "data-paris"
    for number in range(3):
        (root / f"invoice{number}").write_bytes(b"x")
    opened(cli).close()
    return cli


def opened(cli: Cli) -> OpenVolume:
    """The volume of paris, as its node opens it."""
    config = load(Place(str(cli.config), "orders", "paris", ""))
    (name,) = volume_names(config)
    state = volume_state_dir(Path(config.me.state_dir), name)
    return open_volume(Path(name.path), state, rng=random.Random(1))


def test_a_node_that_does_not_ask_is_told_nothing(cli: Cli) -> None:
    result = cli.run("accept-missing", "--yes")
    assert result.exit_code == exits.FAILED
    assert "paris does not ask" in result.stderr


def test_the_answer_lets_the_node_go_on(cli: Cli) -> None:
    for number in range(2):
        (cli.root / f"data-paris/invoice{number}").unlink()
    with pytest.raises(VolumeError, match="2 of 3 files"):
        opened(cli)
    refused = cli.run("accept-missing")  # there is no terminal to ask on
    assert refused.exit_code == exits.FAILED
    assert "2 of 3 files" in refused.stderr
    with pytest.raises(VolumeError, match="2 of 3 files"):
        opened(cli)
    assert cli.json("accept-missing", "--yes") == {"schema": 1, "done": True, "gone": 2}
    assert cli.run("accept-missing", "--yes").exit_code == exits.FAILED  # answered already
    volume = opened(cli)
    assert volume.disk.found.changed
    volume.close()
    assert cli.run("accept-missing", "--yes").exit_code == exits.FAILED


def test_what_root_answers_can_be_read_by_who_runs_the_node(cli: Cli) -> None:
    require_root()
    nobody = 65534
    for one in (cli.root / "data-paris").iterdir():
        one.unlink()
    (volume,) = (cli.root / "paris/volumes").iterdir()
    with pytest.raises(VolumeError, match="3 of 3 files"):
        opened(cli)
    os.chown(volume, nobody, nobody)
    assert cli.run("accept-missing", "--yes").exit_code == exits.DONE
    assert (volume / "missing.json").stat().st_uid == nobody
