"""Refused on every path by the peer's own host, or no proof at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import mirrorha
from mirrorha.net.death import probe_death
from mirrorha.net.paths import HeartbeatPath
from tests.requirements import lacking, require_device, require_netns, require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A TCP port that is bound on every address, so that nobody takes it, and not listened on."""
    with socket.socket() as sock:
        sock.bind(("", 0))
        yield sock.getsockname()[1]


def path_to(peer: str, port: int, *, local: str = ONE) -> HeartbeatPath:
    return HeartbeatPath(index=0, local=local, local_port=1, peer=peer, peer_port=port)


async def test_refused_on_every_path_is_a_proof(refused_port: int) -> None:
    paths = [path_to(ONE, refused_port), path_to(TWO, refused_port, local=TWO)]
    assert await probe_death(paths)


async def test_refused_over_ipv6_is_a_proof() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            lacking("the address ::1", "sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
        assert await probe_death([path_to("::1", sock.getsockname()[1], local="::1")])


async def test_one_path_that_answers_is_no_proof(refused_port: int) -> None:
    with socket.socket() as listener:
        listener.bind((TWO, 0))
        listener.listen()
        answered = path_to(TWO, listener.getsockname()[1], local=TWO)
        assert not await probe_death([path_to(ONE, refused_port), answered])
        assert not await probe_death([answered])


async def test_one_path_that_is_silent_is_no_proof(refused_port: int) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        # A listener whose backlog is full answers nobody.
        full.bind((TWO, 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        silent = path_to(TWO, full.getsockname()[1], local=TWO)
        began = trio.current_time()
        assert not await probe_death([path_to(ONE, refused_port), silent], timeout_ms=200)
        assert 0.15 < trio.current_time() - began < 2


@pytest.mark.parametrize(
    ("peer", "local"),
    [(ONE, "192.0.2.77"), ("255.255.255.255", ONE), ("fe80::1%absent0", "::1")],
)
async def test_a_path_that_cannot_be_tried_is_no_proof(
    peer: str, local: str, refused_port: int
) -> None:
    paths = [path_to(ONE, refused_port), path_to(peer, refused_port, local=local)]
    assert not await probe_death(paths)


async def test_no_paths_are_no_proof() -> None:
    assert not await probe_death([])


async def test_being_cancelled_is_no_answer(refused_port: int) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await probe_death([path_to(ONE, refused_port)])
        raise AssertionError("it must not answer")
    assert scope.cancelled_caught


# Plays the host and the firewall of 10.9.0.2 on a tunnel: answers a connection with a reset, or
# as iptables' REJECT does by default, which connect() reports as a refusal just the same.
TUNNEL_PROGRAM = """
import fcntl, os, socket, struct, subprocess, sys, threading
import trio
from mirrorha.net.death import probe_death
from mirrorha.net.paths import HeartbeatPath

def checksum(raw):
    total = sum(struct.unpack(f">{len(raw) // 2}H", raw))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF & ~(total + (total >> 16))

def packet(protocol, source, target, body):
    size = 20 + len(body)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, protocol, 0, source, target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body

def reset(asked):
    source, target = asked[12:16], asked[16:20]
    from_port, to_port, sequence = struct.unpack_from(">HHI", asked, 20)
    body = struct.pack(">HHIIBBHHH", to_port, from_port, 0, sequence + 1, 0x50, 0x14, 0, 0, 0)
    pseudo = target + source + struct.pack(">BBH", 0, 6, len(body))
    body = body[:16] + struct.pack(">H", checksum(pseudo + body)) + body[18:]
    return packet(6, target, source, body)

def reject(asked):
    body = struct.pack(">BBHI", 3, 3, 0, 0) + asked[:28]
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    return packet(1, asked[16:20], asked[12:16], body)

tunnel = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))  # IFF_TUN | IFF_NO_PI
for command in ("addr add 10.9.0.1/24 dev tun0", "link set tun0 up"):
    subprocess.run([sys.argv[1], *command.split()], check=True)

def serve():
    while True:
        asked = os.read(tunnel, 2048)
        if asked[0] == 0x45 and asked[9] == 6:
            os.write(tunnel, {80: reset, 81: reject}[struct.unpack_from(">H", asked, 22)[0]](asked))

threading.Thread(target=serve, daemon=True).start()
for port in (80, 81):
    path = HeartbeatPath(index=0, local="10.9.0.1", local_port=1, peer="10.9.0.2", peer_port=port)
    with socket.socket() as sock:
        sock.settimeout(5)
        plainly = sock.connect_ex(("10.9.0.2", port))
    print(os.strerror(plainly), trio.run(lambda: probe_death([path], timeout_ms=5_000)), flush=True)
"""


def test_a_firewall_that_rejects_is_no_proof() -> None:
    require_netns()
    require_device("/dev/net/tun")
    program = subprocess.run(
        [
            require_program("unshare"),
            "--net",
            sys.executable,
            "-c",
            TUNNEL_PROGRAM,
            require_program("ip"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(mirrorha.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert program.stdout.splitlines() == ["Connection refused True", "Connection refused False"], (
        program.stderr
    )
