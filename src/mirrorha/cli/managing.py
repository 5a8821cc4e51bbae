"""Commands that change what a node does: each waits for its definite outcome."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mirrorha.cli import client
from mirrorha.cli.command import Asked, command
from mirrorha.cli.durations import DURATION
from mirrorha.cli.exits import FAILED, USAGE, CommandError
from mirrorha.cli.rates import RATE

if TYPE_CHECKING:
    from collections.abc import Callable

_timeout = click.option(
    "--timeout",
    "timeout_s",
    type=DURATION,
    metavar="DURATION",
    help="Give up waiting after so long, such as 60s, with exit code 5; it goes on nevertheless.",
)
_no_wait = click.option(
    "--no-wait", is_flag=True, help="Return as soon as it has begun, with the operation's id."
)
yes_option = click.option(
    "--yes", is_flag=True, help="Do not ask. Needed where there is no terminal."
)


class Waiting(NamedTuple):
    """How long a command is waited for: seconds, or None for as long as the node takes."""

    timeout_s: float | None
    no_wait: bool


def waits(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how long it is waited for, as its `waiting`."""

    @functools.wraps(function)
    def gather(asked: Asked, timeout_s: float | None, no_wait: bool, **rest: Any) -> None:
        function(asked, waiting=Waiting(timeout_s, no_wait), **rest)

    return _timeout(_no_wait(gather))


def carry_out(asked: Asked, name: str, waiting: Waiting, **body: Any) -> None:
    """Have the node carry a command out, and say what came of it."""
    document = client.command(
        asked.place(), name, body, timeout_s=waiting.timeout_s, wait=not waiting.no_wait
    )
    if document["state"] == "running":
        text = f"begun: operation {document['operation']}; see `mirrorha status`"
    else:
        text = f"{name}: {document['text']}"
    asked.answer({**document, "done": document["state"] == "done"}, text)


@command
@waits
def start(asked: Asked, waiting: Waiting) -> None:
    """Start a node that was stopped with `mirrorha stop`.

    The node then looks for its peer and for the register, and serves, stands by or waits, as these
    say. It needs `mirrorha run` to be running; where that has ended, run it again.

    \b
    Example:
      mirrorha start -c orders.toml --node paris
    """
    carry_out(asked, "start", waiting)


@command
@waits
def stop(asked: Asked, waiting: Waiting) -> None:
    """Stop this node in good order.

    First its service, then its part in the replication. An up-to-date SECOND takes over at once;
    without one the service is down until a node starts again. The process of `mirrorha run` stays,
    so that `mirrorha start` can follow. To end that too, send it SIGTERM (or stop its systemd
    unit).

    \b
    Example:
      mirrorha stop -c orders.toml --node paris
    """
    carry_out(asked, "stop", waiting)


@command
@waits
def restart(asked: Asked, waiting: Waiting) -> None:
    """Restart the service in place.

    It waits until the service is started. No role changes and nothing fails over. That it failed
    here before is forgotten: it may be restarted restart_limit times again. On a node that does
    not serve, that is all it does; where it did not fail either, it is refused.

    \b
    Example:
      mirrorha restart -c orders.toml --node paris
    """
    carry_out(asked, "restart", waiting)


@command
@waits
def swap(asked: Asked, waiting: Waiting) -> None:
    """Move the service to the other node.

    PRIM and SECOND change places: the service is stopped here, everything is brought to the other
    node, and started there; no acknowledged write is lost. If the other node cannot start it, the
    roles swap back. It can be asked on either node, and is refused, with the reason, unless the
    SECOND's data is up to date and nothing is paused.

    \b
    Example:
      mirrorha swap -c orders.toml --node paris --timeout 2m
    """
    carry_out(asked, "swap", waiting)


@command
@waits
def pause(asked: Asked, waiting: Waiting) -> None:
    """Suspend what happens to the service by itself.

    Maintenance, until `mirrorha resume`. While a node is paused it neither restarts nor moves the
    service, and does not take over. Replication goes on. It survives restarts of the node, and
    `mirrorha status` shows it.

    \b
    Example:
      mirrorha pause -c orders.toml --node paris
    """
    carry_out(asked, "pause", waiting)


@command
@waits
def resume(asked: Asked, waiting: Waiting) -> None:
    """End the maintenance that `mirrorha pause` began.

    \b
    Example:
      mirrorha resume -c orders.toml --node paris
    """
    carry_out(asked, "resume", waiting)


@command
@click.option(
    "--from",
    "source",
    required=True,
    metavar="NODE",
    help="The node whose directories are the ones to begin with. Run the command there.",
)
@yes_option
@waits
def init(asked: Asked, source: str, yes: bool, waiting: Waiting) -> None:
    """Begin a cluster with the directories of one node.

    Two nodes that meet for the first time decide by themselves if at most one of them holds files.
    If both do, or the other one is away, they wait for this command. It shows the files, the bytes
    and the newest change of NODE's directories, and the other node's if they can be seen from here,
    and asks: what the other node holds may be overwritten.

    \b
    Example:
      mirrorha init --from paris -c orders.toml --node paris
    """
    from mirrorha.cli import inventory

    place = asked.place()
    config = inventory.load(place)
    if source not in {each.name for each in config.nodes}:
        names = " or ".join(each.name for each in config.nodes)
        raise CommandError(USAGE, f"there is no node '{source}'", hint=f"--from {names}")
    if source != place.node:
        raise CommandError(
            FAILED,
            f"this is {place.node}, and only {source} itself can begin with its directories",
            hint=f"run `mirrorha init --from {source}` on {source}",
        )
    asked.warn(inventory.describe(config))
    asked.confirm(
        f"Begin cluster {place.cluster} with what {source} holds? "
        f"{config.peer.name} will be made equal to it.",
        yes=yes,
    )
    carry_out(asked, "init", waiting, **{"from": source})


@command
@click.argument("target", metavar="NODE", required=False)
@click.option("--full", is_flag=True, help="Give up everything NODE holds, and copy all.")
@click.option(
    "--rate",
    "rate_bytes_per_s",
    type=RATE,
    metavar="RATE",
    help="On the node that serves: how much of each volume it goes through in a second to bring "
    "the other one up to date, such as 50MB/s, or unlimited. What is under way goes on like that.",
)
@yes_option
@waits
def resync(
    asked: Asked, target: str | None, rate_bytes_per_s: int | None, waiting: Waiting, **sure: bool
) -> None:
    """Fill NODE's directories from the other node. Run it on NODE. Or say how fast that goes.

    What differs after a failure is copied by itself, and needs no command. This one is for a node
    that waits because its directories hold files of unknown standing: a new server with files in
    the way, a restored backup, a disk from another cluster; or because both went on apart (a split)
    and nobody has said whose data stands. With --full these are given up: files that the other node
    does not have are removed. After a split what differs is kept first, in `.mirrorha-rescue`.
    Files that are equal to the other node's are not sent: so a node can be begun with a backup.

    A rate holds until the program of that node ends; `[resync] rate` in the configuration is that
    of every one. It gives way where the application writes faster, for else there were no end.

    \b
    Examples:
      mirrorha resync lyon --full -c orders.toml --node lyon
      mirrorha resync --rate 20MB/s -c orders.toml --node paris
    """
    if rate_bytes_per_s is not None:
        if target is not None or sure["full"]:
            text = "--rate says how fast the other node is filled, and goes alone"
            raise CommandError(USAGE, text, hint="mirrorha resync --rate 20MB/s")
        carry_out(asked, "resync", waiting, rate_bytes_per_s=rate_bytes_per_s)
        return
    _fill(asked, target, waiting, **sure)


def _fill(asked: Asked, target: str | None, waiting: Waiting, *, full: bool, yes: bool) -> None:
    place = asked.place()
    if target is None:
        text = "the node that is to be filled is missing"
        raise CommandError(USAGE, text, hint=f"mirrorha resync {place.node} --full")
    if not full:
        raise CommandError(
            USAGE,
            "without --full there is nothing to do: what differs is copied as soon as the nodes "
            "meet",
            hint="`mirrorha status` shows how far it is, or what it waits for",
        )
    if target != place.node:
        raise CommandError(
            FAILED,
            f"this is {place.node}, and only {target} itself can give up what it holds",
            hint=f"run `mirrorha resync {target} --full` on {target}",
        )
    asked.warn(f"{target} gives up everything that it holds in the replicated directories.")
    asked.confirm("Go on?", yes=yes)
    carry_out(asked, "resync", waiting, node=target, full=True)


@command
@waits
def acknowledge(asked: Asked, waiting: Waiting) -> None:
    """Say that what was kept of a split has been seen.

    When both nodes went on apart from each other, the data of one stands. What the other had alone
    is kept there, in a directory `.mirrorha-rescue` of each volume, with a manifest, and both nodes
    show an alarm until this command is given on the node that keeps it. Nothing is deleted by it,
    or ever by mirrorha: remove the directory when nobody needs it any more. A mount does not show
    it: it is there to be seen while the node is stopped.

    \b
    Example:
      mirrorha acknowledge -c orders.toml --node lyon
    """
    carry_out(asked, "acknowledge", waiting)
