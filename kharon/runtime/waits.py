"""Waiting for tickets to end: who waits for which, and what an end means to one who wants the result.

A wait begins before what it waits for is asked for or added, so no end is missed; and it counts only ends that come
after the ticket that was found or added then. An earlier one can come in between: of the same id, decided before, and
durable in the same commit group. Nothing here asks the store or changes a ticket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import trio

from kharon.errors import TicketFailedError, TicketNotFound
from kharon.log.record import Record
from kharon.model.events import TicketAdded, TicketEvent
from kharon.model.evolve import ended, evolve
from kharon.model.ticket import Status, Ticket
from kharon.runtime.registry import Registry
from kharon.store.protocol import Effect

__all__ = ["Wait", "Waits", "last_state", "not_found", "result_of"]


class Wait:
    """Somebody who waits for a ticket to end."""

    __slots__ = ("_early", "_end", "_over", "_sought")

    def __init__(self) -> None:
        self._over = trio.Event()
        self._sought = False
        self._early: list[tuple[int, Ticket]] = []
        self._end: Ticket | None = None

    async def end_of(self, ticket: Ticket) -> Ticket | None:
        """Wait until this ticket, as it was found or added since the wait began, has ended; return it as it was then.

        Returns:
            None: the queue was closed before.
        """
        if ticket.status is not Status.PENDING:
            return ticket
        self._sought = True
        for seq, end in self._early:
            if seq > ticket.version:
                return end
        await self._over.wait()
        return self._end

    def ended(self, seq: int, ticket: Ticket) -> None:
        """Hear that a ticket of that id has ended. O(1)."""
        if not self._sought:
            self._early.append((seq, ticket))
        elif self._end is None:
            self._end = ticket
            self._over.set()

    def closed(self) -> None:
        """Hear that there will be no end."""
        self._over.set()


class Waits(Registry[Wait]):
    """All who wait for tickets of one queue, by their ids."""

    def __init__(self) -> None:
        super().__init__(Wait)

    def deliver(self, effects: Sequence[Effect]) -> None:
        """Tell those who wait what has ended. O(effects), and O(1) while nobody waits."""
        if not self.by_name:
            return
        for effect in effects:
            event, old, new = effect.event, effect.old, effect.new
            if not isinstance(event, TicketEvent) or event.id not in self.by_name:
                continue
            if new is not None and new.status is Status.PENDING:
                continue
            end = new if new is not None or old is None else ended(old, event, effect.seq, effect.at)
            if end is not None:
                for wait in self.by_name[event.id]:
                    wait.ended(effect.seq, end)


def result_of(ticket: Ticket) -> Any:
    """Return the result of a ticket that has ended; None after an ack.

    Raises:
        TicketFailedError: it was not done.
    """
    if ticket.status is Status.DONE:
        return ticket.result
    # One that was deleted is what it was before, and its error_reason is that of an earlier attempt, if anything.
    how = {Status.FAILED: "has failed", Status.CANCELLED: "was cancelled"}.get(ticket.status, "was deleted")
    reason = None if ticket.status is Status.PENDING else ticket.error_reason
    said = "" if reason is None else f": {reason}"
    raise TicketFailedError(f"ticket {ticket.id!r} ({ticket.type}) {how}{said}", ticket, reason)


def not_found(id: str) -> TicketNotFound:
    """Return what is said of an id that no ticket has."""
    return TicketNotFound(f"ticket {id!r}: there is none; it was never added, or has been removed")


def last_state(id: str, records: Iterable[Record]) -> Ticket:
    """Return the ticket as it was when it was last removed, from all that is known of its history. O(records).

    Raises:
        TicketNotFound: nothing is.
    """
    ticket = last = None
    for record in records:
        event = record.event
        if isinstance(event, TicketAdded if ticket is None else TicketEvent):  # memory may have dropped the beginning
            old, ticket = ticket, evolve(ticket, event, record.seq, record.at)
            if ticket is None and old is not None:
                last = ended(old, event, record.seq, record.at)
    if last is None:
        raise not_found(id)
    return last
