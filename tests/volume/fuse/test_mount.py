"""What programs may do with files on a mount, and that the directory behind it follows."""

from __future__ import annotations

from tests.volume.fuse.mounts import Mount, assert_same


def test_files_and_directories(mount: Mount) -> None:
    mount.run("""
        os.makedirs("a/b/c")
        with open("a/b/file", "wb") as file:
            file.write(b"x" * 100_000)
            file.seek(50_000)
            file.write(b"middle")
        assert open("a/b/file", "rb").read()[49_999:50_007] == b"xmiddlex"
        os.truncate("a/b/file", 10)
        os.truncate("a/b/file", 5_000)
        assert open("a/b/file", "rb").read() == b"x" * 10 + bytes(4_990)
        os.link("a/b/file", "linked")
        assert os.stat("linked").st_nlink == 2
        os.symlink("a/b/file", "pointer")
        assert os.readlink("pointer") == "a/b/file"
        assert open("pointer", "rb").read(3) == b"xxx"
        os.rename("a/b", "moved")
        assert sorted(os.listdir("moved")) == ["c", "file"]
        os.rmdir("moved/c")
        os.chmod("linked", 0o640)
        os.chown("linked", 12, 34)
        os.chown("pointer", 56, 78, follow_symlinks=False)
        os.utime("linked", ns=(1_000_000_007, 2_000_000_009))
        os.utime("moved", ns=(1, 1_700_000_000_123_456_789))
        status = os.stat("moved/file")
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (12, 34, 2_000_000_009)
        assert os.stat("moved").st_mtime_ns == 1_700_000_000_123_456_789
        os.setxattr("linked", "user.note", b"value")
        os.setxattr("moved", "user.directory", b"")
        assert os.listxattr("linked") == ["user.note"]
    """)
    assert_same(mount)


def test_what_is_refused_says_why(mount: Mount) -> None:
    mount.run("""
        def refuses(number, call, *args, **kwargs):
            try:
                call(*args, **kwargs)
            except OSError as error:
                assert error.errno == number, (call, args, error)
            else:
                raise AssertionError((call, args))
        os.mkdir("d")
        os.mkdir("d/inner")
        open("f", "w").close()
        os.symlink("loop", "loop")
        refuses(errno.ENOENT, open, "missing")
        refuses(errno.ENOENT, os.stat, "d/missing")
        refuses(errno.ENOENT, os.unlink, "missing")
        refuses(errno.ENOENT, os.rename, "missing", "x")
        refuses(errno.EEXIST, os.mkdir, "d")
        refuses(errno.EEXIST, os.symlink, "x", "f")
        refuses(errno.EEXIST, os.link, "f", "d")
        refuses(errno.EEXIST, os.open, "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        refuses(errno.ENOTDIR, os.stat, "f/x")
        refuses(errno.ENOTDIR, os.rmdir, "f")
        refuses(errno.ENOTDIR, os.rename, "d", "f")
        refuses(errno.EISDIR, os.unlink, "d")
        refuses(errno.EISDIR, os.rename, "f", "d")
        refuses(errno.EISDIR, os.open, "d", os.O_WRONLY)
        refuses(errno.ENOTEMPTY, os.rmdir, "d")
        refuses(errno.EINVAL, os.rename, "d", "d/inner/x")
        refuses(errno.EINVAL, os.readlink, "f")
        refuses(errno.EINVAL, os.truncate, "f", -1)
        refuses(errno.EPERM, os.link, "d", "e")
        refuses(errno.ELOOP, open, "loop")
        refuses(errno.ENAMETOOLONG, open, "n" * 256, "w")
        refuses(errno.ENAMETOOLONG, os.stat, "n" * 256)
        refuses(errno.ENODATA, os.getxattr, "f", "user.missing")
        refuses(errno.ENODATA, os.removexattr, "f", "user.missing")
        refuses(errno.EOPNOTSUPP, os.setxattr, "f", "unknown.space", b"")
        refuses(errno.EEXIST, lambda: [
            os.setxattr("f", "user.a", b"1", os.XATTR_CREATE) for _ in range(2)
        ])
        refuses(errno.ENODATA, os.setxattr, "f", "user.b", b"1", os.XATTR_REPLACE)
        refuses(errno.EPERM, os.mkdir, ".mirrorha-limbo")
        refuses(errno.ENOENT, os.stat, ".mirrorha-limbo")
        refuses(errno.EOPNOTSUPP, os.open, ".", os.O_TMPFILE | os.O_RDWR)
        refuses(errno.EBADF, os.write, os.open("f", os.O_RDONLY), b"x")
        refuses(errno.EFBIG, os.pwrite, os.open("f", os.O_WRONLY), b"x", (1 << 63) - 2)
    """)
    assert_same(mount)


def test_a_file_lives_on_while_it_is_open(mount: Mount) -> None:
    mount.run("""
        fd = os.open("gone", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"first")
        os.unlink("gone")
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"more", 3)
        os.fsync(fd)
        assert os.pread(fd, 100, 0) == b"firmore"
        os.ftruncate(fd, 2)
        os.fchmod(fd, 0o400)
        os.utime(fd, ns=(7, 8))
        os.setxattr(fd, "user.a", b"1")
        status = os.fstat(fd)
        assert (status.st_size, stat.S_IMODE(status.st_mode)) == (2, 0o400)
        assert status.st_mtime_ns == 8
        assert os.getxattr(fd, "user.a") == b"1"
        # The same name, and another file.
        with open("gone", "w") as file:
            file.write("new")
        assert os.pread(fd, 100, 0) == b"fi"

        other = os.open("replaced", os.O_RDWR | os.O_CREAT)
        os.write(other, b"old")
        open("replacing", "w").write("newer")
        os.rename("replacing", "replaced")
        assert os.pread(other, 10, 0) == b"old"
        assert os.fstat(other).st_nlink == 0
        os.write(other, b"er")
        assert os.pread(other, 10, 0) == b"older"
        again = os.open(f"/proc/self/fd/{other}", os.O_RDONLY)
        assert os.read(again, 10) == b"older"
        assert open("replaced").read() == "newer"

        os.mkdir("d")
        d = os.open("d", os.O_RDONLY)
        os.rmdir("d")
        assert os.fstat(d).st_nlink == 0
        assert os.listdir(d) == [] or True
    """)
    state = mount.tell("counts")
    assert (state["held"], state["orphans"]) == (0, 0)
    assert_same(mount)


def test_what_was_removed_and_is_not_open_can_be_looked_at(mount: Mount) -> None:
    mount.run("""
        os.mkdir("d")
        os.chdir("d")
        os.rmdir("../d")
        assert os.stat(".").st_ino
        os.chdir("..")
        open("f", "w").close()
        fd = os.open("f", os.O_PATH)
        os.unlink("f")
        assert os.fstat(fd).st_nlink == 0
    """)


def test_names_of_any_bytes_and_deep_paths(mount: Mount) -> None:
    mount.run("""
        for name in (b"\\xff", "\\U0010ff80".encode(), "caf\\u00e9".encode(), b"\\xe9", b"a\\nb"):
            with open(name, "wb") as file:
                file.write(name)
            assert name in os.listdir(b".")
            os.symlink(name, name + b".link")
            assert os.readlink(name + b".link") == name
        os.mkdir("d" * 255)
    """)
    assert_same(mount)
    mount.run("""
        for _ in range(60):
            os.mkdir("n" * 200)
            os.chdir("n" * 200)
        open("bottom", "w").close()
        assert os.listdir(".") == ["bottom"]
        os.rename("bottom", "renamed")
        os.unlink("renamed")
        for _ in range(60):
            os.chdir("..")
            os.rmdir("n" * 200)
    """)


def test_large_and_sparse_files(mount: Mount) -> None:
    mount.run("""
        gib = 1 << 30
        with open("sparse", "w+b", buffering=0) as file:
            file.seek(5 * gib)
            file.write(b"end")
            assert os.fstat(file.fileno()).st_size == 5 * gib + 3
            assert os.fstat(file.fileno()).st_blocks < 1000
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) > 4 * gib
            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
            file.seek(5 * gib - 2)
            assert file.read() == b"\\0\\0end"
            os.truncate("sparse", 6 * gib)
            try:
                os.lseek(file.fileno(), 5 * gib + 5_000_000, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
        os.truncate("sparse", 4 * gib + 1)
        assert os.stat("sparse").st_size == 4 * gib + 1
    """)
    assert (mount.raw / "sparse").stat().st_size == (4 << 30) + 1
    mount.run("os.unlink('sparse')")


def test_large_writes_arrive_whole(mount: Mount) -> None:
    mount.run("""
        data = os.urandom(1 << 20)
        fd = os.open("large", os.O_CREAT | os.O_WRONLY)
        for _ in range(4):
            assert os.write(fd, data) == len(data)
        os.close(fd)
        assert open("large", "rb").read() == data * 4
    """)
    assert mount.tell("counts")["write_sizes"] == {str(1 << 20): 4}
    assert_same(mount)


def test_a_write_across_the_border_of_a_page_may_be_two(mount: Mount) -> None:
    """The kernel's own doing, where the first page is not cached whole: see `docs/promises.md`."""
    mount.run("open('log', 'wb').write(bytes(8190))")
    mount.tell("invalidate")
    before = mount.tell("counts")["write_sizes"]
    mount.run("os.write(os.open('log', os.O_WRONLY | os.O_APPEND), b'1038 100\\n')")
    after = mount.tell("counts")["write_sizes"]
    assert {size: after[size] - before.get(size, 0) for size in ("2", "7")} == {"2": 1, "7": 1}
    assert_same(mount)


def test_copies_are_made_by_the_server(mount: Mount) -> None:
    mount.run("""
        data = os.urandom(3_000_000)
        open("source", "wb").write(data)
        source, target = os.open("source", os.O_RDONLY), os.open("target", os.O_CREAT | os.O_WRONLY)
        done = 0
        while done < len(data):
            done += os.copy_file_range(source, target, len(data) - done, done, done)
        assert os.copy_file_range(source, target, 10, len(data)) == 0
        assert open("target", "rb").read() == data
    """)
    assert_same(mount)


def test_mappings_and_synchronous_files(mount: Mount) -> None:
    mount.run("""
        with open("mapped", "w+b") as file:
            file.truncate(3 * 4096 + 5)
            with mmap.mmap(file.fileno(), 0) as mapping:
                mapping[0:5] = b"first"
                mapping[8192:8196] = b"last"
                mapping.flush()
                assert os.pread(file.fileno(), 5, 0) == b"first"
                os.pwrite(file.fileno(), b"FIRST", 0)
                assert mapping[0:5] == b"FIRST"
                mapping[4096] = 7
        assert open("mapped", "rb").read()[4096] == 7
    """)
    counts = mount.tell("counts")["counts"]
    # The kernel asks for no more than what msync and O_DSYNC demand.
    assert (counts["flush of data"], counts.get("flush")) == (1, None)
    mount.run("""
        fd = os.open("sync", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
        os.write(fd, b"x")
        dsync = os.open("dsync", os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
        os.write(dsync, b"x")
        os.fdatasync(fd)
        directory = os.open(".", os.O_RDONLY)
        os.fsync(directory)
        os.fdatasync(directory)
    """)
    counts = mount.tell("counts")["counts"]
    assert (counts["flush of data"], counts["flush"]) == (3, 3)
    mount.run("""
        fd = os.open("direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        page = mmap.mmap(-1, 8192)
        page[:4] = b"page"
        assert os.pwrite(fd, page, 4096) == 8192
        assert os.preadv(fd, [page], 0) == 8192
        assert page[:4] == bytes(4) and page[4096:4100] == b"page"
    """)
    assert_same(mount)


def test_special_files(mount: Mount) -> None:
    mount.run("""
        import socket
        os.umask(0o027)
        os.mkfifo("fifo", 0o666)
        os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod("block", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
        os.mknod("plain", 0o644)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            listener.listen()
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect("socket")
        assert stat.S_IMODE(os.stat("fifo").st_mode) == 0o640
        assert os.stat("null").st_rdev == os.makedev(1, 3)
        assert os.stat("block").st_rdev == os.makedev(259, 70_000)
        types = {entry.name: entry.is_file() for entry in os.scandir(".")}
        assert types == {"fifo": False, "null": False, "block": False, "plain": True,
                         "socket": False}
        if os.fork() == 0:
            with open("fifo", "w") as fifo:
                fifo.write("through")
            os._exit(0)
        with open("fifo") as fifo:
            assert fifo.read() == "through"
        os.wait()
        os.chmod("fifo", 0o600)
        os.chown("null", 1, 2)
        os.utime("fifo", ns=(3, 4))
        os.link("fifo", "linked")
        os.rename("socket", "moved")
        os.unlink("moved")
        assert os.listxattr("fifo") == []
    """)
    assert_same(mount)


def test_ranges(mount: Mount) -> None:
    mount.run("""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def fallocate(fd, mode, offset, length):
            if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
                return errno.errorcode[ctypes.get_errno()]
        fd = os.open("f", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"x" * 100_000)
        assert fallocate(fd, 0, 90_000, 20_000) is None
        assert os.fstat(fd).st_size == 110_000
        assert fallocate(fd, 1, 0, 200_000) is None
        assert os.fstat(fd).st_size == 110_000
        assert fallocate(fd, 3, 4096, 8192) is None
        assert os.pread(fd, 100_000, 0) == b"x" * 4096 + bytes(8192) + b"x" * (100_000 - 12288)
        assert fallocate(fd, 16, 100_000 - 5, 50_000) is None
        assert os.fstat(fd).st_size == 149_995
        assert os.pread(fd, 10, 100_000 - 10) == b"x" * 5 + bytes(5)
        assert fallocate(fd, 8, 0, 4096) == errno.errorcode[errno.EOPNOTSUPP]
        assert fallocate(fd, 0, 0, 0) == "EINVAL"
        os.posix_fallocate(fd, 0, 150_001)
        os.unlink("f")
        assert fallocate(fd, 0, 0, 160_000) is None
        assert os.fstat(fd).st_size == 160_000
    """)
    assert_same(mount)


def test_renames_with_flags(mount: Mount) -> None:
    mount.run("""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def rename(old, new, flags):
            if libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
                return errno.errorcode[ctypes.get_errno()]
        open("a", "w").write("a")
        os.mkdir("d")
        open("d/b", "w").write("b")
        assert rename("a", "d/b", 1) == "EEXIST"
        assert rename("a", "c", 1) is None
        assert rename("c", "d/b", 2) is None
        assert (open("c").read(), open("d/b").read()) == ("b", "a")
        assert rename("c", "d", 2) is None
        assert open("d").read() == "b" and os.listdir("c") == ["b"]
        assert rename("c", "missing", 2) == "ENOENT"
        assert rename("d", "e", 4) == "EINVAL"
    """)
    assert_same(mount)


def test_times_of_access_are_kept_when_they_are_set(mount: Mount) -> None:
    mount.run("""
        with open("f", "w") as file:
            file.write("x")
        os.utime("f", ns=(1_000_000_001, 2_000_000_002))
        status = os.stat("f")
        assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
        open("f").read()
        os.utime("f", ns=(-5_000_000_001, 20_000_000_000 * 1_000_000_000))
        assert os.stat("f").st_atime_ns == -5_000_000_001
        assert os.stat("f").st_mtime_ns == (1 << 63) - 1  # in 2262
        before = time.time()
        os.utime("f")
        assert before - 1 < os.stat("f").st_mtime < time.time() + 1
    """)
    assert (mount.raw / "f").stat().st_atime_ns > 0
