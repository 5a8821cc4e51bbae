"""The log of a node's process, and that a library sets up none."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from mirrorha.cli.log import JsonLines, Label, TextLines
from tests.cli.cli_support import ENVIRONMENT, ROOT

FACTS = {"epoch": 7, "role": "PRIM", "from_role": "WAIT", "rule": "won-alone", "why": "lyon left"}


def record(text: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "mirrorha.x", "levelno": 20, "levelname": "INFO"})
    made.msg, made.created = text, 1_700_000_000.5
    made.__dict__.update(extra)
    return made


def test_a_decision_is_told_with_its_rule_and_why() -> None:
    label = Label("paris")
    told = record("paris e7 WAIT → PRIM (won-alone): lyon left", **FACTS)
    found = json.loads(JsonLines(label).format(told))
    assert found == {
        "at": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "node": "paris",
        "epoch": 7,
        "role": "PRIM",
        "from_role": "WAIT",
        "rule": "won-alone",
        "text": "lyon left",
        "logger": "mirrorha.x",
        "traceback": None,
    }
    assert (
        TextLines(label).format(told).endswith("INFO paris e7 WAIT → PRIM (won-alone): lyon left")
    )


def test_anything_else_has_what_the_node_is_now() -> None:
    label = Label("paris")
    label.epoch, label.role = 9, "SECOND"
    found = json.loads(JsonLines(label).format(record("two\nlines")))
    assert (found["node"], found["epoch"], found["role"]) == ("paris", 9, "SECOND")
    assert (found["rule"], found["text"]) == (None, "two\nlines")
    assert "\n" not in JsonLines(label).format(record("two\nlines"))


def test_a_traceback_is_in_the_same_document() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        told = record("it broke", exc_info=sys.exc_info())
    found = json.loads(JsonLines(Label("paris")).format(told))
    assert found["traceback"].endswith("ValueError: broken")


PROGRAM = """
import importlib, logging, pkgutil
import mirrorha
for each in pkgutil.walk_packages(mirrorha.__path__, "mirrorha."):
    if not each.name.endswith("__main__"):
        importlib.import_module(each.name)
known = logging.root.manager.loggerDict
loggers = [logging.getLogger(), *(logging.getLogger(name) for name in known)]
for logger in loggers:
    if logger.name == "root" or logger.name.startswith("mirrorha"):
        assert not logger.handlers, logger
        assert logger.propagate, logger
        assert logger.name == "root" or logger.level == logging.NOTSET, logger
print("none of", len(loggers))
"""


def test_importing_all_of_it_installs_no_handler(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'src'}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.startswith("none of"), result.stderr
