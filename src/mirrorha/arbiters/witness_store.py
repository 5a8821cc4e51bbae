"""What a witness keeps on its disk: one small file for each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec
import trio
import xxhash

from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import ArbiterOutcomeUnknownError, ArbiterUnavailableError, ensure
from mirrorha.state.atomic import (
    ReplacementUnknownError,
    make_durable,
    read_bytes_or_none,
    remove_leftovers,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMAT: Final = 1
# Base64 makes a record a third longer; the rest is a few short fields.
_FILE_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX


class _File(msgspec.Struct):
    """The file's JSON.

    Attributes:
        cluster: again in the file, so that a file under a wrong name is noticed.
        version: how often the record was replaced. It only rises; nothing depends on it.
        checksum: of all other fields, see `_checksum`.
    """

    format: int
    cluster: str
    version: int
    record: bytes
    checksum: str


@final
class DurableRecord:
    """One cluster's record, in memory and on disk. Linearizable, for tasks of one process.

    Args:
        path: Its file.
        cluster: Whose record it is.
        limiter: Of the threads that write.
        patience_s: How long a call waits for those before it.
        write: Replaces the file, durably. Tests fail it, or let it hang.
        settle: Makes the file that is there durable. Tests watch it.
    """

    def __init__(
        self,
        path: Path,
        cluster: str,
        *,
        limiter: trio.CapacityLimiter,
        patience_s: float,
        write: Callable[[Path, bytes], None] = write_atomically,
        settle: Callable[[Path], None] = make_durable,
    ) -> None:
        self._path = path
        self._cluster = cluster
        self._limiter = limiter
        self._patience_s = patience_s
        self._write = write
        self._settle = settle
        self._lock = trio.Lock()
        self._record: bytes | None = None
        self._version = 0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why every call is refused until the witness is started again; None: all is well."""
        return self._problem

    def load(self) -> None:
        """Read the file. Blocks; to be called once, before anything else.

        What cannot be read is a problem that refuses every call: it is never taken for absence.
        """
        try:
            remove_leftovers(self._path)
            raw = read_bytes_or_none(self._path, bytes_max=_FILE_BYTES_MAX)
            if raw is not None:
                self._record, self._version = _decode(raw, self._cluster)
                # The witness before this one may have been killed just before it did so. Told to
                # a client first, it would be an epoch that a power loss takes back.
                self._settle(self._path)
        except (OSError, ValueError) as error:
            self._problem = (
                f"the witness cannot read its record of cluster '{self._cluster}', "
                f"{self._path}: {error}. Repair the disk, or move the file away, and start the "
                "witness again; without the file, the cluster's two nodes make the record anew."
            )

    async def read(self) -> tuple[bytes | None, int]:
        """Return the record and its version.

        Raises:
            ArbiterUnavailableError: it could not be read from disk, or a write takes too long.
        """
        # Under the lock, though memory could answer: an answer says that the disk works too.
        await self._acquire()
        try:
            return self._record, self._version
        finally:
            self._lock.release()

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> tuple[bool, int]:
        """Replace the record by `new` if it equals `expected`; it is durable when this returns.

        Returns whether that was so, and the version now. A write that has begun is not
        abandoned when the call is cancelled.

        Raises:
            ArbiterUnavailableError: nothing happened.
            ArbiterOutcomeUnknownError: the disk failed; every later call is refused.
        """
        await self._acquire()
        try:
            if self._record != expected:
                return False, self._version
            await self._replace(new)
            return True, self._version
        finally:
            self._lock.release()

    async def _acquire(self) -> None:
        try:
            with trio.fail_after(self._patience_s):
                await self._lock.acquire()
        except trio.TooSlowError:
            raise ArbiterUnavailableError(
                f"the disk of the witness did not answer within {self._patience_s} s"
            ) from None
        if self._problem is not None:
            self._lock.release()
            raise ArbiterUnavailableError(self._problem)

    async def _replace(self, new: bytes) -> None:
        version = self._version + 1
        raw = _encode(self._cluster, version, new)
        try:
            # Never abandoned: a thread that still writes while this process goes on without it,
            # or has given up the directory's lock, could undo what was promised since.
            await trio.to_thread.run_sync(self._write, self._path, raw, limiter=self._limiter)
        except ReplacementUnknownError as error:
            self._problem = (
                f"the disk of the witness failed while it replaced its record of cluster "
                f"'{self._cluster}', {self._path}: {error}. See to the disk, then start the "
                "witness again."
            )
            raise ArbiterOutcomeUnknownError(self._problem) from error
        except OSError as error:
            raise ArbiterUnavailableError(f"the witness cannot write: {error}") from error
        self._record, self._version = new, version


def _encode(cluster: str, version: int, record: bytes) -> bytes:
    file = _File(FORMAT, cluster, version, record, _checksum(cluster, version, record))
    raw = msgspec.json.encode(file) + b"\n"
    ensure(len(raw) <= _FILE_BYTES_MAX, "what is written can be read")
    return raw


def _decode(raw: bytes, cluster: str) -> tuple[bytes, int]:
    """Return record and version.

    Raises:
        ValueError: it is not what `_encode` returned for this cluster.
    """
    try:
        file = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    if file.format != FORMAT:
        raise ValueError(f"it has format {file.format}, and this version reads {FORMAT}")
    if file.checksum != _checksum(file.cluster, file.version, file.record):
        raise ValueError("it is damaged: its checksum does not fit")
    if file.cluster != cluster:
        raise ValueError(f"it is the record of cluster '{file.cluster}'")
    return file.record, file.version


def _checksum(cluster: str, version: int, record: bytes) -> str:
    """Against damage, not against forgery: who can write here can do anything anyway."""
    return xxhash.xxh3_128_hexdigest(f"{FORMAT}\n{cluster}\n{version}\n".encode() + record)
