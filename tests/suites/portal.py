"""The file API for code that is not asynchronous: suites that others wrote."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar, final

import trio

from mirrorha.volume.files.api import FileApi, OpenFile

T = TypeVar("T")
CALL_S: Final = 60.0
START_S: Final = 60.0


@final
class BlockingFiles:
    """A volume's file API, each call of which blocks. Made by `blocking_files`."""

    def __init__(self, files: FileApi, token: trio.lowlevel.TrioToken) -> None:
        self.files: Final = files
        self._token: Final = token

    def call(self, method: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Await `method(…)` in the loop that the volume lives in.

        Raises:
            trio.TooSlowError: it takes longer than CALL_S.
        """

        async def bounded() -> T:
            with trio.fail_after(CALL_S):
                return await method(*arguments, **options)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def open(self, path: str, mode: str) -> MirroredRaw:
        """Open a file in a binary mode."""

        async def opened() -> OpenFile:
            return await self.files.open(path, mode)

        return MirroredRaw(self, self.call(opened), path, mode)


@final
class MirroredRaw(io.RawIOBase):
    """An open file as Python's `io` wants it."""

    def __init__(self, files: BlockingFiles, file: OpenFile, name: str, mode: str) -> None:
        self._files, self._file = files, file
        self.name, self.mode = name, mode

    def readable(self) -> bool:
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        return "r" not in self.mode or "+" in self.mode

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._files.call(self._file.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        return self._files.call(self._file.write, bytes(data))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._files.call(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        return self._files.call(self._file.truncate, size)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._files.call(self._file.aclose)


@contextlib.contextmanager
def blocking_files(
    opened: Callable[[], AbstractAsyncContextManager[FileApi]],
) -> Iterator[BlockingFiles]:
    """Run a loop in a thread, and in it whatever carries the files, while the block lasts."""
    ready, ending = threading.Event(), trio.Event()
    made: list[BlockingFiles] = []
    errors: list[BaseException] = []

    async def main() -> None:
        async with opened() as files:
            made.append(BlockingFiles(files, trio.lowlevel.current_trio_token()))
            ready.set()
            await ending.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="portal")
    thread.start()
    ready.wait(START_S)
    try:
        if made:
            yield made[0]
    finally:
        if made and thread.is_alive():
            trio.from_thread.run_sync(ending.set, trio_token=made[0]._token)
        thread.join(START_S)
    if errors:
        raise errors[0]


@contextlib.asynccontextmanager
async def given(files: FileApi) -> AsyncIterator[FileApi]:
    """Files that need nothing to be run."""
    yield files
