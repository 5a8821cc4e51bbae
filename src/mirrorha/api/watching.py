"""Server-sent events: the status whenever it has changed, and everything that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from mirrorha.api.documents import event_document
from mirrorha.api.problems import NO_STORE, Problem
from mirrorha.net.http import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from mirrorha.api.node import Happening, ManagedNode, Missed

Only = Literal["status", "event", ""]

#: How often the status is looked at beside events, and how long nothing may be said before a
#: comment is sent: a client that has left is noticed by sending to it.
LOOK_EVERY_S: Final = 1.0
SILENT_LOOKS_MAX: Final = 5
#: What a browser waits before it connects again.
RETRY_MS: Final = 1000


def event_stream(node: ManagedNode, *, only: str) -> Response:
    """Answer with a stream that ends when the node does.

    Args:
        only: "status" or "event" leaves the other out; "" has both.

    Raises:
        Problem: `only` is something else.
    """
    if only not in ("", "status", "event"):
        raise Problem(
            400, f"only={only!r} is unknown", hint="ask for only=status, only=event, or leave it"
        )
    headers = (("Content-Type", "text/event-stream; charset=utf-8"), NO_STORE)
    # The iterator is made now: what happens before the first byte is read must not be lost.
    pieces = _pieces(node, node.events(), with_status=only != "event", with_events=only != "status")
    return Response(headers=headers, body=pieces)


async def _pieces(
    node: ManagedNode,
    events: AsyncIterator[Happening | Missed],
    *,
    with_status: bool,
    with_events: bool,
) -> AsyncGenerator[bytes, None]:
    yield f"retry: {RETRY_MS}\n\n".encode()
    said, silent = b"", 0
    while True:
        status = msgspec.json.encode(node.status()) if with_status else b""
        if status != said:
            said, silent = status, 0
            yield _event(b"status", status)
        event = None
        try:
            with trio.move_on_after(LOOK_EVERY_S):
                event = await anext(events)
        except StopAsyncIteration:
            return
        if event is not None and with_events:
            silent = 0
            yield _event(b"event", msgspec.json.encode(event_document(event)))
        silent += 1
        if silent > SILENT_LOOKS_MAX:
            silent = 0
            yield b": still here\n\n"


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"
