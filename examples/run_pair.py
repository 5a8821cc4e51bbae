"""Two nodes and a witness on this machine, each a process of its own. Ctrl-C stops all of them.

`python run_pair.py` runs ledger.py; `python run_pair.py custom_check.py` another program that takes
`--config FILE --node NAME`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import one_machine

STOP_S = 15.0


def main() -> int:
    program = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_name("ledger.py"))
    # SIGTERM as Ctrl-C: whoever ends this one must not leave the others behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mirrorha-pair-") as name:
        root = Path(name)
        witness = f"{one_machine.WITNESS}:{one_machine.free_port(one_machine.WITNESS)}"
        one_machine.make(root, shown_as=root, arbiter=f'kind = "witness"\naddress = "{witness}"')
        commands = [witness_command(root, witness)]
        for node in one_machine.NODES:
            arguments = [program, "--config", str(root / "cluster.toml"), "--node", node]
            commands.append([sys.executable, *arguments])
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for command in commands:
                # In a session of its own: Ctrl-C reaches this program alone, which stops them.
                processes.append(subprocess.Popen(command, start_new_session=True))
            print(f"mirrorha status -c {root}/cluster.toml --node paris", flush=True)
            print(f"kill -9 {processes[1].pid} kills paris, {processes[2].pid} lyon", flush=True)
            wait_until_two_have_ended(processes)
        except KeyboardInterrupt:
            print("stopping", flush=True)
        finally:
            stop(processes)
    return 0


def witness_command(root: Path, address: str) -> list[str]:
    keys = root / "keys" / "trial-witness.keys"
    arguments = ["--state-dir", str(root / "witness"), "--listen", address, "--keys", str(keys)]
    return [sys.executable, "-m", "mirrorha.cli", "witness", *arguments]


def wait_until_two_have_ended(processes: list[subprocess.Popen[bytes]]) -> None:
    """One of three may be killed, that is what it is for."""
    while sum(process.poll() is None for process in processes) > 1:
        time.sleep(0.2)


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """The nodes first: the one that takes over from the other needs the witness."""
    for process in reversed(processes):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
