"""Commands that look and change nothing."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import click

from mirrorha.cli import client, following, past, shown
from mirrorha.cli.command import Asked, command
from mirrorha.cli.durations import DURATION
from mirrorha.cli.exits import (
    DONE,
    FAILED,
    NOT_RUNNING,
    TIMED_OUT,
    UNKNOWN,
    CommandError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLES: Final = ("STOP", "WAIT", "ALONE", "PRIM", "SECOND")
SERVING: Final = ("ALONE", "PRIM")
#: How often `wait` looks: a person does not notice, and a node does not either.
LOOK_EVERY_S: Final = 0.2

# A Nagios plugin's exit codes, and what they are called.
_HEALTH: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@command
@click.option("--watch", is_flag=True, help="Go on showing it, until the node ends or Ctrl-C.")
def status(asked: Asked, watch: bool) -> None:
    """Show this node, and what it knows of its peer.

    The role (STOP, WAIT, ALONE, PRIM, SECOND) with its colour, what its copy of the data is worth,
    why it is so, its volumes and how far a resynchronisation is, heartbeats, service, checks and
    arbiter. With --json, the status document; with --watch too, one a line whenever it has changed.
    Exit code 0 says that the node runs, whatever its role.

    \b
    Example:
      mirrorha status -c orders.toml --node paris
      mirrorha status --json | jq -r .role
    """
    place = asked.place()
    if not watch:
        document = client.get(place, "/status")
        asked.answer(document, shown.status_text(document))
        return
    documents = (document for _, document in client.stream(place, "/events?only=status"))
    with contextlib.suppress(KeyboardInterrupt):
        if asked.as_json:
            for document in documents:
                asked.answer(document, "")
        else:
            from mirrorha.cli.live import watch_status

            watch_status(documents, color=asked.color)


@command
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(ROLES, case_sensitive=False),
    help="The role to wait for; given more than once, any of them.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=DURATION,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long, such as 500ms, 60s or 2m.",
)
def wait(asked: Asked, roles: tuple[str, ...], timeout_s: float) -> None:
    """Wait until this node has a role. For scripts.

    The node need not be running yet. Ends with exit code 5 if the time is over, and says what the
    node was then and why. A role says who may write; whether the service is started on it is what
    the probe tells.

    \b
    Example:
      mirrorha wait --role PRIM --role ALONE --timeout 60s -c orders.toml --node paris
    """
    place = asked.place()
    ends = time.monotonic() + timeout_s
    while True:
        left_s = ends - time.monotonic()
        try:
            document = client.get(place, "/status", timeout_s=max(left_s, LOOK_EVERY_S))
            role, why = document["role"], document["why"]
        except CommandError as error:
            if error.code not in (NOT_RUNNING, UNKNOWN):
                raise
            role, why = None, error.detail
        if role in roles:
            asked.answer({"done": True, "role": role}, f"{place.node} is {role}")
            return
        if left_s <= 0:
            raise CommandError(
                TIMED_OUT,
                f"{place.node} is {role or 'not there'} after {timeout_s:g} s: {why}",
                hint="see `mirrorha status`",
            )
        time.sleep(min(LOOK_EVERY_S, max(left_s, 0.01)))


@command
def is_primary(asked: Asked) -> None:
    """Say by the exit code whether this node serves.

    0 in PRIM and ALONE, 1 in other roles. For scripts such as backups that must run on one node
    only. 3 if the node does not run, 4 if it does not answer.

    \b
    Example:
      mirrorha is-primary -c orders.toml --node paris && /opt/orders/backup
    """
    document = client.get(asked.place(), "/status")
    primary = document["role"] in SERVING
    role = shown.role_text(document["role"], document["colour"])
    asked.answer(
        {"primary": primary, "role": document["role"]}, f"{'yes' if primary else 'no'}: {role}"
    )
    raise click.exceptions.Exit(DONE if primary else FAILED)


@command
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N events.")
@click.option(
    "--follow",
    is_flag=True,
    help="Go on when the node ends: wait for its next start, and show what happened meanwhile too.",
)
def events(asked: Asked, count: int | None, follow: bool) -> None:
    """Show what happens on this node from now on.

    Changes of role, decisions, alarms. Each line says when, which node, the epoch, the role, the
    name of the rule that fired, and why. With --json, one document a line. Ends with the node, or
    with Ctrl-C; with --follow only with that, and the node need not run yet. What happened before
    is in `mirrorha history`.

    \b
    Examples:
      mirrorha events --json -c orders.toml --node paris | jq -r .rule
      mirrorha events --follow -c orders.toml --node paris
    """
    seen = 0
    place = asked.place()
    with contextlib.suppress(KeyboardInterrupt):
        found = following.follow(place) if follow else following.until_the_end(place)
        for event in found:
            asked.answer(event, shown.event_text(event))
            seen += 1
            if seen == count:
                return


@command
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many of the latest.",
)
def history(asked: Asked, limit: int) -> None:
    """Show the latest events of this node, oldest first.

    They are kept across restarts and crashes, the latest 10000, and are also shown of a node that
    does not run. The same lines as `mirrorha events`: when, which node, the epoch, the role, the
    name of the rule that fired, and why.

    \b
    Example:
      mirrorha history --limit 20 -c orders.toml --node paris
    """
    document = past.history(asked.place(), limit=limit)
    lines = [shown.event_text(event) for event in document["events"]]
    asked.answer(document, "\n".join(lines) or "nothing has happened yet")


@command
def health(asked: Asked) -> None:
    """Report to monitoring, as a Nagios plugin.

    Its exit codes are a plugin's. 0 OK: the service is protected. 1 WARNING: it runs without
    protection (ALONE, a resynchronisation, maintenance) or this node needs a look. 2 CRITICAL: no
    node is known to serve, or the service has failed. 3 UNKNOWN: this node does not run, or does
    not answer.

    \b
    Example:
      mirrorha health -c /etc/mirrorha/orders.toml --node paris
    """
    try:
        document = client.get(asked.place(), "/status")
    except CommandError as error:
        code, text, data = 3, error.detail, ""
    else:
        code, text = verdict(document)
        data = " | " + " ".join(_performance(document))
    line = f"{_HEALTH[code]} - {text}"
    asked.answer({"exit_code": code, "state": _HEALTH[code], "text": text}, line + data)
    raise click.exceptions.Exit(code)


def verdict(document: dict[str, Any]) -> tuple[int, str]:
    """A plugin's exit code, and why."""
    peer = document.get("peer") or {}
    where = f"{document['cluster']}/{document['node']} is {document['role']} ({document['colour']})"
    why = f"{where}: {document['why']}" if document.get("why") else where
    serves_here = document["role"] in SERVING
    service = document.get("service") or {}
    if serves_here and service.get("state") != "started" and service.get("text"):
        return 2, f"{where}: the service is {service['state']}: {service['text']}"
    if not serves_here and peer.get("role") not in SERVING:
        return 2, f"no node is known to serve; {why}"
    failed = [check["name"] for check in document.get("checks", ()) if check["state"] == "failed"]
    if failed:
        return 1, f"{where}: failed checks: {', '.join(failed)}"
    if document.get("paused"):
        return 1, f"{where}: paused, nothing happens by itself until `mirrorha resume`"
    if rescued := document.get("rescued"):
        return 1, f"{where}: {shown.rescue_text(rescued[0])}"
    if document["colour"] != "green":
        return 1, why
    return 0, f"{where}, protected"


def _performance(document: dict[str, Any]) -> Iterator[str]:
    """What a plugin says for graphs."""
    yield f"epoch={document['epoch']}"
    yield f"serves={int(document['role'] in SERVING)}"
    left = [
        volume["resync"]["total_bytes"] - volume["resync"]["done_bytes"]
        for volume in document.get("volumes", ())
        if volume.get("resync")
    ]
    yield f"resync_left={sum(left)}B"
