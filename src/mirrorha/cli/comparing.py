"""The command that compares the two copies."""

from __future__ import annotations

from typing import Any

import click

from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import USAGE, CommandError
from mirrorha.cli.managing import Waiting, carry_out, waits
from mirrorha.cli.rates import RATE


@command
@click.option(
    "--repair", is_flag=True, help="Make the other node's copy what this one's is, where it is not."
)
@click.option(
    "--found",
    is_flag=True,
    help="Only the files in which the last comparison found something that is not repaired.",
)
@click.option(
    "--from",
    "from",
    metavar="NODE",
    help="Whose copy stands in a repair: the node that serves. Another one has to serve first.",
)
@click.option(
    "--rate",
    "rate_bytes_per_s",
    type=RATE,
    metavar="RATE",
    help="How much each node reads in a second, such as 50MB/s, or unlimited. Given while a "
    "comparison is under way, that one goes on at this rate.",
)
@click.option("--volume", metavar="PATH", help="Only this directory.")
@click.option("--stop", is_flag=True, help="Stop what is under way.")
@waits
def verify(asked: Asked, stop: bool, waiting: Waiting, **wishes: Any) -> None:
    """Compare the two copies by content, while both go on. Run it on the node that serves.

    Names, attributes and every block of every file are compared, as they are on the disks; what
    stays on one node (`exclude`) is not looked at. What is merely under way is no difference: there
    are no false alarms. Nothing is changed without --repair, and then only on the other node:
    content, size, mode, owner and times while the pair goes on; for anything else, such as names,
    that node is left out and filled, and this one serves alone meanwhile.

    The exit code is 1 if something differs and was not repaired; `mirrorha status --json` has each
    difference with its path and place. `[verify] every = "7d"` in the configuration does it by
    itself.

    \b
    Examples:
      mirrorha verify -c orders.toml --node paris
      mirrorha verify --repair --found -c orders.toml --node paris
      mirrorha verify --rate 100MB/s --no-wait -c orders.toml --node paris
    """
    given = {name: each for name, each in wishes.items() if each is not None and each is not False}
    if stop and given.keys() - {"volume"}:
        raise CommandError(USAGE, "--stop goes with --volume only", hint="mirrorha verify --stop")
    if "from" in given and "repair" not in given:
        text = "--from says whose copy stands in a repair"
        raise CommandError(USAGE, text, hint="add --repair, or leave it out")
    if stop:
        given["stop"] = True
    carry_out(asked, "verify", waiting, **given)
