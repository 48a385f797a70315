"""From what users pass to commands: every argument is checked here, and what cannot be so is named.

One function for each verb of `Kharon` and `Atomic`, with that verb's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from kharon.errors import InvalidTicket
from kharon.model import commands as c
from kharon.model.checks import check_json, check_name, check_reason
from kharon.model.delays import Delay, as_seconds, delay_seconds
from kharon.model.events import Changes, ScheduleSet
from kharon.model.policy import Policy
from kharon.model.schedules import CATCH_UP, check_every, check_schedule_name
from kharon.model.ticket import CHECKS, Ticket, draft_of, seal
from kharon.model.tubes import MAX_CLAIMS
from kharon.store.calendar import times_of

__all__ = [
    "CatchUp",
    "OnConflict",
    "OnFailure",
    "Seconds",
    "ack",
    "add",
    "add_many",
    "cancel",
    "delete",
    "done",
    "extend",
    "fail",
    "id_of",
    "limit",
    "pause",
    "release",
    "remove_schedule",
    "restart",
    "resume",
    "retry",
    "set_later",
    "set_schedule",
    "update",
]

CatchUp: TypeAlias = Literal["one", "all", "none"]
OnConflict: TypeAlias = Literal["replace", "skip", "raise"]
OnFailure: TypeAlias = Literal["run", "cancel"]
Seconds: TypeAlias = float | timedelta

_UTC: Final = "UTC"
_MAX_AFTER: Final = 1000
"""How many tickets one can wait for by id: each end of one costs as much. For more there are groups."""
_CHANGEABLE: Final = {field.encode_name: CHECKS[field.encode_name] for field in msgspec.structs.fields(Changes)}


def add(
    ticket: Ticket,
    delay: Delay | None = None,
    on_conflict: str = "replace",
    after: Iterable[str] = (),
    after_group: str | None = None,
    on_failure: str = "run",
) -> c.Add:
    """Return the command of `Kharon.add`."""
    if not isinstance(ticket, Ticket):
        raise InvalidTicket(f"add takes a kharon.Ticket, not {type(ticket).__name__}")
    if on_conflict not in ("replace", "skip", "raise"):
        raise InvalidTicket(f'on_conflict: {on_conflict!r} is none of "replace", "skip", "raise"')
    if on_failure not in ("run", "cancel"):
        raise InvalidTicket(f'on_failure: {on_failure!r} is neither "run" nor "cancel"')
    if delay is not None:
        if ticket.version:  # the queue gave it, and its runat too: the user's word is the delay
            ticket = _undated(ticket)
        if ticket.runat is not None:
            raise InvalidTicket(f"ticket {ticket.id!r}: give runat (an instant) or delay (a duration), not both")
        _checked(delay)
    group = None if after_group is None else check_name("after_group", after_group)
    return c.Add(ticket.id, ticket, delay, on_conflict, _after(after), group, on_failure)


def add_many(
    tickets: Iterable[Ticket],
    delay: Delay | None = None,
    on_conflict: str = "replace",
    after: Iterable[str] = (),
    after_group: str | None = None,
    on_failure: str = "run",
) -> list[c.Add]:
    """Return the commands of `Kharon.add_many`."""
    if isinstance(tickets, Ticket) or not isinstance(tickets, Iterable):
        raise InvalidTicket(f"add_many takes a list of tickets, not {type(tickets).__name__}; for one there is add")
    ids = _after(after)  # once: an iterator would be empty for the second ticket
    tickets = list(tickets)
    for number, ticket in enumerate(tickets):
        if not isinstance(ticket, Ticket):
            raise InvalidTicket(f"add_many takes a list of kharon.Ticket; item {number} is {type(ticket).__name__}")
    return [add(ticket, delay, on_conflict, ids, after_group, on_failure) for ticket in tickets]


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
    """Return the command of `Kharon.ack`."""
    if keep:
        return done(t, result=result, expire_in=expire_in, tube=tube)
    if result is not None or expire_in is not None or tube is not None:
        raise InvalidTicket("ack: a removed ticket has no result, expire_in or tube; use done, or keep=True")
    return c.Done(*_target(t))


def done(t: Ticket | str, *, result: Any = None, expire_in: Seconds | None = None, tube: str | None = None) -> c.Done:
    """Return the command of `Kharon.done`."""
    data = None if result is None else check_json("result", result)
    return c.Done(*_target(t), keep=True, result=data, expire_in=_expire_in(expire_in), tube=_tube(tube))


def fail(
    t: Ticket | str, *, error_reason: str | None = None, expire_in: Seconds | None = None, tube: str | None = None
) -> c.Fail:
    """Return the command of `Kharon.fail`."""
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
    """Return the command of `Kharon.cancel`."""
    if expire_in is not None and not keep:
        raise InvalidTicket("cancel: a removed ticket does not expire; expire_in goes with keep=True")
    if tube is not None and not keep:
        raise InvalidTicket("cancel: a removed ticket is in no tube; tube goes with keep=True")
    reason = check_reason("error_reason", error_reason)
    return c.Cancel(*_target(t), keep=keep, error_reason=reason, expire_in=_expire_in(expire_in), tube=_tube(tube))


def retry(
    t: Ticket | str,
    policy: Callable[[str | None], Policy],
    *,
    delay: Delay | None = None,
    error_reason: str | None = None,
    **changes: Any,
) -> c.Retry:
    """Return the command of `Kharon.retry`; without a delay, the policy of the ticket's type gives one."""
    if delay is not None and "runat" in changes:
        raise InvalidTicket("retry: give delay (a duration) or runat (an instant), not both")
    if delay is None:
        delay = policy(t.type if isinstance(t, Ticket) else None).backoff
    return c.Retry(
        *_target(t),
        delay=_checked(delay),
        error_reason=check_reason("error_reason", error_reason),
        changes=_changes("retry", changes) if changes else None,
    )


def release(t: Ticket | str, **changes: Any) -> c.Release:
    """Return the command of `Kharon.release`."""
    return c.Release(*_target(t), changes=_changes("release", changes) if changes else None)


def extend(t: Ticket | str, seconds: Seconds) -> c.Extend:
    """Return the command of `Kharon.extend`."""
    return c.Extend(*_target(t), seconds=as_seconds("seconds", seconds))


def restart(id: str) -> c.Restart:
    """Return the command of `Kharon.restart`."""
    return c.Restart(id_of(id))


def update(id: str, **changes: Any) -> c.Update:
    """Return the command of `Kharon.update`."""
    return c.Update(id_of(id), _changes("update", changes))


def delete(id: str) -> c.Delete:
    """Return the command of `Kharon.delete`."""
    return c.Delete(id_of(id))


def pause(tube: str) -> c.Pause:
    """Return the command of `Kharon.pause`."""
    return c.Pause(check_name("tube", tube))


def resume(tube: str) -> c.Resume:
    """Return the command of `Kharon.resume`."""
    return c.Resume(check_name("tube", tube))


def limit(
    tube: str, *, claimed: int | None = None, claims: int | None = None, period: Seconds | None = None
) -> c.Limit:
    """Return the command of `Kharon.limit`."""
    if (claims is None) != (period is None):
        raise InvalidTicket("limit: claims and period go together: at most so many claims in any period of that length")
    seconds = None if period is None else as_seconds("period", period)
    if seconds == 0:
        raise InvalidTicket("period: 0 seconds; it is more than that, or None")
    return c.Limit(
        check_name("tube", tube), _number("claimed", claimed, None), _number("claims", claims, MAX_CLAIMS), seconds
    )


def set_schedule(
    since: Callable[[str], datetime],
    name: str,
    cron: str | None,
    *,
    every: float | timedelta | None,
    ticket: Ticket,
    tz: str,
    catch_up: str,
) -> c.SetSchedule:
    """Return the command; arguments and errors are those of `Kharon.schedule`.

    `since` gives the instant after which the schedule of that name fires first.
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
    event = ScheduleSet(
        *(name, ticket.type, Raw(ticket._payload), ticket.tube, ticket.nice, _first(since, name, cron, period, tz)),
        *(ticket.group, cron, period, tz, catch_up),
    )
    return c.SetSchedule(name, event)


def set_later(since: Callable[[str], datetime], command: c.SetSchedule) -> c.SetSchedule:
    """Return the command as it would be if it were made now: what has fired meanwhile does not fire again.

    Raises:
        InvalidTicket: by now it would never fire.
        KharonError: its instants cannot be known here any more.
    """
    event = command.event
    first = _first(since, command.name, event.cron, event.every, event.tz)
    return c.SetSchedule(command.name, msgspec.structs.replace(event, next_due=first))


def _first(since: Callable[[str], datetime], name: str, cron: str | None, every: float | None, tz: str) -> datetime:
    first = times_of(cron, every, tz).first(since(name))
    if first is None:
        raise InvalidTicket(f"schedule {name!r} would never fire: no instant fits {cron or every!r}")
    return first


def remove_schedule(name: str) -> c.RemoveSchedule:
    """Return the command; arguments and errors are those of `Kharon.unschedule`."""
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
