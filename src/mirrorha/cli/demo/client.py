"""The client of the demonstration, a process of its own with its own record.

It sends numbered transactions over several connections to whichever node answers, writes down each
id that was acknowledged *before* it sends the next, and says on standard output, a JSON object a
line, how many there are. What it has not an answer for it does not send again: a new id is
drawn, so that the record holds acknowledged transactions and nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO, final

import trio

CONNECT_S: Final = 1.0
ANSWER_S: Final = 2.0
RETRY_S: Final = 0.02
REPORT_S: Final = 0.1
AMOUNT: Final = 100


@final
class Client:
    """Writes through some connections; `record` gets each acknowledged id, when and by whom."""

    def __init__(self, ports: list[int], record: TextIO) -> None:
        self._ports = ports
        self._record = record
        self._ids: Iterator[int] = itertools.count(1)
        self._port = ports[0]
        self.acknowledged = 0
        self.errors = 0

    async def work(self) -> None:
        failed: int | None = None
        while True:
            stream, port = await self._connect(failed)
            async with stream:
                await self._use(stream, port)
            self.errors += 1
            failed = port

    async def _connect(self, failed: int | None) -> tuple[trio.SocketStream, int]:
        """To the port that answered last, else to the other; until one answers.

        The one that failed this worker comes last: a process that is stopped still takes
        connections, for its kernel does.
        """
        while True:
            for port in sorted([self._port, *self._ports], key=lambda port: port == failed):
                with trio.move_on_after(CONNECT_S):
                    try:
                        stream = await trio.open_tcp_stream("127.0.0.1", port)
                    except OSError:
                        continue
                    return stream, port
            await trio.sleep(RETRY_S)

    async def _use(self, stream: trio.SocketStream, port: int) -> None:
        pending = b""
        while True:
            number = next(self._ids)
            try:
                await stream.send_all(b"%d %d\n" % (number, AMOUNT))
                with trio.fail_after(ANSWER_S):
                    while b"\n" not in pending:
                        received = await stream.receive_some(4096)
                        if not received:
                            return
                        pending += received
            except (trio.BrokenResourceError, trio.TooSlowError, OSError):
                return
            line, _, pending = pending.partition(b"\n")
            if line != b"ok %d" % number:
                return
            self._record.write(f"{number} {time.monotonic():.6f} {port}\n")
            self._record.flush()
            self._port = port
            self.acknowledged += 1

    async def report(self) -> None:
        while True:
            print(json.dumps({"acknowledged": self.acknowledged, "port": self._port}), flush=True)
            await trio.sleep(REPORT_S)


async def run(ports: list[int], workers: int, record: TextIO) -> None:
    """Until standard input ends: then the last answers are taken in, and it stops."""
    client = Client(ports, record)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.report)
        for _ in range(workers):
            nursery.start_soon(client.work)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def main() -> None:
    """`python -m mirrorha.cli.demo.client --ports P P --record FILE`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    with options.record.open("w") as record:
        trio.run(run, options.ports, options.workers, record)


if __name__ == "__main__":
    main()
