"""Where an HTTP server listens: TCP, TLS over it, a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

import trio

from mirrorha.errors import LocalUsageError

if TYPE_CHECKING:
    import ssl

UNIX_BACKLOG: Final = 64


async def open_tcp(port: int, *, host: str) -> list[trio.SocketListener]:
    """Listen on `host`: an address, "0.0.0.0" (all of IPv4) or "::" (all of IPv6 and IPv4).

    Raises:
        LocalUsageError: the port is taken, the address is not this machine's, or this user
            may not listen there.
    """
    try:
        return await trio.open_tcp_listeners(port, host=None if host == "::" else host)
    except OSError as exc:
        raise _refusal(f"{host}:{port}", exc) from exc


def with_tls(
    listeners: list[trio.SocketListener], context: ssl.SSLContext
) -> list[trio.SSLListener[trio.SocketStream]]:
    """Speak TLS on `listeners`. A certificate loaded into `context` later serves from then on."""
    return [trio.SSLListener(one, context, https_compatible=True) for one in listeners]


async def open_unix(path: str, *, mode: int = 0o600) -> trio.SocketListener:
    """Listen on a Unix socket; one that a dead process left behind is replaced.

    Works in a thread, for `path` may be on a slow disk.

    Raises:
        LocalUsageError: somebody listens there, the path is no socket, or it cannot be made.
    """
    try:
        # Its own limiter: the default one may be full of file operations that hang.
        bound = await trio.to_thread.run_sync(
            _bind_unix, path, mode, limiter=trio.CapacityLimiter(1)
        )
    except OSError as exc:
        raise _refusal(path, exc) from exc
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def _bind_unix(path: str, mode: int) -> socket.socket:
    _remove_leftover(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(path)
        # Nobody can connect before listen(), so nobody slips in before the mode is set.
        os.chmod(path, mode)
        server.listen(UNIX_BACKLOG)
    except OSError:
        server.close()
        raise
    return server


def _remove_leftover(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise LocalUsageError(f"{path} exists and is not a socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        if client.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
            return
    raise LocalUsageError(f"another process listens on {path}; stop it first")


def _refusal(where: str, exc: OSError) -> LocalUsageError:
    why = {
        errno.EADDRINUSE: "another process listens there; stop it or choose another port",
        errno.EADDRNOTAVAIL: "it is not an address of this machine",
        errno.EACCES: "this user may not",
    }.get(exc.errno or 0, str(exc))
    return LocalUsageError(f"cannot listen on {where}: {why}")
