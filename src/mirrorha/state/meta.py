"""The node's durable state as a file: JSON that `cat` can read, with a format and a checksum.

What cannot be read is never taken for "there was none": a node that forgot what it held could
admit itself where it must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import xxhash

from mirrorha.core.meta import Meta
from mirrorha.errors import InvariantViolation, StateError
from mirrorha.state.atomic import read_bytes_or_none

if TYPE_CHECKING:
    from pathlib import Path

META_NAME: Final = "node.json"
FORMAT: Final = 1
# Records, generations and forced epochs are few; this is a hundred times what a node ever needs.
META_BYTES_MAX: Final = 1024 * 1024


class _File(msgspec.Struct):
    format: int
    checksum: str
    meta: msgspec.Raw = msgspec.Raw(b"null")


def encode_meta(meta: Meta) -> bytes:
    """The content of the file: equal states give equal bytes."""
    body = msgspec.json.encode(meta, order="deterministic")
    file = _File(format=FORMAT, checksum=_checksum(body), meta=msgspec.Raw(body))
    return msgspec.json.encode(file) + b"\n"


def decode_meta(raw: bytes, *, where: str) -> Meta:
    """Read what `encode_meta` made.

    Args:
        where: the file, for the messages.

    Raises:
        StateError: it is damaged, was edited, or was written by a newer version.
    """
    try:
        file = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(where, str(error)) from error
    if file.format != FORMAT:
        raise StateError(
            f"{where} has format {file.format}, this version reads {FORMAT}; "
            "start the version of mirrorha that wrote it, or a newer one"
        )
    body = bytes(file.meta)
    if file.checksum != _checksum(body):
        raise _damaged(where, "its checksum does not match; was it edited?")
    try:
        return msgspec.json.decode(body, type=Meta)
    except (msgspec.MsgspecError, InvariantViolation) as error:
        raise _damaged(where, str(error)) from error


def read_meta(path: Path, *, node: str) -> Meta:
    """Read the state of `node`; a new one if there is no such file. Blocks.

    Raises:
        StateError: the file cannot be read, is damaged, or is another node's.
    """
    try:
        raw = read_bytes_or_none(path, bytes_max=META_BYTES_MAX)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
    if raw is None:
        return Meta(node=node)
    meta = decode_meta(raw, where=str(path))
    if meta.node != node:
        raise StateError(
            f"{path} is the state of node '{meta.node}', but this is '{node}'; "
            "give each node its own state_dir, or the right --node"
        )
    return meta


def _checksum(body: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(body)


def _damaged(where: str, why: str) -> StateError:
    return StateError(
        f"{where} is damaged: {why}. It says what this node may do, so it is not taken for a new "
        "one. To give up this node's copy and have the peer fill it, move the state_dir away and "
        "run 'mirrorha resync NODE --full'"
    )
