"""An application for tests of the service, and a service that takes care of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from mirrorha.core.change import RoleChange
from mirrorha.core.words import Role
from mirrorha.service import Callbacks, Phases, Service, ServiceState

WHY = RoleChange(
    cluster="orders",
    node="paris",
    epoch=7,
    from_role=Role.SECOND,
    to_role=Role.ALONE,
    why="the peer is lost",
)


async def nothing(_: RoleChange) -> None:
    await trio.lowlevel.checkpoint()


async def fail(_: RoleChange) -> None:
    raise ZeroDivisionError("no paper")


async def hang(_: RoleChange) -> None:
    await trio.sleep_forever()


async def defy(_: RoleChange) -> None:
    """Ignore cancellation for 200 s."""
    with trio.CancelScope(shield=True):
        await trio.sleep(200)


@attrs.define
class App:
    """An application under care. Notes what is called, and where two calls overlap."""

    on_start: Callable[[RoleChange], Awaitable[None]] = nothing
    on_stop: Callable[[RoleChange], Awaitable[None]] = nothing
    calls: list[str] = attrs.field(factory=list)
    changes: list[RoleChange] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)
    overlaps: list[str] = attrs.field(factory=list)
    busy: str = ""

    async def start(self, why: RoleChange) -> None:
        await self._call("start", self.on_start, why)

    async def stop(self, why: RoleChange) -> None:
        await self._call("stop", self.on_stop, why)

    async def _call(
        self, name: str, behave: Callable[[RoleChange], Awaitable[None]], why: RoleChange
    ) -> None:
        if self.busy:  # noted, for what is raised here is contained
            self.overlaps.append(f"{name} beside {self.busy}")
        self.busy = name
        self.calls.append(name)
        self.changes.append(why)
        try:
            await behave(why)
        finally:
            self.busy = ""

    async def serve(self, why: RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
        """The two as one task."""
        await self.start(why)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.stop(why)


@asynccontextmanager
async def caring(
    app: App, phases: Phases | None = None, **options: Any
) -> AsyncGenerator[Service, None]:
    """Run a service for `app` with deadlines of 60 s."""
    phases = phases or Callbacks(start=app.start, stop=app.stop)
    service = Service(phases, on_failure=app.failures.append, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()
    assert not app.overlaps


def is_now(service: Service, state: ServiceState, text: str = "") -> bool:
    return service.status.state is state and text in service.status.text
