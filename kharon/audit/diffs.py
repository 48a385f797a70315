"""What changed in a queue between two places in its log: tickets added, removed and changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from kharon.model.ticket import Ticket

__all__ = ["Diff", "TicketChange", "diff"]


@attrs.frozen(slots=True, kw_only=True)
class TicketChange:
    """A ticket that is there before and after, and is not the same.

    Attributes:
        before, after: the ticket then.
        fields: the fields that differ: name to (before, after).
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
    """What `diff` found.

    Attributes:
        a, b: the seqs of the last records before and after.
        a_at, b_at: their times; None: there was no record yet.
        added: the tickets that are there after and were not before, in the order of adding.
        removed: the tickets that were there before and are not after, in that order.
        changed: the tickets that are there both times and differ.
    """

    a: int
    b: int
    a_at: datetime | None
    b_at: datetime | None
    added: tuple[Ticket, ...]
    removed: tuple[Ticket, ...]
    changed: tuple[TicketChange, ...]


def diff(path: str | os.PathLike[str], a: int | datetime, b: int | datetime) -> Diff:
    """Return what changed in a queue from `a` to `b`.

    Args:
        path: the queue's directory; it may be open in any process.
        a: a seq, or an instant (a timezone-aware datetime): the state after the records up to it.
        b: the same, not before `a`.

    Raises:
        InvalidTicket: `a` or `b` is neither, or `b` lies before `a`.
        CorruptLog, UnknownFormat, KharonError, OSError: as `replay`.

    Cost: that of one `replay` until `b`.
    """
    raise NotImplementedError
