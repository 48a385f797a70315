"""Calendars: cron where clocks change, periods that ignore such changes, and the same instants in both directions."""

from __future__ import annotations

import builtins
import importlib
import sys
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from kharon.errors import InvalidTicket, KharonError
from kharon.store.calendar import times_of
from kharon.testing import EPOCH

# The nights in which clocks are put, with what a fixed time in the hour that is skipped, or comes twice, is in UTC.
GAPS = [
    ("Europe/Berlin", "30 2 * * *", date(2026, 3, 29), "01:00"),  # 02:00 CET -> 03:00 CEST
    ("Europe/Berlin", "0 2 * * *", date(2026, 3, 29), "01:00"),
    ("America/New_York", "30 2 * * *", date(2026, 3, 8), "07:00"),  # 02:00 EST -> 03:00 EDT
    ("America/New_York", "15,45 2 * * *", date(2026, 3, 8), "07:00"),  # two that are skipped are one
    ("Australia/Lord_Howe", "15 2 * * *", date(2026, 10, 4), "15:30"),  # half an hour, of the day before in UTC
]
DOUBLED = [
    ("Europe/Berlin", "30 2 * * *", date(2026, 10, 25), "00:30"),  # 03:00 CEST -> 02:00 CET
    ("Europe/Berlin", "0 2 * * *", date(2026, 10, 25), "00:00"),
    ("America/New_York", "30 1 * * *", date(2026, 11, 1), "05:30"),  # 02:00 EDT -> 01:00 EST
]


def night(tz, expression, day):
    """All instants from noon before that day to noon of it, in UTC."""
    zone, times = ZoneInfo(tz), times_of(expression, None, tz)
    begin, end = (datetime.combine(day + timedelta(days=days), time(12), zone) for days in (-1, 0))
    found, instant = [], times.after(begin.astimezone(UTC))
    while instant <= end.astimezone(UTC):
        found.append(instant)
        instant = times.after(instant)
    return found


@pytest.mark.parametrize(("tz", "expression", "day", "at"), GAPS)
def test_a_time_that_is_skipped_comes_right_after_the_gap(tz, expression, day, at):
    assert [f"{instant:%H:%M}" for instant in night(tz, expression, day)] == [at]


@pytest.mark.parametrize(("tz", "expression", "day", "at"), DOUBLED)
def test_a_time_that_comes_twice_counts_once(tz, expression, day, at):
    assert [f"{instant:%H:%M}" for instant in night(tz, expression, day)] == [at]


@pytest.mark.parametrize(("tz", "_expression", "day", "_at"), GAPS + DOUBLED)
def test_what_goes_by_the_minute_goes_by_the_time_that_passes(tz, _expression, day, _at):
    instants = night(tz, "*/15 * * * *", day)
    assert {later - earlier for earlier, later in pairwise(instants)} == {timedelta(minutes=15)}
    assert times_of(None, 900.0, "UTC").after(instants[0]) == instants[1]


@pytest.mark.parametrize(("tz", "expression", "day", "at"), DOUBLED)
def test_asked_in_the_second_of_the_two_hours_it_is_the_next_day(tz, expression, day, at):
    [first] = night(tz, expression, day)
    times = times_of(expression, None, tz)
    for minutes in (1, 29, 45, 60, 61, 75):
        assert times.after(first + timedelta(minutes=minutes)) - first > timedelta(hours=24)


# --- there and back ---------------------------------------------------------------------------------------------------

EXPRESSIONS = ["* * * * *", "*/7 * * * *", "30 2 * * *", "15,45 1-3 * * *", "0 */2 * * 1-5", "0 0 29 2 *", "* 3 1 1 *"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
SPANS = [timedelta(minutes=1), timedelta(hours=3), timedelta(days=1.7), timedelta(days=40), timedelta(days=5000)]
BEGINNINGS = [EPOCH, *(datetime(2026, *day, 23, 17, 5, 250000, tzinfo=UTC) for day in ((3, 28), (10, 24), (10, 31)))]


@pytest.mark.parametrize("tz", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_latest_and_the_newest_are_those_that_counting_forward_gives(tz, expression):
    times = times_of(expression, None, tz)
    for begin in BEGINNINGS:
        due = times.after(begin)
        instants = [due]
        while len(instants) < 600 and instants[-1] < due + timedelta(days=9000):
            instants.append(times.after(instants[-1]))
        assert all(earlier < later for earlier, later in pairwise(instants))
        for span in SPANS:
            now = due + span
            if now >= instants[-1]:
                continue
            past = [instant for instant in instants if instant <= now]
            assert times.latest(due, now) == past[-1]
            for count in (1, 2, 10, 1000):
                assert times.newest(due, now, count) == past[-count:][0]
        assert times.latest(due, due) == due
        assert times.latest(due, instants[5]) == instants[5]


@pytest.mark.parametrize("every", [1.0, 0.1 + 1, 90.0, 86400.0])
def test_a_period_is_elapsed_time(every):
    times = times_of(None, every, "UTC")
    step = timedelta(seconds=every)
    instants = [EPOCH + number * step for number in range(50)]
    for earlier, later in pairwise(instants):
        assert times.after(earlier) == later
        for now in (later, later + step * 0.99):
            assert times.latest(EPOCH, now) == later
    now = instants[-1] + step / 2
    for count in (1, 7, 50, 51):
        assert times.newest(EPOCH, now, count) == instants[-count:][0]


def test_a_period_begins_at_a_full_second():
    times = times_of(None, 60.0, "UTC")
    assert times.first(EPOCH) == EPOCH + timedelta(seconds=60)
    assert times.first(EPOCH + timedelta(seconds=0.25)) == EPOCH + timedelta(seconds=61)
    assert times_of("* * * * *", None, "UTC").first(EPOCH) == EPOCH + timedelta(seconds=60)


def test_all_ends_with_the_dates():
    last = datetime.max.replace(tzinfo=UTC)
    assert times_of(None, 60.0, "UTC").after(last - timedelta(seconds=30)) is None
    for tz in ZONES:
        assert times_of("0 0 1 1 *", None, tz).after(last - timedelta(days=300)) is None
    assert times_of("0 0 30 2 1", None, "UTC").first(EPOCH) is not None, "cron's day of month OR day of week"


# --- what is none -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "does not have 5 fields"),
        ("* * * *", "does not have 5 fields"),
        ("0 * * * * *", "does not have 5 fields.* For a period in seconds use every="),
        ("@daily", "does not have 5 fields"),
        ("61 * * * *", "is not a cron expression: Bad minute"),
        ("* 24 * * *", "is not a cron expression: Bad hour"),
        ("* * 0 * *", "is not a cron expression: Bad day-of-month"),
        ("0 0 30 2 *", "is not a cron expression: Bad day-of-month"),
        ("* * * 13 *", "is not a cron expression: Bad month"),
        ("* * * * 8", "is not a cron expression: Bad day-of-week"),
        ("*/0 * * * *", "is not a cron expression: Bad minute"),
    ],
)
def test_a_text_that_is_no_expression_is_refused_with_the_reason(expression, why):
    with pytest.raises(InvalidTicket, match=f"cron: .* {why}"):
        times_of(expression, None, "UTC")


def test_every_odd_text_is_refused_as_one():
    for text in ("-", "L", "#", "/", "1-", "²", "1#1", "L/2,1", "1L,2#3/4", "*" * 100, "9" * 400):
        for place in range(5):
            fields = ["*"] * 5
            fields[place] = text
            try:
                times_of(" ".join(fields), None, "UTC").first(EPOCH)
            except InvalidTicket as error:
                assert len(str(error)) < 600  # noqa: PT017 - only some of them are refused


@pytest.mark.parametrize("tz", ["Mars/Olympus", "", "..", "/etc/passwd", "Europe", "a\0b", "x" * 300])
def test_a_time_zone_that_does_not_exist_is_refused(tz):
    with pytest.raises(InvalidTicket, match="tz: there is no time zone"):
        times_of("* * * * *", None, tz)


def test_without_the_library_the_error_names_the_extra_and_periods_work(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("cronsim"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(KharonError, match=r"pip install 'kharon\[cron\]'"):
        times_of("* * * * *", None, "UTC")
    assert times_of(None, 5.0, "UTC").after(EPOCH) == EPOCH + timedelta(seconds=5)
