"""Isolation checks against sockets of this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from mirrorha.errors import LocalUsageError
from mirrorha.net import ping
from mirrorha.net.isolation import answers
from tests.requirements import lacking, require_netns


async def test_a_host_that_accepts_a_connection_answers() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    try:
        assert await answers(f"tcp://127.0.0.1:{port}", 2.0)
    finally:
        for listener in listeners:
            await listener.aclose()


async def test_a_refusal_is_no_answer() -> None:
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))  # bound, and not listening
        assert not await answers(f"tcp://127.0.0.1:{sock.getsockname()[1]}", 2.0)


async def test_silence_ends_at_the_deadline() -> None:
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        with trio.socket.socket() as first, trio.socket.socket() as second:
            # The queue of connections that nobody accepts is full: the next one hangs.
            await first.connect(address)
            with trio.move_on_after(0.2):
                await second.connect(address)
            with trio.fail_after(5):
                assert not await answers(f"tcp://127.0.0.1:{address[1]}", 0.2)


async def test_an_unknown_name_is_no_answer() -> None:
    assert not await answers("tcp://no-such-host.invalid:443", 5.0)


@pytest.mark.parametrize("address", ["10.0.3.1", "udp://10.0.3.1:5", "tcp://10.0.3.1", "icmp://"])
async def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(LocalUsageError, match="icmp://HOST"):
        await answers(address, 1.0)


IN_A_NETWORK_OF_ITS_OWN = """
import ctypes, encodings.idna, fcntl, logging, os, socket, struct, sys, trio
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x40000000) == 0, "unshare"
with socket.socket() as sock:  # bring the loopback interface of this namespace up
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14s", b"lo", 0x49, b""))
from mirrorha.net.isolation import answers
"""

WITHOUT_THE_RIGHT_TO_PING = """
os.setuid(65534)
logging.basicConfig(format="%(message)s")
assert not trio.run(answers, "icmp://127.0.0.1", 1.0)
"""

AS_ROOT = """
"""

WITH_THE_RIGHT_TO_PING = """
try:
    open("/proc/sys/net/ipv4/ping_group_range", "w").write("0 2147483647")
except OSError:
    sys.exit(3)
os.setuid(65534)
"""

ANSWERED = """
for host in ("127.0.0.1", "[::1]"):
    assert trio.run(answers, f"icmp://{host}", 2.0), host
assert not trio.run(answers, "icmp://192.0.2.1", 0.3)
"""


def in_a_network_of_its_own(body: str) -> subprocess.CompletedProcess[str]:
    """Run `body` where, as the kernel has it for a new network, nobody may send pings."""
    require_netns()
    return subprocess.run(
        [sys.executable, "-c", IN_A_NETWORK_OF_ITS_OWN + body],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_without_the_right_to_ping_there_is_no_answer_and_the_log_says_why() -> None:
    run = in_a_network_of_its_own(WITHOUT_THE_RIGHT_TO_PING)
    assert run.returncode == 0, run.stderr
    assert "net.ipv4.ping_group_range" in run.stderr


@pytest.mark.parametrize("who", [AS_ROOT, WITH_THE_RIGHT_TO_PING], ids=["root", "by a group"])
def test_a_ping_is_answered_in_a_network_of_its_own(who: str) -> None:
    run = in_a_network_of_its_own(who + ANSWERED)
    if run.returncode == 3:
        lacking("to write /proc/sys/net", "run the tests where root may")
    assert run.returncode == 0, run.stderr


def test_only_the_answer_to_this_request_counts() -> None:
    payload = b"0123456789abcdef"
    reply = b"\x00\x00\xab\xcd\x00\x01\x00\x07" + payload
    assert ping._is_reply(reply, kind=0, number=7, payload=payload)
    assert not ping._is_reply(reply, kind=0, number=8, payload=payload)
    assert not ping._is_reply(reply, kind=129, number=7, payload=payload)
    assert not ping._is_reply(reply[:-1] + b"x", kind=0, number=7, payload=payload)
    assert not ping._is_reply(reply[:7], kind=0, number=7, payload=payload)
