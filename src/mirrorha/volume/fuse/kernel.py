"""The kernel's FUSE interface, version 7.38, as <linux/fuse.h> documents it: numbers and layouts.

What a newer kernel adds is not asked for; it speaks the older version of the two. A test compares
everything here with the header's text.
"""

from __future__ import annotations

import enum
import re
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 38
# From here on: FUSE_MAX_PAGES, cached symlinks and everything else that is taken for granted.
MINOR_MIN: Final = 31
#: The smallest buffer that the kernel hands a request to.
BUFFER_BYTES_MIN: Final = 8192


class Opcode(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    TMPFILE = 51


class Init(enum.IntFlag):
    """What kernel and server agree on at the start."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    HAS_EXPIRE_ONLY = 1 << 35


class Fattr(enum.IntFlag):
    """What a SETATTR sets."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KILL_SUIDGID: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
EXPIRE_ONLY: Final = 1 << 0
NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3

_ATTR: Final = (
    "{0}ino:Q {0}size:Q {0}blocks:Q {0}atime:q {0}mtime:q {0}ctime:q "
    "{0}atimensec:I {0}mtimensec:I {0}ctimensec:I {0}mode:I {0}nlink:I "
    "{0}uid:I {0}gid:I {0}rdev:I {0}blksize:I {0}flags:I"
)
_ENTRY: Final = (
    "{0}nodeid:Q {0}generation:Q {0}entry_valid:Q {0}attr_valid:Q "
    "{0}entry_valid_nsec:I {0}attr_valid_nsec:I "
)

#: The structs of the header that are used here: each field with its type, `Nx` for what is not.
LAYOUTS: Final = {
    "fuse_in_header": "len:I opcode:I unique:Q nodeid:Q uid:I gid:I pid:I total_extlen:H 2x",
    "fuse_out_header": "len:I error:i unique:Q",
    "fuse_init_in": "major:I minor:I max_readahead:I flags:I flags2:I 44x",
    "fuse_init_out": "major:I minor:I max_readahead:I flags:I max_background:H "
    "congestion_threshold:H max_write:I time_gran:I max_pages:H map_alignment:H flags2:I 28x",
    "fuse_attr": _ATTR.format(""),
    "fuse_attr_out": "attr_valid:Q attr_valid_nsec:I 4x " + _ATTR.format("attr."),
    "fuse_entry_out": _ENTRY.format("") + _ATTR.format("attr."),
    "fuse_forget_in": "nlookup:Q",
    "fuse_forget_one": "nodeid:Q nlookup:Q",
    "fuse_batch_forget_in": "count:I 4x",
    "fuse_mknod_in": "mode:I rdev:I umask:I 4x",
    "fuse_mkdir_in": "mode:I umask:I",
    "fuse_rename_in": "newdir:Q",
    "fuse_rename2_in": "newdir:Q flags:I 4x",
    "fuse_link_in": "oldnodeid:Q",
    "fuse_setattr_in": "valid:I 4x fh:Q size:Q lock_owner:Q atime:q mtime:q ctime:q "
    "atimensec:I mtimensec:I ctimensec:I mode:I 4x uid:I gid:I 4x",
    "fuse_open_in": "flags:I open_flags:I",
    "fuse_create_in": "flags:I mode:I umask:I open_flags:I",
    "fuse_open_out": "fh:Q open_flags:I 4x",
    "fuse_release_in": "fh:Q flags:I release_flags:I lock_owner:Q",
    "fuse_read_in": "fh:Q offset:Q size:I read_flags:I lock_owner:Q flags:I 4x",
    "fuse_write_in": "fh:Q offset:Q size:I write_flags:I lock_owner:Q flags:I 4x",
    "fuse_write_out": "size:I 4x",
    "fuse_kstatfs": "blocks:Q bfree:Q bavail:Q files:Q ffree:Q bsize:I namelen:I frsize:I 28x",
    "fuse_fsync_in": "fh:Q fsync_flags:I 4x",
    "fuse_setxattr_in": "size:I flags:I setxattr_flags:I 4x",
    "fuse_getxattr_in": "size:I 4x",
    "fuse_getxattr_out": "size:I 4x",
    "fuse_interrupt_in": "unique:Q",
    "fuse_fallocate_in": "fh:Q offset:Q length:Q mode:I 4x",
    "fuse_lseek_in": "fh:Q offset:Q whence:I 4x",
    "fuse_lseek_out": "offset:Q",
    "fuse_copy_file_range_in": "fh_in:Q off_in:Q nodeid_out:Q fh_out:Q off_out:Q len:Q flags:Q",
    "fuse_dirent": "ino:Q off:Q namelen:I type:I",
    "fuse_direntplus": _ENTRY.format("entry_out.")
    + _ATTR.format("entry_out.attr.")
    + " dirent.ino:Q dirent.off:Q dirent.namelen:I dirent.type:I",
    "fuse_notify_inval_inode_out": "ino:Q off:q len:q",
    "fuse_notify_inval_entry_out": "parent:Q namelen:I flags:I",
}


def _struct(*names: str) -> Struct:
    """The structs, one behind the other, without their fields' names."""
    return Struct("=" + "".join(re.sub(r"[\w.]+:| ", "", LAYOUTS[name]) for name in names))


def _reply(*names: str) -> Struct:
    return _struct("fuse_out_header", *names)


# What the kernel sends.
IN_HEADER: Final = _struct("fuse_in_header")
INIT_IN: Final = _struct("fuse_init_in")
FORGET_IN: Final = _struct("fuse_forget_in")
FORGET_ONE: Final = _struct("fuse_forget_one")
BATCH_FORGET_IN: Final = _struct("fuse_batch_forget_in")
MKNOD_IN: Final = _struct("fuse_mknod_in")
MKDIR_IN: Final = _struct("fuse_mkdir_in")
RENAME_IN: Final = _struct("fuse_rename_in")
RENAME2_IN: Final = _struct("fuse_rename2_in")
LINK_IN: Final = _struct("fuse_link_in")
SETATTR_IN: Final = _struct("fuse_setattr_in")
OPEN_IN: Final = _struct("fuse_open_in")
CREATE_IN: Final = _struct("fuse_create_in")
RELEASE_IN: Final = _struct("fuse_release_in")
READ_IN: Final = _struct("fuse_read_in")
WRITE_IN: Final = _struct("fuse_write_in")
FSYNC_IN: Final = _struct("fuse_fsync_in")
SETXATTR_IN: Final = _struct("fuse_setxattr_in")
GETXATTR_IN: Final = _struct("fuse_getxattr_in")
INTERRUPT_IN: Final = _struct("fuse_interrupt_in")
FALLOCATE_IN: Final = _struct("fuse_fallocate_in")
LSEEK_IN: Final = _struct("fuse_lseek_in")
COPY_FILE_RANGE_IN: Final = _struct("fuse_copy_file_range_in")

# What it is sent, each with its header before it.
OUT_HEADER: Final = _reply()
INIT_OUT: Final = _reply("fuse_init_out")
ATTR_OUT: Final = _reply("fuse_attr_out")
ENTRY_OUT: Final = _reply("fuse_entry_out")
CREATE_OUT: Final = _reply("fuse_entry_out", "fuse_open_out")
OPEN_OUT: Final = _reply("fuse_open_out")
WRITE_OUT: Final = _reply("fuse_write_out")
STATFS_OUT: Final = _reply("fuse_kstatfs")
GETXATTR_OUT: Final = _reply("fuse_getxattr_out")
LSEEK_OUT: Final = _reply("fuse_lseek_out")

# Notices, whose headers hold what they are about instead of an error.
NOTIFY_INODE: Final = _struct("fuse_notify_inval_inode_out")
NOTIFY_ENTRY: Final = _struct("fuse_notify_inval_entry_out")

# Of which a reply holds many: names follow them, and each begins at a multiple of 8.
DIRENT: Final = _struct("fuse_dirent")
DIRENTPLUS: Final = _struct("fuse_direntplus")
RECORD_ALIGN: Final = 8
