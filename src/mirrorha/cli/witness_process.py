"""The witness and the signals that end it, in one process."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import trio

from mirrorha.arbiters.witness_server import serve_witness
from mirrorha.cli.node_process import plainest
from mirrorha.errors import LocalUsageError
from mirrorha.net.certificates import WITNESS
from mirrorha.net.keys import load_keys
from mirrorha.net.tls import witness_server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path


def load_contexts(files: Sequence[Path]) -> dict[str, ssl.SSLContext]:
    """The server's side of TLS for each cluster, by its name. Blocks on the disk.

    Raises:
        LocalUsageError: a file is missing, damaged, not the witness's, or of a cluster that
            another one is of too.
    """
    contexts: dict[str, ssl.SSLContext] = {}
    for file in files:
        keys = load_keys(file, node=WITNESS)
        if keys.cluster in contexts:
            raise LocalUsageError(f"{file}: cluster '{keys.cluster}' is given twice")
        contexts[keys.cluster] = witness_server_context(keys)
    return contexts


def serve(
    *,
    state_dir: Path,
    contexts: dict[str, ssl.SSLContext],
    host: str,
    port: int,
    on_ready: Callable[[str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT. Blocks; needs the main thread.

    Args:
        on_ready: told once where it listens.

    Raises:
        MirrorHAError: it cannot listen there, or cannot use `state_dir`.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    trio.run(_serve, state_dir, contexts, host, port, on_ready)


async def _serve(
    state_dir: Path,
    contexts: dict[str, ssl.SSLContext],
    host: str,
    port: int,
    on_ready: Callable[[str, int], None],
) -> None:
    async def run(*, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        await serve_witness(
            state_dir=state_dir, contexts=contexts, host=host, port=port, task_status=task_status
        )

    try:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                running = await nursery.start(run)
                on_ready(host, running.port)
                await anext(signals)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise plainest(group) from None
