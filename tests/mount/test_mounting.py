"""Over the very directory and away again, with real mounts, as root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mirrorha.errors import VolumeError
from mirrorha.mount_table import read_mount_table
from mirrorha.volume.fuse import kernel, mount_calls, mounting
from mirrorha.volume.fuse.connection import abort
from mirrorha.volume.fuse.device import negotiate
from mirrorha.volume.fuse.mounting import clean_up, mount, open_raw, unmount
from tests.mount.mount_support import Ground, ground, run, see, write_into
from tests.requirements import require_device, require_root

NAMES = ["orders", "a b", "a,b\\c", "new\nline\ttab", "ümläut#'\"", "-o", "\\040", "x" * 255]


@pytest.fixture
def here() -> Iterator[Ground]:
    require_root()
    require_device("/dev/fuse")
    with ground() as one:
        yield one


def put_over(directory: Path, source: str, kind: str = "tmpfs", options: str = "size=4k") -> None:
    """Somebody else's mount."""
    mount_calls.mount_file_system(source, str(directory), kind, flags=0, options=options)


@pytest.mark.parametrize("name", NAMES)
def test_over_the_directory_and_away_again(here: Ground, name: str) -> None:
    directory = here.make(name)
    server = here.serve(directory, volume=name[:20])
    assert server.said["raw"] == ["raw"]
    assert server.said["directory"] == str(directory)
    assert see(directory) == "served"
    assert [one.kind for one in here.entries()] == ["tmpfs", "fuse.mirrorha"]
    server.stop()
    assert here.entries() == []
    assert see(directory) == "raw"


def test_through_a_symlink_on_the_way(here: Ground) -> None:
    directory = here.make("real/orders")
    (here.path / "link").symlink_to("real")
    server = here.serve(here.path / "link" / "orders")
    assert server.said["directory"] == str(directory)
    assert see(directory) == "served"
    server.stop()
    assert see(directory) == "raw"


def test_the_device_is_ours_alone_and_never_blocks(here: Ground) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    mounted = mount(directory, raw, volume="orders")
    try:
        assert not os.get_inheritable(mounted.device)
        assert not os.get_blocking(mounted.device)
        assert len(os.read(mounted.device, 1 << 17)) >= 40  # INIT waits there
        with pytest.raises(BlockingIOError):
            os.read(mounted.device, 1 << 17)
    finally:
        unmount(mounted)
        os.close(mounted.device)
        os.close(raw)


def test_the_kernel_reads_ahead_as_much_as_one_request_brings(here: Ground) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    mounted = mount(directory, raw, volume="orders")
    try:
        request = os.read(mounted.device, 1 << 17)
        unique = kernel.IN_HEADER.unpack_from(request)[2]
        answer, _ = negotiate(memoryview(request)[kernel.IN_HEADER.size :])
        head = kernel.OUT_HEADER.pack(kernel.OUT_HEADER.size + len(answer), 0, unique)
        os.write(mounted.device, head + answer)
        settings = Path(f"/sys/class/bdi/0:{mounted.connection}")
        assert (settings / "read_ahead_kb").read_text() == "1024\n"
    finally:
        unmount(mounted)
        os.close(mounted.device)
        os.close(raw)


def test_what_the_raw_mount_forbids_ours_forbids(here: Ground) -> None:
    directory = here.make("orders")
    flags = mount_calls.MS_NOSUID | mount_calls.MS_NOEXEC
    mount_calls.mount_file_system("disk", str(directory), "tmpfs", flags=flags, options="")
    server = here.serve(directory)
    served = here.entries()[-1]
    assert served.is_fuse
    assert {"nosuid", "noexec", "default_permissions", "allow_other"} <= served.options
    assert "nodev" not in served.options
    server.stop()
    assert here.mounts() == ["tmpfs orders"], "the volume's own disk stays mounted"


def test_a_killed_server_leaves_no_way_to_the_directory(here: Ground) -> None:
    directory = here.make("orders")
    here.serve(directory).kill()
    assert write_into(directory) == "ENOTCONN"
    mount_calls.detach(str(directory))  # an administrator's `umount`
    assert write_into(directory) == "EROFS"
    assert see(directory) == "covered"
    clean_up(directory, volume="orders")
    assert os.listdir(directory) == ["raw"]


def test_the_next_start_never_shows_the_directory(here: Ground) -> None:
    directory = here.make("orders")
    here.serve(directory).kill()
    raw = open_raw(directory, volume="orders")
    try:
        assert here.mounts() == ["tmpfs orders"], "the cover stays while nothing is mounted"
        assert write_into(directory) == "EROFS"
        assert os.listdir(raw) == ["raw"]
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=raw))
        os.rename("new", "newer", src_dir_fd=raw, dst_dir_fd=raw)
    finally:
        os.close(raw)
    second = here.serve(directory)
    assert second.said["raw"] == ["newer", "raw"]
    assert see(directory) == "served"
    assert here.mounts() == ["tmpfs orders", "fuse.mirrorha orders"]
    second.stop()
    assert sorted(os.listdir(directory)) == ["newer", "raw"]


def test_the_directory_of_a_disk_of_its_own_is_found_beneath_a_cover(here: Ground) -> None:
    directory = here.make("orders")
    put_over(directory, "disk", options="size=1m")
    (directory / "on the disk").touch()
    here.serve(directory).kill()
    server = here.serve(directory)
    assert server.said["raw"] == ["on the disk"]
    server.stop()
    assert os.listdir(directory) == ["on the disk"]


def test_unmount_does_not_wait_for_a_server_that_hangs(here: Ground) -> None:
    directory = here.make("orders")
    server = here.serve(directory, how="hang")
    waiting = subprocess.Popen(["stat", str(directory)], stderr=subprocess.PIPE, text=True)
    assert see(directory, timeout_s=1) == "hangs"
    server.stop()
    _, complaint = waiting.communicate(timeout=10)
    assert "abort" in complaint or "not connected" in complaint
    assert see(directory) == "raw"


def test_who_waits_for_an_answer_gets_an_error(here: Ground) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    mounted = mount(directory, raw, volume="orders")
    waiting = subprocess.Popen(["stat", str(directory)], stderr=subprocess.PIPE, text=True)
    assert see(directory, timeout_s=0.5) == "hangs"
    unmount(mounted)
    _, complaint = waiting.communicate(timeout=10)  # the device is still open here
    assert "abort" in complaint or "not connected" in complaint
    os.close(mounted.device)
    os.close(raw)


def test_unmount_may_be_called_again_and_then_touches_nobody_else(here: Ground) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    first = mount(directory, raw, volume="orders")
    unmount(first)
    os.close(first.device)
    second = here.serve(directory)
    # The kernel gives free numbers away again: without memory the first would end the second.
    first = attrs.evolve(
        first, connection=second.said["connection"], mount_id=second.said["mount_id"]
    )
    unmount(first)
    assert see(directory) == "served"
    os.close(raw)


def test_unmount_after_an_administrator_was_faster(here: Ground) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    mounted = mount(directory, raw, volume="orders")
    abort(mounted.connection)
    mount_calls.detach(str(directory))
    unmount(mounted)
    os.close(mounted.device)
    os.close(raw)
    assert here.mounts() == []


def test_a_directory_above_may_be_renamed_meanwhile(here: Ground) -> None:
    directory = here.make("above/orders")
    server = here.serve(directory)
    (here.path / "above").rename(here.path / "renamed")
    assert see(here.path / "renamed" / "orders") == "served"
    server.stop()
    assert here.mounts() == []
    assert see(here.path / "renamed" / "orders") == "raw"


def test_what_covers_ours_is_not_taken_off(here: Ground) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    mounted = mount(directory, raw, volume="orders")
    put_over(directory, "somebody")
    with pytest.raises(VolumeError, match=r"'somebody' .tmpfs. is mounted over"):
        unmount(mounted)
    assert here.mounts() == ["tmpfs orders", "fuse.mirrorha orders", "tmpfs orders"]
    for call in (clean_up, open_raw):
        with pytest.raises(VolumeError, match="umount"):
            call(directory, volume="orders")
    mount_calls.detach(str(directory))
    unmount(mounted)
    assert here.mounts() == []
    os.close(mounted.device)
    os.close(raw)


def test_a_served_mount_is_not_touched(here: Ground) -> None:
    directory = here.make("orders")
    here.serve(directory)
    before = here.mounts()
    second = here.serve(directory)
    assert "another process serves it" in second.said["error"]
    assert "its server answers" in second.said["error"]
    with pytest.raises(VolumeError, match="mounted already"):
        clean_up(directory, volume="orders")
    assert here.mounts() == before
    assert see(directory) == "served"


def test_a_server_that_is_silent_is_not_taken_for_dead(here: Ground) -> None:
    directory = here.make("orders")
    server = here.serve(directory)
    os.kill(server.child.pid, signal.SIGSTOP)
    with pytest.raises(VolumeError, match="its server does not answer"):
        clean_up(directory, volume="orders")
    os.kill(server.child.pid, signal.SIGCONT)
    assert see(directory) == "served"


def test_the_advice_for_a_silent_server_works(here: Ground) -> None:
    directory = here.make("orders")
    server = here.serve(directory)
    os.kill(server.child.pid, signal.SIGSTOP)
    abort(server.said["connection"])
    clean_up(directory, volume="orders")
    assert here.mounts() == []
    assert see(directory) == "raw"


def test_only_ours_over_this_directory_is_cleaned_up(here: Ground) -> None:
    mine, longer, deeper = (here.make(one) for one in ("orders", "orders2", "orders/in/it"))
    other = here.make("other")
    for directory, volume in ((longer, "orders"), (other, "another"), (mine, "orders")):
        here.serve(directory, volume=volume).kill()
    # Somebody else's dead FUSE mount, and a name that begins as ours.
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    for source, kind in (("user@host:/", "fuse.sshfs"), ("mirrorha:orders2", "fuse.mirrorha")):
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        place = here.make(f"by {kind}")
        put_over(place, source, kind, options)
        os.close(device)
        before = here.mounts()
        with pytest.raises(VolumeError, match=r"is mounted there|another process"):
            mount(place, -1, volume="orders")
        clean_up(place, volume="orders")
        assert here.mounts() == before
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    os.close(device)
    with pytest.raises(VolumeError, match="is mounted there"):
        mount(other, -1, volume="orders")
    clean_up(other, volume="orders")
    before = here.mounts()
    clean_up(mine, volume="orders")
    assert here.mounts() == [one for one in before if not one.endswith(" orders")]
    assert deeper.exists()


def test_dead_mounts_on_top_of_each_other_all_go(here: Ground) -> None:
    directory = here.make("orders")
    here.serve(directory).kill()
    # Mounted on the dead one, by somebody who did not look.
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    put_over(directory, "mirrorha:orders", "fuse.mirrorha", options)
    os.close(device)
    clean_up(directory, volume="orders")
    assert here.mounts() == []


def test_what_is_in_the_place_of_the_directory_is_not_mounted_over(here: Ground) -> None:
    directory, other = here.make("orders"), here.make("other")
    raw = open_raw(directory, volume="orders")
    directory.rename(here.path / "away")
    other.rename(directory)
    with pytest.raises(VolumeError, match="another directory was put in its place"):
        mount(directory, raw, volume="orders")
    assert here.mounts() == []
    os.close(raw)


def test_a_failed_mount_takes_its_cover_away(here: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = here.make("orders")
    raw = open_raw(directory, volume="orders")
    monkeypatch.setattr(mounting, "KIND", "no such kind")
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VolumeError, match="modprobe fuse"):
        mount(directory, raw, volume="orders")
    assert here.mounts() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
    os.close(raw)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.touch(), "no directory"),
        (lambda path: path.symlink_to("/tmp"), "symlink"),
    ],
)
def test_what_is_no_directory_is_refused(here: Ground, make: object, complaint: str) -> None:
    path = here.path / "orders"
    assert callable(make)
    make(path)
    with pytest.raises(VolumeError, match=complaint):
        open_raw(path, volume="orders")
    with pytest.raises(VolumeError, match=complaint):
        mount(path, -1, volume="orders")
    with pytest.raises(VolumeError, match="root directory"):
        open_raw(Path("/"), volume="orders")


@pytest.mark.parametrize("propagation", ["private", "shared", "slave"])
def test_in_a_mount_namespace_of_our_own(here: Ground, propagation: str) -> None:
    directory = here.make("orders")
    server = here.serve(directory, prefix=["unshare", "-m", "--propagation", propagation])
    assert server.said["raw"] == ["raw"]
    within = ["nsenter", "-m", "-t", str(server.said["pid"])]
    assert see(directory, prefix=within) == "served"
    assert see(directory) == "raw"
    server.stop()


def test_a_shared_mount_is_seen_where_it_propagates_to(here: Ground) -> None:
    directory = here.make("shared/orders")
    above = directory.parent
    run(["mount", "--bind", str(above), str(above)], timeout_s=10)
    run(["mount", "--make-shared", str(above)], timeout_s=10)
    follower = subprocess.Popen(
        ["unshare", "-m", "--propagation", "unchanged", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert follower.stdin is not None
    assert follower.stdout is not None
    try:
        follower.stdin.write(b"?\n")
        follower.stdin.flush()
        follower.stdout.readline()  # it is in its namespace now
        within = ["nsenter", "-m", "-t", str(follower.pid)]
        for end in ("kill", "stop"):
            server = here.serve(directory)
            assert see(directory, prefix=within) == "served"
            getattr(server, end)()
            seen = {"kill": "ENOTCONN", "stop": "raw"}[end]
            assert (see(directory), see(directory, prefix=within)) == (seen, seen)
            os.close(open_raw(directory, volume="orders"))
            cover = {"kill": "covered", "stop": "raw"}[end]
            assert (see(directory), see(directory, prefix=within)) == (cover, cover)
        assert len(here.entries()) == 1
    finally:
        follower.stdin.close()
        follower.wait(10)
        follower.stdout.close()


def test_who_kept_a_private_copy_of_the_mount_gets_errors(here: Ground) -> None:
    directory = here.make("orders")
    server = here.serve(directory, how="serve")
    keeper = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        keeper.stdin.write(b"?\n")
        keeper.stdin.flush()
        keeper.stdout.readline()
        server.stop()
        within = ["nsenter", "-m", "-t", str(keeper.pid)]
        assert see(directory) == "raw"
        assert see(directory, prefix=within) == "ENOTCONN"
    finally:
        keeper.stdin.close()
        keeper.wait(10)
        keeper.stdout.close()


def test_nothing_here_leaves_descriptors_or_threads_behind(here: Ground) -> None:
    directory = here.make("orders")
    program = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from mirrorha.volume.fuse.mounting import *\n"
        "def once():\n"
        "    raw = open_raw(Path(sys.argv[1]), volume='orders')\n"
        "    mounted = mount(Path(sys.argv[1]), raw, volume='orders')\n"
        "    os.close(mounted.device)\n"
        "    os.close(open_raw(Path(sys.argv[1]), volume='orders'))\n"
        "    clean_up(Path(sys.argv[1]), volume='orders')\n"
        "    os.close(raw)\n"
        "once()\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "once(); once()\n"
        "print(len(os.listdir('/proc/self/fd')) - before, threading.active_count())\n"
    )
    source = str(Path(mounting.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == ["0", "1"]
    assert here.mounts() == []
    assert read_mount_table().spot(str(directory)).stack == ()
