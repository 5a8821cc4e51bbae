"""What a test lacks is skipped here, and fails where nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
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
    with pytest.raises(outcome, match=r"needs to open .* \(Is a directory\)"):
        requirements.require_device(str(tmp_path))


def test_a_file(outcome: type[BaseException], tmp_path: Path) -> None:
    requirements.require_file(__file__, package="none")
    with pytest.raises(outcome, match="install the Debian package some-package"):
        requirements.require_file(str(tmp_path / "none"), package="some-package")


def test_root(outcome: type[BaseException]) -> None:
    if os.geteuid() == 0:
        requirements.require_root()
        return
    with pytest.raises(outcome, match="needs root"):
        requirements.require_root()


@pytest.mark.parametrize(
    "body", ["{it}", "async with trio.open_nursery(), trio.open_nursery(): {it}"]
)
def test_a_test_of_trio_says_why_it_is_skipped(tmp_path: Path, body: str) -> None:
    root = Path(__file__).parents[1]
    it = "requirements.lacking('a thing', 'bring it')"
    (tmp_path / "test_it.py").write_text(
        "import trio\nfrom tests import requirements\n"
        f"async def test_it():\n    {body.format(it=it)}\n"
    )
    options = ["-c", root / "pyproject.toml", "--rootdir", root, "-p", "tests.conftest"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, tmp_path],
        cwd=root,
        env={**os.environ, "MIRRORHA_REQUIRE_ALL": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "test_it.py:4: needs a thing: bring it\n1 skipped" in ran.stdout, ran.stdout
