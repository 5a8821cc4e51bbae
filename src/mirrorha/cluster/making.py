"""What a configuration names, made: its arbiter, checks, switches, fencers, probe, service."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from mirrorha import arbiters, checks, fencers, notify, switches
from mirrorha.checks.runner import Checker
from mirrorha.cluster.fencing import FencerRule
from mirrorha.errors import LocalUsageError
from mirrorha.net.keys import load_keys
from mirrorha.net.tls import witness_client_context
from mirrorha.notify import NotifyRule
from mirrorha.probe import HealthProbe
from mirrorha.service import Callbacks, Commands, ControlGroup, ServeTask, SystemdUnit
from mirrorha.switches.keeper import SwitchRule
from mirrorha.volume.fuse import mounting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from mirrorha.abc import Arbiter, Check, Fencer, Switch
    from mirrorha.config import CheckConfig, ClusterConfig
    from mirrorha.notify import Notifier
    from mirrorha.service import Phases

_ARBITERS: Final = {
    "local": "LocalArbiter",
    "s3": "S3Arbiter",
    "dynamodb": "DynamoDBArbiter",
    "etcd": "EtcdArbiter",
}
_CHECKS: Final = {
    "tcp": "Tcp",
    "http": "Http",
    "process": "Process",
    "command": "Command",
    "disk": "Disk",
    "interface": "Interface",
    "ping": "Ping",
    "mount": "Mount",
}
_SWITCHES: Final = {
    "virtual_ip": "VirtualIp",
    "command": "Command",
    "aws_route": "AwsRoute",
    "aws_address": "AwsAddress",
    "aws_elastic_ip": "AwsElasticIp",
    "aws_route53": "AwsRoute53",
}
_FENCERS: Final = {"command": "Command", "aws": "Aws"}
_NOTIFIERS: Final = {"command": "Command", "webhook": "Webhook"}


def make_arbiter(config: ClusterConfig) -> Arbiter | None:
    """The arbiter that the configuration names, if any. Blocks: keys may be read for it.

    Raises:
        LocalUsageError: this version has no such arbiter, or it cannot be made so.
    """
    arbiter = config.arbiter
    if arbiter is None:
        return None
    if arbiter.kind == "witness":
        keys = load_keys(Path(config.keys), node=config.me.name, cluster=config.name)
        return arbiters.WitnessArbiter(
            arbiter.options["address"], config.name, witness_client_context(keys)
        )
    made: Arbiter = _named(arbiters, _ARBITERS, arbiter.kind, "arbiter")(**arbiter.options)
    return made


def arbiter_text(arbiter: Arbiter | None) -> str:
    """What both nodes compare, of an arbiter that the program made."""
    if arbiter is None:
        return "none"
    is_described = type(arbiter).__str__ is not object.__str__
    return f"{arbiter.kind} {arbiter}" if is_described else arbiter.kind


def make_checkers(config: ClusterConfig) -> Iterator[Checker]:
    """The checks that the configuration names. Raises as `make_arbiter`."""
    for check in config.checks:
        is_of_volumes = check.kind == "mount" and "path" not in check.options
        if not is_of_volumes:
            yield _make_checker(config, check)
            continue
        mounted = [volume.path for volume in config.volumes if volume.mount is not False]
        if not mounted:
            raise LocalUsageError("a check of the mounts names no path, and no volume is mounted")
        for path in mounted:
            options = {"path": path, "filesystem": mounting.KIND}
            name = f"{check.name} {path}" if check.name else None
            yield _make_checker(config, attrs.evolve(check, options=options, name=name))


def _make_checker(config: ClusterConfig, chosen: CheckConfig) -> Checker:
    cls = _named(checks, _CHECKS, chosen.kind, "check")
    options = chosen.options
    if chosen.kind == "command":
        told = {"MIRRORHA_CLUSTER": config.name, "MIRRORHA_NODE": config.me.name}
        options = {**options, "environment": told}
    check: Check = cls(**options)
    return Checker(
        check,
        every_s=chosen.every_s,
        timeout_s=chosen.timeout_s,
        fall=check.fall if chosen.fall is None else chosen.fall,
        rise=chosen.rise,
        on_failure=chosen.on_failure,
        when=chosen.when,
        name=chosen.name or "",
    )


def make_switches(config: ClusterConfig) -> tuple[SwitchRule, ...]:
    """The switches that the configuration names. Raises as `make_arbiter`."""
    made = []
    for each in config.switches:
        more: dict[str, Any] = {}
        if each.kind == "command":
            more["environment"] = _environment(config)
        switch: Switch = _named(switches, _SWITCHES, each.kind, "switch")(**each.options, **more)
        rule = SwitchRule(switch, when=each.when, every_s=each.every_s, timeout_s=each.timeout_s)
        made.append(rule)
    return tuple(made)


def make_fencers(config: ClusterConfig) -> tuple[FencerRule, ...]:
    """The fencers that the configuration names, in its order. Raises as `make_arbiter`."""
    made = []
    for each in config.fencers:
        fencer: Fencer = _named(fencers, _FENCERS, each.kind, "fencer")(**each.options)
        made.append(FencerRule(fencer, timeout_s=each.timeout_s))
    return tuple(made)


def make_notified(config: ClusterConfig) -> tuple[NotifyRule, ...]:
    """Who is told, as the configuration names them. Raises as `make_arbiter`."""
    made = []
    for each in config.notifications:
        notifier: Notifier = _named(notify, _NOTIFIERS, each.kind, "notification")(**each.options)
        made.append(NotifyRule(notifier, on=each.on, timeout_s=each.timeout_s))
    return tuple(made)


def _environment(config: ClusterConfig) -> dict[str, str]:
    """What a command is told that is run for no one change of role."""
    return {"MIRRORHA_CLUSTER": config.name, "MIRRORHA_NODE": config.me.name}


def make_probe(config: ClusterConfig) -> HealthProbe | None:
    """The probe that the configuration names, or None."""
    probe = config.probe
    return (
        None if probe is None else HealthProbe(port=probe.port, host=probe.host, alias=probe.alias)
    )


def make_phases(
    config: ClusterConfig,
    *,
    start: Callable[..., object] | None,
    stop: Callable[..., object] | None,
    serve: Callable[..., Awaitable[object]] | None,
) -> Phases:
    """How the service is started and stopped: by the program, by commands, or as a systemd unit.

    Blocks: a control group may be made for it.

    Raises:
        LocalUsageError: more than one way was given.
    """
    ways = [
        name
        for name, given in (
            ("@cluster.serve", serve),
            ("@cluster.on_start or on_stop", start or stop),
            ("[service] start", config.service.start),
            ("[service] systemd", config.service.systemd),
        )
        if given
    ]
    if len(ways) > 1:
        raise LocalUsageError(f"the service is given in {len(ways)} ways: {' and '.join(ways)}")
    if serve is not None:
        return ServeTask(serve)
    if config.service.systemd is not None:
        return SystemdUnit(config.service.systemd)
    if config.service.start:
        return _make_commands(config)
    return Callbacks(start=start, stop=stop)


def _make_commands(config: ClusterConfig) -> Commands:
    service = config.service
    # One state directory is one node: of the same names there may be several on a machine.
    digest = hashlib.sha256(config.me.state_dir.encode()).hexdigest()[:8]
    name = f"mirrorha-{config.name}-{config.me.name}-{digest}"
    return Commands(
        start=service.start,
        stop=service.stop,
        variables=dict(each.split("=", 1) for each in service.environment),
        user=service.user or "",
        directory=service.working_directory or "",
        group=ControlGroup.below_ours(name),
        mark=name,
    )


def _named(module: Any, names: dict[str, str], kind: str, what: str) -> Any:
    found = getattr(module, names.get(kind, ""), None)
    if found is None:
        raise LocalUsageError(f"this version has no {what} of the kind '{kind}'")
    return found
