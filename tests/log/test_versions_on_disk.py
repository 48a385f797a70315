"""Versions on disk: old records are read as what they mean today and stay as they are; what is not known is refused.

No event has a second version yet, so one is planted: a world in which `TicketAdded` was once written with `queue` and
`priority` (the higher, the sooner), and then without `nice`.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from log_steps import NOW, added, chained, header_body, load, moment, place, put, read_from, record_body, segment_of
from msgspec import Raw

import kharon
from kharon.errors import CorruptLog, UnknownFormat
from kharon.log import record
from kharon.log.directory import DirectoryLog
from kharon.log.record import _Envelope, check_line, link
from kharon.log.snapshot import take
from kharon.model.events import EVENTS, LogClosed, TicketAdded, TicketDeleted
from kharon.model.projection import Projection
from kharon.model.versions import RECORD_FIELDS, Change, Fields, Unknown, Versions

T = "2026-01-01T00:00:00Z"
FIRST = {"queue": "mail", "priority": 12, "runat": T, "payload": {"to": "ann"}}
SECOND = {"tube": "mail", "runat": T, "payload": {"to": "ann"}}


def second_of_first(fields: Fields) -> Fields:
    fields["tube"] = fields.pop("queue")
    priority = msgspec.json.decode(fields.pop("priority"), type=int)
    return fields | {"nice": Raw(b"%d" % (512 - priority))}


def third_of_second(fields: Fields) -> Fields:
    return {"nice": Raw(b"512")} | fields


def opened(where: Path, segment_bytes: int = 1 << 20) -> tuple[DirectoryLog, Projection]:
    """Open a log as the store does; give up its place if it is refused."""
    log = DirectoryLog(where, segment_bytes)
    try:
        return log, load(log)
    except BaseException:
        log.abandon()
        raise


@pytest.fixture
def later(monkeypatch):
    """A Kharon of some later release."""
    changes = {"TicketAdded": (Change("0.2.0", second_of_first), Change("0.3.0", third_of_second))}
    monkeypatch.setattr(record, "VERSIONS", Versions(EVENTS, changes, {"TicketDeleted": "0.4.0"}))


def record_of(seq: int, id: str, v: int, **fields: object) -> bytes:
    return record_body(seq=seq, durable=seq - 1, event="TicketAdded", id=id, type="email", v=v, **fields)


@pytest.fixture
def old(tmp_path):
    """A log that has seen three releases."""
    bodies = [
        record_of(1, "first", 1, **FIRST),
        record_of(2, "second", 2, **SECOND, needs="0.2.0"),
        record_of(3, "third", 3, **SECOND, nice=7, needs="0.3.0"),
    ]
    return place(tmp_path / "old", chained(header_body(), *bodies))


def niceness(where: Path) -> dict[str, tuple[str, int, object]]:
    return {id: (ticket.tube, ticket.nice, ticket.payload) for id, ticket in kharon.replay(where).tickets.items()}


EXPECTED = {
    "first": ("mail", 500, {"to": "ann"}),
    "second": ("mail", 512, {"to": "ann"}),
    "third": ("mail", 7, {"to": "ann"}),
}


def test_old_records_are_read_as_what_they_mean_today(later, old):
    assert niceness(old) == EXPECTED
    assert [(record.version, type(record.event)) for record in kharon.read(old)] == [
        (1, TicketAdded),
        (2, TicketAdded),
        (3, TicketAdded),
    ], "and a record knows in which version it was written"


def test_the_chain_is_over_the_bytes_and_nothing_is_written_anew(later, old):
    before = segment_of(old).read_bytes()
    log, projection = opened(old)
    put(log, added("new"))
    records = read_from(log)
    assert [(record.seq, record.version) for record in records] == [(1, 1), (2, 2), (3, 3), (4, 3)]
    reader = log.reader(0, "second")
    assert [record.event.id for record in reader.read(9, log.written)] == ["second"]
    reader.close()
    log.close(moment(9))
    after = segment_of(old).read_bytes()
    assert after.startswith(before)
    assert set(projection.tickets) == set(EXPECTED)
    report = kharon.verify(old)
    assert (report.records, report.unknown, report.closed) == (5, (), True)
    assert niceness(old) == EXPECTED | {"new": ("default", 512, None)}


def test_the_newest_version_is_what_is_written(later, tmp_path):
    log, _ = opened(tmp_path / "queue")
    put(log, added("a"), TicketDeleted("a"))
    log.abandon()
    _, one, two = map(json.loads, segment_of(tmp_path / "queue").read_bytes().splitlines())
    assert list(one)[:10] == ["hash", "crc", "seq", "durable", "part", "at", "v", "event", "needs", "by"]
    assert (one["v"], one["needs"], two["v"], two["needs"]) == (3, "0.3.0", 1, "0.4.0")
    first, second = kharon.read(tmp_path / "queue")
    assert (first.event, second.event) == (added("a"), TicketDeleted("a"))


def test_snapshots_hold_what_old_records_mean_today(later, tmp_path):
    where = tmp_path / "queue"
    bodies = [record_of(1, "first", 1, **FIRST), record_of(2, "second", 2, **SECOND)]
    place(where, chained(header_body(), *bodies))
    log, _ = opened(where, segment_bytes=100)
    put(log, added("new"))
    put(log, added("newer"))
    log.close(NOW)
    assert take(where) is not None
    log, projection = opened(where)
    log.close(NOW)
    assert projection.tickets["first"].nice == 500
    assert projection == kharon.replay(where)


def test_an_old_record_without_its_versions_fields_is_no_record(later, old):
    place(old.with_name("bad"), chained(header_body(), record_of(1, "a", 1, **SECOND), record_body(seq=2, durable=1)))
    with pytest.raises(CorruptLog, match="its fields are not those of version 1: KeyError"):
        kharon.verify(old.with_name("bad"))


# --- what is not known ------------------------------------------------------------------------------------------------


def praised(seq: int, **fields: object) -> bytes:
    return record_body(seq=seq, durable=seq - 1, event="TicketPraised", **fields)


@pytest.fixture
def newer(tmp_path):
    """A log with two records that this Kharon does not know, and one that it knows in another version."""
    bodies = [
        record_body(durable=0, event="TicketAdded", type="t", tube="t", nice=1, runat=T, payload=1),
        praised(2, v=4, needs="1.7.0", mood=["good"]),
        record_body(seq=3, durable=2, v=2),
        praised(4, v=4, needs="1.7.0"),
        record_body(seq=5, durable=4, event="LogClosed"),
    ]
    return place(tmp_path / "newer", chained(header_body(), *bodies))


WHY = (
    r"newer/log/0+1\.jsonl, line 3: record 2 is TicketPraised in version 4, and Kharon \S+ knows no such event: "
    r"1\.7\.0 or a later one is needed; kharon\.verify lists everything"
)


def test_what_a_later_one_wrote_is_not_opened_and_not_touched(newer):
    before = segment_of(newer).read_bytes()
    with pytest.raises(UnknownFormat, match=WHY):
        opened(newer)
    assert segment_of(newer).read_bytes() == before
    assert sorted(path.name for path in newer.iterdir()) == ["LOCK", "log"]


async def test_the_queue_is_not_opened_either(newer):
    with pytest.raises(UnknownFormat, match=WHY):
        async with kharon.open(newer):
            pass
    with pytest.raises(UnknownFormat, match=WHY):
        kharon.repair(newer, confirm=True)


def test_it_is_read_and_replayed_up_to_there(newer):
    records = kharon.read(newer)
    assert next(records).seq == 1
    with pytest.raises(UnknownFormat, match=WHY):
        next(records)
    assert list(kharon.replay(newer, until=1).tickets) == ["a"]
    with pytest.raises(UnknownFormat, match=WHY):
        kharon.replay(newer)


def test_it_is_verified_and_what_is_not_known_is_named(newer):
    report = kharon.verify(newer)
    assert report.unknown == (
        kharon.UnknownEvents(event="TicketPraised", version=4, needs="1.7.0", first=2, records=2),
        kharon.UnknownEvents(event="TicketDeleted", version=2, needs=None, first=3, records=1),
    )
    assert (report.last, report.records, report.closed) == (5, 5, True)
    data = segment_of(newer).read_bytes()
    segment_of(newer).write_bytes(data.replace(b'"good"', b'"evil"'))
    with pytest.raises(CorruptLog, match=r"line 3 .*crc"):
        kharon.verify(newer)


def test_damage_in_front_of_what_is_not_known_is_damage(newer):
    """A line vouches for what is before it whatever it is about."""
    data = segment_of(newer).read_bytes()
    segment_of(newer).write_bytes(data.replace(b'"nice":1', b'"nice":2'))
    for look in (kharon.verify, kharon.replay, opened):
        with pytest.raises(CorruptLog, match=r"line 2 .*was on disk"):
            look(newer)


def test_an_unfinished_commit_of_a_later_one_is_verified_and_not_cut(tmp_path):
    """Nothing vouches for record 2, and behind it stands what this Kharon does not know: not for it to cut."""
    one = record_of(1, "a", 1, **SECOND, nice=1)
    later = record_body(seq=3, durable=1, event="TicketPraised")
    data = chained(header_body(), one, record_body(seq=2, durable=1), later).replace(b'"seq":2', b'"seq":9')
    where = place(tmp_path / "queue", data)
    report = kharon.verify(where)
    assert (report.last, report.unknown) == (1, ())
    assert report.unfinished == len(data) - data.index(b"\n", data.index(b"\n") + 1) - 1
    with pytest.raises(UnknownFormat, match="record 3 is TicketPraised"):
        opened(where)
    assert segment_of(where).read_bytes() == data


def test_a_known_event_never_is_unknown(newer):
    line = segment_of(newer).read_bytes().splitlines(keepends=True)[1]
    assert record.parse_record(line, "", lenient=True) == record.parse_record(line, "")
    line = segment_of(newer).read_bytes().splitlines(keepends=True)[2]
    event = record.parse_record(line, check_line(line, None), lenient=True).event
    assert event == Unknown("TicketPraised", 4, 0, "1.7.0")
    assert type(event) is not LogClosed


def test_the_fields_of_a_record_are_those_that_an_upcaster_does_not_get():
    fields = msgspec.structs.fields(_Envelope)
    assert ["hash", "crc", *(field.encode_name for field in fields)] == list(RECORD_FIELDS)


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"needs": "2.0.0"}])
def test_a_segment_in_a_later_format_whatever_else_its_header_says(tmp_path, fields):
    body = json.dumps({"format": "kharon-log", "version": 2, "all": "new"} | fields)[1:].encode()
    where = place(tmp_path / "queue", chained(body))
    for look in (kharon.verify, kharon.replay, opened):
        with pytest.raises(UnknownFormat, match=r"0001\.jsonl, line 1: it is kharon-log in format 2,") as why:
            look(where)
        assert str(why.value).endswith(f"knows 1: {fields['needs'] + ' or ' if fields else ''}a later one is needed")


@pytest.fixture
def saved(tmp_path):
    """A log with two snapshots, the newer of them in a later format."""
    where = tmp_path / "queue"
    log = DirectoryLog(where, segment_bytes=300)
    list(log.open(NOW))
    for id in ("a", "b", "c"):
        put(log, added(id))
        take(where)
    put(log, added("d"))
    log.close(NOW)
    newer = max((where / "snapshots").iterdir())
    body = newer.read_bytes().splitlines()[0][92:].replace(b'"version":1', b'"version":2,"needs":"3.0.0"')
    newer.write_bytes(link("0" * 64, body)[0] + b"and whatever that format has\n")
    return where


@pytest.mark.parametrize("older", [True, False])
def test_a_snapshot_in_a_later_format_is_passed_over(saved, caplog, older):
    if not older:
        min((saved / "snapshots").iterdir()).unlink()
    log, projection = opened(saved)
    log.close(NOW)
    assert set(projection.tickets) == {"a", "b", "c", "d"}
    assert "line 1: it is kharon-snapshot in format 2, and Kharon" in caplog.text
    assert "3.0.0 or a later one is needed" in caplog.text


def test_without_the_beginning_of_the_log_it_takes_that_later_one(saved):
    min((saved / "log").iterdir()).unlink()
    log, _ = opened(saved)
    log.close(NOW)
    older, newer = sorted((saved / "snapshots").iterdir())
    older.unlink()
    with pytest.raises(UnknownFormat, match=r"3\.0\.0 or a later one is needed; no other snapshot holds the"):
        opened(saved)
    newer.unlink()
    with pytest.raises(CorruptLog, match="no snapshot of the records before it is usable"):
        opened(saved)
