"""What tests and measurements of mounts stand on: nothing survives, nothing waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.machine import Machine, MachineError
from tests.mounted.mounts import run_bounded

# Two generations, the second a session of its own whose parent has ended: as a database has.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            with open(sys.argv[1], "a") as file:
                file.write("x")
            time.sleep(0.01)
    os._exit(0)
time.sleep(600)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine("paris", tmp_path / "logs")
    yield machine
    machine.close()


def wait_for(path: Path) -> None:
    ends = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < ends
        time.sleep(0.01)


def grows(path: Path) -> bool:
    before = path.stat().st_size
    time.sleep(0.2)  # the kernel's time: other processes write
    return path.stat().st_size > before


def test_a_machine_dies_with_everything_that_ran_on_it(machine: Machine, tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    parent = machine.start(sys.executable, "-c", DAEMON, str(beats))
    wait_for(beats)
    assert grows(beats)
    machine.kill()
    assert not parent.is_running
    assert parent.wait(1) == -9
    assert not grows(beats)
    with pytest.raises(MachineError, match="dead"):
        machine.start("true")


def test_a_machine_that_begins_anew_says_nothing_of_the_one_before(tmp_path: Path) -> None:
    for text in ("first", "second"):
        again = Machine("paris", tmp_path / "logs")
        assert again.run("echo", text) == f"{text}\n"
        again.close()


def test_a_machine_stands_still(machine: Machine, tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    machine.start(sys.executable, "-c", DAEMON, str(beats))
    wait_for(beats)
    with machine.stopped():
        assert not grows(beats)
    assert grows(beats)


def test_what_a_program_says_and_how_it_ends(machine: Machine) -> None:
    assert machine.run("sh", "-c", "echo $HOME; pwd", env={"HOME": "here"}, cwd=Path("/usr")) == (
        "here\n/usr\n"
    )
    with pytest.raises(MachineError, match="ended with 3 on paris: why"):
        machine.run("sh", "-c", "echo why; exit 3")
    with pytest.raises(MachineError, match="still runs"):
        machine.run("sleep", "600", limit_s=0.2)
    with pytest.raises(MachineError, match="does not start"):
        machine.start("/no/such/program")


def test_its_programs_end_with_the_test_that_started_them(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    script = f"""
import os, sys, time
from pathlib import Path
from tests.mounted.machine import Machine
machine = Machine("paris", Path({str(tmp_path / "logs")!r}))
machine.start(sys.executable, "-c", {DAEMON!r}, {str(beats)!r})
while not os.path.exists({str(beats)!r}):
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}
    subprocess.run([sys.executable, "-c", script], env=env, timeout=60, check=False)
    ends = time.monotonic() + 20
    while grows(beats):
        assert time.monotonic() < ends


def test_a_program_is_given_up_with_its_children(tmp_path: Path) -> None:
    done = run_bounded(["sh", "-c", "echo said; exit 2"], limit_s=20, directory=tmp_path)
    assert (done.code, done.said) == (2, "said\n")
    began = time.monotonic()
    late = run_bounded(["sh", "-c", "sleep 600 & sleep 600"], limit_s=0.2, directory=tmp_path)
    assert late.code is None
    assert time.monotonic() - began < 60
