"""Clients are sent to the node that serves, by switches that decide nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mirrorha import SwitchRule
from mirrorha.cluster import making
from mirrorha.cluster.traffic import should_hold
from mirrorha.config import ServiceConfig, SwitchConfig
from mirrorha.core.state import ServiceState
from mirrorha.core.words import Role
from mirrorha.errors import ConfigError
from mirrorha.testing.fake_switch import MemorySwitch, SwitchStore
from tests.cluster.rig import Site, TestNode, open_pair, start_pair, wait_until


@attrs.define
class _Settings:
    timeout_ms: int = 3_000
    takeover_delay_ms: int = 500


@attrs.define
class _State:
    """Of a node's state, what its traffic depends on."""

    role: Role = Role.PRIM
    service: ServiceState = ServiceState.ON
    frozen: bool = False
    frozen_since_ms: int = 0
    hold_service: bool = False
    settings: _Settings = attrs.field(factory=_Settings)


def holds(when: str, now_ms: int = 0, **facts: Any) -> bool:
    return should_hold(_State(**facts), when, now_ms=now_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("service", ServiceState)
def test_only_a_serving_node_has_clients(role: Role, service: ServiceState) -> None:
    before = role.serves and service is not ServiceState.OFF
    after = role.serves and service is ServiceState.ON
    assert holds("before_start", role=role, service=service) is before
    assert holds("after_start", role=role, service=service) is after


def test_a_service_that_is_about_to_stop_keeps_only_what_it_may_need() -> None:
    assert holds("before_start", hold_service=True)
    assert not holds("after_start", hold_service=True)


def test_a_node_frozen_until_the_other_may_serve_gives_clients_up() -> None:
    for when in ("before_start", "after_start"):
        assert holds(when, frozen=True, frozen_since_ms=1_000, now_ms=4_500)
        assert not holds(when, frozen=True, frozen_since_ms=1_000, now_ms=4_501)


def add_switch(node: TestNode, when: Any = "before_start") -> SwitchStore:
    store = SwitchStore()
    rule = SwitchRule(MemorySwitch(store), when=when, every_s=0.2, timeout_s=1, name="the switch")
    node.cluster.switch(rule)
    return store


def switch_of(node: TestNode) -> dict[str, Any]:
    (found,) = node.cluster.status()["switches"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("when", ["before_start", "after_start"])
async def test_clients_follow_a_swap_and_a_death(tmp_path: Path, when: str) -> None:
    async with open_pair(tmp_path) as pair:
        stores = {node.name: add_switch(node, when) for node in pair}
        first, second = await start_pair(pair)
        await wait_until(lambda: stores[first.name].is_engaged)
        assert not stores[second.name].is_engaged
        assert switch_of(first)["state"] == "engaged"
        assert switch_of(second)["state"] == "disengaged"

        await first.cluster.swap()
        await wait_until(lambda: stores[second.name].is_engaged)
        assert not stores[first.name].is_engaged

        await second.end()
        assert not stores[second.name].is_engaged
        await wait_until(lambda: stores[first.name].is_engaged)


@pytest.mark.parametrize("when", ["before_start", "after_start"])
async def test_the_order_of_service_and_switch(tmp_path: Path, when: str) -> None:
    async with open_pair(tmp_path) as pair:
        stores = {node.name: add_switch(node, when) for node in pair}
        seen: list[tuple[str, bool]] = []
        for node in pair:
            store = stores[node.name]
            node.on_told = lambda word, store=store: seen.append((word, store.is_engaged))
        first, second = await start_pair(pair)
        await wait_until(lambda: stores[first.name].is_engaged)
        seen.clear()
        await first.cluster.swap()
        await wait_until(lambda: stores[second.name].is_engaged and second.is_serving)
        has_it = when == "before_start"
        assert [each for each in seen if each[0] == "start"] == [("start", has_it)]
        assert ("stop", has_it) in seen


async def test_a_switch_that_fails_changes_no_role(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        stores = {node.name: add_switch(node) for node in pair}
        for store in stores.values():
            store.trouble = "the cloud is out"
        first, _ = await _start_serving(pair)
        await wait_until(lambda: switch_of(first)["state"] == "failed")
        text = "serving, traffic not moved: the cloud is out"
        assert switch_of(first)["text"] == text
        assert first.cluster.role is Role.PRIM
        assert first.cluster.status()["colour"] == "orange"
        await wait_until(lambda: stores[first.name].calls.count("is_engaged") > 8)
        events = await first.cluster.history()
        alarms = [each for each in events if each.rule == "switch-failed" and text in each.text]
        assert len(alarms) == 1, "tried again and again, told once"
        stores[first.name].trouble = ""
        await wait_until(lambda: switch_of(first)["state"] == "engaged")


async def test_a_switch_that_hangs_delays_the_service_and_does_not_bar_it(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        stores = {node.name: add_switch(node) for node in pair}
        for store in stores.values():
            store.hangs = True
        first, _ = await _start_serving(pair)
        assert first.cluster.role is Role.PRIM
        await wait_until(lambda: switch_of(first)["state"] == "failed")


async def test_a_service_that_needs_an_address_waits_for_a_node_that_hangs(tmp_path: Path) -> None:
    """Else its attempts to start fail one after the other, and its restart limit is used up."""
    async with open_pair(tmp_path, service=ServiceConfig(restart_limit=2)) as pair:
        stores = {node.name: add_switch(node) for node in pair}
        for node in pair:
            node.on_told = partial(_bind, stores[node.name])
        first, second = await start_pair(pair)
        stores[second.name].trouble = "in use by a node that hangs"
        stores[second.name].passes_within_s = 60
        await first.end()
        await wait_until(lambda: switch_of(second)["state"] == "failed")
        await trio.sleep(3)  # longer than a start waits for a switch that is merely slow
        stores[second.name].trouble = ""
        await second.cluster.wait_role(Role.ALONE)
        await wait_until(lambda: second.is_serving)
        events = await second.cluster.history()
        assert not [each for each in events if each.rule == "service-failed"]


def _bind(store: SwitchStore, word: str) -> None:
    if word == "start" and not store.is_engaged:
        raise OSError("cannot assign requested address")


async def _start_serving(pair: tuple[TestNode, TestNode]) -> tuple[TestNode, TestNode]:
    for node in pair:
        await node.start()
        await node.cluster.wait_role(Role.PRIM, Role.SECOND, Role.ALONE, Role.WAIT)
    await wait_until(lambda: any(node.cluster.role is Role.PRIM for node in pair))
    first = next(node for node in pair if node.cluster.role is Role.PRIM)
    await wait_until(lambda: first.is_serving)
    return first, next(node for node in pair if node is not first)


def _virtual_ip(**changes: Any) -> SwitchConfig:
    options = {"address": "10.0.1.9/24", "interface": "eth0", **changes.pop("options", {})}
    return SwitchConfig(kind="virtual_ip", options=options, **changes)


async def test_a_file_can_name_one(tmp_path: Path) -> None:
    async with open_pair(tmp_path, switches=[_virtual_ip()]) as (one, _):
        (rule,) = making.make_switches(one.cluster.config)
        assert rule.title == "virtual_ip 10.0.1.9 on eth0"
        assert rule.when == "before_start"
        command = {"engage": ["/e"], "disengage": ["/d"], "status": ["/s"]}
        other = SwitchConfig(kind="command", when="after_start", options=command)
        (rule,) = making.make_switches(
            attrs.evolve(one.cluster.config, switches=[other])  # type: ignore[arg-type]
        )
        assert (rule.title, rule.when) == ("command /e", "after_start")


def test_an_address_must_outlast_a_late_renewal(tmp_path: Path) -> None:
    for change in ({"every_s": 8.0}, {"options": {"lapse_s": 5.0}}):
        with pytest.raises(ConfigError, match=r"switch\[0\].lapse: an address that lapses"):
            Site(tmp_path).config("lyon", switches=[_virtual_ip(**change)])
