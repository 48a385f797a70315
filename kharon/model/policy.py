"""What a ticket's type goes by: how long a lease is, how often and when it is tried, and what a return means.

A `Policy` is one value for one type. Code that ends an attempt on the handler's behalf asks it for the command. So
the store, which ends leases, and the workers, which run handlers, go by the same rules. Where a type's policy
comes from is not known here.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from kharon.model.commands import Done, Lapse, Retry
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.ticket import Ticket

__all__ = ["LEASE_ENDED", "TWO_WEEKS", "OnReturn", "Policy"]

OnReturn: TypeAlias = Literal["ack", "done", "leave"]
LEASE_ENDED: Final = "the lease ended"
"""The `error_reason` of an attempt whose lease ended while its process went on."""

TWO_WEEKS: Final = 14 * 86_400.0
"""Seconds for which a failed ticket is kept by default."""


class Policy(msgspec.Struct, frozen=True):
    """The rules for the tickets of one type.

    Attributes:
        process_time: seconds that a claim's lease lasts.
        max_attempts: attempts after which a ticket that raises or lapses fails for good; None: no limit.
        backoff: the delay before the next attempt.
        on_return: what a handler's return means: "ack" removes the ticket, "done" keeps it, "leave" settles nothing.
        keep_done: seconds for which a ticket that is done by its handler's return is kept; None: for good.
        keep_failed: seconds for which a failed ticket is kept; None: for good.
    """

    process_time: float = 30.0
    max_attempts: int | None = 25
    backoff: BackoffDelay | FixedDelay = BackoffDelay()
    on_return: OnReturn = "ack"
    keep_done: float | None = None
    keep_failed: float | None = TWO_WEEKS

    def lapse(self, ticket: Ticket, error_reason: str) -> Lapse:
        """Return the command that ends a claim whose lease is over. O(1)."""
        return Lapse(
            ticket.id,
            ticket.claim,
            error_reason=error_reason,
            backoff=self.backoff,
            max_attempts=self.max_attempts,
        )

    def retry(self, ticket: Ticket, error_reason: str) -> Retry:
        """Return the command that ends a claim whose handler raised. O(1)."""
        return Retry(
            ticket.id,
            ticket.claim,
            delay=self.backoff,
            error_reason=error_reason,
            max_attempts=self.max_attempts,
        )

    def returned(self, ticket: Ticket) -> Done | None:
        """Return the command that ends a claim whose handler returned; None: only the handler's own settle counts."""
        if self.on_return == "leave":
            return None
        if self.on_return == "ack":
            return Done(ticket.id, ticket.claim)
        return Done(ticket.id, ticket.claim, keep=True, expire_in=self.keep_done)
