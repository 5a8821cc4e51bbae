"""Random requests to a disk: mostly sensible, sometimes not, always the same for one seed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, final

from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT, ACLS, packed_list
from mirrorha.volume.disk import (
    AnyRequest,
    Apply,
    ApplyAll,
    ClearLimbo,
    HashBlocks,
    Kind,
    ListDirectory,
    Many,
    Place,
    PunchHole,
    ReadAttributes,
    ReadBytes,
    Relabel,
    Resolve,
    SetAside,
    SyncFiles,
    SyncTree,
)
from mirrorha.volume.names import CAPABILITY
from mirrorha.volume.ops import (
    FALLOCATE_KEEP_SIZE,
    FALLOCATE_PUNCH_HOLE,
    FALLOCATE_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ROOT_FID,
    XATTR_CREATE,
    XATTR_REPLACE,
    AnyOp,
    Create,
    Fallocate,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
    make_fid,
)
from mirrorha.wire.limits import BLOCK_BYTES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_NAMES: Final = ("a", "b", "c", "d", "é", "..", "")
_NAME_WEIGHTS: Final = (6, 6, 6, 6, 3, 1, 1)
_FIRST_MTIME_NS: Final = 1_700_000_000_000_000_000
_POOL_MAX: Final = 24
# Everything for the owner, whose right to look at his own files is no subject here.
_PLAIN_LIST: Final = packed_list((1, 7, 0), (4, 5, 0), (32, 1, 0))
_LIST: Final = packed_list((1, 7, 0), (2, 6, 7), (4, 5, 0), (16, 3, 0), (32, 4, 0))
_CAPABILITY: Final = struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0)


@final
class RandomRequests:
    """Draws requests that often meet: few names, few ids, some of them of files long gone.

    Args:
        rng: All chance comes from here.
        epoch: Of the ids drawn.
        content_bytes_max: The longest write.
        mode_min: What every mode that is set later includes. Give it 0o700 where an ordinary user
            is to perform them: only root may enter a directory that its owner may not.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        epoch: int = 1,
        content_bytes_max: int = 3000,
        mode_min: int = 0,
    ) -> None:
        self._rng: Final = rng
        self._epoch: Final = epoch
        self._content_bytes_max: Final = content_bytes_max
        self._mode_min: Final = mode_min
        self._counter = 0
        self._pool = [ROOT_FID]
        self._ops: Final[tuple[tuple[Callable[[], AnyOp], int], ...]] = (
            (self._write, 30),
            (self._truncate, 6),
            (self._create, 14),
            (self._mkdir, 8),
            (self._symlink, 4),
            (self._link, 6),
            (self._unlink, 8),
            (self._rmdir, 4),
            (self._rename, 16),
            (self._set_attributes, 6),
            (self._set_xattr, 8),
            (self._mknod, 5),
            (self._fallocate, 7),
        )

    def op(self) -> AnyOp:
        """A change."""
        kinds, weights = zip(*self._ops, strict=True)
        draw: Callable[[], AnyOp] = self._rng.choices(kinds, weights)[0]
        return draw()

    def look(self) -> AnyRequest:
        """A request that changes nothing."""
        rng, fid = self._rng, self._fid()
        return rng.choice(
            (
                ReadBytes(fid, rng.randrange(9000), rng.randrange(9000)),
                HashBlocks(fid, rng.randrange(2), rng.randrange(4), rng.randrange(1 << 64)),
                ListDirectory(fid),
                ReadAttributes(fid),
                Resolve("/".join(self._name() for _ in range(rng.randrange(4)))),
                SyncFiles([fid], [fid] if fid % 2 else []),
                SyncTree(),
            )
        )

    def resync(self) -> AnyRequest:
        """A request of those that only a resync makes."""
        rng = self._rng
        return rng.choices(
            (
                SetAside(self._fid(), self._name()),
                PunchHole(self._fid(), rng.randrange(4000), rng.randrange(4000)),
                Place(self._fid(), self._name(), self._fid()),
                Relabel(self._old_fid(), self._new_fid()),
                ClearLimbo(),
            ),
            (6, 3, 8, 3, 1),
        )[0]

    def request(self) -> AnyRequest:
        """Any request."""
        chance = self._rng.random()
        if chance < 0.65:
            return Apply(self.op())
        if chance < 0.7:
            ops = [self.op() for _ in range(3)]
            return self._rng.choice((ApplyAll(ops), Many([Apply(op) for op in ops])))
        return self.look() if chance < 0.9 else self.resync()

    def _write(self) -> Write:
        data = self._rng.randbytes(self._rng.choice((1, 20, self._content_bytes_max)))
        offset = self._rng.choice((0, self._rng.randrange(5000), BLOCK_BYTES * 2))
        return Write(self._fid(), offset, data, self._mtime_ns())

    def _truncate(self) -> Truncate:
        size_bytes = self._rng.choice((0, self._rng.randrange(-1, 6000), BLOCK_BYTES * 3))
        return Truncate(self._fid(), size_bytes, self._mtime_ns())

    def _create(self) -> Create:
        mode = self._rng.choice((0o644, 0o600, 0o4755, 0))
        owner = self._rng.choice((-1, 0, 1234))
        fid = self._fid_to_make()
        umask, mtime_ns = self._umask(), self._mtime_ns()
        return Create(fid, self._fid(), self._name(), mode, owner, owner, mtime_ns, umask)

    def _mkdir(self) -> Mkdir:
        mode = self._rng.choice((0o755, 0o2775))
        fid, umask = self._fid_to_make(), self._umask()
        return Mkdir(fid, self._fid(), self._name(), mode, 7, -1, self._mtime_ns(), umask)

    def _symlink(self) -> Symlink:
        target = self._rng.choice(("a", "../../etc", "\U0010ff80", ""))
        fid, umask = self._fid_to_make(), self._umask()
        return Symlink(fid, self._fid(), self._name(), target, -1, 3, self._mtime_ns(), umask)

    def _mknod(self) -> Mknod:
        kind = self._rng.choice((Kind.FIFO, Kind.FIFO, Kind.SOCKET, Kind.BLOCK_DEVICE, Kind.FILE))
        rdev = 0 if kind is not Kind.BLOCK_DEVICE else self._rng.choice((259, 1 << 31))
        fid, umask, mtime_ns = self._fid_to_make(), self._umask(), self._mtime_ns()
        return Mknod(fid, self._fid(), self._name(), kind, 0o666, rdev, 5, 6, mtime_ns, umask)

    def _fallocate(self) -> Fallocate:
        keep, punch, zero = FALLOCATE_KEEP_SIZE, FALLOCATE_PUNCH_HOLE, FALLOCATE_ZERO_RANGE
        mode = self._rng.choice((0, keep, punch | keep, punch | keep, zero, zero | keep, punch))
        offset = self._rng.choice((0, self._rng.randrange(-1, 6000), BLOCK_BYTES))
        length = self._rng.choice((1, self._rng.randrange(9000), BLOCK_BYTES * 2))
        return Fallocate(self._fid(), mode, offset, length, self._mtime_ns())

    def _umask(self) -> int | None:
        return self._rng.choice((None, 0o22, 0o77, 0))

    def _link(self) -> Link:
        return Link(self._fid(), self._fid(), self._name(), self._mtime_ns())

    def _unlink(self) -> Unlink:
        return Unlink(self._perhaps_fid(), self._fid(), self._name(), self._mtime_ns())

    def _rmdir(self) -> Rmdir:
        return Rmdir(self._perhaps_fid(), self._fid(), self._name(), self._mtime_ns())

    def _rename(self) -> Rename:
        return Rename(
            self._perhaps_fid(),
            self._fid(),
            self._name(),
            self._fid(),
            self._name(),
            self._perhaps_fid(),
            self._mtime_ns(),
            self._rng.choices((0, RENAME_NOREPLACE, RENAME_EXCHANGE, 4), (12, 2, 5, 1))[0],
        )

    def _set_attributes(self) -> SetAttributes:
        rng = self._rng
        return SetAttributes(
            self._fid(),
            rng.choice((None, 0o640 | self._mode_min, 0o6755 | self._mode_min)),
            rng.choice((None, -1, 5, -2)),
            rng.choice((None, -1, 6)),
            rng.choice((None, self._mtime_ns())),
            rng.choice((None, None, self._mtime_ns())),
        )

    def _set_xattr(self) -> SetXattr:
        rng = self._rng
        name = rng.choice(("user.a", "user.b", "trusted.c", "security.d", ACL_ACCESS, ACL_DEFAULT))
        value = rng.choice((None, b"", b"value"))
        if name in ACLS:
            value = rng.choice((None, b"", _LIST, _PLAIN_LIST, _LIST[:-8]))
        elif rng.random() < 0.1:
            name, value = CAPABILITY, rng.choice((None, _CAPABILITY))
        return SetXattr(self._fid(), name, value, rng.choice((0, 0, XATTR_CREATE, XATTR_REPLACE)))

    def _name(self) -> str:
        return self._rng.choices(_NAMES, _NAME_WEIGHTS)[0]

    def _fid(self) -> int:
        # The root and what is new are most often there.
        if self._rng.random() < 0.35:
            return ROOT_FID
        return self._rng.choice(self._pool)

    def _old_fid(self) -> int:
        return self._rng.choice(self._pool[1:] or [self._new_fid()])

    def _perhaps_fid(self) -> int:
        return 0 if self._rng.random() < 0.7 else self._fid()

    def _fid_to_make(self) -> int:
        return self._new_fid() if self._rng.random() < 0.95 else self._fid()

    def _new_fid(self) -> int:
        self._counter += 1
        fid = make_fid(epoch=self._epoch, counter=self._counter)
        self._pool.append(fid)
        if len(self._pool) > _POOL_MAX:
            del self._pool[1 + self._rng.randrange(len(self._pool) // 2)]
        return fid

    def _mtime_ns(self) -> int:
        return _FIRST_MTIME_NS + self._rng.randrange(10**12)
