"""What becomes of the instants of a schedule that have come, one by one, late, or in millions."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import extras
import msgspec
import pytest
from msgspec import Raw

from kharon.errors import KharonError
from kharon.model.commands import FireSchedule, SkipSchedule
from kharon.model.schedules import Schedule, Schedules
from kharon.store import calendar
from kharon.store.calendar import COMMIT_LIMIT, GRACE, MAX_CAUGHT_UP, RETRY_SECONDS, Firing, commands
from kharon.testing import EPOCH


def at(seconds):
    return EPOCH + timedelta(seconds=seconds)


def schedule(catch_up="one", next=60, name="s", **fields):
    fields = fields or {"every": 60.0}
    return Schedule(name, "t", Raw(b"1"), "tube", 1, next=at(next), catch_up=catch_up, **fields)


def fire(due, next=None):
    return FireSchedule("s", at(due), at(due + 60 if next is None else next))


@pytest.mark.parametrize("timing", [{"every": 60.0}, {"cron": "* * * * *"}])
@pytest.mark.parametrize("catch_up", ["one", "all", "none"])
@pytest.mark.parametrize("late", [0, 0.5, 59])
def test_on_time_each_instant_is_one_ticket(timing, catch_up, late):
    assert commands(schedule(catch_up, **timing), at(60 + late)) == [fire(60)]


@pytest.mark.parametrize("timing", [{"every": 60.0}, {"cron": "* * * * *"}])
def test_of_what_was_missed(timing):
    assert commands(schedule("one", **timing), at(330)) == [fire(300)]
    assert commands(schedule("all", **timing), at(330)) == [fire(due) for due in (60, 120, 180, 240, 300)]
    assert commands(schedule("none", **timing), at(330)) == [SkipSchedule("s", at(300)), fire(300)]


def test_none_is_all_within_the_grace_and_the_boundary_belongs_to_it():
    grace = GRACE.total_seconds()
    for now, due in ((60 + grace, 60), (120 + grace, 120)):
        [*skipped, first, second] = commands(schedule("none"), at(now))
        assert [first, second] == [fire(due), fire(due + 60)]
        assert skipped == ([SkipSchedule("s", at(120))] if due == 120 else [])
    assert commands(schedule("none", every=600.0), at(60 + grace + 1)) == [SkipSchedule("s", at(660))]
    assert len(commands(schedule("none", every=1.0), at(1000))) == 1 + 61


@pytest.mark.parametrize("timing", [{"every": 60.0}, {"cron": "* * * * *"}])
def test_all_goes_on_in_the_next_commit(timing):
    first = commands(schedule("all", **timing), at(60 * 250))
    assert first == [fire(60 * number) for number in range(1, COMMIT_LIMIT + 1)]
    rest = commands(schedule("all", next=60 * (COMMIT_LIMIT + 1), **timing), at(60 * 150))
    assert len(rest) == 50


def count_asking(monkeypatch):
    """Note each time that the calendar is asked what comes after an instant."""
    asked = []
    for kind in (calendar._Period, calendar._Cron):
        after = kind.after
        monkeypatch.setattr(kind, "after", lambda self, due, after=after: asked.append(due) or after(self, due))
    return asked


@pytest.mark.parametrize("timing", [{"every": 60.0}, {"cron": "* * * * *"}, {"cron": "* * * * *", "tz": "Asia/Tokyo"}])
@pytest.mark.parametrize("missed", [MAX_CAUGHT_UP, MAX_CAUGHT_UP + 1, 1_000_000])
def test_of_a_million_missed_instants_the_newest_thousand_are_tickets(timing, missed, monkeypatch):
    """Whatever was missed: the work of one commit is bounded, and so are all of them."""
    one, fired, now = schedule("all", **timing), [], at(60 * missed)
    asked = count_asking(monkeypatch)
    while one.next <= now:
        found = commands(one, now)
        assert len(found) <= 1 + COMMIT_LIMIT
        fired += [command.due for command in found if isinstance(command, FireSchedule)]
        one = schedule("all", next=(found[-1].next - EPOCH).total_seconds(), **timing)
    assert fired == [at(60 * number) for number in range(missed - MAX_CAUGHT_UP + 1, missed + 1)]
    assert len(asked) <= 4 * MAX_CAUGHT_UP, "it walked through more of them than it had to"
    asked.clear()
    assert commands(schedule("one", **timing), now) == [fire(60 * missed)]
    assert len(asked) <= 40


@pytest.mark.parametrize("catch_up", ["one", "all", "none"])
def test_a_schedule_whose_instants_end_is_over(catch_up):
    end = datetime.max.replace(tzinfo=UTC)
    last = msgspec.structs.replace(schedule(catch_up, every=86400.0 * 30), next=end - timedelta(days=20))
    assert commands(last, end - timedelta(days=1))[-1].next is None


# --- which are due ----------------------------------------------------------------------------------------------------


class Now:
    """Trio's clock."""

    def __init__(self):
        self.time = 1000.0

    def current_time(self):
        return self.time


@pytest.fixture
def clock(monkeypatch):
    clock = Now()
    monkeypatch.setattr(calendar, "trio", clock)
    return clock


def made(*schedules):
    kept = Schedules()
    kept.load(schedules)
    return Firing(kept), kept


def names(found):
    return [commands[-1].name for commands in found]


def test_each_that_is_due_is_a_commit_soonest_first(clock):
    one, _ = made(schedule(name="b"), schedule(name="a"), schedule(name="late", next=61), schedule(name="0", next=50))
    assert names(one.due(at(60), 99)) == ["0", "a", "b"]
    assert names(one.due(at(60), 2)) == ["0", "a"]
    assert one.coming(at(0)) == at(50)
    assert made()[0].coming(at(0)) is None


def test_the_limit_is_on_firings_and_bounds_a_tick(clock):
    one, _ = made(*(schedule("all", name=str(number), next=60 + number) for number in range(5)))
    found = list(one.due(at(60 * 1000), 200))
    assert [len(commands) for commands in found] == [COMMIT_LIMIT] * 2


def test_what_cannot_fire_here_waits_holds_nothing_up_and_is_said_once(clock, monkeypatch, caplog):
    one, kept = made(
        schedule(cron="* * * * *", tz="Mars/Olympus", name="mars"), schedule(next=70), schedule(name="later", next=500)
    )
    with caplog.at_level(logging.WARNING, "kharon"):
        assert names(one.due(at(80), 99)) == ["s"]
        assert one.coming(at(80)) == at(70), "that one is due"
        assert names(one.due(at(80), 99)) == ["s"]
        kept.load([kept.get("mars"), kept.get("later")])
        assert one.coming(at(80)) == at(80 + RETRY_SECONDS)
        assert one.coming(at(30)) == at(60), "the clock was set back"
        assert one.coming(at(600)) == at(500)
        clock.time += RETRY_SECONDS
        assert one.coming(at(95)) == at(60)
        assert list(one.due(at(95), 99)) == []
        assert one.coming(at(95)) == at(95 + RETRY_SECONDS)
    [message] = [record.getMessage() for record in caplog.records]
    assert "schedule 'mars' is due but cannot fire on this machine: tz: there is no time zone 'Mars/Olympus'" in message


def test_it_fires_when_the_machine_has_what_was_missing(clock, monkeypatch, caplog):
    extras.need("cron")
    one, _kept = made(schedule(cron="* * * * *"))
    real = calendar.times_of

    def missing(*_args):
        raise KharonError("not installed")

    monkeypatch.setattr(calendar, "times_of", missing)
    assert list(one.due(at(80), 99)) == []
    monkeypatch.setattr(calendar, "times_of", real)
    assert list(one.due(at(80), 99)) == [], "not yet"
    clock.time += RETRY_SECONDS
    assert list(one.due(at(80), 99)) == [[fire(60)]]
    assert one.coming(at(80)) == at(60)
    assert one._stuck == {}


def test_one_that_is_set_anew_is_not_kept_waiting_by_what_it_was(clock, caplog):
    one, kept = made(schedule(cron="* * * * *", tz="Mars/Olympus"))
    assert list(one.due(at(80), 99)) == []
    kept.load([schedule()])
    assert one.coming(at(80)) == at(60)
    assert list(one.due(at(80), 99)) == [[fire(60)]]
    kept.load([schedule(cron="* * * * *", tz="Mars/Tharsis")])
    assert list(one.due(at(80), 99)) == []
    assert [zone in message for zone, message in zip(["Olympus", "Tharsis"], caplog.messages, strict=True)] == [
        True
    ] * 2
