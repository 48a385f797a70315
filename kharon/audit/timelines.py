"""The life of one ticket as spans of time: what it waited for, when it ran, how each attempt ended, and who did it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

import attrs

from kharon.log.record import Record
from kharon.model.ticket import Status, Ticket

__all__ = ["Attempt", "Life", "Outcome", "Phase", "Span", "Step", "Timeline", "Totals", "Who", "timeline"]


class Phase(enum.StrEnum):
    """What a ticket was in, from one record to the next."""

    DELAYED = "delayed"
    READY = "ready"
    BLOCKED = "blocked"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    KEPT = "kept"


class Who(enum.StrEnum):
    """Who did something."""

    WORKER = "worker"
    OPERATOR = "operator"
    CLOCK = "clock"


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    RUNNING = "running"
    ACKED = "acked"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    RELEASED = "released"
    LAPSED = "lapsed"
    DELETED = "deleted"


@attrs.frozen(slots=True, kw_only=True)
class Span:
    """A stretch of a ticket's life in which it was in one phase.

    Attributes:
        phase: which.
        begin, end: from when to when, UTC; `begin` < `end`.
        seq: of the record that it follows.
        attempt: the number of the attempt that runs, or after which it backs off; else None.
        by: who brought it about: the `by` of the record that it follows.
        status: the ticket's.
        open: whether it was not over by the `now` that was asked for, which is its `end`.
    """

    phase: Phase
    begin: datetime
    end: datetime
    seq: int
    attempt: int | None
    by: str
    status: Status
    open: bool

    @property
    def length(self) -> timedelta:
        """How long it lasted."""
        return self.end - self.begin


@attrs.frozen(slots=True, kw_only=True)
class Step:
    """A record, and the time until the next one.

    Attributes:
        record: the record.
        who: what kind of actor its `by` was.
        ticket: the ticket after it; None if it was removed.
        spans: what follows it, up to the next record or to `now`; none if that is the same instant.
    """

    record: Record
    who: Who
    ticket: Ticket | None
    spans: tuple[Span, ...]


@attrs.frozen(slots=True, kw_only=True)
class Attempt:
    """One run: from a claim to what ended it.

    Attributes:
        number: as the queue counts, from 1; again from 1 after a restart or another adding. A released attempt is not
            counted: the next one has the same number.
        claim: the seq of the claim.
        worker: who ran it.
        begin: when it was claimed, UTC.
        end: when the claim ended; None: it had not by then.
        outcome: how it ended.
        error_reason: why it failed, lapsed, was cancelled or is tried again, if that was said.
        by: who ended it; None: nobody had.
        who: what kind of actor that was.
    """

    number: int
    claim: int
    worker: str
    begin: datetime
    end: datetime | None
    outcome: Outcome
    error_reason: str | None
    by: str | None
    who: Who | None


@attrs.frozen(slots=True, kw_only=True)
class Totals:
    """How much time a life spent in each phase. `waiting` is the sum of delayed, ready and blocked; `all` of all."""

    delayed: timedelta = timedelta(0)
    ready: timedelta = timedelta(0)
    blocked: timedelta = timedelta(0)
    running: timedelta = timedelta(0)
    backing_off: timedelta = timedelta(0)
    kept: timedelta = timedelta(0)

    @property
    def waiting(self) -> timedelta:
        """Before it was claimed, if it was not backing off."""
        return self.delayed + self.ready + self.blocked

    @property
    def all(self) -> timedelta:
        """All of it."""
        return self.waiting + self.running + self.backing_off + self.kept


@attrs.frozen(slots=True, kw_only=True)
class Life:
    """A ticket from its adding to its removal.

    Attributes:
        begin: when it was added, UTC.
        end: when it was removed; if it was not, the `now` that was asked for.
        removed: whether it was.
        steps: its records in order, each with the spans that follow it.
        attempts: its claims in order.
        totals: how long it was in which phase; they sum up to `end` - `begin`.
    """

    begin: datetime
    end: datetime
    removed: bool
    steps: tuple[Step, ...]
    attempts: tuple[Attempt, ...]
    totals: Totals

    @property
    def spans(self) -> Iterator[Span]:
        """All spans, in order, without gaps, from `begin` to `end`."""
        return (span for step in self.steps for span in step.spans)


@attrs.frozen(slots=True, kw_only=True)
class Timeline:
    """What `timeline` makes of a ticket's records.

    Attributes:
        id: the ticket's.
        now: up to when.
        lives: its lives, oldest first: one, and one more for each time that it was added again after it was removed.
        before: the records whose beginning is not there (it was trimmed, or memory dropped it): nothing can be said of
            the time between them.
    """

    id: str
    now: datetime
    lives: tuple[Life, ...]
    before: tuple[Record, ...]


def timeline(records: Iterable[Record], now: datetime | None = None) -> Timeline:
    """Return the life of a ticket as spans of time.

    Args:
        records: all about one ticket, as `history` gives them.
        now: up to when what is not over is drawn; None, or before the last record: up to that.

    Raises:
        InvalidTicket: `now` is no timezone-aware datetime, or the records are about several tickets, or none.
        KharonError: a record cannot follow from those before it.

    Cost: O(records).
    """
    raise NotImplementedError
