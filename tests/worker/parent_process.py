"""An application's process with one worker, to be stopped and killed: told what to do by lines.

`python parent_process.py DIRECTORY FREEZE_MAX_MS`; says `worker PID`, then a line for each report.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from mirrorha.core.orders import AnyOrder, Freeze, ServeAlone
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.volume.worker.client import WorkerEngine
from mirrorha.volume.worker.messages import VERSION, MountWish, Open

ORDERS: dict[str, AnyOrder] = {"alone": ServeAlone(1, "g"), "freeze": Freeze(1)}


async def main(directory: Path, freeze_max_ms: int) -> None:
    opening = Open(
        version=VERSION,
        volume="/srv/orders",
        root=str(directory / "root"),
        state_dir=str(directory / "state"),
        reserve="",
        settings=VolumeSettings(),
        freeze_max_ms=freeze_max_ms,
        keys=None,
        mount=MountWish(),
    )
    engine = WorkerEngine(opening, report=lambda report: print(report, flush=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        print("worker", engine.status.pid, flush=True)
        async for line in trio.wrap_file(sys.stdin):
            word = line.strip()
            if word == "end":
                nursery.cancel_scope.cancel()
            elif word == "garbage":
                process = engine._process
                assert process is not None
                process.control._socket.send(b"\x93 this is nothing that anybody says")
            else:
                engine.order(ORDERS[word])


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
