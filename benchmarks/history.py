"""The cost of a long history: read single tickets' lives from a log of a million tickets and ten million records.

    python benchmarks/history.py [--tickets N] [--where DIRECTORY] [--keep] [--reuse]

The log layer itself makes the log: ten records a ticket, a thousand pending tickets at any time, one in fifty kept at
the end, and one ticket, "hot", updated throughout. Measured are the first read, which makes the index; later reads; the
longest stretch for which a live queue's event loop would be blocked; and the memory of a replay, in a separate process.
A million tickets need about 4 GB of disk, removed at the end unless --keep is given.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from msgspec import Raw

import kharon
from kharon.log.directory import DirectoryLog
from kharon.log.files import OS_FILES
from kharon.log.live import IndexedReader
from kharon.log.segment import SegmentFile
from kharon.model import events as e
from kharon.testing import EPOCH

AT_WORK = 1000
HOT_EVERY = 10_000


def life(number: int) -> Iterator[tuple[e.Event, str]]:
    """Yield the ten records of a ticket, each with its actor."""
    id, worker = f"ticket-{number:07}", f"worker-{number % 4}"
    payload = Raw(
        b'{"to":"user-%07d@example.org","subject":"Your order has been shipped","order":%d}' % (number, number)
    )
    lease = EPOCH + timedelta(days=1)
    yield e.TicketAdded(id, "email", payload, "default", 512, EPOCH), "app"
    for attempt in (1, 2):
        yield e.TicketClaimed(id, attempt, lease, worker), worker
        yield e.TicketRetried(id, EPOCH, "the server was busy: 451 try again later"), worker
    yield e.TicketClaimed(id, 3, lease, worker), worker
    yield e.TicketLapsed(id, EPOCH, "the lease ended"), "clock"
    yield e.TicketClaimed(id, 4, lease, worker), worker
    yield e.LeaseExtended(id, lease), worker
    yield e.TicketDone(id, keep=number % 50 == 0), worker


def records(tickets: int) -> Iterator[tuple[e.Event, str]]:
    """Yield the records of all tickets, interleaved."""
    chance = random.Random(1)
    numbers = iter(range(tickets))
    at_work = [life(number) for number in itertools.islice(numbers, AT_WORK)]
    yield e.TicketAdded("hot", "email", Raw(b"null"), "default", 512, EPOCH), "app"
    count = 0
    while at_work:
        index = chance.randrange(len(at_work))
        item = next(at_work[index], None)
        if item is None:
            number = next(numbers, None)
            if number is None:
                at_work[index] = at_work[-1]
                at_work.pop()
            else:
                at_work[index] = life(number)
            continue
        yield item
        count += 1
        if count % HOT_EVERY == 0:
            yield e.TicketUpdated("hot", e.Changes(nice=count // HOT_EVERY)), "ann"


def generate(where: Path, tickets: int) -> None:
    log = DirectoryLog(where)
    list(log.open(EPOCH))
    for number, (event, by) in enumerate(records(tickets)):
        log.append((event,), EPOCH + timedelta(milliseconds=number), by)
        if number % 1000 == 0:
            log.write()
    log.close(EPOCH)


def report(what: str, figure: str, more: str = "") -> None:
    print(f"{what:<66}{figure:>12}  {more}", flush=True)


class Timed:
    """Call a function; return its result, and the seconds of the wall clock and of the processor."""

    def __init__(self, call, *args) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.result = call(*args)
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu

    def report(self, what: str) -> None:
        report(what, f"{1000 * self.wall:,.0f} ms", f"{1000 * self.cpu:,.0f} ms of the processor's")


def looks(where: Path, tickets: int) -> None:
    chance = random.Random(2)
    shutil.rmtree(where / "index", ignore_errors=True)
    Timed(kharon.history, where, "ticket-0000007").report("history, the first look: the index is made")
    size = sum(path.stat().st_size for path in (where / "index").iterdir())
    report("size of the index", f"{size / 1e6:.1f} MB")
    later_looks(where, tickets, chance)


def later_looks(where: Path, tickets: int, chance: random.Random) -> None:
    times = [Timed(kharon.history, where, f"ticket-{chance.randrange(tickets):07}") for _ in range(30)]
    assert {len(one.result) for one in times} == {10}
    times.sort(key=lambda one: one.wall)
    times[15].report("history of a ticket, median of 30")
    times[-1].report("history of a ticket, the slowest of them")
    hot = Timed(kharon.history, where, "hot")
    hot.report(f"history of a ticket with {len(hot.result):,} records")
    Timed(kharon.history, where, "nobody").report("history of no ticket")
    Timed(kharon.timeline, hot.result).report(f"timeline of {len(hot.result):,} records")


def slices(where: Path) -> None:
    """Read in slices, as the event loop of a live queue does."""
    places = [SegmentFile(int(path.stem), path) for path in sorted((where / "log").iterdir())]
    reader = IndexedReader(OS_FILES, where, places, 0, "ticket-0000007")
    until = kharon.anchor(where).seq
    times = []
    while reader.seq < until:
        times.append(Timed(reader.read, 256, until))
    reader.close()
    assert sum(len(one.result) for one in times) == 10
    report(
        f"the same in an open queue, {len(times)} slices",
        f"{1000 * sum(one.wall for one in times):,.0f} ms",
        f"longest {1000 * max(one.wall for one in times):.1f} ms, {1000 * max(one.cpu for one in times):.1f} ms of the "
        f"processor's",
    )


REPLAY = """
import gc, resource, sys, time
import kharon
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
begun, before = time.perf_counter(), resident()
projection = kharon.replay(sys.argv[1])
seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
gc.collect()
print(projection.seq, len(projection.tickets), f"{seconds:.1f}", f"{before:.0f}", f"{resident():.0f}", f"{peak:.0f}")
"""


def replaying(where: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", REPLAY, str(where)], capture_output=True, text=True, check=True)
    seq, living, seconds, before, after, peak = ran.stdout.split()
    report(f"replay of {int(seq):,} records to {int(living):,} tickets", f"{seconds} s")
    report("memory: before, with the living tickets, most", f"{peak} MB", f"{before} MB, {after} MB, {peak} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tickets", type=int, default=1_000_000)
    parser.add_argument("--where", type=Path, default=None)
    parser.add_argument("--keep", action="store_true", help="do not remove the log")
    parser.add_argument("--reuse", action="store_true", help="use the log of an earlier run with --keep")
    parser.add_argument("--no-replay", action="store_true", help="skip the replay, which takes longest")
    options = parser.parse_args()
    folder = options.where or Path(tempfile.mkdtemp())
    where = folder / "history"
    try:
        if not options.reuse:
            made = Timed(generate, where, options.tickets)
            size = sum(path.stat().st_size for path in (where / "log").iterdir())
            count = len(list((where / "log").iterdir()))
            report(
                f"a log of {10 * options.tickets:,} records in {count} segments",
                f"{size / 1e9:.2f} GB",
                f"{made.wall:.0f} s",
            )
        looks(where, options.tickets)
        slices(where)
        if not options.no_replay:
            replaying(where)
    finally:
        if not options.keep:
            shutil.rmtree(folder if options.where is None else where)


if __name__ == "__main__":
    main()
