"""Clients that write all the time, and know what they were answered: `checker.py SEED CLIENTS`.

A program of its own, so that it outlives the nodes, and whatever hangs in a mount hangs here. Takes
a JSON object a line: `{"do": "go", "where": …}` has the clients write there, `{"do": "pause"}` has
them rest, `{"do": "check", "root": …, "events": […], "synced_s": …}` compares a directory with the
record. It answers each with `{"done": NAME, …}` once it is done.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, final

from tests.crashes.record import SLOT_BYTES, SLOTS, Event, File, Look, Record, Sync, content_of
from tests.crashes.volumes import Volume, open_volume

FILES_MIN: Final = 3
FILES_MAX: Final = 24
#: After something went wrong: what is there is looked for again.
REST_S: Final = 0.05
PAUSE_S: Final = 80.0


@final
class Place:
    """Where clients write now. For several threads."""

    def __init__(self) -> None:
        self._changed: Final = threading.Condition()
        self._where = ""
        self._number = 0
        self._busy = 0

    def move(self, where: str) -> None:
        """From now on there; "" is nowhere."""
        with self._changed:
            self._where = where
            self._number += 1
            self._changed.notify_all()

    def wait(self) -> tuple[str, int]:
        """Where, once it is somewhere; and a number that changes with it."""
        with self._changed:
            self._changed.wait_for(lambda: self._where)
            return self._where, self._number

    @contextlib.contextmanager
    def step(self, number: int) -> Any:
        """One step of a client: True, unless the place has changed meanwhile."""
        with self._changed:
            goes_on = number == self._number
            self._busy += goes_on
        try:
            yield goes_on
        finally:
            with self._changed:
                self._busy -= goes_on
                self._changed.notify_all()

    def wait_idle(self) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, PAUSE_S)


@final
class Client:
    """One of those who write, with a directory of its own."""

    def __init__(self, name: str, record: Record, place: Place, rng: random.Random) -> None:
        self._name, self._record, self._place, self._rng = name, record, place, rng
        self._made = 0
        self._files: list[File] = []
        self._has_directory = False
        self._opened_s = 0.0
        self.answered = 0
        self.synced = 0
        self.failed: dict[str, int] = {}
        self._steps: Final = (
            (50, self._write),
            (14, self._write_synced),
            (8, self._sync),
            (5, self._sync_data),
            (8, self._make),
            (6, self._rename),
            (4, self._unlink),
            (5, self._sync_names),
        )

    def run(self) -> None:
        """For ever; a daemon's."""
        while True:
            where, number = self._place.wait()
            try:
                volume = open_volume(where)
            except OSError as error:
                self._failed(error)
                continue
            self._opened_s = time.monotonic()
            try:
                self._write_while(volume, number)
            finally:
                with contextlib.suppress(OSError):
                    volume.close()

    def _write_while(self, volume: Volume, number: int) -> None:
        while True:
            with self._place.step(number) as goes_on:
                if not goes_on:
                    return
                try:
                    self._step(volume)
                except OSError as error:
                    self._failed(error)
                    return  # there may be something else now

    def _failed(self, error: OSError) -> None:
        text = str(error.strerror or error)
        self.failed[text] = self.failed.get(text, 0) + 1
        time.sleep(REST_S)

    def _step(self, volume: Volume) -> None:
        if not self._has_directory:
            with contextlib.suppress(FileExistsError):
                volume.mkdir(self._name)
            volume.sync_names(self._name)
            self._has_directory = True
        self._files = [one for one in self._files if one.key in self._record.files]
        weights, steps = zip(*self._steps, strict=True)
        if len(self._files) < FILES_MIN:
            self._make(volume)
        else:
            self._rng.choices(steps, weights)[0](volume)
        self.answered += 1

    def _any(self) -> File | None:
        known = [one for one in self._files if one.is_known]
        return self._rng.choice(known) if known else None

    def _path(self, file: File) -> str:
        return f"{self._name}/{file.path}"

    def _make(self, volume: Volume) -> None:
        if len(self._files) >= FILES_MAX:
            self._unlink(volume)
            return
        self._made += 1
        file = File(f"{self._name}-{self._made}")
        self._record.files[file.key] = file
        self._files.append(file)
        name, slot = file.name, file.slot(0)
        path = f"{self._name}/{file.key}.{name.begin()}"
        volume.make(path, content_of(file.key, 0, slot.begin()))
        now_s = time.monotonic()
        name.end(now_s)
        slot.end(now_s)

    def _write(self, volume: Volume) -> File | None:
        file = self._any()
        if file is None:
            return None
        # Mostly where it was written lately, as databases do.
        number = min(int(self._rng.expovariate(0.15)), SLOTS - 1)
        slot = file.slot(number)
        content = content_of(file.key, number, slot.begin())
        volume.write(self._path(file), number * SLOT_BYTES, content)
        slot.end(time.monotonic())
        return file

    def _write_synced(self, volume: Volume) -> None:
        file = self._write(volume)
        if file is not None:
            self._sync_file(volume, file)

    def _sync(self, volume: Volume) -> None:
        file = self._any()
        if file is not None:
            self._sync_file(volume, file)

    def _sync_data(self, volume: Volume) -> None:
        file = self._any()
        if file is not None:
            self._sync_file(volume, file, data_only=True)

    def _sync_file(self, volume: Volume, file: File, *, data_only: bool = False) -> None:
        """And with it the name that leads there, as mirrorha promises."""
        sync = Sync([file.name, *file.slots.values()], since_s=self._opened_s)
        volume.sync(self._path(file), data_only=data_only)
        sync.end()
        self.synced += 1

    def _rename(self, volume: Volume) -> None:
        file = self._any()
        if file is None:
            return
        old = self._path(file)
        volume.rename(old, f"{self._name}/{file.key}.{file.name.begin()}")
        file.name.end(time.monotonic())

    def _unlink(self, volume: Volume) -> None:
        file = self._any()
        if file is None or len(self._files) <= FILES_MIN:
            return
        path = self._path(file)
        file.name.begin()
        file.is_removed = True
        volume.unlink(path)
        file.name.end(time.monotonic())
        self._files.remove(file)

    def _sync_names(self, volume: Volume) -> None:
        mine = [one for key, one in self._record.files.items() if key.startswith(f"{self._name}-")]
        sync = Sync([one.name for one in mine], since_s=self._opened_s)
        volume.sync_names(self._name)
        sync.end()
        self.synced += 1


@final
class Checker:
    """All clients, and what the record says."""

    def __init__(self, seed: int, clients: int) -> None:
        self._record: Final = Record()
        self._place: Final = Place()
        self._clients: Final = [
            Client(f"c{number}", self._record, self._place, random.Random(f"{seed} {number}"))
            for number in range(clients)
        ]
        for client in self._clients:
            threading.Thread(target=client.run, daemon=True).start()

    def obey(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked["do"]:
            case "go":
                self._place.move(asked["where"])
                return {}
            case "pause":
                self._place.move("")
                return {"idle": self._place.wait_idle(), **self._told()}
            case "check":
                events = [Event(**one) for one in asked["events"]]
                look = Look(events=events, synced_s=asked["synced_s"], now_s=time.monotonic())
                return {"faults": self._record.check(Path(asked["root"]), look)}
            case other:
                raise ValueError(other)

    def _told(self) -> dict[str, Any]:
        failed: dict[str, int] = {}
        for client in self._clients:
            for text, count in client.failed.items():
                failed[text] = failed.get(text, 0) + count
        return {
            "answered": sum(one.answered for one in self._clients),
            "synced": sum(one.synced for one in self._clients),
            "failed": failed,
        }


def main() -> None:
    checker = Checker(int(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"done": asked["do"], **checker.obey(asked)}), flush=True)


if __name__ == "__main__":
    main()
