"""The log on a simulated disk: crashed before and after every operation, and every operation failed in turn.

For each scenario the machine stops in front of each operation (and so behind the one before). What a disk may hold then
is enumerated, or sampled with a fixed seed where it is too much; on each of these disks the log is opened, and must
hold every record that it had said to be on disk, and nothing but the first of those that were appended, in whole
commits. Nothing that is done here alters bytes, so `CorruptLog` is never right. Opening again must give the same and
change nothing. What recovery did must itself survive: it is stopped at each of its operations too.

`KHARON_CRASH_SCALE` multiplies how many disks are looked at. Limits of the model: see `simulated_files`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from log_steps import added, moment
from simulated_files import Plan, PowerLoss, SimulatedFiles

from kharon.errors import StorageFull
from kharon.log.directory import DirectoryLog
from kharon.log.moves import places_of, segments
from kharon.log.packed import open_segment
from kharon.log.record import Record, check_line, open_record
from kharon.log.retention import Limit, Policy, Retention
from kharon.log.segment import Reading
from kharon.log.snapshot import take, trimmable
from kharon.model.events import Event, TailCut, TicketDeleted
from kharon.model.projection import Projection

SCALE = float(os.environ.get("KHARON_CRASH_SCALE", "1"))
WHERE = Path("/queue")
ONE_SEGMENT = 1 << 20
EVERYTHING = Limit(bytes=0)
TINY = 700  # bytes: a segment is full after two records
LONG = b'"%b"' % (b"x" * 1400)  # a payload that makes a line of several sectors


class World:
    """A disk, the log on it, and what the log has said.

    Attributes:
        appended: every record that may be in the log, in order.
        on_disk: how many of them the log has said to be on disk.
        written: how many of them the log has said to be written to the operating system.
        retains: whether there are snapshots, or segments that were moved or trimmed: then logs are opened like a store
            does it, and what is checked is all that can be read then.
    """

    def __init__(self, plan: Plan, files: SimulatedFiles | None = None) -> None:
        self.plan = plan
        self.files = files or SimulatedFiles()
        self.files.plan = plan
        self.appended: list[Record] = []
        self.on_disk = 0
        self.written = 0
        self.segment_bytes = ONE_SEGMENT
        self.log: WatchedLog | None = None
        self.retains = False

    def open(self, segment_bytes: int = ONE_SEGMENT) -> None:
        self.segment_bytes = segment_bytes
        self.log = WatchedLog(self)
        records = records_of(self, self.log, moment(1000))
        check(self, records, self.on_disk)
        self.appended = records
        self.on_disk = self.written = len(records)

    def put(self, *commits: Sequence[Event], write: bool = True, sync: bool = True) -> None:
        assert self.log is not None
        for events in commits:
            self.log.append(events, moment(len(self.appended)), "ann")
        with contextlib.suppress(StorageFull):
            if write:
                self.log.write()
            if sync:
                self.log.sync()

    def close(self) -> None:
        assert self.log is not None
        with contextlib.suppress(StorageFull):
            self.log.close(moment(2000))

    def abandon(self) -> None:
        """The process ends without a word."""
        assert self.log is not None
        self.log.abandon()

    def lose_power(self, choose: Callable[[int], int]) -> None:
        self.note()
        self.files = self.files.survivor(choose)
        self.files.plan = self.plan
        self.written = self.on_disk

    def note(self) -> None:
        """What the log takes for being on disk it says in its next line, so that must be true at any moment."""
        if self.log is not None and self.log.is_open:
            self.on_disk = max(self.on_disk, self.log.durable)


class WatchedLog(DirectoryLog):
    """A directory log that tells its world what it is given and what it says."""

    def __init__(self, world: World) -> None:
        super().__init__(WHERE, world.segment_bytes, world.files)
        self.world = world
        self.is_open = False

    def open(self, now: datetime):
        yield from super().open(now)
        self.is_open = True

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        count = len(self._pending)
        at = super().append(events, at, by)
        self.world.appended += [open_record(line, check_line(line, None)) for line in self._pending[count:]]
        return at

    def _write_pending(self) -> None:
        try:
            super()._write_pending()
        except StorageFull:
            del self.world.appended[self.seq :]  # it has said that nothing of these is kept
            raise

    def write(self) -> None:
        super().write()
        self.world.written = self.written

    def close(self, now: datetime) -> None:
        super().close(now)
        self.world.written = self.world.on_disk = self.written


def records_of(world: World, log: DirectoryLog, now: datetime, *, read_all: bool = False) -> list[Record]:
    """Open a log; return its records, with those that a snapshot stands for, or that were trimmed, as they were."""
    if not world.retains:
        return list(log.open(now))
    snapshot = log.load_snapshot()
    behind = list(log.open(now))
    records = [*world.appended[: 0 if snapshot is None else snapshot.seq], *behind]
    if read_all:
        plan, log.files.plan = log.files.plan, Plan()  # what is done here is no part of opening
        check_history(log, records)
        projection = Projection()
        if snapshot is not None:
            projection.load(snapshot.tickets, snapshot.seq, snapshot.at)
        assert projection.fold(behind).tickets == Projection().fold(records).tickets
        log.files.plan = plan
    return records


def check_history(log: DirectoryLog, records: list[Record]) -> None:
    """All that is left can be read, in the log's own process and by others; no segment is in two places."""
    assert all(len(paths) == 1 for paths in places_of(WHERE, log.files).values())
    reading = Reading(lambda: segments(WHERE, log.files), lambda path: open_segment(log.files.read, path))
    assert list(reading.records()) == records[log.first - 1 :]
    reader = log.reader()
    assert reader.seq == log.first - 1
    assert reader.read(len(records) + 1, log.written) == records[log.first - 1 :]


def check(world: World, records: list[Record], least: int) -> None:
    """What is there is what was appended, up to the end of a commit, and no less than the first `least`."""
    if records and isinstance(records[-1].event, TailCut) and records != world.appended[: len(records)]:
        records = records[:-1]  # of a recovery that did not come to its end
    assert records == world.appended[: len(records)]
    assert len(records) >= least
    assert not records or records[-1].part[0] == records[-1].part[1]


def opened(world: World, files: SimulatedFiles, *, read_all: bool = False) -> tuple[DirectoryLog, list[Record]]:
    log = DirectoryLog(WHERE, world.segment_bytes, files)
    return log, records_of(world, log, moment(5000), read_all=read_all)


def verify(world: World, files: SimulatedFiles, least: int, *, go_on: bool) -> None:
    """Open what survived, twice; and go on there, and lose what was not synced."""
    log, records = opened(world, files, read_all=True)
    log.abandon()
    check(world, records, least)
    assert not [name for name in files.list(WHERE / "log") if name.endswith(".tmp")]
    for record in records:
        if isinstance(record.event, TailCut):
            assert len(files.read(WHERE / record.event.kept_as).read()) == record.event.length
    before = files.state()
    log, again = opened(world, files)
    assert again == records
    assert files.state() == before, "the second opening had something to change"
    if go_on:
        log.append([added("z")], moment(9000), "ann")
        log.write()
        log.sync()
        for choose in (lambda _count: 0, lambda count: count - 1):
            *back, last = opened(world, files.survivor(choose))[1]
            assert back == records
            assert last.event == added("z")
    log.abandon()


# --- scenarios --------------------------------------------------------------------------------------------------------


def first_open(world: World) -> None:
    world.open()
    world.abandon()


def singles(world: World) -> None:
    world.open()
    for number in range(4):
        world.put([added(f"t{number}", LONG if number % 2 else b"null")])
    world.abandon()


def groups(world: World) -> None:
    world.open()
    world.put([added("a")], [added("b"), added("c", LONG), TicketDeleted("b")], [added("d"), added("e")])
    world.put([added("f", LONG)], [added("g"), added("h")])
    world.abandon()


def rotation(world: World) -> None:
    world.open(TINY)
    for number in range(7):
        world.put([added(f"t{number}", LONG if number == 3 else b"null")])
    world.abandon()


def closing(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.put([added("b", LONG)], sync=False)
    world.close()


def after_a_close(world: World) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.close()
    for number in range(3):
        world.open(TINY)
        world.put([added(f"b{number}", LONG)])
        world.close()


def after_a_kill(world: World) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.put([added("b", LONG)], sync=False)
    world.abandon()
    for number in range(2):
        world.open(TINY)
        world.put([added(f"c{number}")])
        world.abandon()


def after_a_torn_tail(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.put([added("b", LONG), added("c", LONG)], sync=False)
    picks = iter((7, 1, 0, 1, 0))  # the size is whole, some sectors are not
    world.lose_power(lambda count: min(next(picks, 1), count - 1))
    world.open()
    world.put([added("d")])
    world.abandon()


def after_a_torn_tail_in_a_later_segment(world: World) -> None:
    world.open(TINY)
    world.put([added("a")], [added("b")])
    world.put([added("c", LONG)], write=False, sync=False)
    world.log._segment_bytes = ONE_SEGMENT  # so that it is not synced by what comes next
    world.put(sync=False)
    world.lose_power(lambda count: count // 2)
    world.open(TINY)
    world.put([added("d")])
    world.close()


def no_room(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.plan.room = 700  # the first of these finds room, and must not come back
    world.put([added("b")], [added("c", LONG)])
    world.plan.room = None
    world.put([added("d")])
    world.plan.room = 0
    world.put([added("e")])
    world.plan.room = None
    world.close()


def no_room_to_rotate(world: World, room: int) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.log.append([added("b")], moment(1), "ann")
    world.plan.room = len(world.log._pending[0]) + room
    world.put()
    world.put([added("c")])
    world.plan.room = None
    for id in "def":
        world.put([added(id)])
    world.close()


def no_room_for_a_segment(world: World) -> None:
    no_room_to_rotate(world, 100)


def no_room_for_a_seal(world: World) -> None:
    no_room_to_rotate(world, 400)
    world.open(TINY)
    world.abandon()


def never_synced(world: World) -> None:
    world.open()
    for number in range(3):
        world.put([added(f"t{number}")], sync=False)
    world.abandon()


def synced_now_and_then(world: World) -> None:
    world.open(TINY)
    for number in range(7):
        world.put([added(f"t{number}")], sync=number % 3 == 2)
    world.close()


def add_many(world: World) -> None:
    world.open(TINY)
    world.put([added(f"t{number}") for number in range(8)])
    world.put([added("z")])
    world.abandon()


def nothing_but_a_header(world: World) -> None:
    world.open(TINY)
    world.put([added("a"), added("b"), added("c")])
    world.abandon()
    world.open(TINY)
    world.close()
    world.open(TINY)
    world.put([added("d")])
    world.abandon()


def keep(world: World, policy: Policy, steps: int) -> None:
    """What the keeper does. Where something else than the log's own writing fails, the queue goes on."""
    log = world.log
    retention = Retention(log, policy, may_trim=lambda seq: seq <= trimmable(WHERE, world.files))
    for _ in range(steps):
        try:
            step = retention.plan(moment(3000))
            if step is None:
                return
            event = retention.prepare(step)
        except OSError:
            return
        log.append([event], moment(3000), "clock")
        try:
            log.write()
        except StorageFull:
            return
        log.sync()
        retention.settle(step)
        with contextlib.suppress(OSError):
            retention.finish(step)


def save(world: World) -> None:
    """What the process that takes snapshots does; that it fails is nothing to the queue."""
    with contextlib.suppress(OSError):
        take(WHERE, world.files)


def retaining(world: World, count: int) -> None:
    """A log with old segments, before anything goes wrong."""
    world.retains = True
    world.files.plan = Plan()
    world.open(TINY)
    for number in range(count):
        world.put([added(f"t{number}")])
    world.files.plan = world.plan


def compress(world: World) -> None:
    retaining(world, 3)
    keep(world, Policy(compress=EVERYTHING), 1)
    world.put([added("more")])
    world.abandon()


def archive(world: World) -> None:
    retaining(world, 3)
    keep(world, Policy(archive=EVERYTHING), 1)
    world.put([added("more")])
    world.close()


def snapshot(world: World) -> None:
    retaining(world, 3)
    save(world)
    world.put([added("more"), TicketDeleted("t1")])
    world.put([TicketDeleted("t2")])
    save(world)
    world.put([added("most")])
    world.abandon()


def trim(world: World) -> None:
    retaining(world, 3)
    save(world)
    world.put([added("more"), TicketDeleted("t1")])
    world.put([added("enough")])
    save(world)
    keep(world, Policy(trim=EVERYTHING), 2)
    world.put([TicketDeleted("t2")])
    world.abandon()


SCENARIOS = [
    first_open,
    singles,
    groups,
    rotation,
    closing,
    after_a_close,
    after_a_kill,
    after_a_torn_tail,
    after_a_torn_tail_in_a_later_segment,
    no_room,
    no_room_for_a_segment,
    no_room_for_a_seal,
    never_synced,
    synced_now_and_then,
    add_many,
    nothing_but_a_header,
    compress,
    archive,
    snapshot,
    trim,
]


def run(scenario: Callable[[World], None], plan: Plan) -> World:
    """Run a scenario until the power fails or the log gives up."""
    world = World(plan)
    with contextlib.suppress(PowerLoss, OSError):
        scenario(world)
    world.note()
    return world


# --- crashes ----------------------------------------------------------------------------------------------------------

LEAST = {  # how many disks are looked at, at scale 1, rounded down: 112,000 in all
    first_open: 1800,
    singles: 3100,
    groups: 3100,
    rotation: 8400,
    closing: 2600,
    after_a_close: 13100,
    after_a_kill: 13600,
    after_a_torn_tail: 8600,
    after_a_torn_tail_in_a_later_segment: 11600,
    no_room: 3300,
    no_room_for_a_segment: 7000,
    no_room_for_a_seal: 8000,
    never_synced: 2400,
    synced_now_and_then: 8300,
    add_many: 4000,
    nothing_but_a_header: 11900,
    compress: 1,
    archive: 1,
    snapshot: 1,
    trim: 1,
}
DISKS = int(200 * SCALE)
RECOVERIES = max(1, int(SCALE))
DISKS_OF_A_RECOVERY = max(3, int(4 * SCALE))


def crash_recovery(world: World, files: SimulatedFiles, chance: random.Random) -> int:
    """Stop the opening of a disk at each of its operations; return how many disks that left were looked at."""
    count, stop = 0, 0
    while True:
        disk = files.killed()
        disk.plan = Plan(stop=stop)
        try:
            opened(world, disk)
        except PowerLoss:
            pass
        else:
            return count
        for left in disk.survivors(DISKS_OF_A_RECOVERY, chance):
            verify(world, left, world.on_disk, go_on=False)
            count += 1
        verify(world, disk.killed(), world.on_disk, go_on=True)
        count, stop = count + 1, stop + 1


def crash_everywhere(scenario: Callable[[World], None]) -> int:
    """Stop a scenario at each of its operations; return how many disks were looked at."""
    chance = random.Random(scenario.__name__)
    count = 0
    for stop in range(run(scenario, Plan()).plan.count + 1):
        world = run(scenario, Plan(stop=stop))
        disks = []
        for disk in world.files.survivors(DISKS, chance):
            disks.append(disk.killed() if len(disks) < 4 or chance.random() < 0.05 else None)
            verify(world, disk, world.on_disk, go_on=len(disks) % 8 == 1)
        verify(world, world.files.killed(), world.written, go_on=True)
        count += len(disks) + 1
        count += crash_recovery(world, world.files.killed(), chance)
        left = [disk for disk in disks if disk is not None]
        for disk in chance.sample(left, min(RECOVERIES, len(left))):
            count += crash_recovery(world, disk, chance)
    return count


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_every_operation(scenario, record_property):
    count = crash_everywhere(scenario)
    record_property("disks that a crash left", count)
    assert count >= (LEAST[scenario] if SCALE >= 1 else 1)


def test_how_many_disks_are_looked_at():
    assert list(LEAST) == SCENARIOS
    assert sum(LEAST.values()) >= 100_000


# --- failures ---------------------------------------------------------------------------------------------------------

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)


def failures(scenario: Callable[[World], None]) -> list[dict[str, object]]:
    """Every operation, with every error, once and for good.

    Writes also after a part; syncs also keeping the pages, or killed right behind; renamings also after they happened.
    """
    plans: list[dict[str, object]] = []
    for number, name in enumerate(run(scenario, Plan()).plan.done):
        for error in ERRORS:
            for for_good in (False, True):
                plan = {"fail": number, "error": error, "for_good": for_good}
                plans.append(plan)
                if name == "write":
                    plans += [plan | {"short": share} for share in (0.4, 0.9)]
                if name == "sync":
                    plans += [plan | {"drops": False}, plan | {"stop": number + 1}]
                if name == "rename":
                    plans.append(plan | {"late": True})
    return plans


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_operation_fails(scenario, record_property):
    chance = random.Random(scenario.__name__)
    count = 0
    plans = failures(scenario)
    for plan in plans:
        world = run(scenario, Plan(**plan))
        if world.log is not None:
            world.log.abandon()
        verify(world, world.files.killed(), world.written, go_on=True)
        for disk in world.files.survivors(int(3 * SCALE), chance):
            verify(world, disk, world.on_disk, go_on=False)
            count += 1
    record_property("operations that failed", len(plans))
    assert count >= len(plans) > 100
