"""Counts of a queue's work since it was opened: totals, the same by (type, tube), and two histograms.

They are counted from durable events (`Tally.deliver`) and from ended handler runs. This module never reads the log.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import attrs

from kharon.model import events as e
from kharon.model.ticket import Ticket
from kharon.store.protocol import Change

__all__ = ["BOUNDS", "Counts", "Histogram", "Stats", "Tally"]

BOUNDS: Final = tuple(step * 10.0**power for power in range(-5, 6) for step in (1, 2, 5))
"""The upper bounds of a histogram's buckets, in seconds: 1-2-5 from 10 µs to 6 days. One more bucket has no bound."""


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
        queue_wait: a histogram of the times from due to claimed.
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
        by: the same counts by (type, tube).
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
        self._by: dict[tuple[str, str], Counts] = {}
        self._events: Counter[type[e.Event]] = Counter()

    def _counts(self, ticket: Ticket | e.TicketAdded) -> Counts:
        key = (ticket.type, ticket.tube)
        counts = self._by.get(key)
        if counts is None:
            counts = self._by[key] = Counts()
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

    def _count(self, counts: Counts, ticket: Ticket, change: Change) -> None:
        event = change.event
        if isinstance(event, e.TicketClaimed):
            counts.claimed += 1
            if ticket.runat is not None and ticket.ctime is not None:
                counts.queue_wait.add(max(0.0, (change.at - max(ticket.runat, ticket.ctime)).total_seconds()))
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
            for field in attrs.fields(Counts):
                mine, theirs = getattr(total, field.name), getattr(counts, field.name)
                if isinstance(mine, Histogram):
                    mine.count += theirs.count
                    mine.total += theirs.total
                    mine.buckets = [a + b for a, b in zip(mine.buckets, theirs.buckets, strict=True)]
                else:
                    setattr(total, field.name, mine + theirs)
        return total

    def reset(self) -> None:
        """Set all counts to zero; the number of running handlers stays."""
        self._by.clear()
        self._events.clear()
