"""The commands that print tickets: `ls`, `show`, `why`, `as-of` and `diff`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs

from kharon.audit.diff import Diff, diff
from kharon.audit.explain import explain
from kharon.audit.fields import STATES, state_of, ticket_fields
from kharon.audit.history import latest
from kharon.audit.words import blockers, listed, other_fields_text
from kharon.cli.failures import Usage
from kharon.cli.output import Output, Styled
from kharon.cli.queues import history_of, reading, state_of_queue
from kharon.cli.times import ago, local_time
from kharon.cli.tubes import limit_fields, limit_text
from kharon.errors import TicketNotFound
from kharon.log.record import Record
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket
from kharon.model.tubes import Limit

__all__ = [
    "STYLES",
    "Filter",
    "print_difference",
    "print_explanation",
    "print_ticket",
    "print_tickets",
    "print_tickets_as_of",
]

STYLES: Final = {
    "ready": "cyan",
    "claimed": "green",
    "delayed": "blue",
    "blocked": "magenta",
    "done": "dim",
    "failed": "red",
    "cancelled": "dim",
}
_WIDE: Final = 60  # longer JSON is laid out over several lines


@attrs.frozen(slots=True, kw_only=True)
class Filter:
    """Which tickets to list.

    Attributes:
        status: a status, or a state (`kharon.audit.fields.STATES`); None: any.
        type, tube, group: exactly this one; None: any.
        due: only those that can be claimed now, in the order of claims: none from a paused tube, and from a limited
            tube as many as its limit leaves.
        limit: the largest number to list; None: all.
    """

    status: str | None = None
    type: str | None = None
    tube: str | None = None
    group: str | None = None
    due: bool = False
    limit: int | None = None

    def __attrs_post_init__(self) -> None:
        known = (Status.PENDING.value, *STATES)
        if self.status is not None and self.status not in known:
            raise Usage(f"--status: {self.status!r} is none of {', '.join(known)}")

    def _matches(self, ticket: Ticket, now: datetime) -> bool:
        return (
            self.status in (None, ticket.status.value, state_of(ticket, now))
            and self.type in (None, ticket.type)
            and self.tube in (None, ticket.tube)
            and self.group in (None, ticket.group)
            and (not self.due or state_of(ticket, now) == "ready")
        )

    def of(self, projection: Projection, now: datetime) -> tuple[list[Ticket], int]:
        """Return the tickets that match, and how many more there are."""
        found = [ticket for ticket in projection.tickets.values() if self._matches(ticket, now)]
        if self.due:
            found.sort(key=lambda ticket: (ticket.nice, ticket.runat, ticket.order))
            found = list(_claimable(projection, found, now))
        shown = found if self.limit is None else found[: self.limit]
        return shown, len(found) - len(shown)


def _claimable(projection: Projection, ready: list[Ticket], now: datetime) -> Iterator[Ticket]:
    """Yield the tickets that their tubes allow to be claimed, one after the other."""
    left: dict[str, int | None] = {}
    for ticket in ready:
        free = left.setdefault(ticket.tube, projection.room(ticket.tube, now))
        if free != 0:
            yield ticket
        if free:
            left[ticket.tube] = free - 1


def print_tickets(out: Output, queue: Path, wanted: Filter, now: datetime) -> None:
    """Print a queue's tickets."""
    _print(out, state_of_queue(out, queue), wanted, now)


def print_tickets_as_of(out: Output, queue: Path, when: int | datetime, wanted: Filter) -> None:
    """Print a queue's tickets as they were after a seq, or at an instant."""
    projection = state_of_queue(out, queue, when)
    if isinstance(when, int) and projection.seq < when:
        raise Usage(f"{when} lies ahead: the log ends at record {projection.seq}")
    now = when if isinstance(when, datetime) else projection.at
    if not out.json:
        out.say(f"after record {projection.seq}" + (f", {local_time(projection.at)}" if projection.at else ""))
    if now is not None:
        _print(out, projection, wanted, now)


def _print(out: Output, projection: Projection, wanted: Filter, now: datetime) -> None:
    tickets, more = wanted.of(projection, now)
    if out.json:
        for ticket in tickets:
            out.object(ticket_fields(ticket, now))
    else:
        heads = ("id", "type", "tube", "state", "")
        out.table(heads, ((ticket.id, ticket.type, ticket.tube, *_state(ticket, now)) for ticket in tickets))
        if not tickets and not more:
            out.say("no such tickets" if projection.tickets else "no tickets")
    if more:
        out.say(f"{more} more; --limit sets how many are shown")


def _state(ticket: Ticket, now: datetime) -> tuple[str, str]:
    """Return a ticket's state, and details of it."""
    name = state_of(ticket, now)
    return Styled(name, STYLES[name]), _about(ticket, name, now)


def _about(ticket: Ticket, name: str, now: datetime) -> str:
    tries = f"{ticket.attempts} attempt{'s' * (ticket.attempts != 1)}" if ticket.attempts else ""
    reason = f": {ticket.error_reason}" if ticket.error_reason else ""
    if name == "claimed":
        assert ticket.lease_until is not None
        ends = "ends" if ticket.lease_until > now else "ended"
        return f"by {ticket.worker}, attempt {ticket.attempts}, lease {ends} {ago(ticket.lease_until, now)}"
    if name == "blocked":
        return f"by {blockers(ticket)}"
    if name in ("ready", "delayed"):
        assert ticket.runat is not None
        return ", ".join(filter(None, (f"due {ago(ticket.runat, now)}", tries))) + reason
    assert ticket.mtime is not None
    # Not "done …": an update after the end also sets `mtime`. Only the history has the time of the end.
    return ", ".join(filter(None, (f"changed {ago(ticket.mtime, now)}", tries))) + reason


# --- one ticket -------------------------------------------------------------------------------------------------------


def _absent(id: str, found: list[Record]) -> TicketNotFound:
    if not found:
        return TicketNotFound(f"ticket {id!r}: there is none, and there never was")
    last = found[-1]
    return TicketNotFound(
        f"ticket {id!r}: there is none now; record {last.seq}, {type(last.event).__name__} by {last.by}, removed it at "
        f"{local_time(last.at)}. Its {len(found)} records: kharon history"
    )


def print_ticket(out: Output, queue: Path, id: str, now: datetime) -> None:
    """Print one ticket.

    Raises:
        TicketNotFound: it does not exist; the message says whether it did.
    """
    with reading(out, queue):
        ticket, found = latest(queue, id)
    if ticket is None:
        raise _absent(id, found)
    if out.json:
        out.object(ticket_fields(ticket, now))
        return
    lines = list(_lines(ticket, now))
    out.table(("", ""), [(Styled(name, "bold"), value) for name, value in lines], cut=False)


def _lines(ticket: Ticket, now: datetime) -> Iterator[tuple[str, str]]:
    name = state_of(ticket, now)
    yield "id", ticket.id
    yield "type", ticket.type
    yield "state", Styled(name, STYLES[name])
    if ticket.worker is not None:
        yield "claimed by", ticket.worker
    if ticket.blocked:
        yield "blocked by", blockers(ticket)
    if ticket.gate is not None:
        after = [*ticket.after, *([] if ticket.after_group is None else [f"group {ticket.after_group}"])]
        yield "added after", listed(after)
        yield "if one fails", ticket.on_failure
    if ticket.error_reason:
        yield "reason", ticket.error_reason
    yield "tube", ticket.tube
    yield "nice", str(ticket.nice)
    if ticket.group is not None:
        yield "group", ticket.group
    for label, at in (
        ("added", ticket.ctime),
        ("due", ticket.runat),
        ("lease until", ticket.lease_until),
        ("changed", ticket.mtime),
        ("expires", ticket.expire_at),
    ):
        if at is not None:
            more = f", by record {ticket.version}" if label == "changed" else ""
            yield label, f"{local_time(at)} ({ago(at, now)}){more}"
    yield "attempts", str(ticket.attempts)
    yield from other_fields_text(ticket, local_time)
    yield from _json_lines("payload", ticket.payload_json)
    if ticket.result_json is not None:
        yield from _json_lines("result", ticket.result_json)


def _json_lines(label: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield JSON as one line if it is short, otherwise laid out. `json` reads it, since it accepts NaN, too."""
    value = json.loads(data)
    text = json.dumps(value, ensure_ascii=False)
    lines = [text] if len(text) <= _WIDE else json.dumps(value, ensure_ascii=False, indent=2).split("\n")
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip(" "))
        yield label if number == 0 else "", " " * indent + line[indent:]


def print_explanation(out: Output, queue: Path, id: str, now: datetime, known: dict[str, Any]) -> None:
    """Print why a ticket is, or is not, running now.

    Args:
        out: where to print.
        queue: the queue's directory.
        id: the ticket's.
        now: the instant.
        known: further arguments of `explain`, which the log does not know.

    Raises:
        TicketNotFound: it does not exist; the message says whether it did.
    """
    projection = state_of_queue(out, queue)
    if id not in projection.tickets:
        raise _absent(id, history_of(out, queue, id))
    found = explain(projection, id, now, **known)
    fields: dict[str, Any] = {field.name: getattr(found, field.name) for field in attrs.fields(type(found))}
    del fields["ticket"]
    fields["reasons"] = [reason.value for reason in found.reasons]
    fields["blocked_by"], fields["members"] = list(found.blocked_by), list(found.members)
    fields["limit"] = limit_fields(found.limit)
    if out.json:
        out.object(fields)
        return
    out.line(found.sentence)
    labels = {
        "due_at": "due",
        "blocked_by": "blocked by",
        "members": f"members of {found.after_group}",
        "on_failure": "if one fails",
        "paused_since": "tube paused",
        "limit": "tube's limit",
        "reopens_at": "tube reopens",
        "worker": "claimed by",
        "lease_until": "lease until",
        "attempts": "attempts",
        "attempts_left": "attempts left",
        "ahead": "ahead of it",
        "terminal_since": "ended",
        "expires_at": "expires",
    }
    rows = []
    for name, label in labels.items():
        value = getattr(found, name)
        if isinstance(value, datetime):
            value = f"{local_time(value)} ({ago(value, now)})"
        elif isinstance(value, tuple):
            value = listed(value, found.members_left if name == "members" else None) or None
        elif isinstance(value, Limit):
            value = f"{limit_text(value)}; {found.tube_claimed} claimed"
        if name == "paused_since" and value is not None:
            value = f"{value}, by record {found.paused_seq}"
        if value is not None:
            rows.append((Styled(label, "bold"), str(value)))
    out.table(("", ""), rows, cut=False)


# --- two states -------------------------------------------------------------------------------------------------------


def print_difference(out: Output, queue: Path, a: int | datetime, b: int | datetime) -> None:
    """Print what changed in a queue between two places."""
    with reading(out, queue):
        found = diff(queue, a, b)
    if out.json:
        _object_difference(out, found)
        return
    for word, seq, at in (("from", found.a, found.a_at), ("to", found.b, found.b_at)):
        out.say(f"{word:4} record {seq}" + (f", {local_time(at)}" if at else ""))
    rows: list[tuple[str, str, str]] = [
        (Styled("-", "red"), ticket.id, _summary(ticket, found.a_at)) for ticket in found.removed
    ]
    rows += [(Styled("+", "green"), ticket.id, _summary(ticket, found.b_at)) for ticket in found.added]
    for change in found.changed:
        changes = "; ".join(
            f"{name} {_value(was)} -> {_value(is_)}"
            for name, (was, is_) in change.fields.items()
            if name not in ("version", "mtime")
        )
        rows.append((Styled("~", "yellow"), change.id, changes or "only its version"))
    out.table(("", "id", ""), rows)
    if not rows:
        out.say("nothing changed")


def _summary(ticket: Ticket, at: datetime | None) -> str:
    name, about = _state(ticket, at) if at is not None else (ticket.status.value, "")
    return f"{ticket.type} in {ticket.tube}, {name} {about}"


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return local_time(value)
    if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or "nothing"
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _object_difference(out: Output, found: Diff) -> None:
    for name, tickets, at in (("removed", found.removed, found.a_at), ("added", found.added, found.b_at)):
        for ticket in tickets:
            assert at is not None  # there is a ticket, so there was a record
            out.object({"change": name, "id": ticket.id, "ticket": ticket_fields(ticket, at)})
    for change in found.changed:
        fields = {name: [_plain(was), _plain(is_)] for name, (was, is_) in change.fields.items()}
        out.object({"change": "changed", "id": change.id, "fields": fields})


def _plain(value: Any) -> Any:
    """Return the value of a ticket's field for JSON."""
    if isinstance(value, Ticket):
        return {"id": value.id, "version": value.version}
    return value.value if isinstance(value, Status) else list(value) if isinstance(value, tuple) else value
