"""What both sides of a resync have in common: one session with a peer, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from mirrorha.errors import PeerError, VolumeError
from mirrorha.volume.events import DiskDone, Lane, Received, Send, Tick
from mirrorha.volume.resync.messages import (
    TEXT_LENGTH_MAX,
    GivenUp,
    ResyncMessage,
    StillHere,
)
from mirrorha.volume.stream.resync_interface import ResyncEvent, ResyncStatus
from mirrorha.volume.tasks.task import TaskEffect, Tasks

# A side that has nothing to say says so once a second; one that has not been heard for half a
# minute does not work, whatever its heartbeats say. A sync of a whole tree takes long, but it has
# a lane of its own.
STILL_HERE_MS: Final = 1_000
SILENCE_MAX_MS: Final = 30_000


@final
class Session:
    """Hands events to tasks, and their effects back, as long as the session lasts.

    Args:
        epoch: In which it happens.
        number: Of the session. Messages of another epoch or number are ignored.
        lane: Where disk requests go that name no other.
        receive: Takes in a message of this session. Raises PeerError if it is not lawful now.
        finish_step: Called at the end of every step, when all tasks wait.
    """

    def __init__(
        self,
        *,
        epoch: int,
        number: int,
        lane: Lane,
        receive: Callable[[ResyncMessage], None],
        finish_step: Callable[[], None],
    ) -> None:
        self.tasks: Final = Tasks(lane)
        self.status = ResyncStatus.RUNNING
        self.failure = ""
        self.failed_here = False
        self.now_ms = 0
        self._epoch: Final = epoch
        self._number: Final = number
        self._receive: Final = receive
        self._finish_step: Final = finish_step
        self._heard_ms = 0
        self._sent_ms = 0

    def message(self, kind: Callable[..., ResyncMessage], *fields: object) -> Send:
        """A step or effect that sends a message of this session."""
        return Send(kind(self._epoch, self._number, *fields))

    def start(self, now_ms: int) -> list[TaskEffect]:
        """Let the tasks begin."""
        self.now_ms = self._heard_ms = self._sent_ms = now_ms
        return self._run(lambda: None)

    def step(self, event: ResyncEvent, now_ms: int) -> list[TaskEffect]:
        """Take in an event. Returns what the tasks want done. Raises nothing for what a peer sends.

        Once the session is over nothing is done any more, and nothing is wanted.
        """
        self.now_ms = now_ms
        match event:
            case Received(message):
                return self._run(lambda: self._take_in(message))
            case DiskDone():
                return self._run(lambda: self._finish(event))
            case Tick():
                return self._run(self._tick)

    def go_on(self, now_ms: int) -> list[TaskEffect]:
        """Let the tasks go on with what was put into their boxes."""
        self.now_ms = now_ms
        return self._run(lambda: None)

    def _run(self, take_in: Callable[[], None]) -> list[TaskEffect]:
        if self.status is not ResyncStatus.RUNNING:
            return []
        try:
            take_in()
            effects = self.tasks.run()
            self._finish_step()
            effects += self.tasks.run()
        except (PeerError, VolumeError) as error:
            self.status = ResyncStatus.FAILED
            self.failure = str(error)
            self.failed_here = isinstance(error, VolumeError)
            effects = [self.message(GivenUp, self.failure[:TEXT_LENGTH_MAX])]
        if any(isinstance(effect, Send) for effect in effects):
            self._sent_ms = self.now_ms
        return effects

    def _take_in(self, message: object) -> None:
        if not isinstance(message, ResyncMessage):
            raise PeerError("the peer sent something else in the middle of a resync")
        if (message.epoch, message.session) != (self._epoch, self._number):
            return
        self._heard_ms = self.now_ms
        if isinstance(message, GivenUp):
            raise PeerError(f"the other node gave up: {message.why[:TEXT_LENGTH_MAX]}")
        if not isinstance(message, StillHere):
            self._receive(message)

    def _finish(self, event: DiskDone) -> None:
        if event.failure:
            raise VolumeError(event.failure)
        self.tasks.finish(event.token, event.result)

    def _tick(self) -> None:
        silence_ms = self.now_ms - self._heard_ms
        if silence_ms >= SILENCE_MAX_MS:
            raise PeerError(f"the other node has said nothing for {silence_ms // 1000} s")
        if self.now_ms - self._sent_ms >= STILL_HERE_MS:
            self.tasks.emit(self.message(StillHere))
