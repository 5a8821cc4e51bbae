"""The application of the demonstration: a ledger that appends transactions to a mirrored file.

A client sends `ID AMOUNT` lines over TCP; each is answered `ok ID` once its line in the journal
is on both nodes. It knows nothing of roles: it runs where its cluster runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.errors import MirrorHAError

if TYPE_CHECKING:
    from mirrorha import Replicator, RoleChange

JOURNAL: Final = "journal"
LINE_BYTES_MAX: Final = 256
RECEIVE_BYTES: Final = 4096


@final
class Ledger:
    """One running instance.

    Args:
        data: the mirrored directory.
        port: where clients connect, on loopback.
        broken: acknowledge before the write is mirrored, as no application should. The
            demonstration must then report losses, or it could not report them at all.
    """

    def __init__(self, data: Replicator, *, port: int, broken: bool = False) -> None:
        self._data, self._port, self._broken = data, port, broken
        self.acknowledged = 0

    async def serve(
        self, why: RoleChange, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run while this node serves. Cancellation ends it, open connections included."""
        del why
        if not await self._data.exists(JOURNAL):
            await self._data.write_bytes(JOURNAL, b"")
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(self._port, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._serve_client, listeners)
            task_status.started()

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        pending = b""
        try:
            async with stream, self._data.open(JOURNAL, "ab") as journal:
                while True:
                    received = await stream.receive_some(RECEIVE_BYTES)
                    *lines, pending = (pending + received).split(b"\n")
                    if not received or len(pending) > LINE_BYTES_MAX:
                        return
                    for line in lines:
                        answer = b"ok " + line.split(b" ")[0] + b"\n"
                        if self._broken:
                            await stream.send_all(answer)
                            await trio.sleep(0.05)  # the mirror is far behind the promise
                        await journal.write(line + b"\n")
                        if not self._broken:
                            await stream.send_all(answer)
                        self.acknowledged += 1
        except (OSError, trio.BrokenResourceError, MirrorHAError):
            return  # the client left, or this node may write no more: the client tries the other


def read_journal(raw: bytes) -> set[int]:
    """The ids of every whole line: what a copy of the journal holds."""
    whole = raw.rpartition(b"\n")[0]
    return {int(line.split(b" ")[0]) for line in whole.split(b"\n") if line}
