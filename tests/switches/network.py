"""Two servers and a client on one link, each a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from tests.requirements import require_netns

PLACES: Final = ("lyon", "paris", "client")
INTERFACE: Final = "eth0"
VIP4: Final = "10.77.0.100/24"
VIP6: Final = "fd77::100/64"
LIMIT_S: Final = 20.0

#: What the client does: connect, and print what it is told.
ASK: Final = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as one:
    one.settimeout(3)
    one.connect((sys.argv[1], 7000))
    print(one.recv(100).decode())
"""
#: What a server does: say its name to whoever connects, on every address there will ever be.
ANSWER: Final = """
import socket, sys, threading, time
with socket.socket(socket.AF_INET6) as one:
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind(("::", 7000))
    one.listen()
    print("ready", flush=True)
    one.settimeout(60)
    while True:
        other, _ = one.accept()
        with other:
            other.sendall(sys.argv[1].encode())
"""


@attrs.frozen
class Network:
    """The three of them; names of namespaces by what they are."""

    names: dict[str, str]

    def command(self, place: str, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.names[place], *argv]

    def run(self, place: str, *argv: str) -> str:
        done = subprocess.run(
            self.command(place, *argv), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def has(self, place: str, address: str) -> bool:
        text = self.run(place, "ip", "-o", "address", "show", "dev", INTERFACE)
        return f" {address} " in text

    def lifetimes(self, place: str, address: str) -> list[str]:
        """For how long `place` has the address, once for each prefix length."""
        text = self.run(place, "ip", "-o", "address", "show", "dev", INTERFACE)
        wanted = address.partition("/")[0]
        lines = [line.split() for line in text.splitlines()]
        return [
            words[words.index("valid_lft") + 1]
            for words in lines
            if words[3].partition("/")[0] == wanted
        ]

    def replace_interface(self, place: str) -> None:
        """Another one of the same name, as after a driver was loaded again."""
        self.run(place, "ip", "link", "delete", INTERFACE)
        _plug(self.names["link"], place, self.names[place])
        _ip("-n", self.names[place], "link", "set", INTERFACE, "up")

    def mac(self, place: str) -> str:
        return self.run(place, "cat", f"/sys/class/net/{INTERFACE}/address").strip()

    def neighbour(self, address: str) -> str:
        """Whom the client believes to have `address`: what its cache says, asking nobody."""
        words = self.run("client", "ip", "neigh", "show", address.partition("/")[0]).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    def ask(self, address: str) -> str:
        """Who answers the client there."""
        found = self.run("client", sys.executable, "-c", ASK, address.partition("/")[0])
        return found.strip()

    def wait_until_gone(self, place: str, address: str, limit_s: float = LIMIT_S) -> float:
        """Wait until `place` does not have the address; return how long that took."""
        began = time.monotonic()
        while self.has(place, address):
            assert time.monotonic() - began < limit_s, f"{place} has {address} still"
            time.sleep(0.02)
        return time.monotonic() - began


@contextmanager
def open_network() -> Iterator[Network]:
    """Make it; whatever runs in it at the end is killed with it."""
    require_netns()
    base = f"mirrorha-vip-{os.getpid()}"
    network = Network({place: f"{base}-{place}" for place in (*PLACES, "link")})
    try:
        _build(network)
        yield network
    finally:
        for name in network.names.values():
            pids = _ip("netns", "pids", name, is_needed=False).split()
            for pid in pids:
                _end(int(pid))
            _ip("netns", "delete", name, is_needed=False)


def _build(network: Network) -> None:
    for name in network.names.values():
        _ip("netns", "add", name)
    link = network.names["link"]
    _ip("-n", link, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
    _ip("-n", link, "link", "set", "bridge", "up")
    for number, place in enumerate(PLACES, 1):
        name = network.names[place]
        _plug(link, place, name)
        _ip("-n", name, "link", "set", "lo", "up")
        # Without the kernel's own search for a duplicate, which takes two seconds.
        for address in (f"10.77.0.{number}/24", f"fd77::{number}/64"):
            _ip("-n", name, "address", "add", address, "dev", INTERFACE, "nodad")
        _ip("-n", name, "link", "set", INTERFACE, "up")


def _plug(link: str, place: str, name: str) -> None:
    _ip("-n", link, "link", "add", place, "type", "veth", "peer", INTERFACE, "netns", name)
    _ip("-n", link, "link", "set", place, "master", "bridge", "up")


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def _ip(*arguments: str, is_needed: bool = True) -> str:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert not is_needed or done.returncode == 0, (arguments, done.stderr)
    return done.stdout
