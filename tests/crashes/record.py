"""What a client was told is done, to which level, and what a directory must hold because of it.

A file has slots, each written again and again with a higher version, and a name that counts up with
each rename. So what is found says by itself which of the client's steps it comes from; none may be
older than the last one that the promise covers, and none newer than the last one tried.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, final

import attrs

SLOTS: Final = 24
SLOT_BYTES: Final = 256  # divides a page: a write of one slot is never torn
_SUM_BYTES: Final = 32
_NAME: Final = re.compile(r"(\w+-\d+)\.(\d+)")


@attrs.frozen(kw_only=True)
class Event:
    """What befell a node, killed or without power, between two times of a clock that all share."""

    node: str
    at_s: float
    over_s: float
    power: bool


def is_promised(done_s: float, events: Sequence[Event]) -> bool:
    """Whether a change that was answered at `done_s`, and never synced, must survive all this.

    The pair mirrored until the first of the events, which are in the order of their times. It says
    no where nobody who looks from outside can know.
    """
    if not events or done_s > max(one.over_s for one in events):
        return True
    first = events[0]
    # Who remains has it in its page cache, and what it goes on to acknowledge as well.
    if not any(one.power for one in events if one.node != first.node):
        return True
    # Else what both had is still in the page cache of the first, or on the disk of the other, which
    # syncs before it goes on alone.
    return not first.power and done_s < first.at_s


@attrs.frozen(kw_only=True)
class Look:
    """A look at what is there after these events.

    `synced_s`: since then both disks have all that was answered before.
    """

    events: Sequence[Event]
    synced_s: float
    now_s: float


@attrs.define
class Item:
    """A slot, or a file's name: its steps, by number. Step 0: there was nothing yet.

    Attributes:
        tried: the last step that was begun.
        durable: the last one that a sync covers which was answered, and when that was.
        kept: (step, when it was answered) of those after `durable`, oldest first.
    """

    tried: int = 0
    durable: int = 0
    synced_s: float = 0.0
    kept: list[tuple[int, float]] = attrs.Factory(list)

    def begin(self) -> int:
        self.tried += 1
        return self.tried

    def end(self, at_s: float) -> None:
        """What was begun last has been answered."""
        self.kept.append((self.tried, at_s))

    @property
    def done(self) -> int:
        return self.kept[-1][0] if self.kept else self.durable

    def synced(self, step: int, at_s: float) -> None:
        """A sync that was begun after `step` was answered has been answered."""
        if step > self.durable:
            self.durable, self.synced_s = step, at_s
            self.kept = [one for one in self.kept if one[0] > step]

    def least(self, events: Sequence[Event]) -> int:
        """The oldest step that may be found after these."""
        promised = (step for step, at_s in self.kept if is_promised(at_s, events))
        return max(promised, default=self.durable)

    def adopt(self, found: int, look: Look) -> None:
        """It was found so on both nodes."""
        answered_s = next((at_s for step, at_s in self.kept if step == found), look.now_s)
        is_synced = found <= self.durable or answered_s < look.synced_s
        self.tried = found
        self.durable = found if is_synced else min(self.durable, found)
        self.kept = [] if is_synced else [(found, answered_s)]

    def told(self, events: Sequence[Event]) -> str:
        """What its client was told, and when: as seen from the first of the events."""
        first_s = events[0].at_s if events else 0.0
        answers = [f"{step} answered at {at_s - first_s:+.2f} s" for step, at_s in self.kept]
        synced = f"{self.durable} synced at {self.synced_s - first_s:+.2f} s"
        return f"({', '.join([synced, *answers])})"


@attrs.define
class File:
    """One file of a client.

    Attributes:
        name: its steps are the numbers in the name; the last one may be the removal.
        is_removed: that last step was the removal. Nothing is tried after it.
    """

    key: str
    name: Item = attrs.Factory(Item)
    is_removed: bool = False
    slots: dict[int, Item] = attrs.Factory(dict)

    def slot(self, number: int) -> Item:
        return self.slots.setdefault(number, Item())

    @property
    def path(self) -> str:
        return f"{self.key}.{self.name.done}"

    @property
    def is_known(self) -> bool:
        """It is there, and its client knows under which name."""
        return bool(self.name.done) and self.name.done == self.name.tried and not self.is_removed


class Sync:
    """What a sync covers that begins now.

    Args:
        since_s: what was answered before may have been lost meanwhile, if that was not promised.
    """

    def __init__(self, items: Iterable[Item], *, since_s: float) -> None:
        last = ((item, item.kept[-1]) for item in items if item.kept)
        self._steps: Final = [(item, step) for item, (step, at_s) in last if at_s > since_s]

    def end(self) -> None:
        """It was answered."""
        now_s = time.monotonic()
        for item, step in self._steps:
            item.synced(step, now_s)


def content_of(key: str, slot: int, version: int) -> bytes:
    """What a slot holds in this version."""
    text = f"{key} {slot} {version} ".encode()
    text = text.ljust(SLOT_BYTES - _SUM_BYTES, b".")
    return text + hashlib.sha256(text).digest()


def version_in(raw: bytes, key: str, slot: int) -> int | None:
    """The version that a slot holds; 0 if it was never written, None if it is damaged."""
    if not raw.strip(b"\0"):
        return 0
    text, sum_ = raw[:-_SUM_BYTES], raw[-_SUM_BYTES:]
    if len(raw) != SLOT_BYTES or hashlib.sha256(text).digest() != sum_:
        return None
    named, number, version, _ = text.split(b" ")
    return int(version) if (named.decode(), int(number)) == (key, slot) else None


@final
class Record:
    """What all clients were answered."""

    def __init__(self) -> None:
        self.files: Final[dict[str, File]] = {}

    def check(self, root: Path, look: Look) -> list[str]:
        """What is wrong with the files in `root`; from now on they are to be as they are."""
        found: dict[str, dict[int, bytes]] = {}
        for path in sorted(root.rglob("*")):
            if matched := _NAME.fullmatch(path.name):
                found.setdefault(matched[1], {})[int(matched[2])] = path.read_bytes()
        # What is gone for good is in no record any more.
        faults = [f"{key} is back" for key in found if key not in self.files]
        for key, file in list(self.files.items()):
            faults += self._check_file(file, found.get(key, {}), look)
        return faults

    def _check_file(self, file: File, found: Mapping[int, bytes], look: Look) -> list[str]:
        name = file.name
        least, most = name.least(look.events), name.tried
        told = f"{file.key} has names {sorted(found)}, not one of {least} to {most}"
        if file.is_removed:
            told += ", the last one its removal"
        told += f" {name.told(look.events)}"
        if not found:
            name.adopt(most if file.is_removed else 0, look)
            if name.durable == name.tried:
                del self.files[file.key]
            return [] if file.is_removed or not least else [told]
        step = max(found)
        is_right = len(found) == 1 and least <= step <= most - file.is_removed
        faults = [] if is_right else [told]
        for number in range(SLOTS):
            raw = found[step][number * SLOT_BYTES : (number + 1) * SLOT_BYTES]
            faults += _check_slot(file, number, raw, look)
        name.adopt(step, look)
        file.is_removed = False
        return faults


def _check_slot(file: File, number: int, raw: bytes, look: Look) -> list[str]:
    item = file.slot(number)
    version, least = version_in(raw, file.key, number), item.least(look.events)
    told = f"version {version}, not one of {least} to {item.tried} {item.told(look.events)}"
    is_right = version is not None and least <= version <= item.tried
    item.adopt(item.tried if version is None else version, look)
    return [] if is_right else [f"{file.key}, slot {number}: {told}"]
