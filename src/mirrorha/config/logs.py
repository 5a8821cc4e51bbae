"""How `mirrorha run` logs."""

from __future__ import annotations

from typing import Final, Literal, final

import attrs

from mirrorha.config import forms
from mirrorha.config.layout import in_toml

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")


@final
@attrs.frozen(kw_only=True)
class LogConfig:
    """What `mirrorha run` logs to standard error. A program that embeds mirrorha sets up its own.

    Args:
        level: What is less important than this is left out.
        format: "text", a line for people; "json", a document a line, for programs.
    """

    level: Literal["debug", "info", "warning", "error"] = attrs.field(
        default="info", metadata=in_toml("level", forms.choice(*LOG_LEVELS))
    )
    format: Literal["text", "json"] = attrs.field(
        default="text", metadata=in_toml("format", forms.choice(*LOG_FORMATS))
    )
