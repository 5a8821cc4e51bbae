"""`mirrorha run` with a fake node: `python node_of_a_test.py STATE_DIR BEHAVIOUR [LOG-FORMAT]`.

BEHAVIOUR: "well"; "slow": its stop never ends; "busy": it refuses to stop, twice; "broken": it
must not go on; "impatient": as slow, with a deadline for the stop that is soon over.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio
import trio.testing

from mirrorha.api import socket_path
from mirrorha.cli.log import Label, NodeLog
from mirrorha.cli.node_process import run_node
from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError, VolumeError
from tests.api.fake_node import FakeEvent, FakeNode


class Node(FakeNode):
    def __init__(self, behaviour: str) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.refusals = 2 if behaviour == "busy" else 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.tell(FakeEvent(role=Role.ALONE, epoch=9))
        await trio.testing.wait_all_tasks_blocked()
        if self.behaviour == "broken":
            raise VolumeError("/srv/orders is not mounted")
        task_status.started()
        await trio.sleep(60)
        raise AssertionError("nobody ended this node")

    async def stop(self) -> str:
        if self.refusals:
            self.refusals -= 1
            raise CommandRefusedError("this node is being stopped already")
        if self.behaviour in ("slow", "impatient"):
            await trio.sleep(60)
        return "lyon takes over"


def main() -> None:
    directory, behaviour, *form = sys.argv[1:]
    log = NodeLog(Label("paris"), fixed_format=form[0] if form else None)
    log.configure(level="info", format_="text")
    limit_s = 0.2 if behaviour == "impatient" else 30
    path = socket_path(Path(directory))
    in_order = trio.run(run_node, Node(behaviour), path, limit_s, log)
    print("in order" if in_order else "not in order")


if __name__ == "__main__":
    main()
