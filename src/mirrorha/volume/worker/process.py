"""Where a worker's process begins: `python -m mirrorha.volume.worker DESCRIPTOR`.

Imports no trio: the hot path has no use for it, and it would double the start and the size.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

from mirrorha.volume.worker.serving import Worker


def allow_descriptors() -> None:
    """Let this process open as many files as it may: its callers' open files are its own.

    By habit programs may open 1024 and raise that themselves, for the sake of those that use
    select(); this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> NoReturn:
    """Serve one volume over the control socket that was passed; then leave, at once."""
    status = 1
    try:
        descriptor = int(sys.argv[1])
        os.set_inheritable(descriptor, False)
        allow_descriptors()
        # Whoever stops the application's whole process group or unit means that process, which
        # then ends this one in order; its death ends this one as well.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # To the application, which logs it: a file could lie on the very volume that is served.
        logging.basicConfig(
            level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr
        )
        Worker(socket.socket(fileno=descriptor)).run()
        status = 0
    finally:
        # Not by the interpreter's way out, which waits for threads: one may hang in the kernel.
        logging.shutdown()
        os._exit(status)
