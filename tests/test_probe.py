"""The health probe sends clients to the node that serves, and nowhere else."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from mirrorha.core.words import Data, Role
from mirrorha.errors import ConfigError, LocalUsageError
from mirrorha.net.http_client import HttpResponse, fetch
from mirrorha.probe import HealthProbe, ProbeServer, ProbeState
from tests.requirements import require_program

SERVING = ProbeState(role=Role.PRIM, data=Data.UP_TO_DATE, serving_well=True, reason="all is well")


@attrs.define
class Node:
    """What the probe under test is told, and how to ask it."""

    state: ProbeState = SERVING
    port: int = 0
    is_broken: bool = False

    def tell(self) -> ProbeState:
        if self.is_broken:
            raise ZeroDivisionError
        return self.state

    async def ask(self, path: str, method: str = "GET") -> HttpResponse:
        return await fetch(method, f"http://127.0.0.1:{self.port}{path}", deadline_s=3)


@asynccontextmanager
async def probing(alias: str | None = None) -> AsyncGenerator[Node, None]:
    node = Node()
    config = HealthProbe(port=0, host="127.0.0.1", alias=alias)
    async with trio.open_nursery() as nursery:
        node.port = await nursery.start(ProbeServer(config, node.tell).run)
        yield node
        nursery.cancel_scope.cancel()


ALL_STATES = [
    ProbeState(role=role, data=data, serving_well=well, reason="the reason")
    for role, data, well in itertools.product(Role, Data, (False, True))
]


async def test_every_state_has_its_answers() -> None:
    serves = {Role.PRIM, Role.ALONE}
    counted = 0
    async with probing(alias="/var/ready.txt") as node:
        for node.state in ALL_STATES:
            role, data, well = node.state.role, node.state.data, node.state.serving_well
            is_primary = role in serves and well
            is_secondary = role is Role.SECOND and data is Data.UP_TO_DATE
            for path in ("/", "/readyz", "/primary", "/var/ready.txt"):
                answer = await node.ask(path)
                assert answer.status == (200 if is_primary else 503)
                assert answer.text == f"{role.value}\n" + ("" if is_primary else "the reason\n")
            assert (await node.ask("/secondary")).status == (200 if is_secondary else 503)
            assert (await node.ask("/livez")).status == 200
            counted += is_primary
    assert counted == len(serves) * len(Data)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_three_methods_have_the_same_status(method: str) -> None:
    async with probing() as node:
        answer = await node.ask("/primary?x=1", method)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.body == (b"PRIM\n" if method == "GET" else b"")
        node.state = attrs.evolve(SERVING, role=Role.WAIT)
        assert (await node.ask("/primary", method)).status == 503


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_no_other_method_is_answered(method: str) -> None:
    async with probing() as node:
        for path in ("/primary", "/livez", "/nowhere"):
            answer = await node.ask(path, method)
            assert answer.status == 405
            assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_an_unknown_path_is_never_healthy() -> None:
    async with probing() as node:
        for path in ("/ready", "/primary/", "//primary", "/var/ready.txt"):
            assert (await node.ask(path)).status == 404


async def test_a_state_that_cannot_be_told_is_not_healthy_but_alive() -> None:
    async with probing() as node:
        node.is_broken = True
        assert (await node.ask("/primary")).status == 500
        assert (await node.ask("/livez")).status == 200
        node.is_broken = False
        assert (await node.ask("/primary")).status == 200


async def test_http_1_0_options_star_is_answered() -> None:
    async with probing() as node, await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
        await stream.send_all(b"OPTIONS * HTTP/1.0\r\n\r\n")
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200 ")


async def test_the_reason_is_one_line() -> None:
    async with probing() as node:
        node.state = attrs.evolve(SERVING, role=Role.WAIT, reason="a\r\n\r\nb")
        assert (await node.ask("/")).text == "WAIT\na b\n"


async def test_a_taken_port_is_said_at_start() -> None:
    async with probing() as node:
        probe = ProbeServer(HealthProbe(port=node.port, host="127.0.0.1"), node.tell)
        with pytest.RaisesGroup(LocalUsageError):
            async with trio.open_nursery() as nursery:
                await nursery.start(probe.run)


def test_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        HealthProbe(port=70_000, alias="ready")
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="meaning of its own"):
        HealthProbe(alias="/livez")


def test_it_listens_for_balancers_outside() -> None:
    assert HealthProbe() == HealthProbe(port=9010, host="0.0.0.0", alias=None)


HAPROXY = """
global
    stats socket {socket} level admin
defaults
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    mode tcp
backend nodes
    option httpchk OPTIONS /primary
    server one 127.0.0.1:{port} check inter 100ms fall 1 rise 1
"""


async def test_haproxy_follows(tmp_path: Path) -> None:
    haproxy = require_program("haproxy")
    control = str(tmp_path / "control")
    async with probing() as node:
        config = tmp_path / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=node.port, socket=control))
        process = await trio.lowlevel.open_process(
            [haproxy, "-q", "-db", "-f", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await _wait_for_haproxy(control, "L7OK")
            node.state = attrs.evolve(SERVING, role=Role.SECOND)
            await _wait_for_haproxy(control, "L7STS")
            node.state = SERVING
            await _wait_for_haproxy(control, "L7OK")
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _wait_for_haproxy(control: str, status: str) -> None:
    with trio.fail_after(10):
        while status not in await _show_stat(control):  # noqa: ASYNC110 - another program
            await trio.sleep(0.05)


async def _show_stat(control: str) -> str:
    try:
        async with await trio.open_unix_socket(control) as stream:
            await stream.send_all(b"show stat\n")
            return (await stream.receive_some(65536)).decode()
    except OSError:  # it is still starting
        return ""
