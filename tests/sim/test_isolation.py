"""`available`: who goes on alone is connected, and its peer silent (design, 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirrorha.config.contradictions import isolation_row_s
from mirrorha.core import events as v
from mirrorha.core.words import Role
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.node import SimNode
from mirrorha.testing.sim.world import World
from tests.sim.paired import cut, heal, paired, roles

if TYPE_CHECKING:
    from collections.abc import Callable


def test_available_goes_on_if_and_only_if_the_isolation_checks_answer() -> None:
    for answers, role in ((True, Role.ALONE), (False, Role.SECOND)):
        world, pair = paired("available")
        assert pair.shared is not None
        pair.shared.isolation["paris"] = answers
        pair.nodes["lyon"].crash(power=True)
        world.run_until(world.now_ms + 15_000)
        assert roles(pair) == {"paris": role}


def roles_after_all_came_back(after_ms: int) -> set[Role]:
    """The SECOND is cut off from everything for a while, and its cable plugged in again."""
    world, pair = paired("available")
    assert pair.shared is not None
    cut(pair)
    pair.shared.isolation["paris"] = False
    world.run_until(world.now_ms + after_ms)
    assert roles(pair)["lyon"] is Role.ALONE
    heal(pair)
    pair.shared.isolation["paris"] = True
    seen = set()
    until_ms = world.now_ms + 3_000
    while world.now_ms < until_ms:
        world.run_until(world.now_ms + 10)
        seen.add(roles(pair)["paris"])
    return seen


CAME_BACK_MS = range(10_000, 11_000, 20)


def test_a_network_that_comes_back_whole_splits_nobody() -> None:
    """What answers may be there again some milliseconds before the peer is heard."""
    assert not any(Role.ALONE in roles_after_all_came_back(each) for each in CAME_BACK_MS)
    with broken("first-answer-counts"):
        assert any(Role.ALONE in roles_after_all_came_back(each) for each in CAME_BACK_MS)


@pytest.mark.parametrize("delay_ms", [0, 500, 1_000, 1_500, 2_000])
@pytest.mark.parametrize("lost", ["lyon", "paris"])
def test_checks_that_answer_late_count_too(lost: str, delay_ms: int) -> None:
    world, pair = paired("available")
    assert pair.shared is not None
    pair.shared.isolation_delay_ms = lambda _node: delay_ms
    pair.nodes[lost].crash(power=True)
    world.run_until(world.now_ms + 15_000)
    assert list(roles(pair).values()) == [Role.ALONE]


@pytest.mark.parametrize("pause_ms", [0, 600, 900, 1_050, 1_200, 1_400, 2_000])
def test_a_pause_after_the_first_answer_splits_nobody(pause_ms: int) -> None:
    """All is back right before the first answer; then the node stands still, and hears no beat."""
    world, pair = paired("available")
    shared, paris = pair.shared, pair.nodes["paris"]
    assert shared is not None
    cut(pair)
    shared.isolation["paris"] = False
    world.run_until(world.now_ms + 10_000)

    def come_back(node: SimNode) -> int:
        if node is paris and not shared.isolation["paris"]:
            heal(pair)
            shared.isolation["paris"] = True
            world.after(5, lambda: setattr(paris, "paused_until_ms", world.now_ms + pause_ms))
            return 3
        return 20

    shared.isolation_delay_ms = come_back
    went_alone = world.run_while(lambda: roles(pair)["paris"] is not Role.ALONE, at_most_ms=4_000)
    assert not went_alone
    assert shared.isolation["paris"]


def goes_alone_though_all_is_back(
    on_asked: Callable[[World, SimNode, int], None], **settings: object
) -> bool:
    """paris was cut off from everything; all is back at the moment when it asks its checks again.

    Each answer then takes 3 ms. `on_asked` is told of each request, and when all came back.
    """
    world, pair = paired("available", **settings)
    shared, paris = pair.shared, pair.nodes["paris"]
    assert shared is not None
    cut(pair)
    shared.isolation["paris"] = False
    world.run_until(world.now_ms + 10_000)
    back_ms: list[int] = []

    def come_back(node: SimNode) -> int:
        if node is not paris:
            return 20
        if not back_ms:
            back_ms.append(world.now_ms)
            heal(pair)
            shared.isolation["paris"] = True
        on_asked(world, paris, back_ms[0])
        return 3

    shared.isolation_delay_ms = come_back
    went_alone = world.run_while(lambda: roles(pair)["paris"] is not Role.ALONE, at_most_ms=8_000)
    assert back_ms
    return went_alone


def goes_alone_in_pauses(pause_ms: int) -> bool:
    """The node stands still after each answer, for less than it would call late, and hears none."""

    def pause(world: World, node: SimNode, back_ms: int) -> None:
        if world.now_ms < back_ms + 4_000:
            world.after(5, lambda: setattr(node, "paused_until_ms", world.now_ms + pause_ms))

    return goes_alone_though_all_is_back(pause)


STOP_AND_GO_MS = (200, 300, 400, 520, 600, 800, 1_000, 1_200, 1_500, 1_700, 1_800, 2_500)


def test_pauses_between_all_answers_split_nobody() -> None:
    assert not any(goes_alone_in_pauses(each) for each in STOP_AND_GO_MS)
    with broken("row-through-a-pause"):
        assert any(goes_alone_in_pauses(each) for each in STOP_AND_GO_MS)


@pytest.mark.parametrize("lost", ["lyon", "paris"])
@pytest.mark.parametrize(("free_ms", "blocked_ms"), [(20, 380), (200, 600), (300, 1_500)])
def test_a_slow_loop_goes_on_nevertheless(lost: str, free_ms: int, blocked_ms: int) -> None:
    """Later, for only the time counts in which it stepped."""
    world, pair = paired("available", freeze_max_ms=60_000)
    (stays,) = (node for node in pair.nodes.values() if node.name != lost)
    assert pair.shared is not None
    pair.shared.isolation_delay_ms = lambda _node: 3

    def block() -> None:
        stays.blocked_since_ms = world.now_ms
        stays.blocked_until_ms = world.now_ms + blocked_ms
        world.after(blocked_ms + free_ms, block)

    block()
    pair.nodes[lost].crash(power=True)
    alone = {stays.name: Role.ALONE}
    assert world.run_while(lambda: roles(pair) != alone, at_most_ms=40_000)


def goes_alone_while_the_peer_pauses(pause_ms: int, came_back_ms: int) -> bool:
    """All comes back while the peer stands still, for less than the timeout."""
    world, pair = paired("available")
    shared, lyon = pair.shared, pair.nodes["lyon"]
    assert shared is not None
    cut(pair)
    shared.isolation["paris"] = False
    shared.isolation_delay_ms = lambda _node: 3
    world.run_until(world.now_ms + came_back_ms)
    assert roles(pair)["lyon"] is Role.ALONE
    lyon.paused_until_ms = world.now_ms + pause_ms
    heal(pair)
    shared.isolation["paris"] = True
    return world.run_while(lambda: roles(pair)["paris"] is not Role.ALONE, at_most_ms=8_000)


def test_a_pause_of_the_peer_when_all_comes_back_splits_nobody() -> None:
    pauses = [(pause_ms, at_ms) for pause_ms in (1_000, 2_000, 2_900) for at_ms in (10_000, 10_250)]
    assert not any(goes_alone_while_the_peer_pauses(*each) for each in pauses)
    with broken("short-row"):
        assert any(goes_alone_while_the_peer_pauses(*each) for each in pauses)


def goes_alone_deaf(deaf_ms: int) -> bool:
    """What listens to heartbeats stands still from when all is back; the node's loop turns."""
    deaf_since_ms: list[int] = []

    def begin(world: World, node: SimNode, back_ms: int) -> None:
        if deaf_since_ms:
            return
        deaf_since_ms.append(back_ms)
        give = node.give

        def give_late(event: v.AnyEvent) -> None:
            left_ms = back_ms + deaf_ms - world.now_ms
            if left_ms > 0 and isinstance(event, v.BeatHeard):
                world.after(left_ms, lambda: give(event))
            elif left_ms > 0 and isinstance(event, v.Tick):
                give(v.Tick(listened_at_ms=node.clock.now_ms() - (world.now_ms - back_ms)))
            elif left_ms <= 0 or not isinstance(event, v.LinkOpened):
                give(event)

        node.give = give_late  # type: ignore[method-assign]

    return goes_alone_though_all_is_back(begin)


def test_answers_while_nobody_listens_to_heartbeats_split_nobody() -> None:
    deaf = (1_200, 1_500, 1_700)
    assert not any(goes_alone_deaf(each) for each in deaf)
    with broken("row-through-a-pause"):
        assert all(goes_alone_deaf(each) for each in deaf)


def goes_alone_between_slow_beats(phase_ms: int) -> bool:
    """Each beat takes two seconds, and so does the session; the heartbeat thread turns with beats.

    As in production, each tick tells when that was. It is not the time that has passed.
    """
    back_ms: list[int] = []

    def begin(world: World, node: SimNode, now_ms: int) -> None:
        if back_ms:
            return
        back_ms.append(now_ms)
        pair, give = node.hub, node.give
        connect = pair.connect
        pair.connect = lambda: world.now_ms >= now_ms + 2_000 and connect()
        heard_ms = now_ms + phase_ms - 2_000

        def give_slowly(event: v.AnyEvent) -> None:
            nonlocal heard_ms
            if isinstance(event, v.Tick):
                age_ms = (world.now_ms - now_ms - phase_ms) % 2_000
                give(v.Tick(listened_at_ms=node.clock.now_ms() - age_ms))
            elif not isinstance(event, v.BeatHeard):
                give(event)
            elif world.now_ms >= heard_ms + 2_000:
                heard_ms += 2_000
                give(event)

        node.give = give_slowly  # type: ignore[method-assign]

    return goes_alone_though_all_is_back(begin, pulse_ms=2_000, timeout_ms=6_000)


def test_the_time_between_two_slow_beats_counts_once() -> None:
    phases_ms = (0, 300, 700, 1_200, 1_500, 1_900)
    assert not any(goes_alone_between_slow_beats(each) for each in phases_ms)
    with broken("row-through-a-pause"):
        assert any(goes_alone_between_slow_beats(each) for each in phases_ms)


def goes_alone_hearing_every_fifth_beat(delay_ms: int) -> bool:
    """The timeout is so short that the peer is silent again at each answer."""
    world, pair = paired("available", timeout_ms=750)
    shared, lyon = pair.shared, pair.nodes["lyon"]
    assert shared is not None
    cut(pair)
    shared.isolation["paris"] = False
    shared.isolation_delay_ms = lambda _node: delay_ms
    pair.net.open["paris", "lyon"] = True  # no session: that needs both ways
    heard = 0
    give = lyon.give

    def give_each_fifth(event: v.AnyEvent) -> None:
        nonlocal heard
        heard += isinstance(event, v.BeatHeard)
        if not isinstance(event, v.BeatHeard) or heard % 5 == 0:
            give(event)

    lyon.give = give_each_fifth  # type: ignore[method-assign]
    return world.run_while(lambda: roles(pair)["lyon"] is not Role.ALONE, at_most_ms=15_000)


def test_a_beat_between_two_answers_ends_the_row() -> None:
    delays_ms = (0, 100, 300)
    assert not any(goes_alone_hearing_every_fifth_beat(each) for each in delays_ms)
    with broken("row-through-a-beat"):
        assert any(goes_alone_hearing_every_fifth_beat(each) for each in delays_ms)


@pytest.mark.parametrize("delay_ms", [300, 1_000, 2_000])
@pytest.mark.parametrize(
    ("pulse_ms", "timeout_ms"), [(10, 1_000), (10, 60_000), (250, 3_000), (1_000, 3_000)]
)
def test_the_shortest_freeze_max_is_enough_for_slow_checks(
    pulse_ms: int, timeout_ms: int, delay_ms: int
) -> None:
    """Else the PRIM's writes fail, and it waits for a peer that is dead."""
    least_ms = timeout_ms + 500 + 500 + round(1_000 * isolation_row_s(pulse_ms / 1_000))
    times = {"pulse_ms": pulse_ms, "timeout_ms": timeout_ms, "freeze_max_ms": least_ms}
    world, pair = paired("available", **times)
    assert pair.shared is not None
    pair.shared.isolation_delay_ms = lambda _node: delay_ms
    pair.nodes["paris"].crash(power=True)
    world.run_until(world.now_ms + least_ms + 1_000)
    assert roles(pair) == {"lyon": Role.ALONE}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("delay_ms", [300, 1_950])
def test_the_shortest_freeze_max_is_enough_where_no_session_breaks(
    delay_ms: int, seed: int
) -> None:
    """The peer's machine loses its power: nothing closes its connections."""
    least_ms = 3_000 + round(1_000 * isolation_row_s(0.25))
    times = {"takeover_delay_ms": 0, "fence_delay_ms": 0, "freeze_max_ms": least_ms}
    world, pair = paired("available", seed=seed, **times)
    assert pair.shared is not None
    pair.shared.isolation_delay_ms = lambda _node: delay_ms
    pair.node_stopping = lambda node: None  # type: ignore[method-assign]
    pair.nodes["paris"].crash(power=True)
    for name in sorted(pair.streams_up):
        pair.break_stream(name)  # these are watched more closely
    world.run_until(world.now_ms + least_ms + 1_000)
    assert roles(pair) == {"lyon": Role.ALONE}


@pytest.mark.parametrize("pulse_ms", [250, 1_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_prim_has_its_head_start(pulse_ms: int, seed: int) -> None:
    """Only what is between the two is cut: a session soon after finds the SECOND still one."""
    world, pair = paired("available", seed=seed, pulse_ms=pulse_ms)
    assert pair.shared is not None
    pair.shared.isolation_delay_ms = lambda _node: 3
    cut(pair)
    assert world.run_while(lambda: roles(pair)["lyon"] is not Role.ALONE, at_most_ms=15_000)
    prim_ms = world.now_ms
    assert world.run_while(lambda: roles(pair)["paris"] is not Role.ALONE, at_most_ms=15_000)
    assert world.now_ms - prim_ms >= 300  # of 500: each asks its checks at times of its own


def takeover_ms_after_a_refusing_port(**settings: object) -> int:
    world, pair = paired("available", **settings)
    assert pair.shared is not None
    pair.shared.isolation_delay_ms = lambda _node: 0
    began_ms = world.now_ms
    pair.nodes["lyon"].crash(power=False)
    assert world.run_while(lambda: roles(pair)["paris"] is not Role.ALONE, at_most_ms=15_000)
    assert world.counts["port refused"]
    return world.now_ms - began_ms


def test_a_refusing_port_needs_the_silence_too() -> None:
    assert takeover_ms_after_a_refusing_port() >= 2_500
    with broken("silence-not-needed"), broken("short-row"):  # either holds by itself
        assert takeover_ms_after_a_refusing_port() < 2_500


def test_a_refusing_port_needs_no_head_start() -> None:
    assert takeover_ms_after_a_refusing_port(takeover_delay_ms=12_000) < 6_000
