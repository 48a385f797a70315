"""The changes of a queue between two places in its log: tickets added, removed and changed (`diff`).

One pass over the log, with one projection. Besides it, only the earlier versions of the changed tickets are kept. If
the beginning of the log was trimmed, the pass begins with a snapshot, which must not be later than the first place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs

from kharon.audit.fields import OTHER_FIELDS
from kharon.audit.read import LogPass
from kharon.audit.replay import records_after, state_at_start
from kharon.errors import InvalidTicket
from kharon.log.record import Record
from kharon.model.checks import check_instant
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket

__all__ = ["Diff", "TicketChange", "diff"]


@attrs.frozen(slots=True, kw_only=True)
class TicketChange:
    """A ticket that exists before and after, and differs.

    Attributes:
        before, after: the ticket before and after.
        fields: the fields that differ, by name: (before, after).
    """

    before: Ticket
    after: Ticket
    fields: Mapping[str, tuple[Any, Any]]

    @property
    def id(self) -> str:
        """The ticket's id."""
        return self.after.id


@attrs.frozen(slots=True, kw_only=True)
class Diff:
    """The result of `diff`.

    Attributes:
        a, b: the seqs of the last records of the state before, and of the state after.
        a_at, b_at: their times; None: there was no record yet.
        added: the tickets that exist only after, in the order of adding.
        removed: the tickets that exist only before, in that order.
        changed: the tickets that exist both times and differ, in that order. A ticket that changed and changed back is
            left out; one that was removed and added again is not, since its `ctime` differs.
    """

    a: int
    b: int
    a_at: datetime | None
    b_at: datetime | None
    added: tuple[Ticket, ...]
    removed: tuple[Ticket, ...]
    changed: tuple[TicketChange, ...]


def diff(path: str | os.PathLike[str], a: int | datetime, b: int | datetime) -> Diff:
    """Return the changes of a queue from `a` to `b`.

    Args:
        path: the queue's directory; it may be open in any process.
        a: a seq, or an instant (a timezone-aware datetime): the state after the records up to it.
        b: likewise; not before `a`.

    Raises:
        InvalidTicket: `a` or `b` is neither, or `b` lies before `a`.
        CorruptLog, UnknownFormat, KharonError, OSError: as for `replay` until `a`, and until `b`.

    Cost: that of one `replay` until `b`, and the memory of the tickets that changed.
    """
    since, until = _End("a", a), _End("b", b)
    since.check_not_behind(until)
    log = LogPass(path)
    projection = state_at_start(Path(path), since.seq, since.at)
    if projection.at is not None and not until.holds(projection.seq, projection.at):
        raise since.behind(until)
    before: dict[str, Ticket | None] = {}
    start: tuple[int, datetime | None] | None = None
    end: tuple[int, datetime | None] = projection.seq, projection.at

    def watched(records: Iterator[Record]) -> Iterator[Record]:
        nonlocal start, end
        for record in records:
            if start is None and not since.holds(record.seq, record.at):
                start = end
            if not until.holds(record.seq, record.at):
                if start is None:
                    raise since.behind(until)
                return
            id = getattr(record.event, "id", None) if start is not None else None
            if id is not None:
                before.setdefault(id, projection.get(id))
            yield record  # folded when the next one is asked for
            if id is not None and before[id] is None and projection.get(id) is None:
                del before[id]  # came and went
            end = record.seq, record.at
            if record.seq == until.seq and (start is not None or since.seq is not None):
                return  # damage after it does not matter

    with contextlib.closing(records_after(log, projection.seq)) as records:
        projection.fold(watched(records))
    a_seq, a_at = end if start is None else start
    return _compared(before, projection, a_seq, a_at, end)


class _End:
    """A place in a log: a seq or an instant.

    Attributes:
        seq: None if it is an instant.
        at: None if it is a seq.
    """

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, (int, datetime)) or isinstance(value, bool):
            raise InvalidTicket(f"{name}: a seq or a timezone-aware datetime; not {value!r}")
        self.value = value
        self.seq = value if isinstance(value, int) else None
        self.at = check_instant(name, value) if isinstance(value, datetime) else None

    def holds(self, seq: int, at: datetime) -> bool:
        """Return whether a record lies at or before this place."""
        return seq <= self.seq if self.seq is not None else self.at is not None and at <= self.at

    def check_not_behind(self, other: _End) -> None:
        """Compare two seqs, or two instants. The order of one of each is known only from the log."""
        if self.seq is not None and other.seq is not None and self.seq > other.seq:
            raise self.behind(other)
        if self.at is not None and other.at is not None and self.at > other.at:
            raise self.behind(other)

    def behind(self, other: _End) -> InvalidTicket:
        return InvalidTicket(f"a: {self.value} is later than b, {other.value}; give the earlier one first")


_FIELDS: Final = {
    # Without fields that change with every event (version, mtime), or follow from an adding (order) or a claim (claim).
    **{name: name for name in ("type", "tube", "nice", "runat", "group", "status", "attempts", "ctime")},
    **{name: name for name in ("lease_until", "worker", "expire_at", "error_reason", "successor")},
    **{name: name for name in ("after", "after_group", "on_failure", "blocked", "blocked_by", *OTHER_FIELDS)},
    "payload": "payload_json",  # compared as JSON: 1 and true are equal in Python
    "result": "result_json",
}


def _compared(
    before: Mapping[str, Ticket | None],
    projection: Projection,
    a: int,
    a_at: datetime | None,
    end: tuple[int, datetime | None],
) -> Diff:
    added, removed, changed = [], [], []
    for id, old in before.items():
        new = projection.get(id)
        if new is None:
            assert old is not None  # else it came and went
            removed.append(old)
        elif old is None:
            added.append(new)
        else:
            names = [name for name, raw in _FIELDS.items() if getattr(old, raw) != getattr(new, raw)]
            fields = {name: (getattr(old, name), getattr(new, name)) for name in names}
            if fields:
                changed.append(TicketChange(before=old, after=new, fields=fields))
    return Diff(
        a=a,
        b=end[0],
        a_at=a_at,
        b_at=end[1],
        added=tuple(sorted(added, key=_by_order)),
        removed=tuple(sorted(removed, key=_by_order)),
        changed=tuple(sorted(changed, key=lambda change: change.after.order)),
    )


def _by_order(ticket: Ticket) -> int:
    return ticket.order
