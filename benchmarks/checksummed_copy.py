"""The plainest checksummed copy of a directory from one process to another, beside a resync.

    python benchmarks/checksummed_copy.py KEYS tls|plain SOURCE

asks a process of its own to receive into a directory beside SOURCE, which is removed again. Every
mebibyte is read, hashed (XXH3-128) and sent; there it is hashed, compared and written; at the end
everything is synced. It prints the seconds that took, from the connection on. No names are
compared, nothing is asked, nobody writes meanwhile: less than this no checksummed copy can do.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import xxhash

from mirrorha.net.certificates import node_dns_name
from mirrorha.net.keys import load_keys
from mirrorha.net.tls import client_context, server_context

CLUSTER: Final = "orders"
NODES: Final = ("paris", "lyon")
PIECE_BYTES: Final = 1 << 20
_HEAD: Final = struct.Struct("!HI16s")  # of a name, if a file begins; of a piece; and its hash
_LIMIT_S: Final = 3600.0


def copy(keys: Path, link: str, source: Path) -> float:
    """Copy `source` to a process of its own; the seconds it took. Blocks.

    Raises:
        OSError, CalledProcessError: the other process broke off.
    """
    target = Path(tempfile.mkdtemp(prefix="copy-", dir=source.parent))
    listener = socket.create_server(("127.0.0.1", 0))
    port = str(listener.getsockname()[1])
    command = [sys.executable, __file__, str(keys), link, "--receive", str(target), port]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        with (
            listener,
            subprocess.Popen(
                [*command, str(listener.getsockname()[1])], env=environment
            ) as process,
        ):
            listener.settimeout(60)
            raw, _ = listener.accept()
            raw.settimeout(_LIMIT_S)
            with _wrapped(raw, keys, link, serves=True) as connection:
                began_s = time.monotonic()
                _send(connection, source)
                _read(connection, 1)
                took_s = time.monotonic() - began_s
            if process.wait(60):
                raise subprocess.CalledProcessError(process.returncode, command)
        return took_s
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _wrapped(raw: socket.socket, keys: Path, link: str, *, serves: bool) -> socket.socket:
    if link == "plain":
        return raw
    me, other = NODES if serves else NODES[::-1]
    mine = load_keys(keys, node=me, cluster=CLUSTER)
    if serves:
        return server_context(mine).wrap_socket(raw, server_side=True)
    name = node_dns_name(cluster=CLUSTER, node=other)
    return client_context(mine).wrap_socket(raw, server_hostname=name)


def _send(connection: socket.socket, source: Path) -> None:
    for at, _, names in os.walk(source):
        for name in names:
            path = Path(at, name)
            told = str(path.relative_to(source)).encode()
            with path.open("rb", buffering=0) as file:
                while (piece := file.read(PIECE_BYTES)) or told:
                    digest = xxhash.xxh3_128_digest(piece)
                    connection.sendall(_HEAD.pack(len(told), len(piece), digest) + told)
                    connection.sendall(piece)
                    told = b""
    connection.sendall(_HEAD.pack(0, 0, bytes(16)))


def _receive(connection: socket.socket, target: Path) -> None:
    fd = -1
    while True:
        name_bytes, piece_bytes, digest = _HEAD.unpack(_read(connection, _HEAD.size))
        if not name_bytes and not piece_bytes:
            break
        if name_bytes:
            path = target / _read(connection, name_bytes).decode()
            path.parent.mkdir(parents=True, exist_ok=True)
            if fd >= 0:
                os.close(fd)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        piece = _read(connection, piece_bytes)
        if xxhash.xxh3_128_digest(piece) != digest:
            raise ssl.SSLError("a piece is not what was sent")
        os.write(fd, piece)
    os.sync()
    connection.sendall(b".")


def _read(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view, have = memoryview(data), 0
    while have < count:
        got = connection.recv_into(view[have:])
        if not got:
            raise ConnectionResetError("the other process broke off")
        have += got
    return data


def main() -> int:
    keys, link, *rest = sys.argv[1:]
    if rest[0] != "--receive":
        print(f"{copy(Path(keys), link, Path(rest[0])):.3f}")
        return 0
    raw = socket.create_connection(("127.0.0.1", int(rest[2])), timeout=_LIMIT_S)
    with _wrapped(raw, Path(keys), link, serves=False) as connection:
        _receive(connection, Path(rest[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
