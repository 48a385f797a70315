"""What a log's records come to: counts, waits and run times, and how they are spread over types, tubes and hours.

`measure(records)` folds records one by one. It keeps the tickets that live (their waits depend on their fields) and,
for each group, some counters and two sketches of a fixed size, and never the records. It reads no file and no clock.

Waits and run times are kept as sketches of logarithmic buckets, each 2 % wider than the one before, so a percentile is
at most 1 % off the duration that stands at that rank, whatever the durations are, down to a microsecond. (DDSketch:
Masson, Rim and Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", VLDB 2019.)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final, Literal, TypeAlias

import attrs

from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.evolve import evolve
from kharon.model.ticket import Status, Ticket

__all__ = ["RELATIVE_ERROR", "By", "Group", "Measures", "Series", "Sketch", "measure"]

By: TypeAlias = Literal["type", "tube", "hour"]

RELATIVE_ERROR: Final = 0.01
"""How far a percentile may be off, as a share of itself."""

_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
_LEAST: Final = 1e-6  # the resolution of an instant; what is shorter is 0


class Sketch:
    """Durations in seconds, remembered as how many were in each of at most some 1,800 buckets.

    Attributes:
        count: how many.
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
        """Count one duration; one below 0 is taken for 0. O(1)."""
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
        """Count all durations that another sketch has counted. O(buckets)."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self._zeros += other._zeros
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    @property
    def mean(self) -> float | None:
        """The mean, exactly; None if there is no duration."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """Return the duration that `percent` of all do not exceed, by nearest rank; None if there is none.

        It is off by `RELATIVE_ERROR` of itself at most. Cost: O(buckets).
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
    """How often something happened over time, in at most `LIMIT` slots of one width, which grows as time goes by.

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
        """Count something that happened at an instant; with a count of 0 only make room for it. O(1) amortised."""
        slot = int(at.timestamp()) // self.width
        if not self._counts:
            self._low = self._high = slot
        self._low, self._high = min(self._low, slot), max(self._high, slot)
        self._counts[slot] = self._counts.get(slot, 0) + count
        while self._high - self._low >= self.LIMIT:
            self._widen()

    def _widen(self) -> None:
        """Each width is a multiple of the one before it; beyond the last of them it is doubled."""
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
        """When the first slot begins, UTC."""
        return datetime.fromtimestamp(self._low * self.width, UTC) if self._counts else None


@attrs.define(slots=True)
class Group:
    """What was counted for all tickets, or for those of one type or tube, or in one hour.

    Attributes:
        added, claimed, extended, done, failed, cancelled, retried, released, lapsed, restarted, updated, unblocked,
            deleted, expired: events of that kind.
        waited: from when a ticket was due and not blocked to its claim, in seconds; so that its tube was paused, or at
            its limit, is part of it.
        ran: from a claim to what ended it, in seconds.
    """

    added: int = 0
    claimed: int = 0
    extended: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    released: int = 0
    lapsed: int = 0
    restarted: int = 0
    updated: int = 0
    unblocked: int = 0
    deleted: int = 0
    expired: int = 0
    waited: Sketch = attrs.field(factory=Sketch)
    ran: Sketch = attrs.field(factory=Sketch)

    @property
    def failure_rate(self) -> float | None:
        """Failed tickets as a share of those that were done or failed; None if there are none."""
        ended = self.done + self.failed
        return self.failed / ended if ended else None


COUNTS: Final = tuple(field.name for field in attrs.fields(Group) if field.name not in {"waited", "ran"})
"""The names of a group's counters."""


@attrs.define(slots=True)
class Measures:
    """What `measure` found.

    Attributes:
        by: what `groups` are by; None: there are none.
        records: how many records were counted.
        first, last: the seqs of the first and the last of them; 0 if there was none.
        first_at, last_at: their times; None if there was none.
        total: everything.
        groups: the same by type, by tube, or by hour (its beginning, UTC); in the order in which they came first.
        added, ended, failed: over time: tickets added; done, failed or cancelled; failed. Of the same slots all three.
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


_NAMES: Final[Mapping[type[e.Event], str]] = {
    e.TicketAdded: "added",
    e.TicketClaimed: "claimed",
    e.LeaseExtended: "extended",
    e.TicketDone: "done",
    e.TicketFailed: "failed",
    e.TicketCancelled: "cancelled",
    e.TicketRetried: "retried",
    e.TicketReleased: "released",
    e.TicketLapsed: "lapsed",
    e.TicketRestarted: "restarted",
    e.TicketUpdated: "updated",
    e.TicketUnblocked: "unblocked",
    e.TicketDeleted: "deleted",
    e.TicketExpired: "expired",
}
_ENDS: Final = frozenset({"done", "failed", "cancelled"})


def measure(
    records: Iterable[Record],
    by: By | None = None,
    since: datetime | None = None,
    tickets: Iterable[Ticket] = (),
) -> Measures:
    """Count records.

    Args:
        records: in the log's order, from its beginning, or from where `tickets` stand.
        by: what to group by besides the total.
        since: records before this instant are folded, and not counted.
        tickets: those that lived before the first record, if the log's beginning is not there.

    Raises:
        KharonError: a record cannot follow from those before it.

    Cost: O(records); the memory of the tickets that live, and of the groups.
    """
    counter = Counter(by, since, tickets)
    for record in records:
        counter.add(record)
    return counter.measures


class Counter:
    """`measure`, for whoever has the records one by one.

    Attributes:
        measures: what has been counted so far.
    """

    def __init__(self, by: By | None = None, since: datetime | None = None, tickets: Iterable[Ticket] = ()) -> None:
        self.measures = Measures(by)
        self._since = since
        self._tickets = {ticket.id: ticket for ticket in tickets}
        self._waiting: dict[str, datetime] = {}  # since when a pending ticket has not been claimed
        self._running: dict[str, datetime] = {}  # since when a claimed one has
        for ticket in self._tickets.values():
            waits = _claimable(ticket)
            if waits is not None and ticket.mtime is not None:
                (self._waiting if waits else self._running)[ticket.id] = ticket.mtime

    def add(self, record: Record) -> None:
        """Count one record. O(1)."""
        counted = self._since is None or record.at >= self._since
        if counted:
            self._begin(record)
        event = record.event
        if not isinstance(event, e.TicketEvent):
            return
        before = self._tickets.get(event.id)
        after = evolve(before, event, record.seq, record.at)
        if counted:
            self._count(record, event, before, after)
        self._follow(event.id, before, after, record.at)

    def _begin(self, record: Record) -> None:
        measures = self.measures
        if not measures.records:
            measures.first, measures.first_at = record.seq, record.at
        measures.records += 1
        measures.last, measures.last_at = record.seq, record.at
        for series in (measures.added, measures.ended, measures.failed):
            series.add(record.at, 0)

    def _count(self, record: Record, event: e.TicketEvent, before: Ticket | None, after: Ticket | None) -> None:
        measures = self.measures
        name = _NAMES.get(type(event))
        # What an adding replaces may have been of another type: it counts for the new one.
        subject = event if isinstance(event, e.TicketAdded) else before or after
        assert subject is not None
        groups = [measures.total]
        if measures.by is not None:
            key = _hour(record.at) if measures.by == "hour" else getattr(subject, measures.by)
            groups.append(measures.groups.setdefault(key, Group()))
        waited, ran = self._waited(event, before, record.at), self._ran(before, after, record.at)
        for group in groups:
            if name is not None:
                setattr(group, name, getattr(group, name) + 1)
            if waited is not None:
                group.waited.add(waited)
            if ran is not None:
                group.ran.add(ran)
        if name == "added":
            measures.added.add(record.at)
        elif name in _ENDS:
            measures.ended.add(record.at)
            if name == "failed":
                measures.failed.add(record.at)

    def _waited(self, event: e.TicketEvent, before: Ticket | None, at: datetime) -> float | None:
        if before is None or not isinstance(event, e.TicketClaimed):
            return None
        since = self._waiting.get(event.id, at)
        return (at - max(since, before.runat or since)).total_seconds()

    def _ran(self, before: Ticket | None, after: Ticket | None, at: datetime) -> float | None:
        if before is None or before.claim is None or (after is not None and after.claim == before.claim):
            return None
        return (at - self._running.get(before.id, at)).total_seconds()

    def _follow(self, id: str, before: Ticket | None, after: Ticket | None, at: datetime) -> None:
        """Keep the ticket, and since when it is what it is."""
        was, is_ = _claimable(before), _claimable(after)
        if after is None:
            self._tickets.pop(id, None)
        else:
            self._tickets[id] = after
        if is_ is not was or (before is not None and after is not None and after.claim != before.claim):
            self._waiting.pop(id, None)
            self._running.pop(id, None)
            if is_ is not None:
                (self._waiting if is_ else self._running)[id] = at


def _claimable(ticket: Ticket | None) -> bool | None:
    """Return whether a ticket waits to be claimed (True) or is claimed (False); None: neither."""
    if ticket is None or ticket.status is not Status.PENDING or ticket.blocked:
        return None
    return ticket.claim is None


def _hour(at: datetime) -> datetime:
    return at - timedelta(minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
