"""Commands about records: `history`, `tail`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs
from msgspec import UNSET

from kharon.audit.fields import event_fields, record_fields
from kharon.audit.follow import follow
from kharon.audit.read import read
from kharon.audit.subjects import Subject, Subjects
from kharon.audit.timeline import Life, Span, Step, timeline
from kharon.audit.words import length
from kharon.cli.failures import Usage
from kharon.cli.output import Output, Styled
from kharon.cli.queues import beginning, past, reading
from kharon.cli.times import moment
from kharon.cli.why import awaited, told_gate, unblocked
from kharon.errors import TicketNotFound
from kharon.log.record import Record
from kharon.model import events as e

__all__ = ["Wanted", "tailed", "told_history", "word"]

_PHASES: Final = {
    "delayed": "delayed {}",
    "ready": "waited {}",
    "blocked": "blocked {}",
    "running": "attempt {attempt} ran {}",
    "backing off": "backed off {}",
    "kept": "kept {}",
}
_OPEN: Final = {"running": "attempt {attempt} runs, {} so far"}
_STYLES: Final = {"failed": "red", "lapsed": "red", "retried": "yellow", "done": "green", "claimed": "cyan"}
_BATCH: Final = 500


def word(event: e.Event) -> str:
    """Return an event's name for people: `claimed` for TicketClaimed; one that is not about a ticket keeps its own."""
    name = type(event).__name__
    return name.removeprefix("Ticket").lower() if name.startswith("Ticket") else _SHORTER.get(name, name)


_SHORTER: Final = {"LeaseExtended": "extended"}


def _styled(event: e.Event) -> Styled:
    name = word(event)
    return Styled(name, _STYLES.get(name, ""))


# --- history ----------------------------------------------------------------------------------------------------------


def told_history(out: Output, queue: Path, id: str, now: datetime) -> None:
    """Tell a ticket's life: every record, and what the time between them was spent with.

    Raises:
        TicketNotFound: there never was such a ticket.
    """
    found = past(out, queue, id)
    if not found:
        raise TicketNotFound(f"ticket {id!r}: there is no record of it in {queue}")
    told = timeline(found, now)
    if out.json:
        for life, number in _each_life(told.lives):
            for step in life.steps:
                spans = [_span_fields(span) for span in step.spans]
                out.object({"life": number, "who": step.who.value, **record_fields(step.record), "spans": spans})
        return
    if told.before:
        out.say(f"{len(told.before)} older records are about a life whose beginning is not in the log any more")
    for life, number in _each_life(told.lives):
        if number > 1:
            out.line("")
        rows = [_step_row(step) for step in life.steps]
        out.table(("seq", "at", "event", "by", "then"), rows, right=(0,))
        out.line(*_sum(life))


def _each_life(lives: Iterable[Life]) -> Iterator[tuple[Life, int]]:
    return ((life, number) for number, life in enumerate(lives, 1))


def _span_fields(span: Span) -> dict[str, Any]:
    return {
        "phase": span.phase.value,
        "begin": span.begin,
        "end": span.end,
        "seconds": span.length.total_seconds(),
        "attempt": span.attempt,
        "open": span.open,
    }


def _step_row(step: Step) -> tuple[str, str, str, str, str]:
    record = step.record
    then = ", ".join(_told_span(span) for span in step.spans)
    if step.ticket is None:
        then = "removed"
    then = ": ".join(filter(None, (then, _why(record.event))))
    return str(record.seq), moment(record.at), _styled(record.event), record.by, then


def _why(event: e.Event) -> str:
    """Return an event's reason, or what it waits for, and the changes that came with it."""
    if isinstance(event, e.TicketUnblocked):
        return unblocked(event)
    if isinstance(event, e.TicketAdded):
        what = awaited(event)
        return f"by {what}" if what else ""
    changes = getattr(event, "changes", None)
    return "; ".join(filter(None, (getattr(event, "error_reason", None), changes and _changes(changes))))


def _told_span(span: Span) -> str:
    form = _OPEN.get(span.phase.value) if span.open else None
    form = form or _PHASES[span.phase.value]
    so_far = " so far" if span.open and "so far" not in form else ""
    return form.format(length(span.length), attempt=span.attempt) + so_far


def _sum(life: Life) -> list[str]:
    """Say how much time a life spent with what."""
    totals = life.totals
    parts = [
        f"{name} {length(spent)}"
        for name, spent in (
            ("delayed", totals.delayed),
            ("waiting", totals.ready),
            ("blocked", totals.blocked),
            ("running", totals.running),
            ("backing off", totals.backing_off),
            ("kept", totals.kept),
        )
        if spent > timedelta(0)
    ]
    tries = len(life.attempts)
    return [
        f"{tries} attempt{'s' * (tries != 1)} in {length(life.end - life.begin)}: " + ", ".join(parts or ["no time"])
    ]


# --- tail -------------------------------------------------------------------------------------------------------------


@attrs.frozen(slots=True, kw_only=True)
class Wanted:
    """Which records to give.

    Attributes:
        after: those behind this seq; None: from the beginning, or with `last`.
        since: those of this instant and later; None: any.
        last: of those that fit only so many, the last; None: all.
        id, by: exactly this one; None: any.
        event: an event's name, or the word for it; None: any.
        type, tube, group: about tickets of this type, in this tube, in this group: all at once if several are given;
            what a record is about is in `kharon.audit.subjects`. None: any.
    """

    after: int | None = None
    since: datetime | None = None
    last: int | None = None
    id: str | None = None
    by: str | None = None
    event: str | None = None
    type: str | None = None
    tube: str | None = None
    group: str | None = None

    def __attrs_post_init__(self) -> None:
        names = {name: word_of for name, cls in e.EVENTS.items() for word_of in [_word_of(cls)]}
        if self.event is not None and self.event not in {*names, *names.values()}:
            raise Usage(f"--event: there is none called {self.event!r}; there are {', '.join(names.values())}")

    def fits(self, record: Record) -> bool:
        """Return whether a record is wanted, whatever its place and what it is about."""
        event = record.event
        return (
            (self.since is None or record.at >= self.since)
            and (self.id is None or getattr(event, "id", None) == self.id)
            and self.by in (None, record.by)
            and self.event in (None, type(event).__name__, word(event))
        )

    @property
    def by_subject(self) -> bool:
        """Whether it matters what a record is about, so that the records before it must be known, too."""
        return (self.type, self.tube, self.group) != (None, None, None)

    def is_one(self, subject: Subject) -> bool:
        """Return whether what is about this subject is wanted."""
        return (
            self.type in (None, subject.type)
            and self.tube in (None, subject.tube)
            and self.group in (None, subject.group)
        )


def _word_of(cls: type[e.Event]) -> str:
    name = cls.__name__
    return name.removeprefix("Ticket").lower() if name.startswith("Ticket") else _SHORTER.get(name, name)


def tailed(out: Output, queue: Path, wanted: Wanted, *, go_on: bool) -> None:
    """Give the last records, and with `go_on` those that come: each as soon as its whole commit is in the file.

    Cost: O(bytes of the log). If it matters what a record is about, each is folded, those that are not asked for too,
    and the tickets that live are held; else nothing is.
    """
    give = _giver(out)
    after = wanted.after or 0
    subjects = Subjects(beginning(out, queue, "told", after)) if wanted.by_subject else None
    seen = after if subjects is None else subjects.seq

    def fits(record: Record) -> bool:
        about = None if subjects is None else subjects.of(record)
        return (
            record.seq > after
            and wanted.fits(record)
            and (about is None or any(wanted.is_one(subject) for subject in about))
        )

    def found() -> Iterator[Record]:
        nonlocal seen
        for record in read(queue, seen):
            seen = record.seq
            if fits(record):
                yield record

    if wanted.last is None:
        give(found())
    else:
        with reading(out, queue):
            last = deque(found(), wanted.last)
        give(last)
    if go_on:
        out.flush()
        with follow(queue, seen, durable=False) as coming:
            for record in coming:
                if fits(record):
                    give((record,))
                    out.flush()


def _giver(out: Output) -> Callable[[Iterable[Record]], None]:
    """Return what gives records: as JSON, or in a table whose columns only ever become wider."""
    if out.json:

        def give_json(records: Iterable[Record]) -> None:
            for record in records:
                out.object(record_fields(record))

        return give_json
    table = out.growing(("seq", "at", "event", "by", "id", ""), right=(0,))

    def give_rows(records: Iterable[Record]) -> None:
        coming = iter(records)
        while batch := list(islice(coming, _BATCH)):
            table([_record_row(record) for record in batch])

    return give_rows


def _record_row(record: Record) -> tuple[str, str, str, str, str, str]:
    id = getattr(record.event, "id", "")
    return str(record.seq), moment(record.at, exact=False), _styled(record.event), record.by, id, _about(record)


def _about(record: Record) -> str:
    """Say in a few words what an event says beside its ticket's id."""
    event, at = record.event, record.at
    match event:
        case e.TicketAdded():
            due = f", due in {length(event.runat - at)}" if event.runat > at else ""
            return f"{event.type} in {event.tube}{due}{told_gate(event)}"
        case e.TicketUnblocked():
            return unblocked(event)
        case e.TicketClaimed():
            return f"attempt {event.attempt}, for {length(event.lease_until - at)}"
        case e.LeaseExtended():
            return f"for {length(event.lease_until - at)}"
        case e.TicketDone():
            return _kept(event.expire_at, at) if event.keep else "removed"
        case e.TicketCancelled():
            kept = _kept(event.expire_at, at) if event.keep else "removed"
            return f"{kept}: {event.error_reason}" if event.error_reason else kept
        case e.TicketFailed():
            return event.error_reason or ""
        case e.TicketRetried() | e.TicketLapsed():
            again = f"again in {length(event.runat - at)}" if event.runat > at else "again at once"
            changes = event.changes if isinstance(event, e.TicketRetried) else None
            with_changes = f" with {_changes(changes)}" if changes is not None else ""
            return again + with_changes + (f": {event.error_reason}" if event.error_reason else "")
        case e.TicketUpdated():
            return _changes(event.changes)
        case _:
            fields = event_fields(event)
            fields.pop("id", None)
            return ", ".join(f"{name} {_text(value)}" for name, value in fields.items())


def _kept(expire_at: datetime | None, at: datetime) -> str:
    return "kept" if expire_at is None else f"kept for {length(expire_at - at)}"


def _changes(changes: e.Changes) -> str:
    given = {
        "nice": changes.nice,
        "payload": changes.payload_json,
        "tube": changes.tube,
        "group": changes.group,
        "runat": changes.runat,
    }
    return ", ".join(f"{name} {_text(value)}" for name, value in given.items() if value is not UNSET)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, (bytes, memoryview)) or type(value).__name__ == "Raw":
        return json.dumps(json.loads(bytes(value)), ensure_ascii=False)
    return "none" if value is None else str(value)
