"""What becomes of programs on a mount while changes wait, and when its node stops serving."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.volume.fuse.mounts import finish

if TYPE_CHECKING:
    from tests.volume.fuse.mounts import Mount

APPENDER = """
    import signal
    class Interrupted(Exception):
        pass
    def interrupt(*_):
        raise Interrupted
    signal.signal(signal.SIGUSR1, interrupt)
    fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        os.write(fd, b"line\\n")
        print("written")
    except Interrupted:
        print("interrupted")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def start_appender(mount: Mount) -> subprocess.Popen[str]:
    process = mount.start(APPENDER)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    print(file=process.stdin, flush=True)


def log_of(mount: Mount) -> bytes:
    return (mount.raw / "log").read_bytes()


def test_a_change_that_waits_can_be_interrupted(mount: Mount) -> None:
    process = start_appender(mount)
    mount.tell("freeze")
    go(process)
    mount.wait_for("waiting", 1)
    process.send_signal(signal.SIGUSR1)
    assert finish(process) == "interrupted\n"
    mount.wait_for("waiting", 0)
    mount.tell("thaw")
    assert log_of(mount) == b""


def test_a_change_that_was_applied_cannot_be_interrupted(mount: Mount) -> None:
    process = start_appender(mount)
    mount.tell("hold")
    go(process)
    mount.wait_for("waiting", 1)
    process.send_signal(signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert log_of(mount) == b"line\n"
    mount.tell("thaw")
    # The write came back first; the handler of the signal ran afterwards.
    assert finish(process) == "interrupted\n"
    assert log_of(mount) == b"line\n"


def test_a_caller_can_be_killed_while_its_change_waits(mount: Mount) -> None:
    process = start_appender(mount)
    mount.tell("freeze")
    go(process)
    mount.wait_for("waiting", 1)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    process.communicate()
    mount.wait_for("waiting", 0)
    mount.tell("thaw")
    assert log_of(mount) == b""


def test_the_rest_goes_on_while_a_change_waits(mount: Mount) -> None:
    mount.run("open('other', 'w').write('here')\nos.mkdir('d')\nopen('d/inner', 'w').close()")
    process = start_appender(mount)
    mount.tell("freeze")
    go(process)
    mount.wait_for("waiting", 1)
    mount.run(
        "assert open('other').read() == 'here'\nassert os.listdir('d') == ['inner']",
        timeout_s=10,
    )
    mount.tell("thaw")
    assert finish(process) == "written\n"
    assert log_of(mount) == b"line\n"


def test_what_waits_can_be_refused_at_once(mount: Mount) -> None:
    process = start_appender(mount)
    mount.tell("hold")
    go(process)
    mount.wait_for("waiting", 1)
    assert mount.tell("fail 5")["waiting"] == 0
    assert finish(process) == "EIO\n"
    mount.tell("thaw")  # what is said later of that change is not sent
    mount.run("open('new', 'w').write('x')")


def test_a_node_that_does_not_serve_is_read_only(mount: Mount) -> None:
    mount.run("open('f', 'w').write('x')\nos.mkdir('d')")
    mount.tell("serving 0")
    mount.run("""
        def refuses(call, *args):
            try:
                call(*args)
            except OSError as error:
                assert error.errno == errno.EROFS, (call, args, error)
            else:
                raise AssertionError((call, args))
        assert open("f").read() == "x"
        assert os.listdir("d") == []
        with open("f", "rb") as file:
            assert mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:] == b"x"
            try:
                mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
            except OSError as error:
                assert error.errno == errno.ENODEV
            else:
                raise AssertionError
        refuses(open, "f", "w")
        refuses(open, "f", "a")
        refuses(open, "f", "r+")
        refuses(open, "new", "w")
        refuses(os.mkdir, "e")
        refuses(os.unlink, "f")
        refuses(os.rmdir, "d")
        refuses(os.rename, "f", "g")
        refuses(os.symlink, "f", "g")
        refuses(os.link, "f", "g")
        refuses(os.truncate, "f", 0)
        refuses(os.chmod, "f", 0)
        refuses(os.chown, "f", 1, 1)
        refuses(os.utime, "f")
        refuses(os.setxattr, "f", "user.a", b"")
    """)
    mount.tell("serving 1")
    mount.run("open('f', 'a').write('y')\nassert open('f').read() == 'xy'")


def test_a_node_that_does_not_serve_shows_what_it_follows(mount: Mount) -> None:
    """Through files that were opened before as well, whatever was cached of them."""
    mount.run("open('f', 'w').write('before')")
    reader = mount.start("""
        file = open("f", "rb", buffering=0)
        def look():
            size = os.stat("f").st_size
            # No more than there is: a read beyond the end would ask for attributes.
            print(os.pread(file.fileno(), size, 0).decode(), size, flush=True)
        look()
        while sys.stdin.readline() == "\\n":
            look()
    """)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "before 6\n"
    mount.tell("serving 0")
    assert mount.tell("invalidate")["known"] >= 2
    for text in ("AFTER1", "AFTER2", "AFTER3", "longer-than-before"):
        mount.tell(f"follow f {text}")
        # Nobody else opens it, which would be reason enough to forget. Soon, not at once.
        for _ in range(200):
            go(reader)
            seen = reader.stdout.readline()
            if seen == f"{text} {len(text)}\n":
                break
        assert seen == f"{text} {len(text)}\n"
    mount.run(f"assert open('f').read() == {text!r}")
    mount.tell("serving 1")
    mount.run("open('f', 'w').write('again')")
    go(reader)
    assert reader.stdout.readline() == "again 5\n"
    finish(reader)


def test_nothing_is_kept_of_what_is_opened_while_another_node_serves(mount: Mount) -> None:
    mount.run("open('f', 'w').write('first')")
    mount.tell("serving 0")
    reader = mount.start("""
        file = open("f", "rb", buffering=0)
        while sys.stdin.readline() == "\\n":
            print(os.pread(file.fileno(), 5, 0).decode(), flush=True)
    """)
    assert reader.stdout is not None
    for text in ("FIRST", "later", "LATER"):
        mount.tell(f"follow f {text}")
        for _ in range(3):
            go(reader)
            assert reader.stdout.readline() == f"{text}\n"
    finish(reader)


def test_invalidating_waits_for_no_answer_of_its_own_loop(mount: Mount) -> None:
    """A change is held back in what is to be forgotten; the loop goes on meanwhile."""
    mount.run("os.mkdir('d')\nopen('d/f', 'w').close()")
    mount.tell("hold")
    process = mount.start("os.rename('d/f', 'd/g')\nprint('renamed')")
    mount.wait_for("waiting", 1)
    mount.send("invalidate")
    mount.send("thaw")
    answers = [mount.answer(), mount.answer()]
    assert any("known" in answer and len(answer) == 1 for answer in answers)
    assert finish(process) == "renamed\n"


def test_a_bug_in_a_handler_costs_one_answer(mount: Mount) -> None:
    mount.tell("break")
    mount.run("""
        for _ in range(3):
            try:
                os.statvfs(".")
            except OSError as error:
                assert error.errno == errno.EIO
            else:
                raise AssertionError
        open("f", "w").write("x")
    """)
    mount.expected_failures = 3


def test_nothing_is_kept_of_what_is_closed_and_forgotten(mount: Mount) -> None:
    before = mount.tell("counts")
    mount.run("""
        os.mkdir("d")
        for turn in range(200):
            with open(f"d/{turn}", "w") as file:
                file.write("x")
            assert os.path.exists(f"d/{turn}")
            os.unlink(f"d/{turn}")
        os.rmdir("d")
    """)
    mount.wait_for("known", before["known"])
    after = mount.tell("counts")
    assert (after["held"], after["orphans"]) == (0, 0)
    assert after["descriptors"] == before["descriptors"]
