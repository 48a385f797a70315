"""Text for people: durations, spans, what blocks a ticket, and what its events say."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest
from msgspec import Raw
from queues import moment

from kharon.audit import words
from kharon.audit.timeline import Phase, Span
from kharon.audit.words import length
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.projection import Projection
from kharon.model.ticket import Status


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0 s"),
        (0.0005, "0 ms"),
        (0.001, "1 ms"),
        (0.2, "200 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m"),
        (256, "4 m 16 s"),
        (3599.6, "1 h"),
        (3660, "1 h 1 m"),
        (86_400 * 2 + 3600 * 4 + 59, "2 d 4 h"),
        (-256, "-4 m 16 s"),
        (timedelta(minutes=90), "1 h 30 m"),
    ],
)
def test_a_length(seconds, text):
    assert length(seconds) == text


@pytest.mark.parametrize(
    ("phase", "closed", "open"),
    [
        (Phase.DELAYED, "delayed 2.0 s", "delayed 2.0 s so far"),
        (Phase.READY, "ready 2.0 s", "ready 2.0 s so far"),
        (Phase.BLOCKED, "blocked 2.0 s", "blocked 2.0 s so far"),
        (Phase.RUNNING, "attempt 3 ran 2.0 s", "attempt 3 runs, 2.0 s so far"),
        (Phase.BACKING_OFF, "backed off 2.0 s", "backed off 2.0 s so far"),
        (Phase.KEPT, "kept 2.0 s", "kept 2.0 s so far"),
    ],
)
def test_a_span(phase, closed, open):
    span = Span(
        phase=phase, begin=moment(0), end=moment(2), seq=1, attempt=3, by="ann", status=Status.PENDING, open=False
    )
    assert words.span_text(span) == closed
    assert words.span_text(attrs.evolve(span, open=True)) == open


# --- what blocks a ticket ---------------------------------------------------------------------------------------------


def test_a_handful_of_ids_is_named():
    ids = [f"t{number}" for number in range(7)]
    assert words.listed(ids[:1]) == "t0"
    assert words.listed(ids[:5]) == "t0, t1, t2, t3, t4"
    assert words.listed(ids) == "t0, t1, t2, t3, t4 and 2 more"
    assert words.listed(ids[:5], 12) == "t0, t1, t2, t3, t4 and 7 more"


def added(id, runat=0.0, **fields):
    return e.TicketAdded(id, "mail", Raw(b"null"), "bulk", 512, moment(runat), **fields)


def record(event, at=0.0):
    return Record(1, moment(at), "ann", event, "", (1, 1), 0)


def test_what_blocks_a_ticket_and_what_is_left_of_it():
    both = added("both", after=("a",), after_group="g", blocked_by=("a",), blocked_by_group=True)
    group = added("group", after=("gone",), after_group="g", blocked_by_group=True)
    nothing = added("nothing", after=("gone",))
    events = [added("a"), added("m", group="g"), both, group, nothing]
    found = Projection().fold(
        Record(seq, moment(0), "ann", event, "", (1, 1), 0) for seq, event in enumerate(events, 1)
    )
    assert [words.added_blockers(event) for event in (both, group, nothing)] == [
        "a and members of group g",
        "members of group g",
        "",
    ]
    assert {id: words.blockers(found.tickets[id]) for id in ("both", "group", "nothing", "a")} == {
        "both": "a and members of group g",
        "group": "members of group g",
        "nothing": "",
        "a": "",
    }


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (added("a"), "mail in bulk"),
        (added("a", 5), "mail in bulk, due in 5.0 s"),
        (added("a", after=("b",), blocked_by=("b",)), "mail in bulk, blocked by b"),
        (
            added("a", 5, after=("b",), blocked_by=("b",), on_failure="cancel"),
            "mail in bulk, due in 5.0 s, blocked by b; to be cancelled if one fails",
        ),
        (e.TicketClaimed("a", 2, moment(30), "w"), "attempt 2, for 30 s"),
        (e.LeaseExtended("a", moment(90)), "for 1 m 30 s"),
        (e.TicketDone("a"), "removed"),
        (e.TicketDone("a", keep=True), "kept"),
        (e.TicketDone("a", keep=True, expire_at=moment(60)), "kept for 1 m"),
        (e.TicketCancelled("a"), "removed"),
        (e.TicketCancelled("a", keep=True), "kept"),
        (e.TicketFailed("a", "no"), ""),
        (e.TicketFailed("a", "no", moment(60)), "kept for 1 m"),
        (e.TicketRetried("a", moment(3)), "again in 3.0 s"),
        (e.TicketRetried("a", moment(0), "no", e.Changes(nice=3)), "again at once with nice 3"),
        (e.TicketLapsed("a", moment(3), "the lease ended"), "again in 3.0 s"),
        (e.TicketRestarted("a", moment(0)), "again at once"),
        (
            e.TicketUpdated("a", e.Changes(1, Raw(b'{"to":"J\\u00f6rg"}'), "fast", None, moment(9))),
            'nice 1, payload {"to": "J\u00f6rg"}, tube fast, group none, runat 2026-01-01 00:00:09+00:00',
        ),
        (e.TicketReleased("a"), ""),
        (e.TicketReleased("a", e.Changes(tube="fast")), "with tube fast"),
        (e.TicketUnblocked("a", "b"), "ticket 'b' ended"),
        (e.TicketUnblocked("a", "b", "g"), "ticket 'b', the last of group 'g', ended or left it"),
        (
            e.TicketUnblocked("a", "b", dropped=True),
            "ticket 'b' failed or was cancelled, so the successor was dropped",
        ),
        (
            e.TicketUnblocked("a", "b", "g", dropped=True),
            "ticket 'b' of group 'g' failed or was cancelled, so the successor was dropped",
        ),
        (e.TicketDeleted("a"), ""),
        (e.TicketExpired("a"), ""),
    ],
)
def test_what_an_event_says(event, text):
    assert words.details(record(event), str) == text
