"""Waits for a ticket to end, and for a group to have no pending members.

A wait registers before it reads the state, so it misses no end. A wait for a ticket counts only ends after the state
that it read, or after the adding: an earlier end of the same id can be durable in the same commit group. This module
changes no ticket.
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
from kharon.model.ticket import Status, Ticket, memberships
from kharon.store.protocol import Change, Store

__all__ = ["Group", "GroupWait", "GroupWaits", "Wait", "Waits", "last_state", "not_found", "result_of"]


class _Waiter(Protocol):
    def closed(self) -> None:
        """End the wait, since the queue is closed."""


_W = TypeVar("_W", bound=_Waiter)


class _Registry(Generic[_W]):
    """The waits of one kind, by name. A wait registers before it reads the state, so that it misses nothing.

    Args:
        make: makes a wait.

    Attributes:
        by_name: the waits, by the name of their ticket or group; no name has an empty set.
    """

    def __init__(self, make: Callable[[], _W]) -> None:
        self.by_name: dict[str, set[_W]] = {}
        self._make = make

    @contextlib.contextmanager
    def begin(self, name: str) -> Iterator[_W]:
        """Register a wait until the block ends."""
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
        """End all waits, since the queue is closed. O(waits)."""
        for waiters in self.by_name.values():
            for waiter in waiters:
                waiter.closed()


# --- for tickets ------------------------------------------------------------------------------------------------------


class Wait:
    """One wait for a ticket to end."""

    __slots__ = ("_early", "_end", "_over", "_sought")

    def __init__(self) -> None:
        self._over = trio.Event()
        self._sought = False
        self._early: list[tuple[int, Ticket]] = []
        self._end: Ticket | None = None

    async def end_of(self, ticket: Ticket) -> Ticket | None:
        """Wait until a ticket, read or added after the wait began, has ended.

        Returns:
            The ticket in its last state; None if the queue was closed before.
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
        """Take in an end of a ticket with this id. O(1)."""
        if not self._sought:
            self._early.append((seq, ticket))
        elif self._end is None:
            self._end = ticket
            self._over.set()

    def closed(self) -> None:
        """End the wait, since the queue is closed."""
        self._over.set()


class Waits(_Registry[Wait]):
    """All waits for tickets of one queue, by id."""

    def __init__(self) -> None:
        super().__init__(Wait)

    def deliver(self, commit: Sequence[Change]) -> None:
        """Pass the ends in a durable commit to the waits. O(changes); O(1) without any wait."""
        if not self.by_name:
            return
        for change in commit:
            event, old, new = change.event, change.old, change.new
            if not isinstance(event, TicketEvent) or event.id not in self.by_name:
                continue
            if new is not None and new.status is Status.PENDING:
                continue
            end = new if new is not None or old is None else ended(old, event, change.seq, change.at)
            if end is not None:
                for wait in self.by_name[event.id]:
                    wait.ended(change.seq, end)


def result_of(ticket: Ticket) -> Any:
    """Return the result of a ticket that has ended; None after an ack.

    Raises:
        TicketFailedError: the ticket was not done.
    """
    if ticket.status is Status.DONE:
        return ticket.result
    # A deleted ticket keeps its last state, and its error_reason is at most that of an earlier attempt.
    how = {Status.FAILED: "has failed", Status.CANCELLED: "was cancelled"}.get(ticket.status, "was deleted")
    reason = None if ticket.status is Status.PENDING else ticket.error_reason
    said = "" if reason is None else f": {reason}"
    raise TicketFailedError(f"ticket {ticket.id!r} ({ticket.type}) {how}{said}", ticket, reason)


def not_found(id: str) -> TicketNotFound:
    """Return the error for an id that no ticket has."""
    return TicketNotFound(f"ticket {id!r}: there is none; it was never added, or has been removed")


def last_state(id: str, records: Iterable[Record]) -> Ticket:
    """Return a removed ticket in its last state, given its history. O(records).

    Raises:
        TicketNotFound: the history has no such ticket.
    """
    ticket = last = None
    for record in records:
        event = record.event
        if isinstance(
            event, TicketAdded if ticket is None else TicketEvent
        ):  # a memory log may have dropped the beginning
            old, ticket = ticket, evolve(ticket, event, record.seq, record.at)
            if ticket is None and old is not None:
                last = ended(old, event, record.seq, record.at)
    if last is None:
        raise not_found(id)
    return last


# --- for groups -------------------------------------------------------------------------------------------------------


class GroupWait:
    """One wait for a group.

    It counts the pending members: the store's answer has the seq that it is as of, and the changes of later commits are
    added, including those delivered before the answer.
    """

    __slots__ = ("_count", "_early", "_emptied", "_over")

    def __init__(self) -> None:
        self._over = trio.Event()
        self._emptied = False
        self._count: int | None = None  # None: the store has not answered yet
        self._early: list[tuple[int, int]] = []

    async def until_empty(self, count: int, seq: int) -> bool:
        """Wait until no member is pending, and return True; return False if the queue was closed before.

        Args:
            count: the number of pending members as of `seq`.
            seq: the seq of the last record that `count` includes.
        """
        self._count, self._emptied = count, count == 0
        for changed_at, difference in self._early:
            if changed_at > seq:
                self._add(difference)
        if not self._emptied:
            await self._over.wait()
        return self._emptied

    def changed(self, seq: int, difference: int) -> None:
        """Take in a change of the number of pending members, by the commit that ends at `seq`. O(1)."""
        if self._count is None:
            self._early.append((seq, difference))
        else:
            self._add(difference)

    def _add(self, difference: int) -> None:
        assert self._count is not None
        self._count += difference
        if self._count == 0:
            self._emptied = True
            self._over.set()

    def closed(self) -> None:
        """End the wait, since the queue is closed."""
        self._over.set()


class GroupWaits(_Registry[GroupWait]):
    """All waits for groups of one queue, by name."""

    def __init__(self) -> None:
        super().__init__(GroupWait)

    def deliver(self, commit: Sequence[Change]) -> None:
        """Pass the changes in the numbers of members to the waits. O(changes); O(1) without any wait.

        A commit counts as a whole, since no task can see a state between its changes.
        """
        if not self.by_name:
            return
        differences: dict[str, int] = {}
        for change in commit:
            for ticket, step in ((change.old, -1), (change.new, 1)):
                for group, _ in () if ticket is None else memberships(ticket):
                    if group in self.by_name:
                        differences[group] = differences.get(group, 0) + step
        for group, difference in differences.items():
            if difference:
                for wait in self.by_name[group]:
                    wait.changed(commit[-1].seq, difference)


class Group:
    """A view of a group of tickets, as `kh.group(name)` gives it. A group may have no tickets.

    A ticket counts as a member while it is pending: delayed, ready, claimed or blocked. A ticket that was added again
    with another group while it ran counts in both groups until its claim ends.
    """

    def __init__(self, name: str, store: Store, waits: GroupWaits) -> None:
        self.name = name
        self._store = store
        self._waits = waits

    def __repr__(self) -> str:
        return f"<Group {self.name!r}>"

    async def pending_count(self) -> int:
        """Return the number of pending members. O(1)."""
        return (await self._store.pending_count(self.name))[0]

    async def all_terminal(self) -> bool:
        """Return whether no member is pending: all are done, failed, cancelled or removed. O(1)."""
        return not await self.pending_count()

    async def wait(self) -> None:
        """Wait until no member is pending for the first time. O(1).

        It waits for members that join meanwhile as well, also for those that join in the commit that ends the last one.
        To wait only for the present members, add a ticket with `after_group`, and wait for that ticket. Cancelling the
        wait changes nothing.
        """
        with self._waits.begin(self.name) as wait:
            if not await wait.until_empty(*await self._store.pending_count(self.name)):
                await self._store.pending_count(self.name)  # raises, since the queue is closed
