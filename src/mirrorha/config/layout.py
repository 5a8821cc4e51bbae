"""How the fields of a configuration's class are laid out in a TOML file: their metadata."""

from __future__ import annotations

from typing import Any, Final, final

import attrs

from mirrorha.config.forms import Form
from mirrorha.config.kinds import Kinds

# What the metadata of a field is filed under.
SETTING: Final = "mirrorha.setting"
OPTIONS: Final = "mirrorha.options"
TABLE: Final = "mirrorha.table"


@final
@attrs.frozen(kw_only=True)
class Setting:
    """How a field looks in TOML.

    Attributes:
        form: what its value looks like.
        key: its name there.
        is_same: both nodes must have the same value, so that no table by node is allowed.
        from_name: for a required field that a file may leave out: its value, given the
            cluster's name.
        peer_field: where the other node's value goes, if a table by node gives one.
    """

    form: Form
    key: str
    is_same: bool = False
    from_name: str | None = None
    peer_field: str | None = None


@final
@attrs.frozen
class Table:
    """A field that is a table of its own, or an array of them, in TOML."""

    name: str
    cls: type
    is_array: bool = False


def in_toml(key: str, form: Form, **more: Any) -> dict[str, object]:
    """Metadata of a field that is one key; `more` are the other attributes of `Setting`."""
    return {SETTING: Setting(form=form, key=key, **more)}


def options(kinds: Kinds) -> dict[str, object]:
    """Metadata of the field that holds what depends on the kind."""
    return {OPTIONS: kinds}


def table(name: str, cls: type) -> dict[str, object]:
    """Metadata of a field that is a table, `[name]`."""
    return {TABLE: Table(name, cls)}


def tables(name: str, cls: type) -> dict[str, object]:
    """Metadata of a field that is an array of tables, `[[name]]`."""
    return {TABLE: Table(name, cls, is_array=True)}
