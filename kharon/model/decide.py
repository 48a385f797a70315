"""Every rule by which a ticket changes: `decide(ticket, command, context) -> events`.

The theory. A ticket is in one of six states. `pending` has two of them, since a claimed ticket obeys other rules than
an unclaimed one. Whether an unclaimed ticket is delayed, ready or blocked is derived from its fields and the time, and
only `claim` looks at it.

                         add                     claim
      (absent) ─────────────────▶ unclaimed ───────────────▶ claimed ⟲ extend
         ▲                           ▲  │  ▲                   │  │
         │                           │  │  └───────────────────┘  │
         │                           │  │   retry, release, lapse │
         │                  restart, │  │                         │
         │                     add   │  │ done, fail, cancel      │ done, fail, cancel,
         │                           │  ▼ (by an operator)        ▼ lapse and retry with no attempts left
         │                          done, failed, cancelled ◀─────┘
         │                                │
         └────────────────────────────────┘
            delete from anywhere; expire; done and cancel that do not keep

    add again     unclaimed or terminal: the newest fields win. Claimed: the run goes on, and the end of its claim makes
                  the ticket unclaimed with the new fields (its successor), so that no update is lost. An unclaimed
                  ticket, and a successor, keep their place in line. A refresh also keeps the attempts of a pending one.
    blocked       others may block an unclaimed ticket (`gate`): no claim until they have ended. The commit
                  that ends the last of them unblocks it; or cancels it, if one failed and `on_failure` is "cancel".
    cancel        by a bare id means the name: the run and its successor both end, as delete does. Under a claim, which
                  is how a handler cancels its own ticket, it ends that run only.
    update        changes fields in any state, and the state in none.
    moving        a ticket that done, fail or cancel keeps may move to another tube in the same commit. A successor is
                  newer, and stays where it is.
    fencing       a settle that names a claim is refused unless that claim is the ticket's present one.

Each command has one row in `_RULES`: the states that it is for, each with the function that decides it. A state that is
not in the row refuses the command. A rule sees one ticket and an explicit context. *Which* ticket to claim, lapse or
expire is a query (`projection`), and the effect of an event is in `evolve`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

from msgspec import UNSET, Raw

from kharon.errors import FinalizerInGroup, InvalidTicket, InvalidTransition, LeaseLost, TicketExists, TicketNotFound
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.checks import instant_after, shorten_reason
from kharon.model.delays import delay_seconds
from kharon.model.ticket import Status, Ticket, waits_of

__all__ = ["State", "decide", "state_of"]

Events: TypeAlias = tuple[e.TicketEvent, ...]


class State(enum.StrEnum):
    """The states that rules tell apart."""

    ABSENT = "absent"
    UNCLAIMED = "unclaimed"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_PUBLIC: Final = {State.UNCLAIMED: "pending and not claimed"}  # in the words of `Status`, which users know
_TERMINAL: Final = {Status.DONE: State.DONE, Status.FAILED: State.FAILED, Status.CANCELLED: State.CANCELLED}


def state_of(ticket: Ticket | None) -> State:
    """Return the state that the rules see a ticket in. O(1)."""
    if ticket is None:
        return State.ABSENT
    if ticket.status is Status.PENDING:
        return State.UNCLAIMED if ticket.claim is None else State.CLAIMED
    return _TERMINAL[ticket.status]


def decide(ticket: Ticket | None, command: c.Command, context: c.Context) -> Events:
    """Return the events by which a command changes a ticket; none if nothing would change.

    Args:
        ticket: the ticket that the command names; None: there is none.
        command: the request.
        context: time, chance and the length of a lease.

    Raises:
        LeaseLost: the command names a claim, and that claim is over.
        TicketNotFound: there is no such ticket, and the command needs one.
        TicketExists: `Add` with `on_conflict="raise"`.
        InvalidTransition: the ticket is in a state that the command is not for.
        InvalidTicket: `Add` with both `runat` and `delay`, or an instant out of range.

    Cost: O(1). Pure: the same arguments give the same events.
    """
    if isinstance(command, c.Settle) and command.claim is not None:
        _fence(ticket, command)
    state = state_of(ticket)
    rule = _RULES[type(command)].get(state)
    if rule is None:
        raise _refusal(ticket, command)
    return rule(ticket, command, context)


def _fence(ticket: Ticket | None, command: c.Settle) -> None:
    if ticket is None or ticket.claim != command.claim:
        now = "it has been removed" if ticket is None else f"it is {_describe(ticket)} now"
        raise LeaseLost(
            f"ticket {command.id!r}: the claim of record {command.claim} is over, so its {_verb(command)} is refused; "
            f"{now}. The lease lapsed, or something else settled the ticket; another attempt may be running"
        )


def _refusal(ticket: Ticket | None, command: c.Command) -> Exception:
    if ticket is None:
        return TicketNotFound(
            f"ticket {command.id!r}: there is none to {_verb(command)}; it was never added, or has been removed"
        )
    states = [_PUBLIC.get(state, state.value) for state in _RULES[type(command)] if state is not State.ABSENT]
    if State.UNCLAIMED in _RULES[type(command)] and State.CLAIMED in _RULES[type(command)]:
        states = ["pending"]  # claimed or not
    allowed = ", ".join(states)
    return InvalidTransition(
        f"ticket {command.id!r} is {_describe(ticket)}; {_verb(command)} is for one that is {allowed}"
    )


def _describe(ticket: Ticket) -> str:
    state = state_of(ticket)
    return f"claimed by {ticket.worker!r}" if state is State.CLAIMED else _PUBLIC.get(state, state.value)


def _verb(command: c.Command) -> str:
    return type(command).__name__.lower()


# --- the rules, in the order of the table -----------------------------------------------------------------------------


def _add(ticket: Ticket | None, command: c.Add, context: c.Context) -> Events:
    if ticket is not None and command.on_conflict == "skip":
        return ()
    if ticket is not None and command.on_conflict == "raise":
        raise TicketExists(f"ticket {ticket.id!r} exists and is {_describe(ticket)}")
    new = command.ticket
    before = None if ticket is None or ticket.status is not Status.PENDING else waits_of(ticket)
    in_line = before is not None and before.claim is None
    if command.delay is not None:
        if new.runat is not None:
            raise InvalidTicket(f"ticket {new.id!r}: give runat (an instant) or delay (a duration), not both")
        runat = _later(context, delay_seconds(command.delay, 0, context.jitter))
    elif new.runat is not None:
        runat = new.runat
    else:
        runat = min(context.now, before.runat or context.now) if before is not None and in_line else context.now
    if command.after_group is not None and command.after_group == new.group:
        raise _in_group(new.id, new.group)
    return (
        e.TicketAdded(
            *(new.id, new.type, Raw(new.payload_json), new.tube, new.nice, runat, new.group),
            *(command.after, command.blocked_by, command.after_group, command.blocked_by_group, command.on_failure),
            *(in_line, before is not None and command.on_conflict == "refresh"),
        ),
    )


def _in_group(id: str, group: str | None) -> FinalizerInGroup:
    return FinalizerInGroup(
        f"ticket {id!r} is blocked by the group {group!r}, so it cannot be in it: it would block itself. Leave it out "
        f"of the group"
    )


def _check_group(ticket: Ticket, changes: e.Changes | None) -> None:
    """Refuse to move a ticket into the group that blocks it."""
    gate = waits_of(ticket).gate
    if changes is not None and gate is not None and gate.since and changes.group == gate.after_group:
        raise _in_group(ticket.id, gate.after_group)


def _claim(ticket: Ticket, command: c.Claim, context: c.Context) -> Events:
    if ticket.blocked:
        by = [*ticket.blocked_by, *([f"group {ticket.after_group}"] if ticket.gate and ticket.gate.since else ())]
        raise InvalidTransition(f"ticket {ticket.id!r} cannot be claimed: it is blocked by {', '.join(by)}")
    if ticket.runat is None or ticket.runat > context.now:
        raise InvalidTransition(f"ticket {ticket.id!r} cannot be claimed before {ticket.runat}; it is {context.now}")
    return (e.TicketClaimed(ticket.id, ticket.attempts + 1, _later(context, context.lease), command.worker),)


def _extend(ticket: Ticket, command: c.Extend, context: c.Context) -> Events:
    until = _later(context, command.seconds)
    if ticket.lease_until is not None and until <= ticket.lease_until:
        return ()
    return (e.LeaseExtended(ticket.id, until),)


def _done(ticket: Ticket, command: c.Done, context: c.Context) -> Events:
    result = UNSET if command.result is None else Raw(command.result)
    done = e.TicketDone(ticket.id, command.keep, result, _expiry(command.expire_in, context))
    return (done, *_moved(ticket, command.tube))


def _fail(ticket: Ticket, command: c.Fail, context: c.Context) -> Events:
    keep = context.keep_failed if command.expire_in is None else command.expire_in
    failed = e.TicketFailed(ticket.id, command.error_reason, _expiry(keep, context))
    return (failed, *_moved(ticket, command.tube))


def _cancel(ticket: Ticket, command: c.Cancel, context: c.Context) -> Events:
    expire_at = _expiry(command.expire_in, context)
    newest = waits_of(ticket) if command.claim is None else ticket
    dropped = newest is not ticket
    cancelled = e.TicketCancelled(ticket.id, command.keep, command.error_reason, expire_at, dropped)
    return (cancelled, *_moved(newest, command.tube))


def _retry(ticket: Ticket, command: c.Retry, context: c.Context) -> Events:
    _check_group(ticket, command.changes)
    if _exhausted(ticket, command.max_attempts):
        return (_no_attempts_left(ticket, command.error_reason, context),)
    delay = context.backoff if command.delay is None else command.delay
    runat = _later(context, delay_seconds(delay, ticket.attempts, context.jitter))
    if command.changes is not None and command.changes.runat is not UNSET:
        runat = command.changes.runat
    return (e.TicketRetried(ticket.id, runat, command.error_reason, command.changes),)


def _release(ticket: Ticket, command: c.Release, _context: c.Context) -> Events:
    _check_group(ticket, command.changes)
    return (e.TicketReleased(ticket.id, command.changes),)


def _lapse(ticket: Ticket, command: c.Lapse, context: c.Context) -> Events:
    if _exhausted(ticket, command.max_attempts):
        lapsed = e.TicketLapsed(ticket.id, context.now, command.error_reason)
        return (lapsed, _no_attempts_left(ticket, command.error_reason, context))
    runat = _later(context, command.backoff.seconds(ticket.attempts, context.jitter))
    return (e.TicketLapsed(ticket.id, runat, command.error_reason),)


def _restart(ticket: Ticket, _command: c.Restart, context: c.Context) -> Events:
    return (e.TicketRestarted(ticket.id, context.now),)


def _update(ticket: Ticket, command: c.Update, _context: c.Context) -> Events:
    _check_group(ticket, command.changes)
    return (e.TicketUpdated(ticket.id, command.changes),)


def _delete(ticket: Ticket, _command: c.Delete, _context: c.Context) -> Events:
    return (e.TicketDeleted(ticket.id),)


def _unblock(ticket: Ticket, command: c.Unblock, _context: c.Context) -> Events:
    if not command.failed:
        return (e.TicketUnblocked(ticket.id, command.ended, command.group),)
    if ticket.successor is not None:
        return (e.TicketUnblocked(ticket.id, command.ended, command.group, dropped=True),)
    reason = shorten_reason(f"ticket {command.ended!r}, which it waited for, failed or was cancelled")
    return (e.TicketCancelled(ticket.id, keep=True, error_reason=reason),)


def _nothing(_ticket: None, _command: c.Command, _context: c.Context) -> Events:
    return ()


def _expire(ticket: Ticket, _command: c.Expire, context: c.Context) -> Events:
    if ticket.expire_at is None or ticket.expire_at > context.now:
        raise InvalidTransition(f"ticket {ticket.id!r} does not expire before {ticket.expire_at}")
    return (e.TicketExpired(ticket.id),)


_Rule: TypeAlias = Callable[[Any, Any, c.Context], Events]
_PENDING: Final = (State.UNCLAIMED, State.CLAIMED)
_KEPT: Final = (State.DONE, State.FAILED, State.CANCELLED)

_RULES: Final[dict[type[c.Command], dict[State, _Rule]]] = {
    c.Add: dict.fromkeys(State, _add),
    c.Claim: {State.UNCLAIMED: _claim},
    c.Extend: {State.CLAIMED: _extend},
    c.Done: dict.fromkeys(_PENDING, _done),
    c.Fail: dict.fromkeys(_PENDING, _fail),
    c.Cancel: dict.fromkeys(_PENDING, _cancel),
    c.Retry: dict.fromkeys(_PENDING, _retry),
    c.Release: {State.CLAIMED: _release},
    c.Lapse: {State.CLAIMED: _lapse},
    c.Restart: dict.fromkeys(_KEPT, _restart),
    c.Update: dict.fromkeys((*_PENDING, *_KEPT), _update),
    c.Delete: {State.ABSENT: _nothing, **dict.fromkeys((*_PENDING, *_KEPT), _delete)},
    c.Expire: dict.fromkeys(_KEPT, _expire),
    c.Unblock: dict.fromkeys(_PENDING, _unblock),
}


# --- what the rules share ---------------------------------------------------------------------------------------------


def _later(context: c.Context, seconds: float) -> datetime:
    return instant_after("delay", context.now, seconds)


def _expiry(expire_in: float | None, context: c.Context) -> datetime | None:
    return None if expire_in is None else _later(context, expire_in)


def _moved(ticket: Ticket, tube: str | None) -> Events:
    """Return the event that moves a kept ticket to another tube, if one is asked for."""
    if tube is None or tube == ticket.tube or ticket.successor is not None:
        return ()
    return (e.TicketUpdated(ticket.id, e.Changes(tube=tube)),)


def _exhausted(ticket: Ticket, max_attempts: int | None) -> bool:
    # A successor is a new ticket: the attempts of the ticket before it do not count against it.
    return max_attempts is not None and ticket.attempts >= max_attempts and ticket.successor is None


def _no_attempts_left(ticket: Ticket, error_reason: str | None, context: c.Context) -> e.TicketFailed:
    reason = shorten_reason(f"{error_reason or 'retried'} (no attempts left after {ticket.attempts})")
    return e.TicketFailed(ticket.id, reason, _expiry(context.keep_failed, context))
