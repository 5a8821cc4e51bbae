"""How a node's process logs: to standard error, as text or JSON, each line with what it is about.

Only a process of ours sets logging up. Who embeds mirrorha finds everything at the logger
"mirrorha" and those below it; importing mirrorha installs no handler and changes no level.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, final

#: So many lines are kept in memory, of at most so many characters, for `mirrorha bundle`.
KEPT_LINES: Final = 2_000
KEPT_CHARS_MAX: Final = 2_000


@final
class Label:
    """What every line of the log begins with: which node, its epoch and its role now."""

    def __init__(self, node: str) -> None:
        """Of a node that has not begun."""
        self.node: Final = node
        self.epoch = 0
        self.role = "STOP"

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.node} e{self.epoch} {self.role}"

    async def follow(self, events: AsyncIterator[Any]) -> None:
        """Keep up with what happens."""
        async for event in events:
            if hasattr(event, "role"):
                self.epoch, self.role = event.epoch, event.role.value


@final
class TextLines(logging.Formatter):
    """`time LEVEL node eEPOCH ROLE: message`; what names its node itself is not told twice."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, label: Label) -> None:
        super().__init__("%(asctime)s %(levelname)s %(where)s%(message)s")
        self._label: Final = label

    def format(self, record: logging.LogRecord) -> str:
        told = record.getMessage().startswith(f"{self._label.node} e")
        record.where = "" if told else f"{self._label.text}: "
        return super().format(record)


@final
class JsonLines(logging.Formatter):
    """A document a line. Every one has the same keys; what is not known is null.

    `rule` is the name of the rule that fired and `text` why, where a decision is told; elsewhere
    `text` is the message.
    """

    def __init__(self, label: Label) -> None:
        super().__init__()
        self._label: Final = label

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
        facts = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "node": self._label.node,
            "epoch": getattr(record, "epoch", self._label.epoch),
            "role": getattr(record, "role", self._label.role),
            "from_role": getattr(record, "from_role", None),
            "rule": getattr(record, "rule", None),
            "text": getattr(record, "why", None) or record.getMessage(),
            "logger": record.name,
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps(facts, ensure_ascii=False)


@final
class _Kept(logging.Handler):
    """The latest lines, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Final = deque[str](maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record)[:KEPT_CHARS_MAX])


@final
class NodeLog:
    """The log of this process: everything of mirrorha, and what others warn of.

    Args:
        label: what each line begins with.
        fixed_level, fixed_format: what whoever started this process said; no configuration
            changes it.
    """

    def __init__(
        self, label: Label, *, fixed_level: str | None = None, fixed_format: str | None = None
    ) -> None:
        self.label: Final = label
        self._fixed_level: Final = fixed_level
        self._fixed_format: Final = fixed_format
        self._handler: Final = logging.StreamHandler(sys.stderr)
        self._kept: Final = _Kept()
        self._kept.setFormatter(TextLines(label))
        logging.basicConfig(level=logging.WARNING, handlers=[self._handler, self._kept], force=True)

    def configure(self, *, level: str, format_: str) -> None:
        """Log so from now on: such as "info" and "text". May be called again."""
        form = self._fixed_format or format_
        self._handler.setFormatter((JsonLines if form == "json" else TextLines)(self.label))
        logging.getLogger("mirrorha").setLevel((self._fixed_level or level).upper())

    def lines(self) -> Sequence[str]:
        """The latest lines, oldest first, as text."""
        return tuple(self._kept.lines)
