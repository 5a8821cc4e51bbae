"""The heartbeat datagram: made, authenticated and protected against replay, without any I/O.

A beat is 80 bytes and a 16-byte tag (HMAC-SHA256, truncated) over all of them. Later versions
append fields before the tag; readers ignore what they do not know. Nothing in a beat decides who
may write: a forged or replayed one could at worst cost a needless failover or delay a needed one.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from mirrorha.core.detector import PeerBeat
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError, PeerProtocolError, ensure

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC: Final = b"mHAb"
VERSION: Final = 1
NAME_TAG_BYTES: Final = 8
KEY_BYTES_MIN: Final = 16
PATHS_MAX: Final = 64
# Room for fields to come, and far below the smallest MTU: a beat is never fragmented.
BEAT_BYTES_MAX: Final = 512

# magic, version, flags, role, path; cluster tag, sender tag; incarnation, sequence, sent_ms;
# echoed incarnation, sequence and age; age of the application's loop; epoch.
_BODY: Final = struct.Struct(">4sBBBB8s8sQQQQQIIQ")
_MAC_BYTES: Final = 16
BEAT_BYTES_MIN: Final = _BODY.size + _MAC_BYTES

_FLAG_GOODBYE: Final = 1
_FLAG_STOPPING: Final = 2
_U32_MAX: Final = 2**32 - 1
_U64_MAX: Final = 2**64 - 1

_CODE_OF_ROLE: Final[Mapping[Role, int]] = {
    Role.STOP: 1,
    Role.WAIT: 2,
    Role.ALONE: 3,
    Role.PRIM: 4,
    Role.SECOND: 5,
}
_ROLE_OF_CODE: Final[Mapping[int, Role]] = {code: role for role, code in _CODE_OF_ROLE.items()}

ensure(set(_CODE_OF_ROLE) == set(Role), "every role can be shown to the peer")
ensure(BEAT_BYTES_MIN <= BEAT_BYTES_MAX, "a beat fits in its own limit")


@attrs.frozen(kw_only=True)
class Echo:
    """The newest beat that the sender had heard on this path, and how long ago."""

    incarnation: int
    sequence: int
    age_ms: int


@attrs.frozen(kw_only=True)
class Status:
    """What a node tells of itself, for people's eyes only: nothing is decided by it."""

    role: Role = Role.WAIT
    epoch: int = 0
    stopping: bool = False


@attrs.frozen(kw_only=True)
class Beat:
    """The contents of one datagram.

    Attributes:
        path: the index of the pair of addresses it is sent over, the same on both nodes.
        cluster, sender: tags of the cluster's and the sending node's name (`name_tag`).
        incarnation: the sender's durable count of its starts, from 1.
        sequence: rises with every beat of an incarnation, over all paths together, from 1.
        sent_ms: the sender's own clock, to be compared with that clock only.
        loop_age_ms: how long ago the sender's application loop last turned.
        goodbye: the sender gives up; this incarnation never comes back.
    """

    path: int
    cluster: bytes
    sender: bytes
    incarnation: int
    sequence: int
    sent_ms: int
    echo: Echo | None
    loop_age_ms: int
    status: Status
    goodbye: bool = False

    def for_detector(self, *, incarnation: int) -> PeerBeat:
        """What the detector of a node that runs as `incarnation` needs of this beat."""
        echoes_us = self.echo is not None and self.echo.incarnation == incarnation
        return PeerBeat(
            incarnation=self.incarnation,
            sequence=self.sequence,
            echo_sequence=self.echo.sequence if self.echo is not None and echoes_us else None,
            loop_age_ms=self.loop_age_ms,
            goodbye=self.goodbye,
        )


def name_tag(name: str) -> bytes:
    """The short tag that stands for a cluster's or a node's name in a beat."""
    return hashlib.sha256(name.encode()).digest()[:NAME_TAG_BYTES]


def encode_beat(beat: Beat, key: bytes) -> bytes:
    """Make the datagram. Ages beyond 49 days are sent as 49 days."""
    _check_key(key)
    ensure(0 <= beat.path < PATHS_MAX, "a path's index is small")
    ensure(len(beat.cluster) == len(beat.sender) == NAME_TAG_BYTES, "tags have one length")
    ensure(1 <= beat.incarnation <= _U64_MAX, "incarnations count from 1")
    ensure(1 <= beat.sequence <= _U64_MAX, "sequences count from 1")
    ensure(beat.sent_ms >= 0 and beat.loop_age_ms >= 0, "times are not negative")
    ensure(0 <= beat.status.epoch <= _U64_MAX, "epochs are not negative")
    echo = beat.echo or Echo(incarnation=0, sequence=0, age_ms=0)
    ensure(echo.age_ms >= 0, "ages are not negative")
    body = _BODY.pack(
        MAGIC,
        VERSION,
        (_FLAG_GOODBYE if beat.goodbye else 0) | (_FLAG_STOPPING if beat.status.stopping else 0),
        _CODE_OF_ROLE[beat.status.role],
        beat.path,
        beat.cluster,
        beat.sender,
        beat.incarnation,
        beat.sequence,
        beat.sent_ms,
        echo.incarnation,
        echo.sequence,
        min(echo.age_ms, _U32_MAX),
        min(beat.loop_age_ms, _U32_MAX),
        beat.status.epoch,
    )
    return body + _mac(body, key)


def decode_beat(raw: bytes, key: bytes, *, cluster: bytes, sender: bytes) -> Beat:
    """Read a datagram that claims to come from `sender` in `cluster` (tags).

    Raises:
        PeerProtocolError: it is no beat, or not theirs, or not authentic. The text says which.
    """
    _check_key(key)
    if not BEAT_BYTES_MIN <= len(raw) <= BEAT_BYTES_MAX:
        raise PeerProtocolError(f"a datagram of {len(raw)} bytes is no heartbeat")
    if not raw.startswith(MAGIC):
        raise PeerProtocolError("the datagram is no heartbeat of mirrorha")
    signed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    fields = _BODY.unpack_from(signed)
    # Version and cluster are looked at first only because they make the better refusal.
    if fields[1] != VERSION:
        raise PeerProtocolError(f"the heartbeat has version {fields[1]}, this node reads {VERSION}")
    if fields[5] != cluster:
        raise PeerProtocolError("the heartbeat belongs to another cluster; do ports overlap?")
    if not hmac.compare_digest(mac, _mac(signed, key)):
        raise PeerProtocolError(
            "the heartbeat is not authentic: the peer has keys of another `mirrorha keys init`"
        )
    if fields[6] != sender:
        raise PeerProtocolError(
            "the heartbeat was sent by another node than the peer: was --node given the same on "
            "both, or was it reflected by an address that leads back to this machine?"
        )
    return _beat_of(fields)


def _beat_of(fields: tuple[Any, ...]) -> Beat:
    """Check what an authentic sender could still get wrong, and name the fields."""
    (_, _, flags, role_code, path, cluster, sender, *numbers) = fields
    (incarnation, sequence, sent_ms, echo_incarnation, echo_sequence, *ages, epoch) = numbers
    echo_age_ms, loop_age_ms = ages
    role = _ROLE_OF_CODE.get(role_code)
    if role is None:
        raise PeerProtocolError(f"the heartbeat names role {role_code}, which is unknown here")
    if path >= PATHS_MAX:
        raise PeerProtocolError(f"the heartbeat names path {path}; there are {PATHS_MAX} at most")
    if incarnation == 0 or sequence == 0:
        raise PeerProtocolError(
            "the heartbeat counts from 0; incarnations and sequences start at 1"
        )
    echo = None
    if echo_incarnation > 0:
        echo = Echo(incarnation=echo_incarnation, sequence=echo_sequence, age_ms=echo_age_ms)
    return Beat(
        path=path,
        cluster=cluster,
        sender=sender,
        incarnation=incarnation,
        sequence=sequence,
        sent_ms=sent_ms,
        echo=echo,
        loop_age_ms=loop_age_ms,
        status=Status(role=role, epoch=epoch, stopping=bool(flags & _FLAG_STOPPING)),
        goodbye=bool(flags & _FLAG_GOODBYE),
    )


def _mac(signed: bytes, key: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")[:_MAC_BYTES]


def _check_key(key: bytes) -> None:
    if len(key) < KEY_BYTES_MIN:
        raise LocalUsageError(
            f"the heartbeat key has {len(key)} bytes, it needs {KEY_BYTES_MIN} at least; "
            "make it with `mirrorha keys init`"
        )


@final
class ReplayGuard:
    """Lets each beat pass once: (incarnation, sequence) must rise on its path.

    Incarnations must not fall over all paths together. What was recorded before this guard was
    made is known by `incarnation_min` alone: give it the peer's highest known incarnation.
    """

    def __init__(self, *, incarnation_min: int = 1) -> None:
        self._incarnation_min = incarnation_min
        self._newest: dict[int, tuple[int, int]] = {}

    def newest(self, path: int) -> tuple[int, int] | None:
        """The (incarnation, sequence) that passed last on `path`."""
        return self._newest.get(path)

    def check(self, beat: Beat) -> None:
        """Let `beat` pass, and nothing up to it ever again.

        Raises:
            PeerProtocolError: it is a repetition, or older than what was heard. Also after the
                peer's state was restored from an old image: its starts are then counted anew,
                and it must learn from our echo to count on.
        """
        if beat.incarnation < self._incarnation_min:
            raise PeerProtocolError(
                f"the heartbeat is of incarnation {beat.incarnation}, "
                f"{self._incarnation_min} is known already; a replay, or an old image restored"
            )
        newest = self._newest.get(beat.path)
        if newest is not None and (beat.incarnation, beat.sequence) <= newest:
            raise PeerProtocolError("the heartbeat was heard before, or overtaken by a newer one")
        self._incarnation_min = beat.incarnation
        self._newest[beat.path] = (beat.incarnation, beat.sequence)


@final
class Heart:
    """One node's side of the exchange: makes its beats and admits the peer's. No I/O, no clock.

    The driver (a thread with sockets, or the simulator) says what time it is and carries bytes.

    Args:
        cluster, node, peer: names; the nodes' must differ, that is how a reflection is known.
        key: the cluster's heartbeat key.
        incarnation: this node's durable count of its starts.
        peer_incarnation_min: the highest incarnation of the peer that is durably known.
    """

    def __init__(
        self,
        *,
        cluster: str,
        node: str,
        peer: str,
        key: bytes,
        incarnation: int,
        peer_incarnation_min: int = 1,
    ) -> None:
        _check_key(key)
        if node == peer:
            raise LocalUsageError(f"both nodes are called '{node}'; give them different names")
        self._cluster = name_tag(cluster)
        self._node = name_tag(node)
        self._peer = name_tag(peer)
        self._key = key
        self._incarnation = incarnation
        self._sequence = 0
        self._guard = ReplayGuard(incarnation_min=peer_incarnation_min)
        self._heard_ms: dict[int, int] = {}

    @property
    def incarnation(self) -> int:
        return self._incarnation

    def renew(self, incarnation: int) -> None:
        """Go on as a newer incarnation. The sequence does not start again: echoes compare by it."""
        ensure(incarnation > self._incarnation, "incarnations rise")
        self._incarnation = incarnation

    def beat(
        self, path: int, *, now_ms: int, loop_age_ms: int, status: Status, goodbye: bool
    ) -> bytes:
        """Make the next datagram for `path`."""
        self._sequence += 1
        newest = self._guard.newest(path)
        echo = None
        if newest is not None:
            age_ms = max(0, now_ms - self._heard_ms[path])
            echo = Echo(incarnation=newest[0], sequence=newest[1], age_ms=age_ms)
        beat = Beat(
            path=path,
            cluster=self._cluster,
            sender=self._node,
            incarnation=self._incarnation,
            sequence=self._sequence,
            sent_ms=now_ms,
            echo=echo,
            loop_age_ms=loop_age_ms,
            status=status,
            goodbye=goodbye,
        )
        return encode_beat(beat, self._key)

    def hear(self, path: int, raw: bytes, *, now_ms: int) -> Beat:
        """Admit a datagram that arrived on `path`.

        Raises:
            PeerProtocolError: it is not an authentic, new beat of the peer for this path.
        """
        beat = decode_beat(raw, self._key, cluster=self._cluster, sender=self._peer)
        if beat.path != path:
            raise PeerProtocolError(
                f"the heartbeat of path {beat.path} came on path {path}; "
                "do both nodes list the same addresses in the same order?"
            )
        self._guard.check(beat)
        self._heard_ms[path] = now_ms
        return beat
