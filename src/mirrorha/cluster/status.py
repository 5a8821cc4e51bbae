"""The status document: what a node knows of itself and its peer, as plain values."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import attrs

from mirrorha.cluster.at_rest import SCHEMA, Document
from mirrorha.core import lineage, overriding
from mirrorha.core.detector import PathState
from mirrorha.core.health import colour_of, colour_of_peer, data_of, data_of_peer, why_of
from mirrorha.core.messages import Standing
from mirrorha.core.orders import Progress
from mirrorha.core.register import Register
from mirrorha.core.serving import failures
from mirrorha.core.words import Colour, Mode, Role
from mirrorha.switches.keeper import SwitchState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorha.checks.runner import CheckReport
    from mirrorha.core.messages import RescueNote
    from mirrorha.core.state import Decision, State
    from mirrorha.net.heartbeat import PathStatistics
    from mirrorha.service import ServiceStatus
    from mirrorha.switches.keeper import SwitchReport
    from mirrorha.volume.driver import DriverStatus


@attrs.frozen(kw_only=True)
class VolumeView:
    """A volume: what the core calls it, where it is on this node, what its driver last said."""

    name: str
    path: str
    status: DriverStatus
    verify: Document | None = None


@attrs.frozen(kw_only=True)
class View:
    """Everything that the document is made from.

    Attributes:
        cluster, state: the cluster's name; what the core knows.
        link: how the volumes' streams are secured, as configured.
        now_ms, wall_s: the time, by the core's clock and since 1970.
        link_trouble: why the peer is refused, or "".
        warnings: settings that differ and may.
        differing: what is known to differ between the two copies, and is not repaired.
        arbiter_kind, arbiter_trouble: what it is; why it did not answer lately, or "".
        is_arbiter_reachable: whether the latest request was answered.
    """

    cluster: str
    link: str
    state: State
    now_ms: int
    wall_s: float
    volumes: Sequence[VolumeView]
    heartbeats: Sequence[PathStatistics]
    service: ServiceStatus
    checks: Sequence[CheckReport]
    switches: Sequence[SwitchReport]
    link_trouble: str
    warnings: Sequence[str]
    differing: Sequence[str]
    arbiter_kind: str
    arbiter_trouble: str
    is_arbiter_reachable: bool


def document(view: View) -> Document:
    """The status document of a running node: JSON-able, stable keys, times RFC 3339 in UTC."""
    s = view.state
    since_s = view.wall_s - (view.now_ms - s.since_ms) / 1000
    # Nothing ends that wait but a person who makes the two fit.
    is_refused = bool(view.link_trouble) and s.role is Role.WAIT
    why = why_of(s)
    if is_refused:
        why += f"; {s.other} is refused: {view.link_trouble}"
    return {
        "schema": SCHEMA,
        "cluster": view.cluster,
        "node": s.me,
        "role": s.role.value,
        "colour": (Colour.RED if is_refused else _colour(view)).value,
        "data": data_of(s).value,
        "epoch": s.epoch,
        "since": rfc3339(since_s),
        "why": why,
        "running": True,
        "operation": _operation(s.decision),
        "heartbeats": _heartbeats(view),
        "service": {
            "state": s.service.value,
            "text": s.gave_up or view.service.text,
            "restarts": min(len(failures(s, view.now_ms)), s.settings.restart_limit),
            "restart_limit": s.settings.restart_limit,
        },
        "link": view.link,
        "peer": _peer(view),
        "volumes": [_volume(view, each) for each in view.volumes],
        "checks": [_check(each) for each in view.checks],
        "switches": [_switch(each) for each in view.switches],
        "arbiter": _arbiter(view),
        "paused": s.meta.paused,
        "rescued": [*_rescued(s.me, s.meta.rescued), *_rescued(s.other, s.peer_rescued)],
        "warnings": _warnings(view),
        "incarnation": s.meta.incarnation,
        "generation": s.meta.generation,
        "why_since": rfc3339(view.wall_s - (view.now_ms - s.why_ms) / 1000),
        "override": _override(s),
        "forced": _forced(s),
    }


def _colour(view: View) -> Colour:
    """A pair whose copies are known to differ, or that no client finds, is not well as it seems."""
    colour = colour_of(view.state)
    is_off = any(each.state is SwitchState.FAILED for each in view.switches)
    return Colour.ORANGE if colour is Colour.GREEN and (view.differing or is_off) else colour


def _override(s: State) -> Document:
    """What an operator's force would cost here; and the command, where it ends a wait."""
    return {
        "command": overriding.command(s) or None,
        "primary_loses": overriding.primary_loses(s),
        "secondary_loses": overriding.secondary_loses(s),
    }


def _forced(s: State) -> Document | None:
    """What operators forced, for as long as the data descends from it."""
    generations = lineage.forced_in(s.meta.lineage)
    if not generations and s.meta.unconfirmed is None and not s.meta.stood_down:
        return None
    return {
        "generations": list(generations),
        "epochs": list(s.meta.forced),
        "unconfirmed": s.meta.unconfirmed is not None,
        "inconsistent": lineage.is_inconsistent(s.meta.lineage),
        "stood_down": s.meta.stood_down,
    }


def _warnings(view: View) -> list[str]:
    meta = view.state.meta
    warnings = [*view.warnings, *view.differing]
    if meta.unconfirmed is not None:
        warnings.append(
            "an operator forced this node to be the primary without the arbiter: the other node "
            "may acknowledge writes as well, until a compare-and-swap is won"
        )
    if lineage.is_inconsistent(meta.lineage):
        warnings.append(
            "an operator forced inconsistent data: files may be half of one state and half of "
            "another"
        )
    return warnings


def rfc3339(wall_s: float) -> str:
    """A time since 1970 as text, to the millisecond, in UTC."""
    moment = datetime.datetime.fromtimestamp(wall_s, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _operation(decision: Decision | None) -> Document | None:
    if decision is None:
        return None
    return {
        "id": decision.operation,
        "kind": decision.kind.value,
        "progress": decision.stage.value,
        "why": decision.why,
    }


def _heartbeats(view: View) -> list[Document]:
    states = view.state.detector.path_states(view.now_ms)
    return [_heartbeat(each, states.get(each.name, PathState.SILENT)) for each in view.heartbeats]


def _heartbeat(path: PathStatistics, state: PathState) -> Document:
    return {
        "from": path.local,
        "to": path.peer,
        "state": state.value,
        "up": path.up,
        "last_heard_s": path.last_heard_s,
        "error": path.error or path.refusal,
    }


def _peer(view: View) -> Document:
    s = view.state
    heard = [each.last_heard_s for each in view.heartbeats if each.last_heard_s is not None]
    data = data_of_peer(s.peer)
    return {
        "name": s.other,
        "role": s.peer.role if s.peer else None,
        "colour": colour_of_peer(s.peer).value,
        "data": data.value if data else None,
        "link": "up" if s.link else "down",
        "stalled": s.watch.stalled,
        "refused": view.link_trouble,
        "last_heard_s": min(heard, default=None),
        "service": s.peer.service if s.peer else None,
        "why": s.peer.why if s.peer else "",
        "paused": s.peer.paused if s.peer else None,
        "last": _last(s),
    }


def _last(s: State) -> Document | None:
    """What it was when it was connected last; None while it is, or if it never was."""
    last = s.last_peer
    if s.peer is not None or last is None:
        return None
    return {"role": last.role, "epoch": last.epoch, "why": last.why}


def _volume(view: View, volume: VolumeView) -> Document:
    s = view.state
    # A follower's acknowledgements are its source's: mirrored, though it answers nobody here.
    follows = s.standing is Standing.FOLLOWER and not s.frozen
    status = volume.status
    mode = Mode.MIRROR if follows else status.mode
    return {
        "path": volume.path,
        "mode": mode.value if mode else None,
        "data": data_of(s).value,
        "seq": status.seq,
        "peer_seq": status.peer_seq,
        "waiting": status.waiting,
        "mounted": status.mounted,
        "worker_pid": status.pid,
        "resync": _resync(view, volume.name),
        "verify": volume.verify,
    }


def _rescued(node: str, notes: Sequence[RescueNote]) -> list[Document]:
    """What a node has kept of its side of a split, as long as nobody has acknowledged it."""
    return [
        {
            "node": node,
            "volume": note.volume,
            "directory": note.directory,
            "files": note.files,
            "bytes": note.content_bytes,
        }
        for note in notes
    ]


def _resync(view: View, volume: str) -> Document | None:
    s = view.state
    progress, decision = s.progress.get(volume), s.decision
    if decision is None or not isinstance(progress, Progress):
        return None
    if progress.session != decision.session:
        return None
    return _progress(progress, elapsed_ms=view.now_ms - decision.since_ms)


def _progress(progress: Progress, *, elapsed_ms: int) -> Document:
    left_bytes = max(0, progress.total_bytes - progress.done_bytes)
    rate = progress.rate_bytes_per_s
    if not rate and elapsed_ms > 0:
        rate = progress.done_bytes * 1000 // elapsed_ms
    eta_s = round(left_bytes / rate, 1) if rate else None
    return {
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "files_left": progress.files_left,
        "sent_bytes": progress.sent_bytes,
        "rate_bytes_per_s": rate,
        "limit_bytes_per_s": progress.limit_bytes_per_s or None,
        "eta_s": eta_s,
    }


def _check(report: CheckReport) -> Document:
    return {
        "name": report.name,
        "kind": report.kind,
        "state": report.state.value,
        "text": report.text,
        "on_failure": report.on_failure,
        "in_a_row": report.in_a_row,
        "duration_s": report.duration_ms / 1000,
    }


def _switch(report: SwitchReport) -> Document:
    return {
        "name": report.name,
        "kind": report.kind,
        "wanted": report.wanted,
        "state": report.state.value,
        "text": report.text,
    }


def _arbiter(view: View) -> Document:
    s = view.state
    register = s.seen if isinstance(s.seen, Register) else None
    return {
        "kind": view.arbiter_kind,
        "reachable": view.is_arbiter_reachable,
        "trouble": s.register_problem or view.arbiter_trouble,
        "register": None
        if register is None
        else {
            "cluster_id": register.cluster_id,
            "epoch": register.epoch,
            "primary": register.primary,
            "in_sync": sorted(register.in_sync),
        },
    }
