"""Kill a writing process with SIGKILL at random moments; everything that it acknowledged must be found again.

SIGKILL leaves the page cache, so it tests what every `fsync` mode promises for the death of a process. What a loss of
power may take is for a simulated disk to test, not for this. Deaths at chosen places are in `test_failpoints.py`.
`KHARON_KILL_SCALE` multiplies the lives of each queue.
"""

import os
import random

import pytest
import trio
from killing import Killer, check_found, check_reopened, nobody_is_left

import kharon

LIVES = 13 * int(os.environ.get("KHARON_KILL_SCALE", "1"))


@pytest.mark.parametrize("fsync", ["always", "0.05", "never"])
@pytest.mark.parametrize("segment_bytes", [16 << 10, 256 << 10])
def test_what_was_acknowledged_before_sigkill_is_found_again(tmp_path, fsync, segment_bytes, record_property):
    """One queue, whose processes die one after the other, with snapshots taken meanwhile."""
    moments = random.Random(f"{fsync} {segment_bytes}")
    options = {"fsync": fsync, "segment_bytes": segment_bytes, "snapshot_bytes": 300_000}
    with Killer(tmp_path / "queue", record_property) as killer:
        for life in range(LIVES):
            # From "while it opens", through "while it recovers from the last kill", to "in full swing".
            lines = (1, 1 + moments.randrange(20), moments.randrange(1, 1500))[life % 3]
            killer.kill(lines, prefix=str(life), **options)
            nobody_is_left(killer.where)
            check_found(killer.where, killer.facts)
        check_reopened(killer.where, tmp_path / "copy", killer.facts)
        assert len(killer.facts) > 1000, "the writers were killed before they had done anything"
        killer.report()


async def test_a_killed_queue_opens_and_goes_on(tmp_path, record_property):
    with Killer(tmp_path / "queue", record_property) as killer:
        killer.kill(1500, prefix="0")
        killer.report()
    router = kharon.Router()

    @router.handler("work")
    async def work(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
        await kh.done(ticket)

    async with kharon.open(killer.where, kharon.Settings(workers=16)) as kh:
        left = await kh.list(status="pending", limit=None)
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            for ticket in left:
                assert (await kh.wait(ticket.id)).status == "done"
            await kh.drain()
        assert await kh.list(status="pending") == []
    report = kharon.verify(killer.where)
    assert report.closed
    assert len(killer.facts) > 100
