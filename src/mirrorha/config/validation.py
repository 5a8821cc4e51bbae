"""The check of a whole configuration: first each value by itself, then all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from mirrorha.config import contradictions, forms
from mirrorha.config.findings import Finding, InvalidConfigError, Where
from mirrorha.config.forms import Form
from mirrorha.config.kinds import Kinds, Option, python_name
from mirrorha.config.layout import OPTIONS, SETTING, TABLE, Setting, Table

if TYPE_CHECKING:
    from mirrorha.config.model import ClusterConfig


def check_config(config: ClusterConfig) -> None:
    """Check everything, also what depends on several values.

    Raises:
        InvalidConfigError: with every finding.
    """
    findings = list(_forms_of(config, ("cluster",)))
    # Values of a wrong type cannot be compared with anything.
    if not any(finding.is_type for finding in findings):
        bad = [finding.where for finding in findings]
        findings += [
            finding for finding in contradictions.find(config) if not finding.rests_on(bad)
        ]
    if findings:
        raise InvalidConfigError(findings, config)


def check_authority(config: ClusterConfig, has_arbiter: bool) -> None:
    """Check that exactly one thing decides who may write: an arbiter, or `split_brain`.

    Apart from `check_config`, because a program gives its arbiter to `Cluster`.

    Raises:
        InvalidConfigError: neither or both are there.
    """
    findings = list(contradictions.authority(config.split_brain, has_arbiter=has_arbiter))
    if findings:
        raise InvalidConfigError(findings)


def _forms_of(config: Any, where: Where) -> Iterator[Finding]:
    """Judge each value of one of our classes by its form, and those of the tables in it."""
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        if SETTING in field.metadata:
            setting: Setting = field.metadata[SETTING]
            if value != field.default:  # a default is right, and may be "none given"
                yield from setting.form.findings(value, (*where, setting.key))
            yield from _peer_value(config, setting, where)
        elif TABLE in field.metadata:
            yield from _tables_of(value, field.metadata[TABLE])
        elif OPTIONS in field.metadata:
            yield from _options_of(config.kind, value, field.metadata[OPTIONS], where)


def _peer_value(config: Any, setting: Setting, where: Where) -> Iterator[Finding]:
    value = getattr(config, setting.peer_field) if setting.peer_field else None
    if value is not None:
        yield from setting.form.findings(value, (*where, setting.key))


def _tables_of(value: Any, table: Table) -> Iterator[Finding]:
    if not table.is_array:
        value = () if value is None else (value,)
    elif not isinstance(value, tuple):
        yield _wrong_class(value, table, (table.name,))
        return
    for index, each in enumerate(value):
        where = (table.name, index) if table.is_array else (table.name,)
        if isinstance(each, table.cls):
            yield from _forms_of(each, where)
        else:
            yield _wrong_class(each, table, where)


def _wrong_class(value: object, table: Table, where: Where) -> Finding:
    text = f"expected {table.cls.__name__}, not {forms.shown(value)}"
    return Finding(where, text, is_type=True)


def _options_of(
    kind: str, values: Mapping[str, Any], kinds: Kinds, where: Where
) -> Iterator[Finding]:
    if kind not in kinds:
        return  # the form of `kind` says so already
    known = {python_name(key, option.form): (key, option) for key, option in kinds[kind].items()}
    for name, value in values.items():
        if name not in known:
            yield unknown_option((*where, name), kind, known)
            continue
        key, option = known[name]
        yield from _option(option, value, (*where, key))
    for name, (key, option) in known.items():
        if option.required and name not in values:
            yield missing((*where, key), option.form)


def _option(option: Option, value: Any, where: Where) -> Iterator[Finding]:
    if not option.by_node:
        yield from option.form.findings(value, where)
    elif isinstance(value, Mapping):
        for node, each in value.items():
            yield from option.form.findings(each, (*where, node))
    else:
        text = f"expected a table by node of {option.form.expected}, not {forms.shown(value)}"
        yield Finding(where, text, is_type=True)


def unknown_option(where: Where, kind: str, known: Mapping[str, object]) -> Finding:
    """The finding that a kind has no such option."""
    guess = forms.did_you_mean(where[-1], known)
    names = ", ".join(known)
    return Finding(where, f"unknown key for kind '{kind}'{guess or '; it takes ' + names}")


def missing(where: Where, form: Form) -> Finding:
    """The finding that a value has to be given."""
    return Finding(where, f"expected {form.expected}; it is missing")
