"""What tickets wait for, in words: what a ticket was told to wait for, what is left of it, and what has unblocked it.

The words hold ids and names as they are; whoever shows them makes them safe.
"""

from __future__ import annotations

from collections.abc import Sequence

from kharon.audit.explanations import MOST_NAMED
from kharon.model import events as e
from kharon.model.ticket import Ticket

__all__ = ["awaited", "named", "told_gate", "unblocked", "waited_for"]


def named(ids: Sequence[str], count: int | None = None) -> str:
    """Name a handful of ids; of `count`, or of as many as there are, say how many more there are."""
    more = (len(ids) if count is None else count) - min(len(ids), MOST_NAMED)
    return ", ".join(ids[:MOST_NAMED]) + (f" and {more} more" if more else "")


def waited_for(ticket: Ticket) -> str:
    """Say what a blocked ticket still waits for."""
    gate = ticket.gate
    return _both(ticket.blocked_by, gate.after_group if gate is not None and gate.since else None)


def told_gate(event: e.TicketAdded) -> str:
    """Say what a ticket that is added waits for, with a comma before it; nothing, if it waits for nothing."""
    what = awaited(event)
    if not what:
        return ""
    return f", waits for {what}" + ("; to be cancelled if one fails" if event.on_failure == "cancel" else "")


def awaited(event: e.TicketAdded) -> str:
    """Say what a ticket that is added waits for, of what it was told to; nothing, if none of it was pending."""
    return _both(event.blocked_by, event.after_group if event.blocked_by_group else None)


def _both(ids: Sequence[str], group: str | None) -> str:
    return " and ".join(filter(None, (named(ids), "" if group is None else f"members of group {group}")))


def unblocked(event: e.TicketUnblocked) -> str:
    """Say what has unblocked a ticket."""
    if event.dropped:
        of = "" if event.group is None else f" of group {event.group!r}"
        return f"ticket {event.ended!r}{of} failed or was cancelled, so what was to follow is dropped"
    if event.group is None:
        return f"ticket {event.ended!r} ended"
    return f"ticket {event.ended!r}, the last of group {event.group!r}, ended or left it"
