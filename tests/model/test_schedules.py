"""Schedules: what is decided about them, that `next` only goes forward, and what the projection keeps of them."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from msgspec import Raw

from kharon.errors import InvalidTicket, KharonError
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.checks import MAX_NAME_BYTES
from kharon.model.commit import Commit
from kharon.model.projection import Projection
from kharon.model.schedules import (
    MAX_SCHEDULE_NAME_BYTES,
    Schedule,
    Schedules,
    check_every,
    check_schedule_name,
    decide_schedule,
    template_of,
)
from kharon.model.ticket import Ticket
from kharon.testing import EPOCH


def at(seconds):
    return EPOCH + timedelta(seconds=seconds)


def made(name="s", *, every=60.0, next=60, **fields):
    return e.ScheduleSet(name, "t", Raw(b'{"a":[1]}'), "tube", 3, at(next), "g", every=every, **fields)


def setting(event):
    """The command that leads to an event."""
    return c.SetSchedule(*msgspec.structs.astuple(event))


class Book:
    """A projection whose commits are made one second apart, at `now`."""

    def __init__(self):
        self.projection = Projection()
        self.records = []
        self.now = 0

    def run(self, *commands, keep=True):
        commit = Commit(self.projection, c.Context(at(self.now)))
        try:
            commit.run(commands)
        except BaseException:
            commit.undo()
            raise
        events = [effect.event for effect in commit.effects]
        if keep:
            commit.keep()
            self.records += [msgspec.structs.replace(effect) for effect in commit.effects]
        else:
            commit.undo()
        self.projection.check()
        return events

    def get(self, name="s"):
        return self.projection.schedules.get(name)


@pytest.fixture
def book():
    book = Book()
    book.run(setting(made()))
    return book


def fire(due, next):
    return c.FireSchedule("s", at(due), None if next is None else at(next))


# --- setting and removing ---------------------------------------------------------------------------------------------


def test_what_is_scheduled_is_what_was_said(book):
    schedule = book.get()
    assert schedule == Schedule("s", "t", Raw(b'{"a":[1]}'), "tube", 3, "g", at(60), None, 60.0, "UTC", "one", None)
    assert schedule.payload == {"a": [1]}
    assert book.records[0].event.payload == {"a": [1]}
    assert len(book.projection.schedules) == 1


@pytest.mark.parametrize(("cron", "shown"), [(None, "every=60.0"), ("0 6 * * *", "cron='0 6 * * *' tz=UTC")])
def test_a_schedule_shows_what_it_is_and_no_payload(cron, shown):
    every = None if cron else 60.0
    schedule = Schedule("s", "t", Raw(b'{"a":"secret"}'), "tube", 3, "g", at(60), cron, every)
    assert repr(schedule).startswith(
        f"<Schedule 's' 't' {shown} tube=tube nice=3 group=g catch_up=one next=2026-01-01 "
    )
    assert "secret" not in repr(schedule)
    assert "Raw" not in repr(schedule)


def test_scheduling_the_same_again_changes_nothing_whenever_it_is_done(book):
    assert book.run(setting(made(next=75))) == []
    book.run(fire(60, 120))
    assert book.run(setting(made(next=300))) == []
    assert book.get().next == at(120)


@pytest.mark.parametrize(
    "other",
    [{"catch_up": "all"}, {"type": "u"}, {"payload_json": Raw(b"1")}, {"tube": "x"}, {"nice": 4}, {"group": None}],
)
def test_other_values_take_the_place_of_the_old_ones_and_the_phase_stays(book, other):
    book.run(fire(60, 120))
    event = msgspec.structs.replace(made(next=150), **other)
    assert book.run(setting(event)) == [msgspec.structs.replace(event, next_due=at(120))]
    [(name, value)] = other.items()
    assert getattr(book.get(), name) == value
    assert (book.get().next, book.get().last) == (at(120), at(60))


@pytest.mark.parametrize("other", [{"every": 30.0}, {"every": None, "cron": "* * * * *"}])
def test_another_timing_begins_anew_and_knows_what_has_fired(book, other):
    book.run(fire(60, 120))
    book.run(setting(msgspec.structs.replace(made(next=150), **other)))
    assert (book.get().next, book.get().last) == (at(150), at(60))


def test_another_time_zone_is_another_timing(book):
    book.run(setting(made("c", every=None, cron="0 7 * * *", tz="Europe/Berlin")))
    book.run(setting(made("c", every=None, cron="0 7 * * *", next=99)))
    assert (book.get("c").next, book.get("c").tz) == (at(99), "UTC")


def test_a_schedule_that_is_over_begins_anew(book):
    book.run(fire(60, None))
    assert book.get().next is None
    assert list(book.projection.schedules.coming()) == []
    book.run(setting(made(next=200)))
    assert (book.get().next, book.get().last) == (at(200), at(60))


@pytest.mark.parametrize("next", [30, 60])
def test_one_that_begins_no_later_than_it_last_fired_is_another_one(book, next):
    book.run(fire(60, 120))
    book.run(setting(made(every=20.0, next=next)))
    assert (book.get().next, book.get().last) == (at(next), None)


def test_removing_is_idempotent_and_leaves_the_tickets(book):
    book.run(fire(60, 120))
    assert book.run(c.RemoveSchedule("s")) == [e.ScheduleRemoved("s")]
    assert book.run(c.RemoveSchedule("s")) == []
    assert book.get() is None
    assert list(book.projection.tickets) == ["s@2026-01-01T00:01:00Z"]


# --- firing -----------------------------------------------------------------------------------------------------------


def test_a_firing_is_one_commit_with_its_ticket(book):
    book.now = 61
    fired, added = book.run(fire(60, 120))
    assert fired == e.ScheduleFired("s", at(60), at(120))
    assert added == e.TicketAdded("s@2026-01-01T00:01:00Z", "t", Raw(b'{"a":[1]}'), "tube", 3, at(60), "g")
    assert (book.get().next, book.get().last) == (at(120), at(60))
    assert book.projection.groups.pending_count("g") == 1


@pytest.mark.parametrize("due", [0, 59, 60])
def test_no_instant_fires_twice(book, due):
    book.run(fire(60, 120))
    assert book.run(fire(due, 90)) == []
    assert book.run(c.SkipSchedule("s", at(due))) == []
    assert book.get().next == at(120)


def test_what_is_before_the_instant_is_passed_over(book):
    book.run(fire(180, 240))
    assert (book.get().next, book.get().last) == (at(240), at(180))
    assert len(book.projection.tickets) == 1


def test_a_next_instant_that_is_not_later_is_a_bug(book):
    with pytest.raises(AssertionError):
        book.run(fire(60, 60))


def test_skipping_adds_nothing_and_goes_forward_only(book):
    assert book.run(c.SkipSchedule("s", at(180))) == [e.ScheduleSkipped("s", at(180))]
    assert (book.get().next, book.get().last) == (at(180), None)
    assert book.run(c.SkipSchedule("s", at(180)), c.SkipSchedule("s", at(120))) == []
    assert book.run(c.SkipSchedule("s", None)) == [e.ScheduleSkipped("s")]
    assert book.run(c.SkipSchedule("s", None), fire(200, 300)) == []
    assert book.get().next is None


@pytest.mark.parametrize("command", [fire(60, 120), c.SkipSchedule("s", at(99)), c.RemoveSchedule("s")])
def test_what_is_not_scheduled_does_nothing(command):
    assert decide_schedule(None, command) == ()


def test_a_ticket_of_that_id_is_left_alone(book):
    ticket = Ticket("s@2026-01-01T00:01:00Z", "mine")
    book.run(c.Add(ticket.id, ticket))
    assert book.run(fire(60, 120)) == [e.ScheduleFired("s", at(60), at(120))]
    assert book.projection.get(ticket.id).type == "mine"


def test_a_commit_that_is_taken_back_leaves_no_trace(book):
    book.run(setting(made("other", next=5)))
    before, coming = book.projection.schedules.values(), list(book.projection.schedules.coming())
    for commands in (
        [fire(60, 120), fire(120, 180), c.SkipSchedule("s", at(600))],
        [c.RemoveSchedule("s"), setting(made(every=5.0, next=7)), setting(made("new"))],
        [c.RemoveSchedule("other"), fire(60, None)],
    ):
        assert book.run(*commands, keep=False)
        assert book.projection.schedules.values() == before
        assert list(book.projection.schedules.coming()) == coming
        assert not book.projection.tickets


def test_a_refused_commit_says_which_schedule(book):
    with pytest.raises(KharonError, match=r"command 2 of 2, claim of ticket 'x', is refused"):
        book.run(fire(60, 120), c.Claim("x", "w"))
    assert book.get().next == at(60)


# --- the table -------------------------------------------------------------------------------------------------------


def test_replay_and_snapshots_know_all_of_it(book):
    book.run(setting(made("b", every=None, cron="* * * * *", tz="Europe/Berlin", catch_up="none", next=90)))
    book.run(fire(60, 120), c.SkipSchedule("b", at(150)))
    book.run(setting(made("a")), c.RemoveSchedule("a"))
    projection = book.projection
    assert Projection().fold(book.records) == projection
    again = Projection()
    again.load(list(projection.tickets.values()), projection.seq, projection.at, projection.others())
    again.check()
    assert again == projection
    assert list(again.schedules.coming()) == [(at(120), "s"), (at(150), "b")]
    again.schedules.undo(e.ScheduleRemoved("b"), (None,))
    assert again != projection
    assert projection.schedules != "b"


def test_who_is_due_is_known_soonest_first(book):
    for name, next in (("late", 61), ("b", 30), ("a", 30), ("z", 60)):
        book.run(setting(made(name, next=next)))
    assert [schedule.name for schedule in book.projection.schedules.due(at(60))] == ["a", "b", "s", "z"]
    assert book.projection.schedules.due(at(29)) == []


@pytest.mark.parametrize(
    "event", [e.ScheduleFired("x", at(1)), e.ScheduleSkipped("x", at(1)), e.ScheduleRemoved("x")], ids=repr
)
def test_an_event_about_no_schedule_cannot_have_happened(book, event):
    with pytest.raises(KharonError, match=r"record 9: Schedule\w+ of 'x', which is not scheduled there"):
        book.projection.schedules.apply(event, 9, at(9))


FLAWS = [
    ({"every": None}, "either a cron expression or a period"),
    ({"cron": "* * * * *"}, "either a cron expression or a period"),
    ({"every": 0.5}, r"a period of 0.5 seconds, which is not between 1 and"),
    ({"every": 1e12}, "a period of 1000000000000.0 seconds"),
    ({"catch_up": "some"}, "catch_up 'some'"),
]


@pytest.mark.parametrize(("fields", "why"), FLAWS)
def test_a_schedule_that_cannot_be_is_refused(book, fields, why):
    with pytest.raises(KharonError, match=f"record 9: schedule 's': .*{why}"):
        book.projection.schedules.apply(msgspec.structs.replace(made(), **fields), 9, at(9))
    assert book.get().every == 60


def test_a_snapshot_of_a_schedule_that_cannot_be_is_refused(book):
    good = book.get()
    assert good.fault(1, at(0)) is None
    bad = msgspec.structs.replace(good, last=at(60))
    assert bad.fault(1, at(0)).startswith("schedule 's': it fires next at")
    with pytest.raises(msgspec.DecodeError):
        msgspec.structs.replace(good, payload_json=Raw(b"{")).fault(1, at(0))
    kept = Schedules()
    kept.load([bad])
    with pytest.raises(AssertionError, match="it fires next at"):
        kept.check(1, at(0))


# --- names and periods ------------------------------------------------------------------------------------------------


def test_the_longest_name_makes_an_id_that_a_ticket_can_have():
    name = check_schedule_name("ü" * (MAX_SCHEDULE_NAME_BYTES // 2))
    schedule = Schedule(name, "t", Raw(b"null"), "tube", 1)
    id = schedule.id_at(at(0.000001))
    assert id == name + "@2026-01-01T00:00:00.000001Z"
    assert len(id.encode()) == MAX_NAME_BYTES
    ticket = schedule.ticket_at(at(5))
    assert ticket == Ticket(name + "@2026-01-01T00:00:05Z", "t", tube="tube", nice=1, runat=at(5))
    with pytest.raises(InvalidTicket, match=r"name: .* is longer than 172 bytes"):
        check_schedule_name(name + "x")


@pytest.mark.parametrize("value", ["", 5, "a\nb", "x" * 300])
def test_a_name_is_one(value):
    with pytest.raises(InvalidTicket, match="name: "):
        check_schedule_name(value)


def test_a_period_is_a_duration_of_a_second_or_more():
    assert check_every(1) == 1.0
    assert check_every(timedelta(minutes=2)) == 120.0
    for value in (0, -1, 0.999, timedelta(0), "60", None, True, float("nan")):
        with pytest.raises(InvalidTicket, match="every: "):
            check_every(value)


def test_a_schedule_fires_first_after_now_and_after_its_last_firing():
    asked = []

    def first(command, since):
        asked.append(since)
        return since + timedelta(seconds=5)

    projection = Projection()
    fields = template_of(Ticket("i", "t", payload=[1], tube="tube", nice=3, group="g"))
    for now, every in ((10, 60.0), (70, 90.0)):
        commit = Commit(projection, c.Context(at(now)), first)
        commit.run([c.SetSchedule("s", every=every, **fields), c.FireSchedule("s", at(80), at(140))])
        commit.keep()
    assert asked == [at(10), at(80)]
    schedule = projection.schedules.get("s")
    assert (schedule.type, schedule.tube, schedule.nice, schedule.group) == ("t", "tube", 3, "g")
    assert schedule.ticket_at(at(80)).payload == [1]
