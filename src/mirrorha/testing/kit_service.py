"""The application under test, started and stopped where the simulated core says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.containment import Raised, contain
from mirrorha.core import events as v
from mirrorha.core.change import RoleChange
from mirrorha.errors import LocalUsageError

if TYPE_CHECKING:
    from mirrorha.core import effects as e
    from mirrorha.testing.kit_engine import Drive
    from mirrorha.volume.files.streamed import Files

#: As in production by default.
PHASE_S: Final = 60.0


@attrs.frozen(kw_only=True)
class Application:
    """What runs on the node that serves: one task, or two callbacks."""

    serve: Callable[..., Awaitable[object]] | None = None
    on_start: Callable[..., Awaitable[object]] | None = None
    on_stop: Callable[..., Awaitable[object]] | None = None

    def __attrs_post_init__(self) -> None:
        if self.serve is not None and (self.on_start is not None or self.on_stop is not None):
            raise LocalUsageError("give serve=, or on_start= and on_stop=, not both")


@attrs.define(eq=False)
class _Running:
    """Code of the application under way."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    is_over: trio.Event = attrs.field(factory=trio.Event)
    is_expected: bool = False  # that it ends


@final
class AppService:
    """One node's service. `attach` it before the node starts.

    Phases of one node never overlap, those of a killed process included: code that goes on in
    spite of its cancellation holds up the next start.
    """

    def __init__(self, name: str, application: Application) -> None:
        self._name: Final = name
        self._application: Final = application
        self._running: list[_Running] = []

    def attach(self, nursery: trio.Nursery, drive: Drive, data: Callable[[str], Files]) -> None:
        """Run the application's code in `nursery`."""
        self._nursery, self._drive, self._data = nursery, drive, data

    def start(self, effect: e.StartService, done: Callable[[v.AnyEvent], None]) -> None:
        """See `mirrorha.testing.sim.node.ServiceOfNode`."""
        running = _Running()
        before, self._running = self._running, [*self._running, running]
        self._nursery.start_soon(self._start, running, before, effect, done)

    def stop(self, effect: e.StopService, done: Callable[[v.AnyEvent], None]) -> None:
        """See `mirrorha.testing.sim.node.ServiceOfNode`."""
        self._end_all()
        running = _Running(is_expected=True)
        before, self._running = self._running, [*self._running, running]
        self._nursery.start_soon(self._stop, running, before, effect, done)

    def killed(self) -> None:
        """The process is gone: whatever runs is cancelled, and nothing hears how it ends."""
        self._end_all()

    def _end_all(self) -> None:
        for running in self._running:
            running.is_expected = True
            running.scope.cancel()

    async def _start(
        self,
        running: _Running,
        before: list[_Running],
        effect: e.StartService,
        done: Callable[[v.AnyEvent], None],
    ) -> None:
        def started() -> None:
            self._say("service started", lambda: done(v.ServiceStarted(token=effect.token)))

        text = "serve returned"
        with running.scope:
            await self._wait_over(before)
            outcome = await contain(lambda: self._perform_start(effect, started))
            if isinstance(outcome, Raised):
                text = outcome.text
        self._over(running)
        is_over = self._application.serve is not None or text != "serve returned"
        if is_over and not running.is_expected:
            failed = v.ServiceFailed(token=effect.token, text=text)
            self._say(f"service failed: {text}", lambda: done(failed))

    async def _perform_start(self, effect: e.StartService, on_started: Callable[[], None]) -> None:
        why, data = self._why(effect), self._data(self._name)
        application = self._application
        if application.serve is None:
            if application.on_start is not None:
                with trio.fail_after(PHASE_S):
                    await application.on_start(why, data)
            on_started()
            return
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PHASE_S):
                await nursery.start(application.serve, why, data)
            on_started()

    async def _stop(
        self,
        running: _Running,
        before: list[_Running],
        effect: e.StopService,
        done: Callable[[v.AnyEvent], None],
    ) -> None:
        with running.scope, trio.move_on_after(PHASE_S) as limit:
            await self._wait_over(before)
            if self._application.on_stop is not None:
                on_stop, why, data = (
                    self._application.on_stop,
                    self._why(effect),
                    self._data(self._name),
                )
                outcome = await contain(lambda: on_stop(why, data))
                if isinstance(outcome, Raised):
                    self._drive.world.say(f"{self._name} stop failed: {outcome.text}")
        self._over(running)
        if not running.scope.cancelled_caught:
            stopped = v.ServiceStopped(token=effect.token, clean=not limit.cancelled_caught)
            self._say("service stopped", lambda: done(stopped))

    async def _wait_over(self, before: list[_Running]) -> None:
        for each in before:
            await each.is_over.wait()

    def _over(self, running: _Running) -> None:
        running.is_over.set()
        self._running = [each for each in self._running if each is not running]

    def _say(self, text: str, tell: Callable[[], None]) -> None:
        self._drive.catch_up()
        self._drive.world.say(f"{self._name} {text}")
        tell()
        self._drive.tell()

    def _why(self, effect: e.StartService | e.StopService) -> RoleChange:
        return RoleChange(
            cluster="simulated",
            node=self._name,
            epoch=effect.epoch,
            from_role=effect.from_role,
            to_role=effect.to_role,
            why=effect.why,
        )
