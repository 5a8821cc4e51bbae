"""The pair without an arbiter: seeds are clean, and every rule that is taken out is missed."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorha.core import epochs
from mirrorha.core import events as v
from mirrorha.core.health import colour_of
from mirrorha.core.messages import Standing
from mirrorha.core.state import Stage
from mirrorha.core.words import Colour, Role
from mirrorha.testing.crash_points import Moment
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.pair import Pair
from mirrorha.testing.sim.parting import settle_split
from mirrorha.testing.sim.run import run_seed
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.trap import Trap
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
        assert "to override: 'mirrorha force-primary'" in why(pair, "lyon")


def test_a_confirmed_stop_lets_the_second_go_on() -> None:
    world, pair = paired("consistent", fencer=True)
    assert pair.shared is not None
    pair.shared.fencer_works = 1.0
    pair.nodes["lyon"].crash(power=True)
    world.run_until(world.now_ms + 15_000)
    assert roles(pair) == {"paris": Role.ALONE}
    assert pair.nodes["paris"].running


@pytest.mark.parametrize("seed", range(3))
def test_a_peer_that_left_in_good_order_is_not_fenced(seed: int) -> None:
    """Its process ends with its goodbye: what runs on that machine next is not to be shot."""
    for leaver, stays in (("lyon", "paris"), ("paris", "lyon")):
        world, pair = paired("consistent", seed=seed, fencer=True)
        assert pair.shared is not None
        pair.shared.fencer_works = 1.0
        tell(pair, leaver, v.Verb.STOP)
        assert world.run_while(lambda: not knows_it_left(pair, stays), at_most_ms=5_000)  # noqa: B023
        pair.nodes[leaver].crash(power=False)
        world.run_until(world.now_ms + 3_000)
        assert roles(pair) == {stays: Role.ALONE}
        assert not world.counts["fenced"]


def split_healed(**settings: Any) -> tuple[World, Pair]:
    """Both went on; the side that will lose has the higher epoch, for it restarted meanwhile."""
    world, pair = paired("available", **settings)
    pair.fsyncs = 0.5
    cut(pair)
    world.run_until(world.now_ms + 15_000)
    assert roles(pair) == {"lyon": Role.ALONE, "paris": Role.ALONE}
    pair.nodes["paris"].crash(power=False)
    pair.nodes["paris"].start()
    world.run_until(world.now_ms + 3_000)
    heal(pair)
    return world, pair


def lost_by(pair: Pair, *, of: str = "paris", to: str = "lyon") -> dict[str, set[int]]:
    """What one has now and the other has not, by volume."""
    mine, theirs = (pair.nodes[name].durable.platters for name in (of, to))
    return {each: set(mine[each].cache) - set(theirs[each].cache) for each in mine}


def assert_rescued(pair: Pair, name: str, owed: dict[str, set[int]]) -> None:
    for volume, values in owed.items():
        assert values
        assert values <= set(pair.nodes[name].durable.platters[volume].rescued)


def test_a_split_ends_by_policy_and_nothing_is_lost() -> None:
    world, pair = split_healed()
    owed = lost_by(pair)
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    assert roles(pair) == {"lyon": Role.PRIM, "paris": Role.SECOND}
    assert_rescued(pair, "paris", owed)
    assert world.counts["rule split"] == 2  # once on each node,
    assert world.counts["rule rescued"] == world.counts["rule peer-rescued"] == 2  # and volume
    pair.writing = False
    world.run_until(world.now_ms + 1_000)
    pair.check_equal()


def test_a_split_whose_report_died_with_its_process_is_reported_by_the_next() -> None:
    """It was noted durably that it is known, and nobody has heard of it."""
    world, pair = split_healed(seed=2)  # one in which both have told before either crashes
    trap = pair.trap = Trap(world)
    for _ in pair.nodes:
        trap.set("split reported", Moment.AFTER)
        running = [node for node in pair.nodes.values() if node.up]
        assert world.run_while(lambda up=running: all(one.up for one in up), at_most_ms=20_000)
    assert not world.counts["rule split"]
    for node in pair.nodes.values():
        node.start()
    world.run_until(world.now_ms + 20_000)
    assert world.counts["rule split"] == 2


def test_what_was_kept_is_told_until_a_person_has_seen_it() -> None:
    world, pair = split_healed()
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    for name in ("paris", "lyon"):  # whoever has served since, or restarted
        pair.nodes[name].crash(power=False)
        pair.nodes[name].start()
        assert world.run_while(lambda: not pair.mirrored(), at_most_ms=60_000)
    lyon, paris = (pair.nodes[name].node for name in ("lyon", "paris"))
    assert lyon is not None
    assert paris is not None
    assert {note.volume for note in paris.state.meta.rescued} == {"a", "b"}
    assert lyon.state.peer_rescued == paris.state.meta.rescued
    assert colour_of(paris.state) is Colour.RED
    assert colour_of(lyon.state) is Colour.ORANGE
    tell(pair, "lyon", v.Verb.ACKNOWLEDGE)
    world.run_until(world.now_ms + 1_000)
    assert paris.state.meta.rescued
    tell(pair, "paris", v.Verb.ACKNOWLEDGE)
    world.run_until(world.now_ms + 1_000)
    assert {colour_of(each.state) for each in (lyon, paris)} == {Colour.GREEN}


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("victim", ["lyon", "paris"])
def test_a_crash_while_it_is_kept_loses_nothing(victim: str, power: bool) -> None:
    world, pair = split_healed()
    for node in pair.nodes.values():  # what is acknowledged is on the disk
        for platter in node.durable.platters.values():
            platter.synced = len(platter.cache)  # type: ignore[union-attr]
    owed = lost_by(pair)
    paris = pair.nodes["paris"]
    for _ in range(3):
        filled = world.run_while(lambda: not paris.durable.meta.inconsistent, at_most_ms=60_000)
        assert filled
        world.run_until(world.now_ms + 5)
        pair.nodes[victim].crash(power=power)
        assert paris.durable.meta.rescue
        pair.nodes[victim].start()
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=60_000)
    assert_rescued(pair, "paris", owed)
    assert not paris.durable.meta.rescue


@pytest.mark.parametrize("seed", range(5))
def test_whatever_befalls_the_pair_while_it_is_kept(seed: int) -> None:
    """Power, process or link, of either node, at any moment: judged after each, by what is owed."""
    world, pair = split_healed(seed=seed, production=True)
    paris = pair.nodes["paris"]
    for _ in range(5):
        assert world.run_while(lambda: not paris.durable.meta.rescue, at_most_ms=60_000)
        world.run_until(world.now_ms + world.between(0, 150))
        victim = world.rng.choice([*pair.nodes.values()])
        if world.chance(0.3):
            pair.break_link()
        else:
            victim.crash(power=world.chance(0.5))
            victim.start()
        if not paris.durable.meta.rescue:
            break  # it was over by then
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=60_000)
    pair.owed.check()
    assert world.counts["kept in a rescue"]
    assert world.counts["rescue"] > 2  # of two volumes: more than one session
    pair.writing = False
    world.run_until(world.now_ms + 1_000)
    pair.check_equal()


def split_refused() -> tuple[World, Pair]:
    world, pair = paired("available", split_policy="refuse")
    cut(pair)
    world.run_until(world.now_ms + 15_000)
    heal(pair)
    return world, pair


def test_a_person_who_gives_up_a_side_does_not_wait_for_the_next_attempt() -> None:
    world, pair = split_refused()
    world.run_until(world.now_ms + 11_000)
    settle_split(world, pair)
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=1_500)


def test_the_winner_of_a_split_rises_above_the_other_sides_epoch() -> None:
    with broken("epochs-fall"):
        world, pair = split_healed()
        assert not world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)


def test_refuse_stops_both_until_a_person_chooses() -> None:
    world, pair = split_refused()
    world.run_until(world.now_ms + 10_000)
    assert roles(pair) == {"lyon": Role.WAIT, "paris": Role.WAIT}
    for node in pair.nodes.values():  # and a restart does not choose for them
        node.crash(power=False)
        node.start()
    world.run_until(world.now_ms + 10_000)
    assert roles(pair) == {"lyon": Role.WAIT, "paris": Role.WAIT}
    owed = lost_by(pair, of="lyon", to="paris")
    tell(pair, "lyon", v.Verb.ACCEPT)
    assert pair.shared is not None
    pair.shared.accepted(pair.nodes["lyon"])
    assert world.run_while(lambda: not pair.mirrored(), at_most_ms=30_000)
    source = pair.source()
    assert source is not None
    assert source.name == "paris"
    assert_rescued(pair, "lyon", owed)


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
    made = {name: node.node.state.epoch for name, node in pair.nodes.items() if node.node}
    assert made["lyon"] != made["paris"]
    assert epochs.number_of(made["lyon"]) == epochs.number_of(made["paris"])


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
