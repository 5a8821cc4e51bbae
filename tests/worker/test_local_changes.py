"""What an fsync says of its file reaches whoever has to do it."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest

from mirrorha.volume.disk import SyncFiles
from mirrorha.volume.ops import LOCAL_FID_MIN, is_local
from mirrorha.volume.worker.local_changes import LocalChanges

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.volume.events import Reply

LOCAL = LOCAL_FID_MIN + 5
MIRRORED = 5


class Others:
    """The driver, the disk and the loop."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self.syncs_in_threads = 0
        self.performed: queue.SimpleQueue[object] = queue.SimpleQueue()

    def flush(self, fid: int, then: Callable[[Reply], None], *, data_only: bool = False) -> int:
        self.asked.append((fid, data_only))
        return 7

    def perform(self, request: object) -> None:
        self.performed.put(request)

    def from_thread(self, call: Callable[[], None]) -> None:
        call()


@pytest.mark.parametrize("data_only", [False, True])
def test_a_flush_goes_to_the_driver_or_to_this_nodes_disk(data_only: bool) -> None:
    assert is_local(LOCAL)
    others: Any = Others()
    changes = LocalChanges(others, others, others, report=lambda _: None)
    replies: list[Reply] = []
    assert changes.flush(MIRRORED, replies.append, data_only=data_only) == 7
    assert others.asked == [(MIRRORED, data_only)]
    token = changes.flush(LOCAL, replies.append, data_only=data_only)
    request = others.performed.get(timeout=30)
    assert request == SyncFiles([LOCAL], [LOCAL] if data_only else [])
    assert changes.end(30)
    assert token < 0
