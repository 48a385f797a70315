"""Tables: what a projection holds besides tickets, each kind in a table of its own.

A table folds the events of its kind, can undo the newest one, and returns its rows. A snapshot holds the rows, each in
a line keyed by the table's `kind`, and a table can begin with them. The meaning of the events is in each table's
module. Tickets are not held like this (`projection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol

from kharon.model.events import Event

__all__ = ["Row", "Table"]


class Row(Protocol):
    """A row of a table: an immutable `msgspec.Struct`, as it stands in a snapshot."""

    @property
    def name(self) -> str:
        """Its name, unique in its table."""

    def fault(self, seq: int, at: datetime) -> str | None:
        """Return why no log folds to this row at record `seq`, whose time is `at`; None: a log may."""


class Table(Protocol):
    """All rows of one kind. Two tables are equal if their rows are.

    Attributes:
        kind: the key of a row's line in a snapshot.
        value: the class of its rows.
        events: the events that it folds, none of them about a ticket.
    """

    kind: ClassVar[str]
    value: ClassVar[type[Any]]
    events: ClassVar[tuple[type[Event], ...]]

    def apply(self, event: Any, seq: int, at: datetime) -> object:
        """Fold an event; return the replaced values, which `undo` needs.

        Raises:
            KharonError: the event cannot have happened. Nothing has changed.
        """

    def undo(self, event: Any, displaced: object) -> None:
        """Undo the newest event that was applied, as if it had never been."""

    def values(self) -> Sequence[Row]:
        """Return all rows, by name."""

    def load(self, values: Sequence[Any]) -> None:
        """Begin with the rows that `values` returned."""

    def check(self, seq: int, at: datetime | None) -> None:
        """Raise `AssertionError`, naming the first fault, if there is one."""
