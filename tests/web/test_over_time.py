"""A queue over time: against replays that stop where each slot ends, and by hand."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import scenario
import written
from written import added, at

import kharon as k
from kharon.audit.measure import COUNTS, measure
from kharon.audit.timeline import Phase
from kharon.model import events as e
from kharon.web.over_time import PHASES, OverTime, Slots
from kharon.web.report import report


def counted(where):
    told = OverTime()
    for record in k.read(where):
        told.add(record)
    return told


def instant(second):
    return datetime.fromtimestamp(second, UTC)


def depth_by_replay(where, until):
    """How many tickets are running, ready, waiting for their time, blocked: counted one by one."""
    now = {"running": 0, "ready": 0, "waiting": 0, "blocked": 0}
    for ticket in k.replay(where, until).tickets.values():
        if ticket.status is k.Status.PENDING:
            state = "blocked" if ticket.blocked else "ready" if ticket.runat <= until else "waiting"
            now["running" if ticket.claim is not None else state] += 1
    return now


def check_depths(where):
    slots = counted(where).slots
    last = list(k.read(where))[-1].at
    for number, slot in enumerate(slots.all, 1):
        end = min(instant(slots.begin + number * slots.width) - timedelta(microseconds=1), last)
        depth = dict(zip(PHASES, slot.depth, strict=True))
        told = {
            "running": depth[Phase.RUNNING],
            "ready": depth[Phase.READY],
            "waiting": depth[Phase.DELAYED] + depth[Phase.BACKING_OFF],
            "blocked": depth[Phase.BLOCKED],
        }
        assert told == depth_by_replay(where, end), f"slot {number}"
    return len(slots.all)


def test_the_depth_is_that_of_a_replay(night, record_property):
    record_property("slots compared with a replay", check_depths(night))


@pytest.mark.parametrize("seed", range(4))
def test_the_depth_is_that_of_a_replay_of_anything(tmp_path, seed, record_property):
    chance = random.Random(seed)
    pace = (0.1, 1, 30, 3000)[seed]
    commits, now, claimed, waiting = [], 0.0, [], []
    for number in range(120):
        now += chance.choice([0, 0.3, 1, 7]) * pace
        does = chance.random()
        if does < 0.4 or not (waiting or claimed):
            commits.append((now, "shop", [added(f"t{number}", now + chance.choice([0, 5, 40]) * pace)]))
            waiting.append(f"t{number}")
        elif does < 0.7 and waiting:
            id = waiting.pop(chance.randrange(len(waiting)))
            commits.append((now, "worker-1", [e.TicketClaimed(id, 1, at(now + 60), "worker-1")]))
            claimed.append(id)
        elif claimed:
            id = claimed.pop()
            if chance.random() < 0.5:
                commits.append((now, "worker-1", [e.TicketRetried(id, at(now + 9 * pace), "no")]))
                waiting.append(id)
            else:
                commits.append((now, "worker-1", [e.TicketDone(id)]))
    record_property("slots compared with a replay", check_depths(written.write(tmp_path / "queue", commits)))


def test_blocked_tickets_by_hand(tmp_path):
    """By ids or by a group: blocked until the record that unblocks them, then delayed, or ready."""
    gates = {"after_group": "g", "blocked_by_group": True}
    told = [e.TicketAdded(id, "t", e.Raw(b"1"), "default", 512, at(due), **gates) for id, due in (("a", 0), ("b", 2.5))]
    where = written.write(
        tmp_path / "queue",
        [
            (0, "shop", [added("m", 0, group="g"), *told]),
            (0, "ann", [e.TubePaused("t"), e.ScheduleRemoved("s"), e.ScheduleFired("s", at(0))]),
            (1, "ann", [e.TicketDone("m"), *(e.TicketUnblocked(id, "m", "g") for id in "ab")]),
            (3, "ann", [e.LogClosed()]),
        ],
    )
    told = counted(where)
    assert [slot.depth for slot in told.slots.all] == [
        (0, 1, 0, 0, 2),
        (0, 1, 0, 1, 0),
        (0, 2, 0, 0, 0),
        (0, 2, 0, 0, 0),
    ]
    assert dict(told.slots.all[1].counts) == {"done": 1, "unblocked": 2}
    assert told.measures.total.counts["unblocked"] == 2
    kinds = [type(record.event).__name__ for record in told.incidents]
    assert kinds == ["TubePaused", "ScheduleRemoved", "LogClosed"], "that one has fired is nothing to note"


def test_by_hand(tmp_path):
    where = written.write(
        tmp_path / "queue",
        [
            (0, "shop", [added("a", 0), added("b", 2.5, "u")]),
            (1.25, "worker-1", [e.TicketClaimed("a", 1, at(60), "worker-1")]),
            (1.5, "worker-1", [e.TicketRetried("a", at(3.75), "no")]),
            (4, "worker-1", [e.TicketClaimed("a", 2, at(60), "worker-1")]),
            (4.5, "worker-1", [e.TicketFailed("a", "no")]),
            (4.75, "worker-1", [e.LogClosed()]),
        ],
    )
    told = counted(where)
    slots = told.slots.all
    assert (told.slots.begin, told.slots.width, len(slots)) == (written.BEGIN.timestamp(), 1, 5)
    # running, ready, backing off, delayed, blocked: at the end of each second, and the most that were ready
    assert [(slot.depth, slot.most_ready) for slot in slots] == [
        ((0, 1, 0, 1, 0), 1),
        ((0, 0, 1, 1, 0), 1),
        ((0, 1, 1, 0, 0), 1),
        ((0, 2, 0, 0, 0), 2),
        ((0, 1, 0, 0, 0), 2),
    ]
    assert [dict(slot.counts) for slot in slots] == [
        {"added": 2},
        {"claimed": 1, "retried": 1},
        {},
        {},
        {"claimed": 1, "failed": 1},
    ]
    assert [(slot.waited.count, slot.waited.total) for slot in slots] == [(0, 0), (1, 1.25), (0, 0), (0, 0), (1, 0.25)]
    assert [(slot.ran.count, slot.ran.total) for slot in slots] == [(0, 0), (1, 0.25), (0, 0), (0, 0), (1, 0.5)]
    assert [record.seq for record in told.failures] == [6]
    assert [record.seq for record in told.incidents] == [7]


def test_what_was_given_a_new_time_is_not_ready_at_the_old_one(tmp_path):
    changes = e.Changes(runat=at(5.5))
    where = written.write(
        tmp_path / "queue",
        [(0, "shop", [added("a", 2)]), (1, "ann", [e.TicketUpdated("a", changes)]), (7, "shop", [added("b", 7)])],
    )
    ready = [slot.depth[PHASES.index(Phase.READY)] for slot in counted(where).slots.all]
    assert ready == [0, 0, 0, 0, 0, 1, 1, 2]


def test_there_are_never_more_slots_than_the_limit_and_nothing_is_lost(tmp_path):
    chance = random.Random(7)
    commits, now = [], 0.0
    for number in range(300):
        now += 10 ** chance.uniform(-1, 6.5)
        commits.append((now, "shop", [added(f"t{number}", now)]))
        if number % 3 == 0:
            commits.append((now, "worker-1", [e.TicketClaimed(f"t{number}", 1, at(now + 60), "worker-1")]))
            commits.append((now + 0.05, "worker-1", [e.TicketDone(f"t{number}")]))
    where = written.write(tmp_path / "queue", commits)
    told, widths = OverTime(), []
    for record in k.read(where):
        told.add(record)
        slots = told.slots
        widths.append(slots.width)
        assert len(slots.all) <= Slots.LIMIT
        assert slots.begin % slots.width == 0
        assert slots.begin <= written.BEGIN.timestamp() + now
        assert slots.end - slots.width <= record.at.timestamp() < slots.end
    assert (widths[0], widths[-1] > 86_400) == (1, True)  # through all of them, and beyond
    assert all(wide % narrow == 0 for narrow, wide in pairwise(widths))
    whole = measure(k.read(where)).total
    for name in COUNTS:
        assert sum(slot.counts[name] for slot in slots.all) == whole.counts[name]
    assert sum(slot.ran.count for slot in slots.all) == whole.ran.count == 100
    assert slots.all[-1].depth == (0, 200, 0, 0, 0)
    # Percentiles survive the merging: the whole is what its slots are together.
    merged = slots.all[0].ran
    for slot in slots.all[1:]:
        merged.merge(slot.ran)
    assert [merged.percentile(share) for share in (1, 50, 99)] == [whole.ran.percentile(share) for share in (1, 50, 99)]


def test_a_log_whose_beginning_was_trimmed_begins_with_its_tickets(tmp_path, data_of):
    where = tmp_path / "queue"
    scenario.build(where, trimmed=True)
    first = k.verify(where).first
    assert first > 1
    time = data_of(report(where, now=scenario.NOW))["time"]
    assert time["first"] > 1
    depth = depth_by_replay(where, list(k.read(where))[-1].at)
    assert {name: values[-1] for name, values in time["depth"].items() if name in {"running", "ready"}} == {
        "running": depth["running"],
        "ready": depth["ready"],
    }
    assert time["depth"]["ready"][0] == 1  # the newsletter, added before


def test_a_long_log_is_never_held(tmp_path, record_property):
    payload = b'"' + b"x" * 2000 + b'"'
    peaks = []
    for count in (200, 2000):
        commits = (
            (number / 10, "shop", [added(f"t{number}", payload=payload), e.TicketDeleted(f"t{number}")])
            for number in range(count)
        )
        where = written.write(tmp_path / f"queue-{count}", commits)
        tracemalloc.start()
        report(where)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    record_property("bytes of memory more for nine times as long a log", peaks[1] - peaks[0])
    assert peaks[1] - peaks[0] < 1800 * len(payload) / 2
