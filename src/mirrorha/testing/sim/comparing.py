"""Comparisons of the two copies, in the middle of everything: they raise no false alarm, and find
a byte that a disk has changed by itself.

Chance is drawn apart: a seed that compares nothing is the run that it was.
"""

from __future__ import annotations

import itertools
import random
from functools import partial
from typing import Final, final

from mirrorha.core.orders import AnyVerifyReport, StartVerify, VerifyEnded, VerifyFound
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.production_volume import SLOT_BYTES, SLOTS, ProductionVolume, Shelf
from mirrorha.testing.sim.world import Violation, World
from mirrorha.volume.events import Change
from mirrorha.volume.ops import ROOT_FID, AnyOp, Create, Write

# Of the runs with the production machines, so many compare all the time; and at the end of so many
# a byte is changed.
COMPARED_SHARE: Final = 0.5
FLIPPED_SHARE: Final = 0.5
# A comparison ends with whatever else happens to the volume; at the end little does.
TRIES_MAX: Final = 20
ENDS_IN_MS: Final = 60_000
# A client writes no more into files so far behind its latest one.
BEHIND_MIN: Final = 4
BUSY: Final = "busy"


@final
class Comparing:
    """Starts comparisons on a pair, and judges what they tell."""

    def __init__(self, world: World, pair: Pair) -> None:
        self.world, self.pair = world, pair
        self._rng: Final = random.Random(f"{world.seed} comparing")
        self._sessions: Final = itertools.count(1)
        self._flipped: tuple[str, str] | None = None  # volume, path
        self._found: list[VerifyFound] = []
        self._ended: dict[int, VerifyEnded] = {}  # by session
        pair.on_compared = self._told

    def begin(self) -> None:
        """Compare from now on, again and again, if this run does."""
        if self._is_production and self._rng.random() < COMPARED_SHARE:
            self._again()

    def _again(self) -> None:
        if not self.pair.writing:
            return
        source = self.pair.source()
        for volume in source.volumes.values() if source is not None else ():
            if isinstance(volume, ProductionVolume) and not self._flipped:
                self._write_much(volume)
                self._order(volume, repair=self._rng.random() < 0.5)
        self.world.after(self._rng.randint(100, 6_000), self._again)

    def _write_much(self, volume: ProductionVolume) -> None:
        """Somebody writes faster than one op after the other is applied, while it is compared."""
        for _ in range(self._rng.randint(1, 20)):
            self.world.after(self._rng.randint(0, 60), lambda: self._write_some(volume))

    def _write_some(self, volume: ProductionVolume) -> None:
        if not self.pair.writing:
            return
        fid, now_ns = volume.fid_of(BUSY), self.world.now_ms * 1_000_000
        op: AnyOp = Create(0, ROOT_FID, BUSY, 0o644, 0, 0, now_ns)
        for number in range(8):
            if fid:
                data = self._rng.randbytes(self._rng.randint(1, 64))
                op = Write(fid, self._rng.randrange(200), data, now_ns + number)
            volume.ask(partial(Change, op=op), lambda _reply: None)

    def check_flips(self) -> None:
        """While a client writes: one byte on either disk is found, and on the SECOND's repaired."""
        if not self._is_production or self._rng.random() >= FLIPPED_SHARE:
            return
        source = self.pair.source()
        if source is not None and self.pair.mirrored():
            second = self.pair.peer(source)
            self._check_flip(source, second, repair=True)
            self._check_flip(source, source, repair=False)

    @property
    def _is_production(self) -> bool:
        first = next(iter(self.pair.nodes.values()))
        return all(isinstance(each, Shelf) for each in first.durable.platters.values())

    def _check_flip(self, source: SimNode, flipped: SimNode, *, repair: bool) -> None:
        name = self._rng.choice(source.settings.volumes)
        store, volume = flipped.durable.platters[name], source.volumes[name]
        if not isinstance(store, Shelf) or not isinstance(volume, ProductionVolume):
            return
        path = self._quiet_file(store)
        if not path:
            return
        content = store.disk.snapshot()[path].content
        store.disk.flip(path, offset := self._rng.randrange(len(content)))
        self.world.count("byte flipped")
        self._flipped, self._found = (name, path), []
        is_through = self._run_through(volume, repair=repair)
        self._flipped = None
        is_repaired = store.disk.snapshot()[path].content == content
        if is_through and (not self._found or is_repaired is not repair):
            raise Violation(
                f"7 one byte of {path} in {name} was changed on {flipped.name}: "
                f"{len(self._found)} differences were found, repaired: {is_repaired}"
            )
        if not is_repaired:
            store.disk.flip(path, offset)

    def _quiet_file(self, store: Shelf) -> str:
        """A file that is whole, and into which nobody writes any more; "" if there is none."""
        found = [
            path
            for path, seen in store.disk.snapshot().items()
            if path.startswith("numbers-") and len(seen.content) == SLOTS * SLOT_BYTES
        ]
        found.sort(key=lambda path: int(path.partition("-")[2]))
        quiet = found[:-BEHIND_MIN]
        return self._rng.choice(quiet) if quiet else ""

    def _run_through(self, volume: ProductionVolume, *, repair: bool) -> bool:
        """Compare until one is through; False if something always comes between."""
        for _ in range(TRIES_MAX):
            session = self._order(volume, repair=repair)
            self._run_until_ended(session)
            if session in self._ended and not self._ended[session].why:
                return True
            self.world.run_until(self.world.now_ms + 500)
        return False

    def _run_until_ended(self, session: int) -> None:
        self.world.run_while(lambda: session not in self._ended, at_most_ms=ENDS_IN_MS)

    def _order(self, volume: ProductionVolume, *, repair: bool) -> int:
        seed, session = self._rng.getrandbits(63), next(self._sessions)
        rate = self._rng.choice([0, 0, 1 << 20])
        volume.order(StartVerify(session, seed=seed, rate_bytes_per_s=rate, repair=repair))
        return session

    def _told(self, node: SimNode, volume: str, report: AnyVerifyReport) -> None:
        if isinstance(report, VerifyFound):
            if self._flipped is None or self._flipped != (volume, report.path):
                raise Violation(
                    f"7 false alarm on {node.name}: {report.what} of {report.path!r} in {volume}: "
                    f"{report.mine}, {report.theirs}"
                )
            self._found.append(report)
        elif isinstance(report, VerifyEnded):
            self.world.count("comparison through" if not report.why else "comparison broken off")
            self._ended[report.session] = report
