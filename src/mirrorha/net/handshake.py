"""Getting to know the other side of a connection: the greeting (`mirrorha.wire.greeting`) on it.

TLS alone is not enough to call two nodes connected: in TLS 1.3 a client whose certificate was
refused learns it only when it first receives. Hence the hello in both directions.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from mirrorha.errors import PeerError, PeerLostError, PeerRefusedError
from mirrorha.wire import greeting
from mirrorha.wire.greeting import Greeting, Say, Step, be_greeted, greet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorha.net.frame_link import FrameLink
    from mirrorha.wire.frames import Frame
    from mirrorha.wire.hello import Agreed, Hello


async def handshake(link: FrameLink, *, hello: Hello, deadline_s: float) -> Agreed:
    """Say hello on a connection that this node made, and hear the other side's.

    Args:
        link: TLS, if any, has shaken hands already.
        hello: What this node says.
        deadline_s: Seconds, from now, for all of it.

    Raises:
        PeerRefusedError: the two do not belong together; both sides learn why.
        PeerProtocolError: the other side does not say hello as it should.
        PeerLostError: the connection ended or broke, or the deadline passed.
        LocalUsageError: this node's hello holds something too long.
    """
    return await _carry_out(greet(hello, whom=link.whom), link, deadline_s)


async def answer(
    link: FrameLink, *, hello_for: Callable[[Hello], Hello], deadline_s: float
) -> Agreed:
    """Hear the caller's hello on a connection that was made to this node, and say ours.

    Args:
        link: TLS, if any, has shaken hands already.
        hello_for: As for `be_greeted`.
        deadline_s: Seconds, from now, for all of it.

    Raises:
        PeerError: as `handshake`.
    """
    return await _carry_out(be_greeted(hello_for, whom=link.whom), link, deadline_s)


async def refuse(link: FrameLink, refusal: PeerRefusedError) -> None:
    """Tell the other side why it is refused. The caller bounds it, then closes."""
    await link.send(greeting.refuse(refusal).buffers)


@contextlib.contextmanager
def deadline(seconds: float, *, whom: str) -> Iterator[None]:
    """Give what is done to get to know `whom` so long.

    Raises:
        PeerLostError: it took longer.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise PeerLostError(f"{whom} did not say hello within {seconds:g} s") from error


async def _carry_out(words: Greeting, link: FrameLink, deadline_s: float) -> Agreed:
    with deadline(deadline_s, whom=link.whom), contextlib.closing(words):
        try:
            step = next(words)
            while True:
                try:
                    heard = await _perform(step, link)
                except PeerError as error:
                    step = words.throw(error)
                else:
                    step = words.send(heard)
        except StopIteration as end:
            agreed: Agreed = end.value
            return agreed


async def _perform(step: Step, link: FrameLink) -> Frame | None:
    if isinstance(step, Say):
        await link.send(step.buffers)
        return None
    return await link.receive_frame()
