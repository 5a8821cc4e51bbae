"""A node, its management API and the signals that end both, in one process."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import trio

from mirrorha.api import ManagedNode, ManagementApi
from mirrorha.cli.systemd import Systemd
from mirrorha.errors import CommandRefusedError, LocalUsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.cli.log import NodeLog

#: A stop is refused while another one is under way.
ASK_AGAIN_S: Final = 0.5

_log: Final = logging.getLogger("mirrorha")


class RunnableNode(ManagedNode, Protocol):
    """What is run: `mirrorha.Cluster`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Be the node until cancelled."""


async def run_node(node: RunnableNode, path: Path, stop_limit_s: float, log: NodeLog) -> bool:
    """Run `node` with its API at `path` until SIGTERM or SIGINT. Needs the main thread.

    Returns whether it had stopped in good order.

    Raises:
        MirrorHAError: it cannot be started, or must not go on; the text says why.
    """
    systemd = Systemd()
    ending = Ending(node, stop_limit_s=stop_limit_s, told=systemd.tell_stopping)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(ending.run, nursery.cancel_scope)
            nursery.start_soon(log.label.follow, node.events())
            await nursery.start(ManagementApi(node, path=path, log=log.lines).serve)
            await nursery.start(node.run)
            systemd.tell_ready()
            nursery.start_soon(systemd.follow, node)
            nursery.start_soon(systemd.keep_watchdog)
            _log.info("%s runs; it is asked at %s", log.label.node, path)
    except BaseExceptionGroup as group:
        raise plainest(group) from None
    return ending.in_order


@final
class Ending:
    """Ends a node on a signal: in good order, and on a second one at once."""

    def __init__(
        self, node: ManagedNode, *, stop_limit_s: float, told: Callable[[float], None]
    ) -> None:
        """Give the stop of `node` at most `stop_limit_s` seconds.

        `told` hears that it begins, and within how many seconds this process has ended.
        """
        self._node: Final = node
        self._told: Final = told
        self._stop_limit_s: Final = stop_limit_s
        self.in_order = False

    async def run(
        self,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Wait for the signals; cancel `scope` when the node has ended."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            number = await anext(signals)
            _log.info("%s: stopping; once more ends at once", signal.Signals(number).name)
            # A node that did not stop in time stops its service as it ends: as long again.
            self._told(2 * self._stop_limit_s)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop, scope)
                await anext(signals)
                _log.warning("ended before the stop was over")
                scope.cancel()

    async def _stop(self, scope: trio.CancelScope) -> None:
        with trio.move_on_after(self._stop_limit_s):
            self.in_order = await self._stop_in_order()
        if not self.in_order:
            _log.warning("not stopped within %g s; ended nevertheless", self._stop_limit_s)
        scope.cancel()

    async def _stop_in_order(self) -> bool:
        while True:
            try:
                text = await self._node.stop()
            except CommandRefusedError as refused:
                _log.info("stop: %s", refused)
                await trio.sleep(ASK_AGAIN_S)
            except LocalUsageError as error:  # it has not begun to run: there is nothing to stop
                _log.info("stop: %s", error)
                return True
            else:
                _log.info("stopped: %s", text)
                return True


def plainest(group: BaseExceptionGroup[Any]) -> BaseException:
    """The one error that a group is about, without the group; the group if there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
