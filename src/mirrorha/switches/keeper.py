"""The reconcile loop of a switch: who should hold it, who does, and what is done about it."""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, final, get_args

import attrs
import trio

from mirrorha.abc import Switch
from mirrorha.containment import Raised, contain
from mirrorha.errors import ConfigError, SwitchError, describe

if TYPE_CHECKING:
    from collections.abc import Callable

SwitchWhen = Literal["before_start", "after_start"]

#: After a failure it is tried again this soon, and then twice as long after each time, at most
#: `every_s`: the other node may be about to let go of what we are to take.
RETRY_S: Final = 0.1
#: Put right so often in so long, it is a quarrel, of which a person should know.
QUARREL_TIMES: Final = 3
QUARREL_S: Final = 60.0
#: What a node that ends waits for clients to be sent elsewhere.
END_S: Final = 3.0


class SwitchState(enum.Enum):
    """How a switch stands, as far as is known."""

    UNKNOWN = "unknown"  # not looked at yet
    MOVING = "moving"
    ENGAGED = "engaged"
    DISENGAGED = "disengaged"
    FAILED = "failed"  # not as it should be, and tried again


@final
@attrs.frozen
class SwitchRule:
    """A switch, and when it is moved.

    Args:
        switch: One of `mirrorha.switches`, or your own `mirrorha.abc.Switch`.
        when: "before_start": clients are sent here before the service starts, which may need it
            (it binds to the address), and until it has stopped; "after_start": only while it is
            started.
        every_s: Seconds between two looks whether it is as it should be.
        timeout_s: Seconds after which an attempt that has not ended is cancelled.
        name: How it is shown; by default what the switch calls itself.

    Raises:
        ConfigError: a value is out of range; the error lists all of them.
    """

    switch: Switch
    when: SwitchWhen = attrs.field(default="before_start", kw_only=True)
    every_s: float = attrs.field(default=3.0, kw_only=True)
    timeout_s: float = attrs.field(default=10.0, kw_only=True)
    name: str = attrs.field(default="", kw_only=True)

    def __attrs_post_init__(self) -> None:
        problems = []
        for name, seconds in (("every_s", self.every_s), ("timeout_s", self.timeout_s)):
            if not 0 < seconds < math.inf:
                problems.append(f"switch.{name}: expected a number of seconds, not {seconds}")
        if self.when not in get_args(SwitchWhen):
            words = " or ".join(get_args(SwitchWhen))
            problems.append(f"switch.when: expected {words}, not {self.when!r}")
        given: object = self.switch
        if not isinstance(given, Switch):
            problems.append(f"switch: expected a mirrorha.abc.Switch, not {given!r}")
        if problems:
            raise ConfigError(tuple(problems))

    @property
    def title(self) -> str:
        """How it is shown."""
        is_described = type(self.switch).__str__ is not object.__str__
        return self.name or (str(self.switch) if is_described else self.switch.kind)


@final
@attrs.frozen(kw_only=True)
class SwitchReport:
    """A switch as it stands.

    Attributes:
        wanted: whether clients should reach this node.
        text: what is wrong, in a sentence; empty if nothing is.
    """

    name: str
    kind: str
    wanted: bool = False
    state: SwitchState = SwitchState.UNKNOWN
    text: str = ""


@final
class SwitchKeeper:
    """Brings one switch where it should be and keeps it there, one call at a time.

    Whatever the switch does, raise or hang, the node goes on: it is reported, and tried again.
    `report` is called whenever what there is to tell changes.
    """

    def __init__(self, rule: SwitchRule, report: Callable[[SwitchReport], None]) -> None:
        self.rule: Final = rule
        self.latest = SwitchReport(name=rule.title, kind=rule.switch.kind)
        self._switch: Final = rule.switch
        self._report: Final = report
        self._wanted = False
        self._changes = 0  # how often that changed
        self._is_news = False  # no attempt has ended since
        self._scope: trio.CancelScope | None = None
        self._stirred = trio.Event()
        self._settled = trio.Event()
        self._settled.set()
        self._put_right: Final = deque[float](maxlen=QUARREL_TIMES)  # when somebody had changed it
        self._hope_until: float | None = None  # what is in the way may go by itself
        self._moved = trio.Event()

    def set_wanted(self, wanted: bool) -> None:
        """Say whether clients should reach this node. Ends an attempt at the contrary. At once."""
        if wanted is self._wanted:
            return
        self._wanted = wanted
        self._changes += 1
        self._is_news = True
        self._settled = trio.Event()
        self._hope_until = None
        self._moved.set()
        if self._scope is not None:
            self._scope.cancel()
        self._stirred.set()

    async def wait_settled(self) -> None:
        """Wait until what is wanted was attempted, well or not. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self._settled.is_set():
            await self._settled.wait()

    async def wait_hopefully(self) -> None:
        """Wait until it is engaged, if what is in the way may go by itself, for so long at most."""
        if not self._wanted or self._hope_until is None:
            return
        changes = self._changes
        with trio.move_on_at(self._hope_until):
            while self._changes == changes and self.latest.state is not SwitchState.ENGAGED:
                self._moved = trio.Event()
                await self._moved.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reconcile until cancelled; then clients are stopped from reaching this node, bounded."""
        task_status.started()
        failures = 0
        try:
            while True:
                self._stirred = trio.Event()
                failures = 0 if await self._round() else failures + 1
                pause_s = self.rule.every_s
                if failures:
                    pause_s = min(pause_s, RETRY_S * 2 ** min(failures - 1, 16))
                with trio.move_on_after(pause_s):
                    await self._stirred.wait()
        finally:
            self._wanted = False
            self._settled.set()
            with trio.CancelScope(shield=True), trio.move_on_after(END_S):
                await self._make_so(is_news=True, wanted=False)

    async def _round(self) -> bool:
        """Look and act once. Returns whether all is as it should be, or is about to change."""
        wanted, changes, is_news = self._wanted, self._changes, self._is_news
        if is_news:
            self._publish(SwitchState.MOVING)
        text = await self._make_so(is_news=is_news, wanted=wanted)
        if self._changes != changes:
            return True  # another attempt follows at once
        self._is_news = False
        quarrel = "" if text else self._quarrel()
        if text or quarrel:
            trouble = "serving, traffic not moved" if wanted else "traffic may still come here"
            self._publish(SwitchState.FAILED, f"{trouble}: {text or quarrel}")
        else:
            self._publish(SwitchState.ENGAGED if wanted else SwitchState.DISENGAGED)
        self._settled.set()
        return not text

    async def _make_so(self, *, is_news: bool, wanted: bool) -> str:
        """One attempt, contained and bounded. Returns what is wrong, or ""."""
        scope = self._scope = trio.CancelScope()
        try:
            with scope, trio.move_on_after(self.rule.timeout_s):
                outcome = await contain(lambda: self._attempt(is_news=is_news, wanted=wanted))
                return self._trouble(outcome.error) if isinstance(outcome, Raised) else ""
        finally:
            self._scope = None
        return f"no answer within {self.rule.timeout_s:g} s"

    def _trouble(self, error: BaseException) -> str:
        if isinstance(error, SwitchError) and error.passes_within_s and self._hope_until is None:
            # It is tried again every so often, and no later than that.
            within_s = error.passes_within_s + self.rule.every_s
            self._hope_until = trio.current_time() + within_s
        return describe(error)

    async def _attempt(self, *, is_news: bool, wanted: bool) -> None:
        # What changed is acted upon at once; what should not have changed is looked at first.
        if not is_news and await self._switch.is_engaged() is wanted:
            if wanted:
                await self._switch.renew()
            return
        if wanted:
            await self._switch.engage()
        else:
            await self._switch.disengage()
        if not is_news:
            self._put_right.append(trio.current_time())

    def _quarrel(self) -> str:
        """Whether somebody else changes it again and again, or ""."""
        latest = self._put_right
        if len(latest) < QUARREL_TIMES or trio.current_time() - latest[0] > QUARREL_S:
            return ""
        return (
            "it is changed again and again by somebody else: another program, or another cluster "
            "on this machine that was given the same?"
        )

    def _publish(self, state: SwitchState, text: str = "") -> None:
        before = self.latest
        self.latest = attrs.evolve(before, wanted=self._wanted, state=state, text=text)
        if self.latest != before:
            self._moved.set()
            self._report(self.latest)
