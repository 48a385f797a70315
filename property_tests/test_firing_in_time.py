"""Schedules against a naive book of instants, over clock steps both ways and all kinds of restarts.

The book counts all instants one by one, and knows which were fired or skipped. After each tick the queue must agree
with it; so must a replay and a snapshot.
"""

from __future__ import annotations

from datetime import timedelta

import extras
import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw

from kharon.model import commands as c
from kharon.model.commit import Commit
from kharon.model.projection import Projection
from kharon.store.calendar import GRACE, MAX_CAUGHT_UP, commands, first_firing, times_of
from kharon.testing import EPOCH

extras.need("cron")
NAMES = st.sampled_from("ab")
# In the night when Berlin's clocks go from 03:00 back to 02:00, so that the counted instants include the change.
BEGIN = EPOCH.replace(month=10, day=25)
TIMINGS = st.sampled_from(
    [
        (None, 60.0, "UTC"),
        (None, 7.5, "UTC"),
        ("* * * * *", None, "UTC"),
        ("*/20 * * * *", None, "Europe/Berlin"),
        ("15,45 1-3 * * *", None, "Europe/Berlin"),
    ]
)
STEPS = st.sampled_from([0.0, 1.0, 30.0, 61.0, 600.0, 4000.0, 9000.0, -1.0, -90.0, -5000.0])


def counted(schedule, upto):
    """Yield all instants from the next one up to `upto`."""
    times, found, instant = times_of(schedule.cron, schedule.every, schedule.tz), [], schedule.next
    while instant is not None and instant <= upto:
        found.append(instant)
        instant = times.after(instant)
    return found


class Book(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = BEGIN
        self.projection = Projection()
        self.records = []
        self.fired = {"a": [], "b": []}  # the instants that have become tickets, recorded here

    def commit(self, found, *, kept=True):
        commit = Commit(self.projection, c.Context(self.now), first_firing)
        commit.run(found)
        if kept:
            commit.keep()
            self.records += commit.effects
        else:
            commit.undo()

    @rule(name=NAMES, timing=TIMINGS, catch_up=st.sampled_from(["one", "all", "none"]))
    def schedule(self, name, timing, catch_up):
        old = self.projection.schedules.get(name)
        since = max(self.now, (old.last if old else None) or self.now)
        first = times_of(*timing).first(since)
        self.commit([c.SetSchedule(name, "t", Raw(b"1"), "d", 1, None, None, *timing, catch_up)])
        new = self.projection.schedules.get(name)
        if old is not None and (old.cron, old.every, old.tz) == timing:
            assert new == msgspec.structs.replace(old, catch_up=catch_up)
        else:
            assert new.next == first > self.now

    @rule(name=NAMES)
    def unschedule(self, name):
        self.commit([c.RemoveSchedule(name)])
        assert self.projection.schedules.get(name) is None
        self.fired[name] = []

    @rule(seconds=STEPS, kept=st.booleans())
    def look(self, seconds, kept):
        """Time passes, or the clock is set; then the queue ticks, perhaps with a commit that finds no room."""
        self.now = max(BEGIN, self.now + timedelta(seconds=seconds))
        for schedule in self.projection.schedules.due(self.now):
            before = set(self.projection.tickets)
            if not kept:
                self.commit(commands(schedule, self.now), kept=False)
                assert set(self.projection.tickets) == before
            due = counted(schedule, self.now)
            expected = {
                "one": due[-1:],
                "all": due[-MAX_CAUGHT_UP:],
                "none": [instant for instant in due if instant >= self.now - GRACE],
            }[schedule.catch_up]
            current = schedule
            while current.next is not None and current.next <= self.now:
                self.commit(commands(current, self.now))
                current = self.projection.schedules.get(schedule.name)
            new = [id for id in self.projection.tickets if id not in before]
            wanted = [schedule.id_at(instant) for instant in expected]
            assert new == [id for id in wanted if id not in before], "each instant that is due, and nothing else"
            assert not set(expected) & set(self.fired[schedule.name]), "an instant has fired twice"
            self.fired[schedule.name] += expected
            assert current.next > self.now
            assert current.next == times_of(schedule.cron, schedule.every, schedule.tz).after(due[-1])
            self.commit(commands(schedule, self.now))
            assert self.projection.schedules.get(schedule.name) == current, "done again, it changes nothing"

    @rule()
    def restart_by_replay(self):
        again = Projection().fold(self.records)
        assert again == self.projection
        self.projection = again

    @rule()
    def restart_by_snapshot(self):
        if self.projection.at is not None:
            again = Projection()
            again.load(
                list(self.projection.tickets.values()),
                self.projection.seq,
                self.projection.at,
                self.projection.others(),
            )
            assert again == self.projection
            self.projection = again

    @invariant()
    def it_is_right_in_itself(self):
        self.projection.check()


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=25)
