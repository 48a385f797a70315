"""The attempts that run: one handler's run under one claim, and what it hears of that claim.

The lease is a cancel scope around the handler. Its end, and whatever else takes the ticket away (`TAKES`), reaches the
scope from the durable events, in `Attempts.deliver`. So a handler is cancelled when

    its lease has ended      by Trio's clock, at the scope's deadline; or by the wall's, as TicketLapsed
    its ticket was cancelled or deleted, by its id

but not when it settles itself, `cancel(ticket)` included: it may clean up. A `def` in a thread runs on in any case.
Nothing here settles a ticket.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import trio

from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.ticket import Ticket
from kharon.store.protocol import Change, Clock
from kharon.store.tasks import say

__all__ = ["Attempt", "Attempts"]

TAKES: Final[dict[type[e.Event], str]] = {
    e.TicketLapsed: "lapsed",
    e.TicketCancelled: "cancelled",
    e.TicketDeleted: "deleted",
}
_HEARD: Final = frozenset({*TAKES, e.LeaseExtended})


class Attempt:
    """One run of a handler.

    Attributes:
        ticket: as it was claimed.
        scope: what is around the handler; its deadline is the end of the lease by Trio's clock.
        lease_until: the end of the lease by the wall's.
        taken: what took the ticket away: "lapsed", "cancelled", "deleted"; None: nothing has.
        extension: how many seconds its last extension by the heartbeat was; 0: there was none.
        extend_at: not before this, by Trio's clock, may the heartbeat try again.
    """

    taken: str | None = None  # defaults of the class: most attempts need none of their own, and one is made per ticket
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
        """Let the handler run for `seconds` from now, if that is longer than it would. O(1).

        By Trio's clock and not from `lease_until`, which a step of the wall clock moves away from the handler's time.
        """
        self.scope.deadline = max(self.scope.deadline, trio.current_time() + seconds)

    def take(self, how: str) -> None:
        """Hear that the ticket was taken away, unless by the attempt itself, as far as is known."""
        if how == "cancelled" and self._cancelling:
            self._withheld = True
            return
        self.taken = how
        self.scope.cancel()

    @contextlib.contextmanager
    def cancels_itself(self) -> Iterator[None]:
        """While the block runs, a cancel under this attempt's claim is asked for; it raises if that is refused."""
        self._cancelling += 1
        try:
            yield
            self._cancelled_itself = True
        finally:
            self._cancelling -= 1
            if self._withheld and not self._cancelling and not self._cancelled_itself:
                self.take("cancelled")  # by somebody else, before it could do so itself


class Attempts:
    """All attempts that run in this process.

    Args:
        clock: what tells the time of day.

    Attributes:
        patience: seconds; one that begins with less of its lease left, after a disk that stalled, is `late`.
        late: set when such a one begins.
    """

    def __init__(self, clock: Clock) -> None:
        self.patience = 0.0
        self.late = trio.Event()
        self._clock = clock
        self._running: dict[int, Attempt] = {}
        # A claim and what becomes of it can be in one commit group, which is delivered before the worker goes on. The
        # newest such change for each worker: it is about the claim that the worker is about to hear of, if about any.
        self._early: dict[str, Change] = {}

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._running.values())

    def begin(self, ticket: Ticket) -> Attempt:
        """Register an attempt that is about to run; it may have been taken away already. O(1)."""
        assert ticket.claim is not None
        assert ticket.lease_until is not None
        assert ticket.worker is not None
        left = (ticket.lease_until - self._clock.now()).total_seconds()
        attempt = Attempt(ticket, left)
        if left < self.patience:
            self.late.set()
        self._running[ticket.claim] = attempt
        if self._early:
            early = self._early.pop(ticket.worker, None)
            if early is not None and early.old is not None and early.old.claim == ticket.claim:
                self._hear(attempt, early)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Forget an attempt that has run. O(1)."""
        assert attempt.ticket.claim is not None
        del self._running[attempt.ticket.claim]

    def deliver(self, commit: Sequence[Change]) -> None:
        """Let the handlers that run know what became of their claims. O(changes)."""
        for change in commit:
            event = change.event
            if type(event) not in _HEARD:
                continue
            old = change.old
            if old is None or old.claim is None:
                continue
            attempt = self._running.get(old.claim)
            if attempt is not None:
                self._hear(attempt, change)
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

    def _hear(self, attempt: Attempt, change: Change) -> None:
        how = TAKES.get(type(change.event))
        if how is not None:
            attempt.take(how)
        elif change.new is not None and change.new.lease_until is not None:
            attempt.lease_until = change.new.lease_until
            attempt.extend((attempt.lease_until - self._clock.now()).total_seconds())

    def extend(self, ticket: Ticket, seconds: float) -> None:
        """Let the handler that has this claim run for `seconds` from now, if that is longer than it would. O(1)."""
        attempt = self._running.get(ticket.claim or 0)
        if attempt is not None:
            attempt.extend(seconds)

    @contextlib.contextmanager
    def settling(self, commands: Iterable[c.Request]) -> Iterator[None]:
        """Around the submitting of a user's commands: an attempt that cancels its ticket itself is not interrupted."""
        with contextlib.ExitStack() as stack:
            for command in commands:
                if isinstance(command, c.Cancel) and command.claim in self._running:
                    stack.enter_context(self._running[command.claim].cancels_itself())
            yield
