"""Which tickets block which: the pending members of each group, and the tickets that a group or ids block.

A group's finalizer is blocked by the members that were pending when it was added, however many there are, and holds
none of their names. A member has the seq since which it is one (`joined`), a finalizer the seq since which it is
blocked (`since`). It is blocked while a pending member joined before that. So each group has two sorted lists, and the
end of a member costs O(log n). A ticket that others block by id has those ids itself (`blocked_by`).

All of it is derived from the tickets (`memberships`, `waits_of`), and the projection keeps it like its other indexes.
The consequences of an end are in `commit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from sortedcontainers import SortedList

from kharon.model.ticket import Ticket, memberships, waits_of

__all__ = ["Groups"]

_Line: TypeAlias = SortedList[tuple[int, str]]


class Groups:
    """The members of groups, and the waits, of the tickets that were indexed here."""

    def __init__(self) -> None:
        self._members: dict[str, _Line] = {}  # by group: (joined, id) of the pending members
        self._finalizers: dict[str, _Line] = {}  # by group: (since, id) of the tickets that wait for it
        self._behind: dict[str, dict[str, int]] = {}  # by id: the tickets that wait for it, each with its `order`

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Groups):
            return NotImplemented
        return (self._members, self._finalizers, self._behind) == (other._members, other._finalizers, other._behind)

    __hash__ = None  # type: ignore[assignment]

    def index(self, ticket: Ticket) -> None:
        """Index a ticket. O(log n) for each of its groups, and O(1) for each id that blocks it."""
        for group, joined in memberships(ticket):
            _enter(self._members, group, joined, ticket.id)
        waits = waits_of(ticket)
        if waits.gate is None:
            return
        if waits.gate.since and waits.gate.after_group is not None:
            _enter(self._finalizers, waits.gate.after_group, waits.gate.since, ticket.id)
        for id in waits.blocked_by:
            self._behind.setdefault(id, {})[ticket.id] = waits.order

    def unindex(self, ticket: Ticket) -> None:
        """Remove a ticket from the index. Cost as `index`."""
        for group, joined in memberships(ticket):
            _leave(self._members, group, joined, ticket.id)
        waits = waits_of(ticket)
        if waits.gate is None:
            return
        if waits.gate.since and waits.gate.after_group is not None:
            _leave(self._finalizers, waits.gate.after_group, waits.gate.since, ticket.id)
        for id in waits.blocked_by:
            behind = self._behind[id]
            del behind[ticket.id]
            if not behind:
                del self._behind[id]

    # --- asking -------------------------------------------------------------------------------------------------------

    def pending_count(self, group: str) -> int:
        """Return how many members of a group are pending. O(1)."""
        return len(self._members.get(group, ()))

    def is_member(self, group: str, ticket: Ticket | None) -> bool:
        """Return whether a ticket is a pending member of a group. O(1)."""
        return ticket is not None and any(name == group for name, _ in memberships(ticket))

    def behind(self, id: str) -> list[str]:
        """Return the ids of the tickets that this id blocks, in the order of adding.

        Not in the order of the index, which differs after an undo or a replay. Cost: O(k log k) for k of them.
        """
        behind = self._behind.get(id)
        return [] if behind is None else sorted(behind, key=behind.__getitem__)

    def finalizers(self, group: str, joined: int) -> list[str]:
        """Return the ids of the tickets that a member that joined at that seq blocks. O(log n + their number)."""
        line = self._finalizers.get(group)
        return [] if line is None else [id for _, id in line.irange((joined, ""))]

    def waiters(self, ticket: Ticket) -> list[str]:
        """Return the ids of the tickets that a ticket blocks, by its id or by its group. O(log n + their number)."""
        found = self.behind(ticket.id)
        for group, joined in memberships(ticket):
            found += self.finalizers(group, joined)
        return found

    def unblocked(self, group: str) -> list[str]:
        """Return the ids of the tickets that wait for a group without any member left that they wait for.

        Cost: O(log n + their number).
        """
        waiting = self._finalizers.get(group)
        if waiting is None:
            return []
        members = self._members.get(group)
        first: Any = members[0][0] if members else math.inf
        return [id for _, id in waiting.irange(None, (first, ""), (True, False))]

    def left(self, waits: Ticket) -> int:
        """Return how many pending members of a group block a ticket: as many as `members` yields. O(log n)."""
        gate = waits.gate
        if gate is None or not gate.since or gate.after_group is None:
            return 0
        line = self._members.get(gate.after_group)
        return 0 if line is None else line.bisect_left((gate.since + 1, ""))

    def members(self, waits: Ticket) -> Iterator[str]:
        """Yield the ids of the pending members of a group that block a ticket, in the order of joining.

        Args:
            waits: the ticket, or its successor if that is the one that waits (`waits_of`).

        Cost: O(1) each.
        """
        gate = waits.gate
        if gate is None or not gate.since or gate.after_group is None:
            return
        for joined, id in self._members.get(gate.after_group, ()):
            if joined > gate.since:
                return
            yield id


def _enter(lines: dict[str, _Line], group: str, seq: int, id: str) -> None:
    line = lines.get(group)
    if line is None:
        line = lines[group] = SortedList()
    line.add((seq, id))


def _leave(lines: dict[str, _Line], group: str, seq: int, id: str) -> None:
    line = lines[group]
    line.remove((seq, id))
    if not line:
        del lines[group]  # groups come and go; their names must not stay
