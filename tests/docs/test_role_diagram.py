"""The diagram of roles has the edges of the role table, all of them and no others."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from mirrorha.core.roles import ROLE_TABLE, Trigger
from mirrorha.core.words import Role
from tests.requirements import lacking

EXTENSION: Final = Path(__file__).parents[2] / "docs" / "_ext" / "role_table.py"


@pytest.fixture(scope="module")
def role_table() -> ModuleType:
    if importlib.util.find_spec("docutils") is None:
        lacking("docutils", "pip install --group docs")
    spec = importlib.util.spec_from_file_location("role_table", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(role_table: ModuleType) -> set[tuple[Role, Trigger, Role]]:
    found = set()
    for group in ET.fromstring(role_table.svg()).iter():
        if group.get("class") != "edge":
            continue
        # What a person reads, not only the attributes.
        words = [text.text for text in group if text.tag.endswith("text")]
        assert words == (group.get("data-triggers") or "").split()
        ends = Role(group.get("data-from")), Role(group.get("data-to"))
        found |= {(ends[0], Trigger(word), ends[1]) for word in words}
    return found


def test_every_edge_of_the_table_is_drawn_and_no_other(role_table: ModuleType) -> None:
    stopped = {(role, Trigger.STOPPED, Role.STOP) for role in Role}
    table = {(role, trigger, becomes) for (role, trigger), becomes in ROLE_TABLE.items()}
    assert stopped <= table  # as the caption says, which stands for them
    changing = {edge for edge in table - stopped if edge[0] is not edge[2]}
    assert drawn(role_table) == changing


def test_every_role_and_trigger_is_explained(role_table: ModuleType) -> None:
    assert set(role_table.PLACES) == set(role_table.FILLS) == set(role_table.WORDS) == set(Role)
    assert set(role_table.TRIGGERS) == set(Trigger)
