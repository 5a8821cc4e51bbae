"""How an application tests that what it acknowledged survives. Run it with `pytest`.

Two nodes, in simulated time: the test takes a fraction of a second, and the same seed is the same
run. It needs pytest-trio.
"""

import pytest
import trio

from mirrorha.core.words import Role


class Ledger:
    """An application: it appends lines to a journal, and acknowledges when they are written."""

    async def serve(self, why, data, *, task_status):
        async with data.open("journal", "ab") as self.journal:
            task_status.started()
            await trio.sleep_forever()

    async def add(self, line):
        await self.journal.write(line + b"\n")  # returns once both nodes have it
        return "ok"


@pytest.mark.trio
async def test_what_was_acknowledged_survives(mirrorha_pair, autojump_clock):
    ledger = Ledger()
    async with mirrorha_pair(serve=ledger.serve) as pair:
        await pair.wait_mirrored()
        assert await ledger.add(b"100 to Ann") == "ok"
        survivor = pair.second
        pair.kill(pair.primary)
        await pair.wait_role(survivor, Role.ALONE)
        assert pair.files(survivor)["journal"] == b"100 to Ann\n"
