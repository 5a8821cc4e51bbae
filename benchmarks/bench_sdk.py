"""What a mirrored write costs a program, beside what the wire alone costs, in one run.

    python benchmarks/bench_sdk.py [--rounds N] [--seconds S] [--delay-ms MS] [--json]

Two nodes in two processes on the loopback, TLS, `ack = "applied"`, through the public file API. The
wire alone is a session of the library's own (TLS, frames, checksums) between two processes that
echo 4 KiB, and that send 1 MiB after 1 MiB. Rounds of all of them take turns, so that whatever else
the machine does meets all alike; the medians are compared. Then the same through a relay that makes
every byte MS late each way. Run it on a machine that does nothing else: it needs both of its cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import trio

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_tls import Channel, our_sessions

from mirrorha.core.words import Role
from mirrorha.net.keys import create_keys, load_keys
from mirrorha.net.tls import client_context, server_context
from mirrorha.volume.replicator import Replicator
from tests.cluster import node_process
from tests.cluster.rig import Site, TestNode, free_ports, wait_until

PAGE_BYTES = 4096
BLOCK_BYTES = 1 << 20
FILE_BYTES = 1 << 23
LIMIT_S = 240

# What is asked of each ratio.
ASKED = {
    "one writer / echo": 0.5,
    "64 writers / one": 5.0,
    "1 MiB / stream": 0.5,
}
ASKED_FAR = {"round trip + near one writer / one writer": 0.87, "64 writers / one": 20.0}


# ---- the wire alone ----


async def echo_for_ever(channel: Channel) -> None:
    """Give back every small message; a large one is only received."""
    while True:
        body = await channel.session.receive_frame()  # type: ignore[attr-defined]
        if len(body.body) < BLOCK_BYTES:
            await channel.send(bytes(body.body))


async def run_channel(connection: socket.socket, directory: Path, use: object) -> None:
    calls = use is not echo_for_ever
    keys = load_keys(directory, node="paris" if calls else "lyon")
    context = client_context(keys) if calls else server_context(keys)
    async with our_sessions(connection, context, calls=calls) as channel:
        await use(channel)  # type: ignore[operator]


def serve_echo(listener: socket.socket, directory: Path) -> int:
    """A process that echoes on one connection; its id."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.alarm(LIMIT_S * 2)
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trio.run(run_channel, connection, directory, echo_for_ever)
        os._exit(0)
    return child


async def echo_us(channel: Channel, seconds: float) -> float:
    """The median of a 4 KiB round trip."""
    taken: list[float] = []
    page, end = bytes(PAGE_BYTES), time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or not taken:
        await channel.send(page)
        await channel.receive(PAGE_BYTES)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


async def stream_mb_s(channel: Channel, seconds: float) -> float:
    block, count = os.urandom(BLOCK_BYTES), 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds or not count:
        await channel.send(block)
        count += 1
    await channel.send(b"?")
    await channel.receive(1)
    return count * BLOCK_BYTES / (time.perf_counter() - began) / 1e6


# ---- the pair ----


def make_detour(port: int, instead: int) -> None:
    """From now on this process connects to `instead` where it means `port`."""
    connect = trio.open_tcp_stream

    async def open_tcp_stream(host: str, to: int, **options: object) -> trio.SocketStream:
        return await connect(host, instead if to == port else to, **options)  # type: ignore[arg-type]

    trio.open_tcp_stream = open_tcp_stream  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def open_pair(base: Path, ports: list[int], late: list[int]) -> AsyncGenerator[Replicator]:
    """A mirrored pair, its SECOND in another process. `late`: ports that lead to them late."""
    site = Site(base, ports=tuple(ports), changes=node_process.CHANGES)
    if late:
        make_detour(ports[1], late[1])
    site.share_keys()
    async with trio.open_nursery() as nursery:
        node = TestNode(site, "lyon", nursery)
        await node.start()
        peer = subprocess.Popen(  # noqa: ASYNC220 - it is killed below
            [
                sys.executable,
                __file__,
                *(["--detour", f"{ports[0]}:{late[0]}"] if late else []),
                *["--node", str(base), *map(str, ports)],
            ],
            stdout=subprocess.DEVNULL,
            env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )
        try:
            with trio.fail_after(60):
                await node.cluster.wait_role(Role.PRIM)
                await wait_until(lambda: node.cluster.status()["colour"] == "green")
            yield node.data
        finally:
            peer.send_signal(signal.SIGKILL)
            peer.wait()
        await node.end()
        nursery.cancel_scope.cancel()


async def write_for(
    data: Replicator, name: str, size: int, times: list[float], seconds: float
) -> None:
    """Write over and over the first part of a file; note how long each write takes."""
    block, offset = os.urandom(size), 0
    async with data.open(name, "wb") as file:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end or not times:
            await file.pwrite(block, offset)
            times.append(time.perf_counter() - began)
            offset = (offset + size) % FILE_BYTES


async def writers(data: Replicator, size: int, count: int, seconds: float) -> tuple[float, float]:
    """(median of a write in microseconds, writes a second)."""
    times: list[float] = []
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(write_for, data, f"{size}-{number}", size, times, seconds)
    return statistics.median(times) * 1e6, len(times) / (time.perf_counter() - began)


# ---- rounds ----


async def near_round(channel: Channel, data: Replicator, seconds: float) -> dict[str, float]:
    found = {"echo us": await echo_us(channel, seconds / 2)}
    found["one writer us"], one_rate = await writers(data, PAGE_BYTES, 1, seconds)
    found["one writer/s"] = one_rate
    _, found["64 writers/s"] = await writers(data, PAGE_BYTES, 64, seconds)
    found["stream MB/s"] = await stream_mb_s(channel, seconds / 2)
    for count in (1, 4):
        _, rate = await writers(data, BLOCK_BYTES, count, seconds)
        found[f"1 MiB x{count} MB/s"] = rate * BLOCK_BYTES / 1e6
    found["one writer / echo"] = found["echo us"] / found["one writer us"]
    found["64 writers / one"] = found["64 writers/s"] / one_rate
    found["1 MiB / stream"] = found["1 MiB x4 MB/s"] / found["stream MB/s"]
    return found


async def far_round(
    channel: Channel, data: Replicator, seconds: float, near: dict[str, float]
) -> dict[str, float]:
    found = {"round trip us": await echo_us(channel, seconds)}
    found["one writer us"], found["one writer/s"] = await writers(data, PAGE_BYTES, 1, seconds)
    _, found["64 writers/s"] = await writers(data, PAGE_BYTES, 64, seconds)
    found["64 writers / one"] = found["64 writers/s"] / found["one writer/s"]
    own_us = max(0.0, near["one writer us"] - near["echo us"])  # beyond the wire
    wanted_us = found["round trip us"] + own_us
    found["round trip + near one writer / one writer"] = wanted_us / found["one writer us"]
    return found


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def show(title: str, found: dict[str, float], asked: dict[str, float]) -> None:
    print(f"{title}, medians of all rounds (load {os.getloadavg()[0]:.2f}):")
    for name, value in found.items():
        wanted = f"   asked: at least {asked[name]:g}" if name in asked else ""
        print(f"  {name:44} {value:12.2f}{wanted}")


@contextlib.contextmanager
def relay(delay_ms: float, *ports: int) -> Generator[None]:
    """Pairs of (listening, target) ports with a relay between them."""
    program = [sys.executable, str(ROOT / "benchmarks/relay.py"), str(delay_ms), *map(str, ports)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


async def measure(
    directory: Path,
    connection: socket.socket,
    ports: list[int],
    late: list[int],
    one_round: object,
    rounds_max: int,
) -> dict[str, float]:
    """All rounds, through whatever is between these ports."""
    rounds: list[dict[str, float]] = []

    async def use(channel: Channel) -> None:
        async with open_pair(directory, ports, late) as data:
            for _ in range(rounds_max):
                rounds.append(await one_round(channel, data))  # type: ignore[operator]

    with trio.fail_after(LIMIT_S):
        await run_channel(connection, directory / "echo", use)
    return medians(rounds)


def in_a_directory(delay_ms: float, one_round: object, rounds_max: int) -> dict[str, float]:
    """Measure with a fresh pair and a fresh echo."""
    with (
        tempfile.TemporaryDirectory(prefix="mirrorha-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        directory = Path(name)
        (directory / "echo").mkdir()
        create_keys(directory / "echo", cluster="bench", nodes=["paris", "lyon"])
        ports, late = free_ports(4), free_ports(3) if delay_ms else []
        echo = socket.create_server(("127.0.0.1", 0))
        echo_port = echo.getsockname()[1]
        child = serve_echo(echo, directory / "echo")
        try:
            if late:
                targets = (ports[0], ports[1], echo_port)
                pairs = [port for pair in zip(late, targets, strict=True) for port in pair]
                stack.enter_context(relay(delay_ms, *pairs))
                echo_port = late[2]
            connection = socket.create_connection(("127.0.0.1", echo_port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return trio.run(measure, directory, connection, ports, late, one_round, rounds_max)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delay-ms", type=float, default=1.0, help="of the relay; 0: without it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--node", nargs="+", help=argparse.SUPPRESS)  # be the peer
    parser.add_argument("--detour", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.detour:
        make_detour(*map(int, options.detour.split(":")))
    if options.node:
        trio.run(node_process.main, options.node[0], "paris", *options.node[1:])
        return

    async def near_one(channel: Channel, data: Replicator) -> dict[str, float]:
        return await near_round(channel, data, options.seconds)

    near = in_a_directory(0, near_one, options.rounds)
    far: dict[str, float] = {}

    async def far_one(channel: Channel, data: Replicator) -> dict[str, float]:
        return await far_round(channel, data, options.seconds, near)

    if options.delay_ms:
        far = in_a_directory(options.delay_ms, far_one, options.rounds)
    if options.json:
        print(json.dumps({"near": near, "far": far, "load": os.getloadavg()[0]}))
        return
    show("On the loopback", near, ASKED)
    if far:
        show(f"Through a relay, {options.delay_ms:g} ms each way", far, ASKED_FAR)


if __name__ == "__main__":
    main()
