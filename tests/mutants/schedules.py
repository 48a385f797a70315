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
        function="decide_schedule",
        before="type(command) is FireSchedule and schedule.next is not None and schedule.next <= command.due:",
        after="type(command) is FireSchedule:",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="scheduling-again-begins-anew",
        thought="What is scheduled begins now.",
        file=SCHEDULES,
        function="_set",
        before="        event = msgspec.structs.replace(event, next_due=old.next)",
        after="        event = msgspec.structs.replace(event)",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="taken-back-firing-stays-fired",
        thought="A schedule that could not be written is no schedule.",
        file=SCHEDULES,
        function="Schedules.undo",
        before="self._put(event.name, *displaced)",
        after="self._put(event.name, None)",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="firing-replaces-a-ticket",
        thought="The newest ticket wins.",
        file=COMMIT,
        function="Commit._run_schedule",
        before='self._run(c.Add(ticket.id, ticket, on_conflict="skip"))',
        after="self._run(c.Add(ticket.id, ticket))",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="snapshot-without-phase",
        thought="When a schedule fires next can be computed again.",
        file=SCHEDULES,
        function="Schedules.load",
        before="self._schedules = {value.name: value for value in values}",
        after="self._schedules = {value.name: msgspec.structs.replace(value, last=None) for value in values}",
        tests=(TEST_SCHEDULES,),
    ),
    Mutant(
        name="million-missed-are-all-tickets",
        thought="All means all.",
        file=CALENDAR,
        function="commands",
        before="start = times.newest(due, now, MAX_CAUGHT_UP)",
        after="start = due",
        tests=(TEST_CALENDAR_FIRING,),
    ),
    Mutant(
        name="grace-without-end",
        thought="What was missed by a minute is not missed.",
        file=CALENDAR,
        function="commands",
        before='if schedule.catch_up == "none" and due < now - GRACE:',
        after='if schedule.catch_up == "none" and due > now:',
        tests=(TEST_CALENDAR_FIRING,),
    ),
    Mutant(
        name="what-cannot-fire-is-tried-all-the-time",
        thought="What is due is tried at each look at the clock.",
        file=CALENDAR,
        function="Firing._commands",
        before="self._stuck[name] = schedule, time + RETRY_SECONDS",
        after="self._stuck[name] = schedule, time",
        tests=(TEST_CALENDAR_FIRING,),
    ),
    Mutant(
        name="doubled-hour-goes-back",
        thought="What a calendar gives next is later.",
        file=CALENDAR,
        function="_Cron.after",
        before="                if found > due:\n                    return found\n",
        after="                return found\n",
        tests=(TEST_CALENDAR,),
    ),
    Mutant(
        name="cron-in-utc",
        thought="Inside of the queue all instants are UTC.",
        file=CALENDAR,
        function="_Cron._iterator",
        before="start.astimezone(self._zone), reverse)",
        after="start.astimezone(UTC), reverse)",
        tests=(TEST_CALENDAR,),
    ),
    Mutant(
        name="next-firing-wakes-nobody",
        thought="Workers wait for tickets.",
        file=LOCAL_STORE,
        function="LocalStore._next_instant",
        before="return coming if firing is None else firing if coming is None else min(coming, firing)",
        after="return coming",
        tests=(TEST_SCHEDULE,),
    ),
    Mutant(
        name="full-disk-is-asked-all-the-time",
        thought="What is due is done as soon as it can be.",
        file=LOCAL_STORE,
        function="LocalStore._firing_at",
        before="return max(instant, now + timedelta(seconds=TRY_SECONDS))",
        after="return instant",
        tests=(f"{TEST_SCHEDULE}::test_a_tick_without_room_waits_for_the_next_try",),
    ),
    Mutant(
        name="step-back-fires-again-by-other-times",
        thought="A schedule with other times is another schedule.",
        file=COMMIT,
        function="Commit._timed",
        before="since = now if schedule is None or schedule.last is None else max(now, schedule.last)",
        after="since = now",
        tests=(TEST_SCHEDULE,),
    ),
    Mutant(
        name="block-fires-again-what-fired-meanwhile",
        thought="When a schedule fires first is known when it is asked for.",
        file=ATOMIC,
        function="Atomic._take",
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
        function="_evolve",
        before="if last is not None and last >= event.next_due:",
        after="if last is not None and last > event.next_due:",
        tests=(TEST_SCHEDULES,),
    ),
)
