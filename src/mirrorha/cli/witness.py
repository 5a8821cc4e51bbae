"""`mirrorha witness`: the arbiter on a third machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import USAGE, CommandError

if TYPE_CHECKING:
    import ssl


@command
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIRECTORY",
    help="Where the registers are kept, on a disk that survives. Never restore it from a backup.",
)
@click.option("--listen", required=True, metavar="HOST:PORT", help="Such as 0.0.0.0:9600.")
@click.option(
    "--keys",
    "key_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    metavar="FILE",
    help="The witness's file of a cluster's keys, ORDERS-witness.keys; one for each cluster.",
)
def witness(asked: Asked, state_dir: Path, listen: str, key_files: tuple[Path, ...]) -> None:
    """Keep the register of clusters, on a third machine.

    It says which node may write when the nodes have lost each other, so it must fail independently
    of both: a third zone, an office, any small machine. While both nodes are well it is not needed,
    and may be restarted. SIGTERM and SIGINT end it.

    \b
    Example:
      mirrorha witness --state-dir /var/lib/mirrorha-witness --listen 0.0.0.0:9600 \\
          --keys orders-witness.keys
    """
    from mirrorha.cli import witness_process
    from mirrorha.config import parse_host_port

    try:
        host, port = parse_host_port(listen)
    except ValueError as error:
        raise CommandError(
            USAGE, f"--listen {listen}: expected HOST:PORT", hint="such as --listen 0.0.0.0:9600"
        ) from error
    contexts = witness_process.load_contexts(key_files)
    witness_process.serve(
        state_dir=state_dir,
        contexts=contexts,
        host=host,
        port=port,
        on_ready=partial(_ready, asked, state_dir, contexts),
    )


def _ready(
    asked: Asked, state_dir: Path, contexts: dict[str, ssl.SSLContext], host: str, port: int
) -> None:
    text = f"witness for {', '.join(contexts)} listens on {host}, port {port}; keeps {state_dir}"
    asked.answer({"listening": True, "host": host, "port": port, "clusters": [*contexts]}, text)
