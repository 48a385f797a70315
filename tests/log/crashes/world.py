"""The world of a scenario: a disk in memory, a log on it that tells what it says, and how the rest is examined."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from log_steps import added, moment
from simulated_files import SECTOR, Plan, SimulatedFiles

from kharon.errors import StorageFull
from kharon.log.directory import DirectoryLog
from kharon.log.locations import locate_segments, segments
from kharon.log.record import Record, check_line, parse_record
from kharon.log.scan import LogScan
from kharon.log.zstd import open_segment
from kharon.model.events import Event, TailCut
from kharon.model.projection import Projection

WHERE = Path("/queue")
ONE_SEGMENT = 1 << 20
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


class Reserved(World):
    """With a reserve of more than one piece."""

    RESERVE_BYTES = 70_000


class LittleReserved(World):
    """With a reserve that is used up by a few records."""

    RESERVE_BYTES = 900


class Offering(World):
    """On a disk whose files have twins, which another process may sync."""

    def __init__(self, plan: Plan, files: SimulatedFiles | None = None) -> None:
        super().__init__(plan, files)
        self.files.twins = {}

    def offer(self, meanwhile: Callable[[], None] = lambda: None, *, lost: bool = False) -> None:
        """Have what is written synced by a helper, while something else is done; its answer may be lost."""
        log = self.log
        assert log is not None
        self.files.write_back(segments(WHERE, self.files)[-1])
        seq, descriptor = log.written, log.begin_sync()
        if descriptor is None:
            return
        meanwhile()
        failure = self._helped(descriptor)
        if lost:
            log.sync()
        else:
            log.end_sync(seq, failure)

    def _helped(self, descriptor: int) -> OSError | None:
        """Return what the helper says."""
        try:
            self.files.sync_twin(descriptor)
        except OSError as error:
            return OSError(error.errno, error.strerror)
        return None

    def rotate(self, meanwhile: Callable[[], None], *, lost: bool = False) -> None:
        """Begin a segment, if it is time for one, whose syncs the helper does, while more is appended."""
        rotation, failure = self.log.rotation(), None
        while rotation is not None:
            try:
                step = next(rotation) if failure is None else rotation.throw(failure)
            except StopIteration:
                return
            descriptor, failure = step.twin(), None
            meanwhile()
            if descriptor is not None:
                assert step.twin() == descriptor, "there is one, however often it is asked for"
                failure = self._helped(descriptor)
            if descriptor is None or lost:
                try:
                    step.sync()
                    failure = None
                except OSError as error:
                    failure = error


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


def three_segments() -> tuple[SimulatedFiles, list[Record]]:
    """A disk with a log of three segments, closed, and its records."""
    world = World(Plan())
    with numbered_logs(1):
        world.open(TINY)
        for number in range(5):
            world.put([added(f"t{number}")])
        world.close()
    assert len(segments(WHERE, world.files)) == 3
    return world.files, world.appended
