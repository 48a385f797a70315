"""A workload: the work of a queue without the effects of clock and settings, in little memory.

A whole log must be recorded before its first ticket can be simulated, since the log tells an attempt's duration and end
only later. So tickets are kept as numbers, in columns:

    a ticket          20 to 30 bytes: a digest of its id, and where its attempts begin
    an adding         28 bytes: when, which ticket, its kind, its group, when it is due
    an attempt        25 bytes: its duration, its end, when the ticket was due again

Rare facts are kept as objects: dependencies, acts of people, extensions of leases; and each combination of type, tube
and nice once. Payloads, results, reasons, ids and groups are not kept: the id of a simulated ticket is a number, in the
order in which the ids appeared, and so is a group. (Digests have 64 bits. Among a million ids, the probability that any
two are taken for one is 3 in 100 million.)
"""

from __future__ import annotations

import enum
import math
from array import array
from collections.abc import Hashable, Iterator
from datetime import datetime, timedelta
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import attrs
import msgspec
from msgspec import UNSET, Raw

from kharon.model import events as e
from kharon.model.ticket import CHECKS

__all__ = ["Act", "Acts", "Ending", "Names", "Run", "Runs", "Workload"]

_NULL: Final = Raw(b"null")
_MICROSECOND: Final = timedelta(microseconds=1)
_H = TypeVar("_H", bound=Hashable)


class Ending(enum.StrEnum):
    """How an attempt ended."""

    ACKED = "acked"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    LAPSED = "lapsed"


_ENDINGS: Final = tuple(Ending)


@attrs.frozen(slots=True)
class Run:
    """A recorded attempt.

    Attributes:
        seconds: its duration, or the time until its lease ended.
        ending: how it ended. RETRIED also if it failed only because no attempts were left.
        delay: if it was retried, seconds until it was due again; otherwise None.
        keep: whether a cancelled ticket was kept.
        expire_in: seconds after which a kept ticket was to be removed; None: never.
        extends: its extensions of the lease: seconds since its beginning, and the length of the new lease in seconds.
    """

    seconds: float
    ending: Ending
    delay: float | None = None
    keep: bool = False
    expire_in: float | None = None
    extends: tuple[tuple[float, float], ...] = ()


@attrs.frozen(slots=True)
class Act:
    """An act on the queue from outside: an adding, or an operation on a ticket or a tube.

    Attributes:
        at: when, UTC.
        event: the event; without payload, result and reason, and with numbers for ids and groups.
    """

    at: datetime
    event: e.TicketEvent | e.TubeEvent


class Names:
    """Numbers for names, in the order of their first use. Only digests of the names are kept."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._slots = array("I", bytes(8 * 4))  # 0: free; otherwise a number + 1, at the place that its digest selects

    def __len__(self) -> int:
        return len(self._digests)

    def number(self, name: str) -> int:
        """Return the number of a name; a new name gets the next number. O(1) amortised."""
        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
        slot = self._slot(digest)
        if not self._slots[slot]:
            self._digests.append(digest)
            self._slots[slot] = len(self._digests)
            if 3 * len(self._digests) > 2 * len(self._slots):
                self._grow()
            return len(self._digests) - 1
        return self._slots[slot] - 1

    def written(self, name: str) -> str:
        """Return the number of a name as ten digits, which sort like the number."""
        return f"{self.number(name):010}"

    def _slot(self, digest: int) -> int:
        """Return the slot of a digest, or the free slot for it."""
        slots, digests = self._slots, self._digests
        slot = digest % len(slots)
        while slots[slot] and digests[slots[slot] - 1] != digest:
            slot = (slot + 1) % len(slots)
        return slot

    def _grow(self) -> None:
        self._slots = array("I", bytes(2 * 4 * len(self._slots)))
        for number, digest in enumerate(self._digests, 1):
            self._slots[self._slot(digest)] = number


class _Kinds(Generic[_H]):
    """Distinct values, each kept once, with a number for each."""

    def __init__(self) -> None:
        self.all: list[_H] = []
        self._numbers: dict[_H, int] = {}

    def number(self, value: _H) -> int:
        number = self._numbers.setdefault(value, len(self.all))
        if number == len(self.all):
            self.all.append(value)
        return number


class Acts:
    """The acts, in order. Iterating creates an `Act` for each, and may be repeated."""

    def __init__(self, tickets: Names) -> None:
        self._tickets = tickets
        self._groups = Names()
        self._begin: datetime | None = None
        self._at = array("q")  # in µs since the first act, as is `_runat`
        self._number = array("I")
        self._runat = array("q")
        self._kind = array("I")
        self._group = array("I")  # 0: none; else a number + 1
        self._kinds = _Kinds[tuple[Any, ...]]()
        self._gates: dict[int, tuple[tuple[str, ...], str | None, str]] = {}
        self._others: dict[int, e.TicketEvent | e.TubeEvent] = {}

    def __len__(self) -> int:
        return len(self._at)

    def add(self, at: datetime, event: e.TicketEvent | e.TubeEvent) -> None:
        """Add the next act. O(1)."""
        self._begin = self._begin or at
        if isinstance(event, e.TicketAdded):
            if event.after or event.after_group is not None:
                after = tuple(map(self._tickets.written, event.after))
                self._gates[len(self)] = after, self._written(event.after_group), event.on_failure
            group = 0 if event.group is None else self._groups.number(event.group) + 1
            kind = self._kinds.number(_kind_of(event))
            row = self._tickets.number(event.id), self._after(event.runat), kind, group
        else:
            self._others[len(self)] = self._bare(event)
            row = 0, 0, 0, 0
        self._at.append(self._after(at))
        for column, value in zip((self._number, self._runat, self._kind, self._group), row, strict=True):
            column.append(value)

    def __iter__(self) -> Iterator[Act]:
        begin = self._begin
        for place, at in enumerate(self._at):
            assert begin is not None
            yield Act(begin + at * _MICROSECOND, self._others.get(place) or self._added(place, begin))

    def _added(self, place: int, begin: datetime) -> e.TicketAdded:
        group = f"{self._group[place] - 1:010}" if self._group[place] else None
        after, after_group, on_failure = self._gates.get(place, ((), None, "run"))
        return e.TicketAdded(
            id=f"{self._number[place]:010}",
            payload_json=_NULL,
            runat=begin + self._runat[place] * _MICROSECOND,
            group=group,
            after=after,
            after_group=after_group,
            on_failure=on_failure,
            **dict(zip(_KIND, self._kinds.all[self._kind[place]], strict=True)),
        )

    def _after(self, at: datetime) -> int:
        assert self._begin is not None
        return (at - self._begin) // _MICROSECOND

    def _written(self, group: str | None) -> str | None:
        return None if group is None else self._groups.written(group)

    def _bare(self, event: e.TicketEvent | e.TubeEvent) -> e.TicketEvent | e.TubeEvent:
        """Return an event other than an adding without the fields that are not kept."""
        if isinstance(event, e.TubeEvent):
            return event
        less: dict[str, Any] = {"id": self._tickets.written(event.id)}
        less |= {name: value for name, value in _DROPPED.items() if hasattr(event, name)}
        changes: e.Changes | None = getattr(event, "changes", None)
        if changes is not None:
            group = changes.group if changes.group is UNSET else self._written(changes.group)
            less["changes"] = msgspec.structs.replace(changes, payload_json=UNSET, group=group)
        return msgspec.structs.replace(event, **less)


_KIND: Final = [name for name in CHECKS if name not in {"id", "payload", "runat", "group"}]
"""The fields that many tickets have in common."""
_kind_of: Final = attrgetter(*_KIND)
_DROPPED: Final = {"error_reason": None, "result_json": UNSET}


class Runs:
    """The attempts of each ticket, in order.

    A place is an attempt's position among all attempts, counted from 1; 0: none.
    """

    def __init__(self) -> None:
        self._seconds = array("d")
        self._ending = array("B")
        self._delay = array("d")  # nan: none
        self._more = array("I")
        self._next = array("I")  # of the same ticket; the first one follows the last
        self._last = array("I")  # by ticket number
        self._kinds = _Kinds[tuple[bool, float | None, tuple[tuple[float, float], ...]]]()

    def add(self, number: int, run: Run) -> None:
        """Add an attempt of the ticket with this number. O(1) amortised."""
        self._seconds.append(run.seconds)
        self._ending.append(_ENDINGS.index(run.ending))
        self._delay.append(math.nan if run.delay is None else run.delay)
        self._more.append(self._kinds.number((run.keep, run.expire_in, run.extends)))
        if number >= len(self._last):
            self._last.extend(bytes(number + 1 - len(self._last)))
        place, last = len(self._seconds), self._last[number]
        self._next.append(self._next[last - 1] if last else place)
        if last:
            self._next[last - 1] = place
        self._last[number] = place

    def following(self, number: int, place: int) -> int:
        """Return the place of the attempt after another; after the last one, the last one; 0 if there are none. O(1).

        Args:
            number: the ticket's number.
            place: of an attempt of that ticket; 0: before the first.
        """
        last = self._last[number] if number < len(self._last) else 0
        if not last:
            return 0
        return last if place == last else self._next[(place or last) - 1]

    def at(self, place: int) -> Run:
        """Return the attempt at a place. O(1)."""
        delay = self._delay[place - 1]
        return Run(
            self._seconds[place - 1],
            _ENDINGS[self._ending[place - 1]],
            None if math.isnan(delay) else delay,
            *self._kinds.all[self._more[place - 1]],
        )


@attrs.define(slots=True)
class Workload:
    """The work of a queue.

    Attributes:
        begin, end: the times of the first and the last record; None if there is none.
        tickets: the numbers of the ids, which `acts` and `runs` use.
        acts: the acts, in order.
        runs: the attempts of each ticket.
        typical: for each type, the last attempt that did not lapse.
        tubes: the tubes of the claims, in the order of their first claims.
        workers: the number of different workers that claimed tickets.
        process_time: the most frequent lease in seconds; None if there was no claim.
        max_attempts: the number of attempts after which tickets failed because none were left; None if none did.
        unknown: the number of lapsed attempts, whose full duration is not known.
    """

    begin: datetime | None = None
    end: datetime | None = None
    tickets: Names = attrs.field(factory=Names)
    acts: Acts = attrs.field(init=False)
    runs: Runs = attrs.field(factory=Runs)
    typical: dict[str, Run] = attrs.field(factory=dict)
    tubes: list[str] = attrs.field(factory=list)
    workers: int = 0
    process_time: float | None = None
    max_attempts: int | None = None
    unknown: int = 0

    def __attrs_post_init__(self) -> None:
        self.acts = Acts(self.tickets)
