"""Run commands: in a session of their own, their output read by line, ended for certain.

Also what they leave running is found again, by whatever a `Family` goes by.

What stands here is for Linux: it needs pidfds and /proc.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal, Protocol, TypedDict, final

import attrs
import trio

from mirrorha.errors import MirrorHAError, ServiceError, describe

#: Between TERM and KILL, and between KILL and giving up on a process that sits in the kernel.
TERM_GRACE_S: Final = 5
KILL_WAIT_S: Final = 2
#: How long the output of a command that has exited is waited for. What it left running may hold
#: its output open for ever.
DRAIN_S: Final = 0.2
SCAN_EVERY_S: Final = 0.1

LINE_BYTES_MAX: Final = 4096
RECEIVE_BYTES: Final = 16 * 1024
#: So many of a command's lines are logged in so many seconds, and no more.
LINES_MAX: Final = 1_000
LINES_EVERY_S: Final = 10.0

# A shell execs the command, not we: a thread that spawns is stuck until its child has done exec,
# out of any deadline's reach, and the program may lie on a volume that stands still. So may the
# directory. Its standard input is the door of its control group, or /dev/null: a 0 written there
# has whoever wrote it enter.
SCRIPT: Final = (
    'echo 0 >&0 2>/dev/null; [ -z "$1" ] || cd "$1" || exit; shift; exec "$@" </dev/null'
)
#: What systemd tells this program alone. A service that heard it would speak in its name.
OURS_ALONE: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})

_log: Final = logging.getLogger(__name__)


@final
@attrs.frozen
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status, or the negative number of the signal that killed it; None if
            this program reaps its children elsewhere, so that nobody knows.
        last_line: the last it wrote that is not blank.
    """

    status: int | None
    last_line: str

    @property
    def is_good(self) -> bool:
        return self.status == 0

    def __str__(self) -> str:
        if self.status is None:
            how = "ended in an unknown way: this program ignores or reaps its children"
        elif self.status < 0:
            how = f"was killed by {signal.Signals(-self.status).name}"
        else:
            how = f"ended with status {self.status}"
        return f"{how}: {self.last_line}" if self.last_line else how


@final
@attrs.frozen
class Stand:
    """As whom, where and in which control group a command is run.

    Attributes:
        user: the name of a user; empty: who runs this program.
        directory: where it begins; empty: where this program did.
        open_door: opens `cgroup.procs` of the control group that it enters, for writing.
    """

    user: str = ""
    directory: str = ""
    open_door: Callable[[], int] | None = None


AS_WE_ARE: Final = Stand()


class _Ids(TypedDict, total=False):
    user: int
    group: int
    extra_groups: Collection[int]


@attrs.define(eq=False)
class _Tail:
    """Where the reading of one command's output has got to."""

    last_line: str = ""
    is_over: trio.Event = attrs.field(factory=trio.Event)


@final
class OutputReader:
    """Reads what commands write, and goes on after they exit: what they started writes there too.

    Closing the pipe under a service that logs to its standard output would kill it.
    """

    def __init__(self, nursery: trio.Nursery, on_line: Callable[[str], None]) -> None:
        self._nursery: Final = nursery
        self._on_line: Final = on_line
        self._scopes: Final = set[trio.CancelScope]()

    def read(self, descriptor: int) -> _Tail:
        """Begin to read from a pipe, which is taken over."""
        tail = _Tail()
        stream = trio.lowlevel.FdStream(descriptor)
        self._nursery.start_soon(self._read, stream, tail)
        return tail

    def close(self) -> None:
        """Stop reading: all that writes there belongs to the past."""
        for scope in self._scopes:
            scope.cancel()

    async def _read(self, stream: trio.lowlevel.FdStream, tail: _Tail) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with stream:
                    await self._read_lines(stream, tail)
            finally:
                self._scopes.discard(scope)
                tail.is_over.set()

    async def _read_lines(self, stream: trio.lowlevel.FdStream, tail: _Tail) -> None:
        rest = b""
        while piece := bytes(await stream.receive_some(RECEIVE_BYTES)):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line, tail)
        self._take(rest, tail)

    def _take(self, line: bytes, tail: _Tail) -> None:
        text = line[:LINE_BYTES_MAX].decode("utf-8", errors="replace").rstrip()
        if not text.isprintable():  # nothing that steers whoever reads it on a terminal
            text = "".join(
                each if each.isprintable() or each == "\t" else "\ufffd" for each in text
            )
        if text:
            tail.last_line = text
            self._on_line(text)


@final
class LineLog:
    """Logs the lines that a command writes; of one that never stops writing, some.

    Else it would fill the disk of the log, and keep this program's loop from its own work.
    """

    def __init__(
        self, log: logging.Logger, name: str, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._log: Final = log
        self._name: Final = name
        self._clock_s: Final = clock_s
        self._since_s = -math.inf
        self._count = 0

    def __call__(self, line: str) -> None:
        now_s = self._clock_s()
        if now_s - self._since_s >= LINES_EVERY_S:
            if self._count > LINES_MAX:
                left_out = self._count - LINES_MAX
                self._log.warning("%s: %d of its lines were left out", self._name, left_out)
            self._since_s, self._count = now_s, 0
        self._count += 1
        if self._count <= LINES_MAX:
            self._log.info("%s: %s", self._name, line)
        elif self._count == LINES_MAX + 1:
            text = "%s writes more than %d lines in %g s: the rest of them is left out"
            self._log.warning(text, self._name, LINES_MAX, LINES_EVERY_S)


async def run_command(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: OutputReader,
    stand: Stand = AS_WE_ARE,
    term_grace_s: float = TERM_GRACE_S,
    leftovers: Literal["leave", "kill"] = "leave",
) -> Ended:
    """Run a command until it exits, its standard input empty.

    Cancelled, it and its process group get TERM, after `term_grace_s` KILL, and this ends at the
    latest `KILL_WAIT_S` later: a process that sits in the kernel then is left behind.

    Args:
        environment: set beside what this program has.
        stand: as whom and where it is run.
        leftovers: what becomes of processes of its group when it has exited. If they are killed,
            `output` has got all that was written before this returns.

    Raises:
        OSError, ValueError: no process can be made, or `argv` cannot be passed to one.
        ServiceError: there is no such user here, or this program may not act for it.
    """
    ours, theirs = os.pipe()
    try:
        child = await trio.to_thread.run_sync(
            _spawn, argv, environment, theirs, stand, limiter=trio.CapacityLimiter(1)
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        tail = output.read(ours)
        await child.wait_exit()
        drain_s = 0.0
        if leftovers == "kill":
            child.kill_group()
            drain_s = KILL_WAIT_S  # now hardly anybody is left to hold its output open
        status = child.reap()
        if status != 0:  # its last words matter
            drain_s = max(drain_s, DRAIN_S)
        with trio.move_on_after(drain_s):
            await tail.is_over.wait()
        return Ended(status, tail.last_line)
    finally:
        if not child.is_reaped:
            with trio.CancelScope(shield=True):
                await child.terminate(term_grace_s)
        child.close()


async def run_alone(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    term_grace_s: float = TERM_GRACE_S,
    leftovers: Literal["leave", "kill"] = "leave",
) -> Ended:
    """Run a command that leaves nothing running: its output is read until it exits.

    Cancelled, it ends as `run_command` does. What it leaves behind has lost its output.

    Args:
        leftovers: as for `run_command`.

    Raises:
        OSError, ValueError: as `run_command`.
    """
    found: Ended | Exception
    async with trio.open_nursery() as nursery:
        output = OutputReader(nursery, on_line)
        try:
            found = await run_command(
                argv,
                environment=environment,
                output=output,
                term_grace_s=term_grace_s,
                leftovers=leftovers,
            )
        except (OSError, ValueError) as error:
            found = error  # to be raised outside, not in a group
        finally:
            output.close()
    if isinstance(found, Exception):
        raise found
    return found


async def run_logged(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: logging.Logger,
    error: type[MirrorHAError],
) -> Ended:
    """`run_alone`, with its output in `log`, each line after the program's name.

    Raises:
        error: it cannot be run. How it ended is for the caller to judge.
    """
    program = argv[0]
    try:
        return await run_alone(argv, environment=environment, on_line=LineLog(log, program))
    except (OSError, ValueError) as exc:
        raise error(f"{program} cannot be run: {describe(exc)}") from exc


def _spawn(
    argv: Sequence[str], environment: Mapping[str, str], output: int, stand: Stand
) -> _Child:
    inherited = {name: text for name, text in os.environ.items() if name not in OURS_ALONE}
    user = _User.find(stand.user)
    door = _open(stand)
    try:
        popen = subprocess.Popen(  # noqa: S603 - the operator's own command
            ["/bin/sh", "-c", SCRIPT, "sh", stand.directory, *argv],
            stdin=subprocess.DEVNULL if door is None else door,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **user.environment, **environment},
            start_new_session=True,
            **user.options,
        )
    except PermissionError as error:
        if not user.options:
            raise
        raise ServiceError(
            f"a command cannot be run as {stand.user}: {error.strerror}; run this program as root"
        ) from error
    finally:
        if door is not None:
            os.close(door)
    return _Child(popen)


def _open(stand: Stand) -> int | None:
    """The door of its control group. Without one a command is run all the same."""
    try:
        return stand.open_door() if stand.open_door is not None else None
    except OSError as error:
        _log.warning("a command is run outside of its control group: %s", error)
        return None


@final
@attrs.frozen
class _User:
    """Whose a process will be: what `Popen` is told, and what its environment says."""

    options: _Ids = attrs.field(factory=_Ids)
    environment: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def find(cls, name: str) -> _User:
        """Blocks: the names may be kept elsewhere.

        Raises:
            ServiceError: there is nobody of that name.
        """
        if not name:
            return cls()
        import pwd  # noqa: PLC0415 - there is none but on Unix

        try:
            entry = pwd.getpwnam(name)
        except KeyError as error:
            raise ServiceError(f"there is no user '{name}' on this node") from error
        told = {
            "HOME": entry.pw_dir,
            "LOGNAME": name,
            "SHELL": entry.pw_shell or "/bin/sh",
            "USER": name,
        }
        if entry.pw_uid == os.geteuid():
            return cls(environment=told)
        groups = os.getgrouplist(name, entry.pw_gid)
        ids = _Ids(user=entry.pw_uid, group=entry.pw_gid, extra_groups=groups)
        return cls(options=ids, environment=told)


def check_user(name: str) -> None:
    """Blocks: the names may be kept elsewhere.

    Raises:
        ServiceError: there is nobody of that name.
    """
    _User.find(name)


@final
class _Child:
    """A process that leads a group, from its birth until it is reaped."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen: Final = popen
        self._descriptor: Final = _open_pidfd(popen.pid)
        self.is_reaped = False

    async def wait_exit(self) -> None:
        """Wait until it has exited, without reaping it."""
        if self._descriptor is not None:
            await trio.lowlevel.wait_readable(self._descriptor)

    def reap(self) -> int | None:
        """Take leave of a process that has exited, and return its status if it can be known."""
        try:
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            is_known = True
        except ChildProcessError:
            is_known = False  # `wait` would say 0 then, a green light for who knows what
        status = self._popen.wait()
        self.is_reaped = True
        return status if is_known else None

    async def terminate(self, term_grace_s: float) -> None:
        """End it and its group. Bounded; call it shielded."""
        self._signal_group(signal.SIGTERM)
        with trio.move_on_after(term_grace_s):
            await self.wait_exit()
        self.kill_group()
        with trio.move_on_after(KILL_WAIT_S) as scope:
            await self.wait_exit()
        if scope.cancelled_caught:
            _log.error("process %d cannot be killed: it sits in the kernel", self._popen.pid)
        else:
            self.reap()

    def kill_group(self) -> None:
        """Also if it has exited, for the others. As it is not reaped, its number is its own."""
        self._signal_group(signal.SIGKILL)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            _log.error("process group %d may not be sent %s", self._popen.pid, number.name)


def _open_pidfd(pid: int) -> int | None:
    """Open a descriptor of a process; None if it is gone already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


class Family(Protocol):
    """Processes that belong together, wherever they went."""

    def pids(self) -> Collection[int]:
        """All of them, now. Blocks."""

    def has(self, pid: int) -> bool:
        """Whether this one belongs to it, now. Blocks."""

    def kill(self) -> None:
        """Kill them all at once, where that can be done, so that none gets away by a fork."""


@final
@attrs.frozen
class Marked:
    """Every process whose environment contains `mark` (`NAME=value`).

    A process group does not do for that: daemons leave theirs, and its number may be another's
    once its leader is reaped. (Some programs write over their environment, and are not found.)
    """

    mark: str

    def pids(self) -> Collection[int]:
        return {int(each) for each in os.listdir("/proc") if each.isdigit() and self.has(int(each))}

    def has(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as stream:
                return self.mark.encode() in stream.read().split(b"\0")
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM):
                _log.debug("cannot look into process %d: %s", pid, exc)
            return False

    def kill(self) -> None:
        """They can only be killed one by one."""


async def end_families(families: Sequence[Family], *, term_grace_s: float = TERM_GRACE_S) -> bool:
    """End every process of these. Works in threads.

    Bounded by `term_grace_s` + `KILL_WAIT_S`; with `math.inf`, by whoever cancels it.

    Returns:
        Whether none is left, as far as could be seen.
    """
    for number, wait_s in ((signal.SIGTERM, term_grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        signalled = set[int]()
        with trio.move_on_after(wait_s):
            while await _signal(families, number, signalled):  # noqa: ASYNC110 - /proc is polled
                await trio.sleep(SCAN_EVERY_S)
            return True
    return False


async def _signal(families: Sequence[Family], number: signal.Signals, signalled: set[int]) -> bool:
    # /proc/…/environ of a process that hangs in a page fault can hang too: so it may be left.
    return await trio.to_thread.run_sync(
        _scan, families, number, signalled, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
    )


def _scan(families: Sequence[Family], number: signal.Signals, signalled: set[int]) -> bool:
    """Signal each once, and return whether there are any."""
    found = False
    if number is signal.SIGKILL:  # first of all: to look for the others can hang
        for family in families:
            family.kill()
    for family in families:
        pids = family.pids()
        found = found or bool(pids)
        for pid in set(pids) - signalled:
            if _signal_one(family, pid, number):
                signalled.add(pid)
    return found


def _signal_one(family: Family, pid: int, number: signal.Signals) -> bool:
    descriptor = _open_pidfd(pid)
    if descriptor is None:
        return False
    try:
        if not family.has(pid):  # its number was given to another meanwhile
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError as exc:
        _log.warning("process %d may not be sent %s: %s", pid, number.name, exc)
        return False
    finally:
        os.close(descriptor)
    return True
