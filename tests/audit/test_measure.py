"""Measures of a log against counts by hand, and how far a percentile may be off."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from queues import queue

import kharon
from kharon.audit.measure import COUNTS, RELATIVE_ERROR, Counter, Group, Series, Sketch, measure
from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.projection import Projection

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def moment(seconds):
    return NOON + timedelta(seconds=seconds)


def records(*told):
    """Records of (seconds, event)."""
    return [Record(seq, moment(at), "ann", event, "", (1, 1), 0) for seq, (at, event) in enumerate(told, 1)]


def added(id, type="t", tube="q", runat=0.0):
    return e.TicketAdded(id, type, Raw(b"null"), tube, 512, moment(runat))


def claimed(id, at, attempt=1):
    return (at, e.TicketClaimed(id, attempt, moment(at + 30), "w"))


# --- sketches ---------------------------------------------------------------------------------------------------------


def test_an_empty_sketch():
    sketch = Sketch()
    assert (sketch.count, sketch.mean, sketch.percentile(50), sketch.longest) == (0, None, None, 0)


@given(
    st.lists(
        st.one_of(st.floats(0, 1e-6), st.floats(1e-6, 1e9), st.integers(0, 100).map(float)), min_size=1, max_size=80
    ),
    st.floats(0, 100),
)
def test_a_percentile_is_within_the_error_of_the_one_by_nearest_rank(values, percent):
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    exact = sorted(values)[max(1, math.ceil(percent / 100 * len(values))) - 1]
    assert sketch.percentile(percent) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001, abs=1e-6)
    assert sketch.percentile(percent) <= sketch.longest == max(values)
    assert sketch.mean == pytest.approx(sum(values) / len(values))


def test_what_is_below_nothing_is_nothing():
    sketch = Sketch()
    sketch.add(-5)
    assert (sketch.percentile(100), sketch.total) == (0, 0)


def test_a_sketch_does_not_grow_with_what_is_counted():
    sketch = Sketch()
    for number in range(20_000):
        sketch.add(10 ** (number % 1500 / 100 - 6))
    assert len(sketch._buckets) < 1800


# --- series -----------------------------------------------------------------------------------------------------------


def test_an_empty_series():
    assert (Series().counts, Series().begin) == ([], None)


def test_slots():
    series = Series()
    for second in (0, 0, 3, 9):
        series.add(moment(second))
    series.add(moment(11), 0)
    assert (series.width, series.begin, series.counts) == (1, NOON, [2, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0])


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=50))
def test_nothing_is_lost_when_slots_become_wider(seconds):
    series = Series()
    for second in seconds:
        series.add(datetime.fromtimestamp(second, UTC))
    assert sum(series.counts) == len(seconds)
    assert len(series.counts) <= Series.LIMIT
    begin = int(series.begin.timestamp())
    assert begin <= min(seconds)
    assert begin % series.width == 0
    expected = [0] * len(series.counts)
    for second in seconds:
        expected[(second - begin) // series.width] += 1
    assert series.counts == expected


def test_each_width_is_a_multiple_of_the_one_before():
    widths = Series._WIDTHS
    assert all(wider % width == 0 for width, wider in pairwise(widths))


# --- measures ---------------------------------------------------------------------------------------------------------


def test_waits_and_runs_by_hand():
    told = records(
        (0, added("a", runat=10)),  # due later: it waits from then on
        claimed("a", 12),  # waited 2
        (15, e.TicketRetried("a", moment(20), "no")),  # ran 3
        (16, e.TicketUpdated("a", e.Changes(runat=moment(25)))),
        claimed("a", 26, 2),  # waited 1: since the runat that it has now
        (27, e.LeaseExtended("a", moment(99))),
        (30, e.TicketReleased("a")),  # ran 4
        claimed("a", 35, 2),  # waited 5: since it was released
        (35, added("a", type="u", runat=0)),  # while it runs
        (42, e.TicketDone("a")),  # ran 7; pending again
        claimed("a", 45),  # waited 3, as a u
        (46, e.TicketLapsed("a", moment(50), "x")),  # ran 1
        (46, e.TicketFailed("a", "x")),
        (50, e.TicketRestarted("a", moment(50))),
        claimed("a", 50),  # waited 0
        (52, e.TicketCancelled("a")),  # ran 2
        (53, added("b")),
        claimed("b", 60),  # waited 7
        (61, e.TicketDeleted("b")),  # ran 1
        (62, e.LogClosed()),
    )
    found = measure(told, "type")
    counted = found.total.counts
    assert counted == {
        **dict.fromkeys(COUNTS, 0),
        "added": 3,
        "claimed": 6,
        "extended": 1,
        "done": 1,
        "failed": 1,
        "cancelled": 1,
        "retried": 1,
        "released": 1,
        "lapsed": 1,
        "restarted": 1,
        "updated": 1,
        "deleted": 1,
    }
    assert (found.total.waited.total, found.total.waited.count) == (2 + 1 + 5 + 3 + 0 + 7, 6)
    assert (found.total.ran.total, found.total.ran.count) == (3 + 4 + 7 + 1 + 2 + 1, 6)
    assert list(found.groups) == ["t", "u"]
    assert found.groups["u"].waited.total == 3
    assert found.groups["u"].counts["added"] == 1
    assert found.groups["t"].counts["done"] == 1, "what ran was a t"
    assert (found.records, found.first, found.last, found.seconds) == (20, 1, 20, 62)
    assert found.total.failure_rate == 0.5
    assert sum(found.added.counts) == 3
    assert (sum(found.ended.counts), sum(found.failed.counts)) == (3, 1)
    assert len(found.added.counts) == len(found.ended.counts) == len(found.failed.counts)


def test_a_wait_begins_when_a_ticket_is_due_and_not_blocked():
    """Paused tubes and limits are part of it: the ticket could have been claimed, had its tube given it."""

    def gated(id, runat=0):
        gate = {"after": ("m",), "blocked_by": ("m",), "after_group": "g", "blocked_by_group": True}
        return e.TicketAdded(id, "t", Raw(b"null"), "q", 512, moment(runat), **gate)

    told = records(
        (0, gated("due")),
        (0, gated("later", 20)),
        (5, e.TicketUnblocked("due", "m")),
        (5, e.TicketUnblocked("later", "m")),
        (7, e.TicketUnblocked("due", "m", "g")),
        (7, e.TicketUnblocked("later", "m", "g")),
        (8, e.TubePaused("q")),
        (9, e.TubeResumed("q")),
        claimed("due", 10),  # waited 3
        claimed("later", 21),  # waited 1
    )
    total = measure(told).total
    assert (total.waited.count, total.waited.total, total.waited.longest) == (2, 4, 3)
    assert [total.counts[name] for name in ("unblocked", "added", "claimed")] == [4, 2, 2]
    for middle in range(3, 8):
        found = measure(told[middle:], tickets=Projection().fold(told[:middle]).tickets.values())
        assert (found.total.waited.total, found.total.waited.longest) == (4, 3), middle


def test_nothing():
    found = measure([])
    assert (found.records, found.first_at, found.seconds, found.total.failure_rate) == (0, None, 0, None)
    assert found.total == Group(waited=found.total.waited, ran=found.total.ran)


def test_since():
    told = records((0, added("a")), claimed("a", 5), (8, e.TicketDone("a")), (9, added("b")))
    found = measure(told, since=moment(8))
    assert (found.first, found.records) == (3, 2)
    assert (found.total.counts["added"], found.total.counts["claimed"]) == (1, 0)
    assert found.total.ran.total == 3, "what was before is known, and not counted"


def test_by_hour():
    told = records((0, added("a")), claimed("a", 3599.5), (3600, e.TicketDone("a")), (9000, added("b")))
    found = measure(told, "hour")
    assert {
        key: tuple(group.counts[name] for name in ("added", "claimed", "done")) for key, group in found.groups.items()
    } == {
        NOON: (1, 1, 0),
        moment(3600): (0, 0, 1),
        moment(7200): (1, 0, 0),
    }


def test_the_sum_of_the_groups_is_the_total(tmp_path):
    queue(tmp_path / "queue")
    told = list(kharon.read(tmp_path / "queue"))
    for by in ("type", "tube", "hour"):
        found = measure(told, by)
        for name in COUNTS:
            assert sum(group.counts[name] for group in found.groups.values()) == found.total.counts[name]
        for name in ("waited", "ran"):
            assert (
                sum(getattr(group, name).count for group in found.groups.values()) == getattr(found.total, name).count
            )
        assert found.total.waited.count == found.total.counts["claimed"] > 0


def test_from_the_tickets_that_lived_before(tmp_path):
    """As of a log whose beginning was trimmed, from any record on."""
    queue(tmp_path / "queue")
    told = list(kharon.read(tmp_path / "queue"))
    for middle in range(0, len(told), 7):
        projection = Projection().fold(told[:middle])
        found = measure(told[middle:], "type", tickets=projection.tickets.values())
        assert found.total.counts["claimed"] == sum(
            isinstance(record.event, e.TicketClaimed) for record in told[middle:]
        )
        assert found.total.waited.count == found.total.counts["claimed"]


def test_a_record_that_cannot_follow():
    with pytest.raises(KharonError, match="which does not exist there"):
        measure(records((0, e.TicketDone("a"))))


def test_what_is_kept_is_what_lives(tmp_path):
    counter = Counter()
    for number in range(500):
        for record in records(
            (number, added(f"{number}")), claimed(f"{number}", number), (number, e.TicketDone(f"{number}"))
        ):
            counter.add(record)
    assert not counter.tickets
    assert not counter._claimable
    assert not counter._claimed


def test_every_event_of_a_ticket_is_counted():
    words = [event.word for event in e.EVENTS.values() if issubclass(event, e.TicketEvent)]
    assert list(COUNTS) == list(Group().counts) == words
    assert len(words) == len(set(words)) >= 14
