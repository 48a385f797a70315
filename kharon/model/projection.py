"""The projection: every living ticket, folded from the log, and the sorted views that find the next one.

Where a ticket stands is derived from the ticket and one instant, the *horizon* (the `now` of the last `promote`):

    pending, unclaimed, unblocked, runat <= horizon   ready    per tube by (nice, runat, order)
    pending, unclaimed, unblocked, runat >  horizon   waiting  by runat
    claimed                                           leases   by lease_until
    terminal, with expire_at                          expiring by expire_at
    anything else                                     in no index

so a ticket is in one index at the most, its key is computed from itself and never stored beside it, and time passing
moves tickets only inside `promote`. The projection decides nothing (`decide`) and knows no files; it does not copy what
it returns, since tickets are values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from sortedcontainers import SortedList

from kharon.model.events import Event, TicketEvent
from kharon.model.evolve import evolve
from kharon.model.ticket import Status, Ticket

__all__ = ["Fact", "Projection"]

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_Key: TypeAlias = tuple[Any, ...]


class Fact(Protocol):
    """What the projection needs of a record."""

    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def event(self) -> Event: ...


class Projection:
    """The state that a log folds to.

    Attributes:
        tickets: a read-only mapping of id to `Ticket`: pending ones and kept ones.
        seq: the seq of the last event applied; 0 before the first.
        at: the time of that event; None before the first.
        horizon: the `now` of the last `promote`.

    Two projections are equal if they hold equal tickets and stand at the same seq; how far time has been promoted is
    not part of what happened.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self.tickets: Mapping[str, Ticket] = MappingProxyType(self._tickets)
        self.seq = 0
        self.at: datetime | None = None
        self.horizon = _BEGINNING
        self._ready: dict[str, SortedList[_Key]] = {}
        self._waiting: SortedList[_Key] = SortedList()
        self._leases: SortedList[_Key] = SortedList()
        self._expiring: SortedList[_Key] = SortedList()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Projection):
            return NotImplemented
        return (self.seq, self.at, self._tickets) == (other.seq, other.at, other._tickets)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Projection of {len(self._tickets)} tickets at seq {self.seq}>"

    # --- changing it --------------------------------------------------------------------------------------------------

    def apply(self, event: Event, seq: int, at: datetime) -> tuple[Ticket | None, Ticket | None]:
        """Fold one event into the tickets and their indexes; return the ticket before and after it.

        Raises:
            KharonError: the event is about a ticket that does not exist.

        Cost: O(log n) comparisons for n tickets.
        """
        old = new = None
        if isinstance(event, TicketEvent):
            old = self._tickets.get(event.id)
            new = evolve(old, event, seq, at)
            if old is not None:
                self._unindex(old)
            if new is None:
                self._tickets.pop(event.id, None)
            else:
                self._tickets[event.id] = new
                self._index(new)
        self.seq = seq
        self.at = at
        return old, new

    def undo(self, event: Event, old: Ticket | None, seq: int, at: datetime | None) -> None:
        """Take back the newest event that was applied, as if it had never been: its record could not be written.

        Args:
            event: that event.
            old: the ticket before it, as `apply` returned it.
            seq: of the projection before it.
            at: of the projection before it.

        Time may have been promoted since. A ticket whose removal is taken back stands last in the order of `tickets`,
        where a replay would give it its old place; nothing else can tell the difference.

        Cost: O(log n) comparisons.
        """
        if isinstance(event, TicketEvent):
            new = self._tickets.get(event.id)
            if new is not None:
                self._unindex(new)
            if old is not None:
                self._tickets[event.id] = old
                self._index(old)
            else:
                self._tickets.pop(event.id, None)
        self.seq = seq
        self.at = at

    def fold(self, records: Iterable[Fact]) -> Projection:
        """Fold many records, and build the indexes once at the end. Return the projection itself.

        Cost: O(records) + O(n log n) for the n tickets that live at the end; an event costs a fraction of `apply`.
        """
        tickets = self._tickets
        seq, at = self.seq, self.at
        try:
            for record in records:
                event = record.event
                if isinstance(event, TicketEvent):
                    new = evolve(tickets.get(event.id), event, record.seq, record.at)
                    if new is None:
                        tickets.pop(event.id, None)
                    else:
                        tickets[event.id] = new
                seq, at = record.seq, record.at  # last: a record that raises has not been applied
        finally:
            self.seq, self.at = seq, at
            self._reindex()
        return self

    def load(self, tickets: Iterable[Ticket], seq: int, at: datetime) -> None:
        """Begin with the tickets of a snapshot, in their order. O(n log n) for n tickets."""
        self._tickets.clear()
        self._tickets.update((ticket.id, ticket) for ticket in tickets)
        self.seq, self.at = seq, at
        self._reindex()

    def promote(self, now: datetime) -> int:
        """Move what has become due by `now` from the waiting to the ready; return how many tickets moved.

        A `now` before the horizon (the clock was set back) takes back what is not due any more.

        Cost: O(moved log n); O(1) if nothing is due; measured 1 µs a ticket if many are due at once. A backward step
        costs O(ready).
        """
        if now < self.horizon:
            return self._demote(now)
        self.horizon = now
        waiting = self._waiting
        if not waiting or waiting[0][0] > now:
            return 0
        count = waiting.bisect_right((now, math.inf))
        due: dict[str, list[_Key]] = {}
        for runat, order, id in waiting[:count]:
            ticket = self._tickets[id]
            due.setdefault(ticket.tube, []).append((ticket.nice, runat, order, id))
        del waiting[:count]
        for tube, keys in due.items():
            self._ready.setdefault(tube, SortedList()).update(keys)  # many at once are sorted in, not inserted
        return count

    def _demote(self, now: datetime) -> int:
        self.horizon = now
        back = [key for ready in self._ready.values() for key in ready if key[1] > now]
        for nice, runat, order, id in back:
            self._discard_ready(self._tickets[id].tube, (nice, runat, order, id))
            self._waiting.add((runat, order, id))
        return len(back)

    # --- the indexes --------------------------------------------------------------------------------------------------

    def _index(self, ticket: Ticket) -> None:
        if ticket.status is not Status.PENDING:
            if ticket.expire_at is not None:
                self._expiring.add((ticket.expire_at, ticket.id))
        elif ticket.claim is not None:
            self._leases.add((ticket.lease_until, ticket.id))
        elif not ticket.blocked_by:
            runat: Any = ticket.runat
            if runat <= self.horizon:
                ready = self._ready.get(ticket.tube)
                if ready is None:
                    ready = self._ready[ticket.tube] = SortedList()
                ready.add((ticket.nice, runat, ticket.order, ticket.id))
            else:
                self._waiting.add((runat, ticket.order, ticket.id))

    def _unindex(self, ticket: Ticket) -> None:
        if ticket.status is not Status.PENDING:
            if ticket.expire_at is not None:
                self._expiring.remove((ticket.expire_at, ticket.id))
        elif ticket.claim is not None:
            self._leases.remove((ticket.lease_until, ticket.id))
        elif not ticket.blocked_by:
            runat: Any = ticket.runat
            if runat <= self.horizon:
                self._discard_ready(ticket.tube, (ticket.nice, runat, ticket.order, ticket.id))
            else:
                self._waiting.remove((runat, ticket.order, ticket.id))

    def _discard_ready(self, tube: str, key: _Key) -> None:
        ready = self._ready[tube]
        ready.remove(key)
        if not ready:
            del self._ready[tube]  # tubes come and go; their names must not stay

    def _reindex(self) -> None:
        """Build all indexes from the tickets, by sorting once instead of inserting one by one."""
        ready: dict[str, list[_Key]] = {}
        waiting: list[_Key] = []
        leases: list[_Key] = []
        expiring: list[_Key] = []
        for ticket in self._tickets.values():
            if ticket.status is not Status.PENDING:
                if ticket.expire_at is not None:
                    expiring.append((ticket.expire_at, ticket.id))
            elif ticket.claim is not None:
                leases.append((ticket.lease_until, ticket.id))
            elif not ticket.blocked_by:
                runat: Any = ticket.runat
                if runat <= self.horizon:
                    ready.setdefault(ticket.tube, []).append((ticket.nice, runat, ticket.order, ticket.id))
                else:
                    waiting.append((runat, ticket.order, ticket.id))
        self._ready = {tube: SortedList(keys) for tube, keys in ready.items()}
        self._waiting, self._leases, self._expiring = SortedList(waiting), SortedList(leases), SortedList(expiring)

    # --- asking it ----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Ticket | None:
        """Return the ticket of this id, or None. O(1)."""
        return self._tickets.get(id)

    def first_ready(self, tubes: Iterable[str]) -> Ticket | None:
        """Return the ticket to claim next from these tubes: lowest nice, then earliest runat, then first added.

        Only tickets that `promote` has moved are ready. Cost: O(tubes).
        """
        heads = [ready[0] for tube in tubes if (ready := self._ready.get(tube))]
        return self._tickets[min(heads)[-1]] if heads else None

    def ready_count(self, tubes: Iterable[str]) -> int:
        """Return how many tickets are ready in these tubes. O(tubes)."""
        return sum(len(ready) for tube in tubes if (ready := self._ready.get(tube)))

    def ahead(self, ticket: Ticket, tubes: Iterable[str], now: datetime) -> int:
        """Return how many tickets in these tubes are due at `now` and would be claimed before this one.

        Args:
            ticket: one that waits and is not blocked.
            tubes: the tubes to claim from.
            now: an instant; what has been promoted so far does not matter, and stays.

        Cost: O(tubes log n) + O(tickets that have become due since the horizon); O(ready) if `now` lies before that.
        """
        wanted = set(tubes)
        key = (ticket.nice, ticket.runat, ticket.order, ticket.id)
        count = 0
        for tube in wanted & self._ready.keys():
            before = self._ready[tube]
            end = before.bisect_left(key)
            count += end if now >= self.horizon else sum(runat <= now for _, runat, _, _ in before[:end])
        for runat, order, id in self._waiting:
            if runat > now:
                break
            other = self._tickets[id]
            count += other.tube in wanted and (other.nice, runat, order, id) < key
        return count

    def lapsed(self, now: datetime, limit: int) -> list[Ticket]:
        """Return the claimed tickets whose lease has ended by `now`, earliest end first, `limit` at most. O(limit)."""
        return self._until(self._leases, now, limit)

    def expired(self, now: datetime, limit: int) -> list[Ticket]:
        """Return the kept tickets whose `expire_at` has come by `now`, earliest first, `limit` at most. O(limit)."""
        return self._until(self._expiring, now, limit)

    def _until(self, index: SortedList[_Key], now: datetime, limit: int) -> list[Ticket]:
        found: list[Ticket] = []
        for instant, id in index:
            if instant > now or len(found) == limit:
                break
            found.append(self._tickets[id])
        return found

    def claimed(self) -> Iterator[Ticket]:
        """Return the claimed tickets, earliest end of lease first. O(claimed)."""
        return (self._tickets[id] for _, id in self._leases)

    def next_instant(self, *, expiration: bool) -> datetime | None:
        """Return when something will next happen by itself: a ticket due, a lease ended, a kept one expired.

        Args:
            expiration: whether expiries count.

        Cost: O(1).
        """
        heads = [self._waiting, self._leases, self._expiring] if expiration else [self._waiting, self._leases]
        return min((index[0][0] for index in heads if index), default=None)

    # --- proving it ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Prove that the indexes say what the tickets say.

        Raises:
            AssertionError: naming the first thing that is not so.

        Cost: O(n log n).
        """
        for index in (self._waiting, self._leases, self._expiring, *self._ready.values()):
            index._check()  # type: ignore[attr-defined] # the library's own check, missing in its stubs
        expected = Projection()
        expected._tickets.update(self._tickets)
        expected.horizon = self.horizon
        expected._reindex()
        for name in ("_ready", "_waiting", "_leases", "_expiring"):
            mine, theirs = getattr(self, name), getattr(expected, name)
            assert mine == theirs, f"{name}: {mine} is not {theirs}"
        for id, ticket in self._tickets.items():
            _check_ticket(id, ticket, self.seq)


def _check_ticket(id: str, ticket: Ticket, seq: int) -> None:
    assert ticket.id == id, f"{ticket!r} is filed as {id!r}"
    assert type(ticket) is Ticket, f"{id!r}: {type(ticket).__name__} was never sealed"
    assert 0 < ticket.order <= ticket.version <= seq, (
        f"{id!r}: order {ticket.order}, version {ticket.version}, seq {seq}"
    )
    assert ticket.runat is not None, f"{id!r} has no runat"
    assert None not in (ticket.ctime, ticket.mtime), f"{id!r} has no ctime or mtime"
    assert ticket.attempts >= 0, f"{id!r}: {ticket.attempts} attempts"
    claimed = (ticket.claim is not None, ticket.lease_until is not None, ticket.worker is not None)
    assert claimed in ((True,) * 3, (False,) * 3), f"{id!r}: half claimed {claimed}"
    pending = ticket.status is Status.PENDING
    assert pending or not claimed[0], f"{id!r} is {ticket.status} and claimed"
    assert not pending or ticket.expire_at is None, f"{id!r} is pending and expires"
    assert claimed[0] or ticket.successor is None, f"{id!r} has a successor and no claim"
