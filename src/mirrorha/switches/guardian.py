"""A small process that outlives ours, to take the virtual IP away should ours be killed.

    python -m mirrorha.switches.guardian INTERFACE_NUMBER ADDRESS PID

The kernel keeps an address whoever dies. It would lapse by itself; that takes seconds, in which
the other node rightly refuses to take what somebody still answers for. This waits for the end of
process PID, its parent, and then removes the address at once. A byte on its standard input ends
it without that.
"""

from __future__ import annotations

import ipaddress
import os
import select
import signal
import sys
import time
from typing import Final

from mirrorha.switches import netlink

ATTEMPTS: Final = 3
PAUSE_S: Final = 0.2


def wait_for_the_end(pid: int) -> bool:
    """Wait until process `pid` has ended; False if we are told to go before."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    if os.getppid() != pid:  # it ended before, and the number may be another's
        return True
    told = sys.stdin.fileno()
    readable, _, _ = select.select([process, told], [], [])
    if told not in readable:
        return True
    # Nothing to read: our parent's end of the pipe was closed by its death.
    return not os.read(told, 1)


def main(arguments: list[str]) -> int:
    """Guard an address. Returns the exit status."""
    # It ends with whom it guards, not before: also where all processes are told to.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    index, address, pid = int(arguments[0]), ipaddress.ip_address(arguments[1]), arguments[2]
    if not wait_for_the_end(int(pid)):
        return 0
    for _ in range(ATTEMPTS):
        try:
            netlink.remove_address(index, address)
        except OSError:
            time.sleep(PAUSE_S)
        else:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
