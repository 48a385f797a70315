"""From what users pass to `schedule` to the command that it means.

Everything is checked here; when the schedule fires first is computed here, since calendars are not for the rules to
know. What happens when an instant comes is in `store.calendar`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw

from kharon.errors import InvalidTicket
from kharon.model.checks import check_name
from kharon.model.commands import RemoveSchedule, SetSchedule
from kharon.model.events import ScheduleSet
from kharon.model.schedules import CATCH_UP, check_every, check_schedule_name
from kharon.model.ticket import Ticket
from kharon.store.calendar import times_of

__all__ = ["CatchUp", "remove_schedule", "set_later", "set_schedule"]

CatchUp: TypeAlias = Literal["one", "all", "none"]
_UTC = "UTC"


def set_schedule(
    since: Callable[[str], datetime],
    name: str,
    cron: str | None,
    *,
    every: float | timedelta | None,
    ticket: Ticket,
    tz: str,
    catch_up: str,
) -> SetSchedule:
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
    return SetSchedule(name, event)


def set_later(since: Callable[[str], datetime], command: SetSchedule) -> SetSchedule:
    """Return the command as it would be if it were made now: what has fired meanwhile does not fire again.

    Raises:
        InvalidTicket: by now it would never fire.
        KharonError: its instants cannot be known here any more.
    """
    event = command.event
    first = _first(since, command.name, event.cron, event.every, event.tz)
    return SetSchedule(command.name, msgspec.structs.replace(event, next_due=first))


def _first(since: Callable[[str], datetime], name: str, cron: str | None, every: float | None, tz: str) -> datetime:
    first = times_of(cron, every, tz).first(since(name))
    if first is None:
        raise InvalidTicket(f"schedule {name!r} would never fire: no instant fits {cron or every!r}")
    return first


def remove_schedule(name: str) -> RemoveSchedule:
    """Return the command; arguments and errors are those of `Kharon.unschedule`."""
    return RemoveSchedule(check_name("name", name))
