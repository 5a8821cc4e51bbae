"""`mirrorha witness`: keeps the registers of many clusters, on any third machine.

It compares and replaces opaque bytes, durably, and understands nothing of them. Which record a
client may touch is decided by its TLS handshake alone: each cluster has a CA of its own, the
server name picks that CA, and there is no other way to name a record.

A witness that has lost its disk answers "no record", truthfully as far as it knows; the nodes
know better, and do not act upon that alone.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING, Final, assert_never, final

import trio

from mirrorha.arbiters.lockfile import LockHeldError, hold_lock
from mirrorha.arbiters.witness_door import (
    Connection,
    Connections,
    WitnessLimits,
    check_contexts,
    handshake,
    source_of,
)
from mirrorha.arbiters.witness_store import DurableRecord
from mirrorha.arbiters.witness_wire import (
    PROTOCOL,
    TEXT_CHARACTERS_MAX,
    VERSION_MAX,
    VERSION_MIN,
    Channel,
    Failed,
    Found,
    Hello,
    Read,
    Refused,
    Reply,
    Request,
    Swap,
    Swapped,
    Welcome,
    decode_request,
)
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    CommandRefusedError,
    PeerProtocolError,
)
from mirrorha.state.atomic import make_directory, make_durable, write_atomically

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from pathlib import Path

_LOG: Final = logging.getLogger("mirrorha.witness")
_LOCK_NAME: Final = "witness.lock"
_DEFAULT_LIMITS: Final = WitnessLimits()
# As many as there are clusters, so that none waits for another's write; up to a number of
# threads that any machine bears.
_WRITERS_MAX: Final = 64
# How many connections are accepted before other tasks have their turn.
_ACCEPTS_MAX: Final = 32
# Files or memory have run out; they come back as connections end.
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_PAUSE_S: Final = 0.1


async def serve_witness(
    *,
    state_dir: Path,
    contexts: Mapping[str, ssl.SSLContext],
    host: str,
    port: int,
    limits: WitnessLimits = _DEFAULT_LIMITS,
    write: Callable[[Path, bytes], None] = write_atomically,
    settle: Callable[[Path], None] = make_durable,
    task_status: trio.TaskStatus[Witness] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Reports the `Witness` once it listens.

    When cancelled it waits for writes that have begun, however long the disk takes.

    Args:
        state_dir: Where the records are kept; made if it is missing. One witness at a time.
        contexts: For each cluster, by name, the server's side of TLS 1.3: the certificate of
            the witness, whose DNS name is the cluster's name, and the cluster's CA, which its
            clients must show a certificate of.
        host: The address to listen on.
        port: The port; 0 lets the system choose.
        limits: What clients may cost.
        write: Replaces a file, durably. Tests fail it, or let it hang.
        settle: Makes a file that is there durable. Tests watch it.
        task_status: Of `nursery.start`.

    Raises:
        ConfigError: the contexts do not keep the clusters apart.
        CommandRefusedError: another witness uses `state_dir`, it cannot be used, or the address
            cannot be listened on.
    """
    check_contexts(contexts)
    with contextlib.ExitStack() as held:
        witness = Witness(dict(contexts), limits)
        await trio.to_thread.run_sync(_open, state_dir, held)
        await trio.to_thread.run_sync(lambda: witness.load(state_dir, write, settle))
        listeners = [held.enter_context(listener) for listener in await _listen(host, port)]
        witness.port = listeners[0].getsockname()[1]
        _LOG.info("witness listens on %s, port %d, for %s", host, witness.port, ", ".join(contexts))
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(witness.accept_for_ever, listener, nursery)
            task_status.started(witness)


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen and do not block."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise CommandRefusedError(
            f"the witness cannot listen on {host}, port {port}: {error}"
        ) from error
    sockets = [socket.socket(fileno=listener.socket.detach()) for listener in listeners]
    for each in sockets:
        each.setblocking(False)
    return sockets


def _open(state_dir: Path, held: contextlib.ExitStack) -> None:
    """Lock the directory until `held` is closed. Blocks."""
    try:
        make_directory(state_dir)
        held.enter_context(hold_lock(state_dir / _LOCK_NAME))
    except LockHeldError as error:
        raise CommandRefusedError(
            f"a witness is running on {state_dir} already; stop it, or give this one another "
            "directory"
        ) from error
    except OSError as error:
        raise CommandRefusedError(f"the witness cannot use {state_dir}: {error}") from error


@final
class Witness:
    """A witness that serves. Made by `serve_witness`, never directly.

    Attributes:
        port: where it listens.
        counts: how often each thing happened, by name, since it was started: "connections",
            "reads", "swaps", "refused swaps", and each kind of trouble.
    """

    def __init__(self, contexts: Mapping[str, ssl.SSLContext], limits: WitnessLimits) -> None:
        self.port = 0
        self.counts: Final[collections.Counter[str]] = collections.Counter()
        self._contexts = contexts
        self._limits = limits
        self._connections = Connections(limits)
        self._turn = trio.Lock()
        self._records: dict[str, DurableRecord] = {}

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def problems(self) -> dict[str, str]:
        """The clusters that are refused for the state of their record, and why."""
        return {
            cluster: record.problem
            for cluster, record in self._records.items()
            if record.problem is not None
        }

    def load(
        self,
        state_dir: Path,
        write: Callable[[Path, bytes], None],
        settle: Callable[[Path], None],
    ) -> None:
        """Read all records. Blocks; called once, before the first connection."""
        limiter = trio.CapacityLimiter(min(len(self._contexts), _WRITERS_MAX))
        for cluster in self._contexts:
            record = DurableRecord(
                state_dir / f"{cluster}.json",
                cluster,
                limiter=limiter,
                patience_s=self._limits.disk_s,
                write=write,
                settle=settle,
            )
            record.load()
            self._records[cluster] = record
        for problem in self.problems().values():
            _LOG.error("%s", problem)

    async def accept_for_ever(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Start a task for each connection. Takes many at a time: a flood must not queue up."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(_ACCEPTS_MAX):
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    self._note("not accepted", f"a connection was not accepted: {error}")
                    if error.errno in _SHORTAGES:
                        await trio.sleep(_SHORTAGE_PAUSE_S)
                    break
                nursery.start_soon(self._handle, sock, source_of(address[0]))

    async def _handle(self, sock: socket.socket, source: str) -> None:
        """Serve one connection to its end, whatever the client does.

        No nursery in here: it would wrap what the boundary below must tell apart. Nothing but
        `trio.Cancelled` and what is no `Exception` passes that boundary.
        """
        self.counts["connections"] += 1
        with sock, trio.CancelScope() as scope:
            connection = Connection(scope.cancel, source)
            try:
                if not self._connections.admit(connection):
                    self._note("no room", "all connections are taken")
                    return
                transport = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                await self._converse(connection, transport)
            except Exception as error:  # the boundary: one client's trouble is nobody else's
                self._note_error(error)
            finally:
                self._connections.leave(connection)

    async def _converse(self, connection: Connection, transport: trio.SocketStream) -> None:
        limits = self._limits
        with trio.fail_after(limits.handshake_s):
            cluster, stream = await handshake(transport, self._contexts, self._turn)
            channel = Channel(stream)
            welcome = _greet(decode_request(await channel.receive()), cluster)
        if isinstance(welcome, Welcome) and not self._connections.join(connection, cluster):
            welcome = Refused("all connections of this cluster are busy; try again")
        with trio.fail_after(limits.reply_s):
            await channel.send(welcome)
        if isinstance(welcome, Welcome):
            while await self._wait_request(connection, channel):
                with trio.fail_after(limits.request_s):
                    request = decode_request(await channel.receive())
                reply = await self._answer(cluster, request)
                with trio.fail_after(limits.reply_s):
                    await channel.send(reply)
        else:
            self._note("refused", f"cluster '{cluster}': {welcome.why}")
        with trio.move_on_after(limits.reply_s):
            await stream.aclose()

    async def _wait_request(self, connection: Connection, channel: Channel) -> bool:
        """Wait for the next request to begin; False if the client leaves, or stays idle."""
        begun = False
        connection.is_idle = True
        with trio.move_on_after(self._limits.idle_s):
            begun = await channel.wait_begun()
        connection.is_idle = False
        self._connections.touch(connection)
        return begun

    async def _answer(self, cluster: str, request: Request) -> Reply:
        if isinstance(request, Hello):
            raise PeerProtocolError("a second Hello")
        record = self._records[cluster]
        try:
            match request:
                case Read():
                    self.counts["reads"] += 1
                    found, version = await record.read()
                    return Found(request.number, found, version)
                case Swap():
                    done, version = await record.compare_and_swap(request.expected, request.new)
                    self.counts["swaps" if done else "refused swaps"] += 1
                    return Swapped(request.number, done, version)
                case _:
                    assert_never(request)
        except ArbiterUnavailableError as error:
            self._note("unavailable", f"cluster '{cluster}': {error}", level=logging.ERROR)
            return Failed(request.number, "nothing", str(error)[:TEXT_CHARACTERS_MAX])
        except ArbiterOutcomeUnknownError as error:
            self._note("unknown", f"cluster '{cluster}': {error}", level=logging.ERROR)
            return Failed(request.number, "unknown", str(error)[:TEXT_CHARACTERS_MAX])

    def _note_error(self, error: Exception) -> None:
        if isinstance(error, trio.TooSlowError):
            self._note("too slow", "a client did not send or take a message in time")
        elif isinstance(error, PeerProtocolError):
            self._note("not our protocol", str(error))
        elif isinstance(error, trio.BrokenResourceError):
            self._note("broken", f"a connection was lost: {error.__cause__ or error}")
        else:
            self._note("bugs", "an error that must not happen", level=logging.ERROR, cause=error)

    def _note(
        self, kind: str, text: str, *, level: int = logging.INFO, cause: Exception | None = None
    ) -> None:
        """Count, and log the 1st, 2nd, 4th, 8th … of a kind: hostile clients fill no disk."""
        self.counts[kind] += 1
        count = self.counts[kind]
        if count & (count - 1) == 0:
            _LOG.log(level, "witness: %s (%s, number %d)", text, kind, count, exc_info=cause)


def _greet(request: Request, cluster: str) -> Welcome | Refused:
    if not isinstance(request, Hello) or request.protocol != PROTOCOL:
        raise PeerProtocolError(f"the first message is no Hello of {PROTOCOL}")
    version = min(VERSION_MAX, request.version_max)
    if version < max(VERSION_MIN, request.version_min):
        return Refused(
            f"this witness speaks versions {VERSION_MIN} to {VERSION_MAX} of {PROTOCOL}, the "
            f"client {request.version_min} to {request.version_max}; upgrade the older one"
        )
    return Welcome(version, cluster)
