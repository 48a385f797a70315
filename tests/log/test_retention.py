"""Retention: what is done with old segments, and that readers follow."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from log_steps import NOW, added, always, carry_out, moment, opened, put

import kharon
import kharon.testing
from kharon.audit import read as audit_read
from kharon.errors import CorruptLog, KharonError
from kharon.log import zstd
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OsFiles
from kharon.log.index import write_missing
from kharon.log.live import LiveReader
from kharon.log.locations import ARCHIVE
from kharon.log.protocol import LogReader
from kharon.log.record import Record
from kharon.log.retention import Retention, RetentionRules, SealedSegment, Threshold, never, next_step
from kharon.model.events import LogClosed, SegmentArchived, SegmentCompressed, SegmentTrimmed

SEGMENT_BYTES = 2600  # so that the records of what is done to a segment are smaller than one
ALL = Threshold(bytes=0)
COMPRESS, ARCHIVE_ALL, TRIM = RetentionRules(compress=ALL), RetentionRules(archive=ALL), RetentionRules(trim=ALL)
BOTH = RetentionRules(compress=ALL, archive=ALL)
OURS = (SegmentCompressed, SegmentArchived, SegmentTrimmed)


def begin(where: Path, files: OsFiles | None = None, commits: int = 30) -> DirectoryLog:
    """A log, held open, of four segments or more."""
    log = DirectoryLog(where, SEGMENT_BYTES, files or OsFiles())
    list(log.open(NOW))
    for number in range(commits):
        put(log, added(f"a{number}"), added(f"b{number}"), at=number)
    assert len(log._places) >= 4
    return log


@pytest.fixture
def log(where):
    log = begin(where)
    yield log
    log.abandon()


def told(records: list[Record]) -> list[Record]:
    """The records without those of retention."""
    return [record for record in records if not isinstance(record.event, (*OURS, LogClosed))]


def live(log: DirectoryLog, after: int = 0, id: str | None = None) -> list[Record]:
    reader = log.reader(after, id)
    try:
        return to_the_end(reader, log)
    finally:
        reader.close()


def to_the_end(reader: LogReader, log: DirectoryLog) -> list[Record]:
    records = []
    while reader.seq < log.written:
        records += reader.read(10_000, log.written)
    return records


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what comes next --------------------------------------------------------------------------------------------------

LOG = Path("q/log")


def sealed(*ends: int, suffix: str = "", folder: Path = LOG, size: int = 100) -> list[SealedSegment]:
    """Segments of 10 records, whose last ones are so many seconds old at NOW + 1000 s."""
    return [
        SealedSegment(
            10 * n + 1, 10 * n + 10, folder / f"{10 * n + 1:020}.jsonl{suffix}", size, moment(1000 - age), "ab"
        )
        for n, age in enumerate(ends)
    ]


def steps(
    found: list[SealedSegment], policy: RetentionRules, may_trim=always, tail: int = 50
) -> tuple[str, int] | None:
    step = next_step(found, tail, policy, LOG, moment(1000), may_trim)
    return None if step is None else (step.action, step.segment.first)


@pytest.mark.parametrize("action", ["compress", "archive", "trim"])
@pytest.mark.parametrize(
    ("limit", "first"),
    [
        (Threshold(), None),
        (Threshold(seconds=30), None),
        (Threshold(seconds=29.9), 1),
        (Threshold(bytes=350), None),
        (Threshold(bytes=349), 1),
        (Threshold(bytes=0), 1),
        (Threshold(seconds=1, bytes=9999), 1),
        (Threshold(seconds=9999, bytes=1), 1),
    ],
)
def test_the_limits(action, limit, first):
    policy = RetentionRules(**{action: limit})
    assert steps(sealed(30, 20, 10), policy) == (None if first is None else (action, first))
    assert bool(policy) == bool(limit) == (limit != Threshold())


def test_the_order_of_the_steps():
    three = sealed(30, 20, 10)
    everything = RetentionRules(ALL, ALL, ALL)
    assert steps(three, everything) == ("trim", 1)
    assert steps(three, everything, never) == ("compress", 1), "trimming first, unless the state needs it"
    small = sealed(30, suffix=".zst") + three[1:]
    assert steps(small, everything, never) == ("compress", 11), "all are compressed before one is archived"
    assert steps(small, ARCHIVE_ALL) == ("archive", 1)
    assert steps(sealed(30, 20, 10, suffix=".zst"), BOTH) == ("archive", 1)
    assert steps(sealed(30, folder=Path("archive")), BOTH) is None, "in the archive it stays as it is"
    assert steps(sealed(30, folder=Path("archive")), TRIM) == ("trim", 1)
    assert steps([], everything) is None


def test_what_is_left_out_keeps_nothing_else_from_being_planned(log):
    retention = Retention(log, RetentionRules(ALL, ALL, ALL), may_trim=always)
    found = [retention.plan(moment(100), without) for without in ([], ["trim"], ["trim", "compress"])]
    assert [step.action for step in found] == ["trim", "compress", "archive"]
    assert retention.plan(moment(100), ["archive", "trim", "compress"]) is None
    assert retention.plan(moment(100)).action == "trim"


def test_only_the_oldest_is_trimmed_and_only_if_the_state_does_not_need_it():
    assert steps(sealed(5, 30), RetentionRules(trim=Threshold(seconds=20))) is None, "a hole is never made"
    asked = []

    def may_trim(upto: int) -> bool:
        asked.append(upto)
        return upto < 10

    assert steps(sealed(30, 20), TRIM, may_trim) is None
    assert asked == [10]


def test_what_is_too_large_to_be_unpacked_again_is_not_compressed():
    huge = sealed(30, size=zstd.MAX_DECOMPRESSED_BYTES + 1)
    assert steps(huge, COMPRESS) is None
    assert steps(sealed(30, size=zstd.MAX_DECOMPRESSED_BYTES), COMPRESS) == ("compress", 1)


# --- each of them -----------------------------------------------------------------------------------------------------


def test_nothing_is_done_unless_told(where, log):
    before = {path: path.read_bytes() for path in segments(where)}
    assert carry_out(log, Retention(log, RetentionRules())) == []
    assert carry_out(log, Retention(log, TRIM)) == [], "without a snapshot every record is needed"
    assert {path: path.read_bytes() for path in segments(where)} == before


def test_compressing(where, log):
    before = live(log)
    plain = {path.name: path.read_bytes() for path in segments(where)[:-1]}
    done = carry_out(log, Retention(log, COMPRESS))
    assert done[: len(plain)] == ["compress"] * len(plain)
    assert {name[20:] for name in names(where / "log")[:-1]} == {".jsonl.zst"}
    assert names(where / "log")[-1].endswith(".jsonl"), "the tail is not sealed"
    for path in segments(where)[: len(plain)]:
        with zstd.open_segment(OsFiles().read, path) as file:
            assert file.read() == plain[path.stem], "the very same bytes"
        assert path.stat().st_mode & 0o777 == 0o600
    events = [record.event for record in kharon.read(where) if isinstance(record.event, SegmentCompressed)]
    first = events[0]
    data = plain[f"{1:020}.jsonl"]
    last = before[log._places[1].first - 2]
    assert first == SegmentCompressed(
        f"log/{1:020}.jsonl", 1, last.seq, last.hash, f"log/{1:020}.jsonl.zst", len(data), first.sha256
    )
    assert first.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL, BOTH])
def test_everything_is_read_as_if_nothing_had_happened(where, log, policy):
    before, state = live(log), kharon.replay(where)
    assert carry_out(log, Retention(log, policy))
    assert told(live(log)) == before
    assert live(log, id="b3") == [record for record in before if record.event.id == "b3"]
    assert told(live(log, after=7)) == before[7:]
    assert told(list(kharon.read(where))) == before
    assert list(kharon.read(where, after=3))[:4] == before[3:7]
    assert kharon.replay(where).tickets == state.tickets
    report = kharon.verify(where)
    assert (report.first, report.follows, report.last) == (1, "0" * 64, log.seq)
    log.close(moment(200))
    other, records = opened(where)
    assert told(records) == before
    assert told(live(other)) == before
    put(other, added("later"), at=300)
    other.close(moment(301))
    assert kharon.verify(where).closed


def test_archiving(where, log):
    before = names(where / "log")
    done = carry_out(log, Retention(log, BOTH))
    assert done.count("archive") == done.count("compress") >= len(before) - 1
    assert len(names(where / "log")) == 1
    assert (where / ARCHIVE).read_text() == f"archive/{log.log_id}\n"
    assert names(where / "archive" / log.log_id)[0] == f"{1:020}.jsonl.zst"
    event = next(record.event for record in kharon.read(where) if isinstance(record.event, SegmentArchived))
    assert (event.file, event.kept_as) == (f"log/{1:020}.jsonl.zst", f"archive/{log.log_id}/{1:020}.jsonl.zst")


def test_an_archive_elsewhere_may_be_shared_and_may_change(where, log, tmp_path):
    before = live(log)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    other = begin(tmp_path / "other")
    step = Retention(log, ARCHIVE_ALL, one).plan(moment(100))
    first = Retention(log, ARCHIVE_ALL, one)
    put(log, first.prepare(step), at=100)
    first.switch(step)
    first.finish(step)
    assert carry_out(other, Retention(other, ARCHIVE_ALL, one))
    assert carry_out(log, Retention(log, ARCHIVE_ALL, two))
    assert names(one / log.log_id) == [f"{1:020}.jsonl", "OWNER"]
    assert len(names(one)) == 2
    assert (where / ARCHIVE).read_text() == f"{one / log.log_id}\n{two / log.log_id}\n"
    assert told(list(kharon.read(where))) == before
    assert kharon.verify(tmp_path / "other").first == 1
    other.abandon()
    (one / log.log_id).rename(tmp_path / "hidden")
    with pytest.raises(CorruptLog, match=r"earlier ones were trimmed.*if they are in an archive, make that"):
        kharon.verify(where)
    log.abandon()
    with pytest.raises(CorruptLog, match="no snapshot"):
        opened(where)


def test_trimming(where, log):
    before = live(log)
    places = tuple(log._places)
    upto = places[2].first - 1
    retention = Retention(log, TRIM, may_trim=lambda seq: seq <= upto)
    assert carry_out(log, retention) == ["trim", "trim"]
    assert [path.name for path in segments(where)] == [place.path.name for place in places[2:]]
    assert (log.first, log._places[0].first) == (upto + 1, upto + 1)
    assert told(live(log)) == told(list(kharon.read(where))) == before[upto:]
    report = kharon.verify(where)
    assert (report.first, report.follows) == (upto + 1, before[upto - 1].hash)
    events = [record.event for record in kharon.read(where) if isinstance(record.event, SegmentTrimmed)]
    end = before[places[1].first - 2]
    assert events[0] == SegmentTrimmed(f"log/{1:020}.jsonl", 1, end.seq, end.hash)
    with pytest.raises(KharonError, match=f"begins at record {upto + 1}.*no usable snapshot to begin with"):
        kharon.replay(where)
    log.close(moment(200))
    with pytest.raises(CorruptLog, match="no snapshot of the records before it was loaded"):
        opened(where)


def test_trimming_what_was_archived(where, log):
    assert carry_out(log, Retention(log, BOTH))
    path = log._places[0].path
    assert path.parent == where / "archive" / log.log_id
    upto = log._places[1].first - 1
    assert carry_out(log, Retention(log, TRIM, may_trim=lambda seq: seq <= upto)) == ["trim"]
    assert not path.exists()
    assert kharon.verify(where).first == upto + 1


def test_trimming_by_hand_is_noticed(where, log):
    upto = log._places[2].first - 1
    assert carry_out(log, Retention(log, TRIM, may_trim=lambda seq: seq <= upto))
    segments(where)[0].unlink()
    with pytest.raises(CorruptLog, match=f"begins at record {log._places[1].first}, and no record says"):
        kharon.verify(where)


def test_a_beginning_that_was_written_anew_is_noticed(where, log):
    """The first header claims another predecessor, and everything after it, except that record, is hashed again."""
    places = tuple(log._places)
    put(log, SegmentTrimmed("log/x", 1, places[1].first - 1, "ab" * 32), at=50)
    places[0].path.unlink()
    with pytest.raises(CorruptLog, match=f"a record says that it follows the hash {'ab' * 32}; its header says"):
        kharon.verify(where)


def test_a_first_segment_without_its_header(where, log):
    one, two, *_ = segments(where)
    one.unlink()
    two.write_bytes(b"nonsense\n" + two.read_bytes())
    with pytest.raises(CorruptLog, match=r"line 1 .*not a line of this log"):
        kharon.verify(where)


def test_neither_the_tail_nor_a_later_one_is_trimmed(log):
    with pytest.raises(AssertionError, match="from the oldest on"):
        log.trimmed(log._places[1].first)


# --- what a crash left half done (everywhere: in crashes/test_everywhere.py) ------------------------------------------


def test_a_copy_that_does_not_unpack_is_no_reason_to_remove_the_original(where, log):
    before = live(log)
    retention = Retention(log, COMPRESS)
    step = retention.plan(moment(100))
    put(log, retention.prepare(step), at=100)
    copy = where / "log" / f"{1:020}.jsonl.zst"
    copy.write_bytes(copy.read_bytes()[:-9])
    log.abandon()
    other, records = opened(where)
    assert told(records) == before
    assert not copy.exists()
    assert step.segment.path.exists()
    other.abandon()


class LyingFiles(OsFiles):
    """Writes something else than it was told, from one moment on."""

    lie = False

    def create(self, path):
        file, files = super().create(path), self

        class Lying:
            def write(self, data):
                file.write(data.replace(b"ann", b"bob") if files.lie else data)

            size, close, truncate, sync, identity = file.size, file.close, file.truncate, file.sync, file.identity

        return Lying()


def test_a_copy_is_compared_before_it_counts(where):
    files = LyingFiles()
    log = begin(where, files)
    files.lie = True
    retention = Retention(log, ARCHIVE_ALL)
    step = retention.plan(moment(100))
    before = step.segment.path.read_bytes()
    with pytest.raises(CorruptLog, match="does not hold the same as"):
        retention.prepare(step)
    assert names(where / "archive" / log.log_id) == []
    assert step.segment.path.read_bytes() == before
    log.abandon()


# --- readers that are under way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE_ALL, BOTH])
@pytest.mark.parametrize("read", [1, 5, 9, 23])
def test_readers_under_way_go_on(where, log, policy, read):
    before = live(log)
    reader, records = log.reader(), kharon.read(where)
    some = reader.read(read, read)
    more = [next(records) for _ in range(read)]
    assert some == more == before[:read]
    assert carry_out(log, Retention(log, policy))
    assert told(some + reader.read(10_000, log.written)) == before
    assert told(more + list(records)) == before
    reader.close()


def test_a_file_that_moves_between_the_listing_and_the_opening(where, log, monkeypatch):
    before = live(log)
    old = segments(where)
    stale = [old]
    assert carry_out(log, Retention(log, COMPRESS))
    monkeypatch.setattr(audit_read, "segments", lambda folder: stale.pop() if stale else segments(folder))
    reading = audit_read.LogPass(where)  # which looks whether there are any, and takes the list away
    stale.append(old)
    assert told(list(reading.reading.records())) == before
    assert stale == []


def test_readers_that_fell_behind_a_trim_are_told(where, log):
    before = live(log)
    inside, early, records = log.reader(), log.reader(), kharon.read(where)
    assert inside.read(2, 2) == [next(records), next(records)] == before[:2]
    upto = log._places[2].first - 1
    assert carry_out(log, Retention(log, TRIM, may_trim=lambda seq: seq <= upto))
    first = log._places[0].first
    assert told(early.read(1000, log.written)) == before[upto:], "one that has not begun begins where the history does"
    end = before[upto // 2 - 1].seq if upto % 2 == 0 else None
    with pytest.raises(KharonError, match=f"has been trimmed: this reader fell behind.* record {first}"):
        inside.read(1000, log.written)
    with pytest.raises(KharonError, match=f"was trimmed while the log was being read; .* record {first}"):
        list(records)
    assert end is None or end < first
    inside.close()
    early.close()


@pytest.mark.parametrize("indexed", [True, False])
def test_readers_of_one_ticket_that_fell_behind_a_trim_are_told(where, log, indexed):
    """They may lack what was trimmed: a history that hides that would be taken for the whole."""
    if indexed:
        assert write_missing(where, segments(where)) > 2
    upto = log._places[2].first - 1
    inside, early = log.reader(0, "x"), log.reader(0, "x")
    assert (inside.read(1, 1), inside.seq) == ([], 1)
    carry_out(log, Retention(log, TRIM, may_trim=lambda seq: seq <= upto))
    first = log._places[0].first
    put(log, added("x"), at=99999)
    with pytest.raises(KharonError, match=f"has been trimmed: this reader fell behind.* record {first}"):
        to_the_end(inside, log)
    found = to_the_end(early, log)
    assert [record.seq for record in found] == [log.seq], "one that has not begun begins where the history does"
    inside.close()
    early.close()


def test_a_file_that_is_listed_and_cannot_be_found_is_an_error(where, log):
    one = segments(where)[0]
    data = one.read_bytes()
    one.unlink()
    one.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        kharon.verify(where)
    one.unlink()
    one.write_bytes(data)
    assert kharon.verify(where).first == 1


def test_the_live_reader_looks_for_the_file_when_it_needs_it(log):
    reader = LiveReader(log.files, log._places, 0, None)
    assert len(reader.read(1, log.written)) == 1
    put(log, added("x"), at=50)
    assert len(reader.read(10_000, log.written)) == log.written - 1
    reader.close()


# --- zstd -------------------------------------------------------------------------------------------------------------


def test_the_extra_is_named(where, log, monkeypatch):
    assert carry_out(log, Retention(log, COMPRESS))
    log.abandon()
    monkeypatch.setattr(zstd, "_LIBRARIES", ("no.such.library",))
    with pytest.raises(KharonError, match=r"0001\.jsonl\.zst needs zstd.*pip install 'kharon\[zstd\]'"):
        kharon.verify(where)
    with pytest.raises(KharonError, match=r"0001\.jsonl\.zst needs zstd"):
        opened(where)
    with pytest.raises(KharonError, match=r"Settings\.compress_after.*kharon\[zstd\]"):
        Retention(log, COMPRESS)
    Retention(log, ARCHIVE_ALL)
    with pytest.raises(KharonError, match=r"kharon\[zstd\]"):
        kharon.open("somewhere", kharon.Settings(compress_after=1))


def test_a_compressed_segment_that_is_damaged(where, log):
    assert carry_out(log, Retention(log, COMPRESS))
    path = segments(where)[0]
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptLog):
            kharon.verify(where)
    for byte in range(0, len(whole), 3):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 0x10]) + whole[byte + 1 :])
        try:
            assert kharon.verify(where).last == log.seq, "if it is taken, it holds the very same bytes"
        except CorruptLog as refused:
            assert refused.file == str(path) or "sealed with another header" in str(refused)  # noqa: PT017 - either is right
    path.write_bytes(whole)
    kharon.verify(where)


def test_a_compressed_segment_without_its_seal(where, log):
    path = segments(where)[0]
    data = path.read_bytes()
    unsealed = data[: data.rindex(b"\n", 0, -1) + 1]
    path.unlink()
    path.with_name(path.name + ".zst").write_bytes(b"".join(zstd.compress_chunks(iter([unsealed]))))
    with pytest.raises(CorruptLog, match="its seal is missing"):
        kharon.verify(where)


def test_a_small_file_cannot_stand_for_endless_reading(tmp_path, monkeypatch):
    path = tmp_path / "bomb.jsonl.zst"
    path.write_bytes(b"".join(zstd.compress_chunks(bytes(1 << 18) for _ in range(64))))
    assert path.stat().st_size < 5000
    monkeypatch.setattr(zstd, "MAX_DECOMPRESSED_BYTES", 1 << 22)
    with zstd.open_segment(OsFiles().read, path) as file:
        given = 0
        with pytest.raises(CorruptLog, match="decompresses to more than 4194304 bytes"):  # noqa: PT012 - read on until then
            while chunk := file.read(1 << 16):
                given += len(chunk)
        assert given <= 1 << 22


def test_a_window_that_would_need_much_memory_is_refused(tmp_path):
    library = zstd.load_zstd("this test")
    options = {library.CompressionParameter.window_log: 27}
    path = tmp_path / "wide.jsonl.zst"
    compressor = library.ZstdCompressor(options=options)
    path.write_bytes(compressor.compress(os.urandom(1 << 20)) + compressor.flush())
    with zstd.open_segment(OsFiles().read, path) as file, pytest.raises(CorruptLog, match="cannot be decompressed"):
        file.read()
