"""`mirrorha config …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mirrorha.cli import place
from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, CommandError
from mirrorha.errors import ConfigError

if TYPE_CHECKING:
    from mirrorha.config import ClusterConfig


@click.group()
def config() -> None:
    """Check and show a cluster's configuration."""


def _load(asked: Asked) -> ClusterConfig:
    from mirrorha.config import load_toml

    return load_toml(place.require_config(asked.config), node=asked.node)


@command
def check(asked: Asked) -> None:
    """Check a configuration, as both nodes see it.

    Everything that is wrong is reported at once. One line for each mistake: file, line, place, and
    what was expected. Exit code 1 if there are any. Nothing but the file is looked at: it needs no
    running node.

    \b
    Example:
      mirrorha config check -c orders.toml
    """
    try:
        found = _load(asked)
    except ConfigError as error:
        if asked.as_json:
            asked.answer({"done": False, "exit_code": FAILED, "problems": error.problems}, "")
            raise click.exceptions.Exit(FAILED) from error
        raise CommandError(FAILED, str(error), hint="correct it, and check again") from error
    nodes = " and ".join(node.name for node in found.nodes)
    asked.answer(
        {"done": True, "cluster": found.name, "problems": []}, f"{found.name}: good, for {nodes}"
    )


@command
@click.option("--defaults", is_flag=True, help="Also what is not in the file, with its default.")
def show(asked: Asked, defaults: bool) -> None:
    """Show a configuration as it was understood, as TOML or JSON.

    \b
    Example:
      mirrorha config show --defaults -c orders.toml --node paris
    """
    from mirrorha.config import to_toml
    from mirrorha.config.writer import document

    found = _load(asked)
    tables: dict[str, Any] = {}
    for header, values in document(found, with_defaults=defaults):
        name = header.strip("[]")
        if header.startswith("[["):
            tables.setdefault(name, []).append(values)
        else:
            tables[name] = values
    asked.answer({"config": tables}, to_toml(found, with_defaults=defaults).rstrip())


config.add_command(check)
config.add_command(show)
