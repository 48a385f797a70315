"""Repair: it says what it would lose, does it when told to, and leaves a whole log alone."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import attrs
import pytest
from log_steps import FIRST_NAME, NOW, added, chained, header_body, moment, opened, place, put, record_body, sample

import kharon
from kharon.errors import CorruptLog, InvalidTicket, KharonError, QueueLocked, UnknownFormat
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OsFiles
from kharon.log.snapshot import take
from kharon.model.events import LogRepaired, TicketDone


@pytest.fixture
def where(tmp_path):
    """A log of several segments, closed: 40 tickets of 300 bytes, every second one done."""
    where = tmp_path / "queue"
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    for number in range(40):
        put(log, added(f"t{number}", b'"%b"' % (b"x" * 100)), at=number)
        if number % 2:
            put(log, TicketDone(f"t{number}", keep=True), at=number)
    log.close(moment(100))
    assert len(segments(where)) >= 5
    return where


def everything(where: Path) -> dict[str, bytes]:
    files = {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}
    return {path.relative_to(where).as_posix(): data for path, data in files.items() if path.name != "LOCK"}


def damage(path: Path, line: int) -> None:
    """Alter a byte in the middle of a line."""
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines[line]) // 2
    lines[line] = lines[line][:middle] + bytes([lines[line][middle] ^ 1]) + lines[line][middle + 1 :]
    path.write_bytes(b"".join(lines))


def drop(path: Path, line: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[line]
    path.write_bytes(b"".join(lines))


def check_repaired(where: Path, before: dict[str, bytes], kept: list[object], plan: kharon.Repair) -> kharon.Repair:
    """Repair, and hold the outcome to the plan and to what there was before."""
    assert not plan.done
    assert everything(where) == before, "a plan changes nothing"
    done = kharon.repair(where, confirm=True)
    assert done.done
    assert [(cut.file, cut.byte, cut.length, cut.records) for cut in done.cuts] == [
        (cut.file, cut.byte, cut.length, cut.records) for cut in plan.cuts
    ]
    for cut in done.cuts:
        assert (where / cut.kept_as).read_bytes() == before[cut.file][cut.byte :]
    report = kharon.verify(where)
    records = list(kharon.read(where))
    tail = [record for record in records if record.seq > plan.last]
    assert [record.event for record in records if record.seq <= plan.last] == kept[: plan.last]
    assert {type(record.event) for record in tail} == {LogRepaired}
    assert {record.by for record in tail} == {"repair"}
    assert [
        (e.event.file, e.event.byte, e.event.length, e.event.kept_as, e.event.records) for e in tail if e.event.length
    ] == [(cut.file, cut.byte, cut.length, cut.kept_as, cut.records) for cut in done.cuts]
    assert not report.unfinished
    whole = kharon.repair(where, confirm=True)
    assert (whole.damage, whole.done, whole.cuts) == (None, False, ())
    log, found = opened(where)
    assert [record.seq for record in found] == list(range(1, report.last + 1))
    put(log, added("on"), at=1000)
    log.close(moment(1001))
    kharon.verify(where)
    return done


def events_in(where: Path) -> list[object]:
    return [record.event for record in kharon.read(where)]


@pytest.mark.parametrize("closed", [True, False])
def test_a_whole_log_is_left_alone(tmp_path, closed):
    sample(tmp_path / "queue", closed=closed)
    before = everything(tmp_path / "queue")
    plan = kharon.repair(tmp_path / "queue", confirm=True)
    assert plan == kharon.Repair(path=tmp_path / "queue", damage=None, last=plan.last)
    assert everything(tmp_path / "queue") == before


def test_an_unfinished_last_commit_is_no_damage(tmp_path):
    where = tmp_path / "queue"
    data = sample(where, closed=False)
    (where / "log" / FIRST_NAME).write_bytes(data[:-5])
    before = everything(where)
    assert kharon.repair(where, confirm=True).damage is None
    assert everything(where) == before


def test_a_damaged_record_in_the_middle(where):
    events, before = events_in(where), segments(where)
    damage(before[2], 3)
    first = int(before[2].stem)
    files = everything(where)
    with pytest.raises(CorruptLog) as corrupt:
        opened(where)
    plan = kharon.repair(where)
    assert plan.damage == str(corrupt.value).removesuffix(". Nothing was changed") or before[2].name in plan.damage
    assert plan.last == first + 1
    assert plan.lost == (first + 2, len(events))
    assert plan.records == len(events) - plan.last - 1, "all but the damaged line can be read"
    lost = {event.id for event in events[plan.last + 1 :] if hasattr(event, "id")}
    assert plan.tickets == len(lost)
    kept = {event.id for event in events[: plan.last]}
    readable = {event.id for event in events[plan.last + 1 :] if type(event).__name__ == "TicketAdded"}
    assert plan.gone == len(readable - kept)
    assert 0 < plan.gone <= plan.tickets
    assert [cut.file for cut in plan.cuts] == [f"log/{path.name}" for path in before[2:]]
    assert [cut.byte for cut in plan.cuts[1:]] == [0] * (len(before) - 3)
    check_repaired(where, files, events, plan)


def test_what_a_plan_says_to_a_person(where):
    paths = segments(where)
    assert str(kharon.repair(where)) == f"{where} is whole: there is nothing to repair"
    damage(paths[2], 3)
    plan = kharon.repair(where)
    size = sum(cut.length for cut in plan.cuts)
    about = f"they are about {plan.tickets} tickets, and {plan.gone} of those will be gone"
    said = [
        f"damage: {plan.damage}",
        f"kept: the log up to record {plan.last}",
        f"lost: records {plan.lost[0]} to {plan.lost[1]}, of which {plan.records} can still be read; {about}",
        f"cut: {size} bytes in {len(paths) - 2} files, which are kept in quarantine/",
    ]
    assert str(plan).splitlines() == [*said, "nothing has been done yet: confirm=True does it"]
    assert str(kharon.repair(where, confirm=True)).splitlines() == [*said, "this has been done"]


def test_what_a_plan_without_a_loss_says(where):
    drop(segments(where)[1], -1)
    plan = attrs.evolve(kharon.repair(where), missing=(1, 7))
    assert str(plan).splitlines()[1:] == [
        f"kept: the log up to record {plan.last}",
        f"sealed anew: {plan.seals[0]}",
        "missing at the beginning: records 1 to 7, said to be trimmed",
        "nothing has been done yet: confirm=True does it",
    ]


@pytest.mark.parametrize("segment", [0, 1, 3, -2])
def test_a_damaged_line_anywhere(where, segment):
    events = events_in(where)
    path = segments(where)[segment]
    count = len(path.read_bytes().splitlines())
    data = path.read_bytes()
    for line in range(1, count - 1):
        path.write_bytes(data)
        damage(path, line)
        plan = kharon.repair(where)
        assert plan.damage is not None
        assert plan.last == int(path.stem) + line - 2
    check_repaired(where, everything(where), events, plan)


@pytest.mark.parametrize("segment", [1, 3])
def test_a_damaged_header_ends_the_log_with_the_segment_before(where, segment):
    events, paths = events_in(where), segments(where)
    damage(paths[segment], 0)
    plan = kharon.repair(where)
    assert plan.last == int(paths[segment].stem) - 1
    assert [cut.byte for cut in plan.cuts[1:]] == [0] * (len(paths) - segment)
    assert plan.cuts[0].file == f"log/{paths[segment - 1].name}", "its seal names a successor that it has not any more"
    assert plan.cuts[0].records == 0
    check_repaired(where, everything(where), events, plan)
    assert segments(where) == paths[:segment]


def test_a_segment_that_is_missing(where):
    events, paths = events_in(where), segments(where)
    paths[2].unlink()
    plan = kharon.repair(where)
    assert plan.last == int(paths[2].stem) - 1
    assert plan.lost == (plan.last + 1, len(events))
    check_repaired(where, everything(where), events, plan)


def test_a_last_segment_that_is_missing(where):
    events, paths = events_in(where), segments(where)
    paths[-1].unlink()
    plan = kharon.repair(where)
    assert (plan.last, plan.records, plan.lost) == (int(paths[-1].stem) - 1, 0, None)
    assert "missing" in plan.damage
    assert len(plan.cuts) == 1
    check_repaired(where, everything(where), events, plan)


def test_a_segment_under_another_name(where):
    events, paths = events_in(where), segments(where)
    paths[-1].rename(paths[-1].with_name(f"{10**15:020}.jsonl"))
    plan = kharon.repair(where)
    assert plan.last == int(paths[-1].stem) - 1
    check_repaired(where, everything(where), events, plan)


@pytest.mark.parametrize("how", [damage, drop])
def test_a_seal_that_is_damaged_costs_no_record(where, how):
    events, paths = events_in(where), segments(where)
    seals = [path.read_bytes().splitlines()[-1] for path in paths[:-1]]
    for path in (paths[1], paths[2]):
        how(path, -1)
    before = everything(where)
    plan = kharon.repair(where)
    assert plan.seals == (f"log/{paths[1].name}", f"log/{paths[2].name}")
    assert (plan.last, plan.lost, plan.records, plan.tickets) == (len(events), None, 0, 0)
    assert len(plan.cuts) == (2 if how is damage else 0)
    done = check_repaired(where, before, events, plan)
    assert done.seals == plan.seals
    assert [path.read_bytes().splitlines()[-1] for path in paths[:-1]] == seals
    repaired = [event for event in events_in(where) if isinstance(event, LogRepaired)]
    assert [event.file for event in repaired] == list(plan.seals)


def test_a_damaged_seal_in_front_of_other_damage(where):
    events, paths = events_in(where), segments(where)
    damage(paths[1], -1)
    damage(paths[3], 2)
    damage(paths[3], 4)
    plan = kharon.repair(where)
    assert plan.seals == (f"log/{paths[1].name}",)
    assert plan.last == int(paths[3].stem)
    check_repaired(where, everything(where), events, plan)


def test_a_damaged_seal_with_a_damaged_header_behind_it(where):
    events, paths = events_in(where), segments(where)
    damage(paths[1], -1)
    damage(paths[2], 0)
    plan = kharon.repair(where)
    assert plan.seals == ()
    assert plan.last == int(paths[2].stem) - 1
    check_repaired(where, everything(where), events, plan)


def test_a_commit_of_several_records_is_kept_or_cut_as_one(tmp_path):
    where = tmp_path / "queue"
    log, _ = opened(where)
    put(log, added("a"))
    put(log, added("b"), added("c"), added("d"))
    put(log, added("e"))
    log.close(moment(1))
    events = events_in(where)
    damage(where / "log" / FIRST_NAME, 3)
    plan = kharon.repair(where)
    assert (plan.last, plan.lost, plan.records, plan.tickets, plan.gone) == (1, (2, 6), 4, 3, 3)
    check_repaired(where, everything(where), events, plan)


def test_nothing_in_front_is_whole(where):
    damage(segments(where)[0], 0)
    before = everything(where)
    for confirm in (False, True):
        with pytest.raises(CorruptLog, match="restore the log from a copy") as corrupt:
            kharon.repair(where, confirm=confirm)
        assert (corrupt.value.line, corrupt.value.byte) == (1, 0)
    assert everything(where) == before


def test_what_a_later_version_wrote_is_no_damage(tmp_path):
    where = place(tmp_path / "queue", chained(header_body(), record_body(event="TicketPraised")))
    before = everything(where)
    with pytest.raises(UnknownFormat):
        kharon.repair(where, confirm=True)
    assert everything(where) == before


def test_a_queue_that_is_open_is_not_touched(where):
    log, _ = opened(where)
    with pytest.raises(QueueLocked):
        kharon.repair(where)
    log.abandon()


def test_it_gives_the_lock_back(where):
    kharon.repair(where)
    damage(segments(where)[1], 1)
    kharon.repair(where)
    with pytest.raises(InvalidTicket):
        kharon.repair(where, actor="")
    kharon.repair(where, confirm=True, actor="ann")
    assert {record.by for record in kharon.read(where) if isinstance(record.event, LogRepaired)} == {"ann"}


@pytest.mark.parametrize("make", [lambda _path: None, Path.mkdir, lambda path: (path / "log").mkdir(parents=True)])
def test_what_is_no_queue(tmp_path, make):
    make(tmp_path / "queue")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KharonError, match="is not a queue"):
        kharon.repair(tmp_path / "queue", confirm=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_opening_never_repairs(where):
    damage(segments(where)[1], 1)
    before = everything(where)
    for _ in range(2):
        with pytest.raises(CorruptLog):
            opened(where)
    assert everything(where) == before


class Crash(Exception):
    pass


class Dying(OsFiles):
    """Files that die in front of their nth change."""

    def __init__(self, steps):
        self.steps = steps
        self.error = Crash()

    def step(self):
        self.steps -= 1
        if self.steps < 0:
            raise self.error

    def create(self, path):
        self.step()
        return super().create(path)

    def make_directory(self, path):
        self.step()
        super().make_directory(path)

    def rename(self, old, new):
        self.step()
        super().rename(old, new)

    def unlink(self, path):
        self.step()
        super().unlink(path)

    def sync_directory(self, path, fd=None):
        self.step()
        super().sync_directory(path, fd)


@pytest.mark.parametrize("error", [Crash(), OSError(errno.EIO, os.strerror(errno.EIO))])
def test_a_repair_that_dies_anywhere_can_be_done_again(where, tmp_path, error):
    """And until then the log is refused: nothing is lost without a record that says so."""
    events, paths = events_in(where), segments(where)
    damage(paths[1], -1)
    damage(paths[2], 2)
    last = kharon.repair(where).last
    files = everything(where)
    for steps in range(200):
        copy = tmp_path / f"copy-{steps}"
        shutil.copytree(where, copy)
        dying = Dying(steps)
        dying.error = error
        with contextlib.suppress(Crash, OSError):
            kharon.repair(copy, confirm=True, files=dying)
            break
        try:
            opened(copy)[0].abandon()
        except CorruptLog:
            assert kharon.repair(copy, confirm=True).done
        found = list(kharon.read(copy))
        assert [record.event for record in found[:last]] == events[:last]
        repaired = [record.event for record in found[last:] if isinstance(record.event, LogRepaired)]
        kept = [(copy / event.kept_as).read_bytes() for event in repaired if event.length]
        cut = {path.name: files[f"log/{path.name}"] for path in paths[2:]}
        for name, data in cut.items():
            aside = [path.read_bytes() for path in (copy / "quarantine").iterdir() if path.name.startswith(name[:20])]
            assert any(data.endswith(each) for each in aside), f"{name} is not kept"
        assert kept
        kharon.verify(copy)
    assert steps > 20


def test_until_a_repair_has_written_the_tail_all_that_stands_behind_is_there(where, tmp_path):
    """If it were not, damage at the very end of a segment would look like a commit that was never finished."""
    path = segments(where)[2]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + bytes(len(lines[-2]) + len(lines[-1])))  # the last record, and the seal
    plan = kharon.repair(where)
    assert plan.gone > 0
    refused = repaired = 0
    for steps in range(200):
        copy = tmp_path / f"copy-{steps}"
        shutil.copytree(where, copy)
        with contextlib.suppress(Crash):
            kharon.repair(copy, confirm=True, files=Dying(steps))
            break
        try:
            opened(copy)[0].abandon()
        except CorruptLog:
            refused += 1
        else:
            repaired += 1
            assert any(isinstance(record.event, LogRepaired) for record in kharon.read(copy)), "it says what is missing"
    assert refused > 10
    assert repaired > 0


def test_after_a_repair_no_snapshot_of_what_was_cut_makes_verify_complain(where):
    taken = take(where)
    early = int(taken.stem)
    log = DirectoryLog(where, 4096)
    list(log.open(moment(150)))
    for number in range(40):
        put(log, added(f"u{number}", b'"%b"' % (b"x" * 100)), at=200)
    log.close(moment(300))
    late = take(where)
    assert int(late.stem) > early
    last_but_two = segments(where)[-3]
    damage(last_but_two, 2)
    before = late.read_bytes()
    (where / "quarantine").mkdir()
    (where / "quarantine" / f"snapshot-{late.stem}").write_bytes(b"of an earlier repair")
    assert kharon.repair(where).last < int(late.stem)
    assert late.exists(), "a plan changes nothing"
    kharon.repair(where, confirm=True)
    report = kharon.verify(where)
    assert report.bad_snapshots == ()
    assert [path.name for path in (where / "snapshots").iterdir()] == [taken.name], "the older one still fits"
    assert (where / "quarantine" / f"snapshot-{late.stem}.1").read_bytes() == before
    log, _ = opened(where)
    log.close(moment(400))


def test_a_repair_by_root_leaves_files_that_their_owner_can_open(where, monkeypatch):
    """A user who is not root cannot give files away, but to himself, as here."""
    owner = os.geteuid() or 1000
    for path in (where, *where.rglob("*")):
        os.chown(path, owner, -1)
    take(where)
    damage(segments(where)[-2], 2)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    kharon.repair(where, confirm=True)
    (where / "LOCK").unlink()
    log = DirectoryLog(where, reserve_bytes=4096)
    list(log.open(moment(200)))
    log.abandon()
    owners = {path.relative_to(where).as_posix(): path.stat().st_uid for path in where.rglob("*")}
    assert {name.split("/")[0] for name in owners} >= {"log", "quarantine", "reserve", "snapshots", "begun", "LOCK"}
    assert set(owners.values()) == {owner}


def test_a_snapshot_beyond_a_last_segment_that_is_missing_is_set_aside_without_a_cut(where, tmp_path):
    log = DirectoryLog(where, 4096)
    list(log.open(moment(150)))
    for number in range(40):
        put(log, added(f"u{number}", b'"%b"' % (b"x" * 100)), at=200)
    log.close(moment(300))
    late = take(where)
    shutil.rmtree(where / "quarantine", ignore_errors=True)
    for path in segments(where)[-2:]:
        path.rename(tmp_path / path.name)
    assert kharon.repair(where, confirm=True).last < int(late.stem)
    assert not late.exists()
    assert (where / "quarantine" / f"snapshot-{late.stem}").exists()
    assert kharon.verify(where).bad_snapshots == ()
