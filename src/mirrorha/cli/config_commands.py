"""`mirrorha config …`: what needs no running node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import click

from mirrorha.cli import place
from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, USAGE, CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorha.config import ClusterConfig, Mistake
    from mirrorha.config.findings import Where
    from mirrorha.config.reader import Look


@click.group()
def config() -> None:
    """Check, show, compare and apply a cluster's configuration."""


def load(asked: Asked, *, look: Look | None = None) -> ClusterConfig:
    """The configuration that is meant, checked. See `load_toml`."""
    from mirrorha.config import load_toml

    return load_toml(place.require_config(asked.config), node=asked.node or None, look=look)


@command
@click.option(
    "--files",
    is_flag=True,
    help="Also look whether this machine has what NODE needs: keys, directories, programs, users, "
    "interfaces.",
)
def check(asked: Asked, files: bool) -> None:
    """Check a configuration, as both nodes see it.

    Everything that is wrong is reported at once. One line for each mistake: file, line, place, and
    what was expected; with --json, `mistakes` has these apart. Exit code 1 if there are any. It
    needs no running node. A file that is no TOML at all is left at the first place where it is
    none.

    \b
    Examples:
      mirrorha config check -c orders.toml
      mirrorha config check --files -c /etc/mirrorha/orders.toml --node paris
    """
    from mirrorha.config import ConfigFileError

    look = _look(asked) if files else None
    try:
        found = load(asked, look=look)
    except ConfigFileError as error:
        _refuse(asked, error.mistakes)
    nodes = " and ".join(node.name for node in found.nodes)
    document = {"done": True, "cluster": found.name, "problems": [], "mistakes": []}
    asked.answer(document, f"{found.name}: good, for {nodes}")


def _look(asked: Asked) -> Look:
    """Finds what this machine does not have."""
    from mirrorha.cluster.presence import absent

    if not asked.node:
        raise CommandError(USAGE, "--files looks at one node's machine", hint="add --node NAME")
    return absent


def _refuse(asked: Asked, mistakes: Sequence[Mistake]) -> NoReturn:
    if asked.as_json:
        asked.answer(_bad(mistakes), "")
        raise click.exceptions.Exit(FAILED)
    text = "\n".join(str(each) for each in mistakes)
    raise CommandError(FAILED, text, hint="correct it, and check again")


def _bad(mistakes: Sequence[Mistake]) -> dict[str, Any]:
    return {
        "done": False,
        "exit_code": FAILED,
        "problems": [str(each) for each in mistakes],
        "mistakes": [
            {"file": each.file, "line": each.line, "place": each.place, "text": each.text}
            for each in mistakes
        ],
    }


@command
@click.option("--given", is_flag=True, help="Only what the file says, without the defaults.")
def show(asked: Asked, given: bool) -> None:
    """Show a configuration as it was understood, with where each value comes from.

    As TOML, or JSON, with the defaults of what the file does not say. What differs by node is a
    table. Secrets are hidden: the values of an environment, passwords and tokens in commands and
    URLs, the path of a webhook's. Defaults that depend on the kind of a check or switch are in its
    documentation.

    \b
    Examples:
      mirrorha config show -c orders.toml --node paris
      mirrorha config show --json -c orders.toml | jq .origins
    """
    from mirrorha.config import read_text
    from mirrorha.config.findings import label
    from mirrorha.config.hiding import hide_value
    from mirrorha.config.positions import key_lines
    from mirrorha.config.writer import document, key_text, toml_text

    found = load(asked)
    path = place.require_config(asked.config)
    lines = key_lines(read_text(path))
    tables: dict[str, Any] = {}
    origins: dict[str, str] = {}
    shown: list[str] = []
    for header, values in document(found, with_defaults=not given):
        name = header.strip("[]")
        where: Where = (name,)
        hidden = {key: hide_value(name, key, value) for key, value in values.items()}
        if header.startswith("[["):
            tables.setdefault(name, []).append(hidden)
            where = (name, len(tables[name]) - 1)
        else:
            tables[name] = hidden
        shown += ["", header] if shown else [header]
        for key, value in hidden.items():
            line = lines.get((*where, key))
            origins[label((*where, key))] = f"{path}:{line}" if line else "default"
            comment = f"line {line}" if line else "default"
            shown.append(f"{key_text(key)} = {toml_text(value)}  # {comment}")
    asked.answer({"config": tables, "origins": origins}, "\n".join(shown))


config.add_command(check)
config.add_command(show)
