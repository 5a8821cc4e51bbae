"""How a service is started and stopped: by functions or by one task; what is asked of any way."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import ClassVar, Final, Protocol, final

import attrs
import trio

from mirrorha.containment import Raised, call, contain
from mirrorha.core.change import RoleChange
from mirrorha.errors import LocalUsageError, ensure


class Phases(Protocol):
    """How the service's phases are carried out. Both may be cancelled, and may raise anything."""

    #: What an operator calls the two, in messages.
    start_name: ClassVar[str]
    stop_name: ClassVar[str]
    #: Whether something of a former incarnation may be running, so that start begins with a stop.
    may_be_left_over: ClassVar[bool]

    def attach(self, nursery: trio.Nursery, on_end: Callable[[str], None]) -> None:
        """Run what outlives a phase in `nursery`; `on_end` hears that the service ended, and why.

        It may be called at any time, also before `start` has returned and during a stop.
        """

    async def end_left_over(self) -> None:
        """End what a former incarnation of this program left running. Bounded."""

    def abandon(self) -> bool:
        """This program ends: wait no longer for what goes on in spite of being cancelled.

        Returns whether there is any such thing.
        """

    async def start(self, why: RoleChange) -> None:
        """Return when the service is started."""

    async def stop(self, why: RoleChange) -> None:
        """Return when the service has stopped."""

    async def enforce_stop(self) -> None:
        """After a stop that failed: end what can be ended. Bounded."""


@final
class _Uninterruptible:
    """Waits for what goes on whether it is waited for or not: a thread, a task that must end.

    Leaving such a wait early would let another phase run beside it; only the end of this
    program is reason enough.
    """

    def __init__(self) -> None:
        self._scopes: Final = set[trio.CancelScope]()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        with trio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def abandon(self) -> bool:
        """From now on, whoever is cancelled leaves such a wait. Returns whether anybody waits."""
        for scope in self._scopes:
            scope.shield = False
        return bool(self._scopes)


@final
class Callbacks:
    """Two functions, asynchronous or ordinary (these run in a thread); either may be missing.

    An ordinary one cannot be interrupted: at its deadline it is left behind, and the service is
    not started again before it has returned.
    """

    start_name: ClassVar[str] = "on_start"
    stop_name: ClassVar[str] = "on_stop"
    may_be_left_over: ClassVar[bool] = False

    def __init__(
        self,
        *,
        start: Callable[[RoleChange], object] | None = None,
        stop: Callable[[RoleChange], object] | None = None,
    ) -> None:
        self._start: Final = start
        self._stop: Final = stop
        self._waits: Final = _Uninterruptible()
        self._limiter: Final = trio.CapacityLimiter(1)

    def attach(self, nursery: trio.Nursery, on_end: Callable[[str], None]) -> None:
        """Nothing of ours outlives a phase."""

    async def end_left_over(self) -> None:
        """Functions end with their program."""

    def abandon(self) -> bool:
        return self._waits.abandon()

    async def start(self, why: RoleChange) -> None:
        await self._call(self._start, why)

    async def stop(self, why: RoleChange) -> None:
        await self._call(self._stop, why)

    async def enforce_stop(self) -> None:
        """Nothing can be done about functions."""

    async def _call(self, function: Callable[[RoleChange], object] | None, why: RoleChange) -> None:
        if function is None:
            return
        await call(function, why, limiter=self._limiter, in_thread=self._waits.waiting)


@attrs.define(eq=False)
class _Serving:
    """One run of a `serve` task. Also the `task_status` that it is given."""

    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    has_started: bool = False
    is_settled: trio.Event = attrs.field(factory=trio.Event)  # started or over
    is_over: trio.Event = attrs.field(factory=trio.Event)

    def started(self, value: object = None) -> None:
        """Say that the service is started."""
        if self.has_started:
            raise RuntimeError("called 'started' twice on the same task status")
        self.has_started = True
        self.is_settled.set()


@final
class ServeTask:
    """One asynchronous function that runs while the service does.

    It calls `task_status.started()` when the service is started; it is cancelled to stop it;
    if it returns or raises before that, the service has failed.
    """

    start_name: ClassVar[str] = "serve"
    stop_name: ClassVar[str] = "the cancelled serve"
    may_be_left_over: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Awaitable[object]]) -> None:
        self._function: Final = function
        self._waits: Final = _Uninterruptible()
        self._serving: _Serving | None = None
        self._nursery: trio.Nursery | None = None
        self._on_end: Callable[[str], None] = lambda _: None

    def attach(self, nursery: trio.Nursery, on_end: Callable[[str], None]) -> None:
        self._nursery, self._on_end = nursery, on_end

    async def end_left_over(self) -> None:
        """A task ends with its program."""

    def abandon(self) -> bool:
        return self._waits.abandon()

    async def start(self, why: RoleChange) -> None:
        ensure(self._serving is None, "one serve task at a time")
        if self._nursery is None:
            raise LocalUsageError("the service does not run; call Service.run first")
        serving = self._serving = _Serving()
        self._nursery.start_soon(self._serve, serving, why)
        await serving.is_settled.wait()  # if it is over, `on_end` has said so

    async def stop(self, why: RoleChange) -> None:
        serving = self._serving
        if serving is None:
            return
        serving.scope.cancel()
        with self._waits.waiting():
            await serving.is_over.wait()
        self._serving = None

    async def enforce_stop(self) -> None:
        """Cancelling it was all that can be done."""

    async def _serve(self, serving: _Serving, why: RoleChange) -> None:
        with serving.scope:
            outcome = await contain(lambda: self._function(why, task_status=serving))
            how = outcome.text if isinstance(outcome, Raised) else "it returned"
            before = "" if serving.has_started else " before task_status.started() was called"
            self._on_end(how + before)
        serving.is_settled.set()
        serving.is_over.set()
