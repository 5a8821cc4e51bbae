"""The pair without an arbiter: seeds are clean, and every rule that is taken out is missed."""

from __future__ import annotations

import pytest

from mirrorha.core import events as v
from mirrorha.core.messages import Standing
from mirrorha.core.state import Stage
from mirrorha.core.words import Role
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.parting import settle_split
from mirrorha.testing.sim.run import run_seed
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.world import Violation, World
from tests.sim.paired import cut, heal, paired, roles, tell, why

# ---- seeds ----


@pytest.mark.parametrize("mode", ["consistent", "available"])
def test_seeds_are_clean(mode: str) -> None:
    for seed in range(12):
        outcome = run_seed(seed, mode=mode)
        assert not outcome.problem, f"{mode} seed {seed}: {outcome.problem}"


@pytest.mark.parametrize("mode", ["consistent", "available"])
def test_same_seed_same_run(mode: str) -> None:
    one, two = (run_seed(3, trace=True, mode=mode) for _ in range(2))
    assert one == two


# ---- scenarios ----


def test_consistent_freezes_then_waits_and_goes_on_when_both_meet() -> None:
    world, pair = paired("consistent")
    cut(pair)
    world.run_until(world.now_ms + 15_000)
    assert roles(pair) == {"lyon": Role.PRIM, "paris": Role.SECOND}
    frozen = {name: node.node.state.frozen for name, node in pair.nodes.items() if node.node}
    assert frozen == {"lyon": True, "paris": True}
    assert all("must come back" in why(pair, name) for name in pair.nodes)
    world.run_until(world.now_ms + 15_000)  # freeze_max is over
    assert roles(pair)["lyon"] is Role.WAIT
    assert "not alone last" in why(pair, "lyon")
    heal(pair)
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    pair.check_equal()


def test_consistent_goes_on_at_once_after_a_goodbye() -> None:
    for leaver, stays in (("lyon", "paris"), ("paris", "lyon")):
        world, pair = paired("consistent")
        tell(pair, leaver, v.Verb.STOP)
        world.run_until(world.now_ms + 2_000)
        assert roles(pair) == {leaver: Role.STOP, stays: Role.ALONE}
        assert pair.nodes[stays].running


@pytest.mark.parametrize("seed", range(5))
def test_a_goodbye_is_heard_though_the_process_ends_with_it(seed: int) -> None:
    """What a process said last is lost where its peer answers and finds it gone."""
    for leaver, stays in (("lyon", "paris"), ("paris", "lyon")):
        world, pair = paired("consistent", seed=seed)
        tell(pair, leaver, v.Verb.STOP)
        assert world.run_while(lambda: not knows_it_left(pair, stays), at_most_ms=5_000)  # noqa: B023
        pair.nodes[leaver].crash(power=False)
        world.run_until(world.now_ms + 2_000)
        assert roles(pair) == {stays: Role.ALONE}


def knows_it_left(pair: Pair, name: str) -> bool:
    core = pair.nodes[name].node
    assert core is not None
    peer = core.state.peer
    return peer is not None and peer.standing is Standing.STOPPED


def test_of_two_that_stop_at_once_the_prim_was_alone_last_and_can_start_alone() -> None:
    world, pair = paired("consistent")
    for name in pair.nodes:
        tell(pair, name, v.Verb.STOP)
    world.run_until(world.now_ms + 8_000)
    assert roles(pair) == {"lyon": Role.STOP, "paris": Role.STOP}
    assert not pair.nodes["lyon"].durable.meta.outdated
    assert pair.nodes["paris"].durable.meta.outdated
    for node in pair.nodes.values():
        node.crash(power=False)
    pair.nodes["lyon"].start()
    world.run_until(world.now_ms + 15_000)
    assert roles(pair) == {"lyon": Role.ALONE}


def both_ask_at_once() -> Play:
    """Neither has heard that the other wants to leave when it asks to be let go itself."""
    play = Play(mode="consistent")
    both = (play.lyon, play.paris)
    play.command(play.lyon, v.Verb.STOP)
    play.until(lambda: play.stands_at(play.lyon, Stage.FREEZE))  # its stream is drained
    play.command(play.paris, v.Verb.STOP)
    for node in both:
        play.stall(node)
    play.until(lambda: all(play.stands_at(node, Stage.GOODBYE) for node in both))
    for node in both:
        play.unstall(node)
    play.run(8_000)
    return play


def test_of_two_that_ask_at_once_one_is_granted() -> None:
    play = both_ask_at_once()
    outdated = [play.state(node).meta.outdated for node in (play.lyon, play.paris)]
    assert outdated == [False, True]
    with broken("both-granted"), pytest.raises(Violation, match="both nodes gave up"):
        both_ask_at_once()


def asks_after_granting() -> bool:
    """Both are stopped: whether the one that let the other go asks to be let go itself."""
    play = Play(mode="consistent")
    play.command(play.paris, v.Verb.STOP)
    play.command(play.lyon, v.Verb.STOP)
    asked = []

    def is_over() -> bool:
        state = play.state(play.lyon)
        asked.append(bool(state.pair.grants) and state.pair.leaving)
        return state.standing is Standing.STOPPED

    play.until(is_over)
    return any(asked)


def test_a_node_that_has_granted_does_not_ask() -> None:
    assert not asks_after_granting()
    with broken("granted-also-leaves"):
        assert asks_after_granting()


def test_who_gave_its_service_up_is_stopped_once_and_can_be_started_again() -> None:
    play = Play(mode="consistent")
    token = play.state(play.lyon).service_token
    play.lyon.give(v.ServiceFailed(token=token, text="simulated", action="stop"))
    play.until(lambda: play.role(play.lyon) == "STOP")
    assert play.state(play.lyon).decision is None
    play.command(play.lyon, v.Verb.START)
    play.until_mirrored()


def test_a_restarted_node_waits_for_a_peer_that_may_have_gone_on() -> None:
    for mode in ("consistent", "available"):
        world, pair = paired(mode)
        for node in pair.nodes.values():
            node.crash(power=False)
        pair.nodes["lyon"].start()
        world.run_until(world.now_ms + 60_000)
        assert roles(pair) == {"lyon": Role.WAIT}
        assert "no command overrides this yet" in why(pair, "lyon").lower()


def test_a_confirmed_stop_lets_the_second_go_on() -> None:
    world, pair = paired("consistent", fencer=True)
    assert pair.shared is not None
    pair.shared.fencer_works = 1.0
    pair.nodes["lyon"].crash(power=True)
    world.run_until(world.now_ms + 15_000)
    assert roles(pair) == {"paris": Role.ALONE}
    assert pair.nodes["paris"].running


def split_healed() -> tuple[World, Pair]:
    """Both went on; the side that will lose has the higher epoch, for it restarted meanwhile."""
    world, pair = paired("available")
    cut(pair)
    world.run_until(world.now_ms + 15_000)
    assert roles(pair) == {"lyon": Role.ALONE, "paris": Role.ALONE}
    pair.nodes["paris"].crash(power=False)
    pair.nodes["paris"].start()
    world.run_until(world.now_ms + 3_000)
    heal(pair)
    return world, pair


def test_a_split_ends_by_policy_and_by_a_person() -> None:
    world, pair = split_healed()
    kept = {name: list(each.cache) for name, each in pair.nodes["paris"].durable.platters.items()}
    world.run_until(world.now_ms + 20_000)
    assert roles(pair) == {"lyon": Role.ALONE, "paris": Role.WAIT}
    assert "mirrorha resync paris --full" in why(pair, "paris")
    assert world.counts["rule split"] == 2  # once on each node
    for name, before in kept.items():
        assert pair.nodes["paris"].durable.platters[name].cache[: len(before)] == before
    settle_split(world, pair)
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    pair.writing = False
    world.run_until(world.now_ms + 1_000)
    pair.check_equal()


def test_a_person_who_gives_up_a_side_does_not_wait_for_the_next_attempt() -> None:
    world, pair = split_healed()
    world.run_until(world.now_ms + 11_000)  # the last one was refused just now, more or less
    settle_split(world, pair)
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=1_500)


def test_the_winner_of_a_split_rises_above_the_other_sides_epoch() -> None:
    with broken("epochs-fall"):
        world, pair = split_healed()
        world.run_until(world.now_ms + 20_000)
        settle_split(world, pair)
        assert not world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)


def test_refuse_stops_both_until_a_person_chooses() -> None:
    world, pair = paired("available", split_policy="refuse")
    cut(pair)
    world.run_until(world.now_ms + 15_000)
    heal(pair)
    world.run_until(world.now_ms + 10_000)
    assert roles(pair) == {"lyon": Role.WAIT, "paris": Role.WAIT}
    for node in pair.nodes.values():  # and a restart does not choose for them
        node.crash(power=False)
        node.start()
    world.run_until(world.now_ms + 10_000)
    assert roles(pair) == {"lyon": Role.WAIT, "paris": Role.WAIT}
    tell(pair, "lyon", v.Verb.ACCEPT)
    assert pair.shared is not None
    pair.shared.accepted(pair.nodes["lyon"])
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    source = pair.source()
    assert source is not None
    assert source.name == "paris"


def swap_cut_after_the_commit() -> tuple[World, Pair]:
    """lyon hands over; paris promised and never hears that it landed."""
    world, pair = paired("available")
    assert pair.shared is not None
    committed = pair.shared.branches["lyon"].landed

    count = len(committed)
    tell(pair, "lyon", v.Verb.SWAP)
    world.run_while(lambda: len(committed) == count, at_most_ms=10_000)
    cut(pair)  # what lyon said of it is under way, and lost
    assert pair.nodes["paris"].durable.meta.promised == committed[-1]
    return world, pair


def test_who_promised_goes_on_by_neither_until_both_meet() -> None:
    world, pair = swap_cut_after_the_commit()
    world.run_until(world.now_ms + 15_000)
    core = pair.nodes["paris"].node
    assert core is not None
    assert core.state.standing is Standing.FOLLOWER
    assert core.state.frozen
    heal(pair)
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=60_000)


def test_doubt_that_is_ignored_is_missed() -> None:
    with broken("doubt-ignored"):
        world, _pair = swap_cut_after_the_commit()
        with pytest.raises(Violation, match=r"I8|5\.4|I1"):
            world.run_until(world.now_ms + 15_000)


def test_epochs_of_two_that_go_on_apart_differ() -> None:
    world, pair = paired("available")
    cut(pair)
    world.run_until(world.now_ms + 15_000)
    epochs = {name: node.node.state.epoch for name, node in pair.nodes.items() if node.node}
    assert epochs["lyon"] % 2 == 0
    assert epochs["paris"] % 2 == 1
    assert epochs["lyon"] >> 1 == epochs["paris"] >> 1


def test_two_clusters_that_meet_touch_nothing_and_say_so() -> None:
    world = World(1)
    pair = Pair(world, "consistent")
    cut(pair)
    for node in pair.nodes.values():
        node.start()
    pair.shared = None  # its rules are those of one cluster
    for name in pair.nodes:
        tell(pair, name, v.Verb.INIT)
    pair.writing = False
    world.run_until(world.now_ms + 5_000)
    assert roles(pair) == {"lyon": Role.ALONE, "paris": Role.ALONE}
    heal(pair)
    world.run_until(world.now_ms + 5_000)
    assert roles(pair) == {"lyon": Role.ALONE, "paris": Role.ALONE}
    assert world.counts["rule no-answer-from-the-pair"] == 2
