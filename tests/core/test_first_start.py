"""Who begins a cluster: nobody, while it is not known what both nodes hold (design, 5.0)."""

from __future__ import annotations

import random

import pytest

from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core.messages import PeerState
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.settings import Settings

EMPTY = v.VolumesInspected(has_files=False, ours=True)
FULL = v.VolumesInspected(has_files=True, ours=False)
UNMOUNTED = v.VolumesInspected(has_files=False, ours=False, problem="its disk is not mounted")


class Bench:
    """Two nodes that are new, and a register that is absent; what they send arrives at once."""

    def __init__(self) -> None:
        self.nodes = {name: self.make(name) for name in ("lyon", "paris")}
        self.now_ms = 0
        for name in self.nodes:
            self.give(name, v.Command("", v.Verb.START))
            self.give(name, v.LinkOpened(link=1, incarnation=1))

    def make(self, name: str) -> Node:
        meta, boot = begin_incarnation(Meta(node=name), boot_id="b", at_least=1)
        settings = Settings(
            node=name,
            peer="paris" if name == "lyon" else "lyon",
            first="lyon",
            volumes=("a",),
            paths=("p",),
            pulse_ms=250,
            timeout_ms=3_000,
        )
        return Node(settings, meta, boot, rng=random.Random(name), now_ms=0)

    def give(self, name: str, event: v.AnyEvent) -> None:
        other = "paris" if name == "lyon" else "lyon"
        for effect in self.nodes[name].step(event, self.now_ms).after:
            if isinstance(effect, e.SendPeer) and isinstance(effect.message, PeerState):
                self.give(other, v.Heard(message=effect.message))
            if isinstance(effect, e.ReadRegister):
                self.give(name, v.RegisterRead(token=effect.token, found=v.Gone.ABSENT))

    def pass_time(self) -> None:
        for _ in range(20):
            self.now_ms += 250
            for name in self.nodes:
                self.give(name, v.Tick())

    def begun_by(self) -> list[str]:
        """Who has decided to go on with its directories."""
        return [name for name, node in self.nodes.items() if node.state.decision is not None]

    def why(self, name: str) -> str:
        return self.nodes[name].state.why


def test_an_empty_node_waits_until_the_other_has_looked() -> None:
    """Looking at a large volume takes a while, and its node is connected before that."""
    bench = Bench()
    bench.give("lyon", EMPTY)
    bench.pass_time()
    assert bench.begun_by() == []
    assert "waiting until paris has looked" in bench.why("lyon")
    bench.give("paris", FULL)
    bench.pass_time()
    assert bench.begun_by() == ["paris"]


@pytest.mark.parametrize("held", [EMPTY, FULL])
def test_nobody_begins_while_what_the_other_holds_cannot_be_known(
    held: v.VolumesInspected,
) -> None:
    bench = Bench()
    bench.give("lyon", held)
    bench.give("paris", UNMOUNTED)
    bench.pass_time()
    assert bench.begun_by() == []
    assert "its disk is not mounted" in bench.why("lyon")
    assert "'mirrorha init --from lyon'" in bench.why("lyon")


def test_two_empty_nodes_begin_with_the_first() -> None:
    bench = Bench()
    for name in bench.nodes:
        bench.give(name, EMPTY)
    bench.pass_time()
    assert bench.begun_by() == ["lyon"]
