"""A group of tickets as its users see it, and those who wait for one to end."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from kharon.runtime.registry import Registry
from kharon.store.protocol import Effect, Store

__all__ = ["Group", "GroupWait", "GroupWaits"]


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


class GroupWaits(Registry[GroupWait]):
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
