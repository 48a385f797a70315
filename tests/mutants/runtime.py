"""Bugs in the workers, and in reading for audit."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    ATTEMPTS,
    AUDIT_READ,
    HEARTBEAT,
    LOCAL_STORE,
    TEST_CANCELLING,
    TEST_HEARTBEAT,
    TEST_READING,
    TEST_WAITS,
    TEST_WORKERS,
    TEST_WRONG_USE,
    WAITS,
    WORKERS,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    Mutant(
        name="loser-of-a-lease-stops-the-workers",
        thought="A worker settles the ticket that it has run.",
        file=LOCAL_STORE,
        function="LocalStore._settle",
        before="if ticket is not None and ticket.claim == settle.claim:",
        after="if ticket is not None:",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="another-thread-let-in",
        thought="Methods are async, so nobody can call them but from a Trio task.",
        file=LOCAL_STORE,
        function="LocalStore._check_open",
        before="            )\n        self._check_thread()\n",
        after="            )\n",
        tests=(f"{TEST_WRONG_USE}::test_every_method_refuses_another_thread",),
    ),
    Mutant(
        name="lapsed-attempt-taken-for-done",
        thought="A handler that ended without an exception has returned.",
        file=WORKERS,
        function="Workers._handle",
        before="policy.lapse(ticket, LEASE_ENDED) if attempt.scope.cancelled_caught else policy.returned(ticket)",
        after="policy.returned(ticket)",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="cancelled-attempt-counted",
        thought="However a handler is ended, that was an attempt.",
        file=WORKERS,
        function="Workers._settle_stopped",
        before="settle = c.Release(ticket.id, ticket.claim) if end is None else self._raised(ticket, end)",
        after="settle = self._raised(ticket, end or error)",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="end-in-the-claims-own-group-unheard",
        thought="A handler that does not run yet cannot be cancelled.",
        file=ATTEMPTS,
        function="Attempts.deliver",
        before="self._keep_early(old, change)",
        after="pass",
        tests=(TEST_CANCELLING,),
    ),
    Mutant(
        name="handler-interrupted-by-its-own-cancel",
        thought="A cancelled ticket's handler is cancelled.",
        file=ATTEMPTS,
        function="Attempt.take",
        before='if how == "cancelled" and self._cancelling:',
        after="if False:",
        tests=(TEST_CANCELLING,),
    ),
    Mutant(
        name="heartbeat-knows-when-attempts-begin",
        thought="What begins has a whole lease left.",
        file=ATTEMPTS,
        function="Attempts.begin",
        before="if left < self.late_below:",
        after="if False:",
        tests=(TEST_HEARTBEAT,),
    ),
    Mutant(
        name="heartbeat-revives-a-lease",
        thought="As long as the handler runs, its lease is extended.",
        file=HEARTBEAT,
        function="_due_in",
        before="if attempt.taken is not None or left <= 0:",
        after="if attempt.taken is not None:",
        tests=(TEST_HEARTBEAT,),
    ),
    Mutant(
        name="end-of-an-earlier-life-taken-for-the-answer",
        thought="The first end of that id that is heard of is the one that was waited for.",
        file=WAITS,
        function="Wait.end_of",
        before="if seq > ticket.version:",
        after="if seq:",
        tests=(TEST_WAITS,),
    ),
    Mutant(
        name="audit-reads-what-is-being-written",
        thought="A file is read to its end.",
        file=AUDIT_READ,
        function="FixedSizeFile.readinto",
        before="count = super().readinto(view[: max(0, self.stat.st_size - self.tell())])",
        after="count = super().readinto(view)",
        tests=(TEST_READING,),
    ),
    Mutant(
        name="run-without-the-one-that-keeps-the-time",
        thought="What fails in one task is raised when the others have ended.",
        file=WORKERS,
        function="Workers",
        before="            scope.cancel()\n\n    async def drain",
        after="\n    async def drain",
        tests=(TEST_WORKERS,),
    ),
    Mutant(
        name="end-of-an-older-claim-kept",
        thought="What came first is what the worker hears of first.",
        file=ATTEMPTS,
        function="Attempts._keep_early",
        before="(kept.old.claim or 0) <= old.claim:",
        after="(kept.old.claim or 0) >= old.claim:",
        tests=(TEST_CANCELLING,),
    ),
    Mutant(
        name="crowd-woken-for-each-ticket",
        thought="As many are woken as there are tickets that are ready.",
        file=LOCAL_STORE,
        function="LocalStore._wake",
        before="count = min(ready - self._waking, ",
        after="count = min(ready, ",
        tests=(TEST_WORKERS,),
    ),
)
