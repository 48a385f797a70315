"""Which ticket to claim next: the ready tickets of each tube, and the first of each tube in one sorted line.

    ready     per tube, by (nice, runat, order)      every ready ticket, whether its tube is watched or not
    watched   the tubes that workers claim from
    line      the first ready ticket of each watched tube that is open, by the same key
    changes   when a watched tube at its limit of claims per period may give one more

A tube is open if `tubes.room` leaves room for a claim. Except for the first, all of it is derived from the watched
tubes, and is not part of the state that a log folds to. Each change of a tube marks it (`touch`), and only marked tubes
are looked at again, once, before the next question. So a claim costs O(log n), however many tubes there are. A single
watched tube needs no line: it is looked at when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from sortedcontainers import SortedList

from kharon.model.tubes import Tubes, room

__all__ = ["Key", "ReadyTickets"]

Key: TypeAlias = tuple[Any, ...]
_Share: TypeAlias = tuple[Key | None, int, datetime | None]
"""What a tube can give: its first ticket, how many may be claimed now, and when that may be one more."""
_NOTHING: Final[_Share] = (None, 0, None)


class ReadyTickets:
    """The ready tickets, by tube.

    Args:
        tubes: the pauses and limits of tubes.

    Attributes:
        ready: by tube, the keys of its ready tickets; a tube without any is absent.
        claimed: by tube, how many of its tickets are claimed; a tube without any is absent.
        watched: the tubes to claim from.
        now: the instant as of which tubes are open or not.
    """

    def __init__(self, tubes: Tubes) -> None:
        self.ready: dict[str, SortedList[Key]] = {}
        self.claimed: dict[str, int] = {}
        self.watched: tuple[str, ...] = ()
        self.now = datetime.min.replace(tzinfo=UTC)
        self._tubes = tubes
        self._only: str | None = None  # the watched tube, if there is one
        self._wanted: frozenset[str] = frozenset()  # the watched tubes, if there are more
        self._stale: set[str] = set()  # the watched tubes to look at again
        self._shares: dict[str, _Share] = {}
        self._line: SortedList[Key] = SortedList()
        self._changes: SortedList[tuple[datetime, str]] = SortedList()
        self._count = 0

    # --- changing it --------------------------------------------------------------------------------------------------

    def touch(self, tube: str) -> None:
        """Mark a tube that has changed, to be looked at again before the next question. O(1)."""
        if tube in self._wanted:
            self._stale.add(tube)

    def add(self, tube: str, key: Key) -> None:
        """Enter a ready ticket. O(log n)."""
        ready = self.ready.get(tube)
        if ready is None:
            ready = self.ready[tube] = SortedList()
        ready.add(key)
        if tube in self._wanted:
            self._stale.add(tube)

    def update(self, tube: str, keys: list[Key]) -> None:
        """Enter many ready tickets: they are sorted in, not inserted one by one."""
        self.ready.setdefault(tube, SortedList()).update(keys)
        self.touch(tube)

    def discard(self, tube: str, key: Key) -> None:
        """Remove a ready ticket. O(log n)."""
        ready = self.ready[tube]
        ready.remove(key)
        if not ready:
            del self.ready[tube]  # tubes come and go; their names must not stay
        if tube in self._wanted:
            self._stale.add(tube)

    def claim(self, tube: str) -> None:
        """Count one more claimed ticket. O(1)."""
        self.claimed[tube] = self.claimed.get(tube, 0) + 1
        self.touch(tube)

    def unclaim(self, tube: str) -> None:
        """Count one claimed ticket less. O(1)."""
        if self.claimed[tube] == 1:
            del self.claimed[tube]
        else:
            self.claimed[tube] -= 1
        self.touch(tube)

    def begin(self, ready: dict[str, list[Key]], claimed: dict[str, int], now: datetime) -> None:
        """Begin anew with the ready and the claimed tickets as of `now`. O(n log n + watched)."""
        self.ready = {tube: SortedList(keys) for tube, keys in ready.items()}
        self.claimed = claimed
        self.now = now
        self._shares.clear()
        self._line.clear()
        self._changes.clear()
        self._count = 0
        self._stale = set(self._wanted)

    def watch(self, tubes: Iterable[str]) -> None:
        """Set the tubes to claim from. O(tubes log n)."""
        self.watched = tuple(tubes)
        wanted = frozenset(self.watched)
        self._only = None
        if len(wanted) == 1:
            (self._only,) = wanted
            wanted = frozenset()
        for tube in self._wanted - wanted:
            self._set(tube, _NOTHING)
        self._stale = (self._stale & wanted) | (wanted - self._wanted)
        self._wanted = wanted

    def promote(self, now: datetime) -> None:
        """Open and close tubes as of `now`, which is earlier than before if the clock was set back.

        Cost: O(tubes that open or close); of a backward step O(the watched tubes that are limited per period).
        """
        if now < self.now:
            self._stale |= self._wanted & self._tubes.times.keys()
        self.now = now
        for instant, tube in self._changes:
            if instant > now:
                break
            self._stale.add(tube)

    # --- asking it ----------------------------------------------------------------------------------------------------

    def first(self) -> Key | None:
        """Return the key of the ticket to claim next; None: there is none. O(marked tubes log watched)."""
        if self._only is not None:
            return self._share(self._only)[0]
        if self._stale:
            self.refresh()
        return self._line[0] if self._line else None

    def count(self) -> int:
        """Return how many tickets may be claimed now. Cost as `first`."""
        if self._only is not None:
            return self._share(self._only)[1]
        if self._stale:
            self.refresh()
        return self._count

    def next_instant(self) -> datetime | None:
        """Return when more may be claimed because time has passed; None: never. Cost as `first`."""
        if self._only is not None:
            return self._share(self._only)[2] if self._tubes.times else None
        if self._stale and (self._changes or self._tubes.times):
            self.refresh()
        return self._changes[0][0] if self._changes else None

    def refresh(self) -> None:
        """Compute the shares of the tubes that have changed. O(changed tubes log n)."""
        for tube in self._stale:
            self._set(tube, self._share(tube))
        self._stale.clear()

    def _share(self, tube: str) -> _Share:
        ready = self.ready.get(tube)
        if ready is None:
            return _NOTHING
        state = self._tubes.get(tube)
        if state is None:
            return ready[0], len(ready), None
        free, instant = room(state, self.claimed.get(tube, 0), self._tubes.times.get(tube, ()), self.now)
        if free is None or free >= len(ready):
            return ready[0], len(ready), None
        return ready[0] if free else None, free, instant

    def _set(self, tube: str, share: _Share) -> None:
        head, count, instant = share
        old_head, old_count, old_instant = self._shares.get(tube, _NOTHING)
        if head is not old_head:
            if old_head is not None:
                self._line.remove(old_head)
            if head is not None:
                self._line.add(head)
        if instant != old_instant:
            if old_instant is not None:
                self._changes.remove((old_instant, tube))
            if instant is not None:
                self._changes.add((instant, tube))
        self._count += count - old_count
        if count or instant is not None:
            self._shares[tube] = share
        else:
            self._shares.pop(tube, None)

    # --- proving it ---------------------------------------------------------------------------------------------------

    def check(self, expected: ReadyTickets) -> None:
        """Prove that this equals another one, which was begun with the expected tickets. O(n log n).

        Raises:
            AssertionError: they differ; it names the first difference.
        """
        for index in (self._line, self._changes, *self.ready.values()):
            index._check()  # type: ignore[attr-defined] # noqa: SLF001 - the library's own check, missing in its stubs
        expected.watch(self.watched)
        for each in (self, expected):
            each.refresh()
        for name in ("ready", "claimed", "now", "_shares", "_line", "_changes", "_count"):
            mine, theirs = getattr(self, name), getattr(expected, name)
            assert mine == theirs, f"{name}: {mine} is not {theirs}"
