"""The figures that Kharon publishes about itself, each beside a floor measured in the same run.

    python benchmarks/run.py [--small] [--where DIRECTORY]

Seconds differ between machines and from minute to minute; ratios to the floors, and counted work, hardly do. The floors
are the least work possible on the machine: to write and sync the bytes of a record, and one pass through Trio's
scheduler.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path

import trio

import kharon
from kharon.log.directory import DirectoryLog
from kharon.model.events import TicketAdded, TicketClaimed, TicketDone
from kharon.model.projection import Projection
from kharon.testing import EPOCH, FailingLog

RECORD = b"x" * 330  # about the size of TicketAdded


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds:>12,.0f}/s"


def report(what: str, figure: str, floor: str = "") -> None:
    print(f"{what:<58}{figure:>14}  {floor}", flush=True)


async def floors(where: Path, count: int) -> tuple[float, float]:
    """Return syncs and scheduler passes a second."""
    fd = os.open(where / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begun = time.perf_counter()
    for _ in range(count):
        os.write(fd, RECORD)
        os.fdatasync(fd)
    syncs = count / (time.perf_counter() - begun)
    os.close(fd)
    begun = time.perf_counter()
    for _ in range(count * 10):
        await trio.lowlevel.cancel_shielded_checkpoint()
    passes = count * 10 / (time.perf_counter() - begun)
    report("floor: write and fdatasync of one record", f"{syncs:>12,.0f}/s")
    report("floor: a pass through Trio's scheduler", f"{passes:>12,.0f}/s")
    return syncs, passes


async def adds(where: str, fsync: kharon.settings.Fsync, tasks: int, count: int, floor: float) -> None:
    log = FailingLog(DirectoryLog(where))  # here for its counts
    async with kharon.open(log, kharon.Settings(fsync=fsync)) as kh:

        async def add(task: int) -> None:
            for number in range(count // tasks):
                await kh.add(kharon.Ticket(f"{task}-{number}", "email", payload={"to": "ann@example.org"}))

        before = log.calls["sync"]
        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(add, task)
        seconds = time.perf_counter() - begun
        syncs = (log.calls["sync"] - before) * 1000 / count
    report(
        f"add, {tasks} task(s), fsync={fsync!r}",
        rate(count, seconds),
        f"{count / seconds / floor:.2f} of the sync floor, {syncs:.0f} syncs per 1000 adds",
    )


async def adds_at_once(where: str, fsync: kharon.settings.Fsync, count: int) -> None:
    """`add_many` per ticket, against single calls of `add`, in the same queue."""
    name = "in memory" if where == ":memory:" else f"fsync={fsync!r}"
    async with kharon.open(where, kharon.Settings(fsync=fsync)) as kh:

        def tickets(first: int) -> list[kharon.Ticket]:
            payload = {"to": "ann@example.org"}
            return [kharon.Ticket(f"task-{number}", "email", payload=payload) for number in range(first, first + count)]

        one_by_one, at_once = 0.0, 0.0
        for part in range(4):  # alternately, since a machine's speed varies
            begun = time.perf_counter()
            for ticket in tickets(2 * part * count):
                await kh.add(ticket)
            one_by_one += time.perf_counter() - begun
            begun = time.perf_counter()
            await kh.add_many(tickets((2 * part + 1) * count))
            at_once += time.perf_counter() - begun
    report(
        f"add_many of {count:,}, {name}", rate(4 * count, at_once), f"{one_by_one / at_once:.1f} times as fast as add"
    )


async def unblocking(count: int) -> None:
    """The cost to end a ticket that blocks none, a member of a large group, and a ticket that blocks one."""
    seconds = {}
    for kind in ("plain", "member", "waited for"):
        async with kharon.open(":memory:") as kh:
            group = "g" if kind == "member" else None
            await kh.add_many([kharon.Ticket(f"task-{number}", "email", group=group) for number in range(count)])
            if kind == "member":
                await kh.add(kharon.Ticket("end", "email"), after_group="g")
            if kind == "waited for":
                async with kh.atomic() as tx:
                    for number in range(count):
                        tx.add(kharon.Ticket(f"next-{number}", "email"), after=[f"task-{number}"])
            begun = time.perf_counter()
            for number in range(count):
                await kh.ack(f"task-{number}")
            seconds[kind] = (time.perf_counter() - begun) / count
    report("ack of a ticket, in memory", f"{seconds['plain'] * 1e6:.0f} µs")
    for kind, what in (
        ("member", f"ack of a member of {count:,} with a finalizer"),
        ("waited for", "ack that unblocks"),
    ):
        report(what, f"{seconds[kind] * 1e6:.0f} µs", f"{seconds[kind] / seconds['plain']:.2f} of an ack")


async def lifecycles(where: str, workers: int, count: int, floor: float) -> None:
    router = kharon.Router()
    left = count
    ended = trio.Event()

    @router.handler("noop")
    async def noop(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            ended.set()

    settings = kharon.Settings(workers=workers, batch_size=workers)
    async with kharon.open(where, settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)

        async def add(task: int) -> None:
            for number in range(count // 100):
                await kh.add(kharon.Ticket(f"{task}-{number}", "noop"))

        begun = time.perf_counter()
        async with trio.open_nursery() as adders:
            for task in range(100):
                adders.start_soon(add, task)
        await ended.wait()
        await kh.drain()
        seconds = time.perf_counter() - begun
    name = "in memory" if where == ":memory:" else "fsync='always'"
    report(
        f"add, claim, run, ack; {workers} workers, {name}",
        rate(count, seconds),
        f"{floor * seconds / count:.0f} scheduler passes each",
    )


def memory_of_pending(count: int) -> None:
    tracemalloc.start()
    projection = Projection()
    projection.promote(EPOCH)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1, count + 1):
        ticket = kharon.Ticket(f"task-{number}", "email", payload={"to": "ann@example.org"})
        raw = kharon.model.events.Raw(ticket.payload_json)
        projection.apply(TicketAdded(ticket.id, ticket.type, raw, "default", 512, EPOCH), number, EPOCH)
        del ticket, raw
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    report(f"memory of a pending ticket, {count:,} of them", f"{(after - before) / count:,.0f} bytes")


def reopening(where: str, records: int) -> None:
    log = DirectoryLog(where)
    list(log.open(EPOCH))
    raw = kharon.model.events.Raw(b'{"to":"ann@example.org"}')
    for number in range(records // 3):
        log.append([TicketAdded(f"task-{number}", "email", raw, "default", 512, EPOCH)], EPOCH, "app")
        log.append([TicketClaimed(f"task-{number}", 1, EPOCH, "worker-1")], EPOCH, "worker-1")
        log.append([TicketDone(f"task-{number}")], EPOCH, "worker-1")
        if number % 100 == 0:
            log.write()
    log.close(EPOCH)
    size = sum(path.stat().st_size for path in Path(where).rglob("*.jsonl"))
    begun = time.perf_counter()
    for path in Path(where).rglob("*.jsonl"):
        with path.open("rb") as file:
            for _ in file:
                pass
    floor = time.perf_counter() - begun
    begun = time.perf_counter()
    log = DirectoryLog(where)
    Projection().fold(log.open(EPOCH))
    seconds = time.perf_counter() - begun
    log.close(EPOCH)
    report(
        f"reopen with {records:,} records ({size / 1e6:.0f} MB), verified",
        f"{seconds:.2f} s",
        f"{seconds / floor:.0f} times reading its lines",
    )


class CountingNice(int):
    """A nice value that counts its comparisons: one for each two keys of an index that are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingNice.compared += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__


def comparisons(count: int) -> None:
    projection = Projection()
    projection.promote(EPOCH)
    raw = kharon.model.events.Raw(b"null")
    for number in range(1, count + 1):
        nice = CountingNice(number * 7919 % 1000)
        projection.apply(TicketAdded(f"task-{number}", "email", raw, "default", nice, EPOCH), number, EPOCH)
    CountingNice.compared = 0
    claims = 1000
    for claim in range(claims):
        ticket = projection.first_ready(("default",))
        assert ticket is not None
        projection.apply(TicketClaimed(ticket.id, 1, EPOCH, "worker-1"), count + claim + 1, EPOCH)
    report(
        f"comparisons of a claim among {count:,}",
        f"{CountingNice.compared / claims:.0f}",
        f"log2 n is {math.log2(count):.0f}",
    )


async def main(scale: int, base: Path) -> None:
    def fresh() -> str:
        return tempfile.mkdtemp(dir=base)

    syncs, passes = await floors(base, 2000 // scale)
    await adds(fresh(), "always", 100, 100_000 // scale, syncs)
    await adds(fresh(), "always", 1, 10_000 // scale, syncs)
    await adds(fresh(), 0.05, 100, 100_000 // scale, syncs)
    await adds(fresh(), "never", 100, 100_000 // scale, syncs)
    await adds_at_once(fresh(), "always", 10_000 // scale)
    await adds_at_once(fresh(), "never", 10_000 // scale)
    await adds_at_once(":memory:", "never", 10_000 // scale)
    await unblocking(100_000 // scale)
    await lifecycles(":memory:", 64, 100_000 // scale, passes)
    await lifecycles(fresh(), 64, 100_000 // scale, passes)
    memory_of_pending(100_000 // scale)
    reopening(fresh(), 300_000 // scale)
    comparisons(1000)
    comparisons(1_000_000 // scale)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="do a twentieth of the work, to check that it runs")
parser.add_argument(
    "--where", type=Path, default=None, help="a directory on the disk to measure; default: a temporary one"
)
arguments = parser.parse_args()
directory = Path(tempfile.mkdtemp(dir=arguments.where, prefix="kharon-benchmark-"))
try:
    trio.run(main, 20 if arguments.small else 1, directory)
finally:
    shutil.rmtree(directory)
