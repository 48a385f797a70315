"""Several segments: how one follows another, what seals prove, and what goes wrong between the two."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
from log_steps import (
    FIRST_NAME,
    NOW,
    added,
    hash_of,
    moment,
    opened,
    put,
    read_from,
    records_in,
    seal,
    two_segments,
)
from simulated_files import Plan, SimulatedFiles

import kharon
from kharon.errors import CorruptLog, StorageFull
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES
from kharon.log.record import BadLine, Chain, Seal, check_line, is_seal, parse_seal, seal_line
from kharon.log.replace import DirectorySync
from kharon.log.scan import LogScan
from kharon.log.segment import BrokenSegment, is_proved_durable, read_segment, segment_name
from kharon.model.events import LogClosed, TailCut, TicketDeleted

SMALL = 600  # bytes: a segment is full after two records


@pytest.fixture
def log(where):
    log = DirectoryLog(where, SMALL)
    list(log.open(NOW))
    yield log
    log.abandon()


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def names(where: Path) -> list[str]:
    return sorted(path.name for path in (where / "log").iterdir())


# --- one behind the other ---------------------------------------------------------------------------------------------


def test_a_full_segment_gets_a_successor_and_a_seal(where, log):
    for id in "abcde":
        put(log, added(id))
    assert names(where) == [segment_name(1), segment_name(3), segment_name(5)]
    chain = Chain()
    log_id = json.loads(lines_of(segments(where)[0])[0])["log"]
    ids = iter("abcde")
    for number, path in enumerate(segments(where)):
        header, *records = lines_of(path)
        last = None if number == 2 else records.pop()
        assert header == chain.header(log_id, NOW)
        for line in records:
            assert [line] == chain.commit([added(next(ids))], NOW, "ann", chain.seq)
        if last is not None:
            following = hash_of(lines_of(segments(where)[number + 1])[0])
            assert last == seal(f'"sealed":{chain.seq},"next":"{following}"}}'.encode(), chain.hash)
    assert (log.first, log.seq, log.written, log.durable) == (1, 5, 5, 5)


def test_it_goes_on_where_it_was(where, log):
    for id in "abc":
        put(log, added(id))
    log.close(moment(9))
    again = DirectoryLog(where, SMALL)
    assert len(list(again.open(NOW))) == 4
    for id in "de":
        put(again, added(id))
    again.close(moment(19))
    records = records_in(where)
    assert [record.seq for record in records] == list(range(1, 8))
    assert kharon.verify(where).segments == 3
    assert records == list(kharon.read(where))


def test_a_commit_is_never_divided(where, log):
    put(log, *(added(f"t{number}") for number in range(50)))
    put(log, added("z"))
    assert names(where) == [segment_name(1), segment_name(51)]
    assert segments(where)[0].stat().st_size > 10 * SMALL
    log.abandon()
    assert len(records_in(where)) == 51


def test_commits_that_are_written_together_stay_together(where, log):
    for number in range(9):
        log.append([added(f"t{number}")], NOW, "ann")
    log.write()
    assert names(where) == [segment_name(1), segment_name(10)]
    assert (log.written, log.durable) == (9, 9), "what is sealed is on the disk"


def test_what_is_on_disk_before_what():
    files = SimulatedFiles()
    where = Path("/queue")
    log = DirectoryLog(where, SMALL, files)
    list(log.open(NOW))
    put(log, added("a"))
    files.plan.done.clear()
    log.append([added("b")], NOW, "ann")
    log.write()
    done = [name for name in files.plan.done if name not in ("kind", "unlink", "directory_twin")]
    new_segment = ["create", "write", "sync", "rename", "sync_directory"]
    assert done == ["mark_path", "write", "sync", *new_segment, "mark", "write", "sync"]


# --- reading on -------------------------------------------------------------------------------------------------------


def test_a_reader_follows_while_the_log_grows(where, log):
    reader = log.reader()
    found = []
    for number in range(11):
        put(log, added(f"t{number}"))
        if number % 3 == 0:
            found += reader.read(2, log.written)
    found += reader.read(99, log.written)
    reader.close()
    assert [record.event.id for record in found] == [f"t{number}" for number in range(11)]
    assert found == list(kharon.read(where))


@pytest.mark.parametrize("after", range(9))
def test_a_reader_begins_at_the_segment_that_holds_what_comes_next(where, log, after):
    for number in range(7):
        put(log, added(f"t{number}"))
    reader = log.reader(after)
    assert reader.seq == min(after, 6) // 2 * 2, "the records before are not even looked at"
    assert [record.seq for record in reader.read(99, 7)] == list(range(after + 1, 8))
    reader.close()


def test_a_reader_says_in_which_segment_the_damage_is(where, log):
    for id in "abcd":
        put(log, added(id))
    second = segments(where)[1]
    second.write_bytes(second.read_bytes().replace(b'"id":"d"', b'"id":"x"'))
    reader = log.reader()
    with pytest.raises(CorruptLog, match=rf"{segment_name(3)}, line 3 .*crc"):
        reader.read(99, 4)
    reader.close()


# --- damage -----------------------------------------------------------------------------------------------------------


def assert_refused(where: Path, match: str) -> None:
    """Both opening and verifying refuse, and nothing is changed."""
    before = {path: path.read_bytes() for path in segments(where)}
    for use in (opened, kharon.verify):
        with pytest.raises(CorruptLog, match=match):
            use(where)
    assert {path: path.read_bytes() for path in segments(where)} == before


def test_a_last_segment_that_is_missing_is_noticed(where):
    _, two = two_segments(where)
    two.unlink()
    assert_refused(where, rf"{FIRST_NAME}, line 0 .*beginning at record 3 follows; it is missing")


@pytest.mark.parametrize("more", [b"x", b"\n", b"\0" * 600])
@pytest.mark.parametrize("missing", [False, True])
def test_nothing_stands_behind_a_seal(where, more, missing):
    one, two = two_segments(where)
    one.write_bytes(one.read_bytes() + more)
    if missing:
        two.unlink()
    assert_refused(where, rf"{FIRST_NAME}, line 5 .*after the line that seals")


def test_a_second_seal(where):
    one, _ = two_segments(where)
    one.write_bytes(one.read_bytes() + lines_of(one)[-1])
    assert_refused(where, r"line 5 .*after the line that seals")


def test_a_seal_vouches_for_all_before_it(where):
    """Else the loss of the last segment, with a damaged line, would pass for a commit that was never finished."""
    one, two = two_segments(where)
    two.unlink()
    one.write_bytes(one.read_bytes().replace(b'"id":"b"', b'"id":"x"'))
    assert_refused(where, r"line 3 .*a later line says that it was on disk")


def test_a_seal_vouches_for_no_more():
    chain = Chain()
    data = chain.header("e" * 32, NOW) + chain.commit([added("a")], NOW, "ann", 0)[0]
    broken = data + b"x" + seal_line(chain.hash, Seal(1, "0" * 64))
    reading = read_segment(io.BytesIO(broken), "segment", Chain(), None)
    with pytest.raises(BrokenSegment) as caught:
        list(reading)
    assert not is_proved_durable(io.BytesIO(broken), caught.value)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"sealed": 1}, r"line 4 .*seal is missing or damaged"),
        ({"sealed": 3}, r"line 4 .*seal is missing or damaged"),
        ({"next": "0" * 64}, rf"{segment_name(3)}, line 1 .*sealed with another header"),
        ({"sealed": "22"}, r"line 4 .*not a seal: Expected `int`"),
    ],
)
def test_a_seal_that_says_something_else(where, values, why):
    one, _ = two_segments(where)
    *lines, last = lines_of(one)
    fields = {key: value for key, value in json.loads(last).items() if key in ("sealed", "next")} | values
    body = json.dumps(fields, separators=(",", ":"))[1:].encode()
    one.write_bytes(b"".join([*lines, seal(body, hash_of(lines[-1]))]))
    assert_refused(where, why)


def test_a_seal_in_the_middle_of_a_commit(where):
    chain = Chain()
    header = chain.header("e" * 32, NOW)
    first, _ = chain.commit([added("a"), added("b")], NOW, "ann", 0)
    data = header + first + seal_line(hash_of(first), Seal(0, "0" * 64))
    (where / "log").mkdir(parents=True)
    (where / "log" / FIRST_NAME).write_bytes(data)
    *_, last = records_in(where)
    assert isinstance(last.event, TailCut), "a seal that cannot be one is a bad line like any other"


def test_a_segment_under_another_name(where):
    _, two = two_segments(where)
    two.rename(two.with_name(segment_name(4)))
    assert_refused(where, rf"{segment_name(4)}, line 1 .*not that of the segment that begins at 3")


def test_what_stands_where_a_seal_should_be_is_no_longer_than_one(where):
    one, two = two_segments(where)
    two.write_bytes(lines_of(two)[0])
    *lines, last = lines_of(one)
    whole = b"".join(lines)
    for length in range(len(last) + 1):
        one.write_bytes(whole + last[:length])
        assert kharon.verify(where).unfinished == (length if length < len(last) else 0)
    for garbage in (b"\0" * len(last), b"x" * (len(last) - 1) + b"\n"):
        one.write_bytes(whole + garbage)
        assert kharon.verify(where).last == 2
    one.write_bytes(whole + b"\0" * (len(last) + 1))
    assert_refused(where, r"line 4 .*not the last, so it had been finished")


@pytest.mark.parametrize("length", [0, 1, 100, 177])
@pytest.mark.parametrize("behind", ["record", "byte"])
def test_whoever_wrote_behind_a_header_had_sealed_the_one_before(where, length, behind):
    one, two = two_segments(where)
    *lines, last = lines_of(one)
    one.write_bytes(b"".join(lines) + last[:length])
    if behind == "byte":
        two.write_bytes(lines_of(two)[0] + b"{")
    assert_refused(where, r"line 4 .*the seal is missing or damaged")


def test_two_segments_without_a_seal(where, log):
    for id in "abcd":
        put(log, added(id))
    log.abandon()
    one, two, three = segments(where)
    header, *_ = lines_of(two)
    one.write_bytes(b"".join(lines_of(one)[:-1]))
    assert_refused(where, rf"{FIRST_NAME}, line 4")
    two.write_bytes(header)
    chain = Chain(2, hash_of(header), NOW)
    three.unlink()
    two.with_name(segment_name(9)).write_bytes(chain.header("e" * 32, NOW))
    assert_refused(where, rf"{FIRST_NAME}, line 4 .*the seal is missing or damaged")


# --- between the two --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 100, 178])
def test_a_crash_before_the_seal_is_made_good(where, log, length):
    for id in "ab":
        put(log, added(id))
    log.abandon()
    one, two = segments(where)
    before = one.read_bytes(), two.read_bytes()
    *lines, last = lines_of(one)
    one.write_bytes(b"".join(lines) + last[:length])
    (where / "log" / (segment_name(3) + ".tmp")).write_bytes(b"half of it")
    (where / "log" / (segment_name(9) + ".tmp")).write_bytes(b"of a rotation that was tried again elsewhere")
    with one.open("rb") as old:
        for _ in range(2):
            assert [record.seq for record in records_in(where)] == [1, 2]
            assert (one.read_bytes(), two.read_bytes()) == before
            assert one.stat().st_ino != os.fstat(old.fileno()).st_ino, "the page cache is not trusted"
    assert names(where) == [segment_name(1), segment_name(3)]
    assert not (where / "quarantine").exists()


def test_a_tail_with_only_its_header_takes_records(where, log):
    for id in "ab":
        put(log, added(id))
    log.abandon()
    again, _ = opened(where)
    put(again, added("c"))
    assert [record.seq for record in read_from(again)] == [1, 2, 3]
    again.close(moment(9))
    assert [record.seq for record in records_in(where)] == [1, 2, 3, 4]


def test_closing_behind_a_rotation(where, log):
    for id in "ab":
        put(log, added(id))
    log.close(moment(9))
    records = records_in(where)
    assert records[-1].event == LogClosed()
    assert len(lines_of(segments(where)[1])) == 2
    assert kharon.verify(where).closed


def test_a_torn_tail_in_a_later_segment_is_cut_and_kept(where, log):
    for id in "abc":
        put(log, added(id))
    log.abandon()
    path = segments(where)[1]
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    start = data.index(b"\n") + 1
    *records, last = records_in(where)
    assert [record.seq for record in records] == [1, 2]
    assert last.event == TailCut(
        f"log/{path.name}", start, len(data) - 9 - start, f"quarantine/{segment_name(3)[:20]}-{start}"
    )
    assert (where / last.event.kept_as).read_bytes() == data[start:-9]


def test_the_anchor_of_a_log_that_has_just_rotated_is_its_last_record(where, log):
    put(log, added("a"))
    put(log, added("b"))
    report = kharon.verify(where)
    assert len(lines_of(segments(where)[1])) == 1
    *_, last = kharon.read(where)
    assert (report.last, report.hash) == (last.seq, last.hash)


# --- reading while another process rotates ----------------------------------------------------------------------------


class Racing:
    """Reads a log, and lets the writer do something in front of a listing or an opening."""

    def __init__(self, where: Path, *steps: object) -> None:
        self.where = where
        self.steps = list(steps)

    def _step(self) -> None:
        if self.steps and (step := self.steps.pop(0)) is not None:
            step()

    def list(self) -> list[Path]:
        self._step()
        return segments(self.where)

    def open(self, path: Path):
        self._step()
        return OS_FILES.read(path)


@pytest.mark.parametrize("steps_before", range(7))
@pytest.mark.parametrize("sealed_by_then", [False, True])
def test_a_rotation_during_the_reading(where, log, steps_before, sealed_by_then):
    put(log, added("a"))
    put(log, added("b"))
    one = segments(where)[0]
    whole = one.read_bytes()
    if not sealed_by_then:  # as it was when the successor had just got its name
        one.write_bytes(b"".join(lines_of(one)[:-1]))

    def go_on() -> None:
        one.write_bytes(whole)
        for id in "cdefg":
            put(log, added(id))

    race = Racing(where, *[None] * steps_before, go_on)
    reading = LogScan(race.list, race.open)
    seqs = [record.seq for record in reading.records()]
    assert seqs == list(range(1, len(seqs) + 1))
    assert seqs[:2] == [1, 2]
    assert reading.broken is None
    if steps_before < 2:
        assert len(seqs) == 7


@pytest.mark.parametrize("more", [b"", b"x", None])
def test_a_seal_that_came_late_is_looked_at_as_closely(where, more):
    one, _ = two_segments(where)
    whole = one.read_bytes()
    *lines, _ = lines_of(one)
    one.write_bytes(b"".join(lines))
    late = b"".join([*lines, seal(b'"sealed":1,"next":""}', hash_of(lines[-1]))]) if more is None else whole + more
    race = Racing(where, None, None, None, None, lambda: one.write_bytes(late))
    reading = LogScan(race.list, race.open)
    if more == b"":
        assert len(list(reading.records())) == 4
        assert reading.before is not None
        assert (reading.before.sealed, reading.before.whole) == (True, len(whole))
    else:
        with pytest.raises(CorruptLog, match="the seal is missing or damaged"):
            list(reading.records())


def test_segments_that_vanish_under_a_reader(where):
    two_segments(where)
    race = Racing(where, None, None, lambda: [path.unlink() for path in segments(where)])
    with pytest.raises(CorruptLog, match="beginning at record 3 follows; it is missing"):
        list(LogScan(race.list, race.open).records())


def test_a_successor_that_vanishes_before_anything_relied_on_it(where):
    one, two = two_segments(where)
    one.write_bytes(b"".join(lines_of(one)[:-1]))
    race = Racing(where, None, None, two.unlink)
    assert [record.seq for record in LogScan(race.list, race.open).records()] == [1, 2]


# --- disks that break -------------------------------------------------------------------------------------------------


def on_simulated_disk() -> tuple[DirectoryLog, SimulatedFiles]:
    files = SimulatedFiles()
    log = DirectoryLog(Path("/queue"), SMALL, files)
    list(log.open(NOW))
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    return log, files


def fail_next(files: SimulatedFiles, name: str, error: int, nth: int = 1, **more: object) -> None:
    """Let the nth operation of a kind fail, found by trying on a copy."""
    trial = files.killed()
    trial.plan = Plan()
    log = DirectoryLog(Path("/queue"), SMALL, trial)
    list(log.open(NOW))
    trial.plan.done.clear()
    put(log, added("b"))
    places = [number for number, done in enumerate(trial.plan.done) if done == name]
    plan = Plan(fail=places[nth - 1], error=error, **more)
    files.plan.__dict__.update(plan.__dict__)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        *(("rename", error) for error in (errno.ENOSPC, errno.EDQUOT)),
        *(
            (name, error)
            for name in ("directory_twin", "unlink", "create")
            for error in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES)
        ),
    ],
)
def test_if_a_new_segment_cannot_be_made_the_old_one_goes_on(name, error):
    log, files = on_simulated_disk()
    fail_next(files, name, error)
    log.write()
    assert (log.written, log.durable) == (2, 2)
    assert files.list(Path("/queue/log")) == [FIRST_NAME]
    put(log, added("c"))
    assert files.list(Path("/queue/log")) == [FIRST_NAME, segment_name(4)], "the next write tries again"
    assert [record.seq for record in read_from(log)] == [1, 2, 3]
    log.abandon()
    assert len(list(DirectoryLog(Path("/queue"), SMALL, files).open(NOW))) == 3


@pytest.mark.parametrize(
    ("name", "nth", "error", "more"),
    [
        ("sync", 1, errno.EIO, {}),
        ("sync", 2, errno.ENOSPC, {}),
        ("rename", 1, errno.EIO, {}),
        ("rename", 1, errno.ENOSPC, {"late": True}),
        ("sync_directory", 1, errno.ENOSPC, {}),
        ("sync", 3, errno.ENOSPC, {}),
        ("write", 3, errno.EIO, {}),
        ("mark", 1, errno.EIO, {}),
        ("mark", 1, errno.ENOSPC, {}),
    ],
)
def test_a_rotation_that_fails_otherwise_closes_the_log(name, nth, error, more):
    log, files = on_simulated_disk()
    fail_next(files, name, error, nth, **more)
    with pytest.raises(OSError, match=os.strerror(error)) as caught:
        log.write()
    assert not isinstance(caught.value, StorageFull)
    assert files.plan.failed == name
    for use in (log.sync, lambda: put(log, added("c")), lambda: log.close(NOW)):
        with pytest.raises(OSError, match="the log is not open"):
            use()
    again = DirectoryLog(Path("/queue"), SMALL, files.killed())
    assert [record.seq for record in again.open(NOW)] == [1, 2]


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_what_was_refused_because_the_tail_could_not_be_looked_at_is_never_written(error):
    log, files = on_simulated_disk()
    fail_next(files, "mark_path", error)
    with pytest.raises(OSError, match=os.strerror(error)):
        log.write()
    for use in (log.write, log.sync, lambda: put(log, added("c")), lambda: log.close(NOW)):
        with pytest.raises(OSError, match="the log is not open"):
            use()
    again = DirectoryLog(Path("/queue"), SMALL, files.killed())
    assert [record.event.id for record in again.open(NOW)] == ["a"]


def test_a_disk_that_does_not_say_whether_the_successor_is_there_closes_the_log(monkeypatch):
    log, files = on_simulated_disk()
    fail_next(files, "rename", errno.ENOSPC)
    real, asked = files.kind, []

    def kind(path: Path):
        asked.append(path.name)
        if len(asked) == 2:
            raise PermissionError(errno.EACCES, "no")
        return real(path)

    monkeypatch.setattr(files, "kind", kind)
    with pytest.raises(OSError, match="No space left"):
        log.write()
    assert asked == [segment_name(3)] * 2
    with pytest.raises(OSError, match="the log is not open"):
        log.sync()


def test_without_room_for_a_seal_no_record_is_written_until_there_is():
    log, files = on_simulated_disk()
    fail_next(files, "write", errno.ENOSPC, 3, short=0.5, for_good=True)
    log.write()
    assert (log.written, log.durable) == (2, 2)
    log.append([added("c")], NOW, "ann")
    with pytest.raises(StorageFull):
        log.write()
    assert (log.seq, log.written) == (2, 2)
    files.plan.for_good = False
    put(log, added("d"))
    log.close(NOW)
    log = DirectoryLog(Path("/queue"), SMALL, files)
    assert [getattr(record.event, "id", "") for record in log.open(NOW)] == ["a", "b", "d", ""]


def test_a_seal_that_cannot_be_taken_back_closes_the_log(monkeypatch):
    log, files = on_simulated_disk()
    fail_next(files, "write", errno.ENOSPC, 3, short=0.5)

    def refuse(_size: int) -> None:
        raise OSError(errno.EIO, "no truncate")

    monkeypatch.setattr(log._tail, "truncate", refuse)
    with pytest.raises(OSError, match="no truncate"):
        log.write()
    with pytest.raises(OSError, match="the log is not open"):
        log.sync()


def test_what_found_no_room_does_not_come_back_after_a_crash():
    """The first commit found room, the second did not, and both were refused."""
    files = SimulatedFiles()
    log = DirectoryLog(Path("/queue"), files=files)
    list(log.open(NOW))
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    log.append([added("c")], NOW, "ann")
    files.plan.room = 300
    with pytest.raises(StorageFull):
        log.write()
    for choose in (lambda _count: 0, lambda count: count - 1):
        again = DirectoryLog(Path("/queue"), files=files.survivor(choose))
        assert [record.event.id for record in again.open(NOW)] == ["a"]


def test_a_successor_that_is_there_already_is_not_overwritten(where, log):
    put(log, added("a"))
    strange = where / "log" / segment_name(3)
    strange.write_bytes(b"mine")
    log.append([added("b")], NOW, "ann")
    with pytest.raises(FileExistsError, match="exists already"):
        log.write()
    assert strange.read_bytes() == b"mine"


def test_two_first_openers_at_once(where, monkeypatch):
    """The one that is slower finds the directories made, and is stopped by the lock only."""
    real = OS_FILES.kind
    monkeypatch.setattr(
        type(OS_FILES), "kind", lambda self, path: None if path.name in ("queue", "log") else real(path)
    )
    where.mkdir()
    (where / "log").mkdir()
    log = DirectoryLog(where)
    assert list(log.open(NOW)) == []
    log.abandon()


@pytest.mark.parametrize("made", [False, True])
def test_a_parent_that_may_not_be_read(where, monkeypatch, made):
    """If it was the user that made the directory, its name is the user's care; ours we must see on the disk."""
    real = OS_FILES.sync_directory

    def refuse(_self: object, path: Path, fd: int | None = None) -> None:
        if path == where.parent:
            raise PermissionError(errno.EACCES, "no", str(path))
        real(path, fd)

    monkeypatch.setattr(type(OS_FILES), "sync_directory", refuse)
    log = DirectoryLog(where)
    if made:
        with pytest.raises(PermissionError):
            list(log.open(NOW))
    else:
        where.mkdir()
        assert list(log.open(NOW)) == []
    log.abandon()


def test_closing_and_releasing_twice(tmp_path):
    file = OS_FILES.create(tmp_path / "file")
    lock = OS_FILES.lock(tmp_path / "LOCK", b"me")
    for _ in range(2):
        file.close()
        lock.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write(b"x")
    OS_FILES.lock(tmp_path / "LOCK", b"me").release()


# --- the line ---------------------------------------------------------------------------------------------------------


def test_the_line_that_seals():
    line = seal_line("ab" * 32, Seal(7, "cd" * 32))
    assert line == seal(f'"sealed":7,"next":"{"cd" * 32}"}}'.encode(), "ab" * 32)
    assert is_seal(line)
    assert check_line(line, "ab" * 32) == hash_of(line)
    assert parse_seal(line) == Seal(7, "cd" * 32)
    assert not is_seal(Chain().commit([TicketDeleted("sealed")], NOW, "ann", 0)[0])


@pytest.mark.parametrize("body", [b'"sealed":7}', b'"sealed":"7","next":""}', b'"sealed":7,"next":"\xff"}'])
def test_what_is_no_seal(body):
    with pytest.raises(BadLine, match="not a seal"):
        parse_seal(seal(body))


# --- a rotation whose syncs somebody else does ------------------------------------------------------------------------


def test_a_rotation_that_is_given_up_touches_nothing_any_more(tmp_path):
    """Perhaps by a forked child, which has a copy of it: by then the name may be another process's."""
    log = DirectoryLog(tmp_path / "queue", 100)
    list(log.open(moment(0)))
    log.rotates = False
    log.append([added("a")], moment(1), "ann")
    log.write()
    rotation = log.rotation()
    steps = [next(rotation), next(rotation)]
    assert [step.is_directory for step in steps] == [False, False]
    rotation.close()
    log.abandon()
    (left,) = (tmp_path / "queue/log").glob("*.tmp")
    assert left.stat().st_size > 0


def test_a_directory_is_offered_by_one_descriptor(tmp_path):
    step = DirectorySync(tmp_path, OS_FILES)
    assert step.is_directory
    step.sync()
    fd = step.twin()
    assert step.twin() == fd
    assert os.fstat(fd).st_ino == tmp_path.stat().st_ino
    step.close()
    step.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
