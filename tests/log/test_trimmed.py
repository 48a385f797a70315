"""A log whose beginning was trimmed, and where segments may lie: snapshots, archives, what a crash left, repair."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

import pytest
from log_steps import NOW, added, always, carry_out, load, moment, put

import kharon
from kharon.audit import read as audit_read
from kharon.audit import replay as audit_replay
from kharon.errors import Closed, CorruptLog, KharonError
from kharon.log import zstd
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OsFiles
from kharon.log.index import write_missing
from kharon.log.locations import ARCHIVE, OWNER, open_relocated, register_archive
from kharon.log.record import Record
from kharon.log.replace import replace_file
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.scan import LogScan
from kharon.log.snapshot import kept_since, newest, take, trimmable
from kharon.log.snapshot_process import main
from kharon.model.events import LogRepaired, SegmentTrimmed, TicketDeleted

ALL = Threshold(bytes=0)
COMPRESS, ARCHIVE_ALL, TRIM = RetentionRules(compress=ALL), RetentionRules(archive=ALL), RetentionRules(trim=ALL)
FILES = OsFiles()


def begin(where: Path, files: OsFiles = FILES) -> DirectoryLog:
    log = DirectoryLog(where, 2600, files)
    snapshot = log.load_snapshot()
    for _ in log.open(NOW):
        pass
    assert snapshot is None or snapshot.seq < log.seq
    return log


def fill(log: DirectoryLog, name: str, commits: int = 16) -> None:
    for number in range(commits):
        put(log, added(f"{name}{number}"), added(f"{name}-{number}"), at=log.seq)
        put(log, TicketDeleted(f"{name}-{number}"), at=log.seq)


def state(where: Path) -> tuple[dict[str, kharon.Ticket], int]:
    """What a store makes of it on opening."""
    log = DirectoryLog(where, 2600)
    try:
        projection = load(log)
    finally:
        log.abandon()
    return dict(projection.tickets), projection.seq


def keep(log: DirectoryLog, policy: RetentionRules, archive: Path | None = None, steps: int = 99) -> None:
    """Carry out a policy; what no two snapshots hold is not trimmed."""
    carry_out(log, Retention(log, policy, archive, lambda seq: seq <= trimmable(log.directory)), steps, at=9999)


@pytest.fixture
def where(tmp_path):
    """A log of which the beginning was trimmed, with two snapshots."""
    where = tmp_path / "queue"
    log = begin(where)
    for name in "abc":
        fill(log, name)
        if name != "c":
            assert take(where)
    shutil.copytree(where, tmp_path / "whole")
    keep(log, TRIM)
    put(log, added("last"), at=9999)
    assert log.first > 1
    log.abandon()
    return where


@pytest.fixture
def whole(where):
    """The log as it was before it was trimmed."""
    return where.parent / "whole"


def snapshots(where: Path) -> list[Path]:
    return sorted((where / "snapshots").iterdir())


def spoil(path: Path, byte: int = -400) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


# --- opening and reading ----------------------------------------------------------------------------------------------


def test_it_is_trimmed_up_to_the_older_snapshot_and_no_further(where):
    older, newer = (int(path.stem) for path in snapshots(where))
    assert kharon.verify(where).first == older + 1 < newer
    assert trimmable(where) == kept_since(FILES, where) == older


def test_a_file_that_is_no_snapshot_is_not_counted_as_one(where):
    older = kept_since(FILES, where)
    (where / "snapshots" / "x.jsonl").touch()
    assert kept_since(FILES, where) == older


def test_it_opens_with_either_snapshot_and_never_without(where):
    expected = state(where)
    assert "last" in expected[0]
    assert "a3" in expected[0]
    older, newer = snapshots(where)
    spoil(newer)
    assert state(where) == expected, "the newest went bad, and the older one is still a way in"
    assert trimmable(where) == 0, "and now nothing may be trimmed"
    spoil(older)
    before = {path: path.read_bytes() for path in segments(where)}
    with pytest.raises(CorruptLog, match="no snapshot of the records before it is usable"):
        state(where)
    with pytest.raises(CorruptLog, match="no snapshot of the records before it was loaded"):
        list(DirectoryLog(where).open(NOW))
    with pytest.raises(CorruptLog, match="no snapshot of the records before it is usable"):
        take(where)
    assert {path: path.read_bytes() for path in segments(where)} == before


def test_a_snapshot_is_taken_of_it_and_what_was_passed_over_goes(where):
    log = begin(where)
    fill(log, "d")
    older, newer = snapshots(where)
    spoil(newer)
    path = take(where)
    assert snapshots(where) == [older, path], "the bad one is not kept in the place of a good one"
    assert newest(FILES, where, segments(where)).seq == int(path.stem)
    log.abandon()
    assert "d3" in state(where)[0]


def test_replaying_it_is_replaying_the_whole(where, whole):
    older = int(snapshots(where)[0].stem)
    last = kharon.verify(whole).last
    for until in (older, older + 1, older + 9, last):
        assert kharon.replay(where, until).tickets == kharon.replay(whole, until).tickets
    for seq in (older, older + 20):  # the first: the very instant of the snapshot
        at = next(record.at for record in kharon.read(whole) if record.seq == seq)
        assert kharon.replay(where, at).tickets == kharon.replay(whole, at).tickets
    assert "last" in kharon.replay(where).tickets
    for early in (older - 1, moment(0)):
        with pytest.raises(
            KharonError, match=f"begins at record {older + 1}; .* no usable snapshot at or before .* to begin with"
        ):
            kharon.replay(where, early)
    expected = kharon.replay(where).tickets
    one, two = snapshots(where)
    for bad in (one, two):
        data = bad.read_bytes()
        spoil(bad)
        assert kharon.replay(where).tickets == expected, "the other one does"
        bad.write_bytes(data)


def test_a_replay_that_is_overtaken_by_a_trim_says_so(where, monkeypatch):
    older = int(snapshots(where)[0].stem)
    looks = iter([segments(where)] * 2)  # whether it is a queue, and where it begins; then the first one is trimmed
    for module in (audit_read, audit_replay):
        monkeypatch.setattr(module, "segments", lambda folder: next(looks, segments(folder)[1:]))
    with pytest.raises(KharonError, match=rf"record {older + 1} was trimmed just now, before it was read: ask again"):
        kharon.replay(where)


def test_the_program_says_what_may_be_trimmed(where, monkeypatch, capsys):
    monkeypatch.setattr(os, "nice", lambda _by: 0)
    monkeypatch.setattr("sys.argv", ["-c", "trimmable", str(where)])
    assert main() == 0
    assert int(capsys.readouterr().out) == trimmable(where) > 0


def test_a_snapshot_follows_segments_that_are_moved(where):
    log = begin(where)
    fill(log, "d")
    stale = segments(where)
    keep(log, RetentionRules(compress=ALL, archive=ALL), steps=12)
    for path in stale[:-1]:
        with open_relocated(FILES, where, path) as file:
            assert file.readline().startswith(b'{"hash":"')
    with pytest.raises(FileNotFoundError):
        open_relocated(FILES, where, where / "log" / f"{10**9:020}.jsonl")
    assert take(where)
    log.abandon()


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    log = begin(tmp_path / "live")
    fill(log, "a", 40)
    yield log
    log.abandon()


def test_an_archive_that_cannot_be_reached(where, tmp_path, caplog):
    archive = tmp_path / "archive"
    archive.mkdir()
    log = begin(where)
    keep(log, ARCHIVE_ALL, archive, steps=2)
    retention = Retention(log, ARCHIVE_ALL, archive)
    step = retention.plan(moment(9999))
    archive.rename(tmp_path / "elsewhere")
    with pytest.raises(KharonError, match="cannot be reached; until it can, nothing is archived or trimmed"):
        retention.prepare(step)
    with pytest.raises(KharonError, match="is not there any more; mount it"):
        register_archive(where, archive / log.log_id, FILES)
    assert not archive.exists(), "nothing is written where it should be mounted"
    log.abandon()
    assert state(where)
    assert "cannot be reached; segments in it are not read" in caplog.text
    with pytest.raises(CorruptLog, match=r"no record says that earlier ones were trimmed.*if they are in an archive"):
        kharon.verify(where)
    refused_without = rf"no snapshot .* was loaded; it may be in {archive}/\w+, which cannot be reached: mount that"
    with pytest.raises(CorruptLog, match=refused_without):
        list(DirectoryLog(where).open(NOW))
    (tmp_path / "elsewhere").rename(archive)
    assert kharon.verify(where).first > 1


class Unsynced(OsFiles):
    """The next sync of a directory by this name fails, and what was not synced is forgotten at the end."""

    fails = ""

    def __init__(self):
        self.unsynced = set()

    def _named(self, path):
        self.unsynced.add(path)

    def rename(self, old, new):
        super().rename(old, new)
        self._named(new)

    def make_directory(self, path):
        super().make_directory(path)
        self._named(path)

    def sync_directory(self, path, fd=None):
        if path.name == self.fails:
            self.fails = ""
            raise OSError(5, "Input/output error")
        self.unsynced = {each for each in self.unsynced if each.parent != path}


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("fails", ["queue", "archive", "the log's id"])
def test_a_name_whose_sync_failed_is_synced_again_before_it_is_relied_on(tmp_path, fails, elsewhere):
    files = Unsynced()
    log = begin(tmp_path / "queue", files)
    fill(log, "a", 40)
    root = tmp_path / "archive"
    root.mkdir()
    retention = Retention(log, ARCHIVE_ALL, root if elsewhere else None)
    files.unsynced.clear()
    files.fails = log.log_id if fails == "the log's id" else fails

    def go_on() -> None:
        step = retention.plan(moment(9999))
        put(log, retention.prepare(step), at=9999)
        assert {path for path in files.unsynced if path.suffix != ".tmp"} == set()

    with contextlib.suppress(OSError):
        go_on()
    go_on()
    assert files.fails == ""
    log.abandon()


def test_the_directory_of_the_snapshots_is_synced_again(tmp_path):
    files = Unsynced()
    log = begin(tmp_path / "queue", files)
    fill(log, "a", 20)
    files.unsynced.clear()
    files.fails = "queue"
    with pytest.raises(OSError, match="Input"):
        take(log.directory, files)
    assert take(log.directory, files)
    assert files.unsynced == set()
    log.abandon()


def test_an_archive_directory_is_not_made(log, tmp_path):
    retention = Retention(log, ARCHIVE_ALL, tmp_path / "mount")
    with pytest.raises(KharonError, match=r"archive_directory: .*mount is not a directory; mount it, or make it"):
        retention.prepare(retention.plan(moment(9999)))
    with pytest.raises(KharonError, match="cannot be listed"):
        register_archive(log.directory, tmp_path / "a\nb", FILES)
    assert not (log.directory / ARCHIVE).exists()


def test_two_copies_of_a_queue_with_one_archive(log, tmp_path):
    """Neither overwrites what the other has put there, nor takes it away."""
    archive, copy = tmp_path / "archive", tmp_path / "copy"
    archive.mkdir()
    keep(log, ARCHIVE_ALL, archive, steps=1)
    log.abandon()
    shutil.copytree(log.directory, copy)
    one, two = begin(log.directory), begin(copy)
    keep(one, ARCHIVE_ALL, archive, steps=1)
    both = sorted((archive / one.log_id).glob("*.jsonl"))
    assert len(both) == 2
    two.abandon()
    two = begin(copy)
    assert sorted((archive / one.log_id).glob("*.jsonl")) == both, "the other's copy is left alone"
    assert kharon.verify(copy).last == two.seq
    fill(one, "one", 20)
    fill(two, "two", 20)
    for _ in range(3):
        keep(one, ARCHIVE_ALL, archive, steps=3)
        keep(two, ARCHIVE_ALL, archive, steps=2)
    assert [path.name for path in sorted(archive.iterdir())] == [one.log_id, f"{one.log_id}-2"]
    for queue in (one, two):
        assert kharon.verify(queue.directory).last == queue.seq
        assert len(list(kharon.read(queue.directory))) == queue.seq
    retention = Retention(two, TRIM, may_trim=always)
    with pytest.raises(KharonError, match="this archive is another queue's, of which this one is a copy"):
        retention.prepare(retention.plan(moment(9999)))
    one.abandon()
    two.abandon()
    spoil(segments(copy)[0], 900)
    kharon.repair(copy, confirm=True)
    assert kharon.verify(copy).segments == 1
    assert sorted(path.name for path in (archive / one.log_id).iterdir())[: len(both)] == [path.name for path in both]


class Elsewhere(OsFiles):
    """Another machine, where another disk is mounted. Inodes are as here, since those of two disks may be the same."""

    name, disk = "elsewhere", 4711

    def machine(self):
        return self.name

    def file_system_id(self, path):
        return self.disk


class OtherInode(Elsewhere):
    def identity(self, path):
        mark = super().identity(path)
        return mark._replace(inode=mark.inode + 1) if path.name == "log" else mark


@pytest.mark.parametrize("other", [Elsewhere(), OtherInode()])
def test_a_copy_at_the_same_path_of_another_machine_is_another_queue(log, tmp_path, other):
    archive = tmp_path / "archive"
    archive.mkdir()
    keep(log, ARCHIVE_ALL, archive, steps=2)
    log.abandon()
    there = sorted((archive / log.log_id).iterdir())
    copy = begin(log.directory, other)
    fill(copy, "b", 20)
    retention = Retention(copy, TRIM, may_trim=lambda _seq: True)
    with pytest.raises(KharonError, match="this archive is another queue's, of which this one is a copy"):
        retention.prepare(retention.plan(moment(9999)))
    keep(copy, ARCHIVE_ALL, archive, steps=1)
    assert sorted((archive / log.log_id).iterdir()) == there
    assert len(list((archive / f"{log.log_id}-2").glob("*.jsonl"))) == 1
    copy.abandon()


@pytest.mark.parametrize("changed", ["the machine's name", "the path", "the disk"])
def test_a_queue_that_was_moved_or_restored_has_its_archive_still(log, tmp_path, changed):
    archive, where, files = tmp_path / "archive", log.directory, Elsewhere()
    archive.mkdir()
    files.name, files.disk = FILES.machine(), FILES.file_system_id(where)
    keep(log, ARCHIVE_ALL, archive, steps=1)
    log.abandon()
    if changed == "the path":
        where = where.rename(tmp_path / "moved")
    elif changed == "the disk":
        files.disk = 4711
    else:
        files.name = "renamed"
    again = begin(where, files)
    keep(again, ARCHIVE_ALL, archive, steps=1)
    assert len(list(archive.iterdir())) == 1
    retention = Retention(again, TRIM, may_trim=lambda _seq: True)
    assert isinstance(retention.prepare(retention.plan(moment(9999))), SegmentTrimmed)
    again.abandon()


def test_an_owner_that_is_no_owner_is_somebody_elses(log, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    keep(log, ARCHIVE_ALL, archive, steps=1)
    (archive / log.log_id / OWNER).write_bytes(b"")
    keep(log, ARCHIVE_ALL, archive, steps=1)
    assert sorted(path.name for path in archive.iterdir()) == [log.log_id, f"{log.log_id}-2"]


def test_what_somebody_else_has_put_into_the_archive_is_not_taken_over(log):
    retention = Retention(log, ARCHIVE_ALL)
    step = retention.plan(moment(9999))
    copy = log.directory / retention.prepare(step).kept_as
    copy.write_bytes(copy.read_bytes()[:-9])
    with pytest.raises(KharonError, match=r"exists already, and is not the same as .*: somebody else writes there"):
        retention.prepare(step)
    assert step.segment.path.exists()


def test_what_moves_while_its_seal_is_looked_for_was_sealed(log):
    """A reader without the lock: the seal was not there, and the segment is gone when it looks again."""
    log.abandon()
    one, two, *_ = segments(log.directory)
    data = one.read_bytes()
    one.write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])

    def read(path):
        if path == two:
            one.unlink()
        return zstd.open_segment(FILES.read, path)

    reading = LogScan(lambda: segments(log.directory), read)
    assert len(list(reading.records())) == log.seq


def test_how_long_a_compressed_segment_is_is_not_looked_for(log):
    keep(log, COMPRESS, steps=1)
    path = segments(log.directory)[0]
    with (
        zstd.open_segment(FILES.read, path) as file,
        pytest.raises(OSError, match="is not known before it has been read"),
    ):
        file.seek(0, os.SEEK_END)


def refused(where: Path, match: str) -> None:
    log = DirectoryLog(where)
    try:
        with pytest.raises(CorruptLog, match=match):  # noqa: PT012 - either of the two is opening
            log.load_snapshot()
            list(log.open(NOW))
    finally:
        log.abandon()


def test_the_tail_is_not_in_an_archive(tmp_path):
    where = tmp_path / "queue"
    log = begin(where)
    fill(log, "a", 1)
    log.abandon()
    register_archive(where, where / "archive" / "x", FILES)
    (tail,) = segments(where)
    tail.rename(where / "archive" / "x" / tail.name)
    refused(where, "it is the last segment, and in an archive")
    shutil.rmtree(where / "archive")
    refused(where, r"its segments are gone: some were archived \(ARCHIVE\)")


def test_the_last_segment_is_not_compressed(log):
    log.abandon()
    tail = segments(log.directory)[-1]
    replace_file(FILES, tail.with_name(tail.name + ".zst"), zstd.compress_chunks(iter([tail.read_bytes()])))
    tail.unlink()
    with pytest.raises(CorruptLog, match="its seal is missing"):
        kharon.verify(log.directory)
    refused(log.directory, "its seal is missing")
    path = segments(log.directory)[-1]
    data = zstd.open_segment(FILES.read, path).read()
    replace_file(FILES, path, zstd.compress_chunks(iter([data[:-9]])))
    with pytest.raises(CorruptLog, match="it had been finished"):
        kharon.verify(log.directory)
    refused(log.directory, "it had been finished")


def test_names_that_are_no_segments(log):
    log.abandon()
    folder = log.directory / "log"
    first = segments(log.directory)[0]
    shutil.copy(first, folder / f"{first.stem}.bak.jsonl")
    refused(log.directory, r"bak\.jsonl.*its name is not that of a segment")
    assert (folder / f"{first.stem}.bak.jsonl").exists()
    (folder / f"{first.stem}.bak.jsonl").unlink()
    (folder / "+1.jsonl").write_bytes(first.read_bytes())
    refused(log.directory, "its name is not that of a segment")


def test_a_hole(log):
    log.abandon()
    segments(log.directory)[1].unlink()
    with pytest.raises(CorruptLog, match=r"the segment before it, .* is missing; if it is in an archive, make that"):
        kharon.verify(log.directory)
    spoil(segments(log.directory)[1], 5)
    with pytest.raises(CorruptLog, match=r"line 1 .*not a line of this log"):
        kharon.verify(log.directory)


# --- what a crash left half done (everywhere: in crashes/test_everywhere.py) ------------------------------------------


def half_done(
    log: DirectoryLog, policy: RetentionRules, *, record: bool, archive: Path | None = None
) -> tuple[Path, Path]:
    """Stop in the middle of a step; where the segment was, and where it is to be."""
    retention = Retention(log, policy, archive)
    step = retention.plan(moment(9999))
    event = retention.prepare(step)
    if record:
        put(log, event, at=9999)
    log.abandon()
    return step.segment.path, log.directory / event.kept_as


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL])
@pytest.mark.parametrize("record", [True, False])
def test_it_is_finished_if_a_record_says_so_else_undone(log, policy, record):
    old, new = half_done(log, policy, record=record)
    assert old.exists()
    assert new.exists()
    last = kharon.verify(log.directory).last
    begin(log.directory).abandon()
    assert (old.exists(), new.exists()) == (not record, record)
    assert kharon.verify(log.directory).last == last


@pytest.mark.parametrize("record", [True, False])
def test_a_bad_copy_is_removed(log, record):
    old, new = half_done(log, COMPRESS, record=record)
    new.write_bytes(new.read_bytes()[:-9])
    begin(log.directory).abandon()
    assert old.exists()
    assert not new.exists()


def test_of_two_that_differ_none_is_removed_unless_the_other_was_read(log, caplog):
    assert take(log.directory)
    old, new = half_done(log, COMPRESS, record=True)
    spoil(old)
    begin(log.directory).abandon()  # from the snapshot on
    assert old.exists()
    assert new.exists()
    assert "should hold the same; one of them is damaged" in caplog.text
    old.unlink()
    assert kharon.verify(log.directory).records > 50


def test_a_segment_in_three_places(log):
    keep(log, ARCHIVE_ALL, steps=1)
    old, new = half_done(log, COMPRESS, record=True)
    third = log.directory / "archive" / log.log_id / new.name
    shutil.copy(new, third)
    begin(log.directory).abandon()
    assert [path.exists() for path in (old, new, third)] == [False, True, False]


class Stubborn(OsFiles):
    """Does not remove segments, as long as it is told so."""

    stubborn = False

    def unlink(self, path):
        if self.stubborn and path.suffix == ".jsonl":
            raise PermissionError(13, "Permission denied")
        super().unlink(path)


def test_nothing_more_is_trimmed_before_what_was_to_be_removed_is_gone(tmp_path):
    files = Stubborn()
    log = begin(tmp_path / "queue", files)
    fill(log, "a", 40)
    retention = Retention(log, TRIM, may_trim=lambda seq: seq < 50)
    step = retention.plan(moment(9999))
    put(log, retention.prepare(step), at=9999)
    retention.switch(step)
    files.stubborn = True
    with pytest.raises(PermissionError):
        retention.finish(step)
    again = retention.plan(moment(9999))
    assert again.segment.first > step.segment.first
    with pytest.raises(PermissionError):
        retention.prepare(again)
    kharon.verify(log.directory)
    files.stubborn = False
    put(log, retention.prepare(again), at=9999)
    assert not step.segment.path.exists()
    retention.switch(again)
    retention.finish(again)
    assert kharon.verify(log.directory).first == again.segment.last + 1
    log.abandon()


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL])
@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_copy_that_nobody_speaks_of_does_not_come_back_when_the_segment_is_trimmed(
    log, tmp_path, policy, crash, elsewhere
):
    archive = tmp_path / "archive" if elsewhere else None
    (tmp_path / "archive").mkdir()
    retention = Retention(log, policy, archive)
    retention.prepare(retention.plan(moment(9999)))  # and there was no room to record it
    assert take(log.directory)
    fill(log, "b", 20)
    put(log, added("more"), at=9999)
    assert take(log.directory)
    put(log, added("most"), at=9999)
    if crash:
        log.abandon()
        log = begin(log.directory)
    keep(log, TRIM, archive)
    report = kharon.verify(log.directory)
    assert report.first == log.first > 10
    log.abandon()


def test_what_is_being_written_is_given_up_when_it_is_stopped(log):
    retention = Retention(log, COMPRESS)
    step = retention.plan(moment(9999))
    retention.stop()
    with pytest.raises(Closed):
        retention.prepare(step)
    assert {path.suffix for path in (log.directory / "log").iterdir()} == {".jsonl"}


class Opened(OsFiles):
    """Tells of each file that is opened for reading."""

    def __init__(self):
        self.opened = lambda _path: None

    def read(self, path):
        self.opened(path)
        return super().read(path)


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL])
@pytest.mark.parametrize("opening", [2, 3])  # the first is for the copy; then the old one and the new are compared
def test_what_is_being_compared_is_given_up_when_it_is_stopped(tmp_path, policy, opening):
    files = Opened()
    log = begin(tmp_path / "queue", files)
    fill(log, "a")
    retention = Retention(log, policy)
    step = retention.plan(moment(9999))
    opened = []

    def count(path):
        if path.name.startswith(step.segment.path.name):
            opened.append(path)
            if len(opened) == opening:
                retention.stop()

    files.opened = count
    with pytest.raises(Closed):
        retention.prepare(step)
    assert len(opened) == opening
    assert list(log.directory.rglob(step.segment.path.name + "*")) == [step.segment.path]
    log.abandon()


def test_a_segment_that_lacks_its_seal_as_yet_is_left_alone(log):
    before = log.finished()
    log._unsealed = object()  # as while there is no room for it
    assert log.finished() == before[:-1]
    log._unsealed = None


def test_a_live_reader_finds_what_moved_before_it_was_opened(log, monkeypatch):
    reader = log.reader()
    old = log._places[0]
    keep(log, COMPRESS, steps=1)
    new = log._places[0]
    log._places[0] = old
    with pytest.raises(FileNotFoundError):
        reader.read(1, 1)
    log._places[0] = new
    assert [record.seq for record in reader.read(9, 9)] == list(range(1, 10))
    reader.close()


# --- repair -----------------------------------------------------------------------------------------------------------


def repaired(where: Path) -> kharon.Repair:
    """Repair; what was said before must be what is done, and the log be whole and open then."""
    before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file() and path.name != "LOCK"}
    plan = kharon.repair(where)
    assert {path: path.read_bytes() for path in where.rglob("*") if path.is_file() and path.name != "LOCK"} == before
    done = kharon.repair(where, confirm=True)
    assert (plan.last, plan.lost, plan.records, plan.missing) == (done.last, done.lost, done.records, done.missing)
    for cut in done.cuts:
        assert before[where / cut.file][cut.byte :] == (where / cut.kept_as).read_bytes()
    assert kharon.repair(where).damage is None
    kharon.verify(where)
    state(where)
    return done


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL, RetentionRules(compress=ALL, archive=ALL)])
@pytest.mark.parametrize("how", ["cut", "altered"])
def test_a_segment_that_was_moved_is_damaged(log, policy, how):
    keep(log, policy, steps=9)
    log.abandon()
    before = list(kharon.read(log.directory))
    path = segments(log.directory)[2]
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) * 2 // 3])
    else:
        spoil(path, len(data) // 2)
    with pytest.raises(CorruptLog):
        kharon.verify(log.directory)
    done = repaired(log.directory)
    first = int(path.name.partition(".")[0])
    assert first - 1 <= done.last < first + 30
    assert list(kharon.read(log.directory))[: done.last] == before[: done.last]
    assert not path.exists() or path == log.directory / "log" / path.name
    if path.suffix == ".zst":
        assert done.cuts[0].byte == 0
        assert done.cuts[0].kept_as.endswith(".zst")
    assert done.cuts
    assert all((log.directory / cut.kept_as).exists() for cut in done.cuts)
    assert "quarantine" not in str(segments(log.directory))


def test_both_places_of_a_segment_that_is_cut_are_removed(log):
    log.abandon()
    first, second, third, *_ = segments(log.directory)
    spoil(second)
    for path in (second, third):
        replace_file(FILES, path.with_name(path.name + ".zst"), zstd.compress_chunks(iter([path.read_bytes()])))
    repaired(log.directory)
    assert sorted((log.directory / "log").iterdir()) == [first, second]


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL, RetentionRules(compress=ALL, archive=ALL)])
def test_a_segment_that_was_moved_and_lacks_its_seal_is_given_one_where_it_is(log, policy):
    keep(log, policy, steps=20)
    log.abandon()
    path, other, *_ = segments(log.directory)
    assert other.parent == path.parent
    with zstd.open_segment(FILES.read, path) as file:
        data = file.read()
    unsealed = iter([data[: data.rindex(b"\n", 0, -1) + 1]])
    replace_file(FILES, path, zstd.compress_chunks(unsealed) if path.suffix == ".zst" else unsealed)
    done = repaired(log.directory)
    assert done.last == log.seq
    assert done.seals == (path.relative_to(log.directory).as_posix(),)
    assert segments(log.directory)[0] == path.parent / f"{1:020}.jsonl"
    assert not path.name.endswith(".zst") or not path.exists()


def test_what_is_cut_in_an_archive_is_removed_there(log):
    keep(log, ARCHIVE_ALL, steps=4)
    log.abandon()
    first, second, third, *_ = segments(log.directory)
    spoil(second)
    repaired(log.directory)
    assert segments(log.directory) == [first, log.directory / "log" / second.name]
    assert [path.exists() for path in (first, second, third)] == [True, False, False]


def test_damage_behind_the_older_snapshot_of_a_trimmed_log(where):
    spoil(segments(where)[-1], 900)
    older = int(snapshots(where)[0].stem)
    for segment in segments(where):
        if int(segment.stem) > int(snapshots(where)[1].stem):
            break
    spoil(segment)
    expected = kharon.replay(where, int(segment.stem) - 1)
    done = repaired(where)
    assert done.last >= int(segment.stem) - 1
    assert done.missing == (1, older), "the records that said it was trimmed are cut"
    tickets, _ = state(where)
    assert expected.tickets.keys() <= tickets.keys()
    last = list(kharon.read(where))[-2:]
    assert [type(record.event) for record in last] == [LogRepaired, SegmentTrimmed]
    assert last[1].event.last == older
    assert kharon.verify(where).first == older + 1


def test_damage_in_front_of_the_first_usable_snapshot_of_a_trimmed_log(where):
    older, newer = snapshots(where)
    expected = state(where)
    first = segments(where)[0]
    assert int(first.stem) == int(older.stem) + 1
    spoil(first)
    done = kharon.repair(where)
    assert int(older.stem) <= done.last < int(newer.stem), "the older snapshot would be the state"
    older.unlink()
    for confirm in (False, True):
        with pytest.raises(
            CorruptLog, match=r"no usable snapshot is of .* or earlier, so the part to keep could not be"
        ):
            kharon.repair(where, confirm=confirm)
    assert state(where) == expected, "as it is, it opens with the newer one"


def test_damage_behind_the_record_of_a_trim(where):
    path = segments(where)[-1]
    log = begin(where)
    put(log, added("x"), at=9999)
    put(log, added("y"), at=9999)
    log.abandon()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-2], lines[-2][:-9] + b"\n", lines[-1]]))
    done = repaired(where)
    assert done.missing is None, "the record is kept"
    assert type(list(kharon.read(where))[-1].event) is LogRepaired


def test_a_beginning_that_was_removed_by_hand(where):
    carry = segments(where)
    first = next(path for path in carry if int(path.stem) == int(snapshots(where)[1].stem) + 1)
    for path in carry:
        if path.name < first.name:
            path.unlink()
    with pytest.raises(CorruptLog, match="no record says that earlier ones were trimmed"):
        kharon.verify(where)
    last = state(where)[1]
    done = repaired(where)
    assert (done.last, done.missing, done.cuts, done.seals) == (last, (1, int(first.stem) - 1), (), ())
    assert kharon.verify(where).first == int(first.stem)


def test_a_beginning_of_which_nothing_is_whole(where):
    first = segments(where)[0]
    data = first.read_bytes()
    first.write_bytes(data[5:])
    with pytest.raises(CorruptLog, match="nothing before it is whole"):
        kharon.repair(where)
    first.write_bytes(data)


def test_a_beginning_that_a_record_contradicts(where):
    log = begin(where)
    put(log, SegmentTrimmed("log/x", 1, log.first - 1, "ab" * 32), at=9999)
    log.abandon()
    whole = kharon.verify(where)
    assert whole.first > 1, "the first record to speak of it counts"
    path = segments(where)[0]
    log = begin(where)
    put(log, SegmentTrimmed("log/y", 1, log._places[1].first - 1, "cd" * 32), at=9999)
    log.abandon()
    path.unlink()
    with pytest.raises(CorruptLog, match="its header says"):
        kharon.verify(where)
    with pytest.raises(KharonError, match=f"says that the log follows {'cd' * 32}, which is not what its header says"):
        kharon.repair(where)


def told(records: list[Record]) -> list[int]:
    return [record.seq for record in records]


def test_the_history_that_is_left_can_be_read_live(where):
    log = begin(where)
    for indexed in (False, True):
        if indexed:
            assert write_missing(where, segments(where)) > 1
        reader = log.reader(id="last")
        found = []
        while reader.seq < log.written:
            found += reader.read(100, log.written)
        assert [record.event.id for record in found] == ["last"]
        reader.close()
    reader = log.reader()
    seqs = []
    while reader.seq < log.written:
        seqs += told(reader.read(100, log.written))
    assert seqs == list(range(log.first, log.seq + 1))
    reader.close()
    log.abandon()


def test_a_damaged_segment_behind_a_snapshot_is_passed_over_with_it(where, caplog):
    log = begin(where)
    fill(log, "d", 20)
    assert take(where)
    log.abandon()
    newer = snapshots(where)[1]
    path = next(path for path in segments(where) if int(path.stem) == int(newer.stem) + 1)
    if path != segments(where)[-1]:
        replace_file(FILES, path.with_name(path.name + ".zst"), zstd.compress_chunks(iter([path.read_bytes()])))
        path.unlink()
        spoil(path.with_name(path.name + ".zst"), 9)
        with caplog.at_level(logging.WARNING):
            assert newest(FILES, where, segments(where)).seq < int(newer.stem)
        assert "cannot be decompressed" in caplog.text
