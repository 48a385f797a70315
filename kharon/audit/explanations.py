"""Why a ticket is, or is not, running now: what the workers' next claim would make of it, said so that a person can act."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime

import attrs

from kharon.model.projection import Projection
from kharon.model.ticket import Ticket
from kharon.settings import Settings

__all__ = ["Explanation", "Reason", "explain"]


class Reason(enum.StrEnum):
    """Why a ticket is running, or not."""

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
        terminal_since: since when it has been done, failed or cancelled; None if it is not.
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
    raise NotImplementedError
