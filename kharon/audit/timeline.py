"""The life of one ticket as spans of time: what it waited for, when it ran, how each attempt ended, and who did it.

A fold over the ticket's records, and nothing else: what a ticket is after each of them says `evolve`, and from that and
the time follows its phase up to the next. No file is read here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

import attrs
from msgspec import UNSET

from kharon.errors import InvalidTicket
from kharon.log.record import Record
from kharon.model.checks import check_instant
from kharon.model.events import (
    Event,
    TicketAdded,
    TicketCancelled,
    TicketClaimed,
    TicketDeleted,
    TicketDone,
    TicketEvent,
    TicketFailed,
    TicketLapsed,
    TicketReleased,
    TicketRetried,
    TicketUpdated,
)
from kharon.model.evolve import evolve
from kharon.model.ticket import Status, Ticket

__all__ = ["Attempt", "Life", "Outcome", "Phase", "Span", "Step", "Timeline", "Totals", "Who", "timeline"]


class Phase(enum.StrEnum):
    """What a ticket was in, from one record to the next.

    Delayed, until the `runat` that it was given; ready, due and free to be claimed, if its tube gives it; blocked by
    other tickets, due or not; running, claimed by a worker; backing off, between two attempts; kept, once it is done,
    failed or cancelled.
    """

    DELAYED = "delayed"
    READY = "ready"
    BLOCKED = "blocked"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    KEPT = "kept"


class Who(enum.StrEnum):
    """Who did something: a worker or its handler; an operator, which is whoever else called the queue; or the clock."""

    WORKER = "worker"
    OPERATOR = "operator"
    CLOCK = "clock"


class Outcome(enum.StrEnum):
    """How an attempt ended. Acked is done and removed; of a ticket that was added again meanwhile, both mean done."""

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
    folded = _Folded()
    for record in records:
        folded.add(record)
    if folded.last is None:
        raise InvalidTicket("records: there are none, so it is nobody's timeline; give what history returned")
    end = folded.last.at if now is None else max(check_instant("now", now), folded.last.at)
    folded.pass_until(end, open=True)
    folded.end_life(end, removed=False)
    return Timeline(id=folded.id, now=end, lives=tuple(folded.lives), before=tuple(folded.before))


class _Folded:
    """The records so far, and the life that goes on."""

    def __init__(self) -> None:
        self.id = ""
        self.last: Record | None = None
        self.lives: list[Life] = []
        self.before: list[Record] = []
        self._ticket: Ticket | None = None
        self._workers: set[str] = set()
        self._backs_off = False
        self._begin: datetime | None = None
        self._steps: list[Step] = []
        self._attempts: list[Attempt] = []

    def add(self, record: Record) -> None:
        event = record.event
        self._check(record, event)
        assert isinstance(event, TicketEvent)  # `_check` has seen to it
        if self.last is not None:
            self.pass_until(record.at, open=False)
        self.last = record
        old = self._ticket
        if old is None:
            if not isinstance(event, TicketAdded) and not self.lives:
                self.before.append(record)
                return
            self._begin = record.at
        ticket = self._ticket = evolve(old, event, record.seq, record.at)
        who = self._who(record, event)
        self._follow_attempt(record, who, old, ticket)
        self._backs_off = _backs_off(event, old, ticket, before=self._backs_off)
        self._steps.append(Step(record=record, who=who, ticket=ticket, spans=()))
        if ticket is None:
            self.end_life(record.at, removed=True)

    def _check(self, record: Record, event: Event) -> None:
        id = getattr(event, "id", None)
        if id is None:
            raise InvalidTicket(f"records: record {record.seq}, {type(event).__name__}, is about no ticket")
        if self.last is not None and (id != self.id or record.seq <= self.last.seq):
            raise InvalidTicket(
                f"records: record {record.seq} of ticket {id!r} stands behind record {self.last.seq} of {self.id!r}; a "
                f"timeline is of one ticket, in the order of the log"
            )
        self.id = id

    def _who(self, record: Record, event: TicketEvent) -> Who:
        if record.by == _CLOCK:
            return Who.CLOCK
        if isinstance(event, TicketClaimed):
            self._workers.add(record.by)
        # By its name too: a handler that adds or settles another ticket never claims that one.
        return Who.WORKER if record.by in self._workers or _WORKER.fullmatch(record.by) else Who.OPERATOR

    def _follow_attempt(self, record: Record, who: Who, old: Ticket | None, ticket: Ticket | None) -> None:
        event = record.event
        if isinstance(event, TicketClaimed):
            attempt = Attempt(
                number=event.attempt,
                claim=record.seq,
                worker=event.worker,
                begin=record.at,
                end=None,
                outcome=Outcome.RUNNING,
                error_reason=None,
                by=None,
                who=None,
            )
            self._attempts.append(attempt)
        elif old is not None and old.claim is not None and (ticket is None or ticket.claim is None):
            self._attempts[-1] = attrs.evolve(
                self._attempts[-1],
                end=record.at,
                outcome=_outcome(event),
                error_reason=getattr(event, "error_reason", None),
                by=record.by,
                who=who,
            )

    def pass_until(self, end: datetime, *, open: bool) -> None:
        """Time passes, up to the next record or, if that is still `open`, to the end."""
        if self._steps:
            step = self._steps[-1]
            phases = _phases(step, end, backs_off=self._backs_off)
            spans = tuple(
                Span(
                    phase=phase,
                    begin=begin,
                    end=until,
                    seq=step.record.seq,
                    attempt=attempt,
                    by=step.record.by,
                    status=ticket.status,
                    open=open and until == end,
                )
                for ticket, phase, begin, until, attempt in phases
            )
            self._steps[-1] = attrs.evolve(step, spans=spans)

    def end_life(self, end: datetime, *, removed: bool) -> None:
        if self._begin is None:
            return
        sums: dict[str, timedelta] = {}
        for step in self._steps:
            for span in step.spans:
                sums[span.phase.name.lower()] = sums.get(span.phase.name.lower(), timedelta(0)) + span.length
        life = Life(
            begin=self._begin,
            end=end,
            removed=removed,
            steps=tuple(self._steps),
            attempts=tuple(self._attempts),
            totals=Totals(**sums),
        )
        self.lives.append(life)
        self._begin, self._steps, self._attempts = None, [], []


_CLOCK: Final = "clock"
_WORKER: Final = re.compile(r"worker-\d+")  # as `Kharon.run` names them


def _phases(
    step: Step, end: datetime, *, backs_off: bool
) -> Iterator[tuple[Ticket, Phase, datetime, datetime, int | None]]:
    """Give the phases of a ticket from a record on, as long as no other comes: each with its attempt, if it has one."""
    ticket, begin = step.ticket, step.record.at
    if ticket is None or begin == end:
        return
    if ticket.status is not Status.PENDING:
        yield ticket, Phase.KEPT, begin, end, None
    elif ticket.claim is not None:
        yield ticket, Phase.RUNNING, begin, end, ticket.attempts
    elif ticket.blocked:
        yield ticket, Phase.BLOCKED, begin, end, None
    else:
        assert ticket.runat is not None
        due = min(max(begin, ticket.runat), end)
        if begin < due and backs_off:
            yield ticket, Phase.BACKING_OFF, begin, due, ticket.attempts
        elif begin < due:
            yield ticket, Phase.DELAYED, begin, due, None
        if due < end:
            yield ticket, Phase.READY, due, end, None


def _backs_off(event: TicketEvent, old: Ticket | None, ticket: Ticket | None, *, before: bool) -> bool:
    """Return whether the time until the ticket is due is a wait between two attempts, and not what somebody set."""
    if old is None or ticket is None or ticket.order != old.order:  # added anew, or restarted
        return False
    if isinstance(event, (TicketRetried, TicketLapsed)):
        return ticket.attempts > 0
    return before and not (isinstance(event, TicketUpdated) and event.changes.runat is not UNSET)


def _outcome(event: Event) -> Outcome:
    """Return how the event ended the claim that it ended."""
    if isinstance(event, TicketDone):
        return Outcome.DONE if event.keep else Outcome.ACKED
    return _OUTCOMES[type(event)]


_OUTCOMES: Final[dict[type[Event], Outcome]] = {
    TicketFailed: Outcome.FAILED,
    TicketCancelled: Outcome.CANCELLED,
    TicketRetried: Outcome.RETRIED,
    TicketReleased: Outcome.RELEASED,
    TicketLapsed: Outcome.LAPSED,
    TicketDeleted: Outcome.DELETED,
}
