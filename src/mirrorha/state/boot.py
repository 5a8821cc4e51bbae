"""Which start of the operating system this is: a process crash is not an OS crash."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

_LINUX: Final = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id(path: Path = _LINUX) -> str:
    """The id of this start of the operating system.

    Where there is none to be had, an id that no other start of any process gets: then every crash
    counts as one of the operating system, which only asks for more than is needed.
    """
    try:
        found = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    return found or f"unknown-{uuid.uuid4()}"
