"""What stands in the way of a mount is said beforehand, with what to do about it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorha.errors import VolumeError
from mirrorha.mount_table import read_mount_table
from mirrorha.volume.fuse import mount_calls
from mirrorha.volume.fuse.mounting import clean_up, mount, open_raw, unmount
from mirrorha.volume.fuse.obstacles import (
    Machine,
    cover_warning,
    find_obstacles,
    foreign_namespace_warning,
    namespace_warning,
    refuse_obstacles,
)
from mirrorha.volume.fuse.occupants import Place, find_occupants
from tests.mount.mount_support import NOBODY, SOURCE, Ground, device_for_all, ground, see
from tests.requirements import require_device, require_program, require_root

FREEZE_MAX_MS = 60_000


@pytest.fixture
def here() -> Iterator[Ground]:
    require_root()
    require_device("/dev/fuse")
    with ground() as one:
        yield one


def found(directory: Path, *, volume: str = "orders", machine: Machine | None = None) -> list[str]:
    return find_obstacles(directory, volume=volume, freeze_max_ms=FREEZE_MAX_MS, machine=machine)


def only(directory: Path, *, machine: Machine | None = None) -> str:
    (text,) = found(directory, machine=machine)
    return text


def test_nothing_stands_in_the_way_of_a_good_directory(here: Ground) -> None:
    directory = here.make("orders")
    assert found(directory) == []
    here.serve(directory).kill()
    assert found(directory) == [], "what a crash left is cleaned up at the start"
    refuse_obstacles(directory, volume="orders", freeze_max_ms=FREEZE_MAX_MS)


def test_a_cover_that_a_crash_left_is_told_of(here: Ground) -> None:
    directory = here.make("orders")
    assert cover_warning(directory, volume="orders") is None
    here.serve(directory).kill()
    assert cover_warning(directory, volume="orders") is None, "who looks there gets ENOTCONN"
    os.close(open_raw(directory, volume="orders"))
    assert f"`umount '{directory}'`" in (cover_warning(directory, volume="orders") or "")
    assert cover_warning(directory, volume="another") is None
    clean_up(directory, volume="orders")
    assert cover_warning(directory, volume="orders") is None


def test_all_is_said_at_once(here: Ground) -> None:
    (here.path / "max_request_timeout").write_text("60\n")
    machine = Machine(device=here.path / "fuse", settings=here.path)
    texts = found(here.path / "orders", machine=machine)
    assert len(texts) == 3
    with pytest.raises(VolumeError, match="mkdir"):
        refuse_obstacles(here.path / "orders", volume="orders", freeze_max_ms=FREEZE_MAX_MS)


def test_a_directory_that_is_not_there_or_none(here: Ground) -> None:
    assert f"mkdir -p '{here.path}/a'" in only(here.path / "a")
    assert "mkdir -p" in only(here.path / "a" / "b")
    (here.path / "file").touch()
    assert "is no directory" in only(here.path / "file")
    (here.path / "link").symlink_to(here.make("orders"))
    assert f"name the directory itself: {here.path}/orders" in only(here.path / "link")
    assert "root directory" in only(Path("/"))


def test_the_means_to_mount(here: Ground) -> None:
    directory = here.make("orders")
    text = only(directory, machine=Machine(device=here.path / "fuse"))
    assert "modprobe fuse" in text
    assert "--cap-add SYS_ADMIN" in text
    assert "is missing" in only(directory, machine=Machine(device=directory / "raw"))
    # A character device that nobody drives.
    os.mknod(here.path / "undriven", 0o20600, os.makedev(120, 77))
    assert "No such device" in only(directory, machine=Machine(device=here.path / "undriven"))


def test_the_means_of_an_ordinary_user(here: Ground) -> None:
    require_program("fusermount3")
    directory = here.make("orders", owner=NOBODY)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mirrorha.volume.fuse import fusermount\n"
        "from mirrorha.volume.fuse.obstacles import *\n"
        "path, configuration, fusermount.PROGRAM, others = sys.argv[2:]\n"
        "os.setgroups([])\n"
        "os.setresuid(*[int(sys.argv[1])] * 3)\n"
        "machine = Machine(configuration=Path(configuration))\n"
        "for one in find_obstacles(Path(path), volume='orders', freeze_max_ms=1,"
        " is_for_all=others == 'others', machine=machine):\n"
        "    print(one)\n"
    )

    def ask(path: Path, configuration: str, name: str, others: str) -> str:
        (here.path / "fuse.conf").write_text(configuration)
        return subprocess.run(
            [
                *(sys.executable, "-c", program, str(NOBODY)),
                *(path, here.path / "fuse.conf", name, others),
            ],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout

    with device_for_all():
        assert ask(directory, "", "fusermount3", "") == ""
        assert ask(directory, "# a\n user_allow_other \n", "fusermount3", "others") == ""
        assert "user_allow_other" in ask(directory, "#user_allow_other\n", "fusermount3", "others")
        assert "apt install fuse3" in ask(directory, "", "fusermount-of-nobody", "")
        text = ask(here.make("roots"), "", "fusermount3", "")
        assert "may not write there" in text
        assert f"`chown {NOBODY} '{here.path}/roots'`" in text
        os.chmod("/dev/fuse", 0o600)
        assert "chmod 666 /dev/fuse" in ask(directory, "", "fusermount3", "")


@pytest.mark.parametrize("name", ["max_request_timeout", "default_request_timeout"])
def test_a_timeout_of_the_kernel_that_is_too_short(here: Ground, name: str) -> None:
    directory, setting = here.make("orders"), here.path / name
    machine = Machine(settings=here.path)
    for limit, is_short in (("0", False), ("61", False), ("60", True), ("1", True), ("x", False)):
        setting.write_text(limit + "\n")
        assert bool(found(directory, machine=machine)) == is_short, limit
    setting.write_text("20\n")
    assert f"`sysctl fs.fuse.{name}=0`, or lower freeze_max" in only(directory, machine=machine)
    assert "freeze_max = 60 s" in only(directory, machine=machine)


def test_the_mounts_of_others(here: Ground) -> None:
    directory = here.make("orders")

    def with_mount(source: str, kind: str, path: Path = directory, options: str = "") -> str:
        mount_calls.mount_file_system(source, str(path), kind, flags=0, options=options)
        try:
            return "\n".join(found(directory))
        finally:
            mount_calls.detach(str(path))

    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    assert "'user@host:/' (fuse.sshfs)" in with_mount("user@host:/", "fuse.sshfs", options=options)
    os.close(device)
    assert "(proc) is mounted there" in with_mount("proc", "proc")
    assert with_mount("disk", "tmpfs") == "", "the volume's own disk"
    assert "a directory of its own" in with_mount("mirrorha:orders2", "tmpfs")
    (directory / "in").mkdir()
    inside = with_mount("disk", "tmpfs", directory / "in")
    assert f"at {directory}/in" in inside
    here.make("orders2/in")
    assert with_mount("disk", "tmpfs", here.path / "orders2" / "in") == ""
    mount_calls.mount_file_system("mirrorha:orders", str(directory), "tmpfs", flags=0, options="")
    assert "mounted over a mount of mirrorha" in with_mount("disk", "tmpfs")


def test_a_file_system_that_is_read_only(here: Ground) -> None:
    directory = here.make("orders")
    mount_calls.mount_file_system("disk", str(directory), "tmpfs", flags=1, options="")
    assert f"remount,rw '{directory}'" in only(directory)


def test_a_mount_that_hangs_is_not_looked_at(here: Ground) -> None:
    directory = here.make("orders")
    server = here.serve(directory, how="hang")
    assert see(directory, timeout_s=0.5) == "hangs"
    assert f"process {server.said['pid']}" in only(directory), "the server itself"
    assert "its server does not answer" in here.serve(directory).said["error"]


USES = {
    "its working directory": "import os; os.chdir(sys.argv[1])",
    "open as": "kept = open(sys.argv[1] + '/raw')",
    "mapped": (
        "import mmap\n"
        "with open(sys.argv[1] + '/raw', 'r+b') as f: kept = mmap.mmap(f.fileno(), 0)\n"
        # A descriptor is kept in it: only what maps without one is a mapping alone.
        "import os\n"
        "for fd in range(3, 20):\n"
        "    try: os.close(fd)\n"
        "    except OSError: pass\n"
    ),
    "deleted": "import os; kept = open(sys.argv[1] + '/raw'); os.unlink(kept.name)",
    "its root directory": "import os; os.chroot(sys.argv[1])",
}


def using(directory: Path, use: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """A process that uses the directory until its standard input ends."""
    child = subprocess.Popen(
        [
            *prefix,
            sys.executable,
            "-c",
            f"import sys\n{use}\nprint('ready', flush=True)\nsys.stdin.read()",
            str(directory),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    child.stdout.close()
    child.wait(10)


@pytest.mark.parametrize("use", USES)
def test_a_process_that_uses_the_directory(here: Ground, use: str) -> None:
    directory = here.make("orders")
    child = using(directory, USES[use])
    try:
        text = only(directory)
        assert f"process {child.pid} (python" in text
        assert (use if use != "deleted" else "open as") in text
        assert str(directory) in text
        assert found(here.make("orders2")) == [], "a name that begins alike"
    finally:
        end(child)
    assert found(directory) == []


def test_a_process_of_another_namespace_with_another_path(here: Ground) -> None:
    directory, elsewhere = here.make("orders/deep"), here.make("elsewhere")
    script = f'mount --bind {directory} {elsewhere} && exec "$@"'
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")
    child = using(elsewhere, "import os; os.chdir(sys.argv[1])", prefix)
    try:
        assert f"process {child.pid}" in only(directory.parent)
        assert found(elsewhere) == []
    finally:
        end(child)


def test_a_process_in_what_hides_the_directory_does_not_count(here: Ground) -> None:
    directory = here.make("orders")
    here.serve(directory).kill()
    mount_calls.detach(str(directory))
    child = using(directory, "import os; os.chdir(sys.argv[1])")  # that is the cover
    try:
        assert found(directory) == []
        os.close(open_raw(directory, volume="orders"))
    finally:
        end(child)


def test_a_process_that_entered_before_the_cover_still_counts(here: Ground) -> None:
    directory = here.make("orders")
    child = using(directory, "import os; os.chdir(sys.argv[1])")
    try:
        here.serve(directory).kill()
        assert f"process {child.pid}" in only(directory)
    finally:
        end(child)


def test_many_processes_are_not_all_listed(here: Ground) -> None:
    directory = here.make("orders")
    children = [using(directory, USES["open as"]) for _ in range(7)]
    try:
        texts = found(directory)
        assert len(texts) == 6
        assert "2 more processes" in texts[-1]
    finally:
        for child in children:
            end(child)


def test_a_scan_without_time_says_so(here: Ground) -> None:
    spot = read_mount_table().spot(str(here.make("orders")))
    place = Place.of(spot, spot.holder)
    # The thread that looks may be through before we are back: hardly each time.
    assert any(find_occupants(place, scan_s=0).unseen is not None for _ in range(50))


def test_where_a_mount_is_not_seen(here: Ground) -> None:
    directory = here.make("orders")
    early = using(directory, "", ("unshare", "-m", "--propagation", "private"))
    raw = open_raw(directory, volume="orders")
    mounted = mount(directory, raw, volume="orders")
    late = using(here.path, "", ("unshare", "-m", "--propagation", "private"))
    try:
        assert namespace_warning(mounted, os.getpid()) is None
        assert namespace_warning(mounted, late.pid) is None
        text = namespace_warning(mounted, early.pid)
        assert text is not None
        assert "NOT mirrored" in text
        assert namespace_warning(mounted, 2**22 + 1) is None, "no such process"
    finally:
        unmount(mounted)
        os.close(mounted.device)
        os.close(raw)
        end(early)
        end(late)


def test_a_namespace_of_our_own_is_said() -> None:
    try:
        os.readlink("/proc/1/ns/mnt")
    except OSError:
        assert foreign_namespace_warning() is None, "nobody knows"
