"""What a node shows to its peer, and checks of it: read once, at the start."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.net.keys import EXPIRY_WARNING_DAYS, NodeKeys, load_keys
from mirrorha.net.tls import PeerTls

if TYPE_CHECKING:
    from mirrorha.config import ClusterConfig

_log: Final = logging.getLogger("mirrorha")


@attrs.frozen(kw_only=True)
class Security:
    """How the link is secured.

    Attributes:
        keys: this node's.
        tls: for sessions, and for the beginning of every stream: a plain one is authenticated too.
        heartbeat_key: authenticates heartbeats.
        expires_in_days: of the certificates.
    """

    keys: NodeKeys = attrs.field(repr=False)
    tls: PeerTls
    heartbeat_key: bytes = attrs.field(repr=False)
    expires_in_days: int


def load_security(config: ClusterConfig) -> Security:
    """Read and check this node's keys. Blocks.

    Raises:
        LocalUsageError: they are missing, wrong, or not this node's.
    """
    keys = load_keys(Path(config.keys), node=config.me.name, cluster=config.name)
    days = keys.expires_in_days(now_s=time.time())
    if days < EXPIRY_WARNING_DAYS:
        _log.warning("the keys at %s expire in %d days", keys.path, days)
    tls = PeerTls(keys, peer=config.peer.name)
    return Security(keys=keys, tls=tls, heartbeat_key=keys.heartbeat_key, expires_in_days=days)
