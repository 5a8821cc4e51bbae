"""The register's encoding, and what a node may show of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core.meta import Meta
from mirrorha.core.register import RECORD_BYTES_MAX, Register, RegisterCorruptError

NAMES = st.sampled_from(["lyon", "paris", "Évry", "a b"])
NONCES = st.text("0123456789abcdef", min_size=1, max_size=16)


@st.composite
def registers(draw: st.DrawFn) -> Register:
    members = draw(st.dictionaries(NAMES, NONCES, min_size=1, max_size=2))
    return Register(
        cluster_id=draw(NONCES),
        epoch=draw(st.integers(1, 2**48)),
        primary=draw(st.sampled_from(sorted(members))),
        nonces=tuple(sorted(members.items())),
    )


@given(registers())
def test_what_is_written_is_read(register: Register) -> None:
    raw = register.to_bytes()
    assert Register.from_bytes(raw) == register
    assert Register.from_bytes(raw).to_bytes() == raw
    assert len(raw) <= RECORD_BYTES_MAX


@given(registers(), registers())
def test_equal_bytes_are_equal_records(one: Register, two: Register) -> None:
    assert (one.to_bytes() == two.to_bytes()) == (one == two)


@given(st.binary(max_size=200))
def test_nonsense_is_corrupt_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(RegisterCorruptError):
        Register.from_bytes(raw)


@given(registers(), st.data())
def test_a_damaged_record_is_corrupt_or_another_one(
    register: Register, data: st.DataObject
) -> None:
    raw = bytearray(register.to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = Register.from_bytes(bytes(raw))
    except RegisterCorruptError:
        return
    assert found.primary in found.in_sync


@pytest.mark.parametrize(
    "changes",
    [{"format": 2}, {"epoch": 0}, {"epoch": -1}, {"primary": "nobody"}, {"in_sync": {}}],
    ids=str,
)
def test_contradictions_are_corrupt(changes: dict[str, object]) -> None:
    record = {"format": 1, "cluster_id": "c", "epoch": 1, "primary": "a", "in_sync": {"a": "n"}}
    with pytest.raises(RegisterCorruptError):
        Register.from_bytes(msgspec.json.encode(record | changes))


def record(epoch: int, **nonces: str) -> Register:
    members = tuple(sorted(nonces.items()))
    return Register(cluster_id="c", epoch=epoch, primary=members[0][0], nonces=members)


class TestMeta:
    def test_what_is_intended_counts_until_something_higher_landed(self) -> None:
        meta = Meta(node="lyon").with_intended(record(2, lyon="two"))
        meta = meta.with_intended(record(3, lyon="three"))
        assert meta.nonces() == {"two", "three"}
        assert meta.top_epoch == 3
        landed = meta.with_held(record(2, lyon="two"))
        assert landed.nonces() == {"two", "three"}
        assert landed.with_held(record(3, lyon="three")).nonces() == {"three"}

    def test_to_read_ones_name_is_not_to_hold_the_nonce(self) -> None:
        meta = Meta(node="lyon").with_held(record(2, lyon="foreign"))
        assert meta.nonces() == frozenset()
        assert meta.held is None
        assert meta.seen_epoch == 2

    def test_a_record_that_does_not_name_the_node_is_held(self) -> None:
        meta = Meta(node="lyon").with_held(record(2, paris="x"))
        assert meta.held is not None
        assert meta.nonces() == frozenset()
