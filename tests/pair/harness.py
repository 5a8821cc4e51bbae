"""Two real nodes, a client with its own record, and a witness or none, in a network of their own.

    python -m tests.pair.harness --kind cut --rounds 3

makes a network namespace, runs itself again inside it, plays the rounds there and prints one JSON
object a round. All addresses are loopback's: dropping what goes between two of them is a cut. The
namespace, whatever still runs in it, and (unless something failed, or `--root` names it) the
directory are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import trio

from tests.pair import rounds, rounds_blocked, rounds_mounted, rounds_pairwise, rounds_paths
from tests.pair.network import network
from tests.pair.pair import STEP_S, Pair, PairError
from tests.pair.place import TIMEOUT_S, Setup, prepare
from tests.pair.record import Round

__all__ = ["KINDS", "TIMEOUT_S", "PairError", "Round", "play"]

ROUND_S: Final = 90.0  # beyond this a round is stuck, and its processes are killed
CHECKOUT: Final = Path(__file__).parents[2]


@attrs.frozen
class Kind:
    """What happens in a round, and to what pair.

    Attributes:
        mountable: it is one of a mounted volume too. There the application's loop carries nothing.
        swaps: the roles would stay where they are: every other round begins with a swap, so that
            each node is tried in both.
    """

    play: Callable[[Pair, trio.Nursery], Awaitable[Round]]
    setup: Setup = attrs.field(factory=Setup)
    swaps: bool = False
    mountable: bool = True


CONSISTENT: Final = Setup(split_brain="consistent")
AVAILABLE: Final = Setup(split_brain="available")
TWO_NETWORKS: Final = Setup(networks=2)
MOUNTED: Final = Setup(mount=True)
SHORT_FREEZE: Final = Setup(mount=True, freeze_max_s=5.0)
KINDS: Final[dict[str, Kind]] = {
    "kill": Kind(rounds.kill),
    "cut": Kind(rounds.cut),
    "stop": Kind(rounds.stop),
    "swap": Kind(rounds.swap),
    "isolate": Kind(rounds.isolate, swaps=True),
    "isolate_peer": Kind(rounds.isolate_peer, swaps=True),
    "leave": Kind(rounds.leave),
    "block": Kind(rounds_blocked.block, swaps=True),
    "block_second": Kind(rounds_blocked.block_second, swaps=True, mountable=False),
    "one_way": Kind(rounds_paths.one_way),
    "networks": Kind(rounds_paths.networks, TWO_NETWORKS, swaps=True),
    "one_way_path": Kind(rounds_paths.one_way_path, TWO_NETWORKS, swaps=True),
    "only_tcp": Kind(rounds_paths.only_tcp, TWO_NETWORKS),
    "consistent": Kind(rounds_pairwise.consistent, CONSISTENT, swaps=True),
    "goodbye": Kind(rounds_pairwise.goodbye, CONSISTENT),
    "available_one": Kind(rounds_pairwise.available_one, AVAILABLE),
    "kill_worker": Kind(rounds_mounted.kill_worker, MOUNTED),
    "kill_second_worker": Kind(rounds_mounted.kill_second_worker, MOUNTED, swaps=True),
    "kill_all": Kind(rounds_mounted.kill_all, MOUNTED),
    "stop_app": Kind(rounds_mounted.stop_app, SHORT_FREEZE),
    "available_both": Kind(rounds_pairwise.available_both, AVAILABLE, swaps=True),
}


async def run_inside(options: argparse.Namespace) -> None:
    """Play the rounds; print each as a line of JSON."""
    kind = KINDS[options.kind]
    setup = kind.setup
    if options.mount:
        if not kind.mountable:
            raise PairError(f"{options.kind} is no kind for a mounted volume")
        setup = attrs.evolve(setup, mount=True)
    if options.block_s is not None:
        setup = attrs.evolve(setup, block_s=options.block_s)
    place = prepare(options.root, setup)
    pair = Pair(place, workers=options.workers, broken=options.broken)
    async with trio.open_nursery() as nursery:
        try:
            await pair.open(nursery)
            for _ in range(options.rounds):
                await trio.sleep(0.5)  # under load, from a settled state
                at_s = time.monotonic()
                with trio.fail_after(ROUND_S):
                    if kind.swaps and pair.rounds % 2:
                        await rounds.swap(pair, nursery)
                    played = await kind.play(pair, nursery)
                await trio.sleep(0.3)
                pair.count(played)
                pair.rounds += 1
                played.took_s = time.monotonic() - at_s
                played.load = os.getloadavg()[0]
                print(json.dumps(attrs.asdict(played)), flush=True)
        finally:
            await pair.close()
        pair.check_ended()
        nursery.cancel_scope.cancel()


def play(
    kind: str,
    *,
    root: Path,
    rounds: int = 1,
    workers: int = 4,
    at_most_s: float | None = None,
    broken: bool = False,
    block_s: float | None = None,
    mount: bool = False,
) -> Iterator[Round]:
    """Play rounds in a network of their own; yield each as it ends.

    Args:
        broken: the ledger answers before it writes, so that transactions must be lost.
        block_s: for how long an event loop is blocked, if not for as long as in a campaign.
        mount: the volume is mounted, whatever the kind.

    Raises:
        PairError: a round could not be played to its end; `root` has the logs.
    """
    with network() as name, (root / "harness.log").open("w+") as log:
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "tests.pair.harness"]
        command += ["--inside", "--kind", kind, "--root", str(root)]
        command += ["--rounds", str(rounds), "--workers", str(workers)]
        command += ["--broken"] if broken else []
        command += ["--mount"] if mount else []
        command += [] if block_s is None else ["--block-s", str(block_s)]
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as inside:
            limit = threading.Timer(at_most_s or STEP_S + rounds * ROUND_S, inside.kill)
            limit.start()
            try:
                for line in inside.stdout or ():
                    yield Round(**json.loads(line))
                status = inside.wait()
            finally:
                limit.cancel()
                inside.kill()
        if status != 0:
            log.seek(0)
            raise PairError(f"{kind}: {log.read()[-4000:]}\nlogs are in {root}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--broken", action="store_true", help="answer before the write")
    parser.add_argument("--block-s", type=float, help="for how long an event loop is blocked")
    parser.add_argument("--mount", action="store_true", help="on a mounted volume")
    parser.add_argument("--inside", action="store_true", help="do not make a network")
    options = parser.parse_args()
    if options.inside:
        trio.run(run_inside, options)
        return
    root = options.root or Path(tempfile.mkdtemp(prefix="mirrorha-pair-"))
    for played in play(
        options.kind,
        root=root,
        rounds=options.rounds,
        workers=options.workers,
        broken=options.broken,
        block_s=options.block_s,
        mount=options.mount,
    ):
        print(json.dumps(attrs.asdict(played)), flush=True)
    if options.root is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
