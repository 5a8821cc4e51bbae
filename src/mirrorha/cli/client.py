"""Asks the node of this machine, over its Unix socket. Blocking; loads nothing heavy.

HTTP/1.0, so that an answer ends where the connection does and nothing has to be unpacked.
"""

from __future__ import annotations

import errno
import json
import math
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mirrorha.cli.exits import FAILED, NOT_RUNNING, TIMED_OUT, UNKNOWN, USAGE, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorha.cli.place import Place

PREFIX: Final = "/api/v1"
#: How long a node may take to answer from memory, and to go on with a command.
ANSWER_S: Final = 5.0
WAIT_STEP_S: Final = 20.0
#: A stream says something every few seconds.
SILENCE_S: Final = 15.0
TRY_AGAIN_S: Final = 0.02
#: The name of what `stream` yields once it is connected, if that is asked for.
OPENED: Final = "opened"
RECEIVE_BYTES: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024

_GONE: Final = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    document: Any


def get(place: Place, path: str, *, timeout_s: float = ANSWER_S) -> Any:
    """Return the document at `path`, such as "/status".

    Raises:
        CommandError: the node does not run, does not answer, or refuses.
    """
    return _accepted(_ask(place, "GET", path, timeout_s=timeout_s)).document


def command(
    place: Place,
    name: str,
    body: dict[str, Any],
    *,
    timeout_s: float | None,
    wait: bool,
    step_s: float = WAIT_STEP_S,
) -> Any:
    """Carry a command out; return its document once it is done (or begun, without `wait`).

    `step_s`: what one request waits.

    Raises:
        CommandError: refused, failed, or not done within `timeout_s` seconds (it goes on).
    """
    ends = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
    now_s = max(0.0, min(step_s, ends - time.monotonic())) if wait else 0
    path = f"/commands/{name}?wait_s={now_s:.3f}"
    document = _accepted(_ask(place, "POST", path, body, timeout_s=now_s + ANSWER_S)).document
    while wait and document["state"] == "running":
        now_s = min(step_s, ends - time.monotonic())
        if now_s <= 0:
            raise CommandError(
                TIMED_OUT,
                f"'{name}' has not ended within {timeout_s:g} s; it goes on",
                hint="see `mirrorha status` and `mirrorha history`",
            )
        path = f"/operations/{document['operation']}?wait_s={now_s:.3f}"
        document = get(place, path, timeout_s=now_s + ANSWER_S)
    if document["state"] in ("refused", "failed"):
        raise CommandError(FAILED, document["text"], hint="see `mirrorha status`")
    return document


def stream(place: Place, path: str, *, says_opened: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield the name and the document of each server-sent event, until the node ends.

    `says_opened`: first of all yield `OPENED`, with None: what happens from then on is told.

    Raises:
        CommandError: the node does not run, or fell silent.
    """
    with _connect(place, SILENCE_S) as connection:
        try:
            connection.sendall(_request("GET", path, b""))
            with connection.makefile("rb") as reader:
                status = _status_of(reader.readline())
                while reader.readline().strip():
                    pass  # headers, none of which matters
                if status != 200:
                    raise _refusal(status, _decoded(reader.read()))
                if says_opened:
                    yield OPENED, None
                yield from _events(reader)
        except OSError as error:
            raise _failure(place, error) from error


def _events(reader: Any) -> Iterator[tuple[str, Any]]:
    name, data = "message", b""
    while line := reader.readline():
        field, _, value = line.rstrip(b"\n").partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data = value
        elif not field and data:
            yield name, json.loads(data)
            name, data = "message", b""


def _ask(
    place: Place, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float
) -> Answer:
    raw = json.dumps(body).encode() if body is not None else b""
    answer = bytearray()
    with _connect(place, timeout_s) as connection:
        try:
            connection.sendall(_request(method, path, raw))
            while piece := connection.recv(RECEIVE_BYTES):
                answer += piece
                if len(answer) > ANSWER_BYTES_MAX:
                    raise CommandError(UNKNOWN, f"the answer of {place.node} is too long")
        except OSError as error:
            raise _failure(place, error) from error
    head, _, content = bytes(answer).partition(b"\r\n\r\n")
    return Answer(_status_of(head), _decoded(content))


def _connect(place: Place, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        _connect_in_line(connection, place.socket, ends=time.monotonic() + timeout_s)
    except OSError as error:
        connection.close()
        raise _failure(place, error) from error
    return connection


def _connect_in_line(connection: socket.socket, path: str, *, ends: float) -> None:
    """Connect, also while a crowd is waiting to be let in: the kernel does not queue us for that.

    Raises:
        OSError: it cannot be done, or not before `ends`.
    """
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise TimeoutError from None
            time.sleep(TRY_AGAIN_S)
        else:
            return


def _failure(place: Place, error: OSError) -> CommandError:
    if isinstance(error, TimeoutError):
        return CommandError(
            UNKNOWN,
            f"node {place.node} runs and does not answer: its process is stuck, or stopped",
            hint="look at its log; `mirrorha status` on the other node shows what that one sees",
        )
    if error.errno in _GONE:
        return CommandError(
            NOT_RUNNING,
            f"node {place.node} does not run here: nobody answers at {place.socket}",
            hint=f"start it with `mirrorha run -c {place.config} --node {place.node}`",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CommandError(
            UNKNOWN,
            f"you may not open {place.socket}",
            hint="ask as root, or as the user that runs the node",
        )
    if "too long" in str(error):
        return CommandError(
            USAGE,
            f"{place.socket}: the path is too long for a Unix socket",
            hint="choose a shorter state_dir",
        )
    return CommandError(
        UNKNOWN, f"node {place.node} did not answer: {error}", hint="look at its log"
    )


def _request(method: str, path: str, body: bytes) -> bytes:
    head = f"{method} {PREFIX}{path} HTTP/1.0\r\n"
    if method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body


def _status_of(head: bytes) -> int:
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise CommandError(
            UNKNOWN, "the node closed the connection without an answer", hint="look at its log"
        )
    return int(words[1])


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        text = content.decode("utf-8", "replace").strip()
        return {"detail": text or "an answer without a text", "hint": "look at the node's log"}


def _accepted(answer: Answer) -> Answer:
    if answer.status < 300:
        return answer
    raise _refusal(answer.status, answer.document)


def _refusal(status: int, document: Any) -> CommandError:
    code = UNKNOWN if status in (403, 404) else FAILED
    return CommandError(code, document.get("detail", ""), hint=document.get("hint", ""))
