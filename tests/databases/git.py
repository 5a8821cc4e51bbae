"""git: clones that were made, and commits in them."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path
from typing import Final, final

from tests.databases.database import Database, Host, clients
from tests.databases.record import Record, Transaction
from tests.mounted.machine import MachineError

COMMITS: Final = 40
FILES: Final = 60
CLONES_AT_ONCE: Final = 2
CLONE: Final = ("git", "-c", "core.fsync=all", "clone", "--no-local", "--quiet")


@final
class Git(Database):
    """`git clone` into the mirrored directory, one after another.

    Args:
        scratch: a directory outside of the pair, for the repository that is cloned.
    """

    def __init__(self, *, scratch: Path) -> None:
        self.name = "git"
        self._source: Final = scratch / "source.git"
        self._head = ""

    def create(self, host: Host) -> None:
        git = ("git", "-C", str(self._source))
        subprocess.run(["git", "init", "--quiet", "--bare", str(self._source)], check=True)
        subprocess.run(
            [*git, "fast-import", "--quiet"], input=_history().encode(), check=True, timeout=60
        )
        subprocess.run([*git, "symbolic-ref", "HEAD", "refs/heads/main"], check=True)
        told = subprocess.run([*git, "rev-parse", "main"], check=True, capture_output=True)
        self._head = told.stdout.decode().strip()

    def serve(self, host: Host) -> None:
        """There is nothing to serve; what a killed clone left behind may stay."""

    def load(
        self, host: Host, record: Record, number: int
    ) -> contextlib.AbstractContextManager[None]:
        def clone(client: int, ending: threading.Event) -> None:
            done = 0
            while not ending.is_set():
                one = (number, client, done)
                into = str(_place(host, one))
                with contextlib.suppress(MachineError):  # it was killed, with the machine
                    host.machine.run(*CLONE, f"file://{self._source}", into)
                    record.add(one)
                    done += 1
                    continue
                return

        return clients(clone, count=CLONES_AT_ONCE)

    def check(self, host: Host, record: Record) -> list[str]:
        faults: list[str] = []
        seen = record.all()
        for one in sorted(seen):
            git = ("git", "-C", str(_place(host, one)))
            try:
                host.machine.run(*git, "fsck", "--full", "--strict", "--no-dangling")
                head = host.machine.run(*git, "rev-parse", "HEAD").strip()
                changed = host.machine.run(*git, "status", "--porcelain").strip()
            except MachineError as error:
                faults.append(f"acknowledged clone {one} is missing or damaged: {error}")
                continue
            if head != self._head or changed:
                faults.append(f"clone {one} is at {head}, and differs in {changed!r}")
        if not faults:
            # Each was looked at; the next round makes its own.
            host.machine.run("find", str(host.directory), "-mindepth", "1", "-delete")
            record.forget(seen)
        return faults

    def stop(self, host: Host) -> list[str]:
        return []


def _place(host: Host, one: Transaction) -> Path:
    return host.directory / "-".join(map(str, one))


def _history() -> str:
    """Commits of small files, some large ones, and directories, for `git fast-import`."""
    parts: list[str] = []
    for commit in range(COMMITS):
        text = f"Change {commit}"
        parts.append(f"commit refs/heads/main\ncommitter A <a@example.org> {10**9 + commit} +0000")
        parts.append(f"data {len(text)}\n{text}")
        for number in range(commit % 7, FILES, 7):
            length = 20 if number % 20 else 4000
            body = "".join(f"{commit} {number} {line}\n" for line in range(length))
            parts.append(f"M 644 inline d{number % 5}/f{number}\ndata {len(body)}\n{body}")
    return "\n".join(parts) + "\n"
