"""The project keeps its own rules: what CI runs, what sources may contain, what an import loads."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = sorted((ROOT / "src").rglob("*.py"))
LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 60

# Whatever names the place where a copy of the project happens to be worked on. Written in pieces,
# so that this file does not contain what it forbids.
FORBIDDEN: Final = [
    re.compile(pattern)
    for pattern in (
        r"/wo" r"rk/(main|wt|shared|\.)",
        r"(?<![\w./-])sha" r"red/(design|style|ecosystem)",
        r"/ro" r"ot/\.",
        r"/tmp/(v|bri" r"ef)/",
        r"/opt/(py" r"pi|whe" r"els)",
    )
]


def tracked_files() -> list[Path]:
    """What git tracks; in an unpacked sdist, everything that is not hidden or generated."""
    if (ROOT / ".git").exists():
        # As root in a clone that belongs to another user, git would refuse without this.
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        return [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


def readme_commands() -> list[str]:
    """The lines of the README's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_ci_ends_with_the_readmes_test_command() -> None:
    commands = [line for line in readme_commands() if line.endswith("-m pytest")]
    assert len(commands) == 1, "the README has one test command"
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.strip()]
    assert lines[-1] == commands[0]
    assert "export MIRRORHA_REQUIRE_ALL=1" in lines
    assert "set -euo pipefail" in lines
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_readme_has_a_demo_command() -> None:
    assert any(line.endswith("/mirrorha demo") for line in readme_commands())


def test_every_python_file_is_short() -> None:
    """Tests and benchmarks too: who looks for one should find a file of its subject."""
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in tracked_files()
        if path.suffix == ".py"
    }
    assert "tests/test_project.py" in lines
    assert not {name: count for name, count in lines.items() if count > LINES_MAX}


def test_sources_are_found() -> None:
    assert ROOT / "src/mirrorha/errors.py" in SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
class TestEverySourceFile:
    def test_has_short_functions(self, path: Path) -> None:
        long = [
            f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.end_lineno is not None
            and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
        ]
        assert not long

    def test_has_no_assert(self, path: Path) -> None:
        """`python -O` deletes asserts; `ensure()` stays."""
        lines = [
            n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)
        ]
        assert not lines

    def test_gives_a_code_with_every_ignore(self, path: Path) -> None:
        with path.open("rb") as stream:
            comments = [
                token
                for token in tokenize.tokenize(stream.readline)
                if token.type == tokenize.COMMENT
            ]
        bare = re.compile(r"type:\s*ignore(?!\[)|noqa(?!: ?[A-Z])", re.IGNORECASE)
        assert not [comment.start[0] for comment in comments if bare.search(comment.string)]

    def test_has_a_name_that_says_something(self, path: Path) -> None:
        assert path.stem not in {"utils", "util", "common", "helpers", "misc"}


def test_tracked_files_speak_of_the_project_alone() -> None:
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(text.splitlines(), 1)
            if any(pattern.search(line) for pattern in FORBIDDEN)
        ]
    assert not found


def test_import_loads_neither_boto3_nor_the_mount() -> None:
    program = "import sys, mirrorha; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout.splitlines()
    assert "mirrorha" in loaded
    heavy = ("boto3", "botocore", "mirrorha.volume.fuse", "rich", "click")
    assert not [name for name in loaded if name.startswith(heavy)]
