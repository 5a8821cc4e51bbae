"""The configuration, reduced to what the core, the volumes and the sessions need of it."""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.config import to_ms
from mirrorha.core.settings import Settings
from mirrorha.core.words import Ack
from mirrorha.errors import LocalUsageError
from mirrorha.net.paths import Endpoint, heartbeat_paths
from mirrorha.net.session_dial import AddressPair
from mirrorha.volume.stream.pending import VolumeSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorha.config import ClusterConfig, NodeConfig
    from mirrorha.net.paths import HeartbeatPath

_ID_CHARS: Final = 32
#: An idle node's wake-ups are what it costs; nothing here is more urgent than a beat.
_CALM_TICK_MS: Final = 250


class Wish(enum.Enum):
    """Whether a volume is to be mounted."""

    NEVER = "never"  # only the file API writes
    IF_POSSIBLE = "if possible"  # else only the file API writes, and a warning says so
    ALWAYS = "always"  # else the node waits: programs would write past the mirror


@attrs.frozen(kw_only=True)
class VolumeName:
    """One volume as both nodes know it.

    Attributes:
        name: the same on both nodes: its path on the first one.
        path: its directory on this node.
        ack: when a mirrored change is acknowledged.
        mount: whether any program is to use it.
        exclude: patterns of what stays local.
    """

    name: str
    path: str
    ack: Ack
    mount: Wish = Wish.NEVER
    exclude: tuple[str, ...] = ()

    def volume_id(self, cluster_id: str) -> str:
        """What its root carries, and no other directory's does. Derived, so never exchanged."""
        text = f"{cluster_id}\0{self.name}".encode()
        return hashlib.sha256(text).hexdigest()[:_ID_CHARS]

    @property
    def directory(self) -> str:
        """The name of its own directory below state_dir."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]


def volume_names(config: ClusterConfig) -> tuple[VolumeName, ...]:
    """The volumes of a configuration, in its order.

    Raises:
        LocalUsageError: there are none.
    """
    if not config.volumes:
        raise LocalUsageError(
            "there is no directory to replicate: call cluster.replicate(path), or give the "
            "configuration a [[volume]]"
        )
    is_first = config.me.name == config.nodes[0].name
    return tuple(
        VolumeName(
            name=each.path if is_first else each.path_at_peer,
            path=each.path,
            ack=Ack(each.ack),
            mount=_wish(each.mount, is_separate=config.service.is_separate),
            exclude=each.exclude,
        )
        for each in config.volumes
    )


def _wish(mount: bool | None, *, is_separate: bool) -> Wish:
    if mount is None:
        # Another program can only write through a mount.
        return Wish.ALWAYS if is_separate else Wish.IF_POSSIBLE
    return Wish.ALWAYS if mount else Wish.NEVER


def core_settings(
    config: ClusterConfig, paths: Sequence[HeartbeatPath], *, has_arbiter: bool, has_fencer: bool
) -> Settings:
    """What the core needs; everything that can be set is set."""
    volumes = volume_names(config)
    timing, heartbeat = config.timing, config.heartbeat
    return Settings(
        node=config.me.name,
        peer=config.peer.name,
        first=config.nodes[0].name,
        volumes=tuple(each.name for each in volumes),
        paths=tuple(path.name for path in paths),
        pulse_ms=to_ms(heartbeat.pulse_s),
        timeout_ms=to_ms(heartbeat.timeout_s),
        calm_tick_ms=_CALM_TICK_MS,
        wait_peer_ms=to_ms(timing.wait_peer_s),
        freeze_max_ms=to_ms(timing.freeze_max_s),
        fence_delay_ms=to_ms(timing.fence_delay_s),
        takeover_delay_ms=to_ms(timing.takeover_delay_s),
        peer_slow_max_ms=to_ms(timing.peer_slow_max_s),
        serve_after_power_loss=config.after_power_loss == "serve",
        ack_durable=all(each.ack is Ack.DURABLE for each in volumes),
        failover=config.failover,
        restart_limit=config.service.restart_limit,
        restart_window_ms=to_ms(config.service.restart_window_s),
        arbiter=has_arbiter,
        fencer=has_fencer,
        split_brain=config.split_brain,
        split_policy=config.split_policy,
    )


def machine_settings(config: ClusterConfig, volume: VolumeName) -> VolumeSettings:
    """What a volume's machine needs."""
    return VolumeSettings(
        ack=volume.ack,
        peer_slow_max_ms=to_ms(config.timing.peer_slow_max_s),
        disk_max_ms=to_ms(config.timing.disk_max_s),
    )


def beat_paths(config: ClusterConfig) -> tuple[HeartbeatPath, ...]:
    """Every pair of addresses over which heartbeats go."""
    return heartbeat_paths(
        _endpoint(config.me), _endpoint(config.peer), listed_first=_listed_first(config)
    )


def dial_addresses(config: ClusterConfig) -> tuple[AddressPair, ...]:
    """Every way to the peer, in the order of preference: both first addresses, both second, …

    The mixed ones come after those, for two networks are mostly not connected.
    """
    mine, theirs = config.me.addresses, config.peer.addresses

    def rank(path: HeartbeatPath) -> tuple[int, int, int]:
        i, j = mine.index(path.local), theirs.index(path.peer)
        return abs(i - j), max(i, j), i

    paths = sorted(beat_paths(config), key=rank)
    return tuple(AddressPair(path.local, path.peer, path.peer_port) for path in paths)


def _endpoint(node: NodeConfig) -> Endpoint:
    return Endpoint(addresses=node.addresses, port=node.port)


def _listed_first(config: ClusterConfig) -> bool:
    return config.me.name == config.nodes[0].name
