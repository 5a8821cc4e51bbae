"""Names as they travel in ops: text, though the kernel's are bytes.

A name that is valid UTF-8 is its text. Every byte that is not travels as one character of a range
set aside for it, U+10FF80 to U+10FFFF, and so does every byte of a character of that range: then
each name has exactly one text, and each text at most one name. (Lone surrogates, Python's own
way, cannot be encoded on the wire.)
"""

from __future__ import annotations

import errno
import os
from typing import Final

from mirrorha.wire.limits import NAME_BYTES_MAX, PATH_BYTES_MAX, XATTR_NAME_BYTES_MAX

MARKER_NAME: Final = ".mirrorha-volume"
LIMBO_NAME: Final = ".mirrorha-limbo"
#: Excluded files out of directories that the other node has removed.
KEPT_NAME: Final = ".mirrorha-kept"
#: What one side of a split alone acknowledged, and the other side's data has replaced.
RESCUE_NAME: Final = ".mirrorha-rescue"
#: Of what a disk is making and has not given its name yet.
HALF_MADE_PREFIX: Final = ".mirrorha-new-"
HIDDEN_NAMES: Final = frozenset({MARKER_NAME, LIMBO_NAME, KEPT_NAME, RESCUE_NAME})

# The kernel's PATH_MAX counts the terminating zero.
TARGET_BYTES_MAX: Final = PATH_BYTES_MAX - 1

_ESCAPE: Final = 0x10FF00
_FIRST_ESCAPE: Final = chr(_ESCAPE + 0x80)
_SURROGATE: Final = 0xDC00
CAPABILITY: Final = "security.capability"
_XATTRS: Final = frozenset({CAPABILITY, "system.posix_acl_access", "system.posix_acl_default"})
# What only root sees and sets; overlay file systems keep their notes in them.
TRUSTED: Final = "trusted."


def text_of(raw: bytes) -> str:
    """The text for the name `raw`. Never fails."""
    text = raw.decode("utf-8", "surrogateescape")
    if text.isascii():
        return text
    return "".join(_escaped(character) for character in text)


def bytes_of(text: str) -> bytes:
    """The name that `text` stands for.

    Raises:
        OSError: EILSEQ, it is the text of no name.
    """
    if text.isascii():
        return text.encode()
    try:
        raw = b"".join(
            bytes((ord(character) - _ESCAPE,)) if character >= _FIRST_ESCAPE else character.encode()
            for character in text
        )
    except UnicodeEncodeError:
        raw = b""
    # Escapes that happen to form a character would be a second text for the same name.
    if text_of(raw) != text:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))
    return raw


def from_python(name: str) -> str:
    """The text for a name as Python has it: lone surrogates stand for bytes that are no UTF-8.

    Raises:
        OSError: EILSEQ, no name is called so.
    """
    if name.isascii():
        return name
    try:
        return text_of(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), name) from error


def to_python(text: str) -> str:
    """A name as Python has it."""
    return text if text.isascii() else bytes_of(text).decode("utf-8", "surrogateescape")


def checked_name(name: str) -> bytes:
    """The bytes of a name that may be made in a volume.

    Raises:
        OSError: EINVAL, ENAMETOOLONG or EILSEQ for what is no name; EPERM for one of our own.
    """
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if name in HIDDEN_NAMES:
        raise OSError(errno.EPERM, f"the name {name} is mirrorha's own")
    raw = bytes_of(name)
    if len(raw) > NAME_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return raw


def checked_target(target: str) -> bytes:
    """The bytes of a symlink's target; where it points is nobody's business here.

    Raises:
        OSError: ENOENT, EINVAL, ENAMETOOLONG or EILSEQ.
    """
    if not target:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if "\0" in target:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    raw = bytes_of(target)
    if len(raw) > TARGET_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return raw


def is_mirrored_xattr(name: str) -> bool:
    """Whether the extended attribute `name` is part of a volume's contents."""
    return name.startswith(("user.", TRUSTED)) or name in _XATTRS


def check_xattr_length(name: str) -> None:
    """Refuse a name that no extended attribute has anywhere.

    Raises:
        OSError: ERANGE; EILSEQ, it is the text of no name.
    """
    if not 0 < len(bytes_of(name)) <= XATTR_NAME_BYTES_MAX:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))


def check_xattr_name(name: str) -> None:
    """Refuse a name that no extended attribute of a volume may have.

    Raises:
        OSError: EOPNOTSUPP, it is the node's own; EINVAL or ERANGE, it is none.
    """
    if "\0" in name or name in {"user.", TRUSTED}:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if not is_mirrored_xattr(name):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    check_xattr_length(name)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return chr(code - _SURROGATE + _ESCAPE)
    if character >= _FIRST_ESCAPE:
        return "".join(chr(_ESCAPE + byte) for byte in character.encode())
    return character
