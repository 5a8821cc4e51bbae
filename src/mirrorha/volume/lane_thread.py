"""A disk thread of a volume that trio drives.

A volume has one for its tree and one for its syncs: an fsync takes long, and nothing should queue
behind it. The way there and back costs 30 µs or more, less where the loop waits for it;
`trio.to_thread` costs more and keeps no order.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.volume.disk_thread import DiskThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.disk import AnyRequest
    from mirrorha.volume.events import DiskDone


@final
class LaneThread:
    """A `DiskThread` that calls `deliver` in the trio loop that made it.

    Args:
        perform: as for `DiskThread`.
        deliver: as for `DiskThread`.
    """

    def __init__(
        self,
        name: str,
        *,
        perform: Callable[[AnyRequest], object],
        deliver: Callable[[list[DiskDone]], None],
    ) -> None:
        self._token: Final = trio.lowlevel.current_trio_token()
        self._ended: Final = trio.Event()
        self._thread: Final = DiskThread(
            name,
            perform=perform,
            deliver=deliver,
            hand_over=self._tell,
            ended=self._ended.set,
        )
        self.submit: Final = self._thread.submit
        self.submit_and_wait: Final = self._thread.submit_and_wait
        self.stop: Final = self._thread.stop

    async def wait_ended(self) -> None:
        """Wait until the thread has ended, after `stop`. May be for ever: the caller bounds it."""
        await self._ended.wait()

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # nobody is left to be told
            self._token.run_sync_soon(call)
