"""Questions to the follower: what it holds at a place of the stream, beside what we hold there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, final

from mirrorha.errors import PeerProtocolError
from mirrorha.volume.events import Send
from mirrorha.volume.tasks.task import Box, CallAll, Receive, Steps, Tasks
from mirrorha.volume.verify.messages import Item, Look, Looked, Seen, check_answer
from mirrorha.volume.verify.seeing import requests_of, seen_of_all

# A follower that applies and does not answer for so long does not work.
SILENCE_MAX_MS: Final = 30_000


class Both(NamedTuple):
    """What the two nodes hold of one item, at the same place of the stream."""

    item: Item
    mine: Seen | None
    theirs: Seen | None
    found: Any  # what this node's disk answered

    @property
    def differ(self) -> bool:
        return self.mine != self.theirs


class _Asked(NamedTuple):
    items: list[Item]
    box: Box[Looked]
    since_ms: int


@final
class Exchange:
    """Asks both disks the same.

    Args:
        seq: the last op that was applied to this node's tree.
    """

    def __init__(
        self, tasks: Tasks, *, epoch: int, session: int, seed: int, seq: Callable[[], int]
    ) -> None:
        self._tasks: Final = tasks
        self._epoch: Final = epoch
        self._session: Final = session
        self._seed: Final = seed
        self._seq: Final = seq
        self._numbers: Final = itertools.count(1)
        self._asked: Final[dict[int, _Asked]] = {}
        self.now_ms = 0

    def ask(self, items: Sequence[Item]) -> Steps[list[Both]]:
        """What both hold of these."""
        found = yield CallAll(requests_of(items, self._seed))
        # The disk performs in order and answers in order: what it has just told is the state after
        # `seq`, and nothing may come between its answer and this message.
        number = next(self._numbers)
        asked = _Asked(list(items), Box(self._tasks), self.now_ms)
        self._asked[number] = asked
        look = Look(self._epoch, self._session, number, self._seq(), self._seed, asked.items)
        yield Send(look)
        mine = seen_of_all(items, found, self._seed)
        looked: Looked = yield Receive(asked.box)
        return [Both(*each) for each in zip(items, mine, looked.seen, found, strict=True)]

    def take(self, message: Looked) -> bool:
        """The follower answers. False: not something that was asked here.

        Raises:
            PeerProtocolError: it is no answer to what was asked.
        """
        if (message.epoch, message.session) != (self._epoch, self._session):
            return False
        asked = self._asked.pop(message.number, None)
        if asked is None:
            return False
        check_answer(message, asked.items)
        asked.box.put(message)
        return True

    def watch(self) -> None:
        """See that what was asked is answered.

        Raises:
            PeerProtocolError: for long it has not been.
        """
        since_ms = min((each.since_ms for each in self._asked.values()), default=self.now_ms)
        if self.now_ms - since_ms >= SILENCE_MAX_MS:
            raise PeerProtocolError("the other node does not answer what it is asked")
