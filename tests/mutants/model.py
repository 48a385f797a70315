"""Bugs in the rules: fencing, attempts, order, what time and chance may touch, what a payload may be."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    CHECKS,
    DECIDE,
    DELAYS,
    EVOLVE,
    PROJECTION,
    READY,
    TEST_CHECKS,
    TEST_DECIDE,
    TEST_DELAYS,
    TEST_EVOLVE,
    TEST_PROJECTION,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    # --- fencing and attempts -----------------------------------------------------------------------------------------
    Mutant(
        name="stale-claims-settle-accepted",
        thought="A ticket that is claimed can be settled by whoever has claimed it.",
        file=DECIDE,
        function="_fence",
        before="if ticket is None or ticket.claim != command.claim:",
        after="if ticket is None or ticket.claim is None:",
        tests=(TEST_DECIDE,),
    ),
    Mutant(
        name="successor-moved-by-the-end-before-it",
        thought="Who ends a ticket and names a tube wants it in that tube.",
        file=DECIDE,
        function="_moved",
        before="tube == ticket.tube or ticket.successor is not None:",
        after="tube == ticket.tube:",
        tests=(TEST_DECIDE,),
    ),
    Mutant(
        name="one-attempt-too-many",
        thought="A ticket fails when it has had more than the attempts that it may have.",
        file=DECIDE,
        function="_exhausted",
        before="ticket.attempts >= max_attempts and",
        after="ticket.attempts > max_attempts and",
        tests=(TEST_DECIDE,),
    ),
    Mutant(
        name="lapse-not-counted",
        thought="An attempt that did not end was none.",
        file=EVOLVE,
        function="_lapsed",
        before="    draft.runat = event.runat\n    draft.error_reason = event.error_reason\n    return seal(draft)\n",
        after="    draft.runat = event.runat\n    draft.error_reason = event.error_reason\n    draft.attempts -= 1\n"
        "    return seal(draft)\n",
        tests=(TEST_EVOLVE,),
    ),
    Mutant(
        name="release-counted",
        thought="A claim is an attempt.",
        file=EVOLVE,
        function="_released",
        before="    draft.attempts -= 1\n",
        after="",
        tests=(TEST_EVOLVE,),
    ),
    # --- replay is pure -----------------------------------------------------------------------------------------------
    Mutant(
        name="clock-read-in-decide",
        thought="Whether a ticket is due is a question for the clock.",
        file=DECIDE,
        function="_claim",
        before="ticket.runat > context.now:",
        after="ticket.runat > datetime.now(context.now.tzinfo):",
        tests=(TEST_DECIDE,),
    ),
    Mutant(
        name="clock-read-in-evolve",
        thought="A ticket was changed when it is changed.",
        file=EVOLVE,
        function="_next",
        before="draft.mtime = at",
        after="draft.mtime = datetime.now(at.tzinfo)",
        tests=(TEST_EVOLVE,),
    ),
    Mutant(
        name="jitter-drawn-in-the-model",
        thought="A random number can be drawn where it is needed.",
        file=DELAYS,
        function="BackoffDelay.seconds",
        before="        return grown * (1 - self.jitter * jitter)\n",
        after='        return grown * (1 - self.jitter * __import__("random").random())\n',
        tests=(TEST_DELAYS,),
    ),
    Mutant(
        name="clock-set-back-not-noticed",
        thought="Time only goes on.",
        file=PROJECTION,
        function="Projection.promote",
        before="        if now < self.horizon:\n            return self._demote(now)\n",
        after="",
        tests=(TEST_PROJECTION,),
    ),
    # --- order, successors, expiry ------------------------------------------------------------------------------------
    Mutant(
        name="nice-ignored-among-due",
        thought="Of those that are due, whoever has waited longest is next.",
        file=READY,
        function="ReadyTickets._share",
        before="return ready[0], len(ready), None\n        free",
        after="return min(ready, key=lambda head: head[1:]), len(ready), None\n        free",
        tests=(TEST_PROJECTION,),
    ),
    Mutant(
        name="nice-ignored-between-tubes",
        thought="Each tube is sorted, so of their heads the one that is due first is next.",
        file=READY,
        function="ReadyTickets.first",
        before="return self._line[0] if self._line else None",
        after="return min(self._line, key=lambda head: head[1:]) if self._line else None",
        tests=(TEST_PROJECTION,),
    ),
    Mutant(
        name="added-again-while-it-runs-lost",
        thought="A ticket that is done is done.",
        file=EVOLVE,
        function="_done",
        before="""\
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at, attempts=0)  # a success: those that failed before it count no more
    return seal(_done_draft(ticket, event, seq, at)) if event.keep else None
""",
        after="    return seal(_done_draft(ticket, event, seq, at)) if event.keep else None\n",
        tests=(TEST_EVOLVE,),
    ),
    Mutant(
        name="adding-again-ends-the-claim",
        thought="The newest fields win, so the ticket is replaced.",
        file=EVOLVE,
        function="_added",
        before="    if ticket is None or ticket.claim is None:\n        return seal(new)\n",
        after="    if ticket is None or ticket.claim != seq:\n        return seal(new)\n",
        tests=(TEST_EVOLVE,),
    ),
    Mutant(
        name="kept-for-good-expires",
        thought="A ticket without an expire_at has nothing that holds it back.",
        file=DECIDE,
        function="_expire",
        before="if ticket.expire_at is None or ticket.expire_at > context.now:",
        after="if ticket.expire_at is not None and ticket.expire_at > context.now:",
        tests=(TEST_DECIDE,),
    ),
    Mutant(
        name="restarted-ticket-keeps-its-end",
        thought="When a ticket expires is said when it ends; a pending one does not expire anyway.",
        file=EVOLVE,
        function="_restarted",
        before="draft.error_reason = draft.result_json = draft.expire_at = None",
        after="draft.error_reason = draft.result_json = None",
        tests=(TEST_EVOLVE,),
    ),
    # --- limits -------------------------------------------------------------------------------------------------------
    Mutant(
        name="nan-taken-for-a-number",
        thought="A float is a number.",
        file=CHECKS,
        function="_walk",
        before="if not math.isfinite(value):",
        after="if math.isinf(value):",
        tests=(TEST_CHECKS,),
    ),
)
