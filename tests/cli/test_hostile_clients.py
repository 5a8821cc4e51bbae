"""A real pair under attack on every port: it keeps its roles, answers, and does not grow."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorha.wire.limits import FRAME_BYTES_MAX
from tests.cli.real_pair import Pair, open_pair

pytestmark = pytest.mark.slow

#: What a crowd on every port at once may cost a process, at its peak.
GROWTH_KIB_MAX = 24 * 1024
CROWD = 300
FLOOD_BYTES = 32 * 1024 * 1024

Connect = Callable[[], socket.socket]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with open_pair(tmp_path) as pair:
        probe = f"[probe]\nport = {{ paris = {pair.ports[3]}, lyon = {pair.ports[4]} }}\n"
        pair.cli.config.write_text(f"{pair.cli.config.read_text()}\n{probe}")
        pair.run_witness()
        pair.run("paris")
        pair.run("lyon")
        pair.wait("paris", "PRIM")
        pair.wait("lyon", "SECOND")
        yield pair


def tcp(port: int) -> Connect:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=5)


def unix(path: Path) -> Connect:
    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(5)
        try:
            made.connect(str(path))
        except OSError:  # the line of those who wait to be let in is full
            made.close()
            raise
        return made

    return connect


def resident_kib_max(pid: int) -> int:
    """The most that it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    pytest.fail("the process is gone")


def send(connection: socket.socket, data: bytes) -> None:
    """As much of it as the other side takes."""
    with contextlib.suppress(OSError):
        connection.sendall(data)


def beginnings() -> list[bytes]:
    rng = random.Random(1)
    length = struct.Struct(">I")
    return [
        b"",
        b"\0" * 4096,
        rng.randbytes(4096),
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 200_000,
        b"POST /api/v1/commands/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        # A TLS record, a frame and a message of the witness that promise more than anything may be.
        b"\x16\x03\x01\xff\xff" + b"\x01\xff\xff\xff",
        b"\xb5\x48\x01\x01" + length.pack(FRAME_BYTES_MAX * 16) + b"\0" * 16,
        length.pack(0xFFFFFFFF) + b"\xff" * 64,
    ]


def attack_with_garbage(connect: Connect) -> None:
    for data in beginnings():
        for is_reset in (False, True):
            with contextlib.suppress(OSError), connect() as connection:
                send(connection, data)
                if is_reset:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def attack_with_a_flood(connect: Connect) -> None:
    """Whoever sends without end is cut off, or not listened to: never kept."""
    with contextlib.suppress(OSError), connect() as connection:
        for _ in range(FLOOD_BYTES >> 16):
            connection.sendall(b"a" * 65536)


def attack_by_never_reading(connect: Connect) -> None:
    request = b"GET /api/v1/history?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.suppress(OSError), connect() as connection:
        connection.settimeout(1)
        for _ in range(FLOOD_BYTES // 64 // len(request)):
            connection.sendall(request)


def crowd(connect: Connect, held: contextlib.ExitStack) -> None:
    """Many that say a byte and then nothing, and stay."""
    for _ in range(CROWD):
        with contextlib.suppress(OSError):
            connection = held.enter_context(connect())
            send(connection, b"\x16")


def flood_with_datagrams(port: int) -> None:
    """Heartbeats come from one address and port: strangers' are dropped by the kernel."""
    rng = random.Random(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(3000):
            with contextlib.suppress(OSError):
                sender.sendto(rng.randbytes(number % 1400), ("127.0.0.1", port))


def ask_probe(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /primary HTTP/1.0\r\n\r\n")
        return int(connection.recv(100).split()[1])


def check_well(pair: Pair, epoch: Any) -> None:
    assert [pair.status(name)["role"] for name in ("paris", "lyon")] == ["PRIM", "SECOND"]
    assert pair.status("paris")["epoch"] == epoch, "nobody so much as doubted the other"
    assert (ask_probe(pair.ports[3]), ask_probe(pair.ports[4])) == (200, 503)
    assert pair.status("paris")["arbiter"]["reachable"]


def test_no_client_on_any_port_disturbs_a_pair(pair: Pair) -> None:
    ports = {
        "session": tcp(pair.ports[0]),
        "session of the second": tcp(pair.ports[1]),
        "witness": tcp(pair.ports[2]),
        "probe": tcp(pair.ports[3]),
        "management": unix(pair.root / "paris" / "mirrorha.sock"),
    }
    processes = {name: pair.pid(name) for name in ("paris", "lyon", "witness")}
    epoch = pair.status("paris")["epoch"]
    for connect in ports.values():  # what is loaded at the first use is no growth
        attack_with_garbage(connect)
    before = {name: resident_kib_max(pid) for name, pid in processes.items()}
    with contextlib.ExitStack() as held:
        for connect in ports.values():
            attack_with_garbage(connect)
            attack_with_a_flood(connect)
            attack_by_never_reading(connect)
        for port in pair.ports[:2]:
            flood_with_datagrams(port)
        check_well(pair, epoch)
        for connect in ports.values():
            crowd(connect, held)
        check_well(pair, epoch)
        # Longer than a stranger is given, and than a silent peer is.
        ends = time.monotonic() + 7
        while time.monotonic() < ends:
            check_well(pair, epoch)
            time.sleep(0.5)
    grown = {name: resident_kib_max(pid) - before[name] for name, pid in processes.items()}
    assert max(grown.values()) < GROWTH_KIB_MAX, grown
    swapped = pair.ask("paris", "swap")
    assert "lyon" in swapped["text"], "what a person asks is done as before"
    for name, pid in processes.items():
        assert os.path.exists(f"/proc/{pid}")
        assert "Traceback" not in pair.log(name)
    print(grown)
