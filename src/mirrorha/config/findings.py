"""What is found wrong in a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from mirrorha.errors import ConfigError

if TYPE_CHECKING:
    from mirrorha.config.model import ClusterConfig

#: A place in the document: table, index in an array, key. `("node", 1, "addresses")`.
Where: TypeAlias = tuple[str | int, ...]


def label(where: Where) -> str:
    """`("node", 1, "addresses")` as people write it: `node[1].addresses`."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@final
@attrs.frozen
class Finding:
    """One thing that is wrong.

    Attributes:
        where: the place to mend first.
        text: what was expected, what is there, and why it matters.
        concerns: the other places that the finding rests on.
        is_type: the value is not even of the right type, so nothing can be compared with it.
    """

    where: Where
    text: str
    concerns: tuple[Where, ...] = ()
    is_type: bool = False

    def rests_on(self, bad: Iterable[Where]) -> bool:
        """Whether it was judged by a value that is itself wrong, so that it says nothing."""
        places = (self.where, *self.concerns)
        return any(place[: len(wrong)] == wrong for place in places for wrong in bad)

    def __str__(self) -> str:
        return f"{label(self.where)}: {self.text}"


@final
class InvalidConfigError(ConfigError):
    """A `ConfigError` that still knows the places; the TOML reader turns them into lines.

    `config`: the wrong configuration, for whoever looks for more that is wrong with it.
    """

    def __init__(self, findings: Iterable[Finding], config: ClusterConfig | None = None) -> None:
        self.findings: Final = tuple(findings)
        self.config: Final = config
        super().__init__(tuple(str(finding) for finding in self.findings))


@final
@attrs.frozen
class Mistake:
    """One thing that is wrong in a file.

    Attributes:
        line: from 1; None if it is no line's, as of a table that is missing.
        place: table, index and key, such as `node[1].port`; "" if it is the whole file's.
        text: what was expected, and what is there.
    """

    file: str
    line: int | None
    place: str
    text: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.place}: {self.text}" if self.place else f"{where}: {self.text}"


@final
class ConfigFileError(ConfigError):
    """A `ConfigError` of a file: `mistakes` has the parts of each of its problems."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes: Final = tuple(dict.fromkeys(mistakes))
        super().__init__(tuple(str(mistake) for mistake in self.mistakes))
