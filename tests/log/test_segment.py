from __future__ import annotations

import io
import json

import pytest
from log_steps import NOW, ZEROS, added, chained, hash_of, header_body, moment, record_body

from kharon.errors import CorruptLog, UnknownFormat
from kharon.log import segment
from kharon.log.files import OS_FILES
from kharon.log.live import LiveReader
from kharon.log.record import Chain, Header, Record
from kharon.log.segment import (
    BrokenSegment,
    SegmentFile,
    is_about,
    is_proved_durable,
    needle,
    read_segment,
    refuse_damage,
)
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import LogClosed, TicketDeleted


def read(data: bytes, chain: Chain | None = None, log: str | None = None) -> list[Header | Record]:
    return list(read_segment(io.BytesIO(data), "segment", chain or Chain(), log))


def read_until_broken(data: bytes) -> tuple[list[Record], BrokenSegment, Chain]:
    chain, records = Chain(), []
    with pytest.raises(BrokenSegment) as caught:
        records.extend(read_segment(io.BytesIO(data), "segment", chain, None))
    return records[1:], caught.value, chain


def test_a_whole_segment():
    chain = Chain()
    data = chain.header("e" * 32, NOW)
    data += b"".join(chain.commit([added("a"), added("b")], NOW, "ann", 0) + chain.commit([added("c")], NOW, "ann", 2))
    reading = Chain()
    header, *records = read(data, reading)
    assert isinstance(header, Header)
    assert header.log == "e" * 32
    assert [record.event.id for record in records] == ["a", "b", "c"]
    assert (reading.seq, reading.hash, reading.at) == (chain.seq, chain.hash, chain.at)


def test_a_record_is_given_only_once_its_commit_is_whole():
    chain = Chain()
    data = chain.header("e" * 32, NOW) + b"".join(chain.commit([added("a"), added("b")], NOW, "ann", 0))
    reading = read_segment(io.BytesIO(data), "segment", Chain(), None)
    next(reading)
    cut = read_segment(io.BytesIO(data[:-1]), "segment", Chain(), None)
    next(cut)
    assert next(reading).event.id == "a"
    with pytest.raises(BrokenSegment):
        next(cut)


@pytest.mark.parametrize(
    ("data", "log", "why"),
    [
        (b"", None, "no newline"),
        (chained(header_body())[:-1], None, "no newline"),
        (chained(header_body()), "e" * 32, f"its log id is {'f' * 32}, that of the segment before it is {'e' * 32}"),
        (chained(header_body(first=2)), None, "begins at record 2; 1 should come next"),
        (chained(header_body(previous="1" * 64)), None, "it says that it follows the line 1111"),
        (chained(header_body(), previous="1" * 64), None, "does not follow"),
        (chained(record_body()), None, "not a header"),
        (b"x" * (MAX_LINE_BYTES + 5), None, "longer than"),
    ],
)
def test_a_wrong_header_is_corrupt_since_it_cannot_be_torn(data, log, why):
    with pytest.raises(CorruptLog, match=f"segment, line 1 .byte 0.*{why}"):
        read(data, log=log)


def test_a_header_of_a_later_format_is_unknown():
    with pytest.raises(UnknownFormat):
        read(chained(header_body(version=2)))


@pytest.mark.parametrize(
    ("bodies", "why"),
    [
        ([record_body(seq=2)], "it is record 2; 1 should come next"),
        ([record_body(), record_body()], "it is record 1; 2 should come next"),
        ([record_body(part=[1, 2]), record_body(part=[2, 2], seq=3)], "it is record 3; 2 should come next"),
        ([record_body(part=[2, 2])], r"part \[2, 2\] of its commit; \[1,2\]"),
        ([record_body(part=[0, 1])], r"part \[0, 1\] of its commit; \[1,1\]"),
        ([record_body(part=[1, 0])], r"part \[1, 0\] of its commit"),
        ([record_body(part=[1, 2]), record_body(part=[1, 1], seq=2)], r"part \[1, 1\] of its commit; \[2,2\]"),
        ([record_body(part=[1, 3]), record_body(part=[2, 2], seq=2)], r"part \[2, 2\] of its commit; \[2,3\]"),
        ([record_body(part=[1, 3]), record_body(part=[3, 3], seq=2)], r"part \[3, 3\] of its commit; \[2,3\]"),
        ([record_body(durable=1)], "record 1 was on disk, before that record was written"),
        ([record_body(), record_body(seq=2, at="2025-12-31T23:59:59Z")], "time .* before that of the previous record"),
        (
            [record_body(part=[1, 2]), record_body(seq=2, part=[2, 2], at="2025-12-31T23:59:59Z")],
            "time .* before that of the previous record",
        ),
        ([record_body(part=[1, 2])], "the commit ends after 1 of its 2 records"),
        ([record_body(at="2026-01-01T00:00:00")], "not a record"),
    ],
)
def test_a_line_that_is_right_by_itself_but_not_here(bodies, why):
    start = chained(header_body())
    before = record_body()
    data = start + chained(*bodies, previous=hash_of(start))
    records, broken, chain = read_until_broken(data)
    assert broken.commit_seq == len(records) + 1 == chain.seq + 1
    assert broken.commit_byte == len(start + chained(*[before] * len(records), previous=hash_of(start)))
    with pytest.raises(BrokenSegment, match=why):
        raise broken


def test_the_place_that_is_broken():
    chain = Chain()
    lines = [chain.header("e" * 32, NOW)]
    lines += chain.commit([added("a")], NOW, "ann", 0)
    lines += chain.commit([added("b"), added("c"), added("d")], NOW, "ann", 0)
    whole = Chain(1, hash_of(lines[1]))
    lines[3] = lines[3].replace(b'"ann"', b'"bob"')
    records, broken, reached = read_until_broken(b"".join(lines))
    assert [record.seq for record in records] == [1]
    assert (broken.line, broken.byte) == (4, len(b"".join(lines[:3])))
    assert (broken.commit_byte, broken.commit_seq) == (len(b"".join(lines[:2])), 2)
    assert (reached.seq, reached.hash) == (whole.seq, whole.hash)
    corrupt = broken.as_corrupt("; more")
    assert (corrupt.file, corrupt.line, corrupt.byte) == ("segment", 4, broken.byte)
    assert str(corrupt) == f"segment, line 4 (byte {broken.byte}): {broken.why}; more"
    missing = read_until_broken(b"".join(lines[:3]))[1]
    assert (missing.line, missing.byte) == (4, len(b"".join(lines[:3])))


def log_lines() -> list[bytes]:
    """A header, records 1 and 2 in commits of one, and LogClosed, vouching for both."""
    chain = Chain()
    lines = [chain.header("e" * 32, NOW)]
    for seq in (1, 2):
        lines += chain.commit([added(f"t{seq}")], NOW, "ann", 0)
    return lines + chain.commit([LogClosed()], NOW, "clock", 2)


def vouched(data: bytes) -> bool:
    broken = read_until_broken(data)[1]
    return is_proved_durable(io.BytesIO(data), broken)


def test_a_later_line_vouches_for_what_was_durable_and_for_nothing_else():
    header, one, two, closed = log_lines()
    bad = two.replace(b"t2", b"t3")
    assert vouched(header + one + bad + closed)
    assert vouched(header + one + closed)
    assert vouched(header + two + closed)
    assert vouched(header + one + b"\0" * 5000 + b"\n" + closed)
    assert vouched(header + one + b"x" * (MAX_LINE_BYTES * 2) + b"\n" + closed)
    assert not vouched(header + one + bad)
    assert not vouched(header + one.replace(b"t1", b"t0") + two), "neither was durable"
    assert not vouched(header + one + two + closed[:-1])
    assert not vouched(header + one + bad + closed.replace(b'"durable":2', b'"durable":9')), "its crc is wrong"
    assert not vouched(header + one + two + closed + closed), "it vouches for what is there, not for a fourth record"
    assert not vouched(header + one + bad + chained(b'"durable":9}')), "no record"


@pytest.mark.parametrize("instead", [b"", b"\x0b", b"\0", b"\x8a"])
def test_a_line_vouches_although_the_newline_in_front_of_it_is_damaged(instead):
    header, one, two, closed = log_lines()
    assert vouched(header + one + two[:-1] + instead + closed)


@pytest.mark.parametrize("where", [(), ("in",), ("in", "it")])
def test_no_payload_vouches(where):
    fake = json.loads(chained(record_body(seq=9, durable=8)))
    for key in where:
        fake = {key: fake}
    payload = json.dumps(fake, separators=(",", ":")).encode()
    assert b'{"hash":"' in payload
    chain = Chain()
    data = chain.header("e" * 32, NOW)
    data += chain.commit([added("a", payload)], NOW, "ann", 0)[0].replace(b'"ann"', b'"bob"')
    assert not vouched(data)


def test_a_line_of_a_later_version_behind_a_broken_one_is_unknown():
    header, one, two, _ = log_lines()
    with pytest.raises(UnknownFormat):
        vouched(header + one + two[:-9] + b"\n" + chained(record_body(seq=3, v=2)))


def test_the_judgement():
    header, one, two, closed = log_lines()
    torn = header + one + two[:-7]
    broken = read_until_broken(torn)[1]
    assert refuse_damage(io.BytesIO(torn), broken, last=True) is None
    with pytest.raises(CorruptLog, match=r"line 3 .*not the last, so it had been finished"):
        refuse_damage(io.BytesIO(torn), broken, last=False)
    damaged = torn + b"\n" + closed
    with pytest.raises(CorruptLog, match=r"line 3 .*a later line says that it was on disk"):
        refuse_damage(io.BytesIO(damaged), broken, last=True)


def test_what_a_record_is_about():
    closed = Record(1, NOW, "clock", LogClosed(), ZEROS, (1, 1), 0)
    deleted = Record(1, NOW, "ann", TicketDeleted("a"), ZEROS, (1, 1), 0)
    assert is_about(closed, None)
    assert is_about(deleted, None)
    assert is_about(deleted, "a")
    assert not is_about(deleted, "b")
    assert not is_about(closed, "a")
    assert needle('ä"') == b'"id":"\\u00e4\\""'


@pytest.fixture
def live(tmp_path):
    """A segment's path, and a reader of it."""
    readers = []

    def make(data: bytes, first: int = 1, after: int = 0, id: str | None = None) -> LiveReader:
        path = tmp_path / "segment"
        path.write_bytes(data)
        readers.append(LiveReader(OS_FILES, [SegmentFile(first, path)], after, id))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def test_reading_on(live):
    header, one, two, closed = log_lines()
    reader = live(header + one + two + closed)
    assert [record.seq for record in reader.read(2, 9)] == [1, 2]
    assert reader.seq == 2
    assert reader.read(5, 2) == []
    assert [type(record.event) for record in reader.read(5, 3)] == [LogClosed]
    assert reader.seq == 3


def test_reading_a_later_segment(live):
    chain = Chain(7, "ab" * 32, moment(0))
    data = chain.header("e" * 32, NOW) + b"".join(chain.commit([added("a"), added("b")], NOW, "ann", 7))
    reader = live(data, first=8, after=8)
    assert [record.seq for record in reader.read(9, 9)] == [9]


def test_a_reader_of_one_ticket_is_not_fooled_by_payloads(live):
    chain = Chain()
    data = chain.header("e" * 32, NOW)
    data += b"".join(chain.commit([added("a", b'{"id":"b"}'), added("b"), added("ab")], NOW, "ann", 0))
    assert [record.seq for record in live(data, id="b").read(9, 3)] == [2]


def test_a_reader_notices_damage(live):
    header, one, two, closed = log_lines()
    reader = live(header + one + two.replace(b'"ann"', b'"bob"'))
    with pytest.raises(CorruptLog, match="crc") as caught:
        reader.read(9, 2)
    assert (caught.value.line, caught.value.byte) == (3, len(header + one))
    with pytest.raises(CorruptLog, match="it is record 3; 2 should come next"):
        live(header + one + closed).read(9, 2)
    with pytest.raises(CorruptLog, match="no newline"):
        live(header + one).read(9, 2)
    reader.close()
    reader.close()


def test_what_only_resembles_the_beginning_of_a_line_is_not_looked_at(monkeypatch):
    """A payload may be full of it, and looking costs the bytes behind it each time: 8 s for a line of 1 MiB, before."""
    looked = []

    def counted(line, previous, real=segment.check_line):
        looked.append(len(line))
        return real(line, previous)

    monkeypatch.setattr(segment, "check_line", counted)
    broken = BrokenSegment("segment", 2, 0, 0, 1, "")
    vouching = chained(record_body(seq=3, durable=2))
    data = b'{"hash":"' * 1000 + b"\n" + b'{"hash":"0123456789012345678901234567890123456789"},' * 1000 + b"\n"
    assert not is_proved_durable(io.BytesIO(data), broken)
    assert looked == []
    assert is_proved_durable(io.BytesIO(data + b"x" + vouching), broken)
    assert looked == [len(vouching)]
