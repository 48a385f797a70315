"""What an event does to a ticket: `evolve(ticket | None, event, seq, at) -> ticket | None`.

Nothing is decided here: an event has happened, and this is its effect. `seq` and `at` are the record's; they become
the ticket's `version` and `mtime`. The rules that led to the event are in `decide`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET

from kharon.errors import KharonError
from kharon.model import events as e
from kharon.model.ticket import Draft, Gate, Status, Ticket, draft_of, memberships, seal, waits_of

__all__ = ["ended", "evolve"]


_MAX_NAMES: Final = 4096
_NAMES: Final[dict[str, str]] = {}


def evolve(ticket: Ticket | None, event: e.TicketEvent, seq: int, at: datetime) -> Ticket | None:
    """Return the ticket after the event, or None if the event removes it.

    Args:
        ticket: the ticket before; None if there is none.
        event: an event about it.
        seq: the record's seq.
        at: the record's time, UTC.

    Raises:
        KharonError: the event is about a ticket that does not exist, which no log written by `decide` contains.

    Cost: O(1). Pure.
    """
    if ticket is None and type(event) is not e.TicketAdded:
        raise KharonError(f"record {seq}: {type(event).__name__} of ticket {event.id!r}, which does not exist there")
    return _EFFECTS[type(event)](ticket, event, seq, at)


def ended(ticket: Ticket, event: e.TicketEvent, seq: int, at: datetime) -> Ticket:
    """Return the ticket as the event left it, even if the event removed it: for callers that wait for its end.

    Cost: O(1). Pure.
    """
    if isinstance(event, e.TicketDone):
        return seal(_done_draft(ticket, event, seq, at))
    if isinstance(event, e.TicketCancelled):
        return seal(_cancelled_draft(ticket, event, seq, at))
    return evolve(ticket, event, seq, at) or ticket


def _next(ticket: Ticket, seq: int, at: datetime) -> Draft:
    draft = draft_of(ticket)
    draft.version = seq
    draft.mtime = at
    return draft


def _unclaimed(ticket: Ticket, seq: int, at: datetime) -> Draft:
    """Return the ticket with its claim over. Every settle goes through here."""
    draft = _next(ticket, seq, at)
    draft.claim = draft.worker = draft.lease_until = None
    return draft


def _succeeded(ticket: Ticket, seq: int, at: datetime, attempts: int | None = None) -> Ticket:
    """Return the successor of a claim that ends: it replaces the ticket, whatever the event says.

    `attempts` are those that it begins with; None: the ones that it was added with.
    """
    assert ticket.successor is not None
    draft = _next(ticket.successor, seq, at)
    draft.attempts = draft.attempts if attempts is None else attempts
    return seal(draft)


def _shared(name: str) -> str:
    """Return an equal str, mostly the same one. Types and tubes are few, so a replayed million of tickets shares them.

    Not `sys.intern`, which on some versions of Python keeps a str for ever; `_NAMES` keeps at most `_MAX_NAMES`.
    """
    if len(_NAMES) < _MAX_NAMES:
        return _NAMES.setdefault(name, name)
    return _NAMES.get(name, name)


def _added(ticket: Ticket | None, event: e.TicketAdded, seq: int, at: datetime) -> Ticket:
    type, tube = _shared(event.type), _shared(event.tube)
    new = Draft(event.id, type, bytes(event.payload_json), tube, event.nice, event.runat, event.group)
    new.ctime = new.mtime = at
    new.version = new.order = seq
    before = None if ticket is None else waits_of(ticket)
    if before is not None and event.keeps_place:
        new.ctime, new.order = before.ctime, before.order
    if before is not None and event.keeps_attempts:
        new.attempts = before.attempts
    if event.group is not None:
        new.joined = _joined(ticket, event.group, seq)
    if event.after or event.after_group is not None:
        new.blocked_by = event.blocked_by
        new.gate = Gate(event.after, event.after_group, event.on_failure, _blocked_since(ticket, event, seq))
    if ticket is None or ticket.claim is None:
        return seal(new)
    running = _next(ticket, seq, at)
    running.successor = seal(new)
    return seal(running)


def _joined(before: Ticket | None, group: str | None, seq: int) -> int:
    """Return the seq since which a pending ticket is a member of a group; adding it again does not change it."""
    if group is None:
        return 0
    return next((joined for name, joined in memberships(before) if name == group), seq) if before is not None else seq


def _blocked_since(before: Ticket | None, event: e.TicketAdded, seq: int) -> int:
    """Return the seq since which a group blocks a ticket, or 0; adding it again does not change it."""
    if not event.blocked_by_group:
        return 0
    if before is not None and (gate := waits_of(before).gate) is not None and gate.after_group == event.after_group:
        return gate.since or seq
    return seq


def _opened(gate: Gate | None) -> Gate | None:
    """Return the gate with its group no longer blocking."""
    return msgspec.structs.replace(gate, since=0) if gate is not None and gate.since else gate


def _claimed(ticket: Ticket, event: e.TicketClaimed, seq: int, at: datetime) -> Ticket:
    draft = _next(ticket, seq, at)
    draft.attempts = event.attempt
    draft.lease_until = event.lease_until
    draft.worker = event.worker
    draft.claim = seq
    return seal(draft)


def _extended(ticket: Ticket, event: e.LeaseExtended, seq: int, at: datetime) -> Ticket:
    draft = _next(ticket, seq, at)
    draft.lease_until = event.lease_until
    return seal(draft)


def _terminal_draft(ticket: Ticket, status: Status, seq: int, at: datetime) -> Draft:
    draft = _unclaimed(ticket, seq, at)
    draft.status = status
    draft.successor = None
    draft.blocked_by = ()
    draft.gate = _opened(draft.gate)
    draft.joined = 0
    return draft


def _done_draft(ticket: Ticket, event: e.TicketDone, seq: int, at: datetime) -> Draft:
    draft = _terminal_draft(ticket, Status.DONE, seq, at)
    draft.result_json = None if event.result_json is UNSET else bytes(event.result_json)
    draft.error_reason = None
    draft.expire_at = event.expire_at
    return draft


def _cancelled_draft(ticket: Ticket, event: e.TicketCancelled, seq: int, at: datetime) -> Draft:
    newest = ticket.successor if event.dropped and ticket.successor is not None else ticket
    draft = _terminal_draft(newest, Status.CANCELLED, seq, at)
    draft.error_reason = event.error_reason
    draft.expire_at = event.expire_at
    return draft


def _done(ticket: Ticket, event: e.TicketDone, seq: int, at: datetime) -> Ticket | None:
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at, attempts=0)  # a success: those that failed before it count no more
    return seal(_done_draft(ticket, event, seq, at)) if event.keep else None


def _failed(ticket: Ticket, event: e.TicketFailed, seq: int, at: datetime) -> Ticket | None:
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at)
    draft = _terminal_draft(ticket, Status.FAILED, seq, at)
    draft.error_reason = event.error_reason
    draft.expire_at = event.expire_at
    return seal(draft)


def _cancelled(ticket: Ticket, event: e.TicketCancelled, seq: int, at: datetime) -> Ticket | None:
    if ticket.successor is not None and not event.dropped:
        return _succeeded(ticket, seq, at)
    return seal(_cancelled_draft(ticket, event, seq, at)) if event.keep else None


def _retried(ticket: Ticket, event: e.TicketRetried, seq: int, at: datetime) -> Ticket | None:
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at)
    draft = _unclaimed(ticket, seq, at)
    draft.error_reason = event.error_reason
    if event.changes is not None:
        _change(draft, event.changes)
        draft.joined = _joined(ticket, draft.group, seq)
    draft.runat = event.runat
    return seal(draft)


def _released(ticket: Ticket, event: e.TicketReleased, seq: int, at: datetime) -> Ticket | None:
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at, attempts=max(0, ticket.successor.attempts - 1))
    draft = _unclaimed(ticket, seq, at)
    draft.attempts -= 1
    if event.changes is not None:
        _change(draft, event.changes)
        draft.joined = _joined(ticket, draft.group, seq)
    return seal(draft)


def _lapsed(ticket: Ticket, event: e.TicketLapsed, seq: int, at: datetime) -> Ticket | None:
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at)
    draft = _unclaimed(ticket, seq, at)
    draft.runat = event.runat
    draft.error_reason = event.error_reason
    return seal(draft)


def _restarted(ticket: Ticket, event: e.TicketRestarted, seq: int, at: datetime) -> Ticket:
    draft = _next(ticket, seq, at)
    draft.status = Status.PENDING
    draft.attempts = 0
    draft.runat = event.runat
    draft.order = seq
    draft.error_reason = draft.result_json = draft.expire_at = None
    draft.joined = _joined(None, draft.group, seq)
    return seal(draft)


def _updated(ticket: Ticket, event: e.TicketUpdated, seq: int, at: datetime) -> Ticket:
    draft = _next(ticket, seq, at)
    _change(draft, event.changes)
    if draft.status is Status.PENDING:
        draft.joined = _joined(ticket, draft.group, seq)
    if ticket.successor is not None:
        # The update is newer than the adding that the successor came from, so it also changes the successor.
        successor = _next(ticket.successor, seq, at)
        _change(successor, event.changes)
        successor.joined = _joined(ticket, successor.group, seq)
        draft.successor = seal(successor)
    return seal(draft)


def _change(draft: Draft, changes: e.Changes) -> None:
    for name, value in changes.given().items():
        if name == "payload":
            draft.payload_json = bytes(value)
        else:
            setattr(draft, name, value)


def _unblocked(ticket: Ticket, event: e.TicketUnblocked, seq: int, at: datetime) -> Ticket:
    draft = _next(ticket, seq, at)
    if ticket.successor is None:
        _unblock(draft, event)
    elif event.dropped:
        draft.successor = None
    else:
        successor = _next(ticket.successor, seq, at)
        _unblock(successor, event)
        draft.successor = seal(successor)
    return seal(draft)


def _unblock(draft: Draft, event: e.TicketUnblocked) -> None:
    if event.group is None:
        draft.blocked_by = tuple(id for id in draft.blocked_by if id != event.ended)
    else:
        draft.gate = _opened(draft.gate)


def _removed(_ticket: Ticket, _event: e.TicketEvent, _seq: int, _at: datetime) -> None:
    return None


_Effect: TypeAlias = Callable[[Any, Any, int, datetime], Ticket | None]

_EFFECTS: Final[dict[type[e.TicketEvent], _Effect]] = {
    e.TicketAdded: _added,
    e.TicketClaimed: _claimed,
    e.LeaseExtended: _extended,
    e.TicketDone: _done,
    e.TicketFailed: _failed,
    e.TicketCancelled: _cancelled,
    e.TicketRetried: _retried,
    e.TicketReleased: _released,
    e.TicketLapsed: _lapsed,
    e.TicketRestarted: _restarted,
    e.TicketUpdated: _updated,
    e.TicketUnblocked: _unblocked,
    e.TicketDeleted: _removed,
    e.TicketExpired: _removed,
}
