"""A pair of real nodes whose service is commands: real processes, on real nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import attrs
import pytest

from mirrorha.config import ServiceConfig
from mirrorha.core.words import Role
from mirrorha.errors import CommandRefusedError
from mirrorha.net.keys import create_keys
from tests.cluster.rig import NAMES, TestNode, open_pair, wait_until

LIMIT: Final = 1


@attrs.frozen
class Scripts:
    """The commands of a service, and where they leave their traces: one place for both nodes.

    It begins to fail once there is a file `broken`, and its stop hangs where there is `hangs`.
    """

    place: Path

    @classmethod
    def make(cls, place: Path) -> Scripts:
        place.mkdir()
        made = cls(place)
        # Root has control groups; others know what is theirs by its environment.
        shell = "env -i sh" if os.geteuid() == 0 else "sh"
        made._write(
            "start",
            'echo "start $MIRRORHA_NODE" >> trace',
            '[ ! -e broken ] || { echo "no licence"; exit 1; }',
            # What is killed and not reaped has no program any more.
            "for it in $(cat lyon paris); do [ ! -e /proc/$it/exe ] || echo two run >> trace; done",
            # A daemon: a session of its own, deaf to TERM.
            f"setsid {shell} -c 'trap : TERM; while :; do sleep 0.2; done' &",
            "echo $! > $MIRRORHA_NODE",
        )
        made._write("stop", "[ ! -e hangs ] || exec sleep 60", "exit 0")
        return made

    def _write(self, name: str, *lines: str) -> None:
        script = self.place / name
        script.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        script.chmod(0o755)

    def config(self) -> ServiceConfig:
        return ServiceConfig(
            start=[str(self.place / "start")],
            stop=[str(self.place / "stop")],
            working_directory=str(self.place),
            start_timeout_s=5,
            stop_timeout_s=0.5,
            restart_limit=LIMIT,
        )

    def behaves(self, how: str) -> None:
        (self.place / how).touch()

    @property
    def trace(self) -> list[str]:
        return (self.place / "trace").read_text().splitlines()

    def is_running(self, name: str) -> bool:
        with suppress(FileNotFoundError, ValueError):
            stat = Path(f"/proc/{int((self.place / name).read_text())}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] != "Z"
        return False

    def end(self) -> None:
        for name in NAMES:
            with suppress(OSError, ValueError):
                os.kill(int((self.place / name).read_text()), signal.SIGKILL)


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    made = Scripts.make(tmp_path / "service")
    yield made
    made.end()


async def start_mirrored(pair: tuple[TestNode, TestNode]) -> tuple[TestNode, TestNode]:
    for node in pair:
        await node.start()
    for node in pair:
        await node.cluster.wait_role(Role.PRIM, Role.SECOND)
        await wait_until(lambda node=node: node.cluster.status()["peer"]["colour"] == "green")
    first, second = sorted(pair, key=lambda node: node.cluster.role is not Role.PRIM)
    await wait_until(lambda: first.cluster.status()["service"]["state"] == "started")
    return first, second


async def test_a_daemon_and_a_stop_that_hangs_do_not_hold_up_a_swap(
    tmp_path: Path, scripts: Scripts
) -> None:
    async with open_pair(tmp_path, service=scripts.config()) as pair:
        first, second = await start_mirrored(pair)
        assert scripts.is_running(first.name)
        scripts.behaves("hangs")
        await first.cluster.swap()
        assert not scripts.is_running(first.name), "it was killed before the other was started"
        await wait_until(lambda: scripts.is_running(second.name))
        await wait_until(lambda: second.cluster.status()["service"]["state"] == "started")
    assert scripts.trace == [f"start {first.name}", f"start {second.name}"]
    assert not scripts.is_running(second.name), "a node that ends stops its service"


async def test_a_start_that_fails_on_both_ends_in_stop_on_both(
    tmp_path: Path, scripts: Scripts
) -> None:
    async with open_pair(tmp_path, service=scripts.config()) as pair:
        first, second = await start_mirrored(pair)
        scripts.behaves("broken")
        with pytest.raises(CommandRefusedError, match="did not start again"):
            await first.cluster.restart()
        for node in (first, second):
            await node.cluster.wait_role(Role.STOP)
        for node in (first, second):
            status = node.cluster.status()
            assert (status["role"], status["colour"]) == ("STOP", "red")
            assert "the restart limit is used up" in status["why"]
            assert "no licence" in status["service"]["text"], "its last words"
            assert (status["service"]["restarts"], status["service"]["restart_limit"]) == (1, 1)
        # The first of all was well. Then: as often as it may, here and there, and once more here.
        assert scripts.trace[1:] == [
            *[f"start {first.name}"] * (1 + LIMIT),
            *[f"start {second.name}"] * (1 + LIMIT),
            f"start {first.name}",
        ]
        # An operator who has seen to it begins anew.
        (scripts.place / "broken").unlink()
        for node in (first, second):
            await node.cluster.start()
        await first.cluster.wait_role(Role.PRIM)
        await wait_until(lambda: scripts.is_running(first.name))
        assert first.cluster.status()["service"]["restarts"] == 0


def prims(pair: tuple[TestNode, TestNode]) -> list[str]:
    return [node.name for node in pair if node.cluster.role is Role.PRIM]


async def test_two_clusters_on_two_servers_serve_on_the_one_that_is_left(
    tmp_path: Path,
) -> None:
    """Crossed: each has its PRIM on another server. They share nothing but the servers."""
    create_keys(tmp_path / "keys", cluster="billing", nodes=list(NAMES))
    services = {each: Scripts.make(tmp_path / f"service-{each}") for each in ("orders", "billing")}
    async with AsyncExitStack() as stack:
        for each in services.values():
            stack.callback(each.end)
        pairs = {}
        for name, keys in (("orders", {}), ("billing", {"keys": str(tmp_path / "keys")})):
            pairs[name] = await stack.enter_async_context(
                open_pair(tmp_path / name, name=name, service=services[name].config(), **keys)
            )
        for pair in pairs.values():
            await start_mirrored(pair)
        if prims(pairs["orders"]) == prims(pairs["billing"]):
            (name,) = prims(pairs["billing"])
            await pairs["billing"][NAMES.index(name)].cluster.swap()
            await wait_until(lambda: prims(pairs["orders"]) != prims(pairs["billing"]) != [])
        for lyon, _ in pairs.values():
            await lyon.end()
        for name, (_, paris) in pairs.items():
            await paris.cluster.wait_role(Role.ALONE)
            await wait_until(lambda name=name: services[name].is_running("paris"))
            assert not services[name].is_running("lyon")
