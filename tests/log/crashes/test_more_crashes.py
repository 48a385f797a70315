"""More of `test_crashes`: full disks with a reserve, syncs by another process, other settings, repair, and reading.

What is proved, and how it is counted, is the same as there.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_steps import added, moment, put
from msgspec import Raw
from simulated_files import Plan, PowerLoss, SimulatedFiles, check_named

import kharon
from kharon.audit import read as audit_read
from kharon.errors import CorruptLog
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES, naming
from kharon.log.record import Record
from kharon.log.repair import repair
from kharon.log.snapshot import take
from kharon.model.events import LogRepaired, TicketDone

from . import test_crashes
from .test_crashes import (
    ERRORS,
    LEAST_OF_LONG,
    ONE_SEGMENT,
    SCALE,
    SCENARIOS,
    TINY,
    WHERE,
    World,
    check,
    count_crashes,
    fail_everywhere,
    numbered_logs,
    opened,
    run,
    stops,
)

pytestmark = pytest.mark.usefixtures("quiet")


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


# --- a full disk ------------------------------------------------------------------------------------------------------


def settling_from_the_reserve(world: World) -> None:
    world.open()
    world.put([added("a")], [added("b"), added("c")])
    world.plan.room = 100
    world.put([added("d")])
    world.put([TicketDone("a")])
    world.put([TicketDone("b", result_json=Raw(world.long))], [TicketDone("c")])
    world.plan.room = None
    world.put([added("e")])
    world.close()


def a_reserve_that_is_used_up(world: World) -> None:
    world.open()
    world.put([added(id) for id in "abcdefgh"])
    world.plan.room = 0
    for id in "abcdefgh":
        world.put([TicketDone(id)])
    world.abandon()
    world.plan.room = None
    world.open()
    world.put([TicketDone("h")])
    world.close()


def rotating_on_a_full_disk(world: World) -> None:
    world.open(TINY)
    world.put([added("a"), added("b"), added("c")])
    world.plan.room = 250  # for the successor's header, and not for the seal
    world.put([TicketDone("a")])
    world.put([TicketDone("b")])
    world.plan.room = None
    world.put([added("d")])
    world.put([added("e")])
    world.close()


def opened_on_a_full_disk(world: World) -> None:
    world.open()
    world.put([added("a"), added("b")])
    world.plan.room = 0
    world.put([added("c")])
    world.put([TicketDone("a")])
    world.close()
    world.open()
    world.put([added("d")])
    world.put([TicketDone("b")])
    world.plan.room = None
    world.put([added("e")])
    world.abandon()


def refused_and_killed(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.plan.room = 900  # the first of these finds room, and must not come back
    world.put([added("b")], [added("c", world.long)])
    world.abandon()
    world.plan.room = None
    world.open()
    world.put([added("d")])
    world.abandon()


# --- a sync by another process ----------------------------------------------------------------------------------------


def synced_elsewhere(world: Offering) -> None:
    world.open()
    for number in range(3):
        world.put([added(f"t{number}", world.long)], sync=False)
        world.offer(lambda number=number: world.put([added(f"m{number}")], sync=False))
    world.offer()
    world.close()


def rotated_while_in_flight(world: Offering) -> None:
    world.open(TINY)
    for number in range(4):
        world.put([added(f"t{number}")], sync=False)
        world.offer(lambda number=number: world.put([added(f"m{number}", world.long)], sync=False))
    world.abandon()


def lost_answers(world: Offering) -> None:
    world.open()
    for number in range(3):
        world.put([added(f"t{number}", world.long)], sync=False)
        world.offer(lambda number=number: world.put([added(f"m{number}")], sync=False), lost=True)
    world.abandon()
    world.open()
    world.put([added("z")])
    world.abandon()


def synced_here_while_in_flight(world: Offering) -> None:
    world.open()
    world.put([added("a")], sync=False)
    world.offer()
    world.put([added("b", world.long)], sync=False)
    world.offer(lambda: world.put([added("c")]))
    world.put([added("d")], sync=False)
    world.close()


def rotate_elsewhere(world: Offering, *, lost: bool) -> None:
    world.open(TINY)
    world.log.rotates = False
    for number in range(4):
        world.put([added(f"t{number}")], [added(f"u{number}", world.long)], sync=False)
        world.offer(lost=lost)
        ids = iter(f"r{number}{step}" for step in range(9))
        world.rotate(lambda ids=ids: world.put([added(next(ids))], write=False, sync=False), lost=lost)
        world.put([added(f"v{number}")], sync=False)
    world.close()


def rotated_elsewhere(world: Offering) -> None:
    rotate_elsewhere(world, lost=False)


def rotated_elsewhere_with_lost_answers(world: Offering) -> None:
    rotate_elsewhere(world, lost=True)


# --- another process's settings ---------------------------------------------------------------------------------------


def other_settings(world: World) -> None:
    """As an upgrade may bring them: nothing that one process was told may matter to what the next one finds."""
    world.open(TINY)
    world.put([added("a")], [added("b", world.long)])
    world.put([added("c")], sync=False)
    world.abandon()
    world.open(ONE_SEGMENT)
    world.put([added("d", world.long)], [added("e")])
    world.close()
    world.open(1)  # each write fills the tail, which is far larger already
    world.put([added("f")])
    world.put([added("g")])
    world.abandon()
    world.open(ONE_SEGMENT)
    world.close()


MORE = {
    settling_from_the_reserve: Reserved,
    a_reserve_that_is_used_up: LittleReserved,
    rotating_on_a_full_disk: Reserved,
    opened_on_a_full_disk: LittleReserved,
    refused_and_killed: Reserved,
    synced_elsewhere: Offering,
    rotated_while_in_flight: Offering,
    lost_answers: Offering,
    synced_here_while_in_flight: Offering,
    rotated_elsewhere: Offering,
    rotated_elsewhere_with_lost_answers: Offering,
    other_settings: World,
}
LEAST = {  # how many crash states are looked at, at scale 1
    settling_from_the_reserve: 2000,
    a_reserve_that_is_used_up: 3500,
    rotating_on_a_full_disk: 3000,
    opened_on_a_full_disk: 1700,
    refused_and_killed: 1500,
    synced_elsewhere: 1300,
    rotated_while_in_flight: 1700,
    lost_answers: 2600,
    synced_here_while_in_flight: 950,
    rotated_elsewhere: 3900,
    rotated_elsewhere_with_lost_answers: 4500,
    other_settings: 3600,
}


@pytest.mark.parametrize("scenario", MORE)
def test_a_crash_at_every_operation(scenario, record_property):
    count_crashes(scenario, MORE[scenario], LEAST[scenario], record_property)


def test_how_many_crash_states_are_looked_at():
    assert LEAST.keys() == MORE.keys()
    everywhere = [*LEAST.values(), *test_crashes.LEAST.values(), *itertools.chain(*LEAST_OF_LONG.values())]
    assert sum(everywhere) >= 100_000


@pytest.mark.parametrize("scenario", MORE)
def test_every_operation_fails(scenario, record_property):
    count = fail_everywhere(scenario, MORE[scenario])
    record_property("operations that failed", count)
    assert count > 100


def test_the_scenarios_do_what_they_say():
    """Else a scenario could quietly become one of the others."""
    world = run(a_reserve_that_is_used_up, Plan(), LittleReserved)
    settled = [record.event.id for record in world.appended if isinstance(record.event, TicketDone)]
    assert settled[-1] == "h"
    assert 1 < len(settled) < 8
    world = run(settling_from_the_reserve, Plan(), Reserved)
    assert [record.event.id for record in world.appended[3:-1]] == ["a", "b", "c", "e"]
    assert world.plan.done.count("allocate") == 2, "it was made whole again"
    world = run(rotating_on_a_full_disk, Plan(), Reserved)
    assert [record.event.id for record in world.appended[:-1]] == ["a", "b", "c", "a", "b", "d", "e"]
    assert len(segments(WHERE, world.files)) > 2
    world = run(rotated_elsewhere, Plan(), Offering)
    assert world.plan.done.count("sync_names") == 4
    assert world.plan.done.count("sync_twin") == 4 + 4 * 2 - 1, "but for the first tail's first, which has no twin yet"
    assert len(world.appended) == 4 * 3 + 4 * 3 + 1
    for scenario, times in ((synced_elsewhere, 3), (rotated_while_in_flight, 1), (lost_answers, 2)):
        assert run(scenario, Plan(), Offering).plan.done.count("sync_twin") >= times


def test_a_rotation_that_is_forgotten_on_its_way_touches_nothing():
    """It may be a forked child that forgets it: the file that it would tidy away is the parent's."""
    world = Offering(Plan())
    world.open(TINY)
    world.log.rotates = False
    world.put([added("a")], [added("b")], [added("c")])
    rotation = world.log.rotation()
    next(rotation)
    before, count = world.files.state(), world.plan.count
    assert any(name.endswith(".tmp") for name in world.files.list(WHERE / "log"))
    rotation.close()
    assert world.files.state() == before
    assert world.plan.done[count:] == ["list"]


@pytest.mark.parametrize("scenario", [*SCENARIOS, *MORE])
def test_recovery_without_room(scenario):
    """Whatever room the next process finds, it opens or says that it cannot; with room nothing is missing."""
    world = run(scenario, Plan(), MORE.get(scenario, World))
    for room in range(0, 3000, 150):
        disk = world.files.killed()
        disk.plan = Plan(room=room)
        try:
            log, records = opened(disk, world)
        except OSError as error:
            check_named(error, errno.ENOSPC)
        else:
            check(world, records, world.written)
            log.abandon()
        disk = disk.killed()
        check(world, opened(disk, world)[1], world.written)


# --- repair -----------------------------------------------------------------------------------------------------------


class Still:
    """In place of `datetime`: the same repair leaves the same disk."""

    @staticmethod
    def now(_zone):
        return moment(7000)


@pytest.fixture
def still(monkeypatch):
    monkeypatch.setattr(sys.modules["kharon.log.repair"], "datetime", Still)


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


def flip(files: SimulatedFiles, path: Path, byte: int) -> None:
    data = files.read(path).read()
    files.overwrite(path, byte % len(data), bytes([data[byte % len(data)] ^ 1]))


def a_record_of_the_first(files: SimulatedFiles) -> None:
    flip(files, segments(WHERE, files)[0], 700)


def a_record_of_the_last(files: SimulatedFiles) -> None:
    flip(files, segments(WHERE, files)[-1], 400)


def a_seal(files: SimulatedFiles) -> None:
    flip(files, segments(WHERE, files)[1], -20)


def a_header(files: SimulatedFiles) -> None:
    flip(files, segments(WHERE, files)[2], 150)


def a_segment_is_missing(files: SimulatedFiles) -> None:
    files.unlink(segments(WHERE, files)[1])


DAMAGES = [a_record_of_the_first, a_record_of_the_last, a_seal, a_header, a_segment_is_missing]


class Damaged:
    """A damaged log, on disk, and what a repair keeps of it."""

    def __init__(self, damage: Callable[[SimulatedFiles], None]) -> None:
        files, records = three_segments()
        damage(files)
        self.files = files.survivor(lambda count: count - 1)
        self.world = World(Plan(), self.files)
        with pytest.raises(CorruptLog):
            opened(self.files.killed(), self.world)
        self.plan = repair(WHERE, files=self.files.killed())
        self.kept = records[: self.plan.last]
        self.cut = {self._bytes(cut.file, cut.byte) for cut in self.plan.cuts}
        self.seen: set[bytes] = set()

    def _bytes(self, file: str, byte: int) -> bytes:
        return self.files.read(WHERE / file).read()[byte:]

    def go_on(self, files: SimulatedFiles) -> None:
        """Open what a repair that was stopped left, after a repair if that is asked for: what it said is kept, is."""
        state = files.whole_state()
        if state in self.seen:
            return
        self.seen.add(state)
        if repair(WHERE, files=files).damage is not None:
            with pytest.raises(CorruptLog):
                opened(files.killed(), self.world)
            assert repair(WHERE, files=files, confirm=True).done
        log, (*kept, last) = opened(files, self.world)
        log.abandon()
        assert isinstance(last.event, LogRepaired)
        assert [record for record in kept if not isinstance(record.event, LogRepaired)] == self.kept
        aside = files.list(WHERE / "quarantine") if self.cut else []
        found = {files.read(WHERE / "quarantine" / name).read() for name in aside}
        assert self.cut <= found, "bytes that were cut are nowhere"
        assert opened(files, self.world)[1] == [*kept, last]

    def stopped(self, plan: Plan) -> SimulatedFiles:
        """A disk on which a repair did not come to its end."""
        disk = self.files.killed()
        disk.plan = plan
        try:
            repair(WHERE, confirm=True, files=disk)
        except PowerLoss:
            pass
        except OSError as error:
            check_named(error)
        disk.locked = False
        return disk


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repair_that_is_stopped_anywhere_can_be_called_again(damage, record_property):
    damaged = Damaged(damage)
    whole = damaged.stopped(Plan())
    chance, count = random.Random(damage.__name__), 0
    places = stops(whole.plan)
    for stop in places:
        disk = damaged.stopped(Plan(stop=stop))
        damaged.go_on(disk.killed())
        for left in disk.survivors(max(4, int(40 * SCALE)), chance):
            count += 1
            damaged.go_on(left)
    record_property("crash states", count)
    record_property("disks that a crash left", len(damaged.seen))
    assert len(places) > 15
    assert count > (40 if SCALE >= 1 else len(places))


def ways_to_fail(done: list[str]) -> Iterator[Plan]:
    """Each operation with each error, and each read also with less than was asked for."""
    for number, name in enumerate(done):
        for error in ERRORS:
            yield Plan(fail=number, error=error)
            if name != "read_bytes" or error != errno.EINTR:  # Python reads again as long as it is interrupted
                yield Plan(fail=number, error=error, for_good=True)
        if name == "write":
            yield Plan(fail=number, short=0.5)
        if name == "sync":
            yield Plan(fail=number, drops=False)
        if name == "rename":
            yield Plan(fail=number, late=True)
        if name == "read_bytes":
            yield Plan(fail=number, shorter=0.01, for_good=True)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repair_whose_disk_fails_can_be_called_again(damage, record_property):
    damaged = Damaged(damage)
    chance, count = random.Random(damage.__name__), 0
    for plan in ways_to_fail(damaged.stopped(Plan()).plan.done):
        disk = damaged.stopped(plan)
        for left in disk.survivors(2, chance):
            damaged.go_on(left)
        damaged.go_on(disk.killed())
        count += 1
    record_property("operations that failed", count)
    assert count > 100


# --- reading ----------------------------------------------------------------------------------------------------------


def with_snapshot() -> SimulatedFiles:
    files, _ = three_segments()
    assert take(WHERE, files) is not None
    return files.survivor(lambda count: count - 1)


def open_with_snapshot(files: SimulatedFiles) -> object:
    """Return what a store would have: the tickets of the snapshot, and the records behind it."""
    log = DirectoryLog(WHERE, files=files)
    try:
        snapshot = log.load_snapshot()
        assert snapshot is not None
        return snapshot, list(log.open(moment(9000)))
    finally:
        log.abandon()


def read_on(files: SimulatedFiles) -> object:
    log = DirectoryLog(WHERE, files=files)
    try:
        list(log.open(moment(9000)))
        reader = log.reader()
        return [record for _ in range(4) for record in reader.read(4, log.written)]
    finally:
        log.abandon()


def plan_a_repair(files: SimulatedFiles) -> object:
    return repair(WHERE, files=files)


def take_a_snapshot(files: SimulatedFiles) -> object:
    for name in files.list(WHERE / "snapshots"):
        files.unlink(WHERE / "snapshots" / name)
    return take(WHERE, files)


@pytest.mark.parametrize("read", [open_with_snapshot, read_on, plan_a_repair, take_a_snapshot])
def test_every_operation_of_reading_fails(read, record_property):
    """It gives what it would have given, or an error that names the file; and afterwards all is there as it was."""
    disk = with_snapshot()
    whole = disk.killed()
    expected = read(whole)
    count = 0
    for plan in ways_to_fail(whole.plan.done):
        broken = disk.killed()
        broken.plan = plan
        try:
            assert read(broken) == expected
        except OSError as error:
            check_named(error)
        again = broken.killed()
        assert read(again) == expected
        assert open_with_snapshot(again) == open_with_snapshot(disk.killed())
        count += 1
    record_property("operations that failed", count)
    assert count > 100


def failing(number: int, error: int | None) -> type[audit_read.FixedSizeFile]:
    """A file that fails at the n-th read of a pass, or from there on gives less than was asked for."""
    count = itertools.count()

    class Failing(audit_read.FixedSizeFile):
        def readinto(self, buffer):
            with naming(self.path):
                if next(count) >= number:
                    if error is not None:
                        raise OSError(error, os.strerror(error))
                    buffer = memoryview(buffer)[:7]
                return super().readinto(buffer)

    return Failing


def records_of(path: Path) -> list[Record]:
    return list(kharon.read(path))


@pytest.mark.parametrize("read", [kharon.verify, records_of])
def test_every_read_of_an_audit_fails(tmp_path, monkeypatch, read):
    where = tmp_path / "queue"
    log = DirectoryLog(where, TINY)
    list(log.open(moment(0)))
    for number in range(8):
        put(log, added(f"t{number}"))
    log.close(moment(1))
    expected, failed = read(where), 0
    for error in (*ERRORS[:3], None):
        for number in itertools.count():
            with monkeypatch.context() as patch:
                patch.setattr(audit_read, "FixedSizeFile", failing(number, error))
                try:
                    assert read(where) == expected
                except OSError as caught:
                    check_named(caught, error)
                    failed += 1
                else:
                    if error is not None or number > 30:
                        break
        assert read(where) == expected
    assert failed > 20


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file here that cannot be read")
@pytest.mark.parametrize("size", [1, -1])
@pytest.mark.parametrize("open_file", [OS_FILES.read, lambda path: io.BufferedReader(Endless(path))])
def test_an_error_of_reading_names_the_file(open_file, size):
    """The operating system's own, of a file that is open already, does not."""
    with open_file(Path("/proc/self/mem")) as file:
        if size == -1 and isinstance(file.raw, Endless):
            size = 100_000  # an audit reads by lines
        with pytest.raises(OSError, match="/proc/self/mem") as caught:
            file.read(size)
    assert caught.value.errno == errno.EIO


class Endless(audit_read.FixedSizeFile):
    def __init__(self, path):
        super().__init__(path)
        self.stat = os.stat_result([*self.stat[:6], 1 << 20, *self.stat[7:]])  # it says that it has no bytes
