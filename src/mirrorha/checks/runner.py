"""Run a check now and then, and tell what it amounts to."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final, Literal, final, get_args

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.containment import Raised, contain
from mirrorha.errors import ConfigError, ensure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: How long an attempt that was cancelled may take to end, before the next one fails for it.
ENDING_S: Final = 0.2

OnFailure = Literal["restart", "hand_over", "stop", "none"]
When = Literal["serving", "second", "always"]


class Situation(enum.Enum):
    """What this node does for the service, as far as checks care."""

    SERVING = "serving"  # the service is started
    SECOND = "second"  # it stands by
    NEITHER = "neither"  # starting, stopping, waiting, paused


_APPLIES: Final[dict[When, frozenset[Situation]]] = {
    "serving": frozenset({Situation.SERVING}),
    "second": frozenset({Situation.SECOND}),
    "always": frozenset(Situation),
}


class CheckState(enum.Enum):
    """What a check amounts to. Only FAILED calls for anything."""

    PAUSED = "paused"  # it does not apply now
    UNKNOWN = "unknown"  # it applies, and has not been tried often enough to tell
    WELL = "well"
    FAILED = "failed"


@final
@attrs.frozen
class Checker:
    """A check, how often it is made, and what follows when it fails.

    Args:
        check: One of `mirrorha.checks`, or your own `mirrorha.abc.Check`.
        every_s: Seconds from the start of one attempt to the start of the next; also from the
            moment the check begins to apply to the first, so that a service which says that it
            is started a moment early is not restarted for it.
        timeout_s: Seconds until an attempt that has not returned has failed; None: `every_s`.
        fall: Failed attempts in a row until the check has failed. By default two, for one refused
            connection under load must not cost a restart; one where what is seen is certain, as
            that a process has ended.
        rise: Good attempts in a row until it is well again.
        on_failure: What is done then, where the service runs: "restart" it in place, "hand_over"
            to the peer, "stop", or "none" (it is only shown). A node that stands by does not take
            over while a check of it has failed, unless that has "none".
        when: "serving": while the service is started; "second": on a node that stands by;
            "always". Each start of the service begins anew, so that what had failed before it
            fails again, and is acted on.
        name: How it is shown; by default what is checked.

    Raises:
        ConfigError: a value is out of range; the error lists all of them.
    """

    check: Check
    every_s: float = attrs.field(default=5.0, kw_only=True)
    timeout_s: float | None = attrs.field(default=None, kw_only=True)
    fall: int = attrs.field(kw_only=True)
    rise: int = attrs.field(default=1, kw_only=True)
    on_failure: OnFailure = attrs.field(default="restart", kw_only=True)
    when: When = attrs.field(default="serving", kw_only=True)
    name: str = attrs.field(default="", kw_only=True)

    @fall.default
    def _usual_fall(self) -> int:
        return getattr(self.check, "fall", Check.fall)

    def __attrs_post_init__(self) -> None:
        problems = []
        for name, seconds in (("every_s", self.every_s), ("timeout_s", self.limit_s)):
            if not 0 < seconds < math.inf:
                problems.append(f"check.{name}: expected a number of seconds, not {seconds}")
        for name, times in (("fall", self.fall), ("rise", self.rise)):
            if times < 1:
                problems.append(f"check.{name}: expected 1 or more, not {times}")
        for name, value, words in (
            ("on_failure", self.on_failure, get_args(OnFailure)),
            ("when", self.when, get_args(When)),
        ):
            if value not in words:
                problems.append(f"check.{name}: expected one of {', '.join(words)}, not {value!r}")
        given: object = self.check
        if not isinstance(given, Check):
            problems.append(f"check: expected a mirrorha.abc.Check, not {given!r}")
        if problems:
            raise ConfigError(tuple(problems))

    @property
    def title(self) -> str:
        """How it is shown."""
        is_described = type(self.check).__str__ is not object.__str__
        return self.name or (str(self.check) if is_described else self.check.kind)

    @property
    def limit_s(self) -> float:
        """Seconds until an attempt has failed."""
        return self.every_s if self.timeout_s is None else self.timeout_s

    def applies(self, situation: Situation) -> bool:
        """Whether the check is made in `situation`."""
        return situation in _APPLIES[self.when]


@final
@attrs.define
class Hysteresis:
    """Turns single attempts into a verdict: `fall` failures in a row, `rise` successes."""

    fall: int
    rise: int
    state: CheckState = CheckState.UNKNOWN
    in_a_row: int = 0  # attempts with the latest outcome
    _latest: bool | None = None

    def observe(self, *, is_well: bool) -> CheckState:
        """Count one attempt, and return what it amounts to now."""
        ensure(self.fall >= 1 and self.rise >= 1, "a verdict needs an attempt")
        self.in_a_row = self.in_a_row + 1 if is_well is self._latest else 1
        self._latest = is_well
        if is_well and self.in_a_row >= self.rise:
            self.state = CheckState.WELL
        elif not is_well and self.in_a_row >= self.fall:
            self.state = CheckState.FAILED
        return self.state

    def reset(self) -> None:
        """Forget everything: what comes next is another life of the service."""
        self.state, self.in_a_row, self._latest = CheckState.UNKNOWN, 0, None


@final
@attrs.frozen(kw_only=True)
class CheckReport:
    """A check as it stands, for the status document and for whoever acts on it.

    Attributes:
        changed: whether `state` is another than in the report before.
        text: what the latest attempt saw; empty if it was well or there was none.
        in_a_row: how many attempts had that outcome, the latest included.
        duration_ms: how long it took.
    """

    name: str
    kind: str
    on_failure: OnFailure
    state: CheckState = CheckState.PAUSED
    changed: bool = False
    text: str = ""
    in_a_row: int = 0
    duration_ms: int = 0


@attrs.define(eq=False)
class _Attempt:
    """One call of the check, in a task of its own."""

    began: float = attrs.field(factory=trio.current_time)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    is_over: bool = False
    text: str = ""  # what is wrong


@final
class CheckRunner:
    """Makes one check for as long as it applies, never twice at once.

    Whatever the check does, raise, hang or refuse to be cancelled, it is reported as failed and
    the node goes on. `report` is called after every attempt and whenever the state changes.
    """

    def __init__(self, checker: Checker, report: Callable[[CheckReport], None]) -> None:
        self.checker: Final = checker
        self.latest = CheckReport(
            name=checker.title, kind=checker.check.kind, on_failure=checker.on_failure
        )
        self._report: Final = report
        self._hysteresis: Final = Hysteresis(checker.fall, checker.rise)
        self._situation = Situation.NEITHER
        self._life = 0  # counts how often it began or ceased to apply, or the service started
        self._attempt: _Attempt | None = None  # the latest; or the latest wait for a sign
        self._can_watch = True
        self._stirred = trio.Event()

    def set_situation(self, situation: Situation) -> None:
        """Say what the node does now.

        Where the check ceases to apply, its past is forgotten; and where a service starts, which
        has done nothing wrong yet, and is to be acted on if what failed before fails still.
        """
        former, self._situation = self._situation, situation
        if former is situation:
            return
        is_start = situation is Situation.SERVING and self._applies
        if is_start or self._applies is not self.checker.applies(former):
            self._life += 1
            self._stir()

    @property
    def _applies(self) -> bool:
        return self.checker.applies(self._situation)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check and report until cancelled."""
        async with trio.open_nursery() as attempts:
            task_status.started()
            while True:
                await self._wait_for(lambda: self._applies)
                self._publish()
                await self._run_life(self._life, attempts)
                self._hysteresis.reset()
                self._publish()

    async def _run_life(self, life: int, attempts: trio.Nursery) -> None:
        """Make attempts until the check ceases to apply."""
        due = trio.current_time()
        self._can_watch = False  # nothing was seen well yet
        while True:
            # Not "every_s after the last", or a slow check would be made less often; but what
            # was missed while the whole program stood still is not made up for.
            due = max(due + self.checker.every_s, trio.current_time())
            is_sign = await self._wait_turn(life, due, attempts)
            if self._life != life:
                return
            due = min(due, trio.current_time())
            attempt = await self._try(life, attempts)
            if self._life != life:  # what was seen belongs to a life that is over
                return
            # No second sign before the next attempt is due: one that always cries would keep the
            # node busy.
            self._can_watch = not attempt.text and not is_sign
            self._hysteresis.observe(is_well=not attempt.text)
            self._publish(attempt)

    async def _wait_turn(self, life: int, due: float, attempts: trio.Nursery) -> bool:
        """Wait until it is time for an attempt, and return whether that is because of a sign."""
        if not self._can_watch:
            await self._wait_for(lambda: self._life != life, until=due)
            return False
        watch = self._attempt = _Attempt()
        attempts.start_soon(self._make, watch, self.checker.check.wait_unwell)
        is_sign = await self._wait_for(lambda: watch.is_over or self._life != life, until=due)
        watch.scope.cancel()
        # If it refuses to end, the attempt that is due says so.
        await self._wait_for(
            lambda: watch.is_over, until=trio.current_time() + self.checker.limit_s
        )
        return is_sign

    async def _ends(self, attempt: _Attempt) -> bool:
        """Whether what was cancelled has ended, after a moment at most."""
        return await self._wait_for(lambda: attempt.is_over, until=trio.current_time() + ENDING_S)

    async def _try(self, life: int, attempts: trio.Nursery) -> _Attempt:
        """Make one attempt; whatever happens, it is judged after `limit_s` at the latest."""
        former = self._attempt
        if former is not None and not await self._ends(former):
            stuck_s = round(trio.current_time() - former.began)
            text = f"the attempt begun {stuck_s} s ago was interrupted, and has not ended yet"
            return _Attempt(text=text)
        attempt = self._attempt = _Attempt()
        attempts.start_soon(self._make, attempt, self.checker.check.check)
        await self._wait_for(
            lambda: attempt.is_over or self._life != life,
            until=attempt.began + self.checker.limit_s,
        )
        if not attempt.is_over:
            attempt.scope.cancel()
            attempt.text = f"no answer within {self.checker.limit_s:g} s"
        return attempt

    async def _make(self, attempt: _Attempt, call: Callable[[], Awaitable[None]]) -> None:
        with attempt.scope:
            outcome = await contain(call)
            if isinstance(outcome, Raised) and not attempt.text:
                attempt.text = outcome.text
        attempt.is_over = True
        self._stir()

    def _publish(self, attempt: _Attempt | None = None) -> None:
        state = self._hysteresis.state if self._applies else CheckState.PAUSED
        took_s = trio.current_time() - attempt.began if attempt is not None else 0
        self.latest = attrs.evolve(
            self.latest,
            state=state,
            changed=state is not self.latest.state,
            text=attempt.text if attempt is not None else "",
            in_a_row=self._hysteresis.in_a_row if attempt is not None else 0,
            duration_ms=round(took_s * 1000),
        )
        self._report(self.latest)

    def _stir(self) -> None:
        self._stirred.set()
        self._stirred = trio.Event()

    async def _wait_for(self, holds: Callable[[], bool], *, until: float = math.inf) -> bool:
        """Wait until `holds()` or the time has come, and return whether it holds."""
        with trio.move_on_at(until):
            while not holds():
                await self._stirred.wait()
        return holds()
