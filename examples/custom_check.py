"""A check of your own: an async function. When it fails twice in a row, the service is restarted.

`python custom_check.py` in one terminal, `python custom_check.py --node lyon` in another. This
service breaks by itself after a few seconds; the check finds it, and the node starts it again.
"""

from __future__ import annotations

import argparse
import itertools
import time

import one_machine
import trio

import mirrorha
from mirrorha.errors import CheckFailedError

WELL_S = 2.0
SILENT_S_MAX = 0.5


class Pulse:
    """A service that says now and then that it lives, and falls silent after a while."""

    def __init__(self) -> None:
        self._beaten_at_s = 0.0

    async def serve(self, why: mirrorha.RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
        self._beaten_at_s = began_s = time.monotonic()
        task_status.started()
        print(f"started: {why.why}", flush=True)
        for beats in itertools.count(1):
            await trio.sleep(0.1)
            self._beaten_at_s = time.monotonic()
            if self._beaten_at_s - began_s > WELL_S:
                print(f"silent after {beats} beats", flush=True)
                await trio.sleep_forever()

    async def check(self) -> None:
        """Return if it is well; raise what is wrong, for the operator, if not."""
        silent_s = time.monotonic() - self._beaten_at_s
        if silent_s > SILENT_S_MAX:
            raise CheckFailedError(f"no beat for {silent_s:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", help="a cluster.toml; without it a trial on this machine")
    parser.add_argument("--node", default="paris", help="which node this is")
    options = parser.parse_args()
    config = options.config or one_machine.trial_config()

    cluster = mirrorha.Cluster(mirrorha.load_toml(config, node=options.node))
    pulse = Pulse()
    cluster.serve(pulse.serve)
    check = mirrorha.checks.Custom(pulse.check)
    # "hand_over" would let the other node take over; "stop" and "none" are the other two.
    cluster.check(mirrorha.Checker(check, every_s=0.3, fall=2, on_failure="restart", name="pulse"))
    try:
        # Ctrl-C ends the node, and is never an error of whatever happened to run then.
        trio.run(cluster.run, restrict_keyboard_interrupt_to_checkpoints=True)
    except KeyboardInterrupt:
        print("ended", flush=True)


if __name__ == "__main__":
    main()
