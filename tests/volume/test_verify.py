"""Comparing the two copies of a volume: whatever differs is told, and nothing else, ever."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Final

import pytest

from mirrorha.core.orders import (
    Close,
    Follow,
    Freeze,
    ServeAlone,
    ServeMirror,
    SetVerifyRate,
    StartVerify,
    StopVerify,
    VerifyEnded,
    VerifyFound,
    VerifyProgress,
)
from mirrorha.testing.memory_disk import MemoryDisk
from mirrorha.volume.disk import Apply, Kind, Outcome
from mirrorha.volume.events import Change, Lane, Received
from mirrorha.volume.ops import (
    ROOT_FID,
    AnyOp,
    Create,
    Mkdir,
    Rename,
    SetAttributes,
    SetXattr,
    Truncate,
    Unlink,
    Write,
    make_fid,
)
from mirrorha.volume.stream.follower import Follower
from mirrorha.volume.stream.messages import Ops
from mirrorha.volume.stream.source import Source
from mirrorha.volume.verify.messages import (
    BLOCKS_MAX,
    BUCKETS_MAX,
    ITEMS_MAX,
    LOOKS_MAX,
    Attributes,
    Blocks,
    Item,
    Look,
    Looked,
    Names,
    NamesIn,
    Seen,
    SeenBlocks,
    SeenNames,
)
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import difference
from tests.volume.two_volumes import World, decode

STEPS_MAX: Final = 300_000


class Verifier:
    """Two volumes that mirror, and what a comparison of them told."""

    def __init__(self, seed: int) -> None:
        self.world = World(random.Random(seed))
        self.found: list[VerifyFound] = []
        self.ended: list[VerifyEnded] = []
        self.progress: list[VerifyProgress] = []

    def mirror(self, *, round_: int = 1) -> None:
        world = self.world
        world.order(world.second, Follow(6, "mirror", round_))
        world.order(world.first, ServeMirror(6, "mirror", round_))
        if not world.link:
            world.connect(up=True)
        world.settle()

    def start(self, session: int = 1, **options: object) -> None:
        order = StartVerify(session, seed=7, rate_bytes_per_s=0, **options)  # type: ignore[arg-type]
        self.world.order(self.world.first, order)

    def listen(self) -> None:
        reports = self.world.first.reports
        while reports:
            report = reports.popleft()
            if isinstance(report, VerifyFound):
                self.found.append(report)
            elif isinstance(report, VerifyEnded):
                self.ended.append(report)
            elif isinstance(report, VerifyProgress):
                self.progress.append(report)

    def run(self, *, changes: float = 0.0, **options: object) -> VerifyEnded:
        """Compare to the end."""
        self.start(**options)
        return self.to_its_end(changes=changes)

    def to_its_end(self, *, changes: float = 0.0) -> VerifyEnded:
        for _ in range(STEPS_MAX):
            self.listen()
            if self.ended:
                return self.ended.pop()
            self.world.step(changes=changes)
        raise AssertionError("it does not end")

    def make(self, *ops: AnyOp) -> None:
        """Have these on both, at rest."""
        for op in ops:
            for node in (self.world.first, self.world.second):
                apply(node.disk, op)


class Writer:
    """An application that writes into one file, whose content is known. Spares one block."""

    def __init__(self, verifier: Verifier, *, spared: int | None = None) -> None:
        self.world = verifier.world
        self.content = bytearray(CONTENT)
        self.offsets = [at for at in range(0, len(CONTENT), 97) if at // BLOCK_BYTES != spared]
        self.tokens = itertools.count(10_000)
        self.asked: list[int] = []

    def write(self) -> None:
        token = next(self.tokens)
        self.asked.append(token)
        offset, data = self.world.rng.choice(self.offsets), token.to_bytes(4, "big")
        self.content[offset : offset + 4] = data
        self.world.give(self.world.first, Change(token, Write(FILE, offset, data, token)))

    def step(self, share: float) -> None:
        """Something happens; in such a share of all steps, a write."""
        if self.world.rng.random() < share and self.world.first.volume.waiting < 20:
            self.write()
        lanes = self.world.first.lanes[Lane.TREE]
        if lanes and self.world.rng.random() < 0.2:
            self.world.perform(self.world.first, Lane.TREE, self.world.rng.randint(2, 6))
        self.world.step()

    def until_ended(self, verifier: Verifier, share: float) -> VerifyEnded:
        for _ in range(STEPS_MAX):
            verifier.listen()
            if verifier.ended:
                return verifier.ended.pop()
            self.step(share)
        raise AssertionError("it does not end")


def apply(disk: MemoryDisk, op: AnyOp) -> None:
    outcome = disk.perform(Apply(op))
    assert isinstance(outcome, Outcome)
    assert not outcome.errno


def mirrored(seed: int) -> Verifier:
    verifier = Verifier(seed)
    verifier.mirror()
    return verifier


FILE: Final = make_fid(epoch=2, counter=1)
OTHER: Final = make_fid(epoch=2, counter=2)
DIRECTORY: Final = make_fid(epoch=2, counter=3)
CONTENT: Final = bytes(range(1, 251)) * 1400


def with_files(seed: int = 0) -> Verifier:
    """A file of five blocks and a bit, an empty one and a directory."""
    verifier = mirrored(seed)
    verifier.make(
        Create(FILE, ROOT_FID, "journal", 0o644, 0, 0, 5),
        Write(FILE, 0, CONTENT, 6),
        Create(OTHER, ROOT_FID, "empty", 0o644, 0, 0, 5),
        Mkdir(DIRECTORY, ROOT_FID, "deep", 0o755, 0, 0, 5),
    )
    return verifier


# ---- nothing is told that is merely under way ----


@pytest.mark.parametrize("seed", range(60))
def test_no_false_alarm_while_everything_changes(seed: int) -> None:
    verifier = mirrored(seed)
    changes = verifier.world.rng.choice([0.01, 0.04, 0.08])
    ended = verifier.run(changes=changes, repair=verifier.world.rng.random() < 0.5)
    assert (verifier.found, ended.differences, ended.why) == ([], 0, "")
    verifier.world.settle()
    assert difference(verifier.world.first.disk, verifier.world.second.disk) == []
    assert not verifier.world.resets


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm_where_what_is_compared_is_written(seed: int) -> None:
    verifier = with_files(seed)
    writer = Writer(verifier)
    verifier.start(repair=seed % 2 == 0)
    ended = writer.until_ended(verifier, 0.3)
    assert (verifier.found, ended.differences, ended.why) == ([], 0, "")


def false_alarms(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: object) -> int:
    monkeypatch.setattr(owner, name, broken)
    alarms = 0
    for seed in range(20):
        verifier = with_files(seed)
        verifier.start()
        alarms += Writer(verifier).until_ended(verifier, 0.3).differences
    return alarms


def test_a_batch_that_does_not_end_at_the_question_is_a_false_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert false_alarms(monkeypatch, Follower, "_ops_to_next_look", lambda _self: 256)


class Overtaking:
    """A source whose questions are sent at once, ahead of what it has just applied."""

    def __init__(self, source: Source) -> None:
        self.real = source

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def send_applied(self) -> None:
        pass


def test_a_question_that_overtakes_what_it_is_to_follow_is_refused() -> None:
    resets = []
    for seed in range(20):
        verifier = with_files(seed)
        machine = verifier.world.first.volume._verifying
        machine._source = Overtaking(machine._source)  # type: ignore[assignment]
        verifier.start()
        with contextlib.suppress(AssertionError):
            writer = Writer(verifier)
            for _ in range(2_000):
                writer.step(0.3)
        resets += verifier.world.resets
    assert any("comes after" in why for why in resets)


def test_a_question_that_overtakes_changes_is_a_false_alarm_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at_once(self: Follower, message: object) -> bool:
        real_seq = self._position.seq
        self._looks.append(
            type(message)(
                *[  # as if it were for wherever the follower is
                    real_seq if field == "seq" else getattr(message, field)
                    for field in message.__struct_fields__  # type: ignore[attr-defined]
                ]
            )
        )
        return True

    assert false_alarms(monkeypatch, Follower, "on_look", at_once)


# ---- what differs is told ----


@pytest.mark.parametrize("seed", range(25))
def test_one_flipped_byte_is_found_and_nothing_else(seed: int) -> None:
    verifier = with_files(seed)
    world = verifier.world
    offset = world.rng.randrange(len(CONTENT))
    block = offset // BLOCK_BYTES
    flipped = world.rng.choice([world.first, world.second])
    flipped.disk.flip("journal", offset)
    verifier.start()
    ended = Writer(verifier, spared=block).until_ended(verifier, 0.2)
    assert (ended.why, ended.differences, ended.repaired) == ("", 1, 0)
    assert ended.fids == [FILE]
    (found,) = verifier.found
    assert (found.path, found.what, found.fid) == ("journal", "content", FILE)
    assert found.offset == block * BLOCK_BYTES
    assert len(found.mine) == len(found.theirs) == 32
    assert found.mine != found.theirs


@pytest.mark.parametrize(
    ("op", "what"),
    [
        (SetAttributes(FILE, 0o600, None, None, 6), {"mode"}),
        (SetAttributes(FILE, None, 9, None, 6), {"owner"}),
        (SetAttributes(FILE, None, None, None, 8), {"mtime"}),
        (SetAttributes(DIRECTORY, 0o700, None, None, 5), {"mode"}),
        (Truncate(FILE, 65_536, 6), {"size", "content"}),
        (Truncate(FILE, 999_999, 6), {"size", "content"}),
        (Write(OTHER, 0, b"not empty", 5), {"size"}),
        (SetXattr(FILE, "user.a", b"x"), {"xattrs"}),
        (Create(make_fid(epoch=3, counter=1), DIRECTORY, "more", 0o600, 0, 0, 5), {"name"}),
        (Unlink(OTHER, ROOT_FID, "empty", 6), {"name", "file", "mtime"}),
        (Rename(OTHER, ROOT_FID, "empty", DIRECTORY, "moved", 0, 5), {"name"}),
    ],
)
def test_everything_that_differs_on_the_follower_is_told(op: AnyOp, what: set[str]) -> None:
    verifier = with_files()
    apply(verifier.world.second.disk, op)
    ended = verifier.run()
    assert {found.what for found in verifier.found} == what
    assert ended.differences == len(verifier.found)
    assert not ended.why


def test_a_name_is_told_with_its_path_and_what_it_stands_for() -> None:
    verifier = with_files()
    new = Create(make_fid(epoch=3, counter=1), DIRECTORY, "more", 0o600, 0, 0, 5)
    apply(verifier.world.second.disk, new)
    verifier.run()
    (found,) = verifier.found
    assert (found.path, found.what, found.mine) == ("deep/more", "name", "missing")
    assert found.theirs == f"file {new.fid:#x}"


def test_one_name_among_many_is_found() -> None:
    verifier = with_files()
    fids = range(make_fid(epoch=3, counter=1), make_fid(epoch=3, counter=700))
    verifier.make(*[Create(fid, DIRECTORY, f"n{fid}", 0o600, 0, 0, 5) for fid in fids])
    apply(verifier.world.second.disk, Unlink(fids[333], DIRECTORY, f"n{fids[333]}", 5))
    verifier.run()
    assert {(found.path, found.what) for found in verifier.found} == {
        (f"deep/n{fids[333]}", "name"),
        (f"deep/n{fids[333]}", "file"),
    }


def test_a_file_that_moves_to_where_was_looked_is_compared_all_the_same() -> None:
    verifier = with_files()
    world = verifier.world
    inner = make_fid(epoch=3, counter=1)
    verifier.make(Create(inner, DIRECTORY, "inner", 0o644, 0, 0, 5), Write(inner, 0, b"content", 5))
    world.second.disk.flip("deep/inner", 2)
    machine = world.first.volume
    compare = machine._verifying
    verifier.start()
    while ROOT_FID not in compare._comparison._listed:  # type: ignore[union-attr]
        world.step()
    world.give(world.first, Change(1_000, Rename(inner, DIRECTORY, "inner", ROOT_FID, "x", 0, 9)))
    verifier.to_its_end()
    assert [found.path for found in verifier.found] == ["x"]


# ---- repair ----


@pytest.mark.parametrize("seed", range(25))
def test_what_ops_can_repair_is_repaired_while_the_file_is_written(seed: int) -> None:
    """What travels is what the source holds at that very place: nobody's write is undone."""
    verifier = with_files(seed)
    world = verifier.world
    disk = world.second.disk
    for offset in world.rng.sample(range(len(CONTENT)), 3):
        disk.flip("journal", offset)
    world.rng.choice(
        [
            lambda: apply(disk, Truncate(FILE, 100_000, 4)),
            lambda: apply(disk, Truncate(FILE, 400_000, 4)),
            lambda: apply(disk, SetAttributes(FILE, 0o600, 9, 9, 4)),
        ]
    )()
    writer = Writer(verifier)
    verifier.start(repair=True)
    ended = writer.until_ended(verifier, 0.2)
    assert not ended.why
    assert ended.differences == ended.repaired == len(verifier.found) >= 1
    assert ended.fids == []
    assert all(found.repaired for found in verifier.found)
    world.settle()
    assert world.first.disk.snapshot()["journal"].content == writer.content
    verifier.found.clear()
    assert verifier.run().differences == 0
    assert difference(world.first.disk, disk) == []
    assert not world.resets
    assert sorted(reply.token for reply in world.first.replies) == writer.asked


@pytest.mark.parametrize("seed", range(10))
def test_a_repair_under_way_when_the_volume_closes_has_no_caller_to_answer(seed: int) -> None:
    verifier = with_files(seed)
    world = verifier.world
    for block in range(5):
        world.second.disk.flip("journal", block * BLOCK_BYTES)
    writer = Writer(verifier)
    verifier.start(repair=True)
    for _ in range(world.rng.randrange(150)):
        writer.step(0.1)
    world.order(world.first, Close("a test", None))
    assert sorted(reply.token for reply in world.first.replies) == writer.asked


def test_what_only_a_resync_can_repair_is_left_to_one() -> None:
    verifier = with_files()
    apply(verifier.world.second.disk, SetXattr(FILE, "user.a", b"x"))
    ended = verifier.run(repair=True)
    assert (ended.differences, ended.repaired, ended.fids) == (1, 0, [FILE])
    touched = verifier.world.first.volume.touched.state().keys
    assert {fid for fid, _ in touched} == {FILE}
    assert not verifier.found[0].repaired


def test_only_some_files_are_compared_if_told_so() -> None:
    verifier = with_files()
    apply(verifier.world.second.disk, SetAttributes(OTHER, 0o600, None, None, 5))
    verifier.world.second.disk.flip("journal", 70_000)
    ended = verifier.run(fids=[FILE], repair=True)
    assert (ended.files, ended.differences, ended.repaired) == (1, 1, 1)


def test_names_are_compared_again_if_told_so() -> None:
    verifier = with_files()
    new = Create(make_fid(epoch=3, counter=1), DIRECTORY, "more", 0o600, 0, 0, 5)
    apply(verifier.world.second.disk, new)
    assert verifier.run(fids=[DIRECTORY, OTHER, 12_345]).fids == [DIRECTORY]


# ---- its end ----


def test_it_counts_what_it_compares() -> None:
    verifier = with_files()
    expected = [
        one for one in verifier.world.first.disk.snapshot().values() if one.kind is Kind.FILE
    ]
    inodes = {one.fid: len(one.content) for one in expected}
    ended = verifier.run()
    assert (ended.files, ended.bytes) == (len(inodes), sum(inodes.values()))


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (lambda world: world.connect(up=False), "stream"),
        (lambda world: world.order(world.first, Freeze(3)), "something else"),
        (lambda world: world.order(world.first, StopVerify("it was cancelled")), "cancelled"),
    ],
)
def test_it_ends_with_a_word_when_it_cannot_go_on(end: Callable[[World], None], says: str) -> None:
    verifier = with_files()
    verifier.start()
    for _ in range(20):
        verifier.world.step()
    end(verifier.world)
    ended = verifier.to_its_end()
    assert says in ended.why
    assert ended.session == 1


def test_one_that_cannot_begin_says_so() -> None:
    verifier = Verifier(0)
    verifier.world.order(verifier.world.first, ServeAlone(6, "alone"))
    assert "does not mirror" in verifier.run().why
    verifier.world.order(verifier.world.second, StopVerify("nothing"))
    verifier.world.order(verifier.world.second, SetVerifyRate(5))


@pytest.mark.parametrize("seed", range(20))
def test_answers_of_an_earlier_one_are_no_answers(seed: int) -> None:
    verifier = with_files(seed)
    world = verifier.world
    verifier.start(1)
    for session in range(2, 6):
        for _ in range(world.rng.randrange(60)):
            world.step(changes=0.2)
        if world.rng.random() < 0.5:
            world.connect(up=False)
            world.settle()
            verifier.mirror(round_=session)
        verifier.listen()
        verifier.start(session)
    while not any(one.session == 5 for one in verifier.ended):
        world.step(changes=0.2)
        verifier.listen()
    assert [one.session for one in verifier.ended] == [1, 2, 3, 4, 5]
    assert verifier.found == []
    assert not verifier.ended[-1].why


def test_the_rate_is_kept_and_can_be_changed() -> None:
    verifier = with_files()
    world = verifier.world
    verifier.make(Write(FILE, 0, bytes(range(1, 251)) * 17_000, 6))  # 4 MB
    order = StartVerify(1, seed=7, rate_bytes_per_s=1 << 20)
    began_ms = world.now_ms
    world.order(world.first, order)
    while world.now_ms < began_ms + 2_000:
        world.step()
    verifier.listen()
    assert not verifier.ended
    assert verifier.progress[-1].done_bytes < 3 << 20
    world.order(world.first, SetVerifyRate(0))
    at_ms = world.now_ms
    verifier.to_its_end()
    assert world.now_ms - at_ms < 1_500


# ---- what a peer may say ----

SOUND: Final = Attributes(FILE)


@pytest.mark.parametrize(
    ("seq", "items"),
    [
        (1, [SOUND]),  # not where the stream is
        (-1, [SOUND]),
        (0, []),
        (0, [SOUND] * (ITEMS_MAX + 1)),
        (0, [Attributes(0)]),
        (0, [Attributes(1 << 63)]),
        (0, [Blocks(FILE, 0, BLOCKS_MAX + 1)]),
        (0, [Blocks(FILE, 0, BLOCKS_MAX), Blocks(FILE, 8, 1)]),
        (0, [Blocks(FILE, -1, 1)]),
        (0, [Blocks(FILE, 0, 0)]),
        (0, [Blocks(FILE, 1 << 60, 1)]),
        (0, [Names(FILE, 0)]),
        (0, [Names(FILE, BUCKETS_MAX + 1)]),
        (0, [NamesIn(FILE, 4, 4)]),
        (0, [NamesIn(FILE, 4, -1)]),
    ],
)
def test_a_follower_answers_no_question_that_cannot_be_meant(seq: int, items: list[Item]) -> None:
    world = with_files().world
    at = world.second.volume.seq
    world.give(world.second, Received(Look(6, 1, 1, at + seq, 7, items)))
    assert len(world.resets) == 1


def test_a_follower_is_not_asked_more_than_it_may_be() -> None:
    world = with_files().world
    world.first.lanes[Lane.TREE].clear()
    write = Write(FILE, 0, b"x", 9)
    world.give(
        world.second, Received(Ops(6, "mirror", 1, world.second.volume._position.chain, [write]))
    )
    looks = [Received(Look(6, 1, number, 1, 7, [SOUND])) for number in range(LOOKS_MAX + 1)]
    world.give(world.second, *looks)
    assert len(world.resets) == 1


@pytest.mark.parametrize(
    "seen",
    [
        [],
        [None] * 9,
        [SeenBlocks([]), None],
        [SeenNames(1, []), None],
        [SeenNames(1, [b"x", b"y"]), None],
    ],
)
def test_an_answer_that_is_none_ends_it(seen: list[Seen | None]) -> None:
    verifier = with_files()
    world = verifier.world
    verifier.start()
    while not any(isinstance(decode(raw), Look) for raw in world.second.inbox):
        world.perform(world.first, Lane.TREE)
    world.give(world.first, Received(Looked(6, 1, 1, seen)))
    assert "answers another question" in verifier.to_its_end().why
    assert not world.resets


def test_a_follower_that_does_not_answer_ends_it() -> None:
    verifier = with_files()
    world = verifier.world
    verifier.start()
    while world.first.lanes[Lane.TREE]:
        world.perform(world.first, Lane.TREE)
    world.second.inbox.clear()
    assert "does not answer" in verifier.to_its_end().why
    assert world.now_ms >= 30_000
