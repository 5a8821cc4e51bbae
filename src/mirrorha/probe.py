"""The health probe: what a load balancer asks to find the node that serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.core.words import Data, Role
from mirrorha.errors import ConfigError
from mirrorha.net import http_listen
from mirrorha.net.http import HttpLimits, HttpServer, Request, Response, text_response

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_PORT: Final = 9010
_PORT_MAX: Final = 65535

METHODS: Final = ("GET", "HEAD", "OPTIONS")
NO_STORE: Final = ("Cache-Control", "no-store")

#: Load balancers ask from a few addresses every few seconds; whoever asks for more than this can
#: hold has no business here, and the one who has waited longest makes room.
LIMITS: Final = HttpLimits(
    connections_max=64,
    header_bytes_max=8 * 1024,
    body_bytes_max=1024,
    idle_ms=60_000,
    request_read_ms=2_000,
    write_stall_ms=2_000,
    grace_ms=500,
)


@final
@attrs.frozen(kw_only=True)
class HealthProbe:
    """An HTTP answer that says whether the service runs here. For load balancers and `curl`.

    `/`, `/readyz` and `/primary` answer 200 only where the service is started and well, and 503
    with the role and the reason elsewhere; `/secondary` answers 200 on a SECOND with up-to-date
    data; `/livez` answers 200 wherever there is a node.

    Args:
        port: Where it listens; 0 takes a free one.
        host: On which address. By default on all of IPv4: load balancers ask from outside, and
            the answer tells nothing but a role. "::" is all of IPv6 and IPv4.
        alias: One more path that answers as `/primary` does, for balancers that are set up so.

    Raises:
        ConfigError: a value is out of range; the error lists all of them.
    """

    port: int = DEFAULT_PORT
    host: str = "0.0.0.0"  # noqa: S104 - see above
    alias: str | None = None

    def __attrs_post_init__(self) -> None:
        problems = []
        if not 0 <= self.port <= _PORT_MAX:
            problems.append(f"probe.port: expected 0 to {_PORT_MAX}, not {self.port}")
        if self.alias is not None and not self.alias.startswith("/"):
            problems.append(f"probe.alias: expected a path such as /ready.txt, not {self.alias!r}")
        if self.alias in ("/livez", "/secondary"):
            problems.append(f"probe.alias: {self.alias} has a meaning of its own")
        if problems:
            raise ConfigError(tuple(problems))


@final
@attrs.frozen(kw_only=True)
class ProbeState:
    """What the probe answers from. It is asked for at every request, so it must be at hand.

    Attributes:
        serving_well: the service is started, no check has failed, and no volume has stood
            still for longer than the peer needs to take over.
        reason: one sentence: why it does not serve, or serves as it does.
    """

    role: Role
    data: Data
    serving_well: bool
    reason: str = ""

    @property
    def is_primary(self) -> bool:
        """Whether clients belong here."""
        return self.role.serves and self.serving_well

    @property
    def is_secondary(self) -> bool:
        """Whether this node could take over without loss."""
        return self.role is Role.SECOND and self.data is Data.UP_TO_DATE


@final
class ProbeServer:
    """Listens and answers, apart from every other server, so that none can delay it."""

    def __init__(self, config: HealthProbe, state: Callable[[], ProbeState]) -> None:
        """Answer from `state()`, which must neither block nor touch a disk."""
        self._config: Final = config
        self._state: Final = state
        self._answers: Final = self._make_answers()
        self.server: Final = HttpServer(self._answer, limits=LIMITS)

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled. `nursery.start` returns the port.

        Raises:
            LocalUsageError: it cannot listen there.
        """
        listeners = await http_listen.open_tcp(self._config.port, host=self._config.host)
        port: int = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.serve, listeners)
            task_status.started(port)

    def _make_answers(self) -> dict[str, Callable[[], Response]]:
        answers = {
            # HAProxy's plain `option httpchk` asks OPTIONS with `*` or `/`.
            **dict.fromkeys(("/", "*", "/readyz", "/primary"), self._is_primary),
            "/secondary": self._is_secondary,
            "/livez": lambda: _say(200, "alive"),
        }
        if self._config.alias is not None:
            answers[self._config.alias] = self._is_primary
        return answers

    async def _answer(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        answer = self._answers.get(request.path)
        if request.method not in METHODS:
            return _say(405, "ask with GET, HEAD or OPTIONS", ("Allow", ", ".join(METHODS)))
        if answer is None:
            return _say(404, f"ask for one of {' '.join(sorted(self._answers))}")
        if request.method == "OPTIONS":
            return attrs.evolve(answer(), body=b"")
        return answer()

    def _is_primary(self) -> Response:
        state = self._state()
        return _describe(state, is_ok=state.is_primary)

    def _is_secondary(self) -> Response:
        state = self._state()
        return _describe(state, is_ok=state.is_secondary)


def _describe(state: ProbeState, *, is_ok: bool) -> Response:
    if is_ok:
        return _say(200, state.role.value)
    reason = " ".join(state.reason.split())
    return _say(503, f"{state.role.value}\n{reason}" if reason else state.role.value)


def _say(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return text_response(status, text, headers=(NO_STORE, *headers))
