"""The attempts that run: each is one handler's run under one claim.

The lease is a cancel scope around the handler. Its end, and any event that takes the ticket away (`TAKES`), reaches the
scope from the durable events, in `Attempts.deliver`. So a handler is cancelled when

    its lease has ended      by Trio's clock, at the scope's deadline; or by the wall clock, as TicketLapsed
    its ticket was cancelled or deleted, by its id

A handler that settles its own ticket, `cancel(ticket)` included, is not cancelled, so that it may clean up. A `def`
handler in a thread runs on in any case. This module settles no ticket.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import trio

from kharon.log.messages import say
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.ticket import Ticket
from kharon.store.protocol import Change, Clock

__all__ = ["Attempt", "Attempts"]

TAKES: Final[dict[type[e.Event], str]] = {
    e.TicketLapsed: "lapsed",
    e.TicketCancelled: "cancelled",
    e.TicketDeleted: "deleted",
}
_RELEVANT: Final = frozenset({*TAKES, e.LeaseExtended})


class Attempt:
    """One run of a handler.

    Attributes:
        ticket: the ticket as it was claimed.
        scope: the cancel scope around the handler; its deadline is the end of the lease by Trio's clock.
        lease_until: the end of the lease by the wall clock.
        taken: how the ticket was taken away: "lapsed", "cancelled" or "deleted"; None: it was not.
        extension: the seconds of the heartbeat's last extension; 0: there was none.
        extend_at: the earliest Trio time of the heartbeat's next attempt to extend.
    """

    taken: str | None = None  # class defaults: one attempt is made per ticket, and most never set these
    extension = 0.0
    extend_at = 0.0
    _cancelling = 0
    _cancelled_itself = False
    _withheld = False

    def __init__(self, ticket: Ticket, seconds: float) -> None:
        assert ticket.lease_until is not None
        self.ticket = ticket
        self.scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self.lease_until: datetime = ticket.lease_until

    def extend(self, seconds: float) -> None:
        """Let the handler run for `seconds` from now, unless it may run longer already. O(1).

        The end is by Trio's clock, not from `lease_until`: a step of the wall clock must not change the handler's time.
        """
        self.scope.deadline = max(self.scope.deadline, trio.current_time() + seconds)

    def take(self, how: str) -> None:
        """Cancel the handler, since the ticket was taken away; but not if its own `cancel` may have done it."""
        if how == "cancelled" and self._cancelling:
            self._withheld = True
            return
        self.taken = how
        self.scope.cancel()

    @contextlib.contextmanager
    def cancels_itself(self) -> Iterator[None]:
        """Enclose a cancel under this attempt's claim; the block raises if the cancel is refused."""
        self._cancelling += 1
        try:
            yield
            self._cancelled_itself = True
        finally:
            self._cancelling -= 1
            if self._withheld and not self._cancelling and not self._cancelled_itself:
                self.take("cancelled")  # another actor cancelled it first


class Attempts:
    """All attempts that run in this process.

    Args:
        clock: gives the present time.

    Attributes:
        late_below: seconds; an attempt that begins with less of its lease left, after a stalled disk, is late.
        late: set when a late attempt begins.
    """

    def __init__(self, clock: Clock) -> None:
        self.late_below = 0.0
        self.late = trio.Event()
        self._clock = clock
        self._running: dict[int, Attempt] = {}
        # A claim and its end can be in one commit group, which is delivered before the worker goes on. For each worker,
        # its newest such change: the only one that can be about the claim with which the worker goes on.
        self._early: dict[str, Change] = {}

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._running.values())

    def begin(self, ticket: Ticket) -> Attempt:
        """Register an attempt that is about to run. Its ticket may have been taken away already. O(1)."""
        assert ticket.claim is not None
        assert ticket.lease_until is not None
        assert ticket.worker is not None
        left = (ticket.lease_until - self._clock.now()).total_seconds()
        attempt = Attempt(ticket, left)
        if left < self.late_below:
            self.late.set()
        self._running[ticket.claim] = attempt
        if self._early:
            early = self._early.pop(ticket.worker, None)
            if early is not None and early.old is not None and early.old.claim == ticket.claim:
                self._apply(attempt, early)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Remove an attempt that has ended. O(1)."""
        assert attempt.ticket.claim is not None
        del self._running[attempt.ticket.claim]

    def deliver(self, commit: Sequence[Change]) -> None:
        """Apply the changes of a durable commit to the attempts. O(changes)."""
        for change in commit:
            event = change.event
            if type(event) not in _RELEVANT:
                continue
            old = change.old
            if old is None or old.claim is None:
                continue
            attempt = self._running.get(old.claim)
            if attempt is not None:
                self._apply(attempt, change)
            else:
                self._keep_early(old, change)
            if isinstance(event, e.TicketLapsed):
                say(
                    logging.WARNING,
                    "ticket %r (%s): lapsed in attempt %d: %s",
                    old.id,
                    old.type,
                    old.attempts,
                    event.error_reason,
                )

    def _keep_early(self, old: Ticket, change: Change) -> None:
        assert old.claim is not None
        assert old.worker is not None
        kept = self._early.get(old.worker)
        if kept is None or kept.old is None or (kept.old.claim or 0) <= old.claim:
            self._early[old.worker] = change

    def _apply(self, attempt: Attempt, change: Change) -> None:
        how = TAKES.get(type(change.event))
        if how is not None:
            attempt.take(how)
        elif change.new is not None and change.new.lease_until is not None:
            attempt.lease_until = change.new.lease_until
            attempt.extend((attempt.lease_until - self._clock.now()).total_seconds())

    def extend(self, ticket: Ticket, seconds: float) -> None:
        """Let the handler with this claim run for `seconds` from now, unless it may run longer already. O(1)."""
        attempt = self._running.get(ticket.claim or 0)
        if attempt is not None:
            attempt.extend(seconds)

    @contextlib.contextmanager
    def settling(self, commands: Iterable[c.Request]) -> Iterator[None]:
        """Enclose the submitting of commands: an attempt that cancels its own ticket is not interrupted."""
        with contextlib.ExitStack() as stack:
            for command in commands:
                if isinstance(command, c.Cancel) and command.claim in self._running:
                    stack.enter_context(self._running[command.claim].cancels_itself())
            yield
