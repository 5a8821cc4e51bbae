"""Which processes run, as /proc tells it. Linux only; all of it may block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final, final

import attrs

_DEAD: Final = frozenset("ZXx")  # exited, and not yet taken leave of by its parent
_COMM_CHARS: Final = 15  # the kernel keeps no more of a program's name


@final
@attrs.frozen(kw_only=True)
class Running:
    """A process that runs. `pid` and `born` together are given to no other one until a reboot.

    Attributes:
        born: when it began, in the kernel's ticks since the boot.
        name: its program's name as the kernel has it, cut off after 15 characters.
    """

    pid: int
    born: int
    parent: int
    name: str


def look_at(pid: int) -> Running | None:
    """The process of that number; None if there is none, or it has exited."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            line = stream.read().decode("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = line.rpartition(")")  # a name may hold anything, brackets and blanks too
    state, parent, *rest = after.split()
    if state in _DEAD:
        return None
    # Its beginning is the 22nd field, counted from 1.
    return Running(pid=pid, born=int(rest[17]), parent=int(parent), name=before.partition("(")[2])


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty for one of the kernel's, or that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            raw = stream.read().decode("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return raw.rstrip("\0").split("\0") if raw else []


def runs_program(program: str) -> Callable[[Running, list[str]], bool]:
    """Whether a process runs the program of that name, as a file or with its path."""

    def fits(process: Running, words: list[str]) -> bool:
        names = (words[0], os.path.basename(words[0]))
        return program in names or process.name == program[:_COMM_CHARS]

    return fits


def has_in_command_line(text: str) -> Callable[[Running, list[str]], bool]:
    """Whether a process's command line, its words joined by blanks, contains `text`."""
    return lambda _, words: text in " ".join(words)


def find(fits: Callable[[Running, list[str]], bool]) -> list[Running]:
    """All processes that fit, but this one; of those that others of them began, only these."""
    found = {one.pid: one for one in _all() if _fits(one, fits)}
    return [one for one in found.values() if one.parent not in found]


def _all() -> Iterator[Running]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            process = look_at(int(name))
            if process is not None:
                yield process


def _fits(process: Running, fits: Callable[[Running, list[str]], bool]) -> bool:
    words = words_of(process.pid)
    return bool(words) and fits(process, words)
