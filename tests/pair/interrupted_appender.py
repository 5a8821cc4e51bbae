"""A program that appends line after line to a file of a mount, and gets a signal all the time.

    python -m tests.pair.interrupted_appender FILE RECORD

A write that a signal interrupts (EINTR) is repeated, as programs do: if the first one was made all
the same, its line is there twice. RECORD gets the number of each line once `write` has returned,
and when; the first error, and its time, end it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import Final

SIGNAL_S: Final = 0.003


def main() -> None:
    path, record_path = sys.argv[1:]
    # The handler returns, and nothing restarts the call but Python, which repeats it.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_S, SIGNAL_S)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    record = os.open(record_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        line = b"%d\n" % number
        try:
            taken = os.write(file, line)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown")
            os.write(record, f"{name} {time.monotonic()}\n".encode())
            return
        if taken != len(line):
            os.write(record, f"short {time.monotonic()}\n".encode())
            return
        os.write(record, b"%d %f\n" % (number, time.monotonic()))
        number += 1


if __name__ == "__main__":
    main()
