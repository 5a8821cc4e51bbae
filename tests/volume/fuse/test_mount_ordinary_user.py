"""A mount that a process without any rights serves: everything is that user's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.volume.fuse.mounts import NOBODY, Mount, assert_same, checked_mount

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def mount() -> Iterator[Mount]:
    with checked_mount(user=NOBODY) as mount:
        yield mount


def test_what_its_own_user_does(mount: Mount) -> None:
    mount.run(
        """
        os.umask(0o022)
        os.makedirs("a/b")
        # As git makes its objects: nobody may write to it, but who made it does.
        fd = os.open("a/object", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
        os.write(fd, b"content")
        os.fsync(fd)
        os.close(fd)
        secret = os.open("a/secret", os.O_CREAT | os.O_WRONLY, 0)
        os.write(secret, b"nobody reads this")
        os.close(secret)
        try:
            open("a/secret")
        except PermissionError:
            pass
        os.chmod("a/secret", 0o600)
        assert open("a/secret").read() == "nobody reads this"
        assert open("a/object").read() == "content"
        os.chown("a/object", os.getuid(), os.getgid())
        os.symlink("object", "a/symlink")
        os.rename("a/object", "a/b/object")
        os.link("a/b/object", "linked")
        os.mkfifo("fifo")
        os.utime("linked", ns=(5, 6))
        os.setxattr("a", "user.a", b"1")
        gone = os.open("gone", os.O_CREAT | os.O_RDWR)
        os.unlink("gone")
        os.write(gone, b"x")
        os.fchmod(gone, 0o600)
        assert os.fstat(gone).st_size == 1
        status = os.stat("linked")
        assert (status.st_uid, status.st_mtime_ns, status.st_nlink) == (os.getuid(), 6, 2)
        """,
        user=NOBODY,
    )
    assert_same(mount)


def test_set_user_id_bits_stay_until_a_write_takes_them(mount: Mount) -> None:
    mount.run(
        """
        for name in ("read", "written"):
            with open(name, "w") as file:
                file.write("x")
            os.chmod(name, 0o4755)
        open("read").read()
        with open("written", "a") as file:
            file.write("y")
        """,
        user=NOBODY,
    )
    assert (mount.raw / "read").stat().st_mode & 0o7777 == 0o4755
    assert (mount.raw / "written").stat().st_mode & 0o7777 == 0o755


def test_root_is_a_guest(mount: Mount) -> None:
    mount.run("os.mkdir('d', 0o755)\nopen('d/of-root', 'w').write('x')")
    status = os.stat(mount.raw / "d/of-root")
    assert (status.st_uid, status.st_size) == (NOBODY, 1)
