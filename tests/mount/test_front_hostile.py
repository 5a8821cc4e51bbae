"""Requests of a kernel nobody would want: the front answers each once, and goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import socket
import stat
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mirrorha.volume.disk import SyncTree
from mirrorha.volume.fuse.directories import Directories
from mirrorha.volume.fuse.freshness import Freshness
from mirrorha.volume.fuse.kernel import (
    DIRENTPLUS,
    ENTRY_OUT,
    IN_HEADER,
    LAYOUTS,
    LSEEK_IN,
    OUT_HEADER,
    READ_IN,
    Opcode,
)
from mirrorha.volume.fuse.reading import Reading
from mirrorha.volume.fuse.replies import Desk
from mirrorha.volume.fuse.requests import Request
from mirrorha.volume.fuse.server import Server
from mirrorha.volume.ops import SetAttributes
from tests.requirements import require_root
from tests.volume.disk_support import Home, create, do, mkdir
from tests.volume.disk_support import fid as fid_of
from tests.volume.fuse.serving import Changes

if TYPE_CHECKING:
    from mirrorha.volume.fuse.device import Device

WITHOUT_ANSWER = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
SMALL = 64 * 1024
#: What each request consists of: structs, and how many texts behind them.
SHAPES: dict[Opcode, tuple[str, int]] = {
    Opcode.LOOKUP: ("", 1),
    Opcode.FORGET: ("fuse_forget_in", 0),
    Opcode.GETATTR: ("", 0),
    Opcode.SETATTR: ("fuse_setattr_in", 0),
    Opcode.READLINK: ("", 0),
    Opcode.SYMLINK: ("", 2),
    Opcode.MKNOD: ("fuse_mknod_in", 1),
    Opcode.MKDIR: ("fuse_mkdir_in", 1),
    Opcode.UNLINK: ("", 1),
    Opcode.RMDIR: ("", 1),
    Opcode.RENAME: ("fuse_rename_in", 2),
    Opcode.LINK: ("fuse_link_in", 1),
    Opcode.OPEN: ("fuse_open_in", 0),
    Opcode.READ: ("fuse_read_in", 0),
    Opcode.WRITE: ("fuse_write_in", 1),
    Opcode.STATFS: ("", 0),
    Opcode.RELEASE: ("fuse_release_in", 0),
    Opcode.FSYNC: ("fuse_fsync_in", 0),
    Opcode.SETXATTR: ("fuse_setxattr_in", 2),
    Opcode.GETXATTR: ("fuse_getxattr_in", 1),
    Opcode.LISTXATTR: ("fuse_getxattr_in", 0),
    Opcode.REMOVEXATTR: ("", 1),
    Opcode.FLUSH: ("fuse_release_in", 0),
    Opcode.OPENDIR: ("fuse_open_in", 0),
    Opcode.READDIR: ("fuse_read_in", 0),
    Opcode.RELEASEDIR: ("fuse_release_in", 0),
    Opcode.FSYNCDIR: ("fuse_fsync_in", 0),
    Opcode.ACCESS: ("fuse_getxattr_in", 0),
    Opcode.CREATE: ("fuse_create_in", 1),
    Opcode.INTERRUPT: ("fuse_interrupt_in", 0),
    Opcode.BATCH_FORGET: ("fuse_batch_forget_in", 0),
    Opcode.FALLOCATE: ("fuse_fallocate_in", 0),
    Opcode.READDIRPLUS: ("fuse_read_in", 0),
    Opcode.RENAME2: ("fuse_rename2_in", 2),
    Opcode.LSEEK: ("fuse_lseek_in", 0),
    Opcode.COPY_FILE_RANGE: ("fuse_copy_file_range_in", 0),
    Opcode.TMPFILE: ("fuse_create_in", 1),
}
# Nothing between a megabyte and what no file system holds: it would be allocated.
numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 4095, 4096, SMALL, 0o100644, 0o40755, 0o4755]),
    st.integers(0, 4096),
    st.sampled_from([1 << 31, (1 << 32) - 1, 1 << 45, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
)
fids = st.one_of(
    st.sampled_from([0, 1, 1, 2, fid_of(1), fid_of(1), fid_of(2), fid_of(3), (1 << 64) - 1]),
    st.integers(0, 1 << 32),
)
names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"d", b"", b".", b"..", b"a/b", b"\xff\n", b"n" * 256]),
    st.sampled_from([b".mirrorha-volume", b".mirrorha-limbo", b"user.x", b"security.capability"]),
    st.binary(max_size=8).map(lambda raw: raw.replace(b"\0", b"")),
)


@st.composite
def requests(draw: st.DrawFn, *, is_damaged: bool = False) -> tuple[int, int, bytes]:
    """Opcode, file, body."""
    opcode = draw(st.sampled_from(sorted(SHAPES)))
    layout, texts = SHAPES[opcode]
    body = _packed(draw, LAYOUTS[layout]) if layout else b""
    if opcode == Opcode.BATCH_FORGET:
        body = struct.pack("=IIQQ", draw(st.integers(0, 2)), 0, draw(fids), draw(numbers))
    body += b"".join(draw(names) + b"\0" for _ in range(texts))
    if is_damaged:
        cut = draw(st.integers(0, len(body)))
        body = body[:cut] + draw(st.binary(max_size=24))
        opcode = draw(st.one_of(st.just(opcode), st.integers(0, 70), st.just((1 << 32) - 1)))
    return opcode, draw(fids), body


def _packed(draw: st.DrawFn, layout: str) -> bytes:
    kinds = re.findall(r"(?:[\w.]+:)?(\d*[A-Za-z])", layout)
    values = []
    for kind in kinds:
        size = struct.calcsize("=" + kind)
        if not kind.endswith("x"):
            value = draw(numbers) & ((1 << 8 * size) - 1)
            values.append(
                value - (1 << 8 * size) if kind in "iq" and value >> 8 * size - 1 else value
            )
    return struct.pack("=" + "".join(kinds), *values)


class Kernel:
    """The other end of a front's device, and a disk behind it."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.disk = self.home.open()
        do(self.disk, mkdir(1, "d"), create(2, "a"), create(3, "b", fid_of(1)))
        self.view = self.disk.view()
        self.changes = Changes(self.disk)
        self.end, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setblocking(False)
        self.end.setblocking(False)
        self.server = Server(self._theirs.fileno(), self.view, self.changes)
        self.server.serving = True
        self._unique = 0

    def ask(self, opcode: int, fid: int, body: bytes = b"", *, uid: int = 0) -> int:
        self._unique += 2
        length = IN_HEADER.size + len(body)
        header = IN_HEADER.pack(length, opcode, self._unique, fid, uid, uid, 1, 0)
        self.end.send(header + body)
        assert self.server.serve()
        return self._unique

    def answers(self) -> Iterator[tuple[int, int, bytes]]:
        """What was answered so far: to which request, errno, and with what."""
        while True:
            try:
                packet = self.end.recv(1 << 22)
            except BlockingIOError:
                return
            length, number, unique = OUT_HEADER.unpack_from(packet)
            assert length == len(packet)
            assert -4096 < number <= 0
            assert number == 0 or length == OUT_HEADER.size
            yield unique, -number, packet[OUT_HEADER.size :]

    def answer(
        self, opcode: int, fid: int, body: bytes = b"", *, uid: int = 0
    ) -> tuple[int, bytes]:
        unique = self.ask(opcode, fid, body, uid=uid)
        (found,) = self.answers()
        assert found[0] == unique
        return found[1:]

    def close(self) -> None:
        self.view.close()
        self.home.close()
        self.end.close()
        self._theirs.close()


@contextlib.contextmanager
def kernel_over(path: Path) -> Iterator[Kernel]:
    one = Kernel(path)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Kernel]:
    with kernel_over(tmp_path) as one:
        yield one


def check_answered(asking: Kernel, drawn: list[tuple[int, int, bytes]]) -> None:
    asked: dict[int, int] = {}
    for opcode, fid, body in drawn:
        asked[asking.ask(opcode, fid, body)] = opcode
    answered = Counter(unique for unique, _, _ in asking.answers())
    for unique, opcode in asked.items():
        if opcode not in WITHOUT_ANSWER:
            assert answered.pop(unique, 0) == 1, f"{Opcode(opcode).name} was not answered once"
    assert set(answered) <= set(asked), "nobody asked for that"


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(requests(), min_size=1, max_size=40))
@example(drawn=[(Opcode.READ, fid_of(2), READ_IN.pack(0, 1 << 63, 1, 0, 0, 0))])
@example(drawn=[(Opcode.LSEEK, fid_of(2), LSEEK_IN.pack(0, 1 << 63, os.SEEK_DATA))])
def test_whatever_is_asked_is_answered_once(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, bytes]]
) -> None:
    with kernel_over(tmp_path_factory.mktemp("home")) as asking:
        check_answered(asking, drawn)
        assert asking.server.failures == 0, "what is well formed is no bug"
        assert asking.server.waiting == 0


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(requests(is_damaged=True), min_size=1, max_size=40))
def test_what_is_damaged_ends_nothing(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, bytes]]
) -> None:
    with kernel_over(tmp_path_factory.mktemp("home")) as asking:
        asked = {asking.ask(*one): one for one in drawn}
        answered = Counter(unique for unique, _, _ in asking.answers())
        for unique, (opcode, _, _) in asked.items():
            if opcode not in WITHOUT_ANSWER:
                assert answered[unique] == 1
        assert max(answered.values(), default=0) <= 1
        assert asking.answer(Opcode.STATFS, 1)[0] == 0, "it goes on"


def test_the_shapes_are_those_of_the_kernel() -> None:
    assert set(SHAPES) == set(Opcode) - {Opcode.INIT, Opcode.DESTROY}
    assert all(layout in LAYOUTS for layout, _ in SHAPES.values() if layout)


def entries_in(opcode: int, answer: bytes) -> list[int]:
    """What the kernel counts as referred to by an answer."""
    if opcode == Opcode.READDIRPLUS:
        found, offset = [], 0
        while offset < len(answer):
            found.append(int.from_bytes(answer[offset : offset + 8], "little"))
            length = DIRENTPLUS.unpack_from(answer, offset)[-2]
            offset += -(-(DIRENTPLUS.size + length) // 8) * 8
        return [fid for fid in found if fid]
    made = {Opcode.LOOKUP, Opcode.CREATE, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK}
    return [int.from_bytes(answer[:8], "little")] if opcode in made else []


class Polite:
    """Asks for what there is, and remembers what it would have to give back."""

    def __init__(self, asking: Kernel, rng: random.Random) -> None:
        self.asking = asking
        self.rng = rng
        self.references: Counter[int] = Counter()
        self.opened: list[tuple[int, int, int]] = []  # how it is closed, file, handle
        self.ends: Counter[tuple[str, bool]] = Counter()
        self.directories = [1]
        self.files: list[int] = []

    def ask(self, opcode: Opcode, fid: int, body: bytes = b"") -> bytes | None:
        number, answer = self.asking.answer(opcode, fid, body)
        self.ends[opcode.name, not number] += 1
        if number:
            return None
        for found in entries_in(opcode, answer):
            self.references[found] += 1
        return answer

    def step(self) -> None:
        rng = self.rng
        where = rng.choice(self.directories)
        fid = rng.choice(self.files or [fid_of(2)])
        name = rng.choice([b"a", b"b", b"c", b"d"]) + b"\0"
        match rng.randrange(12):
            case 0 | 1:
                self.lookup(where, name)
            case 2:
                self.create(where, name)
            case 3:
                self.open(Opcode.OPEN, Opcode.RELEASE, fid)
            case 4:
                self.open(Opcode.OPENDIR, Opcode.RELEASEDIR, where)
            case 5:
                self.list(rng.choice([Opcode.READDIR, Opcode.READDIRPLUS, Opcode.READDIRPLUS]))
            case 6:
                self.ask(rng.choice([Opcode.UNLINK, Opcode.UNLINK, Opcode.RMDIR]), where, name)
            case 7:
                self.ask(Opcode.MKDIR, where, struct.pack("=II", 0o40755, 0) + name)
            case 8:
                target = rng.choice(self.directories)
                self.ask(Opcode.RENAME, where, struct.pack("=Q", target) + name + b"a\0")
            case 9:
                head = struct.pack("=QQIIQII", 0, rng.randrange(9000), 4, 0, 0, 0, 0)
                self.ask(Opcode.WRITE, fid, head + b"data")
            case 10:
                self.ask(Opcode.LINK, where, struct.pack("=Q", fid) + name)
            case _:
                self.close()

    def lookup(self, where: int, name: bytes) -> None:
        answer = self.ask(Opcode.LOOKUP, where, name)
        if answer is not None:
            attributes = ENTRY_OUT.unpack(bytes(OUT_HEADER.size) + answer)
            kept = self.directories if stat.S_ISDIR(attributes[18]) else self.files
            kept.append(attributes[3])

    def create(self, where: int, name: bytes) -> None:
        body = struct.pack("=IIII", os.O_RDWR | os.O_CREAT, 0o100644, 0o022, 0)
        answer = self.ask(Opcode.CREATE, where, body + name)
        if answer is not None:
            handle, _ = struct.unpack_from("=QI", answer, ENTRY_OUT.size - OUT_HEADER.size)
            fid = int.from_bytes(answer[:8], "little")
            self.opened.append((Opcode.RELEASE, fid, handle))
            self.files.append(fid)

    def open(self, opcode: Opcode, closing: Opcode, fid: int) -> None:
        answer = self.ask(opcode, fid, struct.pack("=II", os.O_RDONLY, 0))
        if answer is not None:
            self.opened.append((closing, fid, int.from_bytes(answer[:8], "little")))

    def list(self, opcode: Opcode) -> None:
        for closing, fid, handle in self.opened:
            if closing == Opcode.RELEASEDIR:
                self.ask(opcode, fid, struct.pack("=QQIIQII", handle, 0, 4096, 0, 0, 0, 0))

    def close(self) -> None:
        if self.opened:
            closing, fid, handle = self.opened.pop(self.rng.randrange(len(self.opened)))
            body = struct.pack("=QIIQ", handle, 0, 0, 0)
            assert self.asking.answer(closing, fid, body)[0] == 0

    def give_back(self) -> None:
        while self.opened:
            self.close()
        for fid, count in self.references.items():
            self.asking.ask(Opcode.FORGET, fid, struct.pack("=Q", count))


@pytest.mark.parametrize("seed", range(12))
def test_what_the_kernel_gives_back_is_kept_no_longer(asking: Kernel, seed: int) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    kernel = Polite(asking, random.Random(seed))
    for _ in range(300):
        kernel.step()
    for opcode in ("LOOKUP", "CREATE", "OPEN", "OPENDIR", "READDIRPLUS", "UNLINK", "MKDIR", "LINK"):
        assert kernel.ends[opcode, True], f"never once a {opcode}"
    server = asking.server
    assert server._desk.known == +kernel.references
    kernel.give_back()
    assert server._desk.known == {}
    assert server._desk._departed == {}
    assert asking.view._held == {}
    assert server._handlers[Opcode.READDIR].__self__._directories._open == {}  # type: ignore[attr-defined]
    assert server._pending.orphans.fids == set()
    assert server.failures == 0
    asking.disk.perform(SyncTree())
    # Some are kept open for the next use, few.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 20


def test_what_nobody_waited_for_is_not_kept(asking: Kernel) -> None:
    """Who listed a directory may be killed meanwhile: the kernel then has no references."""

    class Unheard:
        def reply_parts(self, parts: object) -> bool:
            return not parts

    desk = Desk(cast("Device", Unheard()), asking.view)
    directories = Directories(desk)
    handle = directories.open()
    orphans = asking.server._pending.orphans
    reading = Reading(desk, directories, orphans, Freshness(lambda _: None))
    body = memoryview(struct.pack("=QQIIQII", handle, 0, 4096, 0, 0, 0, 0))
    reading.handlers()[Opcode.READDIRPLUS](Request(2, 1, 0, 0, body))
    assert desk.known == {}


@pytest.mark.parametrize(("user", "mode"), [(0, 0o755), (1000, 0o755), (1001, 0o6755)])
def test_only_who_may_takes_bits_away_by_a_change_of_nothing(
    asking: Kernel, user: int, mode: int
) -> None:
    """As chown(-1, -1) does; others would take set-user-id bits of everybody's files away."""
    require_root()
    do(asking.disk, SetAttributes(fid_of(2), 0o6755, 1000, 1000, None))
    body = bytes(kernel_size("fuse_setattr_in"))
    expected = 0 if user < 1001 else errno.EPERM
    assert asking.answer(Opcode.SETATTR, fid_of(2), body, uid=user)[0] == expected
    assert stat.S_IMODE(asking.view.status(fid_of(2))[0].st_mode) == mode


def kernel_size(layout: str) -> int:
    return struct.calcsize("=" + "".join(re.findall(r"(?:[\w.]+:)?(\d*[A-Za-z])", LAYOUTS[layout])))
