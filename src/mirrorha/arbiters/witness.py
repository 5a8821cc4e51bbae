"""The register at a witness: the client's side."""

from __future__ import annotations

import socket
import ssl
from typing import ClassVar, Final, TypeAlias, TypeVar, final

import attrs
import trio

from mirrorha.abc import Arbiter
from mirrorha.arbiters.witness_wire import (
    PROTOCOL,
    VERSION_MAX,
    VERSION_MIN,
    Channel,
    Failed,
    Found,
    Hello,
    Read,
    Refused,
    Swap,
    Swapped,
    Welcome,
    decode_reply,
    problem_with_cluster_name,
)
from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
    PeerError,
    PeerProtocolError,
    PeerRefusedError,
)

# Family, type, protocol, canonical name, address.
_AddressInfo: TypeAlias = "tuple[socket.AddressFamily, socket.SocketKind, int, str, object]"

_Answer = TypeVar("_Answer", Found, Swapped)

# A name server that hangs keeps its thread, past any deadline of ours.
_LOOKUPS_MAX: Final = 2
# How long `aclose` takes at most to end what is under way and to say goodbye.
_GOODBYE_S: Final = 0.5
_FAILURES: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, PeerError)
# What TLS calls it, and what it means here.
_TLS_REASONS: Final = {
    "TLSV1_UNRECOGNIZED_NAME": "the witness does not serve cluster '{cluster}'",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not good for cluster '{cluster}'",
    "WRONG_VERSION_NUMBER": "what answers there does not speak TLS",
}


@final
class _Attempt:
    """One call: whether some of its request may have left."""

    def __init__(self) -> None:
        self.may_have_left = False


@final
@attrs.frozen
class _Connection:
    """A connection on which the witness has said `Welcome`."""

    sock: trio.socket.SocketType
    stream: trio.SSLStream[trio.SocketStream]
    channel: Channel

    def is_stale(self) -> bool:
        """Whether something is there to be read: the witness owes nothing, so it has closed."""
        return self.sock.is_readable()


@final
class WitnessArbiter(Arbiter):
    """Keeps the register at a witness, see `mirrorha.arbiters.witness_server`.

    The connection is kept between calls, and made again where it was lost. Calls of one instance
    may overlap; they are sent one after the other, each within its own deadline.

    Args:
        address: Where the witness listens, as "host:port" or "[host]:port".
        cluster: The name under which the witness knows the cluster. It is also the DNS name in
            the certificate that the witness must show.
        ssl_context: The client's side of TLS 1.3: this node's certificate, and the cluster's CA.
        deadline_s: The most that one call takes, in all.

    Raises:
        LocalUsageError: one of these cannot work; the text says which.
    """

    kind: ClassVar[str] = "witness"

    def __init__(
        self,
        address: str,
        cluster: str,
        ssl_context: ssl.SSLContext,
        *,
        deadline_s: float = 2.0,
    ) -> None:
        self._host, self._port = _split(address)
        if problem := problem_with_cluster_name(cluster):
            raise LocalUsageError(f"cluster name '{cluster}': {problem}")
        if ssl_context.verify_mode is not ssl.CERT_REQUIRED or not ssl_context.check_hostname:
            raise LocalUsageError("the TLS context does not check the certificate of the witness")
        if ssl_context.minimum_version < ssl.TLSVersion.TLSv1_3:
            raise LocalUsageError("the TLS context allows less than TLS 1.3")
        self._cluster = cluster
        self._ssl_context = ssl_context
        self._deadline_s = deadline_s
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(_LOOKUPS_MAX)
        self._connection: _Connection | None = None
        self._number = 0

    async def read(self) -> bytes | None:
        attempt = _Attempt()
        try:
            found = await self._call(attempt, Read(self._next_number()), Found)
        except _CallFailedError as error:
            raise ArbiterUnavailableError(str(error)) from error.__cause__
        return found.record

    async def compare_and_swap(self, expected: bytes | None, new: bytes) -> bool:
        if len(new) > RECORD_BYTES_MAX or len(expected or b"") > RECORD_BYTES_MAX:
            raise LocalUsageError(
                f"a witness keeps records of at most {RECORD_BYTES_MAX} bytes, not of "
                f"{max(len(new), len(expected or b''))}"
            )
        attempt = _Attempt()
        try:
            request = Swap(self._next_number(), expected, new)
            return (await self._call(attempt, request, Swapped)).done
        except _CallFailedError as error:
            if attempt.may_have_left:
                raise ArbiterOutcomeUnknownError(str(error)) from error.__cause__
            raise ArbiterUnavailableError(str(error)) from error.__cause__

    async def aclose(self) -> None:
        try:
            with trio.move_on_after(_GOODBYE_S):
                async with self._lock:
                    if self._connection is not None:
                        await self._connection.stream.aclose()
        except _FAILURES:
            pass  # it is gone, which is what was wanted
        finally:
            self._disconnect()

    async def _call(
        self, attempt: _Attempt, request: Read | Swap, answer: type[_Answer]
    ) -> _Answer:
        """Make one attempt.

        Raises:
            _CallFailedError: for whatever reason; `attempt` says what that may have left behind.
        """
        try:
            with trio.fail_after(self._deadline_s):
                async with self._lock:
                    reply = await self._exchange(attempt, request, answer)
        except trio.TooSlowError:
            raise self._failed(f"no answer within {self._deadline_s} s") from None
        except _FAILURES as error:
            raise self._failed(self._explain(error)) from error
        if isinstance(reply, Failed):
            # The witness tells what became of it, and its word counts: it has answered.
            attempt.may_have_left = reply.outcome != "nothing"
            raise self._failed(reply.why)
        return reply

    async def _exchange(
        self, attempt: _Attempt, request: Read | Swap, answer: type[_Answer]
    ) -> _Answer | Failed:
        connection = await self._connected()
        try:
            attempt.may_have_left = True
            await connection.channel.send(request)
            reply = decode_reply(await connection.channel.receive())
            if not isinstance(reply, (answer, Failed)) or reply.number != request.number:
                raise PeerProtocolError("it answered something else than what was asked")
        except BaseException:
            # Its reply may still come; nobody must take it for the reply to a later request.
            self._disconnect()
            raise
        return reply

    async def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.is_stale():
            self._disconnect()
        if self._connection is None:
            sock = await self._dial()
            try:
                self._connection = await self._greet(sock)
            except BaseException:
                sock.close()
                raise
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.sock.close()
            self._connection = None

    async def _dial(self) -> trio.socket.SocketType:
        """Connect to the first address of the witness that answers, in time for the others."""
        addresses = await self._look_up()
        failure: OSError = TimeoutError("no address answered in time")
        for position, (family, kind, protocol, _, address) in enumerate(addresses):
            left_s = trio.current_effective_deadline() - trio.current_time()
            sock = trio.socket.socket(family, kind, protocol)
            try:
                with trio.move_on_after(left_s / (len(addresses) - position)):
                    await sock.connect(address)
                    return sock
            except OSError as error:
                failure = error
            except BaseException:
                sock.close()
                raise
            sock.close()
        raise failure

    async def _look_up(self) -> list[_AddressInfo]:
        try:
            return _addresses(self._host, self._port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            # Not in trio's own threads, which others may fill with work that hangs.
            return await trio.to_thread.run_sync(
                _addresses, self._host, self._port, abandon_on_cancel=True, limiter=self._limiter
            )

    async def _greet(self, sock: trio.socket.SocketType) -> _Connection:
        stream = trio.SSLStream(
            trio.SocketStream(sock), self._ssl_context, server_hostname=self._cluster
        )
        channel = Channel(stream)
        await stream.do_handshake()
        try:
            await channel.send(Hello(PROTOCOL, VERSION_MIN, VERSION_MAX))
            reply = decode_reply(await channel.receive())
        except trio.BrokenResourceError as error:
            # In TLS 1.3 the client's part of the handshake is done before its certificate is
            # looked at, and trio sends no alert.
            raise PeerRefusedError(
                "it closed the connection in place of a welcome; most likely it does not accept "
                f"this node's certificate for cluster '{self._cluster}': its log says why"
            ) from error
        if isinstance(reply, Refused):
            raise PeerRefusedError(reply.why)
        if not isinstance(reply, Welcome) or reply.cluster != self._cluster:
            raise PeerProtocolError("it does not welcome this cluster")
        if not VERSION_MIN <= reply.version <= VERSION_MAX:
            raise PeerProtocolError(f"it speaks version {reply.version} of {PROTOCOL}")
        return _Connection(sock, stream, channel)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _failed(self, why: str) -> _CallFailedError:
        return _CallFailedError(f"witness {self._host}, port {self._port}: {why}")

    def _explain(self, error: BaseException) -> str:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PeerError):
            if isinstance(cause, ssl.SSLError):
                reason = _TLS_REASONS.get(cause.reason or "", "TLS failed")
                return f"{reason.format(cluster=self._cluster)} ({cause})"
            cause = cause.__cause__
        return str(error) or "the connection was lost"


@final
class _CallFailedError(Exception):
    """A call did not succeed; its text says why."""


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise LocalUsageError(
            f"the address of a witness is 'host:port' or '[host]:port', not '{address}'"
        )
    return host, int(port)


def _addresses(host: str, port: int, flags: int = 0) -> list[_AddressInfo]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]
