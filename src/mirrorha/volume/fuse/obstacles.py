"""What stands in the way of mounting a volume, said before anything is changed.

Each text says what is wrong and what to do about it; an administrator reads them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import attrs

from mirrorha.errors import VolumeError
from mirrorha.mount_table import (
    MountEntry,
    MountTable,
    Spot,
    read_mount_table,
    real_path,
)
from mirrorha.volume.fuse import mount_calls
from mirrorha.volume.fuse.fusermount import PROGRAM, find_fusermount
from mirrorha.volume.fuse.mounting import DEVICE, Mounted, is_ours, source_of
from mirrorha.volume.fuse.occupants import Place, find_occupants

#: More lines than these would bury the others.
_LISTED_MAX: Final = 5
# File systems that hold no files of their own.
_PSEUDO_KINDS: Final = frozenset(
    {"autofs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "debugfs", "tracefs", "securityfs"}
)
_TIMEOUTS: Final = ("max_request_timeout", "default_request_timeout")


@final
@attrs.frozen(kw_only=True)
class Machine:
    """Where this machine keeps what is looked at. Tests have another."""

    device: Path = Path(DEVICE)
    configuration: Path = Path("/etc/fuse.conf")
    settings: Path = Path("/proc/sys/fs/fuse")


def find_obstacles(
    directory: Path,
    *,
    volume: str,
    freeze_max_ms: int,
    is_for_all: bool = True,
    machine: Machine | None = None,
) -> list[str]:
    """All that stands in the way of mounting `volume` over `directory`. Nothing is changed.

    Blocks for some seconds at most, and never on a mount that hangs. This process may use the
    directory.

    Args:
        freeze_max_ms: How long a request to the mount may have to wait.
        is_for_all: As for `mount`.
    """
    machine = machine or Machine()
    found = [*_missing_means(machine, is_for_all), *_short_timeouts(machine, freeze_max_ms)]
    try:
        table = read_mount_table()
        spot = table.spot(real_path(directory))
    except VolumeError as error:
        return [*found, str(error)]
    wrong_place = [*_other_mounts(table, spot, volume)] or [*_unfit_directory(spot)]
    return [*found, *(wrong_place or _occupied(spot))]


def missing_means(*, is_for_all: bool = True, machine: Machine | None = None) -> list[str]:
    """What this process lacks to mount anything anywhere. Blocks shortly.

    Args:
        is_for_all: As for `mount`.
    """
    return [*_missing_means(machine or Machine(), is_for_all)]


def refuse_obstacles(
    directory: Path, *, volume: str, freeze_max_ms: int, is_for_all: bool = True
) -> None:
    """Raise all obstacles as one error.

    Raises:
        VolumeError: there are any.
    """
    found = find_obstacles(
        directory, volume=volume, freeze_max_ms=freeze_max_ms, is_for_all=is_for_all
    )
    if found:
        raise VolumeError("; ".join(found))


def cover_warning(directory: Path, *, volume: str) -> str | None:
    """Say if all that programs see of a volume's directory is the cover that a crash left.

    So it is while the volume cannot be opened: who outlived the crash must not get to see the
    directory itself. None: something else is seen there.
    """
    try:
        spot = read_mount_table().spot(real_path(directory))
    except (OSError, VolumeError):
        return None
    is_cover = spot.stack and is_ours(spot.seen) and not spot.seen.is_fuse
    if not is_cover or spot.seen.source != source_of(volume):
        return None
    return (
        f"until it is mounted again, programs find an empty, read-only directory (EROFS) at"
        f" {spot.path}, not its files. To have those without mirrorha, end this node and every"
        f" program that could write there unmirrored, then `umount '{spot.path}'`"
    )


def namespace_warning(mounted: Mounted, process: int) -> str | None:
    """Say if a process, the service's say, does not see the mount. None: it does, or none knows.

    It writes to the directory itself then, and nothing of that is mirrored.
    """
    try:
        ours, theirs = (os.readlink(f"/proc/{one}/ns/mnt") for one in ("self", process))
        if ours == theirs:
            return None
        entries = read_mount_table(process).entries.values()
    except (OSError, VolumeError):
        return None
    if any(
        one.is_fuse
        and one.connection == mounted.connection
        and one.source == source_of(mounted.volume)
        for one in entries
    ):
        return None
    return (
        f"{mounted.directory}: process {process} is in a mount namespace of its own that does not"
        " see the mount: what it writes there is NOT mirrored. Start it after mirrorha, or without"
        " a namespace (systemd: PrivateTmp=, ProtectSystem=, MountFlags=; containers: bind the"
        " directory with propagation `rslave`)"
    )


def foreign_namespace_warning() -> str | None:
    """Say if programs of the system would not see a mount that this process makes.

    None: they would, or nobody knows (looking at process 1 needs rights).
    """
    try:
        ours, theirs = (os.readlink(f"/proc/{one}/ns/mnt") for one in ("self", 1))
        if ours == theirs or read_mount_table().spot("/").seen.is_shared:
            return None
    except (OSError, VolumeError):
        return None
    return (
        "this process runs in a mount namespace of its own, and what it mounts is not seen outside:"
        " programs outside would write to the directory itself, unmirrored. Start mirrorha without"
        " one (systemd: no PrivateTmp=, ProtectSystem=, ProtectHome= or PrivateMounts= in its unit)"
    )


def _missing_means(machine: Machine, is_for_all: bool) -> Iterator[str]:
    """What this process lacks to mount anything anywhere."""
    try:
        is_device = stat.S_ISCHR(os.stat(machine.device).st_mode)
    except OSError:
        is_device = False
    if not is_device:
        yield (
            f"{machine.device} is missing: load the module (`modprobe fuse`); in a container, run"
            f" it with `--device {machine.device} --cap-add SYS_ADMIN`"
        )
    elif mount_calls.may_mount():
        yield from _unusable_device(machine)
    elif find_fusermount() is None:
        yield (
            f"this process may not mount (it lacks CAP_SYS_ADMIN), and {PROGRAM}, set-user-ID of"
            " root, is missing: `apt install fuse3`, or run as root; in a container,"
            f" `--device {machine.device} --cap-add SYS_ADMIN`"
        )
    elif not os.access(machine.device, os.R_OK | os.W_OK):
        yield (
            f"{machine.device} is not open to this user: as root, `chmod 666 {machine.device}`"
            " (udev does that where it runs), or run as root"
        )
    elif is_for_all and os.geteuid() != 0 and not _allows_others(machine):
        yield (
            "other users than this one could not use the mount: put the line `user_allow_other`"
            f" into {machine.configuration}, or run as root"
        )


def _unusable_device(machine: Machine) -> Iterator[str]:
    try:
        os.close(os.open(machine.device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        advice = (
            "load the module (`modprobe fuse`)"
            if error.errno in (errno.ENODEV, errno.ENXIO)
            else f"in a container, run it with `--device {machine.device} --cap-add SYS_ADMIN`"
        )
        yield f"{machine.device} cannot be opened: {error.strerror}; {advice}"


def _allows_others(machine: Machine) -> bool:
    try:
        lines = machine.configuration.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _short_timeouts(machine: Machine, freeze_max_ms: int) -> Iterator[str]:
    """The kernel ends a connection whose requests take longer, and the mount with it."""
    for name in _TIMEOUTS:
        try:
            limit_s = int((machine.settings / name).read_text())
        except (OSError, ValueError):
            continue  # kernels before 6.14 have no such thing
        if 0 < limit_s * 1000 <= freeze_max_ms:
            yield (
                f"the kernel ends a FUSE mount after {limit_s} s without an answer"
                f" ({machine.settings / name}), but a frozen volume may take"
                f" freeze_max = {freeze_max_ms / 1000:g} s: `sysctl fs.fuse.{name}=0`,"
                " or lower freeze_max"
            )


def _other_mounts(table: MountTable, spot: Spot, volume: str) -> Iterator[str]:
    path, seen = spot.path, spot.seen
    if path == "/":
        yield "/: the root directory cannot be a volume; name a directory in it"
    elif spot.stack and is_ours(seen) and seen.source != source_of(volume):
        yield (
            f"{path}: '{seen.source}' is mounted there: give each volume a directory of its own. If"
            f" that volume was renamed and nobody serves it any more: `umount -l '{path}'`"
        )
    elif spot.stack and not is_ours(seen) and (seen.is_fuse or seen.kind in _PSEUDO_KINDS):
        yield (
            f"{path}: '{seen.source}' ({seen.kind}) is mounted there; no volume can lie on it. Take"
            f" it off (`umount '{path}'`), or name another directory"
        )
    elif spot.stack and not is_ours(seen) and any(is_ours(one) for one in spot.stack):
        yield (
            f"{path}: '{seen.source}' ({seen.kind}) is mounted over a mount of mirrorha; take it"
            f" off first: `umount '{path}'`"
        )
    else:
        # What lies in a mount of ours, dead perhaps, is not in the directory itself.
        for one in table.below(path)[:_LISTED_MAX]:
            yield (
                f"{path}: '{one.source}' ({one.kind}) is mounted inside of it, at"
                f" {one.mount_point}, and would not be mirrored; make that a volume of its own at"
                f" another place, or unmount it: `umount '{one.mount_point}'`"
            )


def _unfit_directory(spot: Spot) -> Iterator[str]:
    if any(is_ours(one) for one in spot.stack):
        return  # `open_raw` finds out; looking at the path might hang
    try:
        mode = os.lstat(spot.path).st_mode
    except FileNotFoundError:
        yield f"{spot.path} does not exist; make it (`mkdir -p '{spot.path}'`), or correct `path`"
    except OSError as error:
        yield f"{spot.path}: {error.strerror}"
    else:
        if stat.S_ISLNK(mode):
            yield (
                f"{spot.path} is a symlink; name the directory itself:"
                f" {os.path.realpath(spot.path)}"
            )
        elif not stat.S_ISDIR(mode):
            yield f"{spot.path} is no directory; correct `path`"
        elif "ro" in spot.seen.options:
            yield (
                f"{spot.path}: its file system is mounted read-only: `mount -o remount,rw"
                f" '{spot.seen.mount_point}'`, or look why the kernel made it so (`dmesg`)"
            )
        elif not mount_calls.may_mount() and not os.access(spot.path, os.W_OK):
            yield (
                f"{spot.path}: this user may not write there, so {PROGRAM} will not mount there: as"
                f" root, `chown {os.geteuid()} '{spot.path}'`, or run as root"
            )


def _occupied(spot: Spot) -> list[str]:
    scan = find_occupants(Place.of(spot, _raw_mount(spot)))
    found = [
        f"{spot.path}: {one}; it would go on to write past the mount. End it, or let it"
        " leave the directory: this node looks again by itself"
        for one in scan.occupants[:_LISTED_MAX]
    ]
    if len(scan.occupants) > _LISTED_MAX:
        found.append(
            f"{spot.path}: {len(scan.occupants) - _LISTED_MAX} more processes use it:"
            f" `fuser -vm '{spot.path}'` lists them"
        )
    if scan.unseen is not None:
        found.append(
            f"process {scan.unseen} is stuck in the kernel, and may use {spot.path} or not;"
            f" look at it (`cat /proc/{scan.unseen}/stack`), or start this machine anew"
        )
    return found


def _raw_mount(spot: Spot) -> MountEntry:
    """The mount that has the directory itself: the first one that is not ours, from above."""
    return next((one for one in reversed(spot.stack) if not is_ours(one)), spot.holder)
