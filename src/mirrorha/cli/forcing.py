"""What an operator forces: each shows first what it would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mirrorha.cli import client, shown
from mirrorha.cli.command import Asked, command
from mirrorha.cli.managing import Waiting, carry_out, waits, yes_option

if TYPE_CHECKING:
    from collections.abc import Iterator


@command
@click.option(
    "--without-arbiter",
    is_flag=True,
    help="Also if the arbiter does not answer. Then both nodes may serve, apart from each other.",
)
@click.option(
    "--inconsistent-data",
    is_flag=True,
    help="Also if a resync into this node did not finish: half of its files may be of another "
    "state than the other half.",
)
@yes_option
@waits
def force_primary(
    asked: Asked, without_arbiter: bool, inconsistent_data: bool, yes: bool, waiting: Waiting
) -> None:
    """Have this node serve with what it holds.

    Whatever that lacks: for a node that waits, when the other one will not come back or has not got
    the data that counts. It shows what would be lost, and asks. If the arbiter answers, the other
    node is shut out by the register, even if it serves: it stops as soon as it looks there. Without
    an answer it takes --without-arbiter; then nothing shuts the other one out before the arbiter is
    back, and what both acknowledge meanwhile is told as a split, never mixed. That it was forced is
    told by `mirrorha status` and the history for as long as the data lives.

    \b
    Example:
      mirrorha force-primary -c orders.toml --node paris
    """
    place = asked.place()
    document = client.get(place, "/status")
    asked.warn("\n".join(_cost(document, "primary_loses")))
    if without_arbiter:
        asked.warn(
            "Without the arbiter's answer nothing keeps the other node from serving as well."
        )
    if inconsistent_data:
        asked.warn("Files may be half of one state and half of another.")
    asked.confirm(f"Shall {place.node} serve with what it holds?", yes=yes)
    body = {"without_arbiter": without_arbiter, "inconsistent_data": inconsistent_data}
    carry_out(asked, "force-primary", waiting, **body)


@command
@yes_option
@waits
def force_secondary(asked: Asked, yes: bool, waiting: Waiting) -> None:
    """Have this node give up its standing.

    It stops serving, and does not serve again before the other node has brought it up to date. An
    up-to-date SECOND takes over at once. It shows what would be lost, and asks: what only this node
    holds counts no more. Nothing is deleted by it. `mirrorha force-primary` takes it back.

    \b
    Example:
      mirrorha force-secondary -c orders.toml --node lyon
    """
    place = asked.place()
    document = client.get(place, "/status")
    asked.warn("\n".join(_cost(document, "secondary_loses")))
    asked.confirm(f"Shall {place.node} give up its standing?", yes=yes)
    carry_out(asked, "force-secondary", waiting)


def _cost(document: dict[str, Any], which: str) -> Iterator[str]:
    """What this node is, what is known of the other one, and what would be lost."""
    peer, arbiter = document.get("peer"), document.get("arbiter")
    override = document.get("override") or {}
    since = f" since {document['since']}" if document.get("since") else ""
    yield (
        f"{document['node']} is {document['role']} ({document['colour']}){since}, "
        f"data {document['data']}, epoch {document['epoch']}"
    )
    yield f"  why: {document['why']}"
    if peer:
        yield f"  the other node: {shown.peer_text(peer)}"
        if last := peer.get("last"):
            yield f"  when it was connected last, it was {last['role']} in epoch {last['epoch']}"
    if arbiter:
        yield f"  arbiter: {shown.arbiter_text(arbiter)}"
    yield f"  what would be lost: {override.get(which) or 'unknown'}"
