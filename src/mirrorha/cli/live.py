"""The status, drawn again and again on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mirrorha.cli.shown import status_text

if TYPE_CHECKING:
    from collections.abc import Iterator


def watch_status(documents: Iterator[dict[str, Any]], *, color: bool | None) -> None:
    """Show each document in the place of the last; where nobody watches, one after the other."""
    console = Console(
        no_color=color is False, force_terminal=True if color else None, highlight=False
    )
    if not console.is_terminal:
        for document in documents:
            console.print(Text.from_ansi(status_text(document)).plain, end="\n\n", soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for document in documents:
            live.update(Text.from_ansi(status_text(document)), refresh=True)
