"""A program that holds a virtual IP as it is told, a word a line; it answers each with a line.

    python tests/switches/holder.py ADDRESS/PREFIX INTERFACE LAPSE_S

Words: engage, disengage, engaged, renew, check (the conformance suite), pids, end.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import trio

from mirrorha.errors import MirrorHAError
from mirrorha.switches import VirtualIp
from mirrorha.testing.check_switch import check_switch


async def main(address: str, interface: str, lapse: str) -> None:
    def make() -> VirtualIp:
        return VirtualIp(address, interface, lapse_s=float(lapse))

    async def guardian() -> int:
        found = switch._guardian
        return 0 if found is None else found.pid

    switch = make()
    words: dict[str, Callable[[], Awaitable[object]]] = {
        "engage": switch.engage,
        "disengage": switch.disengage,
        "engaged": switch.is_engaged,
        "renew": switch.renew,
        "guardian": guardian,
        "check": lambda: check_switch(make),
    }
    print("ready", flush=True)
    while word := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
        try:
            print(await words[word](), flush=True)
        except MirrorHAError as error:
            print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
