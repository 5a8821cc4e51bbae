"""Two workers get to know each other, and leave TLS, however the bytes arrive."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from mirrorha.volume.worker.handshake import Shaken, shake_hands
from mirrorha.volume.worker.messages import Connection, KeysAt
from mirrorha.wire.frames import encode_frame
from tests.worker.worker_pair import WAIT_S, hello, keys_for_both, tcp_pair

HEADER_BYTES = 5
FOLLOWING = b"".join(encode_frame(16, b"what follows at once"))


def record_ends(data: bytes) -> list[int]:
    """Where each whole TLS record in `data` ends."""
    ends, at = [], 0
    while at + HEADER_BYTES <= len(data):
        at += HEADER_BYTES + int.from_bytes(data[at + 3 : at + 5], "big")
        if at > len(data):
            break
        ends.append(at)
    return ends


def meet(
    keys: dict[str, KeysAt], carry_to_caller: Callable[[socket.socket, socket.socket], None]
) -> tuple[Shaken, Shaken]:
    """Have both shake hands on a plain link; the called side goes on at once."""
    caller, mine = tcp_pair()
    theirs, called = tcp_pair()
    found: dict[str, Shaken] = {}

    def shake(name: str, connection: socket.socket) -> None:
        asked = Connection(1, hello(name), name == "paris", "7", plain=True)
        found[name] = shake_hands(connection, asked, keys[name])
        if name == "lyon":
            found[name].connection.sendall(FOLLOWING)

    def carry_to_called() -> None:
        with contextlib.suppress(OSError):
            while data := mine.recv(65536):
                theirs.sendall(data)

    def carry_back() -> None:
        with contextlib.suppress(OSError):
            carry_to_caller(theirs, mine)

    threads = [
        threading.Thread(target=shake, args=("paris", caller), daemon=True),
        threading.Thread(target=shake, args=("lyon", called), daemon=True),
        threading.Thread(target=carry_to_called, daemon=True),
        threading.Thread(target=carry_back, daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join(WAIT_S)
    try:
        return found["paris"], found["lyon"]
    finally:
        for end in (mine, theirs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads[2:]:
            thread.join(WAIT_S)
        for end in (mine, theirs):
            end.close()


def test_what_comes_together_with_the_end_of_tls_is_not_lost(tmp_path: Path) -> None:
    keys = keys_for_both(tmp_path)
    seen = bytearray()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            seen.extend(data)
            sink.sendall(data)

    for shaken in meet(keys, carry):
        shaken.connection.close()
    # The last record is the farewell; what follows it is none.
    before_farewell = len(record_ends(bytes(seen).removesuffix(FOLLOWING))) - 1
    assert before_farewell > 2

    def hold_the_farewell(source: socket.socket, sink: socket.socket) -> None:
        held = b""
        passed = 0
        while data := source.recv(65536):
            held += data
            if not held.endswith(FOLLOWING):
                ends = record_ends(held)
                some = ends[: max(0, before_farewell - passed)]
                passed += len(some)
                end = some[-1] if some else 0
                sink.sendall(held[:end])
                held = held[end:]
            else:
                sink.sendall(held)
                held = b""

    paris, lyon = meet(keys, hold_the_farewell)
    try:
        frame = paris.reader.next_frame()
        assert frame is not None
        assert bytes(frame.body) == b"what follows at once"
    finally:
        paris.connection.close()
        lyon.connection.close()
