"""The local management API: JSON over HTTP on a Unix socket that only the node's own user opens."""

from __future__ import annotations

from mirrorha.api.node import ManagedNode
from mirrorha.api.server import SOCKET_NAME, ManagementApi, socket_path

__all__ = ["SOCKET_NAME", "ManagedNode", "ManagementApi", "socket_path"]
