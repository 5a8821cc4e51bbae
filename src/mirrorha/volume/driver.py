"""What a node holds of a volume: its driver, in this process or at the other end of a pipe.

`engine.Engine` drives a volume in the application's own loop; the client of a worker process
stands for one that is driven elsewhere, behind a mount. The node gives both the same orders, takes
the same reports, and shows the same status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mirrorha.core.orders import AnyOrder
    from mirrorha.core.words import Mode


@attrs.frozen(kw_only=True)
class DriverStatus:
    """A volume, as its driver sees it. Of a worker: as it was when it last said so.

    Attributes:
        mode: how changes are acknowledged; None if the volume does not serve.
        seq: the last change applied here.
        peer_seq: the last one that the peer has acknowledged, if that is known.
        waiting: changes and flushes that wait for room or for an order.
        mounted: whether any program's changes come in through a mount.
        pid: of the worker process, or None where there is none.
    """

    mode: Mode | None = None
    seq: int = 0
    peer_seq: int | None = None
    waiting: int = 0
    mounted: bool = False
    pid: int | None = None


class Driver(Protocol):
    """A volume's driver, as the node uses it. Its reports go to a callable given when it is made.

    Nothing but `run` blocks.
    """

    @property
    def status(self) -> DriverStatus:
        """What is known now, from memory."""
        ...

    def order(self, order: AnyOrder) -> None:
        """Carry out an order of the node. Once closed for good, orders are void."""
        ...

    def close(self, why: str) -> None:
        """Acknowledge nothing any more, for good: everything pending is answered with an error.

        Never fails: also for a node that must not go on. Idempotent.
        """
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the volume until cancelled. Once: another run needs another driver.

        `task_status.started()` is called when orders are carried out; of a worker, when it has
        opened the directory and mounted it. Cancelled, everything pending is answered, what is
        mounted is unmounted, and what uses the directory ends; all of it within a bound.

        Raises:
            VolumeError: before `started`: the directory cannot be opened or mounted; the text says
                why, and what to do. After it: nothing drives the volume any more, for the worker
                has ended. Cancelled: something of this node still uses the directory.
            WritesLostError: of a worker, before `started`: what was written before is not on the
                disk.
            InvariantViolation: the volume's machine found a bug; everything pending was answered.
        """
        ...


@attrs.frozen(kw_only=True, eq=False)
class StreamSocket:
    """A connection to the peer, for a volume's stream: connected, and nothing said on it but the
    preface, by whoever dialled.

    Attributes:
        socket: whoever is given it owns it, and closes it in this process.
        dials: this node made the connection: so it is TLS's client, and says hello first.
        hello: this node's `wire.hello.Hello` of the kind STREAM, encoded by `encode_hello`.
        peer_incarnation: whose stream this must be, as the peer's hello spells it: the one of the
            control session. Another one's is left over from an earlier life, and is closed.
        whom: the other side, as people should read it in errors.
    """

    socket: socket.socket
    dials: bool
    hello: bytes
    peer_incarnation: str
    whom: str


class WorkerDriver(Driver, Protocol):
    """A driver whose volume is behind a mount, in another process."""

    async def run_socket(
        self, handed: StreamSocket, *, admitted: Callable[[], None], plain: bool = False
    ) -> None:
        """Let the worker carry the stream over this connection; return when that has ended.

        TLS and the hellos are the worker's. Several connections may be under way at once; a stream
        that there is ends only once a newer one is admitted. Cancelled, the worker closes the
        connection.

        Args:
            handed: its socket is closed in this process in any case.
            admitted: called once both have said hello, and this became the volume's stream.
            plain: whether TLS ends once both have said who they are. The same on both sides.

        Raises:
            PeerRefusedError: the two do not belong together; the text says why.
            PeerError: why it ended.
        """
        ...

    async def mark(self, volume_id: str) -> None:
        """Have the root carry the volume's id. Idempotent.

        Raises:
            VolumeError: it cannot be written there.
        """
        ...
