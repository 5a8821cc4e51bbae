"""The register in a file: for both nodes on one machine, that is for demonstrations and tests."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, final

import trio

from mirrorha.abc import Arbiter
from mirrorha.arbiters.lockfile import LockHeldError, hold_lock
from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
)
from mirrorha.state.atomic import (
    ReplacementUnknownError,
    make_durable,
    read_bytes_or_none,
    remove_leftovers,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

# Enough for a read beside a swap; a thread that hangs in a dead disk keeps its place until it ends.
_THREADS_MAX: Final = 2
# The wait for the lock ends before the call does: "another process holds it" says more than
# "no answer". On a busy machine a thread is told late.
_PATIENCE_SHARE: Final = 0.75


class _Revoked(Exception):  # noqa: N818 - it is never reported: nobody waits for it any more
    """The caller has gone, and has been told that nothing happened."""


@final
class _Attempt:
    """Settles, between a caller that may give up and its thread, whether the file is replaced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._revoked = False

    @property
    def is_revoked(self) -> bool:
        return self._revoked

    def begin(self) -> None:
        """In the thread, right before the point of no return.

        Raises:
            _Revoked: the caller has given up.
        """
        with self._lock:
            if self._revoked:
                raise _Revoked
            self._begun = True

    def revoke(self) -> bool:
        """By the caller: whether the file is surely never replaced by this attempt."""
        with self._lock:
            self._revoked = not self._begun
            return self._revoked


@final
class LocalArbiter(Arbiter):
    """Keeps the register in a file of this machine, under an exclusive lock.

    Any number of processes may use the same file. It must be on a local file system, and beside
    it there will be a file of the same name with `.lock` added, which must not be removed.

    All file work is done in threads. A cancelled call returns at once and leaves its thread to
    end by itself; it takes effect later only if the replacement of the file had already begun.

    Args:
        path: The file. Its directory must exist.
        deadline_s: The most that one call takes.
        write: Replaces the file, durably. Tests fail it, or let it hang.
        settle: Makes the file that is there durable. Tests watch it.
    """

    kind: ClassVar[str] = "local"

    def __init__(
        self,
        path: str | Path,
        *,
        deadline_s: float = 2.0,
        write: Callable[[Path, bytes], None] = write_atomically,
        settle: Callable[[Path], None] = make_durable,
    ) -> None:
        self._path = Path(path)
        self._lock_path = self._path.with_name(self._path.name + ".lock")
        self._deadline_s = deadline_s
        self._write = write
        self._settle = settle
        self._durable: bytes | None = None  # the record that is known to be
        # Its own: no decision waits for threads that work on the data it decides about.
        self._limiter = trio.CapacityLimiter(_THREADS_MAX)
        self._is_clean = False

    async def read(self) -> bytes | None:
        return await self._call(self._read_locked)

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        if len(new) > RECORD_BYTES_MAX:
            raise LocalUsageError(
                f"a record of {len(new)} bytes is too large: at most {RECORD_BYTES_MAX} are kept"
            )
        return await self._call(lambda attempt: self._swap_locked(attempt, expected, new))

    async def _call(self, work: Callable[[_Attempt], _T]) -> _T:
        attempt = _Attempt()
        try:
            with trio.fail_after(self._deadline_s):
                return await trio.to_thread.run_sync(
                    work, attempt, abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            text = f"{self._path}: no answer from the disk within {self._deadline_s} s"
            if attempt.revoke():
                raise ArbiterUnavailableError(text) from None
            raise ArbiterOutcomeUnknownError(text) from None
        except ReplacementUnknownError as error:
            raise ArbiterOutcomeUnknownError(f"{self._path}: {error}") from error
        except (OSError, LockHeldError) as error:
            raise ArbiterUnavailableError(f"{self._path}: {error}") from error
        finally:
            # A cancelled call may take effect later, but need not where that can be helped.
            attempt.revoke()

    def _read_locked(self, attempt: _Attempt) -> bytes | None:
        # Under the lock: what is read without it could be renamed but not durable yet.
        with self._hold_lock(attempt):
            return self._find()

    def _swap_locked(self, attempt: _Attempt, expected: bytes | None, new: bytes) -> bool:
        with self._hold_lock(attempt):
            if self._find() != expected:
                return False
            if not self._is_clean:
                remove_leftovers(self._path)
                self._is_clean = True
            attempt.begin()
            self._write(self._path, new)
            self._durable = new
            return True

    def _find(self) -> bytes | None:
        """The record, durably: who wrote it may have been killed just before it was."""
        found = read_bytes_or_none(self._path, bytes_max=RECORD_BYTES_MAX)
        if found is not None and found != self._durable:
            self._settle(self._path)
            self._durable = found
        return found

    def _hold_lock(self, attempt: _Attempt) -> contextlib.AbstractContextManager[None]:
        return hold_lock(
            self._lock_path,
            patience_s=self._deadline_s * _PATIENCE_SHARE,
            give_up=lambda: attempt.is_revoked,
        )
