"""How the source of a resync lists its directories, and answers what the target asks of fids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

from mirrorha.errors import VolumeError
from mirrorha.volume.disk import Attributes, Entry, Kind, ListDirectory, ReadAttributes, ReadBytes
from mirrorha.volume.resync.disk_steps import attributes_of_all, bytes_of_all
from mirrorha.volume.resync.messages import (
    ENTRY_BYTES_MAX,
    SMALL_FILE_BYTES_MAX,
    Answer,
    Ask,
    Listing,
    Named,
    attribute_bytes,
    named_bytes,
)
from mirrorha.volume.resync.outgoing import Counts, Outgoing
from mirrorha.volume.resync.pace import Pace
from mirrorha.volume.resync.plan import chunks
from mirrorha.volume.resync.session import Session
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.tasks.task import CallAll, Pool, Steps, Take
from mirrorha.volume.touched import TouchKey, all_of

# Directories that are read at the same time, so that the disk has something to do while messages
# are made of the others.
_LISTED_AT_ONCE: Final = 4
# Attributes, and perhaps contents, that are read by one batch of requests.
_READ_AT_ONCE: Final = 64

Record = Callable[[Iterable[TouchKey]], Steps[None]]


@final
class Lister:
    """Lists directories: those queued and, below them, what the target is to compare whole.

    Args:
        record: Makes touched keys durable in the log of this node.
    """

    def __init__(
        self,
        *,
        session: Session,
        outgoing: Outgoing,
        pace: Pace,
        counts: Counts,
        record: Record,
    ) -> None:
        self._session: Final = session
        self._outgoing: Final = outgoing
        self._pace: Final = pace
        self._counts: Final = counts
        self._record: Final = record
        self._places: Final = Pool(session.tasks, _LISTED_AT_ONCE)
        self._queue: Final[list[tuple[int, bool]]] = []
        self._listed: Final = FidSet()  # in this pass
        self._told: Final = FidSet()  # the target had their attributes, to compare all of them
        self._fresh: frozenset[int] = frozenset()
        self.everything = False  # whether this resync compares all; known before the first pass
        self.target_is_empty = False

    @property
    def has_more(self) -> bool:
        """Whether directories wait to be listed."""
        return bool(self._queue)

    def begin_pass(self, fresh: frozenset[int]) -> None:
        """A new pass: every directory may be listed again.

        Args:
            fresh: Files that the target can hardly know, all of each covered by the touched log.
        """
        self._listed.clear()
        self._fresh = fresh

    def queue(self, fid: int) -> None:
        """List a directory, unless that was done in this pass."""
        self._queue.append((fid, False))

    def queue_again(self, fid: int, *, was_dropped: bool) -> None:
        """List a directory once more. `was_dropped`: the target made no use of it at all."""
        # If only some is compared, it asks for what it still lacks.
        self._queue.append((fid, was_dropped and self.everything))
        self._listed.discard(fid)

    def run(self) -> Steps[None]:
        """List all that is queued, and what that leads to."""
        while self._queue:
            while self._queue:
                fid, was_dropped = self._queue.pop()
                if fid not in self._listed:
                    self._listed.add(fid)
                    yield Take(self._places, 1)
                    self._session.tasks.spawn(self._list(fid, was_dropped=was_dropped))
            # Those that are under way may yet queue what they find.
            yield Take(self._places, _LISTED_AT_ONCE)
            self._places.put(_LISTED_AT_ONCE)

    def answer(self, ask: Ask) -> Steps[None]:
        """Answer the target, once the log covers all of what it is going to create."""
        found = [one for one in (yield from attributes_of_all(ask.wanted)) if one is not None]
        seen = yield from attributes_of_all(ask.seen)
        if not self.everything:
            yield from self._record(key for one in found for key in all_of(one.fid))
        for one in found:
            self._tell(one)
            if one.kind is Kind.DIRECTORY:
                self.queue(one.fid)
        for part in chunks(found, bytes_of=attribute_bytes):
            yield self._session.message(Answer, part, [], False)
        alive = [one.fid for one in seen if one is not None]
        yield self._session.message(Answer, [], alive, True)

    def _list(self, fid: int, *, was_dropped: bool) -> Steps[None]:
        entries, attributes = yield CallAll([ListDirectory(fid), ReadAttributes(fid)])
        # A directory that somebody has open, but no name leads to, is nobody's business.
        if entries is not None and attributes is not None and attributes.links > 0:
            yield from self._send_listing(attributes, entries, was_dropped=was_dropped)
        self._places.put(1)

    def _send_listing(
        self, attributes: Attributes, entries: list[Entry], *, was_dropped: bool
    ) -> Steps[None]:
        fid, first = attributes.fid, True
        waiting: list[Named] = []
        for batch in self._pace.batches(sorted(entries, key=_name_of), _READ_AT_ONCE):
            described = yield from self._describe(batch, was_dropped=was_dropped)
            *full, waiting = list(chunks([*waiting, *described], bytes_of=named_bytes)) or [[]]
            for names in full:
                yield from self._send(fid, names, first, None)
                first = False
        _check_length(attributes)
        yield from self._send(fid, waiting, first, attributes)

    def _send(
        self, fid: int, names: list[Named], first: bool, attributes: Attributes | None
    ) -> Steps[None]:
        yield from self._outgoing.take_entries(max(1, len(names)))
        content_bytes = sum(len(named.content or b"") for named in names)
        if content_bytes:
            yield from self._outgoing.take_bytes(content_bytes)
            yield from self._pace.take(content_bytes)
            self._counts.sent(content_bytes)
            self._counts.compared(content_bytes)
        yield self._session.message(Listing, fid, self.everything, names, first, attributes)
        # After their parent, so that the target knows them by then.
        for named in reversed(names):
            if named.kind is Kind.DIRECTORY and named.attributes is not None:
                self.queue(named.fid)

    def _describe(self, batch: Sequence[Entry], *, was_dropped: bool) -> Steps[list[Named]]:
        """Names as they are sent, with the attributes of what is to be compared whole."""
        told = [entry.fid for entry in batch if was_dropped or self._is_news(entry.fid)]
        found = yield from attributes_of_all(list(dict.fromkeys(told)))
        attributes = {one.fid: one for one in found if one is not None}
        small = [one for one in attributes.values() if self._is_small(one)]
        contents = yield from bytes_of_all([ReadBytes(one.fid, 0, one.size_bytes) for one in small])
        content_of = {one.fid: content for one, content in zip(small, contents, strict=True)}
        names: list[Named] = []
        for entry in batch:
            own = attributes.pop(entry.fid, None)  # with its first name only
            content = content_of.get(entry.fid) if own is not None else None
            if own is not None:
                self._tell(own)
            names.append(Named(entry.name, entry.fid, entry.kind, own, content))
        return names

    def _is_news(self, fid: int) -> bool:
        return fid not in self._told and (self.everything or fid in self._fresh)

    def _is_small(self, attributes: Attributes) -> bool:
        return (
            self.target_is_empty
            and attributes.kind is Kind.FILE
            and attributes.fid not in self._told
            and 0 < attributes.size_bytes <= SMALL_FILE_BYTES_MAX
        )

    def _tell(self, attributes: Attributes) -> None:
        _check_length(attributes)
        self._told.add(attributes.fid)
        if attributes.kind is Kind.FILE:
            self._counts.found(attributes.size_bytes)


def _name_of(entry: Entry) -> str:
    return entry.name


def _check_length(attributes: Attributes) -> None:
    if attribute_bytes(attributes) > ENTRY_BYTES_MAX - SMALL_FILE_BYTES_MAX - 4096:
        raise VolumeError(
            f"file {attributes.fid:#x} has extended attributes of more than 600 KiB in all: "
            "a resync cannot carry them; remove some"
        )
