"""The classes of the configuration: frozen, keyword-only, units in names, checked together.

Each field says by its metadata how it looks in a TOML file (`in_toml`, `options`) or which table
it is there (`table`, `tables`). `ClusterConfig` is where everything is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar, final, get_args

import attrs

from mirrorha.config import forms
from mirrorha.config.kinds import (
    ARBITER_KINDS,
    CHECK_KINDS,
    FENCER_KINDS,
    NOTIFY_KINDS,
    SWITCH_KINDS,
)
from mirrorha.config.layout import in_toml, options, table, tables
from mirrorha.config.logs import LogConfig
from mirrorha.config.validation import check_config
from mirrorha.errors import LocalUsageError

T = TypeVar("T")

HOUR_S: Final = 3_600.0
DAY_S: Final = 86_400.0
MB: Final = 1_000_000
#: What is slower ends too late to be of use, and counts as this.
RATE_MIN: Final = 1 << 20
RATE_MAX: Final = 100_000 * MB


def _as_tuple(values: Iterable[T]) -> tuple[T, ...]:
    """Accept any iterable but text, which would silently become a tuple of its letters.

    What is none is left for the check to find, with everything else.
    """
    is_list = isinstance(values, Iterable) and not isinstance(values, str)
    return tuple(values) if is_list else values  # type: ignore[return-value]


def _as_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Own a copy; lists become tuples, so that equal options are equal however they were made."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }


OnFailure: TypeAlias = Literal["restart", "hand_over", "stop", "none"]
When: TypeAlias = Literal["serving", "second", "always"]
NotifyOn: TypeAlias = Literal["role", "split", "degraded", "check", "switch"]
SwitchWhen: TypeAlias = Literal["before_start", "after_start"]


@final
@attrs.frozen(kw_only=True)
class NodeConfig:
    """One of the two servers.

    Args:
        name: Its name in commands, messages and the register.
        addresses: Its IP addresses, in order of preference for replication. All carry heartbeats.
        port: For TCP sessions and UDP heartbeats, on all of them.
        state_dir: Where the node keeps its own state; on a disk of this node, in no volume.
        api: Host and port of the management API and the console.
    """

    name: str = attrs.field(metadata=in_toml("name", forms.NAME, is_same=True))
    addresses: tuple[str, ...] = attrs.field(
        converter=_as_tuple,
        metadata=in_toml(
            "addresses",
            forms.items("a list of IP addresses, at least one", forms.ADDRESS, at_least=1),
            is_same=True,
        ),
    )
    port: int = attrs.field(default=9500, metadata=in_toml("port", forms.PORT, is_same=True))
    state_dir: str = attrs.field(
        metadata=in_toml(
            "state_dir", forms.PATH, is_same=True, from_name="/var/lib/mirrorha/{name}"
        )
    )
    api: str = attrs.field(
        default="127.0.0.1:9501", metadata=in_toml("api", forms.HOST_PORT, is_same=True)
    )


@final
@attrs.frozen(kw_only=True)
class HeartbeatConfig:
    """How quickly a silent peer is suspected.

    Args:
        pulse_s: Seconds between beats, on every pair of addresses.
        timeout_s: Seconds of silence on *all* of them before the peer is lost.
    """

    pulse_s: float = attrs.field(default=0.25, metadata=in_toml("pulse", forms.duration(0.01, 10)))
    timeout_s: float = attrs.field(
        default=3.0, metadata=in_toml("timeout", forms.duration(0.03, 300))
    )


@final
@attrs.frozen(kw_only=True)
class TimingConfig:
    """Deadlines and delays, all in seconds.

    Args:
        freeze_max_s: How long pending writes may wait for authority before they fail.
        fence_delay_s: What a node that takes over waits between winning and starting the service.
        takeover_delay_s: The head start a serving node has over its peer to go on alone.
        wait_peer_s: How long a starting node waits for the peer when the register names both.
        peer_slow_max_s: How long the peer may hold writes up before it is excluded.
        disk_max_s: How long one operation of a local disk may take before the disk has failed.
    """

    freeze_max_s: float = attrs.field(
        default=60.0, metadata=in_toml("freeze_max", forms.duration(1, HOUR_S))
    )
    fence_delay_s: float = attrs.field(
        default=0.5, metadata=in_toml("fence_delay", forms.duration(0, 600))
    )
    takeover_delay_s: float = attrs.field(
        default=0.5, metadata=in_toml("takeover_delay", forms.duration(0, 600))
    )
    wait_peer_s: float = attrs.field(
        default=30.0, metadata=in_toml("wait_peer", forms.duration(0.1, DAY_S))
    )
    peer_slow_max_s: float = attrs.field(
        default=3.0, metadata=in_toml("peer_slow_max", forms.duration(0.1, 600))
    )
    disk_max_s: float = attrs.field(
        default=10.0, metadata=in_toml("disk_max", forms.duration(0.1, 600))
    )


@final
@attrs.frozen(kw_only=True)
class VolumeConfig:
    """One replicated directory.

    Args:
        path: The directory, on this node.
        peer_path: The directory on the other node, if it is not the same. In TOML `path` is then
            a table by node.
        ack: When a mirrored write returns: "applied" (the peer's page cache has it) or "durable"
            (both disks have it).
        mount: True: any program may use the directory, through a mount; a node that cannot mount
            it waits, and says why. False: only the file API of this library writes. None: True
            where the service is made of commands; else it is mounted if this node can.
        exclude: Patterns of what stays on each node: never sent, compared or deleted. "*.lock" is a
            name at any depth, "tmp/**" what is in one directory, "cache" whatever is called so,
            with all below.
    """

    path: str = attrs.field(metadata=in_toml("path", forms.PATH, peer_field="peer_path"))
    peer_path: str | None = None
    ack: Literal["applied", "durable"] = attrs.field(
        default="applied", metadata=in_toml("ack", forms.choice("applied", "durable"), is_same=True)
    )
    mount: bool | None = attrs.field(default=None, metadata=in_toml("mount", forms.BOOLEAN))
    exclude: tuple[str, ...] = attrs.field(
        default=(),
        converter=_as_tuple,
        metadata=in_toml("exclude", forms.items("a list of patterns", forms.PATTERN), is_same=True),
    )

    @property
    def path_at_peer(self) -> str:
        """The directory on the other node."""
        return self.path if self.peer_path is None else self.peer_path


@final
@attrs.frozen(kw_only=True)
class ServiceConfig:
    """How the application is started and stopped: by two commands, or as a systemd unit.

    Args:
        start: The command that starts it; empty if the program registers callbacks instead.
        stop: The command that stops it. What it leaves running gets TERM, then KILL.
        user: As whom both are run; None: as whom this program is.
        working_directory: Where both are run; None: where this program was.
        environment: What both find in their environment, as "NAME=value", beside what this program
            has in its own.
        systemd: The unit that is the service, in place of commands. It must not be enabled.
        start_timeout_s: Seconds until a start that has not returned counts as failed.
        stop_timeout_s: Seconds until a stop that has not returned is killed.
        restart_limit: How many failures in `restart_window_s` are met with a restart.
        restart_window_s: Seconds over which failures are counted.
    """

    start: tuple[str, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=in_toml("start", forms.COMMAND)
    )
    stop: tuple[str, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=in_toml("stop", forms.COMMAND)
    )
    user: str | None = attrs.field(default=None, metadata=in_toml("user", forms.USER))
    working_directory: str | None = attrs.field(
        default=None, metadata=in_toml("working_directory", forms.PATH)
    )
    environment: tuple[str, ...] = attrs.field(
        default=(),
        converter=_as_tuple,
        metadata=in_toml("environment", forms.items("a list of variables", forms.VARIABLE)),
    )
    systemd: str | None = attrs.field(default=None, metadata=in_toml("systemd", forms.UNIT))
    start_timeout_s: float = attrs.field(
        default=60.0, metadata=in_toml("start_timeout", forms.duration(0.1, DAY_S))
    )
    stop_timeout_s: float = attrs.field(
        default=60.0, metadata=in_toml("stop_timeout", forms.duration(0.1, DAY_S))
    )
    restart_limit: int = attrs.field(
        default=3, metadata=in_toml("restart_limit", forms.integer(0, 1000))
    )
    restart_window_s: float = attrs.field(
        default=DAY_S, metadata=in_toml("restart_window", forms.duration(1, 365 * DAY_S))
    )

    @property
    def is_separate(self) -> bool:
        """Whether the service is a program of its own, and not part of this one."""
        return bool(self.start) or self.systemd is not None


@final
@attrs.frozen(kw_only=True)
class ArbiterConfig:
    """Where the register is kept. The options of each kind stand in `kinds.ARBITER_KINDS`."""

    kind: str = attrs.field(metadata=in_toml("kind", forms.choice(*ARBITER_KINDS), is_same=True))
    options: Mapping[str, Any] = attrs.field(
        factory=dict, converter=_as_options, metadata=options(ARBITER_KINDS)
    )


@final
@attrs.frozen(kw_only=True)
class CheckConfig:
    """Is the service well? The options of each kind stand in `kinds.CHECK_KINDS`.

    Args:
        kind: What is looked at.
        every_s: Seconds from the start of one check to the start of the next.
        timeout_s: Seconds until an attempt that has not returned has failed; None: `every_s`.
        fall: Failed attempts in a row until the check has failed; None: what suits the kind, two
            or, where what is seen is certain, one.
        rise: Good attempts in a row until it is well again.
        on_failure: What is done once it has failed, as `Checker` has it.
        when: On which node it is made.
        name: How it is shown; None: what is checked.
        options: What the kind needs to know.
    """

    kind: str = attrs.field(metadata=in_toml("kind", forms.choice(*CHECK_KINDS)))
    every_s: float = attrs.field(default=5.0, metadata=in_toml("every", forms.duration(0.1, DAY_S)))
    timeout_s: float | None = attrs.field(
        default=None, metadata=in_toml("timeout", forms.duration(0.1, DAY_S))
    )
    on_failure: OnFailure = attrs.field(
        default="restart",
        metadata=in_toml("on_failure", forms.choice("restart", "hand_over", "stop", "none")),
    )
    fall: int | None = attrs.field(default=None, metadata=in_toml("fall", forms.integer(1, 1000)))
    rise: int = attrs.field(default=1, metadata=in_toml("rise", forms.integer(1, 1000)))
    when: When = attrs.field(
        default="serving", metadata=in_toml("when", forms.choice("serving", "second", "always"))
    )
    name: str | None = attrs.field(default=None, metadata=in_toml("name", forms.text()))
    options: Mapping[str, Any] = attrs.field(
        factory=dict, converter=_as_options, metadata=options(CHECK_KINDS)
    )


@final
@attrs.frozen(kw_only=True)
class ProbeConfig:
    """The HTTP answer to a load balancer: 200 where the service runs, else 503.

    Args:
        port: Where it listens.
        host: On which address; all of IPv4 by default, for the load balancer is elsewhere.
        alias: One more path that answers as `/primary` does.
    """

    port: int = attrs.field(default=9010, metadata=in_toml("port", forms.PORT))
    host: str = attrs.field(default="0.0.0.0", metadata=in_toml("host", forms.IP))  # noqa: S104
    alias: str | None = attrs.field(
        default=None,
        metadata=in_toml(
            "alias", forms.text("a path, such as '/ready.txt'", pattern=r"/[!-~]{1,200}")
        ),
    )


@final
@attrs.frozen(kw_only=True)
class SwitchConfig:
    """What moves clients. The options of each kind stand in `kinds.SWITCH_KINDS`.

    Args:
        kind: What is moved.
        when: "before_start": before the service starts, which may need it, and until it has
            stopped; "after_start": only while it is started.
        every_s: Seconds between two looks whether it is as it should be.
        timeout_s: Seconds until an attempt that has not ended has failed.
        options: What the kind needs to know.
    """

    kind: str = attrs.field(metadata=in_toml("kind", forms.choice(*SWITCH_KINDS)))
    when: SwitchWhen = attrs.field(
        default="before_start",
        metadata=in_toml("when", forms.choice("before_start", "after_start")),
    )
    every_s: float = attrs.field(default=3.0, metadata=in_toml("every", forms.duration(0.1, 3600)))
    timeout_s: float = attrs.field(
        default=10.0, metadata=in_toml("timeout", forms.duration(0.1, 600))
    )
    options: Mapping[str, Any] = attrs.field(
        factory=dict, converter=_as_options, metadata=options(SWITCH_KINDS)
    )


@final
@attrs.frozen(kw_only=True)
class FencerConfig:
    """What confirms that the peer is stopped. Options: `kinds.FENCER_KINDS`.

    Args:
        timeout_s: Seconds after which a fencer that has not answered has confirmed nothing.
    """

    kind: str = attrs.field(metadata=in_toml("kind", forms.choice(*FENCER_KINDS)))
    timeout_s: float = attrs.field(
        default=30.0, metadata=in_toml("timeout", forms.duration(0.1, 600))
    )
    options: Mapping[str, Any] = attrs.field(
        factory=dict, converter=_as_options, metadata=options(FENCER_KINDS)
    )


@final
@attrs.frozen(kw_only=True)
class NotifyConfig:
    """Who is told of what a person should know. Options: `kinds.NOTIFY_KINDS`.

    Args:
        kind: How.
        on: Of what: "role" (a node became another), "split", "degraded" (it serves unprotected,
            or needs a person), "check" and "switch" (one fails). Of all by default.
        timeout_s: Seconds until an attempt that has not ended has failed; it is made four times.
        options: What the kind needs to know.
    """

    kind: str = attrs.field(metadata=in_toml("kind", forms.choice(*NOTIFY_KINDS)))
    on: tuple[NotifyOn, ...] = attrs.field(
        default=get_args(NotifyOn),
        converter=_as_tuple,
        metadata=in_toml(
            "on",
            forms.items(
                "a list of what to tell, at least one",
                forms.choice(*get_args(NotifyOn)),
                at_least=1,
            ),
        ),
    )
    timeout_s: float = attrs.field(
        default=10.0, metadata=in_toml("timeout", forms.duration(0.1, 600))
    )
    options: Mapping[str, Any] = attrs.field(
        factory=dict, converter=_as_options, metadata=options(NOTIFY_KINDS)
    )


@final
@attrs.frozen(kw_only=True)
class VerifyConfig:
    """How the two copies are compared (`mirrorha verify`).

    Args:
        every_s: Seconds after which it is done again by itself, by the node that serves; None: only
            when somebody asks.
        rate_bytes_per_s: How much content it reads in a second, on each node.
    """

    every_s: float | None = attrs.field(
        default=None, metadata=in_toml("every", forms.duration(HOUR_S, 365 * DAY_S))
    )
    rate_bytes_per_s: int = attrs.field(
        default=20 * MB, metadata=in_toml("rate", forms.rate(RATE_MIN, RATE_MAX))
    )


@final
@attrs.frozen(kw_only=True)
class ResyncConfig:
    """How a node that was away is brought up to date.

    Args:
        rate_bytes_per_s: How much content of each volume the node that serves goes through in a
            second, comparing and sending; None: as much as can be. It can be changed while it goes
            on (`mirrorha resync --rate`). Where the application writes faster, it gives way.
    """

    rate_bytes_per_s: int | None = attrs.field(
        default=None, metadata=in_toml("rate", forms.rate(RATE_MIN, RATE_MAX))
    )


SplitBrain: TypeAlias = Literal["consistent", "available"]


@final
@attrs.frozen(kw_only=True)
class ClusterConfig:
    """A cluster, seen from one of its nodes. Everything is checked, together, when it is made.

    Args:
        name: The cluster's name.
        node: Which of the nodes this is. None only to look at a configuration: what differs by
            node then has the first node's value.
        keys: Directory with this node's key and certificate and the cluster's CA.
        nodes: Exactly two. The order counts: it must be the same on both.
        split_brain: What a node does without an arbiter when it loses its peer: "consistent"
            (freeze without proof) or "available" (go on, and perhaps split). Required without an
            arbiter, an error beside one: `check_authority`.
        isolation: Addresses that are tried to see that this node is not cut off.
        split_policy: Whose data stands after a split.
        after_power_loss: Whether a node alone may serve after a crash of its system that may have
            lost acknowledged writes.
        link: How the volumes' streams travel: "tls"; or "plain" on a trusted network, once both
            ends have shown who they are. All else that the nodes say stays secured.
        trusted_network: Says that whoever is on the way between the nodes may read and change the
            data.
        preferred: The node to which the service returns by itself.
        failover: False: the service never moves by itself.
        volumes: The replicated directories; `Cluster.replicate` adds to them.
        service: How the application is started and stopped.
        arbiter: Where the register is kept, if a file says so; a program gives its own to
            `Cluster` instead.
        checks, probe, switches, fencers, notifications: See their classes.
        heartbeat, timing, verify, resync, log: See their classes.
        differing: For what a file gives by node: place → node → value. This configuration has
            the value of `node`.

    Raises:
        ConfigError: with everything that is wrong, in `problems`.
    """

    name: str = attrs.field(metadata=in_toml("name", forms.NAME, is_same=True))
    node: str | None = None
    keys: str = attrs.field(metadata=in_toml("keys", forms.PATH, from_name="/etc/mirrorha/{name}"))
    split_brain: SplitBrain | None = attrs.field(
        default=None,
        metadata=in_toml("split_brain", forms.choice("consistent", "available"), is_same=True),
    )
    isolation: tuple[str, ...] = attrs.field(
        default=(),
        converter=_as_tuple,
        metadata=in_toml("isolation", forms.items("a list of isolation checks", forms.ISOLATION)),
    )
    split_policy: Literal["former_prim", "newest", "refuse"] = attrs.field(
        default="former_prim",
        metadata=in_toml(
            "split_policy", forms.choice("former_prim", "newest", "refuse"), is_same=True
        ),
    )
    after_power_loss: Literal["wait", "serve"] = attrs.field(
        default="wait", metadata=in_toml("after_power_loss", forms.choice("wait", "serve"))
    )
    link: Literal["tls", "plain"] = attrs.field(
        default="tls", metadata=in_toml("link", forms.choice("tls", "plain"), is_same=True)
    )
    trusted_network: bool = attrs.field(
        default=False, metadata=in_toml("trusted_network", forms.BOOLEAN)
    )
    preferred: str | None = attrs.field(
        default=None, metadata=in_toml("preferred", forms.NAME, is_same=True)
    )
    failover: bool = attrs.field(default=True, metadata=in_toml("failover", forms.BOOLEAN))
    nodes: tuple[NodeConfig, ...] = attrs.field(
        converter=_as_tuple, metadata=tables("node", NodeConfig)
    )
    heartbeat: HeartbeatConfig = attrs.field(
        factory=HeartbeatConfig, metadata=table("heartbeat", HeartbeatConfig)
    )
    arbiter: ArbiterConfig | None = attrs.field(
        default=None, metadata=table("arbiter", ArbiterConfig)
    )
    volumes: tuple[VolumeConfig, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=tables("volume", VolumeConfig)
    )
    service: ServiceConfig = attrs.field(
        factory=ServiceConfig, metadata=table("service", ServiceConfig)
    )
    checks: tuple[CheckConfig, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=tables("check", CheckConfig)
    )
    probe: ProbeConfig | None = attrs.field(default=None, metadata=table("probe", ProbeConfig))
    timing: TimingConfig = attrs.field(factory=TimingConfig, metadata=table("timing", TimingConfig))
    verify: VerifyConfig = attrs.field(factory=VerifyConfig, metadata=table("verify", VerifyConfig))
    resync: ResyncConfig = attrs.field(factory=ResyncConfig, metadata=table("resync", ResyncConfig))
    log: LogConfig = attrs.field(factory=LogConfig, metadata=table("log", LogConfig))
    switches: tuple[SwitchConfig, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=tables("switch", SwitchConfig)
    )
    fencers: tuple[FencerConfig, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=tables("fencer", FencerConfig)
    )
    notifications: tuple[NotifyConfig, ...] = attrs.field(
        default=(), converter=_as_tuple, metadata=tables("notify", NotifyConfig)
    )
    differing: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        check_config(self)

    @property
    def me(self) -> NodeConfig:
        """The node that this is.

        Raises:
            LocalUsageError: the configuration was loaded without saying which.
        """
        if self.node is None:
            names = " or ".join(f"--node {node.name}" for node in self.nodes)
            raise LocalUsageError(f"say which node this is: {names}")
        return self.node_named(self.node)

    @property
    def peer(self) -> NodeConfig:
        """The other node. Raises like `me`."""
        return next(node for node in self.nodes if node.name != self.me.name)

    def node_named(self, name: str) -> NodeConfig:
        """The node called `name`.

        Raises:
            LocalUsageError: there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        names = " and ".join(f"'{node.name}'" for node in self.nodes)
        raise LocalUsageError(f"there is no node '{name}'; the nodes are {names}")
