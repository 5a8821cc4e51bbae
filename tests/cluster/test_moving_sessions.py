"""Which addresses the sessions run over, where heartbeats and connections do not agree on it."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest
import trio

from mirrorha.cluster.links import Links, Path
from mirrorha.core import events as v
from mirrorha.net.session_dial import AddressPair
from mirrorha.wire.hello import MAGIC, VERSION_MAX, VERSION_MIN, Hello
from tests.cluster.rig import free_ports

FIRST: Final = ("127.0.0.1", "127.0.0.1")
SECOND: Final = ("127.0.0.1", "127.0.0.2")


class Ear:
    """In the place of the loop: how many sessions came, and how many ended."""

    def __init__(self) -> None:
        self.opened = self.closed = 0

    def give(self, event: object) -> None:
        self.opened += isinstance(event, v.LinkOpened)
        self.closed += isinstance(event, v.LinkClosed)

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()


class Node:
    """One side: its links, and what it believes of the two paths."""

    def __init__(self, name: str, peer: str, addresses: list[AddressPair]) -> None:
        self.passable: dict[Path, bool] = {FIRST: True, SECOND: True}
        self.ear = Ear()
        loop: Any = self.ear
        self.links = Links(
            loop,
            dials=name < peer,
            addresses=addresses,
            tls=None,
            hello=lambda kind, volume: hello(name, peer, kind, volume),
            stream_end=lambda volume: None,
            volumes=[],
            peer=peer,
            is_passable=lambda path: self.passable.get(path, True),
            note=lambda rule, text: None,
            rng=random.Random(1),
        )


def hello(node: str, peer: str, kind: str, volume: str) -> Hello:
    return Hello(
        magic=MAGIC,
        version_min=VERSION_MIN,
        version_max=VERSION_MAX,
        cluster="orders",
        cluster_id=None,
        node=node,
        peer=peer,
        kind=kind,
        volume=volume,
        incarnation="1",
        boot_id="b",
    )


async def look(node: Node, *, seconds: float) -> None:
    """What the runtime does after each step of the core."""
    for _ in range(round(seconds / 0.02)):
        node.links.leave_lost_paths()
        await trio.sleep(0.02)


@pytest.mark.parametrize("second_takes_connections", [True, False])
async def test_a_session_leaves_a_path_once_and_stays_where_connections_work(
    second_takes_connections: bool,
) -> None:
    port, unused = free_ports(2)
    addresses = [AddressPair(*FIRST, port), AddressPair(*SECOND, port)]
    dialler = Node("lyon", "paris", addresses)
    listener = Node("paris", "lyon", [AddressPair("127.0.0.1", "127.0.0.1", port)])
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            hosts = ["127.0.0.1", "127.0.0.2"] if second_takes_connections else ["127.0.0.1"]
            ears = [(await trio.open_tcp_listeners(port, host=host))[0] for host in hosts]
            nursery.start_soon(listener.links.run, ears)
            own = await trio.open_tcp_listeners(unused, host="127.0.0.1")
            nursery.start_soon(dialler.links.run, own)
            await look(dialler, seconds=0.5)
            assert dialler.links.is_open
            dialler.passable[FIRST] = False
            await look(dialler, seconds=1.5)
            control: Any = dialler.links._control
            assert control.session.path == (SECOND if second_takes_connections else FIRST)
            assert dialler.ear.opened == 2, "it moved once; where nothing else works it stays"
            nursery.cancel_scope.cancel()
