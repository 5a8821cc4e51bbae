"""The measurements of this directory in their short form. The full one is in `benchmarks/`.

No bound on a time or a share here is as tight as what is asked: this machine may be busy.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shows.deaf_peer import measure_deaf_peer
from tests.shows.failing_check import measure_failing_check
from tests.shows.idle import ONE_PATH, measure_idle
from tests.shows.probing import Poll, judge, measure_probes
from tests.shows.resync import BLOCK_BYTES, measure_resync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Certificates and hellos, which a small resync does not outweigh.
HANDSHAKE_BYTES_MAX = 64 * 1024


async def test_an_idle_node_is_idle(tmp_path: Path) -> None:
    """See `benchmarks/bench_idle.py`."""
    found = await measure_idle(tmp_path, seconds=3)
    for role, figures in found.items():
        assert figures["paths"] == 4, role
        assert figures["cpu_percent"] < 10, (role, figures)
        assert figures["rss_mb"] < 60, (role, figures)
        assert figures["grown_mb"] < 1, (role, figures)


async def test_an_idle_node_seldom_wakes_up(tmp_path: Path) -> None:
    """With one path: a busy machine hands over the beats of several one by one, each a wake-up.

    Of one path's too, now and then: so the quietest of some spans counts.
    """
    found = await measure_idle(tmp_path, seconds=9, spans=3, addresses=ONE_PATH)
    for role, figures in found.items():
        assert figures["paths"] == 1, role
        assert figures["wakes_per_s"] < 21, (role, figures)  # 24 while it ticked ten times a second


async def test_a_resync_sends_what_has_changed_and_keeps_nobody(tmp_path: Path) -> None:
    """See `benchmarks/bench_resync.py`."""
    quiet, busy = await measure_resync(tmp_path, files=4, file_mib=4, share=0.02)
    assert quiet.sent_bytes == quiet.changed_blocks * BLOCK_BYTES, quiet
    assert quiet.sent_bytes < quiet.wire_bytes <= quiet.allowed_bytes + HANDSHAKE_BYTES_MAX, quiet
    assert busy.acks > 0
    assert busy.pauses_ms[0] < 3_000, busy


async def test_never_200_from_both_probes(tmp_path: Path) -> None:
    """See `benchmarks/campaign_probe.py`."""
    found = await measure_probes(tmp_path, swaps=2, kills=2)
    assert found.polls > 100
    assert min(found.ok.values()) > 0
    assert found.both == []
    assert found.moves == len(found.faults) == 4
    assert max(found.dark_s) < 10


def polled(node: str, began_s: float, ended_s: float, status: int = 200) -> Poll:
    return Poll(node, "/readyz", began_s, ended_s, status)


def test_answers_that_overlap_and_a_service_that_moves_by_itself_are_seen() -> None:
    apart = [polled("paris", 0, 1), polled("lyon", 3, 4), polled("paris", 0.5, 5, 503)]
    found = judge(apart, [("swap", 2.0)])
    assert (found.both, found.moves, found.dark_s) == ([], 1, [2])
    # The long request is answered while the other node's are asked.
    overlap = [polled("paris", 0, 9), polled("paris", 1, 2), polled("lyon", 3, 4)]
    assert judge(overlap, []).both == [(overlap[0], overlap[2])]
    back = [polled("paris", 0, 1), polled("lyon", 3, 4), polled("paris", 5, 6)]
    assert judge(back, [("swap", 2.0)]).moves == 2


async def test_a_failing_check_restarts_in_place_and_then_hands_over(tmp_path: Path) -> None:
    """See `benchmarks/bench_check.py`."""
    found = await measure_failing_check(tmp_path)
    assert found.has_moved
    assert found.restarts_shown == len(found.restarted_s) == 3
    assert max(*found.restarted_s, found.moved_s) < 10
    told = [(rule, text) for rule, text in found.history if "Connection refused" in text]
    assert [rule for rule, _ in told] == ["service-failed"] * 4 + ["swap"]
    assert told[-1][1].startswith("hand-over: check tcp 127.0.0.1:")


@pytest.mark.parametrize("blocks_loop", [True, False], ids=["loop blocked", "process stopped"])
async def test_a_follower_that_reads_nothing_costs_no_memory(
    tmp_path: Path, blocks_loop: bool
) -> None:
    """See `benchmarks/bench_deaf_peer.py`."""
    found = await measure_deaf_peer(
        tmp_path, seconds=5, writers=64, size=64 * 1024, blocks_loop=blocks_loop
    )
    assert found.acks_before > 0
    assert found.is_well, found
