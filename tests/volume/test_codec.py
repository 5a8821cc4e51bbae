"""Messages of the stream in frames: large writes go uncopied, and nothing else passes for one."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.errors import PeerProtocolError
from mirrorha.volume.codec import BULK_BYTES_MIN, BULK_KIND, STREAM_KIND, decode, encode
from mirrorha.volume.ops import (
    AnyOp,
    Create,
    Fallocate,
    Kind,
    Link,
    Mkdir,
    Mknod,
    Rename,
    Rmdir,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from mirrorha.volume.stream.messages import Ack, FlushRequest, Ops, chain
from mirrorha.wire.frames import Frame


def write(size: int, offset: int = 8192) -> Write:
    return Write(fid=7, offset=offset, data=bytes(range(256)) * (size // 256), mtime_ns=5)


def ops(*made: AnyOp) -> Ops:
    return Ops(epoch=3, generation="g", first_seq=9, prev=11, ops=list(made))


def carried(message: object) -> tuple[int, object]:
    """The kind of the frame, and what comes out of it."""
    kind, parts = encode(message)  # type: ignore[arg-type]
    return kind, decode(Frame(kind, memoryview(b"".join(parts)).toreadonly()))


@pytest.mark.parametrize("size", [256, BULK_BYTES_MIN - 256, BULK_BYTES_MIN, 1 << 20])
def test_a_write_arrives_as_it_was_sent(size: int) -> None:
    sent = ops(write(size))
    kind, arrived = carried(sent)
    assert isinstance(arrived, Ops)
    assert kind == (BULK_KIND if size >= BULK_BYTES_MIN else STREAM_KIND)
    assert msgspec.structs.replace(arrived, ops=[]) == msgspec.structs.replace(sent, ops=[])
    (one,) = arrived.ops
    assert isinstance(one, Write)
    assert (one.fid, one.offset, one.mtime_ns) == (7, 8192, 5)
    assert bytes(one.data) == write(size).data
    assert chain(one, 77) == chain(write(size), 77)


def test_the_data_of_a_large_write_is_not_copied() -> None:
    large = write(1 << 20)
    _, parts = encode(ops(large))
    assert parts[1] is large.data


@pytest.mark.parametrize("message", [ops(write(1 << 17), write(256)), Ack(epoch=1, seq=2)])
def test_all_other_messages_are_one_body(message: object) -> None:
    assert carried(message) == (STREAM_KIND, message)


class OlderFlushRequest(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """As it was before data could suffice."""

    epoch: int
    flush: int
    after_seq: int
    fids: list[int]


def test_a_flush_of_data_is_understood_by_older_readers_and_theirs_here() -> None:
    """They make all of it durable, which is more than was asked for."""
    older = OlderFlushRequest(1, 7, 2, [5, 6])
    frame = Frame(STREAM_KIND, memoryview(msgspec.msgpack.encode(older)))
    assert decode(frame) == FlushRequest(1, 7, 2, [5, 6], [])
    sent = FlushRequest(1, 7, 2, [5, 6], [6])
    assert carried(sent) == (STREAM_KIND, sent)
    _, (body,) = encode(sent)
    assert msgspec.msgpack.decode(body, type=OlderFlushRequest) == older


@given(st.integers(0, 63), st.integers(-1, 1))
def test_the_chain_tells_writes_apart(bit: int, by: int) -> None:
    one = write(4096)
    other = bytearray(one.data)
    other[bit] ^= 1
    assert chain(msgspec.structs.replace(one, data=bytes(other)), 1) != chain(one, 1)
    moved = msgspec.structs.replace(one, offset=one.offset + by)
    assert (chain(moved, 1) == chain(one, 1)) == (by == 0)
    assert chain(one, 1) != chain(one, 2)


def test_the_chain_tells_a_write_of_nothing_from_other_ops() -> None:
    assert chain(Write(7, 0, b"", 5), 1) != chain(Truncate(7, 0, 5), 1)


EVERY_OP: tuple[AnyOp, ...] = (
    write(256),
    Truncate(7, 1, 5),
    Create(7, 1, "a", 0o600, 0, 0, 5, None, {"user.a": b"1", "system.posix_acl_access": b"\0\xff"}),
    Mkdir(7, 1, "a", 0o700, -1, -1, 5),
    Symlink(7, 1, "é", "\U0010ff80", 0, 0, 5, 0o22),
    Link(7, 1, "a", 5),
    Unlink(7, 1, "a", 5),
    Rmdir(7, 1, "a", 5),
    Rename(7, 1, "a", 2, "b", 8, 5, 2),
    SetAttributes(7, None, 3, None, None, -1),
    SetXattr(7, "user.a", None, 1, 0o7777),
    Mknod(7, 1, "a", Kind.BLOCK_DEVICE, 0o600, (1 << 32) - 1, 0, 0, 5, 0o77),
    Fallocate(7, 17, 1 << 62, 1, 5),
)


def test_every_op_is_among_them() -> None:
    assert {type(op) for op in EVERY_OP} == set(typing.get_args(AnyOp))


@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: type(op).__name__)
def test_an_op_arrives_as_it_was_sent(op: AnyOp) -> None:
    _, arrived = carried(Ops(epoch=3, generation="g", first_seq=9, prev=11, ops=[op, op]))
    assert isinstance(arrived, Ops)
    assert arrived.ops == [op, op]
    assert chain(arrived.ops[0], 77) == chain(op, 77)


@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: type(op).__name__)
def test_an_op_of_before_its_last_fields_is_read(op: AnyOp) -> None:
    """Fields are only appended: what an older node sends has the defaults."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(op))
    names, defaults = type(op).__struct_fields__, type(op).__struct_defaults__
    kept = len(names) - len(defaults)
    older = msgspec.msgpack.encode(fields[: 1 + kept])  # the tag is the first
    found = msgspec.msgpack.decode(older, type=AnyOp)
    assert type(found) is type(op)
    assert all(getattr(found, name) == getattr(op, name) for name in names[:kept])
    assert found == type(op)(*(getattr(op, name) for name in names[:kept]))


def test_a_kind_that_nobody_knows_is_refused() -> None:
    made = ops(Mknod(7, 1, "a", Kind.FIFO, 0o600, 0, 0, 0, 5))
    body = msgspec.msgpack.encode(made).replace(b"a\x04\xcd", b"a\x09\xcd")
    with pytest.raises(PeerProtocolError, match="9"):
        decode(Frame(STREAM_KIND, memoryview(body)))


def bulk(head: bytes, data: bytes = b"x" * 9, length: int | None = None) -> Frame:
    said = len(head) if length is None else length
    return Frame(BULK_KIND, memoryview(said.to_bytes(2, "big") + head + data))


HEAD = msgspec.msgpack.encode(ops(Write(7, 0, b"", 5)))


@pytest.mark.parametrize(
    "frame",
    [
        Frame(BULK_KIND, memoryview(b"")),
        Frame(BULK_KIND, memoryview(b"\xff")),
        bulk(HEAD, length=len(HEAD) + 5),
        bulk(HEAD, length=0xFFFF),
        bulk(HEAD[:-1]),
        bulk(msgspec.msgpack.encode(Ack(1, 2))),
        bulk(msgspec.msgpack.encode(ops())),
        bulk(msgspec.msgpack.encode(ops(Truncate(7, 0, 5)))),
        bulk(msgspec.msgpack.encode(ops(Write(7, 0, b"has some", 5)))),
        bulk(msgspec.msgpack.encode(ops(Write(7, 0, b"", 5), Write(7, 0, b"", 5)))),
        Frame(BULK_KIND + 1, memoryview(HEAD)),
    ],
)
def test_what_is_no_large_write_is_refused(frame: Frame) -> None:
    with pytest.raises(PeerProtocolError):
        decode(frame)


@given(st.sampled_from([STREAM_KIND, BULK_KIND]), st.binary(max_size=300))
def test_garbage_is_a_message_or_refused(kind: int, body: bytes) -> None:
    try:
        decode(Frame(kind, memoryview(body)))
    except PeerProtocolError:
        return
