"""What is told of heartbeats though it decides nothing: a lost network, a peer that stalls."""

from __future__ import annotations

from typing import Final

from mirrorha.core.detector import PathState, Standing
from mirrorha.core.turn import Turn

_TEXTS: Final = {
    PathState.SILENT: ("path-lost", "nothing is heard on {path}; the other heartbeat paths work"),
    PathState.ONE_WAY_OUT: (
        "path-one-way",
        "{other} is heard on {path} and does not hear this node there; the other heartbeat paths "
        "work",
    ),
    PathState.UP: ("path-back", "{path} works again"),
}


def look(turn: Turn) -> None:
    """Once per step."""
    if len(turn.s.settings.paths) > 1:
        _look_at_paths(turn)
    _look_at_peer(turn)


def _look_at_paths(turn: Turn) -> None:
    """A path is missed only beside another one that has worked for a while.

    Else it is the peer that is away or just coming, and that is told otherwise.
    """
    s, watch = turn.s, turn.s.watch
    states = s.detector.path_states(turn.now_ms)
    if PathState.UP not in states.values():
        watch.unheard_ms = turn.now_ms
    if turn.now_ms - watch.unheard_ms < s.settings.timeout_ms:
        return
    for path, state in states.items():
        if state is not PathState.ONE_WAY_OUT:
            watch.one_way_ms[path] = turn.now_ms
        elif turn.now_ms - watch.one_way_ms.get(path, 0) < 3 * s.settings.pulse_ms:
            continue  # on its way to silence: the peer's last echo is older than its last beat
        if watch.paths.get(path, PathState.UP) is not state:
            rule, text = _TEXTS[state]
            alarm = state is not PathState.UP
            turn.note(rule, text.format(path=path, other=s.other), alarm=alarm)
        watch.paths[path] = state


def _look_at_peer(turn: Turn) -> None:
    s, watch = turn.s, turn.s.watch
    stalled = s.detector.verdict(turn.now_ms).standing is Standing.STALLED
    if stalled and not watch.stalled:
        text = f"the application on {s.other} blocks its event loop; its heartbeats go on"
        turn.note("peer-stalled", text, alarm=True)
    elif watch.stalled and not stalled:
        turn.note("peer-turns-again", f"the application on {s.other} is not stalled any more")
    watch.stalled = stalled
