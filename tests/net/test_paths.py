"""Pairs of addresses, the same on both nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.errors import LocalUsageError
from mirrorha.net.paths import Endpoint, heartbeat_paths, socket_address

PARIS = Endpoint(addresses=("10.0.1.10", "192.168.9.1"), port=9500)
LYON = Endpoint(addresses=("10.0.2.10", "192.168.9.2"), port=9600)


def test_people_see_where_a_path_goes() -> None:
    paths = heartbeat_paths(PARIS, LYON, listed_first=True)
    assert paths[0].name == "10.0.1.10 → 10.0.2.10"
    assert (paths[0].local_port, paths[0].peer_port) == (9500, 9600)


addresses = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"]),
    min_size=1,
    max_size=4,
    unique=True,
)


@given(addresses, addresses)
def test_both_nodes_number_the_same_paths_alike(mine: list[str], theirs: list[str]) -> None:
    one = Endpoint(addresses=tuple(mine), port=1)
    other = Endpoint(addresses=tuple(theirs), port=2)
    try:
        ours = heartbeat_paths(one, other, listed_first=True)
    except LocalUsageError:
        assert not any((":" in a) == (":" in b) for a in mine for b in theirs)
        return
    peers = heartbeat_paths(other, one, listed_first=False)
    assert {(p.index, p.local, p.peer, p.local_port, p.peer_port) for p in ours} == {
        (p.index, p.peer, p.local, p.peer_port, p.local_port) for p in peers
    }
    assert len({p.index for p in ours}) == len(ours)
    assert all((":" in p.local) == (":" in p.peer) for p in ours)


def test_names_are_refused_for_asking_them_can_block() -> None:
    named = Endpoint(addresses=("lyon.example",), port=9500)
    with pytest.raises(LocalUsageError, match=r"'lyon\.example' is not an IPv4 or IPv6"):
        heartbeat_paths(PARIS, named, listed_first=True)


def test_nodes_without_a_common_family_are_refused() -> None:
    with pytest.raises(LocalUsageError, match="both an IPv6 address"):
        heartbeat_paths(PARIS, Endpoint(addresses=("fd00::1",), port=9500), listed_first=True)


def test_too_many_pairs_are_refused() -> None:
    many = Endpoint(addresses=tuple(f"10.0.0.{n}" for n in range(9)), port=1)
    with pytest.raises(LocalUsageError, match="more than 64"):
        heartbeat_paths(many, many, listed_first=True)


def test_a_link_local_address_may_name_an_interface_that_is_not_there_yet() -> None:
    here = Endpoint(addresses=("fe80::1%absent0",), port=1)
    (path,) = heartbeat_paths(here, here, listed_first=True)
    with pytest.raises(OSError):
        socket_address(path.local, path.local_port)
