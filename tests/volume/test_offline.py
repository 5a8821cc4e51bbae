"""Who has changed a file, judged by its times."""

from __future__ import annotations

import itertools

import pytest

from mirrorha.volume.offline import (
    AHEAD_NS,
    Cause,
    Late,
    Stamp,
    entries_of,
    is_emptied,
    judge,
    suspects,
)
from mirrorha.volume.ops import Kind
from mirrorha.volume.touched import INODE, NAMES, tail

NOTED = 1_000_000_000_000
UNTIL = NOTED + AHEAD_NS
KILLED = Stamp(NOTED, UNTIL)
ENDED = Stamp(NOTED, NOTED)


def late(ctime_ns: int, *, kind: Kind = Kind.FILE, mtime_ns: int = 7) -> Late:
    return Late(1, kind, ctime_ns, mtime_ns)


def test_what_comes_after_an_end_in_good_order_is_somebody_elses() -> None:
    assert ENDED.first_late_ns == NOTED + 1
    for kind, is_logged, mtime_ns in itertools.product(Kind, (False, True), (7, NOTED + 1)):
        one = late(NOTED + 1, kind=kind, mtime_ns=mtime_ns)
        assert judge(one, ENDED, is_logged=is_logged) is Cause.AFTER_THE_END


def test_every_judgement_after_a_crash() -> None:
    assert KILLED.first_late_ns == NOTED
    ctimes = (NOTED, NOTED + 1, UNTIL, UNTIL + 1)
    for ctime_ns, kind, is_logged, is_plain in itertools.product(
        ctimes, Kind, (False, True), (False, True)
    ):
        one = late(ctime_ns, kind=kind, mtime_ns=ctime_ns if is_plain else 7)
        if ctime_ns > UNTIL:
            expected = Cause.AFTER_THE_END
        elif not is_logged:
            expected = Cause.NOT_IN_THE_LOG
        elif kind is not Kind.FILE:
            expected = Cause.CHEAP
        elif is_plain:
            expected = Cause.PLAIN_WRITE
        else:
            expected = Cause.OURS
        assert judge(one, KILLED, is_logged=is_logged) is expected


def test_only_what_is_surely_ours_is_no_suspect() -> None:
    found = [Late(fid, Kind.FILE, NOTED + 1, 7) for fid in (1, 2, 3)]
    assert suspects(found, KILLED, [(1, 0), (3, INODE)]) == [(found[1], Cause.NOT_IN_THE_LOG)]
    after = [(one, Cause.AFTER_THE_END) for one in found]
    assert suspects(found, ENDED, [(1, 0), (3, INODE)]) == after


def test_the_entries_of_a_file_are_all_that_it_has() -> None:
    for kind in Kind:
        entries = entries_of(5, kind)
        assert (5, INODE) in entries
        assert ((5, tail(0)) in entries) == (kind is Kind.FILE)
        assert ((5, NAMES) in entries) == (kind is Kind.DIRECTORY)


@pytest.mark.parametrize(
    ("known", "gone", "asks"),
    [(0, 0, False), (1, 0, False), (1, 1, True), (2, 1, False), (3, 2, True), (1000, 501, True)],
)
def test_a_person_is_asked_when_more_than_half_is_gone(known: int, gone: int, asks: bool) -> None:
    assert is_emptied(known=known, gone=gone) is asks
