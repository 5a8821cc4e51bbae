"""From a `ClusterConfig` back to TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from mirrorha.config.findings import Where, label
from mirrorha.config.kinds import Kinds, python_name
from mirrorha.config.layout import OPTIONS, SETTING, TABLE, Setting, Table
from mirrorha.config.model import ClusterConfig


def to_toml(config: ClusterConfig, *, with_defaults: bool = False) -> str:
    """Return the file that `parse_toml` reads back to an equal configuration.

    Values that are the defaults are left out, unless `with_defaults` asks for them. Comments of
    the file it was read from are not kept.
    """
    lines: list[str] = []
    for header, values in document(config, with_defaults=with_defaults):
        lines += ["", header] if lines else [header]
        lines += [f"{key_text(key)} = {toml_text(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def document(config: ClusterConfig, *, with_defaults: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table of the file in order: its header, and what it holds as TOML's values."""
    writer = _Writer(config, with_defaults=with_defaults)
    yield "[cluster]", writer.values(config, ("cluster",))
    for field in attrs.fields(ClusterConfig):
        if TABLE not in field.metadata:
            continue
        table: Table = field.metadata[TABLE]
        value = getattr(config, field.name)
        if table.is_array:
            for index, each in enumerate(value):
                yield f"[[{table.name}]]", writer.values(each, (table.name, index))
        elif value is not None:
            values = writer.values(value, (table.name,))
            # An optional table counts by being there, even an empty one.
            if values or field.default is None:
                yield f"[{table.name}]", values


class _Writer:
    def __init__(self, config: ClusterConfig, *, with_defaults: bool) -> None:
        self._config = config
        self._with_defaults = with_defaults

    def values(self, part: Any, where: Where) -> dict[str, Any]:
        """One of our objects as the keys and values of its table."""
        written: dict[str, Any] = {}
        for field in attrs.fields(type(part)):
            value = getattr(part, field.name)
            if SETTING in field.metadata:
                setting: Setting = field.metadata[SETTING]
                raw = self._setting(part, setting, value, (*where, setting.key))
                is_default = value == field.default and not isinstance(raw, dict)
                if raw is not None and (self._with_defaults or not is_default):
                    written[setting.key] = raw
            elif OPTIONS in field.metadata:
                written |= self._options(part.kind, value, field.metadata[OPTIONS], where)
        return written

    def _setting(self, part: Any, setting: Setting, value: Any, where: Where) -> Any:
        by_node = self._config.differing.get(label(where))
        peer_value = getattr(part, setting.peer_field) if setting.peer_field else None
        if peer_value is not None and peer_value != value:
            by_node = {
                node.name: value if self._is_mine(node.name) else peer_value
                for node in self._config.nodes
            }
        if by_node is not None:
            return {node: setting.form.to_toml(each) for node, each in by_node.items()}
        if value in (None, ()):
            return None  # TOML has no "none", and an empty command is not one
        return setting.form.to_toml(value)

    def _options(
        self, kind: str, values: Mapping[str, Any], kinds: Kinds, where: Where
    ) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for key, option in kinds[kind].items():
            name = python_name(key, option.form)
            by_node = self._config.differing.get(label((*where, key)))
            if option.by_node and name in values:
                by_node = values[name]
            if by_node is not None:
                written[key] = {node: option.form.to_toml(each) for node, each in by_node.items()}
            elif name in values:
                written[key] = option.form.to_toml(values[name])
        return written

    def _is_mine(self, node: str) -> bool:
        return node == (self._config.node or self._config.nodes[0].name)


def key_text(key: str) -> str:
    """A key as it stands in a file."""
    return (
        key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else toml_text(key)
    )


def toml_text(value: Any) -> str:
    """One value as it stands in a file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key_text(key)} = {toml_text(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(each) for each in value) + "]"
    return str(value)
