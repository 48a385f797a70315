"""A queue over time, from one pass over its records: how many tickets were in each phase, counts, waits and run times.

Time is divided into slots of one width, at most `Slots.LIMIT`. As time passes they are merged into wider ones, so
memory does not grow with the log. `kharon.audit.measure` counts and measures; the phases are those of
`kharon.audit.timeline`. This module draws nothing and reads no file.
"""

from __future__ import annotations

import heapq
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import attrs

from kharon.audit.measure import Counter, Measures, Sketch
from kharon.audit.timeline import Phase, backs_off
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.ticket import Status, Ticket

__all__ = ["PHASES", "OverTime", "Slot", "Slots"]

PHASES: Final = (Phase.RUNNING, Phase.READY, Phase.BACKING_OFF, Phase.DELAYED, Phase.BLOCKED)
"""The phases of a pending ticket."""


@attrs.define(slots=True)
class Slot:
    """A stretch of time.

    Attributes:
        counts: the number of events by word, as in `kharon.audit.measure.COUNTS`.
        waited, ran: of the claims that began, and of those that ended, in this slot.
        depth: how many tickets were in each of `PHASES` at its end; in the last slot, at the last record.
        most_ready: the largest number of tickets that were ready at once.
    """

    counts: Tally[str] = attrs.field(factory=Tally)
    waited: Sketch = attrs.field(factory=Sketch)
    ran: Sketch = attrs.field(factory=Sketch)
    depth: tuple[int, ...] = (0,) * len(PHASES)
    most_ready: int = 0

    def merge(self, later: Slot) -> None:
        """Extend this slot by the next one."""
        self.counts.update(later.counts)
        self.waited.merge(later.waited)
        self.ran.merge(later.ran)
        self.depth = later.depth
        self.most_ready = max(self.most_ready, later.most_ready)


class Slots:
    """Slots of one width, without gaps from the first to the last.

    Args:
        second: an instant in the first slot, in whole seconds since 1970.

    Attributes:
        width: of each slot, in seconds.
        all: the slots, in order.
    """

    LIMIT: Final = 120
    _WIDTHS: Final = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400)  # each divides the next

    __slots__ = ("_first", "all", "width")

    def __init__(self, second: int) -> None:
        self.width = self._WIDTHS[0]
        self.all = [Slot()]
        self._first = second  # its number: the widths since 1970

    @property
    def begin(self) -> int:
        """Where the first slot begins, in seconds since 1970."""
        return self._first * self.width

    @property
    def end(self) -> int:
        """Where the last slot ends, in seconds since 1970."""
        return (self._first + len(self.all)) * self.width

    def make_room(self, second: int) -> None:
        """Widen the slots until those up to `second` are at most `LIMIT`. O(slots), rarely."""
        while second // self.width - self._first >= self.LIMIT:
            self._widen()

    def _widen(self) -> None:
        wider = next((width for width in self._WIDTHS if width > self.width), 2 * self.width)
        merged: list[Slot] = []
        first = self.begin // wider
        for number, slot in enumerate(self.all, self._first):
            if number * self.width // wider - first < len(merged):
                merged[-1].merge(slot)
            else:
                merged.append(slot)
        self.width, self.all, self._first = wider, merged, first


class OverTime:
    """The state of a queue in each slot of time, and the counts of its records.

    Args:
        tickets: those that lived before the first record, if the log's beginning is missing.
        since: the instant of that state; required if there are any.

    Attributes:
        slots: None before the first record.
        failures: the records of the last tickets that failed or lapsed.
        incidents: the last records about the log, a tube or a schedule, except the firings of schedules.

    Cost: O(log n) for a record; the memory of the n tickets that live, of `Slots.LIMIT` slots and of the types.
    """

    MOST_LISTED: Final = 50

    def __init__(self, tickets: Iterable[Ticket] = (), since: datetime | None = None) -> None:
        tickets = list(tickets)
        self._counter = Counter("type", tickets=tickets)
        self.slots: Slots | None = None
        self.failures: deque[Record] = deque(maxlen=self.MOST_LISTED)
        self.incidents: deque[Record] = deque(maxlen=self.MOST_LISTED)
        self._phases: dict[str, Phase] = {}
        self._depth = dict.fromkeys(PHASES, 0)
        self._due: list[tuple[datetime, str]] = []  # a heap by `runat`; entries that no longer hold stay until then
        self._backing_off = {ticket.id for ticket in tickets if ticket.attempts}
        for ticket in tickets:
            assert since is not None
            self._set_phase(ticket.id, ticket, since)

    @property
    def measures(self) -> Measures:
        """The counts so far, by type."""
        return self._counter.measures

    def add(self, record: Record) -> None:
        """Count one record.

        Raises:
            KharonError: it cannot follow from those before it.
        """
        slot = self._slot_at(record.at)
        event = record.event
        found = self._counter.add(record)
        if found is None or not isinstance(event, e.TicketEvent):
            if not isinstance(event, (e.ScheduleFired, e.ScheduleSkipped)):
                self.incidents.append(record)
            return
        slot.counts[event.word] += 1
        if found.waited is not None:
            slot.waited.add(found.waited)
        if found.ran is not None:
            slot.ran.add(found.ran)
        if isinstance(event, (e.TicketFailed, e.TicketLapsed)):
            self.failures.append(record)
        if backs_off(event, found.before, found.after, before=event.id in self._backing_off):
            self._backing_off.add(event.id)
        else:
            self._backing_off.discard(event.id)
        self._set_phase(event.id, found.after, record.at)
        self._note(slot)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _slot_at(self, at: datetime) -> Slot:
        """Let time pass up to an instant; return its slot, the last."""
        second = int(at.timestamp())
        if self.slots is None:
            self.slots = Slots(second)
        slots = self.slots
        slots.make_room(second)
        while slots.end <= second:
            self._pass_until(datetime.fromtimestamp(slots.end, UTC), slots.all[-1], inclusive=False)
            slots.all.append(Slot())
        self._pass_until(at, slots.all[-1], inclusive=True)
        return slots.all[-1]

    def _pass_until(self, at: datetime, slot: Slot, *, inclusive: bool) -> None:
        """Make ready the tickets that are due by then."""
        while self._due and (self._due[0][0] < at or (inclusive and self._due[0][0] == at)):
            runat, id = heapq.heappop(self._due)
            ticket = self._counter.tickets.get(id)
            if self._phases.get(id) in (Phase.DELAYED, Phase.BACKING_OFF) and ticket and ticket.runat == runat:
                self._move(id, Phase.READY)
        self._note(slot)

    def _note(self, slot: Slot) -> None:
        slot.depth = tuple(self._depth.values())
        slot.most_ready = max(slot.most_ready, self._depth[Phase.READY])

    def _set_phase(self, id: str, ticket: Ticket | None, at: datetime) -> None:
        if ticket is None or ticket.status is not Status.PENDING:
            self._move(id, None)
        elif ticket.claim is not None:
            self._move(id, Phase.RUNNING)
        elif ticket.blocked:
            self._move(id, Phase.BLOCKED)
        elif ticket.runat is None or ticket.runat <= at:
            self._move(id, Phase.READY)
        else:
            self._move(id, Phase.BACKING_OFF if id in self._backing_off else Phase.DELAYED)
            heapq.heappush(self._due, (ticket.runat, id))

    def _move(self, id: str, phase: Phase | None) -> None:
        old = self._phases.pop(id, None)
        if old is not None:
            self._depth[old] -= 1
        if phase is not None:
            self._phases[id] = phase
            self._depth[phase] += 1
