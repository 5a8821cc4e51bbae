"""A witness in a process of its own, to be killed. Prints its port, then serves.

Arguments: state directory, file with its key and certificate, file with the cluster's CA, and how
many fsyncs it lives to see: the one after that kills the process in place of syncing. Each swap
has two, of the new file and of the directory it was renamed in; so has the start, if there is a
file. 0: it lives until it is killed.
With a fifth one, a directory, it is noted there what would survive a power loss: `power_loss.py`.
"""

from __future__ import annotations

import functools
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from mirrorha.arbiters.witness_server import Witness, serve_witness
from mirrorha.state.atomic import make_durable, write_atomically

sys.path.insert(0, str(Path(__file__).parent))

from power_loss import Platter


class DyingDisk:
    def __init__(self, fsyncs: int, sync: Callable[[int], None] = os.fsync) -> None:
        self._left, self._sync = fsyncs, sync

    def fsync(self, descriptor: int) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._sync(descriptor)

    def settle(self, path: Path) -> None:
        make_durable(path, fsync=self.fsync)

    def write(self, path: Path, data: bytes) -> None:
        write_atomically(path, data, fsync=self.fsync)


async def main(*arguments: str) -> None:
    state_dir, key, authority, fsyncs, *notes = arguments
    platter = [Platter(Path(state_dir), Path(each)) for each in notes]
    disk = DyingDisk(int(fsyncs), *(each.fsync for each in platter))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(key)
    context.load_verify_locations(authority)
    serve = functools.partial(
        serve_witness,
        state_dir=Path(state_dir),
        contexts={"orders": context},
        host="127.0.0.1",
        port=0,
        write=disk.write,
        settle=disk.settle,
    )
    # Whatever becomes of the test, this process ends.
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            witness: Witness = await nursery.start(serve)
            sys.stdout.write(f"{witness.port}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
