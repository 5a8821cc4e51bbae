"""An arbiter that refuses every attempt though its register is as it was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mirrorha.core.events import CasOutcome, Gone
from mirrorha.core.register import Register
from mirrorha.testing.sim.scenarios import Play

# Twice a second, and a few at once where something begins.
READS_IN_10_S_MAX = 30


class Requests:
    """Counts what both nodes ask of the arbiter, and refuses every attempt."""

    def __init__(self, play: Play) -> None:
        self.reads = self.attempts = 0
        self._play = play
        self._read = play.pair.arbiter.read
        arbiter: Any = play.pair.arbiter
        arbiter.read, arbiter.cas = self.read, self.refuse

    def read(self, node: str, answer: Callable[[Register | Gone | None], None]) -> None:
        self.reads += 1
        self._read(node, answer)

    def refuse(
        self,
        _node: str,
        _expected: Register | None,
        _new: Register,
        answer: Callable[[CasOutcome], None],
    ) -> None:
        self.attempts += 1
        self._play.world.after(2, lambda: answer(CasOutcome.REFUSED))


def test_a_node_that_would_go_alone_does_not_ask_without_a_pause() -> None:
    play = Play()
    requests = Requests(play)
    play.paris.crash(power=False)
    play.run(10_000)
    assert play.state(play.lyon).frozen
    assert 5 < requests.reads < READS_IN_10_S_MAX
    assert requests.attempts <= requests.reads


def test_a_node_that_admits_its_peer_does_not_ask_without_a_pause() -> None:
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.state(play.lyon).is_alone)
    requests = Requests(play)
    play.start(play.paris)
    play.until(lambda: bool(requests.attempts))
    requests.reads = requests.attempts = 0
    play.run(10_000)
    assert play.state(play.lyon).may_serve or play.lyon.running, "the service goes on"
    assert 5 < requests.reads < 2 * READS_IN_10_S_MAX
    assert requests.attempts < READS_IN_10_S_MAX


def test_one_that_is_refused_because_the_register_moved_asks_at_once() -> None:
    """Its own attempt landed late: it learns of that without waiting for the pace."""
    play = Play()
    play.fate(play.lyon, "lost-reply")
    play.paris.crash(power=False)
    play.until(lambda: play.state(play.lyon).is_alone, at_most_ms=8_000)
