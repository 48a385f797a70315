"""Records and tickets as plain fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec import Raw

from kharon.audit import fields, words
from kharon.audit.fields import STATES, event_fields, group_fields, record_fields, state_of, ticket_fields
from kharon.audit.measure import COUNTS, RELATIVE_ERROR, Group
from kharon.log.record import Chain, Record, check_line, parse_record
from kharon.model import events as e
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket, draft_of, seal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
THEN = NOW + timedelta(seconds=9, microseconds=5)
GATED = e.TicketAdded("a", "t", Raw(b"1"), "q", 3, THEN, after=("b", "c"), blocked_by=("b",))
GROUPED = e.TicketAdded("a", "t", Raw(b"1"), "q", 3, THEN, after_group="g", blocked_by_group=True, on_failure="cancel")
EVENTS = [
    GATED,
    GROUPED,
    e.TicketUnblocked("a", "b", "g", dropped=True),
    e.TicketAdded("a", "type", Raw(b'{"x":[1,"\\u00e4"]}'), "tube", 3, THEN),
    e.TicketAdded("a", "type", Raw(b"null"), "tube", 3, THEN, "group"),
    e.TicketClaimed("a", 1, THEN, "w"),
    e.TicketDone("a"),
    e.TicketDone("a", True, Raw(b"[1]"), THEN),
    e.TicketFailed("a", "why"),
    e.TicketRetried("a", THEN, None, e.Changes(nice=1, payload_json=Raw(b"2"), group=None)),
    e.TicketUpdated("a", e.Changes(tube="t")),
    e.LogClosed(),
    e.TailCut("f", 1, 2, "k"),
    e.SegmentTrimmed("f", 1, 2, "ab"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_fields_are_those_of_the_line(event):
    (line,) = Chain().commit([event], NOW, "ann", 0)
    record = parse_record(line, check_line(line, None))
    fields = msgspec.json.decode(msgspec.json.encode(record_fields(record)))
    said = msgspec.json.decode(line)
    assert {"crc", "v"} <= said.keys()
    assert fields == {name: value for name, value in said.items() if name not in ("crc", "v")}


def test_no_field_of_an_event_has_the_name_of_one_that_every_line_has():
    """A line with two fields of a name would be read in one way by some, and in another by others."""
    every = {"hash", "crc", "seq", "durable", "part", "at", "v", "event", "by"}
    for event in e.EVENTS.values():
        assert every.isdisjoint(field.encode_name for field in msgspec.structs.fields(event)), event


def test_json_is_passed_on_as_it_stands():
    fields = event_fields(EVENTS[3])
    assert bytes(fields["payload"]) == b'{"x":[1,"\\u00e4"]}'
    assert list(record_fields(Record(1, NOW, "ann", EVENTS[3], "h", (1, 1), 0)))[:4] == ["seq", "at", "by", "event"]


def test_where_a_ticket_stands():
    ticket = evolve(None, EVENTS[3], 1, NOW)
    assert state_of(ticket, THEN - timedelta(microseconds=1)) == "delayed"
    assert state_of(ticket, THEN) == "ready"
    for gate in (GATED, GROUPED):
        assert state_of(evolve(None, gate, 1, NOW), THEN) == "blocked"
    undated = draft_of(ticket)
    undated.runat = None
    assert state_of(seal(undated), NOW) == "ready"
    claimed = evolve(ticket, EVENTS[5], 2, THEN)
    assert state_of(claimed, THEN) == "claimed"
    done = evolve(claimed, EVENTS[7], 3, THEN)
    failed = evolve(claimed, EVENTS[8], 3, THEN)
    cancelled = evolve(claimed, e.TicketCancelled("a", keep=True), 3, THEN)
    assert [state_of(each, THEN) for each in (done, failed, cancelled)] == ["done", "failed", "cancelled"]
    assert set(STATES) == {"ready", "claimed", "delayed", "blocked", "done", "failed", "cancelled"}
    fields = ticket_fields(done, THEN)
    assert (fields["status"], fields["state"], bytes(fields["result"])) == ("done", "done", b"[1]")
    assert ticket_fields(failed, THEN)["result"] is None
    assert ticket_fields(failed, THEN).keys() == fields.keys()


def test_what_a_ticket_waits_for():
    names = ("after", "after_group", "on_failure", "blocked", "blocked_by")

    def told(*events):
        ticket = None
        for seq, event in enumerate(events, 1):
            ticket = evolve(ticket, event, seq, NOW)
        return [ticket_fields(ticket, THEN)[name] for name in names]

    assert told(EVENTS[3]) == [[], None, "run", False, []]
    assert told(GATED) == [["b", "c"], None, "run", True, ["b"]]
    assert told(GATED, e.TicketUnblocked("a", "b")) == [["b", "c"], None, "run", False, []]
    assert told(GROUPED) == [[], "g", "cancel", True, []]
    assert told(GROUPED, e.TicketUnblocked("a", "m", "g")) == [[], "g", "cancel", False, []]


def test_a_field_without_a_place_of_its_own_is_shown_under_its_name(monkeypatch):
    assert fields.OTHER_FIELDS == (), "each field of today has its place"
    for module in (fields, words):
        monkeypatch.setattr(module, "OTHER_FIELDS", ("order", "worker"))
    ticket = Ticket("a", "t")
    shown = list(ticket_fields(ticket, NOW))
    assert shown[-4:] == ["order", "version", "payload", "result"]
    assert list(words.other_fields_text(ticket, str)) == [("order", "0")], "and not if it is None"


def test_the_measures_of_a_group():
    group = Group()
    nothing = {"count": 0, "mean": None, "p50": None, "p90": None, "p99": None, "longest": None}
    counts = dict.fromkeys(COUNTS, 0)
    assert group_fields(group) == {**counts, "failure_rate": None, "waited": nothing, "ran": nothing}
    group.counts |= {"done": 3, "failed": 1}
    group.ran.add(2.0)
    two = pytest.approx(2.0, rel=RELATIVE_ERROR)
    assert group_fields(group) == {
        **counts,
        "done": 3,
        "failed": 1,
        "failure_rate": 0.25,
        "waited": nothing,
        "ran": {"count": 1, "mean": 2.0, "p50": two, "p90": two, "p99": two, "longest": 2.0},
    }
