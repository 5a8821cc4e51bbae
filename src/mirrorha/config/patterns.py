"""What a pattern of `exclude` may look like. What it means: `mirrorha.volume.exclusion`.

Of what other tools know only that is allowed which means the same here.
"""

from __future__ import annotations

from typing import Final

_ANY_DEPTH: Final = "**"
#: Characters that mean something elsewhere. A name that has one is matched by "?".
_FOREIGN: Final = "[]{}\\"
_ANYTHING: Final = frozenset({"*", _ANY_DEPTH})


def pattern_flaw(pattern: str) -> str:
    """What is wrong with a pattern, for people; "" if nothing is."""
    parts = pattern.split("/")
    foreign = next((each for each in pattern if each in _FOREIGN), "")
    half = next((each for each in parts if _ANY_DEPTH in each and each != _ANY_DEPTH), "")
    flaws = (
        (not pattern, "it is empty"),
        (pattern != pattern.strip(), "it begins or ends with a space"),
        (pattern.startswith("/"), "patterns begin at the volume's root without a '/'"),
        (
            pattern.endswith("/"),
            "it ends with a '/': leave that out, or add '**' for what is in it",
        ),
        ("" in parts, "it has '//' in it"),
        (bool({".", ".."} & {*parts}), "it has '.' or '..' in it"),
        (pattern.startswith("!"), "nothing is taken back by '!'"),
        (bool(foreign), f"'{foreign}' cannot be in it: '?' stands for any one character"),
        (bool(half), f"'**' stands alone between two '/', not as in '{half}'"),
        ({*parts} <= _ANYTHING, "it would leave nothing to be mirrored"),
    )
    return next((text for is_so, text in flaws if is_so), "")
