"""The process that is killed: it uses a queue hard, and says on stdout what has been acknowledged.

Each line is one fact, written with one unbuffered write after the call returned: "added ID", "done ID", "failed ID",
"acked ID", "refused ID". Whatever was said must be found again, and what was refused must not; what was not said may be
found. `zygote.py` forks it; `play` is where it begins.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
from pathlib import Path

import failpoints
import trio
from failpoints import Dying, DyingFiles, DyingHelper

import kharon
from kharon.log.directory import DirectoryLog
from kharon.log.repair import repair
from kharon.store import group_commit as commits_module

SEGMENT_BYTES = 4096


def say(verb: str, id: str) -> None:
    os.write(1, f"{verb} {id}\n".encode())


def die(failpoint: str, helper: DyingHelper | None = None) -> None:
    """Say where, and be killed: this process, or its helper."""
    say("failpoint", failpoint)
    victim = helper.pid if helper is not None and failpoint == "helper.sync.killed" else os.getpid()
    os.kill(victim, signal.SIGKILL)


router = kharon.Router()


@router.handler("work")
async def work(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    number = ticket.payload["number"]
    if number % 5 == 0:
        await kh.ack(ticket)
        say("acked", ticket.id)
    elif number % 7 == 0:
        await kh.fail(ticket, error_reason="a seventh")
        say("failed", ticket.id)
    elif number % 11 == 0:
        raise RuntimeError("an eleventh is retried")
    else:
        await kh.done(ticket, result=number)
        say("done", ticket.id)


async def add(kh: kharon.Kharon, prefix: str, until: int | None = None, pause: float | None = None) -> None:
    """Add tickets without an end, or so many commits; after the first 50 with a pause between them, if there is one."""
    number = 0
    while number != until:
        number += 1
        if number % 10 == 0:
            tickets = [kharon.Ticket(f"{prefix}-{number}-{part}", "work", payload={"number": 1}) for part in range(3)]
            for ticket in await kh.add_many(tickets):
                say("added", ticket.id)
        else:
            ticket = await kh.add(kharon.Ticket(f"{prefix}-{number}", "work", payload={"number": number}))
            say("added", ticket.id)
        if pause is not None and number > 50:
            await trio.sleep(pause)


async def swing(kh: kharon.Kharon, prefix: str, tasks: int, until: int | None, pause: float | None) -> None:
    """Add and settle, many at once."""
    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        async with trio.open_nursery() as adding:
            for task in range(tasks):
                adding.start_soon(add, kh, f"{prefix}-{task}", until, pause)
        await kh.drain()


async def fill_the_disk(kh: kharon.Kharon, prefix: str, files: DyingFiles) -> None:
    """Add tickets and settle them, while the disk is full and while it is not, in turn."""
    number = 0
    while True:
        files.full = False
        ids = []
        while len(ids) < 6:
            number += 1
            id = f"{prefix}-{number}"
            await kh.add(kharon.Ticket(id, "other"))
            say("added", id)
            ids.append(id)
        files.full = True
        for id in ids:
            number += 1
            with contextlib.suppress(kharon.StorageFull):
                await kh.add(kharon.Ticket(f"{prefix}-{number}", "other"))
                raise AssertionError("there was room")
            say("refused", f"{prefix}-{number}")
            await kh.done(id)
            say("done", id)


class _Pinned:
    """The pace of a disk that is slow, or is not, whatever is measured."""

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow

    def add(self, seconds: float) -> None:
        pass


async def use(
    *,
    where: str,
    prefix: str,
    fsync: str = "always",
    failpoint: str | None = None,
    count: int = 1,
    tasks: int = 8,
    until: int | None = None,
    pause: float | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    snapshot_bytes: int | None = None,
    full: bool = False,
    helper: bool = False,
    alone: bool = False,
    retention: dict | None = None,
) -> None:
    """Use a queue until this process dies, or, with `until`, has added so much; the rest is as its settings.

    Args:
        where: the queue's directory.
        prefix: with which all ids of this process begin.
        fsync: "always", "never", or seconds.
        failpoint: where to die, at the `count`-th time; None: nowhere.
        tasks: how many add at once.
        until, pause: as of `add`.
        segment_bytes, snapshot_bytes: as in the settings.
        full: whether the disk is full now and then.
        helper: whether it is so slow that the helper syncs.
        alone: whether to `run_alone`.
        retention: more settings: what is to be compressed, archived, trimmed.
    """
    dying = Dying(failpoint, count, lambda name: die(name, commits._helper))
    settings = kharon.Settings(
        workers=8,
        fsync=fsync if fsync in ("always", "never") else float(fsync),
        backoff=kharon.FixedDelay(0.01),
        max_attempts=3,
        segment_bytes=segment_bytes,
        snapshot_bytes=snapshot_bytes,
        reserve_bytes=256 << 10,
        **(retention or {}),
    )
    log: str | DirectoryLog = where
    if failpoint is not None:
        files = DyingFiles(Path(where), dying)
        log = DirectoryLog(where, segment_bytes, files, reserve_bytes=settings.reserve_bytes)
    queue = kharon.open(log, settings)
    commits = queue._queue.store._commits
    if helper or failpoint is not None:  # else, on a busy machine, the helper passes by the failpoints of a sync
        commits._pace = _Pinned(slow=helper)
    if helper:
        commits._helper = DyingHelper(dying, lambda pid: say("helper", pid))
        commits._helper.start()
    async with queue as kh:
        if full:
            commits_module.TRY_SECONDS = 0.0  # else each round of this would take a second
            await fill_the_disk(kh, prefix, files)
        if alone:
            await run_alone(kh, prefix)
        await swing(kh, prefix, tasks, until, pause)


async def run_alone(kh: kharon.Kharon, prefix: str) -> None:
    """Run handlers that add the next tickets, in the task that opened the queue, and in no nursery but Kharon's."""
    numbers = itertools.count()
    router = kharon.Router()

    @router.handler("chain")
    async def chain(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
        id = f"{prefix}-{next(numbers)}"
        await kh.add(kharon.Ticket(id, "chain"))
        say("added", id)
        await kh.done(ticket, result=[])
        say("done", ticket.id)

    await kh.add_many([kharon.Ticket(f"{prefix}-{next(numbers)}", "chain") for _ in range(8)])
    await kh.run(router)


def interrupted(**options) -> None:
    """Use a queue until Ctrl-C, and raise that alone where no nursery of this program's own has put it into a group."""
    try:
        trio.run(lambda: use(**options))
    except BaseExceptionGroup as group:
        if options["alone"] or group.split(KeyboardInterrupt)[1] is not None:
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses it again now is too late


def mend(*, where: str, failpoint: str, count: int = 1) -> None:
    """Repair a log, and die on the way."""
    dying = Dying(failpoint, count, die)
    repair(where, confirm=True, files=DyingFiles(Path(where), dying))


def play(*, part: str = "use", snapshot: tuple[str, str, str] | None = None, **options) -> None:
    """Do what the test says: `use`, `mend` or be `interrupted`; `snapshot`: as `arrange_snapshots`."""
    logging.disable()  # the retries are meant
    say("opening", options["where"])
    if snapshot is not None:
        failpoints.arrange_snapshots(*snapshot)
    if part == "mend":
        mend(**options)
    elif part == "interrupted":
        interrupted(**options)
    else:
        trio.run(lambda: use(**options))
