"""Two real nodes that are killed and lose their power, in short.

What befalls them is written out here; `benchmarks/campaign_crashes.py` draws it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.rig import free_ports
from tests.crashes.machines import eatmydata
from tests.crashes.rounds import TIMEOUT_S, WAIT_PEER_S, Plan, Round, draw, play
from tests.mounted.real_pair import NODES, Setup
from tests.requirements import lacking, require_device, require_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SDK_NODE = str(Path(__file__).with_name("sdk_node.py"))
SETUP = Setup(timeout_s=TIMEOUT_S, wait_peer_s=WAIT_PEER_S, witness=True)
PRIMARY, SECOND = "primary", "second"


def plan(
    *first: tuple[str, bool],
    then: tuple[tuple[str, bool], ...] = (),
    then_s: float = 1.0,
    back: tuple[str, str] = (PRIMARY, SECOND),
    holds: bool = False,
) -> Plan:
    return Plan(
        first=first,
        load_s=0.5,
        then=then,
        then_s=then_s,
        comes_back=False,
        order=back,
        pause_s=0.0,
        holds=holds,
    )


def played(root: Path, *plans: Plan) -> list[Round]:
    require_root()
    require_device("/dev/fuse")
    rounds = list(play(root, SETUP, plans=enumerate(plans)))
    for one in rounds:
        assert one.faults == [], one.plan
        assert one.answered > 0
    return rounds


def test_nothing_acknowledged_is_lost_by_crashes_of_one_node(tmp_path: Path) -> None:
    played(
        tmp_path,
        plan((PRIMARY, True)),
        plan((PRIMARY, False)),
        plan((SECOND, True), then=((PRIMARY, False),), then_s=0.5),
    )


def test_after_both_have_lost_power_whoever_is_back_serves_or_says_why_not(tmp_path: Path) -> None:
    """The register decides; both together need nobody."""
    at_once, alone, outdated, in_turn = played(
        tmp_path,
        plan((PRIMARY, True), (SECOND, True), holds=True),
        plan((SECOND, True), then=((PRIMARY, True),), holds=True),
        plan((SECOND, True), then=((PRIMARY, True),), back=(SECOND, PRIMARY), holds=True),
        plan((PRIMARY, True), (SECOND, True), back=(SECOND, PRIMARY)),
    )
    assert "WAIT" in at_once.held
    assert 'after_power_loss = "serve"' in at_once.held
    assert "ALONE: the register names this node alone" in alone.held
    assert "this copy is outdated" in outdated.held
    assert in_turn.held == ""


def test_a_node_that_was_only_killed_goes_on_without_one_that_lost_power(tmp_path: Path) -> None:
    """Who still has its page cache goes on, whoever served; who has not waits for the other."""
    _, held = played(
        tmp_path,
        plan((PRIMARY, True), (SECOND, False), back=(SECOND, PRIMARY)),
        plan((PRIMARY, False), (SECOND, True), back=(SECOND, PRIMARY), holds=True),
    )
    assert "WAIT" in held.held
    assert "acknowledged writes may be missing here" in held.held


def test_an_application_that_writes_by_the_file_api_loses_nothing(tmp_path: Path) -> None:
    require_root()
    ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
    program = (SDK_NODE, ",".join(f"{name}={port}" for name, port in ports.items()))
    setup = Setup(timeout_s=TIMEOUT_S, wait_peer_s=WAIT_PEER_S, witness=True, program=program)
    places = {name: str(port) for name, port in ports.items()}
    plans = [plan((PRIMARY, True)), plan((PRIMARY, True), (SECOND, True))]
    for one in play(tmp_path, setup, plans=enumerate(plans), places=places):
        assert one.faults == [], one.plan
        assert one.answered > 0


def test_nodes_that_are_lied_to_by_fsync_are_seen_to_lose_writes(tmp_path: Path) -> None:
    require_root()
    require_device("/dev/fuse")
    library = eatmydata() or lacking("libeatmydata.so", "install the Debian package eatmydata")
    setup = Setup(timeout_s=TIMEOUT_S, wait_peer_s=WAIT_PEER_S, witness=True, preload=library)
    (one,) = play(tmp_path, setup, plans=[(0, plan((PRIMARY, True), (SECOND, True)))])
    assert any("synced" in fault for fault in one.faults)


def test_half_of_a_campaign_are_losses_of_power_and_a_seed_is_replayed() -> None:
    plans = [draw(7, number) for number in range(300)]
    assert plans == [draw(7, number) for number in range(300)]
    assert sum(one.first[0][1] for one in plans) == 150
    assert 60 < sum(len(one.first) == 2 for one in plans) < 200, "both at one moment"
    assert any(one.comes_back for one in plans)
    assert {one.order[0] for one in plans} == {PRIMARY, SECOND}
