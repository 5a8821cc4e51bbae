"""Rounds with an arbiter: the primary dies, is cut off, stopped, swapped, isolated, or leaves."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Final

import trio

from tests.pair import network
from tests.pair.pair import Pair
from tests.pair.place import TIMEOUT_S
from tests.pair.record import Round

#: What was under way when a cut began has ended after this long.
UNDER_WAY_S: Final = 0.1


async def kill(pair: Pair, nursery: trio.Nursery) -> Round:
    """kill -9 of the primary; then it is started again."""
    name = pair.primary()
    survivor = pair.other(name)
    at_s = time.monotonic()
    pair.nodes[name].kill()
    await pair.wait("the survivor serves", lambda: pair.has_acknowledged(survivor, at_s))
    await trio.sleep(0.5)
    played = Round(kind="kill", primary=name, served_by=survivor)
    pair.judge(played, at_s)
    back_s = time.monotonic()
    await pair.start_node(nursery, name)
    await pair.mirror_again(played, back_s)
    return played


async def cut(pair: Pair, nursery: trio.Nursery) -> Round:
    """Nothing passes between the nodes, and both reach the witness; then the cut is healed."""
    del nursery
    name = pair.primary()
    at_s = time.monotonic()
    network.cut(*pair.all_between())
    await pair.wait("one node is ALONE", lambda: bool(pair.with_role("ALONE")))
    await trio.sleep(TIMEOUT_S + 1)  # time enough for a second one to make a mistake
    played = Round(kind="cut", primary=name, served_by=",".join(pair.with_role("ALONE", "PRIM")))
    pair.judge(played, at_s)
    back_s = time.monotonic()
    network.heal()
    await pair.mirror_again(played, back_s)
    return played


async def stop(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary is stopped for longer than the timeout, and woken with writes in flight."""
    name = pair.primary()
    survivor = pair.other(name)
    port = pair.place.service_ports[name]
    waiting = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
    at_s = time.monotonic()
    os.kill(pair.nodes[name].pid, signal.SIGSTOP)
    for number, stream in enumerate(waiting, start=1):
        await stream.send_all(b"%d 1\n" % (-number))
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(survivor, at_s))
    await trio.sleep(0.5)
    answers: list[bytes] = []
    for stream in waiting:
        nursery.start_soon(_take_answer, stream, answers)
    played = Round(kind="stop", primary=name, served_by=survivor)
    # The client gives each answer 2 s: the service is there before it looks.
    played.notes["service_started_s"] = pair.heard(survivor, "service-started", at_s)
    woken_s = time.monotonic()
    os.kill(pair.nodes[name].pid, signal.SIGCONT)
    await pair.wait("the woken node stepped down", lambda: name in pair.with_role("WAIT", "SECOND"))
    played.notes["stepped_down_s"] = round(time.monotonic() - woken_s, 3)
    await pair.wait("the writes in flight were refused", lambda: len(answers) == len(waiting))
    answered = {int(number) for number in re.findall(rb"ok (-\d+)", b"".join(answers))}
    played.notes["answered"] = len(answered)
    pair.judge(played, at_s)
    await pair.wait("the nodes mirror again", pair.is_mirrored)
    # On a mounted volume the worker went on, until the other node took over.
    played.notes["answered_and_lost"] = len(answered - pair.held(survivor))
    played.mirrored_s = time.monotonic() - woken_s
    return played


async def _take_answer(stream: trio.SocketStream, answers: list[bytes]) -> None:
    """What comes until the connection ends."""
    received = b""
    try:
        async with stream:
            while part := await stream.receive_some(4096):
                received += part
    except trio.BrokenResourceError:
        pass
    answers.append(received)


async def swap(pair: Pair, nursery: trio.Nursery) -> Round:
    """The nodes exchange their roles on command."""
    del nursery
    name = pair.primary()
    target = pair.other(name)
    at_s = time.monotonic()
    await pair.nodes[name].command("swap")
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(target, at_s))
    played = Round(kind="swap", primary=name, served_by=target)
    await pair.wait("the nodes mirror", lambda: pair.is_mirrored() and pair.primary() == target)
    played.mirrored_s = time.monotonic() - at_s
    await trio.sleep(0.3)
    pair.judge(played, at_s)
    return played


async def isolate(pair: Pair, nursery: trio.Nursery) -> Round:
    """The nodes are cut off from each other and from the witness; the witness returns first."""
    del nursery
    return await _isolate(pair, still_cut=pair.all_between(), kind="isolate")


async def isolate_peer(pair: Pair, nursery: trio.Nursery) -> Round:
    """The nodes are cut off from each other and from the witness; the peer returns first."""
    del nursery
    return await _isolate(pair, still_cut=pair.to_witness(), kind="isolate_peer")


async def _isolate(pair: Pair, *, still_cut: tuple[network.Way, ...], kind: str) -> Round:
    """Everything is cut; then only `still_cut` is; then nothing."""
    name = pair.primary()
    at_s = time.monotonic()
    cut_s = network.cut(*pair.all_between(), *pair.to_witness())
    await trio.sleep(TIMEOUT_S + 1.5)
    alone = len(pair.record.since(cut_s + UNDER_WAY_S))
    back_s = time.monotonic()
    network.cut(*still_cut)
    await pair.wait("one node serves", lambda: bool(pair.record.since(back_s)))
    await trio.sleep(0.5)
    played = Round(kind=kind, primary=name, served_by=",".join(pair.with_role("ALONE", "PRIM")))
    pair.judge(played, at_s)
    played.notes["acknowledged_while_isolated"] = alone
    played.notes["resumed_after_healing_s"] = round(pair.record.since(back_s)[0].at_s - back_s, 3)
    healed_s = time.monotonic()
    network.heal()
    await pair.mirror_again(played, healed_s)
    return played


async def leave(pair: Pair, nursery: trio.Nursery) -> Round:
    """The primary is stopped in good order; then it is started again."""
    name = pair.primary()
    target = pair.other(name)
    at_s = time.monotonic()
    pair.leaving.add(name)
    await pair.nodes[name].command("stop")
    await pair.wait("the other node serves", lambda: pair.has_acknowledged(target, at_s))
    await trio.sleep(0.3)
    played = Round(kind="leave", primary=name, served_by=target)
    pair.judge(played, at_s)
    await pair.nodes[name].finish()
    pair.leaving.remove(name)
    back_s = time.monotonic()
    await pair.start_node(nursery, name)
    await pair.mirror_again(played, back_s)
    return played
