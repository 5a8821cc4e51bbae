"""The greeting: both sides come to the same end, and whoever is refused learns why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import pytest

from mirrorha.errors import PeerError, PeerLostError, PeerProtocolError, PeerRefusedError
from mirrorha.wire.frames import CONTROL_KIND, HELLO_KIND, Frame, FrameReader, encode_frame
from mirrorha.wire.greeting import Greeting, Hear, Say, be_greeted, greet
from mirrorha.wire.hello import (
    HELLO_CODEC,
    Agreed,
    Difference,
    Disagreement,
    Hello,
    HelloRule,
    Refused,
    Welcome,
    encode_hello,
)
from mirrorha.wire.limits import HELLO_FRAME_BYTES_MAX
from tests.wire.hellos import LYON, PARIS, but

Outcome = Agreed | PeerError


class Side:
    """One end of a conversation without a network."""

    def __init__(self, words: Greeting) -> None:
        self.words: Final = words
        self.outcome: Outcome | None = None
        self.is_hearing = False
        self._go_on(lambda: next(words))

    def hear(self, frame: Frame | PeerError) -> None:
        self.is_hearing = False
        if isinstance(frame, PeerError):
            self._go_on(lambda: self.words.throw(frame))
        else:
            self._go_on(lambda: self.words.send(frame))

    def _go_on(self, step: Callable[[], Say | Hear]) -> None:
        self.said: deque[Frame] = getattr(self, "said", deque())
        try:
            asked = step()
            while isinstance(asked, Say):
                self.said.append(framed(asked))
                asked = self.words.send(None)
            self.is_hearing = True
        except StopIteration as end:
            self.outcome = end.value
        except PeerError as error:
            self.outcome = error


def framed(said: Say) -> Frame:
    reader = FrameReader(HELLO_FRAME_BYTES_MAX)
    reader.feed(b"".join(said.buffers))
    frame = reader.next_frame()
    assert frame is not None
    return frame


def frame_of(message: Hello | Welcome | Refused, kind: int = HELLO_KIND) -> Frame:
    raw = encode_hello(message) if isinstance(message, Hello) else HELLO_CODEC.encode(message)
    return framed(Say(encode_frame(kind, raw)))


def converse(caller: Side, called: Side) -> None:
    """Carry everything that is said, and tell who is left hearing that the other has gone."""
    while True:
        if called.is_hearing and caller.said:
            called.hear(caller.said.popleft())
        elif caller.is_hearing and called.said:
            caller.hear(called.said.popleft())
        else:
            break
    for side in (caller, called):
        if side.outcome is None:
            side.hear(PeerLostError("closed"))


def met(mine: Hello, theirs: Hello) -> tuple[Outcome, Outcome]:
    caller = Side(greet(mine, whom="lyon"))
    called = Side(be_greeted(lambda _: theirs, whom="paris"))
    converse(caller, called)
    assert caller.outcome is not None
    assert called.outcome is not None
    return caller.outcome, called.outcome


def test_two_that_belong_together_agree() -> None:
    here, there = met(PARIS, LYON)
    assert isinstance(here, Agreed)
    assert isinstance(there, Agreed)
    assert (here.peer, there.peer) == (LYON, PARIS)


def test_two_that_do_not_both_say_the_same_reason() -> None:
    here, there = met(PARIS, but(LYON, cluster="other"))
    assert isinstance(here, PeerRefusedError)
    assert isinstance(there, PeerRefusedError)
    assert str(here) == str(there)


@pytest.mark.parametrize("who", ["caller", "called"])
def test_what_one_side_finds_wrong_the_other_learns(who: str) -> None:
    def judge(_mine: Hello, _theirs: Hello) -> Disagreement:
        return Disagreement((Difference(HelloRule.LEFT_OVER, "a left-over stream"),))

    if who == "caller":
        caller = Side(greet(PARIS, whom="lyon", judge=judge))
        called = Side(be_greeted(lambda _: LYON, whom="paris"))
    else:
        caller = Side(greet(PARIS, whom="lyon"))
        called = Side(be_greeted(lambda _: LYON, whom="paris", judge=judge))
    converse(caller, called)
    for side in (caller, called):
        assert isinstance(side.outcome, PeerRefusedError)
        assert "left-over stream" in str(side.outcome)


def test_who_is_not_answered_is_told_why() -> None:
    def hello_for(_theirs: Hello) -> Hello:
        raise PeerRefusedError("not today")

    caller = Side(greet(PARIS, whom="lyon"))
    called = Side(be_greeted(hello_for, whom="paris"))
    converse(caller, called)
    assert str(called.outcome) == "not today"
    assert isinstance(caller.outcome, PeerRefusedError)
    assert "not today" in str(caller.outcome)


def test_a_refusal_that_came_before_our_hello_left_is_the_reason() -> None:
    words = greet(PARIS, whom="lyon")
    assert isinstance(next(words), Say)
    assert isinstance(words.throw(PeerLostError("reset")), Hear)
    with pytest.raises(PeerRefusedError, match="full"):
        words.send(frame_of(Refused("full")))


def test_a_connection_that_broke_with_nothing_said_is_lost() -> None:
    words = greet(PARIS, whom="lyon")
    next(words)
    words.throw(PeerLostError("reset"))
    with pytest.raises(PeerLostError, match="reset"):
        words.throw(PeerLostError("nothing more"))


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ([frame_of(Welcome(1))], "before it says hello"),
        ([frame_of(LYON, CONTROL_KIND)], "frames of kind"),
        ([frame_of(LYON), frame_of(LYON)], "hello twice"),
        ([frame_of(LYON), frame_of(Welcome(7))], "in version 7"),
    ],
)
def test_what_is_said_out_of_turn_ends_it(heard: list[Frame], text: str) -> None:
    side = Side(greet(PARIS, whom="lyon"))
    for frame in heard:
        side.hear(frame)
    assert isinstance(side.outcome, PeerProtocolError)
    assert text in str(side.outcome)
