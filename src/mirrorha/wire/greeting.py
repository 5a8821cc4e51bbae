"""Who says what, and when, until two nodes know each other; without any I/O.

A greeting is a generator. It yields what is to be done on the connection, `Say` or `Hear`, and is
sent the frame that was heard. What goes wrong with the connection is thrown into it, as a
PeerError. It returns what the two agreed upon. The two take turns: nobody ever waits for the other
to take what it says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Final, TypeAlias

import attrs

from mirrorha.errors import PeerError, PeerLostError, PeerProtocolError, PeerRefusedError
from mirrorha.wire.frames import HELLO_KIND, Frame, encode_frame
from mirrorha.wire.hello import (
    HELLO_CODEC,
    Agreed,
    Disagreement,
    Hello,
    Refused,
    Welcome,
    compare,
    encode_hello,
    printable,
    shortened,
)
from mirrorha.wire.limits import HELLO_FRAME_BYTES_MAX, REASON_LENGTH_MAX

#: For all of it, and for TLS's own before. A few round trips, and milliseconds of arithmetic.
HANDSHAKE_S: Final = 5.0


@attrs.frozen
class Say:
    """Send one frame, in these pieces."""

    buffers: list[bytes | memoryview]


@attrs.frozen
class Hear:
    """Receive one frame."""


Step: TypeAlias = Say | Hear
Greeting: TypeAlias = Generator[Step, Frame | None, Agreed]
Judge: TypeAlias = Callable[[Hello, Hello], Agreed | Disagreement]


def greet(mine: Hello, *, whom: str, judge: Judge = compare) -> Greeting:
    """Say hello on a connection that this node made, and hear the other side's.

    Args:
        mine: What this node says.
        whom: The other side, as people should read it in errors.
        judge: Says whether the two belong together, given our hello and theirs.

    Raises:
        PeerRefusedError: the two do not belong together; both sides learn why.
        PeerProtocolError: the other side does not say hello as it should.
        PeerError: what was thrown in.
        LocalUsageError: this node's hello holds something too long.
    """
    try:
        yield _say(mine)
    except PeerLostError:
        # Whoever refuses us has said so before it closed: TLS's alert, or a `Refused`.
        with contextlib.suppress(PeerLostError, PeerProtocolError):
            yield from _hear(whom)
        raise
    verdict = judge(mine, (yield from _hear_hello(whom)))
    yield _say(_word_for(verdict))
    yield from _hear_verdict(verdict, whom)
    return _conclude(verdict)


def be_greeted(
    hello_for: Callable[[Hello], Hello], *, whom: str, judge: Judge = compare
) -> Greeting:
    """Hear the caller's hello on a connection that was made to this node, and say ours.

    Args:
        hello_for: Says this node's hello, given the caller's: kind and volume are the caller's
            choice. It may raise PeerRefusedError, whose reason the caller is told.
        whom: As for `greet`.
        judge: As for `greet`.

    Raises:
        PeerError: as `greet`.
    """
    theirs = yield from _hear_hello(whom)
    try:
        mine = hello_for(theirs)
    except PeerRefusedError as refusal:
        yield refuse(refusal)
        raise
    yield _say(mine)
    verdict = judge(mine, theirs)
    yield from _hear_verdict(verdict, whom)
    yield _say(_word_for(verdict))
    return _conclude(verdict)


def refuse(refusal: PeerRefusedError) -> Say:
    """What tells the other side why it is refused."""
    return _say(Refused(reason=shortened(refusal.reason, REASON_LENGTH_MAX)))


def _word_for(verdict: Agreed | Disagreement) -> Welcome | Refused:
    if isinstance(verdict, Disagreement):
        return verdict.as_refused()
    return Welcome(version=verdict.version)


def _conclude(verdict: Agreed | Disagreement) -> Agreed:
    if isinstance(verdict, Disagreement):
        raise PeerRefusedError(verdict.reason)
    return verdict


def _hear_verdict(verdict: Agreed | Disagreement, whom: str) -> Generator[Step, Frame | None, None]:
    """Hear what the other side makes of the two hellos, which should be what we make of them."""
    if isinstance(verdict, Disagreement):
        # Ours will be the reason. But closing before its word has come in could cut ours off.
        with contextlib.suppress(PeerError):
            yield Hear()
        return
    message = yield from _hear(whom)
    if isinstance(message, Hello):
        raise PeerProtocolError(f"{whom} says hello twice")
    if message.version != verdict.version:
        raise PeerProtocolError(
            f"{whom} welcomes us in version {message.version}, not {verdict.version}"
        )


def _hear_hello(whom: str) -> Generator[Step, Frame | None, Hello]:
    message = yield from _hear(whom)
    if isinstance(message, Hello):
        return message
    raise PeerProtocolError(f"{whom} welcomes us before it says hello")


def _hear(whom: str) -> Generator[Step, Frame | None, Hello | Welcome]:
    frame = yield Hear()
    if frame is None or frame.kind != HELLO_KIND:
        kind = None if frame is None else frame.kind
        raise PeerProtocolError(f"{whom} sends frames of kind {kind} before a hello")
    message = HELLO_CODEC.decode(frame.body)
    if isinstance(message, Refused):
        raise PeerRefusedError(f"{whom} refuses the connection: {printable(message.reason)}")
    return message


def _say(message: Hello | Welcome | Refused) -> Say:
    encoded = encode_hello(message) if isinstance(message, Hello) else HELLO_CODEC.encode(message)
    return Say(encode_frame(HELLO_KIND, encoded, frame_bytes_max=HELLO_FRAME_BYTES_MAX))
