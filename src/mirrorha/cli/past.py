"""What a node keeps of its past, whether it runs or not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mirrorha.cli import client
from mirrorha.cli.exits import NOT_RUNNING, SCHEMA, CommandError

if TYPE_CHECKING:
    from mirrorha.cli.place import Place


def history(place: Place, *, limit: int) -> dict[str, Any]:
    """The document with the latest `limit` events, of the node; if it does not run, of its file.

    Raises:
        CommandError: the node does not answer; or it does not run, and has kept nothing.
    """
    try:
        found: dict[str, Any] = client.get(place, f"/history?limit={limit}")
    except CommandError as error:
        if error.code != NOT_RUNNING:
            raise
        kept = kept_history(place, limit=limit)
        if kept is None:
            raise
        return {"schema": SCHEMA, "events": kept}
    return found


def kept_history(place: Place, *, limit: int) -> list[dict[str, Any]] | None:
    """What lies in the state directory; None if there is nothing that can be read. Blocks."""
    from pathlib import Path

    from mirrorha.api.documents import event_document
    from mirrorha.state.history import HISTORY_NAME, HistoryError, read_newest

    file = Path(os.path.dirname(place.socket), HISTORY_NAME)
    if not file.exists():
        return None
    try:
        return [event_document(event) for event in read_newest(file, limit=limit)]
    except HistoryError:
        return None
