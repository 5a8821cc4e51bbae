"""Nothing that a node alone acknowledged is thrown away: what is kept, since when, and who is told.

A node that is filled, and whose newest generation its source does not have, lost a split: by
policy, or because a person gave it up. So did one whose source was forced by an operator since they
had the same: what that lacks may be here. What differs is kept in the rescue directory of each
volume. That it must be is durable before the first change, and until the node was admitted: a
resync that is begun again goes on with the same rescue, which has the name of that generation.
"""

from __future__ import annotations

from typing import Final

from mirrorha.core import lineage
from mirrorha.core.messages import PeerState, RescueNote
from mirrorha.core.orders import Rescued
from mirrorha.core.state import State
from mirrorha.core.turn import Turn

# Told at the same time: what nobody acknowledges does not grow for ever. The directories stay.
RESCUED_MAX: Final = 64


def owed_by(s: State) -> str:
    """The generation whose writes must be kept if the peer fills this node; "": nothing must be."""
    chain = s.meta.lineage or s.meta.given_up
    theirs = s.peer.lineage if s.peer is not None else ()
    if chain and (chain[-1] not in theirs or _is_forced_since(chain[-1], theirs)):
        return chain[-1]
    return s.meta.rescue


def _is_forced_since(generation: str, theirs: tuple[str, ...]) -> bool:
    """An operator forced the source after both had the same: it may lack what this node has."""
    return bool(lineage.forced_in(theirs[theirs.index(generation) + 1 :]))


def begin(turn: Turn) -> None:
    """This node is going to be filled, in this step: remember what must be kept."""
    s, owed = turn.s, owed_by(turn.s)
    if owed and owed != s.meta.rescue:
        turn.note(
            "rescue-begins",
            f"{s.me} has, or may have, acknowledged what {s.other} lacks: what differs here is "
            "kept in the rescue directory of each volume before it is overwritten",
        )
        if s.meta.rescue:
            _tell_unended(turn)
    turn.change(rescue=owed)


def _tell_unended(turn: Turn) -> None:
    """This node was forced in the middle of a rescue. Another one begins: nobody ends that one.

    What it had moved aside is kept by this one; what it had kept, no volume reports any more.
    """
    s = turn.s
    directory = f"*-{s.meta.rescue}"
    notes = [RescueNote(volume, directory, 0, 0) for volume in s.settings.volumes]
    turn.change(rescued=(*s.meta.rescued, *notes)[-RESCUED_MAX:])
    for note in notes:
        turn.note("rescued", text_of(note, s.me), alarm=True)


def on_rescued(turn: Turn, volume: str, report: Rescued) -> None:
    """A volume has kept all that it must, and says where. Told until a person has seen it."""
    s = turn.s
    found = RescueNote(volume, report.directory, report.files, report.content_bytes)
    if found in s.meta.rescued:
        return
    if not report.files:
        turn.note("rescued", f"volume {volume}: nothing of {s.me}'s side had to be kept")
        return
    place = (volume, report.directory)
    others = [one for one in s.meta.rescued if (one.volume, one.directory) != place]
    turn.change(rescued=(*others, found)[-RESCUED_MAX:])
    turn.note("rescued", text_of(found, s.me), alarm=True)


def on_peer(turn: Turn, peer: PeerState) -> None:
    """What the peer has kept is this node's alarm as well, once."""
    s = turn.s
    for note in peer.rescued:
        if note not in s.peer_rescued:
            turn.note("peer-rescued", text_of(note, s.other), alarm=True)
    s.peer_rescued = peer.rescued


def text_of(note: RescueNote, node: str) -> str:
    """For people: what was kept, where, and what to do now."""
    if not note.files:
        return (
            f"what a rescue that did not end had kept of what {node} alone had is on {node} in "
            f".mirrorha-rescue/{note.directory} of volume {note.volume}, if there was anything; "
            f"look at it, then 'mirrorha acknowledge' on {node} ends this alarm"
        )
    return (
        f"after a split, {note.files} files ({note.content_bytes} bytes) that {node} alone had "
        f"are kept on {node} in {note.directory} of volume {note.volume}; look at them, then "
        f"'mirrorha acknowledge' on {node} ends this alarm"
    )
