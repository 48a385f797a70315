"""The log on a simulated disk: crashed before and after every operation, and every operation failed in turn.

For each scenario the machine stops in front of each operation that changes anything (and so behind the one before).
What a disk may hold then is enumerated, or sampled with a fixed seed where it is too much; on each of these disks the
log is opened, and must hold every record that it had said to be on disk, and nothing but the first of those that were
appended, in whole commits. Nothing that is done here alters bytes, so `CorruptLog` is never right. Opening again must
give the same and change nothing. What recovery did must itself survive: it is stopped at each of its operations too.

Two moments often may leave the same disk. It is opened once, and what that gave is held against what was promised at
each moment (`Looked`). A crash state is a moment and a disk that it may leave; disks are counted once in a scenario.

`KHARON_CRASH_SCALE` multiplies how many disks are looked at. Limits of the model: see `simulated_files`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from log_steps import added, moment
from simulated_files import CHANGING, SECTOR, Plan, PowerLoss, SimulatedFiles, check_named

from kharon.errors import StorageFull
from kharon.log.directory import DirectoryLog
from kharon.log.locations import locate_segments, segments
from kharon.log.record import Record, check_line, parse_record
from kharon.log.retention import Retention, Rules, Threshold
from kharon.log.scan import LogScan
from kharon.log.snapshot import take, trimmable
from kharon.log.zstd import open_segment
from kharon.model.events import Event, TailCut, TicketDeleted
from kharon.model.projection import Projection

pytestmark = pytest.mark.usefixtures("quiet")
SCALE = float(os.environ.get("KHARON_CRASH_SCALE", "1"))
WHERE = Path("/queue")
ONE_SEGMENT = 1 << 20
EVERYTHING = Threshold(bytes=0)
TINY = 700  # bytes: a segment is full after two records


@contextlib.contextmanager
def numbered_logs(first: int) -> Iterator[None]:
    """Number new logs instead of drawing their ids, so that the same steps leave the same disk."""
    numbers = itertools.count(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(numbers)))
        yield


class World:
    """A disk, the log on it, and what the log has said.

    Attributes:
        appended: every record that may be in the log, in order.
        on_disk: how many of them the log has said to be on disk.
        written: how many of them the log has said to be written to the operating system.
        retains: whether there are snapshots, or segments that were moved or trimmed: then logs are opened like a store
            does it, and what is checked is all that can be read then.
        long: a payload that makes a line of several sectors.
    """

    BYTES_IN_SECTOR = SECTOR
    LONG_BYTES = 1400
    RESERVE_BYTES = 0

    def __init__(self, plan: Plan, files: SimulatedFiles | None = None) -> None:
        self.plan = plan
        self.files = files or SimulatedFiles(bytes_in_sector=self.BYTES_IN_SECTOR)
        self.files.plan = plan
        self.appended: list[Record] = []
        self.on_disk = 0
        self.written = 0
        self.long = b'"%b"' % (b"x" * self.LONG_BYTES)
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


class Wide(World):
    """With lines that are torn in many ways."""

    LONG_BYTES = 6000


class Pages(World):
    """On a disk that writes 4096 bytes at once, with lines that do not fit into so many."""

    BYTES_IN_SECTOR = 4096
    LONG_BYTES = 18_000


class WatchedLog(DirectoryLog):
    """A directory log that tells its world what it is given and what it says."""

    def __init__(self, world: World) -> None:
        super().__init__(WHERE, world.segment_bytes, world.files, reserve_bytes=world.RESERVE_BYTES)
        self.world = world
        self.is_open = False

    def open(self, now: datetime):
        yield from super().open(now)
        self.is_open = True

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        count = len(self._pending)
        at = super().append(events, at, by)
        self.world.appended += [parse_record(line, check_line(line, None)) for line in self._pending[count:]]
        return at

    def _write_pending(self) -> None:
        # A segment that was begun since they were appended has changed their hashes.
        pending = [parse_record(line, check_line(line, None)) for line in self._pending]
        self.world.appended[self.written :] = pending
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
            projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        assert projection.fold(behind).tickets == Projection().fold(records).tickets
        log.files.plan = plan
    return records


def check_history(log: DirectoryLog, records: list[Record]) -> None:
    """All that is left can be read, in the log's own process and by others; no segment is in two places."""
    assert all(len(paths) == 1 for paths in locate_segments(WHERE, log.files).values())
    reading = LogScan(lambda: segments(WHERE, log.files), lambda path: open_segment(log.files.read, path))
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


def opened(files: SimulatedFiles, world: World, *, read_all: bool = False) -> tuple[DirectoryLog, list[Record]]:
    log = DirectoryLog(WHERE, world.segment_bytes, files, reserve_bytes=world.RESERVE_BYTES)
    with numbered_logs(900):
        return log, records_of(world, log, moment(5000), read_all=read_all)


def examine(world: World, files: SimulatedFiles, *, go_on: bool) -> list[Record]:
    """Open what survived, twice; and go on there, and lose what was not synced. Return the records."""
    log, records = opened(files, world, read_all=True)
    log.abandon()
    assert not [name for name in files.list(WHERE / "log") if name.endswith(".tmp")]
    for record in records:
        if isinstance(record.event, TailCut):
            assert len(files.read(WHERE / record.event.kept_as).read()) == record.event.length
    before = files.state()
    log, again = opened(files, world)
    assert again == records
    assert files.state() == before, "the second opening had something to change"
    if go_on:
        log.append([added("z")], moment(9000), "ann")
        log.write()
        log.sync()
        for choose in (lambda _count: 0, lambda count: count - 1):
            *back, last = opened(files.survivor(choose), world)[1]
            assert back == records
            assert last.event == added("z")
    log.abandon()
    return records


class Looked:
    """What opening gave of each disk that survived: none is opened twice.

    Attributes:
        states: how many crash states were looked at: a disk, and what was promised when it was left.
    """

    def __init__(self) -> None:
        self._records: dict[bytes, list[Record]] = {}
        self._killed: dict[bytes, list[Record]] = {}
        self._recovered: set[bytes] = set()
        self.states = 0

    @property
    def disks(self) -> int:
        """How many different disks were looked at."""
        return len(self._records)

    def verify(self, world: World, files: SimulatedFiles) -> None:
        """Hold what is on a disk against what a world may have, and must have. The disk is as it was then."""
        self.states += 1
        state = files.state()
        records = self._records.get(state)
        if records is None:
            records = self._records[state] = examine(world, files, go_on=len(self._records) % 8 == 0)
        check(world, records, world.on_disk)

    def verify_killed(self, world: World) -> None:
        """The same for what the next process finds if only this one ends: all that was written."""
        files = world.files.killed()
        state = files.whole_state()
        records = self._killed.get(state)
        if records is None:
            records = self._killed[state] = examine(world, files, go_on=True)
        check(world, records, world.written)

    def crash_recovery(self, world: World, files: SimulatedFiles, chance: random.Random) -> None:
        """Stop the opening of a disk at each of its operations, and look at what that leaves."""
        whole = files.killed()
        opened(whole, world)
        for stop in stops(whole.plan):
            disk = files.killed()
            disk.plan = Plan(stop=stop)
            with contextlib.suppress(PowerLoss):
                opened(disk, world)
            for left in disk.survivors(DISKS_OF_A_RECOVERY, chance):
                self.verify(world, left)
            check(world, examine(world, disk.killed(), go_on=False), world.on_disk)

    def crash_recovery_once(self, world: World, files: SimulatedFiles, chance: random.Random) -> None:
        """The same, unless that was done with this disk."""
        state = files.state()
        if state not in self._recovered:
            self._recovered.add(state)
            self.crash_recovery(world, files, chance)


# --- scenarios --------------------------------------------------------------------------------------------------------


def first_open(world: World) -> None:
    world.open()
    world.abandon()


def singles(world: World) -> None:
    world.open()
    for number in range(4):
        world.put([added(f"t{number}", world.long if number % 2 else b"null")])
    world.abandon()


def groups(world: World) -> None:
    world.open()
    world.put([added("a")], [added("b"), added("c", world.long), TicketDeleted("b")], [added("d"), added("e")])
    world.put([added("f", world.long)], [added("g"), added("h")])
    world.abandon()


def rotation(world: World) -> None:
    world.open(TINY)
    for number in range(7):
        world.put([added(f"t{number}", world.long if number == 3 else b"null")])
    world.abandon()


def closing(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.put([added("b", world.long)], sync=False)
    world.close()


def after_a_close(world: World) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.close()
    for number in range(3):
        world.open(TINY)
        world.put([added(f"b{number}", world.long)])
        world.close()


def after_a_kill(world: World) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.put([added("b", world.long)], sync=False)
    world.abandon()
    for number in range(2):
        world.open(TINY)
        world.put([added(f"c{number}")])
        world.abandon()


def after_a_torn_tail(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.put([added("b", world.long), added("c", world.long)], sync=False)
    picks = iter((7, 1, 0, 1, 0))  # the size is whole, some sectors are not
    world.lose_power(lambda count: min(next(picks, 1), count - 1))
    world.open()
    world.put([added("d")])
    world.abandon()


def after_a_torn_tail_in_a_later_segment(world: World) -> None:
    world.open(TINY)
    world.put([added("a")], [added("b")])
    world.put([added("c", world.long)], write=False, sync=False)
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
    world.put([added("b")], [added("c", world.long)])
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


def keep(world: World, policy: Rules, steps: int) -> None:
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
        retention.switch(step)
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
    keep(world, Rules(compress=EVERYTHING), 1)
    world.put([added("more")])
    world.abandon()


def archive(world: World) -> None:
    retaining(world, 3)
    keep(world, Rules(archive=EVERYTHING), 1)
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
    keep(world, Rules(trim=EVERYTHING), 2)
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


def run(scenario: Callable[[World], None], plan: Plan, kind: type[World] = World) -> World:
    """Run a scenario until the power fails or the log gives up."""
    world = kind(plan)
    with contextlib.suppress(PowerLoss), numbered_logs(1):
        try:
            scenario(world)
        except OSError as error:
            check_named(error)
    world.note()
    return world


def stops(plan: Plan) -> list[int]:
    """In front of which of the operations that were done another disk may be left, and behind the last one."""
    return [number for number, name in enumerate(plan.done) if name in CHANGING] + [plan.count]


# --- crashes ----------------------------------------------------------------------------------------------------------

DISKS = {World: int(2000 * SCALE), Wide: int(4500 * SCALE), Pages: int(1000 * SCALE)}  # that one stop may leave
LEAST: dict[Callable[[World], None], int] = {  # how many crash states are looked at, at scale 1
    first_open: 400,
    singles: 850,
    groups: 950,
    rotation: 2200,
    closing: 700,
    after_a_close: 2400,
    after_a_kill: 2600,
    after_a_torn_tail: 1800,
    after_a_torn_tail_in_a_later_segment: 2500,
    no_room: 900,
    no_room_for_a_segment: 2000,
    no_room_for_a_seal: 2100,
    never_synced: 650,
    synced_now_and_then: 2300,
    add_many: 1100,
    nothing_but_a_header: 2000,
    compress: 950,
    archive: 1300,
    snapshot: 1600,
    trim: 1700,
}
LEAST_OF_LONG = {  # and with lines that are longer: wide, pages
    singles: (6600, 950),
    groups: (7300, 800),
    rotation: (4800, 2000),
    closing: (3400, 700),
    after_a_close: (11200, 2400),
    after_a_kill: (7100, 2500),
    after_a_torn_tail: (1900, 1800),
    after_a_torn_tail_in_a_later_segment: (2600, 2500),
}
RECOVERIES = max(1, int(SCALE))
DISKS_OF_A_RECOVERY = max(3, int(4 * SCALE))
DISKS_OF_A_FAILURE = max(3, int(3 * SCALE))


def crash_everywhere(scenario: Callable[[World], None], kind: type[World] = World) -> Looked:
    """Stop a scenario at each of its operations, and look at the disks that each stop may leave."""
    chance = random.Random(scenario.__name__)
    looked = Looked()
    for stop in stops(run(scenario, Plan(), kind).plan):
        world = run(scenario, Plan(stop=stop), kind)
        left = []
        for disk in world.files.survivors(max(2, DISKS.get(kind, DISKS[World])), chance):
            if len(left) < 4 or chance.random() < 0.05:
                left.append(disk.killed())
            looked.verify(world, disk)
        looked.verify_killed(world)
        looked.crash_recovery(world, world.files.killed(), chance)
        for disk in chance.sample(left, min(RECOVERIES, len(left))):
            looked.crash_recovery_once(world, disk, chance)
    return looked


def count_crashes(scenario: Callable[[World], None], kind: type[World], least: int, record_property) -> None:
    looked = crash_everywhere(scenario, kind)
    record_property("crash states", looked.states)
    record_property("disks that a crash left", looked.disks)
    assert looked.states >= (least if SCALE >= 1 else 1)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_every_operation(scenario, record_property):
    count_crashes(scenario, World, LEAST[scenario], record_property)


@pytest.mark.parametrize("scenario", LEAST_OF_LONG)
def test_a_crash_with_lines_of_many_sectors(scenario, record_property):
    count_crashes(scenario, Wide, LEAST_OF_LONG[scenario][0], record_property)


@pytest.mark.parametrize("scenario", LEAST_OF_LONG)
def test_a_crash_of_a_disk_that_writes_whole_pages(scenario, record_property):
    count_crashes(scenario, Pages, LEAST_OF_LONG[scenario][1], record_property)


def test_how_many_crash_states_are_looked_at():
    """With those of `test_more_crashes` there are 100,000, which is asserted there."""
    assert list(LEAST) == SCENARIOS


# --- failures ---------------------------------------------------------------------------------------------------------

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)


def failures(scenario: Callable[[World], None], kind: type[World] = World) -> Iterator[dict[str, object]]:
    """Every operation, with every error, once and for good.

    Writes and allocations also after a part, and reads that give a part; syncs also keeping the pages, or killed right
    behind; renamings also after they happened.
    """
    for number, name in enumerate(run(scenario, Plan(), kind).plan.done):
        for for_good in (False, True):
            if name == "read_bytes":
                yield from ({"fail": number, "for_good": for_good, "shorter": share} for share in (0, 0.01))
            for error in ERRORS:
                if name == "read_bytes" and for_good and error == errno.EINTR:
                    continue  # Python reads again for as long as it is interrupted
                plan = {"fail": number, "error": error, "for_good": for_good}
                yield plan
                if name in {"write", "allocate"}:
                    yield from (plan | {"short": share} for share in (0.4, 0.9))
                if name in {"sync", "sync_twin"}:
                    yield from (plan | {"drops": False}, plan | {"stop": number + 1})
                if name == "rename":
                    yield plan | {"late": True}


def fail_everywhere(scenario: Callable[[World], None], kind: type[World] = World) -> int:
    """Fail each operation of a scenario in each way; return how many failures that were."""
    chance = random.Random(scenario.__name__)
    looked, count = Looked(), 0
    for plan in failures(scenario, kind):
        world = run(scenario, Plan(**plan), kind)
        if world.log is not None:
            world.log.abandon()
        looked.verify_killed(world)
        for disk in world.files.survivors(DISKS_OF_A_FAILURE, chance):
            looked.verify(world, disk)
        count += 1
    return count


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_operation_fails(scenario, record_property):
    count = fail_everywhere(scenario)
    record_property("operations that failed", count)
    assert count > 100
