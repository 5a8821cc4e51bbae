"""What every command has: the same options, the same forms of success and failure."""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

import click

from mirrorha.cli import place
from mirrorha.cli.exits import EXIT_CODES, FAILED, SCHEMA, USAGE, CommandError
from mirrorha.errors import ConfigError, MirrorHAError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorha.cli.place import Place


@final
class Asked:
    """What was asked with every command's options, and how its answer is given.

    Attributes:
        config, node: as given, or of the environment, or None.
        as_json: one document on standard output in place of text for people.
        color: True and False force it; None leaves it to whether the output is a terminal.
    """

    def __init__(
        self, *, config: str | None, node: str | None, as_json: bool, color: bool | None
    ) -> None:
        self.config: Final = config
        self.node: Final = node
        self.as_json: Final = as_json
        self.color: Final = color

    def place(self) -> Place:
        """The node that is meant. Raises as `place.find`."""
        return place.find(self.config, self.node)

    def say(self, text: str) -> None:
        """Tell a person; with `--json` nobody."""
        if not self.as_json:
            click.echo(text, color=self.color)

    def warn(self, text: str) -> None:
        """Tell a person, whatever is asked for, where no program reads it."""
        click.echo(text, err=True, color=self.color)

    def answer(self, document: dict[str, Any], text: str) -> None:
        """The command's answer, in the form that was asked for."""
        if self.as_json:
            click.echo(json.dumps({"schema": SCHEMA, **document}, ensure_ascii=False))
        elif text:
            click.echo(text, color=self.color)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if a person agrees, or `--yes` was given.

        Raises:
            CommandError: no, or there is nobody to ask.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise CommandError(
                FAILED,
                "this needs a person's consent, and there is no terminal to ask on",
                hint="read what it does with --help, then add --yes",
            )
        if not click.confirm(question, err=True):
            raise CommandError(FAILED, "nothing was done")


def command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function that takes an `Asked` first.

    Its name is the function's, its help the docstring. What it raises on purpose becomes a
    message and an exit code; what it does not is a fault of this program, and shows.
    """

    @functools.wraps(function)
    def run(config: str | None, node: str | None, as_json: bool, color: str, **rest: Any) -> None:
        asked = Asked(config=config, node=node, as_json=as_json, color=_wants_color(color))
        try:
            function(asked, **rest)
        except CommandError as error:
            _fail(asked, error)
        except ConfigError as error:
            _fail(asked, _config_failure(error))
        except MirrorHAError as error:
            _fail(asked, CommandError(FAILED, str(error)))

    for option in reversed(_OPTIONS):
        run = option(run)
    name = function.__name__.removesuffix("_").replace("_", "-")
    return click.command(name, epilog=EXIT_CODES)(run)


_OPTIONS: Final = (
    click.option(
        "-c",
        "--config",
        envvar="MIRRORHA_CONFIG",
        metavar="FILE",
        help="The cluster's TOML file.  [env: MIRRORHA_CONFIG]",
    ),
    click.option(
        "--node",
        envvar="MIRRORHA_NODE",
        metavar="NAME",
        help="Which of its nodes this machine is.  [env: MIRRORHA_NODE]",
    ),
    click.option(
        "--json", "as_json", is_flag=True, help="Answer with JSON that has a 'schema' field."
    ),
    click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set.",
    ),
)


def _wants_color(choice: str) -> bool | None:
    if choice == "auto":
        return False if os.environ.get("NO_COLOR") else None
    return choice == "always"


def _config_failure(error: ConfigError) -> CommandError:
    return CommandError(
        USAGE, str(error), hint="correct the configuration; `mirrorha config check` checks it"
    )


def _fail(asked: Asked, error: CommandError) -> NoReturn:
    if asked.as_json:
        click.echo(json.dumps(error.document(), ensure_ascii=False))
    else:
        click.echo(f"{click.style('error', fg='red')}: {error.detail}", err=True, color=asked.color)
        if error.hint:
            click.echo(f"  {error.hint}", err=True, color=asked.color)
    raise click.exceptions.Exit(error.code)
