"""Extended attributes and access lists as the disk in memory keeps them, and as ext4 refuses them.

Pure: metadata in, metadata out.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from mirrorha.volume.access_lists import (
    ACL_ACCESS,
    ACL_DEFAULT,
    ACLS,
    applied,
    canonical,
    with_mode,
)
from mirrorha.volume.disk import Kind
from mirrorha.volume.names import CAPABILITY, TRUSTED
from mirrorha.volume.op_checks import refusal
from mirrorha.volume.ops import XATTR_CREATE, XATTR_REPLACE, SetXattr

if TYPE_CHECKING:
    from mirrorha.testing.memory_inode import Metadata
    from mirrorha.volume.ops import Birth

_LIST_HEADER_BYTES: Final = 4
_CAPABILITY_BYTES: Final = {2: 20, 3: 24}  # by revision


def with_xattr(metadata: Metadata, kind: Kind, op: SetXattr, *, is_root: bool) -> Metadata:
    """The metadata after `op`.

    Raises:
        OSError: as ext4.
    """
    if op.name in ACLS:
        return _with_list(metadata, kind, op.name, op.value)
    _check_allowed(kind, op, is_root=is_root)
    xattrs = dict(metadata.xattrs)
    is_there = op.name in xattrs
    if op.value is None:
        if not is_there:
            raise refusal(errno.ENODATA)
        del xattrs[op.name]
    else:
        if is_there and op.flags & XATTR_CREATE:
            raise refusal(errno.EEXIST)
        if not is_there and op.flags & XATTR_REPLACE:
            raise refusal(errno.ENODATA)
        xattrs[op.name] = op.value
    return msgspec.structs.replace(metadata, xattrs=xattrs)


def with_new_mode(metadata: Metadata, mode: int) -> Metadata:
    """The metadata after a chmod: an access list changes along with the mode."""
    xattrs = metadata.xattrs
    if ACL_ACCESS in xattrs:
        xattrs = {**xattrs, ACL_ACCESS: with_mode(xattrs[ACL_ACCESS], mode)}
    return msgspec.structs.replace(metadata, mode=mode, xattrs=xattrs)


def without_capability(metadata: Metadata) -> Metadata:
    """The metadata after a write, or a new owner."""
    if CAPABILITY not in metadata.xattrs:
        return metadata
    xattrs = {name: value for name, value in metadata.xattrs.items() if name != CAPABILITY}
    return msgspec.structs.replace(metadata, xattrs=xattrs)


def of_new_file(metadata: Metadata, kind: Kind, op: Birth, *, is_root: bool) -> Metadata:
    """The metadata of a file that is made with the op's extended attributes.

    Raises:
        OSError: as ext4.
    """
    for name, value in getattr(op, "xattrs", {}).items():
        metadata = with_xattr(metadata, kind, SetXattr(op.fid, name, value), is_root=is_root)
    return with_new_mode(metadata, getattr(op, "mode", metadata.mode))


def _with_list(metadata: Metadata, kind: Kind, name: str, value: bytes | None) -> Metadata:
    if kind is Kind.SYMLINK:
        raise refusal(errno.EOPNOTSUPP)
    mode = metadata.mode
    if name == ACL_DEFAULT:
        # ext4 looks at what is in the list only after what it is for.
        if kind is not Kind.DIRECTORY and len(value or b"") > _LIST_HEADER_BYTES:
            raise refusal(errno.EACCES)
        raw = canonical(value or b"")
    else:
        mode, raw = applied(value or b"", mode)
    xattrs = {other: held for other, held in metadata.xattrs.items() if other != name}
    if raw:
        xattrs[name] = raw
    return msgspec.structs.replace(metadata, mode=mode, xattrs=xattrs)


def _check_allowed(kind: Kind, op: SetXattr, *, is_root: bool) -> None:
    if op.name.startswith("user."):
        if kind not in {Kind.FILE, Kind.DIRECTORY}:
            raise refusal(errno.EPERM)
    elif op.name == CAPABILITY and op.value is not None:
        revision = struct.unpack_from("<I", op.value)[0] >> 24 if len(op.value) >= 4 else 0
        if _CAPABILITY_BYTES.get(revision) != len(op.value):
            raise refusal(errno.EINVAL)
    if not is_root and (op.name == CAPABILITY or op.name.startswith(TRUSTED)):
        raise refusal(errno.EPERM)
