"""Who may do what on a mount, and which bits and capabilities a change takes away."""

from __future__ import annotations

from tests.volume.fuse.mounts import NOBODY, Mount, assert_same


def test_permissions_are_those_of_the_caller(mount: Mount) -> None:
    mount.run("""
        os.chmod(".", 0o777)
        os.mkdir("private", 0o700)
        open("mine", "w").close()
        os.umask(0o027)
        os.mkdir("masked", 0o777)
        os.mkdir("shared")
        os.chown("shared", 0, 100)
        os.chmod("shared", 0o2777)
    """)
    mount.run(
        """
        os.umask(0o022)
        def refuses(number, call, *args):
            try:
                call(*args)
            except OSError as error:
                assert error.errno == number, (call, args, error)
            else:
                raise AssertionError((call, args))
        refuses(errno.EACCES, os.listdir, "private")
        refuses(errno.EACCES, open, "mine", "w")
        refuses(errno.EPERM, os.chmod, "mine", 0o777)
        refuses(errno.EACCES, os.mkdir, "masked/x")
        fd = os.open("theirs", os.O_CREAT | os.O_WRONLY, 0o666)
        os.mkdir("shared/directory", 0o775)
        os.close(os.open("shared/file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.symlink("x", "shared/symlink")
        assert os.stat("theirs").st_uid == os.getuid()
        assert stat.S_IMODE(os.stat("theirs").st_mode) == 0o644
        """,
        user=NOBODY,
    )
    raw = mount.raw
    assert (raw / "masked").stat().st_mode & 0o7777 == 0o750
    assert (raw / "theirs").stat().st_uid == NOBODY
    assert (raw / "theirs").stat().st_gid == NOBODY
    for name in ("directory", "file", "symlink"):
        assert (raw / "shared" / name).lstat().st_gid == 100, name
    assert (raw / "shared/directory").stat().st_mode & 0o7777 == 0o2755
    assert_same(mount)


def test_a_write_takes_set_user_id_bits_away(mount: Mount) -> None:
    mount.run(f"""
        os.chmod(".", 0o777)
        for name in ("write", "truncate", "otruncate", "root", "locking", "chowned"):
            with open(name, "wb") as file:
                file.write(bytes(8192))
            os.chown(name, {NOBODY}, {NOBODY})
            os.chmod(name, 0o6764 if name == "locking" else 0o6777)
        with open("root", "r+b") as file:
            file.write(b"x")
        assert os.stat("root").st_mode & 0o7777 == 0o6777
        os.chown("chowned", 1, -1)
        assert os.stat("chowned").st_mode & 0o7777 == 0o777
    """)
    mount.run(
        """
        for name in ("write", "truncate", "otruncate", "locking"):
            assert os.stat(name).st_mode & 0o6000, name
        for name in ("write", "locking"):
            with open(name, "r+b", buffering=0) as file:
                file.write(b"x")
                # The kernel, too, knows of it at once.
                assert not os.fstat(file.fileno()).st_mode & stat.S_ISUID, name
        os.truncate("truncate", 1)
        open("otruncate", "wb").close()
        for name in ("write", "truncate", "otruncate"):
            mode = os.stat(name).st_mode & 0o7777
            assert mode == 0o777, (name, oct(mode))
        """,
        user=NOBODY,
    )
    raw = mount.raw
    for name in ("write", "truncate", "otruncate", "chowned"):
        assert (raw / name).stat().st_mode & 0o7777 == 0o777, name
    assert (raw / "root").stat().st_mode & 0o7777 == 0o6777
    assert (raw / "locking").stat().st_mode & 0o7777 == 0o2764
    assert_same(mount)


def test_a_range_takes_set_user_id_bits_away(mount: Mount) -> None:
    """The owner's own files, and those that a group may write."""
    mount.run(f"""
        for name in ("mine", "ours", "copied"):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            os.chown(name, {NOBODY} if name == "mine" else 0, {NOBODY})
            os.chmod(name, 0o4775)
        open("source", "w").write("x")
    """)
    mount.run(
        """
        for name in ("mine", "ours"):
            fd = os.open(name, os.O_WRONLY)
            os.posix_fallocate(fd, 0, 10)
        source, target = os.open("source", os.O_RDONLY), os.open("copied", os.O_WRONLY)
        assert os.copy_file_range(source, target, 1) == 1
        """,
        user=NOBODY,
    )
    for name in ("mine", "ours", "copied"):
        assert (mount.raw / name).stat().st_mode & 0o7777 == 0o775, name


def test_access_control_lists(mount: Mount) -> None:
    mount.run(f"""
        import struct
        def acl(*entries):
            return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
        USER_OBJ, USER, GROUP_OBJ, MASK, OTHER, NO = 1, 2, 4, 16, 32, 0xFFFFFFFF
        os.mkdir("d", 0o700)
        access = acl((USER_OBJ, 7, NO), (USER, 7, {NOBODY}), (GROUP_OBJ, 0, NO), (MASK, 7, NO),
                     (OTHER, 0, NO))
        os.setxattr("d", "system.posix_acl_access", access)
        os.setxattr("d", "system.posix_acl_default", access)
        assert stat.S_IMODE(os.stat("d").st_mode) == 0o770
        assert os.getxattr("d", "system.posix_acl_access") == access
        os.umask(0o777)
        with open("d/f", "w") as file:
            file.write("x")
        os.mkdir("d/inner", 0o770)
        assert os.getxattr("d/inner", "system.posix_acl_default") == access
        assert stat.S_IMODE(os.stat("d/f").st_mode) == 0o660
        os.chmod("d/f", 0o640)
    """)
    mount.run(
        """
        assert open("d/f").read() == "x"
        try:
            open("d/f", "a")
        except PermissionError:
            pass
        else:
            raise AssertionError
        open("d/inner/mine", "w").close()
        """,
        user=NOBODY,
    )
    assert_same(mount)


def test_who_does_not_own_a_file_takes_no_bits_away_but_by_writing(mount: Mount) -> None:
    """chown to -1, -1 says to the kernel's FUSE what a write to come says."""
    modes = {"setuid": 0o4777, "setgid": 0o2777, "plain": 0o666, "written": 0o4777}
    mount.run(f"""
        for name, mode in {modes}.items():
            open(name, "w").close()
            os.chmod(name, mode)
        os.mkdir("directory")
        os.chmod("directory", 0o2777)
    """)
    mount.run(
        """
        for name in ("setuid", "setgid"):
            try:
                os.chown(name, -1, -1)
            except PermissionError as error:
                assert error.errno == errno.EPERM
            else:
                raise AssertionError(name)
        os.chown("plain", -1, -1)
        os.chown("directory", -1, -1)
        with open("written", "r+b", buffering=0) as file:
            file.write(b"x")
            assert os.fstat(file.fileno()).st_mode & 0o7777 == 0o777
        """,
        user=NOBODY,
    )
    assert {name: mount.raw.joinpath(name).stat().st_mode & 0o7777 for name in modes} == {
        **modes,
        "written": 0o777,
    }
    assert_same(mount)


def test_a_change_takes_capabilities_away(mount: Mount) -> None:
    mount.run("""
        import struct
        capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
        for name in ("write", "truncate", "chown", "fallocate"):
            with open(name, "w") as file:
                file.write("x")
            os.setxattr(name, "security.capability", capability)
            assert os.getxattr(name, "security.capability") == capability
        open("write", "a").write("y")
        os.truncate("truncate", 0)
        os.chown("chown", 1, 1)
        os.posix_fallocate(os.open("fallocate", os.O_WRONLY), 0, 10)
        for name in ("write", "truncate", "chown", "fallocate"):
            assert "security.capability" not in os.listxattr(name), name
    """)
    assert_same(mount)
