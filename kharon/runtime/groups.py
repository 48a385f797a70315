"""A group of tickets as its users see it, and those who wait for one to end."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from kharon.store.protocol import Effect, Store

__all__ = ["Group", "GroupWaits"]


class GroupWaits:
    """Who waits until a group has no pending members."""

    def __init__(self) -> None:
        self._events: dict[str, set[trio.Event]] = {}

    def deliver(self, effects: Sequence[Effect]) -> None:
        """Wake those who wait for a group that has become empty, which is durable now. O(effects) if anybody waits."""
        if not self._events:
            return
        for effect in effects:
            for group in effect.emptied:
                for event in self._events.get(group, ()):
                    event.set()

    def end(self) -> None:
        """Wake all: nothing will be delivered any more."""
        for events in self._events.values():
            for event in events:
                event.set()

    def enter(self, group: str) -> trio.Event:
        """Return an event that is set when the group has become empty, or never will. `leave` it."""
        event = trio.Event()
        self._events.setdefault(group, set()).add(event)
        return event

    def leave(self, group: str, event: trio.Event) -> None:
        """Forget an event."""
        events = self._events[group]
        events.discard(event)
        if not events:
            del self._events[group]


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
        ended = self._waits.enter(self.name)
        try:
            if not await self._store.pending_count(self.name):
                return
            await ended.wait()
            await self._store.pending_count(self.name)  # raises, if it was the queue that ended
        finally:
            self._waits.leave(self.name, ended)
