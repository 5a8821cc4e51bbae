"""The one HTTP/1.1 server: h11 on trio, for the health probe, the management API, the console.

Rules that keep a hostile client from ending the node: no nursery inside a connection (what comes
out of one is a group that no `except` matches), one `except Exception` at the connection's
boundary, a bound on everything a client can make us hold or wait for, and nothing shielded, so
that cancelling the server ends it at once.
"""

from __future__ import annotations

import contextlib
import email.utils
import http
import logging
import math
import socket
import struct
import sys
import urllib.parse
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from typing import Final, cast, final

import attrs
import h11
import trio

from mirrorha.containment import Raised, Returned, contain
from mirrorha.errors import ensure

RECEIVE_BYTES: Final = 16 * 1024
#: A stalled client is told from a slow one by whether this much was taken in `write_stall_ms`.
SEND_BYTES: Final = 64 * 1024
#: What is read and thrown away after a last answer, so that closing does not reset the
#: connection under it (RFC 9112, 9.6), and for how long.
LINGER_BYTES_MAX: Final = 64 * 1024
LINGER_MS: Final = 1_000
QUERY_FIELDS_MAX: Final = 64

_UCRED: Final = struct.Struct("iII")  # pid, uid, gid: socket(7)
_LINGER: Final = struct.Struct("ii")  # on, seconds: socket(7)

_log: Final = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class HttpLimits:
    """What one server grants its clients altogether.

    Attributes:
        connections_max: above it the connection that has waited or dawdled longest makes
            room; if all are being answered, the new one is closed.
        header_bytes_max: request line and headers of one request.
        body_bytes_max: one request's body.
        idle_ms: how long a connection may wait for the first byte of a request.
        request_read_ms: from that byte to the end of the body; also the TLS handshake.
        handler_ms: how long a handler may take to begin its answer; what comes in pieces may then
            take any time. One that hangs holds its place, and would keep everybody out.
        write_stall_ms: a client that has not taken 64 KiB in this time is cut.
        grace_ms: after `close`, how long requests in flight may still take.
    """

    connections_max: int = 64
    header_bytes_max: int = 16 * 1024
    body_bytes_max: int = 256 * 1024
    idle_ms: int = 30_000
    request_read_ms: int = 10_000
    handler_ms: int = 120_000
    write_stall_ms: int = 10_000
    grace_ms: int = 2_000

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            ensure(value > 0, f"{name}={value} is a positive number")


@attrs.frozen(kw_only=True)
class Request:
    """One whole request. Its text fields are decoded and bounded, but not to be trusted.

    Attributes:
        path: percent-decoded; starts with `/` (or is `*`). May contain `..`.
        query: decoded fields; of a repeated one, the last.
        headers: names in lower case; the values of a repeated one joined by a comma.
        peer_uid: the client's user on a Unix socket, as the kernel vouches for it, else None.
        peer_address: the client's IP address, or "" on a Unix socket.
        secure: whether it came over TLS.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    peer_uid: int | None = None
    peer_address: str = ""
    secure: bool = False


@attrs.frozen(kw_only=True)
class Response:
    """What a handler answers.

    Attributes:
        body: bytes, or an asynchronous generator for a stream (server-sent events). A
            stream is cut when the server closes. A client that leaves is noticed when
            something is sent to it, so a stream must send something every few seconds
            (an SSE comment will do).
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


Handler = Callable[[Request], Awaitable[Response]]
_Scopes = dict[trio.CancelScope, None]


@contextlib.contextmanager
def _listed(scopes: _Scopes, *, after_ms: float = math.inf) -> Iterator[trio.CancelScope]:
    """A scope that others find in `scopes` and may cancel; leaving by that is silent."""
    with trio.move_on_after(after_ms / 1000) as scope:
        scopes[scope] = None
        try:
            yield scope
        finally:
            scopes.pop(scope, None)


def text_response(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Answer with one or more lines of plain text."""
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status=status, headers=(kind, *headers), body=text.encode() + b"\n")


INTERNAL_ERROR: Final = text_response(500, "internal error; this node's log says more")
TOO_SLOW: Final = text_response(503, "no answer within the time that one may take; try again")


@attrs.define
class HttpStats:
    """What happened so far, for metrics and tests. They only rise, but for `open`."""

    open: int = 0
    requests: int = 0
    bad_requests: int = 0  # the client's fault: answered 4xx by the server itself
    faults: int = 0  # ours: a handler or the server raised
    broken: int = 0  # the connection broke, or its TLS handshake failed
    stalled: int = 0  # the client stopped reading
    evicted: int = 0  # idle or slow, closed to make room
    turned_away: int = 0  # no room


class _BadRequestError(Exception):
    """The client's request is refused by the server itself, before any handler."""

    def __init__(self, status: int, text: str) -> None:
        self.status: Final = status
        super().__init__(text)


class _StalledError(Exception):
    """The client does not take what it asked for."""


@final
class HttpServer:
    """Answers requests on any number of listeners by calling `handler`.

    A handler that raises is answered 500, counted and logged. Handlers of different
    connections run concurrently; those of one connection never do.
    """

    def __init__(self, handler: Handler, *, limits: HttpLimits | None = None) -> None:
        self.handler: Final = handler
        self.limits: Final = limits or HttpLimits()
        self.stats: Final = HttpStats()
        self._closing = trio.Event()
        #: What the connections do now, each in order: who began first stands first.
        self.evictable: Final[_Scopes] = {}  # waiting for the client: may be cut for another's sake
        self.idle: Final[_Scopes] = {}  # between requests: may be cut when the server closes
        self.streaming: Final[_Scopes] = {}  # without an end of their own: likewise

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `close` or cancelled. Takes over the listeners and closes them.

        After `close` this returns once the requests in flight are answered, at the latest
        after `grace_ms`. Cancelled, it ends at once and answers nobody.
        """
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accept = partial(trio.serve_listeners, handler_nursery=connections)
                accepting.start_soon(accept, self._handle, listeners)
                task_status.started()
                await self._closing.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + self.limits.grace_ms / 1000

    def close(self) -> None:
        """Accept nothing more, close idle connections and streams; let the rest finish."""
        self._closing.set()
        for scope in (*self.idle, *self.streaming):
            scope.cancel()

    def _make_room(self) -> bool:
        if self.stats.open < self.limits.connections_max:
            return True
        if not self.evictable:
            return False
        longest = next(iter(self.evictable))
        # Removed at once, so that the next newcomer does not count on the same one.
        del self.evictable[longest]
        longest.cancel()
        self.stats.evicted += 1
        return True

    async def _handle(self, stream: trio.abc.Stream) -> None:
        if not self._make_room():
            self.stats.turned_away += 1
            await trio.aclose_forcefully(stream)
            return
        self.stats.open += 1
        try:
            connection = _Connection(self, stream)
            if not await self._within_boundary(connection.converse):
                await self._within_boundary(connection.apologise)
        finally:
            self.stats.open -= 1
            await trio.aclose_forcefully(stream)

    async def _within_boundary(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Run `step`; whatever goes wrong with one connection is counted and ends here."""
        try:
            await step()
        except Exception as exc:
            self._count(exc)
            return False
        return True

    def _count(self, exc: Exception) -> None:
        if isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError | OSError):
            self.stats.broken += 1
            _log.debug("connection broke: %r", exc)
        elif isinstance(exc, _StalledError):
            self.stats.stalled += 1
            _log.info("client cut: it stopped reading for %d ms", self.limits.write_stall_ms)
        else:
            self.stats.faults += 1
            _log.error("a connection failed by a fault of this program", exc_info=exc)


@final
class _Connection:
    """One client's connection, from handshake to close."""

    def __init__(self, server: HttpServer, stream: trio.abc.Stream) -> None:
        self._server: Final = server
        self._limits: Final = server.limits
        self._stream: Final = stream
        self._http: Final = h11.Connection(
            h11.SERVER, max_incomplete_event_size=server.limits.header_bytes_max
        )
        self._is_head = False
        self._peer_uid: int | None = None
        self._peer_address = ""

    async def converse(self) -> None:
        """Answer requests until the client or a limit ends it.

        A client's mistakes are answered here. Raises for a broken connection, a client that
        does not read, and faults of our own.
        """
        self._identify()
        try:
            await self._serve_requests()
        except h11.RemoteProtocolError as exc:
            await self._refuse(exc.error_status_hint, f"not HTTP/1.1: {exc}")
        except _BadRequestError as exc:
            await self._refuse(exc.status, str(exc))
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # something was sent
            await self._linger()

    async def _serve_requests(self) -> None:
        await self._handshake()
        while (request := await self._next_request()) is not None:
            self._server.stats.requests += 1
            await self._answer(request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def apologise(self) -> None:
        """After a failure: say 500 if no answer has begun and the client may still listen."""
        if self._http.our_state is h11.SEND_RESPONSE:
            await self._respond(INTERNAL_ERROR)
            await self._linger()

    @property
    def _transport(self) -> trio.abc.Stream:
        if isinstance(self._stream, trio.SSLStream):
            return cast("trio.abc.Stream", self._stream.transport_stream)
        return self._stream

    def _identify(self) -> None:
        transport = self._transport
        if not isinstance(transport, trio.SocketStream):
            return
        if transport.socket.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # already reset: it will be noticed on reading
                self._peer_address = str(transport.socket.getpeername()[0])
        elif sys.platform == "linux":
            raw = transport.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            self._peer_uid = _UCRED.unpack(raw)[1]

    async def _handshake(self) -> None:
        if not isinstance(self._stream, trio.SSLStream):
            return
        limit_ms = self._limits.request_read_ms
        with _listed(self._server.evictable, after_ms=limit_ms) as scope:
            await self._stream.do_handshake()
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the TLS handshake takes too long")

    async def _next_request(self) -> Request | None:
        """Read one whole request; None when the client has no more, or may ask no more."""
        self._is_head = False
        request = None
        with _listed(self._server.evictable):
            if await self._is_request_begun():
                request = await self._read_request_in_time()
        return request

    async def _read_request_in_time(self) -> Request | None:
        with trio.move_on_after(self._limits.request_read_ms / 1000):
            return await self._read_request()
        raise _BadRequestError(408, "the request did not arrive in time")

    async def _is_request_begun(self) -> bool:
        if self._http.trailing_data[0]:
            return True
        first = b""
        if not self._server.is_closing:
            with _listed(self._server.idle, after_ms=self._limits.idle_ms):
                first = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        if first:
            self._http.receive_data(first)
        return bool(first)

    async def _read_request(self) -> Request | None:
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        if head.http_version not in (b"1.0", b"1.1"):
            raise _BadRequestError(505, "this server speaks HTTP/1.1")
        self._is_head = head.method == b"HEAD"
        path, query = parse_target(head.target)
        headers = _merge(head.headers)
        if int(headers.get("content-length", "0")) > self._limits.body_bytes_max:
            raise _BadRequestError(413, f"a body has at most {self._limits.body_bytes_max} bytes")
        return Request(
            method=head.method.decode("ascii"),
            path=path,
            query=query,
            headers=headers,
            body=await self._read_body(),
            peer_uid=self._peer_uid,
            peer_address=self._peer_address,
            secure=isinstance(self._stream, trio.SSLStream),
        )

    async def _read_body(self) -> bytes:
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > self._limits.body_bytes_max:
                limit = self._limits.body_bytes_max
                raise _BadRequestError(413, f"a body has at most {limit} bytes")
        return bytes(body)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._send(self._http.send(go_on))
            self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
        return event

    async def _answer(self, request: Request) -> None:
        outcome: Returned[Response] | Raised | None = None
        with trio.move_on_after(self._limits.handler_ms / 1000):
            outcome = await contain(lambda: self._server.handler(request))
        if outcome is None:
            self._server.stats.faults += 1
            _log.error("%s %s took too long", request.method, request.path)
            await self._respond(TOO_SLOW)
        elif isinstance(outcome, Raised):
            self._server.stats.faults += 1
            _log.error("%s %s failed", request.method, request.path, exc_info=outcome.error)
            await self._respond(INTERNAL_ERROR)
        else:
            await self._respond(outcome.value)

    async def _respond(self, response: Response) -> None:
        headers = [*response.headers, ("Date", email.utils.formatdate(usegmt=True))]
        if isinstance(response.body, bytes):
            headers.append(("Content-Length", str(len(response.body))))
        if self._server.is_closing:
            headers.append(("Connection", "close"))
        reason = http.HTTPStatus(response.status).phrase
        head = h11.Response(status_code=response.status, headers=headers, reason=reason)
        if isinstance(response.body, bytes):
            await self._respond_at_once(head, response.body)
        else:
            async with contextlib.aclosing(response.body) as pieces:
                await self._respond_piecewise(head, pieces)

    async def _respond_at_once(self, head: h11.Response, body: bytes) -> None:
        raw = self._http.send(head) or b""
        if body and not self._is_head:
            raw += self._http.send(h11.Data(data=body)) or b""
        await self._send(raw + (self._http.send(h11.EndOfMessage()) or b""))

    async def _respond_piecewise(
        self, head: h11.Response, pieces: AsyncGenerator[bytes, None]
    ) -> None:
        await self._send(self._http.send(head))
        if self._is_head:
            await self._send(self._http.send(h11.EndOfMessage()))
            return
        if self._server.is_closing:
            return
        with _listed(self._server.streaming):
            while isinstance(piece := await contain(pieces.__anext__), Returned):
                await self._send(self._http.send(h11.Data(data=piece.value)))
            if isinstance(piece.error, StopAsyncIteration):
                await self._send(self._http.send(h11.EndOfMessage()))
                return
            # Cut short without the end mark, so that the client knows it.
            self._server.stats.faults += 1
            _log.error("a stream failed", exc_info=piece.error)

    async def _refuse(self, status: int, text: str) -> None:
        self._server.stats.bad_requests += 1
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._respond(text_response(status, text, headers=(("Connection", "close"),)))

    async def _send(self, raw: bytes | None) -> None:
        view = memoryview(raw or b"")
        for start in range(0, len(view), SEND_BYTES):
            with trio.move_on_after(self._limits.write_stall_ms / 1000) as scope:
                await self._stream.send_all(view[start : start + SEND_BYTES])
            if scope.cancelled_caught:
                self._reset_on_close()
                raise _StalledError

    def _reset_on_close(self) -> None:
        """Let the kernel drop what the client will never take, rather than keep trying."""
        transport = self._transport
        if isinstance(transport, trio.SocketStream):
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0))

    async def _linger(self) -> None:
        with _listed(self._server.evictable, after_ms=LINGER_MS):
            if isinstance(self._stream, trio.SSLStream):
                await self._stream.aclose()
            elif isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
                left_bytes = LINGER_BYTES_MAX
                while left_bytes > 0 and (read := await self._stream.receive_some(RECEIVE_BYTES)):
                    left_bytes -= len(read)


def parse_target(target: bytes) -> tuple[str, dict[str, str]]:
    """Split a request's target into its decoded path and query."""
    try:
        raw = target.decode("ascii")
        if not raw.startswith("/"):  # `http://host/path`, which servers must accept, or `*`
            parts = urllib.parse.urlsplit(raw)
            raw = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        raw_path, _, raw_query = raw.partition("?")
        path = urllib.parse.unquote(raw_path, errors="strict")
        fields = urllib.parse.parse_qsl(
            raw_query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX
        )
    except ValueError:
        raise _BadRequestError(400, "the request's target cannot be understood") from None
    if not (path.startswith("/") or path == "*") or not path.isprintable():
        raise _BadRequestError(400, "the request's target is not a path")
    return path, dict(fields)


def _merge(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return merged
