"""Sequential logic for a pure machine: generators that ask, and a scheduler that answers them.

A task is a generator. It yields a step, is resumed with the step's result, and never blocks
anybody: what it waits for comes back as an event. Many tasks run beside each other; a step that
can be answered at once is, and the tasks that can go on do so in the order in which they became
able to. Nothing here knows what the tasks are for.

A failure inside a task leaves `run` as the exception it is; the tasks are useless from then on.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, final

from mirrorha.errors import ensure
from mirrorha.volume.disk import AnyRequest, Many
from mirrorha.volume.events import DiskCall, Lane, Reported, Send

T = TypeVar("T")


@final
class Call(NamedTuple):
    """Have the disk perform a request. Result: the request's."""

    request: AnyRequest
    lane: Lane | None = None  # None: the usual one of these tasks


@final
class CallAll(NamedTuple):
    """Have the disk perform requests in this order, as one. Result: a list of theirs."""

    requests: Sequence[AnyRequest]


@final
class Receive(NamedTuple):
    """Wait for the next thing in a box. Result: that thing."""

    box: Box[Any]


@final
class Take(NamedTuple):
    """Take `amount` out of a pool, waiting until it is there; served in order. Result: None.

    More than the pool's capacity can never be there: it counts as all of it.
    """

    pool: Pool
    amount: int


# What tasks want done.
TaskEffect = Send | DiskCall | Reported
Step = Call | CallAll | Receive | Take | Send | Reported
Steps = Generator[Step, Any, T]


@final
class Tasks:
    """Runs tasks. `run` returns what they want done; `finish` and boxes bring back what came.

    Args:
        lane: Where requests go that name no other lane.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane: Final = lane
        self._tokens: Final = itertools.count(1)
        self._calls: Final[dict[int, Steps[None]]] = {}
        self._ready: Final[deque[tuple[Steps[None], Any]]] = deque()
        self._effects: list[TaskEffect] = []

    @property
    def is_calling(self) -> bool:
        """Whether the disk has yet to answer something."""
        return bool(self._calls)

    def spawn(self, steps: Steps[None]) -> None:
        """Add a task. It begins at the next `run`, or in the one that is under way."""
        self._ready.append((steps, None))

    def finish(self, token: int, result: object) -> None:
        """Take in what the disk answered to the `DiskCall` with this token, once."""
        ensure(token in self._calls, "the disk answers what it was asked")
        self._ready.append((self._calls.pop(token), result))

    def emit(self, effect: TaskEffect) -> None:
        """Have something done for which no task waits, after all that was asked so far."""
        self._effects.append(effect)

    def run(self) -> list[TaskEffect]:
        """Let every task go on until all wait. Returns the effects in the order they were asked."""
        while self._ready:
            self._advance(*self._ready.popleft())
        effects, self._effects = self._effects, []
        return effects

    def wake(self, task: Steps[None], result: object) -> None:
        """For boxes and pools: `task` has what it waited for."""
        self._ready.append((task, result))

    def _advance(self, task: Steps[None], result: object) -> None:
        is_answered = True
        while is_answered:
            try:
                step = task.send(result)
            except StopIteration:
                return
            is_answered, result = self._perform(task, step)

    def _perform(self, task: Steps[None], step: Step) -> tuple[bool, object]:
        """Begin a step. Returns whether it is over already, and its result."""
        match step:
            case Send() | Reported():
                self._effects.append(step)
                return True, None
            case Call(request, lane):
                self._call(task, request, lane)
                return False, None
            case CallAll(requests):
                if requests:
                    self._call(task, Many(list(requests)), None)
                return not requests, []
            case Receive(box):
                is_waiting = box.is_waiting(task)
                return not is_waiting, None if is_waiting else box.pop()
            case Take(pool, amount):
                return pool.take(task, amount), None

    def _call(self, task: Steps[None], request: AnyRequest, lane: Lane | None) -> None:
        token = next(self._tokens)
        self._calls[token] = task
        self._effects.append(DiskCall(token, self._lane if lane is None else lane, request))


@final
class Box(Generic[T]):
    """Things put in, in order, for one task to receive."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks: Final = tasks
        self._things: Final[deque[T]] = deque()
        self._waiting: Steps[None] | None = None

    def __len__(self) -> int:
        return len(self._things)

    def put(self, thing: T) -> None:
        """Put something in; never blocks."""
        if self._waiting is not None:
            task, self._waiting = self._waiting, None
            self._tasks.wake(task, thing)
        else:
            self._things.append(thing)

    def pop(self) -> T:
        """Take the first thing, which is there."""
        return self._things.popleft()

    def is_waiting(self, task: Steps[None]) -> bool:
        """For the scheduler: with nothing to receive `task` waits from now on."""
        if self._things:
            return False
        ensure(self._waiting is None, "one task receives from a box")
        self._waiting = task
        return True


@final
class Pool:
    """Something countable of which there is so much: places, bytes.

    Args:
        tasks: Whose tasks take from it.
        capacity: How much there is, and is at the beginning.
    """

    def __init__(self, tasks: Tasks, capacity: int) -> None:
        ensure(capacity > 0, "a pool holds something")
        self._tasks: Final = tasks
        self._capacity = capacity
        self._free = capacity
        self._waiting: Final[deque[tuple[Steps[None], int]]] = deque()

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def taken(self) -> int:
        """How much of it is in use."""
        return self._capacity - self._free

    def put(self, amount: int) -> None:
        """Give back what was taken."""
        amount = min(amount, self._capacity)
        ensure(amount <= self.taken, "only what was taken is given back")
        self._free += amount
        self._serve()

    def resize(self, capacity: int) -> None:
        """Change how much there is. What is taken stays taken."""
        ensure(capacity > 0, "a pool holds something")
        self._free += capacity - self._capacity
        self._capacity = capacity
        self._serve()

    def take(self, task: Steps[None], amount: int) -> bool:
        """For the scheduler: take, or let `task` wait from now on."""
        amount = min(amount, self._capacity)
        if self._waiting or self._free < amount:
            self._waiting.append((task, amount))
            return False
        self._free -= amount
        return True

    def _serve(self) -> None:
        while self._waiting:
            task, amount = self._waiting[0]
            amount = min(amount, self._capacity)
            if self._free < amount:
                return
            self._free -= amount
            self._waiting.popleft()
            self._tasks.wake(task, None)
