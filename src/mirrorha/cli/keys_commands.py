"""`mirrorha keys …`."""

from __future__ import annotations

from pathlib import Path

import click

from mirrorha.cli import place
from mirrorha.cli.command import Asked, command
from mirrorha.cli.shown import time_text


@click.group()
def keys() -> None:
    """Make the keys of the nodes and of the witness."""


@command
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Where the files go; by default where the configuration has its keys.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=3650,
    show_default=True,
    metavar="N",
    help="How long the certificates are good.",
)
def init(asked: Asked, out: Path | None, days: int) -> None:
    """Make the cluster's keys. Once.

    An authority, and one file of keys for each node and for a witness. Run it on one machine. Then
    carry each file to its machine, and to no other: each node needs its own, the witness needs the
    one that ends in -witness.keys, and nobody needs the authority's key (-ca.key), which belongs
    offline. Nothing is ever overwritten.

    \b
    Example:
      mirrorha keys init -c orders.toml --out ./keys
    """
    from mirrorha.config import load_toml
    from mirrorha.net.keys import create_keys

    config = load_toml(place.require_config(asked.config), node=asked.node)
    names = [node.name for node in config.nodes]
    made = create_keys(out or Path(config.keys), cluster=config.name, nodes=names, days=days)
    lines = [f"{name:<10} {path}" for name, path in made.bundles.items()]
    lines += [
        f"{'offline':<10} {made.authority_key}",
        f"Good until {time_text(made.not_after_s)}. Carry each node its own file, with mode 0600, "
        f"to {config.keys}; keep the authority's key offline.",
    ]
    document = {
        "done": True,
        "bundles": {name: str(path) for name, path in made.bundles.items()},
        "authority_key": str(made.authority_key),
        "not_after": time_text(made.not_after_s),
    }
    asked.answer(document, "\n".join(lines))


keys.add_command(init)
