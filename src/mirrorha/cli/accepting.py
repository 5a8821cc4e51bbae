"""The answer to a node that waits because much of a directory is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirrorha.cli import inventory
from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, CommandError
from mirrorha.cluster.settings import volume_names
from mirrorha.cluster.volumes import volume_state_dir
from mirrorha.volume.local_disk.missing import MissingNote

if TYPE_CHECKING:
    from mirrorha.config import ClusterConfig
    from mirrorha.volume.local_disk.missing import Missing


@command
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
def accept_missing(asked: Asked, yes: bool) -> None:
    """Go on though much of a directory is gone.

    While a node is stopped its directories are ordinary ones, and what is changed in them is
    noticed at the next start. If more than half of what a directory held is gone by then, the node
    waits: it may be a mistake, or a disk that is only partly there. Put the files back, and it goes
    on by itself within a minute; or give this command, and it goes on without them. Which node's
    files stand in the end is decided as ever: if this one serves, they are removed on the other one
    too; if the other one does, they come back.

    \b
    Example:
      mirrorha accept-missing -c orders.toml --node paris
    """
    config = inventory.load(asked.place())
    questions = _questions(config)
    if not questions:
        raise CommandError(
            FAILED,
            f"{config.me.name} does not ask whether files may be gone",
            hint="`mirrorha status` shows what it waits for",
        )
    for _, each in questions:
        asked.warn(each.text)
    asked.confirm(f"Shall {config.me.name} go on without these files?", yes=yes)
    for note, each in questions:
        try:
            note.accept(each)
        except OSError as error:
            raise _unreadable(error) from error
    gone = sum(each.gone for _, each in questions)
    asked.answer(
        {"done": True, "gone": gone}, f"accepted: {config.me.name} goes on without {gone} files"
    )


def _questions(config: ClusterConfig) -> list[tuple[MissingNote, Missing]]:
    """What the node asks and nobody has answered, of each volume."""
    found: list[tuple[MissingNote, Missing]] = []
    for name in volume_names(config):
        note = MissingNote(volume_state_dir(Path(config.me.state_dir), name))
        try:
            question = note.read()
        except OSError as error:
            raise _unreadable(error) from error
        if question is not None and not question.is_accepted:
            found.append((note, question))
    return found


def _unreadable(error: OSError) -> CommandError:
    return CommandError(
        FAILED,
        f"{error.filename}: {error.strerror}",
        hint="give the command as root, or as the user that runs the node",
    )
