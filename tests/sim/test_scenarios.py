"""Directed scenarios: what random seeds reach too rarely, each green with its rule.

Where a test names a breakage, the same scenario is red without that rule.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorha.core.events import Gone, RegisterRead, Verb, VolumeReported
from mirrorha.core.messages import Standing
from mirrorha.core.orders import StopReason, Trouble
from mirrorha.core.state import Stage
from mirrorha.errors import InvariantViolation
from mirrorha.testing.sim.breakages import broken
from mirrorha.testing.sim.scenarios import Play
from mirrorha.testing.sim.wide import FOREIGN
from mirrorha.testing.sim.world import Violation
from tests.sim.disk_scenarios import (
    failed_disk_and_a_clean_stop,
    failed_disk_and_both_start_anew,
    failed_disk_on_the_prim,
    failed_disk_on_the_second,
    only_copy_on_a_failed_disk,
    power_lost_after_the_level_was_lowered,
    power_lost_on_a_durable_prim,
    power_lost_on_the_prim,
    writes_lost_between_two_processes,
)


def unresolved_takeover(play: Play) -> None:
    """The SECOND's takeover CAS lingers; lyon, without the arbiter, is frozen. Then they meet."""
    play.arbiter_open(play.lyon, is_open=False)
    play.fate(play.paris, "late")
    play.cut()
    play.until_fated(play.paris)
    play.arbiter_open(play.paris, is_open=False)
    play.run(2_100)
    play.heal()


def takeover_unresolved_at_meeting() -> None:
    """5.1.3: the CAS lands after both met; writes acknowledged meanwhile must survive lyon."""
    play = Play()
    unresolved_takeover(play)
    play.run(1_500)
    value = play.write(play.lyon)
    play.run(500)
    play.land()
    play.run(100)
    acked_before = play.is_acked(value)
    play.paris.crash(power=True)
    play.arbiter_open(play.lyon, is_open=True)
    play.arbiter_open(play.paris, is_open=True)
    play.start(play.paris)
    play.until(lambda: play.pair.source() is not None and not play.state(play.paris).frozen)
    play.until_mirrored()
    assert not acked_before, "nothing is acknowledged while a CAS is unresolved"


def adopting_what_may_be_replaced() -> None:
    """5.1.5: paris' CAS upon a record lingers when lyon tells that this record landed."""
    play = Play()
    unresolved_takeover(play)
    play.arbiter_open(play.lyon, is_open=True)
    before = play.register.epoch
    play.until(lambda: play.register.epoch > before)  # lyon's different CAS landed
    play.stall(play.lyon)
    play.stall(play.paris)
    play.silence(play.lyon)
    play.fate(play.paris, "late", "late", "late")
    play.arbiter_open(play.paris, is_open=True)
    play.until(lambda: any(base == play.register for base, _ in play.state(play.paris).unresolved))
    play.arbiter_open(play.paris, is_open=False)
    play.arbiter_open(play.lyon, is_open=False)
    play.heal()
    play.unstall(play.lyon)
    play.run(1_000)
    value = play.write(play.lyon)
    play.run(1_000)
    assert not play.is_acked(value), "a CAS of paris may yet make it the only member"
    play.unstall(play.paris)
    play.land()
    play.arbiter_open(play.lyon, is_open=True)
    play.arbiter_open(play.paris, is_open=True)
    play.until_mirrored()


def second_still_acknowledging() -> None:
    """5.1.4: paris takes over on a false suspicion; what lyon acknowledged last is on its disk."""
    play = Play()
    play.silence(play.lyon)
    play.stall(play.lyon)
    play.stall(play.paris)
    play.arbiter_open(play.lyon, is_open=False)
    play.fate(play.paris, "lost-reply")
    before = play.register.epoch
    while play.register.epoch == before:
        play.write(play.lyon, "a")
        play.write(play.lyon, "b")
        play.run(5)
    for _ in range(20):
        play.write(play.lyon, "b")
        play.run(5)
    play.paris.crash(power=True)
    play.unstall(play.lyon)
    play.unstall(play.paris)
    play.start(play.paris)
    play.heal()
    play.arbiter_open(play.lyon, is_open=True)
    play.until_mirrored()


def power_lost_after_going_alone() -> None:
    """5.1.2: lyon goes on alone and loses power: what both had acknowledged is on its disk."""
    play = Play()
    values = [play.write(play.lyon) for _ in range(20)]
    play.run(500)
    assert all(play.is_acked(value) for value in values)
    play.paris.crash(power=False)
    play.until(lambda: play.register.is_alone("lyon"))
    play.lyon.crash(power=True)
    play.start()
    play.until_mirrored()


def swap_with_lost_reply() -> None:
    """5.3: the swap's CAS lingers without a reply. No service starts until that is settled."""
    play = Play()
    play.fate(play.lyon, "late")
    play.command(play.lyon, Verb.SWAP)
    play.until_fated(play.lyon)
    play.arbiter_open(play.lyon, is_open=False)
    play.arbiter_open(play.paris, is_open=False)
    play.run(2_700)
    value = play.write(play.lyon)
    play.run(300)
    assert not play.is_acked(value)
    assert not play.lyon.running
    play.land()
    play.arbiter_open(play.lyon, is_open=True)
    play.arbiter_open(play.paris, is_open=True)
    play.until_mirrored()


def restored_from_an_old_image() -> None:
    """5.0: paris comes back from an image taken before its last admission, while lyon is down."""
    play = Play()
    play.command(play.paris, Verb.STOP)
    play.until(lambda: play.role(play.paris) == "STOP")
    play.run(100)
    play.paris.take_image()
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.start(play.paris)
    play.until_mirrored()
    value = play.write(play.lyon)
    play.run(200)
    assert play.is_acked(value)
    play.lyon.crash(power=False)
    play.paris.crash(power=False)
    play.paris.restore_image()
    play.start(play.paris)
    play.run(20_000)
    assert play.role(play.paris) == "WAIT"
    play.start(play.lyon)
    play.until_mirrored()


def one_volume_still_acknowledging() -> None:
    """5.1.2: one stream is cut for long; lyon excludes paris while the other volume flows."""
    play = Play()
    play.pair.net.streams = False
    play.pair.break_stream("a")
    before = play.register.epoch
    play.fate(play.lyon, "lost-reply")
    while play.register.epoch == before:
        play.write(play.lyon, "b")
        play.run(5)
    for _ in range(20):
        play.write(play.lyon, "b")
        play.run(5)
    play.lyon.crash(power=True)
    play.heal()
    play.start(play.lyon)
    play.until_mirrored()


def late_join_and_an_old_licence() -> None:
    """5.1.5: lyon, alone, restarts while its CAS that admits paris lingers."""
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.fate(play.lyon, "late")
    play.start(play.paris)
    play.until(lambda: bool(play.state(play.lyon).sent or play.state(play.lyon).unresolved))
    play.run(20)
    play.lyon.crash(power=False)
    play.cut()
    play.start(play.lyon)
    play.until(lambda: play.role(play.lyon) in ("ALONE", "PRIM"))
    play.land()
    play.run(200)
    values = [play.write(play.lyon) for _ in range(5)]
    play.run(500)
    acked = [value for value in values if play.is_acked(value)]
    play.lyon.crash(power=False)
    play.until(lambda: play.register is not None)
    play.run(15_000)
    play.heal()
    play.start(play.lyon)
    play.until_mirrored()
    assert all(play.is_acked(value) for value in acked)


def admission_lands_after_the_link_broke() -> None:
    """5.1.6: lyon's CAS that admits paris lingers, the link breaks: {lyon} settles nothing."""
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.fate(play.lyon, "late")
    play.start(play.paris)
    play.until(lambda: bool(play.state(play.lyon).unresolved))
    play.fate(play.lyon, *["lost"] * 5)
    play.cut()
    play.run(4_000)
    play.write(play.lyon)
    play.land()
    play.run(50)
    play.write(play.lyon)
    play.run(500)
    play.heal()
    play.until_mirrored()


def swap_under_load() -> None:
    """5.3: the swap's CAS is sent only once paris has all that lyon applied."""
    play = Play()
    play.pair.net.delay_ms = 60
    before = play.register.epoch
    play.command(play.lyon, Verb.SWAP)
    while play.register.epoch == before:
        play.write(play.lyon)
        play.run(2)
    play.pair.net.delay_ms = 2
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"


def arbiter_returns_with_a_lower_epoch() -> None:
    """5.0: the witness comes back as it was. Nobody acts on that alone; both make it anew."""
    play = Play()
    older = play.register
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.start(play.paris)
    play.until_mirrored()
    play.pair.arbiter.go_back_to(older)
    play.cut()
    value = play.write(play.lyon)
    play.run(30_000)
    assert play.register == older
    assert not play.is_acked(value)
    assert {play.role(play.lyon), play.role(play.paris)} <= {"WAIT", "SECOND"}
    play.heal()
    play.until_mirrored()
    assert play.register.epoch > older.epoch + 2


def init_without_the_peer() -> None:
    """5.0: `init` while paris is away says nothing of what paris holds: it asks a person."""
    play = Play(paired=False)
    play.paris.durable.platters["a"].put(7)
    play.start(play.lyon)
    play.run(500)
    play.command(play.lyon, Verb.INIT)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.start(play.paris)
    play.run(20_000)
    assert play.role(play.paris) == "WAIT"
    assert "resync paris --full" in play.state(play.paris).why
    assert 7 in play.paris.durable.platters["a"].cache
    play.command(play.paris, Verb.ACCEPT)
    play.until_mirrored()


# ---- where nothing but patience is needed, and was not enough ----


def first_fill_breaks() -> None:
    """5.0: the first fill of a newcomer breaks off; it is filled again without a person."""
    play = Play(paired=False)
    play.start()
    play.until(lambda: play.state(play.paris).standing is Standing.TARGET)
    play.run(10)
    play.paris.crash(power=True)
    play.start(play.paris)
    play.until_mirrored(at_most_ms=30_000)


def prim_restarts_without_failover() -> None:
    """`failover = false`: a PRIM that restarts serves again, and the service has not moved."""
    play = Play(failover=False)
    play.lyon.crash(power=False)
    play.run(2_000)
    play.start(play.lyon)
    play.until_mirrored(at_most_ms=30_000)
    assert play.role(play.lyon) == "PRIM"


def prim_returns_alone_without_failover() -> None:
    play = Play(failover=False)
    play.paris.crash(power=False)
    play.lyon.crash(power=False)
    play.start(play.lyon)
    play.until(lambda: play.role(play.lyon) == "ALONE", at_most_ms=30_000)


def swap_landed_while_going_alone() -> None:
    """5.1.5: lyon reads that its swap landed while it freezes to go on alone: it acts on that."""
    play = Play(failover=False)
    play.fate(play.lyon, "lost-reply")
    play.command(play.lyon, Verb.SWAP)
    play.until_fated(play.lyon)
    play.pair.net.streams = False
    for volume in ("a", "b"):
        play.pair.break_stream(volume)
    play.lyon.paused_until_ms = play.world.now_ms + 6_000
    play.run(6_000)
    play.heal()
    play.pair.connect()
    play.run(1_000)
    assert play.state(play.lyon).epoch == play.register.epoch
    play.until_mirrored()
    assert play.role(play.paris) == "PRIM"


def foreign_register_while_going_alone() -> None:
    """5.0: what lyon reads while it freezes is another cluster's: it is acted on at no stage."""
    play = Play()
    epoch = play.register.epoch
    for node in (play.lyon, play.paris):
        play.pair.arbiter.faults.misread[node.name] = FOREIGN
    play.cut()
    play.until(lambda: play.stands_at(play.lyon, Stage.FREEZE))
    token = play.state(play.lyon).next_token()
    play.state(play.lyon).asked = token  # a read of the watch, answered in the middle of it
    play.lyon.give(RegisterRead(token=token, found=FOREIGN))
    play.run(2_000)
    assert play.state(play.lyon).meta.seen_epoch == epoch
    play.pair.arbiter.faults.misread.clear()
    play.heal()
    play.until_mirrored()


def refused_admission() -> Play:
    """lyon's CAS that admits paris is refused, by a register that is not theirs: both mirror."""
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    misread = play.pair.arbiter.faults.misread

    def soon(node: str, _expected: object, _new: object) -> None:
        play.pair.arbiter.forget_hook()
        misread[node] = Gone.CORRUPT

    play.pair.arbiter.on_cas = soon
    play.start(play.paris)
    play.until(lambda: play.role(play.paris) == "SECOND")
    assert play.role(play.lyon) == "ALONE"
    return play


def link_breaks_after_a_refused_admission() -> None:
    """5.1.6: the peer is back, but not admitted yet: that is not forgotten."""
    play = refused_admission()
    play.cut()
    play.run(100)
    play.heal()
    play.run(5_000)
    play.pair.arbiter.faults.misread.clear()
    play.until_mirrored(at_most_ms=30_000)
    assert play.register.in_sync == {"lyon", "paris"}


def excluded_after_a_refused_admission() -> None:
    """lyon goes on alone in the epoch in which paris follows it: paris sees that it was left."""
    play = refused_admission()
    play.pair.arbiter.faults.misread.clear()
    stuck = Trouble(reason=StopReason.PEER_STUCK, text="simulated")
    play.lyon.give(VolumeReported("a", stuck))
    play.until_mirrored(at_most_ms=30_000)
    assert play.register.in_sync == {"lyon", "paris"}


def freeze_ends_without_failover() -> None:
    """`failover = false`: lyon gave up waiting for anybody; paris, back, will not take over."""
    play = Play(failover=False, freeze_max_ms=5_000)
    play.arbiter_open(play.lyon, is_open=False)
    play.cut()
    play.until(lambda: play.role(play.lyon) == "WAIT", at_most_ms=20_000)
    play.heal()
    play.arbiter_open(play.lyon, is_open=True)
    play.until_mirrored(at_most_ms=30_000)
    assert play.role(play.lyon) == "PRIM"


def freeze_ends() -> None:
    """`freeze_max`: without arbiter and peer every change fails, then the service is stopped."""
    play = Play(freeze_max_ms=5_000)
    play.arbiter_open(play.lyon, is_open=False)
    play.arbiter_open(play.paris, is_open=False)
    play.cut()
    play.run(500)
    value = play.write(play.lyon)
    play.run(8_000)
    assert play.role(play.lyon) == "WAIT"
    assert not play.lyon.running
    play.heal()
    play.arbiter_open(play.lyon, is_open=True)
    play.arbiter_open(play.paris, is_open=True)
    play.until_mirrored()
    assert not play.is_acked(value)


def prim_is_stopped_beyond_the_timeout() -> None:
    """SIGSTOP of the PRIM: paris takes over; woken, lyon acknowledges nothing of its own."""
    play = Play()
    play.lyon.paused_until_ms = play.world.now_ms + 10_000
    play.until(lambda: play.role(play.paris) == "ALONE")
    value = play.write(play.lyon)
    play.until(lambda: play.role(play.lyon) != "PRIM")
    assert not play.is_acked(value)
    play.until_mirrored()


def late_admission() -> None:
    """5.1.6: the admission's CAS lingers: mirrored in the old epoch until it is known."""
    play = Play()
    play.paris.crash(power=False)
    play.until(lambda: play.role(play.lyon) == "ALONE")
    play.fate(play.lyon, "late", "lost")
    play.start(play.paris)
    play.until(lambda: bool(play.state(play.lyon).unresolved))
    play.run(300)
    value = play.write(play.lyon)
    play.run(300)
    assert play.is_acked(value)
    play.land()
    play.until_mirrored()


def register_is_lost() -> None:
    """5.0: nobody acts alone on an absent register; both connected make it again."""
    play = Play()
    play.pair.arbiter.lose()
    play.cut()
    play.run(15_000)
    assert play.pair.arbiter.register is None
    play.heal()
    play.until_mirrored()


def second_is_stopped() -> None:
    """A SECOND that is asked to stop stops, though its PRIM would rather go on with it."""
    play = Play()
    play.command(play.paris, Verb.STOP)
    play.until(lambda: play.role(play.paris) == "STOP", at_most_ms=5_000)
    play.until(lambda: play.role(play.lyon) == "ALONE", at_most_ms=5_000)
    play.command(play.paris, Verb.START)
    play.until_mirrored()


def both_say_goodbye() -> None:
    """With an arbiter nothing is decided by goodbyes: both stop, and both come back."""
    play = Play()
    value = play.write(play.lyon)
    play.run(200)
    play.command(play.lyon, Verb.STOP)
    play.command(play.paris, Verb.STOP)
    play.until(lambda: {play.role(play.lyon), play.role(play.paris)} == {"STOP"})
    play.command(play.lyon, Verb.START)
    play.command(play.paris, Verb.START)
    play.until_mirrored()
    assert play.is_acked(value)


HELD: list[tuple[Callable[[], None], str]] = [
    (takeover_unresolved_at_meeting, "replay-unresolved"),
    (adopting_what_may_be_replaced, "adopt-overtaken"),
    (second_still_acknowledging, "quiet-one"),
    (one_volume_still_acknowledging, "freeze-one"),
    (late_join_and_an_old_licence, "no-fresh-cas"),
    (takeover_unresolved_at_meeting, "ack-unresolved"),
    (restored_from_an_old_image, "read-is-held"),
    (admission_lands_after_the_link_broke, "own-old-record"),
    (swap_under_load, "swap-no-drain"),
    (power_lost_after_going_alone, "no-sync"),
    (swap_with_lost_reply, "swap-abort-local"),
    (restored_from_an_old_image, "no-nonce"),
    (power_lost_on_the_prim, "promote-unclean"),
    (failed_disk_on_the_prim, "failure-forgotten"),
    (failed_disk_on_the_second, "failure-forgotten"),
    (failed_disk_and_both_start_anew, "failure-forgotten"),
    (failed_disk_and_a_clean_stop, "failure-forgotten"),
    (writes_lost_between_two_processes, "failure-forgotten"),
    (register_is_lost, "lost-register-alone"),
    (arbiter_returns_with_a_lower_epoch, "epoch-forgotten"),
    (power_lost_on_a_durable_prim, "durable-peer-only"),
    (power_lost_after_the_level_was_lowered, "level-one-node"),
    (init_without_the_peer, "accept-unasked"),
]
ALL = [
    *dict.fromkeys(scenario for scenario, _ in HELD),
    first_fill_breaks,
    only_copy_on_a_failed_disk,
    prim_restarts_without_failover,
    prim_returns_alone_without_failover,
    freeze_ends,
    freeze_ends_without_failover,
    swap_landed_while_going_alone,
    foreign_register_while_going_alone,
    link_breaks_after_a_refused_admission,
    excluded_after_a_refused_admission,
    prim_is_stopped_beyond_the_timeout,
    late_admission,
    second_is_stopped,
    both_say_goodbye,
]


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.__name__)
def test_clean_with_the_rules(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize(("scenario", "breakage"), HELD, ids=[name for _, name in HELD])
def test_red_without_the_rule(scenario: Callable[[], None], breakage: str) -> None:
    with broken(breakage), pytest.raises((Violation, InvariantViolation, AssertionError)):
        scenario()
