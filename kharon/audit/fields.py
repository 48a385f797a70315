"""Records, tickets and measures as plain fields, for output and export: one flat mapping each, with the log's names.

The values are str, int, float, bool, None, UTC datetimes and lists of str. JSON (payload, result, changes) is a
`msgspec.Raw` of the ASCII bytes in the log, and is never parsed. `msgspec.json` writes all of these as the log does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, Raw, structs

from kharon.audit.measure import Group
from kharon.log.record import Record
from kharon.model.events import EVENTS, Changes, Event
from kharon.model.ticket import FIELDS, Status, Ticket

__all__ = [
    "OTHER_FIELDS",
    "PERCENTS",
    "STATES",
    "event_fields",
    "group_fields",
    "record_fields",
    "state_of",
    "ticket_fields",
]

STATES: Final = ("ready", "claimed", "delayed", "blocked", "done", "failed", "cancelled")
"""The values of `state_of`."""

PERCENTS: Final = (50, 90, 99)
"""The percentiles that are shown."""

_FIRST: Final = (
    *("id", "type", "status", "state", "tube", "nice", "runat", "group", "attempts", "ctime", "mtime", "lease_until"),
    *("worker", "expire_at", "error_reason", "after", "after_group", "on_failure", "blocked", "blocked_by"),
)
_LAST: Final = ("version", "payload", "result")
OTHER_FIELDS: Final = tuple(field.name for field in FIELDS if field.told and field.name not in {*_FIRST, *_LAST})
"""The fields of a ticket without a label or place of their own in output: each is shown under its name."""

_encode = msgspec.json.Encoder().encode


_FIELDS: Final = {cls: [(f.name, f.encode_name, f.default) for f in structs.fields(cls)] for cls in EVENTS.values()}


def event_fields(event: Event) -> dict[str, Any]:
    """Return an event's own fields by their names in the log, without those that are absent there. O(fields)."""
    fields: dict[str, Any] = {}
    for name, written, default in _FIELDS[type(event)]:
        value = getattr(event, name)
        if default is NODEFAULT or value != default:
            fields[written] = Raw(_encode(value)) if isinstance(value, Changes) else value
    return fields


def record_fields(record: Record) -> dict[str, Any]:
    """Return a record as one flat mapping: seq, at, by, event, its own fields, part, durable, hash. O(fields)."""
    return {
        "seq": record.seq,
        "at": record.at,
        "by": record.by,
        "event": type(record.event).__name__,
        **event_fields(record.event),
        "part": list(record.part),
        "durable": record.durable,
        "hash": record.hash,
    }


def ticket_fields(ticket: Ticket, now: datetime) -> Mapping[str, Any]:
    """Return a ticket as one flat mapping with all fields, and its `state` at `now`. O(fields)."""
    fields = {name: None if name == "state" else getattr(ticket, name) for name in (*_FIRST, *OTHER_FIELDS, "version")}
    fields["status"] = ticket.status.value
    fields["state"] = state_of(ticket, now)
    fields["after"], fields["blocked_by"] = list(ticket.after), list(ticket.blocked_by)
    fields["payload"] = Raw(ticket.payload_json)
    fields["result"] = None if ticket.result_json is None else Raw(ticket.result_json)
    return fields


def state_of(ticket: Ticket, now: datetime) -> str:
    """Return the state of a ticket at `now`: its status, or, if pending, one of the first four of `STATES`. O(1)."""
    if ticket.status is not Status.PENDING:
        return ticket.status.value
    if ticket.claim is not None:
        return "claimed"
    if ticket.blocked:
        return "blocked"
    return "ready" if ticket.runat is None or ticket.runat <= now else "delayed"


def group_fields(group: Group) -> dict[str, Any]:
    """Return the counts of a group, its failure rate, and its waits and run times in seconds. O(buckets)."""
    fields: dict[str, Any] = {**group.counts, "failure_rate": group.failure_rate}
    for name, sketch in (("waited", group.waited), ("ran", group.ran)):
        fields[name] = {
            "count": sketch.count,
            "mean": sketch.mean,
            **{f"p{percent}": sketch.percentile(percent) for percent in PERCENTS},
            "longest": sketch.longest if sketch.count else None,
        }
    return fields
