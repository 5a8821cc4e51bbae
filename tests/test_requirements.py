"""What a test lacks is skipped here, and fails where nothing may be skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import requirements


@pytest.fixture(params=["skips", "fails"])
def outcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """What a test that lacks something must raise."""
    monkeypatch.setenv("MIRRORHA_REQUIRE_ALL", "1" if request.param == "fails" else "")
    return pytest.fail.Exception if request.param == "fails" else pytest.skip.Exception


def test_a_program(outcome: type[BaseException]) -> None:
    assert requirements.require_program("sh").endswith("/sh")
    with pytest.raises(outcome, match="needs the program no-such-program"):
        requirements.require_program("no-such-program")


def test_a_device(outcome: type[BaseException], tmp_path: Path) -> None:
    requirements.require_device("/dev/null")
    with pytest.raises(outcome, match="needs the device"):
        requirements.require_device(str(tmp_path / "none"))
    with pytest.raises(outcome, match="cannot be opened: Is a directory"):
        requirements.require_device(str(tmp_path))


def test_a_file(outcome: type[BaseException], tmp_path: Path) -> None:
    requirements.require_file(__file__, package="none")
    with pytest.raises(outcome, match="of the Debian package some-package"):
        requirements.require_file(str(tmp_path / "none"), package="some-package")


def test_root(outcome: type[BaseException]) -> None:
    if os.geteuid() == 0:
        requirements.require_root()
        return
    with pytest.raises(outcome, match="needs root"):
        requirements.require_root()
