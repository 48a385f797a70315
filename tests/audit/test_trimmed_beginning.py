"""What is read of a log whose beginning was trimmed: it begins where a snapshot vouches for the state."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from queues import moment, trimmed_queue

import kharon
from kharon.audit.replay import known_start, state_at_start
from kharon.errors import InvalidTicket, KharonError
from kharon.web.report import report


@pytest.fixture
def where(tmp_path):
    return trimmed_queue(tmp_path / "queue", 2)


def steps_of(line: kharon.Timeline) -> list[list[int]]:
    return [[step.record.seq for step in life.steps] for life in line.lives]


def test_a_ticket_older_than_the_trim_is_drawn_from_the_record_that_its_snapshot_is_of(where):
    start = state_at_start(where)
    assert start.seq == 4
    line = kharon.timeline(kharon.history(where, "a"), moment(9), start=start)
    assert (steps_of(line), line.before) == ([[3, 5, 7]], ())
    (life,) = line.lives
    assert (life.begin, life.end, life.removed) == (moment(3), moment(7), True)
    assert [(span.phase, span.begin, span.end) for span in life.spans] == [
        (kharon.Phase.RUNNING, moment(3), moment(5)),
        (kharon.Phase.READY, moment(5), moment(7)),
    ]
    (attempt,) = life.attempts
    assert (attempt.number, attempt.claim, attempt.worker, attempt.begin) == (1, 3, "worker-1", moment(3))
    assert (attempt.end, attempt.outcome, attempt.error_reason) == (moment(5), kharon.Outcome.RETRIED, "busy")


def test_its_attempt_that_was_claimed_before_the_trim_begins_where_its_records_do(tmp_path):
    where = trimmed_queue(tmp_path / "queue", 4)
    line = kharon.timeline(kharon.history(where, "a"), moment(9), start=state_at_start(where))
    assert steps_of(line) == [[5, 7]]
    (attempt,) = line.lives[0].attempts
    assert (attempt.number, attempt.claim, attempt.worker) == (1, 3, "worker-1")
    assert (attempt.begin, attempt.end, attempt.outcome) == (moment(5), moment(5), kharon.Outcome.RETRIED)


def test_records_that_no_snapshot_vouches_for_are_kept_apart(tmp_path):
    where = trimmed_queue(tmp_path / "queue", 2, since=6)
    line = kharon.timeline(kharon.history(where, "a"), moment(9), start=state_at_start(where))
    assert ([record.seq for record in line.before], steps_of(line)) == ([3], [[5, 7]])


def test_a_ticket_that_was_not_there_yet(where):
    for id, expected in (("new", [[8]]), ("b", [[4, 6]])):
        line = kharon.timeline(kharon.history(where, id), moment(9), start=state_at_start(where))
        assert (steps_of(line), line.before) == (expected, ())


@pytest.mark.parametrize("upto", [2, 4])
def test_a_page_about_it_shows_its_records_and_its_attempt(tmp_path, upto):
    page = report(trimmed_queue(tmp_path / "queue", upto), "a", now=moment(9))
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])[
        "ticket"
    ]
    assert (data["early"], len(data["attempts"])) == (0, 1)
    assert [event[0] for event in data["events"]] == [seq for seq in (3, 5, 7) if seq > upto]


def test_a_diff_of_two_places_behind_the_snapshot(where):
    found = kharon.diff(where, 4, 7)
    assert (found.a, found.a_at, found.b, found.b_at) == (4, moment(4), 7, moment(7))
    assert [ticket.id for ticket in found.removed] == ["a"]
    assert ([ticket.id for ticket in found.added], [change.id for change in found.changed]) == ([], ["b"])
    assert found.changed[0].fields == {"nice": (512, 1)}
    assert kharon.diff(where, moment(4), moment(7)) == found
    assert [ticket.id for ticket in kharon.diff(where, 5, 10**9).added] == ["new"]
    same = kharon.diff(where, 5, 5)
    assert (same.a, same.b, same.removed) == (5, 5, ())


@pytest.mark.parametrize(("a", "b"), [(1, 2), (0, 10**9), (3, 7), (moment(1), moment(2)), (moment(3), 7)])
def test_a_diff_from_a_place_before_it_is_refused(where, a, b):
    with pytest.raises(KharonError, match=r"history begins at record 3; .* no usable snapshot at or before"):
        kharon.diff(where, a, b)


def test_of_a_place_before_its_beginning_and_one_behind_it_the_order_is_still_checked(where):
    for a, b in ((6, moment(3)), (4, moment(3)), (moment(6), 3), (moment(6), 5)):
        with pytest.raises(InvalidTicket, match="is later than b"):
            kharon.diff(where, a, b)


def test_without_a_snapshot_nothing_vouches_for_the_beginning(where):
    shutil.rmtree(where / "snapshots")
    assert known_start(where) is None
