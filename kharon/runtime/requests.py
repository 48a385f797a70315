"""The verbs of `Kharon` and `Atomic`: check a user's arguments, and turn them into commands.

Each verb is one function with the verb's arguments and the docstring that users read. It returns one command or
several; `Verb` makes the methods from it. A wrong argument raises `InvalidTicket`, which names it. `model.decide`
defines the effect of a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kharon.errors import InvalidTicket
from kharon.model import commands as c
from kharon.model.checks import check_json, check_name, check_reason
from kharon.model.delays import Delay, as_seconds, delay_seconds
from kharon.model.events import Changes
from kharon.model.schedules import CATCH_UP, check_every, check_schedule_name, template_of
from kharon.model.ticket import CHECKS, Ticket, draft_of, seal
from kharon.model.tubes import MAX_CLAIMS
from kharon.runtime.verbs import Verb, many, nothing, one, one_or_none
from kharon.store.calendar import times_of

__all__ = ["CatchUp", "OnConflict", "OnFailure", "Seconds", "Verbs", "id_of"]

CatchUp: TypeAlias = Literal["one", "all", "none"]
OnConflict: TypeAlias = Literal["replace", "refresh", "skip", "raise"]
OnFailure: TypeAlias = Literal["run", "cancel"]
Seconds: TypeAlias = float | timedelta
_T = TypeVar("_T")

_ON_CONFLICT: Final = get_args(OnConflict)
_UTC: Final = "UTC"
_MAX_AFTER: Final = 1000
"""How many ids `after` may hold. Each end of one of them costs as much as there are ids; larger sets are groups."""
_CHANGEABLE: Final = {field.encode_name: CHECKS[field.encode_name] for field in msgspec.structs.fields(Changes)}


def add(
    ticket: Ticket,
    *,
    delay: Delay | None = None,
    on_conflict: OnConflict = "replace",
    after: Iterable[str] = (),
    after_group: str | None = None,
    on_failure: OnFailure = "run",
) -> c.Add:
    """Add a ticket, and return it as it is in the queue now.

    Args:
        ticket: the ticket. If the queue returned it, only the fields that a user sets count.
        delay: the time until it is due: seconds, a timedelta, FixedDelay or BackoffDelay. Not with `runat`.
        on_conflict: what to do if the id exists. "replace": the newest wins. A terminal ticket starts anew. A claimed
            one runs on and is pending again, with the new fields, when it settles. An unclaimed one keeps its place in
            line; without `delay` and `runat`, it is due now, or earlier if it was. "refresh": the same, but the
            attempts of a pending ticket go on counting (a run that is done ends the count), and it is due at once:
            give neither `delay` nor `runat`. "skip": change nothing. "raise": raise `TicketExists`.
        after: up to 1,000 ids; tickets pending now block this one until they are done, failed, cancelled or removed. An
            id without a ticket blocks nothing.
        after_group: a group; each member pending now blocks this ticket until it has ended or left the group. Their
            number is not limited. Members that join later do not block it.
        on_failure: what to do if a ticket that blocks this one fails or is cancelled: "run" lets it run, "cancel"
            cancels it at once and keeps it.

    A blocked ticket is not claimed; its delay runs meanwhile. The commit that ends its last blocker unblocks it. If a
    blocked ticket is added again with the same `after` and `after_group`, its remaining blockers stay, and none is
    added.

    Raises:
        InvalidTicket: an argument has a wrong value; or the ticket would block itself, through others.
        FinalizerInGroup: `after_group` is the ticket's own group.
        TicketExists: the id exists, with `on_conflict="raise"`.

    Cost: O(log n). With `after`, O(its length) at each end of one of them. If the ticket exists and blocks others,
    O(their number).
    """
    if not isinstance(ticket, Ticket):
        raise InvalidTicket(f"add takes a kharon.Ticket, not {type(ticket).__name__}")
    if on_conflict not in _ON_CONFLICT:
        known = ", ".join(f'"{one}"' for one in _ON_CONFLICT)
        raise InvalidTicket(f"on_conflict: {on_conflict!r} is none of {known}")
    if on_failure not in ("run", "cancel"):
        raise InvalidTicket(f'on_failure: {on_failure!r} is neither "run" nor "cancel"')
    if (delay is not None or on_conflict == "refresh") and ticket.version:
        # The queue returned it with a runat, which the user's delay replaces, or a refresh.
        ticket = _without_runat(ticket)
    if on_conflict == "refresh" and (delay is not None or ticket.runat is not None):
        raise InvalidTicket(f"ticket {ticket.id!r}: a refreshed ticket is due at once; give neither delay nor runat")
    if delay is not None:
        if ticket.runat is not None:
            raise InvalidTicket(f"ticket {ticket.id!r}: give runat (an instant) or delay (a duration), not both")
        _check_delay(delay)
    group = None if after_group is None else check_name("after_group", after_group)
    return c.Add(ticket.id, ticket, delay, on_conflict, _after(after), group, on_failure)


def add_many(
    tickets: Iterable[Ticket],
    *,
    delay: Delay | None = None,
    on_conflict: OnConflict = "replace",
    after: Iterable[str] = (),
    after_group: str | None = None,
    on_failure: OnFailure = "run",
) -> list[c.Add]:
    """Add tickets in one commit, and return them. If one is refused, none is added.

    Arguments, errors and cost per ticket are those of `add`; the error of a refusal names the ticket. Deciding the
    commit takes about 15 µs for each ticket, and no other task runs meanwhile: split a large import.
    """
    if isinstance(tickets, Ticket) or not isinstance(tickets, Iterable):
        raise InvalidTicket(f"add_many takes a list of tickets, not {type(tickets).__name__}; for one ticket use add")
    ids = _after(after)  # once: an iterator would be empty for the second ticket
    tickets = list(tickets)
    for number, ticket in enumerate(tickets):
        if not isinstance(ticket, Ticket):
            raise InvalidTicket(f"add_many takes a list of kharon.Ticket; item {number} is {type(ticket).__name__}")
    options: Any = {"on_conflict": on_conflict, "after_group": after_group, "on_failure": on_failure}
    return [add(ticket, delay=delay, after=ids, **options) for ticket in tickets]


def _after(after: Iterable[str]) -> tuple[str, ...]:
    if isinstance(after, str):
        raise InvalidTicket(f"after: {after!r} is one id; give a list of ids: [{after!r}]")
    if not isinstance(after, Iterable):
        raise InvalidTicket(f"after: a list of ids, not {type(after).__name__}")
    ids = tuple(dict.fromkeys(check_name("after", id) for id in after))
    if len(ids) > _MAX_AFTER:
        raise InvalidTicket(
            f"after: {len(ids)} ids; at most {_MAX_AFTER} are allowed. Put the tickets into a group, and use "
            f"after_group"
        )
    return ids


def ack(
    t: Ticket | str,
    *,
    keep: bool = False,
    result: Any = None,
    expire_in: Seconds | None = None,
    tube: str | None = None,
) -> c.Done:
    """Mark the ticket as done, and remove it; with `keep`, keep it as `done` does.

    Returns:
        The ticket if it is still there: kept, or pending again because it was added while it ran. Otherwise None.

    Raises:
        TicketNotFound: there is no such ticket.
        LeaseLost: its claim is over.
        InvalidTransition: it is done, failed or cancelled.
        InvalidTicket: `result` is not JSON; or `result`, `expire_in` or `tube` is given without `keep`.

    Cost: O(log n).
    """
    if keep:
        return done(t, result=result, expire_in=expire_in, tube=tube)
    if result is not None or expire_in is not None or tube is not None:
        raise InvalidTicket("ack: a removed ticket has no result, expire_in or tube; use done, or keep=True")
    return c.Done(*_target(t))


def done(t: Ticket | str, *, result: Any = None, expire_in: Seconds | None = None, tube: str | None = None) -> c.Done:
    """Mark the ticket as done, keep it with its result, and return it.

    Args:
        t: the ticket that a handler received (fenced), or an id.
        result: any JSON value.
        expire_in: seconds, or a timedelta, after which it is removed; None: it is kept for good.
        tube: the tube to which it moves in the same commit; None: it stays. A ticket that was added again while it ran
            does not move, since the adding is newer. On a full disk a move is refused: settle without `tube` then.

    Raises:
        TicketNotFound: there is no such ticket.
        LeaseLost: its claim is over.
        InvalidTransition: it is done, failed or cancelled.
        InvalidTicket: an argument has a wrong value.
        StorageFull: `tube` is given, and the disk is full.

    Cost: O(log n).
    """
    data = None if result is None else _outcome(t, check_json, "result", result)
    return c.Done(*_target(t), keep=True, result=data, expire_in=_expire_in(expire_in), tube=_tube(tube))


def fail(
    t: Ticket | str, *, error_reason: str | None = None, expire_in: Seconds | None = None, tube: str | None = None
) -> c.Fail:
    """Mark the ticket as failed for good, keep it, and return it.

    Without `expire_in` it is kept for `Settings.keep_failed`. Arguments, errors and cost are those of `done`.
    """
    reason = _outcome(t, check_reason, "error_reason", error_reason)
    return c.Fail(*_target(t), error_reason=reason, expire_in=_expire_in(expire_in), tube=_tube(tube))


def cancel(
    t: Ticket | str,
    *,
    error_reason: str | None = None,
    keep: bool = False,
    expire_in: Seconds | None = None,
    tube: str | None = None,
) -> c.Cancel:
    """Cancel the ticket, and remove it; with `keep`, keep it as cancelled.

    Cancelling a running ticket by its id interrupts it: its handler is cancelled at its next checkpoint (it sees
    `trio.Cancelled`), and its later settles are refused. A `def` handler runs on; it can call
    `trio.from_thread.check_cancelled()`. If the ticket was added again while it ran, the new one is cancelled too: an
    id means the name, as for `delete`. A handler that cancels the ticket that it received ends its own run only, and
    is not interrupted, so it may clean up.

    Returns:
        The ticket if it is still there, otherwise None.

    Arguments, errors and cost are those of `done`; `expire_in` and `tube` need `keep`.
    """
    if expire_in is not None and not keep:
        raise InvalidTicket("cancel: a removed ticket does not expire; expire_in needs keep=True")
    if tube is not None and not keep:
        raise InvalidTicket("cancel: a removed ticket is in no tube; tube needs keep=True")
    reason = _outcome(t, check_reason, "error_reason", error_reason)
    return c.Cancel(*_target(t), keep=keep, error_reason=reason, expire_in=_expire_in(expire_in), tube=_tube(tube))


def retry(
    t: Ticket | str,
    *,
    delay: Delay | None = None,
    error_reason: str | None = None,
    nice: int | UnsetType = UNSET,
    payload: Any = UNSET,
    tube: str | UnsetType = UNSET,
    group: str | UnsetType | None = UNSET,
    runat: datetime | UnsetType = UNSET,
) -> c.Retry:
    """Let the ticket run again after `delay`, whatever the number of its attempts, and return it.

    Args:
        t: the ticket that a handler received (fenced), or an id.
        delay: seconds, a timedelta, FixedDelay or BackoffDelay; None: `Settings.backoff`.
        error_reason: the reason.
        nice: a new value, as in `update`.
        payload: likewise.
        tube: likewise.
        group: likewise.
        runat: likewise, instead of a delay.

    Raises:
        TicketNotFound: there is no such ticket.
        LeaseLost: its claim is over.
        InvalidTransition: it is done, failed or cancelled.
        InvalidTicket: an argument has a wrong value.

    Cost: O(log n).
    """
    if delay is not None and runat is not UNSET:
        raise InvalidTicket("retry: give delay (a duration) or runat (an instant), not both")
    return c.Retry(
        *_target(t),
        delay=None if delay is None else _check_delay(delay),
        error_reason=_outcome(t, check_reason, "error_reason", error_reason),
        changes=_changes(nice=nice, payload=payload, tube=tube, group=group, runat=runat),
    )


def release(
    t: Ticket | str,
    *,
    nice: int | UnsetType = UNSET,
    payload: Any = UNSET,
    tube: str | UnsetType = UNSET,
    group: str | UnsetType | None = UNSET,
    runat: datetime | UnsetType = UNSET,
) -> c.Release:
    """Release a claim, and return the ticket: it is pending at once, and the attempt is not counted.

    Arguments, errors and cost are those of `done`; the new values of fields are those of `update`, so the ticket may
    move to another tube.
    """
    return c.Release(*_target(t), changes=_changes(nice=nice, payload=payload, tube=tube, group=group, runat=runat))


def extend(t: Ticket | str, seconds: Seconds) -> c.Extend:
    """Let the lease of a claimed ticket end `seconds` (a number, or a timedelta) from now, if that is later.

    Returns the ticket. Errors and cost are those of `done`.
    """
    return c.Extend(*_target(t), seconds=as_seconds("seconds", seconds))


def restart(id: str) -> c.Restart:
    """Make a done, failed or cancelled ticket pending again, due now and without attempts, and return it. O(log n).

    Raises:
        TicketNotFound: there is no such ticket.
        InvalidTransition: it is pending.
    """
    return c.Restart(id_of(id))


def update(
    id: str,
    *,
    nice: int | UnsetType = UNSET,
    payload: Any = UNSET,
    tube: str | UnsetType = UNSET,
    group: str | UnsetType | None = UNSET,
    runat: datetime | UnsetType = UNSET,
) -> c.Update:
    """Change `nice`, `payload`, `tube`, `group` or `runat` of a ticket, and return it. Its status stays. O(log n).

    A field that is not given stays as it is.

    Raises:
        TicketNotFound: there is no such ticket.
        InvalidTicket: no field is given, or a value is wrong.
    """
    changes = _changes(nice=nice, payload=payload, tube=tube, group=group, runat=runat)
    if changes is None:
        raise InvalidTicket(f"update: nothing to change; give one of {', '.join(_CHANGEABLE)}")
    return c.Update(id_of(id), changes)


def delete(id: str) -> c.Delete:
    """Remove a ticket in any status; if there is none, nothing happens. O(log n).

    If the ticket is running, its handler is interrupted, as `cancel` by id does.
    """
    return c.Delete(id_of(id))


def pause(tube: str) -> c.Pause:
    """Stop claims from a tube, in every process, until `resume`; running tickets go on. O(1).

    The pause is recorded, so it holds after a restart. Pausing a paused tube changes and writes nothing.

    Raises:
        InvalidTicket: `tube` is not a name.
    """
    return c.Pause(check_name("tube", tube))


def resume(tube: str) -> c.Resume:
    """Allow claims from a paused tube again; if it is not paused, nothing happens. Otherwise as `pause`."""
    return c.Resume(check_name("tube", tube))


def limit(
    tube: str, *, claimed: int | None = None, claims: int | None = None, period: Seconds | None = None
) -> c.Limit:
    """Limit the claims from a tube, replacing its present limit; without `claimed` and `claims`, remove the limit.

    The limit is recorded, and so are the claims that count against it, so it holds across a restart.

    Args:
        tube: the tube.
        claimed: the number of its tickets that may be claimed at once; None: any number. Tickets that are claimed
            already go on.
        claims: the number of claims in any `period`, 1 to 10,000; None: any number. They are counted by the times of
            the records, which never go back: after the clock is set back, these stand still until it has caught up. A
            claim that is released counts. Claims made before the tube had such a limit do not.
        period: seconds, or a timedelta; required with `claims`.

    Raises:
        InvalidTicket: an argument has a wrong value.

    Cost: O(claims).
    """
    if (claims is None) != (period is None):
        raise InvalidTicket("limit: claims and period go together: at most so many claims in any period of that length")
    seconds = None if period is None else as_seconds("period", period)
    if seconds == 0:
        raise InvalidTicket("period: 0 seconds; give more, or None")
    return c.Limit(
        check_name("tube", tube),
        _check_limit("claimed", claimed, None),
        _check_limit("claims", claims, MAX_CLAIMS),
        seconds,
    )


def schedule(
    name: str,
    cron: str | None = None,
    *,
    every: Seconds | None = None,
    ticket: Ticket,
    tz: str = "UTC",
    catch_up: CatchUp = "one",
) -> c.SetSchedule:
    """Add a ticket at each instant of a cron expression, or every so many seconds.

    The id of each ticket is made of the name and the instant, as `report@2026-11-24T13:05:00Z`, and its `runat` is the
    instant. The actor `clock` adds it in the commit that records the firing, so neither a crash nor a clock step makes
    an instant fire twice. Schedules fire while `run` runs, even if the ticket before is still pending.

    Call it at each start: the same values change nothing. Other values replace the old ones; if `cron`, `every` and
    `tz` are the same, the next instant stays. In an atomic block the first instant counts from the end of the block,
    and may be refused there.

    Args:
        name: the name of the schedule, which begins the ids of its tickets; 1 to 172 bytes of printable text.
        cron: five fields, as in Debian's cron (`kharon[cron]`). In a time zone with daylight saving time, a skipped
            time fires right after the gap, and a repeated time fires once. An expression whose minute or hour begins
            with `*` follows the time that the clock shows.
        every: seconds, at least 1, or a timedelta, instead of `cron`: elapsed time, counted from now.
        ticket: the ticket to add. Its `id` is ignored, and it has no `runat`.
        tz: the time zone of `cron`, as "Europe/Berlin".
        catch_up: how many tickets to add for missed instants: the queue was closed, not running or without room, or the
            clock was set forward. "one": one ticket, for the latest. "all": one for each of the newest 1000, oldest
            first. "none": one for each that is at most 60 s old. An instant without a ticket never fires later.

    Raises:
        InvalidTicket: an argument has a wrong value; the expression never fires; the time zone is unknown.
        KharonError: the cron library is not installed.

    Cost: O(log n).
    """
    name = check_schedule_name(name)
    if (cron is None) == (every is None):
        raise InvalidTicket(f"schedule {name!r}: give either cron (an expression) or every (a duration)")
    if not isinstance(ticket, Ticket):
        raise InvalidTicket(f"ticket: schedule takes a kharon.Ticket, not {type(ticket).__name__}")
    if ticket.runat is not None and not ticket.version:  # else the queue returned it, and set its runat
        raise InvalidTicket("ticket: a scheduled ticket has no runat; it is due when the schedule fires")
    if not isinstance(tz, str):
        raise InvalidTicket(f"tz: the name of a time zone, not {type(tz).__name__}")
    if every is not None and tz != _UTC:
        raise InvalidTicket("tz: a time zone needs cron; every= counts elapsed time, which is the same everywhere")
    if catch_up not in CATCH_UP:
        raise InvalidTicket(f'catch_up: {catch_up!r} is none of "one", "all", "none"')
    if cron is not None:
        if not isinstance(cron, str):
            raise InvalidTicket(f"cron: an expression, a str, not {type(cron).__name__}")
        cron = " ".join(cron.split())
    period = None if every is None else check_every(every)
    times_of(cron, period, tz)
    return c.SetSchedule(name, cron=cron, every=period, tz=tz, catch_up=catch_up, **template_of(ticket))


def unschedule(name: str) -> c.RemoveSchedule:
    """Remove a schedule; if there is none, nothing happens. The tickets that it has added stay. O(log n)."""
    return c.RemoveSchedule(check_name("name", name))


# --- checks -----------------------------------------------------------------------------------------------------------


def _without_runat(ticket: Ticket) -> Ticket:
    draft = draft_of(ticket)
    draft.runat = None
    return seal(draft)


def id_of(id: object) -> str:
    """Return an id if it is a str, without checking that such a ticket exists, or can exist."""
    if not isinstance(id, str):
        raise InvalidTicket(f"id: a str, not {type(id).__name__}")
    return id


def _tube(tube: str | None) -> str | None:
    return None if tube is None else check_name("tube", tube)


def _outcome(t: Ticket | str, check: Callable[[str, object], _T], field: str, value: object) -> _T:
    """Return the checked result or reason of a ticket."""
    try:
        return check(field, value)
    except InvalidTicket as unfit:
        unfit.outcome_of, _ = _target(t)
        raise


def _target(t: Ticket | str) -> tuple[str, int | None]:
    """Return the id of a ticket, and its claim; None as the claim if it is not claimed, or only an id is given."""
    return (t.id, t.claim) if isinstance(t, Ticket) else (id_of(t), None)


def _check_delay(delay: Delay) -> Delay:
    delay_seconds(delay, 0, 0.0)
    return delay


def _expire_in(value: Seconds | None) -> float | None:
    return None if value is None else as_seconds("expire_in", value)


def _check_limit(field: str, value: object, most: int | None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        upto = "or more" if most is None else f"to {most}"
        raise InvalidTicket(f"{field}: {value!r} is neither a whole number, 1 {upto}, nor None")
    return int(value)


def _changes(**values: Any) -> Changes | None:
    """Return the checked new values of the fields that are given; None: none is."""
    checked = {name: _CHANGEABLE[name](name, value) for name, value in values.items() if value is not UNSET}
    if not checked:
        return None
    if "payload" in checked:
        checked["payload_json"] = Raw(checked.pop("payload"))
    return Changes(**checked)


# --- the list of verbs ------------------------------------------------------------------------------------------------


class Verbs:
    """All verbs, which `Kharon` and `Atomic` inherit: each with its function and its result."""

    add = Verb(add, one)
    add_many = Verb(add_many, many)
    ack = Verb(ack, one_or_none)
    done = Verb(done, one)
    fail = Verb(fail, one)
    cancel = Verb(cancel, one_or_none)
    retry = Verb(retry, one)
    release = Verb(release, one)
    extend = Verb(extend, one)
    restart = Verb(restart, one)
    update = Verb(update, one)
    delete = Verb(delete, nothing)
    pause = Verb(pause, nothing)
    resume = Verb(resume, nothing)
    limit = Verb(limit, nothing)
    schedule = Verb(schedule, nothing)
    unschedule = Verb(unschedule, nothing)
