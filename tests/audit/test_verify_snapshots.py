"""What `kharon.verify` says about snapshots: each is held against the log, since opening will believe it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from log_steps import NOW, added, carry_out, load, snapshot_in

import kharon
from kharon.audit import verify_snapshots as audit_snapshots
from kharon.audit.read import LogPass
from kharon.errors import CorruptLog, KharonError
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES, OsFiles
from kharon.log.record import Record, link
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.scan import LogScan
from kharon.log.snapshot import _write as write
from kharon.log.snapshot import newest, take
from kharon.model.events import Event, TicketDeleted
from kharon.model.projection import Projection
from kharon.model.ticket import draft_of, seal
from kharon.model.versions import Unknown


def grow(where: Path, *events: Event) -> None:
    """Append each event in a segment of its own, and take a snapshot behind each."""
    log = DirectoryLog(where, segment_bytes=1)
    log.load_snapshot()
    list(log.open(NOW))
    for event in events:
        log.append([event], NOW, "ann")
        log.write()
        take(where)
    log.close(NOW)


@pytest.fixture
def where(tmp_path):
    """A queue of three records in three segments, with snapshots at 2 and 3, that was closed."""
    grow(tmp_path / "queue", added("a"), added("b"), TicketDeleted("a"))
    assert [path.name for path in paths(tmp_path / "queue")] == [f"{2:020}.jsonl", f"{3:020}.jsonl"]
    return tmp_path / "queue"


def paths(where: Path) -> list[Path]:
    return sorted((where / "snapshots").iterdir())


def forge(path: Path, **changes: object) -> None:
    """Write a snapshot that says something else, with hashes and sums that are right."""
    write(OS_FILES, path, msgspec.structs.replace(snapshot_in(path), **changes))


def opened(where: Path) -> Projection:
    log = DirectoryLog(where)
    projection = load(log)
    log.abandon()
    return projection


def verdict(where: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, list[str]]:
    """How many snapshots are good, and what is said of the others, without their path; the same as a warning."""
    caplog.clear()
    report = kharon.verify(where)
    assert [record.getMessage() for record in caplog.records] == [
        f"bad snapshot: {bad}" for bad in report.bad_snapshots
    ]
    assert (report.records, report.last) == (4, 4), "the log is whole all the same"
    return report.snapshots, [bad.removeprefix(f"{where}/snapshots/") for bad in report.bad_snapshots]


def test_snapshots_that_say_what_the_log_says(where, caplog):
    assert verdict(where, caplog) == (2, [])


def test_a_snapshot_that_is_damaged(where, caplog):
    path = paths(where)[0]
    path.write_bytes(path.read_bytes().replace(b'"type":"type"', b'"type":"tape"'))
    (good, (bad,)) = verdict(where, caplog)
    assert good == 1
    assert bad.startswith(f"{path.name}, line 2 (byte "), "the older one, at which opening does not even look"


def test_a_snapshot_of_tickets_that_the_log_never_gave(where, caplog):
    """Its chain is right, so opening believes it: only folding the log shows what it is."""
    path = paths(where)[1]
    draft = draft_of(snapshot_in(path).tickets[0])
    draft.nice = 1
    forge(path, tickets=[seal(draft)])
    assert opened(where).tickets["b"].nice == 1
    assert kharon.replay(where).tickets["b"].nice == 512
    assert verdict(where, caplog) == (1, [f"{path.name}: its tickets are not those that the log gives at record 3"])


def test_a_snapshot_whose_tickets_are_in_another_order(where, caplog):
    path = paths(where)[0]
    forge(path, tickets=list(reversed(snapshot_in(path).tickets)))
    assert verdict(where, caplog) == (1, [f"{path.name}: its tickets are not those that the log gives at record 2"])


@pytest.mark.parametrize("changes", [{"hash": "0" * 64}, {"at": NOW + timedelta(1)}, {"log": "e" * 32}])
def test_a_snapshot_of_another_log(where, caplog, changes):
    path = paths(where)[0]
    forge(path, **changes)
    why = "it follows from a record 2 that is not the log's: it belongs to another log"
    assert verdict(where, caplog) == (1, [f"{path.name}: {why}"])


def test_snapshots_with_each_other_s_names(where, caplog):
    one, other = paths(where)
    aside = where / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    why = [
        f"{one.name}: it is the snapshot at record 3, which is not its name",
        f"{other.name}: it is the snapshot at record 2, which is not its name",
    ]
    assert verdict(where, caplog) == (0, why)


def test_a_snapshot_of_records_that_are_not_there(where, caplog):
    """A repair leaves such a one, until the next is taken."""
    path = where / "snapshots" / f"{9:020}.jsonl"
    write(OS_FILES, path, msgspec.structs.replace(snapshot_in(paths(where)[1]), seq=9))
    assert verdict(where, caplog) == (2, [f"{path.name}: the log has no record 9"])


def test_a_snapshot_in_a_later_format_is_not_bad(where, caplog):
    path = paths(where)[0]
    line, _ = link("0" * 64, path.read_bytes().splitlines()[0][92:].replace(b'"version":1', b'"version":2'))
    path.write_bytes(line)
    assert verdict(where, caplog) == (1, [])
    (unjudged,) = kharon.verify(where).unjudged_snapshots
    assert "in format 2" in unjudged
    assert unjudged.startswith(f"{path}, line 1: ")


def test_a_misnamed_snapshot_is_judged_before_anything_is_folded(where, caplog):
    """Folding up to a seq that it only claims would leave nothing of the log for those behind it."""
    path = where / "snapshots" / f"{1:020}.jsonl"
    write(OS_FILES, path, msgspec.structs.replace(snapshot_in(paths(where)[1]), seq=10**15))
    assert verdict(where, caplog) == (2, [f"{path.name}: it is the snapshot at record {10**15}, which is not its name"])


def test_a_snapshot_that_is_gone_by_the_time_it_is_read(where, caplog, monkeypatch):
    """A newer one may be taken while the log is read, and the oldest removed then."""

    def listed(files, directory, real=audit_snapshots.snapshots_of):
        return [*real(files, directory), where / "snapshots" / f"{1:020}.jsonl"]

    monkeypatch.setattr(audit_snapshots, "snapshots_of", listed)
    assert verdict(where, caplog) == (2, [])


def test_a_log_that_no_ticket_could_have_had(tmp_path, caplog):
    """Its chain is right, and that is what is verified; but no snapshot can say what it folds to."""
    where = tmp_path / "queue"
    grow(where, added("a"), added("b"))
    log = DirectoryLog(where)
    log.load_snapshot()
    list(log.open(NOW))
    log.append([TicketDeleted("x")], NOW, "ann")
    log.close(NOW)
    *_, last = kharon.read(where)
    path = where / "snapshots" / f"{5:020}.jsonl"
    write(OS_FILES, path, msgspec.structs.replace(snapshot_in(paths(where)[1]), seq=5, hash=last.hash, at=last.at))
    report = kharon.verify(where)
    assert (report.last, report.snapshots) == (5, 2)
    (bad,) = report.bad_snapshots
    assert bad.startswith(f"{path}: the log does not fold to any state: record 4: TicketDeleted of ticket 'x'")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_log_is_refused_before_its_snapshots(where, number):
    path = sorted((where / "log").iterdir())[number]
    path.write_bytes(path.read_bytes().replace(b'"by":"ann"', b'"by":"bob"'))
    with pytest.raises(CorruptLog) as caught:
        kharon.verify(where)
    assert (caught.value.file, caught.value.line) == (str(path), 2)


@pytest.mark.parametrize(("seq", "good"), [(1, 0), (2, 0), (3, 1), (4, 2)])
def test_behind_an_event_that_is_not_known_nobody_can_tell(where, seq, good):
    """A later version of Kharon wrote it: what it did to the tickets is not known, so no snapshot is called bad."""

    def records(reading: LogScan) -> Iterator[Record]:
        for record in reading.records():
            unknown = Unknown("TicketPraised", 1, 0, "9.0.0")
            yield msgspec.structs.replace(record, event=unknown) if record.seq == seq else record

    reading = LogPass(where, lenient=True).reading
    found = audit_snapshots.SnapshotCheck(where)
    found.compare(reading, records(reading))
    assert (found.good, found.bad) == (good, [])
    why = "it follows an event that this version does not know"
    assert found.unjudged == [f"{path}: {why}" for path in paths(where)[good:]]
    assert reading.chain.seq == 4, "all of the log was read"


def test_what_the_reading_raises_is_not_taken_for_a_bad_snapshot(where):
    """It was trimmed while it was being read, for one."""

    def records(reading: LogScan) -> Iterator[Record]:
        for record in reading.records():
            if record.seq == 2:
                raise KharonError("record 2 was trimmed while the log was being read")
            yield record

    reading = LogPass(where).reading
    found = audit_snapshots.SnapshotCheck(where)
    with pytest.raises(KharonError, match="was trimmed"):
        found.compare(reading, records(reading))
    assert found.bad == []


# --- a log whose beginning was trimmed --------------------------------------------------------------------------------


@pytest.fixture
def trimmed(tmp_path):
    """A queue that begins at record 4, with snapshots at 3, 4 and 5."""
    where, aside = tmp_path / "queue", tmp_path / "aside"
    aside.mkdir()
    log = DirectoryLog(where, segment_bytes=1)
    list(log.open(NOW))
    for event in (added("a"), added("b"), added("c"), TicketDeleted("a"), added("d")):
        log.append([event], NOW, "ann")
        log.write()
        if (path := take(where)) is not None:
            shutil.copy(path, aside)
    for path in aside.iterdir():  # of which `take` kept two
        if int(path.stem) >= 3:
            shutil.copy(path, where / "snapshots")
    retention = Retention(log, RetentionRules(trim=Threshold(bytes=0)), may_trim=lambda seq: seq <= 3)
    carry_out(log, retention)
    log.close(NOW)
    return where


def named(where: Path, seq: int) -> Path:
    return where / "snapshots" / f"{seq:020}.jsonl"


def altered(path: Path) -> None:
    """Its chain is right, and its last ticket is not."""
    snapshot = snapshot_in(path)
    draft = draft_of(snapshot.tickets[-1])
    draft.nice = 1
    forge(path, tickets=[*snapshot.tickets[:-1], seal(draft)])


def judged(where: Path) -> tuple[int, list[str], list[str]]:
    """How many snapshots are good, which are bad and which unjudged, by seq, of a log that is whole all the same."""
    report = kharon.verify(where)
    assert report.first == 4

    def seqs(said: tuple[str, ...]) -> list[int]:
        return [int(why.removeprefix(f"{where}/snapshots/")[:20]) for why in said]

    return report.snapshots, seqs(report.bad_snapshots), seqs(report.unjudged_snapshots)


def test_of_a_trimmed_log_the_oldest_stands_for_what_was_trimmed(trimmed):
    assert judged(trimmed) == (2, [], [3])
    (why,) = kharon.verify(trimmed).unjudged_snapshots
    assert "nothing shows whether its tickets are right" in why


def test_the_only_snapshot_of_a_trimmed_log_is_held_against_nothing(trimmed):
    for seq in (4, 5):
        named(trimmed, seq).unlink()
    assert judged(trimmed) == (0, [], [3])


def test_a_snapshot_of_what_has_been_trimmed(trimmed):
    write(OS_FILES, named(trimmed, 2), msgspec.structs.replace(snapshot_in(named(trimmed, 3)), seq=2, tickets=[]))
    assert judged(trimmed) == (2, [], [2, 3])
    assert "record 2, from which it follows, has been trimmed" in kharon.verify(trimmed).unjudged_snapshots[0]


@pytest.mark.parametrize("changes", [{"hash": "0" * 64}, {"log": "e" * 32}])
def test_one_that_does_not_fit_is_not_what_the_rest_is_folded_onto(trimmed, changes):
    altered(named(trimmed, 3))
    forge(named(trimmed, 3), **changes)
    assert judged(trimmed) == (1, [3], [4])


def test_one_whose_time_is_not_the_record_s_is_not_either(trimmed):
    named(trimmed, 3).unlink()
    altered(named(trimmed, 4))
    forge(named(trimmed, 4), at=NOW + timedelta(1))
    assert judged(trimmed) == (0, [4], [5])


def test_one_that_is_damaged_is_not_either(trimmed):
    path = named(trimmed, 3)
    path.write_bytes(path.read_bytes()[:-9])
    assert judged(trimmed) == (1, [3], [4])


def test_one_with_another_s_name_is_not_either(trimmed):
    shutil.copy(named(trimmed, 5), named(trimmed, 3))
    assert judged(trimmed) == (1, [3], [4])


def test_of_a_log_without_any_state_to_begin_with_nothing_is_folded(trimmed):
    for seq in (3, 4):
        forge(named(trimmed, seq), log="e" * 32)
    forge(named(trimmed, 5), log="f" * 32)
    assert judged(trimmed) == (0, [3, 4, 5], [])


def test_two_that_disagree_are_both_named(trimmed):
    """It may be the older one that was altered: the newer one is not called bad as if that were known."""
    altered(named(trimmed, 3))
    assert judged(trimmed) == (0, [4, 5], [3])
    for why in kharon.verify(trimmed).bad_snapshots:
        assert f"those that {named(trimmed, 3)} and the log after that give" in why
        assert "the two disagree, and nothing shows which of them is right" in why


def test_one_from_which_the_log_cannot_follow_is_bad_and_the_next_takes_its_place(trimmed):
    forge(named(trimmed, 3), tickets=snapshot_in(named(trimmed, 3)).tickets[1:])
    assert judged(trimmed) == (1, [3], [4])
    (why,) = kharon.verify(trimmed).bad_snapshots
    assert "the log after it cannot follow from its tickets: record 4: TicketDeleted of ticket 'a'" in why


def test_one_from_which_the_log_cannot_follow_and_none_to_take_its_place(trimmed):
    forge(named(trimmed, 3), tickets=snapshot_in(named(trimmed, 3)).tickets[1:])
    forge(named(trimmed, 4), log="e" * 32)
    write(OS_FILES, named(trimmed, 99), msgspec.structs.replace(snapshot_in(named(trimmed, 5)), seq=99))
    named(trimmed, 5).unlink()
    assert judged(trimmed) == (0, [4, 99, 3], [])


def test_a_snapshot_that_is_removed_while_they_are_listed_is_passed_over(where):
    class Gone(OsFiles):
        def read(self, path):
            if path == paths(where)[-1]:
                raise FileNotFoundError(path)
            return super().read(path)

    assert newest(Gone(), where, segments(where)).seq == 2
