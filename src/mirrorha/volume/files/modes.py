"""What the mode of an `open` asks for."""

from __future__ import annotations

from typing import Final, final

from mirrorha.errors import LocalUsageError


@final
class FileMode:
    """A mode such as "r+b".

    Raises:
        LocalUsageError: `text` is no mode, or one for text.
    """

    def __init__(self, text: str) -> None:
        letters = set(text)
        kinds = letters & set("rwxa")
        if len(kinds) != 1 or len(letters) != len(text) or letters - set("rwxabt+"):
            raise LocalUsageError(f"{text!r} is no mode; use one of rb r+b wb w+b xb x+b ab a+b")
        if "b" not in letters or "t" in letters:
            raise LocalUsageError(f"text is not supported, as in {text!r}: open in binary")
        updates = "+" in letters
        self.reads: Final = updates or "r" in kinds
        self.writes: Final = updates or "r" not in kinds
        self.creates: Final = "r" not in kinds
        self.truncates: Final = "w" in kinds
        self.is_exclusive: Final = "x" in kinds
        self.appends: Final = "a" in kinds
