"""What a volume's machine is waiting for: its disk, its peer, its callers.

Shared by the two roles of a volume, so that requests to the disk and positions in the stream go on
unbroken when the role changes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, final

import attrs
import msgspec

from mirrorha.core.orders import AnyReport, StopReason, Trouble
from mirrorha.core.words import Ack
from mirrorha.errors import ensure
from mirrorha.volume.disk import AnyRequest
from mirrorha.volume.events import (
    AnyEffect,
    DiskCall,
    DiskDone,
    Failure,
    Lane,
    Reply,
    Reported,
    ResetLink,
    Send,
)
from mirrorha.volume.ops import AnyOp
from mirrorha.volume.stream.messages import CHAIN_START, chain, chain_mark
from mirrorha.wire.limits import FRAME_BYTES_MAX, KIB, MIB, OP_HEAD_BYTES_MAX


@attrs.frozen(kw_only=True)
class VolumeSettings:
    """How a volume's machine behaves. Checked together when made.

    Args:
        ack: when a mirrored change is acknowledged.
        window_ops_max: Changes applied here, or being applied, and not yet acknowledged.
        window_bytes_max: The bytes of these. One change is let through however large it is.
        waiting_max: Changes and flushes that wait for room, or for an order. Each caller has one
            at a time, so callers bound them; one more than this is refused with EAGAIN.
        message_bytes_max: What one message of ops carries, beyond its first op.
        peer_slow_max_ms: After so long without progress the peer is stuck; after half, slow.
        disk_max_ms: A disk request that takes longer means a failing disk.
        checkpoint_ms: Time between checkpoints while entries of the touched log can be retired.
        touched_max: With more entries than this a checkpoint does not wait for its time, and
            keeps no entry because it is hot.
        hot_checkpoints: An entry outlives so many checkpoints after its last use, so that what
            is written again and again stays hot.
    """

    ack: Ack = Ack.APPLIED
    window_ops_max: int = 1024
    window_bytes_max: int = 8 * MIB
    waiting_max: int = 65536
    message_bytes_max: int = 512 * KIB
    peer_slow_max_ms: int = 3_000
    disk_max_ms: int = 10_000
    checkpoint_ms: int = 1_000
    touched_max: int = 16_384
    hot_checkpoints: int = 8

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(VolumeSettings):
            value = getattr(self, field.name)
            ensure(field.name == "ack" or value >= 1, f"{field.name} is at least 1, not {value}")
        ensure(
            self.message_bytes_max + OP_HEAD_BYTES_MAX <= FRAME_BYTES_MAX,
            f"message_bytes_max={self.message_bytes_max} fits in a frame of {FRAME_BYTES_MAX}",
        )


class Stance(enum.Enum):
    """What a volume is doing, by its last order."""

    CLOSED = "closed"  # nothing: at first, and after Close
    LOG = "log"
    MIRROR = "mirror"
    DRAIN = "drain"  # a mirror that admits nothing new
    CUT = "cut"  # paused to become a mirror
    FROZEN = "frozen"
    FOLLOW = "follow"
    TARGET = "target"

    # On the way of every write it is looked up in sets; enum's own hash is a call in Python.
    __hash__ = object.__hash__


MIRRORING: Final = frozenset({Stance.MIRROR, Stance.DRAIN})
# A source has the changes of its callers in hand: it answers them, now or after further orders.
SOURCE: Final = frozenset({Stance.LOG, Stance.MIRROR, Stance.DRAIN, Stance.CUT, Stance.FROZEN})


@final
class Terms:
    """On what terms a source serves now. Its flushes and checkpoints look at them as well.

    `streaming`: the follower has said where it is, in this epoch and on this connection, so what
    we send reaches somebody who applies it. `answering`: callers may be given acknowledgements.
    """

    __slots__ = ("answering", "epoch", "generation", "mirrored", "streaming")

    def __init__(self) -> None:
        self.epoch = 0
        self.generation = ""
        self.mirrored = False
        self.streaming = False
        self.answering = False


class Counts(msgspec.Struct):
    """What was refused or ignored, for people who look for the reason of a stall."""

    other_epoch: int = 0  # messages of another epoch than ours
    out_of_place: int = 0  # messages that mean nothing in our present stance
    stale_disk: int = 0  # results of disk calls that nobody waits for
    resets: int = 0  # times that we closed the stream because the peer broke the protocol


@final
class Position:
    """Where in the stream this node's tree is: the last op applied, and the hash up to it."""

    __slots__ = ("chain", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.chain = CHAIN_START

    def advance(self, op: AnyOp) -> None:
        """`op` has been applied."""
        self.chain = chain(op, self.chain)
        self.seq += 1

    def mark(self, mark: str) -> None:
        """Something happened that only this node knows of: no other position matches any more."""
        self.chain = chain_mark(mark, self.chain)

    def adopt(self, seq: int, chain_: int) -> None:
        """Our tree was made equal to one that stands there."""
        self.seq = seq
        self.chain = chain_


#: A loop that was away for so long, though it is to look twice a second, was late itself.
_LATE_MS: Final = 1_000

Then = Callable[[Any, Any], None]  # (what the caller gave along, the request's result)


class _Head:
    """The requests under way in one lane."""

    __slots__ = ("finished", "issued", "reported", "since_ms")

    def __init__(self) -> None:
        self.issued = 0
        self.finished = 0
        self.since_ms = 0  # when the first of them began, as far as we can tell
        self.reported = False


@final
class Outbox:
    """The effects of the step under way, and what its disk calls are for.

    `failure` is set for good once the disk has failed: from then on no call is issued, no reply
    that acknowledges is given, nothing is sent; only `Close` is still carried out.
    """

    def __init__(self, settings: VolumeSettings) -> None:
        self.now_ms = 0
        self.effects: list[AnyEffect] = []
        self.failure = ""
        self.on_failure: Callable[[str], None] | None = None  # called before `failure` is set
        self.counts = Counts()
        self.link_up = False
        self._disk_max_ms = settings.disk_max_ms
        self._token = 0
        self._watched_ms = 0
        self._calls: dict[int, tuple[_Head, Then, Any]] = {}
        self._heads = {lane: _Head() for lane in Lane}
        self._tree = self._heads[Lane.TREE]

    def take(self) -> list[AnyEffect]:
        """End the step: its effects, in order."""
        effects, self.effects = self.effects, []
        return effects

    def send(self, message: object) -> None:
        if self.link_up and not self.failure:
            self.effects.append(Send(message))

    def report(self, report: AnyReport) -> None:
        self.effects.append(Reported(report))

    def acknowledge(self, token: int, op: AnyOp | None, errno: int = 0) -> None:
        """Tell a caller that what it asked for holds, or that the file system refused it."""
        self.effects.append(Reply(token, Failure.ERRNO if errno else Failure.NONE, errno, op))

    def refuse(self, token: int, failure: Failure, why: str, primary: str | None) -> None:
        self.effects.append(Reply(token, failure, why=why, primary=primary))

    def reset(self, why: str) -> None:
        """The peer broke the protocol: hear nothing more of this stream."""
        if self.link_up:
            self.link_up = False
            self.counts.resets += 1
            self.effects.append(ResetLink(why))

    def trouble(self, reason: StopReason, text: str) -> None:
        self.effects.append(Reported(Trouble(reason, text)))

    def call(self, lane: Lane, request: AnyRequest, then: Then, along: object = None) -> None:
        """Have `then(along, result)` called once the disk has carried out `request`."""
        if self.failure:
            return
        self._token = token = self._token + 1
        head = self._heads[lane]
        if head.issued == head.finished:
            head.since_ms = self.now_ms
        head.issued += 1
        self._calls[token] = (head, then, along)
        self.effects.append(DiskCall(token, lane, request))

    def done(self, event: DiskDone) -> None:
        """A disk call came back."""
        call = self._calls.pop(event.token, None)
        if call is None:
            self.counts.stale_disk += 1
            return
        head, then, along = call
        head.finished += 1
        head.since_ms = self.now_ms
        head.reported = False
        if event.failure:
            self.fail(event.failure)
        elif not self.failure:
            then(along, event.result)

    def fail(self, text: str) -> None:
        """The disk failed: nothing may rest on it any more."""
        if self.failure:
            return
        if self.on_failure is not None:
            self.on_failure(text)
        self.failure = text or "the disk failed"
        self.trouble(StopReason.OWN_DISK, self.failure)

    @property
    def tree_issued(self) -> int:
        """How many requests of the TREE lane were ever issued."""
        return self._tree.issued

    @property
    def tree_finished(self) -> int:
        """How many of them have come back. The lane keeps order: it is the first so many."""
        return self._tree.finished

    def tree_is_idle(self) -> bool:
        return self._tree.issued == self._tree.finished

    def watch_disk(self) -> None:
        """Report, once each time, a request that takes longer than a healthy disk would.

        Not when this loop was late itself: what the disk answered may lie there unread. It is
        judged from now on.
        """
        late_ms = self.now_ms - self._watched_ms
        self._watched_ms = self.now_ms
        if late_ms >= max(self._disk_max_ms // 2, _LATE_MS):
            for head in self._heads.values():
                head.since_ms = self.now_ms
        for lane, head in self._heads.items():
            busy_ms = self.now_ms - head.since_ms
            if head.issued > head.finished and busy_ms > self._disk_max_ms and not head.reported:
                head.reported = True
                text = f"a {lane.name} request has taken {busy_ms} ms on this node's disk"
                self.trouble(StopReason.DISK_SLOW, text)
