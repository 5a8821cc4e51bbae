"""What a new file gets from the directory that it is made in. Pure."""

from __future__ import annotations

import stat
from typing import Any, TypeVar

import msgspec

from mirrorha.volume.access_lists import ACL_ACCESS, ACL_DEFAULT, inherited
from mirrorha.volume.ops import Birth, Create, Mkdir, Mknod

_Made = TypeVar("_Made", bound=Birth)


def settled(op: _Made, *, mode: int, gid: int, default_list: bytes) -> _Made:
    """The op as it will be done, in a directory with this mode, group and default access list.

    An op without a umask says already what is to result: it stays as it is.
    """
    if op.umask is None:
        return op
    is_group_kept = bool(mode & stat.S_ISGID)
    changes: dict[str, Any] = {"umask": None, "gid": gid if is_group_kept else op.gid}
    if isinstance(op, Create | Mkdir | Mknod):
        new_mode = op.mode
        if is_group_kept and isinstance(op, Mkdir):
            new_mode |= stat.S_ISGID
        changes["mode"], lists = _permissions(op, new_mode, op.umask, default_list)
        changes["xattrs"] = {**op.xattrs, **lists}
    return msgspec.structs.replace(op, **changes)


def _permissions(
    op: Birth, mode: int, umask: int, default_list: bytes
) -> tuple[int, dict[str, bytes]]:
    """The mode that results from one asked for, and the access lists that go with it."""
    if not default_list:
        return mode & ~umask, {}
    new_mode, access_list = inherited(default_list, mode)
    lists = {ACL_ACCESS: access_list} if access_list else {}
    if isinstance(op, Mkdir):
        lists[ACL_DEFAULT] = default_list
    return new_mode, lists
