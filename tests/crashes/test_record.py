"""The campaign's judge: what must survive what, and that it sees a loss where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crashes.record import (
    SLOT_BYTES,
    Event,
    File,
    Item,
    Look,
    Record,
    Sync,
    content_of,
    is_promised,
    version_in,
)
from tests.crashes.walk import differences, walk


def kill(node: str, at_s: float) -> Event:
    return Event(node=node, at_s=at_s, over_s=at_s, power=False)


def power(node: str, at_s: float) -> Event:
    return Event(node=node, at_s=at_s, over_s=at_s, power=True)


@pytest.mark.parametrize(
    ("events", "done_s", "promised"),
    [
        ([], 1, True),
        ([kill("a", 2)], 1, True),
        ([power("a", 2)], 1, True),
        ([kill("a", 2), kill("b", 2)], 1, True),
        ([power("a", 2), power("b", 2)], 1, False),
        ([power("a", 2), power("b", 2)], 3, True),  # by who came back
        ([power("a", 2), kill("b", 4)], 3, True),
        ([kill("a", 2), power("b", 4)], 1, True),
        ([kill("a", 2), power("b", 4)], 3, False),  # by one that served alone
        ([power("a", 2), power("a", 4)], 3, True),
        ([kill("a", 2), power("a", 4), power("b", 6)], 3, False),
    ],
)
def test_what_was_not_synced_survives_unless_all_who_had_it_lost_power(
    events: list[Event], done_s: float, promised: bool
) -> None:
    assert is_promised(done_s, events) is promised


def test_a_sync_covers_what_was_answered_before_it_and_by_the_same_node() -> None:
    item = Item()
    item.begin()
    item.end(1.0)
    lost = Sync([item], since_s=2.0)  # another node serves since then
    lost.end()
    assert item.durable == 0
    sync = Sync([item], since_s=0.0)
    item.begin()
    item.end(3.0)
    sync.end()
    assert item.durable == 1
    both = [power("a", 9), power("b", 9)]
    assert item.least(both) == 1
    assert item.least([kill("a", 9)]) == 2


@pytest.mark.parametrize("version", [0, 1, 77])
def test_a_slot_says_which_version_it_holds(version: int) -> None:
    raw = content_of("c0-1", 3, version) if version else bytes(SLOT_BYTES)
    assert version_in(raw, "c0-1", 3) == version
    if version:
        assert version_in(raw, "c0-1", 4) is None
        assert version_in(raw, "c0-2", 3) is None
        assert version_in(raw[:100] + b"\0" * 156, "c0-1", 3) is None


def written(record: Record, root: Path) -> File:
    """A file with one synced version, and one that is not, as its client knows it."""
    file = record.files["c0-1"] = File("c0-1")
    for item in (file.name, file.slot(0)):
        item.begin()
        item.end(1.0)
    Sync([file.name, file.slot(0)], since_s=0.0).end()
    file.slot(0).begin()
    file.slot(0).end(2.0)
    (root / file.path).write_bytes(content_of("c0-1", 0, 2))
    return file


def put(version: int) -> Callable[[Path], object]:
    return lambda root: (root / "c0-1.1").write_bytes(content_of("c0-1", 0, version))


LOOK = Look(events=[kill("a", 3.0)], synced_s=0.0, now_s=4.0)
LOOK_AFTER_ALL = Look(events=[power("a", 3.0), power("b", 3.0)], synced_s=0.0, now_s=4.0)


@pytest.mark.parametrize(
    ("befalls", "look", "says"),
    [
        (lambda _root: None, LOOK, ""),
        (put(1), LOOK, "version 1, not one of 2 to 2"),
        (put(1), LOOK_AFTER_ALL, ""),
        (put(3), LOOK, "version 3, not one of 2 to 2"),
        (lambda root: (root / "c0-1.1").unlink(), LOOK_AFTER_ALL, "has names []"),
        (lambda root: (root / "c0-1.1").rename(root / "c0-1.2"), LOOK, "has names [2]"),
        (lambda root: (root / "c0-1.2").write_bytes(b""), LOOK, "has names [1, 2]"),
        (lambda root: (root / "c0-2.1").write_bytes(b""), LOOK, "c0-2 is back"),
        (lambda root: (root / "c0-1.1").write_bytes(b"torn"), LOOK, "version None"),
    ],
)
def test_a_loss_is_seen(
    befalls: Callable[[Path], object], look: Look, says: str, tmp_path: Path
) -> None:
    record = Record()
    written(record, tmp_path)
    befalls(tmp_path)
    faults = record.check(tmp_path, look)
    assert (says in faults[0]) if says else not faults


def test_what_is_gone_may_not_come_back(tmp_path: Path) -> None:
    record = Record()
    file = written(record, tmp_path)
    file.name.begin()
    file.is_removed = True
    path = tmp_path / "c0-1.1"
    raw = path.read_bytes()
    assert not record.check(tmp_path, LOOK), "it was never answered that it is removed"
    file.name.begin()
    file.is_removed = True
    file.name.end(5.0)
    path.unlink()
    after = Look(events=[], synced_s=6.0, now_s=7.0)
    assert not record.check(tmp_path, after)
    path.write_bytes(raw)
    assert record.check(tmp_path, after) == ["c0-1 is back"]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "d/f").write_bytes(b"other"),
        lambda root: (root / "d/f").chmod(0o600),
        lambda root: (root / "d/f").rename(root / "d/g"),
        lambda root: (root / "d/h").hardlink_to(root / "d/f"),
        lambda root: (root / "d/s").symlink_to("f"),
    ],
)
def test_trees_that_differ_are_seen_to(change: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"these")
    before = walk(tmp_path)
    assert differences(before, walk(tmp_path)) == []
    change(tmp_path)
    assert differences(before, walk(tmp_path))
