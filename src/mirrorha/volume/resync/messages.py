"""What the two sides of a resync say to each other, and what of it is lawful.

The source lists directories and names files to compare; the target asks for what it lacks and
sends hashes of what it has; the source sends what differs. Everything that waits anywhere is
bounded by what each side owes the other: `Done` gives back entries and bytes.

Fields are only ever appended. A message of another epoch or session than the receiver's is left
over from one that ended, and ignored.
"""

from __future__ import annotations

import itertools
from typing import Final

import msgspec

from mirrorha.errors import PeerProtocolError, ensure
from mirrorha.volume.disk import LIMBO_FID, Attributes, Kind
from mirrorha.volume.names import checked_name
from mirrorha.volume.op_checks import FID_MAX, OFFSET_MAX, RDEV_MAX
from mirrorha.volume.ops import DEVICE_KINDS, ROOT_FID
from mirrorha.volume.stream.messages import Message
from mirrorha.volume.touched import SEGMENT_BYTES, TouchKey
from mirrorha.wire.limits import (
    BLOCK_BYTES,
    FRAME_BYTES_MAX,
    PATH_BYTES_MAX,
    WRITE_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
)

DIGEST_BYTES: Final = 16
SEGMENT_BLOCKS: Final = SEGMENT_BYTES // BLOCK_BYTES

# One message names at most so many things; more are sent in several.
NAMES_MAX: Final = 256
FILES_MAX: Final = 256
ASKED_MAX: Final = 512
KEYS_MAX: Final = 16_384
RANGES_MAX: Final = 4096
# 4 MiB are hashed by one request: long enough to keep a link of some milliseconds busy, short
# enough that a disk answers in between.
HASHED_BLOCKS_MAX: Final = 64
# Names with their attributes, and small files whole, are put into one message up to this length;
# the entry that exceeds it is the last. One entry may be as long as the second figure.
LISTING_BYTES: Final = 512 * 1024
ENTRY_BYTES_MAX: Final = 704 * 1024
# A file up to here may travel whole with its name.
SMALL_FILE_BYTES_MAX: Final = BLOCK_BYTES
CONTENT_BYTES_MAX: Final = WRITE_BYTES_MAX
CONTENT_BLOCKS_MAX: Final = CONTENT_BYTES_MAX // BLOCK_BYTES

# What the source may have under way until the target has given it back.
ENTRIES_WINDOW: Final = 4096
BYTES_WINDOW: Final = 8 * 1024 * 1024
# What the target may have asked for until the source has answered: `Hashes` messages.
HASHES_WINDOW: Final = 1024

BLOCK_MAX: Final = OFFSET_MAX // BLOCK_BYTES
TIME_MAX: Final = 1 << 63
TEXT_LENGTH_MAX: Final = 2000

ensure(
    LISTING_BYTES + 2 * ENTRY_BYTES_MAX < FRAME_BYTES_MAX,
    "a listing with the longest last entry, and the directory's attributes, fit in a frame",
)
ensure(CONTENT_BYTES_MAX + 1024 < FRAME_BYTES_MAX, "a piece of content fits in a frame")
ensure(BYTES_WINDOW >= 4 * CONTENT_BYTES_MAX, "one piece is read while others are written")


class ResyncMessage(Message, frozen=True):
    """Base of all messages of a resync."""

    epoch: int
    session: int


class Compare(ResyncMessage, frozen=True, tag=33):
    """Source: compare these files, as far as told, and make their attributes these."""

    files: list[Part]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A file of any kind; of its content ranges of blocks (first, how many).

    What the target's file lacks at its end belongs to the last of several parts of it.
    """

    attributes: Attributes
    ranges: list[tuple[int, int]]
    last: bool = True


class Named(msgspec.Struct, frozen=True, array_like=True):
    """A name in a directory.

    With attributes the target can create what it lacks without asking, and then compares all of
    it. `content` is all of a small file that the target lacks.
    """

    name: str
    fid: int
    kind: Kind
    attributes: Attributes | None = None
    content: bytes | None = None


class Hello(ResyncMessage, frozen=True, tag=32):
    """Source: it begins. `everything`: all is compared; else what either side has touched.

    `covers`: if the target resumes, all that the source's log holds is compared besides. `seed` is
    that of the hashes of blocks. `confirmed` and `retired`: the source's checkpoints, see
    `TouchedState`; of what came before `retired` its log says nothing.
    """

    everything: bool
    seed: int
    confirmed: tuple[int, int] = (0, 0)
    retired: tuple[int, int] = (0, 0)
    covers: bool = False


class Listing(ResyncMessage, frozen=True, tag=34):
    """Source: a part of the names in directory `fid`, sorted by name.

    The parts of one directory follow each other, though other messages may come between them.
    The last one carries the directory's own attributes. With `whole`, what has attributes is to be
    compared whole even if the target knows it.
    """

    fid: int
    whole: bool
    names: list[Named]
    first: bool
    attributes: Attributes | None  # not None: this is the last part


class Answer(ResyncMessage, frozen=True, tag=35):
    """Source, to `Ask`, in parts: attributes of what was wanted, and which of the seen exist here.

    From now on the source's touched log covers all of what was wanted, durably.
    """

    attributes: list[Attributes]
    alive: list[int]
    last: bool


class Content(ResyncMessage, frozen=True, tag=36):
    """Source: write this. `ticket` is that of the `Hashes` that showed the difference."""

    ticket: int
    offset: int
    data: bytes


class Zeros(ResyncMessage, frozen=True, tag=37):
    """Source: these blocks are zeros, though the target holds data there."""

    ticket: int
    first: int
    count: int


class Checked(ResyncMessage, frozen=True, tag=38):
    """Source: all that differs in one `Hashes` has been sent. `gone`: there is no such file."""

    ticket: int
    gone: bool


class Barrier(ResyncMessage, frozen=True, tag=39):
    """Source: say `Reached` once you have asked all that my listings make you ask."""


class Settle(ResyncMessage, frozen=True, tag=40):
    """Source: finish what I sent; delete what is of no use, make durable what was done.

    `final`: everything in limbo goes, and durability is somebody else's business.
    """

    final: bool


class Equal(ResyncMessage, frozen=True, tag=41):
    """Source: the two trees are the same."""


class Touched(ResyncMessage, frozen=True, tag=48):
    """Target, to `Hello`: what its own touched log holds, in parts.

    `empty`: it holds no file at all, not even in limbo; so all that comes will be created.
    `doubt`: why the two logs do not tell where the copies may differ, so that all must be compared.
    `resumes`: files that an earlier session of this epoch made equal are not compared as such.
    """

    keys: list[TouchKey]
    last: bool
    empty: bool
    doubt: str = ""
    resumes: bool = False


class Ask(ResyncMessage, frozen=True, tag=49):
    """Target: I want these whole; and do those still exist?"""

    wanted: list[int]
    seen: list[int]


class Hashes(ResyncMessage, frozen=True, tag=50):
    """Target: of blocks `first` to `first + count` of this file I have this.

    Missing digests at the end: there I have nothing. b"": zeros. `size_bytes`: how long the file
    is, as I was told; -1: not said.
    """

    ticket: int
    fid: int
    first: int
    count: int
    digests: list[bytes]
    size_bytes: int = -1


class Done(ResyncMessage, frozen=True, tag=51):
    """Target: so much of what was sent is done: entries of listings and `Compare`, of them whole
    files, and bytes of content. `skipped_bytes`: of files that were equal already, by an earlier
    session."""

    entries: int
    files: int
    sent_bytes: int
    skipped_bytes: int = 0


class Reached(ResyncMessage, frozen=True, tag=52):
    """Target, to `Barrier`. Directories whose listing could not be carried out as it was:
    `dropped` are not known here, in `blocked` a name could not be placed yet."""

    dropped: list[int]
    blocked: list[int]


class Settled(ResyncMessage, frozen=True, tag=53):
    """Target, to `Settle`."""


class StillHere(ResyncMessage, frozen=True, tag=60):
    """Either: I have nothing to say, but I am at work."""


class GivenUp(ResyncMessage, frozen=True, tag=61):
    """Either: this session is over."""

    why: str


FromSource = (
    Hello
    | Compare
    | Listing
    | Answer
    | Content
    | Zeros
    | Checked
    | Barrier
    | Settle
    | Equal
    | StillHere
    | GivenUp
)
FromTarget = Touched | Ask | Hashes | Done | Reached | Settled | StillHere | GivenUp
AnyResyncMessage = FromSource | FromTarget


def check_from_source(message: object) -> None:
    """Refuse what no source sends, whatever the state.

    Raises:
        PeerProtocolError: the message breaks a limit, or is none of a source's.
    """
    match message:
        case Compare(files=files):
            lawful = len(files) <= FILES_MAX and all(_is_part(part) for part in files)
        case Listing():
            lawful = _is_listing(message)
        case Answer(attributes=attributes, alive=alive):
            lawful = max(len(attributes), len(alive)) <= ASKED_MAX and all(
                _are_attributes(one) for one in attributes
            )
        case Content(offset=offset, data=data):
            lawful = 0 < len(data) <= CONTENT_BYTES_MAX and 0 <= offset <= OFFSET_MAX - len(data)
        case Zeros(first=first, count=count):
            lawful = _is_range((first, count)) and count <= HASHED_BLOCKS_MAX
        case Hello() | Checked() | Barrier() | Settle() | Equal() | StillHere() | GivenUp():
            lawful = True
        case _:
            lawful = False
    _refuse_unless(lawful, message)


def check_from_target(message: object) -> None:
    """Refuse what no target sends, whatever the state.

    Raises:
        PeerProtocolError: the message breaks a limit, or is none of a target's.
    """
    match message:
        case Touched(keys=keys):
            lawful = len(keys) <= KEYS_MAX and all(
                _is_fid(fid) and -BLOCK_MAX <= part <= BLOCK_MAX for fid, part in keys
            )
        case Ask(wanted=wanted, seen=seen):
            lawful = _are_fids(wanted, ASKED_MAX) and _are_fids(seen, ASKED_MAX)
        case Hashes(fid=fid, first=first, count=count, digests=digests):
            lawful = (
                _is_fid(fid)
                and -1 <= message.size_bytes <= OFFSET_MAX
                and _is_range((first, count))
                and len(digests) <= count <= HASHED_BLOCKS_MAX
                and all(len(digest) in {0, DIGEST_BYTES} for digest in digests)
            )
        case Done(entries=entries, files=files, sent_bytes=sent_bytes):
            lawful = min(entries, files, sent_bytes, message.skipped_bytes) >= 0
        case Reached(dropped=dropped, blocked=blocked):
            lawful = _are_fids(dropped, ASKED_MAX) and _are_fids(blocked, ASKED_MAX)
        case Settled() | StillHere() | GivenUp():
            lawful = True
        case _:
            lawful = False
    _refuse_unless(lawful, message)


def named_bytes(named: Named) -> int:
    """About how long an entry is in a message, never less than it is."""
    attributes_bytes = 0 if named.attributes is None else attribute_bytes(named.attributes)
    content_bytes = 0 if named.content is None else len(named.content) + 8
    return 32 + 4 * len(named.name) + attributes_bytes + content_bytes


def attribute_bytes(attributes: Attributes) -> int:
    """About how long attributes are in a message, never less than they are."""
    xattrs = sum(4 * len(name) + len(value) + 16 for name, value in attributes.xattrs.items())
    return 120 + 4 * len(attributes.target) + xattrs


def _refuse_unless(lawful: bool, message: object) -> None:
    if not lawful:
        raise PeerProtocolError(f"the peer sent a {type(message).__name__} that no resync has")


def _is_fid(fid: int) -> bool:
    return fid == ROOT_FID or LIMBO_FID < fid <= FID_MAX


def _are_fids(fids: list[int], count_max: int) -> bool:
    return len(fids) <= count_max and all(_is_fid(fid) for fid in fids)


def _is_range(blocks: tuple[int, int]) -> bool:
    first, count = blocks
    return 0 <= first <= BLOCK_MAX and 0 < count <= BLOCK_MAX - first + 1


def _is_part(part: Part) -> bool:
    return (
        _are_attributes(part.attributes)
        and len(part.ranges) <= RANGES_MAX
        and all(_is_range(blocks) for blocks in part.ranges)
    )


def _are_attributes(attributes: Attributes) -> bool:
    return (
        _is_fid(attributes.fid)
        and 0 <= attributes.size_bytes <= OFFSET_MAX
        and 0 <= attributes.mode <= 0o7777
        and min(attributes.uid, attributes.gid) >= -1
        and max(attributes.uid, attributes.gid) < 1 << 32
        and -TIME_MAX <= attributes.mtime_ns < TIME_MAX
        and len(attributes.target) < PATH_BYTES_MAX
        and bool(attributes.target) == (attributes.kind is Kind.SYMLINK)
        and 0 <= attributes.rdev <= (RDEV_MAX if attributes.kind in DEVICE_KINDS else 0)
        and -TIME_MAX <= (attributes.atime_ns or 0) < TIME_MAX
        and all(0 < len(name) <= XATTR_NAME_BYTES_MAX for name in attributes.xattrs)
    )


def _is_listing(listing: Listing) -> bool:
    texts = [named.name for named in listing.names]
    return (
        _is_fid(listing.fid)
        and len(texts) <= NAMES_MAX
        and all(one < other for one, other in itertools.pairwise(texts))
        and all(_is_named(named) for named in listing.names)
        and (listing.attributes is None or _is_directory(listing.attributes, listing.fid))
    )


def _is_directory(attributes: Attributes, fid: int) -> bool:
    return (
        _are_attributes(attributes) and attributes.fid == fid and attributes.kind is Kind.DIRECTORY
    )


def _is_named(named: Named) -> bool:
    attributes = named.attributes
    return (
        is_name(named.name)
        and LIMBO_FID < named.fid <= FID_MAX
        and (named.content is None or len(named.content) <= SMALL_FILE_BYTES_MAX)
        and (
            attributes is None
            or (
                _are_attributes(attributes)
                and (attributes.fid, attributes.kind) == (named.fid, named.kind)
            )
        )
    )


def is_name(name: str) -> bool:
    """Whether `name` can be a name inside a directory: never one that leads out of it."""
    try:
        checked_name(name)
    except OSError:
        return False
    return True
