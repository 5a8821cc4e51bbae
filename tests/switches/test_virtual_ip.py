"""A virtual IP moves between two machines, and a third one follows: real network stacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.switches.network import ANSWER, INTERFACE, LIMIT_S, VIP4, VIP6, Network, open_network

HOLDER: Final = Path(__file__).with_name("holder.py")


@attrs.frozen
class Holder:
    """A process on one of the servers that holds an address as it is told."""

    process: subprocess.Popen[str]

    def say(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def running(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready, and killed at the end of the block."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


@contextmanager
def holding(network: Network, place: str, address: str, lapse_s: float = 15) -> Iterator[Holder]:
    argv = [sys.executable, str(HOLDER), address, INTERFACE, str(lapse_s)]
    with running(network.command(place, *argv)) as process:
        yield Holder(process)


@contextmanager
def answering(network: Network) -> Iterator[None]:
    """Both servers tell their names to whoever connects."""
    lyon = network.command("lyon", sys.executable, "-c", ANSWER, "lyon")
    paris = network.command("paris", sys.executable, "-c", ANSWER, "paris")
    with running(lyon), running(paris):
        yield


@pytest.fixture
def network() -> Iterator[Network]:
    with open_network() as made:
        yield made


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_clients_follow_an_address_that_moves(network: Network, address: str) -> None:
    """The client knows from its cache who has it, and that is corrected by the news alone."""
    with (
        answering(network),
        holding(network, "lyon", address) as lyon,
        holding(network, "paris", address) as paris,
    ):
        assert lyon.say("engage") == "None"
        assert lyon.say("engaged") == "True"
        assert network.ask(address) == "lyon"
        assert network.neighbour(address) == network.mac("lyon")

        assert lyon.say("disengage") == "None"
        assert lyon.say("engaged") == "False"
        assert not network.has("lyon", address)
        assert network.neighbour(address) == network.mac("lyon"), "nobody told it otherwise yet"

        assert paris.say("engage") == "None"
        assert network.neighbour(address) == network.mac("paris")
        assert network.ask(address) == "paris"


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_an_address_that_somebody_has_is_not_taken(network: Network, address: str) -> None:
    with holding(network, "lyon", address) as lyon, holding(network, "paris", address) as paris:
        assert lyon.say("engage") == "None"
        refused = paris.say("engage")
        assert refused.startswith("SwitchError")
        assert "in use on eth0" in refused
        assert network.mac("lyon") in refused
        assert not network.has("paris", address)
        assert lyon.say("engage") == "None", "to have it already is no duplicate"
        assert lyon.say("disengage") == "None"
        assert paris.say("engage") == "None"


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_an_address_goes_at_once_with_a_process_that_is_killed(
    network: Network, address: str
) -> None:
    # It lapses far later than this waits: so it is the guardian that takes it away.
    with holding(network, "lyon", address, lapse_s=600) as lyon:
        assert lyon.say("engage") == "None"
        lyon.process.kill()
        network.wait_until_gone("lyon", address, limit_s=LIMIT_S / 2)


def test_an_address_lapses_with_a_process_that_hangs(network: Network) -> None:
    with holding(network, "lyon", VIP4, lapse_s=2) as lyon:
        assert lyon.say("engage") == "None"
        lyon.process.send_signal(signal.SIGSTOP)
        try:
            assert network.has("lyon", VIP4)
            network.wait_until_gone("lyon", VIP4)
        finally:
            lyon.process.send_signal(signal.SIGCONT)


def test_an_address_that_is_renewed_stays(network: Network) -> None:
    with holding(network, "lyon", VIP6, lapse_s=3) as lyon:
        assert lyon.say("engage") == "None"
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert lyon.say("renew") == "None"
            assert network.has("lyon", VIP6)
            time.sleep(0.3)
        # Its own address has the route to the network: that must not lapse with ours.
        network.wait_until_gone("lyon", VIP6)
        routes = network.run("lyon", "ip", "-6", "route", "show", "dev", INTERFACE)
        assert "fd77::/64" in routes
        assert "expires" not in routes


def test_a_guardian_that_was_killed_is_replaced(network: Network) -> None:
    with holding(network, "lyon", VIP4, lapse_s=600) as lyon:
        assert lyon.say("engage") == "None"
        first = int(lyon.say("guardian"))
        os.kill(first, signal.SIGKILL)
        end = time.monotonic() + LIMIT_S
        while lyon.say("guardian") == str(first):
            assert time.monotonic() < end
            assert lyon.say("renew") == "None"
        lyon.process.kill()
        network.wait_until_gone("lyon", VIP4, limit_s=LIMIT_S / 2)


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_it_is_a_switch(network: Network, address: str) -> None:
    with holding(network, "lyon", address) as lyon:
        assert lyon.say("check") == "None"
        assert not network.has("lyon", address)
        assert lyon.say("guardian") == "0"


@pytest.mark.parametrize(
    ("address", "other"),
    [(VIP4, "10.77.0.100/32"), (VIP6, "fd77::100/128"), (VIP4, "10.77.0.100/16")],
)
def test_an_address_goes_whatever_its_prefix_length(
    network: Network, address: str, other: str
) -> None:
    """A person has set it, or the configuration said so once: it is one address all the same."""
    kernel = ("nodad",) if ":" in address else ()
    add = ("ip", "address", "add", other, "dev", INTERFACE, *kernel)
    with holding(network, "lyon", address) as lyon:
        network.run("lyon", *add)
        assert lyon.say("engaged") == "True"
        assert lyon.say("disengage") == "None"
        assert lyon.say("engaged") == "False"
        assert not network.has("lyon", other)
        network.run("lyon", *add)
        assert lyon.say("engage") == "None"
        assert len(network.lifetimes("lyon", address)) == 1
        assert "forever" not in network.lifetimes("lyon", address), "it would outlast a hang"
        assert lyon.say("disengage") == "None"
        assert not network.lifetimes("lyon", address)


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_an_address_goes_though_its_interface_was_renamed(network: Network, address: str) -> None:
    with holding(network, "lyon", address, lapse_s=600) as lyon:
        assert lyon.say("engage") == "None"
        network.run("lyon", "ip", "link", "set", INTERFACE, "name", "lan0")
        try:
            assert lyon.say("disengage") == "None"
        finally:
            network.run("lyon", "ip", "link", "set", "lan0", "name", INTERFACE)
        assert not network.has("lyon", address)


def test_an_address_goes_alone(network: Network) -> None:
    """It was there first, and so is what the kernel calls primary: the others go with that one."""
    own = "10.77.0.1/24"
    network.run("lyon", "ip", "address", "del", own, "dev", INTERFACE)
    for ending in ("disengaged", "killed", "lapsed"):
        lapse_s = 2 if ending == "lapsed" else 600
        with holding(network, "lyon", VIP4, lapse_s=lapse_s) as lyon:
            assert lyon.say("engage") == "None"
            network.run("lyon", "ip", "address", "add", own, "dev", INTERFACE)
            if ending == "disengaged":
                assert lyon.say("disengage") == "None"
            elif ending == "killed":
                lyon.process.kill()
            network.wait_until_gone("lyon", VIP4)
            assert network.has("lyon", own), ending
            network.run("lyon", "ip", "address", "del", own, "dev", INTERFACE)


def test_an_interface_that_was_made_anew_is_guarded(network: Network) -> None:
    with holding(network, "lyon", VIP4, lapse_s=600) as lyon:
        assert lyon.say("engage") == "None"
        first = lyon.say("guardian")
        network.replace_interface("lyon")
        assert lyon.say("engaged") == "False"
        assert lyon.say("engage") == "None"
        assert lyon.say("guardian") != first
        lyon.process.kill()
        network.wait_until_gone("lyon", VIP4, limit_s=LIMIT_S / 2)


def test_an_interface_that_is_not_there_is_named(network: Network) -> None:
    argv = [sys.executable, str(HOLDER), VIP4, "eth9", "15"]
    with running(network.command("lyon", *argv)) as process:
        holder = Holder(process)
        assert "eth9: no interface with this name" in holder.say("engage")
        assert holder.say("engaged") == "False"
        assert holder.say("disengage") == "None"


def test_an_interface_that_is_down_is_said_so(network: Network) -> None:
    network.run("lyon", "ip", "link", "set", INTERFACE, "down")
    with holding(network, "lyon", VIP4) as lyon:
        assert "Network is down" in lyon.say("engage")
        assert not network.has("lyon", VIP4)
