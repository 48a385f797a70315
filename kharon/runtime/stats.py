"""Counts of a queue's work since it was opened: totals, the same by (type, tube), and two histograms.

They are counted from durable events (`Tally.deliver`) and from ended handler runs. This module never reads the log.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final

import attrs

from kharon.model import events as e
from kharon.model.ticket import Status, Ticket
from kharon.store.protocol import Change

__all__ = ["BOUNDS", "Counts", "Histogram", "Stats", "Tally"]

BOUNDS: Final = tuple(step * 10.0**power for power in range(-5, 6) for step in (1, 2, 5))
"""The upper bounds of a histogram's buckets, in seconds: 1-2-5 from 10 µs to 6 days. One more bucket has no bound."""


MAX_ROWS: Final = 4096
"""How many (type, tube) are counted apart. A row holds two histograms: about 1 KiB."""
OTHERS: Final = ("", "")
"""The (type, tube) of the row into which the longest unseen are folded. No type and no tube has such a name."""


@attrs.define(slots=True)
class Histogram:
    """A histogram of durations.

    Attributes:
        bounds: the upper bounds of the buckets in seconds, the same for every histogram.
        count: the number of durations.
        total: their sum, in seconds.
        buckets: the number of durations in each bucket. Bucket i holds those of at most `bounds[i]` seconds that are
            longer than the bound before; the last bucket holds the rest.
    """

    bounds: ClassVar[tuple[float, ...]] = BOUNDS

    count: int = 0
    total: float = 0.0
    buckets: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, seconds: float) -> None:
        """Count one duration. O(log buckets)."""
        self.count += 1
        self.total += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    @property
    def mean(self) -> float:
        """The mean in seconds; NaN without any duration."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """Return an upper bound, in seconds, for at least this share of the durations.

        Args:
            share: 0 to 1.

        Returns:
            The upper bound of a bucket; infinity for the last bucket; NaN without any duration.
        """
        if not self.count:
            return math.nan
        rest = share * self.count
        for bound, count in zip((*BOUNDS, math.inf), self.buckets, strict=True):
            rest -= count
            if rest <= 0:
                return bound
        return math.inf

    def merge(self, other: Histogram) -> None:
        """Count the durations of another one, too. O(buckets)."""
        self.count += other.count
        self.total += other.total
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def copy(self) -> Histogram:
        """Return an independent copy."""
        return Histogram(self.count, self.total, list(self.buckets))


@attrs.define(slots=True)
class Counts:
    """Counts for all tickets, or for those of one (type, tube).

    Attributes:
        added: tickets that were added, or added again.
        claimed: claims by workers.
        processed: handler runs that ended, in any way.
        acked, done, failed, cancelled: tickets that ended so; `acked` ones were removed, `done` ones kept.
        retried, released, lapsed: claims that ended so, with the ticket pending again.
        extended: extensions of leases.
        restarted: tickets that were restarted.
        updated: tickets that were updated, or moved to another tube when they ended.
        unblocked: blockers of tickets that ended.
        deleted, expired: tickets that were removed so.
        queue_wait: a histogram of the times before a claim in which only a worker was missing. Such a time begins with
            the last of these: the ticket was due, unblocked, released or restarted, or the run before ended.
        processing_time: a histogram of the handler runs.
    """

    added: int = 0
    claimed: int = 0
    processed: int = 0
    acked: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    released: int = 0
    lapsed: int = 0
    extended: int = 0
    restarted: int = 0
    updated: int = 0
    unblocked: int = 0
    deleted: int = 0
    expired: int = 0
    queue_wait: Histogram = attrs.field(factory=Histogram)
    processing_time: Histogram = attrs.field(factory=Histogram)

    def merge(self, other: Counts) -> None:
        """Add all that another one has counted. O(counters + buckets)."""
        for field in attrs.fields(Counts):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Histogram):
                mine.merge(theirs)
            else:
                setattr(self, field.name, mine + theirs)

    def copy(self) -> Counts:
        """Return an independent copy."""
        return attrs.evolve(self, queue_wait=self.queue_wait.copy(), processing_time=self.processing_time.copy())


@attrs.define(slots=True)
class Stats(Counts):
    """The counts of a queue since it was opened, or since `reset_stats`.

    Attributes:
        workers_running: the number of handlers that run now.
        events: the number of events of each kind, by their names in the log; also events about tubes, schedules and
            segments. An event that did not happen has no entry. Events that the log itself writes (`LogClosed`,
            `TailCut`, `LogRepaired`) are not counted, since no queue is open then.
        by: the same counts by (type, tube), for the 4096 seen last. All others are in one row, ("", "").
    """

    workers_running: int = 0
    events: Mapping[str, int] = attrs.field(factory=dict)
    by: Mapping[tuple[str, str], Counts] = attrs.field(factory=dict)


_FIELDS: Final[dict[type[e.Event], str]] = {
    event: event.word
    for event in e.EVENTS.values()
    if issubclass(event, e.TicketEvent) and event not in (e.TicketAdded, e.TicketClaimed, e.TicketDone)
}
"""The counter of each event that is simply counted."""


class Tally:
    """Counts for one queue, by (type, tube). `stats` adds up the totals."""

    def __init__(self) -> None:
        self.running = 0
        self._by: OrderedDict[tuple[str, str], Counts] = OrderedDict()  # the longest unseen first
        self._events: Counter[type[e.Event]] = Counter()
        # Of tickets that became claimable after they were added: since when. Others are claimable since their ctime.
        self._claimable: dict[str, datetime] = {}

    def _counts(self, ticket: Ticket | e.TicketAdded) -> Counts:
        key = (ticket.type, ticket.tube)
        counts = self._by.get(key)
        if counts is not None:
            self._by.move_to_end(key)
            return counts
        counts = self._by[key] = Counts()
        if len(self._by) > MAX_ROWS:
            others = self._by.pop(OTHERS, None) or Counts()
            while len(self._by) >= MAX_ROWS:
                others.merge(self._by.popitem(last=False)[1])
            self._by[OTHERS] = others
            self._by.move_to_end(key)
        return counts

    def deliver(self, commit: Sequence[Change]) -> None:
        """Count durable events. O(changes)."""
        for change in commit:
            self._events[type(change.event)] += 1
            ticket = change.old or change.new
            if isinstance(change.event, e.TicketAdded):  # the ticket that it replaces may have another type
                self._counts(change.event).added += 1
            elif ticket is not None:
                self._count(self._counts(ticket), ticket, change)
            if ticket is not None:
                self._follow(ticket.id, change)

    def _follow(self, id: str, change: Change) -> None:
        """Keep since when a ticket has been claimable. O(1)."""
        if not _is_claimable(change.new):
            self._claimable.pop(id, None)
        elif change.old is not None and not _is_claimable(change.old):
            self._claimable[id] = change.at

    def _count(self, counts: Counts, ticket: Ticket, change: Change) -> None:
        event = change.event
        if isinstance(event, e.TicketClaimed):
            counts.claimed += 1
            if ticket.runat is not None and ticket.ctime is not None:
                since = max(ticket.runat, self._claimable.get(ticket.id, ticket.ctime))
                counts.queue_wait.add(max(0.0, (change.at - since).total_seconds()))
        elif isinstance(event, e.TicketDone):
            if event.keep:
                counts.done += 1
            else:
                counts.acked += 1
        elif (field := _FIELDS.get(type(event))) is not None:
            setattr(counts, field, getattr(counts, field) + 1)

    def processed(self, ticket: Ticket, seconds: float) -> None:
        """Count a handler run that ended. O(1)."""
        counts = self._counts(ticket)
        counts.processed += 1
        counts.processing_time.add(seconds)

    def stats(self) -> Stats:
        """Return all counts. O(number of (type, tube))."""
        by = {key: counts.copy() for key, counts in self._by.items()}
        events = {event.__name__: count for event, count in self._events.items()}
        total = Stats(workers_running=self.running, events=events, by=by)
        for counts in self._by.values():
            total.merge(counts)
        return total

    def reset(self) -> None:
        """Set all counts to zero; the number of running handlers stays."""
        self._by.clear()
        self._events.clear()


def _is_claimable(ticket: Ticket | None) -> bool:
    """Return whether a ticket is pending, unblocked and unclaimed; it may be delayed. O(1)."""
    return ticket is not None and ticket.status is Status.PENDING and ticket.claim is None and not ticket.blocked
