"""Single crashes on the simulated disk, each for one step that looks as if it could be left out.

`test_everywhere` looks at every crash of its scenarios, and takes minutes; these say in a moment what a step is for.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from log_steps import NOW, added, moment, put
from simulated_files import SECTOR, Plan, PowerLoss, SimulatedFiles, disks_of

from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import Files
from kharon.log.record import Record
from kharon.log.snapshot import KEPT, Snapshot, newest, take
from kharon.model.events import LogClosed

WHERE = Path("/queue")
SMALL = 600  # bytes: a segment is full after two records
LARGE = 1 << 20


class Killed(Plan):
    """The process ends behind the first operation that is called `behind`, once that is set, and perhaps has failed."""

    behind = ""
    fails = False
    ended = False

    def step(self, name: str) -> bool:
        if self.ended:
            raise PowerLoss
        failed = super().step(name)
        self.ended = name == self.behind
        return failed or (self.ended and self.fails)


def opened(files: Files, segment_bytes: int = LARGE) -> tuple[DirectoryLog, list[Record]]:
    log = DirectoryLog(WHERE, segment_bytes, files)
    return log, list(log.open(moment(100)))


@pytest.mark.parametrize("length", range(0, SECTOR, 100))
def test_a_closing_line_in_the_page_cache_is_written_again_before_anything_stands_behind_it(length):
    """At some of these lengths it reaches over the end of a sector, which nobody writes again."""
    plan = Killed()
    files = SimulatedFiles(plan=plan)
    log, _ = opened(files)
    put(log, added("a", b'"%b"' % (b"x" * length)))
    plan.behind, plan.fails = "sync", True  # that of the closing line, which then would be taken back
    with pytest.raises(PowerLoss):
        log.close(moment(1))
    files = files.killed()
    again, records = opened(files)
    assert records[-1].event == LogClosed()
    put(again, added("b"))
    for disk in disks_of(files):
        assert [getattr(record.event, "id", None) for record in opened(disk)[1]] == ["a", None, "b"]


def test_the_name_of_a_new_segment_is_on_disk_before_the_one_in_front_is_sealed_by_recovery():
    plan = Killed()
    files = SimulatedFiles(plan=plan)
    log, _ = opened(files, SMALL)
    put(log, added("a"))
    plan.behind = "rename"
    with pytest.raises(PowerLoss):
        put(log, added("b"))
    for stop in range(100):
        recovering = files.killed()
        recovering.plan = Plan(stop=stop)
        try:
            opened(recovering, SMALL)
        except PowerLoss:
            pass
        else:
            break
        for disk in disks_of(recovering):
            assert [record.event.id for record in opened(disk, SMALL)[1]] == ["a", "b"]
    assert stop > 10


def filled(rounds: int, files: SimulatedFiles) -> None:
    log, records = opened(files, SMALL)
    for number in range(rounds):
        put(log, added(f"{len(records)}-{number}"))
    log.close(NOW)


def usable(files: SimulatedFiles) -> Snapshot | None:
    return newest(files, WHERE, segments(WHERE, files))


def test_a_snapshot_has_its_name_only_once_it_is_on_disk():
    files = SimulatedFiles()
    filled(5, files)
    path = take(WHERE, files)
    taken = usable(files)
    assert taken is not None
    assert path == WHERE / "snapshots" / f"{taken.seq:020}.jsonl"
    for disk in disks_of(files):
        assert usable(disk) == taken


def test_a_snapshot_is_never_dropped_before_the_next_one_has_its_name():
    files = SimulatedFiles()
    for _ in range(KEPT):
        filled(5, files)
        take(WHERE, files)
    filled(5, files)
    for stop in range(1000):
        taking = files.killed()
        taking.plan = Plan(stop=stop)
        try:
            take(WHERE, taking)
        except PowerLoss:
            pass
        else:
            break
        for disk in disks_of(taking):
            names = [name for name in disk.list(WHERE / "snapshots") if name.endswith(".jsonl")]
            assert len(names) >= KEPT
            assert usable(disk) is not None
    assert stop > 10
