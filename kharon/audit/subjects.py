"""What each record of a log is about: tickets of which type, in which tube, in which group.

A record names its ticket and says what has changed, so what the ticket is must be known from the records before it.
`Subjects` folds them one by one. A record is about

    its ticket as it was before it, and as it is after it: one that moves a ticket is about both tubes;
    what a running ticket will be after it settles, if it was added again, and the record set, changed or ended that;
    its tube, if it is about one: of any type, so of none that could be asked for;
    what its schedule adds, and, if the schedule was set anew, added before.

What is about the log itself is about none of them. It reads no file and no clock.
"""

from __future__ import annotations

from typing import NamedTuple

from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.evolve import evolve
from kharon.model.projection import Projection
from kharon.model.schedules import Schedule, Schedules
from kharon.model.ticket import Ticket

__all__ = ["Subject", "Subjects"]


class Subject(NamedTuple):
    """Something that a record is about.

    Attributes:
        type: the type of the tickets; None: it is a tube, whatever is in it.
        tube: the tube.
        group: the group that the tickets are members of; None: none.
    """

    type: str | None
    tube: str
    group: str | None


class Subjects:
    """Says of each record what it is about.

    Args:
        start: the queue as it was before the first record; it is left as it is.

    Attributes:
        seq: of the last record.

    Memory: that of the tickets that live, and of the schedules.
    """

    def __init__(self, start: Projection) -> None:
        self.seq = start.seq
        self._tickets = dict(start.tickets)
        self._schedules = Schedules()
        self._schedules.load(start.schedules.values())

    def of(self, record: Record) -> list[Subject]:
        """Fold the next record; return what it is about, nothing in particular first.

        Raises:
            KharonError: it is not the next one, or cannot follow from those before it.

        Cost: O(1); O(log n) for one about a schedule.
        """
        if record.seq != self.seq + 1:
            raise KharonError(f"record {self.seq + 1} was trimmed just now, before it was read: ask again")
        self.seq = record.seq
        event = record.event
        if isinstance(event, e.TicketEvent):
            return self._of_a_ticket(event, record)
        if isinstance(event, e.TubeEvent):
            return [Subject(None, event.tube, None)]
        if isinstance(event, e.ScheduleEvent):
            before = self._schedules.get(event.name)
            self._schedules.apply(event, record.seq, record.at)
            return _subjects(before, self._schedules.get(event.name))
        return []

    def _of_a_ticket(self, event: e.TicketEvent, record: Record) -> list[Subject]:
        before = self._tickets.get(event.id)
        after = evolve(before, event, record.seq, record.at)
        if after is None:
            del self._tickets[event.id]
        else:
            self._tickets[event.id] = after
        was = None if before is None else before.successor
        is_ = None if after is None else after.successor
        return _subjects(before, after) if was is is_ else _subjects(before, after, was, is_)


def _subjects(*found: Ticket | Schedule | None) -> list[Subject]:
    return [Subject(each.type, each.tube, each.group) for each in found if each is not None]
