"""Register rules: who holds a record, who may go alone, who is the source when both are there."""

from __future__ import annotations

import enum

from mirrorha.core import epochs
from mirrorha.core.events import Gone
from mirrorha.core.messages import Record, Standing
from mirrorha.core.register import Register
from mirrorha.core.state import State
from mirrorha.core.words import Boot


class Bar(enum.Enum):
    """Why a node may not go alone. Named, because operators search for it."""

    NONE = "may-go-alone"
    NOT_MEMBER = "not-in-sync"
    NO_NONCE = "holds-no-admission-nonce"
    INCONSISTENT = "resync-into-this-node-was-not-finished"
    GAVE_UP = "gave-up-its-standing"
    UNCLEAN = "os-crash-may-have-lost-acknowledged-writes"
    SICK = "own-disk-failed"
    NO_VOLUME = "volumes-cannot-be-used"


def to_wire(register: Register) -> Record:
    return Record(
        cluster_id=register.cluster_id,
        epoch=register.epoch,
        primary=register.primary,
        nonces=register.nonces,
    )


def from_wire(record: Record) -> Register:
    """A register from the peer. Its contents are checked where a message is decoded."""
    return Register(
        cluster_id=record.cluster_id,
        epoch=record.epoch,
        primary=record.primary,
        nonces=tuple(sorted((name, nonce) for name, nonce in record.nonces)),
    )


def bar(s: State, record: Register, *, chosen: bool = False) -> Bar:
    """Whether this node may make itself the only member, starting from `record` (5.0, 5.1.7).

    Args:
        chosen: rule 5.2 chose this node with both nodes there.
    """
    meta = s.meta
    standing = [
        (bool(s.problem), Bar.NO_VOLUME),
        (bool(s.sick), Bar.SICK),
        (meta.inconsistent, Bar.INCONSISTENT),
        (meta.outdated, Bar.GAVE_UP),
        (s.me not in record.in_sync, Bar.NOT_MEMBER),
        (record.nonce_of(s.me) not in meta.nonces(), Bar.NO_NONCE),
    ]
    for barred, why in standing:
        if barred:
            return why
    # After an OS crash this node may lack writes that were acknowledged on both page caches.
    excused = chosen or meta.all_durable or s.settings.serve_after_power_loss
    if meta.unclean and len(record.in_sync) > 1 and not excused:
        return Bar.UNCLEAN
    return Bar.NONE


def holds(s: State, record: Register) -> bool:
    """Whether this node is a member of `record` and can show the nonce it was admitted with."""
    return bar(s, record, chosen=True) is Bar.NONE


def peer_holds(s: State, record: Register) -> bool:
    """The same for the peer, as it last said of itself."""
    peer = s.peer
    if peer is None or peer.inconsistent or peer.sick or peer.unusable or peer.outdated:
        return False
    return record.nonce_of(s.other) in peer.nonces


def source_of_both(s: State, record: Register) -> str | None:
    """Rule 5.2, both nodes there and the register names both: who goes on. None: nobody may.

    Who never restarted, before a process crash, before an OS crash; then the register's primary.
    The peer, asked the same with the nodes exchanged, gives the same answer.
    """
    peer = s.peer
    if peer is None:
        return None
    ranks = {}
    # An OS crash is excused only where no better copy is left: not while the peer still has what
    # was acknowledged and merely cannot serve it.
    given_up = peer.outdated and not peer.inconsistent
    cannot_serve = peer.sick or peer.unusable or given_up
    whole = not peer.unclean and record.nonce_of(s.other) in peer.nonces
    if holds(s, record) and not (s.meta.unclean and cannot_serve and whole):
        running = s.standing in (Standing.SOURCE, Standing.FOLLOWER)
        ranks[s.me] = _rank(running, s.meta.unclean, s.boot is Boot.CLEAN, s.me, record)
    if peer_holds(s, record):
        running = peer.standing in (Standing.SOURCE, Standing.FOLLOWER)
        clean = peer.restarted == Boot.CLEAN.value
        ranks[s.other] = _rank(running, peer.unclean, clean, s.other, record)
    return max(ranks, key=lambda name: ranks[name]) if ranks else None


def _rank(
    running: bool, unclean: bool, clean_stop: bool, name: str, record: Register
) -> tuple[bool, bool, bool, bool]:
    return (running and not unclean, not unclean, clean_stop, name == record.primary)


def may_land_upon(s: State, record: Register) -> bool:
    """Whether an attempt of this node's may yet replace `record`, or one after it.

    So will one of a node that an operator forced without the arbiter: it wins a CAS first. Then
    nothing is acknowledged on the strength of `record`, whoever tells of it.
    """
    if s.meta.unconfirmed is not None:
        return True
    attempts = s.unresolved if s.sent is None else [*s.unresolved, s.sent]
    return any(base is not None and base.epoch >= record.epoch for base, _ in attempts)


def make_record(
    s: State, *, primary: str, members: frozenset[str], base: Register | None
) -> Register:
    """A new record above everything either node has seen, with a fresh nonce for each member."""
    top = max(s.meta.top_epoch, base.epoch if base else 0)
    if s.peer is not None:
        top = max(top, s.peer.top_epoch)
    known = s.meta.cluster_id or (base.cluster_id if base else None)
    return Register(
        cluster_id=known or f"{s.rng.getrandbits(128):032x}",
        epoch=_epoch_above(s, top),
        primary=primary,
        nonces=tuple(sorted((name, s.nonce()) for name in members)),
    )


def _epoch_above(s: State, top: int) -> int:
    """Two nodes that go on apart, without an arbiter, never make the same epoch.

    A file id has room for 23 bits: two million changes of membership, or four with an arbiter.
    """
    if s.settings.arbiter:
        return epochs.above(top)
    return epochs.above_of_pair(top, is_second=s.is_second_named)


def problem_with(s: State, found: Register | Gone) -> str:
    """Why what was read can be no register that this node acts on (5.0), or ""."""
    meta = s.meta
    if isinstance(found, Gone):
        if meta.cluster_id is None and found is Gone.ABSENT:
            return ""
        what = "is missing" if found is Gone.ABSENT else "cannot be read"
        return f"the register {what} at the arbiter; both nodes connected make it again"
    if meta.cluster_id is None:
        return ""
    if found.cluster_id != meta.cluster_id:
        return "the register belongs to another cluster: is the arbiter's address right?"
    if found.epoch < meta.seen_epoch:
        return (
            f"the register went back from epoch {meta.seen_epoch} to {found.epoch}: "
            "the arbiter lost data; both nodes connected make it again"
        )
    return ""
