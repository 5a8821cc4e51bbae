"""The same as an ordinary user, by way of fusermount3. The tests are root, to become one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorha.errors import VolumeError
from mirrorha.volume.fuse import fusermount
from mirrorha.volume.fuse.connection import abort
from mirrorha.volume.fuse.fusermount import find_fusermount, mount_by_program
from mirrorha.volume.fuse.mounting import clean_up
from tests.mount.mount_support import NOBODY, Ground, device_for_all, ground, see
from tests.requirements import require_device, require_program, require_root


@pytest.fixture
def here() -> Iterator[Ground]:
    require_root()
    require_device("/dev/fuse")
    require_program("fusermount3")
    with ground() as one, device_for_all():
        yield one


@pytest.mark.parametrize(
    ("name", "volume"),
    [("orders", "orders"), ("a b,c\\d", "or,der\\s#"), ("new\nline\ttab", "a b"), ("-o", "-o")],
)
def test_over_the_directory_and_away_again(here: Ground, name: str, volume: str) -> None:
    directory = here.make(name, owner=NOBODY)
    server = here.serve(directory, volume=volume, user=NOBODY)
    assert server.said["raw"] == ["raw"]
    assert not server.said["has_cover"]
    assert see(directory, user=NOBODY) == "served"
    assert see(directory) == "EACCES", "root is another user, too"
    (entry,) = here.entries()
    assert (entry.kind, entry.source) == ("fuse.mirrorha", f"mirrorha:{volume}")
    assert "default_permissions" in entry.options
    server.stop()
    assert here.entries() == []
    assert see(directory) == "raw"


def test_a_dead_mount_stays_until_the_next_start(here: Ground) -> None:
    directory = here.make("orders", owner=NOBODY)
    here.serve(directory, user=NOBODY).kill()
    assert see(directory, user=NOBODY) == "ENOTCONN"
    second = here.serve(directory, user=NOBODY)
    assert second.said["raw"] == ["raw"]
    assert here.mounts() == ["fuse.mirrorha orders"]
    second.stop()
    assert see(directory) == "raw"


def test_root_cleans_up_what_a_user_left_and_not_what_it_serves(here: Ground) -> None:
    directory = here.make("orders", owner=NOBODY)
    server = here.serve(directory, user=NOBODY)
    with pytest.raises(VolumeError, match="its server answers"):
        clean_up(directory, volume="orders")
    assert see(directory, user=NOBODY) == "served"
    server.kill()
    clean_up(directory, volume="orders")
    assert here.mounts() == []


def test_a_user_cannot_clean_up_what_root_left(here: Ground) -> None:
    directory = here.make("orders", owner=NOBODY)
    here.serve(directory).kill()
    server = here.serve(directory, user=NOBODY)
    assert "as root" in server.said["error"]
    assert here.mounts() == ["tmpfs orders", "fuse.mirrorha orders"]


def test_a_server_that_hangs_is_unmounted(here: Ground) -> None:
    directory = here.make("orders", owner=NOBODY)
    server = here.serve(directory, how="hang", user=NOBODY)
    assert see(directory, user=NOBODY, timeout_s=1) == "hangs"
    abort(server.said["connection"])  # as root, for here a user has no way to
    server.stop()
    assert see(directory) == "raw"


def test_a_directory_of_another_user_is_refused_in_the_programs_words(here: Ground) -> None:
    directory = here.make("orders")
    server = here.serve(directory, user=NOBODY)
    assert "fusermount3: user has no write access to mountpoint" in server.said["error"]
    assert here.mounts() == []


def test_a_program_that_may_not_mount_itself_is_told_of_with_what_to_do(here: Ground) -> None:
    """As in a container: its root may be told so little."""
    directory = here.make("orders")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mirrorha.errors import VolumeError\n"
        "from mirrorha.volume.fuse.mounting import mount, open_raw\n"
        "path = Path(sys.argv[1])\n"
        "try: mount(path, open_raw(path, volume='orders'), volume='orders')\n"
        "except VolumeError as error: print(error)\n"
    )
    lacking = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    command = [*lacking, sys.executable, "-c", code, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.startswith(f"{directory}: cannot be mounted over: ")
    assert "Operation not permitted; in a container: `--device /dev/fuse" in done.stdout
    assert here.mounts() == []


def test_without_the_program_the_package_is_named(
    here: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusermount, "PROGRAM", "fusermount-of-nobody")
    with pytest.raises(VolumeError, match="apt install fuse3"):
        mount_by_program(str(here.path), source="a", subtype="b", options=[])


def test_a_program_without_its_rights_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusermount, "_SEARCH", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_fusermount() is None
    program = tmp_path / "fusermount3"
    program.touch(mode=0o755)
    assert find_fusermount() is None
    if os.geteuid() == 0:
        program.chmod(0o4755)
        assert find_fusermount() == str(program)


@pytest.mark.parametrize("what", ["true", "sleep 60", "echo no way >&2; exit 1"])
def test_a_program_that_does_not_do_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    require_root()
    program = tmp_path / "fusermount3"
    program.write_text(f"#!/bin/sh\nexec 3>&- 4>&-\n{what}\n")
    program.chmod(0o4755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(fusermount, "_FINISH_S", 0.5)
    complaint = {"true": "no descriptor", "sleep 60": "does not end"}.get(what, "no way")
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VolumeError, match=complaint):
        mount_by_program("/nowhere", source="a", subtype="b", options=[])
    if what != "sleep 60":  # which is reaped when it ends
        assert len(os.listdir("/proc/self/fd")) == descriptors
