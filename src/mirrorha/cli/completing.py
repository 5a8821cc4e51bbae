"""`mirrorha completion`: what makes a shell complete commands and options."""

from __future__ import annotations

from typing import Final

import click

from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, CommandError

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_MIRRORHA_COMPLETE"


@command
@click.argument("shell", type=click.Choice(SHELLS))
def completion(asked: Asked, shell: str) -> None:
    """Print what has a shell complete commands.

    For the shell to read, at each start of it. With --json, as the field `script`.

    \b
    Examples:
      mirrorha completion bash > /etc/bash_completion.d/mirrorha
      mirrorha completion zsh > "${fpath[1]}/_mirrorha"
      mirrorha completion fish > ~/.config/fish/completions/mirrorha.fish
    """
    from click.shell_completion import get_completion_class

    from mirrorha.cli.app import mirrorha

    found = get_completion_class(shell)
    if found is None:
        raise CommandError(FAILED, f"this version of click completes nothing for {shell}")
    # Not `source()`: that of bash looks for a bash on this machine, and says so if it is old.
    maker = found(mirrorha, {}, "mirrorha", VARIABLE)
    script = maker.source_template % maker.source_vars()
    asked.answer({"shell": shell, "script": script}, script.rstrip())
