"""The target's names become the source's, without moving any data.

Everything goes by fid. For each directory that the source lists: names that differ are moved
aside into limbo, then each name is placed: what is known here, wherever it lies, is moved or
linked there; only what is unknown is created. Nothing is deleted while it may still be wanted:
limbo is emptied of what no longer exists on the source, and wholly only at the very end.

Directories may be listed in any order. A name that cannot be placed yet, for a directory would
come to lie inside itself, and a listing of a directory that is not known yet are noted, and the
source lists those again: by then every wrong name of every listed directory is out of the way.

A fid that is unknown here while the name holds another one that no longer exists on the source,
of the same kind: then this very file is called by the new id and compared, for after a lost table
of ids, or a file replaced by a newer version of itself, most of its content is the same.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, final

import msgspec

from mirrorha.errors import PeerProtocolError, ensure, unreachable
from mirrorha.volume.disk import (
    LIMBO_FID,
    AnyRequest,
    Apply,
    Attributes,
    Entry,
    Kind,
    Place,
    Relabel,
    SetAside,
)
from mirrorha.volume.ops import Birth, Create, Mkdir, Mknod, Rmdir, Symlink, Unlink
from mirrorha.volume.resync.disk_steps import (
    attributes_of,
    attributes_of_all,
    check_moved,
    check_outcome,
    entries_of,
)
from mirrorha.volume.resync.messages import ASKED_MAX, Listing, Named
from mirrorha.volume.resync.plan import batches
from mirrorha.volume.resync.rescuing import Rescuing
from mirrorha.volume.tasks.task import CallAll, Steps

# The directory is gone or the name is taken: the listing is older than another one.
_BLOCKED: Final = frozenset({errno.ENOENT, errno.ESTALE, errno.EEXIST, errno.ENOTDIR})
# Limbo is emptied by requests that may find that there is nothing left to do.
_NOT_REMOVED: Final = frozenset({errno.ENOENT, errno.ESTALE, errno.ENOTEMPTY})

# The source lists fewer at the same time.
_UNDER_WAY_MAX: Final = 16

# Of the others the target, or what a device stands for, is what it was made with.
_CHANGEABLE: Final = frozenset({Kind.FILE, Kind.DIRECTORY})

# The attributes of what was wanted and exists on the source; what of the seen exists there.
Asked = tuple[list[Attributes], set[int]]
# One disk request lasts no longer than so many changes of names.
_CHANGES_AT_ONCE: Final = 256

AskSource = Callable[[Sequence[int], Sequence[int]], Steps[Asked]]


@final
class Job(NamedTuple):
    """A file, directory or symlink to be made as the source's is."""

    attributes: Attributes
    ranges: list[tuple[int, int]] | None  # None: all of its content
    content: bytes | None = None  # all of it, if it came along
    last: bool = True  # of this file's jobs
    is_new: bool = False  # created, or called by another id, just now

    @property
    def needs_no_comparing(self) -> bool:
        """Whether everything that it takes is here already."""
        attributes = self.attributes
        is_empty = attributes.kind is not Kind.FILE or not attributes.size_bytes
        return self.content is not None or is_empty


@final
class Namespace:
    """Carries out listings, one at a time.

    Args:
        ask: Asks the source what it knows of fids.
        spare_fids: Ids that neither node uses, for files whose own id means another one there.
        rescuing: Keeps what is removed, where it must be kept.
    """

    def __init__(self, ask: AskSource, spare_fids: Iterator[int], rescuing: Rescuing) -> None:
        self._ask: Final = ask
        self._rescuing: Final = rescuing
        self._spare_fids: Final = spare_fids
        self._under_way: Final[dict[int, _Directory]] = {}
        self.dropped: Final[set[int]] = set()  # listed, but not known here
        self.blocked: Final[set[int]] = set()  # not all of their names could be placed
        self.has_changed = False

    def arrange(self, listing: Listing) -> Steps[list[Job]]:
        """Make the names of one part of a directory right. Returns what has to be compared.

        Raises:
            VolumeError: this node's disk refused to create something.
            PeerProtocolError: the parts of listings do not follow each other.
        """
        directory = yield from self._directory(listing)
        if directory is None:
            return []
        part = _Part(listing, directory.take(listing))
        yield from self._look_up(part)
        yield from self._ask_for(part)
        yield from self._relabel(part)
        yield from self._set_aside(part)
        yield from self._place(part)
        return part.jobs()

    def _directory(self, listing: Listing) -> Steps[_Directory | None]:
        fid = listing.fid
        if listing.first:
            if len(self._under_way) >= _UNDER_WAY_MAX:
                raise PeerProtocolError("the source began too many listings at once")
            entries = yield from entries_of(fid)
            self._under_way[fid] = _Directory(entries)
        directory = self._under_way.get(fid)
        if directory is None:
            raise PeerProtocolError("the source began a listing in its middle")
        if listing.attributes is not None:
            del self._under_way[fid]
        if directory.is_known:
            return directory
        self.dropped.add(fid)
        return None

    def _look_up(self, part: _Part) -> Steps[None]:
        """Find out which of the names' files are known here."""
        suspects = list(dict.fromkeys(named.fid for named in part.suspects()))
        found = yield from attributes_of_all(suspects)
        relabels: list[AnyRequest] = []
        for fid, own in zip(suspects, found, strict=True):
            if own is None:
                part.unknown.add(fid)
            elif part.is_other(own):
                # The same id for two things: both nodes went their own way in one epoch.
                spare = yield from self._spare_fid()
                relabels.append(Relabel(fid, spare))
                part.rename_here(fid, spare)
                part.unknown.add(fid)
        yield from self._change(relabels)

    def _spare_fid(self) -> Steps[int]:
        for fid in self._spare_fids:
            # An earlier session may have used it.
            if (yield from attributes_of(fid)) is None:
                return fid
        unreachable("spare ids do not end")

    def _ask_for(self, part: _Part) -> Steps[None]:
        wanted = [fid for fid in part.unknown if fid not in part.attributes]
        seen = part.in_the_way()
        if not wanted and not seen:
            return
        found, alive = yield from self._ask(wanted, seen)
        for attributes in found:
            part.take_attributes(attributes)
        part.alive.update(alive)

    def _relabel(self, part: _Part) -> Steps[None]:
        relabels: list[AnyRequest] = []
        for named, own in part.replaced():
            relabels.append(Relabel(own.fid, named.fid))
            part.rename_here(own.fid, named.fid)
            part.unknown.discard(named.fid)
            part.created.add(named.fid)
        yield from self._change(relabels)

    def _set_aside(self, part: _Part) -> Steps[None]:
        yield from self._change([SetAside(part.fid, name) for name in part.wrong_names()])

    def _place(self, part: _Part) -> Steps[None]:
        requests: list[AnyRequest] = []
        for named in part.misplaced():
            if named.fid not in part.unknown:
                requests.append(Place(part.fid, named.name, named.fid))
                continue
            requests.append(Apply(_creation(part.fid, named.name, part.attributes[named.fid])))
            part.unknown.discard(named.fid)
            part.created.add(named.fid)
        results = yield from self._change(requests)
        for request, result in zip(requests, results, strict=True):
            if isinstance(request, Apply):
                is_done = check_outcome(request.op, result, _BLOCKED) == 0
            else:
                is_done = result is True
            if not is_done:
                self.blocked.add(part.fid)

    def _change(self, requests: list[AnyRequest]) -> Steps[list[object]]:
        self.has_changed = self.has_changed or bool(requests)
        results: list[object] = []
        for batch in batches(requests, _CHANGES_AT_ONCE):
            results += yield CallAll(batch)
        for request, result in zip(requests, results, strict=True):
            check_moved(request, result)
        return results

    def sweep(self) -> Steps[None]:
        """Delete from limbo what no longer exists on the source.

        Such a file will never be wanted, for no id is used twice. What a directory among them
        holds comes to limbo itself: it may well be wanted. A file that exists and has another name
        loses the one in limbo.
        """
        kept: set[str] = set()
        while True:
            entries = (yield from entries_of(LIMBO_FID)) or []
            entries = [entry for entry in entries if entry.name not in kept]
            if not entries:
                return
            for batch in batches(entries, ASKED_MAX):
                kept.update((yield from self._sweep(batch)))

    def rescue_rest(self) -> Steps[None]:
        """Where something must be kept: keep what is in limbo at the end, with all below it."""
        seen: set[str] = set()
        while self._rescuing.is_on:
            entries = (yield from entries_of(LIMBO_FID)) or []
            entries = [entry for entry in entries if entry.name not in seen]
            if not entries:
                return
            seen.update(entry.name for entry in entries)
            yield from self._rescuing.before_removal(entries)
            for entry in entries:
                if entry.kind is Kind.DIRECTORY:
                    yield from self._lay_out(entry)

    def _sweep(self, entries: Sequence[Entry]) -> Steps[list[str]]:
        """Returns the names that stay."""
        _, alive = yield from self._ask([], [entry.fid for entry in entries])
        yield from self._rescuing.before_removal(
            entry for entry in entries if entry.fid not in alive
        )
        found = yield from attributes_of_all([entry.fid for entry in entries])
        links = {own.fid: own.links for own in found if own is not None}
        kept: list[str] = []
        for entry in entries:
            is_gone = False
            if entry.fid not in alive or links.get(entry.fid, 0) > 1:
                is_gone = yield from self._delete(entry)
                links[entry.fid] = links.get(entry.fid, 0) - is_gone
            if not is_gone:
                kept.append(entry.name)
        return kept

    def _delete(self, entry: Entry) -> Steps[bool]:
        if entry.kind is not Kind.DIRECTORY:
            op: Unlink | Rmdir = Unlink(entry.fid, LIMBO_FID, entry.name, 0)
        else:
            yield from self._lay_out(entry)
            op = Rmdir(entry.fid, LIMBO_FID, entry.name, 0)
        (outcome,) = yield from self._change([Apply(op)])
        return check_outcome(op, outcome, _NOT_REMOVED) == 0

    def _lay_out(self, directory: Entry) -> Steps[None]:
        """Bring what a directory in limbo holds to limbo itself."""
        children = (yield from entries_of(directory.fid)) or []
        yield from self._change([SetAside(directory.fid, child.name) for child in children])


@final
class _Directory:
    """What a directory of the target holds, while its listing arrives in parts."""

    def __init__(self, entries: list[Entry] | None) -> None:
        self.is_known: Final = entries is not None
        self._entries: Final = sorted(entries or (), key=lambda entry: entry.name)
        self._at = 0

    def take(self, listing: Listing) -> dict[str, Entry]:
        """The entries that this part of the listing speaks of: up to its last name, or all."""
        begin = self._at
        if listing.attributes is not None:
            self._at = len(self._entries)
        else:
            last = listing.names[-1].name if listing.names else ""
            while self._at < len(self._entries) and self._entries[self._at].name <= last:
                self._at += 1
        return {entry.name: entry for entry in self._entries[begin : self._at]}


@final
class _Part:
    """One part of a listing, what the target has there, and what is known of both."""

    def __init__(self, listing: Listing, here: dict[str, Entry]) -> None:
        self.fid: Final = listing.fid
        self._names: Final = listing.names
        self._directory: Final = listing.attributes
        self._here: Final = here
        self._whole: Final = listing.whole
        self.attributes: Final[dict[int, Attributes]] = {
            named.fid: named.attributes for named in listing.names if named.attributes is not None
        }
        self.unknown: Final[set[int]] = set()
        self.created: Final[set[int]] = set()  # or called by another id: to be compared whole
        self.alive: Final[set[int]] = set()

    def fits(self, named: Named) -> bool:
        """Whether the name stands for the right thing."""
        own = self._here.get(named.name)
        return own is not None and (own.fid, own.kind) == (named.fid, named.kind)

    def suspects(self) -> Iterator[Named]:
        """Names that are not right, or may stand for something else in spite of their id."""
        for named in self._names:
            is_fixed = named.kind not in _CHANGEABLE and named.attributes is not None
            if is_fixed or not self.fits(named):
                yield named

    def is_other(self, own: Attributes) -> bool:
        """Whether the target's file `own` cannot be the source's one with the same id."""
        kinds = {named.kind for named in self._names if named.fid == own.fid}
        attributes = self.attributes.get(own.fid)
        if own.kind not in kinds:
            return True
        return attributes is not None and (
            (attributes.target, attributes.rdev) != (own.target, own.rdev)
        )

    def rename_here(self, fid: int, new_fid: int) -> None:
        """What is called `fid` here is called `new_fid` from now on."""
        for name, own in self._here.items():
            if own.fid == fid:
                self._here[name] = msgspec.structs.replace(own, fid=new_fid)

    def take_attributes(self, attributes: Attributes) -> None:
        """Take in what the source answered.

        Raises:
            PeerProtocolError: it answered what was not asked.
        """
        kinds = {named.kind for named in self._names if named.fid == attributes.fid}
        if attributes.fid not in self.unknown or attributes.kind not in kinds:
            raise PeerProtocolError("the source answered what it was not asked")
        self.attributes[attributes.fid] = attributes

    def _candidates(self) -> Iterator[tuple[Named, Entry]]:
        """Unknown files, each with what is called by their name here and may be their old self."""
        for named in self._names:
            own = self._here.get(named.name)
            # What cannot be changed costs nothing to create.
            is_alike = own is not None and own.kind is named.kind and own.kind in _CHANGEABLE
            if is_alike and own is not None and named.fid in self.unknown:
                yield named, own

    def in_the_way(self) -> list[int]:
        """Fids here of which it matters whether the source has them."""
        return list(dict.fromkeys(own.fid for _, own in self._candidates()))

    def replaced(self) -> list[tuple[Named, Entry]]:
        """Unknown files, with what is to be called by their id."""
        used: set[int] = set()
        chosen: list[tuple[Named, Entry]] = []
        for named, own in self._candidates():
            is_free = own.fid not in self.alive and not used & {own.fid, named.fid}
            if is_free and named.fid in self.attributes:
                used |= {own.fid, named.fid}
                chosen.append((named, own))
        return chosen

    def misplaced(self) -> list[Named]:
        """Names that must be made, as far as that can be done."""
        return [
            named
            for named in self._names
            if not self.fits(named)
            and (named.fid not in self.unknown or named.fid in self.attributes)
        ]

    def wrong_names(self) -> Iterable[str]:
        """Names here that must go."""
        vanished = {
            named.name
            for named in self._names
            if named.fid in self.unknown and named.fid not in self.attributes
        }
        right = {named.name for named in self._names if self.fits(named)}
        return [name for name in self._here if name not in right and name not in vanished]

    def jobs(self) -> list[Job]:
        """What has to be compared, now that the names are right."""
        contents = {named.fid: named.content for named in self._names}
        jobs = [
            Job(
                attributes,
                None,
                contents[fid] if fid in self.created else None,
                is_new=fid in self.created,
            )
            for fid, attributes in self.attributes.items()
            if attributes.kind is not Kind.DIRECTORY
            and (self._whole or fid in self.created)
            and fid not in self.unknown
        ]
        if self._directory is not None:
            jobs.append(Job(self._directory, []))
        return jobs


def _creation(parent: int, name: str, attributes: Attributes) -> Birth:
    """The op that creates a file. It must be written to first: its mode is restored later."""
    fid, uid, gid = attributes.fid, attributes.uid, attributes.gid
    mode, mtime_ns = attributes.mode, attributes.mtime_ns
    match attributes.kind:
        case Kind.FILE:
            return Create(fid, parent, name, mode | 0o600, uid, gid, mtime_ns)
        case Kind.DIRECTORY:
            return Mkdir(fid, parent, name, mode | 0o700, uid, gid, mtime_ns)
        case Kind.SYMLINK:
            ensure(bool(attributes.target), "a symlink has a target")
            return Symlink(fid, parent, name, attributes.target, uid, gid, mtime_ns)
        case kind:
            return Mknod(fid, parent, name, kind, mode, attributes.rdev, uid, gid, mtime_ns)
