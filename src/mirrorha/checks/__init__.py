"""Is the service well? What can be checked, how often, and what follows."""

from __future__ import annotations

from mirrorha.checks.custom import Custom
from mirrorha.checks.runner import Checker, CheckReport, CheckRunner, CheckState, Situation
from mirrorha.checks.tcp import Tcp

__all__ = [
    "CheckReport",
    "CheckRunner",
    "CheckState",
    "Checker",
    "Custom",
    "Situation",
    "Tcp",
]
