"""Why a ticket is, or is not, running at an instant, as reasons and one sentence: `explain`.

The facts come from `kharon.model.standing`; nothing is read or changed here. The projection itself decides which ticket
a worker claims next, and a test compares its claims with these reasons.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import attrs

from kharon.audit.words import length
from kharon.model.checks import check_instant
from kharon.model.projection import Projection
from kharon.model.standing import MOST_NAMED, Standing, standing_of
from kharon.model.ticket import Ticket, waits_of
from kharon.model.tubes import Limit, Tube
from kharon.settings import Settings

__all__ = ["Explanation", "Reason", "explain", "explanation_of"]


class Reason(enum.StrEnum):
    """Why a ticket is running, or not.

    Running; its lease ended, but the lapse is not recorded yet; next to be claimed; behind other due tickets; delayed;
    blocked by other tickets; in a tube from which no worker claims, which is paused, or which is at its limit; done,
    failed or cancelled; absent.
    """

    RUNNING = "running"
    LEASE_ENDED = "lease ended"
    NEXT = "next"
    BEHIND = "behind"
    DELAYED = "delayed"
    BLOCKED = "blocked"
    NOT_SUBSCRIBED = "not subscribed"
    TUBE_PAUSED = "tube paused"
    TUBE_AT_LIMIT = "tube at its limit"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABSENT = "absent"


@attrs.frozen(slots=True, kw_only=True)
class Explanation:
    """The result of `explain`.

    Attributes:
        id: the ticket's.
        now: the instant.
        reasons: all reasons that hold, the most important first; at least one.
        sentence: the same as one sentence. Ids and names stand in it as they are: escape it before you show it.
        ticket: the ticket; None if it does not exist.
        due_at: the instant from which it may be claimed; None if it is not pending.
        blocked_by: the ids of the tickets that block it. For a running ticket that was added again meanwhile: that
            will block it once it settles. The same holds for `after_group`, `members_left`, `members` and `on_failure`.
        after_group: the group whose members block it; None: none.
        members_left: how many of those members are left.
        members: the ids of at most `MOST_NAMED` of them, in the order of joining.
        on_failure: "run" or "cancel": what happens to it if a ticket that blocks it fails or is cancelled; None:
            nothing blocks it.
        worker, lease_until: the worker that claimed it, and the end of the lease; None if it is unclaimed.
        attempts: the number of counted attempts.
        attempts_left: how many may follow; None: no limit, or it is not pending.
        ahead: how many due tickets would be claimed before it, without those that their tubes do not allow to be
            claimed; None if it cannot be claimed now.
        paused_since, paused_seq: if it is pending and its tube paused: the time and the seq of the record of the pause.
        limit: if it is pending: the limit of its tube; None: none.
        tube_claimed: how many tickets of its tube are claimed; None: it is not pending.
        reopens_at: when its tube, now at its limit of claims per period, allows the next claim; None: it is not at that
            limit, or time alone does not help.
        terminal_since: since when it has been done, failed or cancelled; None if it is not. A later update of the
            ticket moves this; its `timeline` has the time of the end.
        expires_at: when it will be removed; None: never, or it is pending.
    """

    id: str
    now: datetime
    reasons: tuple[Reason, ...]
    sentence: str
    ticket: Ticket | None
    due_at: datetime | None
    blocked_by: tuple[str, ...]
    after_group: str | None
    members_left: int
    members: tuple[str, ...]
    on_failure: str | None
    worker: str | None
    lease_until: datetime | None
    attempts: int
    attempts_left: int | None
    ahead: int | None
    paused_since: datetime | None
    paused_seq: int | None
    limit: Limit | None
    tube_claimed: int | None
    reopens_at: datetime | None
    terminal_since: datetime | None
    expires_at: datetime | None

    @property
    def reason(self) -> Reason:
        """The most important reason."""
        return self.reasons[0]


def explain(
    projection: Projection,
    id: str,
    now: datetime,
    *,
    max_attempts: int | None = Settings().max_attempts,
    tubes: Iterable[str] | None = None,
) -> Explanation:
    """Return why a ticket is, or is not, running at `now`.

    Args:
        projection: the state, as `replay` returns it. It is not changed.
        id: the ticket's.
        now: the instant; usually later than the projection's.
        max_attempts: the queue's `Settings.max_attempts`, which is not in the log.
        tubes: the tubes from which workers claim, which are not in the log, either; None: the ticket's own.

    Raises:
        InvalidTicket: `now` is not a timezone-aware datetime.

    Cost: O(log n), and O(tickets that have become due since the projection was promoted last).
    """
    return explanation_of(standing_of(projection, id, check_instant("now", now), tubes), max_attempts)


def explanation_of(standing: Standing, max_attempts: int | None) -> Explanation:
    """Return the explanation that follows from the facts about a ticket.

    Args:
        standing: the facts.
        max_attempts: as for `explain`.
    """
    ticket, tube, now = standing.ticket, standing.tube, standing.now
    if ticket is None:
        return _found(standing, [Reason.ABSENT], _absent_text(standing.id))
    if tube is None:
        return _found(standing, [Reason[ticket.status.name]], _terminal_text(ticket, now), terminal_since=ticket.mtime)
    left = None if max_attempts is None else max(0, max_attempts - ticket.attempts)
    blockers = _blockers(standing, ticket)
    if ticket.claim is not None:
        assert ticket.lease_until is not None
        reason = Reason.RUNNING if ticket.lease_until > now else Reason.LEASE_ENDED
        sentence = _claimed_text(ticket, reason, left) + _successor_text(ticket, blockers)
        return _found(standing, [reason], sentence, attempts_left=left, **blockers)
    if standing.ahead is None:
        gates = _gates(standing, ticket, tube)
        why = "; and ".join(_gate_text(gate, ticket, tube, blockers, now) for gate in gates)
        return _found(standing, gates, f"{ticket.id!r} is not running: {why}.", attempts_left=left, **blockers)
    reason = Reason.BEHIND if standing.ahead else Reason.NEXT
    return _found(standing, [reason], _ready_text(ticket, standing.ahead), attempts_left=left)


def _found(standing: Standing, reasons: list[Reason], sentence: str, **more: Any) -> Explanation:
    """Return an explanation with the fields that follow from the facts, and `more`."""
    ticket, tube = standing.ticket, standing.tube
    fields: dict[str, Any] = {
        **_UNBLOCKED,
        "due_at": ticket.runat if ticket is not None and tube is not None else None,
        "worker": None if ticket is None else ticket.worker,
        "lease_until": None if ticket is None else ticket.lease_until,
        "attempts": 0 if ticket is None else ticket.attempts,
        "attempts_left": None,
        "ahead": standing.ahead,
        "paused_since": None if tube is None else tube.paused_since,
        "paused_seq": None if tube is None else tube.paused_seq,
        "limit": None if tube is None else tube.limit,
        "tube_claimed": None if tube is None else tube.claimed,
        "reopens_at": None if tube is None else tube.reopens_at,
        "terminal_since": None,
        "expires_at": None if ticket is None else ticket.expire_at,
    }
    fields.update(more, id=standing.id, now=standing.now, ticket=ticket)
    return Explanation(reasons=tuple(reasons), sentence=sentence, **fields)


_UNBLOCKED: Final = {"blocked_by": (), "after_group": None, "members_left": 0, "members": (), "on_failure": None}


def _blockers(standing: Standing, ticket: Ticket) -> dict[str, Any]:
    """Return the fields of an explanation about what blocks a ticket, or will block it once it settles."""
    blocked = waits_of(ticket)
    if not blocked.blocked:
        return {}
    assert blocked.gate is not None
    return {
        "blocked_by": blocked.blocked_by,
        "after_group": blocked.gate.after_group if blocked.gate.since else None,
        "members_left": standing.members_left,
        "members": standing.members,
        "on_failure": blocked.on_failure,
    }


def _gates(standing: Standing, ticket: Ticket, tube: Tube) -> list[Reason]:
    """Return what keeps an unclaimed ticket from being claimed: at least one reason."""
    gates = []
    if ticket.blocked:
        gates.append(Reason.BLOCKED)
    if not standing.subscribed:
        gates.append(Reason.NOT_SUBSCRIBED)
    if tube.paused_since is not None:
        gates.append(Reason.TUBE_PAUSED)
    assert ticket.runat is not None
    if ticket.runat > standing.now:
        gates.append(Reason.DELAYED)
    if not tube.open and tube.paused_since is None:
        gates.append(Reason.TUBE_AT_LIMIT)
    return gates


def _gate_text(gate: Reason, ticket: Ticket, tube: Tube, blockers: dict[str, Any], now: datetime) -> str:
    if gate is Reason.BLOCKED:
        return f"it is blocked by {_blockers_text(blockers)}"
    if gate is Reason.NOT_SUBSCRIBED:
        return f"no worker claims from its tube {ticket.tube!r}"
    if gate is Reason.TUBE_PAUSED:
        assert tube.paused_since is not None
        return f"its tube {tube.name!r} has been paused since record {tube.paused_seq}, {_at(tube.paused_since)}"
    if gate is Reason.TUBE_AT_LIMIT:
        return f"its tube {tube.name!r} is at its limit of {_limit_text(tube, now)}"
    why = f" ({ticket.attempts} attempts so far; the last one: {ticket.error_reason})" if ticket.error_reason else ""
    assert ticket.runat is not None
    return f"it is due at {_at(ticket.runat)}, in {length(ticket.runat - now)}{why}"


def _blockers_text(blockers: dict[str, Any]) -> str:
    """Return what blocks a ticket, with at most `MOST_NAMED` ids, and what follows from its outcome."""
    parts, left = [], blockers["members_left"]
    if blockers["blocked_by"]:
        parts.append(_named(blockers["blocked_by"], len(blockers["blocked_by"])))
    if left:
        which = f"{left} remaining members" if left > 1 else "the last remaining member"
        parts.append(f"{which} of group {blockers['after_group']!r} ({_named(blockers['members'], left)})")
    if not parts:
        return f"group {blockers['after_group']!r}, which has no members left"
    what = ", and by ".join(parts)
    is_one = len(blockers["blocked_by"]) + int(left) == 1
    if blockers["on_failure"] == "cancel":
        return f"{what}, and is cancelled if {'that one' if is_one else 'one of these'} fails or is cancelled"
    return f"{what}, whatever {'its outcome' if is_one else 'their outcomes'}"


def _named(ids: Sequence[str], count: int) -> str:
    shown = [repr(id) for id in ids[:MOST_NAMED]]
    if count > len(shown):
        shown.append(f"{count - len(shown)} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _limit_text(tube: Tube, now: datetime) -> str:
    """Return the limit that closes a tube: that of claims per period if time will open it, otherwise that at once."""
    assert tube.limit is not None
    if tube.reopens_at is None:
        return f"{tube.limit.claimed} claimed at once, and {tube.claimed} are"
    claims = "1 claim" if tube.limit.claims == 1 else f"{tube.limit.claims} claims"
    again = f"{_at(tube.reopens_at)}, in {length(tube.reopens_at - now)}"
    return f"{claims} in {tube.limit.period:g} s; the next is possible at {again}"


def _successor_text(ticket: Ticket, blockers: dict[str, Any]) -> str:
    """Return what becomes of a running ticket that was added again; empty if it was not."""
    if ticket.successor is None:
        return ""
    behind = f", and then blocked by {_blockers_text(blockers)}" if blockers else ""
    return f" It was added again meanwhile: it is pending again once it settles{behind}."


def _claimed_text(ticket: Ticket, reason: Reason, left: int | None) -> str:
    which = f"attempt {ticket.attempts}" + ("" if left is None else f", {left} left")
    assert ticket.lease_until is not None
    until = _at(ticket.lease_until)
    if reason is Reason.RUNNING:
        return f"{ticket.id!r} is running: {ticket.worker!r} has it ({which}) until its lease ends at {until}."
    return (
        f"{ticket.id!r} is probably not running any more: the lease of {ticket.worker!r} ({which}) ended at {until}, "
        f"and the queue takes the ticket back at its next check, or when it is opened next."
    )


def _ready_text(ticket: Ticket, ahead: int) -> str:
    assert ticket.runat is not None
    due = f"it has been due since {_at(ticket.runat)}"
    if ahead:
        others = "1 other due ticket" if ahead == 1 else f"{ahead} other due tickets"
        return f"{ticket.id!r} is not running: {due}, and {others} will be claimed first."
    return f"{ticket.id!r} is not running: {due}, and a free worker claims it next."


def _terminal_text(ticket: Ticket, now: datetime) -> str:
    assert ticket.mtime is not None
    why = f": {ticket.error_reason}" if ticket.error_reason else ""
    since = _at(ticket.mtime)
    if ticket.expire_at is None:
        kept = "kept for good"
    elif ticket.expire_at > now:
        kept = f"kept until {_at(ticket.expire_at)}"
    else:
        kept = f"removed at the queue's next check, or when it is opened next: it expired at {_at(ticket.expire_at)}"
    return f"{ticket.id!r} is not running: it has been {ticket.status} since {since}, and is {kept}{why}."


def _absent_text(id: str) -> str:
    return f"There is no ticket {id!r}: it was never added, or has been removed; its history shows which."


def _at(instant: datetime) -> str:
    return instant.isoformat(" ", "seconds").replace("+00:00", " UTC")
