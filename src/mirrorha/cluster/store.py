"""The durable state of this node while it runs: written whole, one write at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from mirrorha.errors import StateError
from mirrorha.state.atomic import (
    ReplacementUnknownError,
    remove_leftovers,
    write_atomically,
)
from mirrorha.state.meta import encode_meta, read_meta
from mirrorha.state.reserve import FULL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorha.core.meta import Meta

#: How long the end of this node waits for a write that is under way.
_CLOSE_S: Final = 2.0


class Room(Protocol):
    """See `state_room.StateRoom`."""

    def lend(self) -> bool: ...
    def take_back(self) -> None: ...
    def give_up(self) -> bool: ...


@final
class MetaStore:
    """Reads the state at the start, and writes it before anything that rests on it is visible.

    Works in a thread of its own: no decision waits for threads that work on volumes. A write that
    is abandoned, because the node ends or the disk hangs, may still replace the file: until
    `close` has returned True nobody else may use it.

    Args:
        path: the file.
        limit_s: a write that takes longer means a failing disk.
        room: makes room on a full disk, for as long as the state is being written.
        write: replaces the file, durably. Tests fail it, or let it hang.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_s: float,
        room: Room | None = None,
        write: Callable[[Path, bytes], None] = write_atomically,
    ) -> None:
        self._path: Final = path
        self._limit_s: Final = limit_s
        self._room: Final = room
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
            text = f"{self._path} cannot be written: {why}; make its disk well"
            raise StateError(f"{text}, then start this node again") from error

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
        except ReplacementUnknownError:
            raise
        except OSError as error:
            if error.errno not in FULL or self._room is None:
                raise
        else:
            return
        self._save_with_room(raw, self._room)

    def _save_with_room(self, raw: bytes, room: Room) -> None:
        room.lend()
        try:
            self._write(self._path, raw)
        except ReplacementUnknownError:
            raise
        except OSError as error:
            # Somebody else was quicker to take it.
            if error.errno not in FULL or not room.give_up():
                raise
            self._write(self._path, raw)
        finally:
            room.take_back()
