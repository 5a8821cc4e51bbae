"""The demonstration's node, whose event loop SIGUSR1 blocks for a while, as a bad call would."""

from __future__ import annotations

import signal
import time
from typing import Final

from mirrorha.cli.demo import node

BLOCK_S: Final = 4.0


def block(_number: int, _frame: object) -> None:
    time.sleep(BLOCK_S)  # in the main thread, where trio's loop is; the other threads go on


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, block)
    node.main()
