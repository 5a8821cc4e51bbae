"""Is this directory the volume? The root of each carries the volume's id in a marker file.

A root without it (its disk is not mounted, the directory was replaced) is never taken for a volume
that was emptied. Everything here blocks.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import VolumeError, ensure
from mirrorha.state.atomic import remove_leftovers, write_atomically
from mirrorha.volume.exclusion import EXCLUDED, Exclusion
from mirrorha.volume.names import HIDDEN_NAMES, LIMBO_NAME, MARKER_NAME, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MARKER_BYTES_MAX: Final = 4096
_VOLUME_ID: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")
# Made with the file system: a root that holds nothing else is empty.
_LOST_AND_FOUND: Final = "lost+found"


class Standing(enum.Enum):
    """What a path is, as the place of a volume."""

    MISSING = "missing"
    NOT_A_DIRECTORY = "not_a_directory"
    UNMARKED_EMPTY = "unmarked_empty"
    UNMARKED_WITH_FILES = "unmarked_with_files"
    MARKER_DAMAGED = "marker_damaged"
    MARKED = "marked"


_DESCRIPTIONS: Final = {
    Standing.MISSING: "{root} does not exist; is its disk mounted?",
    Standing.NOT_A_DIRECTORY: "{root} is no directory; name the directory itself, no link to it",
    Standing.UNMARKED_EMPTY: "{root} is an empty directory that was no volume yet",
    Standing.UNMARKED_WITH_FILES: "{root} holds files and was no volume yet",
    Standing.MARKER_DAMAGED: "{root} has a marker that cannot be read: {root}/" + MARKER_NAME,
    Standing.MARKED: "{root} is volume {volume_id}",
}


@final
@attrs.frozen
class VolumeIdentity:
    """What was found at `root`. `volume_id` is None unless it is MARKED."""

    root: Path
    standing: Standing
    volume_id: str | None = None

    @property
    def description(self) -> str:
        """One sentence for people."""
        return _DESCRIPTIONS[self.standing].format(root=self.root, volume_id=self.volume_id)


@final
@attrs.frozen
class Contents:
    """What a directory holds, for people who must choose between two.

    `newest_ns` is the latest modification time of anything in it, 0 if it is empty.
    """

    files: int = 0
    content_bytes: int = 0
    newest_ns: int = 0


def inspect(root: Path, exclude: Sequence[str] = ()) -> VolumeIdentity:
    """See whether `root` is a volume, and which. What is excluded does not count as a file of it.

    Raises:
        VolumeError: it cannot be looked at.
    """
    try:
        return _inspect(root, Exclusion(exclude))
    except OSError as error:
        raise VolumeError(f"{root}: cannot be looked at: {error.strerror}") from error


def is_marked(root: Path, volume_id: str) -> bool:
    """Whether `root` is the volume `volume_id` already.

    Raises:
        VolumeError: it cannot be looked at.
    """
    found = inspect(root)
    return found.standing is Standing.MARKED and found.volume_id == volume_id


def mark(root: Path, volume_id: str) -> None:
    """Make `root` the volume `volume_id`, durably. Does nothing if it is that already.

    Raises:
        VolumeError: it is another volume, or no directory, or the marker cannot be written.
    """
    ensure(_VOLUME_ID.fullmatch(volume_id) is not None, "a volume's id is a short word")
    found = inspect(root)
    if found.standing is Standing.MARKED and found.volume_id == volume_id:
        return
    if found.standing not in {Standing.UNMARKED_EMPTY, Standing.UNMARKED_WITH_FILES}:
        raise VolumeError(f"cannot become volume {volume_id}: {found.description}")
    marker = root / MARKER_NAME
    content = json.dumps({"schema": 1, "volume": volume_id}).encode() + b"\n"
    try:
        before = root.stat()
        remove_leftovers(marker)
        write_atomically(marker, content, mode=0o644)
        # The time of the root is mirrored, and this is no change of the volume.
        os.utime(root, ns=(before.st_atime_ns, before.st_mtime_ns))
    except OSError as error:
        raise VolumeError(f"{marker}: cannot be written: {error.strerror}") from error


def count(root: Path) -> Contents:
    """Count what `root` holds. Takes as long as looking at every file.

    A file with several names counts once. What cannot be read does not count.
    """
    files = content_bytes = newest_ns = 0
    seen: set[tuple[int, int]] = set()
    todo: list[str] = [os.fspath(root)]
    while todo:
        for name, path, status in _entries(todo.pop()):
            if name in HIDDEN_NAMES:
                continue
            newest_ns = max(newest_ns, status.st_mtime_ns)
            if stat.S_ISDIR(status.st_mode):
                todo.append(path)
                continue
            inode = (status.st_dev, status.st_ino)
            if inode not in seen:
                files += 1
                content_bytes += status.st_size if stat.S_ISREG(status.st_mode) else 0
            if status.st_nlink > 1:
                seen.add(inode)
    return Contents(files=files, content_bytes=content_bytes, newest_ns=newest_ns)


def layout_problems(roots: Sequence[Path], state_dir: Path) -> list[str]:
    """Why these directories cannot be volumes together, one line each. Symlinks are followed.

    A volume that held its own state would mirror it; one inside another would be mirrored twice.
    """
    problems: list[str] = []
    state = state_dir.resolve()
    resolved = [root.resolve() for root in roots]
    for index, root in enumerate(resolved):
        if state.is_relative_to(root):
            problems.append(f"the state directory {state_dir} lies inside of the volume {root}")
        elif root.is_relative_to(state):
            problems.append(f"the volume {root} lies inside of the state directory {state_dir}")
        for other in resolved[:index]:
            if root.is_relative_to(other) or other.is_relative_to(root):
                problems.append(f"the volumes {other} and {root} lie one inside of the other")
        outer = next((one for one in root.parents if (one / MARKER_NAME).exists()), None)
        if outer is not None:
            problems.append(f"the volume {root} lies inside of {outer}, which is a volume too")
    return problems


def _inspect(root: Path, exclusion: Exclusion) -> VolumeIdentity:
    try:
        mode = root.lstat().st_mode
    except FileNotFoundError:
        return VolumeIdentity(root, Standing.MISSING)
    except NotADirectoryError:
        return VolumeIdentity(root, Standing.NOT_A_DIRECTORY)
    if not stat.S_ISDIR(mode):
        return VolumeIdentity(root, Standing.NOT_A_DIRECTORY)
    raw = _read_marker(root)
    if raw is not None:
        volume_id = _volume_id_in(raw)
        standing = Standing.MARKER_DAMAGED if volume_id is None else Standing.MARKED
        return VolumeIdentity(root, standing, volume_id)
    names = [name for name in os.listdir(root) if not _is_nothing(root, name)]
    is_empty = _are_local(root, names, exclusion)
    return VolumeIdentity(
        root, Standing.UNMARKED_EMPTY if is_empty else Standing.UNMARKED_WITH_FILES
    )


def _read_marker(root: Path) -> bytes | None:
    """The marker's bytes; b"" for what is there and no file."""
    try:
        fd = os.open(root / MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return b""
        raise
    try:
        return os.read(fd, _MARKER_BYTES_MAX) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def _volume_id_in(raw: bytes) -> str | None:
    try:
        fields = json.loads(raw)
    except ValueError:
        return None
    volume_id = fields.get("volume") if isinstance(fields, dict) else None
    is_one = isinstance(volume_id, str) and _VOLUME_ID.fullmatch(volume_id) is not None
    return volume_id if is_one else None


def _is_nothing(root: Path, name: str) -> bool:
    if name.startswith(f".{MARKER_NAME}."):
        return True  # what a crashed `mark` left
    return name in {_LOST_AND_FOUND, LIMBO_NAME} and not any(_entries(os.fspath(root / name)))


def _are_local(root: Path, names: list[str], exclusion: Exclusion) -> bool:
    """Whether all these are excluded, or directories that hold something, and nothing else."""
    todo = [(os.fspath(root), names, exclusion.root)]
    while todo:
        directory, inner, outlook = todo.pop()
        if not inner and directory != os.fspath(root):
            return False  # empty, it is mirrored as it is
        for name in inner:
            below = exclusion.below(outlook, text_of(os.fsencode(name)))
            if below is EXCLUDED:
                continue
            path = os.path.join(directory, name)
            if not below or not _is_directory(path):
                return False
            todo.append((path, [entry for entry, _, _ in _entries(path)], below))
    return True


def _is_directory(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _entries(directory: str) -> list[tuple[str, str, os.stat_result]]:
    found: list[tuple[str, str, os.stat_result]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    found.append((entry.name, entry.path, entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue  # gone meanwhile
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return found
    return found
