"""`mirrorha demo`."""

from __future__ import annotations

import sys

import click

from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, CommandError


@command
@click.option(
    "--transactions",
    type=click.IntRange(min=1),
    default=5_000,
    show_default=True,
    help="How many the client has acknowledged before the kill.",
)
@click.option(
    "--broken",
    is_flag=True,
    help="Answer clients before the write is mirrored, as no application should: losses are "
    "reported, and the command fails. Shows that the count can fail.",
)
@click.option("--keep", is_flag=True, help="Keep the directory with data, logs and record.")
def demo(asked: Asked, transactions: int, broken: bool, keep: bool) -> None:
    """Show a cluster at work on this machine.

    Two nodes and a witness, a ledger that writes through the mirror, a client with a record of its
    own. The node that serves is killed with kill -9; the other takes over; the killed one comes
    back, is brought up to date, and takes the service back. At the end every transaction that was
    acknowledged is looked for in the files of both nodes.

    It needs no configuration, no root and no network, and leaves nothing behind.

    \b
    Examples:
      mirrorha demo
      mirrorha demo --broken --json
    """
    from mirrorha.cli.demo.run import run_demo  # only this command pays for it

    lost = run_demo(
        transactions=transactions,
        broken=broken,
        keep=keep,
        as_json=asked.as_json,
        color=asked.color,
    )
    if lost is None:
        raise CommandError(FAILED, "the demonstration could not be carried through: see above")
    if lost:
        sys.exit(FAILED)  # the report has said it; with --json it is the one document
