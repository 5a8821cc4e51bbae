"""What a node's replicated directories hold, for who has to decide with which to begin."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from mirrorha.cli.shown import bytes_text, time_text
from mirrorha.config import load_toml, on_one_machine
from mirrorha.volume.names import HIDDEN_NAMES

if TYPE_CHECKING:
    from mirrorha.cli.place import Place
    from mirrorha.config import ClusterConfig


class Held(NamedTuple):
    """What a directory holds: files of all kinds but directories, and their bytes.

    Attributes:
        newest_s: when the newest of them was changed, in seconds since 1970; None without files.
        problem: why not all of it could be read, or "".
    """

    files: int
    total_bytes: int
    newest_s: float | None
    problem: str = ""

    def __str__(self) -> str:
        if self.problem and not self.files:
            return self.problem
        newest = "" if self.newest_s is None else f", newest change {time_text(self.newest_s)}"
        trouble = f" (not all could be read: {self.problem})" if self.problem else ""
        return f"{self.files} files, {bytes_text(self.total_bytes)}{newest}{trouble}"


def load(place: Place) -> ClusterConfig:
    """The whole configuration. Raises `ConfigError`."""
    return load_toml(place.config, node=place.node)


def describe(config: ClusterConfig) -> str:
    """Both nodes' directories, or that the peer's are unknown. Walks them: may take long."""
    lines = [f"{config.me.name} holds:"]
    lines += [f"  {volume.path}: {look(volume.path)}" for volume in config.volumes]
    lines.append(f"{config.peer.name} holds:")
    for volume in config.volumes:
        seen = (
            look(volume.path_at_peer)
            if on_one_machine(config)
            else "unknown from here; look at it there before you go on"
        )
        lines.append(f"  {volume.path_at_peer}: {seen}")
    return "\n".join(lines)


def look(path: str) -> Held:
    """Count what `path` holds, not following symbolic links, without what is mirrorha's own."""
    files, total_bytes, newest_s, problem = 0, 0, None, ""
    waiting = [path]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name in HIDDEN_NAMES:
                        continue
                    seen = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(seen.st_mode):
                        waiting.append(entry.path)
                        continue
                    files += 1
                    total_bytes += seen.st_size
                    newest_s = max(newest_s or seen.st_mtime, seen.st_mtime)
        except OSError as error:
            problem = f"{error.filename or path}: {error.strerror}"
    return Held(files, total_bytes, newest_s, problem)
