"""A process that writes to one file of a volume, op by op, until it is killed."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from mirrorha.volume.disk import Apply, RecordTouched, SyncTree
from mirrorha.volume.opening import open_volume
from mirrorha.volume.ops import ROOT_FID, Create, Write, make_fid

FID = make_fid(epoch=1, counter=1)


def main(base: Path) -> None:
    disk = open_volume(base / "root", base / "state", rng=random.Random(1)).disk
    disk.perform(RecordTouched([(FID, 0)]))
    disk.perform(Apply(Create(FID, ROOT_FID, "file", 0o644, -1, -1, time.time_ns())))
    disk.perform(SyncTree())
    print("writing", flush=True)
    while True:
        for _ in range(64):
            disk.perform(Apply(Write(FID, 4096, b"x" * 4096, time.time_ns())))
        time.sleep(0.002)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
