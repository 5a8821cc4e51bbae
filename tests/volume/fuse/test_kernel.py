"""Our numbers and layouts of the kernel's FUSE interface are those of <linux/fuse.h>."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from mirrorha.volume.fuse import kernel
from mirrorha.volume.fuse.kernel import LAYOUTS, Fattr, Init, Opcode
from tests.requirements import require_file

HEADER = Path("/usr/include/linux/fuse.h")
SIZES = {"uint64_t": 8, "int64_t": 8, "uint32_t": 4, "int32_t": 4, "uint16_t": 2, "char": 1}
FORMAT_SIZES = {"Q": 8, "q": 8, "I": 4, "i": 4, "H": 2}


class Field(NamedTuple):
    offset: int
    size: int
    count: int


class Shape(NamedTuple):
    size: int
    align: int
    fields: dict[str, Field]


@functools.cache
def header() -> str:
    require_file(str(HEADER), package="linux-libc-dev")
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


@functools.cache
def shape(name: str) -> Shape:
    """A struct of the header, laid out as a C compiler for 64 bits does."""
    found = re.search(rf"\bstruct {name} \{{(.*?)\n\}};", header(), re.DOTALL)
    assert found, f"no struct {name} in the header"
    offset, largest = 0, 1
    fields: dict[str, Field] = {}
    for line in found[1].split(";"):
        match = re.fullmatch(r"\s*(struct )?(\w+)\s+(\w+)(?:\[(\d*)\])?\s*", line)
        if match is None:
            assert not line.strip(), f"{name}: cannot read {line!r}"
            continue
        is_struct, type_name, field, count = match.groups()
        inner = shape(type_name) if is_struct else None
        size, align = (inner.size, inner.align) if inner else (SIZES[type_name],) * 2
        largest = max(largest, align)
        offset = -(-offset // align) * align
        for path, part in (inner.fields if inner else {}).items():
            fields[f"{field}.{path}"] = Field(offset + part.offset, part.size, part.count)
        number = 1 if count is None else int(count or 0)
        if not inner:
            fields[field] = Field(offset, size, number)
        offset += size * number
    return Shape(-(-offset // largest) * largest, largest, fields)


def numbers(prefix: str) -> dict[str, int]:
    """What the header defines, by #define or in an enum, under names with this prefix."""
    text = header()
    found = {}
    for name, value in re.findall(rf"^#define {prefix}(\w+)[ \t]+(.+?)\s*$", text, re.MULTILINE):
        shift = re.fullmatch(r"\(1(?:ULL)? << (\d+)\)", value)
        if shift:
            found[name] = 1 << int(shift[1])
        elif value.isdigit():
            found[name] = int(value)
    found |= {
        name: int(value) for name, value in re.findall(rf"\b{prefix}(\w+)\s*=\s*(\d+),", text)
    }
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    expected = shape(name)
    offset = 0
    for item in LAYOUTS[name].split():
        if item.endswith("x"):
            offset += int(item[:-1])
            continue
        field, code = item.split(":")
        theirs = expected.fields[field]
        assert (offset, FORMAT_SIZES[code], 1) == theirs, field
        offset += FORMAT_SIZES[code]
    assert offset == expected.size


def test_a_layout_becomes_a_struct_of_its_size() -> None:
    assert kernel.IN_HEADER.size == shape("fuse_in_header").size
    assert kernel.SETATTR_IN.size == shape("fuse_setattr_in").size
    assert kernel.CREATE_OUT.size == sum(
        shape(name).size for name in ("fuse_out_header", "fuse_entry_out", "fuse_open_out")
    )
    assert len(kernel.WRITE_IN.unpack(bytes(40))) == 6


def test_opcodes() -> None:
    theirs = numbers("FUSE_")
    assert {op.name: op.value for op in Opcode} == {op.name: theirs[op.name] for op in Opcode}


def test_flags() -> None:
    theirs = numbers("FUSE_")
    assert {flag.name: flag.value for flag in Init} == {
        flag.name: theirs[str(flag.name)] for flag in Init
    }
    theirs = numbers("FATTR_")
    assert {flag.name: flag.value for flag in Fattr} == {
        flag.name: theirs[str(flag.name)] for flag in Fattr
    }


@pytest.mark.parametrize(
    "name",
    [
        "FOPEN_DIRECT_IO",
        "FOPEN_KEEP_CACHE",
        "WRITE_KILL_SUIDGID",
        "OPEN_KILL_SUIDGID",
        "FSYNC_FDATASYNC",
        "SETXATTR_ACL_KILL_SGID",
        "EXPIRE_ONLY",
        "NOTIFY_INVAL_INODE",
        "NOTIFY_INVAL_ENTRY",
    ],
)
def test_single_numbers(name: str) -> None:
    theirs = numbers("") if name.startswith("FOPEN") else numbers("FUSE_")
    assert getattr(kernel, name) == theirs[name]


def test_versions() -> None:
    theirs = numbers("FUSE_")
    assert theirs["KERNEL_VERSION"] == kernel.MAJOR
    assert theirs["KERNEL_MINOR_VERSION"] >= kernel.MINOR
    assert theirs["MIN_READ_BUFFER"] == kernel.BUFFER_BYTES_MIN
