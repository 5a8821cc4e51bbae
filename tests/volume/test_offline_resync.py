"""Whatever is edited on stopped nodes, a resync of what the logs name makes both the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Final, final

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mirrorha.testing.memory_disk import Seen
from mirrorha.volume.disk import Disk, RecordTouched
from mirrorha.volume.offline import AHEAD_NS
from mirrorha.volume.touched import TouchKey
from tests.volume.offline_node import Node, hide_the_write, keys, let_pass
from tests.volume.resync_pair import Pair, difference
from tests.volume.resync_trees import Application, snapshot

OWNER_BITS: Final = 0 if os.geteuid() == 0 else 0o700


@final
class Editor:
    """People and programs, at work on a directory that is nobody's."""

    def __init__(self, rng: random.Random, root: Path) -> None:
        self._rng: Final = rng
        self._root: Final = root
        self._count = 0
        self._edits: Final = [
            self.write,
            self.append,
            self.truncate,
            self.chmod,
            self.xattr,
            self.create,
            self.create_deep,
            self.remove,
            self.remove_tree,
            self.rename,
            self.replace,
            self.link,
            self.symlink,
            self.hide,
        ]

    def edit(self, count: int) -> None:
        for _ in range(count):
            # A name that is taken, a directory that is moved into itself: as it goes.
            with contextlib.suppress(OSError):
                self._rng.choice(self._edits)()

    def _paths(self) -> tuple[list[Path], list[Path]]:
        directories, files = [self._root], []
        for where, names, others in os.walk(self._root):
            if ".mirrorha-limbo" in names:
                names.remove(".mirrorha-limbo")
            directories += [Path(where, name) for name in names]
            files += [Path(where, name) for name in others]
        return [one for one in directories if not one.is_symlink()], files

    def _file(self) -> Path:
        files = [one for one in self._paths()[1] if one.is_file() and not one.is_symlink()]
        if not files:
            raise FileNotFoundError
        return self._rng.choice(files)

    def _any(self) -> Path:
        directories, files = self._paths()
        if not directories[1:] + files:
            raise FileNotFoundError
        return self._rng.choice(directories[1:] + files)

    def _new(self) -> Path:
        self._count += 1
        return self._rng.choice(self._paths()[0]) / f"new{self._count}"

    def write(self) -> None:
        with self._file().open("r+b") as file:
            file.write(self._rng.randbytes(9))

    def append(self) -> None:
        with self._file().open("ab") as file:
            file.write(self._rng.randbytes(70_000))

    def truncate(self) -> None:
        os.truncate(self._file(), self._rng.choice((0, 5, 100_000)))

    def hide(self) -> None:
        hide_the_write(self._file())

    def chmod(self) -> None:
        path = self._any()
        if not path.is_symlink():
            path.chmod(self._rng.choice((0o700, 0o755, 0o750)))

    def xattr(self) -> None:
        os.setxattr(self._file(), "user.edited", self._rng.randbytes(4))

    def create(self) -> None:
        self._new().write_bytes(self._rng.randbytes(11))

    def create_deep(self) -> None:
        (self._new() / "deep").mkdir(parents=True)
        self.create()

    def remove(self) -> None:
        self._file().unlink()

    def remove_tree(self) -> None:
        shutil.rmtree(self._rng.choice(self._paths()[0][1:] or [self._root / "none"]))

    def rename(self) -> None:
        self._any().rename(self._new())

    def replace(self) -> None:
        new, old = self._new(), self._file()
        new.write_bytes(self._rng.randbytes(12))
        os.utime(new, ns=(5, 5))
        new.rename(old)

    def link(self) -> None:
        self._new().hardlink_to(self._file())

    def symlink(self) -> None:
        self._new().symlink_to("anywhere")


def seen(disk: Disk) -> dict[str, Seen]:
    """The tree, but for the times of access: whoever reads a file changes those, and no more."""
    return {
        path: replace(one, attributes=replace(one.attributes, atime_ns=None))
        for path, one in snapshot(disk).items()
    }


def mirrored(nodes: list[Node], rng: random.Random) -> None:
    """Two nodes that hold the same, and know it."""
    source, target = (node.open().disk for node in nodes)
    Application(rng, source, epoch=2, owner_bits=OWNER_BITS).live(30)
    pair = Pair(rng, source, target, everything=True)
    pair.begin()
    pair.run()
    assert difference(source, target) == []
    for node in nodes:
        node.stop()
        node.remember()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1 << 32),
    ends=st.tuples(*[st.sampled_from(("stop", "kill", "lose_power"))] * 2),
    edits=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_a_resync_of_what_the_logs_name_makes_edited_directories_equal(
    seed: int, ends: tuple[str, str], edits: tuple[int, int]
) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as base:
        nodes = [Node(Path(base, name), seed=seed) for name in ("source", "target")]
        try:
            mirrored(nodes, rng)
            for epoch, (node, end, count) in enumerate(zip(nodes, ends, edits, strict=True), 3):
                disk = node.open().disk
                log: set[TouchKey] = set()
                Application(rng, disk, epoch=epoch, owner_bits=OWNER_BITS).live(6, log)
                disk.perform(RecordTouched(sorted(log)))
                getattr(node, end)()
                if end == "kill":
                    let_pass(node, AHEAD_NS)
                Editor(rng, node.root).edit(count)
            opened = [node.open_whatever_is_gone() for node in nodes]
            assert not any(one.touched.damaged for one in opened)
            source, target = (one.disk for one in opened)
            pair = Pair(rng, source, target, everything=False, epoch=6)
            pair.source.log, pair.target.log = (keys(one) for one in opened)
            pair.begin()
            pair.run()
            assert (pair.machine_s.failure, pair.machine_t.failure) == ("", "")
            assert seen(source) == seen(target)
        finally:
            for node in nodes:
                node.stop()
