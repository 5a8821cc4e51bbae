"""What a node shows to its peer, and checks of it: read once, at the start."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.net.keys import EXPIRY_WARNING_DAYS, load_keys
from mirrorha.net.tls import PeerTls

if TYPE_CHECKING:
    from mirrorha.config import ClusterConfig

_log: Final = logging.getLogger("mirrorha")


@attrs.frozen(kw_only=True)
class Security:
    """How the link is secured.

    Attributes:
        tls: for sessions; None on a plain link.
        heartbeat_key: authenticates heartbeats; on a plain link it only tells clusters apart.
        expires_in_days: of the certificates; None if there are none.
    """

    tls: PeerTls | None
    heartbeat_key: bytes = attrs.field(repr=False)
    expires_in_days: int | None = None


def load_security(config: ClusterConfig) -> Security:
    """Read and check this node's keys. Blocks.

    Raises:
        LocalUsageError: they are missing, wrong, or not this node's.
    """
    if config.link == "plain":
        name = f"mirrorha plain link {config.name}".encode()
        return Security(tls=None, heartbeat_key=hashlib.sha256(name).digest())
    keys = load_keys(Path(config.keys), node=config.me.name, cluster=config.name)
    days = keys.expires_in_days(now_s=time.time())
    if days < EXPIRY_WARNING_DAYS:
        _log.warning("the keys at %s expire in %d days", keys.path, days)
    tls = PeerTls(keys, peer=config.peer.name)
    return Security(tls=tls, heartbeat_key=keys.heartbeat_key, expires_in_days=days)
