"""The stream between two workers: frames of every size arrive, however they are cut."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirrorha.errors import PeerError
from mirrorha.volume.worker.handshake import Shaken, TlsEnds, shake_hands
from mirrorha.volume.worker.loop import Loop
from mirrorha.volume.worker.messages import Connection, KeysAt
from mirrorha.volume.worker.stream_socket import PeerStream
from mirrorha.wire.frames import Frame, encode_frame
from mirrorha.wire.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES, KIB, MIB
from tests.worker.worker_pair import WAIT_S, hello, keys_for_both, tcp_pair

SIZES = [0, 1, 100, 4 * KIB, 63 * KIB, 64 * KIB, 65 * KIB, 300 * KIB, MIB, MIB + 1]
LARGEST = FRAME_BYTES_MAX - FRAME_HEADER_BYTES


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeysAt]:
    return keys_for_both(Path(tmp_path_factory.mktemp("keys")))


@pytest.fixture(params=["plain", "tls"])
def ends(
    request: pytest.FixtureRequest, keys: dict[str, KeysAt]
) -> Iterator[tuple[Shaken, Shaken]]:
    """Both ends of a connection that said hello; the second one is blocking."""
    is_plain = request.param == "plain"
    sockets = dict(zip(("paris", "lyon"), tcp_pair(), strict=True))
    found: dict[str, Shaken] = {}

    def shake(name: str) -> None:
        asked = Connection(1, hello(name), name == "paris", "7", is_plain)
        found[name] = shake_hands(sockets[name], asked, keys[name])

    threads = [threading.Thread(target=shake, args=(name,)) for name in sockets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    found["lyon"].connection.settimeout(WAIT_S)
    try:
        yield found["paris"], found["lyon"]
    finally:
        for one in found.values():
            one.connection.close()


def send(shaken: Shaken, pieces: list[bytes]) -> None:
    """Send each piece by itself, then say that nothing follows."""
    tls: TlsEnds | None = shaken.tls
    with contextlib.suppress(OSError):
        for piece in pieces:
            if tls is None:
                shaken.connection.sendall(piece)
            elif piece:
                tls.object.write(piece)
                shaken.connection.sendall(tls.outgoing.read())
        if tls is not None:
            with contextlib.suppress(ssl.SSLError):  # it would wait for the other side's farewell
                tls.object.unwrap()
            shaken.connection.sendall(tls.outgoing.read())
        shaken.connection.shutdown(socket.SHUT_WR)


def run(loop: Loop, stream: PeerStream, *, beside: Callable[[], None]) -> None:
    """Run the loop of a stream until something stops it, and the peer in a thread meanwhile."""
    loop.after(int(WAIT_S * 1000), loop.stop)
    thread = threading.Thread(target=beside)
    thread.start()
    try:
        loop.run()
    finally:
        stream.close()
        thread.join(WAIT_S)
        loop.close()


def receive(
    shaken: Shaken, sender: Callable[[], None]
) -> tuple[list[tuple[int, bytes]], PeerError | None]:
    """What a PeerStream takes of what `sender` sends, and why it ended, if it did."""
    loop = Loop()
    frames: list[tuple[int, bytes]] = []
    ended: list[PeerError] = []

    def take(frame: Frame) -> None:
        frames.append((frame.kind, bytes(frame.body)))

    def end(error: PeerError) -> None:
        ended.append(error)
        loop.stop()

    stream = PeerStream(shaken, loop=loop, on_frame=take, on_end=end, whom="lyon")
    run(loop, stream, beside=sender)
    return frames, ended[0] if ended else None


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = rng.choice([1, 23, 24, 25, 4096, 64 * KIB, 65 * KIB, 256 * KIB, MIB, 3 * MIB])
        pieces.append(data[at : at + size])
        at += size
    return pieces


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_every_size_arrive_in_order(ends: tuple[Shaken, Shaken], seed: int) -> None:
    rng = random.Random(seed)
    sent = [(rng.randrange(16, 255), rng.randbytes(rng.choice(SIZES))) for _ in range(30)]
    sent.append((16, rng.randbytes(LARGEST)))
    data = b"".join(b"".join(encode_frame(kind, body)) for kind, body in sent)
    pieces = cut(data, rng)
    frames, error = receive(ends[0], lambda: send(ends[1], pieces))
    assert frames == sent
    assert "lyon closed the stream" in str(error)
    assert "within" not in str(error)


@pytest.mark.parametrize("missing", [1, 300 * KIB, MIB])
def test_a_stream_that_ends_within_a_large_frame_says_so(
    ends: tuple[Shaken, Shaken], missing: int
) -> None:
    data = b"".join(encode_frame(16, b"first")) + b"".join(encode_frame(17, bytes(MIB + 9)))
    frames, error = receive(ends[0], lambda: send(ends[1], [data[:-missing]]))
    assert frames == [(16, b"first")]
    assert "within a frame" in str(error)


@pytest.mark.parametrize("at", [100, 70 * KIB, MIB])
def test_damage_within_a_large_frame_ends_the_stream(ends: tuple[Shaken, Shaken], at: int) -> None:
    damaged = bytearray(b"".join(encode_frame(17, bytes(MIB + 9))))
    damaged[at] ^= 1
    after = b"".join(encode_frame(16, b"after"))
    frames, error = receive(ends[0], lambda: send(ends[1], [bytes(damaged), after]))
    assert frames == []
    assert "damaged" in str(error)


def test_a_frame_that_was_taken_is_not_written_over(ends: tuple[Shaken, Shaken]) -> None:
    """Its body may be a view of where it was received."""
    first, second = (random.Random(seed).randbytes(MIB) for seed in range(2))
    data = b"".join(encode_frame(16, first)) + b"".join(encode_frame(16, second))
    kept: list[Frame] = []
    loop = Loop()

    def take(frame: Frame) -> None:
        kept.append(frame)
        if len(kept) == 2:
            loop.stop()

    stream = PeerStream(
        ends[0], loop=loop, on_frame=take, on_end=lambda _: loop.stop(), whom="lyon"
    )
    run(loop, stream, beside=lambda: send(ends[1], [data]))
    assert [bytes(frame.body) for frame in kept] == [first, second]
    assert all(frame.body.readonly for frame in kept)


def read_frames(shaken: Shaken, count: int) -> list[tuple[int, bytes]]:
    """The next `count` frames that arrive at the blocking end, or what came before it ended."""
    reader, found = shaken.reader, []
    reader.allow(FRAME_BYTES_MAX)
    while len(found) < count and (data := shaken.connection.recv(64 * KIB)):
        for some in decrypted(shaken.tls, data):
            reader.feed(some)
            while (frame := reader.next_frame()) is not None:
                found.append((frame.kind, bytes(frame.body)))
    return found


def decrypted(tls: TlsEnds | None, data: bytes) -> Iterator[bytes]:
    if tls is None:
        yield data
        return
    tls.incoming.write(data)
    with contextlib.suppress(ssl.SSLWantReadError):
        while True:
            yield tls.object.read(64 * KIB)


def transmit(ends: tuple[Shaken, Shaken], flushed: list[list[bytes]]) -> list[tuple[int, bytes]]:
    """Send these bodies from one end, a flush after each list; what the other one reads."""
    loop = Loop()
    arrived: list[tuple[int, bytes]] = []

    def read() -> None:
        try:
            arrived.extend(read_frames(ends[1], sum(map(len, flushed))))
        finally:
            loop.from_thread(loop.stop)

    def begin() -> None:
        for bodies in flushed:
            for body in bodies:
                stream.send(16, body)
            stream.flush()

    stream = PeerStream(
        ends[0], loop=loop, on_frame=lambda _: None, on_end=lambda _: loop.stop(), whom="lyon"
    )
    loop.soon(begin)
    run(loop, stream, beside=read)
    return arrived


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_every_size_leave_in_order(ends: tuple[Shaken, Shaken], seed: int) -> None:
    rng = random.Random(seed)
    sizes = [*SIZES, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 256 * KIB + 1]
    bodies = [[rng.randbytes(rng.choice(sizes)) for _ in range(count)] for count in (1, 9, 1, 20)]
    if seed % 2:  # soon there is no more room, and the rest waits for some
        ends[0].connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
    assert transmit(ends, bodies) == [(16, body) for some in bodies for body in some]


def test_what_trio_bounds_is_bounded_no_more(ends: tuple[Shaken, Shaken]) -> None:
    """A large frame leaves in as few system calls as there is room for."""
    option = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    for one in ends:  # as a `trio.SocketStream` leaves a socket
        one.connection.setsockopt(*option, 1 << 14)
    assert transmit(ends, [[bytes(MIB)]]) == [(16, bytes(MIB))]
    assert ends[1].connection.getsockopt(*option) == 1 << 14
    loop = Loop()
    stream = PeerStream(
        ends[1], loop=loop, on_frame=lambda _: None, on_end=lambda _: None, whom="paris"
    )
    assert ends[1].connection.getsockopt(*option) == 0
    stream.close()
    loop.close()


class Watched:
    """What leaves TLS, and the most of it that was taken at once."""

    def __init__(self, outgoing: ssl.MemoryBIO) -> None:
        self._outgoing = outgoing
        self.most_bytes = 0

    @property
    def pending(self) -> int:
        return self._outgoing.pending

    def read(self) -> bytes:
        data = self._outgoing.read()
        self.most_bytes = max(self.most_bytes, len(data))
        return data


@pytest.mark.parametrize("ends", ["tls"], indirect=True)
def test_a_large_frame_is_never_held_encrypted_as_a_whole(ends: tuple[Shaken, Shaken]) -> None:
    """The peer has its beginning to decrypt while the rest of it is being encrypted."""
    tls = ends[0].tls
    assert tls is not None
    outgoing = tls.outgoing = Watched(tls.outgoing)  # type: ignore[assignment]
    body = random.Random(1).randbytes(MIB)
    assert transmit(ends, [[body, b"a small one", body]]) == [
        (16, each) for each in (body, b"a small one", body)
    ]
    assert 64 * KIB < outgoing.most_bytes < 256 * KIB
