"""The node's settings: the configuration, reduced to what the core needs."""

from __future__ import annotations

import attrs

from mirrorha.errors import ensure


@attrs.frozen(kw_only=True)
class Settings:
    """All times in milliseconds.

    Attributes:
        node, peer: the names of the two servers.
        first: the name of the first `[[node]]`: it is the source where nothing else decides.
        volumes: the volumes' names (their paths as configured).
        paths: the heartbeat paths' names.
        pulse_ms, timeout_ms: heartbeats.
        tick_ms, calm_tick_ms: how often a node steps without news; in a mirrored pair with
            nothing under way, where the detector foresees what silence may bring.
        wait_peer_ms: how long a starting member waits for the peer, if the register names both.
        freeze_max_ms: how long changes may wait for authority before they fail.
        fence_delay_ms: between a takeover and the service's start, unless death was proven.
        takeover_delay_ms: the head start that a SECOND gives the PRIM.
        peer_slow_max_ms: how long a peer may acknowledge nothing.
        arbiter_retry_ms: between two attempts at the arbiter.
        arbiter_watch_ms: how often the register is read for an alarm while all is well.
        arbiter_fresh_ms: a join needs an answer not older than this.
        join_backoff_ms: between two attempts at a join, at first; doubles up to eightfold.
        swap_stop_max_ms: how long a swap waits for the peer to reach the same seq.
        serve_after_power_loss: design 5.1.7, `after_power_loss = "serve"`.
        ack_durable: every volume acknowledges `durable`.
        failover: False: this cluster never moves the service by itself.
        restart_limit, restart_window_ms: restarts in place before the service is given up.
        arbiter: there is one. Without, the two nodes keep the register between them.
        split_brain: without an arbiter, what a node does that loses its peer without proof:
            "consistent" (freeze, then wait) or "available" (go on if not cut off itself).
        split_policy: whose data stands after a split: "former_prim", "newest", "refuse".
        fencer: one is configured.
    """

    node: str
    peer: str
    first: str
    volumes: tuple[str, ...]
    paths: tuple[str, ...]
    pulse_ms: int = 250
    timeout_ms: int = 3_000
    tick_ms: int = 100
    calm_tick_ms: int = 100
    wait_peer_ms: int = 30_000
    freeze_max_ms: int = 60_000
    fence_delay_ms: int = 500
    takeover_delay_ms: int = 500
    peer_slow_max_ms: int = 3_000
    arbiter_retry_ms: int = 500
    arbiter_watch_ms: int = 30_000
    arbiter_fresh_ms: int = 5_000
    join_backoff_ms: int = 500
    swap_stop_max_ms: int = 10_000
    serve_after_power_loss: bool = False
    ack_durable: bool = False
    failover: bool = True
    restart_limit: int = 3
    restart_window_ms: int = 24 * 3_600_000
    arbiter: bool = True
    split_brain: str | None = None
    split_policy: str = "former_prim"
    fencer: bool = False

    def __attrs_post_init__(self) -> None:
        ensure(self.node != self.peer, "the two nodes have different names")
        ensure(self.first in (self.node, self.peer), "the first node is one of the two")
        ensure(bool(self.volumes), "there is a volume")
        ensure(bool(self.paths), "there is a heartbeat path")
        modes = (None,) if self.arbiter else ("consistent", "available")
        ensure(self.split_brain in modes, "an arbiter decides, or split_brain says how")
        policies = ("former_prim", "newest", "refuse")
        ensure(self.split_policy in policies, "the split policy is one of three")
