"""A node that is whatever a test says, and does what it is asked to, or refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError


@attrs.frozen(kw_only=True)
class FakeEvent:
    kind: str = "note"
    at_s: float = 1_700_000_000.0
    node: str = "paris"
    epoch: int = 7
    role: Role = Role.PRIM
    rule: str = "won-alone"
    text: str = "for a test"
    from_role: Role | None = None


@attrs.frozen
class FakeGap:
    missed: int


def document(role: str = "PRIM", **changes: Any) -> dict[str, Any]:
    """A status document, whole."""
    return {
        "schema": 1,
        "cluster": "orders",
        "node": "paris",
        "role": role,
        "colour": "green",
        "data": "up_to_date",
        "epoch": 7,
        "since": "2026-11-22T17:14:33.000Z",
        "why": "lyon was admitted",
        "running": True,
        "operation": None,
        "heartbeats": [
            {"from": "10.0.1.10", "to": "10.0.2.10", "up": True, "last_heard_s": 0.1, "error": ""}
        ],
        "service": {"state": "started", "text": "", "restarts": 0, "restart_limit": 3},
        "peer": {
            "name": "lyon",
            "role": "SECOND",
            "colour": "green",
            "data": "up_to_date",
            "link": "up",
            "refused": "",
            "last_heard_s": 0.1,
        },
        "volumes": [
            {
                "path": "/srv/orders",
                "mode": "MIRROR",
                "data": "up_to_date",
                "seq": 12,
                "peer_seq": 12,
                "resync": None,
            }
        ],
        "checks": [{"name": "tcp 127.0.0.1:8080", "kind": "tcp", "state": "well", "text": ""}],
        "switches": [],
        "arbiter": {
            "kind": "witness",
            "reachable": True,
            "trouble": "",
            "register": {"epoch": 7, "primary": "paris", "in_sync": ["lyon", "paris"]},
        },
        "paused": False,
        "warnings": [],
        **changes,
    }


class FakeNode:
    """`asked` has every command in order; one named in `refusing` is refused with that text.

    A command named in `gates` ends once its event is set. `faulty` raises what no node should.
    """

    def __init__(self) -> None:
        self.shown = document()
        self.asked: list[str] = []
        self.options: list[dict[str, bool]] = []
        self.refusing: dict[str, str] = {}
        self.gates: dict[str, trio.Event] = {}
        self.faulty: dict[str, Exception] = {}
        self.past: list[FakeEvent] = []
        self.wishes: list[tuple[str | None, dict[str, Any]]] = []  # of every `verify`
        self.rates: list[int] = []  # of every `resync --rate`
        self._readers: list[trio.MemorySendChannel[FakeEvent | FakeGap]] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    def status(self) -> dict[str, Any]:
        return self.shown

    def events(self) -> trio.MemoryReceiveChannel[FakeEvent | FakeGap]:
        send, receive = trio.open_memory_channel[FakeEvent | FakeGap](math.inf)
        self._readers.append(send)
        return receive

    def tell(self, event: FakeEvent | FakeGap) -> None:
        for reader in self._readers:
            reader.send_nowait(event)

    def end(self) -> None:
        for reader in self._readers:
            reader.close()

    async def history(self, *, limit: int) -> Sequence[FakeEvent]:
        await trio.lowlevel.checkpoint()
        if "history" in self.faulty:
            raise self.faulty["history"]
        return self.past[-limit:]

    async def _do(self, command: str, **options: bool) -> str:
        await trio.lowlevel.checkpoint()
        self.asked.append(command)
        self.options.append(options)
        if command in self.gates:
            await self.gates[command].wait()
        if command in self.faulty:
            raise self.faulty[command]
        if command in self.refusing:
            raise CommandRefusedError(self.refusing[command])
        return f"{command} was done"

    async def verify(self, volume: str | None = None, **wishes: Any) -> str:
        self.wishes.append((volume, wishes))
        return await self._do("verify")

    async def set_resync_rate(self, rate_bytes_per_s: int) -> str:
        self.rates.append(rate_bytes_per_s)
        return await self._do("set_resync_rate")

    async def stop_verify(self, volume: str | None = None) -> str:
        return await self._do("stop_verify")

    def __getattr__(self, name: str) -> Callable[[], Any]:
        if name in COMMANDS:
            return partial(self._do, name)
        raise AttributeError(name)


COMMANDS = (
    "start",
    "stop",
    "restart",
    "swap",
    "pause",
    "resume",
    "init",
    "accept",
    "acknowledge",
    "force_primary",
    "force_secondary",
)
