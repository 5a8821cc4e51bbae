"""How commands end: one meaning for each exit code, and one form for each failure."""

from __future__ import annotations

from typing import Final, final

DONE: Final = 0
FAILED: Final = 1  # refused, or failed
USAGE: Final = 2
NOT_RUNNING: Final = 3
UNKNOWN: Final = 4  # the node is there and does not say
TIMED_OUT: Final = 5

SCHEMA: Final = 1

EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 not running, 4 unknown, 5 timed out."
)


@final
class CommandError(Exception):
    """A command ends here.

    Args:
        code: one of the exit codes above.
        detail: what is wrong, and whose fault it is.
        hint: what to do now, with a command where there is one.
    """

    def __init__(self, code: int, detail: str, *, hint: str = "") -> None:
        self.code: Final = code
        self.detail: Final = detail
        self.hint: Final = hint
        super().__init__(detail)

    def document(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "schema": SCHEMA,
            "done": False,
            "exit_code": self.code,
            "detail": self.detail,
            "hint": self.hint,
        }
