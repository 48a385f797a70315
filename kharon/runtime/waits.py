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
from kharon.model.ticket import Status, Ticket, memberships
from kharon.store.protocol import Change, Store

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

    def deliver(self, commit: Sequence[Change]) -> None:
        """Tell those who wait what has ended. O(changes), and O(1) while nobody waits."""
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
    """One task that waits for a group.

    It counts the members. The store's answer says as of which seq it holds; what is told of later commits is added,
    those that came before the answer included.
    """

    __slots__ = ("_count", "_early", "_emptied", "_over")

    def __init__(self) -> None:
        self._over = trio.Event()
        self._emptied = False
        self._count: int | None = None  # None: the store has not answered yet
        self._early: list[tuple[int, int]] = []

    async def until_empty(self, count: int, seq: int) -> bool:
        """Wait until no member is pending, or the queue is closed; return whether it is the former.

        Args:
            count: how many members were pending at that seq.
            seq: the last record that `count` includes.
        """
        self._count, self._emptied = count, count == 0
        for changed_at, difference in self._early:
            if changed_at > seq:
                self._add(difference)
        if not self._emptied:
            await self._over.wait()
        return self._emptied

    def changed(self, seq: int, difference: int) -> None:
        """Hear that a commit that ends at `seq` has changed the number of pending members. O(1)."""
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
        """Hear that nothing more will be told."""
        self._over.set()


class GroupWaits(_Registry[GroupWait]):
    """All who wait until a group has no pending members, by its name."""

    def __init__(self) -> None:
        super().__init__(GroupWait)

    def deliver(self, commit: Sequence[Change]) -> None:
        """Tell those who wait how a durable commit changed the number of members. O(changes) if anybody waits.

        Of the commit as a whole: between its changes there is no instant.
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
        return (await self._store.pending_count(self.name))[0]

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
            if not await wait.until_empty(*await self._store.pending_count(self.name)):
                await self._store.pending_count(self.name)  # raises: the queue is closed
