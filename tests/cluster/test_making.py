"""The service that a configuration names, made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from mirrorha.cluster.making import make_phases
from mirrorha.cluster.settings import Wish, volume_names
from mirrorha.config import ServiceConfig, VolumeConfig
from mirrorha.core.change import RoleChange
from mirrorha.core.words import Role
from mirrorha.errors import LocalUsageError
from mirrorha.service import Phases, Service, SystemdUnit
from tests.cluster.rig import NAMES, Site

WHY = RoleChange(
    cluster="orders", node="lyon", epoch=1, from_role=Role.WAIT, to_role=Role.ALONE, why="first"
)


def make(tmp_path: Path, **service: Any) -> Phases:
    config = Site(tmp_path).config(NAMES[0], service=ServiceConfig(**service))
    return make_phases(config, start=None, stop=None, serve=None)


async def test_commands_get_what_their_table_says(tmp_path: Path) -> None:
    script = 'cat /proc/self/cgroup > group; pwd > place; echo "$LICENCE" > licence'
    phases = make(
        tmp_path,
        start=["/bin/sh", "-c", script],
        stop=["/bin/true"],
        working_directory=str(tmp_path),
        environment=["LICENCE=a=b"],
    )
    service = Service(phases, on_failure=lambda _: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        await service.start(WHY)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "place").read_text() == f"{tmp_path}\n"
    assert (tmp_path / "licence").read_text() == "a=b\n"
    if phases.group is not None:
        assert "/mirrorha-orders-lyon-" in (tmp_path / "group").read_text()


def test_two_nodes_of_the_same_names_do_not_share_a_control_group(tmp_path: Path) -> None:
    """Two state directories are two nodes: one must never end the service of the other."""
    one, other = (
        make(tmp_path / each, start=["/bin/true"], stop=["/bin/true"]) for each in ("a", "b")
    )
    groups = [each.group for each in (one, other)]
    if groups[0] is not None:
        assert groups[0].path != groups[1].path


def test_a_unit_is_the_service_and_needs_its_directory_mounted(tmp_path: Path) -> None:
    assert isinstance(make(tmp_path, systemd="postgresql"), SystemdUnit)
    config = Site(tmp_path).config(
        NAMES[0],
        service=ServiceConfig(systemd="postgresql"),
        volumes=[VolumeConfig(path="/srv/lyon", peer_path="/srv/paris")],
    )
    assert volume_names(config)[0].mount is Wish.ALWAYS


def test_a_unit_beside_callbacks_is_one_way_too_many(tmp_path: Path) -> None:
    config = Site(tmp_path).config(NAMES[0], service=ServiceConfig(systemd="postgresql"))
    with pytest.raises(LocalUsageError, match=r"on_start or on_stop and \[service\] systemd"):
        make_phases(config, start=print, stop=None, serve=None)
