"""The server: which request asks for what, who may ask, and how a command is answered."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import trio

from mirrorha.api.documents import (
    EmptyBody,
    ForcePrimaryBody,
    InitBody,
    ResyncBody,
    VerifyBody,
    decode_body,
    event_document,
)
from mirrorha.api.operations import Operation, Operations, OperationState
from mirrorha.api.problems import SCHEMA, Problem, answer
from mirrorha.api.watching import event_stream
from mirrorha.errors import LocalUsageError, MirrorHAError
from mirrorha.net import http_listen
from mirrorha.net.http import HttpLimits, HttpServer, Request, Response

if TYPE_CHECKING:
    from mirrorha.api.node import ManagedNode

SOCKET_NAME: Final = "mirrorha.sock"
#: What a Unix socket's path may have on Linux, without the zero at its end.
SOCKET_PATH_BYTES_MAX: Final = 107

PREFIX: Final = "/api/v1"
HISTORY_DEFAULT: Final = 100
HISTORY_MAX: Final = 10_000
#: How long a command is waited for before it is answered 202.
WAIT_DEFAULT_S: Final = 10.0
WAIT_MAX_S: Final = 60.0

#: One operator, a console, scripts; nobody else can open the socket.
LIMITS: Final = HttpLimits(connections_max=64, body_bytes_max=64 * 1024)

_HINTS: Final[Mapping[str, str]] = {
    "start": "see `mirrorha status`",
    "stop": "see `mirrorha status`, and ask again",
    "restart": "see `mirrorha status`: the service is restarted on the node that serves",
    "swap": "see `mirrorha status`: a swap needs a PRIM and a SECOND whose data is up to date",
    "pause": "see `mirrorha status`",
    "resume": "see `mirrorha status`",
    "init": "see `mirrorha status`: a cluster begins once",
    "acknowledge": "`mirrorha status` shows what was kept of a split, and on which node",
    "resync": "see `mirrorha status`: a node is filled while it waits and the other one serves",
    "verify": "see `mirrorha status --json`: it has what differs, and where",
    "force-primary": "see `mirrorha status`: what may be forced, and what that costs",
    "force-secondary": "see `mirrorha status`",
}

_log: Final = logging.getLogger(__name__)

_Call = Callable[[], Awaitable[str]]
_Route = Callable[[Request], Awaitable[Response]]


def socket_path(state_dir: str | Path) -> Path:
    """Where a node with this state directory answers.

    Raises:
        LocalUsageError: the directory's path is too long for a Unix socket.
    """
    path = Path(state_dir) / SOCKET_NAME
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise LocalUsageError(
            f"{path}: a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes; "
            "choose a shorter state_dir"
        )
    return path


@final
class ManagementApi:
    """Answers `/api/v1/…` about one node, to its own user and to root."""

    def __init__(
        self, node: ManagedNode, *, path: Path, log: Callable[[], Sequence[str]] = tuple
    ) -> None:
        """Answer about `node` on the Unix socket `path`, once `serve` runs.

        `log`: the latest lines of its log.
        """
        self.path: Final = path
        self._log: Final = log
        self._node: Final = node
        self._operations: Final = Operations()
        self._allowed: Final = frozenset({0, os.geteuid()})
        self._gets: Final[Mapping[str, _Route]] = {
            f"{PREFIX}/status": self._status,
            f"{PREFIX}/events": self._events,
            f"{PREFIX}/history": self._history,
            f"{PREFIX}/log": self._latest_log,
        }
        self._commands: Final[Mapping[str, Callable[[Request], _Call]]] = {
            "start": self._plain(node.start),
            "stop": self._plain(node.stop),
            "restart": self._plain(node.restart),
            "swap": self._plain(node.swap),
            "pause": self._plain(node.pause),
            "resume": self._plain(node.resume),
            "init": self._init,
            "resync": self._resync,
            "acknowledge": self._plain(node.acknowledge),
            "verify": self._verify,
            "force-primary": self._force_primary,
            "force-secondary": self._plain(node.force_secondary),
        }
        self.server: Final = HttpServer(self._answer, limits=LIMITS)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled; then the socket is removed.

        Commands under way are no longer waited for, but the node carries them out.

        Raises:
            LocalUsageError: it cannot listen there; the text says why.
        """
        listener = await http_listen.open_unix(str(self.path))
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._operations.run)
                await nursery.start(self.server.serve, [listener])
                task_status.started()
        finally:
            # What is left behind is replaced at the next start, so a failure here costs nothing.
            self.path.unlink(missing_ok=True)

    # ---- requests ----

    async def _answer(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        try:
            if request.peer_uid not in self._allowed:
                raise Problem(
                    403,
                    f"user {request.peer_uid} may not manage this node",
                    hint="ask as root, or as the user that runs the node",
                )
            return await self._route(request)
        except Problem as problem:
            return problem.response()

    async def _route(self, request: Request) -> Response:
        command = request.path.removeprefix(f"{PREFIX}/commands/")
        operation = request.path.removeprefix(f"{PREFIX}/operations/")
        if request.path in self._gets:
            _check_method(request, "GET")
            return await self._gets[request.path](request)
        if operation != request.path:
            _check_method(request, "GET")
            return await self._operation(operation, request)
        if command != request.path and command in self._commands:
            _check_method(request, "POST")
            return await self._command(command, request)
        known = [*self._gets, *(f"{PREFIX}/commands/{name}" for name in self._commands)]
        raise Problem(404, f"there is no {request.path}", hint=f"ask for one of {' '.join(known)}")

    async def _status(self, request: Request) -> Response:
        return answer(self._node.status())

    async def _events(self, request: Request) -> Response:
        return event_stream(self._node, only=request.query.get("only", ""))

    async def _history(self, request: Request) -> Response:
        limit = _number(request, "limit", default=HISTORY_DEFAULT, least=1, most=HISTORY_MAX)
        try:
            events = await self._node.history(limit=int(limit))
        except MirrorHAError as error:
            hint = "ask again once the node runs; its log says more"
            raise Problem(409, str(error), hint=hint) from error
        return answer({"schema": SCHEMA, "events": [event_document(each) for each in events]})

    async def _latest_log(self, request: Request) -> Response:
        return answer({"schema": SCHEMA, "lines": self._log()})

    async def _operation(self, operation_id: str, request: Request) -> Response:
        operation = self._operations.get(operation_id)
        if operation is None:
            raise Problem(
                404,
                f"no operation {operation_id!r} is remembered",
                hint="`mirrorha history` tells what happened",
            )
        await _wait(operation, request, default_s=0)
        return answer(operation.document())

    # ---- commands ----

    async def _command(self, name: str, request: Request) -> Response:
        _wait_s(request, default_s=WAIT_DEFAULT_S)  # refused before anything is begun
        operation = self._operations.begin(name, self._commands[name](request))
        if operation is None:
            raise Problem(429, "too many commands are under way", hint="wait for one to end")
        _log.info("%s asked by user %s: %s", name, request.peer_uid, operation.id)
        await _wait(operation, request, default_s=WAIT_DEFAULT_S)
        return _outcome(operation)

    def _plain(self, call: _Call) -> Callable[[Request], _Call]:
        def prepare(request: Request) -> _Call:
            decode_body(request.body, EmptyBody)
            return call

        return prepare

    def _init(self, request: Request) -> _Call:
        self._check_is_me(decode_body(request.body, InitBody).source, "init --from {node}")
        return self._node.init

    def _resync(self, request: Request) -> _Call:
        body = decode_body(request.body, ResyncBody)
        if body.rate_bytes_per_s is not None and body.node is None and not body.full:
            return partial(self._node.set_resync_rate, body.rate_bytes_per_s)
        if body.rate_bytes_per_s is not None or body.node is None:
            raise Problem(400, "either a node is filled, or a rate is set", hint="send one of both")
        self._check_is_me(body.node, "resync {node} --full")
        if not body.full:
            raise Problem(
                409,
                "what differs is copied by itself as soon as the nodes meet",
                hint="`mirrorha resync NODE --full` gives up everything NODE holds, and copies all",
            )
        return self._node.accept

    def _verify(self, request: Request) -> _Call:
        body = decode_body(request.body, VerifyBody)
        if body.stop:
            return partial(self._node.stop_verify, body.volume)
        return partial(
            self._node.verify,
            body.volume,
            repair=body.repair,
            rate_bytes_per_s=body.rate_bytes_per_s,
            source=body.source,
            found=body.found,
        )

    def _force_primary(self, request: Request) -> _Call:
        body = decode_body(request.body, ForcePrimaryBody)
        return partial(
            self._node.force_primary,
            without_arbiter=body.without_arbiter,
            inconsistent_data=body.inconsistent_data,
        )

    def _check_is_me(self, named: str, command: str) -> None:
        status = self._node.status()
        me, peer = status["node"], (status.get("peer") or {}).get("name")
        if named == me:
            return
        command = command.format(node=named)
        if named == peer or peer is None:
            raise Problem(
                409,
                f"this is {me}, and only {named} itself can do that",
                hint=f"run `mirrorha {command}` on {named}",
            )
        raise Problem(409, f"there is no node {named!r}", hint=f"the nodes are {me} and {peer}")


def _outcome(operation: Operation) -> Response:
    if operation.state is OperationState.RUNNING:
        location = f"{PREFIX}/operations/{operation.id}"
        return answer(operation.document(), status=202, location=location)
    if operation.state is OperationState.DONE:
        return answer(operation.document())
    status = 409 if operation.state is OperationState.REFUSED else 500
    hint = _HINTS[operation.command] if status == 409 else "this node's log says more"
    raise Problem(status, operation.text, hint=hint)


async def _wait(operation: Operation, request: Request, *, default_s: float) -> None:
    """Wait for its end, as long as the client wants to."""
    with trio.move_on_after(_wait_s(request, default_s=default_s)):
        await operation.ended.wait()


def _wait_s(request: Request, *, default_s: float) -> float:
    return _number(request, "wait_s", default=default_s, least=0, most=WAIT_MAX_S)


def _check_method(request: Request, allowed: str) -> None:
    if request.method != allowed and not (allowed == "GET" and request.method == "HEAD"):
        raise Problem(
            405, f"{request.path} is not asked with {request.method}", hint=allowed, allow=allowed
        )


def _number(request: Request, name: str, *, default: float, least: float, most: float) -> float:
    raw = request.query.get(name)
    if raw is None:
        return default
    try:
        number = float(raw)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise Problem(
            400, f"{name}={raw!r} is out of range", hint=f"{name} is {least:g} to {most:g}"
        )
    return number
