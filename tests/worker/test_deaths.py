"""Whoever dies or stops, nobody hangs, and nothing is written where it is not mirrored."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorha.mount_table import MountEntry, read_mount_table
from mirrorha.volume.local_disk.identity import HIDDEN_NAMES
from tests.requirements import require_device, require_root
from tests.worker.process_pair import clean

WAIT_S = 15.0
#: What is promised is a second; the machine may be busy.
SOON_S = 3.0
PARENT = Path(__file__).with_name("parent_process.py")
GONE = {errno.errorcode[number] for number in (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED)}

# Writes until it fails, and says why, and how long the last write took.
WRITER = """
import errno, os, sys, time
fd = os.open(sys.argv[1] + "/" + sys.argv[2], os.O_RDWR | os.O_CREAT, 0o644)
print("open", flush=True)
try:
    while True:
        began = time.monotonic()
        os.write(fd, b"x" * 4096)
        if len(sys.argv) > 3:
            time.sleep(float(sys.argv[3]))
except OSError as error:
    print(errno.errorcode[error.errno], round(time.monotonic() - began, 2), flush=True)
"""
TRY = """
import errno, os, sys
try:
    os.close(os.open(sys.argv[1] + "/new", os.O_WRONLY | os.O_CREAT, 0o644))
    print("made")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


class Parent:
    """An application's process and its worker."""

    def __init__(self, path: Path, *, freeze_max_ms: int = 60_000) -> None:
        self.root = path / "root"  # never looked at from here: it may hang
        self.process = subprocess.Popen(
            [sys.executable, str(PARENT), str(path), str(freeze_max_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.worker = int(self.line().split()[1])
        self.pidfd = os.pidfd_open(self.worker)
        self.children: list[subprocess.Popen[str]] = []

    def line(self) -> str:
        return line_of(self.process)

    def tell(self, *words: str) -> None:
        assert self.process.stdin is not None
        for word in words:
            self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def writer(self, *arguments: object) -> subprocess.Popen[str]:
        child = python(WRITER, self.root, *arguments)
        self.children.append(child)
        assert line_of(child) == "open"
        return child

    def worker_is_gone(self, within_s: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def close(self) -> None:
        for child in (self.process, *self.children):
            if child.poll() is None:
                child.kill()
        if not self.worker_is_gone(SOON_S):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        clean(self.root)
        for child in (self.process, *self.children):
            child.communicate(timeout=WAIT_S)
        os.close(self.pidfd)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], WAIT_S)
    assert ready, "nothing was said"
    return child.stdout.readline().strip()


def outcome_of(child: subprocess.Popen[str]) -> str:
    return line_of(child).split()[0]


def wait_held(*children: subprocess.Popen[str]) -> None:
    """Return once each of them waits in the kernel for a file system's process to answer.

    Or, to write to the same file, for one that does.
    """
    end_s = time.monotonic() + WAIT_S
    held_in = ("request_wait_answer", "fuse_")
    for child in children:
        while not (waits := Path(f"/proc/{child.pid}/wchan").read_text()).startswith(held_in):
            assert time.monotonic() < end_s, f"{child.args!r} waits in {waits}"
            time.sleep(0.01)


def said_by(code: str, *arguments: object) -> str:
    child = python(code, *arguments)
    try:
        return child.communicate(timeout=WAIT_S)[0].strip()
    finally:
        child.kill()


def is_at(entry: MountEntry, path: Path) -> bool:
    return entry.mount_point == str(path)


def names_in_raw(path: Path) -> set[str]:
    """What the directory holds once nothing covers it."""
    clean(path)
    assert not [each for each in read_mount_table().entries.values() if is_at(each, path)]
    return set(os.listdir(path)) - set(HIDDEN_NAMES)


@pytest.fixture
def parents(tmp_path: Path) -> Iterator[list[Parent]]:
    require_root()
    require_device("/dev/fuse")
    (tmp_path / "root").mkdir()
    started: list[Parent] = []
    yield started
    clean(tmp_path)  # first: then nobody hangs
    for parent in started:
        parent.close()


def start(parents: list[Parent], path: Path, **settings: int) -> Parent:
    parents.append(Parent(path, **settings))
    return parents[-1]


def test_when_the_application_is_killed_nobody_hangs(parents: list[Parent], tmp_path: Path) -> None:
    parent = start(parents, tmp_path)
    parent.tell("alone")
    idle = parent.writer("idle", 0.05)
    parent.tell("freeze")
    frozen = parent.writer("idle")
    wait_held(idle, frozen)
    began_s = time.monotonic()
    parent.process.kill()
    assert outcome_of(frozen) in GONE
    assert outcome_of(idle) in GONE
    assert parent.worker_is_gone(SOON_S)
    assert time.monotonic() - began_s < SOON_S
    assert said_by(TRY, parent.root) in GONE | {"EROFS"}
    assert names_in_raw(parent.root) == {"idle"}


def test_a_worker_whose_loop_hangs_ends_with_the_application(
    parents: list[Parent], tmp_path: Path
) -> None:
    parent = start(parents, tmp_path)
    parent.tell("alone", "freeze")
    assert parent.line() == "Frozen(token=1)"
    blocked = python(TRY, parent.root)
    parent.children.append(blocked)
    wait_held(blocked)
    os.kill(parent.worker, signal.SIGSTOP)  # as good as a loop in a disk request for a moment
    parent.process.kill()
    time.sleep(0.3)
    os.kill(parent.worker, signal.SIGCONT)
    assert outcome_of(blocked) in GONE
    assert parent.worker_is_gone(SOON_S)


def test_when_the_worker_is_killed_the_application_knows_and_nobody_hangs(
    parents: list[Parent], tmp_path: Path
) -> None:
    parent = start(parents, tmp_path)
    parent.tell("alone")
    idle = parent.writer("idle", 0.05)
    parent.tell("freeze")
    assert parent.line() == "Frozen(token=1)"
    held = python(TRY, parent.root)
    parent.children.append(held)
    wait_held(idle, held)
    os.kill(parent.worker, signal.SIGKILL)
    began_s = time.monotonic()
    assert "Trouble(reason=<StopReason.NOT_DRIVEN: 'not_driven'>, text='the worker was killed" in (
        parent.line()
    )
    assert time.monotonic() - began_s < SOON_S
    assert outcome_of(held) in GONE
    assert outcome_of(idle) in GONE
    assert said_by(TRY, parent.root) in GONE | {"EROFS"}
    assert names_in_raw(parent.root) == {"idle"}


def test_a_stopped_application_holds_changes_for_freeze_max_only(
    parents: list[Parent], tmp_path: Path
) -> None:
    parent = start(parents, tmp_path, freeze_max_ms=1000)
    parent.tell("alone", "freeze")
    assert parent.line() == "Frozen(token=1)"
    os.kill(parent.process.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    held = python(TRY, parent.root)
    parent.children.append(held)
    assert outcome_of(held) == "EIO"
    assert 0.5 < time.monotonic() - began_s < 1 + SOON_S
    assert said_by(TRY, parent.root) == "EROFS", "the mount is there, and refuses"
    assert not parent.worker_is_gone(0)
    os.kill(parent.process.pid, signal.SIGCONT)
    assert "no order has released them" in parent.line()


def test_garbage_on_the_control_socket_ends_the_worker_closed(
    parents: list[Parent], tmp_path: Path
) -> None:
    parent = start(parents, tmp_path)
    parent.tell("alone", "freeze")
    assert parent.line() == "Frozen(token=1)"
    held = python(TRY, parent.root)
    parent.children.append(held)
    wait_held(held)
    parent.tell("garbage")
    assert outcome_of(held) in GONE
    assert parent.worker_is_gone(SOON_S)
    assert "what arrived is no message" in parent.line()


def test_a_new_worker_takes_over_what_a_crash_left(parents: list[Parent], tmp_path: Path) -> None:
    first = start(parents, tmp_path)
    first.tell("alone")
    writer = first.writer("idle", 0.05)
    os.kill(first.worker, signal.SIGKILL)
    assert outcome_of(writer) in GONE
    first.process.kill()
    second = start(parents, tmp_path)
    second.tell("alone")
    again = second.writer("idle", 0.05)
    second.tell("end")
    assert outcome_of(again) in GONE | {"EROFS"}
    assert second.worker_is_gone(SOON_S)
    second.process.wait(WAIT_S)
    assert not [each for each in read_mount_table().entries.values() if is_at(each, second.root)]
    assert names_in_raw(second.root) == {"idle"}


def test_a_worker_that_should_be_gone_is_killed_by_its_successor(
    parents: list[Parent], tmp_path: Path
) -> None:
    first = start(parents, tmp_path)
    os.kill(first.worker, signal.SIGSTOP)
    os.kill(first.process.pid, signal.SIGKILL)
    second = start(parents, tmp_path)
    assert first.worker_is_gone(0)
    second.tell("alone")
    assert said_by(TRY, second.root) == "made"
