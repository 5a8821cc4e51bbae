"""How quantities and the status look to people."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLOURS: Final = {"green": "green", "orange": "yellow", "red": "red", "grey": "bright_black"}
_KIB: Final = 1024


def bytes_text(count: float) -> str:
    """Bytes in the largest unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} TiB"


def time_text(wall_s: float) -> str:
    """Seconds since 1970 as RFC 3339, in UTC."""
    moment = datetime.datetime.fromtimestamp(wall_s, tz=datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def role_text(role: str | None, colour: str) -> str:
    """A role with its colour, in that colour: never one without the other."""
    return click.style(f"{role or 'unknown'} ({colour})", fg=_COLOURS.get(colour))


def status_text(document: dict[str, Any]) -> str:
    """The status document for people, a line for each thing, with colours."""
    return "\n".join(_lines(document))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    role = role_text(document["role"], document["colour"])
    since = f", since {document['since']}" if document.get("since") else ""
    head = f"{document['cluster']}/{document['node']}: {role}"
    rest = f"data {document['data']}, epoch {document['epoch']}{since}"
    yield f"{click.style(head, bold=True)}, {rest}"
    if document.get("paused"):
        yield _line("PAUSED", "nothing happens by itself until `mirrorha resume`", fg="yellow")
    for name, text in _facts(document):
        yield _line(name, text)
    for rescue in document.get("rescued", ()):
        yield _line("RESCUED", rescue_text(rescue), fg="red")
    if forced := document.get("forced"):
        yield _line("FORCED", forced_text(forced), fg="yellow")
    for warning in document.get("warnings", ()):
        yield _line("warning", warning, fg="yellow")


def _line(name: str, text: str, *, fg: str | None = None) -> str:
    return f"  {click.style(f'{name:<10}', fg=fg)} {text}"


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if document.get("why"):
        yield "why", _why_text(document)
    if operation := document.get("operation"):
        yield "operation", f"{operation.get('kind')}: {operation.get('progress')}"
    if service := document.get("service"):
        yield "service", _service_text(service)
    if peer := document.get("peer"):
        yield "peer", peer_text(peer)
    if document.get("link") == "plain":
        yield "link", "plain: what is mirrored travels unencrypted"
    for volume in document.get("volumes", ()):
        yield "volume", _volume_text(volume)
        if volume.get("resync"):
            yield "", resync_text(volume["resync"])
        if volume.get("verify"):
            yield "", verify_text(volume["verify"])
    yield from _around(document)


def _around(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path in document.get("heartbeats", ()):
        yield "heartbeat", _heartbeat_text(path)
    for check in document.get("checks", ()):
        yield "check", _stated(check, check.get("name") or check.get("kind") or "")
    for switch in document.get("switches", ()):
        yield "switch", _stated(switch, switch.get("name") or switch.get("kind") or "")
    if arbiter := document.get("arbiter"):
        yield "arbiter", arbiter_text(arbiter)


def _why_text(document: dict[str, Any]) -> str:
    """The reason; and since when, if that is not since when the role is."""
    why, since = str(document["why"]), document.get("why_since")
    if not since or since == document.get("since") or document["role"] != "WAIT":
        return why
    return f"{why} (since {since})"


def _service_text(service: dict[str, Any]) -> str:
    text = str(service.get("state"))
    if service.get("restart_limit"):
        text += f", {service.get('restarts', 0)} of {service['restart_limit']} restarts used"
    return f"{text}: {service['text']}" if service.get("text") else text


def peer_text(peer: dict[str, Any]) -> str:
    parts = [f"{peer['name']} {role_text(peer.get('role'), peer['colour'])}"]
    if peer.get("data"):
        parts.append(f"data {peer['data']}")
    parts.append(f"link {peer['link']}")
    parts.append(_heard(peer.get("last_heard_s")))
    if peer.get("stalled"):
        parts.append("its application STALLS (blocks its event loop)")
    if peer.get("refused"):
        parts.append(f"refused: {peer['refused']}")
    return ", ".join(parts)


def _volume_text(volume: dict[str, Any]) -> str:
    text = f"{volume['path']} {volume.get('mode') or 'not open'}, data {volume['data']}"
    if volume.get("mounted"):
        text += ", mounted"
    if volume.get("mode"):
        peer_seq = volume.get("peer_seq")
        text += f", seq {volume['seq']} (peer {'?' if peer_seq is None else peer_seq})"
    return text


def rescue_text(rescue: dict[str, Any]) -> str:
    """What a node has kept of its side of a split, and what to do now."""
    node = rescue["node"]
    if not rescue["files"]:
        return (
            f"what a rescue that did not end had kept is on {node} in "
            f".mirrorha-rescue/{rescue['directory']} of volume {rescue['volume']}, if there was "
            f"anything yet: look at it, then `mirrorha acknowledge` on {node}"
        )
    return (
        f"{rescue['files']} files ({bytes_text(rescue['bytes'])}) that {node} alone had before a "
        f"split ended are on {node} in {rescue['directory']} of volume {rescue['volume']}: look at "
        f"them, then `mirrorha acknowledge` on {node}"
    )


def resync_text(resync: dict[str, Any]) -> str:
    """How far a resynchronisation is."""
    done, total = resync["done_bytes"], resync["total_bytes"]
    percent = f"{100 * done / total:.1f} %" if total else "0 bytes to compare"
    text = f"resync {percent} {bytes_text(done)}/{bytes_text(total)}"
    if resync.get("files_left") is not None:
        text += f", {resync['files_left']} files left"
    if resync.get("rate_bytes_per_s") is not None:
        text += f", {bytes_text(resync['rate_bytes_per_s'])}/s"
    if resync.get("limit_bytes_per_s"):
        text += f" (limited to {bytes_text(resync['limit_bytes_per_s'])}/s)"
    if resync.get("eta_s") is not None:
        text += f", {resync['eta_s']:.0f} s left"
    return text


def verify_text(verify: dict[str, Any]) -> str:
    """How far a comparison of the two copies is, or what came of the last one."""
    found = verify["differences"] - verify["repaired"]
    what = f"{found} differences" if found else "no difference"
    if verify["state"] == "running":
        done, total = verify["bytes"], verify["total_bytes"]
        text = f"verify {bytes_text(done)}/{bytes_text(total)}"
        text += f", {verify['total_files'] - verify['files']} files left"
        if verify.get("eta_s") is not None:
            text += f", {verify['eta_s']:.0f} s left"
        return f"{text}, {what} so far"
    text = f"verified {verify['ended']}: {what} in {verify['files']} files"
    return f"{text}, then stopped: {verify['why']}" if verify["why"] else text


def forced_text(forced: dict[str, Any]) -> str:
    """What operators forced, in the data that is here."""
    if not forced["generations"]:
        return "an operator had this node give up its standing"
    return f"by operators, in generation {', '.join(forced['generations'])}"


def _heartbeat_text(path: dict[str, Any]) -> str:
    up = "up" if path.get("up") else "down"
    if path.get("state") == "one_way_out":
        up = "ONE WAY (heard here, not there)"
    error = f": {path['error']}" if path.get("error") else ""
    return f"{path['from']} → {path['to']} {up}, {_heard(path.get('last_heard_s'))}{error}"


def _heard(last_heard_s: float | None) -> str:
    return "never heard" if last_heard_s is None else f"heard {last_heard_s:.1f} s ago"


def _stated(thing: dict[str, Any], name: str) -> str:
    text = f"{name}: {thing.get('state')}"
    return f"{text}: {thing['text']}" if thing.get("text") else text


def arbiter_text(arbiter: dict[str, Any]) -> str:
    reachable = "reachable" if arbiter.get("reachable") else "NOT reachable"
    text = f"{arbiter['kind']} {reachable}"
    if arbiter.get("trouble"):
        text += f" ({arbiter['trouble']})"
    if register := arbiter.get("register"):
        members = " ".join(register.get("in_sync", ()))
        text += (
            f", epoch {register.get('epoch')}: primary {register.get('primary')}, in sync {members}"
        )
    return text


def event_text(event: dict[str, Any]) -> str:
    """One event or line of the history."""
    if event["kind"] == "gap":
        return f"… {event['missed']} events were missed here; `mirrorha history` has them"
    role = event["role"]
    if event.get("from_role"):
        role = f"{event['from_role']} → {role}"
    alarm = click.style(" ALARM", fg="red") if event["kind"] == "alarm" else ""
    head = f"{event['at']} {event['node']} e{event['epoch']} {role}"
    return f"{head} ({event['rule']}){alarm}: {event['text']}"
