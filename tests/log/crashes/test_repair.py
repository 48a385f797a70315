"""Repair on the simulated disk: stopped anywhere, and failed everywhere, it can be called again."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from log_steps import moment
from simulated_files import Plan, PowerLoss, SimulatedFiles, check_named

from kharon.errors import CorruptLog
from kharon.log.directory import segments
from kharon.log.repair import repair
from kharon.model.events import LogRepaired

from .everywhere import SCALE, stops, ways_to_fail
from .world import WHERE, World, opened, three_segments

pytestmark = pytest.mark.usefixtures("quiet")


class Still:
    """In place of `datetime`: the same repair leaves the same disk."""

    @staticmethod
    def now(_zone):
        return moment(7000)


@pytest.fixture
def still(monkeypatch):
    monkeypatch.setattr(sys.modules["kharon.log.repair"], "datetime", Still)


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
