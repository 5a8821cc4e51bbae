"""From a TOML document to a `ClusterConfig`, or to every mistake in it with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import attrs

from mirrorha.config import contradictions, forms
from mirrorha.config.findings import (
    ConfigFileError,
    Finding,
    InvalidConfigError,
    Mistake,
    Where,
    label,
)
from mirrorha.config.forms import UNFIT, Form
from mirrorha.config.kinds import Kinds, Option, python_name
from mirrorha.config.layout import OPTIONS, SETTING, TABLE, Setting, Table
from mirrorha.config.model import ClusterConfig
from mirrorha.config.positions import key_lines, line_of
from mirrorha.config.validation import missing, unknown_option

FILE_BYTES_MAX: Final = 1_048_576

Document: TypeAlias = Mapping[str, Any]
Look: TypeAlias = Callable[[ClusterConfig], Iterable[Finding]]


def load_toml(
    path: str | Path,
    *,
    node: str | None = None,
    has_own_arbiter: bool = False,
    look: Look | None = None,
) -> ClusterConfig:
    """Read a configuration file. Blocks on the disk.

    Args:
        path: The file.
        node: Which of its nodes this is; None only to look at it.
        has_own_arbiter: The program gives an arbiter to `Cluster`, so the file must not.
        look: Finds more that is wrong with what `node` was read to have; with mistakes in it, too.

    Raises:
        ConfigFileError: the file cannot be read, or has mistakes; `problems` has all of them, each
            as `file:line: path: what was expected`, and `mistakes` their parts.
    """
    text = read_text(path)
    return parse_toml(text, name=str(path), node=node, has_own_arbiter=has_own_arbiter, look=look)


def read_text(path: str | Path) -> str:
    """Read the text of a configuration file, of bounded length. Blocks on the disk.

    Raises:
        ConfigFileError: it cannot be read, or is no text.
    """
    name = str(path)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        raise ConfigFileError([Mistake(name, None, "", text)]) from error
    if len(raw) > FILE_BYTES_MAX:
        text = f"is longer than {FILE_BYTES_MAX} bytes"
        raise ConfigFileError([Mistake(name, None, "", text)])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigFileError([Mistake(name, line, "", "is not UTF-8 text")]) from error


def parse_toml(
    text: str,
    *,
    name: str,
    node: str | None = None,
    has_own_arbiter: bool = False,
    look: Look | None = None,
) -> ClusterConfig:
    """Like `load_toml`, of a text; `name` stands for the file in messages."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileError([_syntax_mistake(name, text, str(error))]) from error
    except RecursionError as error:
        raise ConfigFileError([Mistake(name, None, "", "is nested too deeply")]) from error
    names = _names_of(document)
    findings: dict[Finding, None] = {}
    seen: dict[str | None, ClusterConfig] = {}
    # What one node finds right can be wrong for the other, where values differ by node.
    if node is not None and node not in names:
        known = " and ".join(f"'{one}'" for one in names) or "none"
        guess = forms.did_you_mean(node, names)
        unknown = Finding(("node",), f"there is no node '{node}'{guess}; the nodes: {known}")
        findings[unknown] = None
    views = (node, *names) if node in (None, *names) else names or (None,)
    for view in dict.fromkeys(views):
        seen_by = look if view == node and node in names else None
        config = _view(
            document,
            view,
            names,
            has_own_arbiter=has_own_arbiter,
            findings=findings,
            look=seen_by,
        )
        if config is not None:
            seen[view] = config
    if findings:
        raise ConfigFileError(locate(findings, text, name=name))
    return seen[node]


def locate(findings: Iterable[Finding], text: str, *, name: str) -> list[Mistake]:
    """Findings about the file `name`, which holds `text`, in the order of their lines."""
    lines = key_lines(text)
    found = [
        Mistake(name, line_of(each.where, lines), label(each.where), each.text) for each in findings
    ]
    return sorted(found, key=lambda each: each.line or 0)


def _view(
    document: Document,
    node: str | None,
    names: tuple[str, ...],
    *,
    has_own_arbiter: bool,
    findings: dict[Finding, None],
    look: Look | None,
) -> ClusterConfig | None:
    """The configuration as `node` sees it, or None; adds to `findings`."""
    reader = _Reader(node or next(iter(names), ""), names)
    values = reader.document(document)
    has_arbiter = has_own_arbiter or "arbiter" in document
    found = list(contradictions.authority(values.get("split_brain"), has_arbiter=has_arbiter))
    config = read = None
    try:
        config = read = ClusterConfig(node=node, **values)
    except InvalidConfigError as error:
        found += error.findings
        read = error.config
    if look is not None and read is not None:
        found += look(read)
    reader.findings += [one for one in found if not one.rests_on(reader.bad)]
    if has_own_arbiter and "arbiter" in document:
        text = "the program brings its own arbiter, so the file must not name one"
        reader.findings.append(Finding(("arbiter",), text))
    findings.update(dict.fromkeys(reader.findings))
    return config


def _names_of(document: Document) -> tuple[str, ...]:
    """The nodes' names, as far as they can be read."""
    nodes = document.get("node")
    if not isinstance(nodes, list):
        return ()
    names = [node.get("name") for node in nodes if isinstance(node, dict)]
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))


def _syntax_mistake(name: str, text: str, error: str) -> Mistake:
    """The parser's message, with its position moved to the front."""
    message, _, position = error.rpartition(" (at ")
    words = position.replace(",", "").rstrip(")").split()
    if message and len(words) == 4 and words[0] == "line":
        said = f"{message[0].lower()}{message[1:]} (column {words[3]})"
        return Mistake(name, int(words[1]), "", said)
    return Mistake(name, text.count("\n") + 1, "", f"{message or error} (at the end of the file)")


@final
class _Reader:
    """Reads a document as one node sees it, and goes on after each mistake.

    Attributes:
        findings: what is wrong.
        bad: the places whose value is a filler, so that nothing may be concluded from it.
        differing: the values given by node.
    """

    def __init__(self, node: str, names: tuple[str, ...]) -> None:
        self.findings: list[Finding] = []
        self.bad: list[Where] = []
        self.differing: dict[str, dict[str, Any]] = {}
        self._node: Final = node
        self._names: Final = names
        self._cluster_name = ""

    def document(self, document: Document) -> dict[str, Any]:
        """The arguments of `ClusterConfig`, except `node`."""
        fields = attrs.fields(ClusterConfig)
        tables: dict[str, tuple[str, Table]] = {
            field.metadata[TABLE].name: (field.name, field.metadata[TABLE])
            for field in fields
            if TABLE in field.metadata
        }
        self._unknown(document, ("cluster", *tables), ())
        cluster = self._as_table(document.get("cluster", {}), ("cluster",))
        name = cluster.get("name")
        # Only to derive defaults from; that it is a good one is checked with all others.
        self._cluster_name = name if isinstance(name, str) else ""
        values = self._fields(ClusterConfig, cluster, ("cluster",))
        for key, (field_name, table) in tables.items():
            if key in document:
                values[field_name] = self._tables(table, document[key])
            elif table.is_array:
                values[field_name] = ()
        values["differing"] = self.differing
        return values

    def _tables(self, table: Table, raw: object) -> Any:
        where: Where = (table.name,)
        if not table.is_array:
            if isinstance(raw, list):
                text = f"expected one table, [{table.name}], not an array of them"
                self._found(Finding(where, text))
                raw = {}
            return self._object(table.cls, raw, where)
        if not isinstance(raw, list):
            text = f"expected an array of tables, [[{table.name}]], not {forms.shown(raw)}"
            self._found(Finding(where, text))
            return ()
        return tuple(
            self._object(table.cls, each, (*where, index)) for index, each in enumerate(raw)
        )

    def _object(self, cls: type, raw: object, where: Where) -> Any:
        return cls(**self._fields(cls, self._as_table(raw, where), where))

    def _as_table(self, raw: object, where: Where) -> Document:
        if isinstance(raw, dict):
            return raw
        self._found(Finding(where, f"expected a table, not {forms.shown(raw)}"))
        return {}

    # One table ---------------------------------------------------------------------------------

    def _fields(self, cls: Any, raw: Document, where: Where) -> dict[str, Any]:
        """The arguments of `cls` that stand in this table; fillers for those that are wrong."""
        settings: dict[str, attrs.Attribute[Any]] = {}
        kinds: Kinds | None = None
        for field in attrs.fields(cls):
            if SETTING in field.metadata:
                settings[field.metadata[SETTING].key] = field
            elif OPTIONS in field.metadata:
                kinds = field.metadata[OPTIONS]
        values: dict[str, Any] = {}
        if kinds is None:
            self._unknown(raw, settings, where)
        for key, field in settings.items():
            setting: Setting = field.metadata[SETTING]
            if key in raw:
                self._setting(values, field.name, setting, raw[key], (*where, key))
            elif field.default is attrs.NOTHING:
                values[field.name] = self._absent(setting, (*where, key))
        if kinds is not None:
            rest = {key: value for key, value in raw.items() if key not in settings}
            values["options"] = self._options(values["kind"], kinds, rest, where, settings)
        return values

    def _absent(self, setting: Setting, where: Where) -> object:
        if setting.from_name is not None:
            # A default that rests on a missing name is as good as missing.
            if not self._cluster_name:
                self.bad.append(where)
            return setting.from_name.format(name=self._cluster_name)
        if not self._is_bad(where):  # its misspelt name was found
            self._found(missing(where, setting.form))
        return setting.form.filler

    def _setting(
        self, values: dict[str, Any], name: str, setting: Setting, raw: object, where: Where
    ) -> None:
        if not isinstance(raw, dict):
            values[name] = self._value(setting.form, raw, where)
        elif setting.is_same:
            text = f"expected {setting.form.expected}, the same for both nodes, not a table by node"
            self._found(Finding(where, text))
            values[name] = setting.form.filler
        else:
            by_node = self._by_node(setting.form, raw, where)
            values[name] = by_node.get(self._node, setting.form.filler)
            if setting.peer_field is None:
                self.differing[label(where)] = by_node
            else:
                others = [value for node, value in by_node.items() if node != self._node]
                values[setting.peer_field] = others[0] if others else values[name]

    def _by_node(self, form: Form, raw: Document, where: Where) -> dict[str, Any]:
        """A value for every node."""
        values = {}
        for node in raw:
            if node not in self._names:
                guess = forms.did_you_mean(node, self._names)
                self._found(Finding((*where, node), f"'{node}' names no node{guess}"))
        for node in self._names:
            if node in raw:
                values[node] = self._value(form, raw[node], (*where, node))
            else:
                text = f"expected a value for every node; '{node}' is missing"
                self._found(Finding(where, text))
        if any(where == wrong[: len(where)] for wrong in self.bad):
            self.bad.append(where)
        return values

    def _value(self, form: Form, raw: object, where: Where) -> Any:
        """Python's value, or a filler after the finding that it cannot be one."""
        if form.item is not None and isinstance(raw, list):
            item_form = form.item
            before = len(self.bad)
            value: Any = tuple(
                self._value(item_form, item, (*where, index)) for index, item in enumerate(raw)
            )
            if len(self.bad) > before:
                return value
        else:
            value = form.from_toml(raw)
        if value is UNFIT or any(form.findings(value, where)):
            self._found(form.refuse(raw, where))
            return form.filler
        return value

    # Options of kinds --------------------------------------------------------------------------

    def _options(
        self,
        kind: str,
        kinds: Kinds,
        raw: Document,
        where: Where,
        settings: Iterable[str],
    ) -> dict[str, Any]:
        if self._is_bad((*where, "kind")):
            self.bad.append(where)  # what it takes is not known
            return {}
        known = kinds[kind]
        for key in raw:
            if key not in known:
                self._found(
                    unknown_option((*where, key), kind, {**dict.fromkeys(settings), **known})
                )
                self._mark_meant((*where, key), known)
        values: dict[str, Any] = {}
        for key, option in known.items():
            if key in raw:
                name = python_name(key, option.form)
                values[name] = self._option(option, raw[key], (*where, key))
        return values

    def _option(self, option: Option, raw: object, where: Where) -> Any:
        if option.by_node:
            table = self._as_table(raw, where)
            return {} if self._is_bad(where) else self._by_node(option.form, table, where)
        if isinstance(raw, dict):
            by_node = self._by_node(option.form, raw, where)
            self.differing[label(where)] = by_node
            return by_node.get(self._node, option.form.filler)
        return self._value(option.form, raw, where)

    # Findings ----------------------------------------------------------------------------------

    def _unknown(self, raw: Document, known: Iterable[str], where: Where) -> None:
        names = tuple(known)
        for key in raw:
            if key not in names:
                absent = [name for name in names if name not in raw]
                guess = forms.did_you_mean(key, absent) or forms.did_you_mean(key, names)
                self._found(Finding((*where, key), f"unknown key{guess}"))
                self._mark_meant((*where, key), absent)

    def _mark_meant(self, where: Where, names: Iterable[str]) -> None:
        """After a misspelt key nothing may be concluded from the absence of the one meant."""
        close = [name for name in names if forms.did_you_mean(where[-1], [name])]
        self.bad += [(*where[:-1], name) for name in close]

    def _found(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.bad.append(finding.where)

    def _is_bad(self, where: Where) -> bool:
        return any(where[: len(wrong)] == wrong for wrong in self.bad)
