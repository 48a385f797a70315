from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path

import attrs
import pytest
from log_steps import NOW, added, moment, put, seal, segment_of, two_segments

import kharon
from kharon.audit.read import FixedSizeFile
from kharon.errors import CorruptLog, InvalidTicket, KharonError, UnknownFormat
from kharon.log import scan
from kharon.log.directory import DirectoryLog
from kharon.log.record import Chain
from kharon.model.events import TicketClaimed, TicketDeleted, TicketDone
from kharon.model.projection import Projection
from kharon.model.ticket import Status

PACKAGE = Path(kharon.__file__).parent


@pytest.fixture
def log(where):
    """A log, held open, of five records in three commits, at 1, 2 and 3 s."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    put(log, added("a"), at=1)
    put(log, added("b"), TicketClaimed("a", 1, moment(30), "w"), TicketDone("a", keep=True), at=2)
    put(log, TicketDeleted("b"), at=3)
    yield log
    log.abandon()


def seqs(where: Path, after: int = 0) -> list[int]:
    return [record.seq for record in kharon.read(where, after)]


# --- read -------------------------------------------------------------------------------------------------------------


def test_reading_while_it_is_open(where, log):
    reader = log.reader()
    try:
        assert list(kharon.read(where)) == reader.read(99, 5)
    finally:
        reader.close()
    assert list(kharon.read(str(where))) == list(kharon.read(where))
    assert [type(record.event).__name__ for record in kharon.read(where, after=3)] == ["TicketDone", "TicketDeleted"]
    assert seqs(where, after=5) == []
    put(log, added("c"), at=4)
    assert seqs(where, after=5) == [6]


def test_reading_changes_nothing(where, log):
    def look() -> list[object]:
        return [(path, path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in files]

    files = [path for path in sorted(where.rglob("*")) if path.is_file()]
    before = look()
    segment_of(where).chmod(0o400)
    assert seqs(where) == [1, 2, 3, 4, 5]
    kharon.replay(where)
    kharon.verify(where)
    assert look() == before
    assert sorted(path for path in where.rglob("*") if path.is_file()) == files


def test_reading_stops_where_a_commit_is_unfinished(where, log):
    whole = segment_of(where).read_bytes()
    cut = whole.rindex(b"\n", 0, -1) + 1
    for length in range(cut, len(whole)):
        segment_of(where).write_bytes(whole[:length])
        assert seqs(where) == [1, 2, 3, 4]
    second = whole.index(b'"part":[2,3]')
    segment_of(where).write_bytes(whole[:second])
    assert seqs(where) == [1], "no part of a commit is given before all of it is there"


def test_several_segments(where):
    one, two = two_segments(where)
    assert seqs(where) == [1, 2, 3, 4]
    assert seqs(where, after=2) == [3, 4]
    two.write_bytes(two.read_bytes()[:-1])
    assert seqs(where) == [1, 2, 3]
    whole = one.read_bytes()
    one.write_bytes(whole[: whole.index(b'"sealed"') - 93])
    with pytest.raises(CorruptLog, match=r"0001\.jsonl, line 3 .*not the last"):
        seqs(where)
    one.write_bytes(whole[:-1])
    with pytest.raises(CorruptLog, match=r"0001\.jsonl, line 4 .*the seal is missing or damaged"):
        seqs(where)


def test_the_records_before_the_damage_are_given(where, log):
    log.close(moment(9))
    data = segment_of(where).read_bytes()
    segment_of(where).write_bytes(data.replace(b'"id":"b"}', b'"id":"c"}'))
    records = kharon.read(where)
    assert [next(records).seq for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(CorruptLog, match=r"line 6 .*crc.*a later line says that it was on disk") as caught:
        next(records)
    assert caught.value.file == str(segment_of(where))
    assert caught.value.byte == data.index(b"\n", data.index(b'"TicketDone"')) + 1


@pytest.mark.parametrize("use", [kharon.read, kharon.replay, kharon.verify])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "nowhere does not exist; a queue is a directory: name the one that was given to kharon.open"),
        ("file", "file is a file; a queue is a directory"),
        ("empty", "empty is not a queue: there is no segment in .*log; name the directory"),
        ("foreign", "foreign is not a queue"),
    ],
)
def test_what_is_no_queue(tmp_path, use, name, why):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign" / "log").mkdir(parents=True)
    (tmp_path / "foreign" / "log" / "server.log").write_text("mine")
    with pytest.raises(KharonError, match=why):
        use(tmp_path / name)  # read, too, says so at once
    assert not (tmp_path / "nowhere").exists()


def test_a_later_version(where):
    chain = Chain()
    data = chain.header("e" * 32, NOW)
    (line,) = chain.commit([TicketDeleted("a")], NOW, "ann", 0)
    body = line[92:-1].replace(b'"v":1', b'"v":2')
    (where / "log").mkdir(parents=True)
    head = seal(body, data[9:73].decode())
    (where / "log" / f"{1:020}.jsonl").write_bytes(data + head)
    for look in (kharon.replay, lambda path: list(kharon.read(path))):
        with pytest.raises(UnknownFormat, match="record 1 is TicketDeleted in version 2"):
            look(where)
    (unknown,) = kharon.verify(where).unknown  # its place in the chain needs no knowledge of it
    assert (unknown.event, unknown.version, unknown.records) == ("TicketDeleted", 2, 1)


# --- a writer at work -------------------------------------------------------------------------------------------------


def test_what_is_written_during_the_reading_is_not_taken_for_damage(where, log, monkeypatch):
    """The end of a commit that was half written when it was read, and lines that vouch for it, come while judging."""
    path = segment_of(where)
    whole = path.read_bytes()
    put(log, added("c"), at=4)
    more = path.read_bytes()[len(whole) :]
    path.write_bytes(whole[:-30])

    def refuse_damage(file, broken, **how):
        with path.open("ab") as writer:
            writer.write(whole[-30:] + more)
        return real(file, broken, **how)

    real = scan.refuse_damage
    monkeypatch.setattr(scan, "refuse_damage", refuse_damage)
    report = kharon.verify(where)
    assert (report.last, report.unfinished) == (4, len(whole) - 30 - report.bytes)
    assert report.unfinished > 0
    monkeypatch.undo()
    assert kharon.verify(where).last == 6


def test_a_file_is_read_as_long_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo")
    with FixedSizeFile(path) as still, io.BufferedReader(still) as file:
        assert still.stat.st_size == 7
        with path.open("ab") as writer:
            writer.write(b"!\nthree\n")
        assert [file.readline(), file.readline(), file.readline()] == [b"one\n", b"two", b""]
        file.seek(4)
        assert file.readline() == b"two"
        file.seek(9)
        assert file.readline() == b""


def test_reading_across_a_recovery(where, log):
    """Who has begun to read goes on in the old file, whole as it was."""
    log.abandon()
    records = kharon.read(where)
    first = next(records)
    other = DirectoryLog(where)
    list(other.open(moment(9)))
    put(other, added("c"), at=10)
    assert [first.seq, *(record.seq for record in records)] == [1, 2, 3, 4, 5]
    other.abandon()
    assert seqs(where) == [1, 2, 3, 4, 5, 6]


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replaying_all(where, log):
    projection = kharon.replay(where)
    assert projection == Projection().fold(kharon.read(where))
    assert (projection.seq, projection.at) == (5, moment(3))
    assert {id: ticket.status for id, ticket in projection.tickets.items()} == {"a": Status.DONE}
    projection.check()


@pytest.mark.parametrize(
    ("until", "seq", "ids"),
    [
        (0, 0, []),
        (-1, 0, []),
        (1, 1, ["a"]),
        (2, 2, ["a", "b"]),
        (4, 4, ["a", "b"]),
        (5, 5, ["a"]),
        (99, 5, ["a"]),
        (moment(0.9), 0, []),
        (moment(1), 1, ["a"]),
        (moment(1.999999), 1, ["a"]),
        (moment(2), 4, ["a", "b"]),
        (moment(2).astimezone(timezone(timedelta(hours=-7))), 4, ["a", "b"]),
        (moment(3), 5, ["a"]),
        (moment(99), 5, ["a"]),
    ],
)
def test_replaying_until(where, log, until, seq, ids):
    projection = kharon.replay(where, until)
    assert (projection.seq, sorted(projection.tickets)) == (seq, ids)
    assert projection == Projection().fold(record for record in kharon.read(where) if record.seq <= seq)


def test_a_naive_instant_is_refused(where, log):
    with pytest.raises(InvalidTicket, match=r"until: .* has no timezone"):
        kharon.replay(where, moment(1).replace(tzinfo=None))


def test_damage_behind_the_seq_asked_for_does_not_matter(where, log):
    log.close(moment(9))
    data = segment_of(where).read_bytes()
    segment_of(where).write_bytes(data.replace(b'"id":"b"}', b'"id":"c"}'))
    assert kharon.replay(where, 4).seq == 4
    with pytest.raises(CorruptLog):
        kharon.replay(where, 5)


# --- verify -----------------------------------------------------------------------------------------------------------


def test_the_report_of_an_open_log(where, log):
    data = segment_of(where).read_bytes()
    last = data.splitlines()[-1]
    assert kharon.verify(str(where)) == kharon.Report(
        path=where,
        log=data[data.index(b'"log":"') + 7 :][:32].decode(),
        follows="0" * 64,
        first=1,
        last=5,
        records=5,
        segments=1,
        bytes=len(data),
        hash=last[9:73].decode(),
        unfinished=0,
        closed=False,
    )


def test_a_report_cannot_be_changed(where, log):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        kharon.verify(where).last = 9


def test_the_report_of_a_closed_log(where, log):
    log.close(moment(9))
    report = kharon.verify(where)
    assert (report.last, report.records, report.closed, report.unfinished) == (6, 6, True, 0)
    with segment_of(where).open("ab") as file:
        file.write(b"{")
    report = kharon.verify(where)
    assert (report.last, report.closed, report.unfinished) == (6, False, 1)
    assert report.bytes + report.unfinished == segment_of(where).stat().st_size


def test_a_closed_log_that_went_on_is_not_closed(where, log):
    log.close(moment(9))
    other = DirectoryLog(where)
    list(other.open(moment(10)))
    put(other, added("c"), at=11)
    assert (kharon.verify(where).last, kharon.verify(where).closed) == (7, False)
    other.abandon()


def test_the_report_of_an_unfinished_commit(where, log):
    data = segment_of(where).read_bytes()
    second = data.index(b"\n", data.index(b'"part":[2,3]')) + 1
    segment_of(where).write_bytes(data[: second + 10])
    report = kharon.verify(where)
    whole = data.index(b"\n", data.index(b'"seq":1,')) + 1
    assert (report.last, report.records, report.bytes) == (1, 1, whole)
    assert report.unfinished == second + 10 - whole
    assert report.hash == data[:whole].splitlines()[-1][9:73].decode()


def test_the_report_of_a_log_without_records(where):
    log = DirectoryLog(where)
    list(log.open(NOW))
    report = kharon.verify(where)
    log.abandon()
    assert (report.first, report.last, report.records, report.closed) == (1, 0, 0, False)
    assert report.bytes == segment_of(where).stat().st_size
    assert report.hash == segment_of(where).read_bytes()[9:73].decode()


def test_the_report_of_several_segments(where):
    paths = two_segments(where)
    report = kharon.verify(where)
    assert (report.log, report.first, report.last, report.records) == ("e" * 32, 1, 4, 4)
    assert (report.segments, report.closed) == (2, True)
    assert report.bytes == sum(path.stat().st_size for path in paths)


def test_every_altered_byte_of_a_closed_log_is_refused(where, log):
    log.close(moment(9))
    path = segment_of(where)
    data = path.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for byte in range(last):
        altered = bytearray(data)
        altered[byte] ^= 1 << (byte % 8)
        path.write_bytes(altered)
        with pytest.raises(CorruptLog):
            kharon.verify(where)


# --- without Trio -----------------------------------------------------------------------------------------------------


def test_it_names_no_trio():
    for path in (PACKAGE / "audit").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                assert not [name for name in names if name.split(".")[0] == "trio"], path


WITHOUT_TRIO = """
import sys, types
package = types.ModuleType("kharon")  # the real one may import the runtime, for its names
package.__path__ = [sys.argv[1]]
sys.modules["kharon"] = package
sys.modules["trio"] = None  # importing it raises
from kharon.audit.read import read
from kharon.audit.replay import replay
from kharon.audit.verify import verify
print(len(list(read(sys.argv[2]))), replay(sys.argv[2]).seq, verify(sys.argv[2]).last)
"""


def test_it_works_where_trio_cannot_be_imported(where, log):
    package = PACKAGE
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRIO, str(package), str(where)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
    )
    assert said.stdout == "5 5 5\n"


@pytest.mark.parametrize("until", ["2026-01-01", 1.0, NOW.date(), True])
def test_until_something_else_is_refused(where, until):
    with pytest.raises(InvalidTicket, match="until: a seq, a timezone-aware datetime, or None"):
        kharon.replay(where, until=until)
