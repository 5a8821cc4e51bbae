"""A node that is stopped or killed, and what happens to its directory meanwhile."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final, final

from mirrorha.errors import VolumeError
from mirrorha.volume.local_disk.missing import MissingNote
from mirrorha.volume.local_disk.stamp import decode, encode
from mirrorha.volume.offline import Stamp
from mirrorha.volume.opening import OpenVolume, open_volume
from mirrorha.volume.touched import TouchKey


@final
class Node:
    """A volume of one node, opened and left in every way there is."""

    def __init__(self, base: Path, *, seed: int = 0) -> None:
        self.root: Final = base / "root"
        self.state: Final = base / "state"
        self.root.mkdir(parents=True)
        self._rng: Final = random.Random(seed)
        self._open: OpenVolume | None = None

    def open(self, *exclude: str, is_put_back_known: bool = False) -> OpenVolume:
        """Open it, with these patterns of what stays here; one that was open is stopped first."""
        self.stop()
        self._open = open_volume(
            self.root,
            self.state,
            rng=self._rng,
            exclude=exclude,
            is_put_back_known=is_put_back_known,
        )
        return self._open

    def open_whatever_is_gone(self) -> OpenVolume:
        try:
            return self.open()
        except VolumeError:
            note = MissingNote(self.state)
            asked = note.read()
            assert asked is not None
            note.accept(asked)
            return self.open()

    def stop(self) -> None:
        """End in good order."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def kill(self) -> None:
        """End as by kill -9: what the process has written is there, and nothing comes after."""
        stamp = (self.state / "stamp").read_bytes()
        self.stop()
        (self.state / "stamp").write_bytes(stamp)

    def lose_power(self) -> None:
        """End as by a crash of the system: of the stamp only what was synced long ago is there."""
        stamp = self._long_ago
        self.stop()
        (self.state / "stamp").write_bytes(stamp)

    def remember(self) -> None:
        self._long_ago = (self.state / "stamp").read_bytes()


def keys(opened: OpenVolume) -> set[TouchKey]:
    return set(opened.touched.keys)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"CONT")


def hide_the_write(path: Path) -> None:
    """As rsync -a --inplace, or touch -r, would."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def let_pass(node: Node, time_ns: int) -> None:
    """Change the stamp as if so much time had passed since it was left."""
    path = node.state / "stamp"
    before = decode(path.read_bytes())
    assert before is not None
    path.write_bytes(encode(Stamp(before.noted_ns - time_ns, before.until_ns - time_ns)))
