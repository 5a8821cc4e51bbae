"""The status document of a node that does not run; `status` has that of one that does.

Apart from it because whoever only puts a node together needs no more than this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mirrorha.core.words import Colour, Data, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA: Final = 1
Document = dict[str, Any]


def not_running(*, cluster: str, node: str, link: str, volumes: Sequence[str]) -> Document:
    """The same document for a node whose `run` is not under way."""
    return {
        "schema": SCHEMA,
        "cluster": cluster,
        "node": node,
        "role": Role.STOP.value,
        "colour": Colour.RED.value,
        "data": Data.CONSISTENT.value,
        "epoch": 0,
        "since": None,
        "why": "the node is not running",
        "running": False,
        "operation": None,
        "heartbeats": [],
        "service": {"state": "stopped", "text": "", "restarts": 0, "restart_limit": 0},
        "link": link,
        "peer": None,
        "volumes": [
            {
                "path": path,
                "mode": None,
                "data": Data.CONSISTENT.value,
                "seq": 0,
                "peer_seq": None,
                "waiting": 0,
                "mounted": False,
                "worker_pid": None,
                "resync": None,
                "verify": None,
            }
            for path in volumes
        ],
        "checks": [],
        "switches": [],
        "arbiter": None,
        "paused": False,
        "rescued": [],
        "warnings": [],
        "incarnation": 0,
        "generation": "",
        "why_since": None,
        "override": None,
        "forced": None,
    }
