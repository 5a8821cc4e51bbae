"""The configuration: frozen classes, checked together; TOML in and out."""

from __future__ import annotations

from mirrorha.config.agreement import may_differ, must_agree
from mirrorha.config.contradictions import is_loopback, on_one_machine
from mirrorha.config.durations import format_duration, parse_duration, to_ms
from mirrorha.config.forms import parse_host_port, parse_isolation
from mirrorha.config.model import (
    ArbiterConfig,
    CheckConfig,
    ClusterConfig,
    FencerConfig,
    HeartbeatConfig,
    NodeConfig,
    NotifyConfig,
    ProbeConfig,
    ResyncConfig,
    ServiceConfig,
    SwitchConfig,
    TimingConfig,
    VerifyConfig,
    VolumeConfig,
)
from mirrorha.config.rates import format_rate, parse_rate
from mirrorha.config.reader import load_toml, parse_toml
from mirrorha.config.validation import check_authority
from mirrorha.config.writer import to_toml

__all__ = [
    "ArbiterConfig",
    "CheckConfig",
    "ClusterConfig",
    "FencerConfig",
    "HeartbeatConfig",
    "NodeConfig",
    "NotifyConfig",
    "ProbeConfig",
    "ResyncConfig",
    "ServiceConfig",
    "SwitchConfig",
    "TimingConfig",
    "VerifyConfig",
    "VolumeConfig",
    "check_authority",
    "format_duration",
    "format_rate",
    "is_loopback",
    "load_toml",
    "may_differ",
    "must_agree",
    "on_one_machine",
    "parse_duration",
    "parse_host_port",
    "parse_isolation",
    "parse_rate",
    "parse_toml",
    "to_ms",
    "to_toml",
]
