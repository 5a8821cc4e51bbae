"""The conformance suite of arbiters: ours, our fakes and yours pass it alike."""

from __future__ import annotations

import enum
import inspect
import random
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs
import trio

from mirrorha.core.register import RECORD_BYTES_MAX
from mirrorha.errors import (
    ArbiterOutcomeUnknownError,
    ArbiterUnavailableError,
    LocalUsageError,
    MirrorHAError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorha.abc import Arbiter

_T = TypeVar("_T")

# How often one step is tried against an arbiter that is unavailable now and then, and the pauses
# between: 20 attempts in about half a minute with a dead one, which is then called dead.
_ATTEMPTS_MAX: Final = 20
_PAUSE_S: Final = 0.02
_PAUSE_S_MAX: Final = 2.0
# Contenders start within this time of each other, so that over the races they meet at every
# point of each other's requests.
_STAGGER_S_MAX: Final = 0.01
_READS_DURING_A_RACE: Final = 3


class ArbiterConformanceError(MirrorHAError):
    """The arbiter breaks the contract of `mirrorha.abc.Arbiter`; the text says which part.

    With such an arbiter two nodes could serve at once. Do not use it.
    """


async def check_arbiter(
    make: Callable[[], Awaitable[Arbiter] | Arbiter],
    *,
    contenders: int = 8,
    races: int = 50,
    seed: int = 0,
) -> None:
    """Try whether an arbiter keeps the contract of `mirrorha.abc.Arbiter`.

    Takes about `races` * (2 * `contenders` + 9) calls. Calls that are unavailable or unknown are
    part of the contract: they are tolerated, and resolved by reading again. Sleeps now and then,
    so that a `MockClock` must jump by itself.

    Args:
        make: Returns one more client of one and the same record, which must not exist yet.
            Each client is closed at the end.
        contenders: How many clients swap at the same time.
        races: How often they do.
        seed: Of all chance in the suite.

    Raises:
        ArbiterConformanceError: the arbiter lied, or was unavailable for many attempts in a row.
        LocalUsageError: there is a record already.
        Exception: whatever else the arbiter raises, which the contract does not let it; out of
            a race it comes in an exception group.
    """
    if contenders < 2:
        raise LocalUsageError(f"a race has at least 2 contenders, not {contenders}")
    clients: list[Arbiter] = []
    try:
        for _ in range(contenders):
            made = make()
            clients.append(await made if inspect.isawaitable(made) else made)
        suite = _Suite(clients, random.Random(seed))
        await suite.check_creation()
        await suite.check_refusals()
        await suite.check_contents()
        for number in range(races):
            await suite.race(number)
        await suite.check_cancellation()
    finally:
        for client in clients:
            await client.aclose()


class _Outcome(enum.Enum):
    WON = "won"
    LOST = "lost"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


@final
@attrs.frozen
class _Bid:
    """One swap of a race and what its caller was told."""

    record: bytes
    outcome: _Outcome


@final
@attrs.define
class _Race:
    """All swaps of one race expect the same `base`, so the record changes at most once.

    Attributes:
        has_changed: somebody was told, or has read, that the record is not `base` any more.
        went_back: a read that began after that found `base`.
        seen: what reads found during the race, but `base`.
    """

    number: int
    base: bytes | None
    bids: list[_Bid] = attrs.Factory(list)
    seen: set[bytes | None] = attrs.Factory(set)
    has_changed: bool = False
    went_back: bool = False

    def told(self, outcome: _Outcome) -> set[bytes | None]:
        return {bid.record for bid in self.bids if bid.outcome is outcome}

    def judge(self, after: bytes | None) -> None:
        """Whether what the contenders were told agrees with `after`, read afterwards.

        Raises:
            ArbiterConformanceError: it does not.
        """
        self._judge_bids(after)
        found = _list(self.seen)
        self._claim(self.seen <= {after}, f"a read saw {found}, and a later one {_show(after)}")
        self._claim(
            not self.went_back,
            f"a read saw {_show(self.base)} after somebody knew that it was replaced: reads are "
            "stale",
        )

    def _judge_bids(self, after: bytes | None) -> None:
        winners = self.told(_Outcome.WON)
        self._claim(
            len(winners) <= 1,
            f"{len(winners)} contenders won from one record: {_list(winners)}",
        )
        if winners:
            self._claim(after in winners, f"{_list(winners)} won, and a read finds {_show(after)}")
            return
        self._claim(
            after == self.base or after in self.told(_Outcome.UNKNOWN),
            f"nobody won, and a read finds {_show(after)}; if that was written in this race, its "
            "writer was told that it did not take effect",
        )
        self._claim(
            after != self.base or not self.told(_Outcome.LOST),
            "contenders were refused though the record never changed",
        )

    def possible(self, after: bytes | None) -> set[bytes | None]:
        """What reads may find once `after` was read: an unknown swap may still land on `base`."""
        return {after} if after != self.base else {self.base} | self.told(_Outcome.UNKNOWN)

    def _claim(self, holds: bool, text: str) -> None:
        _claim(holds, f"race {self.number}: {text}")


def _claim(holds: bool, text: str) -> None:
    if not holds:
        raise ArbiterConformanceError(text)


def _show(record: bytes | None) -> str:
    return "no record" if record is None else repr(record[:40])


def _list(records: set[bytes | None]) -> str:
    return " or ".join(sorted(_show(record) for record in records))


@final
class _Suite:
    """The steps, over clients of one record. Every record that it writes is different."""

    def __init__(self, clients: list[Arbiter], rng: random.Random) -> None:
        self._clients = clients
        self._rng = rng
        self._written = 0

    async def check_creation(self) -> None:
        first, second = self._clients[:2]
        if (found := await self._read(first)) is not None:
            raise LocalUsageError(
                f"the suite needs a record of its own, and found {_show(found)}; remove it"
            )
        # A swap of a record that does not exist must not make it.
        await self._refused(first, b"never was", self._record(), now=None)
        made = await self._win(first, None)
        await self._refused(second, None, self._record(), now=made)
        await self._refused(first, None, made, now=made)

    async def check_refusals(self) -> None:
        first, second = self._clients[:2]
        before = await self._read(first)
        now = await self._win(second, before)
        await self._refused(first, before, self._record(), now=now)
        await self._refused(first, now + b" ", self._record(), now=now)
        await self._refused(first, now[:-1], self._record(), now=now)
        # The very swap that won does not win again: who lost its reply learns that from a read.
        await self._refused(second, before, now, now=now)

    async def check_contents(self) -> None:
        first, second = self._clients[:2]
        # Opaque: every byte, and the largest record there is.
        for record in (bytes(range(256)), self._rng.randbytes(RECORD_BYTES_MAX), b"\r\n\0 \xff"):
            await self._win(first, await self._read(second), record)
        same = await self._win(second, await self._read(first))
        # Equal bytes are equal: a swap of a record for itself wins, and changes nothing.
        outcome = await self._swap(first, same, same)
        _claim(
            outcome is not _Outcome.LOST,
            f"a swap was refused though the record was what it expected: {_show(same)}",
        )
        await self._expect(second, {same})

    async def race(self, number: int) -> None:
        """Let all clients swap from the same record, then settle what the record is."""
        race = _Race(number, await self._read(self._any()))
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(self._bid, race, client)
            for client in self._rng.sample(self._clients, 2):
                nursery.start_soon(self._watch, race, client)
        after = await self._read(self._any())
        race.judge(after)
        # Each client sees what was won, whoever won it: no cache, no replica that lags.
        for client in self._clients:
            await self._expect(client, race.possible(after))
        await self._settle(race.base)

    async def check_cancellation(self) -> None:
        """A cancelled swap may take effect or not, and leaves its client usable."""
        first, second = self._clients[:2]
        for delay_s in (0.0, 0.0005, 0.002, 0.01):
            base = await self._read(second)
            record = self._record()
            with trio.move_on_after(delay_s):
                await self._swap(first, base, record)
            await self._expect(second, {base, record})
            await self._settle(base)
            await self._win(first, await self._read(first))

    async def _bid(self, race: _Race, client: Arbiter) -> None:
        record = self._record()
        await trio.sleep(self._rng.uniform(0, _STAGGER_S_MAX))
        outcome = await self._swap(client, race.base, record)
        race.bids.append(_Bid(record, outcome))
        race.has_changed |= outcome in {_Outcome.WON, _Outcome.LOST}

    async def _watch(self, race: _Race, client: Arbiter) -> None:
        for _ in range(_READS_DURING_A_RACE):
            await trio.sleep(self._rng.uniform(0, _STAGGER_S_MAX / _READS_DURING_A_RACE))
            had_changed = race.has_changed
            try:
                found = await client.read()
            except ArbiterUnavailableError:
                continue
            if found != race.base:
                race.seen.add(found)
                race.has_changed = True
            elif had_changed:
                race.went_back = True

    async def _settle(self, base: bytes | None) -> None:
        """End all that may still land on `base`, by a different swap."""
        for _ in range(_ATTEMPTS_MAX):
            if await self._read(self._any()) != base:
                return
            await self._swap(self._any(), base, self._record())
        raise ArbiterConformanceError(
            f"{_ATTEMPTS_MAX} swaps from {_show(base)} in a row were unavailable or unknown, and "
            "none took effect"
        )

    async def _win(
        self, client: Arbiter, expected: bytes | None, record: bytes | None = None
    ) -> bytes:
        """Swap without rivals until it has won; return the record that is there then."""
        new = self._record() if record is None else record
        may_have_landed = False
        for attempt in range(_ATTEMPTS_MAX):
            outcome = await self._swap(client, expected, new)
            may_have_landed |= outcome is _Outcome.UNKNOWN
            _claim(
                outcome is not _Outcome.LOST or may_have_landed,
                f"a swap from {_show(expected)} was refused, though that was the record"
                + " (or an attempt that was called unavailable took effect)" * (attempt > 0),
            )
            won = outcome in {_Outcome.WON, _Outcome.LOST}
            possible: set[bytes | None] = {new} if won else {expected}
            if may_have_landed:
                possible.add(new)
            for other in self._clients[:2]:
                if await self._expect(other, possible) == new:
                    possible = {new}
            if possible == {new}:
                return new
            await self._pause(attempt)
        raise ArbiterConformanceError(
            f"{_ATTEMPTS_MAX} swaps in a row were unavailable or unknown, and none took effect"
        )

    async def _refused(
        self, client: Arbiter, expected: bytes | None, new: bytes, *, now: bytes | None
    ) -> None:
        """Claim that a swap from a record that is not there is refused and changes nothing."""
        for attempt in range(_ATTEMPTS_MAX):
            outcome = await self._swap(client, expected, new)
            _claim(
                outcome is not _Outcome.WON,
                f"a swap that expected {_show(expected)} won, though there was {_show(now)}",
            )
            for other in self._clients:
                await self._expect(other, {now})
            if outcome is _Outcome.LOST:
                return
            await self._pause(attempt)
        raise ArbiterConformanceError(
            f"{_ATTEMPTS_MAX} swaps that had to be refused were unavailable or unknown instead"
        )

    async def _expect(self, client: Arbiter, possible: set[bytes | None]) -> bytes | None:
        found = await self._read(client)
        _claim(
            found in possible,
            f"a read found {_show(found)}; it must be {_list(possible)}",
        )
        return found

    async def _read(self, client: Arbiter) -> bytes | None:
        why = ""
        for attempt in range(_ATTEMPTS_MAX):
            try:
                return await client.read()
            except ArbiterUnavailableError as error:
                why = str(error)
            await self._pause(attempt)
        raise ArbiterConformanceError(f"{_ATTEMPTS_MAX} reads in a row failed, at last with: {why}")

    async def _swap(self, client: Arbiter, expected: bytes | None, new: bytes) -> _Outcome:
        try:
            won = await client.compare_and_swap(expected, new)
        except ArbiterUnavailableError:
            return _Outcome.UNAVAILABLE
        except ArbiterOutcomeUnknownError:
            return _Outcome.UNKNOWN
        _claim(won is True or won is False, f"compare_and_swap returned {won!r}, not a bool")
        return _Outcome.WON if won else _Outcome.LOST

    async def _pause(self, attempt: int) -> None:
        await trio.sleep(self._rng.uniform(0.5, 1) * min(_PAUSE_S_MAX, _PAUSE_S * 2**attempt))

    def _any(self) -> Arbiter:
        return self._rng.choice(self._clients)

    def _record(self) -> bytes:
        self._written += 1
        return f'{{"record":{self._written},"nonce":"{self._rng.randbytes(8).hex()}"}}'.encode()
