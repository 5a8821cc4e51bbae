"""A relay on the loopback that makes every byte late: the distance between two zones.

    python benchmarks/relay.py DELAY_MS LISTEN_PORT TARGET_PORT [LISTEN_PORT TARGET_PORT ...]

Carries TCP connections, each way DELAY_MS late, as many bytes as come: a wire has a length, and no
queue. Prints "ready". Ends with its standard input, or after ten minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import trio

LIFE_S = 600
CHUNK_BYTES = 1 << 20


async def pass_on(
    receive: Callable[[], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[object]],
    late_s: float,
) -> None:
    """Send what is received, `late_s` after it came, until it ends with b""."""
    into, out_of = trio.open_memory_channel[tuple[float, bytes]](1 << 16)

    async def deliver() -> None:
        async for due, data in out_of:
            await trio.sleep_until(due)
            await send(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        with into:
            while data := await receive():
                await into.send((trio.current_time() + late_s, data))


async def carry(stream: trio.SocketStream, port: int, late_s: float) -> None:
    """One connection, both ways, until either side ends it."""
    try:
        other = await trio.open_tcp_stream("127.0.0.1", port)
        async with other, stream, trio.open_nursery() as nursery:

            async def one_way(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                await pass_on(lambda: source.receive_some(CHUNK_BYTES), sink.send_all, late_s)
                nursery.cancel_scope.cancel()

            nursery.start_soon(one_way, stream, other)
            await one_way(other, stream)
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # one side ended it; the other learns by the missing connection


async def main(delay_ms: float, ports: list[int]) -> None:
    late_s = delay_ms / 1000
    with trio.move_on_after(LIFE_S):
        async with trio.open_nursery() as nursery:
            for listen, target in zip(ports[::2], ports[1::2], strict=True):

                async def serve(stream: trio.SocketStream, target: int = target) -> None:
                    stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
                    await carry(stream, target, late_s)

                await nursery.start(trio.serve_tcp, serve, listen)
            print("ready", flush=True)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]), [int(port) for port in sys.argv[2:]])
