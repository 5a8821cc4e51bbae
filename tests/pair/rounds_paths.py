"""Rounds in which some ways between the nodes are cut, and others are not."""

from __future__ import annotations

import time
from typing import Any

import attrs
import trio

from mirrorha.cli.demo.place import NODES
from tests.pair import network
from tests.pair.network import Way
from tests.pair.pair import Pair
from tests.pair.place import PEER_SLOW_MAX_S, TIMEOUT_S
from tests.pair.record import Round
from tests.pair.rounds import UNDER_WAY_S


async def networks(pair: Pair, nursery: trio.Nursery) -> Round:
    """One of two networks is cut, then the other one: the pair stays what it is."""
    del nursery
    played = Round(kind="networks", primary=pair.primary())
    pauses = {}
    for number in (0, 1):
        ways = pair.between(number)
        pauses[f"network {number + 1}"], shown = await _cut_some(pair, played, ways)
        played.notes.setdefault("shown", {})[f"network {number + 1}"] = shown
    played.notes["pauses_s"] = pauses
    return played


async def one_way_path(pair: Pair, nursery: trio.Nursery) -> Round:
    """One way of the first network is cut, then the other way of the second one.

    The sessions, which leave the first network for the second one, leave that one again.
    """
    del nursery
    played = Round(kind="one_way_path", primary=pair.primary())
    pauses = {}
    senders = NODES if pair.rounds % 2 == 0 else NODES[::-1]
    for number, sender in enumerate(senders):
        (way,) = (way for way in pair.between(number) if way in pair.all_from(sender))
        text = f"{way.source} → {way.target}"
        pauses[text], shown = await _cut_some(pair, played, (way,))
        played.notes.setdefault("shown", {})[text] = shown
    played.notes["pauses_s"] = pauses
    return played


async def _cut_some(
    pair: Pair, played: Round, ways: tuple[Way, ...]
) -> tuple[float, dict[str, Any]]:
    """Cut `ways` for a while. Returns the longest pause, and each node's paths that are not up."""
    epoch = pair.status(played.primary)["epoch"]
    at_s = time.monotonic()
    network.cut(*ways)
    await trio.sleep(TIMEOUT_S + 1)
    await pair.wait_told()
    shown = {
        name: {
            f"{path['from']} → {path['to']}": path["state"]
            for path in pair.status(name)["heartbeats"]
            if path["state"] != "up" and path["last_heard_s"] is not None
        }
        for name in pair.nodes
    }
    for name in pair.nodes:
        told = [rule for rule in pair.rules(name, at_s) if rule.startswith("path-")]
        played.notes.setdefault("told", {}).setdefault(name, []).extend(told)
    back_s = time.monotonic()
    network.heal()
    await trio.sleep(0.5)
    await pair.wait("the nodes mirror", pair.is_mirrored)
    pair.judge(part := Round(kind="", primary=played.primary), at_s)
    pause_s = max(part.silence_s, time.monotonic() - pair.record.read()[-1].at_s)
    played.silence_s = max(played.silence_s, pause_s)
    played.resumed_s = max(played.resumed_s, part.resumed_s)
    played.late += part.late
    played.mirrored_s = max(played.mirrored_s, time.monotonic() - back_s)
    played.served_by = pair.primary()
    decisions = played.notes.get("decisions", 0)
    played.notes["decisions"] = decisions + pair.status(played.served_by)["epoch"] - epoch
    return round(pause_s, 3), shown


async def only_tcp(pair: Pair, nursery: trio.Nursery) -> Round:
    """Connections over one network are dead, and heartbeats are not: the worst of cuts.

    The pair becomes whole again over the other network. It is the first network that is cut, and
    the next time the second one, where the sessions are by then.
    """
    del nursery
    name = pair.primary()
    played = Round(kind="only_tcp", primary=name)
    at_s = time.monotonic()
    network.cut(*(attrs.evolve(way, only_tcp=True) for way in pair.between(pair.rounds % 2)))
    await trio.sleep(TIMEOUT_S)
    await pair.wait("the nodes mirror over the other network", pair.is_mirrored)
    await pair.wait("it lasts", lambda: time.monotonic() > at_s + PEER_SLOW_MAX_S + 1)
    await pair.mirror_again(played, at_s)
    network.heal()
    played.served_by = pair.primary()
    pair.judge(played, at_s)
    return played


async def one_way(pair: Pair, nursery: trio.Nursery) -> Round:
    """Nothing passes from one node to the other: from the PRIM, and the next time to it."""
    del nursery
    name = pair.primary()
    sender = name if pair.rounds % 2 == 0 else pair.other(name)
    at_s = time.monotonic()
    network.cut(*pair.all_from(sender))
    await pair.wait(
        "one node is ALONE, and serves",
        lambda: (
            bool(alone := pair.with_role("ALONE"))
            and pair.has_acknowledged(alone[0], at_s + UNDER_WAY_S)
        ),
    )
    await trio.sleep(TIMEOUT_S + 0.5)  # time enough for a second one to make a mistake
    played = Round(kind="one_way", primary=name, served_by=",".join(pair.with_role("ALONE")))
    played.notes["cut_from"] = "PRIM" if sender == name else "SECOND"
    pair.judge(played, at_s)
    # The client gives each answer 2 s before it tries the other node: it goes on sooner.
    played.notes["alone_after_s"] = pair.heard(pair.with_role("ALONE")[0], "won-alone", at_s)
    back_s = time.monotonic()
    network.heal()
    await pair.mirror_again(played, back_s)
    return played
