"""What a file holds, as the op that would bring it about on a node that holds something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorha.volume.disk import Attributes, Outcome
from mirrorha.volume.ops import AnyOp, SetAttributes, Truncate, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import Restate


def restated(
    request: Restate, attributes: Attributes | None, read: Callable[[int, int], bytes | None]
) -> Outcome:
    """The result of `Restate`.

    Args:
        attributes: of the file, None if it is gone.
        read: what the file holds from an offset on, as long as asked for; None if it is no file.
    """
    return Outcome(None if attributes is None else _restated(request.op, attributes, read))


def _restated(
    op: Write | Truncate | SetAttributes,
    attributes: Attributes,
    read: Callable[[int, int], bytes | None],
) -> AnyOp | None:
    fid, mtime_ns = attributes.fid, attributes.mtime_ns
    match op:
        case Write():
            data = read(op.offset, len(op.data))
            return Write(fid, op.offset, data, mtime_ns) if data else None
        case Truncate():
            return Truncate(fid, attributes.size_bytes, mtime_ns)
        case SetAttributes():
            uid = attributes.uid if attributes.uid >= 0 else None
            gid = attributes.gid if attributes.gid >= 0 else None
            return SetAttributes(fid, attributes.mode, uid, gid, mtime_ns)
