"""Comparing the copies of a node's volumes: when asked, and now and then by itself.

The volumes compare (`mirrorha.volume.verify`); here is who may ask, what came of it, and when it is
done again. Nothing of the node's decisions depends on it.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from mirrorha.cluster import verify_result
from mirrorha.cluster.verify_result import RESULT_NAME, Result
from mirrorha.cluster.volumes import volume_state_dir
from mirrorha.config import VerifyConfig, format_rate
from mirrorha.core.events import VolumeReported
from mirrorha.core.orders import (
    SetVerifyRate,
    StartVerify,
    StopReason,
    StopVerify,
    Trouble,
    VerifyEnded,
)
from mirrorha.core.words import Mode, Role
from mirrorha.errors import CommandRefusedError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from mirrorha.cluster.at_rest import Document
    from mirrorha.cluster.settings import VolumeName
    from mirrorha.cluster.volumes import Volumes
    from mirrorha.core.events import AnyEvent
    from mirrorha.core.orders import AnyVerifyReport
    from mirrorha.core.state import State

_log: Final = logging.getLogger(__name__)

#: How often it is looked whether what is under way still can be.
LOOK_S: Final = 5.0
#: The same of a node that is filled for a repair; and how long it takes to leave it out for that.
FILL_LOOK_S: Final = 0.2
LEFT_OUT_S: Final = 60.0
#: How often it is looked whether one is due. So one that could not go to its end is begun again.
AGAIN_S: Final = 600.0


@attrs.frozen(kw_only=True)
class Wish:
    """What somebody wants compared.

    Attributes:
        volume: its path on this node; None: all of them.
        repair: make the other node's copy what this one's is.
        rate_bytes_per_s: None: as it is configured.
        source: whose copy stands, if that is said: only that of the node that serves can.
        found: only the files in which the last comparison found something.
    """

    volume: str | None = None
    repair: bool = False
    rate_bytes_per_s: int | None = None
    source: str | None = None
    found: bool = False


@attrs.define(eq=False)
class _Run:
    result: Result
    session: int
    rate_bytes_per_s: int
    ended: trio.Event = attrs.field(factory=trio.Event)


@final
class Verifying:
    """One for each run of a node.

    Args:
        note: tells people: a rule's name, what happened, and whether to look at it.
        does_arbiter_answer: whether a decision could be made now, should one be needed.
    """

    def __init__(
        self,
        config: VerifyConfig,
        names: Sequence[VolumeName],
        state_dir: Path,
        *,
        volumes: Volumes,
        state: Callable[[], State],
        give: Callable[[AnyEvent], None],
        note: Callable[[str, str, bool], None],
        does_arbiter_answer: Callable[[], Awaitable[bool]],
        wall_s: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._config: Final = config
        self._names: Final = {each.name: each for each in names}
        self._files: Final = {
            each.name: volume_state_dir(state_dir, each) / RESULT_NAME for each in names
        }
        self._volumes: Final = volumes
        self._state: Final = state
        self._give: Final = give
        self._note: Final = note
        self._does_arbiter_answer: Final = does_arbiter_answer
        self._wall_s: Final = wall_s
        self._rng: Final = rng
        self._sessions: Final = itertools.count(1)
        self._runs: dict[str, _Run] = {}
        self._last: dict[str, Result] = {}
        self._unkept: set[str] = set()
        self._news = trio.Event()
        self._limiter: Final = trio.CapacityLimiter(1)
        volumes.compared = self._told

    # ---- from memory ----

    def document(self, name: str) -> Document | None:
        """The comparison that is under way, else the last one; None if there was none."""
        run, last = self._runs.get(name), self._last.get(name)
        result = run.result if run is not None else last
        if result is None:
            return None
        rate = run.rate_bytes_per_s if run is not None else self._config.rate_bytes_per_s
        return result.document(now_s=self._wall_s(), rate_bytes_per_s=rate)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person has to see to: copies that are known to differ. Where it can be seen to."""
        if self._state().role is not Role.PRIM:
            return ()
        return tuple(
            f"{self._names[name].path}: {result.left} differences from {self._state().other}'s "
            "copy were found and not repaired; `mirrorha verify --repair --found` does, if this "
            "copy is the right one"
            for name, result in self._last.items()
            if result.left and name not in self._runs
        )

    # ---- commands ----

    async def verify(self, wish: Wish) -> str:
        """Compare; return what came of it once that is known.

        With a rate, while it is under way already: it goes on at that rate.

        Cancelled, it goes on nevertheless.

        Raises:
            CommandRefusedError: it cannot be done, it was stopped, or differences were found and
                are not repaired: the text says which.
        """
        names = self._wanted(wish.volume)
        self._check_source(wish)
        if wish.rate_bytes_per_s is not None and any(name in self._runs for name in names):
            return self._set_rate(names, wish.rate_bytes_per_s)
        texts, is_well = [], True
        for name in names:
            result = await self._verify_one(name, wish)
            if wish.repair and result.state == "done" and result.left:
                texts.append(result.text(self._names[name].path))
                result = await self._fill(name, result)
            texts.append(result.text(self._names[name].path))
            is_well &= result.state == "done" and not result.left
        text = "\n".join(texts)
        if is_well:
            return text
        raise CommandRefusedError(text)

    def stop(self, volume: str | None) -> str:
        """Stop what is under way.

        Raises:
            CommandRefusedError: nothing is.
        """
        names = [name for name in self._wanted(volume) if name in self._runs]
        if not names:
            raise CommandRefusedError("nothing is being compared")
        for name in names:
            self._volumes.order(name, StopVerify("it was stopped by an operator"))
        return f"stopped: {', '.join(self._names[name].path for name in names)}"

    def _set_rate(self, names: Sequence[str], rate_bytes_per_s: int) -> str:
        """Let what is under way go at another rate from now on."""
        for name in names:
            if name in self._runs:
                self._runs[name].rate_bytes_per_s = rate_bytes_per_s
                self._volumes.order(name, SetVerifyRate(rate_bytes_per_s))
        return f"what is under way goes at {format_rate(rate_bytes_per_s)} from now on"

    def _wanted(self, path: str | None) -> list[str]:
        names = [each.name for each in self._names.values() if path in (None, each.path)]
        if names:
            return names
        known = ", ".join(each.path for each in self._names.values())
        raise CommandRefusedError(f"{path} is no volume here; the volumes are {known}")

    def _check_source(self, wish: Wish) -> None:
        s = self._state()
        if s.role is Role.SECOND:
            raise CommandRefusedError(
                f"{s.other} serves, and compares: run `mirrorha verify` there"
            )
        if s.role is not Role.PRIM:
            raise CommandRefusedError(
                f"{s.me} is {s.role.value}: two copies are compared while one node is PRIM and the "
                "other SECOND"
            )
        if wish.source is not None and wish.source != s.me:
            if wish.source != s.other:
                raise CommandRefusedError(f"there is no node '{wish.source}'")
            raise CommandRefusedError(
                f"{s.me} serves from its copy, so it is the one that stands. If that of {s.other} "
                f"is the right one, let {s.other} serve first: `mirrorha swap`, then "
                f"`mirrorha verify --repair --from {s.other}` there"
            )

    # ---- one volume ----

    async def _verify_one(self, name: str, wish: Wish) -> Result:
        path = self._names[name].path
        if name in self._runs:
            raise CommandRefusedError(
                f"{path} is being compared already: `mirrorha status` shows how far it is"
            )
        fids: list[int] = []
        if wish.found:
            last = self._last.get(name)
            fids = last.fids if last is not None else []
            if not fids:
                raise CommandRefusedError(f"{path}: no difference is known that is not repaired")
        if not self._is_mirrored(name):
            raise CommandRefusedError(f"{path} is not mirrored at the moment")
        run = self._begin(name, wish, fids)
        await run.ended.wait()
        return run.result

    def _is_mirrored(self, name: str) -> bool:
        """Whether the follower has said where it is: before that nothing can be asked of it."""
        status = self._volumes.status(name)
        return status.mode is Mode.MIRROR and status.peer_seq is not None

    def _begin(self, name: str, wish: Wish, fids: list[int]) -> _Run:
        rate = wish.rate_bytes_per_s
        rate = self._config.rate_bytes_per_s if rate is None else rate
        result = Result(began_s=self._wall_s(), repair=wish.repair)
        run = self._runs[name] = _Run(result, next(self._sessions), rate)
        order = StartVerify(
            session=run.session,
            seed=self._rng.getrandbits(63),
            rate_bytes_per_s=rate,
            fids=fids,
            repair=wish.repair,
        )
        self._volumes.order(name, order)
        return run

    def _told(self, name: str, report: AnyVerifyReport) -> None:
        """A volume tells of its comparison. Never blocks."""
        run = self._runs.get(name)
        if run is None or run.session != report.session:
            return
        run.result.take(report, now_s=self._wall_s())
        if isinstance(report, VerifyEnded):
            del self._runs[name]
            self._keep(name, run.result)
            self._tell_ended(name, run.result)
            run.ended.set()

    def _keep(self, name: str, result: Result) -> None:
        """It is the last one now, unless it came to nothing."""
        before = self._last.get(name)
        if before is not None and result.state == "stopped":
            if not result.files and not result.differences:
                return
            result.keep(before)
        self._last[name] = result
        self._unkept.add(name)
        self._news.set()

    def _tell_ended(self, name: str, result: Result) -> None:
        text = result.text(self._names[name].path)
        if not result.left:
            self._note("verified", text, False)
            return
        self._note("copies-differ", text, True)

    async def _fill(self, name: str, result: Result) -> Result:
        """What ops of the stream cannot repair, a resync does: the other node is left out for it.

        Not while nobody could decide that: then nothing would be acknowledged meanwhile. Returns
        what a comparison of the same files finds after it.
        """
        state = self._state()
        text = f"{result.left} differences that only a resync can repair"
        if not await self._does_arbiter_answer():
            raise CommandRefusedError(
                f"{text}: {state.other} has to be left out for it, and the arbiter does not "
                "answer; repeat it once it does"
            )
        incarnation = state.meta.incarnation
        trouble = Trouble(StopReason.PEER_DISK, f"{text}: {state.other} is filled")
        self._give(VolumeReported(name, trouble))
        with trio.move_on_after(LEFT_OUT_S):
            await self._wait_for(lambda: self._state().role is not Role.PRIM)
        await self._wait_for(lambda: self._state().role is not Role.ALONE)
        if self._state().role is not Role.PRIM or state.meta.incarnation != incarnation:
            raise CommandRefusedError(f"{text}, and this node does not serve any more")
        await self._wait_for(lambda: self._is_mirrored(name))
        return await self._verify_one(name, Wish(found=True))

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        while not holds():  # noqa: ASYNC110 - the core tells of it in many ways
            await trio.sleep(FILL_LOOK_S)

    # ---- by itself ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep results, and compare when that is due, until cancelled."""
        for name, file in self._files.items():
            found = await self._in_thread(verify_result.load, file)
            if isinstance(found, Result):
                self._last[name] = found
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_results)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._compare_when_due)
            task_status.started()

    async def _keep_results(self) -> None:
        while True:
            while self._unkept:
                name = self._unkept.pop()
                await self._in_thread(verify_result.save, self._files[name], self._last[name])
            self._news = trio.Event()
            await self._news.wait()

    async def _watch(self) -> None:
        """A worker that has ended tells nothing any more."""
        while True:
            await trio.sleep(LOOK_S)
            for name, run in list(self._runs.items()):
                if not self._is_mirrored(name):
                    text = "the volume does not mirror any more"
                    ended = VerifyEnded(run.session, text, files=0, bytes=0, differences=0)
                    self._told(name, ended)

    async def _compare_when_due(self) -> None:
        while True:
            await trio.sleep(AGAIN_S)
            if due := self._due():
                try:
                    await self._verify_one(due, Wish())
                except CommandRefusedError as error:
                    _log.info("%s", error)

    def _due(self) -> str:
        """A volume whose time has come; "" if there is none."""
        every_s = self._config.every_s
        if every_s is None or self._runs or self._state().role is not Role.PRIM:
            return ""
        for name in self._names:
            last = self._last.get(name)
            done_s = last.ended_s if last is not None and last.state == "done" else None
            # One from the future was made by a clock that was wrong.
            if done_s is None or not 0 <= self._wall_s() - done_s < every_s:
                return name
        return ""

    async def _in_thread(self, function: Callable[..., object], *arguments: object) -> object:
        return await trio.to_thread.run_sync(
            lambda: function(*arguments), abandon_on_cancel=True, limiter=self._limiter
        )
