"""Several processes at work on one mount, and that the directory behind it follows."""

from __future__ import annotations

from tests.volume.fuse.mounts import Mount, assert_same, finish


def test_appends_of_several_processes_are_whole_lines(mount: Mount) -> None:
    writer = """
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in range(300):
            line = f"{os.getpid()} {number} ".ljust(20 + number % 50, "x") + "\\n"
            assert os.write(fd, line.encode()) == len(line)
    """
    writers = [mount.start(writer) for _ in range(4)]
    for process in writers:
        finish(process, timeout_s=60)
    lines = (mount.raw / "log").read_text().splitlines()
    expected = {(process.pid, number) for process in writers for number in range(300)}
    found = [tuple(map(int, line.split()[:2])) for line in lines]
    assert len(found) == len(expected)
    assert set(found) == expected


def test_locks_are_the_kernels(mount: Mount) -> None:
    holder = mount.start("""
        file = open("locked", "w")
        fcntl.lockf(file, fcntl.LOCK_EX)
        other = open("flocked", "w")
        fcntl.flock(other, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.readline()
    """)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    mount.run("""
        for name, lock in (("locked", fcntl.lockf), ("flocked", fcntl.flock)):
            try:
                lock(open(name, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            raise AssertionError(name)
    """)
    holder.communicate("\n", timeout=20)


def test_listing_while_names_change(mount: Mount) -> None:
    mount.run("""
        os.mkdir("many")
        for number in range(5_000):
            open(f"many/stays-{number}", "w").close()
    """)
    changer = mount.start("""
        print("go", flush=True)
        for number in range(1_500):
            open(f"many/comes-{number}", "w").close()
            if number % 3 == 0:
                os.unlink(f"many/comes-{number}")
            if number % 3 == 1:
                os.rename(f"many/comes-{number}", f"many/moved-{number}")
    """)
    assert changer.stdout is not None
    assert changer.stdout.readline() == "go\n"
    mount.run("""
        stays = {f"stays-{number}" for number in range(5_000)}
        for turn in range(6):
            with_status = turn % 2
            names = []
            for entry in os.scandir("many"):
                names.append(entry.name)
                if with_status:
                    try:
                        entry.stat()
                    except FileNotFoundError:
                        pass
            assert len(set(names)) == len(names)
            assert stays <= set(names)
            assert "." not in names
    """)
    finish(changer, timeout_s=60)
    mount.run("""
        assert len(os.listdir("many")) == 5_000 + 1_000
        directory = os.open("many", os.O_RDONLY)
        for name in os.listdir("many"):
            os.unlink(f"many/{name}")
        assert os.listdir("many") == []
    """)
    assert_same(mount)


def test_many_processes_in_one_directory(mount: Mount) -> None:
    mount.run("os.makedirs('a/b')")
    actor = """
        import random
        rng = random.Random(os.getpid())
        places = ["a", "a/b", "."]
        def name():
            return f"{rng.choice(places)}/{rng.randrange(12)}"
        def write():
            with open(name(), "ab") as file:
                file.write(rng.randbytes(rng.randrange(9000)))
        def cut():
            os.truncate(name(), rng.randrange(9000))
        def hold():
            with open(name(), "r+b", buffering=0) as file:
                write(), remove()
                file.write(b"held")
                file.read()
        def remove():
            os.unlink(name())
        acts = [write, write, cut, hold, remove, lambda: os.rename(name(), name()),
                lambda: os.link(name(), name()), lambda: os.symlink("x", name()),
                lambda: os.chmod(name(), rng.randrange(0o1000)), lambda: os.listdir("a"),
                lambda: os.mkdir(name()), lambda: os.rmdir(name())]
        for _ in range(400):
            try:
                rng.choice(acts)()
            except OSError as error:
                assert error.errno in {errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR,
                                       errno.ENOTEMPTY, errno.EPERM, errno.EINVAL}, error
    """
    for process in [mount.start(actor) for _ in range(6)]:
        finish(process, timeout_s=60)
    state = mount.tell("counts")
    assert (state["held"], state["orphans"]) == (0, 0)
    assert_same(mount)
