"""The line of each key: checked on documents whose lines are known because we wrote them."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import event, example, given
from hypothesis import strategies as st

from mirrorha.config.findings import Where
from mirrorha.config.positions import key_lines, line_of

# A value's text, and what its own lines add: (offset of the line, path below the key).
Value = tuple[str, list[tuple[int, Where]]]

PLAIN = [
    "1",
    "-0.5",
    "true",
    "1979-05-27 07:32:00",
    "inf",
    '""',
    "''",
    '"# no comment"',
    '"a \\" b = [1]"',
    "'C:\\'",
    '"""one line"""',
    '""""quoted" """',
    "'''it's'''",
    "'''one at the end''''",
    '"""two at the end"""""',
    "''''''",
]
MULTI_LINE = [
    '"""\nkey = 1\n[table]\n"""',
    "'''\n[[array]]\nx = \"\"\"\n'''",
    '"""a \\\n   b\\""""',
    '"""\n\n""quoted""\\\\"""',
]
COMMENTS = ["", "  # a comment", "\t# [x] = \"'''"]


def _below(value: Value, at: int, key: str | int) -> list[tuple[int, Where]]:
    return [(at, (key,))] + [(at + line, (key, *where)) for line, where in value[1]]


@st.composite
def lists(draw: st.DrawFn, children: st.SearchStrategy[Value]) -> Value:
    text, line, places = "[", 0, []
    for index, child in enumerate(draw(st.lists(children, max_size=3))):
        gap = draw(st.sampled_from(["", " ", "\n", "\n# ], not the end\n", " # [\n  "]))
        text, line = text + gap, line + gap.count("\n")
        places += _below(child, line, index)
        text, line = text + child[0], line + child[0].count("\n")
        text += draw(st.sampled_from([",", " ,"]))
    return text + draw(st.sampled_from(["]", "\n]", " # , {\n]"])), places


@st.composite
def inline_tables(draw: st.DrawFn, children: st.SearchStrategy[Value]) -> Value:
    """Within one an inline table has no line ends, except in its values."""
    text, line, places = "{ ", 0, []
    keys = draw(st.lists(st.sampled_from(["a", "b-c", '"d e"', "'f.g'"]), unique=True, max_size=3))
    for index, key in enumerate(keys):
        child = draw(children)
        places += _below(child, line, key.strip("\"'"))
        text += f"{', ' if index else ''}{key} = {child[0]}"
        line = text.count("\n")
    return text + " }", places


VALUES = st.recursive(
    st.sampled_from(PLAIN + MULTI_LINE).map(lambda text: (text, [])),
    lambda children: lists(children) | inline_tables(children),
    max_leaves=6,
)
KEYS = st.sampled_from(["name", "k-1", "_", "7", '"quoted # key"', "'lit = eral'", '"\\u00e9"'])


def _plain(key: str) -> str:
    name: str = next(iter(tomllib.loads(f"{key} = 1"))) if key[0] in "\"'" else key
    return name


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Where, int]]:
    """A document with the line of each of its places."""
    lines: list[str] = []
    expected: dict[Where, int] = {}
    prefix: Where = ()
    sizes: dict[str, int] = {}
    for section in range(draw(st.integers(1, 5))):
        if section:
            header, prefix = _header(draw, section, sizes)
            for length in range(1, len(prefix) + 1):
                expected.setdefault(prefix[:length], len(lines) + 1)
            lines.append(header + draw(st.sampled_from(COMMENTS)))
        for key in draw(st.lists(KEYS, unique=True, max_size=4)):
            lines += draw(st.lists(st.sampled_from(["", "# x = 1", "  \t"]), max_size=2))
            text, places = draw(VALUES)
            parts = ["in", key] if draw(st.booleans()) else [key]
            where: Where = prefix
            for part in parts:
                where = (*where, _plain(part))
                expected.setdefault(where, len(lines) + 1)
            for offset, below in places:
                expected[*where, *below] = len(lines) + 1 + offset
            dotted = draw(st.sampled_from([".", " . "])).join(parts)
            equals = draw(st.sampled_from(["=", " = "]))
            whole = f"{dotted}{equals}{text}{draw(st.sampled_from(COMMENTS))}"
            lines += whole.split("\n")
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"])), expected


def _header(draw: st.DrawFn, section: int, sizes: dict[str, int]) -> tuple[str, Where]:
    kind = draw(st.sampled_from(["table", "deep", "array", "below"]))
    if kind == "below" and sizes:
        name = draw(st.sampled_from(sorted(sizes)))
        return f"[{name}.sub{section}]", (name, sizes[name] - 1, f"sub{section}")
    if kind == "array":
        name = draw(st.sampled_from(["array", "other"]))
        sizes[name] = sizes.get(name, 0) + 1
        return f"[[ {name} ]]", (name, sizes[name] - 1)
    if kind == "deep":
        return f'[t{section} . "x.y"]', (f"t{section}", "x.y")
    return f"[t{section}]", (f"t{section}",)


def places_of(value: Any, where: Where = ()) -> set[Where]:
    """Every place in what the standard parser returns."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        children = []
    found = {where} if where else set()
    for key, child in children:
        found |= places_of(child, (*where, key))
    return found


@given(documents())
@example(('a.b = """\n"""""\nc = 1', {("a",): 1, ("a", "b"): 1, ("c",): 3}))
def test_finds_each_place_in_its_line(document: tuple[str, dict[Where, int]]) -> None:
    text, expected = document
    parsed = tomllib.loads(text)
    assert set(expected) == places_of(parsed), "the generator is right about its own document"
    event(f"{min(len(expected), 30) // 10 * 10}+ places")
    assert dict(key_lines(text)) == expected


NESTED = st.recursive(
    st.text(max_size=8) | st.integers(-5, 5) | st.booleans(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), NESTED, max_size=4))
def test_knows_the_same_places_as_the_parser_in_what_tomlkit_writes(value: dict[str, Any]) -> None:
    text = tomlkit.dumps(value)
    lines = key_lines(text)
    assert set(lines) == places_of(tomllib.loads(text))
    rows = text.split("\n")
    assert all(1 <= line <= len(rows) for line in lines.values())


def test_knows_the_places_of_arrays_of_inline_tables() -> None:
    lines = key_lines('node = [\n  { name = "a" },\n  { name = "b", x = [\n 1] },\n]\n')
    assert lines["node", 0, "name"] == 2
    assert lines["node", 1, "name"] == 3
    assert lines["node", 1, "x", 0] == 4


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("node", 1, "name"), 5),
        (("node", 1, "port"), 4),
        (("node", 2, "port"), 1),
        (("nothing",), None),
    ],
)
def test_a_place_that_is_missing_has_the_line_around_it(where: Where, line: int | None) -> None:
    lines = key_lines('[[node]]\nname = "a"\n\n[[node]]\nname = "b"\n')
    assert line_of(where, lines) == line
