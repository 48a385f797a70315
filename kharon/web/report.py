"""One self-contained HTML page about a queue, and optionally about one of its tickets: `report`.

The page holds its data as JSON and draws it with its own script; it needs no framework and fetches nothing. A log may
hold hostile text. Therefore every text passes `safe`, which turns invisible characters into visible escapes; the JSON
is ASCII without `<`, `>` and `&`; the script sets text and never HTML; and the page's Content-Security-Policy forbids
all network access and every script except this one, by its hash. Style and script are in `page/`, beside this module.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from kharon.audit.fields import PERCENTS, event_fields, state_of
from kharon.audit.history import history
from kharon.audit.measure import COUNTS, Group, Sketch
from kharon.audit.read import check_queue, read
from kharon.audit.replay import known_start, state_at_start
from kharon.audit.safe import safe
from kharon.audit.timeline import Attempt, Life, Phase, Span, Step, Timeline, timeline
from kharon.audit.words import details, listed, other_fields_text, span_text
from kharon.errors import TicketNotFound
from kharon.log.record import Record
from kharon.model.checks import ascii_json, check_instant
from kharon.model.ticket import Status, Ticket
from kharon.web.over_time import PHASES, OverTime, Slot

__all__ = ["report"]

MOST_EVENTS: Final = 50_000
"""The page holds at most this many of a ticket's records, the last ones, with spans and attempts: about 13 MB."""
MOST_TYPES: Final = 25
_LONGEST_TEXT: Final = 2_000
_LONGEST_DETAILS: Final = 200
_LONGEST_JSON: Final = 20_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SCRIPTS: Final = ("common.js", "charts.js", "timeline.js", "main.js")


def report(path: str | os.PathLike[str], id: str | None = None, *, now: datetime | None = None) -> str:
    """Return a page about a queue over time (depth, counts, waits, run times, failures), and about a ticket's life.

    Args:
        path: the queue's directory; it may be open in any process.
        id: the ticket to show; None: only the queue.
        now: the instant up to which phases are drawn that have not ended; None: the present.

    Returns:
        HTML in ASCII: about 75 KB, and for a ticket about 260 bytes for each of its records. The page holds at most the
        last 50,000 of them.

    Raises:
        TicketNotFound: there never was such a ticket.
        CorruptLog: the log is damaged, other than by an unfinished last commit.
        UnknownFormat: a later version of Kharon wrote it.
        InvalidTicket: `now` is not a timezone-aware datetime.
        KharonError: there is no queue at `path`, or a record cannot follow from those before it.
        OSError: the log cannot be read.

    Cost: O(bytes of the log); the memory of the living tickets, of the ticket's own records, and of at most 120 slots
        of time.
    """
    present = datetime.now(UTC) if now is None else check_instant("now", now)
    queue = Path(path)
    check_queue(queue)
    data = {"made": _us(present), "queue": safe(str(path)), "ticket": None, "time": None}
    if id is not None:
        data["ticket"] = _ticket_fields(timeline(_history(queue, id), present, start=known_start(queue)))
    data["time"] = _time_fields(queue)
    return _page(data, safe(queue.resolve().name if id is None else id), is_ticket=id is not None)


def _history(queue: Path, id: str) -> list[Record]:
    found = history(queue, id)
    if not found:
        raise TicketNotFound(f"ticket {id!r}: there is no record of it in {queue}")
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def _page(data: dict[str, Any], title: str, *, is_ticket: bool) -> str:
    style, script = _part("report.css"), "\n".join(_part(name) for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )
    fills = {
        "policy": html.escape(policy),
        "title": html.escape(title),
        "kind": "ticket" if is_ticket else "queue",
        "style": style,
        "script": script,
        "data": _script_json(data),
    }
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: fills[found[1]], _part("page.html"))
    return filled.encode("ascii", "xmlcharrefreplace").decode("ascii")  # only the title is not ASCII yet


@cache
def _part(name: str) -> str:
    return resources.files("kharon.web").joinpath("page", name).read_text(encoding="ascii")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: object) -> str:
    """Return JSON that cannot end a script or one of its lines: ASCII without `<`, `>` and `&`."""
    text = ascii_json(msgspec.json.encode(value)).decode("ascii")
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\x7f", "\\u007f")


def _us(at: datetime) -> int:
    """Return an instant as microseconds since 1970, which a script's numbers hold exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def _text(text: str | None, longest: int = _LONGEST_TEXT) -> str | None:
    """Return text made safe, and cut if it is longer than `longest` characters."""
    if text is None:
        return None
    cut = f" … and {len(text) - longest:,} characters more" if len(text) > longest else ""
    return safe(text[:longest]) + cut


# --- a ticket ---------------------------------------------------------------------------------------------------------


def _ticket_fields(line: Timeline) -> dict[str, Any]:
    steps = [(number, step) for number, life in enumerate(line.lives, 1) for step in life.steps]
    attempts = [(number, attempt) for number, life in enumerate(line.lives, 1) for attempt in life.attempts]
    shown = steps[-MOST_EVENTS:]
    early = line.before[max(0, len(line.before) + len(shown) - MOST_EVENTS) :]
    left_out = len(line.before) + len(steps) - len(early) - len(shown)
    first = (*early, *(step.record for _, step in shown))[0].seq if left_out else 0
    return {
        "id": safe(line.id),
        "now": _us(line.now),
        **_state(line),
        "early": len(line.before),
        "left_out": left_out,
        "lives": [_life(life) for life in line.lives[-MOST_EVENTS:]],
        "events": [*map(_early, early), *(_event(number, step) for number, step in shown)],
        "spans": [_span(span) for _, step in shown for span in step.spans],
        "attempts": [_attempt(number, attempt) for number, attempt in attempts if attempt.claim >= first],
    }


def _state(line: Timeline) -> dict[str, Any]:
    """Return the ticket's state now, or how it ended, and its last known fields."""
    last = next((step for life in reversed(line.lives) for step in reversed(life.steps)), None)
    if last is None:
        return {"state": "unknown", "facts": [], "payload": None, "result": None}
    ticket, removed = last.ticket, last.ticket is None
    if ticket is None:  # the step before has its last fields
        steps = line.lives[-1].steps
        ticket = next((step.ticket for step in reversed(steps) if step.ticket is not None), None)
    how = f"{last.record.event.word}, removed" if removed else ""
    state = how or ("pending" if ticket is None else _phase_now(ticket, line.now))
    facts = [] if ticket is None else list(_facts(ticket, removed=removed))
    return {
        "state": state,
        "facts": facts,
        "payload": None if ticket is None else _json_text(ticket.payload_json),
        "result": None if ticket is None else _json_text(ticket.result_json),
    }


def _phase_now(ticket: Ticket, now: datetime) -> str:
    state = state_of(ticket, now)
    return "running" if state == "claimed" else state


def _facts(ticket: Ticket, *, removed: bool) -> Iterator[tuple[str, str | int | None]]:
    """Yield a ticket's fields by name; an int is an instant."""
    yield "type", safe(ticket.type)
    yield "tube", safe(ticket.tube)
    yield "nice", str(ticket.nice)
    if ticket.group is not None:
        yield "group", safe(ticket.group)
    yield "attempts", str(ticket.attempts)
    yield from ((label, safe(text)) for label, text in other_fields_text(ticket, _utc))
    if removed:
        return
    if ticket.blocked_by:
        yield "blocked by", _text(listed(ticket.blocked_by))
    if ticket.gate is not None and ticket.gate.since:
        yield "blocked by members of group", safe(str(ticket.after_group))
    if ticket.blocked:
        yield "if one of them fails", "it is cancelled" if ticket.on_failure == "cancel" else "it runs nevertheless"
    due = ticket.runat if ticket.status is Status.PENDING and ticket.claim is None else None
    for name, at in (("due", due), ("lease until", ticket.lease_until), ("expires", ticket.expire_at)):
        if at is not None:
            yield name, _us(at)
    if ticket.error_reason is not None:
        yield "reason", _text(ticket.error_reason)


def _json_text(data: bytes | None) -> str | None:
    """Return JSON laid out over several lines, each made safe; None for None."""
    if data is None:
        return None
    laid_out = json.dumps(json.loads(data), ensure_ascii=False, indent=2)
    shown = "\n".join(safe(line) for line in laid_out[:_LONGEST_JSON].split("\n"))
    cut = len(laid_out) - _LONGEST_JSON
    return f"{shown}\n… and {cut:,} characters more" if cut > 0 else shown


def _life(life: Life) -> dict[str, Any]:
    spent = {phase.value: life.totals.of(phase) for phase in Phase}
    return {
        "begin": _us(life.begin),
        "end": _us(life.end),
        "removed": life.removed,
        "attempts": len(life.attempts),
        "totals": {name: time // timedelta(microseconds=1) for name, time in spent.items() if time},
    }


def _event(life: int, step: Step) -> list[Any]:
    record = step.record
    then = "removed" if step.ticket is None else ", ".join(span_text(span) for span in step.spans)
    return [
        record.seq,
        _us(record.at),
        record.event.word,
        safe(record.by),
        step.who.value,
        *_details(record),
        then,
        life,
    ]


def _early(record: Record) -> list[Any]:
    return [record.seq, _us(record.at), record.event.word, safe(record.by), None, *_details(record), "", 0]


def _span(span: Span) -> list[Any]:
    return [span.phase.value, _us(span.begin), _us(span.end), span.seq, span.attempt, int(span.open)]


def _attempt(life: int, attempt: Attempt) -> list[Any]:
    return [
        attempt.number,
        _us(attempt.begin),
        None if attempt.end is None else _us(attempt.end),
        safe(attempt.worker),
        attempt.outcome.value,
        _text(attempt.error_reason),
        None if attempt.by is None else safe(attempt.by),
        attempt.claim,
        life,
    ]


def _details(record: Record) -> tuple[str | None, str | None]:
    """Return what an event says besides its ticket's id, and its reason."""
    return _text(details(record, _utc), _LONGEST_DETAILS), _text(getattr(record.event, "error_reason", None))


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


# --- a queue ----------------------------------------------------------------------------------------------------------


def _time_fields(queue: Path) -> dict[str, Any] | None:
    """Return a log's data over time, read once; None: it has no records."""
    start = state_at_start(queue)
    over_time = OverTime(start.tickets.values(), start.at)
    for record in read(queue, start.seq):
        over_time.add(record)
    measures, slots = over_time.measures, over_time.slots
    if slots is None or measures.first_at is None or measures.last_at is None:
        return None
    types = sorted(measures.groups.items(), key=lambda pair: (-pair[1].counts["added"], str(pair[0])))
    return {
        "begin": slots.begin * 1_000_000,
        "width": slots.width * 1_000_000,
        "records": measures.records,
        "first": measures.first,
        "last": measures.last,
        "first_at": _us(measures.first_at),
        "last_at": _us(measures.last_at),
        "depth": {phase.value: [slot.depth[number] for slot in slots.all] for number, phase in enumerate(PHASES)},
        "most_ready": [slot.most_ready for slot in slots.all],
        "counts": {name: [slot.counts[name] for slot in slots.all] for name in COUNTS},
        "waited": _sketches(slots.all, "waited"),
        "ran": _sketches(slots.all, "ran"),
        "total": _group(measures.total),
        "types": [{"type": safe(str(name)), **_group(group)} for name, group in types[:MOST_TYPES]],
        "more_types": max(0, len(types) - MOST_TYPES),
        "failures": [_failure(record) for record in reversed(over_time.failures)],
        "incidents": [_incident(record) for record in reversed(over_time.incidents)],
    }


def _sketch(sketch: Sketch) -> dict[str, float | None]:
    """Return percentiles and the longest in seconds, and the number of durations."""
    found: dict[str, float | None] = {f"p{percent}": _rounded(sketch.percentile(percent)) for percent in PERCENTS}
    return {"count": sketch.count, **found, "longest": _rounded(sketch.longest) if sketch.count else None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _sketches(slots: Iterable[Slot], name: str) -> dict[str, list[float | None]]:
    all = [_sketch(getattr(slot, name)) for slot in slots]
    return {key: [found[key] for found in all] for key in all[0]}


def _group(group: Group) -> dict[str, Any]:
    return {
        **group.counts,
        "failure_rate": group.failure_rate,
        "waited": _sketch(group.waited),
        "ran": _sketch(group.ran),
    }


def _failure(record: Record) -> list[Any]:
    event = record.event
    return [
        record.seq,
        _us(record.at),
        safe(getattr(event, "id", "")),
        event.word,
        _text(getattr(event, "error_reason", None)),
    ]


def _incident(record: Record) -> list[Any]:
    event = record.event
    said = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in event_fields(event).items()
        if name not in {"hash", "sha256", "payload"}
    )
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(event).__name__).lower().capitalize()
    return [record.seq, _us(record.at), words, safe(record.by), _text(said)]
