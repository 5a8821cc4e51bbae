"""Which node a command is about, and where its management socket is.

Read straight from the file, not through the configuration's classes: asking a running node must
be quick, and must work while somebody is editing its file.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any, Final, NamedTuple

from mirrorha.cli.exits import USAGE, CommandError

# As `mirrorha.api` and `mirrorha.config` have them; importing those would cost more than all the
# rest of `mirrorha status`. A test holds them equal.
SOCKET_NAME: Final = "mirrorha.sock"
STATE_DIR_DEFAULT: Final = "/var/lib/mirrorha/{name}"


class Place(NamedTuple):
    """A node of a configuration.

    Attributes:
        config: the file's path.
        cluster, node: names.
        socket: where the node's management API answers, if it runs.
    """

    config: str
    cluster: str
    node: str
    socket: str


def find(config: str | None, node: str | None) -> Place:
    """The place of `node` in the file `config`. Blocks on the disk.

    Raises:
        CommandError: one of them is not given, or the file does not tell.
        ConfigError: the file is wrong, as the full check of it says.
    """
    path = require_config(config)
    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
        cluster = document["cluster"]["name"]
        nodes = {each["name"]: each for each in document["node"]}
        chosen = nodes.get(_require_node(node, list(nodes)))
        if chosen is None or not isinstance(cluster, str):
            return _checked(path, node)
        return _place(path, cluster, chosen)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return _checked(path, node)


def require_config(config: str | None) -> str:
    """The configuration file's path.

    Raises:
        CommandError: none is given.
    """
    if not config:
        raise CommandError(
            USAGE,
            "no configuration is named",
            hint="give it with -c FILE, or set MIRRORHA_CONFIG",
        )
    return config


def _require_node(node: str | None, names: list[str]) -> str:
    if not node:
        choice = " or ".join(f"--node {name}" for name in names)
        raise CommandError(
            USAGE, "the command does not say which node", hint=f"add {choice}, or set MIRRORHA_NODE"
        )
    return node


def _place(path: str, cluster: str, node: dict[str, Any]) -> Place:
    state_dir = os.fspath(node.get("state_dir", STATE_DIR_DEFAULT.format(name=cluster)))
    return Place(path, cluster, node["name"], os.path.join(state_dir, SOCKET_NAME))


def _checked(path: str, node: str | None) -> Place:
    """The slow way, which says what is wrong and with which line."""
    from mirrorha.config import load_toml

    config = load_toml(path, node=node or None)
    name = _require_node(node, [each.name for each in config.nodes])
    return _place(path, config.name, {"name": name, "state_dir": config.me.state_dir})
