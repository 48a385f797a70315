"""When schedules fire: the instants of an expression or a period, and the handling of missed instants.

`times_of` gives the instants of a cron expression or of a period. This is the only module that knows calendars. The
cron library (the extra `kharon[cron]`, loaded for the first expression) and the rules of time zones differ between
machines and years. So a replay never computes instants: they are written into the events.

Expressions are those of Debian's cron, with five fields, and so is the handling of clock changes. If neither minute nor
hour begins with `*`, a skipped time fires right after the gap, and a repeated time fires only the first time. Any other
expression is matched against each real minute. A period is elapsed time, which clock changes do not affect.

`commands` applies a schedule's `catch_up` to its instants, and returns the commands of one commit. An instant is missed
if nothing could fire it: the queue was closed or not running, the machine slept, the disk was full, or the clock was
set forward.

    "one"   one ticket, for the latest instant
    "all"   one ticket for each of the newest `MAX_CAUGHT_UP` instants, oldest first; `COMMIT_LIMIT` in one commit
    "none"  one ticket for each instant that is at most `GRACE` old, which counts as on time

`Firing` remembers the schedules that cannot fire on this machine, because the cron library or their time zone is
missing. It tries them again every `RETRY_SECONDS`; they delay no other schedule.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import trio

from kharon.errors import InvalidTicket, KharonError
from kharon.log.messages import say
from kharon.model.commands import FireSchedule, ScheduleCommand, SetSchedule, SkipSchedule
from kharon.model.schedules import Schedule, Schedules

__all__ = ["COMMIT_LIMIT", "GRACE", "MAX_CAUGHT_UP", "RETRY_SECONDS", "Firing", "commands", "first_firing", "times_of"]


GRACE: Final = timedelta(seconds=60)
"""How late a schedule with `catch_up="none"` may fire."""
MAX_CAUGHT_UP: Final = 1000
"""How many missed instants of a schedule with `catch_up="all"` become tickets, at most."""
COMMIT_LIMIT: Final = 100
"""How many instants fire in one commit, at most."""
RETRY_SECONDS: Final = 15.0
"""Seconds until a schedule that cannot fire here is tried again."""
_LIBRARY: Final = "cronsim"
_FIELDS: Final = 5
_SECOND: Final = timedelta(seconds=1)
_MINUTE: Final = timedelta(minutes=1)


class Times(Protocol):
    """The instants at which a schedule fires: in UTC, ascending, without repetition.

    The argument `due` is always one of them.
    """

    def first(self, now: datetime) -> datetime | None:
        """Return the first instant of a schedule that begins now; None: there is none."""

    def after(self, due: datetime) -> datetime | None:
        """Return the next instant after `due`; None: there is none."""

    def latest(self, due: datetime, now: datetime) -> datetime:
        """Return the latest instant at or before `now`, which is at or after `due`."""

    def newest(self, due: datetime, now: datetime, count: int) -> datetime:
        """Return the earliest of the newest `count` instants from `due` to `now`."""


def times_of(cron: str | None, every: float | None, tz: str) -> Times:
    """Return the times of a cron expression in a time zone, or of a period in seconds.

    Raises:
        InvalidTicket: the expression is invalid, or this machine does not know the time zone.
        KharonError: the cron library is not installed.

    Cost: measured 12 µs.
    """
    if every is not None:
        return _Period(timedelta(seconds=every))
    assert cron is not None
    return _Cron(cron, _zone(tz))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: some names are names of directories
        raise InvalidTicket(
            f'tz: there is no time zone {name[:50]!r} here; give a name like "Europe/Berlin". If the name is right, '
            f"install the system's time zones, or the package tzdata"
        ) from None


class _Period:
    """The instants of a period."""

    def __init__(self, step: timedelta) -> None:
        self._step = step

    def first(self, now: datetime) -> datetime | None:
        whole = now.replace(microsecond=0)
        return self.after(whole if whole == now else whole + _SECOND)  # a whole second makes a short id

    def after(self, due: datetime) -> datetime | None:
        try:
            return due + self._step
        except OverflowError:
            return None

    def latest(self, due: datetime, now: datetime) -> datetime:
        return due + (now - due) // self._step * self._step

    def newest(self, due: datetime, now: datetime, count: int) -> datetime:
        missed = (now - due) // self._step + 1
        return due + max(0, missed - count) * self._step


class _Cron:
    """The instants of a cron expression in a time zone."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self._expression = expression
        self._zone = zone
        self._library = _load()
        if len(expression.split()) != _FIELDS:
            raise InvalidTicket(
                f"cron: {expression[:100]!r} does not have {_FIELDS} fields: minute, hour, day of month, month, day of "
                f"week. For a period in seconds use every="
            )
        try:
            self._iterator(datetime(2000, 1, 1, tzinfo=UTC))
        except Exception as why:  # noqa: BLE001 - the library raises several types, all about the text
            raise InvalidTicket(f"cron: {expression[:100]!r} is not a cron expression: {why}") from None

    def _iterator(self, start: datetime, *, reverse: bool = False) -> Iterator[datetime]:
        found: Iterator[datetime] = self._library.CronSim(self._expression, start.astimezone(self._zone), reverse)
        return found

    def first(self, now: datetime) -> datetime | None:
        return self.after(now)

    def after(self, due: datetime) -> datetime | None:
        # The library counts local time: in a repeated hour it may give an instant that is over already, and after a
        # skipped hour the same instant several times.
        with contextlib.suppress(OverflowError, ValueError):  # the end of all dates
            for local in self._iterator(due):
                found = local.astimezone(UTC)
                if found > due:
                    return found
        return None

    def latest(self, due: datetime, now: datetime) -> datetime:
        # By bisection, since only forward iteration is sure to repeat its instants: measured 0.3 ms.
        low, high = due, now
        while high - low > _SECOND:
            middle = low + (high - low) / 2
            found = self.after(middle)
            if found is None or found > now:
                high = middle
            else:
                low = due = found
        found = self.after(low)
        return due if found is None or found > now else found

    def newest(self, due: datetime, now: datetime, count: int) -> datetime:
        if now - due < count * _MINUTE:  # there is at most one a minute
            return due
        start = now
        for _, local in zip(range(count), self._iterator(now + _SECOND, reverse=True), strict=False):
            start = local.astimezone(UTC)
            if start <= due:
                return due
        # Backward iteration may differ from forward by one or two instants at a clock change.
        found = self.after(start - _SECOND)
        instants = [] if found is None or found <= due else [found]
        while instants and (found := self.after(instants[-1])) is not None and found <= now:
            instants.append(found)
        return instants[-count:][0] if instants else due


def _load() -> Any:
    try:
        return importlib.import_module(_LIBRARY)
    except ImportError:
        raise KharonError(
            f"a cron expression needs {_LIBRARY}, which is not installed (every= does not need it); install the extra: "
            f"pip install 'kharon[cron]'"
        ) from None


# --- firing -----------------------------------------------------------------------------------------------------------


def first_firing(command: SetSchedule, since: datetime) -> datetime:
    """Return the first instant after `since` at which a new schedule fires.

    Raises:
        InvalidTicket: there is none; or as `times_of` raises it.
        KharonError: as `times_of` raises it.

    Cost: that of `times_of` and one instant.
    """
    first = times_of(command.cron, command.every, command.tz).first(since)
    if first is None:
        raise InvalidTicket(
            f"schedule {command.name!r} would never fire: no instant fits {command.cron or command.every!r}"
        )
    return first


def commands(schedule: Schedule, now: datetime) -> list[ScheduleCommand]:
    """Return the commands of one commit for a due schedule. Call it again if the schedule is still due after it.

    Raises:
        KharonError: this machine cannot compute its instants.

    Cost: O(COMMIT_LIMIT) instants; O(MAX_CAUGHT_UP) for a cron expression with more than COMMIT_LIMIT missed ones.
    Measured after a million missed minutes: 32 ms once, then 3 ms for each commit; 0.3 ms for "one" and "none".
    """
    due = schedule.next
    assert due is not None
    name, times = schedule.name, times_of(schedule.cron, schedule.every, schedule.tz)
    if schedule.catch_up == "one":
        latest = times.latest(due, now)
        return [FireSchedule(name, latest, times.after(latest))]
    start: datetime | None = due
    if schedule.catch_up == "none" and due < now - GRACE:
        latest = times.latest(due, now - GRACE)
        start = latest if latest == now - GRACE else times.after(latest)
    fired = _firings(name, times, start, now)
    if schedule.catch_up == "all" and len(fired) == COMMIT_LIMIT:
        start = times.newest(due, now, MAX_CAUGHT_UP)
        fired = _firings(name, times, start, now)
    return fired if start == due else [SkipSchedule(name, start), *fired]


def _firings(name: str, times: Times, due: datetime | None, now: datetime) -> list[ScheduleCommand]:
    found: list[ScheduleCommand] = []
    while due is not None and due <= now and len(found) < COMMIT_LIMIT:
        following = times.after(due)
        found.append(FireSchedule(name, due, following))
        due = following
    return found


class Firing:
    """Finds the schedules that are due, and the instant at which one will be.

    Args:
        schedules: the schedules of the projection.
    """

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules
        # Schedules that cannot fire here, each with the Trio time of its next attempt. A schedule that was set anew is
        # another object, and is tried at once.
        self._stuck: dict[str, tuple[Schedule, float]] = {}

    def due(self, now: datetime, limit: int) -> Iterator[list[ScheduleCommand]]:
        """Yield the commits to make now, one for each due schedule, until they hold `limit` commands or more.

        Cost: that of `commands` for each schedule.
        """
        time, count = trio.current_time(), 0
        for schedule in self._schedules.due(now):
            if count >= limit:
                break
            if self._retry_time(schedule) <= time:
                found = self._commands(schedule, now, time)
                count += len(found)
                if found:
                    yield found

    def _commands(self, schedule: Schedule, now: datetime, time: float) -> list[ScheduleCommand]:
        name = schedule.name
        try:
            found = commands(schedule, now)
        except KharonError as error:
            known = self._retry_time(schedule) > -math.inf
            self._stuck[name] = schedule, time + RETRY_SECONDS
            if not known:
                say(logging.WARNING, "schedule %r is due but cannot fire on this machine: %s", name, error)
            return []
        self._stuck.pop(name, None)
        return found

    def _retry_time(self, schedule: Schedule) -> float:
        """Return the Trio time at which a schedule is tried again; minus infinity: it has not failed here."""
        found, again = self._stuck.get(schedule.name, (None, -math.inf))
        return again if found is schedule else -math.inf

    def coming(self, now: datetime) -> datetime | None:
        """Return the instant at which a schedule will be due, or a due one that failed is tried again; None: never.

        Cost: O(1), and O(1) for each schedule that cannot fire here.
        """
        tried: datetime | None = None
        for instant, name in self._schedules.coming():
            schedule = self._schedules.get(name) if self._stuck else None
            wait = self._retry_time(schedule) - trio.current_time() if schedule is not None else 0.0
            if wait <= 0:
                return instant if tried is None else min(instant, tried)
            again = max(instant, now + timedelta(seconds=wait))
            tried = again if tried is None else min(again, tried)
        return tried
