"""The one HTTP/1.1 client: one request a connection, bounded in time and size.

For checks, the command line's management socket, etcd, cloud metadata. It follows no redirect,
keeps no connection and no cookie.
"""

from __future__ import annotations

import json
import math
import ssl
import urllib.parse
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, final

import attrs
import h11
import trio

from mirrorha.errors import HttpError, LocalUsageError, describe
from mirrorha.net import dial

RECEIVE_BYTES: Final = 64 * 1024
HEADER_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
#: A status document is a line of an event stream, and grows with volumes and checks.
LINE_BYTES_MAX: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class HttpResponse:
    """A whole answer. Header names are in lower case; of a repeated one, the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none is shown as U+FFFD."""
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> object:
        """Decode the body.

        Raises:
            HttpError: it is no JSON.
        """
        try:
            decoded: object = json.loads(self.body)
        except ValueError as exc:
            raise HttpError(f"the answer is no JSON: {exc}", sent=True) from exc
        return decoded


@attrs.frozen
class ServerSentEvent:
    """One event of a `text/event-stream`."""

    name: str
    data: str


async def fetch(
    method: str,
    url: str,
    *,
    deadline_s: float,
    unix_path: str | None = None,
    connect_to: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    ssl_context: ssl.SSLContext | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
) -> HttpResponse:
    """Make one request and read the whole answer, whatever its status.

    Args:
        url: `http://…` or `https://…`. With `unix_path`, its host is only what is said to be
            asked for.
        deadline_s: seconds for everything, name resolution included.
        unix_path: connect to this Unix socket.
        connect_to: connect to this host or address. Asked for, and looked for in a certificate,
            is the URL's.
        ssl_context: for `https`; by default the system's authorities are trusted.
        body_bytes_max: of the answer.

    Raises:
        HttpError: no whole answer in time; `sent` says whether the request may have arrived.
        LocalUsageError: the URL is none.
    """
    exchange = _Exchange(method, url, headers, body, connect_to=connect_to)
    with exchange.translated():
        with trio.move_on_after(deadline_s):
            try:
                await exchange.open(unix_path, ssl_context)
                return HttpResponse(
                    status=exchange.status,
                    headers=exchange.headers,
                    body=await exchange.read_body(body_bytes_max),
                )
            finally:
                await exchange.aclose()
        raise exchange.failure(f"no answer within {deadline_s:g} s")


@asynccontextmanager
async def open_stream(
    method: str,
    url: str,
    *,
    deadline_s: float,
    silence_s: float = math.inf,
    unix_path: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[HttpStream, None]:
    """Make a request and read its answer bit by bit; leaving the block closes the connection.

    Args:
        deadline_s: seconds until the answer's headers are there.
        silence_s: seconds without a byte after which reading fails.

    Raises:
        HttpError: as `fetch`; also from the methods of the stream.
    """
    exchange = _Exchange(method, url, headers, body)
    try:
        with exchange.translated(), trio.move_on_after(deadline_s) as scope:
            await exchange.open(unix_path, ssl_context)
        if scope.cancelled_caught:
            raise exchange.failure(f"no answer within {deadline_s:g} s")
        yield HttpStream(exchange, silence_s=silence_s)
    finally:
        await exchange.aclose()


@final
class HttpStream:
    """The answer to `open_stream`, read in lines or in events, not in both."""

    def __init__(self, exchange: _Exchange, *, silence_s: float) -> None:
        self.status: Final = exchange.status
        self.headers: Final = exchange.headers
        self._exchange: Final = exchange
        self._silence_s: Final = silence_s
        self._buffer = bytearray()
        self._ended = False

    async def receive_line(self) -> str | None:
        """Return the next line without its end, or None after the last.

        Raises:
            HttpError: the connection broke, was silent too long, or the line is too long.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0 and not self._ended:
            searched = len(self._buffer)
            if searched > LINE_BYTES_MAX:
                raise self._exchange.failure(f"a line of more than {LINE_BYTES_MAX} bytes")
            await self._receive()
        if end < 0:
            if not self._buffer:
                return None
            end = len(self._buffer)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r").decode("utf-8", errors="replace")

    async def receive_event(self) -> ServerSentEvent | None:
        """Return the next server-sent event, or None when the stream has ended.

        Comments, retries and ids are passed over, and an event cut off by the end is dropped.
        """
        name, lines, size = "message", list[str](), 0
        while (line := await self.receive_line()) is not None:
            if not line and lines:
                return ServerSentEvent(name, "\n".join(lines))
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                name = "message"
            elif field == "event":
                name = value
            elif field == "data":
                lines.append(value)
                size += len(value) + 1
                if size > LINE_BYTES_MAX:
                    raise self._exchange.failure(f"an event of more than {LINE_BYTES_MAX} bytes")
        return None

    async def _receive(self) -> None:
        with self._exchange.translated():
            with trio.move_on_after(self._silence_s) as scope:
                piece = await self._exchange.receive()
                self._buffer += piece
                self._ended = not piece
        if scope.cancelled_caught:
            raise self._exchange.failure(f"silent for {self._silence_s:g} s")


@final
class _Exchange:
    """One request and its answer on a connection of their own."""

    def __init__(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        connect_to: str | None = None,
    ) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._url: Final = url
        self._address: Final = _Address.parse(url)
        self._host: Final = connect_to or self._address.host
        self._request: Final = _make_request(method, self._address, headers, body)
        self._body: Final = body
        self._http: Final = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
        self._stream: trio.abc.Stream | None = None
        self._is_sent = False

    def failure(self, text: str) -> HttpError:
        return HttpError(f"{self._url}: {text}", sent=self._is_sent)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Make our own error of whatever sockets, TLS and h11 raise inside."""
        try:
            yield
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self.failure(_describe_cause(exc)) from exc
        except h11.ProtocolError as exc:
            raise self.failure(f"the server does not speak HTTP/1.1: {exc}") from exc

    async def open(self, unix_path: str | None, context: ssl.SSLContext | None) -> None:
        """Connect, send the request, read the answer's head."""
        stream = await self._connect(unix_path)
        self._stream = stream
        if self._address.secure:
            if context is None:  # reading the authorities is a file operation
                context = await trio.to_thread.run_sync(
                    ssl.create_default_context, limiter=trio.CapacityLimiter(1)
                )
            self._stream = stream = trio.SSLStream(
                stream, context, server_hostname=self._address.host, https_compatible=True
            )
            await stream.do_handshake()
        raw = self._http.send(self._request) or b""
        raw += self._http.send(h11.Data(data=self._body)) or b""
        raw += self._http.send(h11.EndOfMessage()) or b""
        self._is_sent = True
        # A server may answer and close before it has read everything: then read that answer.
        with suppress(trio.BrokenResourceError):
            await stream.send_all(raw)
        head = await self._next_event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._next_event()
        if not isinstance(head, h11.Response):
            raise self.failure(f"the server began with {type(head).__name__}")
        self.status = head.status_code
        self.headers = {n.decode("ascii"): v.decode("latin-1") for n, v in head.headers}

    async def read_body(self, bytes_max: int) -> bytes:
        body = bytearray()
        while piece := await self.receive():
            body += piece
            if len(body) > bytes_max:
                raise self.failure(f"the answer has more than {bytes_max} bytes")
        return bytes(body)

    async def receive(self) -> bytes:
        """Return the next piece of the body, or nothing at its end."""
        event = await self._next_event()
        while isinstance(event, h11.Data):
            if event.data:
                return bytes(event.data)
            event = await self._next_event()
        return b""

    async def aclose(self) -> None:
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    async def _connect(self, unix_path: str | None) -> trio.abc.Stream:
        if unix_path is not None:
            return await trio.open_unix_socket(unix_path)
        return await dial.open_tcp_stream(self._host, self._address.port)

    async def _next_event(self) -> object:
        if self._stream is None:
            raise self.failure("not connected")
        if self._http.their_state in (h11.DONE, h11.CLOSED):
            return None
        while (event := self._http.next_event()) is h11.NEED_DATA:
            raw = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            if not raw and not self.status and not self._http.trailing_data[0]:
                raise self.failure("the server closed the connection without an answer")
            self._http.receive_data(raw)
        return event


@attrs.frozen
class _Address:
    host: str
    port: int
    target: str
    secure: bool

    @classmethod
    def parse(cls, url: str) -> _Address:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise LocalUsageError(f"{url!r} is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LocalUsageError(f"{url!r} is not a URL such as http://host:port/path")
        secure = parts.scheme == "https"
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        port = _default_port(secure=secure) if port is None else port
        return cls(parts.hostname, port, target, secure)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == _default_port(secure=self.secure)
        return host if is_default else f"{host}:{self.port}"


def _default_port(*, secure: bool) -> int:
    return 443 if secure else 80


def _make_request(
    method: str, address: _Address, headers: Sequence[tuple[str, str]], body: bytes
) -> h11.Request:
    own = [("Host", address.authority), ("Connection", "close"), ("User-Agent", "mirrorha")]
    if body or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        own.append(("Content-Length", str(len(body))))
    given = {name.lower() for name, _ in headers}
    all_headers = [one for one in own if one[0].lower() not in given] + list(headers)
    try:
        return h11.Request(method=method, target=address.target, headers=all_headers)
    except (h11.LocalProtocolError, UnicodeError) as exc:
        raise LocalUsageError(f"{method} {address.target!r} cannot be asked: {exc}") from exc


def _describe_cause(exc: BaseException) -> str:
    """Name the reason behind trio's summary ("all attempts to connect … failed")."""
    return describe(exc.__cause__ if exc.__cause__ is not None else exc)
