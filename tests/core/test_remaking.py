"""Who makes a lost register again: nobody whose volumes are not open yet (design, 5.0)."""

from __future__ import annotations

import attrs

from mirrorha.core import events as v
from mirrorha.core.meta import begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.register import Register
from tests.core.test_first_start import UNMOUNTED, Bench

RECORD = Register(
    cluster_id="c", epoch=4, primary="paris", nonces=(("lyon", "n-lyon"), ("paris", "n-paris"))
)


class MemberBench(Bench):
    """The two were a pair by `RECORD`, which the arbiter has lost."""

    def make(self, name: str) -> Node:
        made = super().make(name)
        meta = attrs.evolve(made.state.meta, cluster_id="c", held=RECORD, seen_epoch=4, dirty=False)
        meta, boot = begin_incarnation(meta, boot_id="b", at_least=2)
        return Node(made.state.settings, meta, boot, rng=made.state.rng, now_ms=0)


def test_a_node_makes_it_again_only_once_its_volumes_are_open() -> None:
    """It was ordered to freeze what was not there, took that for a failure, and stood still."""
    bench = MemberBench()
    bench.give("lyon", v.VolumesInspected(has_files=True, ours=True))
    for _ in range(20):  # so long that the register is looked at whatever else there is to do
        bench.pass_time()
        assert bench.begun_by() == []
    bench.give("paris", v.VolumesInspected(has_files=True, ours=True))
    bench.pass_time()
    assert bench.begun_by() == ["paris"]


def test_who_cannot_use_its_volumes_leaves_it_to_the_other() -> None:
    bench = MemberBench()
    bench.give("paris", UNMOUNTED)
    bench.give("lyon", v.VolumesInspected(has_files=True, ours=True))
    bench.pass_time()
    assert bench.begun_by() == ["lyon"]
