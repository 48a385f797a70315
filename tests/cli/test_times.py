"""Instants and durations, as people write and read them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kharon.cli import times
from kharon.cli.failures import Usage

NOW = datetime(2026, 3, 11, 8, tzinfo=UTC)


@pytest.fixture(params=["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("2.5", 2.5),
        ("90s", 90),
        ("1.5m", 90),
        ("2h", 7200),
        ("1h30m", 5400),
        ("3d", 259_200),
        ("1w", 604_800),
    ],
)
def test_a_duration(text, seconds):
    assert times.parse_duration(text, "--x") == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "-2h", "2 h", "h", "1y", "nan", "inf", "1e3", "2h!", "\u0661", "200w1000000d"]
)
def test_no_duration(text):
    with pytest.raises(Usage, match=r"^--x: "):
        times.parse_duration(text, "--x")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("now", NOW),
        ("2h", NOW - timedelta(hours=2)),
        ("1d12h", NOW - timedelta(hours=36)),
        ("2026-03-11T04:00Z", datetime(2026, 3, 11, 4, tzinfo=UTC)),
        ("2026-03-11T04:00:01.5+00:00", datetime(2026, 3, 11, 4, 0, 1, 500_000, tzinfo=UTC)),
        ("2026-03-11 05:30+01", datetime(2026, 3, 11, 4, 30, tzinfo=UTC)),
        ("2026-03-11T04:00+0530", datetime(2026, 3, 10, 22, 30, tzinfo=UTC)),
    ],
)
def test_an_instant(text, at):
    found = times.parse_instant(text, "--x", NOW)
    assert (found, found.tzinfo) == (at, UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "12:00", "2026-13-01T00:00Z", "2", "0001-01-01T00:00+23:00", "9000w", "-2h"]
)
def test_no_instant(text):
    with pytest.raises(Usage, match=r"^--x: "):
        times.parse_instant(text, "--x", NOW)


def test_before_all_time():
    with pytest.raises(Usage, match=r"before now is out of range"):
        times.parse_instant("30000d", "--x", datetime(50, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["2026-03-11T04:00", "2026-03-11 04:00", "2026-03-11"])
def test_one_without_a_timezone_is_refused_with_both_ways_to_write_it(zone, text):
    with pytest.raises(Usage) as refused:
        times.parse_instant(text, "--since", NOW)
    said = str(refused.value)
    in_utc, here = said.split("write ")[1].removesuffix(" if you mean the time here").split(" if you mean UTC, ")
    assert times.parse_instant(in_utc, "", NOW) == datetime.fromisoformat(text).replace(tzinfo=UTC)
    assert times.parse_instant(here, "", NOW) == datetime.fromisoformat(text).astimezone(UTC)


def test_a_seq_or_an_instant():
    assert times.parse_place("42", "A", NOW) == 42
    assert times.parse_place("0", "A", NOW) == 0
    assert times.parse_place("2h", "A", NOW) == NOW - timedelta(hours=2)
    with pytest.raises(Usage, match=r"^A: '4x' is neither a seq .* nor a time"):
        times.parse_place("4x", "A", NOW)
    with pytest.raises(Usage, match="has no timezone"):
        times.parse_place("2026-03-11", "A", NOW)


@given(at=st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))  # noqa: DTZ001 - made aware below
def test_what_is_shown_can_be_given_back(at):
    at = at.replace(tzinfo=UTC)
    for name in ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Asia/Kathmandu"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", name)
            time.tzset()
            shown = times.local_time(at)
            assert times.parse_instant(shown, "", NOW) == at - timedelta(microseconds=at.microsecond % 1000), (
                name,
                shown,
            )
            assert times.parse_instant(times.local_time(at, exact=False), "", NOW) == at.replace(microsecond=0)
        time.tzset()


def test_local_time_says_its_offset(monkeypatch):
    at = datetime(2026, 3, 11, 4, 19, 49, 35_999, tzinfo=UTC)
    shown = {}
    for name in ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"):
        monkeypatch.setenv("TZ", name)
        time.tzset()
        shown[name] = times.local_time(at)
    monkeypatch.undo()
    time.tzset()
    assert shown == {
        "UTC": "2026-03-11 04:19:49.035Z",
        "Europe/Berlin": "2026-03-11 05:19:49.035+01",
        "Asia/Kolkata": "2026-03-11 09:49:49.035+0530",
        "America/New_York": "2026-03-11 00:19:49.035-04",
    }


def test_how_long_ago():
    assert times.ago(NOW, NOW) == "now"
    assert times.ago(NOW + timedelta(milliseconds=400), NOW) == "now"
    assert times.ago(NOW + timedelta(minutes=5), NOW) == "in 5 m"
    assert times.ago(NOW - timedelta(hours=2), NOW) == "2 h ago"


def test_now(monkeypatch):
    monkeypatch.setenv("KHARON_NOW", "2026-03-11T09:00+01:00")
    assert times.now() == NOW
    monkeypatch.setenv("KHARON_NOW", "2026-03-11T09:00")
    with pytest.raises(Usage, match=r"^KHARON_NOW: .* has no timezone"):
        times.now()
    for unset in ("", None):
        monkeypatch.setenv("KHARON_NOW", unset) if unset is not None else monkeypatch.delenv("KHARON_NOW")
        assert abs(times.now() - datetime.now(UTC)) < timedelta(minutes=5)
