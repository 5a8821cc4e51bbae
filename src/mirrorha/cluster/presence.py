"""What a configuration names, and this machine does not have. Looked at, never changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import attrs

from mirrorha.config import forms
from mirrorha.config.findings import Finding, Where
from mirrorha.config.layout import OPTIONS, SETTING, TABLE
from mirrorha.config.model import ClusterConfig
from mirrorha.errors import LocalUsageError, ServiceError
from mirrorha.net.keys import load_keys
from mirrorha.process import check_user

if TYPE_CHECKING:
    from mirrorha.config.forms import Form

_INTERFACES: Final = Path("/sys/class/net")
#: What ends so names a file that is read. A pid file is there once the service is.
_FILE_SUFFIX: Final = "_file"
_LATER: Final = frozenset({"pid_file"})


def absent(config: ClusterConfig) -> Iterator[Finding]:
    """What is not there for `config.me`, each with its place in the file. Blocks on the disk.

    What lies in a replicated directory is not looked for: it is there on the node that serves.
    """
    try:
        load_keys(Path(config.keys), node=config.me.name, cluster=config.name)
    except LocalUsageError as error:
        yield Finding(("cluster", "keys"), str(error))
    for index, volume in enumerate(config.volumes):
        if volume.path and not Path(volume.path).is_dir():
            yield Finding(("volume", index, "path"), f"there is no directory '{volume.path}' here")
    for where, key, form, value in _values(config):
        if value in (None, ""):
            continue
        text = _problem(config, key, form, value)
        if text:
            yield Finding(where, f"{text} on this machine")


def _values(config: ClusterConfig) -> Iterator[tuple[Where, str, Form, Any]]:
    """Every value that was given for this node: its place, key, form and itself."""
    for field in attrs.fields(ClusterConfig):
        if TABLE not in field.metadata:
            continue
        table, found = field.metadata[TABLE], getattr(config, field.name)
        if not table.is_array:
            yield from _of_table(found, (table.name,))
            continue
        for index, each in enumerate(found):
            yield from _of_table(each, (table.name, index))


def _of_table(part: Any, where: Where) -> Iterator[tuple[Where, str, Form, Any]]:
    if part is None:
        return
    for field in attrs.fields(type(part)):
        value = getattr(part, field.name)
        if SETTING in field.metadata:
            setting = field.metadata[SETTING]
            yield (*where, setting.key), setting.key, setting.form, value
        elif OPTIONS in field.metadata:
            for key, option in field.metadata[OPTIONS][part.kind].items():
                if not option.by_node:
                    yield (*where, key), key, option.form, value.get(key)


def _problem(config: ClusterConfig, key: str, form: Form, value: Any) -> str:
    """What is missing for one value, or ""."""
    if form is forms.COMMAND:
        return _no_program(config, value)
    if form is forms.USER:
        return _no_user(value)
    if form is forms.INTERFACE:
        return "" if (_INTERFACES / value).exists() else f"there is no network interface '{value}'"
    if form is forms.PATH and key.endswith(_FILE_SUFFIX) and key not in _LATER:
        return "" if os.access(value, os.R_OK) else f"the file '{value}' cannot be read"
    if key == "working_directory" and not _is_replicated(config, value):
        return "" if Path(value).is_dir() else f"there is no directory '{value}'"
    return ""


def _no_program(config: ClusterConfig, command: tuple[str, ...]) -> str:
    if not command or _is_replicated(config, command[0]) or shutil.which(command[0]):
        return ""
    return f"there is no program '{command[0]}' that can be run"


def _no_user(name: str) -> str:
    try:
        check_user(name)
    except ServiceError:
        return f"there is no user '{name}'"
    return ""


def _is_replicated(config: ClusterConfig, path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(volume.path) for volume in config.volumes)
