"""`mirrorha run`: this process is the node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mirrorha.cli import place
from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, USAGE, CommandError
from mirrorha.errors import LocalUsageError

if TYPE_CHECKING:
    from mirrorha.config import ClusterConfig

#: What an orderly stop may take beyond the service's own deadline: a decision at the arbiter and
#: a last sync of the disks.
SLACK_S: Final = 30.0


@command
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    help="What is logged, to standard error. Else what [log] level says: info.",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    help="A line for people, or a JSON document a line. Else what [log] format says: text.",
)
def run(asked: Asked, log_level: str | None, log_format: str | None) -> None:
    """Be this node, until told to end.

    It replicates its directories, watches the peer, and starts and stops the service as its role
    says. It needs the cluster's TOML file, its keys (unless the link is plain) and an arbiter.
    Every other command asks it over the socket mirrorha.sock in its state_dir. It logs to standard
    error; each line has the node, its epoch and its role, and with --log-format json the name of
    the rule that fired.

    SIGTERM and SIGINT stop the node in good order, as `mirrorha stop` does, and then end it with
    exit code 0: an up-to-date peer takes over at once. A second signal ends it without waiting,
    with exit code 1, and so does a stop that exceeds its deadlines.

    As a systemd service of Type=notify (the unit mirrorha@.service comes with the package) it also
    says when it is ready, how it is, and that it is alive.

    \b
    Example:
      mirrorha run -c /etc/mirrorha/orders.toml --node paris
    """
    from mirrorha.config import load_toml

    config = load_toml(place.require_config(asked.config), node=asked.node or None)
    if not asked.node:
        names = " or ".join(f"--node {each.name}" for each in config.nodes)
        raise CommandError(USAGE, "the command does not say which node", hint=f"add {names}")
    in_order = _run_configured(config, level=log_level, format_=log_format)
    if not in_order:
        raise CommandError(FAILED, f"{asked.node} was ended before it had stopped in good order")


def _run_configured(config: ClusterConfig, *, level: str | None, format_: str | None) -> bool:
    """Run the node of a configuration until a signal ends it; return whether in good order.

    `level`, `format_`: of the log, whatever the configuration says.
    """
    import trio

    from mirrorha import Cluster
    from mirrorha.api import socket_path
    from mirrorha.cli import node_process
    from mirrorha.cli.log import Label, NodeLog

    state_dir = Path(config.me.state_dir)
    path = socket_path(state_dir)
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise LocalUsageError(
            f"the state directory {state_dir} is no directory; name another, or remove it"
        ) from error
    except OSError as error:
        raise LocalUsageError(
            f"the state directory {state_dir} cannot be made: {error.strerror}; make it, for the "
            "user that runs the node"
        ) from error
    log = NodeLog(Label(config.me.name), fixed_level=level, fixed_format=format_)
    log.configure(level=config.log.level, format_=config.log.format)
    limit_s = config.service.stop_timeout_s + SLACK_S
    return trio.run(node_process.run_node, Cluster(config), path, limit_s, log)
