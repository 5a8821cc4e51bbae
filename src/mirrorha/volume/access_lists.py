"""POSIX access control lists, as the kernel keeps them in extended attributes. Pure.

A list and the mode of its file say the same thing twice: the kernel changes the one with the
other, and gives a new file what its directory's default list says. Here is how, for who must know
what comes of it beforehand. Lists that the kernel refuses are refused with its errno.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final, NamedTuple, final

ACL_ACCESS: Final = "system.posix_acl_access"
ACL_DEFAULT: Final = "system.posix_acl_default"
ACLS: Final = frozenset({ACL_ACCESS, ACL_DEFAULT})

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NOBODY: Final = 0xFFFF_FFFF  # of entries that name nobody in particular
_USER_OBJ: Final = 0x01
_USER: Final = 0x02
_GROUP_OBJ: Final = 0x04
_GROUP: Final = 0x08
_MASK: Final = 0x10
_OTHER: Final = 0x20
_NAMING: Final = frozenset({_USER, _GROUP})
_ALL: Final = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
# Which entries may come after which; the end may come after the last of them only.
_NEXT: Final = {
    0: {_USER_OBJ},
    _USER_OBJ: {_USER, _GROUP_OBJ},
    _USER: {_USER, _GROUP_OBJ},
    _GROUP_OBJ: {_GROUP, _MASK, _OTHER},
    _GROUP: {_GROUP, _MASK},
    _MASK: {_OTHER},
    _OTHER: set[int](),
}


@final
class _Entry(NamedTuple):
    tag: int
    bits: int
    owner: int


def packed_list(*entries: tuple[int, int, int]) -> bytes:
    """A list of (tag, permissions, owner) as the kernel has it; owners only where they are named.

    Tags: 1 the owner, 2 a user, 4 the group, 8 another group, 16 the mask, 32 everybody else.
    """
    return _packed([_Entry(*entry) for entry in entries])


def canonical(raw: bytes) -> bytes:
    """The list as the kernel gives it back; b"" if it is none.

    Raises:
        OSError: EINVAL, EOPNOTSUPP: the kernel takes no such list.
    """
    return _packed(_parsed(raw))


def applied(raw: bytes, mode: int) -> tuple[int, bytes]:
    """What setting this access list on a file of `mode` leads to: its mode and its list.

    A list that says no more than a mode can becomes one: b"".

    Raises:
        OSError: as `canonical`.
    """
    entries = _parsed(raw)
    if not entries:
        return mode, b""
    bits = {entry.tag: entry.bits for entry in entries if entry.tag not in _NAMING}
    group = bits.get(_MASK, bits[_GROUP_OBJ])
    new_mode = mode & ~_ALL | bits[_USER_OBJ] << 6 | group << 3 | bits[_OTHER]
    return new_mode, _packed(entries) if _says_more(entries) else b""


def with_mode(raw: bytes, mode: int) -> bytes:
    """The access list of a file that gets `mode`."""
    entries = _parsed(raw)
    group_tag = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    wanted = {_USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, _OTHER: mode & 7}
    return _packed([entry._replace(bits=wanted.get(entry.tag, entry.bits)) for entry in entries])


def inherited(default: bytes, mode: int) -> tuple[int, bytes]:
    """The mode and access list of a new file below a directory with this `default` list.

    `mode` is what its maker asked for, whatever the umask.
    """
    entries = _parsed(default)
    group_tag = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    asked = {_USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, _OTHER: mode & 7}
    made = [entry._replace(bits=entry.bits & asked.get(entry.tag, 7)) for entry in entries]
    return applied(_packed(made), mode)


def _says_more(entries: list[_Entry]) -> bool:
    return any(entry.tag in _NAMING or entry.tag == _MASK for entry in entries)


def _parsed(raw: bytes) -> list[_Entry]:
    if not raw:
        return []
    if len(raw) < _HEADER.size:
        raise _refused(errno.EINVAL)
    if _HEADER.unpack_from(raw)[0] != _VERSION:
        raise _refused(errno.EOPNOTSUPP)
    if (len(raw) - _HEADER.size) % _ENTRY.size:
        raise _refused(errno.EINVAL)
    entries = [_Entry(*fields) for fields in _ENTRY.iter_unpack(raw[_HEADER.size :])]
    before = 0
    names_somebody = False
    for tag, bits, owner in entries:
        names_somebody = names_somebody or tag in _NAMING
        # Whoever names somebody needs a mask.
        follows = tag in _NEXT[before] and not (
            tag == _OTHER and before != _MASK and names_somebody
        )
        if not follows or bits > 7 or (tag in _NAMING and owner == _NOBODY):
            raise _refused(errno.EINVAL)
        before = tag
    if entries and before != _OTHER:
        raise _refused(errno.EINVAL)
    return entries


def _packed(entries: list[_Entry]) -> bytes:
    if not entries:
        return b""
    return _HEADER.pack(_VERSION) + b"".join(
        _ENTRY.pack(tag, bits, owner if tag in _NAMING else _NOBODY) for tag, bits, owner in entries
    )


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))
