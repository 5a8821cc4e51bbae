"""The target's part of a listing: what is moved, made, called otherwise, and deleted at last."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import pytest

from mirrorha.core.orders import BecomeTarget
from mirrorha.errors import PeerProtocolError, VolumeError
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import (
    LIMBO_FID,
    AnyRequest,
    Apply,
    Attributes,
    Kind,
    ListDirectory,
    Many,
    Outcome,
    ReadBytes,
)
from mirrorha.volume.events import DiskCall, Lane
from mirrorha.volume.ops import ROOT_FID, AnyOp, Create, Link, Mkdir, Symlink, Write, make_fid
from mirrorha.volume.resync.messages import Listing, Named
from mirrorha.volume.resync.namespace import Asked, Job, Namespace
from mirrorha.volume.resync.rescuing import Rescuing
from mirrorha.volume.tasks.task import Steps, Tasks

ROOT: Final = Attributes(ROOT_FID, Kind.DIRECTORY, 0o755, 0, 0, 0, 7)


def fid(number: int) -> int:
    return make_fid(epoch=1, counter=number)


class Target:
    """A disk, a `Namespace`, and a source that answers at once.

    Args:
        exists: What the source has: fids, and attributes of those that may be asked for.
    """

    def __init__(self, exists: Iterable[Attributes | int] = ()) -> None:
        self.disk = MemoryDisk()
        self.requests: list[AnyRequest] = []
        self.asked: list[tuple[list[int], list[int]]] = []
        self.exists = {one if isinstance(one, int) else one.fid: one for one in exists}
        spares = (fid(1000 + number) for number in itertools.count())
        self.namespace = Namespace(
            self._ask, spares, Rescuing(BecomeTarget(1, 1), Tasks(Lane.TREE))
        )

    def _ask(self, wanted: Sequence[int], seen: Sequence[int]) -> Steps[Asked]:
        self.asked.append((list(wanted), list(seen)))
        found = [self.exists.get(one) for one in wanted]
        alive = {one for one in seen if one in self.exists}
        return [one for one in found if isinstance(one, Attributes)], alive
        yield

    def has(self, *ops: AnyOp) -> None:
        for op in ops:
            outcome = self.disk.perform(Apply(op))
            assert isinstance(outcome, Outcome)
            assert outcome.errno == 0

    def file(self, number: int, parent: int, name: str, content: bytes = b"") -> None:
        self.has(Create(fid(number), parent, name, 0o644, 0, 0, 1))
        if content:
            self.has(Write(fid(number), 0, content, 1))

    def directory(self, number: int, parent: int, name: str) -> None:
        self.has(Mkdir(fid(number), parent, name, 0o755, 0, 0, 1))

    def arrange(self, *listings: Listing) -> list[Job]:
        jobs: list[Job] = []

        def steps() -> Steps[None]:
            for listing in listings:
                jobs.extend((yield from self.namespace.arrange(listing)))

        self.run(steps())
        return jobs

    def sweep(self) -> None:
        self.run(self.namespace.sweep())

    def run(self, steps: Steps[None]) -> None:
        tasks = Tasks(Lane.TREE)
        tasks.spawn(steps)
        effects = tasks.run()
        while effects:
            for effect in effects:
                assert isinstance(effect, DiskCall)
                request = effect.request
                self.requests += request.requests if isinstance(request, Many) else [request]
                tasks.finish(effect.token, self.disk.perform(request))
            effects = tasks.run()

    def tree(self) -> dict[str, int]:
        return {path: one.fid for path, one in self.disk.snapshot().items() if path}

    def limbo(self) -> set[int]:
        entries = self.disk.perform(ListDirectory(LIMBO_FID))
        assert isinstance(entries, list)
        return {entry.fid for entry in entries}

    def changes(self) -> list[Apply]:
        return [one for one in self.requests if isinstance(one, Apply)]


def attributes(number: int, kind: Kind = Kind.FILE, *, target: str = "") -> Attributes:
    return Attributes(fid(number), kind, 0o640, 3, 4, 0, 9, target)


def named(name: str, number: int, kind: Kind = Kind.FILE, *, told: bool = False) -> Named:
    return Named(name, fid(number), kind, attributes(number, kind) if told else None)


def listing(
    *names: Named,
    of: int = ROOT_FID,
    whole: bool = False,
    first: bool = True,
    last: bool = True,
) -> Listing:
    own = Attributes(of, Kind.DIRECTORY, 0o755, 0, 0, 0, 7)
    return Listing(1, 1, of, whole, list(names), first, own if last else None)


def test_swapped_names_are_moved() -> None:
    target = Target()
    target.file(1, ROOT_FID, "a")
    target.file(2, ROOT_FID, "b")
    jobs = target.arrange(listing(named("a", 2), named("b", 1)))
    assert target.tree() == {"a": fid(2), "b": fid(1)}
    assert not target.limbo()
    assert not target.changes()
    assert [job.attributes.fid for job in jobs] == [ROOT_FID]


def test_a_directory_that_became_a_file_waits_in_limbo_with_all_it_holds() -> None:
    target = Target()
    target.directory(1, ROOT_FID, "a")
    target.file(2, fid(1), "inside", b"precious")
    jobs = target.arrange(listing(named("a", 3, told=True)))
    assert target.tree() == {"a": fid(3)}
    assert target.limbo() == {fid(1)}
    assert [job.attributes.fid for job in jobs] == [fid(3), ROOT_FID]
    # It is wanted after all, by another name.
    target.arrange(listing(named("a", 3), named("b", 2)))
    assert target.disk.perform(ReadBytes(fid(2), 0, 9)) == b"precious"


def test_names_of_one_file_are_links() -> None:
    target = Target(exists=[attributes(1), attributes(2)])
    target.file(1, ROOT_FID, "a")
    jobs = target.arrange(listing(named("b", 1), named("c", 1), named("d", 2), named("e", 2)))
    assert target.tree() == {"b": fid(1), "c": fid(1), "d": fid(2), "e": fid(2)}
    assert [job.attributes.fid for job in jobs] == [fid(2), ROOT_FID]


def test_what_is_unknown_and_not_told_is_asked_for_once() -> None:
    target = Target(exists=[attributes(1), attributes(2, Kind.DIRECTORY)])
    jobs = target.arrange(
        listing(named("a", 1), named("b", 2, Kind.DIRECTORY), named("c", 3), named("d", 1))
    )
    assert target.asked == [([fid(1), fid(2), fid(3)], [])]
    # The third has vanished from the source meanwhile: the next pass will say what became of it.
    assert target.tree() == {"a": fid(1), "b": fid(2), "d": fid(1)}
    assert jobs[0] == Job(attributes(1), None, is_new=True)


def test_a_name_whose_new_file_vanished_is_left_alone() -> None:
    target = Target()
    target.file(1, ROOT_FID, "a")
    target.arrange(listing(named("a", 2)))
    assert target.tree() == {"a": fid(1)}


def test_what_is_created_can_be_written_whatever_its_mode_is() -> None:
    target = Target()
    jobs = target.arrange(
        listing(
            Named("a", fid(1), Kind.FILE, Attributes(fid(1), Kind.FILE, 0o400, 0, 0, 5, 9)),
            Named("b", fid(2), Kind.DIRECTORY, Attributes(fid(2), Kind.DIRECTORY, 0, 0, 0, 0, 9)),
        )
    )
    modes = [one.op.mode for one in target.changes() if isinstance(one.op, Create | Mkdir)]
    assert modes == [0o600, 0o700]
    assert jobs[0].attributes.mode == 0o400


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIRECTORY])
def test_the_old_self_of_an_unknown_file_is_called_by_its_id(kind: Kind) -> None:
    target = Target(exists=[attributes(9, kind)])
    if kind is Kind.FILE:
        target.file(1, ROOT_FID, "a", b"much")
    else:
        target.directory(1, ROOT_FID, "a")
        target.file(2, fid(1), "inside")
    jobs = target.arrange(listing(named("a", 9, kind)))
    assert target.tree()["a"] == fid(9)
    assert not target.limbo()
    assert target.asked == [([fid(9)], [fid(1)])]
    # It is compared like what was created; a directory by its own listing.
    whole = [job.attributes.fid for job in jobs if job.ranges is None]
    assert whole == ([fid(9)] if kind is Kind.FILE else [])
    assert not target.changes()


def test_what_exists_on_the_source_is_nobodys_old_self() -> None:
    target = Target(exists=[attributes(9), fid(1)])
    target.file(1, ROOT_FID, "a", b"much")
    target.arrange(listing(named("a", 9)))
    assert target.tree() == {"a": fid(9)}
    assert target.limbo() == {fid(1)}


def test_one_old_self_serves_one_file() -> None:
    target = Target(exists=[attributes(8), attributes(9)])
    target.file(1, ROOT_FID, "a", b"much")
    target.has(Link(fid(1), ROOT_FID, "b", 1))
    target.arrange(listing(named("a", 8), named("b", 9)))
    assert target.tree() == {"a": fid(8), "b": fid(9)}
    # And all names of one file are the same file's.
    target = Target(exists=[attributes(8)])
    target.file(1, ROOT_FID, "a", b"much")
    target.has(Link(fid(1), ROOT_FID, "b", 1))
    target.arrange(listing(named("a", 8), named("b", 8)))
    assert target.tree() == {"a": fid(8), "b": fid(8)}
    assert not target.changes()


def test_another_kind_is_no_old_self() -> None:
    target = Target(exists=[attributes(9)])
    target.directory(1, ROOT_FID, "a")
    target.arrange(listing(named("a", 9)))
    assert target.limbo() == {fid(1)}
    assert target.asked == [([fid(9)], [])]


def test_one_id_for_two_kinds_of_things() -> None:
    target = Target()
    target.directory(1, ROOT_FID, "a")
    target.file(2, fid(1), "inside")
    target.arrange(listing(named("a", 1, told=True), named("b", 2, Kind.DIRECTORY, told=True)))
    assert target.tree() == {"a": fid(1), "b": fid(2)}
    kinds = {path: one.kind for path, one in target.disk.snapshot().items()}
    assert (kinds["a"], kinds["b"]) == (Kind.FILE, Kind.DIRECTORY)
    assert target.limbo() == {fid(1000)}


def test_a_spare_id_that_is_taken_is_not_given_again() -> None:
    target = Target()
    target.directory(1, ROOT_FID, "a")
    target.directory(1000, ROOT_FID, "z")
    target.arrange(listing(named("a", 1, told=True), named("z", 1000, Kind.DIRECTORY)))
    assert target.tree() == {"a": fid(1), "z": fid(1000)}
    assert target.limbo() == {fid(1001)}


def test_symlinks_of_one_id_and_different_targets() -> None:
    target = Target()
    target.has(Symlink(fid(1), ROOT_FID, "a", "there", 0, 0, 1))
    target.has(Symlink(fid(2), ROOT_FID, "b", "same", 0, 0, 1))
    other = Named("a", fid(1), Kind.SYMLINK, attributes(1, Kind.SYMLINK, target="elsewhere"))
    same = Named("b", fid(2), Kind.SYMLINK, attributes(2, Kind.SYMLINK, target="same"))
    target.arrange(listing(other, same, whole=True))
    targets = {path: one.attributes.target for path, one in target.disk.snapshot().items()}
    assert (targets["a"], targets["b"]) == ("elsewhere", "same")
    assert len(target.changes()) == 1


def test_whole_compares_what_is_known_too() -> None:
    for whole in (False, True):
        target = Target()
        target.file(1, ROOT_FID, "a")
        jobs = target.arrange(listing(named("a", 1, told=True), whole=whole))
        assert [job.attributes.fid for job in jobs] == [fid(1)] * whole + [ROOT_FID]


def test_parts_of_a_listing_speak_of_the_names_up_to_their_last() -> None:
    target = Target()
    for number, name in enumerate("abcdefg", 1):
        target.file(number, ROOT_FID, name)
    target.arrange(listing(named("b", 2), named("d", 1), last=False))
    # "e" and what follows is still to come, though "c" is gone.
    assert target.tree() == {"b": fid(2), "d": fid(1), "e": fid(5), "f": fid(6), "g": fid(7)}
    target.arrange(listing(named("f", 6), first=False))
    assert target.tree() == {"b": fid(2), "d": fid(1), "f": fid(6)}
    assert target.limbo() == {fid(3), fid(4), fid(5), fid(7)}


def test_parts_of_two_directories_may_come_in_turn() -> None:
    target = Target()
    target.directory(1, ROOT_FID, "a")
    target.file(2, fid(1), "x")
    target.file(3, ROOT_FID, "z")
    target.arrange(
        listing(named("a", 1, Kind.DIRECTORY), last=False),
        listing(named("w", 3), of=fid(1), last=False),
        listing(first=False),
        listing(of=fid(1), first=False),
    )
    assert target.tree() == {"a": fid(1), "a/w": fid(3)}


def test_a_directory_cannot_come_to_lie_inside_itself_yet() -> None:
    target = Target()
    target.directory(1, ROOT_FID, "outer")
    target.directory(2, fid(1), "inner")
    target.arrange(listing(named("outer", 1, Kind.DIRECTORY), of=fid(2)))
    assert target.namespace.blocked == {fid(2)}
    target.namespace.blocked.clear()
    target.arrange(
        listing(named("inner", 2, Kind.DIRECTORY)),
        listing(named("outer", 1, Kind.DIRECTORY), of=fid(2)),
        listing(of=fid(1)),
    )
    assert target.tree() == {"inner": fid(2), "inner/outer": fid(1)}
    assert not target.namespace.blocked


def test_a_directory_that_is_not_known_yet_is_listed_again() -> None:
    target = Target(exists=[attributes(1, Kind.DIRECTORY)])
    assert target.arrange(listing(named("x", 2, told=True), of=fid(1), last=False)) == []
    assert target.arrange(listing(of=fid(1), first=False)) == []
    assert target.namespace.dropped == {fid(1)}
    assert target.tree() == {}


def test_a_disk_that_refuses_to_create_ends_it() -> None:
    target = Target()
    with pytest.raises(VolumeError, match=r"refused a Create .* EPERM"):
        target.arrange(listing(named(".mirrorha-limbo", 1, told=True)))


@pytest.mark.parametrize("number", [1, 99])
def test_an_answer_that_was_not_asked_for_is_refused(number: int) -> None:
    kind = Kind.DIRECTORY if number == 1 else Kind.FILE
    target = Target(exists=[attributes(1)])
    target.exists[fid(1)] = attributes(number, kind)
    with pytest.raises(PeerProtocolError):
        target.arrange(listing(named("a", 1)))


def test_a_listing_that_begins_in_its_middle_is_refused() -> None:
    with pytest.raises(PeerProtocolError):
        Target().arrange(listing(first=False))


def test_so_many_listings_at_once_are_refused() -> None:
    target = Target()
    with pytest.raises(PeerProtocolError):
        target.arrange(*(listing(of=fid(number), last=False) for number in range(1, 30)))


class TestSweep:
    def limbo_of(self, target: Target) -> None:
        """Move everything aside."""
        target.arrange(listing())
        assert target.tree() == {}
        target.requests.clear()

    def test_what_exists_stays_and_the_rest_goes(self) -> None:
        target = Target(exists=[fid(1)])
        target.file(1, ROOT_FID, "a")
        target.file(2, ROOT_FID, "b")
        target.has(Symlink(fid(3), ROOT_FID, "c", "d", 0, 0, 1))
        self.limbo_of(target)
        target.sweep()
        assert target.limbo() == {fid(1)}

    def test_what_exists_in_a_directory_that_does_not_is_kept(self) -> None:
        target = Target(exists=[fid(4), fid(5)])
        target.directory(1, ROOT_FID, "a")
        target.directory(2, fid(1), "b")
        target.directory(5, fid(1), "kept")
        target.file(6, fid(5), "not asked for")
        target.file(3, fid(2), "c")
        target.file(4, fid(2), "d", b"precious")
        self.limbo_of(target)
        target.sweep()
        assert target.limbo() == {fid(4), fid(5)}
        assert target.disk.perform(ReadBytes(fid(4), 0, 9)) == b"precious"
        assert target.disk.perform(ListDirectory(fid(5)))

    def test_a_file_that_has_another_name_loses_this_one(self) -> None:
        target = Target(exists=[fid(1)])
        target.file(1, ROOT_FID, "a", b"precious")
        target.has(Link(fid(1), ROOT_FID, "b", 1))
        target.arrange(listing(named("b", 1)))
        assert target.limbo() == {fid(1)}
        target.sweep()
        assert target.limbo() == set()
        assert target.tree() == {"b": fid(1)}

    def test_of_two_names_in_limbo_one_is_kept(self) -> None:
        target = Target(exists=[fid(1)])
        target.file(1, ROOT_FID, "a", b"precious")
        target.has(Link(fid(1), ROOT_FID, "b", 1))
        self.limbo_of(target)
        target.sweep()
        assert target.limbo() == {fid(1)}

    def test_no_disk_request_does_too_much(self) -> None:
        target = Target()
        target.directory(1, ROOT_FID, "a")
        for number in range(2, 1500):
            target.file(number, fid(1), str(number))
        self.limbo_of(target)
        sizes = []
        perform = target.disk.perform

        def watched(request: AnyRequest) -> object:
            sizes.append(len(request.requests) if isinstance(request, Many) else 1)
            return perform(request)

        target.disk.perform = watched  # type: ignore[method-assign]
        target.sweep()
        assert target.limbo() == set()
        assert max(sizes) <= 512

    def test_nothing_in_limbo_asks_nobody(self) -> None:
        target = Target()
        target.sweep()
        assert target.asked == []
