"""Rules of what an acknowledgement means (promise 1, 5.1.7) that can be taken out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from mirrorha.core.node import Node
from mirrorha.testing.sim.breakage import Breakage, Fn
from mirrorha.testing.sim.model_volume import ModelVolume
from mirrorha.volume.stream.flushing import Flusher
from mirrorha.volume.stream.follower import Follower
from mirrorha.volume.stream.source import Source
from mirrorha.volume.touched import TouchedLog


def _ack_before_peer(real: Fn) -> Fn:
    def apply(volume: ModelVolume, value: int) -> None:
        real(volume, value)
        if volume.mode == "mirror":
            volume._acked(value, volume.epoch, True)

    return apply


def _peer_only(_real: Fn) -> Fn:
    return lambda volume: volume._peer_seq


def _applied_only(real: Fn) -> Fn:
    def release(source: Any) -> None:
        kept, source._durable = source._durable, False
        real(source)
        source._durable = kept

    return release


def _fsync_here(_real: Fn) -> Fn:
    def fsync(volume: ModelVolume) -> None:
        values = set(volume.platter.cache[: volume.replied])
        if volume.mode in ("log", "mirror"):
            volume._sync_more()
            volume._on_fsynced(values, volume.mode == "mirror")

    return fsync


def _nobody_else_flushes(_real: Fn) -> Fn:
    def request(_flusher: Any, batch: Any) -> None:
        batch.peer_done = True

    return request


def _lowered_here_only(real: Fn) -> Fn:
    def init(node: Any, settings: Any, meta: Any, *args: Any, **kwargs: Any) -> None:
        real(node, settings, meta, *args, **kwargs)
        if settings.node == settings.first:
            node._s.meta = attrs.evolve(node._s.meta, all_durable=meta.all_durable)

    return init


def _whatever_is_in_flight(_real: Fn) -> Fn:
    return lambda _follower: 1 << 16


def _not_restated(_real: Fn) -> Fn:
    """The op says what the machine filled in, not what the disk holds."""

    def restate(source: Any, op: Any) -> bool:
        return bool(source.admitting and source._admit(-1, op))

    return restate


def _only_confirmed(_real: Fn) -> Fn:
    return lambda log, checkpoint: log.confirm(checkpoint)


OF_VOLUME: Final[Mapping[str, Breakage]] = {
    "ack-before-peer": Breakage(
        "promise 1: acknowledged before the peer has it",
        ModelVolume,
        "_apply",
        _ack_before_peer,
    ),
    "durable-peer-only": Breakage(
        "5.1.7 durable means the peer's disk only",
        ModelVolume,
        "_limit",
        _peer_only,
        wide=True,
    ),
    "durable-applied": Breakage(
        "5.1.7 durable means applied, in the production stream",
        Source,
        "_release",
        _applied_only,
        production=True,
        wide=True,
    ),
    "fsync-here-only": Breakage(
        "promise 1: fsync does not wait for the peer",
        ModelVolume,
        "fsync",
        _fsync_here,
        wide=True,
    ),
    "flush-here-only": Breakage(
        "promise 1: fsync does not wait for the peer, in the production stream",
        Flusher,
        "_request",
        _nobody_else_flushes,
        production=True,
        wide=True,
    ),
    "compare-in-flight": Breakage(
        "7 a comparison without regard to what is in flight",
        Follower,
        "_ops_to_next_look",
        _whatever_is_in_flight,
        production=True,
        wide=True,
    ),
    "repair-not-restated": Breakage(
        "7 a repair that writes what the source does not hold",
        Source,
        "restate",
        _not_restated,
        production=True,
        wide=True,
    ),
    "fill-unnoted": Breakage(
        "7 what a node was filled with is taken for something that its log would name",
        TouchedLog,
        "fill",
        _only_confirmed,
        production=True,
        directed="the_source_of_a_fill_comes_back_as_an_image_of_before",
    ),
    "level-one-node": Breakage(
        "5.1.7 a lower ack is recorded on one node only",
        Node,
        "__init__",
        _lowered_here_only,
        wide=True,
        directed="power_lost_after_the_level_was_lowered",
    ),
}
