"""High availability for ordinary applications, on two ordinary servers.

Every name is imported when it is first used: a program pays for what it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

__version__: Final = "0.1.0.dev0"

if TYPE_CHECKING:
    from mirrorha import abc, arbiters, checks, fencers, notify, switches
    from mirrorha.checks.runner import Checker
    from mirrorha.cluster.cluster import Cluster
    from mirrorha.cluster.feed import EventStream, Gap, NodeEvent
    from mirrorha.cluster.fencing import FencerRule
    from mirrorha.config import (
        ArbiterConfig,
        CheckConfig,
        ClusterConfig,
        FencerConfig,
        HeartbeatConfig,
        LogConfig,
        NodeConfig,
        NotifyConfig,
        ProbeConfig,
        ResyncConfig,
        ServiceConfig,
        SwitchConfig,
        TimingConfig,
        VerifyConfig,
        VolumeConfig,
        load_toml,
    )
    from mirrorha.core.change import RoleChange
    from mirrorha.core.words import Colour, Data, Mode, Role
    from mirrorha.errors import (
        ArbiterError,
        CheckFailedError,
        CommandRefusedError,
        ConfigError,
        FencerError,
        InvariantViolation,
        LocalUsageError,
        MirrorHAError,
        NotifyError,
        NotPrimaryError,
        OutcomeUnknownError,
        PathOutsideVolumeError,
        ServiceError,
        StateError,
        SwitchError,
        VolumeError,
    )
    from mirrorha.notify.outbox import NotifyRule
    from mirrorha.probe import HealthProbe
    from mirrorha.switches.keeper import SwitchRule
    from mirrorha.volume.replicator import Replicator

__all__ = [
    "ArbiterConfig",
    "ArbiterError",
    "CheckConfig",
    "CheckFailedError",
    "Checker",
    "Cluster",
    "ClusterConfig",
    "Colour",
    "CommandRefusedError",
    "ConfigError",
    "Data",
    "EventStream",
    "FencerConfig",
    "FencerError",
    "FencerRule",
    "Gap",
    "HealthProbe",
    "HeartbeatConfig",
    "InvariantViolation",
    "LocalUsageError",
    "LogConfig",
    "MirrorHAError",
    "Mode",
    "NodeConfig",
    "NodeEvent",
    "NotPrimaryError",
    "NotifyConfig",
    "NotifyError",
    "NotifyRule",
    "OutcomeUnknownError",
    "PathOutsideVolumeError",
    "ProbeConfig",
    "Replicator",
    "ResyncConfig",
    "Role",
    "RoleChange",
    "ServiceConfig",
    "ServiceError",
    "StateError",
    "SwitchConfig",
    "SwitchError",
    "SwitchRule",
    "TimingConfig",
    "VerifyConfig",
    "VolumeConfig",
    "VolumeError",
    "abc",
    "arbiters",
    "checks",
    "fencers",
    "load_toml",
    "notify",
    "switches",
]

_MODULES: Final = frozenset({"abc", "arbiters", "checks", "fencers", "notify", "switches"})
_HOMES: Final = {
    "Checker": "checks.runner",
    "Cluster": "cluster.cluster",
    **dict.fromkeys(("EventStream", "Gap", "NodeEvent"), "cluster.feed"),
    **dict.fromkeys(("Colour", "Data", "Mode", "Role"), "core.words"),
    "FencerRule": "cluster.fencing",
    "NotifyRule": "notify.outbox",
    "RoleChange": "core.change",
    "HealthProbe": "probe",
    "SwitchRule": "switches.keeper",
    "Replicator": "volume.replicator",
}


def _home(name: str) -> str:
    if name in _HOMES:
        return f"mirrorha.{_HOMES[name]}"
    is_config = name.endswith("Config") or name == "load_toml"
    return "mirrorha.config" if is_config else "mirrorha.errors"


if not TYPE_CHECKING:  # a type checker would take it for the home of any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _MODULES:
            return importlib.import_module(f"mirrorha.{name}")
        return getattr(importlib.import_module(_home(name)), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
