"""All that travels to a target that holds a copy of which it knows nothing but the names."""

from __future__ import annotations

from mirrorha.volume.ops import ROOT_FID, Rename, Truncate, Unlink, Write
from mirrorha.volume.resync.messages import DIGEST_BYTES
from mirrorha.wire.limits import BLOCK_BYTES
from tests.volume.resync_pair import Pair
from tests.volume.resync_scenarios import BLOCK, Quiet

BLOCKS = 640
#: Names, attributes and what belongs to messages, for each file and each 4 MiB.
OVERHEAD_BYTES = 600


def seeded(quiet: Quiet) -> tuple[Pair, list[int]]:  # type: ignore[type-arg]
    """A directory of ten files, and a target that has them under ids of its own."""
    directory = quiet.directory(ROOT_FID, "directory")
    fids = [quiet.file(directory, str(number), BLOCK * (BLOCKS // 10)) for number in range(10)]
    pair = quiet.split()
    pair.target.disk.lose_ids()
    pair.target.disk.open_again()
    pair.target.log.clear()
    return pair, [directory, *fids]


def limit_bytes(changed_blocks: int) -> int:
    """The changed blocks, the hashes of all, and a little for each file."""
    return changed_blocks * BLOCK_BYTES + BLOCKS * (DIGEST_BYTES + 4) + 14 * OVERHEAD_BYTES


def test_of_an_equal_copy_only_hashes_and_names_travel() -> None:
    quiet = Quiet(everything=True)
    pair, _ = seeded(quiet)
    quiet.resync()
    assert pair.content_bytes == 0
    assert pair.sent_bytes < limit_bytes(0)


def test_of_a_former_state_what_changed_travels_besides() -> None:
    quiet = Quiet(everything=True)
    pair, (directory, *fids) = seeded(quiet)
    for number in range(5):
        quiet.apply(Write(fids[0], number * 9 * BLOCK_BYTES + 5, b"new", 9))
    quiet.apply(Write(fids[1], BLOCKS // 10 * BLOCK_BYTES, BLOCK, 9))  # longer
    quiet.apply(Truncate(fids[2], 3 * BLOCK_BYTES, 9))
    quiet.apply(Unlink(fids[3], directory, "3", 9))
    replaced = quiet.file(directory, "4.new", BLOCK * (BLOCKS // 10 - 1) + BLOCK[::-1])
    quiet.apply(Rename(replaced, directory, "4.new", directory, "4", fids[4], 9))
    quiet.resync()
    assert pair.content_bytes == 7 * BLOCK_BYTES
    assert pair.sent_bytes < limit_bytes(7)
