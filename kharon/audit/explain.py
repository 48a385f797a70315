"""Why a ticket is, or is not, running now: what the workers' next claim makes of it, so that a person can act.

The facts are those of `model.standing`; nothing is read and nothing changes. What a claim takes is the projection's own
query, and a test holds the two against each other.
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

    Running; its lease ended, and nobody has taken note yet; next to be claimed; behind others that are due; delayed;
    blocked by other tickets; in a tube that no worker claims from, that is paused, or that is at its limit; done,
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
    """What `explain` found.

    Attributes:
        id: the ticket's.
        now: the instant that was asked for.
        reasons: all that hold, the weightiest first; one at least.
        sentence: the same in one plain sentence, with ids and names as they are in the ticket: escape it where you show
            it.
        ticket: the ticket; None if there is none.
        due_at: from when it may be claimed; None if it is not pending.
        blocked_by: the ids that it waits for. Of a ticket that runs, and was added again meanwhile, those that it will
            wait for once it settles; so it is with `after_group`, `members_left`, `members` and `on_failure`.
        after_group: the group of which it waits for members; None: it does not, or not any more.
        members_left: how many of those members are left.
        members: the ids of `MOST_NAMED` of them at most, those that joined first.
        on_failure: what becomes of it if one that it waits for fails or is cancelled, "run" or "cancel"; None: it waits
            for none.
        worker, lease_until: who has it, and until when; None if nobody has.
        attempts: how many have been counted.
        attempts_left: how many may follow; None: no end, or it is not pending.
        ahead: how many due tickets would be claimed before it; None if it cannot be claimed now. What a tube that is
            paused or at its limit does not give is not counted.
        paused_since, paused_seq: if it is pending and its tube paused: the time and the seq of the record that did it.
        limit: if it is pending: how much may be claimed from its tube; None: any number.
        tube_claimed: how many tickets of its tube are claimed; None: it is not pending.
        reopens_at: when its tube, at its limit of claims per period, gives one more; None: it is not, or time alone
            changes nothing.
        terminal_since: since when it has been done, failed or cancelled; None if it is not. A later update of
            the ticket moves it: then its `timeline` knows better.
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
        """The weightiest of the reasons."""
        return self.reasons[0]


def explain(
    projection: Projection,
    id: str,
    now: datetime,
    *,
    max_attempts: int | None = Settings().max_attempts,
    tubes: Iterable[str] | None = None,
) -> Explanation:
    """Say why a ticket is, or is not, running at `now`.

    Args:
        projection: the state, as `replay` gives it. It is not changed.
        id: the ticket's.
        now: the instant; later than the projection's, as a rule.
        max_attempts: the queue's `Settings.max_attempts`, which the log does not know.
        tubes: the tubes that workers claim from, which it does not know either; None: the ticket's own.

    Raises:
        InvalidTicket: `now` is no timezone-aware datetime.

    Cost: O(log n), and O(tickets that have become due since the projection was promoted last).
    """
    return explanation_of(standing_of(projection, id, check_instant("now", now), tubes), max_attempts)


def explanation_of(standing: Standing, max_attempts: int | None) -> Explanation:
    """Say what the facts about a ticket mean. Pure."""
    ticket, tube, now = standing.ticket, standing.tube, standing.now
    if ticket is None:
        return _found(standing, [Reason.ABSENT], _absent(standing.id))
    if tube is None:
        return _found(standing, [Reason[ticket.status.name]], _terminal(ticket, now), terminal_since=ticket.mtime)
    left = None if max_attempts is None else max(0, max_attempts - ticket.attempts)
    waits = _waits(standing, ticket)
    if ticket.claim is not None:
        assert ticket.lease_until is not None
        reason = Reason.RUNNING if ticket.lease_until > now else Reason.LEASE_ENDED
        sentence = _claimed(ticket, reason, left) + _succeeded(ticket, waits)
        return _found(standing, [reason], sentence, attempts_left=left, **waits)
    if standing.ahead is None:
        gates = _gates(standing, ticket, tube)
        told = "; and ".join(_gate(gate, ticket, tube, waits, now) for gate in gates)
        return _found(standing, gates, f"{ticket.id!r} is not running: {told}.", attempts_left=left, **waits)
    reason = Reason.BEHIND if standing.ahead else Reason.NEXT
    return _found(standing, [reason], _ready(ticket, standing.ahead), attempts_left=left)


def _found(standing: Standing, reasons: list[Reason], sentence: str, **more: Any) -> Explanation:
    """Return an explanation: what follows from the facts, and `more`, in place of what has nothing."""
    ticket, tube = standing.ticket, standing.tube
    fields: dict[str, Any] = {
        **_NO_WAITS,
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


_NO_WAITS: Final = {"blocked_by": (), "after_group": None, "members_left": 0, "members": (), "on_failure": None}


def _waits(standing: Standing, ticket: Ticket) -> dict[str, Any]:
    """Return the fields of an explanation that say what a ticket waits for, or will once it settles."""
    waits = waits_of(ticket)
    if not waits.blocked:
        return {}
    assert waits.gate is not None
    return {
        "blocked_by": waits.blocked_by,
        "after_group": waits.gate.after_group if waits.gate.since else None,
        "members_left": standing.members_left,
        "members": standing.members,
        "on_failure": waits.on_failure,
    }


def _gates(standing: Standing, ticket: Ticket, tube: Tube) -> list[Reason]:
    """Return what keeps an unclaimed ticket from being claimed: one reason at least."""
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


def _gate(gate: Reason, ticket: Ticket, tube: Tube, waits: dict[str, Any], now: datetime) -> str:
    if gate is Reason.BLOCKED:
        return f"it waits for {_awaited(waits)}"
    if gate is Reason.NOT_SUBSCRIBED:
        return f"no worker claims from its tube {ticket.tube!r}"
    if gate is Reason.TUBE_PAUSED:
        assert tube.paused_since is not None
        return f"its tube {tube.name!r} is paused since record {tube.paused_seq}, {_at(tube.paused_since)}"
    if gate is Reason.TUBE_AT_LIMIT:
        return f"its tube {tube.name!r} is at its limit of {_limit(tube, now)}"
    why = f" ({ticket.attempts} attempts so far; the last one: {ticket.error_reason})" if ticket.error_reason else ""
    assert ticket.runat is not None
    return f"it is due at {_at(ticket.runat)}, in {length(ticket.runat - now)}{why}"


def _awaited(waits: dict[str, Any]) -> str:
    """Name what is waited for: a handful of it, and how much more there is."""
    parts, left = [], waits["members_left"]
    if waits["blocked_by"]:
        parts.append(_named(waits["blocked_by"], len(waits["blocked_by"])))
    if left:
        which = f"{left} members that are" if left > 1 else "the one member that is"
        parts.append(f"{which} left of group {waits['after_group']!r} ({_named(waits['members'], left)})")
    if not parts:
        return f"group {waits['after_group']!r}, of which no member is left, however it ended"
    what = ", and for ".join(parts)
    if waits["on_failure"] == "cancel":
        return f"{what}, and is cancelled if {'that one' if _is_one(waits) else 'one of these'} fails or is cancelled"
    return f"{what}, however {'that one ends' if _is_one(waits) else 'these end'}"


def _is_one(waits: dict[str, Any]) -> bool:
    return len(waits["blocked_by"]) + int(waits["members_left"]) == 1


def _named(ids: Sequence[str], count: int) -> str:
    shown = [repr(id) for id in ids[:MOST_NAMED]]
    if count > len(shown):
        shown.append(f"{count - len(shown)} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _limit(tube: Tube, now: datetime) -> str:
    """Say which of its limits shuts a tube: that of claims, if time will open it, else that of what is claimed."""
    assert tube.limit is not None
    if tube.reopens_at is None:
        return f"{tube.limit.claimed} claimed at once: {tube.claimed} are"
    claims = "1 claim" if tube.limit.claims == 1 else f"{tube.limit.claims} claims"
    again = f"{_at(tube.reopens_at)}, in {length(tube.reopens_at - now)}"
    return f"{claims} in {tube.limit.period:g} s: the next may be made at {again}"


def _succeeded(ticket: Ticket, waits: dict[str, Any]) -> str:
    """Say what a ticket that runs will be, if it was added again meanwhile."""
    if ticket.successor is None:
        return ""
    behind = f", and then waits for {_awaited(waits)}" if waits else ""
    return f" It was added again meanwhile: it is pending again once it settles{behind}."


def _claimed(ticket: Ticket, reason: Reason, left: int | None) -> str:
    which = f"attempt {ticket.attempts}" + ("" if left is None else f", {left} left")
    assert ticket.lease_until is not None
    until = _at(ticket.lease_until)
    if reason is Reason.RUNNING:
        return f"{ticket.id!r} is running: {ticket.worker!r} has it ({which}) until its lease ends at {until}."
    return (
        f"{ticket.id!r} is not running any more, as far as anybody knows: the lease of {ticket.worker!r} ({which}) "
        f"ended at {until}, and the queue takes it back when it looks next, or is opened next."
    )


def _ready(ticket: Ticket, ahead: int) -> str:
    assert ticket.runat is not None
    due = f"it has been due since {_at(ticket.runat)}"
    if ahead:
        others = "1 ticket that is" if ahead == 1 else f"{ahead} tickets that are"
        return f"{ticket.id!r} is not running: {due}, and {others} due, too, will be claimed first."
    return f"{ticket.id!r} is not running: {due}, and is what a worker that is free claims next."


def _terminal(ticket: Ticket, now: datetime) -> str:
    assert ticket.mtime is not None
    why = f": {ticket.error_reason}" if ticket.error_reason else ""
    since = _at(ticket.mtime)
    if ticket.expire_at is None:
        kept = "kept for good"
    elif ticket.expire_at > now:
        kept = f"kept until {_at(ticket.expire_at)}"
    else:
        kept = f"to be removed since {_at(ticket.expire_at)}, when the queue looks next, or is opened next"
    return f"{ticket.id!r} is not running: it is {ticket.status} since {since}, {kept}{why}."


def _absent(id: str) -> str:
    return f"There is no ticket {id!r}: it was never added, or has been removed; its history tells which."


def _at(instant: datetime) -> str:
    return instant.isoformat(" ", "seconds").replace("+00:00", " UTC")
