"""Which paths the patterns of `exclude` keep on one node."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorha.config.patterns import pattern_flaw
from mirrorha.volume.exclusion import EXCLUDED, Exclusion

EXCLUDED_PATHS = [
    ("*.lock", "a.lock b/c/a.lock .lock a.lock/below", "a.locks lock b/a.lock2 a"),
    ("cache", "cache a/cache cache/x a/cache/x/y", "caches a/cache2 Cache"),
    ("tmp/**", "tmp/a tmp/a/b tmp/.x", "tmp a/tmp a/tmp/x tmp2/a"),
    ("a/tmp", "a/tmp a/tmp/x", "a tmp b/a/tmp a/b/tmp"),
    ("a/*/c", "a/b/c a/x/c/d a/.b/c", "a/c a/b/b/c a/b"),
    ("**/a/b", "a/b x/a/b x/y/a/b/z", "a x/b a/x/b"),
    ("a/**/b", "a/b a/x/b a/x/y/b/z", "a b ab x/a/b"),
    ("a/**/**/b", "a/b a/x/b a/x/y/b", "a b a/bb"),
    ("**/tmp/**", "tmp/x a/tmp/x a/b/tmp/x/y", "tmp a/tmp a/b/tmp a/tmp2/x"),
    ("?.pid", "a.pid x/b.pid", "ab.pid .pid"),
    ("a+b.(c)", "a+b.(c) x/a+b.(c)/y", "aab.(c) a+bx(c)"),
    ("é*", "é été/é.txt", "e ete"),
    ("x*y", "xy x\ny", "xyz"),
    ("x*y*?z", "xyaz xyyz xayaaz xyzz", "xyz yxyz xyaza xzyz"),
    ("*ab*ab*", "abab xababx aababab abxab", "ab aab abaxb"),
]


@pytest.mark.parametrize(("pattern", "excluded", "mirrored"), EXCLUDED_PATHS)
def test_what_a_pattern_keeps_here(pattern: str, excluded: str, mirrored: str) -> None:
    assert pattern_flaw(pattern) == ""
    exclusion = Exclusion([pattern])
    assert [path for path in excluded.split(" ") if not exclusion.excludes(path)] == []
    assert [path for path in mirrored.split(" ") if exclusion.excludes(path)] == []


def test_any_of_several_patterns_is_enough_and_none_excludes_nothing() -> None:
    both = Exclusion(["tmp/**", "*.lock"])
    assert both.excludes("tmp/a")
    assert both.excludes("b/x.lock")
    assert not both.excludes("b/x")
    assert not Exclusion([])
    assert not Exclusion([]).excludes("tmp/a")


def test_a_name_made_to_be_hard_to_match_holds_nobody_up() -> None:
    """Names are the application's, and the answer is waited for."""
    hard = Exclusion(["*-*-*-*-*-*-*-*-*-*.tmp"])
    assert not hard.excludes("-" * 255)
    assert hard.excludes("-" * 251 + ".tmp")


FLAWS = {
    "": "empty",
    "/tmp": "root",
    "tmp/": "ends with a '/'",
    "a//b": "'//'",
    "../a": "'..'",
    "a/./b": "'.'",
    "a/..": "'..'",
    " a": "space",
    "a ": "space",
    "!a": "'!'",
    "[ab]": "'['",
    "a\\*": "'\\'",
    "{a,b}": "'{'",
    "a**": "alone",
    "a/**b/c": "alone",
    "***": "alone",
    "*": "nothing",
    "**": "nothing",
    "**/*": "nothing",
}


@pytest.mark.parametrize("pattern", FLAWS)
def test_what_no_pattern_may_be(pattern: str) -> None:
    assert FLAWS[pattern] in pattern_flaw(pattern)


# Against a regular expression over whole paths, which no state goes through.


def by_expression(pattern: str, path: str) -> bool:
    parts = pattern.split("/")
    text = "(?:.*/)?" if len(parts) == 1 else ""
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if part == "**":
            text += ".+" if is_last else "(?:[^/]+/)*"
        else:
            text += "".join({"*": "[^/]*", "?": "[^/]"}.get(one, re.escape(one)) for one in part)
            text += "" if is_last else "/"
    return re.fullmatch(f"{text}(?:/.*)?", path, re.DOTALL) is not None


PARTS = st.sampled_from(["**", "*", "a", "b", "a*", "*b", "?", "ab", "*a*"])
PATTERNS = (
    st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(lambda p: not pattern_flaw(p))
)
NAMES = st.sampled_from(["a", "b", "ab", "ba", "c", "aab"])
PATHS = st.lists(NAMES, min_size=1, max_size=5)


@given(st.lists(PATTERNS, max_size=3), PATHS)
def test_states_say_the_same_as_one_expression(patterns: list[str], names: list[str]) -> None:
    path = "/".join(names)
    expected = any(by_expression(pattern, path) for pattern in patterns)
    assert Exclusion(patterns).excludes(path) == expected


@given(st.lists(PATTERNS, max_size=3), PATHS, PATHS, PATHS)
def test_equal_outlooks_have_equal_rules_below(
    patterns: list[str], one: list[str], other: list[str], rest: list[str]
) -> None:
    exclusion = Exclusion(patterns)
    if exclusion.of(one) == exclusion.of(other):
        assert exclusion.excludes("/".join([*one, *rest])) == exclusion.excludes(
            "/".join([*other, *rest])
        )


def test_a_directory_may_move_where_no_rule_tells_the_places_apart() -> None:
    exclusion = Exclusion(["a/tmp/**", "*.lock"])
    assert exclusion.of(["b"]) == exclusion.of(["c", "d"])
    assert exclusion.of(["a"]) != exclusion.of(["b"])
    assert exclusion.of(["a", "x"]) == exclusion.of(["b"])
    assert exclusion.of(["a", "tmp"]) != exclusion.of(["a", "x"])
    assert exclusion.of(["a", "tmp", "x"]) is EXCLUDED
