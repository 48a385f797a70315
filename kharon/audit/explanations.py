"""Why a ticket is, or is not, running now: what the workers' next claim makes of it, so that a person can act.

Questions to a projection; nothing is read and nothing changes. What a claim takes is the projection's own query, and
that the two agree is tested against it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime, timedelta

import attrs

from kharon.model.limits import check_instant
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket
from kharon.settings import Settings

__all__ = ["Explanation", "Reason", "explain"]


class Reason(enum.StrEnum):
    """Why a ticket is running, or not.

    Running; its lease ended, and nobody has taken note yet; next to be claimed; behind others that are due; delayed;
    blocked by other tickets; in a tube that no worker claims from; done, failed or cancelled; absent.
    """

    RUNNING = "running"
    LEASE_ENDED = "lease ended"
    NEXT = "next"
    BEHIND = "behind"
    DELAYED = "delayed"
    BLOCKED = "blocked"
    NOT_SUBSCRIBED = "not subscribed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABSENT = "absent"


@attrs.frozen(slots=True, kw_only=True)
class Explanation:
    """What `explain` found.

    Attributes:
        id: the ticket's.
        now: the instant that was asked for.
        reasons: all that hold, the weightiest first; one at least.
        sentence: the same in one plain sentence, with ids and names as they are in the ticket: escape it where you show
            it.
        ticket: the ticket; None if there is none.
        due_at: from when it may be claimed; None if it is not pending.
        blocked_by: the ids that it waits for.
        worker, lease_until: who has it, and until when; None if nobody has.
        attempts: how many have been counted.
        attempts_left: how many may follow; None: no end, or it is not pending.
        ahead: how many due tickets would be claimed before it; None if it cannot be claimed now.
        terminal_since: since when it has been done, failed or cancelled; None if it is not. A later update of
            the ticket moves it: then its `timeline` knows better.
        expires_at: when it will be removed; None: never, or it is pending.
    """

    id: str
    now: datetime
    reasons: tuple[Reason, ...]
    sentence: str
    ticket: Ticket | None
    due_at: datetime | None
    blocked_by: tuple[str, ...]
    worker: str | None
    lease_until: datetime | None
    attempts: int
    attempts_left: int | None
    ahead: int | None
    terminal_since: datetime | None
    expires_at: datetime | None

    @property
    def reason(self) -> Reason:
        """The weightiest of the reasons."""
        return self.reasons[0]


def explain(
    projection: Projection,
    id: str,
    now: datetime,
    *,
    max_attempts: int | None = Settings().max_attempts,
    tubes: Iterable[str] | None = None,
) -> Explanation:
    """Say why a ticket is, or is not, running at `now`.

    Args:
        projection: the state, as `replay` gives it. It is not changed.
        id: the ticket's.
        now: the instant; later than the projection's, as a rule.
        max_attempts: the queue's `Settings.max_attempts`, which the log does not know.
        tubes: the tubes that workers claim from, which it does not know either; None: the ticket's own.

    Raises:
        InvalidTicket: `now` is no timezone-aware datetime.

    Cost: O(log n), and O(tickets that have become due since the projection was promoted last).
    """
    now = check_instant("now", now)
    ticket = projection.get(id)
    if ticket is None:
        return _explanation(id, now, [Reason.ABSENT], _absent(id), None)
    if ticket.status is not Status.PENDING:
        reason = Reason[ticket.status.name]
        return _explanation(id, now, [reason], _terminal(ticket, now), ticket, terminal_since=ticket.mtime)
    left = None if max_attempts is None else max(0, max_attempts - ticket.attempts)
    if ticket.claim is not None:
        assert ticket.lease_until is not None
        reason = Reason.RUNNING if ticket.lease_until > now else Reason.LEASE_ENDED
        return _explanation(id, now, [reason], _claimed(ticket, reason, left), ticket, attempts_left=left)
    claimed_from = {ticket.tube} if tubes is None else set(tubes)
    gates = _gates(ticket, now, claimed_from)
    if gates:
        sentence = f"{id!r} is not running: " + "; and ".join(_gate(gate, ticket, now) for gate in gates) + "."
        return _explanation(id, now, gates, sentence, ticket, attempts_left=left)
    ahead = projection.ahead(ticket, claimed_from, now)
    reason = Reason.BEHIND if ahead else Reason.NEXT
    return _explanation(id, now, [reason], _ready(ticket, ahead), ticket, attempts_left=left, ahead=ahead)


def _explanation(
    id: str,
    now: datetime,
    reasons: list[Reason],
    sentence: str,
    ticket: Ticket | None,
    *,
    attempts_left: int | None = None,
    ahead: int | None = None,
    terminal_since: datetime | None = None,
) -> Explanation:
    pending = ticket is not None and ticket.status is Status.PENDING
    return Explanation(
        id=id,
        now=now,
        reasons=tuple(reasons),
        sentence=sentence,
        ticket=ticket,
        due_at=ticket.runat if ticket is not None and pending else None,
        blocked_by=() if ticket is None else ticket.blocked_by,
        worker=None if ticket is None else ticket.worker,
        lease_until=None if ticket is None else ticket.lease_until,
        attempts=0 if ticket is None else ticket.attempts,
        attempts_left=attempts_left,
        ahead=ahead,
        terminal_since=terminal_since,
        expires_at=None if ticket is None else ticket.expire_at,
    )


def _gates(ticket: Ticket, now: datetime, tubes: set[str]) -> list[Reason]:
    """Return what keeps a waiting ticket from being claimed. Whatever else may close a tube has its place here."""
    gates = []
    if ticket.blocked_by:
        gates.append(Reason.BLOCKED)
    if ticket.tube not in tubes:
        gates.append(Reason.NOT_SUBSCRIBED)
    assert ticket.runat is not None
    if ticket.runat > now:
        gates.append(Reason.DELAYED)
    return gates


def _gate(gate: Reason, ticket: Ticket, now: datetime) -> str:
    if gate is Reason.BLOCKED:
        return f"it waits for {', '.join(map(repr, ticket.blocked_by))}"
    if gate is Reason.NOT_SUBSCRIBED:
        return f"no worker claims from its tube {ticket.tube!r}"
    why = f" ({ticket.attempts} attempts so far; the last one: {ticket.error_reason})" if ticket.error_reason else ""
    assert ticket.runat is not None
    return f"it is due at {_at(ticket.runat)}, in {_seconds(ticket.runat - now)}{why}"


def _claimed(ticket: Ticket, reason: Reason, left: int | None) -> str:
    which = f"attempt {ticket.attempts}" + ("" if left is None else f", {left} left")
    assert ticket.lease_until is not None
    until = _at(ticket.lease_until)
    if reason is Reason.RUNNING:
        return f"{ticket.id!r} is running: {ticket.worker!r} has it ({which}) until its lease ends at {until}."
    return (
        f"{ticket.id!r} is not running any more, as far as anybody knows: the lease of {ticket.worker!r} ({which}) "
        f"ended at {until}, and the queue takes it back when it looks next, or is opened next."
    )


def _ready(ticket: Ticket, ahead: int) -> str:
    assert ticket.runat is not None
    due = f"it has been due since {_at(ticket.runat)}"
    if ahead:
        others = "1 ticket that is" if ahead == 1 else f"{ahead} tickets that are"
        return f"{ticket.id!r} is not running: {due}, and {others} due, too, will be claimed first."
    return f"{ticket.id!r} is not running: {due}, and is what a worker that is free claims next."


def _terminal(ticket: Ticket, now: datetime) -> str:
    assert ticket.mtime is not None
    why = f": {ticket.error_reason}" if ticket.error_reason else ""
    since = _at(ticket.mtime)
    if ticket.expire_at is None:
        kept = "kept for good"
    elif ticket.expire_at > now:
        kept = f"kept until {_at(ticket.expire_at)}"
    else:
        kept = f"to be removed since {_at(ticket.expire_at)}, when the queue looks next, or is opened next"
    return f"{ticket.id!r} is not running: it is {ticket.status} since {since}, {kept}{why}."


def _absent(id: str) -> str:
    return f"There is no ticket {id!r}: it was never added, or has been removed; its history tells which."


def _at(instant: datetime) -> str:
    return instant.isoformat(" ", "seconds").replace("+00:00", " UTC")


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():,.0f} s"
