"""The subjects of records, by hand: the records that a question for a type, a tube or a group finds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec import Raw

from kharon.audit.subjects import Subject, Subjects
from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.projection import Projection

AT = datetime(2026, 3, 11, tzinfo=UTC)
NULL = Raw(b"null")
MAIL, PICTURE = Subject("mail", "out", None), Subject("picture", "images", "order-1")


def recorded(*events, after=0):
    return [Record(seq, AT, "app", event, "", (1, 1), 0) for seq, event in enumerate(events, after + 1)]


def about(*events):
    subjects = Subjects(Projection())
    return [subjects.of(record) for record in recorded(*events)]


def added(id, subject):
    return e.TicketAdded(id, subject.type, NULL, subject.tube, 512, AT, subject.group)


def claimed(id, attempt=1):
    return e.TicketClaimed(id, attempt, AT, "w")


def test_a_ticket_is_known_from_the_records_before():
    events = (added("a", MAIL), added("b", PICTURE), claimed("a"), e.TicketDone("a"), e.TicketCancelled("b", True))
    assert about(*events) == [[MAIL], [PICTURE], [MAIL, MAIL], [MAIL], [PICTURE, PICTURE]]


def test_a_ticket_that_moves_is_seen_to_leave_and_to_come():
    changes = e.Changes(tube="slow", group="g")
    moved = Subject("mail", "slow", "g")
    for event in (e.TicketUpdated("a", changes), e.TicketRetried("a", AT, None, changes)):
        assert about(added("a", MAIL), claimed("a"), event, claimed("a", 2))[2:] == [[MAIL, moved], [moved, moved]]


def test_what_is_added_in_the_place_of_another_is_of_both_types():
    assert about(added("a", MAIL), added("a", PICTURE), e.TicketDeleted("a")) == [[MAIL], [MAIL, PICTURE], [PICTURE]]


def test_what_follows_a_run_is_told_of_when_it_is_set_changed_or_begins():
    slow = PICTURE._replace(tube="slow")
    told = about(
        added("a", MAIL),
        claimed("a"),
        added("a", PICTURE),
        e.LeaseExtended("a", AT),
        e.TicketUpdated("a", e.Changes(tube="slow")),
        e.TicketDone("a"),
        claimed("a"),
    )
    moved = MAIL._replace(tube="slow")
    assert told[2:] == [
        [MAIL, MAIL, PICTURE],
        [MAIL, MAIL],
        [MAIL, moved, PICTURE, slow],
        [moved, slow, slow],
        [slow, slow],
    ]


def test_a_record_of_a_tube_is_of_no_type():
    assert about(e.TubePaused("t"), e.TubeLimited("t", 1)) == [[Subject(None, "t", None)]] * 2


def test_a_schedule_is_known_by_what_it_adds():
    told = about(
        e.ScheduleSet("s", "mail", NULL, "out", 1, AT, every=60.0),
        e.ScheduleFired("s", AT, None),
        e.ScheduleSet("s", "picture", NULL, "images", 1, AT, "order-1", every=60.0),
        e.ScheduleSkipped("s"),
        e.ScheduleRemoved("s"),
    )
    assert told == [[MAIL], [MAIL, MAIL], [MAIL, PICTURE], [PICTURE, PICTURE], [PICTURE]]


def test_what_the_log_says_of_itself_is_about_nothing():
    assert about(e.LogClosed()) == [[]]


def test_it_begins_where_a_snapshot_ends_and_leaves_it_as_it_is():
    before = recorded(added("a", MAIL), e.ScheduleSet("s", "picture", NULL, "images", 1, AT, "order-1", every=60.0))
    start = Projection().fold(before)
    subjects = Subjects(start)
    told = [subjects.of(record) for record in recorded(e.TicketDone("a"), e.ScheduleRemoved("s"), after=2)]
    assert (told, subjects.seq) == ([[MAIL], [PICTURE]], 4)
    assert start == Projection().fold(before)


def test_a_record_that_was_not_read_is_missed():
    subjects = Subjects(Projection().fold(recorded(added("a", MAIL))))
    (later,) = recorded(claimed("a"), after=2)
    with pytest.raises(KharonError, match="record 2 was trimmed just now"):
        subjects.of(later)
    (nobody,) = recorded(claimed("b"), after=1)
    with pytest.raises(KharonError, match="which does not exist"):
        subjects.of(nobody)
