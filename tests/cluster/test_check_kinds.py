"""Each kind of check in a pair: something real fails, and the service is restarted for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio

from mirrorha.checks import (
    Checker,
    Command,
    Custom,
    Disk,
    Http,
    Interface,
    Mount,
    Ping,
    Process,
    Tcp,
)
from mirrorha.config import ServiceConfig
from tests.checks.own_network import ip, own_network, veth
from tests.cluster.rig import TestNode, free_ports, open_pair, start_pair, wait_until
from tests.requirements import require_root
from tests.shows.small_disks import memory_disk, run

if TYPE_CHECKING:
    from mirrorha.abc import Check

SERVER: Final = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1")


@attrs.frozen
class Subject:
    """What is checked, and how it is made ill and well."""

    check: Check
    spoil: Callable[[], object]
    mend: Callable[[], object]


@contextmanager
def command(path: Path) -> Generator[Subject]:
    flag = path / "well"
    flag.touch()
    yield Subject(Command(["/usr/bin/test", "-e", str(flag)]), flag.unlink, flag.touch)


@contextmanager
def process(path: Path) -> Generator[Subject]:
    children: list[subprocess.Popen[bytes]] = []
    pid_file = path / "service.pid"

    def begin() -> None:
        children.append(subprocess.Popen(["/bin/sleep", "300"]))
        pid_file.write_text(f"{children[-1].pid}\n")

    def end() -> None:
        children[-1].kill()
        children[-1].wait()

    begin()
    try:
        yield Subject(Process(pid_file=str(pid_file)), end, begin)
    finally:
        end()


@contextmanager
def _server(path: Path, make: Callable[[int], Check]) -> Generator[Subject]:
    children: list[subprocess.Popen[bytes]] = []
    (port,) = free_ports(1)

    def begin() -> None:
        words = (*SERVER, str(port))
        children.append(subprocess.Popen(words, cwd=path, stderr=subprocess.DEVNULL))

    def end() -> None:
        children[-1].kill()
        children[-1].wait()

    begin()
    try:
        yield Subject(make(port), end, begin)
    finally:
        end()


@contextmanager
def http(path: Path) -> Generator[Subject]:
    page = path / "health"
    page.write_text("all is well")
    with _server(path, lambda port: Http(f"http://127.0.0.1:{port}/health")) as subject:
        yield Subject(subject.check, page.unlink, lambda: page.write_text("all is well"))


@contextmanager
def tcp(path: Path) -> Generator[Subject]:
    with _server(path, Tcp) as subject:
        yield subject


@contextmanager
def disk(path: Path) -> Generator[Subject]:
    with memory_disk(path / "disk", size_mib=1) as small:
        yield Subject(
            Disk(str(small.path)),
            lambda: run("mount", "-o", "remount,ro", str(small.path)),
            lambda: run("mount", "-o", "remount,rw", str(small.path)),
        )


@contextmanager
def mount(path: Path) -> Generator[Subject]:
    require_root()
    place = path / "disk"
    place.mkdir()

    def spoil() -> None:
        run("umount", str(place))

    def mend() -> None:
        run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place))

    mend()
    try:
        yield Subject(Mount(str(place)), spoil, mend)
    finally:
        if os.path.ismount(place):
            spoil()


@contextmanager
def interface(path: Path) -> Generator[Subject]:
    with own_network():
        veth()
        yield Subject(
            Interface("here"),
            lambda: ip("link", "set", "there", "down"),
            lambda: ip("link", "set", "there", "up"),
        )


@contextmanager
def ping(path: Path) -> Generator[Subject]:
    with own_network():
        address = ("192.0.2.1/32", "dev", "lo")
        ip("addr", "add", *address)
        yield Subject(
            Ping("192.0.2.1"),
            lambda: ip("addr", "del", *address),
            lambda: ip("addr", "add", *address),
        )


KINDS: Final = [command, process, http, tcp, disk, mount, interface, ping]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_the_service_is_restarted_for_what_fails_and_serves_on(
    kind: Callable[[Path], AbstractContextManager[Subject]], tmp_path: Path
) -> None:
    service = ServiceConfig(start_timeout_s=5, stop_timeout_s=5, restart_limit=100)
    nodes, things = tmp_path / "nodes", tmp_path / "things"
    for each in (nodes, things):
        os.mkdir(each)
    with kind(things) as subject:
        async with open_pair(nodes, service=service) as pair:
            for node in pair:
                checker = Checker(subject.check, every_s=0.3, timeout_s=1, fall=2)
                node.cluster.check(checker)
            first, _ = await start_pair(pair)

            def state() -> str:
                return str(first.cluster.status()["checks"][0]["state"])

            await wait_until(lambda: state() == "well")
            assert [what for what, _ in first.told] == ["start"]
            subject.spoil()
            await wait_until(lambda: len(first.told) >= 3)
            assert [what for what, _ in first.told][:3] == ["start", "stop", "start"]
            subject.mend()
            await wait_until(lambda: first.is_serving and state() == "well")
            count = len(first.told)
            await trio.sleep(1)
            assert len(first.told) == count, "and that was that"


@pytest.mark.parametrize("stays_ill", [True, False])
async def test_what_fails_in_a_maintenance_is_acted_on_if_it_still_fails_after_it(
    tmp_path: Path, stays_ill: bool
) -> None:
    """An administrator who had the service down and up again has nobody restart it."""
    ill = False

    def look() -> bool:
        return not ill

    async with open_pair(tmp_path) as pair:
        for node in pair:
            checker = Checker(
                Custom(look), every_s=0.1, timeout_s=20, fall=1, when="always", name="own"
            )
            node.cluster.check(checker)
        first, _ = await start_pair(pair)
        told = len(first.told)
        await first.cluster.pause()
        ill = True
        await wait_until(lambda: _check(first) == "failed")
        ill = stays_ill
        if not stays_ill:
            await wait_until(lambda: _check(first) == "well")
        await first.cluster.resume()
        if stays_ill:
            await wait_until(lambda: len(first.told) > told)
            assert first.told[told][0] == "stop"
        else:
            await trio.sleep(1)
            assert len(first.told) == told


def _check(node: TestNode) -> str:
    (found,) = node.cluster.status()["checks"]
    return str(found["state"])
