"""Bugs in the workers, and in reading for audit."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant

__all__ = ["MUTANTS"]

_WORKERS: Final = "kharon/runtime/workers.py"
_TESTS: Final = ("tests/runtime/test_workers.py",)

MUTANTS: Final = (
    Mutant(
        name="loser-of-a-lease-stops-the-workers",
        thought="A worker settles the ticket that it has run.",
        file="kharon/store/local.py",
        before="        if ticket is not None and ticket.claim == settle.claim:\n",
        after="        if ticket is not None:\n",
        tests=_TESTS,
    ),
    Mutant(
        name="lapsed-attempt-taken-for-done",
        thought="A handler that ended without an exception has returned.",
        file=_WORKERS,
        before="        if scope.cancelled_caught:\n            return self._lapse(ticket)\n",
        after="",
        tests=_TESTS,
    ),
    Mutant(
        name="cancelled-attempt-counted",
        thought="However a handler is ended, that was an attempt.",
        file=_WORKERS,
        before="settle = c.Release(ticket.id, ticket.claim) if end is None else self._raised(ticket, end)",
        after="settle = self._raised(ticket, end or error)",
        tests=_TESTS,
    ),
    Mutant(
        name="audit-reads-what-is-being-written",
        thought="A file is read to its end.",
        file="kharon/audit/reading.py",
        before="count = super().readinto(view[: max(0, self.size - self.tell())])",
        after="count = super().readinto(view)",
        tests=("tests/test_audit.py",),
    ),
)
