"""A directory that forgets what was not fsynced: what a power loss leaves of it.

`Platter.fsync` stands in for `os.fsync` in the process that writes, and notes beside the directory
what is durable now. Once that process is dead, `lose_power` makes the directory what a disk could
hold: everything durable, and of the rest what chance left.
"""

from __future__ import annotations

import base64
import json
import os
import random
import stat
from pathlib import Path
from typing import Final, final

import attrs

ENTRIES: Final = "entries.json"


@final
@attrs.frozen
class Platter:
    """What is durable of a directory of plain files.

    Attributes:
        notes: a directory for that, beside the real one. Each note is replaced whole, so that
            killing the process leaves the old or the new one.
    """

    directory: Path
    notes: Path

    def fsync(self, descriptor: int) -> None:
        """Note that this file's content, or this directory's names, are durable."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            # With the content, for inodes are used again.
            names = {
                entry.name: _base64(self.notes / str(entry.inode()))
                for entry in os.scandir(self.directory)
            }
            self._note(ENTRIES, json.dumps(names).encode())
        else:
            content = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            self._note(str(found.st_ino), content)

    def _note(self, name: str, content: bytes) -> None:
        self.notes.mkdir(exist_ok=True)
        temporary = self.notes / f"{name}.new"
        temporary.write_bytes(content)
        temporary.rename(self.notes / name)


def _base64(note: Path) -> str:
    """What is durable of a file; of one that was never synced nothing need be there."""
    return base64.b64encode(note.read_bytes() if note.exists() else b"").decode()


def lose_power(directory: Path, notes: Path, rng: random.Random) -> None:
    """Leave of the directory what a disk may hold after a power loss now. Nobody may use it."""
    note = notes / ENTRIES
    durable: dict[str, str] = json.loads(note.read_text()) if note.exists() else {}
    left = {name: base64.b64decode(content) for name, content in durable.items()}
    # Names that were not synced may have reached the disk nevertheless.
    if rng.random() < 0.5:
        left = {
            entry.name: _content(Path(entry.path), notes / str(entry.inode()), rng)
            for entry in os.scandir(directory)
        }
    for path in directory.iterdir():
        path.unlink()
    for name, content in left.items():
        (directory / name).write_bytes(content)
    _begin_anew(directory, notes)


def _content(path: Path, note: Path, rng: random.Random) -> bytes:
    if note.exists():
        return note.read_bytes()
    written = path.read_bytes()
    return written[: rng.randint(0, len(written))]  # torn


def _begin_anew(directory: Path, notes: Path) -> None:
    """What is there after a power loss is durable. Its inodes are new ones."""
    for note in notes.iterdir() if notes.exists() else ():
        note.unlink()
    platter = Platter(directory, notes)
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            platter.fsync(descriptor)
        finally:
            os.close(descriptor)
