"""What two nodes compare when they meet: what must agree, and what had better."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final, final

import attrs

from mirrorha.config.hiding import hide_value
from mirrorha.config.model import ClusterConfig, VolumeConfig
from mirrorha.config.writer import document, toml_text

# Tables and keys that `must_agree` covers, or that are this node's alone.
_AGREED_TABLES = frozenset({"[[node]]", "[arbiter]"})
_AGREED_KEYS = frozenset(
    {("[cluster]", "name"), ("[cluster]", "split_brain"), ("[[volume]]", "path")}
    | {("[[volume]]", "ack"), ("[[volume]]", "exclude"), ("[cluster]", "link")}
)
_TEXT_CHARS_MAX: Final = 1024


def must_agree(config: ClusterConfig, *, arbiter: str | None = None) -> dict[str, str]:
    """What has to be equal on both nodes, by name; they refuse each other otherwise.

    The texts are for people too: a refusal shows both.

    Args:
        config: A checked configuration.
        arbiter: What the program's own arbiter is, where the configuration names none. Its kind
            and the place of the record, in one line.
    """
    volumes = sorted(_volume_text(config, volume) for volume in config.volumes)
    acks: set[str] = {each.ack for each in config.volumes}
    if len(acks) > 1:  # else one word: where the volumes differ, this is not to look as if it did
        acks = {f"{_volume_text(config, each)}: {each.ack}" for each in config.volumes}
    excluded = _excluded_text(config)
    return {
        **({"exclude": excluded} if excluded else {}),  # else an older node would refuse us
        "cluster": config.name,
        "nodes": "; ".join(
            f"{node.name} at {', '.join(node.addresses)} port {node.port}" for node in config.nodes
        ),
        "volumes": "; ".join(volumes) or "none",
        "arbiter": _arbiter_text(config) or arbiter or "none",
        "split_brain": config.split_brain or "by the arbiter",
        "ack": "; ".join(sorted(acks)) or "none",
        "link": config.link,
    }


def may_differ(config: ClusterConfig) -> dict[str, str]:
    """Everything else, by its place in a file: a difference is shown as a warning.

    What a file gives by node is one value here, the table, and so does not differ. A place that
    only one node has counts as a difference.
    """
    return {each.place: each.text for each in entries(config) if not each.is_agreed}


@final
@attrs.frozen(kw_only=True)
class Entry:
    """One value of a configuration.

    Attributes:
        place: such as `check[0].every`.
        table: the table's name, such as "check".
        text: as it stands in a file; in place of a secret that it is hidden, and its digest.
        is_agreed: `must_agree` covers it, or it is one node's alone.
    """

    place: str
    table: str
    key: str
    text: str
    is_agreed: bool


def entries(config: ClusterConfig) -> Iterator[Entry]:
    """Every value, defaults included, in the order of a file."""
    counts: dict[str, int] = {}
    for header, values in document(config, with_defaults=True):
        table = place = header.strip("[]")
        if header.startswith("[["):
            index = counts.get(table, 0)
            counts[table] = index + 1
            place = f"{table}[{index}]"
        for key, value in values.items():
            yield Entry(
                place=f"{place}.{key}",
                table=table,
                key=key,
                text=_shown(table, key, value),
                is_agreed=header in _AGREED_TABLES or (header, key) in _AGREED_KEYS,
            )


def _shown(table: str, key: str, value: Any) -> str:
    """What may hold a secret is compared by its digest, and never shown."""
    text, shown = toml_text(value), toml_text(hide_value(table, key, value))
    return text if text == shown else f"{shown}, digest {_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _excluded_text(config: ClusterConfig) -> str:
    """What stays on each node, whatever the order of the patterns; "" if nothing does."""
    text = "; ".join(
        sorted(
            f"{', '.join(map(_quoted, sorted({*volume.exclude})))} in "
            f"{_volume_text(config, volume)}"
            for volume in config.volumes
            if volume.exclude
        )
    )
    if len(text) <= _TEXT_CHARS_MAX:
        return text
    return f"{text[:80]}… ({_digest(text)})"


def _quoted(pattern: str) -> str:
    """So that two patterns are not taken for one that has a comma in it."""
    return json.dumps(pattern, ensure_ascii=False)


def _volume_text(config: ClusterConfig, volume: VolumeConfig) -> str:
    """The same on both nodes, also where the path is not."""
    if volume.path_at_peer == volume.path:
        return volume.path
    mine = config.node or config.nodes[0].name
    paths = {
        node.name: volume.path if node.name == mine else volume.path_at_peer
        for node in config.nodes
    }
    return ", ".join(f"{node} {path}" for node, path in paths.items())


def _arbiter_text(config: ClusterConfig) -> str:
    for header, values in document(config, with_defaults=True):
        if header == "[arbiter]":
            return ", ".join(
                f"{key} {value}"
                if hide_value("arbiter", key, value) == value
                else f"{key} {_shown('arbiter', key, value)}"
                for key, value in values.items()
            )
    return ""
