"""Text for people: durations, spans of time, events, and what blocks a ticket. The command and the page both use it.

Ids, names and reasons stand in the text as they are: the caller must escape it (`kharon.audit.safe`). The caller also
chooses how an instant is written, since a terminal shows local time and a page UTC. The name of an event is its `word`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Raw

from kharon.audit.fields import OTHER_FIELDS
from kharon.audit.timeline import Phase, Span
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.standing import MOST_NAMED
from kharon.model.ticket import Ticket

__all__ = [
    "added_blockers",
    "blockers",
    "changes_text",
    "details",
    "length",
    "listed",
    "other_fields_text",
    "span_text",
    "unblocked_text",
    "value_text",
]


def length(span: timedelta | float) -> str:
    """Return a duration with two or three significant digits: `35 ms`, `1.2 s`, `4 m 12 s`, `3 h 5 m`, `2 d 4 h`."""
    amount = span.total_seconds() if isinstance(span, timedelta) else span
    if amount < 0:
        return "-" + length(-amount)
    if amount < 0.9995:
        return f"{amount * 1000:.0f} ms" if amount >= 0.0005 else "0 s"
    if amount < 9.95:
        return f"{amount:.1f} s"
    whole = round(amount)
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


_SPANS: Final = {
    Phase.DELAYED: "delayed {}",
    Phase.READY: "ready {}",
    Phase.BLOCKED: "blocked {}",
    Phase.RUNNING: "attempt {attempt} ran {}",
    Phase.BACKING_OFF: "backed off {}",
    Phase.KEPT: "kept {}",
}


def span_text(span: Span) -> str:
    """Return what a ticket did in a span, and for how long: `attempt 2 ran 2.5 s`, `ready 2.0 s so far`."""
    form = _SPANS[span.phase]
    if span.open:
        form = "attempt {attempt} runs, {} so far" if span.phase is Phase.RUNNING else f"{form} so far"
    return form.format(length(span.length), attempt=span.attempt)


# --- what blocks a ticket ---------------------------------------------------------------------------------------------


def listed(ids: Sequence[str], count: int | None = None) -> str:
    """Return the first `MOST_NAMED` ids, and how many more there are of `count`; None: of these ids."""
    more = (len(ids) if count is None else count) - min(len(ids), MOST_NAMED)
    return ", ".join(ids[:MOST_NAMED]) + (f" and {more} more" if more else "")


def blockers(ticket: Ticket) -> str:
    """Return what still blocks a ticket: `a, b and members of group g`; empty if nothing does."""
    gate = ticket.gate
    return _joined(ticket.blocked_by, gate.after_group if gate is not None and gate.since else None)


def added_blockers(event: e.TicketAdded) -> str:
    """Return what blocked a ticket when it was added; empty if nothing did."""
    return _joined(event.blocked_by, event.after_group if event.blocked_by_group else None)


def _joined(ids: Sequence[str], group: str | None) -> str:
    return " and ".join(filter(None, (listed(ids), "" if group is None else f"members of group {group}")))


def unblocked_text(event: e.TicketUnblocked) -> str:
    """Return what unblocked a ticket."""
    if event.dropped:
        of = "" if event.group is None else f" of group {event.group!r}"
        return f"ticket {event.ended!r}{of} failed or was cancelled, so the successor was dropped"
    if event.group is None:
        return f"ticket {event.ended!r} ended"
    return f"ticket {event.ended!r}, the last of group {event.group!r}, ended or left it"


# --- events -----------------------------------------------------------------------------------------------------------


def details(record: Record, instant: Callable[[datetime], str]) -> str:
    """Return what a ticket's event says besides the ticket's id and the reason; empty if it says nothing more.

    Args:
        record: of a ticket's event.
        instant: how to write an instant.
    """
    event, at = record.event, record.at
    match event:
        case e.TicketAdded():
            due = f", due in {length(event.runat - at)}" if event.runat > at else ""
            return f"{event.type} in {event.tube}{due}{_blocked_from_the_start(event)}"
        case e.TicketUnblocked():
            return unblocked_text(event)
        case e.TicketClaimed():
            return f"attempt {event.attempt}, for {length(event.lease_until - at)}"
        case e.LeaseExtended():
            return f"for {length(event.lease_until - at)}"
        case e.TicketDone() | e.TicketCancelled():
            return _kept(event.expire_at, at) if event.keep else "removed"
        case e.TicketFailed():
            return "" if event.expire_at is None else _kept(event.expire_at, at)
        case e.TicketRetried() | e.TicketLapsed() | e.TicketRestarted():
            again = f"again in {length(event.runat - at)}" if event.runat > at else "again at once"
            changes = changes_text(getattr(event, "changes", None), instant)
            return f"{again} with {changes}" if changes else again
        case e.TicketUpdated():
            return changes_text(event.changes, instant)
        case e.TicketReleased():
            changes = changes_text(event.changes, instant)
            return f"with {changes}" if changes else ""
        case _:
            return ""


def _blocked_from_the_start(event: e.TicketAdded) -> str:
    what = added_blockers(event)
    if not what:
        return ""
    return f", blocked by {what}" + ("; to be cancelled if one fails" if event.on_failure == "cancel" else "")


def _kept(expire_at: datetime | None, at: datetime) -> str:
    return "kept" if expire_at is None else f"kept for {length(expire_at - at)}"


def changes_text(changes: e.Changes | None, instant: Callable[[datetime], str]) -> str:
    """Return changed fields and their new values, `nice 3, tube mail`; empty if there are none.

    Args:
        changes: the changes.
        instant: how to write an instant.
    """
    if changes is None:
        return ""
    return ", ".join(f"{name} {value_text(value, instant)}" for name, value in changes.given().items())


def other_fields_text(ticket: Ticket, instant: Callable[[datetime], str]) -> Iterator[tuple[str, str]]:
    """Yield the label and the value of each of `OTHER_FIELDS` that a ticket has.

    Args:
        ticket: the ticket.
        instant: how to write an instant.
    """
    for name in OTHER_FIELDS:
        value = getattr(ticket, name)
        if value is not None:
            yield name.replace("_", " "), value_text(value, instant)


def value_text(value: Any, instant: Callable[[datetime], str]) -> str:
    """Return the value of an event's field as text; JSON in Python's characters rather than escapes.

    Args:
        value: the value; a `Raw` is JSON.
        instant: how to write an instant.
    """
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, Raw):
        return json.dumps(json.loads(bytes(value)), ensure_ascii=False)
    return "none" if value is None else str(value)
