"""The front without a kernel: requests over a pair of sockets, over a disk in a directory."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mirrorha.volume.disk import Apply, Outcome, Space
from mirrorha.volume.events import Failure, Reply
from mirrorha.volume.fuse import kernel
from mirrorha.volume.fuse.device import WANTED
from mirrorha.volume.fuse.kernel import Init, Opcode
from mirrorha.volume.fuse.server import Server
from mirrorha.volume.ops import ROOT_FID, SetAttributes, Unlink, Write
from mirrorha.wire.limits import WRITE_BYTES_MAX
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir, seen_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirrorha.volume.fuse.interface import Then
    from mirrorha.volume.ops import AnyOp

FILE = fid(1)
ALL = 0xFFFF_FFFF


class Answer(NamedTuple):
    error: int
    unique: int
    body: bytes


class Held:
    """Changes that are carried out when the test says so."""

    def __init__(self) -> None:
        self.asked: dict[int, tuple[AnyOp | int, Then]] = {}
        self.flushes: list[tuple[int, bool]] = []
        self._tokens = 0

    def change(self, op: AnyOp, then: Then) -> int:
        return self._ask(op, then)

    def flush(self, fid: int, then: Then, *, data_only: bool = False) -> int:
        self.flushes.append((fid, data_only))
        return self._ask(fid, then)

    def withdraw(self, token: int) -> bool:
        return self.asked.pop(token, None) is not None

    def _ask(self, what: AnyOp | int, then: Then) -> int:
        self._tokens += 1
        self.asked[self._tokens] = what, then
        return self._tokens


class Rig:
    """A server, and the kernel's end of its device."""

    def __init__(
        self, home: Home, *, peer_space: Callable[[], Space | None] = lambda: None
    ) -> None:
        ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.kernel.setblocking(False)
        self._ours = ours
        self.disk = home.open()
        self.view: Any = self.make_view()
        self.changes = Held()
        self.server = Server(
            ours.fileno(), self.view, self.changes, clock_ns=lambda: T0, peer_space=peer_space
        )
        self.server.serving = True
        self._unique = 0

    def make_view(self) -> Any:
        return self.disk.view()

    def send(self, opcode: int, node: int = ROOT_FID, body: bytes = b"", *, uid: int = 0) -> int:
        self._unique += 2
        length = kernel.IN_HEADER.size + len(body)
        head = kernel.IN_HEADER.pack(length, opcode, self._unique, node, uid, uid, 1, 0)
        self.kernel.send(head + body)
        return self._unique

    def ask(self, opcode: int, node: int = ROOT_FID, body: bytes = b"", *, uid: int = 0) -> int:
        unique = self.send(opcode, node, body, uid=uid)
        assert self.server.serve()
        return unique

    def answer(self) -> Answer | None:
        try:
            data = self.kernel.recv(1 << 21)
        except BlockingIOError:
            return None
        length, error, unique = kernel.OUT_HEADER.unpack_from(data)
        assert length == len(data)
        return Answer(-error, unique, data[kernel.OUT_HEADER.size :])

    def write(self, data: bytes, *, flags: int = 0, node: int = FILE) -> int:
        return self.ask(Opcode.WRITE, node, write_body(data, flags=flags), uid=1)

    def copy(self, length: int, *, offset: int = 0, offset_out: int = 0) -> int:
        body = kernel.COPY_FILE_RANGE_IN.pack(1, offset, FILE, 1, offset_out, length, 0)
        return self.ask(Opcode.COPY_FILE_RANGE, FILE, body)

    def only_asked(self) -> AnyOp | int:
        (one,) = self.changes.asked.values()
        return one[0]

    def carry_out(self) -> None:
        """Do on the disk what was asked for, in order."""
        while self.changes.asked:
            token = min(self.changes.asked)
            op, then = self.changes.asked.pop(token)
            if isinstance(op, int):
                then(Reply(token, Failure.NONE))
                continue
            outcome = self.disk.perform(Apply(op))
            assert isinstance(outcome, Outcome)
            kind = Failure.ERRNO if outcome.errno else Failure.NONE
            then(Reply(token, kind, outcome.errno, outcome.done))

    def say(self, failure: Failure, number: int = 0, op: AnyOp | None = None) -> None:
        token = min(self.changes.asked)
        self.changes.asked.pop(token)[1](Reply(token, failure, number, op))

    def close(self) -> None:
        self.view.close()
        self._ours.close()
        self.kernel.close()


def write_body(data: bytes, *, offset: int = 0, flags: int = 0) -> bytes:
    return kernel.WRITE_IN.pack(FILE, offset, len(data), flags, 0, 0) + data


def init_body(*, major: int = 7, minor: int = 38, low: int = ALL, high: int = ALL) -> bytes:
    return kernel.INIT_IN.pack(major, minor, 131_072, low, high)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    home = Home(tmp_path)
    rig = Rig(home)
    do(rig.disk, create(1, "file"), mkdir(2, "directory"))
    yield rig
    rig.close()
    home.close()


# ---- what is agreed on --------------------------------------------------------------


def test_a_kernel_that_knows_everything(rig: Rig) -> None:
    rig.ask(Opcode.INIT, 0, init_body(minor=44))
    answer = rig.answer()
    assert answer is not None
    fields = kernel.INIT_OUT.unpack(bytes(kernel.OUT_HEADER.size) + answer.body)[3:]
    major, minor, readahead, low, _, _, max_write, granularity, max_pages, _, high = fields
    assert (major, minor, readahead) == (7, 38, 1 << 20)
    assert (max_write, granularity, max_pages) == (1 << 20, 1, 256)
    flags = Init(low | high << 32)
    assert flags == WANTED
    for unwanted in (Init.WRITEBACK_CACHE, Init.POSIX_LOCKS, Init.FLOCK_LOCKS):
        assert not flags & unwanted


def test_nothing_is_agreed_on_that_the_kernel_does_not_offer(rig: Rig) -> None:
    offered = Init.BIG_WRITES | Init.MAX_PAGES | Init.WRITEBACK_CACHE
    rig.ask(Opcode.INIT, 0, init_body(minor=31, low=offered)[:16])
    answer = rig.answer()
    assert answer is not None
    assert not answer.error
    assert rig.server.agreement is not None
    assert rig.server.agreement.minor == 31
    assert rig.server.agreement.flags == Init.BIG_WRITES | Init.MAX_PAGES


def test_other_versions(rig: Rig) -> None:
    rig.ask(Opcode.INIT, 0, init_body(minor=30))
    answer = rig.answer()
    assert answer is not None
    assert answer.error == errno.EPROTO
    assert rig.server.agreement is None
    rig.ask(Opcode.INIT, 0, init_body(major=8))
    answer = rig.answer()
    assert answer is not None
    assert not answer.error
    assert int.from_bytes(answer.body[:4], "little") == 7
    assert rig.server.agreement is None


# ---- how changes are answered -------------------------------------------------------


@pytest.mark.parametrize("flags", [0, kernel.FSYNC_FDATASYNC, ALL - kernel.FSYNC_FDATASYNC, ALL])
def test_a_sync_says_whether_data_is_enough(rig: Rig, flags: int) -> None:
    body = kernel.FSYNC_IN.pack(FILE, flags)
    unique = rig.ask(Opcode.FSYNC, FILE, body)
    rig.ask(Opcode.FSYNCDIR, fid(2), body)
    assert rig.changes.flushes == [(FILE, bool(flags & 1)), (fid(2), False)]
    assert rig.answer() is None
    rig.carry_out()
    answer = rig.answer()
    assert answer is not None
    assert (answer.error, answer.unique) == (0, unique)


def test_a_write_becomes_an_op_and_is_answered_when_it_is_made(rig: Rig) -> None:
    unique = rig.write(b"abc")
    assert rig.only_asked() == Write(FILE, 0, b"abc", T0)
    assert rig.answer() is None
    assert rig.server.waiting == 1
    rig.carry_out()
    answer = rig.answer()
    assert answer is not None
    assert (answer.error, answer.unique) == (0, unique)
    assert int.from_bytes(answer.body[:4], "little") == 3
    assert rig.server.waiting == 0


@pytest.mark.parametrize(
    ("failure", "number", "seen"),
    [
        (Failure.ERRNO, errno.ENOSPC, errno.ENOSPC),
        (Failure.NOT_PRIMARY, 0, errno.EROFS),
        (Failure.UNKNOWN, 0, errno.EIO),
    ],
)
def test_what_was_not_made(rig: Rig, failure: Failure, number: int, seen: int) -> None:
    for opcode, body in ((Opcode.WRITE, write_body(b"abc")), (Opcode.FSYNC, bytes(16))):
        rig.ask(opcode, FILE, body)
        rig.say(failure, number)
        answer = rig.answer()
        assert answer is not None
        assert answer.error == seen


def test_a_write_that_was_made_in_part_says_how_far(rig: Rig) -> None:
    rig.write(b"abcdef")
    rig.say(Failure.ERRNO, errno.ENOSPC, Write(FILE, 0, b"abcd", T0))
    answer = rig.answer()
    assert answer is not None
    assert (answer.error, answer.body[0]) == (0, 4)


def test_set_user_id_bits_go_before_the_write(rig: Rig) -> None:
    do(rig.disk, SetAttributes(FILE, 0o6775, None, None, None))
    rig.write(b"x", flags=kernel.WRITE_KILL_SUIDGID)
    assert rig.only_asked() == SetAttributes(FILE, 0o775, None, None, None)
    rig.say(Failure.NOT_PRIMARY)
    answer = rig.answer()
    assert answer is not None
    assert answer.error == errno.EROFS
    assert not rig.changes.asked
    rig.write(b"x", flags=kernel.WRITE_KILL_SUIDGID)
    rig.carry_out()
    answer = rig.answer()
    assert answer is not None
    assert not answer.error
    status = rig.view.status(FILE)[0]
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o775, 1)
    # From now on it is known that there is nothing to take away.
    rig.write(b"y", flags=kernel.WRITE_KILL_SUIDGID)
    assert isinstance(rig.only_asked(), Write)


def test_a_write_of_root_leaves_the_bits(rig: Rig) -> None:
    do(rig.disk, SetAttributes(FILE, 0o4755, None, None, None))
    rig.write(b"x")
    assert isinstance(rig.only_asked(), Write)


def test_bits_that_were_set_meanwhile_are_seen(rig: Rig) -> None:
    rig.write(b"x", flags=kernel.WRITE_KILL_SUIDGID)
    rig.carry_out()
    fields = (kernel.Fattr.MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o4755, 0, 0)
    rig.ask(Opcode.SETATTR, FILE, kernel.SETATTR_IN.pack(*fields))
    rig.carry_out()
    rig.write(b"y", flags=kernel.WRITE_KILL_SUIDGID)
    assert isinstance(rig.only_asked(), SetAttributes)


def test_what_waits_is_taken_back_when_its_caller_is_interrupted(rig: Rig) -> None:
    unique = rig.write(b"abc")
    rig.ask(Opcode.INTERRUPT, 0, kernel.INTERRUPT_IN.pack(unique))
    answer = rig.answer()
    assert answer == Answer(errno.EINTR, unique, b"")
    assert not rig.changes.asked
    assert rig.answer() is None


def test_what_is_too_late_to_take_back_is_answered_as_ever(rig: Rig) -> None:
    unique = rig.write(b"abc")
    asked = dict(rig.changes.asked)
    rig.changes.asked.clear()
    rig.ask(Opcode.INTERRUPT, 0, kernel.INTERRUPT_IN.pack(unique))
    assert rig.answer() is None
    rig.changes.asked.update(asked)
    rig.carry_out()
    answer = rig.answer()
    assert answer is not None
    assert (answer.error, answer.unique) == (0, unique)
    rig.ask(Opcode.INTERRUPT, 0, kernel.INTERRUPT_IN.pack(unique))
    assert rig.answer() is None


def test_a_request_that_has_changed_something_is_not_interrupted(rig: Rig) -> None:
    """The second change of a SETATTR waits; the first was made."""
    valid = kernel.Fattr.SIZE | kernel.Fattr.MODE
    fields = (valid, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 0)
    unique = rig.ask(Opcode.SETATTR, FILE, kernel.SETATTR_IN.pack(*fields))
    token = min(rig.changes.asked)
    op, then = rig.changes.asked.pop(token)
    assert not isinstance(op, int)
    rig.disk.perform(Apply(op))
    then(Reply(token, Failure.NONE, op=op))
    assert isinstance(rig.only_asked(), SetAttributes)
    rig.ask(Opcode.INTERRUPT, 0, kernel.INTERRUPT_IN.pack(unique))
    assert rig.answer() is None
    rig.carry_out()
    answer = rig.answer()
    assert answer is not None
    assert not answer.error
    status = rig.view.status(FILE)[0]
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 7)


def test_one_request_copies_as_much_as_one_write_at_most(rig: Rig) -> None:
    """The kernel asks for the rest, and whoever else asked meanwhile comes first."""
    content = os.urandom(WRITE_BYTES_MAX + 5)
    do(rig.disk, Write(FILE, 0, content[:-5], T0), Write(FILE, WRITE_BYTES_MAX, content[-5:], T0))
    for offset, size in ((0, WRITE_BYTES_MAX), (WRITE_BYTES_MAX, 5), (len(content), 0)):
        rig.copy(10 * len(content), offset=offset, offset_out=offset)
        if size:
            assert rig.only_asked() == Write(FILE, offset, content[offset : offset + size], T0)
        rig.carry_out()
        answer = rig.answer()
        assert answer is not None
        assert struct.unpack("=I4x", answer.body) == (size,)


def test_a_copy_onto_an_orphan_ends_too(rig: Rig) -> None:
    """That is made at once, without a turn of the loop in between."""
    do(rig.disk, Write(FILE, 0, bytes(WRITE_BYTES_MAX), T0))
    rig.ask(Opcode.OPEN, FILE, kernel.OPEN_IN.pack(os.O_RDWR, 0))
    rig.answer()
    do(rig.disk, Unlink(FILE, ROOT_FID, "file", T0))
    rig.server._pending.orphans.note(FILE)
    rig.copy(1 << 40, offset_out=1)
    answer = rig.answer()
    assert answer is not None
    assert struct.unpack("=I4x", answer.body) == (WRITE_BYTES_MAX,)
    assert rig.view.status(FILE)[0].st_size == WRITE_BYTES_MAX + 1


def test_everything_that_waits_can_be_refused(rig: Rig) -> None:
    uniques = {rig.write(b"1"), rig.write(b"2"), rig.ask(Opcode.FSYNC, FILE, bytes(16))}
    rig.server.fail_pending(errno.EIO)
    answers = [rig.answer() for _ in uniques]
    assert {answer.unique for answer in answers if answer} == uniques
    assert all(answer and answer.error == errno.EIO for answer in answers)
    rig.carry_out()
    assert rig.answer() is None


def test_a_change_that_waited_behind_the_removal_is_made_on_the_orphan(rig: Rig) -> None:
    rig.ask(Opcode.OPEN, FILE, kernel.OPEN_IN.pack(os.O_RDWR, 0))
    assert rig.answer() is not None
    rig.ask(Opcode.UNLINK, ROOT_FID, b"file\0")
    rig.write(b"late")
    assert len(rig.changes.asked) == 2
    rig.carry_out()
    removed, written = rig.answer(), rig.answer()
    assert removed is not None
    assert written is not None
    assert (removed.error, written.error, written.body[0]) == (0, 0, 4)
    assert seen_in(rig.view, FILE) == b"late"
    # And those that come later ask nobody.
    rig.write(b"LATE")
    assert not rig.changes.asked
    rig.ask(Opcode.FSYNC, FILE, bytes(16))
    assert not rig.changes.asked
    rig.answer()
    rig.answer()
    assert seen_in(rig.view, FILE) == b"LATE"
    rig.ask(Opcode.RELEASE, FILE, bytes(24))
    rig.answer()
    rig.write(b"gone")
    rig.carry_out()
    answer = rig.answer()
    assert answer is not None
    assert answer.error == errno.ESTALE


# ---- what is not ours ---------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Opcode.FLUSH, Opcode.ACCESS, Opcode.TMPFILE, 31, 39, 4096])
def test_what_the_kernel_does_without_us(rig: Rig, opcode: int) -> None:
    unique = rig.ask(opcode, FILE, bytes(64))
    assert rig.answer() == Answer(errno.ENOSYS, unique, b"")


def test_a_directory_is_made_durable_each_time(rig: Rig) -> None:
    """ENOSYS here, and the kernel would report success for ever."""
    for _ in range(2):
        rig.ask(Opcode.FSYNCDIR, fid(2), bytes(16))
        assert rig.only_asked() == fid(2)
        rig.carry_out()
        answer = rig.answer()
        assert answer is not None
        assert not answer.error


def test_bugs_are_counted_and_answered(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    rig.view.statfs = None
    for number in range(30):
        unique = rig.ask(Opcode.STATFS)
        assert rig.answer() == Answer(errno.EIO, unique, b"")
        assert rig.server.failures == number + 1
    assert 1 <= len(caplog.records) <= 25
    rig.changes.change = fail  # type: ignore[method-assign]
    unique = rig.write(b"x")
    assert rig.answer() == Answer(errno.EIO, unique, b"")
    # One after the change was made.
    del rig.changes.change
    rig.ask(Opcode.MKDIR, ROOT_FID, kernel.MKDIR_IN.pack(0o755, 0) + b"new\0")
    rig.say(Failure.NONE)  # which does not say what was made
    answer = rig.answer()
    assert answer is not None
    assert answer.error == errno.EIO


def test_a_file_system_has_as_much_room_as_the_smaller_of_two(tmp_path: Path) -> None:
    home, space = Home(tmp_path), list[Space | None]([None])
    rig = Rig(home, peer_space=lambda: space[0])
    mine = os.statvfs(home.root)

    def shown() -> tuple[int, ...]:
        rig.ask(Opcode.STATFS)
        answer = rig.answer()
        assert answer is not None
        return struct.unpack_from("<QQQQQ", answer.body)

    assert shown()[0] == mine.f_blocks
    space[0] = Space(*[3 * mine.f_frsize] * 3, files=2, files_free=1)
    assert shown() == (3, 3, 3, 2, 1)
    rig.close()
    home.close()


def test_a_request_that_is_too_short(rig: Rig) -> None:
    for opcode in Opcode:
        if opcode in {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.WRITE}:
            continue  # never answered, or read from the buffer that a longer one left
        rig.ask(opcode, FILE, b"")
        rig.carry_out()
        while rig.answer() is not None:
            pass
    rig.write(b"still there")
    assert len(rig.changes.asked) == 1


# ---- what the kernel knows ----------------------------------------------------------


def test_references_are_counted(rig: Rig) -> None:
    for _ in range(3):
        rig.ask(Opcode.LOOKUP, ROOT_FID, b"file\0")
    rig.ask(Opcode.LOOKUP, ROOT_FID, b"directory\0")
    assert set(rig.server.known().fids) == {ROOT_FID, FILE, fid(2)}
    assert set(rig.server.known().entries) == {(ROOT_FID, "file"), (ROOT_FID, "directory")}
    rig.ask(Opcode.FORGET, FILE, kernel.FORGET_IN.pack(2))
    assert FILE in rig.server.known().fids
    batch = kernel.BATCH_FORGET_IN.pack(2)
    batch += kernel.FORGET_ONE.pack(FILE, 1) + kernel.FORGET_ONE.pack(fid(2), 1)
    rig.ask(Opcode.BATCH_FORGET, 0, batch)
    assert rig.server.known().fids == [ROOT_FID]


def test_a_full_listing_counts_as_looking_up(rig: Rig) -> None:
    rig.ask(Opcode.OPENDIR, ROOT_FID, kernel.OPEN_IN.pack(os.O_RDONLY, 0))
    answer = rig.answer()
    assert answer is not None
    handle = int.from_bytes(answer.body[:8], "little")
    for opcode, known in ((Opcode.READDIR, set()), (Opcode.READDIRPLUS, {FILE, fid(2)})):
        rig.ask(opcode, ROOT_FID, kernel.READ_IN.pack(handle, 0, 4096, 0, 0, 0))
        answer = rig.answer()
        assert answer is not None
        for name in (b".", b"..", b"file", b"directory"):
            assert name in answer.body
        # The two dots do not count.
        assert set(rig.server.known().fids) == {ROOT_FID, *known}
    for references in (FILE, fid(2)):
        rig.ask(Opcode.FORGET, references, kernel.FORGET_IN.pack(1))
    assert rig.server.known().fids == [ROOT_FID]


def test_how_long_answers_hold(rig: Rig) -> None:
    def valid_s() -> tuple[int, int]:
        rig.ask(Opcode.LOOKUP, ROOT_FID, b"file\0")
        answer = rig.answer()
        assert answer is not None
        fields = kernel.ENTRY_OUT.unpack(bytes(kernel.OUT_HEADER.size) + answer.body)
        return fields[5], fields[6]

    assert min(valid_s()) > 3600
    rig.server.serving = False
    assert valid_s() == (0, 0)


def test_what_lost_its_last_name_elsewhere_can_be_read_while_it_is_open(rig: Rig) -> None:
    """On a node that follows: the removal came by the stream."""
    do(rig.disk, Write(FILE, 0, b"kept", T0))
    rig.server.serving = False
    rig.ask(Opcode.OPEN, FILE, kernel.OPEN_IN.pack(os.O_RDONLY, 0))
    rig.answer()
    do(rig.disk, Unlink(FILE, ROOT_FID, "file", T0))
    rig.ask(Opcode.READ, FILE, kernel.READ_IN.pack(FILE, 0, 100, 0, 0, 0))
    answer = rig.answer()
    assert answer is not None
    assert answer.body == b"kept"
    rig.ask(Opcode.RELEASE, FILE, bytes(24))
    rig.answer()
    rig.ask(Opcode.READ, FILE, kernel.READ_IN.pack(FILE, 0, 100, 0, 0, 0))
    answer = rig.answer()
    assert answer is not None
    assert answer.error == errno.ESTALE


def test_after_many_lone_requests_one_is_read_at_a_time_until_there_are_more(rig: Rig) -> None:
    for _ in range(20):
        rig.write(b"one")
        rig.carry_out()
    for _ in range(6):
        rig.send(Opcode.WRITE, FILE, write_body(b"many"))
    rounds = []
    while rig.server.waiting < 6:
        before = rig.server.waiting
        assert rig.server.serve()
        rounds.append(rig.server.waiting - before)
    assert rounds[0] == 1, "it was looked in vain for a second one"
    assert rounds[-1] > 1, "it went on with one at a time"
