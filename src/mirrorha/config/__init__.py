"""The configuration: frozen classes, checked together; TOML in and out."""

from __future__ import annotations

from mirrorha.config.agreement import may_differ, must_agree
from mirrorha.config.contradictions import is_loopback, on_one_machine
from mirrorha.config.durations import format_duration, parse_duration, to_ms
from mirrorha.config.findings import ConfigFileError, Mistake
from mirrorha.config.forms import parse_host_port, parse_isolation
from mirrorha.config.logs import LogConfig
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
from mirrorha.config.reader import load_toml, locate, parse_toml, read_text
from mirrorha.config.validation import check_authority
from mirrorha.config.writer import to_toml

__all__ = [
    "ArbiterConfig",
    "CheckConfig",
    "ClusterConfig",
    "ConfigFileError",
    "FencerConfig",
    "HeartbeatConfig",
    "LogConfig",
    "Mistake",
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
    "locate",
    "may_differ",
    "must_agree",
    "on_one_machine",
    "parse_duration",
    "parse_host_port",
    "parse_isolation",
    "parse_rate",
    "parse_toml",
    "read_text",
    "to_ms",
    "to_toml",
]
