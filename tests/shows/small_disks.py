"""Small file systems of a test's own, to be filled, to fail and to be well again."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from tests.requirements import require_device, require_program, require_root

MIB: Final = 1 << 20
CLOSED_S: Final = 20.0
_CHUNKS: Final = (MIB, 4096, 1)
# From <linux/ext4.h>: nothing is written any more, neither to the journal nor to the medium.
_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = 2


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, timeout=30, capture_output=True, text=True)
    return done.stdout.strip()


def mounts_at(path: Path) -> int:
    """How many things are mounted there, one over the other. Touches none of them."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in mounts].count(str(path))


@final
class SmallDisk:
    """A file system at `path` that holds nothing else."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._ballast: Final = path / "ballast"

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in _CHUNKS:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def use_up_inodes(self) -> None:
        """To the last one."""
        self._ballast.mkdir()
        with contextlib.suppress(OSError):
            for number in range(1_000_000):
                (self._ballast / str(number)).touch()

    def make_room(self) -> None:
        if self._ballast.is_dir():
            for each in self._ballast.iterdir():
                each.unlink()
            self._ballast.rmdir()
        else:
            self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def memory_disk(path: Path, *, size_mib: int, inodes: int = 4096) -> Iterator[SmallDisk]:
    require_root()
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={size_mib}m,nr_inodes={inodes}"
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
    try:
        yield SmallDisk(path)
    finally:
        run("umount", "--lazy", str(path))


#: The ioctl that says where on its device a block of a file is.
FIBMAP: Final = 1


@final
class LoopDisk:
    """An ext4 file system on a loop device, whose medium takes no more than it is given.

    Mounted with `errors=remount-ro`, as Debian does it: an error of the file system makes it
    read-only, and no `mount -o remount,rw` undoes that.
    """

    def __init__(self, path: Path, medium: SmallDisk, image: Path) -> None:
        self.path: Final = path
        self._medium: Final = medium
        self._image = image
        self._copies: Final = itertools.count()

    def mount(self) -> None:
        run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))

    def _is_busy(self) -> bool:
        """Whether it cannot be unmounted, and what a node has left over it."""
        while mounts_at(self.path):
            command = ["umount", self.path]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return True
        return False

    def turn_read_only(self) -> None:
        """As an error in its structures does it. What was written before is on the medium.

        Else half of the files may be gone, and a node asks a person before it goes on with that.
        """
        run("sync", "-f", str(self.path))
        device = run("findmnt", "-n", "-o", "SOURCE", str(self.path)).rpartition("/")[2]
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("x")

    def fail_writes(self) -> None:
        """The medium takes nothing more: what is in the page cache cannot be written back."""
        self._medium.fill()

    def lose_power(self) -> None:
        """At once: what is only in the page cache never reaches the medium."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def get_power(self) -> None:
        """Mount it as a machine that starts again does: the journal is replayed."""
        self._wait_closed()
        self._renew_image()
        self.mount()

    def flip(self, file: Path, offset: int) -> None:
        """One byte of a file, which is synced, changes on the medium, and nowhere else."""
        block_bytes = os.statvfs(self.path).f_bsize
        with file.open("rb") as held:
            asked = struct.pack("i", offset // block_bytes)
            (block,) = struct.unpack("i", fcntl.ioctl(held, FIBMAP, asked))
        with self._image.open("r+b") as image:
            image.seek(block * block_bytes + offset % block_bytes)
            byte = image.read(1)[0]
            image.seek(-1, os.SEEK_CUR)
            image.write(bytes([byte ^ 0xFF]))

    def make_well(self) -> None:
        """Mount it anew, checked, as it is on its medium. Nobody may use it."""
        self._medium.make_room()
        self._wait_closed()
        self._renew_image()
        # It says by its exit code that there was something to mend.
        check = [require_program("e2fsck"), "-fy", str(self._image)]
        subprocess.run(check, capture_output=True, timeout=30, check=False)
        self.mount()

    def _wait_closed(self) -> None:
        # A node that was stopped closes its directory a moment after it has said that it stopped.
        until_s = time.monotonic() + CLOSED_S
        while self._is_busy():
            if time.monotonic() > until_s:
                raise TimeoutError(f"{self.path} is still in use")
            time.sleep(0.05)

    def _renew_image(self) -> None:
        # A copy: in another mount namespace of this machine the old one may still be mounted.
        old, self._image = self._image, self._image.with_suffix(f".{next(self._copies)}")
        run("cp", "--sparse=always", str(old), str(self._image))
        old.unlink()


@contextlib.contextmanager
def loop_disk(path: Path, *, size_mib: int = 48) -> Iterator[LoopDisk]:
    require_root()
    require_device("/dev/loop-control")
    make = require_program("mkfs.ext4")
    require_program("findmnt")
    path.mkdir(parents=True, exist_ok=True)
    medium_path = path.with_name(f"{path.name}.medium")
    with memory_disk(medium_path, size_mib=size_mib) as medium:
        image = medium_path / "image"
        image.touch()
        os.truncate(image, 2 * size_mib * MIB)
        run(make, "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        disk = LoopDisk(path, medium, image)
        disk.mount()
        try:
            yield disk
        finally:
            medium.make_room()
            for _ in range(mounts_at(path)):
                run("umount", "--lazy", str(path))
