"""Which line of a TOML document each key stands in: the standard parser does not tell."""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Mapping
from typing import Final, final

from mirrorha.config.findings import Where

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_PLAIN_VALUE: Final = re.compile(r"[^,\]}#\r\n]*")
# One alternative a kind of string. A multi-line one may end in up to two quotes of its own.
_STRING: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)


def key_lines(text: str) -> Mapping[Where, int]:
    """Map every table, key and list item of a document to the line it begins in, from 1.

    The document must be one that `tomllib.loads` accepts; the path of a key is that of its value
    in what `tomllib.loads` returns.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def line_of(where: Where, lines: Mapping[Where, int]) -> int | None:
    """The line of a place, or of the nearest place around it that the document has."""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return None


@final
class _Scanner:
    """Reads a valid document once, from left to right, and keeps only where things begin."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Where, int] = {}
        self._text: Final = text
        self._at = 0
        self._newlines: Final = [match.start() for match in re.finditer("\n", text)]
        self._array_sizes: dict[Where, int] = {}

    def document(self) -> None:
        prefix: Where = ()
        while self._skip_blank():
            if self._text[self._at] == "[":
                prefix = self._header()
            else:
                self._key_and_value(prefix)

    def _header(self) -> Where:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        keys = self._keys()
        self._at += 2 if is_array else 1
        where: Where = ()
        for key in keys[:-1]:
            where = self._last_of((*where, key))
            self._record(where, start)
        where = (*where, keys[-1])
        if is_array:
            self._record(where, start)
            index = self._array_sizes.get(where, 0)
            self._array_sizes[where] = index + 1
            where = (*where, index)
        self._record(where, start)
        return where

    def _last_of(self, where: Where) -> Where:
        """A header below an array of tables means the array's last table."""
        size = self._array_sizes.get(where)
        return where if size is None else (*where, size - 1)

    def _key_and_value(self, prefix: Where) -> None:
        start = self._at
        where = prefix
        for key in self._keys():
            where = (*where, key)
            self._record(where, start)
        self._at += 1  # the "="
        self._skip(_SPACE)
        self._value(where)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _key(self) -> str:
        if self._text[self._at] not in "\"'":
            return self._skip(_BARE_KEY)
        quoted = self._skip(_STRING)
        key: str = tomllib.loads(f"key = {quoted}")["key"]
        return key

    def _value(self, where: Where) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._skip(_STRING)
        elif first == "[":
            self._list(where)
        elif first == "{":
            self._inline_table(where)
        else:
            self._skip(_PLAIN_VALUE)

    def _list(self, where: Where) -> None:
        self._at += 1
        index = 0
        while self._next_item("]"):
            self._record((*where, index), self._at)
            self._value((*where, index))
            index += 1

    def _inline_table(self, where: Where) -> None:
        self._at += 1
        while self._next_item("}"):
            self._key_and_value(where)

    def _next_item(self, end: str) -> bool:
        """Move to the next item, or behind `end` if there is none."""
        self._skip_blank()
        if self._text[self._at] == ",":
            self._at += 1
            self._skip_blank()
        if self._text[self._at] != end:
            return True
        self._at += 1
        return False

    def _record(self, where: Where, at: int) -> None:
        self.lines.setdefault(where, bisect.bisect_left(self._newlines, at) + 1)

    def _skip_blank(self) -> bool:
        """Skip white space, line ends and comments. Returns whether anything is left."""
        self._skip(_BLANK)
        return self._at < len(self._text)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        skipped = match.group() if match else ""
        self._at += len(skipped)
        return skipped
