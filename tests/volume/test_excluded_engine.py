"""What stays on one node, changed by the file API of an unmounted volume."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mirrorha.core.orders import AnyReport, Close, Freeze, Frozen, ServeAlone
from mirrorha.errors import NotPrimaryError
from mirrorha.volume.disk import LoadTouched
from mirrorha.volume.engine import Engine
from mirrorha.volume.ops import ROOT_FID, Create, Mkdir, Rename, Rmdir, Unlink, Write, is_local
from mirrorha.volume.resync.sides import ComparingResyncs
from mirrorha.volume.stream.machine import Volume
from mirrorha.volume.stream.pending import VolumeSettings
from tests.volume.disk_support import T0, Home


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[Engine, list[AnyReport]]]:
    home = Home(path)
    disk = home.open(exclude=("tmp/**", "*.lock"))
    reports: list[AnyReport] = []
    machine = Volume(
        VolumeSettings(),
        touched=disk.perform(LoadTouched()),  # type: ignore[arg-type]
        resyncs=ComparingResyncs(),
    )
    engine = Engine(
        "v",
        machine,
        disk,
        clock_ms=lambda: int(trio.current_time() * 1000),
        report=reports.append,
        primary=lambda: "lyon",
        excludes=True,
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            engine.order(ServeAlone(epoch=1, generation="g"))
            yield engine, reports
            nursery.cancel_scope.cancel()
    home.close()


def born(name: str, parent: int = ROOT_FID) -> Create:
    return Create(0, parent, name, 0o644, -1, -1, T0)


async def made(engine: Engine, op: Create | Mkdir) -> int:
    done = await engine.change(op)
    assert isinstance(done, Create | Mkdir)
    return done.fid


async def test_what_stays_here_has_no_place_in_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as (engine, _):
        tmp = await made(engine, Mkdir(0, ROOT_FID, "tmp", 0o755, -1, -1, T0))
        seq = engine.status.seq
        local = await made(engine, born("x", tmp))
        await engine.change(Write(local, 0, b"x", T0))
        with pytest.raises(OSError, match="cross-device"):
            await engine.change(Rename(0, tmp, "x", ROOT_FID, "x", 0, T0))
        with pytest.raises(FileExistsError):
            await made(engine, born("x", tmp))
        with pytest.raises(FileNotFoundError):
            await engine.change(Unlink(0, tmp, "y", T0))
        with pytest.raises(OSError, match="not empty"):
            await engine.change(Rmdir(0, ROOT_FID, "tmp", T0))
        await engine.flush(local)
        await engine.change(Unlink(0, tmp, "x", T0))
        assert engine.status.seq == seq
        assert (is_local(tmp), is_local(local)) == (False, True)
        mirrored = await made(engine, born("y"))
        assert not is_local(mirrored)
        assert engine.status.seq == seq + 1


async def test_it_goes_on_while_changes_are_held_and_ends_with_the_service(tmp_path: Path) -> None:
    async with serving(tmp_path) as (engine, reports):
        local = await made(engine, born("x.lock"))
        engine.order(Freeze(token=7))
        assert reports == [Frozen(7)]
        await engine.change(Write(local, 0, b"x", T0))
        await engine.flush(local)
        with trio.move_on_after(0.1) as scope:
            await made(engine, born("x"))
        assert scope.cancelled_caught
        engine.order(Close(why="left", primary=None))
        for op in (Write(local, 0, b"y", T0), born("y.lock"), Unlink(0, ROOT_FID, "x.lock", T0)):
            with pytest.raises(NotPrimaryError, match="'lyon'"):
                await engine.change(op)
        assert (tmp_path / "root/x.lock").read_bytes() == b"x"
