"""Counts, waits and run times of a log's records, in total and by type, tube or hour: `measure`.

`measure` folds records one by one. It keeps the tickets that live, on whose fields the waits depend. For each group it
keeps counters and two sketches of fixed size; it never keeps records. It reads no file and no clock.

Waits and run times are kept as sketches of logarithmic buckets, each 2 % wider than the one before. So a percentile is
at most 1 % off the duration at that rank, for durations of any size, down to a microsecond. (DDSketch: Masson, Rim and
Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", VLDB 2019.)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final, Literal, NamedTuple, TypeAlias

import attrs

from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.evolve import evolve
from kharon.model.ticket import Status, Ticket

__all__ = ["COUNTS", "RELATIVE_ERROR", "By", "Counted", "Counter", "Group", "Measures", "Series", "Sketch", "measure"]

By: TypeAlias = Literal["type", "tube", "hour"]

RELATIVE_ERROR: Final = 0.01
"""How far a percentile may be off, as a share of itself."""

COUNTS: Final = tuple(event.word for event in e.EVENTS.values() if issubclass(event, e.TicketEvent))
"""The events that are counted, by their words: all events of tickets."""

_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
_LEAST: Final = 1e-6  # the resolution of an instant; a shorter duration is 0


class Sketch:
    """Durations in seconds, kept as the numbers of durations in at most about 1,800 buckets.

    Attributes:
        count: the number of durations.
        total: their sum.
        longest: the longest; 0 if there is none.
    """

    __slots__ = ("_buckets", "_zeros", "count", "longest", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._zeros = 0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one duration; a negative one counts as 0. O(1)."""
        seconds = max(0.0, seconds)
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        if seconds < _LEAST:
            self._zeros += 1
        else:
            bucket = math.ceil(math.log(seconds) / _LOG_GAMMA)
            self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def merge(self, other: Sketch) -> None:
        """Count all durations of another sketch. O(buckets)."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self._zeros += other._zeros
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    @property
    def mean(self) -> float | None:
        """The exact mean; None if there is no duration."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """Return the duration that `percent` of all do not exceed, by nearest rank; None if there is none.

        It is off by at most `RELATIVE_ERROR` of itself. Cost: O(buckets log buckets).
        """
        if not self.count:
            return None
        rank = max(1, math.ceil(percent / 100 * self.count)) - self._zeros
        if rank <= 0:
            return 0.0
        buckets = sorted(self._buckets)
        bucket = buckets[bisect_left(list(accumulate(map(self._buckets.__getitem__, buckets))), rank)]
        return min(2 * _GAMMA**bucket / (_GAMMA + 1), self.longest)


class Series:
    """Counts over time, in at most `LIMIT` slots of one width. The width grows as time passes.

    Attributes:
        width: of a slot, in seconds.
    """

    LIMIT: Final = 60
    _WIDTHS: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800)

    __slots__ = ("_counts", "_high", "_low", "width")

    def __init__(self) -> None:
        self.width = self._WIDTHS[0]
        self._counts: dict[int, int] = {}
        self._low = self._high = 0  # the first slot and the last

    def add(self, at: datetime, count: int = 1) -> None:
        """Add to the count of the slot of an instant; a count of 0 only makes the slots reach it. O(1) amortised."""
        slot = int(at.timestamp()) // self.width
        if not self._counts:
            self._low = self._high = slot
        self._low, self._high = min(self._low, slot), max(self._high, slot)
        self._counts[slot] = self._counts.get(slot, 0) + count
        while self._high - self._low >= self.LIMIT:
            self._widen()

    def _widen(self) -> None:
        """Take the next width, a multiple of this one; beyond the last of them, twice this one."""
        wider = next((width for width in self._WIDTHS if width > self.width), 2 * self.width)
        merged: dict[int, int] = {}
        for slot, count in self._counts.items():
            place = slot * self.width // wider
            merged[place] = merged.get(place, 0) + count
        self.width, self._counts = wider, merged
        self._low, self._high = min(merged), max(merged)

    @property
    def counts(self) -> list[int]:
        """The count of each slot, from the first to the last."""
        return [self._counts.get(slot, 0) for slot in range(self._low, self._high + 1)] if self._counts else []

    @property
    def begin(self) -> datetime | None:
        """When the first slot begins, UTC; None if there is none."""
        return datetime.fromtimestamp(self._low * self.width, UTC) if self._counts else None


@attrs.define(slots=True)
class Group:
    """Counts and durations of all tickets, or of those of one type or tube, or in one hour.

    Attributes:
        counts: the number of events by word, for each of `COUNTS`.
        waited: seconds from when a ticket was due and unblocked to its claim, including the time for which its tube was
            paused or at its limit.
        ran: seconds from a claim to its end.
    """

    counts: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(COUNTS, 0))
    waited: Sketch = attrs.field(factory=Sketch)
    ran: Sketch = attrs.field(factory=Sketch)

    @property
    def ended(self) -> int:
        """How many tickets were done or failed."""
        return self.counts["done"] + self.counts["failed"]

    @property
    def failure_rate(self) -> float | None:
        """Failed tickets as a share of those that were done or failed; None if there are none."""
        return self.counts["failed"] / self.ended if self.ended else None


@attrs.define(slots=True)
class Measures:
    """The result of `measure`.

    Attributes:
        by: what `groups` are by; None: there are none.
        records: the number of counted records.
        first, last: the seqs of the first and the last of them; 0 if there was none.
        first_at, last_at: their times; None if there was none.
        total: everything.
        groups: the same by type, by tube, or by hour (its beginning, UTC); in the order of their first records.
        added, ended, failed: over time, in the same slots: tickets added; done, failed or cancelled; failed.
    """

    by: By | None
    records: int = 0
    first: int = 0
    last: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    total: Group = attrs.field(factory=Group)
    groups: dict[str | datetime, Group] = attrs.field(factory=dict)
    added: Series = attrs.field(factory=Series)
    ended: Series = attrs.field(factory=Series)
    failed: Series = attrs.field(factory=Series)

    @property
    def seconds(self) -> float:
        """From the first record to the last."""
        if self.first_at is None or self.last_at is None:
            return 0.0
        return (self.last_at - self.first_at).total_seconds()


def measure(
    records: Iterable[Record],
    by: By | None = None,
    since: datetime | None = None,
    tickets: Iterable[Ticket] = (),
) -> Measures:
    """Return counts, waits and run times of records.

    Args:
        records: in the log's order, from its beginning, or from the record after the state of `tickets`.
        by: what to group by, besides the total.
        since: records before this instant are folded, but not counted.
        tickets: those that lived before the first record, if the log's beginning is missing.

    Raises:
        KharonError: a record cannot follow from those before it.

    Cost: O(records); the memory of the tickets that live, and of the groups.
    """
    counter = Counter(by, since, tickets)
    for record in records:
        counter.add(record)
    return counter.measures


class Counted(NamedTuple):
    """What `Counter.add` learned from a ticket's record.

    Attributes:
        before, after: the ticket before and after it; None: there was none.
        waited: if it is a claim: for how many seconds the ticket had been due and unblocked.
        ran: if it ended a claim: how many seconds that lasted.
    """

    before: Ticket | None
    after: Ticket | None
    waited: float | None
    ran: float | None


class Counter:
    """`measure`, for callers that have the records one by one.

    Attributes:
        measures: the counts so far.
        tickets: the tickets that live now, by id. Do not change it.
    """

    def __init__(self, by: By | None = None, since: datetime | None = None, tickets: Iterable[Ticket] = ()) -> None:
        self.measures = Measures(by)
        self._since = since
        self._tickets = {ticket.id: ticket for ticket in tickets}
        self._claimable: dict[str, datetime] = {}  # since when a ticket has been unblocked and unclaimed
        self._claimed: dict[str, datetime] = {}  # since when a ticket has been claimed
        for ticket in self._tickets.values():
            claimable = _is_claimable(ticket)
            if claimable is not None and ticket.mtime is not None:
                (self._claimable if claimable else self._claimed)[ticket.id] = ticket.mtime

    @property
    def tickets(self) -> Mapping[str, Ticket]:
        return self._tickets

    def add(self, record: Record) -> Counted | None:
        """Count one record; return what it said of its ticket, None if it is about none. O(1).

        Raises:
            KharonError: it cannot follow from those before it.
        """
        counted = self._since is None or record.at >= self._since
        if counted:
            self._begin(record)
        event = record.event
        if not isinstance(event, e.TicketEvent):
            return None
        before = self._tickets.get(event.id)
        after = evolve(before, event, record.seq, record.at)
        found = Counted(before, after, self._waited(event, before, record.at), self._ran(before, after, record.at))
        if counted:
            self._count(record, event, found)
        self._follow(event.id, before, after, record.at)
        return found

    def _begin(self, record: Record) -> None:
        measures = self.measures
        if not measures.records:
            measures.first, measures.first_at = record.seq, record.at
        measures.records += 1
        measures.last, measures.last_at = record.seq, record.at
        for series in (measures.added, measures.ended, measures.failed):
            series.add(record.at, 0)

    def _count(self, record: Record, event: e.TicketEvent, found: Counted) -> None:
        measures = self.measures
        # An added ticket counts by its new type, which may differ from that of the ticket that it replaces.
        subject = event if isinstance(event, e.TicketAdded) else found.before or found.after
        assert subject is not None
        groups = [measures.total]
        if measures.by is not None:
            key = _hour(record.at) if measures.by == "hour" else getattr(subject, measures.by)
            groups.append(measures.groups.setdefault(key, Group()))
        for group in groups:
            group.counts[event.word] += 1
            if found.waited is not None:
                group.waited.add(found.waited)
            if found.ran is not None:
                group.ran.add(found.ran)
        if isinstance(event, e.TicketAdded):
            measures.added.add(record.at)
        elif isinstance(event, (e.TicketDone, e.TicketFailed, e.TicketCancelled)):
            measures.ended.add(record.at)
            if isinstance(event, e.TicketFailed):
                measures.failed.add(record.at)

    def _waited(self, event: e.TicketEvent, before: Ticket | None, at: datetime) -> float | None:
        if before is None or not isinstance(event, e.TicketClaimed):
            return None
        since = self._claimable.get(event.id, at)
        return (at - max(since, before.runat or since)).total_seconds()

    def _ran(self, before: Ticket | None, after: Ticket | None, at: datetime) -> float | None:
        if before is None or before.claim is None or (after is not None and after.claim == before.claim):
            return None
        return (at - self._claimed.get(before.id, at)).total_seconds()

    def _follow(self, id: str, before: Ticket | None, after: Ticket | None, at: datetime) -> None:
        """Keep the ticket, and since when it has been claimable or claimed."""
        was, is_ = _is_claimable(before), _is_claimable(after)
        if after is None:
            self._tickets.pop(id, None)
        else:
            self._tickets[id] = after
        if is_ is not was or (before is not None and after is not None and after.claim != before.claim):
            self._claimable.pop(id, None)
            self._claimed.pop(id, None)
            if is_ is not None:
                (self._claimable if is_ else self._claimed)[id] = at


def _is_claimable(ticket: Ticket | None) -> bool | None:
    """Return True for a ticket that is unblocked and unclaimed, False for a claimed one, None for any other."""
    if ticket is None or ticket.status is not Status.PENDING or ticket.blocked:
        return None
    return ticket.claim is None


def _hour(at: datetime) -> datetime:
    return at - timedelta(minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
