"""The target of a resync: asks, compares, and makes its tree what the source's is.

Listings and `Compare`s are carried out in the order of their arrival by one task; each file whose
content or attributes are compared has a task of its own. A file is compared by sending hashes of
what is here, some megabytes ahead of the answers; what differs comes as `Content` and `Zeros`,
which are given to the disk as they arrive. Since the disk performs requests in the order in which
they are asked, what a task asks once a part is `Checked` comes after that part's content.
Attributes come last, for writing changes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, final

import msgspec

from mirrorha.core.orders import BecomeTarget
from mirrorha.errors import PeerProtocolError, VolumeError
from mirrorha.volume.disk import LIMBO_FID, Attributes, ClearLimbo, Kind, PunchHole, SyncTree
from mirrorha.volume.events import Lane
from mirrorha.volume.ops import (
    FID_COUNTER_BITS,
    ROOT_FID,
    AnyOp,
    SetAttributes,
    SetXattr,
    Truncate,
    Write,
    make_fid,
)
from mirrorha.volume.resync.disk_steps import (
    attributes_of,
    attributes_of_all,
    change,
    check_moved,
    entries_of,
    hashes_of,
)
from mirrorha.volume.resync.messages import (
    ASKED_MAX,
    BYTES_WINDOW,
    ENTRIES_WINDOW,
    HASHED_BLOCKS_MAX,
    HASHES_WINDOW,
    KEYS_MAX,
    Answer,
    Ask,
    Barrier,
    Checked,
    Compare,
    Content,
    Done,
    Equal,
    Hashes,
    Hello,
    Listing,
    Reached,
    ResyncMessage,
    Settle,
    Settled,
    Touched,
    Zeros,
    check_from_source,
)
from mirrorha.volume.resync.namespace import Asked, Job, Namespace
from mirrorha.volume.resync.rescuing import Rescuing
from mirrorha.volume.resync.session import Session
from mirrorha.volume.stream.resync_interface import ResyncEffect, ResyncEvent, ResyncStatus
from mirrorha.volume.tasks.fid_set import FidSet
from mirrorha.volume.tasks.task import Box, Call, Pool, Receive, Steps, Take
from mirrorha.volume.touched import TouchedState
from mirrorha.wire.limits import BLOCK_BYTES

# Parts of one file whose hashes are on their way: 16 MiB, which is what a disk reads in the time
# of some round trips.
HASHED_AHEAD: Final = 4
# Bytes of files that are compared at the same time, at least a page for each.
JOBS_BYTES: Final = 64 * 1024 * 1024
_JOB_BYTES_MIN: Final = 4096
# After so much content was written a sync begins; after twice as much writing waits for it.
SYNC_BYTES: Final = 64 * 1024 * 1024
# The source's windows are many times larger than what is not told at once.
_PAID_ENTRIES: Final = ENTRIES_WINDOW // 64
_PAID_BYTES: Final = BYTES_WINDOW // 16
# More than the source's windows allow it to have under way.
_WRITES_MAX: Final = 1 << 20
# Of ids that mean two things, in one session.
_SPARE_FIDS: Final = 4096


def doubt_of(mine: TouchedState, hello: Hello) -> str:
    """Why the two logs may lack something in which the copies differ; "" if they do not.

    Raises:
        VolumeError: it is the source that lacks what both have had.
    """
    if hello.confirmed < mine.retired:
        raise VolumeError(
            f"the node that serves has a disk of an older day: it knows of nothing after "
            f"{hello.confirmed}, and both held everything up to {mine.retired}. Nothing is "
            "overwritten here; 'mirrorha resync NODE --full' gives this copy up"
        )
    if mine.damaged:
        return "the touched log of the node that is filled was damaged"
    if mine.confirmed < hello.retired:
        # What the source has forgotten since is not on this disk: it was put back to an older day.
        return "the node that is filled has a disk of an older day"
    return ""


@final
class ResyncTarget:
    """Makes this node's tree equal to the source's.

    Args:
        order: Which session, in which epoch.
        touched: This node's touched log.
        filled: Files that earlier sessions of this epoch have made equal. More are added.
    """

    def __init__(self, order: BecomeTarget, touched: TouchedState, filled: FidSet) -> None:
        self._session: Final = Session(
            epoch=order.epoch,
            number=order.session,
            lane=Lane.TREE,
            receive=self._receive,
            finish_step=self._finish_step,
        )
        self._touched: Final = touched
        self._filled: Final = filled
        self._resumes = False
        self._tasks: Final = self._session.tasks
        self._inbox: Final[Box[Listing | Compare | Barrier | Settle]] = Box(self._tasks)
        self._answers: Final[Box[Answer]] = Box(self._tasks)
        self._jobs: Final = Pool(self._tasks, JOBS_BYTES)
        self._hashes: Final = Pool(self._tasks, HASHES_WINDOW)
        self._writes: Final = Pool(self._tasks, _WRITES_MAX)
        self._unsynced: Final = Pool(self._tasks, 2 * SYNC_BYTES)
        self._unsynced_bytes = 0
        self._is_syncing = False
        self._exchanges: Final[dict[int, _Exchange]] = {}
        self._tickets: Final = itertools.count(1)
        self._rescuing: Final = Rescuing(order, self._tasks)
        self._namespace: Final = Namespace(self._ask, _spare_fids(order), self._rescuing)
        self._whole: Final = FidSet()  # what is compared whole in this pass
        self._seed = 0
        self._has_begun = False
        self._is_asking = False
        self._is_settled = False
        self._has_changed = False
        self._owed_entries = 0
        self._owed_bytes = 0
        self._paid = 0, 0, 0, 0

    @property
    def status(self) -> ResyncStatus:
        return self._session.status

    @property
    def failure(self) -> str:
        return self._session.failure

    @property
    def failed_here(self) -> bool:
        return self._session.failed_here

    def start(self, now_ms: int) -> Sequence[ResyncEffect]:
        """Wait for the source to begin."""
        return self._session.start(now_ms)

    def step(self, event: ResyncEvent, now_ms: int) -> Sequence[ResyncEffect]:
        """See `ResyncSide`."""
        return self._session.step(event, now_ms)

    def _receive(self, message: ResyncMessage) -> None:
        check_from_source(message)
        if isinstance(message, Hello):
            if self._has_begun:
                raise PeerProtocolError("the source began twice")
            self._seed, self._has_begun = message.seed, True
            self._tasks.spawn(self._run(message))
            return
        if not self._has_begun:
            raise PeerProtocolError("the source did not begin with a Hello")
        self._is_settled = self._is_settled and isinstance(message, Equal)
        match message:
            case Listing() | Compare() | Barrier() | Settle():
                self._take_work(message)
            case Answer() if self._is_asking:
                self._answers.put(message)
            case Content() | Zeros() | Checked() if message.ticket in self._exchanges:
                self._take_content(message, self._exchanges[message.ticket])
            case Equal() if self._is_settled:
                self._session.status = ResyncStatus.EQUAL
            case _:
                raise PeerProtocolError(f"the source sent a {type(message).__name__} out of turn")

    def _take_work(self, message: Listing | Compare | Barrier | Settle) -> None:
        entries, content_bytes = _cost(message)
        self._owe(entries, content_bytes)
        if len(self._inbox) > 2 * ENTRIES_WINDOW:
            raise PeerProtocolError("the source sends barrier after barrier")
        self._inbox.put(message)

    def _take_content(self, message: Content | Zeros | Checked, exchange: _Exchange) -> None:
        if isinstance(message, Content):
            self._owe(0, len(message.data))
        if isinstance(message, Checked) or self._rescuing.is_on:
            exchange.box.put(message)
        else:
            self._tasks.spawn(self._take_in(message, exchange))

    def _take_in(self, message: Content | Zeros, exchange: _Exchange) -> Steps[None]:
        """Make what is here what the source has there."""
        match message:
            case Content(offset=offset, data=data):
                write = Write(exchange.fid, offset, data, exchange.mtime_ns)
                yield from self._write(write, len(data))
            case Zeros(first=first, count=count):
                hole = PunchHole(exchange.fid, first * BLOCK_BYTES, count * BLOCK_BYTES)
                yield from self._write(hole, 0)

    def _write(self, request: Write | PunchHole, content_bytes: int) -> Steps[None]:
        yield Take(self._writes, 1)
        yield from self._change([request])
        yield from self._keep_syncing(content_bytes)
        self._writes.put(1)
        self._pay(0, 0, content_bytes)

    def _keep_syncing(self, content_bytes: int) -> Steps[None]:
        """So much more was written: see that what is not durable yet does not pile up.

        A sync of everything at the end could take so long that it would pass for a failing disk.
        Whoever waits here has not been paid for, and so the source waits too.
        """
        yield Take(self._unsynced, content_bytes)
        self._unsynced_bytes += content_bytes
        if self._unsynced_bytes >= SYNC_BYTES and not self._is_syncing:
            self._is_syncing = True
            while self._unsynced_bytes >= SYNC_BYTES:
                yield from self._sync()
            self._is_syncing = False

    def _sync(self) -> Steps[None]:
        content_bytes, self._unsynced_bytes = self._unsynced_bytes, 0
        yield Call(SyncTree(), Lane.SYNC)
        self._unsynced.put(content_bytes)

    # What is owed to the source's windows.

    def _owe(self, entries: int, content_bytes: int) -> None:
        self._owed_entries += entries
        self._owed_bytes += content_bytes
        if self._owed_entries > ENTRIES_WINDOW or self._owed_bytes > BYTES_WINDOW:
            raise PeerProtocolError("the source sends more than it may without being answered")

    def _pay(self, entries: int, files: int, content_bytes: int, skipped_bytes: int = 0) -> None:
        self._owed_entries -= entries
        self._owed_bytes -= content_bytes
        paid_entries, paid_files, paid_bytes, paid_skipped = self._paid
        self._paid = (
            paid_entries + entries,
            paid_files + files,
            paid_bytes + content_bytes,
            paid_skipped + skipped_bytes,
        )

    def _finish_step(self) -> None:
        entries, files, content_bytes, _ = self._paid
        # Little is told together with more that comes soon.
        is_much = max(entries, files) >= _PAID_ENTRIES or content_bytes >= _PAID_BYTES
        if is_much or (any(self._paid) and not self._tasks.is_calling):
            self._tasks.emit(self._session.message(Done, *self._paid))
            self._paid = 0, 0, 0, 0

    # The one task that keeps the order.

    def _run(self, hello: Hello) -> Steps[None]:
        yield from self._rescuing.begin()
        yield from self._tell_touched(hello)
        yield from self._namespace.sweep()
        while True:
            message = yield Receive(self._inbox)
            match message:
                case Listing():
                    yield from self._arrange(message)
                case Compare():
                    for part in message.files:
                        yield from self._spawn(Job(part.attributes, part.ranges, last=part.last))
                case Barrier():
                    yield self._session.message(
                        Reached, _some(self._namespace.dropped), _some(self._namespace.blocked)
                    )
                case Settle(final=final):
                    yield from self._settle(final=final)

    def _tell_touched(self, hello: Hello) -> Steps[None]:
        doubt = "" if hello.everything else doubt_of(self._touched, hello)
        files = yield from entries_of(ROOT_FID)
        aside = yield from entries_of(LIMBO_FID)
        empty = not files and not aside
        keys = [] if hello.everything or doubt else self._touched.keys
        # What is to be kept of this side must be seen by this session.
        self._resumes = hello.covers and bool(self._filled) and not self._rescuing.is_on
        parts = [keys[at : at + KEYS_MAX] for at in range(0, len(keys), KEYS_MAX)] or [[]]
        for part in parts:
            yield self._session.message(
                Touched, part, part is parts[-1], empty, doubt, self._resumes
            )

    def _ask(self, wanted: Sequence[int], seen: Sequence[int]) -> Steps[Asked]:
        self._is_asking = True
        yield self._session.message(Ask, list(wanted), list(seen))
        attributes: list[Attributes] = []
        alive: list[int] = []
        while self._is_asking:
            answer: Answer = yield Receive(self._answers)
            attributes += answer.attributes
            alive += answer.alive
            self._is_asking = not answer.last
        return attributes, set(alive)

    def _arrange(self, listing: Listing) -> Steps[None]:
        jobs = yield from self._namespace.arrange(listing)
        entries, content_bytes = _cost(listing)
        small: list[Job] = []
        for job in jobs:
            if self._is_filled(job):
                # What was touched since is in the source's log, and compared by that.
                self._pay(0, 1, 0, job.attributes.size_bytes)
                continue
            if job.attributes.kind is not Kind.DIRECTORY:
                self._whole.add(job.attributes.fid)
            if job.needs_no_comparing:
                small.append(job)
            else:
                entries -= 1
                yield from self._spawn(job)
        job_bytes = min(_JOB_BYTES_MIN + content_bytes, JOBS_BYTES)
        yield Take(self._jobs, job_bytes)
        self._tasks.spawn(self._do_small(small, entries, content_bytes, job_bytes))

    def _is_filled(self, job: Job) -> bool:
        """Whether a file was made equal by an earlier session, whole."""
        fid = job.attributes.fid
        if job.is_new:
            self._filled.discard(fid)
        is_file = job.attributes.kind is Kind.FILE and job.ranges is None
        return self._resumes and is_file and fid in self._filled

    def _spawn(self, job: Job) -> Steps[None]:
        job_bytes = min(_JOB_BYTES_MIN + _content_bytes(job), JOBS_BYTES)
        yield Take(self._jobs, job_bytes)
        self._tasks.spawn(self._do(job, job_bytes))

    def _settle(self, *, final: bool) -> Steps[None]:
        yield Take(self._jobs, JOBS_BYTES)
        self._jobs.put(JOBS_BYTES)
        yield Take(self._writes, _WRITES_MAX)
        self._writes.put(_WRITES_MAX)
        self._whole.clear()
        # In steps, before one request clears what is left: it must not pass for a failing disk.
        yield from self._namespace.sweep()
        yield from self._rescuing.after_pass()
        if final:
            yield from self._namespace.rescue_rest()
            yield from self._rescuing.report()
            clear = ClearLimbo()
            check_moved(clear, (yield Call(clear)))
        elif self._has_changed or self._namespace.has_changed:
            # The last sync, with the application waiting, has so much less to do.
            self._has_changed = self._namespace.has_changed = False
            yield from self._sync()
        self._is_settled = final
        yield self._session.message(Settled)

    # One file.

    def _do(self, job: Job, job_bytes: int) -> Steps[None]:
        attributes = job.attributes
        is_file = attributes.kind is Kind.FILE
        # Asked for whole by a listing of this pass: what was touched of it is compared there.
        is_double = job.ranges is not None and attributes.fid in self._whole
        if not is_double and (not is_file or (yield from self._compare(job))):
            yield from self._restore([attributes])
            if job.ranges is None or not is_file:
                yield from self._rescuing.now_equal([attributes.fid])
                self._filled.add(attributes.fid)
        self._jobs.put(job_bytes)
        self._pay(1, int(is_file), 0)

    def _do_small(
        self, jobs: list[Job], entries: int, content_bytes: int, job_bytes: int
    ) -> Steps[None]:
        """Finish what one listing was enough for, all in one go."""
        writes = [_write_of(job) for job in jobs if job.content is not None]
        yield from self._change(writes)
        yield from self._restore([job.attributes for job in jobs])
        yield from self._rescuing.now_equal([job.attributes.fid for job in jobs])
        for job in jobs:
            self._filled.add(job.attributes.fid)
        yield from self._keep_syncing(content_bytes)
        self._jobs.put(job_bytes)
        files = sum(job.attributes.kind is Kind.FILE for job in jobs)
        self._pay(entries, files, content_bytes)

    def _compare(self, job: Job) -> Steps[bool]:
        """Make a file's content that of the source's. False if it is gone from either."""
        fid, size_bytes, mtime_ns = _content_of(job.attributes)
        own = yield from attributes_of(fid)
        if own is None or own.kind is not Kind.FILE:
            return False
        own_bytes = min(own.size_bytes, size_bytes)
        if own.size_bytes > size_bytes:
            # First: so the last block is not sent only because it goes on here.
            yield from self._change([Truncate(fid, size_bytes, mtime_ns)])
        return (yield from self._exchange(job, own_bytes))

    def _exchange(self, job: Job, own_bytes: int) -> Steps[bool]:
        """Send hashes of what is here, have what differs written. False if the file is gone."""
        fid, size_bytes, mtime_ns = _content_of(job.attributes)
        exchange = _Exchange(fid, mtime_ns, Box(self._tasks))
        ticket = next(self._tickets)
        self._exchanges[ticket] = exchange
        own_blocks = _blocks(own_bytes)
        for first, count in _pieces(job, own_bytes):
            own = min(count, own_blocks - first)
            digests = (yield from hashes_of(fid, first, own, self._seed)) if own > 0 else []
            if digests is None or exchange.is_gone:
                exchange.is_gone = True
                break
            yield Take(self._hashes, 1)
            exchange.ahead += 1
            yield self._session.message(Hashes, ticket, fid, first, count, digests, size_bytes)
            if exchange.ahead >= HASHED_AHEAD:
                yield from self._await_checked(exchange)
        while exchange.ahead:
            yield from self._await_checked(exchange)
        del self._exchanges[ticket]
        return not exchange.is_gone

    def _await_checked(self, exchange: _Exchange) -> Steps[None]:
        message: Content | Zeros | Checked = yield Receive(exchange.box)
        while not isinstance(message, Checked):
            # In this order, where what is here must be kept before: else it would be overtaken.
            yield from self._take_in(message, exchange)
            message = yield Receive(exchange.box)
        exchange.ahead -= 1
        exchange.is_gone = exchange.is_gone or message.gone
        self._hashes.put(1)

    def _restore(self, wanted: list[Attributes]) -> Steps[None]:
        """Make sizes and attributes what they are on the source."""
        late: list[Attributes] = []
        changes: list[AnyOp] = []
        last_changes: list[AnyOp] = []
        for own, one in (yield from _paired(wanted)):
            early = [*_size_changes(own, one), *_owner_changes(own, one)]
            changes += early or _late_changes(own, one)
            if early:
                # A new owner takes capabilities away, a new mode changes access control lists.
                late.append(one)
        yield from self._change(changes)
        for own, one in (yield from _paired(late)):
            last_changes += _late_changes(own, one)
        yield from self._change(last_changes)

    def _change(self, changes: Sequence[AnyOp | PunchHole]) -> Steps[None]:
        if changes:
            yield from self._rescuing.before_change(changes)
            self._has_changed = True
            yield from change(changes)


@final
class _Exchange:
    """A file whose blocks are being compared."""

    __slots__ = ("ahead", "box", "fid", "is_gone", "mtime_ns")

    def __init__(self, fid: int, mtime_ns: int, box: Box[Content | Zeros | Checked]) -> None:
        self.fid = fid
        self.mtime_ns = mtime_ns
        self.box = box
        self.ahead = 0  # hashes sent, and their answer not yet taken note of
        self.is_gone = False


def _paired(wanted: list[Attributes]) -> Steps[list[tuple[Attributes, Attributes]]]:
    """What is here, and what it should be: of what is here at all."""
    found = yield from attributes_of_all([one.fid for one in wanted])
    pairs = zip(found, wanted, strict=True)
    return [(own, one) for own, one in pairs if own is not None and own.kind is one.kind]


def _write_of(job: Job) -> AnyOp:
    """Give a file all of its content. One that was here before is cut to its size later."""
    fid, _, mtime_ns = _content_of(job.attributes)
    if not job.content or not any(job.content):
        return Truncate(fid, 0, mtime_ns)  # what is all zeros stays a hole
    return Write(fid, 0, job.content, mtime_ns)


def _spare_fids(order: BecomeTarget) -> Iterator[int]:
    """Ids from the end of the counter, where no file's id has ever come to."""
    begin = order.session % (1 << 20) * _SPARE_FIDS
    last = (1 << FID_COUNTER_BITS) - 1 - begin
    return (make_fid(epoch=order.epoch, counter=last - at) for at in itertools.count())


def _some(fids: set[int]) -> list[int]:
    """Take out as many as one message may name."""
    chosen = list(itertools.islice(fids, ASKED_MAX))
    fids.difference_update(chosen)
    return chosen


def _cost(message: Listing | Compare | Barrier | Settle) -> tuple[int, int]:
    """What a message takes of the source's windows: entries and bytes."""
    match message:
        case Listing(names=names):
            content_bytes = sum(len(named.content or b"") for named in names)
            return max(1, len(names)), content_bytes
        case Compare(files=files):
            return len(files), 0
        case _:
            return 0, 0


def _content_of(attributes: Attributes) -> tuple[int, int, int]:
    return attributes.fid, attributes.size_bytes, attributes.mtime_ns


def _content_bytes(job: Job) -> int:
    """How much of a file is compared, about."""
    size_bytes = job.attributes.size_bytes
    if job.ranges is None:
        return size_bytes
    return min(size_bytes, sum(count for _, count in job.ranges) * BLOCK_BYTES)


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES)


def _pieces(job: Job, own_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut ranges of blocks into what one message may speak of, up to the file's end.

    What the target's file lacks at its end always belongs to the last of them.
    """
    size_bytes = job.attributes.size_bytes
    end = _blocks(size_bytes)
    ranges = [(0, end)] if job.ranges is None else list(job.ranges)
    if own_bytes < size_bytes and job.last:
        ranges.append((own_bytes // BLOCK_BYTES, end))
    at = 0
    for first, count in sorted(ranges):
        at = max(at, first)
        stop = min(first + count, end)
        while at < stop:
            piece = min(HASHED_BLOCKS_MAX, stop - at)
            yield at, piece
            at += piece


def _size_changes(own: Attributes, wanted: Attributes) -> Iterator[AnyOp]:
    if wanted.kind is Kind.FILE and own.size_bytes != wanted.size_bytes:
        yield Truncate(wanted.fid, wanted.size_bytes, wanted.mtime_ns)


def _owner_changes(own: Attributes, wanted: Attributes) -> Iterator[AnyOp]:
    # A node that does not run as root keeps no owners: -1.
    has_owners = -1 not in {own.uid, own.gid, wanted.uid, wanted.gid}
    if has_owners and (own.uid, own.gid) != (wanted.uid, wanted.gid):
        # Before the mode, for it takes the bits away that let a program run as its owner.
        yield SetAttributes(wanted.fid, None, wanted.uid, wanted.gid, None)
        own = msgspec.structs.replace(own, mode=-1)
    if own.mode != wanted.mode and wanted.kind is not Kind.SYMLINK:
        yield SetAttributes(wanted.fid, wanted.mode, None, None, None)


def _late_changes(own: Attributes, wanted: Attributes) -> Iterator[AnyOp]:
    for name in own.xattrs.keys() - wanted.xattrs.keys():
        yield SetXattr(wanted.fid, name, None)
    for name, value in wanted.xattrs.items():
        if own.xattrs.get(name) != value:
            yield SetXattr(wanted.fid, name, value)
    atime_ns = None if own.atime_ns in {None, wanted.atime_ns} else wanted.atime_ns
    if own.mtime_ns != wanted.mtime_ns or atime_ns is not None:
        yield SetAttributes(wanted.fid, None, None, None, wanted.mtime_ns, atime_ns)
