"""A process that serves a mount over a real disk, and makes changes at once. For the tests.

    python serving.py HOME MOUNTPOINT USER

As another user than root it serves what root has mounted for it.
Told what to do in lines on its standard input, which it answers with one line each:
freeze (nothing is applied), hold (nothing is answered), thaw (both end), serving 0|1, follow NAME
TEXT (a change by the stream), invalidate, fail ERRNO, break, counts. It ends when its input does.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import select
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mirrorha.volume.disk import Apply, DiskError, Outcome, SyncFiles
from mirrorha.volume.events import Failure, Reply
from mirrorha.volume.fuse.server import Server
from mirrorha.volume.op_rules import MAKING, flaw
from mirrorha.volume.ops import Truncate, Write, make_fid
from tests.volume.disk_support import Home

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.fuse.interface import Then
    from mirrorha.volume.local_disk.disk import RealDisk
    from mirrorha.volume.ops import AnyOp

# Each incarnation draws ids of its own.
EPOCH = int(time.time()) % 1_000_000 + 100


class Changes:
    """Makes each change as soon as it may."""

    def __init__(self, disk: RealDisk) -> None:
        self.frozen = False
        self.holding = False
        self._held: list[Callable[[], None]] = []
        self.refused: Failure | None = None
        self.counts: Counter[str] = Counter()
        self.write_sizes: Counter[int] = Counter()
        self._disk = disk
        self._tokens = itertools.count(1)
        self._fids = itertools.count(1)
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def change(self, op: AnyOp, then: Then) -> int:
        return self._take(lambda: self._apply(op, then))

    def flush(self, fid: int, then: Then, *, data_only: bool = False) -> int:
        return self._take(lambda: self._sync(fid, then, data_only=data_only))

    def withdraw(self, token: int) -> bool:
        found = [one for one in self._waiting if one[0] == token]
        for one in found:
            self._waiting.remove(one)
        return bool(found)

    def thaw(self) -> None:
        self.frozen = self.holding = False
        held, self._held = self._held, []
        for answer in held:
            answer()
        while self._waiting and not self.frozen:
            self._waiting.popleft()[1]()

    def _take(self, act: Callable[[], None]) -> int:
        token = next(self._tokens)
        if self.frozen:
            self._waiting.append((token, act))
        else:
            act()
        return token

    def _apply(self, op: AnyOp, then: Then) -> None:
        name = type(op).__name__
        self.counts[name] += 1
        if name == "Write":
            self.write_sizes[len(op.data)] += 1  # type: ignore[union-attr]
        if self.refused is not None:
            then(Reply(1, self.refused))
            return
        wrong = flaw(op)
        if wrong:
            then(Reply(1, Failure.ERRNO, wrong))
            return
        if type(op) in MAKING:
            op = msgspec.structs.replace(op, fid=make_fid(epoch=EPOCH, counter=next(self._fids)))
        try:
            outcome = self._disk.perform(Apply(op))
        except DiskError as error:
            print(error, file=sys.stderr)
            then(Reply(1, Failure.UNKNOWN))
            return
        assert isinstance(outcome, Outcome)
        kind = Failure.ERRNO if outcome.errno else Failure.NONE
        reply = Reply(1, kind, outcome.errno, outcome.done)
        if self.holding:
            self._held.append(lambda: then(reply))
        else:
            then(reply)

    def _sync(self, fid: int, then: Then, *, data_only: bool) -> None:
        self.counts["flush of data" if data_only else "flush"] += 1
        if self.refused is not None:
            then(Reply(1, self.refused))
            return
        self._disk.perform(SyncFiles([fid], [fid] if data_only else []))
        then(Reply(1, Failure.NONE))


def mount(device: int, path: str, user: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    options = (
        f"fd={device},rootmode=40000,user_id={user},group_id={user},default_permissions,allow_other"
    )
    source, kind = b"mirrorha:test", b"fuse.mirrorha"
    flags = ctypes.c_ulong(0)
    if libc.mount(source, os.fsencode(path), kind, flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def connection_of(path: str) -> int:
    """The number of the FUSE connection that is mounted at `path`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == path:
            return int(fields[2].split(":")[1])
    raise LookupError(path)


class Program:
    def __init__(self, home: Path, path: str, user: int) -> None:
        self.path = path
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        mount(self.device, self.path, user)
        if user:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        self.home = Home(home)
        self.disk = self.home.open()
        self.view = self.disk.view()
        self.changes = Changes(self.disk)
        self.server = Server(self.device, self.view, self.changes)
        self.server.serving = True

    def run(self) -> None:
        self.say({"connection": connection_of(self.path)})
        poll = select.epoll()
        poll.register(self.device, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.device:
                    if not self.serve():
                        return
                elif not self.obey():
                    return

    def serve(self) -> bool:
        """Handle all that the kernel asks for now, so that a test sees what came of it."""
        while self.server.serve():
            if not select.select([self.device], [], [], 0)[0]:
                return True
        return False

    def obey(self) -> bool:
        said = os.read(0, 65536).decode()
        for line in said.splitlines():
            self.obey_one(line.split())
        return bool(said)

    def obey_one(self, line: list[str]) -> None:
        match line:
            case ["freeze"]:
                self.changes.frozen = True
            case ["hold"]:
                self.changes.holding = True
            case ["follow", name, text]:
                fid = self.view.lookup(1, name)
                size = len(text.encode())
                for op in (
                    Write(fid, 0, text.encode(), time.time_ns()),
                    Truncate(fid, size, time.time_ns()),
                ):
                    self.disk.perform(Apply(op))
            case ["thaw"]:
                self.changes.thaw()
            case ["serving", flag]:
                self.server.serving = bool(int(flag))
                self.changes.refused = None if self.server.serving else Failure.NOT_PRIMARY
            case ["invalidate"]:
                thread = threading.Thread(target=self.invalidate, args=(self.server.known(),))
                thread.start()
                return
            case ["fail", number]:
                self.server.fail_pending(int(number))
            case ["break"]:
                self.server._handlers[17] = lambda _: 1 // 0  # a bug in STATFS
            case ["counts"]:
                pass
        self.say(self.state())

    def invalidate(self, known: Any) -> None:
        self.server.invalidate(known)
        self.say({"known": len(known.fids)})

    def state(self) -> dict[str, Any]:
        return {
            "counts": dict(self.changes.counts),
            "write_sizes": dict(self.changes.write_sizes),
            "waiting": self.server.waiting,
            "failures": self.server.failures,
            "known": len(self.server.known().fids),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "held": len(self.view._held),
            "orphans": len(self.server._pending.orphans.fids),
            "flags": int(self.server.agreement.flags) if self.server.agreement else 0,
            "refused": self.server._device.refused,
        }

    def say(self, what: object) -> None:
        os.write(1, json.dumps(what).encode() + b"\n")  # whole: two threads speak


if __name__ == "__main__":
    Program(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])).run()
