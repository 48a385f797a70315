"""The projection: all tickets, folded from the log, and the sorted views that find the next one.

Where a ticket stands is derived from the ticket and one instant, the *horizon* (the `now` of the last `promote`):

    pending, unclaimed, unblocked, runat <= horizon   ready    per tube by (nice, runat, order), in `ready`
    pending, unclaimed, unblocked, runat >  horizon   delayed  by runat
    claimed                                           leases   by lease_until
    terminal, with expire_at                          expiring by expire_at
    anything else                                     in no index

So a ticket is in at most one of these (which tickets block which is in `groups`). Its key is computed from itself and
never stored beside it, and only `promote` moves tickets because time passes. Everything besides tickets is in a `Table`
of its own. The projection decides nothing (`decide`) and knows no files. It returns tickets without copying them, since
they are values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from sortedcontainers import SortedList

from kharon.model.events import Event, TicketClaimed, TicketEvent, TubeEvent
from kharon.model.evolve import evolve
from kharon.model.groups import Groups
from kharon.model.ready import Key, ReadyTickets
from kharon.model.schedules import Schedules
from kharon.model.tables import Row, Table
from kharon.model.ticket import Status, Ticket, waits_of
from kharon.model.tubes import Limit, Tube, Tubes, room

__all__ = ["Change", "Effect", "Fact", "Projection"]

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class Change(msgspec.Struct, frozen=True):
    """An event of the queue, and its ticket before and after it.

    Attributes:
        seq: the record's.
        at: the record's time.
        event: the event.
        old: the ticket before it; None: there was none, or the event is not about a ticket.
        new: the ticket after it; None: there is none.
    """

    seq: int
    at: datetime
    event: Event
    old: Ticket | None
    new: Ticket | None


class Effect(Change, frozen=True):
    """A change, with what it takes to undo it: one object for both, since one is made for each event.

    Attributes:
        before: the time of the record before it; None: there was none.
        displaced: what its table needs to take it back; None: nothing but tickets changed.
    """

    before: datetime | None = None
    displaced: object = None


class Fact(Protocol):
    """The part of a record that the projection needs."""

    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def event(self) -> Event: ...


class Projection:
    """The state that a log folds to.

    Attributes:
        tickets: a read-only mapping of id to `Ticket`, pending and kept.
        seq: the seq of the last event applied; 0 before the first.
        at: the time of that event; None before the first.
        horizon: the `now` of the last `promote`.
        groups: the pending members of each group, and the tickets that wait for others.
        tubes: the pauses and limits of tubes.
        schedules: the schedules.
        tables: everything besides tickets, in a fixed order.

    Two projections are equal if they hold equal tickets and equal tables, and stand at the same seq. The horizon does
    not count, since it is not part of the history.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self.tickets: Mapping[str, Ticket] = MappingProxyType(self._tickets)
        self.seq = 0
        self.at: datetime | None = None
        self.horizon = _BEGINNING
        self._delayed: SortedList[Key] = SortedList()
        self._leases: SortedList[Key] = SortedList()
        self._expiring: SortedList[Key] = SortedList()
        self.groups = Groups()
        self.tubes = Tubes()
        self.schedules = Schedules()
        self._ready = ReadyTickets(self.tubes)
        self.tables: tuple[Table, ...] = (self.tubes, self.schedules)
        self._tables: dict[type[Event], Table] = {event: table for table in self.tables for event in table.events}
        self._inserted: list[str] | None = None  # while a commit may be taken back: the ids that it inserted,
        self._removed: list[str] = []  # and those that it removed, which are in `_tickets` as None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Projection):
            return NotImplemented
        mine, theirs = (self.seq, self.at, self._tickets), (other.seq, other.at, other._tickets)
        return mine == theirs and self.tables == other.tables

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Projection of {len(self._tickets)} tickets at seq {self.seq}>"

    # --- changing it --------------------------------------------------------------------------------------------------

    def apply(self, event: Event, seq: int, at: datetime) -> Effect:
        """Fold one event into the tickets and their indexes; return its effect.

        Raises:
            KharonError: the event is about a ticket that does not exist, or cannot have happened.

        Cost: O(log n) comparisons for n tickets.
        """
        before = self.at
        if not isinstance(event, TicketEvent):
            table = self._tables.get(type(event))
            displaced = None if table is None else table.apply(event, seq, at)
            if isinstance(event, TubeEvent):
                self._ready.touch(event.tube)
            self.seq, self.at = seq, at
            return Effect(seq, at, event, None, None, before, displaced)
        old = self._tickets.get(event.id)
        new = evolve(old, event, seq, at)
        if old is not None:
            self._unindex(old)
        if new is not None:
            if old is None and self._inserted is not None:
                self._inserted.append(event.id)
            self._tickets[event.id] = new
            self._index(new)
        elif self._inserted is None:
            self._tickets.pop(event.id, None)
        else:
            self._removed.append(event.id)
            self._tickets[event.id] = None  # type: ignore[assignment] # keeps its place
        displaced = self._note_claim(old, event, at) if self.tubes.times else None
        self.seq, self.at = seq, at
        return Effect(seq, at, event, old, new, before, displaced)

    def _note_claim(self, ticket: Ticket | None, event: TicketEvent, at: datetime) -> tuple[datetime | None] | None:
        """Note a claim from a tube with a limit per period; return the time that it displaced; None: not noted."""
        if type(event) is not TicketClaimed or ticket is None or ticket.tube not in self.tubes.times:
            return None
        return (self.tubes.claim(ticket.tube, at),)

    def undo(self, effect: Effect) -> None:
        """Undo the newest event that was applied, as if it had never been: its record could not be written.

        Args:
            effect: its effect.

        Time may have been promoted since. If the removal of a ticket is undone after its commit was kept, the ticket is
        last in the order of `tickets`, where a replay would give it its old place. Nothing else differs.

        Cost: O(log n) comparisons.
        """
        event, old = effect.event, effect.old
        if isinstance(event, TicketEvent):
            new = self._tickets.get(event.id)
            if new is not None:
                self._unindex(new)
            if old is not None:
                self._tickets[event.id] = old
                self._index(old)
            elif self._inserted is None:
                self._tickets.pop(event.id, None)
            else:
                self._tickets[event.id] = None  # type: ignore[assignment] # `end` drops it
            if effect.displaced is not None:
                assert old is not None
                self.tubes.unclaim(old.tube, *effect.displaced)  # type: ignore[misc] # as `_note_claim` returned it
        elif effect.displaced is not None:
            self._tables[type(event)].undo(event, effect.displaced)
            if isinstance(event, TubeEvent):
                self._ready.touch(event.tube)
        self.seq, self.at = effect.seq - 1, effect.before

    def begin(self) -> None:
        """Begin a commit that may be undone: until `end` a removed ticket keeps its place in `tickets`. O(1)."""
        assert self._inserted is None
        self._inserted, self._removed = [], []

    def end(self, *, kept: bool) -> None:
        """End a commit that was kept, or undone as a whole: `tickets` is now in the order of a replay.

        Cost: O(events of the commit).
        """
        tickets, inserted, removed = self._tickets, self._inserted, self._removed
        assert inserted is not None
        self._inserted = None
        for id in (*inserted, *removed):
            if tickets.get(id, id) is None:
                del tickets[id]
        if kept and not set(removed).isdisjoint(inserted):
            # A ticket that was removed and added again is still in its old place; put it behind those added before it.
            for id in reversed(dict.fromkeys(reversed(inserted))):
                if id in tickets:
                    tickets[id] = tickets.pop(id)

    def fold(self, records: Iterable[Fact]) -> Projection:
        """Fold many records, and build the indexes once at the end. Return the projection itself.

        Cost: O(records) + O(n log n) for the n tickets that live at the end; an event costs a fraction of `apply`.
        """
        tickets, limited = self._tickets, self.tubes.times
        seq, at = self.seq, self.at
        try:
            for record in records:
                event = record.event
                if isinstance(event, TicketEvent):
                    old = tickets.get(event.id)
                    new = evolve(old, event, record.seq, record.at)
                    if new is None:
                        tickets.pop(event.id, None)
                    else:
                        tickets[event.id] = new
                    if limited:
                        self._note_claim(old, event, record.at)
                elif (table := self._tables.get(type(event))) is not None:
                    table.apply(event, record.seq, record.at)
                seq, at = record.seq, record.at  # last: a record that raises has not been applied
        finally:
            self.seq, self.at = seq, at
            self._reindex()
        return self

    def others(self) -> list[Row]:
        """Return the rows of all tables, in a fixed order. O(their number)."""
        return [value for table in self.tables for value in table.values()]

    def load(self, tickets: Iterable[Ticket], seq: int, at: datetime, others: Sequence[Row] = ()) -> None:
        """Begin with the tickets of a snapshot, in their order, and its rows. O(n log n) for n tickets."""
        self._tickets.clear()
        self._tickets.update((ticket.id, ticket) for ticket in tickets)
        for table in self.tables:
            table.load([value for value in others if type(value) is table.value])
        self.seq, self.at = seq, at
        self._reindex()

    def promote(self, now: datetime) -> int:
        """Make the delayed tickets that are due at `now` ready; return how many there were.

        If `now` is before the horizon (the clock was set back), ready tickets that are no longer due are delayed again.

        Cost: O(moved log n); O(1) if nothing is due; measured 1 µs a ticket if many are due at once. A backward step
        costs O(ready).
        """
        self._ready.promote(now if self.at is None or self.at < now else self.at)
        if now < self.horizon:
            return self._demote(now)
        self.horizon = now
        delayed = self._delayed
        if not delayed or delayed[0][0] > now:
            return 0
        count = delayed.bisect_right((now, math.inf))
        due: dict[str, list[Key]] = {}
        for runat, order, id in delayed[:count]:
            ticket = self._tickets[id]
            due.setdefault(ticket.tube, []).append((ticket.nice, runat, order, id))
        del delayed[:count]
        for tube, keys in due.items():
            self._ready.update(tube, keys)
        return count

    def _demote(self, now: datetime) -> int:
        self.horizon = now
        back = [key for ready in self._ready.ready.values() for key in ready if key[1] > now]
        for nice, runat, order, id in back:
            self._ready.discard(self._tickets[id].tube, (nice, runat, order, id))
            self._delayed.add((runat, order, id))
        return len(back)

    # --- the indexes --------------------------------------------------------------------------------------------------

    def _index(self, ticket: Ticket) -> None:
        if ticket.joined or ticket.gate is not None or ticket.successor is not None:
            self.groups.index(ticket)
        if ticket.status is not Status.PENDING:
            if ticket.expire_at is not None:
                self._expiring.add((ticket.expire_at, ticket.id))
        elif ticket.claim is not None:
            self._leases.add((ticket.lease_until, ticket.id))
            self._ready.claim(ticket.tube)
        elif ticket.gate is None or not ticket.blocked:
            runat: Any = ticket.runat
            if runat <= self.horizon:
                self._ready.add(ticket.tube, (ticket.nice, runat, ticket.order, ticket.id))
            else:
                self._delayed.add((runat, ticket.order, ticket.id))

    def _unindex(self, ticket: Ticket) -> None:
        if ticket.joined or ticket.gate is not None or ticket.successor is not None:
            self.groups.unindex(ticket)
        if ticket.status is not Status.PENDING:
            if ticket.expire_at is not None:
                self._expiring.remove((ticket.expire_at, ticket.id))
        elif ticket.claim is not None:
            self._leases.remove((ticket.lease_until, ticket.id))
            self._ready.unclaim(ticket.tube)
        elif ticket.gate is None or not ticket.blocked:
            runat: Any = ticket.runat
            if runat <= self.horizon:
                self._ready.discard(ticket.tube, (ticket.nice, runat, ticket.order, ticket.id))
            else:
                self._delayed.remove((runat, ticket.order, ticket.id))

    def _reindex(self) -> None:
        """Build all indexes from the tickets, by sorting once instead of inserting one by one."""
        ready: dict[str, list[Key]] = {}
        delayed: list[Key] = []
        leases: list[Key] = []
        expiring: list[Key] = []
        claimed: dict[str, int] = {}
        groups = self.groups = Groups()
        for ticket in self._tickets.values():
            if ticket.joined or ticket.gate is not None or ticket.successor is not None:
                groups.index(ticket)
            if ticket.status is not Status.PENDING:
                if ticket.expire_at is not None:
                    expiring.append((ticket.expire_at, ticket.id))
            elif ticket.claim is not None:
                leases.append((ticket.lease_until, ticket.id))
                claimed[ticket.tube] = claimed.get(ticket.tube, 0) + 1
            elif ticket.gate is None or not ticket.blocked:
                runat: Any = ticket.runat
                if runat <= self.horizon:
                    ready.setdefault(ticket.tube, []).append((ticket.nice, runat, ticket.order, ticket.id))
                else:
                    delayed.append((runat, ticket.order, ticket.id))
        self._ready.begin(ready, claimed, self.horizon if self.at is None else max(self.horizon, self.at))
        self._delayed, self._leases, self._expiring = SortedList(delayed), SortedList(leases), SortedList(expiring)

    # --- asking it ----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Ticket | None:
        """Return the ticket of this id, or None. O(1)."""
        return self._tickets.get(id)

    def first_ready(self, tubes: Iterable[str]) -> Ticket | None:
        """Return the ticket to claim next from these tubes: lowest nice, then earliest runat, then first added.

        Only tickets that `promote` has moved are ready. Tickets in a tube that is paused, or at its limit, are passed
        over.

        Cost: O(log n) for the tuple of tubes of the last call, which has an index; for another O(tubes log n).
        """
        ready_tickets = self._ready
        if tubes is not ready_tickets.watched:
            ready_tickets.watch(tubes)
        key = ready_tickets.first()
        return None if key is None else self._tickets[key[-1]]

    def ready_count(self, tubes: Iterable[str]) -> int:
        """Return how many tickets could be claimed from these tubes now, one after the other. Cost as `first_ready`."""
        ready_tickets = self._ready
        if tubes is not ready_tickets.watched:
            ready_tickets.watch(tubes)
        return ready_tickets.count()

    def tube(self, name: str, now: datetime | None = None) -> Tube:
        """Return a tube as of the last `promote`; with `now`, whether it is open as of then. O(log n)."""
        ready_tickets, state = self._ready, self.tubes.get(name)
        ready, claimed = len(ready_tickets.ready.get(name, ())), ready_tickets.claimed.get(name, 0)
        if state is None:
            return Tube(name, None, None, ready, claimed, True, None)
        limits = (state.claimed, state.claims, state.period)
        free, instant = self._room(name, now)
        limit = None if limits == (None, None, None) else Limit(*limits)
        reopens_at = instant if free == 0 else None
        return Tube(name, state.paused_since, limit, ready, claimed, free != 0, reopens_at, state.paused_seq)

    def room(self, tube: str, now: datetime) -> int | None:
        """Return how many claims the limits of a tube allow at `now`; None: any number. O(log n)."""
        return self._room(tube, now)[0]

    def _room(self, tube: str, now: datetime | None) -> tuple[int | None, datetime | None]:
        ready_tickets, state = self._ready, self.tubes.get(tube)
        if state is None:
            return None, None
        assert self.at is not None  # a record set its state
        now = ready_tickets.now if now is None else max(now, self.at)  # as the record of a claim would have it
        return room(state, ready_tickets.claimed.get(tube, 0), self.tubes.times.get(tube, ()), now)

    def ahead(self, ticket: Ticket, tubes: Iterable[str], now: datetime) -> int:
        """Return how many tickets in these tubes are due at `now` and would be claimed before this one.

        Of another tube, at most as many as may be claimed from it now: none, if it is paused or at its limit. Of the
        ticket's own tube all of them, since it comes behind them, whatever the limit.

        Args:
            ticket: an unclaimed ticket that is not blocked.
            tubes: the tubes to claim from.
            now: an instant; the horizon does not matter, and stays.

        Cost: O(tubes log n) + O(tickets that have become due since the horizon); O(ready) if `now` lies before that.
        """
        key = (ticket.nice, ticket.runat, ticket.order, ticket.id)
        counts = dict.fromkeys(tubes, 0)
        for tube in counts.keys() & self._ready.ready.keys():
            before = self._ready.ready[tube]
            end = before.bisect_left(key)
            counts[tube] = end if now >= self.horizon else sum(runat <= now for _, runat, _, _ in before[:end])
        for runat, order, id in self._delayed:
            if runat > now:
                break
            other = self._tickets[id]
            if other.tube in counts and (other.nice, runat, order, id) < key:
                counts[other.tube] += 1
        ahead = 0
        for tube, count in counts.items():
            free = None if tube == ticket.tube else self.room(tube, now)
            ahead += count if free is None else min(count, free)
        return ahead

    def lapsed(self, now: datetime, limit: int) -> list[Ticket]:
        """Return at most `limit` claimed tickets whose lease has ended by `now`, earliest end first. O(limit)."""
        return self._until(self._leases, now, limit)

    def expired(self, now: datetime, limit: int) -> list[Ticket]:
        """Return at most `limit` kept tickets whose `expire_at` has come by `now`, earliest first. O(limit)."""
        return self._until(self._expiring, now, limit)

    def _until(self, index: SortedList[Key], now: datetime, limit: int) -> list[Ticket]:
        found: list[Ticket] = []
        for instant, id in index:
            if instant > now or len(found) == limit:
                break
            found.append(self._tickets[id])
        return found

    def claimed(self) -> Iterator[Ticket]:
        """Yield the claimed tickets, earliest end of lease first. O(claimed)."""
        return (self._tickets[id] for _, id in self._leases)

    def next_instant(self, *, expiration: bool) -> datetime | None:
        """Return when time alone will next change something: a ticket is due, a lease ends, a kept ticket expires.

        Or when a tube of the last `first_ready` has room in its limit again.

        Args:
            expiration: whether expiries count.

        Cost: O(1); with tubes that are limited per period as `first_ready`.
        """
        indexes = [self._delayed, self._leases, self._expiring] if expiration else [self._delayed, self._leases]
        earliest = self._ready.next_instant()
        for index in indexes:
            if index and (earliest is None or index[0][0] < earliest):
                earliest = index[0][0]
        return earliest

    # --- proving it ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Prove that the indexes agree with the tickets.

        Raises:
            AssertionError: they do not; it names the first difference.

        Cost: O(n log n).
        """
        for index in (self._delayed, self._leases, self._expiring):
            index._check()  # type: ignore[attr-defined] # noqa: SLF001 - the library's own check, missing in its stubs
        expected = Projection()
        expected._tickets.update(self._tickets)
        expected.horizon = self.horizon
        expected.tubes = self.tubes
        expected._ready = ReadyTickets(self.tubes)
        expected._reindex()
        expected._ready.now = self._ready.now  # not an index: only `promote` knows it
        assert self._inserted is None, "a commit has not been ended"
        for name in ("_delayed", "_leases", "_expiring", "groups"):
            mine, theirs = getattr(self, name), getattr(expected, name)
            assert mine == theirs, f"{name}: {mine} is not {theirs}"
        self._ready.check(expected._ready)
        for table in self.tables:
            table.check(self.seq, self.at)
        for id, ticket in self._tickets.items():
            _check_ticket(id, ticket, self.seq)
            self._check_waits(id, ticket)

    def _check_waits(self, id: str, ticket: Ticket) -> None:
        """Assert that each ticket that blocks another exists and is pending, so that nothing is blocked for ever."""
        waits = waits_of(ticket)
        for blocker in waits.blocked_by:
            other = self._tickets.get(blocker)
            assert other is not None, f"{id!r} waits for {blocker!r}, which does not exist"
            assert other.status is Status.PENDING, f"{id!r} waits for {blocker!r}, which has ended"
        if waits.gate is not None and waits.gate.since:
            assert next(self.groups.members(waits), None) is not None, f"{id!r} waits for a group without members"


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
    for one in (ticket, waits_of(ticket)):
        _check_gate(id, one, seq)
    if ticket.successor is not None and ticket.successor.group == ticket.group:
        assert ticket.successor.joined == ticket.joined, f"{id!r} is in {ticket.group!r} twice"


def _check_gate(id: str, ticket: Ticket, seq: int) -> None:
    pending, gate = ticket.status is Status.PENDING, ticket.gate
    member = pending and ticket.group is not None
    assert (0 < ticket.joined <= seq) if member else ticket.joined == 0, f"{id!r}: joined {ticket.joined}"
    if gate is None:
        assert not ticket.blocked_by, f"{id!r} has no gate, and is blocked by {ticket.blocked_by}"
        return
    assert 0 <= gate.since <= seq, f"{id!r} waits since {gate.since}"
    assert not gate.since or gate.after_group is not None, f"{id!r} waits for no group"
    assert set(ticket.blocked_by) <= set(gate.after), f"{id!r} is blocked by {ticket.blocked_by}"
    assert not ticket.blocked or (pending and ticket.claim is None), f"{id!r} is blocked, and claimed or ended"
