"""The commands that print tubes and schedules: `tubes` and `schedules`."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kharon.audit.fields import state_of
from kharon.audit.words import length
from kharon.cli.output import Output
from kharon.cli.queues import state_of_queue
from kharon.cli.times import ago, local_time
from kharon.model.schedules import Schedule
from kharon.model.ticket import Status
from kharon.model.tubes import Limit, Tube

__all__ = ["limit_fields", "limit_text", "print_schedules", "print_tubes"]

_STATES: Final = ("ready", "claimed", "delayed", "blocked")


def print_tubes(out: Output, queue: Path, now: datetime) -> None:
    """Print the tubes that have pending tickets, a pause or a limit: their counts, and what closes them."""
    projection = state_of_queue(out, queue)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for ticket in projection.tickets.values():
        if ticket.status is Status.PENDING:
            counts[ticket.tube][state_of(ticket, now)] += 1
    rows = []
    for name in sorted({*counts, *projection.tubes.names()}):
        tube, count = projection.tube(name, now), counts[name]
        if out.json:
            out.object(_tube_fields(tube, count))
        rows.append((name, *(f"{count[each]:,}" for each in _STATES), _about(tube, now)))
    if not out.json:
        out.table(("tube", *_STATES, ""), rows, right=range(1, 5))
        if not rows:
            out.say("no pending tickets, and no tube with a pause or a limit")


def _tube_fields(tube: Tube, count: Counter[str]) -> dict[str, Any]:
    return {
        "tube": tube.name,
        **{name: count[name] for name in _STATES},
        "paused_since": tube.paused_since,
        "paused_seq": tube.paused_seq,
        "limit": limit_fields(tube.limit),
        "open": tube.open,
        "reopens_at": tube.reopens_at,
    }


def limit_fields(limit: Limit | None) -> dict[str, Any] | None:
    """Return a limit for JSON."""
    return None if limit is None else {"claimed": limit.claimed, "claims": limit.claims, "period": limit.period}


def limit_text(limit: Limit) -> str:
    """Return what a limit allows."""
    parts = []
    if limit.claimed is not None:
        parts.append(f"{limit.claimed} claimed at once")
    if limit.claims is not None and limit.period is not None:
        parts.append(f"{limit.claims} claim{'s' * (limit.claims != 1)} in {length(limit.period)}")
    return f"at most {', and '.join(parts)}"


def _about(tube: Tube, now: datetime) -> str:
    """Return whether a tube is closed, why, and until when; and its limit."""
    parts = []
    if tube.paused_since is not None:
        parts.append(f"paused {ago(tube.paused_since, now)}, by record {tube.paused_seq}")
    if tube.limit is not None:
        parts.append(limit_text(tube.limit))
    if tube.reopens_at is not None:
        parts.append(f"reopens {ago(tube.reopens_at, now)}")
    elif not tube.open and tube.paused_since is None:
        parts.append("at its limit")
    return "; ".join(parts)


# --- schedules --------------------------------------------------------------------------------------------------------


def print_schedules(out: Output, queue: Path, now: datetime) -> None:
    """Print the schedules: when each fires, what it adds, when next, and when it fired last."""
    rows = []
    for schedule in state_of_queue(out, queue).schedules.values():
        if out.json:
            out.object(_schedule_fields(schedule))
        rows.append((schedule.name, _when(schedule), f"{schedule.type} in {schedule.tube}", *_times(schedule, now)))
    if not out.json:
        out.table(("schedule", "when", "adds", "next", "last"), rows)
        if not rows:
            out.say("no schedules")


def _schedule_fields(schedule: Schedule) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "every": schedule.every,
        "tz": schedule.tz,
        "catch_up": schedule.catch_up,
        "next": schedule.next,
        "last": schedule.last,
        "type": schedule.type,
        "tube": schedule.tube,
        "nice": schedule.nice,
        "group": schedule.group,
        "payload": schedule.payload_json,
    }


def _when(schedule: Schedule) -> str:
    if schedule.every is not None:
        return f"every {length(schedule.every)}"
    return f"{schedule.cron}, {schedule.tz}"


def _times(schedule: Schedule, now: datetime) -> tuple[str, str]:
    coming = (
        "never again"
        if schedule.next is None
        else f"{local_time(schedule.next, exact=False)} ({ago(schedule.next, now)})"
    )
    last = (
        "not yet" if schedule.last is None else f"{local_time(schedule.last, exact=False)} ({ago(schedule.last, now)})"
    )
    return coming, last
