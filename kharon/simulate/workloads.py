"""A workload: what there was to do in a queue, without a clock's or a setting's doing, in as few bytes as it takes.

All arrivals of a log must be there before the first can be simulated, since an attempt's length and end stand behind
it. So what there is of each ticket is numbers, in columns:

    a ticket          20 to 30 bytes: a digest of its id, and where its attempts begin
    an adding         28: when, of which ticket, what it is, its group, when it is due
    an attempt        25: how long it ran, how it ended, when it was due again

What is seldom is kept as it is: what a ticket was told to wait for, what people did, how leases were extended; and each
combination of type, tube and nice once. Payloads, results and reasons are not kept, and no ids and groups: a simulated
ticket has a number for its id, in the order in which the ids came, and so has a group. (Any two of a million ids are
taken for one with a probability of 3 in 100 million: their digests have 64 bits.)
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
    """One attempt as it was recorded.

    Attributes:
        seconds: how long it ran, or until its lease ended.
        ending: how it ended. RETRIED also if it failed only because no attempts were left.
        delay: if it was retried, seconds until it was due again; else None.
        keep: whether a cancelled ticket was kept.
        expire_in: seconds after which a kept ticket was to be removed; None: never.
        extends: when it extended its lease, in seconds after its beginning, and to how many seconds from then.
    """

    seconds: float
    ending: Ending
    delay: float | None = None
    keep: bool = False
    expire_in: float | None = None
    extends: tuple[tuple[float, float], ...] = ()


@attrs.frozen(slots=True)
class Act:
    """Something that was done to the queue from outside: an adding, or what a person did to a ticket or to a tube.

    Attributes:
        at: when, UTC.
        event: what came of it; without payload, result and reason, and with numbers for ids and groups.
    """

    at: datetime
    event: e.TicketEvent | e.TubeEvent


class Names:
    """Numbers for names, in the order in which they came, without the names: a table of digests, O(1)."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._slots = array("I", bytes(8 * 4))  # 0: free; else a number + 1; where it is, the digest says

    def __len__(self) -> int:
        return len(self._digests)

    def number(self, name: str) -> int:
        """Return a name's number, which is a new one if the name is new. O(1) amortised."""
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
        """Return a name's number as what stands for the name. In the order of the numbers, as text too."""
        return f"{self.number(name):010}"

    def _slot(self, digest: int) -> int:
        """Return where a digest stands, or, if it is not there, where it is to stand."""
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
    """Values of which there are few, each kept once."""

    def __init__(self) -> None:
        self.all: list[_H] = []
        self._numbers: dict[_H, int] = {}

    def number(self, value: _H) -> int:
        number = self._numbers.setdefault(value, len(self.all))
        if number == len(self.all):
            self.all.append(value)
        return number


class Acts:
    """What was done, in order. Iterating makes an `Act` of each; it may be done more than once."""

    def __init__(self, tickets: Names) -> None:
        self._tickets = tickets
        self._groups = Names()
        self._begin: datetime | None = None
        self._at = array("q")  # in microseconds after the first; so is `_runat`
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
        """Take what was done next. O(1)."""
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
        """Return what is kept of an event that is no adding."""
        if isinstance(event, e.TubeEvent):
            return event
        less: dict[str, Any] = {"id": self._tickets.written(event.id)}
        less |= {name: value for name, value in _LESS.items() if hasattr(event, name)}
        changes: e.Changes | None = getattr(event, "changes", None)
        if changes is not None:
            group = changes.group if changes.group is UNSET else self._written(changes.group)
            less["changes"] = msgspec.structs.replace(changes, payload_json=UNSET, group=group)
        return msgspec.structs.replace(event, **less)


_KIND: Final = [name for name in CHECKS if name not in {"id", "payload", "runat", "group"}]
"""The fields that many tickets have in common."""
_kind_of: Final = attrgetter(*_KIND)
_LESS: Final = {"error_reason": None, "result_json": UNSET}


class Runs:
    """The attempts of each ticket, in order.

    A place is where one stands among all, counted from 1; 0: nowhere.
    """

    def __init__(self) -> None:
        self._seconds = array("d")
        self._ending = array("B")
        self._delay = array("d")  # nan: none
        self._more = array("I")
        self._next = array("I")  # of the same ticket; behind the last comes the first
        self._last = array("I")  # of each ticket, by its number
        self._kinds = _Kinds[tuple[bool, float | None, tuple[tuple[float, float], ...]]]()

    def add(self, number: int, run: Run) -> None:
        """Take an attempt of the ticket of this number. O(1) amortised."""
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
        """Return the place of a ticket's attempt behind another; behind the last, of that; 0 if there is none. O(1).

        Args:
            number: the ticket's.
            place: of an attempt of that ticket; 0: in front of the first.
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
    """What there was to do.

    Attributes:
        begin, end: the times of the first and the last record; None if there is none.
        tickets: the numbers of all ids; `Runs` knows a ticket by it, and `Acts` calls it that.
        acts: in order.
        runs: the attempts of each ticket.
        typical: of each type the last attempt that came to an end by itself.
        tubes: those that something was claimed from, in the order in which they came first.
        workers: how many different workers claimed something.
        process_time: the lease that most claims were given, in seconds; None if there was no claim.
        max_attempts: after how many attempts tickets failed for want of more; None if none did.
        unknown: how many attempts lapsed, so that nobody knows how long they would have run.
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
