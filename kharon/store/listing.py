"""Choosing tickets from many, in slices between which other tasks run.

The tickets are those of one moment; who takes them from the projection, and when they are durable, is not known here.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import islice
from operator import attrgetter
from typing import Final

import trio

from kharon.model.ticket import Status, Ticket

__all__ = ["select"]

_SLICE = 1024  # tickets between two checkpoints: about 1 ms
_ORDER: Final = attrgetter("order")


async def select(
    tickets: deque[Ticket],
    *,
    status: Status | None,
    type: str | None,
    tube: str | None,
    group: str | None,
    limit: int | None,
    after: int,
) -> list[Ticket]:
    """Return the first `limit` tickets that match, ascending by `order`; `tickets` is used up.

    Args:
        tickets: the tickets, in any order.
        status: the status to match; None: any.
        type: the type to match; None: any.
        tube: the tube to match; None: any.
        group: the group to match; None: any.
        limit: at most so many; None: all.
        after: only tickets with a greater `order`.

    Cost: O(n), and O(n log n) at worst, if many tickets were added again or restarted.
    """
    runs: list[list[Ticket]] = []  # each ascending by `order`; few, unless many tickets were restarted
    while tickets:
        found = [
            ticket
            for ticket in (tickets.popleft() for _ in range(min(len(tickets), _SLICE)))
            if ticket.order > after
            and (status is None or ticket.status is status)
            and (type is None or ticket.type == type)
            and (tube is None or ticket.tube == tube)
            and (group is None or ticket.group == group)
        ]
        found.sort(key=_ORDER)
        if runs and found and runs[-1][-1].order < found[0].order:
            runs[-1] += found
        elif found:
            runs.append(found)
        await trio.lowlevel.checkpoint()
    return await _merged(runs, limit)


async def _merged(runs: list[list[Ticket]], limit: int | None) -> list[Ticket]:
    """Return the first `limit` tickets of ascending runs, by `order`."""
    merged = islice(heapq.merge(*runs, key=_ORDER), limit)
    tickets: list[Ticket] = []
    while piece := list(islice(merged, _SLICE)):
        tickets += piece
        await trio.lowlevel.checkpoint()
    return tickets
