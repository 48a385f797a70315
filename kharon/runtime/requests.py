"""The verbs of `Kharon` and `Atomic`: each checks a user's arguments, and makes the command of them.

One function for each verb, with that verb's arguments and the docstring that users read; it returns the command, or
commands, and `Verb` makes the methods of it. A wrong argument raises `InvalidTicket`, naming it. What a command does is
in `model.decide`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Raw

from kharon.errors import InvalidTicket
from kharon.model import commands as c
from kharon.model.checks import check_json, check_name, check_reason
from kharon.model.delays import Delay, as_seconds, delay_seconds
from kharon.model.events import Changes
from kharon.model.schedules import CATCH_UP, check_every, check_schedule_name, template_of
from kharon.model.ticket import CHECKS, Ticket, draft_of, seal
from kharon.model.tubes import MAX_CLAIMS
from kharon.runtime.verbs import Verb, many, nothing, one, perhaps
from kharon.store.calendar import times_of

__all__ = ["CatchUp", "OnConflict", "OnFailure", "Seconds", "Verbs", "id_of"]

CatchUp: TypeAlias = Literal["one", "all", "none"]
OnConflict: TypeAlias = Literal["replace", "refresh", "skip", "raise"]
OnFailure: TypeAlias = Literal["run", "cancel"]
Seconds: TypeAlias = float | timedelta

_UTC: Final = "UTC"
_MAX_AFTER: Final = 1000
"""How many tickets one can wait for by id: each end of one costs as much. For more there are groups."""
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
        ticket: the ticket. Of one that the queue gave, only the fields that a user sets count.
        delay: the time until it is due: seconds, a timedelta, FixedDelay or BackoffDelay. Not with `runat`.
        on_conflict: what happens if the id exists. "replace": the newest wins. A terminal ticket starts anew. A claimed
            one runs on and is pending again, with the new fields, when it settles. An unclaimed one keeps its place in
            line; without `delay` and `runat`, it is due now, or earlier if it was. "refresh": the same, but the
            attempts of a pending ticket go on counting (a run that is done ends the count), and it is due at once:
            give neither `delay` nor `runat`. "skip": nothing. "raise": `TicketExists`.
        after: up to 1,000 ids; the ticket waits for those pending now to be done, failed, cancelled or removed. An id
            without a ticket is not waited for.
        after_group: a group; the ticket waits until each member pending now has ended or left the group, however many
            there are. Members that join later are not waited for.
        on_failure: what happens to this ticket if one that it waits for fails or is cancelled: "run" lets it run,
            "cancel" cancels it at once and keeps it.

    The ticket is blocked, and is not claimed, until all that it waits for has ended; its delay runs meanwhile. The
    commit that ends the last of them unblocks it. A blocked ticket that is added again with the same `after` and
    `after_group` goes on waiting for the rest, and for nothing new.

    Raises:
        InvalidTicket: an argument has a wrong value; or the ticket would wait for one that waits for it.
        FinalizerInGroup: `after_group` is the ticket's own group.
        TicketExists: the id exists, with `on_conflict="raise"`.

    Cost: O(log n). With `after`, O(its length) at each end of one of them. If others wait for a ticket that is added
    again, O(their number).
    """
    if not isinstance(ticket, Ticket):
        raise InvalidTicket(f"add takes a kharon.Ticket, not {type(ticket).__name__}")
    if on_conflict not in get_args(OnConflict):
        known = ", ".join(f'"{one}"' for one in get_args(OnConflict))
        raise InvalidTicket(f"on_conflict: {on_conflict!r} is none of {known}")
    if on_failure not in ("run", "cancel"):
        raise InvalidTicket(f'on_failure: {on_failure!r} is neither "run" nor "cancel"')
    if (delay is not None or on_conflict == "refresh") and ticket.version:
        ticket = _undated(ticket)  # the queue gave it, and its runat too: the user's word is the delay, or "at once"
    if on_conflict == "refresh" and (delay is not None or ticket.runat is not None):
        raise InvalidTicket(f"ticket {ticket.id!r}: a refreshed ticket is due at once; give neither delay nor runat")
    if delay is not None:
        if ticket.runat is not None:
            raise InvalidTicket(f"ticket {ticket.id!r}: give runat (an instant) or delay (a duration), not both")
        _checked(delay)
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
    """Add tickets in one commit, and return them: all of them, or, if one is refused, none.

    Arguments, errors and cost per ticket are those of `add`; a refusal says which ticket it was. The whole commit is
    decided in one stretch, about 15 µs a ticket, in which no other task runs: give a large import in parts.
    """
    if isinstance(tickets, Ticket) or not isinstance(tickets, Iterable):
        raise InvalidTicket(f"add_many takes a list of tickets, not {type(tickets).__name__}; for one there is add")
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
            f"after: {len(ids)} ids, and {_MAX_AFTER} are the most; put the tickets into a group, and give after_group"
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
    """The work is done: remove the ticket; or, with `keep`, keep it as `done` does.

    Returns:
        The ticket if it is still there: kept, or pending again because it was added while it ran. Else None.

    Raises:
        TicketNotFound: there is no such ticket.
        LeaseLost: its claim is over.
        InvalidTransition: it is done, failed or cancelled.
        InvalidTicket: `result` is not JSON; or it, `expire_in` or `tube` is given without `keep`.

    Cost: O(log n).
    """
    if keep:
        return done(t, result=result, expire_in=expire_in, tube=tube)
    if result is not None or expire_in is not None or tube is not None:
        raise InvalidTicket("ack: a removed ticket has no result, expire_in or tube; use done, or keep=True")
    return c.Done(*_target(t))


def done(t: Ticket | str, *, result: Any = None, expire_in: Seconds | None = None, tube: str | None = None) -> c.Done:
    """The work is done: keep the ticket with its result, and return it.

    Args:
        t: the ticket that a handler received (fenced), or an id.
        result: any JSON value.
        expire_in: seconds, or a timedelta, after which it is removed; None: it is kept for good.
        tube: the tube that it moves to, in the same commit; None: it stays. A ticket that was added again while it ran
            is not moved, since the adding is newer. On a full disk a move waits for room: settle without it there.

    Raises:
        TicketNotFound: there is no such ticket.
        LeaseLost: its claim is over.
        InvalidTransition: it is done, failed or cancelled.
        InvalidTicket: an argument has a wrong value.
        StorageFull: it is to move, and the disk is full.

    Cost: O(log n).
    """
    data = None if result is None else check_json("result", result)
    return c.Done(*_target(t), keep=True, result=data, expire_in=_expire_in(expire_in), tube=_tube(tube))


def fail(
    t: Ticket | str, *, error_reason: str | None = None, expire_in: Seconds | None = None, tube: str | None = None
) -> c.Fail:
    """The ticket has failed for good: keep it, and return it.

    Without `expire_in` it is kept for `Settings.keep_failed`. Arguments, errors and cost are those of `done`.
    """
    reason = check_reason("error_reason", error_reason)
    return c.Fail(*_target(t), error_reason=reason, expire_in=_expire_in(expire_in), tube=_tube(tube))


def cancel(
    t: Ticket | str,
    *,
    error_reason: str | None = None,
    keep: bool = False,
    expire_in: Seconds | None = None,
    tube: str | None = None,
) -> c.Cancel:
    """The ticket is no longer wanted: remove it; or, with `keep`, keep it as cancelled.

    By its id, a running ticket is interrupted: its handler is cancelled at its next checkpoint (it sees
    `trio.Cancelled`), and its later settles are refused. A `def` handler runs on; it can ask
    `trio.from_thread.check_cancelled()`. If the ticket was added again while it ran, the new one is cancelled, too: an
    id means the name, as for `delete`. A handler that cancels the ticket that it received ends its own run only, and
    is not interrupted, so it may clean up.

    Returns:
        The ticket if it is still there, else None.

    Arguments, errors and cost are those of `done`; `expire_in` and `tube` go with `keep` only.
    """
    if expire_in is not None and not keep:
        raise InvalidTicket("cancel: a removed ticket does not expire; expire_in goes with keep=True")
    if tube is not None and not keep:
        raise InvalidTicket("cancel: a removed ticket is in no tube; tube goes with keep=True")
    reason = check_reason("error_reason", error_reason)
    return c.Cancel(*_target(t), keep=keep, error_reason=reason, expire_in=_expire_in(expire_in), tube=_tube(tube))


def retry(t: Ticket | str, *, delay: Delay | None = None, error_reason: str | None = None, **changes: Any) -> c.Retry:
    """Let the ticket run again after `delay`, whatever the number of its attempts, and return it.

    Args:
        t: the ticket that a handler received (fenced), or an id.
        delay: seconds, a timedelta, FixedDelay or BackoffDelay; None: `Settings.backoff`.
        error_reason: why.
        changes: new values of fields, as in `update`; `runat` in place of a delay.

    Raises:
        TicketNotFound: there is no such ticket.
        LeaseLost: its claim is over.
        InvalidTransition: it is done, failed or cancelled.
        InvalidTicket: an argument has a wrong value.

    Cost: O(log n).
    """
    if delay is not None and "runat" in changes:
        raise InvalidTicket("retry: give delay (a duration) or runat (an instant), not both")
    return c.Retry(
        *_target(t),
        delay=None if delay is None else _checked(delay),
        error_reason=check_reason("error_reason", error_reason),
        changes=_changes("retry", changes) if changes else None,
    )


def release(t: Ticket | str, **changes: Any) -> c.Release:
    """Give a claim back, and return the ticket: it is pending at once, and the attempt is not counted.

    Arguments, errors and cost are those of `done`; `changes` are those of `update`, so the ticket may move to another
    tube.
    """
    return c.Release(*_target(t), changes=_changes("release", changes) if changes else None)


def extend(t: Ticket | str, seconds: Seconds) -> c.Extend:
    """Let the lease of a claimed ticket end `seconds` (a number, or a timedelta) from now, if that is later.

    Returns the ticket. Errors and cost are those of `done`.
    """
    return c.Extend(*_target(t), seconds=as_seconds("seconds", seconds))


def restart(id: str) -> c.Restart:
    """Make a done, failed or cancelled ticket pending again as if new: due now, no attempts. Returns it. O(log n).

    Raises:
        TicketNotFound: there is no such ticket.
        InvalidTransition: it is pending.
    """
    return c.Restart(id_of(id))


def update(id: str, **changes: Any) -> c.Update:
    """Change `nice`, `payload`, `tube`, `group` or `runat` of a ticket, and return it; its status stays. O(log n).

    Raises:
        TicketNotFound: there is no such ticket.
        InvalidTicket: there is nothing to change, or a value is wrong.
    """
    return c.Update(id_of(id), _changes("update", changes))


def delete(id: str) -> c.Delete:
    """Remove a ticket, whatever its status; if there is none, nothing happens. O(log n).

    If it is running, its handler is interrupted, as by `cancel` by id.
    """
    return c.Delete(id_of(id))


def pause(tube: str) -> c.Pause:
    """Let nothing be claimed from a tube, by any process, until `resume`; running tickets go on. O(1).

    The pause is recorded, so it holds after a restart. Pausing a paused tube changes nothing, and writes nothing.

    Raises:
        InvalidTicket: `tube` is not a name.
    """
    return c.Pause(check_name("tube", tube))


def resume(tube: str) -> c.Resume:
    """Let a paused tube be claimed from again; if it is not paused, nothing happens. Otherwise as `pause`."""
    return c.Resume(check_name("tube", tube))


def limit(
    tube: str, *, claimed: int | None = None, claims: int | None = None, period: Seconds | None = None
) -> c.Limit:
    """Limit the claims from a tube, in place of the limit that it has; without any argument, remove the limit.

    The limit is recorded, and so are the claims that count against it, so it holds across a restart.

    Args:
        tube: the tube.
        claimed: how many of its tickets are claimed at once, at most; None: any number. Those that are claimed already
            go on.
        claims: how many claims are made in any `period`, at most; up to 10,000; None: any number. Counted by the times
            of the records, which never go back: after the clock is set back they stand still until it has caught up. A
            claim that is released counts. Claims made before the tube had such a limit do not.
        period: seconds, or a timedelta; goes with `claims`.

    Raises:
        InvalidTicket: an argument has a wrong value.

    Cost: O(claims).
    """
    if (claims is None) != (period is None):
        raise InvalidTicket("limit: claims and period go together: at most so many claims in any period of that length")
    seconds = None if period is None else as_seconds("period", period)
    if seconds == 0:
        raise InvalidTicket("period: 0 seconds; it is more than that, or None")
    return c.Limit(
        check_name("tube", tube), _number("claimed", claimed, None), _number("claims", claims, MAX_CLAIMS), seconds
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
    """Add a ticket again and again: by a cron expression, or every so many seconds.

    The ticket of an instant is named after it, as `report@2026-11-24T13:05:00Z`, and has it as its `runat`. It is added
    by `clock`, in the commit that records the firing, so no crash and no step of the clock makes an instant fire twice.
    Schedules fire while `run` runs, here or at the next start, whether the ticket before is still pending or not.

    Call it at each start: the same values change nothing. Other values replace the old ones; if `cron`, `every` and
    `tz` are the same, the next instant stays. In an atomic block the first instant counts from the end of the block,
    and may be refused there.

    Args:
        name: the name of the schedule and, with an instant, of its tickets; 1 to 172 bytes of printable text.
        cron: five fields, as in Debian's cron (`kharon[cron]`). In a time zone with daylight saving time, a skipped
            time fires right after the gap, and a time that comes twice fires once. An expression whose minute or hour
            begins with `*` goes by the time that the clock shows.
        every: seconds, at least 1, or a timedelta, in place of `cron`: elapsed time, counted from now.
        ticket: the ticket to add. Its `id` does not count, and it has no `runat`.
        tz: the time zone of `cron`, as "Europe/Berlin".
        catch_up: what happens to instants that were missed: because the queue was closed, not being run or without
            room, or because the clock was set forward. "one": one ticket, of the latest. "all": one each, oldest first,
            of the newest 1000. "none": one each of those at most 60 s old. An instant that has been passed over does
            not come again.

    Raises:
        InvalidTicket: an argument has a wrong value; the expression never fires; the time zone is not known.
        KharonError: the cron library is not installed.

    Cost: O(log n).
    """
    name = check_schedule_name(name)
    if (cron is None) == (every is None):
        raise InvalidTicket(f"schedule {name!r}: give either cron (an expression) or every (a duration)")
    if not isinstance(ticket, Ticket):
        raise InvalidTicket(f"ticket: schedule takes a kharon.Ticket, not {type(ticket).__name__}")
    if ticket.runat is not None and not ticket.version:  # else the queue gave it, and set it
        raise InvalidTicket("ticket: what is scheduled has no runat; its tickets are due when it fires")
    if not isinstance(tz, str):
        raise InvalidTicket(f"tz: the name of a time zone, not {type(tz).__name__}")
    if every is not None and tz != _UTC:
        raise InvalidTicket("tz: a time zone is for cron; every= counts elapsed time, which is the same everywhere")
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
    """Fire no more under this name; if there is no such schedule, nothing happens. Its tickets stay. O(log n)."""
    return c.RemoveSchedule(check_name("name", name))


# --- what they share --------------------------------------------------------------------------------------------------


def _undated(ticket: Ticket) -> Ticket:
    draft = draft_of(ticket)
    draft.runat = None
    return seal(draft)


def id_of(id: object) -> str:
    """Return an id, if it is a str. Whether there is such a ticket, and can be, is not asked."""
    if not isinstance(id, str):
        raise InvalidTicket(f"id: a str, not {type(id).__name__}")
    return id


def _tube(tube: str | None) -> str | None:
    return None if tube is None else check_name("tube", tube)


def _target(t: Ticket | str) -> tuple[str, int | None]:
    """Return a ticket's id and, if it was received under a claim, that claim."""
    return (t.id, t.claim) if isinstance(t, Ticket) else (id_of(t), None)


def _checked(delay: Delay) -> Delay:
    delay_seconds(delay, 0, 0.0)
    return delay


def _expire_in(value: Seconds | None) -> float | None:
    return None if value is None else as_seconds("expire_in", value)


def _number(field: str, value: object, most: int | None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        upto = "or more" if most is None else f"to {most}"
        raise InvalidTicket(f"{field}: {value!r} is neither a whole number, 1 {upto}, nor None")
    return int(value)


def _changes(verb: str, values: dict[str, Any]) -> Changes:
    unknown = sorted(set(values) - set(_CHANGEABLE))
    if unknown:
        raise InvalidTicket(f"{verb}: {unknown[0]!r} cannot be changed; {', '.join(_CHANGEABLE)} can")
    if not values:
        raise InvalidTicket(f"{verb}: nothing to change; give one of {', '.join(_CHANGEABLE)}")
    checked = {name: _CHANGEABLE[name](name, value) for name, value in values.items()}
    if "payload" in checked:
        checked["payload_json"] = Raw(checked.pop("payload"))
    return Changes(**checked)


# --- the list of them -------------------------------------------------------------------------------------------------


class Verbs:
    """Every verb, for `Kharon` and `Atomic` to inherit: how it is asked for, and what it returns."""

    add = Verb(add, one)
    add_many = Verb(add_many, many)
    ack = Verb(ack, perhaps)
    done = Verb(done, one)
    fail = Verb(fail, one)
    cancel = Verb(cancel, perhaps)
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
