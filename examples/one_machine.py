"""A cluster for a trial: two nodes on this machine, in the directory for temporary files.

In earnest the configuration is a file you write (cluster.toml beside this one), on two servers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from mirrorha.net.keys import create_keys

NODES = {"paris": "127.0.0.1", "lyon": "127.0.0.2"}
WITNESS = "127.0.0.3"

_CLUSTER = """\
[cluster]
name = "trial"
keys = "{root}/keys"

[heartbeat]
pulse = "100ms"
timeout = "1s"

[[volume]]
path = {{ paris = "{root}/paris/data", lyon = "{root}/lyon/data" }}
mount = false                # only the SDK's file API writes

[arbiter]
{arbiter}
"""
_NODE = """
[[node]]
name = "{name}"
addresses = ["{address}"]
port = {port}
state_dir = "{root}/{name}/state"
api = "{address}:{api_port}"
"""


def trial_config() -> Path:
    """The configuration of the trial cluster; made at the first call, the same from then on.

    The register is in a file, which is right on one machine only.
    """
    root = Path(tempfile.gettempdir()) / f"mirrorha-trial-{os.getuid()}"
    if not root.exists():
        # Two nodes may be started at once: what is made becomes visible whole, and once.
        made = Path(tempfile.mkdtemp(prefix="mirrorha-making-"))
        arbiter = f'kind = "local"\npath = "{root}/register"'
        make(made, shown_as=root, arbiter=arbiter)
        with contextlib.suppress(OSError):  # the other node was first
            made.rename(root)
        shutil.rmtree(made, ignore_errors=True)
    if root.stat().st_uid != os.getuid():
        raise SystemExit(f"{root} belongs to somebody else")
    return root / "cluster.toml"


def make(root: Path, *, shown_as: Path, arbiter: str) -> None:
    """Make keys, directories and the configuration in `root`, which will be called `shown_as`."""
    create_keys(root / "keys", cluster="trial", nodes=tuple(NODES))
    for name in NODES:
        (root / name / "data").mkdir(parents=True)
    text = _CLUSTER.format(root=shown_as, arbiter=arbiter)
    port, api_port = free_port(), free_port()
    for name, address in NODES.items():
        text += _NODE.format(
            name=name, address=address, root=shown_as, port=port, api_port=api_port
        )
    (root / "cluster.toml").write_text(text)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
