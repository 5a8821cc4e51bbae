"""The `mirrorha` command.

What a person types waits for what is imported, so modules here import at the top only what every
command needs: `mirrorha status` loads neither trio nor rich nor the rest of mirrorha.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `mirrorha` script; ends the process with an exit code of `exits`."""
    from mirrorha.cli.app import mirrorha

    mirrorha(prog_name="mirrorha")
