"""The commands that print records: `history` and `tail`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs

from kharon.audit.fields import event_fields, record_fields
from kharon.audit.follow import follow
from kharon.audit.read import read
from kharon.audit.replay import known_start
from kharon.audit.subjects import Subject, Subjects
from kharon.audit.timeline import Life, Phase, Span, Step, timeline
from kharon.audit.words import added_blockers, changes_text, details, length, span_text, unblocked_text, value_text
from kharon.cli.failures import Usage
from kharon.cli.output import Output, Styled
from kharon.cli.queues import history_of, reading, state_at_start_of
from kharon.cli.times import local_time
from kharon.errors import TicketNotFound
from kharon.log.record import Record
from kharon.model import events as e

__all__ = ["Wanted", "print_history", "print_tail"]

_STYLES: Final = {
    e.TicketFailed: "red",
    e.TicketLapsed: "red",
    e.TicketRetried: "yellow",
    e.TicketDone: "green",
    e.TicketClaimed: "cyan",
}
_BATCH: Final = 500


def _styled(event: e.Event) -> Styled:
    return Styled(event.word, _STYLES.get(type(event), ""))


# --- history ----------------------------------------------------------------------------------------------------------


def print_history(out: Output, queue: Path, id: str, now: datetime) -> None:
    """Print every record about a ticket, and the phases between them.

    Raises:
        TicketNotFound: there never was such a ticket.
    """
    found = history_of(out, queue, id)
    start = known_start(queue)
    if not found and start is not None and id in start.tickets:
        raise TicketNotFound(f"ticket {id!r}: its records were trimmed; kharon show shows it as a snapshot holds it")
    if not found:
        raise TicketNotFound(f"ticket {id!r}: there is no record of it in {queue}")
    line = timeline(found, now, start=start)
    if out.json:
        for record in line.before:
            out.object({"life": None, "who": None, **record_fields(record), "spans": []})
        for number, life in enumerate(line.lives, 1):
            for step in life.steps:
                spans = [_span_fields(span) for span in step.spans]
                out.object({"life": number, "who": step.who.value, **record_fields(step.record), "spans": spans})
        return
    if line.before:
        out.say(f"{len(line.before)} older records belong to a life whose beginning is missing from the log")
        rows = [_record_row(record) for record in line.before]
        out.table(("seq", "at", "event", "by", ""), [(*row[:4], row[5]) for row in rows], right=(0,))
    for number, life in enumerate(line.lives, 1):
        if number > 1 or line.before:
            out.line("")
        out.table(("seq", "at", "event", "by", "then"), [_step_row(step) for step in life.steps], right=(0,))
        out.line(_summary(life))


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
    then = "removed" if step.ticket is None else ", ".join(span_text(span) for span in step.spans)
    then = ": ".join(filter(None, (then, _why(record.event))))
    return str(record.seq), local_time(record.at), _styled(record.event), record.by, then


def _why(event: e.Event) -> str:
    """Return an event's reason and changes, or what blocks the ticket."""
    if isinstance(event, e.TicketUnblocked):
        return unblocked_text(event)
    if isinstance(event, e.TicketAdded):
        what = added_blockers(event)
        return f"by {what}" if what else ""
    changes = changes_text(getattr(event, "changes", None), local_time)
    return "; ".join(filter(None, (getattr(event, "error_reason", None), changes)))


def _summary(life: Life) -> str:
    """Return how many attempts a life had, and how much time it spent in each phase."""
    spent = [(phase, life.totals.of(phase)) for phase in Phase]
    parts = [f"{phase} {length(time)}" for phase, time in spent if time]
    attempts = f"{len(life.attempts)} attempt{'s' * (len(life.attempts) != 1)}"
    return f"{attempts} in {length(life.end - life.begin)}: {', '.join(parts) or 'no time'}"


# --- tail -------------------------------------------------------------------------------------------------------------


@attrs.frozen(slots=True, kw_only=True)
class Wanted:
    """Which records to print.

    Attributes:
        after: those after this seq; None: from the beginning.
        since: those at or after this instant; None: any.
        last: of the records that match, only the last so many; None: all.
        id, by: exactly this one; None: any.
        event: an event's name or word; None: any.
        type, tube, group: about tickets of this type, in this tube, in this group; all given ones must match the same
            ticket. `kharon.audit.subjects` defines what a record is about. None: any.
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
        words = [event.word for event in e.EVENTS.values()]
        if self.event is not None and self.event not in {*e.EVENTS, *words}:
            raise Usage(f"--event: there is no event {self.event!r}; the events are {', '.join(words)}")

    def matches(self, record: Record) -> bool:
        """Return whether a record is wanted, except for its seq and what it is about."""
        event = record.event
        return (
            (self.since is None or record.at >= self.since)
            and (self.id is None or getattr(event, "id", None) == self.id)
            and self.by in (None, record.by)
            and self.event in (None, type(event).__name__, event.word)
        )

    @property
    def by_subject(self) -> bool:
        """Whether it matters what a record is about, so that earlier records must be folded."""
        return (self.type, self.tube, self.group) != (None, None, None)

    def matches_subject(self, subject: Subject) -> bool:
        """Return whether records about this subject are wanted."""
        return (
            self.type in (None, subject.type)
            and self.tube in (None, subject.tube)
            and self.group in (None, subject.group)
        )


def print_tail(out: Output, queue: Path, wanted: Wanted, *, go_on: bool) -> None:
    """Print the last records, and with `go_on` new ones, each as soon as its whole commit is in the file.

    Cost: O(bytes of the log). If it matters what a record is about, every record is folded, and the tickets that live
    are held in memory; otherwise nothing is.
    """
    write = _writer(out)
    after = wanted.after or 0
    subjects = Subjects(state_at_start_of(out, queue, "printed", after)) if wanted.by_subject else None
    seen = after if subjects is None else subjects.seq

    def matches(record: Record) -> bool:
        about = None if subjects is None else subjects.of(record)
        return (
            record.seq > after and wanted.matches(record) and (about is None or any(map(wanted.matches_subject, about)))
        )

    def found() -> Iterator[Record]:
        nonlocal seen
        for record in read(queue, seen):
            seen = record.seq
            if matches(record):
                yield record

    if wanted.last is None:
        write(found())
    else:
        with reading(out, queue):
            last = deque(found(), wanted.last)
        write(last)
    if go_on:
        out.flush()
        with follow(queue, seen, durable=False) as coming:
            for record in coming:
                if matches(record):
                    write((record,))
                    out.flush()


def _writer(out: Output) -> Callable[[Iterable[Record]], None]:
    """Return a function that writes records: as JSON, or in a table whose columns only become wider."""
    if out.json:

        def write_json(records: Iterable[Record]) -> None:
            for record in records:
                out.object(record_fields(record))

        return write_json
    table = out.growing_table(("seq", "at", "event", "by", "id", ""), right=(0,))

    def write_rows(records: Iterable[Record]) -> None:
        coming = iter(records)
        while batch := list(islice(coming, _BATCH)):
            table([_record_row(record) for record in batch])

    return write_rows


def _record_row(record: Record) -> tuple[str, str, str, str, str, str]:
    id = getattr(record.event, "id", "")
    return str(record.seq), _to_the_second(record.at), _styled(record.event), record.by, id, _details(record)


_to_the_second: Final = partial(local_time, exact=False)


def _details(record: Record) -> str:
    """Return what an event says besides its ticket's id."""
    event = record.event
    if isinstance(event, e.TicketEvent):
        return ": ".join(filter(None, (details(record, local_time), getattr(event, "error_reason", None))))
    return ", ".join(f"{name} {value_text(value, local_time)}" for name, value in event_fields(event).items())
