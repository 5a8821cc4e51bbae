"""What tests of a serving machine ask of it and read from it."""

from __future__ import annotations

from mirrorha.core.orders import ServeAlone, StopReason, Trouble
from mirrorha.volume.events import Change, Failure, Lane
from mirrorha.volume.ops import Write
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.stream_pair import Node, Pair, decode


def write(stamp: int, fid: int, data: bytes = b"x", offset: int = 0) -> Change:
    """A change whose token is also the time of its write."""
    return Change(stamp, Write(fid, offset, data, stamp))


def answered(node: Node) -> list[int]:
    """The tokens that were acknowledged, in order."""
    return [reply.token for reply in node.replies if reply.failure is Failure.NONE]


def troubles(node: Node) -> list[StopReason]:
    return [report.reason for report in node.reports if isinstance(report, Trouble)]


def alone(settings: VolumeSettings | None = None) -> tuple[Pair, Node, int]:
    pair = Pair(settings)
    node = pair.nodes[0]
    pair.order(node, ServeAlone(1, "g"))
    return pair, node, pair.make_file(node)


def mirrored(settings: VolumeSettings | None = None) -> tuple[Pair, Node, Node, int]:
    pair = Pair(settings)
    source, follower = pair.mirror()
    return pair, source, follower, pair.make_file(source)


def applied(pair: Pair, node: Node) -> None:
    """Everything in the tree's lane is done; nothing is delivered."""
    while node.lanes[Lane.TREE]:
        pair.disk(node, Lane.TREE)


def sent(node: Node) -> list[object]:
    """What lies on the way to the other node."""
    return [decode(raw) for raw in node.peer.inbox]
