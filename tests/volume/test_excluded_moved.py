"""What changes sides while a node is stopped: moved by hand, or by other patterns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorha.volume.ops import ROOT_FID, SetAttributes, Write
from tests.volume.disk_support import T0, create, do, fid, mkdir
from tests.volume.offline_node import Node
from tests.volume.resync_pair import Pair, difference
from tests.volume.test_excluded import EXCLUDE


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Who serves, and who was stopped."""
    paris, lyon = Node(tmp_path / "paris"), Node(tmp_path / "lyon")
    yield paris, lyon
    paris.stop()
    lyon.stop()


def become_equal(nodes: tuple[Node, Node], *exclude: str, everything: bool = False) -> None:
    """Open both, and have what their logs say compared, or everything."""
    paris, lyon = (node.open(*exclude) for node in nodes)
    pair = Pair(random.Random(1), paris.disk, lyon.disk, everything=everything)
    pair.source.log.update(paris.touched.keys)
    pair.target.log.update(lyon.touched.keys)
    pair.begin()
    pair.run(mutations=0)
    assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
    assert difference(paris.disk, lyon.disk) == []
    # Also as the next opening finds it.
    paris, lyon = (node.open(*exclude) for node in nodes)
    assert difference(paris.disk, lyon.disk) == []


def fill(node: Node, *exclude: str) -> None:
    disk = node.open(*exclude).disk
    do(disk, mkdir(1, "tmp"), mkdir(2, "data"), mkdir(3, "job", fid(2)))
    do(disk, create(4, "f", fid(3)), Write(fid(4), 0, b"mirrored", T0), create(5, "g", fid(2)))
    do(disk, mkdir(6, "cache", fid(2)), create(7, "c", fid(6)), Write(fid(7), 0, b"c", T0))
    # The root's were its own.
    do(disk, SetAttributes(ROOT_FID, None, None, None, T0, T0))
    node.stop()


@pytest.mark.parametrize("moved", ["data/job", "data/job/f", "data/g"])
def test_what_is_moved_to_an_excluded_place_by_hand_is_put_back(
    nodes: tuple[Node, Node], moved: str
) -> None:
    for node in nodes:
        fill(node, *EXCLUDE)
    _, lyon = nodes
    (lyon.root / moved).rename(lyon.root / "tmp/moved")
    become_equal(nodes, *EXCLUDE)
    assert (lyon.root / moved).exists()
    assert (lyon.root / "tmp/moved").exists()


def test_a_directory_that_is_renamed_to_the_border_by_hand_is_put_back(
    nodes: tuple[Node, Node],
) -> None:
    """Nothing but its name changes: what is excluded below has the times that it had."""
    for node in nodes:
        fill(node, *EXCLUDE)
    _, lyon = nodes
    (lyon.root / "data").rename(lyon.root / "a")
    become_equal(nodes, *EXCLUDE)
    assert (lyon.root / "data/cache/c").read_text() == "c"


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("everything", [True, False])
def test_a_name_that_is_not_shown_stands_in_nobodys_way(
    nodes: tuple[Node, Node], everything: bool, is_new: bool
) -> None:
    for node in nodes:
        fill(node)
    paris, lyon = nodes
    (paris.root / "data").rename(paris.root / "e")
    if is_new:
        (paris.root / "e/own").write_text("mirrored there")
    else:
        (paris.root / "e/g").rename(paris.root / "e/own")
    (lyon.root / "data/g").rename(lyon.root / "g")
    (lyon.root / "data/own").hardlink_to(lyon.root / "g")
    become_equal(nodes, "data/own", everything=everything)


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("before", [(), ("data/cache/**",), ("e/cache/**",)])
@pytest.mark.parametrize("after", ["data/cache/**", "e/cache/**", "data/job/f", "e/job"])
def test_a_directory_that_moved_before_the_patterns_changed_is_the_same_on_both(
    nodes: tuple[Node, Node], after: str, before: tuple[str, ...], everything: bool
) -> None:
    for node in nodes:
        fill(node)
    paris, lyon = nodes
    (paris.root / "data").rename(paris.root / "e")
    (lyon.root / "data/cache/own").write_text("own")
    for node in nodes:
        node.open(*before)
    become_equal(nodes, after, everything=everything)
