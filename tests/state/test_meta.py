"""The node's durable state, as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.core.meta import Meta
from mirrorha.core.register import Register
from mirrorha.errors import StateError
from mirrorha.state.meta import META_NAME, decode_meta, encode_meta, read_meta

RECORD = Register("c1", 3, "lyon", (("lyon", "n1"), ("paris", "n2")))
META = Meta(
    node="lyon",
    cluster_id="c1",
    held=RECORD,
    seen_epoch=3,
    intended=(RECORD,),
    top_epoch=3,
    incarnation=7,
    boot_id="b",
    dirty=True,
    lineage=("g1", "g2"),
    base="g1",
    forced=(2,),
)


def test_what_is_written_is_read_back() -> None:
    assert decode_meta(encode_meta(META), where="x") == META
    assert decode_meta(encode_meta(Meta(node="lyon")), where="x") == Meta(node="lyon")


def test_people_can_read_it() -> None:
    document = json.loads(encode_meta(META))
    assert document["meta"]["held"]["primary"] == "lyon"


@given(st.data())
def test_a_damaged_byte_is_never_taken_for_a_state(data: st.DataObject) -> None:
    raw = bytearray(encode_meta(META))
    place = data.draw(st.integers(0, len(raw) - 2))  # the last byte is a line's end
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = decode_meta(bytes(raw), where="x")
    except StateError:
        return
    assert read == META, "white space may have changed, what it says may not"


@given(st.integers(0, len(encode_meta(META)) - 2))
def test_half_a_file_is_no_file(length: int) -> None:
    with pytest.raises(StateError, match="damaged"):
        decode_meta(encode_meta(META)[:length], where="x")


def test_a_newer_format_is_refused_by_name() -> None:
    raw = encode_meta(META).replace(b'"format":1', b'"format":2')
    with pytest.raises(StateError, match="newer"):
        decode_meta(raw, where="x")


def test_no_file_is_a_new_node_and_another_nodes_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / META_NAME
    assert read_meta(path, node="lyon") == Meta(node="lyon")
    path.write_bytes(encode_meta(META))
    assert read_meta(path, node="lyon") == META
    with pytest.raises(StateError, match="'lyon', but this is 'paris'"):
        read_meta(path, node="paris")


def test_an_empty_file_is_damage_and_no_new_node(tmp_path: Path) -> None:
    path = tmp_path / META_NAME
    path.write_bytes(b"")
    with pytest.raises(StateError, match="damaged"):
        read_meta(path, node="lyon")
