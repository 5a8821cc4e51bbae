"""Commands under way, each with an id and a definite outcome that can be asked for later.

A command runs in a task of its own: the client that asked may leave, and it goes on.
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from mirrorha.api.problems import SCHEMA
from mirrorha.containment import Raised, contain
from mirrorha.errors import CommandRefusedError, LocalUsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: More at once are no operator's; and how many outcomes are remembered.
RUNNING_MAX: Final = 16
REMEMBERED_MAX: Final = 256

_log: Final = logging.getLogger(__name__)


class OperationState(enum.Enum):
    """What has become of a command."""

    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@final
@attrs.define(eq=False)
class Operation:
    """One command. `text` says what was done, or why not."""

    id: str
    command: str
    state: OperationState = OperationState.RUNNING
    text: str = ""
    ended: trio.Event = attrs.field(factory=trio.Event)

    def document(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "schema": SCHEMA,
            "operation": self.id,
            "command": self.command,
            "state": self.state.value,
            "text": self.text,
        }


@final
class Operations:
    """Runs commands in a nursery that outlives their clients' connections."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._known: Final[OrderedDict[str, Operation]] = OrderedDict()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let commands run until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def get(self, operation_id: str) -> Operation | None:
        """The operation, unless it ended too long ago or never was."""
        return self._known.get(operation_id)

    def begin(self, command: str, call: Callable[[], Awaitable[str]]) -> Operation | None:
        """Start `call`; None if too many are under way. Must be called while `run` runs."""
        running = sum(not each.ended.is_set() for each in self._known.values())
        if self._nursery is None or running >= RUNNING_MAX:
            return None
        operation = Operation(id=f"{command}-{secrets.token_hex(4)}", command=command)
        self._known[operation.id] = operation
        self._forget()
        self._nursery.start_soon(self._carry_out, operation, call)
        return operation

    def _forget(self) -> None:
        for name in [name for name, each in self._known.items() if each.ended.is_set()]:
            if len(self._known) <= REMEMBERED_MAX:
                return
            del self._known[name]

    async def _carry_out(self, operation: Operation, call: Callable[[], Awaitable[str]]) -> None:
        outcome = await contain(call)
        if not isinstance(outcome, Raised):
            operation.state, operation.text = OperationState.DONE, outcome.value
        elif isinstance(outcome.error, CommandRefusedError | LocalUsageError):
            operation.state, operation.text = OperationState.REFUSED, str(outcome.error)
        else:
            operation.state, operation.text = OperationState.FAILED, outcome.text
            _log.error("%s failed", operation.id, exc_info=outcome.error)
        operation.ended.set()
