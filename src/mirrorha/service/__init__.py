"""The service under care: its start and its stop, as phases that end, never two at once."""

from __future__ import annotations

from mirrorha.service.phases import Callbacks, Commands, Phases, ServeTask
from mirrorha.service.service import Service, ServiceState, ServiceStatus, StopReport

__all__ = [
    "Callbacks",
    "Commands",
    "Phases",
    "ServeTask",
    "Service",
    "ServiceState",
    "ServiceStatus",
    "StopReport",
]
