"""The life of one ticket as spans of time: its phases, its attempts, how each ended, and who did it: `timeline`.

A fold over the ticket's records: `evolve` gives the state after each record, and from that state and the time follow
the phases up to the next record. This module reads no file.
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
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket

__all__ = ["Attempt", "Life", "Outcome", "Phase", "Span", "Step", "Timeline", "Totals", "Who", "backs_off", "timeline"]


class Phase(enum.StrEnum):
    """The phase of a ticket.

    Delayed: its `runat` has not come. Ready: due and unblocked, even if its tube is paused or at its limit. Blocked by
    other tickets, due or not. Running: claimed by a worker. Backing off: between two attempts. Kept: done, failed or
    cancelled.
    """

    DELAYED = "delayed"
    READY = "ready"
    BLOCKED = "blocked"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    KEPT = "kept"


class Who(enum.StrEnum):
    """Who did something: a worker or its handler; the clock; or an operator, which is any other caller."""

    WORKER = "worker"
    OPERATOR = "operator"
    CLOCK = "clock"


class Outcome(enum.StrEnum):
    """How an attempt ended. Acked: done and removed. If the ticket was added again meanwhile, both just mean done."""

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
    """A stretch of a ticket's life in one phase.

    Attributes:
        phase: the phase.
        begin, end: its limits, UTC; `begin` < `end`.
        seq: of the record that it follows.
        attempt: the number of the attempt that runs, or after which the ticket backs off; otherwise None.
        by: the `by` of the record that it follows.
        status: the ticket's.
        open: whether it goes on at `now`, which is its `end` then.
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
        """Its duration."""
        return self.end - self.begin


@attrs.frozen(slots=True, kw_only=True)
class Step:
    """A record, and the time until the next one.

    Attributes:
        record: the record.
        who: the kind of actor that its `by` is.
        ticket: the ticket after it; None if it was removed.
        spans: the time up to the next record or to `now`; none if that is the same instant.
    """

    record: Record
    who: Who
    ticket: Ticket | None
    spans: tuple[Span, ...]


@attrs.frozen(slots=True, kw_only=True)
class Attempt:
    """One run, from a claim to its end.

    Attributes:
        number: counted as the queue does, from 1; from 1 again after a restart or another adding. A released attempt is
            not counted: the next one has the same number.
        claim: the seq of the claim.
        worker: the worker that ran it.
        begin: when the ticket was claimed, UTC; if that was trimmed, the beginning of the life.
        end: when the claim ended; None: it runs.
        outcome: how it ended.
        error_reason: the reason given for its failure, lapse, cancellation or retry; None: none.
        by: who ended it; None: it runs.
        who: the kind of actor that `by` is; None: it runs.
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
    """How much time a life spent in each phase."""

    delayed: timedelta = timedelta(0)
    ready: timedelta = timedelta(0)
    blocked: timedelta = timedelta(0)
    running: timedelta = timedelta(0)
    backing_off: timedelta = timedelta(0)
    kept: timedelta = timedelta(0)

    def of(self, phase: Phase) -> timedelta:
        """Return the time in one phase."""
        spent: timedelta = getattr(self, phase.name.lower())
        return spent

    @property
    def all(self) -> timedelta:
        """The sum of all phases."""
        return sum((self.of(phase) for phase in Phase), timedelta(0))


@attrs.frozen(slots=True, kw_only=True)
class Life:
    """The life of a ticket, from its adding to its removal.

    Attributes:
        begin: when it was added, UTC; if that was trimmed, the time of its first record from which its state is known.
        end: when it was removed; if it was not, `now`.
        removed: whether it was removed.
        steps: its records in order, each with the spans that follow it.
        attempts: its claims in order.
        totals: the time in each phase; the sum is `end` - `begin`.
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
    """The result of `timeline`.

    Attributes:
        id: the ticket's.
        now: the end of the time that is covered.
        lives: its lives, oldest first; a new one begins when the ticket is added again after its removal.
        before: the records of a life whose beginning is missing (it was trimmed, or dropped from memory), up to the
            first one from which its state is known. Nothing is known about the time between them.
    """

    id: str
    now: datetime
    lives: tuple[Life, ...]
    before: tuple[Record, ...]


def timeline(records: Iterable[Record], now: datetime | None = None, *, start: Projection | None = None) -> Timeline:
    """Return the life of a ticket as spans of time.

    Args:
        records: all records about one ticket, as `history` returns them.
        now: the end of the last span; None, or earlier than the last record: the last record's time.
        start: the state from which the log can be folded, if its beginning was trimmed: a `replay` until a record that
            a snapshot is of. The records before the ticket's last one in it are in `before`. None: begin with nothing.

    Raises:
        InvalidTicket: `now` is not a timezone-aware datetime, or the records are about several tickets, or none.
        KharonError: a record cannot follow from those before it.

    Cost: O(records).
    """
    folded = _Folded(start)
    for record in records:
        folded.add(record)
    if folded.last is None:
        raise InvalidTicket("records: there are none; pass the records that history returned")
    end = folded.last.at if now is None else max(check_instant("now", now), folded.last.at)
    folded.pass_until(end, open=True)
    folded.end_life(end, removed=False)
    return Timeline(id=folded.id, now=end, lives=tuple(folded.lives), before=tuple(folded.before))


class _Folded:
    """A timeline that is being built: the finished lives, and the records of the one that goes on."""

    def __init__(self, start: Projection | None) -> None:
        self._start = start
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
        assert isinstance(event, TicketEvent)  # `_check` raised otherwise
        if self.last is not None:
            self.pass_until(record.at, open=False)
        self.last = record
        old, ticket = self._evolved(record, event)
        if old is None and ticket is None:
            self.before.append(record)
            return
        self._ticket = ticket
        if self._begin is None:
            self._begin = record.at
            self._resume_attempt(record, old or ticket)
        who = self._who(record, event)
        self._follow_attempt(record, who, old, ticket)
        self._backs_off = backs_off(event, old, ticket, before=self._backs_off)
        self._steps.append(Step(record=record, who=who, ticket=ticket, spans=()))
        if ticket is None:
            self.end_life(record.at, removed=True)

    def _evolved(self, record: Record, event: TicketEvent) -> tuple[Ticket | None, Ticket | None]:
        """Return the ticket before and after a record; both None: it belongs to a life whose beginning is missing."""
        old, start = self._ticket, self._start
        if old is None and not self.lives:
            if start is None:
                if not isinstance(event, TicketAdded):
                    return None, None
            elif record.seq > start.seq:
                old = start.tickets.get(event.id)
            else:
                known = start.tickets.get(event.id)
                return None, known if known is not None and known.version == record.seq else None
        return old, evolve(old, event, record.seq, record.at)

    def _resume_attempt(self, record: Record, ticket: Ticket | None) -> None:
        """Begin the attempt that runs when a life's first known record is written, if its claim was before that."""
        if ticket is None or ticket.claim is None or ticket.claim == record.seq:
            return
        assert ticket.worker is not None
        self._workers.add(ticket.worker)
        self._attempts.append(_attempt(ticket.attempts, ticket.claim, ticket.worker, record.at))

    def _check(self, record: Record, event: Event) -> None:
        id = getattr(event, "id", None)
        if id is None:
            raise InvalidTicket(f"records: record {record.seq}, {type(event).__name__}, is about no ticket")
        if self.last is not None and (id != self.id or record.seq <= self.last.seq):
            raise InvalidTicket(
                f"records: record {record.seq} of ticket {id!r} follows record {self.last.seq} of {self.id!r}; a "
                f"timeline is of one ticket, in the order of the log"
            )
        self.id = id

    def _who(self, record: Record, event: TicketEvent) -> Who:
        if record.by == _CLOCK:
            return Who.CLOCK
        if isinstance(event, TicketClaimed):
            self._workers.add(record.by)
        # By its name, too: a handler may add or settle another ticket, which its worker never claimed.
        return Who.WORKER if record.by in self._workers or _WORKER.fullmatch(record.by) else Who.OPERATOR

    def _follow_attempt(self, record: Record, who: Who, old: Ticket | None, ticket: Ticket | None) -> None:
        event = record.event
        if isinstance(event, TicketClaimed):
            self._attempts.append(_attempt(event.attempt, record.seq, event.worker, record.at))
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
        """Add the spans after the last record: up to the next record or, if `open`, up to `now`."""
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
        sums = dict.fromkeys(Phase, timedelta(0))
        for step in self._steps:
            for span in step.spans:
                sums[span.phase] += span.length
        life = Life(
            begin=self._begin,
            end=end,
            removed=removed,
            steps=tuple(self._steps),
            attempts=tuple(self._attempts),
            totals=Totals(**{phase.name.lower(): spent for phase, spent in sums.items()}),
        )
        self.lives.append(life)
        self._begin, self._steps, self._attempts = None, [], []


def _attempt(number: int, claim: int, worker: str, begin: datetime) -> Attempt:
    """Return an attempt that runs."""
    return Attempt(
        number=number,
        claim=claim,
        worker=worker,
        begin=begin,
        end=None,
        outcome=Outcome.RUNNING,
        error_reason=None,
        by=None,
        who=None,
    )


_CLOCK: Final = "clock"
_WORKER: Final = re.compile(r"worker-\d+")  # as `Kharon.run` names them


def _phases(
    step: Step, end: datetime, *, backs_off: bool
) -> Iterator[tuple[Ticket, Phase, datetime, datetime, int | None]]:
    """Yield the phases of a ticket between a record and `end`, each with its limits and its attempt, if it has one."""
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


def backs_off(event: TicketEvent, old: Ticket | None, ticket: Ticket | None, *, before: bool) -> bool:
    """Return whether the ticket backs off until it is due, rather than being delayed by a caller.

    Args:
        event: the last event of the ticket.
        old: the ticket before it; None: there was none.
        ticket: the ticket after it; None: it was removed.
        before: what this function returned for the event before.
    """
    if old is None or ticket is None or isinstance(event, TicketAdded) or ticket.order != old.order:  # or a new start
        return False
    if isinstance(event, (TicketRetried, TicketLapsed)):
        return ticket.attempts > 0
    return before and not (isinstance(event, TicketUpdated) and event.changes.runat is not UNSET)


def _outcome(event: Event) -> Outcome:
    """Return how an event ended a claim."""
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
