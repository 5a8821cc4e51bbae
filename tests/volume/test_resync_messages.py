"""Messages that no resync sends are refused, and none makes a side do anything but go on or end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from mirrorha.errors import PeerProtocolError
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import LIMBO_FID, Apply, Attributes, Kind
from mirrorha.volume.ops import DEVICE_KINDS, ROOT_FID, Create, Write, make_fid
from mirrorha.volume.resync.messages import (
    ASKED_MAX,
    CONTENT_BYTES_MAX,
    FILES_MAX,
    HASHED_BLOCKS_MAX,
    KEYS_MAX,
    NAMES_MAX,
    RANGES_MAX,
    SMALL_FILE_BYTES_MAX,
    Answer,
    AnyResyncMessage,
    Ask,
    Barrier,
    Checked,
    Compare,
    Content,
    Done,
    Equal,
    FromSource,
    FromTarget,
    GivenUp,
    Hashes,
    Hello,
    Listing,
    Named,
    Part,
    Reached,
    Settle,
    Settled,
    StillHere,
    Touched,
    Zeros,
    check_from_source,
    check_from_target,
)
from mirrorha.volume.stream.messages import StreamMessage
from mirrorha.volume.stream.resync_interface import ResyncStatus
from mirrorha.volume.touched import TouchKey
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_trees import Application, twin

FID: Final = make_fid(epoch=1, counter=1)
FILE: Final = Attributes(FID, Kind.FILE, 0o644, 0, -1, 5, 0)
ROOT: Final = Attributes(ROOT_FID, Kind.DIRECTORY, 0o755, 0, 0, 0, 0)
NAMED: Final = Named("a", FID, Kind.FILE, FILE, b"12345")
replace = msgspec.structs.replace

LAWFUL: Final[list[AnyResyncMessage]] = [
    Hello(1, 1, True, 0),
    Compare(1, 1, [Part(FILE, [(0, 1), (5, 99)], False)]),
    Listing(1, 1, FID, False, [NAMED, Named("b", FID, Kind.FILE)], True, None),
    Listing(1, 1, ROOT_FID, True, [], False, ROOT),
    Answer(1, 1, [FILE], [FID], False),
    Content(1, 1, 1, 0, b"x"),
    Zeros(1, 1, 1, 0, HASHED_BLOCKS_MAX),
    Checked(1, 1, 1, True),
    Barrier(1, 1),
    Settle(1, 1, False),
    Equal(1, 1),
    Touched(1, 1, [(ROOT_FID, -2), (FID, 0), (FID, -99)], True, False),
    Ask(1, 1, [FID], [FID, FID]),
    Hashes(1, 1, 1, FID, 0, 3, [b"", b"x" * 16]),
    Done(1, 1, 0, 0, 0),
    Reached(1, 1, [ROOT_FID], [FID]),
    Settled(1, 1),
    StillHere(1, 1),
    GivenUp(1, 1, "why"),
]

UNLAWFUL: Final[list[AnyResyncMessage]] = [
    Compare(1, 1, [Part(FILE, [])] * (FILES_MAX + 1)),
    Compare(1, 1, [Part(FILE, [(0, 1)] * (RANGES_MAX + 1))]),
    Compare(1, 1, [Part(FILE, [(0, 0)])]),
    Compare(1, 1, [Part(FILE, [(-1, 2)])]),
    Compare(1, 1, [Part(FILE, [(1 << 60, 1)])]),
    Compare(1, 1, [Part(FILE, [(0, 1 << 60)])]),
    *(
        Compare(1, 1, [Part(attributes, [])])
        for attributes in (
            replace(FILE, fid=0),
            replace(FILE, fid=LIMBO_FID),
            replace(FILE, fid=1 << 63),
            replace(FILE, size_bytes=-1),
            replace(FILE, size_bytes=1 << 63),
            replace(FILE, mode=0o10000),
            replace(FILE, mode=-1),
            replace(FILE, uid=-2),
            replace(FILE, gid=1 << 32),
            replace(FILE, mtime_ns=1 << 63),
            replace(FILE, target="x"),
            replace(FILE, kind=Kind.SYMLINK),
            replace(FILE, kind=Kind.SYMLINK, target="x" * 4096),
            replace(FILE, rdev=1),
            replace(FILE, kind=Kind.FIFO, rdev=1),
            replace(FILE, kind=Kind.BLOCK_DEVICE, rdev=1 << 32),
            replace(FILE, kind=Kind.BLOCK_DEVICE, rdev=-1),
            replace(FILE, kind=Kind.SOCKET, target="x"),
            replace(FILE, atime_ns=1 << 63),
            replace(FILE, xattrs={"": b""}),
            replace(FILE, xattrs={"x" * 256: b""}),
        )
    ),
    *(
        Listing(1, 1, FID, False, [named], True, None)
        for named in (
            replace(NAMED, name=""),
            replace(NAMED, name="."),
            replace(NAMED, name=".."),
            replace(NAMED, name="a/b"),
            replace(NAMED, name="a\0"),
            replace(NAMED, name="x" * 256),
            replace(NAMED, name=".mirrorha-limbo"),
            replace(NAMED, fid=ROOT_FID),
            replace(NAMED, fid=LIMBO_FID),
            replace(NAMED, fid=FID + 1),
            replace(NAMED, kind=Kind.DIRECTORY),
            replace(NAMED, content=bytes(SMALL_FILE_BYTES_MAX + 1)),
            replace(NAMED, attributes=replace(FILE, mode=-1)),
        )
    ),
    Listing(1, 1, LIMBO_FID, False, [], True, None),
    Listing(1, 1, FID, False, [NAMED, NAMED], True, None),
    Listing(1, 1, FID, False, [replace(NAMED, name="b"), NAMED], True, None),
    Listing(
        1,
        1,
        FID,
        False,
        [replace(NAMED, name=f"{number:04}") for number in range(NAMES_MAX + 1)],
        True,
        None,
    ),
    Listing(1, 1, FID, False, [], True, ROOT),
    Listing(1, 1, FID, False, [], True, FILE),
    Answer(1, 1, [FILE] * (ASKED_MAX + 1), [], True),
    Answer(1, 1, [], [FID] * (ASKED_MAX + 1), True),
    Answer(1, 1, [replace(FILE, mode=-1)], [], True),
    Content(1, 1, 1, 0, b""),
    Content(1, 1, 1, 0, bytes(CONTENT_BYTES_MAX + 1)),
    Content(1, 1, 1, -1, b"x"),
    Content(1, 1, 1, (1 << 63) - 1, b"x"),
    Zeros(1, 1, 1, -1, 1),
    Zeros(1, 1, 1, 0, 0),
    Zeros(1, 1, 1, 0, HASHED_BLOCKS_MAX + 1),
    Touched(1, 1, [(FID, 0)] * (KEYS_MAX + 1), True, False),
    Touched(1, 1, [(0, 0)], True, False),
    Touched(1, 1, [(FID, 1 << 60)], True, False),
    Touched(1, 1, [(FID, -(1 << 60))], True, False),
    Ask(1, 1, [FID] * (ASKED_MAX + 1), []),
    Ask(1, 1, [], [FID] * (ASKED_MAX + 1)),
    Ask(1, 1, [-5], []),
    Ask(1, 1, [], [1 << 63]),
    Hashes(1, 1, 1, 0, 0, 1, []),
    Hashes(1, 1, 1, FID, 0, HASHED_BLOCKS_MAX + 1, []),
    Hashes(1, 1, 1, FID, 0, 0, []),
    Hashes(1, 1, 1, FID, -1, 1, []),
    Hashes(1, 1, 1, FID, 0, 1, [b"", b""]),
    Hashes(1, 1, 1, FID, 0, 1, [b"short"]),
    Done(1, 1, -1, 0, 0),
    Done(1, 1, 0, -1, 0),
    Done(1, 1, 0, 0, -1),
    Reached(1, 1, [FID] * (ASKED_MAX + 1), []),
    Reached(1, 1, [], [FID] * (ASKED_MAX + 1)),
    Reached(1, 1, [0], []),
]


def check(message: AnyResyncMessage) -> None:
    if isinstance(message, FromSource):
        check_from_source(message)
    else:
        check_from_target(message)


@pytest.mark.parametrize("message", LAWFUL, ids=lambda one: type(one).__name__)
def test_lawful_messages_pass_and_travel(message: AnyResyncMessage) -> None:
    check(message)
    union = FromSource if isinstance(message, FromSource) else FromTarget
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=union) == message


@pytest.mark.parametrize("message", UNLAWFUL, ids=lambda one: type(one).__name__)
def test_unlawful_messages_do_not(message: AnyResyncMessage) -> None:
    with pytest.raises(PeerProtocolError):
        check(message)


def test_every_message_is_tried() -> None:
    assert {type(message) for message in LAWFUL} == set(AnyResyncMessage.__args__)


def test_a_side_refuses_the_messages_of_its_own_side() -> None:
    with pytest.raises(PeerProtocolError):
        check_from_target(Barrier(1, 1))
    with pytest.raises(PeerProtocolError):
        check_from_source(Settled(1, 1))


def test_tags_are_not_the_streams() -> None:
    resync = {one.__struct_config__.tag for one in AnyResyncMessage.__args__}
    stream = {one.__struct_config__.tag for one in StreamMessage.__args__}
    assert len(resync) == len(AnyResyncMessage.__args__)
    assert not resync & stream


# Whatever comes, whenever it comes.


class Nonsense:
    """Draws messages that look right, about files that may exist, with numbers at the edges."""

    def __init__(self, rng: random.Random, fids: list[int]) -> None:
        self.rng = rng
        self.fids = fids
        self.sides: dict[str, list[Callable[[], AnyResyncMessage]]] = {
            "target": [
                lambda: Hello(5, 1, self.flag(), self.number()),
                lambda: Compare(5, 1, self.some(self.part)),
                lambda: Listing(
                    5, 1, self.fid(), self.flag(), self.names(), self.flag(), self.perhaps_own()
                ),
                lambda: Answer(5, 1, self.some(self.attributes), self.some(self.fid), self.flag()),
                lambda: Content(5, 1, self.ticket(), self.number(), self.data()),
                lambda: Zeros(5, 1, self.ticket(), self.number(), self.number()),
                lambda: Checked(5, 1, self.ticket(), self.flag()),
                lambda: Barrier(5, 1),
                lambda: Settle(5, 1, self.flag()),
                lambda: Equal(5, 1),
                lambda: StillHere(5, 1),
            ],
            "source": [
                lambda: Touched(5, 1, self.some(self.key), self.flag(), self.flag()),
                lambda: Ask(5, 1, self.some(self.fid), self.some(self.fid)),
                lambda: Hashes(
                    5,
                    1,
                    self.ticket(),
                    self.fid(),
                    self.number(),
                    self.number(),
                    self.some(self.digest),
                ),
                lambda: Done(5, 1, self.number(), self.number(), self.number()),
                lambda: Reached(5, 1, self.some(self.fid), self.some(self.fid)),
                lambda: Settled(5, 1),
                lambda: StillHere(5, 1),
            ],
        }

    def draw(self, receiver: str) -> AnyResyncMessage:
        return self.rng.choice(self.sides[receiver])()

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def number(self) -> int:
        return self.rng.choice((0, 0, 1, 1, 2, 3, 16, 64, 70, -1, 1 << 40, (1 << 63) - 1))

    def ticket(self) -> int:
        return self.rng.randrange(6)

    def data(self) -> bytes:
        return self.rng.choice((b"", b"x", b"nonsense", bytes(70_000)))

    def digest(self) -> bytes:
        return self.rng.choice((b"", bytes(16), b"x" * 16, b"short"))

    def fid(self) -> int:
        if self.rng.random() < 0.1:
            return self.rng.choice((0, 1, 2, -1, 3, FID, (1 << 63) - 1))
        return self.rng.choice(self.fids)

    def key(self) -> TouchKey:
        return self.fid(), self.rng.choice((-1, -2, -3, -4, 0, 1, 1 << 30, -(1 << 30)))

    def some(self, draw: Callable[[], Any]) -> list[Any]:
        return [draw() for _ in range(self.rng.choice((0, 1, 1, 2, 5)))]

    def attributes(self) -> Attributes:
        kind = self.rng.choice(list(Kind))
        target = "there" if (kind is Kind.SYMLINK) != self.rarely() else ""
        xattrs = self.rng.choice(({}, {}, {"user.a": b"1"}, {"trusted.b": b"2"}))
        size = abs(self.number()) if self.rng.random() < 0.1 else self.rng.randrange(5)
        rdev = 259 if (kind in DEVICE_KINDS) != self.rarely() else 0
        more = (target, xattrs, 1, rdev, self.rng.choice((None, 3)))
        return Attributes(self.fid(), kind, 0o644, 0, 0, size, 7, *more)

    def part(self) -> Part:
        return Part(self.attributes(), self.some(lambda: (self.number(), self.number())))

    def perhaps_own(self) -> Attributes | None:
        return replace(ROOT, fid=self.fid()) if self.flag() else None

    def names(self) -> list[Named]:
        names = sorted({self.rng.choice("abcdef") for _ in range(self.rng.randrange(5))})
        if self.rarely():
            names.reverse()
        if self.rarely():
            names.append(self.rng.choice(("", ".", "..", "x/y", "x\0", ".mirrorha-limbo")))
        return [self.named(name) for name in names]

    def rarely(self) -> bool:
        return self.rng.random() < 0.1

    def named(self, name: str) -> Named:
        fid, attributes = self.fid(), self.attributes()
        kind = self.rng.choice(list(Kind))
        if self.flag():
            return Named(name, fid, kind)
        content = self.data() if attributes.kind is Kind.FILE and self.flag() else None
        return Named(name, fid, attributes.kind, replace(attributes, fid=fid), content)


def poisoned(seed: int, *, chance: float) -> Pair[MemoryDisk]:
    """A resync into which messages are mixed that nobody sent."""
    rng = random.Random(seed)
    source = MemoryDisk()
    Application(rng, source, epoch=1).live(30)
    target = twin(source)
    pair = Pair(rng, source, target, everything=rng.random() < 0.5)
    Application(rng, target, epoch=2).live(10, pair.target.log)
    Application(rng, source, epoch=5).live(20, pair.source.log)
    fids = [one.fid for disk in (source, target) for one in disk.snapshot().values()]
    nonsense = Nonsense(rng, fids)
    pair.begin()
    for _ in range(3000):
        if pair.is_over():
            break
        if rng.random() < chance:
            message = nonsense.draw(rng.choice(("source", "target")))
            pair.inject(message, at=rng.random())
        pair.one_step()
    return pair


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("chance", [0.003, 0.03])
def test_no_message_makes_a_side_raise(block: int, chance: float) -> None:
    """Nor the disk fail: then a peer could take a node out of service."""
    ends = set()
    for seed in range(block * 30, block * 30 + 30):
        pair = poisoned(seed, chance=chance)
        ends.add(pair.machine_s.status)
        # The source has only been read.
        clean = poisoned(seed, chance=0)
        assert difference(clean.source.disk, pair.source.disk) == []
        # And another session puts everything right, if all is compared.
        pair.lose_link()
        pair.everything = True
        pair.begin()
        pair.run()
        assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
        assert difference(pair.source.disk, pair.target.disk) == []
    assert ResyncStatus.FAILED in ends


def working() -> Pair[MemoryDisk]:
    """A resync in the middle of copying a large file."""
    source = MemoryDisk()
    fid = make_fid(epoch=1, counter=1)
    source.perform(Apply(Create(fid, ROOT_FID, "large", 0o644, 0, 0, 1)))
    source.perform(Apply(Write(fid, 0, b"x" * 40 * BLOCK_BYTES, 1)))
    pair = Pair(random.Random(1), source, MemoryDisk(), everything=True)
    pair.begin()
    pair.run(until=lambda: pair.content_bytes > 0)
    return pair


def given(message: AnyResyncMessage, times: int = 1) -> Pair[MemoryDisk]:
    pair = working()
    node = pair.source if isinstance(message, FromTarget) else pair.target
    for _ in range(times):
        pair.give_message(node, message)
    return pair


@pytest.mark.parametrize("message", UNLAWFUL, ids=lambda one: type(one).__name__)
def test_an_unlawful_message_ends_the_session(message: AnyResyncMessage) -> None:
    pair = given(replace(message, epoch=5))
    ended = pair.machine_s if isinstance(message, FromTarget) else pair.machine_t
    assert ended.status is ResyncStatus.FAILED
    assert "that no resync has" in ended.failure


@pytest.mark.parametrize(
    "message",
    [
        Answer(5, 1, [], [], True),
        Checked(5, 1, 99, False),
        Content(5, 1, 99, 0, b"x"),
        Zeros(5, 1, 99, 0, 1),
        Equal(5, 1),
        Hello(5, 1, True, 0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_a_source_sends_out_of_turn_ends_the_session(message: AnyResyncMessage) -> None:
    machine = given(message).machine_t
    assert machine.status is ResyncStatus.FAILED
    assert "out of turn" in machine.failure or "twice" in machine.failure


@pytest.mark.parametrize(
    "message",
    [Settled(5, 1), Reached(5, 1, [], []), Touched(5, 1, [], True, True)],
    ids=lambda one: type(one).__name__,
)
def test_what_a_target_sends_out_of_turn_ends_the_session(message: AnyResyncMessage) -> None:
    # In each state it waits for one of them at most.
    awaited = {Hello: Touched, Barrier: Reached, Settle: Settled}
    tried = 0
    for steps in range(1, 300, 9):
        pair = Pair(random.Random(1), MemoryDisk(), MemoryDisk(), everything=True)
        pair.begin()
        pair.run(until=lambda pair=pair, steps=steps: pair.steps >= steps)
        questions = [type(one) for _, one, _ in pair.sent if type(one) in awaited]
        if pair.is_over() or awaited[questions[-1]] is type(message):
            continue
        tried += 1
        pair.give_message(pair.source, message)
        assert pair.machine_s.status is ResyncStatus.FAILED
        assert "out of turn" in pair.machine_s.failure
    assert tried


def test_a_source_that_answers_more_than_it_was_asked_ends_the_session() -> None:
    pair = working()
    tickets = {one.ticket for _, one, _ in pair.sent if isinstance(one, Hashes)}
    hashed = sum(isinstance(one, Hashes) for _, one, _ in pair.sent)
    for _ in range(hashed + 1):
        pair.give_message(pair.target, Checked(5, 1, max(tickets), False))
    assert pair.machine_t.status is ResyncStatus.FAILED


def test_a_source_that_does_not_wait_ends_the_session() -> None:
    names = [Named(f"{number:04}", FID, Kind.FILE) for number in range(NAMES_MAX)]
    many = Listing(5, 1, ROOT_FID, False, names, True, ROOT)
    assert given(many, 15).machine_t.status is ResyncStatus.RUNNING
    assert "more than it may" in given(many, 17).machine_t.failure
    # Without names it is one entry all the same.
    assert "more than it may" in given(replace(many, names=[]), 4097).machine_t.failure
    assert "barrier after barrier" in given(Barrier(5, 1), 9000).machine_t.failure
    content = Content(5, 1, 1, 0, bytes(CONTENT_BYTES_MAX))
    assert "more than it may" in given(content, 9).machine_t.failure


def test_a_target_that_does_not_wait_ends_the_session() -> None:
    assert given(Ask(5, 1, [FID], []), 1).machine_s.status is ResyncStatus.RUNNING
    assert "out of turn" in given(Ask(5, 1, [FID], []), 2).machine_s.failure
    hashes = Hashes(5, 1, 1, FID, 0, 1, [])
    assert given(hashes, 1000).machine_s.status is ResyncStatus.RUNNING
    assert "out of turn" in given(hashes, 1025).machine_s.failure
    assert "more than it was asked" in given(Done(5, 1, 99, 0, 0)).machine_s.failure
    assert "more than it was asked" in given(Done(5, 1, 0, 0, 1 << 40)).machine_s.failure


def test_messages_in_the_wrong_order_end_the_session() -> None:
    for message in (
        Listing(5, 1, ROOT_FID, False, [], True, ROOT),
        Equal(5, 1),
        Settle(5, 1, True),
    ):
        pair = Pair(random.Random(1), MemoryDisk(), MemoryDisk(), everything=True)
        pair.begin()
        pair.target.inbox.clear()
        pair.inject(message)
        pair.run()
        assert pair.machine_t.status is ResyncStatus.FAILED
        assert pair.machine_s.failure.startswith("the other node gave up")


def test_two_hellos_end_the_session() -> None:
    pair = Pair(random.Random(1), MemoryDisk(), MemoryDisk(), everything=True)
    pair.begin()
    pair.inject(Hello(5, 1, True, 0))
    pair.run()
    assert "twice" in pair.machine_t.failure


def test_something_else_than_a_resyncs_message_ends_the_session() -> None:
    pair = Pair(random.Random(1), MemoryDisk(), MemoryDisk(), everything=True)
    pair.begin()
    pair.give_message(pair.target, "nonsense")
    pair.give_message(pair.source, 7)
    assert pair.machine_t.status is pair.machine_s.status is ResyncStatus.FAILED
