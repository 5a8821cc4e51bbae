"""A FUSE server that answers almost nothing, in a process of its own.

    python tiny_server.py DIRECTORY VOLUME [serve|hang] [USER]

It mounts, says so in one line of JSON, and serves until its standard input ends; then it takes the
mount off. `hang` answers only the first request. USER is the number of whom it becomes first.
"""

from __future__ import annotations

import errno
import json
import os
import select
import struct
import sys
from pathlib import Path

import attrs

from mirrorha.errors import VolumeError
from mirrorha.volume.fuse.mounting import Mounted, mount, open_raw, unmount

IN_HEADER = struct.Struct("=IIQQIIII")
OUT_HEADER = struct.Struct("=IiQ")
# size, offset, blocks, three times, three times' ns, mode, links, user, group, device, block size
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
GETATTR, INIT, STATFS = 3, 26, 17
WITHOUT_ANSWER = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
ROOT_SIZE = 4711


def answer(opcode: int) -> tuple[int, bytes]:
    if opcode == INIT:
        return 0, struct.pack("=IIII", 7, 31, 65536, 0).ljust(64, b"\0")
    if opcode == GETATTR:
        attributes = ATTRIBUTES.pack(
            1, ROOT_SIZE, 8, 0, 0, 0, 0, 0, 0, 0o40755, 2, os.geteuid(), os.getegid(), 0, 4096, 0
        )
        return 0, struct.pack("=QII", 0, 0, 0) + attributes
    if opcode == STATFS:
        return 0, bytes(80)
    return -errno.ENOSYS, b""


def serve(mounted: Mounted, how: str) -> None:
    poll = select.poll()
    poll.register(mounted.device, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                return
            try:
                request = os.read(mounted.device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue
            _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
            if opcode in WITHOUT_ANSWER or (how == "hang" and opcode != INIT):
                continue
            status, content = answer(opcode)
            head = OUT_HEADER.pack(OUT_HEADER.size + len(content), status, unique)
            try:
                os.write(mounted.device, head + content)
            except FileNotFoundError:
                continue  # who asked is gone


def become(user: int) -> None:
    """Not by another program: the interpreter may lie where only root can read it."""
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def main(directory: str, volume: str, how: str = "serve", user: str = "0") -> int:
    path = Path(directory)
    become(int(user))
    try:
        raw = open_raw(path, volume=volume)
        mounted = mount(path, raw, volume=volume, is_for_all=os.geteuid() == 0)
    except VolumeError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    fields = attrs.asdict(mounted) | {"raw": sorted(os.listdir(raw)), "pid": os.getpid()}
    print(json.dumps(fields), flush=True)
    serve(mounted, how)
    unmount(mounted)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
