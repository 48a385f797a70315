"""A queue over time, from one pass over its records: how deep it was, what came and went, how long things took.

In slots of one width, at most `Slots.LIMIT` of them: as time goes by they are merged into wider ones, so the memory
does not grow with the log. Counts, waits and runs are those of `kharon.audit.measure`, phases those of
`kharon.audit.timeline`. Nothing is drawn here, and no file is read.
"""

from __future__ import annotations

import heapq
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import attrs

from kharon.audit.measure import _NAMES, Counter, Sketch
from kharon.audit.timeline import Phase, _backs_off
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.ticket import Status, Ticket

__all__ = ["PHASES", "OverTime", "Slot", "Slots"]

PHASES: Final = (Phase.RUNNING, Phase.READY, Phase.BACKING_OFF, Phase.DELAYED, Phase.BLOCKED)
"""What a pending ticket can be in."""


@attrs.define(slots=True)
class Slot:
    """What happened in a stretch of time.

    Attributes:
        counts: how many events of each kind, by the names of `measures.COUNTS`.
        waited, ran: of the claims, and of the ends of claims, in it.
        depth: how many tickets were in each of `PHASES` at its end; in the last slot at the last record.
        most_ready: how many were ready at once, at most.
    """

    counts: Tally[str] = attrs.field(factory=Tally)
    waited: Sketch = attrs.field(factory=Sketch)
    ran: Sketch = attrs.field(factory=Sketch)
    depth: tuple[int, ...] = (0,) * len(PHASES)
    most_ready: int = 0

    def merge(self, later: Slot) -> None:
        """Take the slot that follows into this one."""
        self.counts.update(later.counts)
        self.waited.merge(later.waited)
        self.ran.merge(later.ran)
        self.depth = later.depth
        self.most_ready = max(self.most_ready, later.most_ready)


class Slots:
    """Slots of one width, without gaps from the first to the last.

    Args:
        second: where the first one lies, in whole seconds after 1970.

    Attributes:
        width: of each, in seconds.
        all: in order.
    """

    LIMIT: Final = 120
    _WIDTHS: Final = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400)  # each divides the next

    __slots__ = ("_first", "all", "width")

    def __init__(self, second: int) -> None:
        self.width = self._WIDTHS[0]
        self.all = [Slot()]
        self._first = second  # its number: so many widths after 1970

    @property
    def begin(self) -> int:
        """Where the first slot begins, in seconds after 1970."""
        return self._first * self.width

    @property
    def end(self) -> int:
        """Where the last slot ends, in seconds after 1970."""
        return (self._first + len(self.all)) * self.width

    def make_room(self, second: int) -> None:
        """Widen the slots until those up to `second` are at most `LIMIT`. O(slots), seldom."""
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


class OverTime(Counter):
    """Counts a queue's records, and keeps how it stood in each slot of time.

    Args:
        tickets: those that lived before the first record, if the log's beginning is not there.
        since: when they lived; needed if there are any.

    Attributes:
        slots: None before the first record.
        failures: the last tickets that failed or lapsed: their records.
        incidents: the last records that are about the log, a tube or a schedule; not that a schedule has come round.

    Cost: O(log n) for a record; the memory of the n tickets that live, of `Slots.LIMIT` slots and of the types.
    """

    MOST_LISTED: Final = 50

    def __init__(self, tickets: Iterable[Ticket] = (), since: datetime | None = None) -> None:
        tickets = list(tickets)
        super().__init__("type", tickets=tickets)
        self.slots: Slots | None = None
        self.failures: deque[Record] = deque(maxlen=self.MOST_LISTED)
        self.incidents: deque[Record] = deque(maxlen=self.MOST_LISTED)
        self._phases: dict[str, Phase] = {}
        self._depth = dict.fromkeys(PHASES, 0)
        self._due: list[tuple[datetime, str]] = []  # of what waits for its runat; of what no longer does, too
        self._backing_off = {ticket.id for ticket in tickets if ticket.attempts}
        for ticket in tickets:
            assert since is not None
            self._set_phase(ticket.id, ticket, since)

    def add(self, record: Record) -> None:
        """Count one record."""
        slot = self._slot_at(record.at)
        event = record.event
        before = self._tickets.get(event.id) if isinstance(event, e.TicketEvent) else None
        super().add(record)
        if not isinstance(event, e.TicketEvent):
            if not isinstance(event, (e.ScheduleFired, e.ScheduleSkipped)):
                self.incidents.append(record)
            return
        after = self._tickets.get(event.id)
        slot.counts[_NAMES[type(event)]] += 1
        if isinstance(event, (e.TicketFailed, e.TicketLapsed)):
            self.failures.append(record)
        if _backs_off(event, before, after, before=event.id in self._backing_off):
            self._backing_off.add(event.id)
        else:
            self._backing_off.discard(event.id)
        self._set_phase(event.id, after, record.at)
        self._note(slot)

    # --- what `Counter` measures, for the slot, too -------------------------------------------------------------------

    def _waited(self, event: e.TicketEvent, before: Ticket | None, at: datetime) -> float | None:
        waited = super()._waited(event, before, at)
        if waited is not None and self.slots is not None:
            self.slots.all[-1].waited.add(waited)
        return waited

    def _ran(self, before: Ticket | None, after: Ticket | None, at: datetime) -> float | None:
        ran = super()._ran(before, after, at)
        if ran is not None and self.slots is not None:
            self.slots.all[-1].ran.add(ran)
        return ran

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
        """What is due by then is ready."""
        while self._due and (self._due[0][0] < at or (inclusive and self._due[0][0] == at)):
            runat, id = heapq.heappop(self._due)
            ticket = self._tickets.get(id)
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
