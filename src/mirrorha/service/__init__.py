"""The service under care: its start and its stop, as phases that end, never two at once."""

from __future__ import annotations

from mirrorha.service.cgroup import ControlGroup
from mirrorha.service.commands import Commands
from mirrorha.service.phases import Callbacks, Phases, ServeTask
from mirrorha.service.service import Service, ServiceState, ServiceStatus, StopReport
from mirrorha.service.systemd import SystemdUnit

__all__ = [
    "Callbacks",
    "Commands",
    "ControlGroup",
    "Phases",
    "ServeTask",
    "Service",
    "ServiceState",
    "ServiceStatus",
    "StopReport",
    "SystemdUnit",
]
