"""What a node keeps durably about itself: small, and always written whole."""

from __future__ import annotations

import attrs

from mirrorha.core.messages import RescueNote
from mirrorha.core.register import Register
from mirrorha.core.words import Boot


@attrs.frozen(kw_only=True)
class Meta:
    """The durable state of one node. A step that changes it is visible only once it is on disk.

    Attributes:
        node: this node's name.
        cluster_id: the register's id, once this node belongs to a cluster.
        held: the highest record known to have landed whose nonce for this node, if it names it,
            this node had on its disk before: to read one's name is not to hold the nonce.
        seen_epoch: the highest epoch known to have landed, held or not.
        intended: records that name this node and may have landed or may yet land; with `held`
            they are the admission nonces that this node can show (design, "who is who").
        top_epoch: the highest epoch ever held or intended.
        incarnation: rises by one with each start of the process.
        boot_id: the operating system's, at the last start.
        disks: by the path of each volume, which mount of its file system that start found. One
            that was mounted anew has lost its page cache, as in a crash of the system.
        dirty: written data may not be on disk (cleared by a clean stop).
        unclean: an OS crash, or a disk that failed, lost acknowledged writes perhaps, and nothing
            has healed that yet.
        all_durable: every acknowledgement since the admission was `durable`.
        inconsistent: a resync into this node has begun and not ended.
        lineage: generations, oldest first; the last is the current one.
        base: the generation that the peer is known to share; None while both are in sync.
        paused: maintenance; survives restarts.
        stopped_alone: without an arbiter: this node was alone when it last knew.
        outdated: this node gave up its standing to the peer; with an arbiter, only because an
            operator said so.
        forced: epochs that an operator forced, for ever after in the history.
        forcing: the next generation that this node draws is marked as forced, by this word; see
            `lineage`. Durable before a CAS that an operator forces is sent, which may land later.
        unconfirmed: what this node serves by since an operator forced it without the arbiter; no
            CAS has made it good yet.
        stood_down: `outdated`, because an operator said so.
        copy: without an arbiter: this node's copy of the register; it counts as landed.
        promised: without an arbiter: what the peer proposed and this node agreed to. Whether the
            peer made it its copy is not known before both have met again.
        parted: without an arbiter: the last copy that named both, while `copy` does not.
        split: without an arbiter: names the split that was reported and is not healed yet.
        disputed: without an arbiter: nobody goes on before a person has settled the split.
        given_up: the generations that a person gave up, until this node is admitted again.
        rescue: the generation whose writes a resync into this node has to keep, or "". Until it
            is admitted, whatever happens.
        rescued: what was kept so, and no person has acknowledged yet.
        voided: admission nonces that count no more: a volume's disk was put back to an older day.
    """

    node: str
    cluster_id: str | None = None
    held: Register | None = None
    seen_epoch: int = 0
    intended: tuple[Register, ...] = ()
    top_epoch: int = 0
    incarnation: int = 0
    boot_id: str = ""
    disks: tuple[tuple[str, str], ...] = ()
    dirty: bool = False
    unclean: bool = False
    all_durable: bool = False
    inconsistent: bool = False
    lineage: tuple[str, ...] = ()
    base: str | None = None
    paused: bool = False
    stopped_alone: bool = False
    outdated: bool = False
    forced: tuple[int, ...] = ()
    forcing: str = ""
    unconfirmed: Register | None = None
    stood_down: bool = False
    copy: Register | None = None
    promised: Register | None = None
    parted: Register | None = None
    split: str = ""
    disputed: bool = False
    given_up: tuple[str, ...] = ()
    rescue: str = ""
    rescued: tuple[RescueNote, ...] = ()
    voided: tuple[str, ...] = ()

    def nonces(self) -> frozenset[str]:
        """The admission nonces that this node holds or intends."""
        return frozenset(self.every_nonce()).difference(self.voided)

    def every_nonce(self) -> tuple[str, ...]:
        """Those that count no more as well."""
        records = self.intended if self.held is None else (*self.intended, self.held)
        found = (record.nonce_of(self.node) for record in records)
        return tuple(nonce for nonce in found if nonce is not None)

    def with_intended(self, record: Register) -> Meta:
        """Durably prepared to find `record` landed."""
        return attrs.evolve(
            self,
            intended=(*self.intended, record),
            top_epoch=max(self.top_epoch, record.epoch),
        )

    def with_held(self, record: Register) -> Meta:
        """`record` is known to have landed: what lies below it can never land any more.

        A compare-and-swap expects the record before its own: once a record of epoch e has
        landed, no attempt with an epoch of e or below can win. A record that names this node by a
        nonce that it does not know is seen, never held: an old disk image must not admit itself.
        """
        nonce = record.nonce_of(self.node)
        known = nonce is None or nonce in self.nonces()
        return attrs.evolve(
            self,
            cluster_id=record.cluster_id,
            held=record if known else self.held,
            seen_epoch=max(self.seen_epoch, record.epoch),
            intended=tuple(one for one in self.intended if one.epoch > record.epoch),
            top_epoch=max(self.top_epoch, record.epoch),
        )

    @property
    def generation(self) -> str:
        """The current generation, or "" before the first."""
        return self.lineage[-1] if self.lineage else ""


def begin_incarnation(
    meta: Meta, *, boot_id: str, disks: tuple[tuple[str, str], ...] = (), at_least: int = 0
) -> tuple[Meta, Boot]:
    """What a starting process makes of the state it found, and how the last one ended.

    The result must be durable before anything else happens.

    Args:
        disks: see `Meta`; a path that either side does not name is not judged.
        at_least: the wall clock, in milliseconds. The number rises without it; with it, it also
            rises over what a restored disk image has forgotten. Nothing is unsafe if it is wrong.
    """
    if meta.incarnation == 0:
        boot = Boot.FIRST
    elif not meta.dirty:
        boot = Boot.CLEAN
    elif meta.boot_id == boot_id and not _are_mounted_anew(meta.disks, disks):
        boot = Boot.PROCESS_CRASH
    else:
        boot = Boot.OS_CRASH
    begun = attrs.evolve(
        meta,
        incarnation=max(meta.incarnation + 1, at_least),
        boot_id=boot_id,
        disks=disks,
        unclean=meta.unclean or boot is Boot.OS_CRASH,
    )
    return begun, boot


def _are_mounted_anew(
    before: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...]
) -> bool:
    known = dict(before)
    return any(known.get(path, mounted) != mounted for path, mounted in now)
