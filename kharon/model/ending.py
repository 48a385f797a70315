"""Which events end something, so that there is less to do after them, and which only let the queue grow.

A disk without room takes the former from what was set aside for them, and none of the latter. What is done to old
segments is among the former: it makes room. What is told to tubes is not: without room nothing is claimed from any, so
neither a pause nor its end would be of use before there is some. An event that is not named here lets the queue grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kharon.model import events as e

__all__ = ["ENDING", "grows"]

ENDING: Final[frozenset[type[e.Event]]] = frozenset(
    {
        e.TicketDone,
        e.TicketFailed,
        e.TicketCancelled,
        e.TicketRetried,
        e.TicketReleased,
        e.TicketLapsed,
        e.TicketUnblocked,
        e.TicketDeleted,
        e.TicketExpired,
        e.LogClosed,
        e.TailCut,
        e.LogRepaired,
        e.SegmentCompressed,
        e.SegmentArchived,
        e.SegmentTrimmed,
    }
)


def grows(events: Iterable[e.Event]) -> bool:
    """Return whether any of these events lets the queue grow. O(events)."""
    return any(type(event) not in ENDING for event in events)
