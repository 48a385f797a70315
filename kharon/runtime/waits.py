"""Waiting: tasks that wait for a ticket to end, or for a group to have no pending members.

A wait registers before it asks for the state, so no end is missed. A wait for a ticket counts only ends that come after
the ticket that it found or added: an earlier end of the same id, decided before, can be durable in the same commit
group. Nothing here changes a ticket.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import trio

from kharon.errors import TicketFailedError, TicketNotFound
from kharon.log.record import Record
from kharon.model.events import TicketAdded, TicketEvent
from kharon.model.evolve import ended, evolve
from kharon.model.ticket import Status, Ticket
from kharon.store.protocol import Effect, Store

__all__ = ["Group", "GroupWait", "GroupWaits", "Wait", "Waits", "last_state", "not_found", "result_of"]


class _Waiter(Protocol):
    def closed(self) -> None:
        """Hear that nothing more will be told."""


_W = TypeVar("_W", bound=_Waiter)


class _Registry(Generic[_W]):
    """The waits of one kind, by name. Each registers before it checks the state, so that nothing is missed.

    Args:
        make: makes one who waits.

    Attributes:
        by_name: those who wait, by the name of what they wait for; no name without them.
    """

    def __init__(self, make: Callable[[], _W]) -> None:
        self.by_name: dict[str, set[_W]] = {}
        self._make = make

    @contextlib.contextmanager
    def begin(self, name: str) -> Iterator[_W]:
        """Begin a wait; it ends with the block."""
        waiter = self._make()
        self.by_name.setdefault(name, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self.by_name[name]
            waiters.remove(waiter)
            if not waiters:
                del self.by_name[name]

    def closed(self) -> None:
        """Tell all who wait that nothing more will be told. O(their number)."""
        for waiters in self.by_name.values():
            for waiter in waiters:
                waiter.closed()


# --- for tickets ------------------------------------------------------------------------------------------------------


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


class Waits(_Registry[Wait]):
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


# --- for groups -------------------------------------------------------------------------------------------------------


class GroupWait:
    """One who waits for a group.

    Attributes:
        event: set when the group has become empty, or when nothing more will be told.
        emptied: whether it was the former.
    """

    __slots__ = ("emptied", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.emptied = False

    def closed(self) -> None:
        """Hear that nothing more will be told."""
        self.event.set()


class GroupWaits(_Registry[GroupWait]):
    """All who wait until a group has no pending members, by its name."""

    def __init__(self) -> None:
        super().__init__(GroupWait)

    def deliver(self, effects: Sequence[Effect]) -> None:
        """Wake those who wait for a group that has become empty, which is durable now. O(effects) if anybody waits."""
        if not self.by_name:
            return
        for effect in effects:
            for group in effect.emptied:
                for wait in self.by_name.get(group, ()):
                    wait.emptied = True
                    wait.event.set()


class Group:
    """A view of the tickets of a group, as `kh.group(name)` gives it. A group that no ticket is in is a group, too.

    A ticket is a member that counts while it is pending: delayed, ready, claimed or blocked. One that was added again
    with another group while it ran counts in both until its claim ends.
    """

    def __init__(self, name: str, store: Store, waits: GroupWaits) -> None:
        self.name = name
        self._store = store
        self._waits = waits

    def __repr__(self) -> str:
        return f"<Group {self.name!r}>"

    async def pending_count(self) -> int:
        """Return how many members are pending. O(1)."""
        return await self._store.pending_count(self.name)

    async def all_terminal(self) -> bool:
        """Return whether no member is pending: all are done, failed, cancelled or removed. O(1)."""
        return not await self.pending_count()

    async def wait(self) -> None:
        """Wait until no member is pending: until the first instant at which that is so. O(1).

        Members that join meanwhile are waited for as well, also those that join in the commit which ends the last one.
        To wait for those of this moment alone, add a ticket with `after_group`, and wait for that. Cancelling the wait
        leaves no trace.
        """
        with self._waits.begin(self.name) as wait:
            if not await self._store.pending_count(self.name):
                return
            await wait.event.wait()
            if not wait.emptied:
                await self._store.pending_count(self.name)  # it was the queue that ended: raises
