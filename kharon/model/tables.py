"""Keepers: what a projection holds besides tickets, each kind of it in a place of its own.

A table folds the events of its kind, can take the newest one back, and gives what it holds as a list of values, which
is what stands in a snapshot (each in a line that is called as the table's `kind`) and what another table begins with.
What those events mean, and when they happen, each table's module says; tickets are not kept like this (`projection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol

from kharon.model.events import Event

__all__ = ["Row", "Table"]


class Row(Protocol):
    """One thing that is kept: an immutable `msgspec.Struct`, which is what a snapshot says of it."""

    @property
    def name(self) -> str:
        """What tells it from the others of its kind."""

    def fault(self, seq: int, at: datetime) -> str | None:
        """Return why no log folds to this at record `seq`, whose time is `at`; None: one may."""


class Table(Protocol):
    """All of one kind that is kept. Two are equal if their values are.

    Attributes:
        kind: what a line of a snapshot calls one.
        value: the class of its values.
        events: the events that it folds, none of them about a ticket.
    """

    kind: ClassVar[str]
    value: ClassVar[type[Any]]
    events: ClassVar[tuple[type[Event], ...]]

    def apply(self, event: Any, seq: int, at: datetime) -> object:
        """Fold an event; return what `undo` needs of what was there before.

        Raises:
            KharonError: the event cannot have happened. Nothing has changed.
        """

    def undo(self, event: Any, displaced: object) -> None:
        """Take back the newest event that was applied, as if it had never been."""

    def values(self) -> Sequence[Row]:
        """Return all that is kept, by name."""

    def load(self, values: Sequence[Any]) -> None:
        """Begin with what `values` gave."""

    def check(self, seq: int, at: datetime | None) -> None:
        """Raise `AssertionError`, naming what is not as it should be, if anything is not."""
