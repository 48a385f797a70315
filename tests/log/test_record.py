from __future__ import annotations

import hashlib
import json
import zlib
from datetime import timedelta

import msgspec
import pytest
from log_steps import NOW, ZEROS, added, hash_of, header_body, moment, record_body, seal
from msgspec import Raw

from kharon.errors import InvalidTicket, UnknownFormat
from kharon.log.record import GENESIS, BadLine, Chain, _Envelope, check_line, parse_header, parse_record
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import (
    EVENTS,
    Changes,
    Event,
    LeaseExtended,
    LogClosed,
    LogRepaired,
    ScheduleFired,
    ScheduleRemoved,
    ScheduleSet,
    ScheduleSkipped,
    SegmentArchived,
    SegmentCompressed,
    SegmentTrimmed,
    TailCut,
    TicketAdded,
    TicketCancelled,
    TicketClaimed,
    TicketDeleted,
    TicketDone,
    TicketExpired,
    TicketFailed,
    TicketLapsed,
    TicketReleased,
    TicketRestarted,
    TicketRetried,
    TicketUnblocked,
    TicketUpdated,
    TubeLimited,
    TubePaused,
    TubeResumed,
)

T = "2026-01-01T00:00:00Z"
GOLDEN: list[tuple[Event, str]] = [
    (
        TicketAdded("a", "t", Raw(b'{"x":[1,2.5]}'), "u", -3, NOW, "g"),
        f'"id":"a","type":"t","payload":{{"x":[1,2.5]}},"tube":"u","nice":-3,"runat":"{T}","group":"g"',
    ),
    (
        TicketAdded("a", "t", Raw(b"1"), "u", 3, NOW, None, ("b", "c"), ("b",), "g", True, "cancel"),
        (
            f'"id":"a","type":"t","payload":1,"tube":"u","nice":3,"runat":"{T}","after":["b","c"],"blocked_by":["b"],'
            f'"after_group":"g","blocked_by_group":true,"on_failure":"cancel"'
        ),
    ),
    (added("a"), f'"id":"a","type":"type","payload":null,"tube":"default","nice":512,"runat":"{T}"'),
    (TicketClaimed("a", 2, NOW, "w"), f'"id":"a","attempt":2,"lease_until":"{T}","worker":"w"'),
    (LeaseExtended("a", moment(0.25)), '"id":"a","lease_until":"2026-01-01T00:00:00.250000Z"'),
    (TicketDone("a", True, Raw(b'"r"'), NOW), f'"id":"a","keep":true,"result":"r","expire_at":"{T}"'),
    (TicketDone("a"), '"id":"a"'),
    (TicketFailed("a", "why", NOW), f'"id":"a","error_reason":"why","expire_at":"{T}"'),
    (TicketFailed("a"), '"id":"a"'),
    (TicketCancelled("a", True, "no", NOW), f'"id":"a","keep":true,"error_reason":"no","expire_at":"{T}"'),
    (TicketCancelled("a"), '"id":"a"'),
    (
        TicketRetried("a", NOW, "why", Changes(1, Raw(b"[]"), "u", "g", NOW)),
        (
            f'"id":"a","runat":"{T}","error_reason":"why",'
            f'"changes":{{"nice":1,"payload":[],"tube":"u","group":"g","runat":"{T}"}}'
        ),
    ),
    (TicketRetried("a", NOW), f'"id":"a","runat":"{T}"'),
    (TicketReleased("a"), '"id":"a"'),
    (TicketReleased("a", Changes(tube="u")), '"id":"a","changes":{"tube":"u"}'),
    (TicketLapsed("a", NOW, "late"), f'"id":"a","runat":"{T}","error_reason":"late"'),
    (TicketRestarted("a", NOW), f'"id":"a","runat":"{T}"'),
    (TicketUpdated("a", Changes(group=None)), '"id":"a","changes":{"group":null}'),
    (TicketUnblocked("a", "b"), '"id":"a","ended":"b"'),
    (TicketUnblocked("a", "b", "g", True), '"id":"a","ended":"b","group":"g","dropped":true'),
    (TicketDeleted("a"), '"id":"a"'),
    (TicketExpired("a"), '"id":"a"'),
    (TubePaused("t"), '"tube":"t"'),
    (TubeResumed("t"), '"tube":"t"'),
    (TubeLimited("t"), '"tube":"t"'),
    (TubeLimited("t", 1, 2, 0.5), '"tube":"t","claimed":1,"claims":2,"period":0.5'),
    (
        ScheduleSet("s", "t", Raw(b"[1]"), "default", 512, NOW, None, None, 60.0),
        f'"name":"s","type":"t","payload":[1],"tube":"default","nice":512,"next_due":"{T}","every":60.0',
    ),
    (
        ScheduleSet("s", "t", Raw(b"1"), "u", 5, NOW, "g", "0 7 * * 1", None, "Asia/Tokyo", "all"),
        (
            f'"name":"s","type":"t","payload":1,"tube":"u","nice":5,"next_due":"{T}","group":"g","cron":"0 7 * * 1",'
            '"tz":"Asia/Tokyo","catch_up":"all"'
        ),
    ),
    (ScheduleFired("s", NOW), f'"name":"s","due":"{T}"'),
    (ScheduleFired("s", NOW, NOW), f'"name":"s","due":"{T}","next_due":"{T}"'),
    (ScheduleSkipped("s"), '"name":"s"'),
    (ScheduleSkipped("s", NOW), f'"name":"s","next_due":"{T}"'),
    (ScheduleRemoved("s"), '"name":"s"'),
    (LogClosed(), ""),
    (
        TailCut("log/1.jsonl", 7, 8, "quarantine/1-7"),
        '"file":"log/1.jsonl","byte":7,"length":8,"kept_as":"quarantine/1-7"',
    ),
    (
        LogRepaired("log/1.jsonl", 7, 8, "quarantine/1-7", 2),
        '"file":"log/1.jsonl","byte":7,"length":8,"kept_as":"quarantine/1-7","records":2',
    ),
    (
        SegmentCompressed("log/1.jsonl", 1, 9, "ab", "log/1.jsonl.zst", 7, "cd"),
        '"file":"log/1.jsonl","first":1,"last":9,"last_hash":"ab","kept_as":"log/1.jsonl.zst","bytes":7,"sha256":"cd"',
    ),
    (
        SegmentArchived("log/1.jsonl", 1, 9, "ab", "archive/1.jsonl"),
        '"file":"log/1.jsonl","first":1,"last":9,"last_hash":"ab","kept_as":"archive/1.jsonl"',
    ),
    (SegmentTrimmed("log/1.jsonl", 1, 9, "ab"), '"file":"log/1.jsonl","first":1,"last":9,"last_hash":"ab"'),
]


def test_the_bytes_of_a_header():
    chain = Chain()
    line = chain.header("0123456789abcdef" * 2, moment(0.000001))
    body = (
        b'"format":"kharon-log","version":1,"log":"0123456789abcdef0123456789abcdef","first":1,'
        b'"previous":"' + b"0" * 64 + b'","at":"2026-01-01T00:00:00.000001Z"}'
    )
    assert line == (
        b'{"hash":"' + hashlib.sha256(b"0" * 64 + body).hexdigest().encode() + b'",'
        b'"crc":"' + f"{zlib.crc32(body):08x}".encode() + b'",' + body + b"\n"
    )
    assert (chain.seq, chain.hash) == (0, hash_of(line))


def test_the_bytes_of_a_line():
    previous = "ab" * 32
    chain = Chain(96, previous)
    (line,) = chain.commit([TicketDeleted("a")], moment(1), "ann", 94)
    body = (
        b'"seq":97,"durable":94,"part":[1,1],"at":"2026-01-01T00:00:01Z","v":1,"event":"TicketDeleted",'
        b'"by":"ann","id":"a"}'
    )
    assert line == (
        b'{"hash":"' + hashlib.sha256(previous.encode() + body).hexdigest().encode() + b'",'
        b'"crc":"' + f"{zlib.crc32(body):08x}".encode() + b'",' + body + b"\n"
    )
    assert line[92:] == body + b"\n"
    assert (chain.seq, chain.hash, chain.at) == (97, hash_of(line), moment(1))


def test_the_golden_list_has_every_event():
    assert {type(event) for event, _ in GOLDEN} == set(EVENTS.values())


@pytest.mark.parametrize(("event", "fields"), GOLDEN, ids=lambda value: type(value).__name__)
def test_the_bytes_of_every_event(event, fields):
    (line,) = Chain().commit([event], NOW, "ann", 0)
    comma = "," if fields else ""
    expected = (
        f'"seq":1,"durable":0,"part":[1,1],"at":"{T}","v":1,"event":"{type(event).__name__}",'
        f'"by":"ann"{comma}{fields}}}\n'
    )
    assert line[92:].decode() == expected
    record = parse_record(line, check_line(line, GENESIS))
    assert (record.seq, record.at, record.by, record.event) == (1, NOW, "ann", event)
    assert (record.part, record.durable, record.hash) == ((1, 1), 0, hash_of(line))
    assert type(record.event) is type(event)


def test_lines_are_ascii_whatever_is_in_them():
    event = TicketAdded("tâche-🚀", "größe", Raw('{"ключ":"値\\n\\u2028"}'.encode()), "тест", 1, NOW, "ß")
    (line,) = Chain().commit([event], NOW, "Zoë 🚀", 0)
    assert line.isascii()
    assert line.count(b"\n") == 1
    fields = json.loads(line)
    assert (fields["id"], fields["tube"], fields["by"]) == ("tâche-🚀", "тест", "Zoë 🚀")
    assert fields["payload"] == {"ключ": "値\n\u2028"}
    record = parse_record(line, check_line(line, GENESIS))
    assert (record.by, record.event.id, record.event.group) == ("Zoë 🚀", "tâche-🚀", "ß")
    assert record.event.payload == {"ключ": "値\n\u2028"}


def test_each_line_follows_from_the_one_before():
    chain = Chain()
    lines = [chain.header("f" * 32, NOW)]
    lines += chain.commit([added("a"), added("b")], NOW, "ann", 0)
    lines += chain.commit([added("c")], NOW, "ann", 2)
    previous = ZEROS
    for line in lines:
        assert line == seal(line[92:-1], previous)
        assert check_line(line, previous) == hash_of(line)
        previous = hash_of(line)
    with pytest.raises(BadLine, match="does not follow"):
        check_line(lines[2], hash_of(lines[0]))


def test_seq_part_durable_and_time_of_commits():
    chain = Chain()
    lines = [
        *chain.commit([added("a"), added("b"), added("c")], moment(5), "ann", 0),
        *chain.commit([added("d")], moment(4.999999), "bob", 3),
        *chain.commit([added("e"), added("f")], moment(6), "clock", 4),
    ]
    records = [parse_record(line, check_line(line, None)) for line in lines]
    assert [record.seq for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.part for record in records] == [(1, 3), (2, 3), (3, 3), (1, 1), (1, 2), (2, 2)]
    assert [record.durable for record in records] == [0, 0, 0, 3, 4, 4]
    assert [record.at - NOW for record in records] == [timedelta(seconds=s) for s in (5, 5, 5, 5, 6, 6)]
    assert [record.by for record in records] == ["ann"] * 3 + ["bob"] + ["clock"] * 2


def test_a_line_may_be_as_long_as_the_limit_and_no_longer():
    (line,) = Chain().commit([added("a", b'""')], NOW, "ann", 0)
    longest = b'"%b"' % (b"x" * (MAX_LINE_BYTES - len(line)))
    chain = Chain(7, "cd" * 32, moment(1))
    with pytest.raises(InvalidTicket, match=rf"TicketAdded of 'big'.*{MAX_LINE_BYTES + 2} bytes"):
        chain.commit([added("a"), added("big", longest)], moment(2), "ann", 0)
    assert (chain.seq, chain.hash, chain.at) == (7, "cd" * 32, moment(1))
    (line,) = Chain().commit([added("a", longest)], NOW, "ann", 0)
    assert len(line) == MAX_LINE_BYTES
    assert check_line(line, GENESIS) == hash_of(line)


def test_the_refusal_of_an_event_about_no_ticket_names_the_log():
    with pytest.raises(InvalidTicket, match="TailCut of 'the log'"):
        Chain().commit([TailCut("x" * MAX_LINE_BYTES, 0, 0, "")], NOW, "clock", 0)


LINE = seal(record_body())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "no newline"),
        (LINE[:-1], "no newline"),
        (b"\n", "not a line of this log"),
        (b"{}\n", "not a line of this log"),
        (b'{"HASH":"' + LINE[9:], "not a line of this log"),
        (LINE[:73] + b'","CRC":"' + LINE[82:], "not a line of this log"),
        (LINE[:90] + b'" ' + LINE[92:], "not a line of this log"),
        (LINE[:-2] + b"]\n", "not a line of this log"),
        (LINE.replace(b"ann", b"bob"), "crc"),
        (LINE[:82] + b"00000000" + LINE[90:], "crc"),
        (LINE[:82] + LINE[82:90].upper().replace(b"0", b"O") + LINE[90:], "crc"),
        (LINE[:9] + b"0" * 64 + LINE[73:], "hash"),
        (LINE[:9] + b"\xff" * 64 + LINE[73:], "hash"),
        (LINE[:9] + LINE[9:73].upper() + LINE[73:], "hash"),
        (seal(record_body(), "1" * 64), "hash"),
        (seal(record_body(id="x" * MAX_LINE_BYTES)), "longer than"),
        (seal(record_body().replace(b"ann", b"\xff\xff\xff")), "not ASCII"),
        (seal(record_body().replace(b"ann", "jörg".encode())), "not ASCII"),
    ],
)
def test_what_is_not_the_line_that_belongs_here(line, why):
    with pytest.raises(BadLine, match=why):
        check_line(line, ZEROS)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b'"v":1', b'"v": 1'),
        (b'"seq":1,"durable":0', b'"durable":0,"seq":1'),
        (b'"ann"', b'"\\u0061nn"'),
        (b'"payload":[1.5]', b'"payload":[1.50]'),
        (b'"nice":512', b'"nice":7,"nice":512'),
    ],
)
def test_what_says_the_same_in_other_bytes_is_another_line(was, becomes):
    """The hash is of the bytes: nobody has to agree with anybody how JSON is written."""
    (line,) = Chain().commit([added("a", b"[1.5]")], NOW, "ann", 0)
    body = line[92:-1].replace(was, becomes)
    assert json.loads(b"{" + body) == json.loads(b"{" + line[92:-1])
    assert body != line[92:-1]
    altered = line[:82] + b"%08x" % zlib.crc32(body) + line[90:92] + body + b"\n"
    assert check_line(altered, None) == hash_of(line)
    with pytest.raises(BadLine, match="its hash does not follow"):
        check_line(altered, GENESIS)


def test_without_the_line_before_a_line_vouches_for_itself_only():
    foreign = seal(record_body(), "1" * 64)
    assert check_line(foreign, None) == hash_of(foreign)
    with pytest.raises(BadLine, match="crc"):
        check_line(foreign.replace(b"ann", b"bob"), None)
    assert check_line(LINE[:9] + b"\xff" * 64 + LINE[73:], None) == "\ufffd" * 64


@pytest.mark.parametrize(
    "body",
    [
        b'"seq":1}',
        record_body(seq="1"),
        record_body(part=[1]),
        record_body(part=[1, 1, 1]),
        record_body(at="yesterday"),
        record_body(at="2026-01-01T00:00:00"),  # without a timezone it could not be compared
        record_body(by=None),
        record_body(id=7),
        record_body(event="TicketClaimed"),  # whose fields are missing
        record_body()[:-1] + b',"deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
        record_body() + b"}",
    ],
)
def test_what_is_no_record(body):
    line = seal(body)
    with pytest.raises(BadLine, match="not a record"):
        parse_record(line, check_line(line, ZEROS))


def test_fields_that_a_later_version_added_are_passed_over():
    line = seal(record_body(mood="good"))
    assert parse_record(line, "").event == TicketDeleted("a")


@pytest.mark.parametrize("fields", [{"event": "TicketPraised"}, {"v": 2}])
def test_a_record_of_a_later_version_is_unknown_and_not_corrupt(fields):
    with pytest.raises(UnknownFormat, match=r"record 1 is Ticket\w+ in version \d.*later one"):
        parse_record(seal(record_body(**fields)), "")


def test_a_header_is_read_back():
    line = seal(header_body(first=8, previous="ab" * 32))
    header = parse_header(line, hash_of(line))
    assert (header.version, header.log, header.first, header.previous) == (1, "f" * 32, 8, "ab" * 32)
    assert (header.at, header.hash) == (NOW, hash_of(line))


@pytest.mark.parametrize(
    "body", [record_body(), header_body(format="other-log"), header_body(at="2026-01-01T00:00:00"), b"]}"]
)
def test_what_is_no_header(body):
    with pytest.raises(BadLine, match="not a header"):
        parse_header(seal(body), "")


def test_a_later_format_is_unknown_and_not_corrupt():
    with pytest.raises(UnknownFormat, match=r"format 2, and Kharon \S+ knows 1: a later one is needed"):
        parse_header(seal(header_body(version=2)), "")


@pytest.mark.parametrize("wide", [b"[" + b",".join([b"[]"] * 200) + b"]", b'"%b"' % (b"[{" * 200), b'["\\"[[[["]'])
def test_many_brackets_are_not_deep_nesting(wide):
    line = Chain().commit([TicketAdded("a", "t", Raw(wide), "u", 1, NOW)], NOW, "ann", 0)[0]
    assert parse_record(line, check_line(line, GENESIS)).event.payload_json == Raw(wide)


def test_nesting_is_refused_beyond_what_a_payload_may_have():
    for depth, fits in ((64, True), (70, False)):
        payload = b"[" * depth + b"]" * depth
        line = Chain().commit([TicketAdded("a", "t", Raw(payload), "u", 1, NOW)], NOW, "ann", 0)[0]
        if fits:
            parse_record(line, check_line(line, GENESIS))
        else:
            with pytest.raises(BadLine, match="nested deeper"):
                parse_record(line, check_line(line, GENESIS))


def test_no_field_of_an_event_is_also_one_of_the_record():
    """In a JSON object the second of two fields with one name hides the first from most readers."""
    ours = {"hash", "crc", *(field.encode_name for field in msgspec.structs.fields(_Envelope))}
    for event in EVENTS.values():
        assert not ours & {field.encode_name for field in msgspec.structs.fields(event)}


INSTANTS = ["runat", "lease_until", "expire_at", "next_due", "due"]
NAIVE = "2026-01-01T00:00:00"
UNREADABLE = [b"1e999", b"-1e999", b"9" * 5000, b'{"a":[1e400]}']


def events_with(**fields: object) -> list[bytes]:
    """Records of every kind of event that can have these fields."""
    every: dict[str, dict[str, object]] = {
        "TicketAdded": {"type": "t", "payload": None, "tube": "t", "nice": 1, "runat": "2026-01-01T00:00:00Z"},
        "TicketClaimed": {"attempt": 1, "lease_until": "2026-01-01T00:00:00Z", "worker": "w"},
        "LeaseExtended": {"lease_until": "2026-01-01T00:00:00Z"},
        "TicketDone": {"result": None, "expire_at": "2026-01-01T00:00:00Z"},
        "TicketFailed": {"expire_at": "2026-01-01T00:00:00Z"},
        "TicketCancelled": {"expire_at": "2026-01-01T00:00:00Z"},
        "TicketRetried": {"runat": "2026-01-01T00:00:00Z"},
        "TicketLapsed": {"runat": "2026-01-01T00:00:00Z", "error_reason": "late"},
        "TicketRestarted": {"runat": "2026-01-01T00:00:00Z"},
        "ScheduleSet": {
            "name": "s",
            "type": "t",
            "payload": None,
            "tube": "t",
            "nice": 1,
            "every": 60,
            "next_due": "2026-01-01T00:00:00Z",
        },
        "ScheduleFired": {"name": "s", "due": "2026-01-01T00:00:00Z", "next_due": "2026-01-01T00:00:00Z"},
        "ScheduleSkipped": {"name": "s", "next_due": "2026-01-01T00:00:00Z"},
    }
    (name,) = fields
    found = [record_body(event=event, **(had | fields)) for event, had in every.items() if name in had]
    if name in {"runat", "payload"}:
        changed = {"changes": fields, "runat": "2026-01-01T00:00:00Z"}
        found += [record_body(event=event, **changed) for event in ("TicketRetried", "TicketReleased", "TicketUpdated")]
    return found


@pytest.mark.parametrize("name", INSTANTS)
def test_an_instant_without_a_timezone_is_no_record(name):
    """It could be folded, and then not be compared with any other: the queue would break far from the log."""
    found = events_with(**{name: NAIVE})
    assert len(found) == {"runat": 7, "lease_until": 2, "expire_at": 3, "next_due": 3, "due": 1}[name]
    for body in found:
        line = seal(body)
        with pytest.raises(BadLine, match="not a record"):
            parse_record(line, check_line(line, ZEROS))
    for body in events_with(**{name: NAIVE + "Z"}):
        line = seal(body)
        assert parse_record(line, check_line(line, ZEROS)).seq == 1


@pytest.mark.parametrize("value", UNREADABLE, ids=["large", "small", "long", "inside"])
def test_json_that_no_handler_could_be_given_is_no_record(value):
    found = [*events_with(payload="VALUE"), *events_with(result="VALUE")]
    assert len(found) == 6
    for body in found:
        line = seal(body.replace(b'"VALUE"', value))
        with pytest.raises(BadLine, match="not a record"):
            parse_record(line, check_line(line, ZEROS))
        line = seal(body.replace(b'"VALUE"', b"1e300"))
        assert parse_record(line, check_line(line, ZEROS)).seq == 1
