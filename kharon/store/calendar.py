"""When schedules fire: which instant follows which, and what is done about instants that were missed.

`times_of` gives the instants of a cron expression or of a period. This is the only place that knows of calendars. The
cron library (an extra, `kharon[cron]`, loaded when the first expression needs it) and the time zones' rules differ
between machines and years, so a replay asks nothing here: what was found is written into the events.

Expressions are those of Debian's cron, five fields, and so is what happens when clocks are put forward or back: where
neither minute nor hour begins with `*`, a time that is skipped comes right after the gap, and one that comes twice
counts the first time. Any other expression is matched against each minute that there really is. A period is elapsed
time, and knows of no clock that is put.

`commands` applies a schedule's `catch_up` to its instants, and makes of them the commands of one commit. An instant is
missed if it came while nobody looked: the queue was closed, or not being run, the machine slept, the disk was full, the
clock was put forward.

    "one"   one ticket, for the latest instant
    "all"   a ticket for each, oldest first, but for the newest `MAX_CAUGHT_UP` at the most; `COMMIT_LIMIT` a commit
    "none"  a ticket for each that is not older than `GRACE`: that much later is still on time

`Firing` remembers which schedules cannot fire on this machine, for want of the cron library or of their time zone: they
are tried again from time to time, and hold nothing else up.
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
from kharon.model.commands import FireSchedule, ScheduleCommand, SetSchedule, SkipSchedule
from kharon.model.schedules import Schedule, Schedules

__all__ = ["COMMIT_LIMIT", "GRACE", "MAX_CAUGHT_UP", "RETRY_SECONDS", "Firing", "commands", "first_firing", "times_of"]

_logger = logging.getLogger("kharon")

GRACE: Final = timedelta(seconds=60)
"""How late an instant of a schedule that catches up "none" may be."""
MAX_CAUGHT_UP: Final = 1000
"""How many missed instants of a schedule that catches up "all" become tickets, at the most."""
COMMIT_LIMIT: Final = 100
"""Instants of one commit."""
RETRY_SECONDS: Final = 15.0
"""Until a schedule that cannot fire here is tried again."""
_LIBRARY: Final = "cronsim"
_FIELDS: Final = 5
_SECOND: Final = timedelta(seconds=1)
_MINUTE: Final = timedelta(minutes=1)


class Times(Protocol):
    """The instants at which a schedule fires: UTC, ascending, each at most once.

    `due` is always one of them.
    """

    def first(self, now: datetime) -> datetime | None:
        """Return the first one for a schedule that begins now; None: there is none."""

    def after(self, due: datetime) -> datetime | None:
        """Return the next one after `due`; None: there is none."""

    def latest(self, due: datetime, now: datetime) -> datetime:
        """Return the latest one that is not after `now`; `due` is not."""

    def newest(self, due: datetime, now: datetime, count: int) -> datetime:
        """Return the earliest of the newest `count` of those from `due` to `now`."""


def times_of(cron: str | None, every: float | None, tz: str) -> Times:
    """Return the times of a cron expression in a time zone, or of a period in seconds.

    Raises:
        InvalidTicket: the expression is none, or there is no such zone; or it is not known on this machine.
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
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: some names are those of directories
        raise InvalidTicket(
            f'tz: there is no time zone {name[:50]!r} here; give a name like "Europe/Berlin", and if that is one, '
            f"install the system's time zones, or the package tzdata"
        ) from None


class _Period:
    """Every so many seconds."""

    def __init__(self, step: timedelta) -> None:
        self._step = step

    def first(self, now: datetime) -> datetime | None:
        whole = now.replace(microsecond=0)
        return self.after(whole if whole == now else whole + _SECOND)  # a full second makes a short id

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
    """A cron expression in a time zone."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self._expression = expression
        self._zone = zone
        self._library = _load()
        if len(expression.split()) != _FIELDS:
            raise InvalidTicket(
                f"cron: {expression[:100]!r} has not {_FIELDS} fields: minute, hour, day of month, month, day of week. "
                f"For seconds there is every="
            )
        try:
            self._iterator(datetime(2000, 1, 1, tzinfo=UTC))
        except Exception as why:  # noqa: BLE001 - not all that it raises is its own error, but all is about the text
            raise InvalidTicket(f"cron: {expression[:100]!r} is no cron expression: {why}") from None

    def _iterator(self, start: datetime, *, reverse: bool = False) -> Iterator[datetime]:
        found: Iterator[datetime] = self._library.CronSim(self._expression, start.astimezone(self._zone), reverse)
        return found

    def first(self, now: datetime) -> datetime | None:
        return self.after(now)

    def after(self, due: datetime) -> datetime | None:
        # The library counts by the clock on the wall: in an hour that comes twice it may give what is over already,
        # and behind one that does not come several times the same.
        with contextlib.suppress(OverflowError, ValueError):  # the end of all dates
            for local in self._iterator(due):
                found = local.astimezone(UTC)
                if found > due:
                    return found
        return None

    def latest(self, due: datetime, now: datetime) -> datetime:
        # By halving, since only the way forwards is sure to give the same instants as it gave before: measured 0.3 ms.
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
        if now - due < count * _MINUTE:  # there are no more than one a minute
            return due
        start = now
        for _, local in zip(range(count), self._iterator(now + _SECOND, reverse=True), strict=False):
            start = local.astimezone(UTC)
            if start <= due:
                return due
        # Backwards the library may differ by one or two from forwards, where clocks are put.
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
            f"a cron expression needs {_LIBRARY}, which is not installed (every= does without); install the extra: "
            f"pip install 'kharon[cron]'"
        ) from None


# --- firing -----------------------------------------------------------------------------------------------------------


def first_firing(command: SetSchedule, since: datetime) -> datetime:
    """Return the first instant after `since` at which a schedule that is being set fires.

    Raises:
        InvalidTicket: there is none; or as `times_of`.
        KharonError: as `times_of`.

    Cost: that of `times_of`, and one instant.
    """
    first = times_of(command.cron, command.every, command.tz).first(since)
    if first is None:
        raise InvalidTicket(
            f"schedule {command.name!r} would never fire: no instant fits {command.cron or command.every!r}"
        )
    return first


def commands(schedule: Schedule, now: datetime) -> list[ScheduleCommand]:
    """Return what to do about a schedule that is due, as one commit. If it is due still after that, ask again.

    Raises:
        KharonError: its instants cannot be known here.

    Cost: O(COMMIT_LIMIT) instants; O(MAX_CAUGHT_UP) of a cron expression where more than COMMIT_LIMIT were missed.
    Measured after a million missed minutes: 32 ms, once, and 3 ms for each commit after that; 0.3 ms for "one", "none".
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
    fired = _fired(name, times, start, now)
    if schedule.catch_up == "all" and len(fired) == COMMIT_LIMIT:
        start = times.newest(due, now, MAX_CAUGHT_UP)
        fired = _fired(name, times, start, now)
    return fired if start == due else [SkipSchedule(name, start), *fired]


def _fired(name: str, times: Times, due: datetime | None, now: datetime) -> list[ScheduleCommand]:
    found: list[ScheduleCommand] = []
    while due is not None and due <= now and len(found) < COMMIT_LIMIT:
        following = times.after(due)
        found.append(FireSchedule(name, due, following))
        due = following
    return found


class Firing:
    """Which schedules are due, and when one will be.

    Args:
        schedules: what is scheduled.
    """

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules
        # What cannot fire here, as it was found, and when, by Trio's clock, it is tried again. One that is set anew is
        # another, of which nothing is known.
        self._stuck: dict[str, tuple[Schedule, float]] = {}

    def due(self, now: datetime, limit: int) -> Iterator[list[ScheduleCommand]]:
        """Give the commits to make now, one for each schedule that is due, until they fire `limit` times or more.

        Cost: that of `commands`, for each.
        """
        time, count = trio.current_time(), 0
        for schedule in self._schedules.due(now):
            if count >= limit:
                break
            if self._tried_at(schedule) <= time:
                found = self._commands(schedule, now, time)
                count += len(found)
                if found:
                    yield found

    def _commands(self, schedule: Schedule, now: datetime, time: float) -> list[ScheduleCommand]:
        name = schedule.name
        try:
            found = commands(schedule, now)
        except KharonError as error:
            known = self._tried_at(schedule) > -math.inf
            self._stuck[name] = schedule, time + RETRY_SECONDS
            if not known:
                _logger.warning("schedule %r is due, and cannot fire on this machine: %s", name, error)
            return []
        self._stuck.pop(name, None)
        return found

    def _tried_at(self, schedule: Schedule) -> float:
        """Return when a schedule is tried again, by Trio's clock; minus infinity: nothing is known against it."""
        found, again = self._stuck.get(schedule.name, (None, -math.inf))
        return again if found is schedule else -math.inf

    def coming(self, now: datetime) -> datetime | None:
        """Return when a schedule will be due, or be tried again, if it is due and cannot fire here; None: never.

        Cost: O(1), and O(1) for each schedule that cannot fire here.
        """
        tried: datetime | None = None
        for instant, name in self._schedules.coming():
            schedule = self._schedules.get(name) if self._stuck else None
            wait = self._tried_at(schedule) - trio.current_time() if schedule is not None else 0.0
            if wait <= 0:
                return instant if tried is None else min(instant, tried)
            again = max(instant, now + timedelta(seconds=wait))
            tried = again if tried is None else min(again, tried)
        return tried
