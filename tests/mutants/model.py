"""Bugs in the rules: fencing, attempts, order, what time and chance may touch, what a payload may be."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant

__all__ = ["MUTANTS"]

_DECIDE: Final = "kharon/model/decide.py"
_EVOLVE: Final = "kharon/model/evolve.py"
_PROJECTION: Final = "kharon/model/projection.py"
_HEADS: Final = "kharon/model/heads.py"
_DECIDE_TESTS: Final = ("tests/model/test_decide.py",)
_EVOLVE_TESTS: Final = ("tests/model/test_evolve.py",)
_PROJECTION_TESTS: Final = ("tests/model/test_projection.py",)

MUTANTS: Final = (
    # --- fencing and attempts -----------------------------------------------------------------------------------------
    Mutant(
        name="stale-claims-settle-accepted",
        thought="A ticket that is claimed can be settled by whoever has claimed it.",
        file=_DECIDE,
        before="    if ticket is None or ticket.claim != command.claim:\n",
        after="    if ticket is None or ticket.claim is None:\n",
        tests=_DECIDE_TESTS,
    ),
    Mutant(
        name="one-attempt-too-many",
        thought="A ticket fails when it has had more than the attempts that it may have.",
        file=_DECIDE,
        before="ticket.attempts >= max_attempts and",
        after="ticket.attempts > max_attempts and",
        tests=_DECIDE_TESTS,
    ),
    Mutant(
        name="lapse-not-counted",
        thought="An attempt that did not end was none.",
        file=_EVOLVE,
        before="    draft.runat = event.runat\n    draft.error_reason = event.error_reason\n    return seal(draft)\n",
        after="    draft.runat = event.runat\n    draft.error_reason = event.error_reason\n    draft.attempts -= 1\n"
        "    return seal(draft)\n",
        tests=_EVOLVE_TESTS,
    ),
    Mutant(
        name="release-counted",
        thought="A claim is an attempt.",
        file=_EVOLVE,
        before="    draft.attempts -= 1\n",
        after="",
        tests=_EVOLVE_TESTS,
    ),
    # --- replay is pure -----------------------------------------------------------------------------------------------
    Mutant(
        name="clock-read-in-decide",
        thought="Whether a ticket is due is a question for the clock.",
        file=_DECIDE,
        before="ticket.runat > context.now:",
        after="ticket.runat > datetime.now(context.now.tzinfo):",
        tests=_DECIDE_TESTS,
    ),
    Mutant(
        name="clock-read-in-evolve",
        thought="A ticket was changed when it is changed.",
        file=_EVOLVE,
        before="    draft.mtime = at\n",
        after="    draft.mtime = datetime.now(at.tzinfo)\n",
        tests=_EVOLVE_TESTS,
    ),
    Mutant(
        name="jitter-drawn-in-the-model",
        thought="A random number can be drawn where it is needed.",
        file="kharon/model/delays.py",
        before="        return grown + self.jitter * jitter\n",
        after='        return grown + self.jitter * __import__("random").random()\n',
        tests=("tests/model/test_delays.py",),
    ),
    Mutant(
        name="clock-set-back-not-noticed",
        thought="Time only goes on.",
        file=_PROJECTION,
        before="        if now < self.horizon:\n            return self._demote(now)\n",
        after="",
        tests=_PROJECTION_TESTS,
    ),
    # --- order, successors, expiry ------------------------------------------------------------------------------------
    Mutant(
        name="nice-ignored-among-due",
        thought="Of those that are due, whoever has waited longest is next.",
        file=_HEADS,
        before="return ready[0], len(ready), None\n        free",
        after="return min(ready, key=lambda head: head[1:]), len(ready), None\n        free",
        tests=_PROJECTION_TESTS,
    ),
    Mutant(
        name="nice-ignored-between-tubes",
        thought="Each tube is sorted, so of their heads the one that is due first is next.",
        file=_HEADS,
        before="return self._line[0] if self._line else None",
        after="return min(self._line, key=lambda head: head[1:]) if self._line else None",
        tests=_PROJECTION_TESTS,
    ),
    Mutant(
        name="added-again-while-it-runs-lost",
        thought="A ticket that is done is done.",
        file=_EVOLVE,
        before="""\
    if ticket.successor is not None:
        return _succeeded(ticket, seq, at)
    return seal(_done_draft(ticket, event, seq, at)) if event.keep else None
""",
        after="    return seal(_done_draft(ticket, event, seq, at)) if event.keep else None\n",
        tests=_EVOLVE_TESTS,
    ),
    Mutant(
        name="adding-again-ends-the-claim",
        thought="The newest fields win, so the ticket is replaced.",
        file=_EVOLVE,
        before="    if ticket is None or ticket.claim is None:\n        return seal(new)\n",
        after="    if ticket is None or ticket.claim != seq:\n        return seal(new)\n",
        tests=_EVOLVE_TESTS,
    ),
    Mutant(
        name="kept-for-good-expires",
        thought="A ticket without an expire_at has nothing that holds it back.",
        file=_DECIDE,
        before="    if ticket.expire_at is None or ticket.expire_at > context.now:\n",
        after="    if ticket.expire_at is not None and ticket.expire_at > context.now:\n",
        tests=_DECIDE_TESTS,
    ),
    Mutant(
        name="restarted-ticket-keeps-its-end",
        thought="When a ticket expires is said when it ends; a pending one does not expire anyway.",
        file=_EVOLVE,
        before="    draft.error_reason = draft._result = draft.expire_at = None\n",
        after="    draft.error_reason = draft._result = None\n",
        tests=_EVOLVE_TESTS,
    ),
    # --- limits -------------------------------------------------------------------------------------------------------
    Mutant(
        name="nan-taken-for-a-number",
        thought="A float is a number.",
        file="kharon/model/limits.py",
        before="        if not math.isfinite(value):\n",
        after="        if math.isinf(value):\n",
        tests=("tests/model/test_limits.py",),
    ),
)
