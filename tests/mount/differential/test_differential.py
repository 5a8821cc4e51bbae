"""The differential test itself: equal directories are equal, and no difference is overlooked."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorha.volume.fuse import mount_calls
from tests.mount.differential.comparison import TreeRules, differences, snapshot
from tests.mount.differential.driver import (
    Allowance,
    DifferenceError,
    Differential,
    Operation,
    minimise,
)
from tests.mount.differential.operations import OPERATIONS, draw_operations
from tests.mount.mount_support import ground
from tests.requirements import require_root

USERS = (0, 0, 1000)


@pytest.fixture(scope="module")
def plain() -> Iterator[Differential]:
    require_root()
    with ground() as here:
        for name in ("subject", "reference"):
            (here.path / name).mkdir()
        with Differential(here.path / "subject", here.path / "reference", users=USERS) as one:
            yield one


@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 30))
def test_a_plain_directory_does_what_a_plain_directory_does(plain: Differential, seed: int) -> None:
    plain.run_and_minimise(draw_operations(random.Random(seed), 100, actors=len(USERS)))


def test_most_of_what_is_drawn_succeeds_now_and_then(plain: Differential) -> None:
    """Or else errors would be compared with errors only."""
    plain.ends.clear()
    for seed in range(40):
        plain.run(draw_operations(random.Random(seed), 120, actors=len(USERS)))
    names = {name for name, _ in plain.ends}
    assert names == {name for _, name, _ in OPERATIONS} - {"acl"}
    # What is moved must be whole blocks, which few are.
    never = sorted(name for name in names - {"shift_range"} if not plain.ends[name, "done"])
    assert never == [], plain.ends


def test_what_fails_is_made_short() -> None:
    drawn: list[Operation] = [(number, "close") for number in range(50)]
    tried: list[int] = []

    def is_wrong(some: Sequence[Operation]) -> bool:
        tried.append(len(some))
        return {(7, "close"), (33, "close")} <= set(some)

    assert minimise(drawn, is_wrong) == [(7, "close"), (33, "close")]
    assert len(tried) < 100


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "f").write_bytes(b"other"),
        lambda path: (path / "f").chmod(0o600),
        lambda path: os.utime(path / "f", ns=(0, 5)),
        lambda path: os.setxattr(path / "f", "user.a", b"2"),
        lambda path: os.removexattr(path / "f", "user.a"),
        lambda path: (path / "g").unlink(),
        lambda path: (path / "new").touch(),
        lambda path: (path / "d").chmod(0o700),
        lambda path: ((path / "s").unlink(), (path / "s").symlink_to("elsewhere")),
        lambda path: ((path / "g").unlink(), (path / "g").write_bytes(b"same")),
        lambda path: ((path / "p").unlink(), (path / "p").touch()),
        lambda path: os.truncate(path / "f", 3),
        lambda path: (path / "h").write_bytes(bytes(1 << 20)),
        lambda path: ((path / "d").rmdir(), (path / "d").symlink_to("f")),
    ],
)
def test_no_difference_of_trees_is_overlooked(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    for name in ("one", "other"):
        path = tmp_path / name
        (path / "d").mkdir(parents=True)
        (path / "f").write_bytes(b"same")
        (path / "g").hardlink_to(path / "f")
        (path / "s").symlink_to("f")
        os.mkfifo(path / "p")
        with (path / "h").open("wb") as file:
            file.truncate(1 << 20)
        os.setxattr(path / "f", "user.a", b"1")
        os.utime(path / "f", ns=(0, 4))
        os.utime(path, ns=(0, 4))
    one, other = tmp_path / "one", tmp_path / "other"
    assert differences(snapshot(one), snapshot(other)) == []
    spoil(other)
    os.utime(other, ns=(0, 4))
    assert differences(snapshot(one), snapshot(other)) != []


def test_the_rules_leave_out_what_is_ones_own(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, ns=(0, 4))
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "own").touch()
    os.setxattr(one, "user.own", b"1")
    os.utime(one, ns=(0, 4))
    rules = TreeRules(frozenset({"own"}), frozenset({"user.own"}))
    assert differences(snapshot(one), snapshot(other)) != []
    assert differences(snapshot(one, rules), snapshot(other, rules)) == []


def test_times_of_today_are_all_alike(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        time.sleep(0.002)  # nothing is waited for: the clock moves on
        (tmp_path / name / "f").touch()
    assert differences(snapshot(tmp_path / "one"), snapshot(tmp_path / "other")) == []


def test_an_answer_that_differs_is_told_and_may_be_allowed() -> None:
    require_root()
    with ground() as here:
        for name in ("subject", "reference"):
            (here.path / name).mkdir()
        mount_calls.mount_file_system(
            "disk", str(here.path / "subject"), "tmpfs", flags=0, options="size=1m"
        )
        drawn: list[Operation] = [
            (0, "open", 0, "a", os.O_RDWR | os.O_CREAT, 0o644),
            (0, "pwrite", 0, 1, 1_100_000, 0),
        ]
        with Differential(here.path / "subject", here.path / "reference") as differential:
            with pytest.raises(DifferenceError, match=r"pwrite(.|\n)*the subject answered"):
                differential.run(drawn)
            differential.allowances = [Allowance("it is small", lambda *_: True)]
            with pytest.raises(DifferenceError, match="in the trees: a: bytes"):
                differential.run(drawn)
            assert differential.allowed == {"it is small": 1}


def test_the_hook_is_called_after_each_equal_run(plain: Differential) -> None:
    seen: list[str] = []

    def note(name: str) -> None:
        status = (plain.subject / name / "c").stat()
        seen.append(f"{name} {stat.S_ISDIR(status.st_mode)}")

    plain.after = note
    try:
        plain.run([(0, "mkdir", "c", 0o755)])
    finally:
        plain.after = None
    assert seen == [f"run{plain.runs} True"]
