"""Bugs in schedules: instants that fire twice, or half, or not at all, and calendars whose clocks are never put."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    ATOMIC,
    CALENDAR,
    COMMIT,
    LOCAL_STORE,
    SCHEDULES,
    TEST_CALENDAR,
    TEST_CALENDAR_FIRING,
    TEST_SCHEDULE,
    TEST_SCHEDULES,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    Mutant(
        name="instant-fires-twice",
        thought="Whoever says that an instant has come has looked.",
        file=SCHEDULES,
        before="type(command) is FireSchedule and schedule.next is not None and schedule.next <= command.due:",
        after="type(command) is FireSchedule:",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="scheduling-again-begins-anew",
        thought="What is scheduled begins now.",
        file=SCHEDULES,
        before="        event = msgspec.structs.replace(event, next_due=old.next)",
        after="        event = msgspec.structs.replace(event)",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="taken-back-firing-stays-fired",
        thought="A schedule that could not be written is no schedule.",
        file=SCHEDULES,
        before="        self._put(event.name, *displaced)\n",
        after="        self._put(event.name, None)\n",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="firing-replaces-a-ticket",
        thought="The newest ticket wins.",
        file=COMMIT,
        before='self._run(c.Add(ticket.id, ticket, on_conflict="skip"))',
        after="self._run(c.Add(ticket.id, ticket))",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="snapshot-without-phase",
        thought="When a schedule fires next can be computed again.",
        file=SCHEDULES,
        before="        self._schedules = {value.name: value for value in values}\n",
        after="        self._schedules = {value.name: msgspec.structs.replace(value, last=None) for value in values}\n",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="million-missed-are-all-tickets",
        thought="All means all.",
        file=CALENDAR,
        before="        start = times.newest(due, now, MAX_CAUGHT_UP)\n",
        after="        start = due\n",
        tests=(TEST_CALENDAR_FIRING,),
    ),
    Mutant(
        name="grace-without-end",
        thought="What was missed by a minute is not missed.",
        file=CALENDAR,
        before='    if schedule.catch_up == "none" and due < now - GRACE:\n',
        after='    if schedule.catch_up == "none" and due > now:\n',
        tests=(TEST_CALENDAR_FIRING,),
    ),
    Mutant(
        name="what-cannot-fire-is-tried-all-the-time",
        thought="What is due is tried at each look at the clock.",
        file=CALENDAR,
        before="            self._stuck[name] = schedule, time + RETRY_SECONDS\n",
        after="            self._stuck[name] = schedule, time\n",
        tests=(TEST_CALENDAR_FIRING,),
    ),
    Mutant(
        name="doubled-hour-goes-back",
        thought="What a calendar gives next is later.",
        file=CALENDAR,
        before="                if found > due:\n                    return found\n",
        after="                return found\n",
        tests=(TEST_CALENDAR,),
    ),
    Mutant(
        name="cron-in-utc",
        thought="Inside of the queue all instants are UTC.",
        file=CALENDAR,
        before="start.astimezone(self._zone), reverse)",
        after="start.astimezone(UTC), reverse)",
        tests=(TEST_CALENDAR,),
    ),
    Mutant(
        name="next-firing-wakes-nobody",
        thought="Workers wait for tickets.",
        file=LOCAL_STORE,
        before="        return coming if firing is None else firing if coming is None else min(coming, firing)\n",
        after="        return coming\n",
        tests=(TEST_SCHEDULE,),
    ),
    Mutant(
        name="full-disk-is-asked-all-the-time",
        thought="What is due is done as soon as it can be.",
        file=LOCAL_STORE,
        before="        return max(instant, now + timedelta(seconds=TRY_SECONDS))\n",
        after="        return instant\n",
        tests=(f"{TEST_SCHEDULE}::test_a_tick_without_room_waits_for_the_next_try",),
    ),
    Mutant(
        name="step-back-fires-again-by-other-times",
        thought="A schedule with other times is another schedule.",
        file=COMMIT,
        before="        since = now if schedule is None or schedule.last is None else max(now, schedule.last)\n",
        after="        since = now\n",
        tests=(TEST_SCHEDULE,),
    ),
    Mutant(
        name="block-fires-again-what-fired-meanwhile",
        thought="When a schedule fires first is known when it is asked for.",
        file=ATOMIC,
        before="        self._commands += commands\n",
        after="        for command in commands:\n"
        "            if isinstance(command, c.SetSchedule):\n"
        "                from kharon.store import calendar\n\n"
        "                first = calendar.first_firing(command, self._store._clock.now())\n"
        "                command = c.msgspec.structs.replace(command, first=first)\n"
        "            self._commands.append(command)\n",
        tests=(TEST_SCHEDULE,),
    ),
    Mutant(
        name="schedule-that-begins-when-it-last-fired",
        thought="Only one that begins before it last fired is another one.",
        file=SCHEDULES,
        before="        if last is not None and last >= event.next_due:\n",
        after="        if last is not None and last > event.next_due:\n",
        tests=(TEST_SCHEDULES,),
    ),
)
