"""The durable state of this node while it runs: written whole, one write at a time."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.errors import StateError
from mirrorha.state.atomic import remove_leftovers, write_atomically
from mirrorha.state.meta import encode_meta, read_meta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.core.meta import Meta

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: How long the end of this node waits for a write that is under way.
_CLOSE_S: Final = 2.0


@final
class MetaStore:
    """Reads the state at the start, and writes it before anything that rests on it is visible.

    Works in a thread of its own: no decision waits for threads that work on volumes. A write that
    is abandoned, because the node ends or the disk hangs, may still replace the file: until
    `close` has returned True nobody else may use it.

    Args:
        path: the file.
        limit_s: a write that takes longer means a failing disk.
        give_up_reserve: makes room on a full disk, once; returns whether it did.
        write: replaces the file, durably. Tests fail it, or let it hang.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_s: float,
        give_up_reserve: Callable[[], bool] = lambda: False,
        write: Callable[[Path, bytes], None] = write_atomically,
    ) -> None:
        self._path: Final = path
        self._limit_s: Final = limit_s
        self._give_up_reserve: Final = give_up_reserve
        self._write: Final = write
        self._limiter: Final = trio.CapacityLimiter(1)

    async def load(self, *, node: str) -> Meta:
        """Read the state of `node`, or begin a new one.

        Raises:
            StateError: it cannot be read, or is damaged, or another node's.
        """
        return await trio.to_thread.run_sync(self._load, node, limiter=self._limiter)

    async def save(self, meta: Meta) -> None:
        """Return once `meta` is durable.

        Raises:
            StateError: it could not be done within the limit; what the file holds then is either.
        """
        raw = encode_meta(meta)
        try:
            with trio.fail_after(self._limit_s):
                await trio.to_thread.run_sync(
                    self._save, raw, abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            text = f"{self._path} is not written after {self._limit_s:g} s: its disk is failing"
            raise StateError(text) from None
        except OSError as error:
            why = error.strerror or error
            raise StateError(f"{self._path} cannot be written: {why}") from error

    async def close(self) -> bool:
        """Wait for a write under way, for a bounded time; return whether none is any more."""
        with trio.move_on_after(_CLOSE_S):
            await self._limiter.acquire_on_behalf_of(self)
            return True
        return False

    def _load(self, node: str) -> Meta:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_leftovers(self._path)
        except OSError as error:
            text = f"state_dir {self._path.parent} cannot be used: {error.strerror or error}"
            raise StateError(text) from error
        return read_meta(self._path, node=node)

    def _save(self, raw: bytes) -> None:
        try:
            self._write(self._path, raw)
        except OSError as error:
            if error.errno not in _FULL or not self._give_up_reserve():
                raise
            self._write(self._path, raw)
