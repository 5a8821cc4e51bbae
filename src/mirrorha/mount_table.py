"""What is mounted where, as the kernel tells it in /proc/…/mountinfo.

Reading it asks no file system anything, so it answers while a mount hangs; `stat` would not.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")
_READ_BYTES: Final = 1024 * 1024
# id, parent, device, root, mount point, options; then any number of optional fields, a hyphen,
# and kind, source, options of the file system.
_FIELDS_BEFORE: Final = 6


@final
@attrs.frozen(kw_only=True)
class MountEntry:
    """One mount. Paths are as seen from the root directory of the process whose table it is.

    Attributes:
        device: Number of the file system, as `major:minor`.
        root: What of the file system is mounted: a path inside of it.
        kind: The file system's type, such as `ext4`, `tmpfs` or `fuse.mirrorha`.
        source: What was mounted: a device, a name.
        options: Of the mount and of the file system, together.
        is_shared: What is mounted below appears in other mount namespaces too.
    """

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    kind: str
    source: str
    options: frozenset[str]
    is_shared: bool

    @property
    def is_fuse(self) -> bool:
        return self.kind == "fuse" or self.kind.startswith("fuse.")

    @property
    def connection(self) -> int:
        """The number of a FUSE connection, by which /sys/fs/fuse/connections knows it."""
        major, minor = self.device.split(":")
        return int(major) << 20 | int(minor)

    @property
    def owner(self) -> tuple[int, int]:
        """User and group that mounted it, as FUSE tells; root if nothing is told."""
        return self._number("user_id"), self._number("group_id")

    def _number(self, option: str) -> int:
        found = (re.fullmatch(rf"{option}=([0-9]{{1,10}})", one) for one in self.options)
        return next((int(one[1]) for one in found if one), 0)


@final
@attrs.frozen
class Spot:
    """A path, and what a walk to it meets.

    Attributes:
        holder: The mount in which the path itself lies.
        stack: What is mounted at the path, one above the other; the last is what is seen.
    """

    path: str
    holder: MountEntry
    stack: tuple[MountEntry, ...]

    @property
    def seen(self) -> MountEntry:
        return self.stack[-1] if self.stack else self.holder


@final
class MountTable:
    """All mounts of one mount namespace, at one moment."""

    def __init__(self, entries: Iterable[MountEntry]) -> None:
        self.entries: Final[Mapping[int, MountEntry]] = {one.mount_id: one for one in entries}
        self._above: Final = {(one.parent_id, one.mount_point): one for one in entries}

    def spot(self, path: str) -> Spot:
        """Walk to an absolute path without symlinks, as the kernel would, hidden mounts left out.

        Raises:
            VolumeError: the table has no root directory.
        """
        seen = self._climb(self._root(), "/")[-1]
        stack: tuple[MountEntry, ...] = (seen,)
        walked = ""
        for name in path.split("/"):
            if name:
                walked += "/" + name
                seen = stack[-1]
                stack = self._climb(seen, walked)
        return Spot(walked or "/", stack[0], stack[1:])

    def below(self, path: str) -> list[MountEntry]:
        """What is mounted deeper than `path`, be it hidden or not."""
        inside = path.rstrip("/") + "/"
        return [one for one in self.entries.values() if one.mount_point.startswith(inside) and path]

    def _climb(self, entry: MountEntry, path: str) -> tuple[MountEntry, ...]:
        """`entry` and what is mounted on it at `path`, one above the other."""
        found = [entry]
        while above := self._above.get((found[-1].mount_id, path)):
            if above in found:  # the root directory's mount is its own parent in some places
                break
            found.append(above)
        return tuple(found)

    def _root(self) -> MountEntry:
        for one in self.entries.values():
            is_lowest = one.parent_id not in self.entries or one.parent_id == one.mount_id
            if one.mount_point == "/" and is_lowest:
                return one
        raise VolumeError("the kernel's table of mounts names no root directory; is /proc right?")


def mount_id_of(fd: int) -> int:
    """The number of the mount that a descriptor leads to. Asks nothing of its file system."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))


def read_mount_table(process: int | str = "self", *, proc: str = "/proc") -> MountTable:
    """Read the table of a process. Does not block.

    Raises:
        VolumeError: it cannot be read or not be understood.
    """
    path = f"{proc}/{process}/mountinfo"
    try:
        return parse_mount_table(_read(path))
    except OSError as error:
        raise VolumeError(f"{path}: {error.strerror}; is /proc mounted?") from error


def parse_mount_table(content: bytes) -> MountTable:
    """Read what a `mountinfo` file says.

    Raises:
        VolumeError: it is not in the form of one.
    """
    return MountTable([_parse(line) for line in content.split(b"\n") if line])


def real_path(directory: Path) -> str:
    """The path of a directory with all symlinks resolved but the last name.

    That one is left alone, and not even looked at: something that hangs may be mounted there.

    Raises:
        VolumeError: what leads to the directory is not there or cannot be searched.
    """
    path = os.fspath(directory)
    if not directory.is_absolute():
        # Only then: a worker's working directory may be beneath mounts, where no path leads.
        path = os.path.join(os.getcwd(), path)
    path = path.rstrip("/")
    parent, name = os.path.split(path)
    try:
        if name in ("", ".", ".."):
            return os.path.realpath(path or "/", strict=True)
        return os.path.join(os.path.realpath(parent, strict=True), name)
    except OSError as error:
        raise VolumeError(
            f"{directory}: {parent}: {error.strerror}; make it (`mkdir -p`), or correct `path`"
        ) from error


def _parse(line: bytes) -> MountEntry:
    fields = line.split(b" ")
    try:
        hyphen = fields.index(b"-", _FIELDS_BEFORE)
        kind, source, *options = (_unescape(one) for one in fields[hyphen + 1 :])
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            device=_device(fields[2]),
            root=_unescape(fields[3]),
            mount_point=_unescape(fields[4]),
            kind=kind,
            source=source,
            options=frozenset(
                one for part in [_unescape(fields[5]), *options] for one in part.split(",")
            ),
            is_shared=any(one.startswith(b"shared:") for one in fields[_FIELDS_BEFORE:hyphen]),
        )
    except (ValueError, IndexError) as error:
        raise VolumeError(
            f"the kernel's table of mounts has a line that is not understood: {line!r}"
        ) from error


def _device(field: bytes) -> str:
    major, minor = field.split(b":")
    return f"{int(major)}:{int(minor)}"


def _unescape(field: bytes) -> str:
    """Undo the kernel's escapes: octal for what separates fields and lines."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        # In one piece as far as possible: what changes between two reads may be missed.
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
