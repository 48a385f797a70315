"""The subjects of each record: the types, tubes and groups of the tickets that it is about.

A record names its ticket and the changes, so the ticket's other fields must be known from earlier records. `Subjects`
folds the records one by one. A record is about

    its ticket before and after it: one that moves a ticket is about both tubes;
    the successor of a running ticket that was added again, if the record sets, changes or ends that successor;
    its tube, for an event of a tube: such a record has no type;
    the tickets that its schedule adds, and, if the schedule was replaced, those that it added before.

A record about the log itself has no subject. This module reads no file and no clock.
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
    """A subject of a record.

    Attributes:
        type: the type of the tickets; None: the subject is a tube.
        tube: the tube.
        group: the group of the tickets; None: none.
    """

    type: str | None
    tube: str
    group: str | None


class Subjects:
    """Finds the subjects of each record.

    Args:
        start: the state before the first record. It is not changed.

    Attributes:
        seq: of the last record.

    Memory: the tickets that live, and the schedules.
    """

    def __init__(self, start: Projection) -> None:
        self.seq = start.seq
        self._tickets = dict(start.tickets)
        self._schedules = Schedules()
        self._schedules.load(start.schedules.values())

    def of(self, record: Record) -> list[Subject]:
        """Fold the next record; return its subjects, in no particular order.

        Raises:
            KharonError: it is not the next one, or cannot follow from those before it.

        Cost: O(1); O(log n) for a schedule's record.
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
