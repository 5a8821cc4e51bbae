"""What two nodes compare when they meet: what must agree, and what had better."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from mirrorha.config.model import ClusterConfig, VolumeConfig
from mirrorha.config.writer import document, toml_text

# Tables and keys that `must_agree` covers, or that are this node's alone.
_AGREED_TABLES = frozenset({"[[node]]", "[arbiter]"})
_AGREED_KEYS = frozenset(
    {("[cluster]", "name"), ("[cluster]", "split_brain"), ("[[volume]]", "path")}
    | {("[[volume]]", "ack"), ("[[volume]]", "exclude"), ("[cluster]", "link")}
)
# What may hold a secret: compared by its digest, and never shown.
_HIDDEN = frozenset({("[service]", "environment")})
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
    counts: dict[str, int] = {}
    flat: dict[str, str] = {}
    for header, values in document(config, with_defaults=True):
        name = header.strip("[]")
        if header.startswith("[["):
            index = counts.get(name, 0)
            counts[name] = index + 1
            name = f"{name}[{index}]"
        if header in _AGREED_TABLES:
            continue
        for key, value in values.items():
            text = toml_text(value)
            if (header, key) in _HIDDEN:
                text = f"what has the digest {_digest(text)}"
            if (header, key) not in _AGREED_KEYS:
                flat[f"{name}.{key}"] = text
    return flat


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
            return ", ".join(f"{key} {value}" for key, value in values.items())
    return ""
