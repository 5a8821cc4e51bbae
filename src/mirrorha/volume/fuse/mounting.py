"""Getting a FUSE file system over the very directory that the user named, and away again.

Who may call mount(2) also puts a *cover* between the two: an empty read-only tmpfs. Whatever
becomes of the FUSE mount, programs then find a dead mount or the cover, never the directory itself,
where their writes would go to one node only. Anybody else mounts by fusermount3 and has no cover.

Ours is what is called `mirrorha:<volume>`; nothing else is ever taken off. Nothing here looks at a
mounted path as `stat` does, for that waits for the server; so all of it ends soon. It blocks, but
only as long as the disk that leads to the directory needs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from typing import TYPE_CHECKING, Final, NoReturn, final

import attrs

from mirrorha.errors import VolumeError, ensure
from mirrorha.mount_table import MountEntry, Spot, read_mount_table, real_path
from mirrorha.volume.fuse import mount_calls
from mirrorha.volume.fuse.connection import Standing, abort, ask, read_ahead
from mirrorha.volume.fuse.fusermount import mount_by_program, unmount_by_program
from mirrorha.wire.limits import WRITE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEVICE: Final = "/dev/fuse"
SUBTYPE: Final = "mirrorha"
KIND: Final = f"fuse.{SUBTYPE}"
COVER_KIND: Final = "tmpfs"
# It holds its root directory and has room for nothing else, even if it were made writable.
_COVER_OPTIONS: Final = "size=4k,nr_inodes=1,mode=0555"
# What the raw directory's own mount forbids, ours must not allow.
_KEPT_FLAGS: Final = mount_calls.MS_NOSUID | mount_calls.MS_NODEV | mount_calls.MS_NOEXEC
_OPEN_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_RAW: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_log: Final = logging.getLogger(__name__)


@final
@attrs.define(kw_only=True, eq=False)
class Mounted:
    """A FUSE file system over a directory. Made by `mount`, and served by nobody yet.

    Attributes:
        directory: Where, with all symlinks resolved.
        volume: What it is called in the kernel's table: `mirrorha:<volume>`.
        device: The descriptor of /dev/fuse, non-blocking, closed on exec. Whoever serves the mount
            closes it, after `unmount`. While a copy of it is open anywhere, a server that hangs
            still counts as one, so never pass it on.
        connection: Its number under /sys/fs/fuse/connections.
        mount_id: Its number in the table of mounts.
        has_cover: What is seen once it is gone is not the directory itself.
        is_over: It was taken off. Its numbers may be another mount's now.
    """

    directory: Final[str]
    volume: Final[str]
    device: Final[int]
    connection: Final[int]
    mount_id: Final[int]
    has_cover: Final[bool]
    is_over: bool = False

    def is_entry(self, entry: MountEntry) -> bool:
        """Whether a line of the table speaks of this mount."""
        numbers = (self.mount_id, self.connection, source_of(self.volume))
        return entry.is_fuse and (entry.mount_id, entry.connection, entry.source) == numbers


def source_of(volume: str) -> str:
    """How our mounts of a volume are called in the kernel's table."""
    return f"mirrorha:{volume}"


def open_raw(directory: Path, *, volume: str) -> int:
    """Open the directory itself, to serve it after `mount` hides it.

    A dead mount that a crash left is taken off first. Its cover stays where it is, and the
    directory is opened underneath: programs that outlived the crash never get to see it. To be
    called with the exclusive lock on the volume's state held.

    Returns:
        A descriptor, closed on exec. Not a path: `/proc/self/fd/N` leads there too, but only
        as long as nothing resolves it.

    Raises:
        VolumeError: it is no directory, or something is mounted there that is not ours or is
            served. Nothing was changed then that matters: only dead mounts of ours are gone.
    """
    spot = _take_off_dead(directory, volume)
    try:
        if not _is_ours(spot.seen, volume):
            return os.open(spot.path, _OPEN_RAW)
        return _open_beneath(spot, volume)
    except OSError as error:
        _refuse_place(spot.path, error)


def mount(directory: Path, raw: int, *, volume: str, is_for_all: bool = True) -> Mounted:
    """Mount over the directory that `raw`, of `open_raw`, is open for. Blocks shortly.

    The kernel's first request (INIT) waits in the device when this returns; every process that
    touches the directory from then on waits until it is answered.

    Args:
        is_for_all: Other users than this process's may use the mount, as file permissions say. An
            ordinary user needs `user_allow_other` in /etc/fuse.conf for that.

    Raises:
        VolumeError: it cannot be done; what was there before is there again.
    """
    spot = _spot(directory)
    _refuse_mounted(spot, volume)
    if not mount_calls.may_mount():
        return _mount_by_program(spot, volume, is_for_all)
    has_cover = _is_ours(spot.seen, volume)
    with _open_place(spot) as place:
        if not has_cover and not os.path.sameopenfile(place, raw):
            raise VolumeError(
                f"{spot.path}: another directory was put in its place while we started; start again"
            )
        try:
            return _mount_by_kernel(spot, place, raw, volume, is_for_all)
        except BaseException:
            with contextlib.suppress(VolumeError):  # what went wrong first is what counts
                _take_off_dead(directory, volume)
                if not has_cover:
                    _take_off_cover(spot.path, volume)
            raise


def unmount(mounted: Mounted) -> None:
    """Take the mount off, then its cover: the directory itself is seen again.

    Who waits for an answer gets an error, and so does who still has files open. What programs
    wrote to shared mappings and the kernel has not passed on is lost: stop the service before.
    May be called again. Never waits for the server, and does not close `device`.

    Raises:
        VolumeError: something was mounted over ours, and hides it; ours answers ENOTCONN now.
    """
    if mounted.is_over:
        return
    path = mounted.directory
    for entry in read_mount_table().entries.values():
        if mounted.is_entry(entry):
            path = entry.mount_point  # where it is *now*: a directory above may have been renamed
            _take_off(entry, mounted.volume)
    if mounted.has_cover:
        _take_off_cover(path, mounted.volume)
    mounted.is_over = True


def clean_up(directory: Path, *, volume: str) -> None:
    """Take off what a crash left of our mounts over a directory, the cover too.

    For a node that stops, or whose volume will not be mounted again: programs see the directory
    itself afterwards. To be called with the exclusive lock on the volume's state held: no process
    of ours serves it then, and what is served all the same is not touched.

    Raises:
        VolumeError: ours is served by somebody, or hidden by another mount; or a right is missing.
    """
    spot = _take_off_dead(directory, volume)
    _take_off_cover(spot.path, volume)


def is_ours(entry: MountEntry) -> bool:
    """Whether a mount is one of a mirrorha volume, whichever."""
    return entry.source.startswith(source_of("")) and entry.kind in (KIND, COVER_KIND)


def _is_ours(entry: MountEntry, volume: str) -> bool:
    return is_ours(entry) and entry.source == source_of(volume)


def _spot(directory: Path) -> Spot:
    spot = read_mount_table().spot(real_path(directory))
    if spot.path == "/":
        raise VolumeError("/: the root directory cannot be a volume; name a directory in it")
    return spot


def _take_off_dead(directory: Path, volume: str) -> Spot:
    """Take dead FUSE mounts of ours off; a cover stays."""
    spot = _spot(directory)
    while spot.stack and _is_ours(spot.seen, volume) and spot.seen.is_fuse:
        _refuse_served(spot, volume)
        _log.warning(
            "volume %s: taking off a dead mount at %s (FUSE connection %d)",
            volume,
            spot.path,
            spot.seen.connection,
        )
        _take_off(spot.seen, volume)
        spot = _spot(directory)
    _refuse_hidden(spot, volume)
    return spot


def _take_off_cover(path: str, volume: str) -> None:
    """Take covers off as long as one is what is seen at `path`."""
    while True:
        spot = read_mount_table().spot(path)
        if not spot.stack or not _is_ours(spot.seen, volume) or spot.seen.is_fuse:
            return
        _take_off(spot.seen, volume)


def _take_off(entry: MountEntry, volume: str) -> None:
    """Take one mount off that is seen at its mount point."""
    path = entry.mount_point
    # The connection first: taking off a mount that is served may wait for its server.
    if entry.is_fuse:
        abort(entry.connection)
    spot = read_mount_table().spot(path)
    if spot.seen.mount_id != entry.mount_id:
        _refuse_hidden(spot, volume)
        return  # gone meanwhile
    if not mount_calls.may_mount():
        if entry.owner[0] != os.geteuid() or not entry.is_fuse:
            raise VolumeError(f"{path}: root left a mount there; as root: `umount -l '{path}'`")
        unmount_by_program(path)
        return
    parent, name = os.path.split(path)
    fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount_calls.detach(f"/proc/self/fd/{fd}/{name}")
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be unmounted: {error.strerror}; try `umount -l '{path}'`"
        ) from error
    finally:
        os.close(fd)


def _refuse_served(spot: Spot, volume: str) -> None:
    """Refuse to touch a FUSE mount unless it is known for certain that nobody serves it."""
    standing = ask(spot.path, owner=spot.seen.owner)
    if standing is Standing.GONE:
        return
    number = spot.seen.connection
    raise VolumeError(
        f"{spot.path}: volume '{volume}' is mounted already, and "
        + ("its server answers" if standing is Standing.ANSWERS else "its server does not answer")
        + ": another process serves it, of another node's state directory perhaps; end that one"
        f" first. If there is none: `echo 1 > /sys/fs/fuse/connections/{number}/abort`, start again"
    )


def _refuse_hidden(spot: Spot, volume: str) -> None:
    """Refuse what is mounted over one of ours, for it cannot be reached."""
    is_seen = _is_ours(spot.seen, volume)
    if not is_seen and any(_is_ours(one, volume) for one in spot.stack):
        raise VolumeError(
            f"{spot.path}: '{spot.seen.source}' ({spot.seen.kind}) is mounted over the mount of"
            f" volume '{volume}'; take it off first: `umount '{spot.path}'`"
        )


def _refuse_mounted(spot: Spot, volume: str) -> None:
    _refuse_hidden(spot, volume)
    if spot.stack and spot.seen.is_fuse:
        raise VolumeError(
            f"{spot.path}: '{spot.seen.source}' ({spot.seen.kind}) is mounted there; no volume can"
            f" lie on it. Take it off: `umount '{spot.path}'`, or name another directory"
        )


def _refuse_place(path: str, error: OSError) -> NoReturn:
    reasons = {
        errno.ENOENT: "does not exist; make it (`mkdir -p`), or correct `path`",
        errno.ENOTDIR: "is no directory, or a symlink; name the directory itself",
        errno.ELOOP: "is a symlink; name the directory itself",
        errno.ENOTCONN: "something dead is mounted there; take it off: `umount -l`",
    }
    text = reasons.get(error.errno or 0, f"cannot be opened: {error.strerror}")
    raise VolumeError(f"{path}: {text}") from error


def _open_beneath(spot: Spot, volume: str) -> int:
    """Open what our covers hide, without taking them off for anybody else."""
    found: list[int | OSError] = []

    def look() -> None:
        try:
            mount_calls.leave_mount_namespace()
            for one in reversed(spot.stack):
                if not _is_ours(one, volume):
                    break
                mount_calls.detach(spot.path)
            found.append(os.open(spot.path, _OPEN_RAW))
        except OSError as error:
            found.append(error)

    # The private copy of the mounts ends with the thread; what was opened there stays open.
    thread = threading.Thread(target=look, name="mirrorha-open-beneath")
    thread.start()
    thread.join()
    ensure(len(found) == 1, "looking beneath a cover gives a descriptor or an error")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


@contextlib.contextmanager
def _open_place(spot: Spot) -> Iterator[int]:
    """What a new mount is put on, held so that no rename can put another thing there."""
    try:
        fd = os.open(spot.path, _OPEN_PLACE)
    except OSError as error:
        _refuse_place(spot.path, error)
    try:
        yield fd
    finally:
        os.close(fd)


def _mount_by_kernel(spot: Spot, place: int, raw: int, volume: str, is_for_all: bool) -> Mounted:
    source, target = source_of(volume), f"/proc/self/fd/{place}"
    flags = os.fstatvfs(raw).f_flag & _KEPT_FLAGS
    options = ["rootmode=40000", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    options += ["default_permissions", *(["allow_other"] if is_for_all else [])]
    device = -1
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        if not _is_ours(spot.seen, volume):
            mount_calls.mount_file_system(
                source,
                target,
                COVER_KIND,
                flags=flags | mount_calls.MS_RDONLY,
                options=_COVER_OPTIONS,
            )
        # The same target: the kernel climbs to what was mounted there last.
        mount_calls.mount_file_system(
            source, target, KIND, flags=flags, options=",".join([f"fd={device}", *options])
        )
        mounted = _mounted(spot, volume, device, has_cover=True)
        # As much as one request brings: each costs several changes of process.
        read_ahead(mounted.connection, WRITE_BYTES_MAX)
        return mounted
    except BaseException as error:
        if device >= 0:
            os.close(device)
        if isinstance(error, OSError):
            raise VolumeError(
                f"{spot.path}: cannot be mounted over: {error.strerror}"
                + _ADVICE.get(error.errno or 0, "")
            ) from error
        raise


_ADVICE: Final = {
    errno.ENOENT: f"; {DEVICE} is missing: `modprobe fuse`, in a container `--device {DEVICE}`",
    errno.ENODEV: "; the kernel has no FUSE: `modprobe fuse`",
    errno.EPERM: f"; in a container: `--device {DEVICE} --cap-add SYS_ADMIN`",
    errno.EACCES: f"; in a container: `--device {DEVICE} --cap-add SYS_ADMIN`",
}


def _mount_by_program(spot: Spot, volume: str, is_for_all: bool) -> Mounted:
    options = ["default_permissions", *(["allow_other"] if is_for_all else [])]
    try:
        device = mount_by_program(
            spot.path, source=source_of(volume), subtype=SUBTYPE, options=options
        )
    except VolumeError as error:
        # It runs as root, which a container has fewer rights for.
        advice = _ADVICE[errno.EPERM] if os.strerror(errno.EPERM) in str(error) else ""
        raise VolumeError(f"{spot.path}: cannot be mounted over: {error}{advice}") from error
    try:
        os.set_blocking(device, False)
        return _mounted(spot, volume, device, has_cover=False)
    except BaseException:
        os.close(device)
        raise


def _mounted(spot: Spot, volume: str, device: int, *, has_cover: bool) -> Mounted:
    seen = read_mount_table().spot(spot.path).seen
    if not _is_ours(seen, volume) or not seen.is_fuse:
        raise VolumeError(
            f"{spot.path}: was mounted, and '{seen.source}' ({seen.kind}) is seen there: something"
            " else was mounted or unmounted at the same moment; start again"
        )
    return Mounted(
        directory=spot.path,
        volume=volume,
        device=device,
        connection=seen.connection,
        mount_id=seen.mount_id,
        has_cover=has_cover,
    )
