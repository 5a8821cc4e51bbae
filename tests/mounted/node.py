"""`mirrorha` as a program: `node.py [PORT:INSTEAD] run …`. With a detour, what it would connect to
at PORT it connects to at INSTEAD, where a relay stands."""

from __future__ import annotations

import sys

import trio

from mirrorha.cli import main


def make_detour(port: int, instead: int) -> None:
    connect = trio.open_tcp_stream

    async def open_tcp_stream(host: str, to: int, **options: object) -> trio.SocketStream:
        return await connect(host, instead if to == port else to, **options)  # type: ignore[arg-type]

    trio.open_tcp_stream = open_tcp_stream  # type: ignore[assignment]


if __name__ == "__main__":
    if sys.argv[1][0].isdigit():
        make_detour(*map(int, sys.argv.pop(1).split(":")))
    sys.exit(main())
