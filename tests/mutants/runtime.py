"""Bugs in the workers, and in reading for audit."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import AUDIT_READING, LOCAL_STORE, TEST_AUDIT, TEST_WORKERS, WORKERS

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    Mutant(
        name="loser-of-a-lease-stops-the-workers",
        thought="A worker settles the ticket that it has run.",
        file=LOCAL_STORE,
        before="        if ticket is not None and ticket.claim == settle.claim:\n",
        after="        if ticket is not None:\n",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="lapsed-attempt-taken-for-done",
        thought="A handler that ended without an exception has returned.",
        file=WORKERS,
        before="        if scope.cancelled_caught:\n            return self._lapse(ticket)\n",
        after="",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="cancelled-attempt-counted",
        thought="However a handler is ended, that was an attempt.",
        file=WORKERS,
        before="settle = c.Release(ticket.id, ticket.claim) if end is None else self._raised(ticket, end)",
        after="settle = self._raised(ticket, end or error)",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="audit-reads-what-is-being-written",
        thought="A file is read to its end.",
        file=AUDIT_READING,
        before="count = super().readinto(view[: max(0, self.stat.st_size - self.tell())])",
        after="count = super().readinto(view)",
        tests=(TEST_AUDIT,),
    ),
)
