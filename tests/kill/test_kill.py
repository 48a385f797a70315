"""Kill a writing process with SIGKILL at random moments; everything that it acknowledged must be found again.

SIGKILL leaves the page cache, so it tests what every `fsync` mode promises for the death of a process. What a loss of
power may take is for a simulated disk to test, not for this.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import kharon
from kharon.model.events import TicketDone

WRITER = Path(__file__).with_name("writer.py")
ROUNDS = 10 * int(os.environ.get("KHARON_KILL_SCALE", "1"))


def run_and_kill(where: Path, fsync: str, round_: int, lines: int) -> list[tuple[str, str]]:
    """Start the writer, kill it when it has said so many lines, and return all that it said."""
    command = [sys.executable, str(WRITER), str(where), fsync, str(round_)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        said = []
        try:
            said = [writer.stdout.readline() for _ in range(lines)]
        finally:
            writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()  # what it had said before the signal reached it
    assert writer.returncode == -signal.SIGKILL, "the writer ended by itself"
    # The last line may have been cut by the kill; it was acknowledged all the same, but its id is not whole.
    whole = [line.decode().split() for line in said if line.endswith(b"\n")]
    return [(verb, id) for verb, id in whole if verb != "opening"]


@pytest.mark.parametrize("fsync", ["always", "0.05", "never"])
def test_what_was_acknowledged_before_sigkill_is_found_again(tmp_path: Path, fsync: str) -> None:
    where = tmp_path / "queue"
    moments = random.Random(fsync)
    acknowledged: dict[str, str] = {}
    for round_ in range(ROUNDS):
        # From "while it opens", through "while it recovers from the last kill", to "in full swing".
        lines = moments.choice([1, 1 + moments.randrange(20), moments.randrange(1, 3000)])
        for verb, id in run_and_kill(where, fsync, round_, lines):
            if verb != "added" or id not in acknowledged:  # a settle may be said before the adding is
                acknowledged[id] = verb
        if not (where / "log").is_dir() or not list((where / "log").glob("*.jsonl")):
            assert not acknowledged
            continue
        projection = kharon.replay(where)
        removed = {
            record.event.id
            for record in kharon.read(where)
            if isinstance(record.event, TicketDone) and not record.event.keep
        }
        for id, verb in acknowledged.items():
            ticket = projection.tickets.get(id)
            if verb == "acked" or ticket is None:
                assert id in removed, f"{id} was {verb}, and is lost"
            elif verb != "added":
                assert ticket.status == verb, f"{id} was {verb}, and is {ticket.status}"
    assert len(acknowledged) > 1000, "the writers were killed before they had done anything"


async def test_a_killed_queue_opens_and_goes_on(tmp_path: Path) -> None:
    where = tmp_path / "queue"
    said = run_and_kill(where, "always", 0, 1500)
    router = kharon.Router()

    @router.handler("work")
    async def work(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
        await kh.done(ticket)

    async with kharon.open(where, kharon.Settings(workers=16)) as kh:
        left = await kh.list(status="pending", limit=None)
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            for ticket in left:
                assert (await kh.wait(ticket.id)).status == "done"
            await kh.drain()
        assert await kh.list(status="pending") == []
    report = kharon.verify(where)
    assert report.closed
    assert said
