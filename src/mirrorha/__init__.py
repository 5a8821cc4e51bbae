"""High availability for ordinary applications: two servers, mirrored directories, failover."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
