"""Finds what people should be told: what has begun and what is over, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from mirrorha.checks.runner import CheckState
from mirrorha.core.health import colour_of, why_of
from mirrorha.core.words import Colour, Role
from mirrorha.notify import Notice, Outbox
from mirrorha.switches.keeper import SwitchState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import trio

    from mirrorha.checks.runner import CheckReport
    from mirrorha.core.state import State
    from mirrorha.notify import NotifyRule, Subject
    from mirrorha.switches.keeper import SwitchReport

#: What ends by itself within this time is nobody's business: a connection that is made anew, an
#: address that the other node is about to let go of. Checks have a patience of their own.
BEGIN_AFTER_MS: Final[dict[Subject, int]] = {
    "role": 0,
    "split": 0,
    "check": 0,
    "degraded": 5_000,
    "switch": 5_000,
}
#: It is over once it has not been there for so long: what comes and goes is told once.
OVER_AFTER_MS: Final = 30_000


@attrs.define
class _Condition:
    """Something that is the case, or was lately."""

    subject: Subject
    since_ms: int
    seen_ms: int
    text: str = ""
    is_told: bool = False


@attrs.frozen(kw_only=True)
class Sight:
    """What of a node people are told.

    Attributes:
        since_why: why it has the role that it has.
        why: what it waits for, or why it is as it is.
        split: names the split that is not healed yet, or "".
        kept: directories in which its side of a split lies, until a person has seen them.
    """

    node: str
    role: Role
    epoch: int
    since_why: str
    why: str
    colour: Colour
    split: str = ""
    kept: tuple[str, ...] = ()
    checks: Sequence[CheckReport] = ()
    switches: Sequence[SwitchReport] = ()

    def found(self) -> Iterator[tuple[Subject, str, str]]:
        """What is the case: a subject, which one of it, and a sentence."""
        if self.split:
            text = "both nodes acknowledged writes apart from each other"
            yield "split", self.split, f"{text}: {self.why}"
        elif self.kept:
            yield "split", "kept", f"what this node alone had is kept in {', '.join(self.kept)}"
        if self._is_degraded:
            yield "degraded", "", f"{self.colour.value}: {self.why}"
        for check in self.checks:
            if check.state is CheckState.FAILED:
                yield "check", check.name, f"{check.name}: {check.text}"
        for switch in self.switches:
            if switch.state is SwitchState.FAILED:
                yield "switch", switch.name, f"{switch.name}: {switch.text}"

    @property
    def _is_degraded(self) -> bool:
        if self.role is Role.STOP:
            return False  # whoever stopped it knows
        return self.colour is Colour.RED or (self.role.serves and self.colour is Colour.ORANGE)


def sight_of(
    state: State, *, checks: Sequence[CheckReport], switches: Sequence[SwitchReport]
) -> Sight:
    """What people are told of a node, from what the core knows and what stands around it."""
    return Sight(
        node=state.me,
        role=state.role,
        epoch=state.epoch,
        since_why=state.why,
        why=why_of(state),
        colour=colour_of(state),
        split=state.meta.split,
        kept=tuple(note.directory for note in state.meta.rescued),
        checks=checks,
        switches=switches,
    )


@final
class Notifying:
    """Looks at the node after each step, and has told what is new. Never blocks.

    Args:
        cluster: its name.
        wall_s: the time, in seconds since 1970.
    """

    def __init__(
        self, rules: Sequence[NotifyRule], *, cluster: str, wall_s: Callable[[], float]
    ) -> None:
        self._outboxes: Final = tuple(Outbox(rule) for rule in rules)
        self._cluster: Final = cluster
        self._wall_s: Final = wall_s
        self._role = Role.STOP
        self._conditions: Final = dict[str, _Condition]()

    def start(self, nursery: trio.Nursery) -> None:
        """Tell, in `nursery`, until it is cancelled."""
        for outbox in self._outboxes:
            nursery.start_soon(outbox.run)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody is to be told of anything."""
        return bool(self._outboxes)

    def look(self, sight: Sight, now_ms: int) -> None:
        """After each step of the core."""
        if sight.role is not self._role:
            before, self._role = self._role, sight.role
            self._tell(sight, "role", f"was {before.value}: {sight.since_why}")
        for subject, name, text in sight.found():
            self._see(f"{subject} {name}", subject, text, now_ms)
        self._settle(sight, now_ms)

    def _see(self, key: str, subject: Subject, text: str, now_ms: int) -> None:
        condition = self._conditions.get(key)
        if condition is None:
            condition = self._conditions[key] = _Condition(subject, now_ms, now_ms)
        condition.seen_ms = now_ms
        condition.text = text

    def _settle(self, sight: Sight, now_ms: int) -> None:
        for key, each in list(self._conditions.items()):
            is_there = each.seen_ms == now_ms
            if is_there and not each.is_told:
                if now_ms - each.since_ms >= BEGIN_AFTER_MS[each.subject]:
                    each.is_told = True
                    self._tell(sight, each.subject, each.text)
            elif not is_there and not each.is_told:
                del self._conditions[key]  # too short to be told
            elif not is_there and now_ms - each.seen_ms >= OVER_AFTER_MS:
                del self._conditions[key]
                self._tell(sight, each.subject, each.text, is_over=True)

    def _tell(self, sight: Sight, subject: Subject, text: str, *, is_over: bool = False) -> None:
        notice = Notice(
            subject=subject,
            is_over=is_over,
            cluster=self._cluster,
            node=sight.node,
            epoch=sight.epoch,
            role=sight.role.value,
            at_s=self._wall_s(),
            text=text,
        )
        for outbox in self._outboxes:
            outbox.put(notice)
