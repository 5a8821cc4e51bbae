"""What an application's process and a worker say to each other about one volume.

One message is one packet on a unix socket pair. Both ends are of one installation, but a program
may be upgraded under a running parent: `VERSION` says so at once, and fields are only appended.
Tags up to 31 go to the worker, those from 32 on come from it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from mirrorha.core.orders import AnyOrder, AnyReport
from mirrorha.core.words import Mode
from mirrorha.volume.stream.pending import VolumeSettings
from mirrorha.wire.limits import KIB

VERSION: Final = 1
#: A hello is the longest thing that is passed on. Less than what a socket pair takes at once.
MESSAGE_BYTES_MAX: Final = 128 * KIB


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


# ---- to the worker -------------------------------------------------------------------------------


class KeysAt(Message, frozen=True):
    """What this node shows to the other one, and whom it believes.

    Attributes:
        path: of the file with this node's private key and certificate.
        authority_pem: the certificate of the cluster's authority.
    """

    path: str
    authority_pem: str


class MountWish(Message, frozen=True):
    """How the volume is mounted over its directory.

    Attributes:
        exclude: patterns that stay local.
        allow_other: whether other users may use it.
    """

    exclude: tuple[str, ...] = ()
    allow_other: bool = True


class Open(Message, frozen=True, tag=1):
    """The first message. Answered by `Ready`, once this worker alone has the volume's state.

    Attributes:
        volume: its name, for logs and the connection's hello.
        root: the directory.
        state_dir: what this node knows of it.
        reserve: a file that may be removed when the disk of `state_dir` is full, or "".
        settings: of the volume's machine.
        freeze_max_ms: pending changes are answered after so long without somebody to hold them,
            by the worker's own clock.
        keys: None: connections are refused.
        mount: None: nothing is mounted; the volume only follows. For tests.
        is_put_back_known: see `open_volume`.
    """

    version: int
    volume: str
    root: str
    state_dir: str
    reserve: str
    settings: VolumeSettings
    freeze_max_ms: int
    keys: KeysAt | None
    mount: MountWish | None
    is_put_back_known: bool = False


class Look(Message, frozen=True, tag=2):
    """Look at the directory, and at what stands in the way of a mount. Answered by `Looked`."""


class Begin(Message, frozen=True, tag=3):
    """Open the volume, mount it and serve. Answered by `Opened`."""


class Give(Message, frozen=True, tag=4):
    """An order of the node."""

    order: AnyOrder


class Mark(Message, frozen=True, tag=5):
    """Have the directory carry this id. Answered by `Marked`. Idempotent."""

    volume_id: str


class Connection(Message, frozen=True, tag=6):
    """A TCP connection to the peer's worker comes with this, on which nothing was said.

    Attributes:
        number: of this connection, rising.
        hello: what this node says, encoded.
        dialled: whether this node made it.
        incarnation: the peer's, or ""; one of another incarnation is refused.
        plain: whether TLS ends once both have said who they are.
        whom: the other side, as people should read it in errors.
    """

    number: int
    hello: bytes
    dialled: bool
    incarnation: str
    plain: bool
    whom: str = "the peer"


class Disconnect(Message, frozen=True, tag=7):
    """Close the connection `number`, or whatever there is if it is 0. No answer is due."""

    number: int
    why: str


class Ping(Message, frozen=True, tag=8):
    """Answered by `Pong` by the loop itself, so that a hung one is found out."""

    number: int


class Shutdown(Message, frozen=True, tag=9):
    """Answer every caller, end, and unmount before that if told so.

    Unmounting shows the directory to whoever still runs: only once the service's stop is certain.
    """

    why: str
    unmount: bool


ToWorker: TypeAlias = Open | Look | Begin | Give | Mark | Connection | Disconnect | Ping | Shutdown

# ---- from the worker -----------------------------------------------------------------------------


class Ready(Message, frozen=True, tag=32):
    """The lock on the volume's state is held, or `problem` says why not; then the worker ends."""

    version: int
    pid: int
    problem: str = ""


class Looked(Message, frozen=True, tag=33):
    """What stands in the directory: the value of an `identity.Standing`, and the id if any."""

    standing: str
    volume_id: str | None
    problem: str = ""


class Opened(Message, frozen=True, tag=34):
    """The volume is open and mounted, or `problem` says why not.

    Attributes:
        lost: why not is that what was written before is not on the disk (`WritesLostError`).
        put_back: why not is that the directory is of an older day (`PutBackError`).
        rebuilt, unknown, limbo, skipped: of `disk.Found`; of the files unknown, how many.
        connection: the number of the FUSE connection in /sys/fs/fuse/connections, 0 without.
    """

    problem: str = ""
    lost: bool = False
    rebuilt: bool = False
    unknown: int = 0
    limbo: int = 0
    skipped: tuple[str, ...] = ()
    connection: int = 0
    put_back: bool = False


class Told(Message, frozen=True, tag=35):
    """What the volume reports to its node."""

    report: AnyReport


class Marked(Message, frozen=True, tag=36):
    """The directory carries the id, or `problem` says why not."""

    problem: str = ""


class Linked(Message, frozen=True, tag=37):
    """Both ends of a connection have said who they are; it carries the stream from now on."""

    number: int
    warnings: tuple[str, ...] = ()


class Unlinked(Message, frozen=True, tag=38):
    """A connection is over, or never came to carry the stream.

    Attributes:
        fault: the name of the error: "lost", "refused" or "protocol".
    """

    number: int
    fault: str
    why: str


class Status(Message, frozen=True, tag=39):
    """How the volume is. Told when that changes, twice a second at most, and for a `Ping`.

    Attributes:
        waiting: changes and flushes that wait for room, or for an order.
        pending: callers that have no answer yet, those among them.
        touched: entries of the touched log.
        connected: whether the stream is up.
        faults: exceptions in handlers of the kernel's requests, which became errors.
        turn_ms_max: the longest that the loop was away since the last one.
    """

    mode: Mode | None = None
    seq: int = 0
    peer_seq: int | None = None
    waiting: int = 0
    pending: int = 0
    touched: int = 0
    confirmed: tuple[int, int] = (0, 0)
    retired: tuple[int, int] = (0, 0)
    connected: bool = False
    faults: int = 0
    turn_ms_max: int = 0


class Pong(Message, frozen=True, tag=40):
    """The loop turns."""

    number: int


class Exited(Message, frozen=True, tag=41):
    """The last message. Every caller has been answered.

    Attributes:
        is_bug: mirrorha broke a rule of its own: the node must not go on as if nothing were.
        unmounted: nothing of ours covers the directory any more.
    """

    why: str
    is_bug: bool = False
    unmounted: bool = False


FromWorker: TypeAlias = (
    Ready | Looked | Opened | Told | Marked | Linked | Unlinked | Status | Pong | Exited
)
