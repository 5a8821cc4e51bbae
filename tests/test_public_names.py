"""`import mirrorha` gives every public name, and imports nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mirrorha


@pytest.mark.parametrize("name", mirrorha.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(mirrorha, name) is not None
    assert name in dir(mirrorha)


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Klaster'"):
        mirrorha.Klaster  # noqa: B018


def test_the_import_itself_brings_neither_trio_nor_the_data_path() -> None:
    code = (
        "import mirrorha, sys; print([m for m in ('trio', 'mirrorha.volume') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
