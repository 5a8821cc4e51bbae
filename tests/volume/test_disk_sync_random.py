"""What is synced while everything changes: no sync returns before what it was asked for is durable.

A recorder in the place of fsync and fdatasync notes what was there when each call began. No file
system may be relied on for more: neither for what came later, nor for what another call covered.
"""

from __future__ import annotations

import os
import random
import stat
import threading
import time
from typing import TYPE_CHECKING, final

import attrs
import pytest

from mirrorha.volume.disk import SyncFiles, SyncTree
from mirrorha.volume.ops import ROOT_FID, Link, Rename, SetAttributes, Unlink, Write
from tests.volume.disk_support import T0, Home, create, do, fid, mkdir

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorha.volume.local_disk.disk import RealDisk

CHANGES = 400


@final
class Recorder:
    """What is durable, by inode: of a file the last number written, and its time of change; of a
    directory the names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.numbers: dict[int, int] = {}
        self.times_ns: dict[int, int] = {}
        self.names: dict[int, dict[str, int]] = {}

    def fsync(self, descriptor: int) -> None:
        self._sync(descriptor, whole=True)

    def fdatasync(self, descriptor: int) -> None:
        self._sync(descriptor, whole=False)

    def _sync(self, descriptor: int, *, whole: bool) -> None:
        status = os.fstat(descriptor)
        inode = status.st_ino
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(descriptor) as entries:
                names = {entry.name: entry.inode() for entry in entries}
            time.sleep(0.0005)
            with self._lock:
                self.names[inode] = names
            return
        number = int.from_bytes(os.pread(descriptor, 8, 0), "big")
        time.sleep(0.0005)
        with self._lock:
            self.numbers[inode] = max(number, self.numbers.get(inode, 0))
            if whole:
                self.times_ns[inode] = max(status.st_mtime_ns, self.times_ns.get(inode, 0))


@attrs.frozen
class Known:
    """A file or directory as it surely is."""

    inode: int
    is_file: bool
    names: frozenset[tuple[int, str]]
    number: int = 0
    mtime_ns: int = T0


@final
class Life:
    """Changes in one thread, syncs in two others."""

    def __init__(self, disk: RealDisk, root: Path, recorder: Recorder, seed: int) -> None:
        self.disk = disk
        self.recorder = recorder
        self.root = root
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.known = {ROOT_FID: Known(root.stat().st_ino, False, frozenset())}
        self.ended = threading.Event()
        self.wrong: list[object] = []
        self.checked = 0

    def path(self, one: int) -> Path:
        for parent, name in self.known[one].names:
            return self.path(parent) / name
        return self.root

    def change(self, count: int) -> None:
        chance, known = self.chance, self.known
        files = [one for one, it in known.items() if it.is_file]
        directories = [one for one, it in known.items() if not it.is_file]
        kind, parent = chance.random(), chance.choice(directories)
        if kind < 0.15 or not files:
            name = f"n{count}"
            is_file = kind < 0.1 or not files
            do(self.disk, (create if is_file else mkdir)(count, name, parent))
            inode = os.lstat(self.path(parent) / name).st_ino
            known[fid(count)] = Known(inode, is_file, frozenset({(parent, name)}))
            return
        one = chance.choice(files)
        it = known[one]
        old, new = chance.choice(sorted(it.names)), (parent, f"n{count}")
        if kind < 0.5:
            do(self.disk, Write(one, 0, count.to_bytes(8, "big"), T0 + count))
            known[one] = attrs.evolve(it, number=count, mtime_ns=T0 + count)
        elif kind < 0.65:
            do(self.disk, SetAttributes(one, 0o600, None, None, T0 + count))
            known[one] = attrs.evolve(it, mtime_ns=T0 + count)
        elif kind < 0.8:
            do(self.disk, Rename(0, *old, *new, 0, T0))
            known[one] = attrs.evolve(it, names=it.names - {old} | {new})
        elif kind < 0.87:
            do(self.disk, Link(one, *new, T0))
            known[one] = attrs.evolve(it, names=it.names | {new})
        elif kind < 0.93:
            do(self.disk, Unlink(0, *old, T0))
            known[one] = attrs.evolve(it, names=it.names - {old})
            if not known[one].names:
                del known[one]
        elif len(directories) > 1:
            moved = directories[-1]
            ((above, name),) = known[moved].names
            do(self.disk, Rename(0, above, name, ROOT_FID, f"n{count}", 0, T0))
            known[moved] = attrs.evolve(known[moved], names=frozenset({(ROOT_FID, f"n{count}")}))

    def sync(self, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not self.ended.is_set():
                with self.lock:
                    before = dict(self.known)
                fids = chance.sample(sorted(before), min(len(before), chance.randint(1, 5)))
                data_only = [one for one in fids if chance.random() < 0.6]
                if chance.random() < 0.1:
                    self.disk.perform(SyncTree())
                    fids, data_only = list(before), []
                else:
                    self.disk.perform(SyncFiles(fids, data_only))
                with self.lock:
                    for one in fids:
                        self.check(one, before, is_whole=one not in data_only)
        except BaseException as error:
            self.wrong.append(error)

    def check(self, one: int, before: dict[int, Known], *, is_whole: bool) -> None:
        if one not in self.known:
            return
        it, durable = before[one], self.recorder
        if it.is_file:
            self.checked += 1
            if durable.numbers.get(it.inode, -1) < it.number:
                self.wrong.append(("content", it))
            # Also of one whose data suffices: without its mode a file was never made.
            if durable.times_ns.get(it.inode, 0) < (it.mtime_ns if is_whole else T0):
                self.wrong.append(("attributes", it))
        todo = [one]
        while todo:
            below = todo.pop()
            names = before[below].names
            if below not in self.known or self.known[below].names != names:
                return  # by now it is elsewhere
            for parent, name in names:
                found = durable.names.get(before[parent].inode, {}).get(name)
                if found != before[below].inode:
                    self.wrong.append(("name", name, it))
                todo.append(parent)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_meanwhile_what_was_asked_is_durable(tmp_path: Path, seed: int) -> None:
    home, recorder = Home(tmp_path), Recorder()
    disk = home.open(
        fsync=recorder.fsync,
        fdatasync=recorder.fdatasync,
        syncfs=None,
        idle_max=3,
        dirty_max=40,
    )
    life = Life(disk, home.root, recorder, seed)
    threads = [threading.Thread(target=life.sync, args=(2 * seed + each,)) for each in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for count in range(1, CHANGES):
            with life.lock:
                life.change(count)
            if count % 4 == 0:
                time.sleep(0.001)  # the syncs want their turn
    finally:
        life.ended.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    home.close()
    assert not life.wrong
    assert life.checked > 20
