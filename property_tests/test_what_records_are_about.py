"""The subjects of each record, against the whole state before it and after it, folded from the beginning.

A reader that begins at any record, with the state there, gets the same subjects.
"""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kharon.audit.subjects import Subject, Subjects
from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.decide import State, state_of
from kharon.model.delays import FixedDelay
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket
from kharon.testing import EPOCH

IDS = ["a", "b", "c"]
types, tubes, groups = (st.sampled_from(names) for names in (["t", "u"], ["x", "y"], [None, "g", "h"]))
changes = st.fixed_dictionaries({}, optional={"tube": tubes, "group": groups, "nice": st.integers(0, 1)}).map(
    lambda given: e.Changes(**given)
)
gates = st.sampled_from([((), None), ((), None), (("a",), None), ((), "g")])
on_failure = st.sampled_from(["run", "cancel"])


def made(command, **fields):
    """Return a strategy of functions that make the command for an id."""
    return st.fixed_dictionaries(fields).map(lambda values: lambda name: command(name, **values))


def added(name, of_type, gate, on_failure, **fields):
    return c.Add(name, Ticket(name, of_type, **fields), None, "replace", *gate, on_failure)


add = made(added, of_type=types, tube=tubes, group=groups, gate=gates, on_failure=on_failure)
update, delete = made(c.Update, changes=changes), made(c.Delete)
ends = [made(c.Done, keep=st.booleans()), made(c.Fail), made(c.Cancel, keep=st.booleans())]
lapse = made(c.Lapse, error_reason=st.just("late"), backoff=st.just(FixedDelay(0)), max_attempts=st.integers(1, 3))
terminal = st.one_of(made(c.Restart), update, add, delete)
of_tickets = {  # commands that a ticket's state allows: drawn blindly, almost none would claim or settle
    State.ABSENT: add,
    State.UNCLAIMED: st.one_of(*[made(c.Claim, worker=st.just("w"))] * 4, update, add, delete, *ends),
    State.CLAIMED: st.one_of(
        *(add, add, add, update, delete, lapse, *ends, made(c.Extend, seconds=st.just(60.0))),
        *(made(c.Retry, changes=st.none() | changes), made(c.Release, changes=st.none() | changes)),
    ),
    **dict.fromkeys([State.DONE, State.FAILED, State.CANCELLED], terminal),
}
days = st.integers(1, 9)
of_others = st.one_of(
    st.builds(c.Pause, tubes),
    st.builds(c.Resume, tubes),
    st.builds(
        lambda type_, tube, group, every: c.SetSchedule("s", type_, Raw(b"1"), tube, 1, EPOCH, group, every=every),
        *(types, tubes, groups, st.sampled_from([1.0, 2.0])),
    ),
    st.just(c.RemoveSchedule("s")),
    days.map(lambda day: c.FireSchedule("s", EPOCH + timedelta(day), EPOCH + timedelta(day + 1))),
    days.map(lambda day: c.SkipSchedule("s", EPOCH + timedelta(day))),
)


@st.composite
def logs(draw):
    """The records of a queue after random commands."""
    projection, records = Projection(), []
    for _ in range(draw(st.integers(1, 40))):
        id = draw(st.sampled_from([*IDS, None]))
        request = draw(of_others) if id is None else draw(of_tickets[state_of(projection.get(id))])(id)
        commit = Commit(projection, c.Context((projection.at or EPOCH) + timedelta(seconds=1)))
        try:
            commit.run([request])
        except KharonError:
            commit.undo()
            continue
        commit.keep()
        records += [Record(effect.seq, effect.at, "app", effect.event, "", (1, 1), 0) for effect in commit.effects]
    return records


def states(records, count):
    """The state after so many records: tickets, successors and schedules, by kind and name."""
    projection = Projection().fold(records[:count])
    found = {}
    for ticket in projection.tickets.values():
        found["ticket", ticket.id] = ticket
        if ticket.successor is not None:
            found["successor", ticket.id] = ticket.successor
    found |= {("schedule", schedule.name): schedule for schedule in projection.schedules.values()}
    return found


def by_hand(records, number):
    """The subjects of a record: all things of its name that differ after it, before and after; and its tube."""
    event, (before, after) = records[number].event, (states(records, number), states(records, number + 1))
    if isinstance(event, e.TubeEvent):
        return {Subject(None, event.tube, None)}
    about = set()
    for kind in ("ticket", "successor", "schedule"):
        key = (kind, getattr(event, "name" if kind == "schedule" else "id", None))
        if before.get(key) != after.get(key):
            about |= {Subject(one.type, one.tube, one.group) for one in (before.get(key), after.get(key)) if one}
    return about


@given(logs())
def test_a_record_is_about_whatever_it_changes(records):
    expected = [by_hand(records, number) for number in range(len(records))]
    for begin in {0, len(records) // 2, len(records)}:
        subjects = Subjects(Projection().fold(records[:begin]))
        assert [set(subjects.of(record)) for record in records[begin:]] == expected[begin:]
        assert subjects.seq == len(records)
