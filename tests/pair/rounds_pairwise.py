"""Rounds without an arbiter: the two nodes keep the register between them."""

from __future__ import annotations

import time
from typing import Final

import trio

from tests.pair import network
from tests.pair.pair import Pair, PairError
from tests.pair.place import GROUPS, ISOLATION_HOST, TIMEOUT_S
from tests.pair.record import Round
from tests.pair.rounds import UNDER_WAY_S

SPLIT_WRITES: Final = 5


async def consistent(pair: Pair, nursery: trio.Nursery) -> Round:
    """The link is cut: nobody may go on, both say why; it heals, and the service resumes."""
    del nursery
    name = pair.primary()
    at_s = time.monotonic()
    cut_s = network.cut(*pair.all_between())
    await trio.sleep(TIMEOUT_S + 1.5)  # time enough to go on
    played = Round(kind="consistent", primary=name)
    played.notes["acknowledged_while_cut"] = len(pair.record.since(cut_s + UNDER_WAY_S))
    played.notes["why"] = {node: pair.status(node)["why"] for node in pair.nodes}
    back_s = time.monotonic()
    network.heal()
    await pair.wait("the service resumes", lambda: bool(pair.record.since(back_s)))
    played.notes["resumed_after_healing_s"] = round(pair.record.since(back_s)[0].at_s - back_s, 3)
    await pair.mirror_again(played, back_s)
    played.served_by = pair.primary()
    pair.judge(played, at_s)
    return played


async def goodbye(pair: Pair, nursery: trio.Nursery) -> Round:
    """The SECOND is stopped in good order, and started again; then the PRIM is."""
    name = pair.primary()
    other = pair.other(name)
    at_s = time.monotonic()
    await _stop(pair, other)
    await pair.wait("the PRIM goes on alone", lambda: pair.with_role("ALONE") == [name])
    await trio.sleep(0.3)
    second_left = Round(kind="goodbye", primary=name, served_by=name)
    pair.judge(second_left, at_s)
    await _start_again(pair, nursery, other)

    at_s = time.monotonic()
    await _stop(pair, name)
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(other, at_s))
    await trio.sleep(0.3)
    played = Round(kind="goodbye", primary=name, served_by=other)
    pair.judge(played, at_s)
    played.notes["pause_when_second_left_s"] = round(second_left.silence_s, 3)
    back_s = time.monotonic()
    await _start_again(pair, nursery, name)
    played.mirrored_s = time.monotonic() - back_s
    return played


async def _stop(pair: Pair, name: str) -> None:
    pair.leaving.add(name)
    await pair.nodes[name].command("stop")


async def _start_again(pair: Pair, nursery: trio.Nursery, name: str) -> None:
    await pair.nodes[name].finish()
    pair.leaving.remove(name)
    await pair.start_node(nursery, name)
    await pair.wait("the node that left is back", pair.is_mirrored)


async def available_one(pair: Pair, nursery: trio.Nursery) -> Round:
    """Only one side of the cut reaches the isolation check: the SECOND first, then the PRIM."""
    del nursery
    name = pair.primary()
    reaches = pair.other(name) if pair.rounds % 2 == 0 else name
    barred = pair.other(reaches)
    at_s = time.monotonic()
    cut_s = network.cut(*pair.all_between(), groups={GROUPS[barred]: ISOLATION_HOST})
    await pair.wait("one node goes on", lambda: pair.has_acknowledged(reaches, at_s + TIMEOUT_S))
    await trio.sleep(TIMEOUT_S)  # time enough for the other one to make a mistake
    played = Round(kind="available_one", primary=name, served_by=",".join(pair.with_role("ALONE")))
    pair.judge(played, at_s)
    port = pair.place.service_ports[barred]
    rows = pair.record.since(cut_s + UNDER_WAY_S)
    played.notes["reaches"] = reaches
    played.notes["alone_after_s"] = pair.heard(reaches, "won-alone", at_s)
    played.notes["acknowledged_by_the_other"] = sum(row.port == port for row in rows)
    played.notes["why"] = pair.status(barred)["why"]
    back_s = time.monotonic()
    network.heal()
    await pair.mirror_again(played, back_s)
    return played


async def available_both(pair: Pair, nursery: trio.Nursery) -> Round:
    """Both reach the isolation check, and go on: a split. The former PRIM's data stands.

    The other side is filled by itself, and what it alone acknowledged is in its rescue directory.
    """
    del nursery
    winner = pair.primary()
    loser = pair.other(winner)
    at_s = time.monotonic()
    network.cut(*pair.all_between())
    await pair.wait(
        "both are ALONE, and serve",
        lambda: (
            len(pair.with_role("ALONE")) == 2
            and all(pair.status(node)["service"]["state"] == "started" for node in pair.nodes)
        ),
    )
    own = await _write(pair, loser)
    await pair.wait("the client was served", lambda: pair.has_acknowledged(winner, at_s + 1))
    played = Round(kind="available_both", primary=winner)
    played.resumed_s = pair.heard(winner, "won-alone", at_s)
    back_s = time.monotonic()
    network.heal()
    await pair.wait(
        "the losing side is filled by itself",
        lambda: pair.with_role("PRIM") == [winner] and pair.with_role("SECOND") == [loser],
    )
    played.mirrored_s = time.monotonic() - back_s
    resumed_s = time.monotonic()
    await pair.wait("the winner goes on", lambda: pair.has_acknowledged(winner, resumed_s))
    await pair.wait("both tell of it", lambda: all(pair.status(n)["rescued"] for n in pair.nodes))
    for rule in ("split", "rescued", "peer-rescued"):
        played.notes[rule] = [node for node in pair.nodes if rule in pair.rules(node, back_s)]
    played.notes["colours"] = {node: pair.status(node)["colour"] for node in pair.nodes}
    played.notes["rescued"] = pair.status(winner)["rescued"]
    port = pair.place.service_ports[loser]
    apart = {row.number for row in pair.record.since(at_s) if row.port == port}
    lost = (apart | own) - pair.held(loser)
    played.notes["only_in_the_rescue"] = len(lost)
    pair.kept[loser] |= lost
    played.served_by = ",".join(pair.with_role("PRIM"))
    pair.given_up |= lost
    await pair.nodes[loser].command("acknowledge")
    await pair.wait("nothing more is told", pair.is_mirrored)
    return played


async def _write(pair: Pair, name: str) -> set[int]:
    """Some transactions of our own, straight to one node; returns those it acknowledged."""
    first = -1 - SPLIT_WRITES * pair.rounds
    numbers = [first - i for i in range(SPLIT_WRITES)]
    acknowledged = set()
    with trio.fail_after(5):
        stream = await trio.open_tcp_stream("127.0.0.1", pair.place.service_ports[name])
        async with stream:
            for number in numbers:
                await stream.send_all(b"%d 1\n" % number)
                answer = await stream.receive_some(64)
                if answer != b"ok %d\n" % number:
                    raise PairError(f"{name} answered {answer!r} to transaction {number}")
                acknowledged.add(number)
    return acknowledged
