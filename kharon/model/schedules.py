"""Schedules: values that add a ticket again and again, the rules by which they change, and their table.

A schedule adds a ticket at each of its instants. Calendars give the instants, and calendars are not pure: they differ
between machines, and change. So a command says which instant comes next (`commit` asks for the first one). It is
written into the event, and nothing here computes one. Two fields make firing exact:

    next    the instant at which the schedule fires next. It only goes forward, so that no instant fires twice, whatever
            the clock does and however often firing is asked for.
    last    the instant at which it fired last.

A firing and its ticket are one commit (`commit`): after a crash there are both, or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec import Raw
from sortedcontainers import SortedList

from kharon.errors import InvalidTicket, KharonError
from kharon.model.checks import MAX_NAME_BYTES, check_name, from_json
from kharon.model.commands import FireSchedule, RemoveSchedule, ScheduleCommand, SetSchedule, SkipSchedule
from kharon.model.delays import MAX_SECONDS, as_seconds
from kharon.model.events import (
    Event,
    Instant,
    ScheduleEvent,
    ScheduleFired,
    ScheduleRemoved,
    ScheduleSet,
    ScheduleSkipped,
)
from kharon.model.ticket import CHECKS, Draft, Ticket, seal

__all__ = [
    "CATCH_UP",
    "MAX_SCHEDULE_NAME_BYTES",
    "MIN_PERIOD",
    "Schedule",
    "Schedules",
    "check_every",
    "check_schedule_name",
    "decide_schedule",
    "template_of",
]

CATCH_UP: Final = ("one", "all", "none")
"""What may happen to instants that were missed."""
MIN_PERIOD: Final = 1.0
"""The shortest period, in seconds."""
MAX_SCHEDULE_NAME_BYTES: Final = MAX_NAME_BYTES - len("@2026-11-24T13:05:00.000000Z")
"""A schedule's name, in UTF-8. Its tickets' ids are made of it, and are no longer than other ids."""


_LAST: Final = chr(0x10FFFF)
"""Sorts after every name."""


def check_schedule_name(value: object) -> str:
    """Return a schedule's name: 1 to 172 bytes of printable text.

    Raises:
        InvalidTicket: the value is not such a name.
    """
    name = check_name("name", value)
    if len(name.encode()) > MAX_SCHEDULE_NAME_BYTES:
        raise InvalidTicket(
            f"name: {name[:50]!r}… is longer than {MAX_SCHEDULE_NAME_BYTES} bytes of UTF-8: the ids of its tickets are "
            f"made of it, and of an instant"
        )
    return name


def check_every(value: object) -> float:
    """Return a period in seconds.

    Raises:
        InvalidTicket: the value is not a duration, or shorter than `MIN_PERIOD`.
    """
    seconds = as_seconds("every", value)
    if seconds < MIN_PERIOD:
        raise InvalidTicket(f"every: {seconds:g} seconds are less than {MIN_PERIOD:g}, the shortest period")
    return seconds


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A schedule.

    Attributes:
        name: its name.
        type, payload, tube, nice, group: those of the tickets that it adds.
        next: the instant at which it fires next, UTC; None: it does not fire again.
        cron: the cron expression; None: it has a period.
        every: the period in seconds; None: it has a cron expression.
        tz: the name of the time zone of the expression.
        catch_up: what happens to missed instants: "one", "all" or "none".
        last: the instant at which it fired last, UTC; None: it has not yet.
    """

    name: str
    type: str
    payload_json: Raw = msgspec.field(name="payload")
    tube: str
    nice: int
    group: str | None = None
    next: Instant | None = None
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    catch_up: str = "one"
    last: Instant | None = None

    def __repr__(self) -> str:
        # Without payload, as the one of a ticket.
        when = f"every={self.every}" if self.cron is None else f"cron={self.cron!r} tz={self.tz}"
        told = f"tube={self.tube} nice={self.nice} group={self.group} catch_up={self.catch_up}"
        return f"<Schedule {self.name!r} {self.type!r} {when} {told} next={self.next} last={self.last}>"

    @property
    def payload(self) -> Any:
        """The payload of its tickets: a new value at each reading."""
        return from_json(self.payload_json)

    def id_at(self, due: datetime) -> str:
        """Return the id of the ticket that it adds at an instant, as `report@2026-11-24T13:05:00Z`. O(1)."""
        return f"{self.name}@{due.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"

    def ticket_at(self, due: datetime) -> Ticket:
        """Return the ticket that it adds at an instant. O(1)."""
        fields = {name: getattr(self, name) for name in _TEMPLATE} | {"payload_json": bytes(self.payload_json)}
        return seal(Draft(id=self.id_at(due), runat=due, **fields))

    def fault(self, seq: int, at: datetime) -> str | None:  # noqa: ARG002 - the arguments of each `Row`
        """Return why no log folds to this; None: a log may."""
        from_json(self.payload_json)
        return self.flaw()

    def flaw(self) -> str | None:
        """Return which of its values contradict each other or are out of range; None: none do. O(1)."""
        why = None
        if (self.cron is None) == (self.every is None):
            why = "it has either a cron expression or a period"
        elif self.every is not None and not MIN_PERIOD <= self.every <= MAX_SECONDS:
            why = f"a period of {self.every} seconds, which is not between {MIN_PERIOD:g} and {MAX_SECONDS}"
        elif self.catch_up not in CATCH_UP:
            why = f"catch_up {self.catch_up[:50]!r}"
        elif self.next is not None and self.last is not None and self.next <= self.last:
            why = f"it fires next at {self.next}, and fired last at {self.last}"
        return None if why is None else f"schedule {self.name!r}: {why}"


_TEMPLATE: Final = [field.name for field in msgspec.structs.fields(ScheduleSet) if field.encode_name in CHECKS]
"""The fields of a ticket that a schedule holds; they have the same names in `Draft`."""
_COPIED: Final = [name for name in Schedule.__struct_fields__ if name in ScheduleSet.__struct_fields__]


def template_of(ticket: Ticket) -> dict[str, Any]:
    """Return the fields of a ticket that a schedule holds, by their names in `SetSchedule`. O(1)."""
    return {name: getattr(ticket, name) for name in _TEMPLATE} | {"payload_json": Raw(ticket.payload_json)}


# --- the rules --------------------------------------------------------------------------------------------------------

Events: TypeAlias = tuple[ScheduleEvent, ...]


def decide_schedule(schedule: Schedule | None, command: ScheduleCommand) -> Events:
    """Return the events by which a command changes a schedule; none if nothing would change.

    Args:
        schedule: the schedule that the command names; None: there is none.
        command: the request.

    Cost: O(1). Pure.
    """
    if type(command) is SetSchedule:
        return _set(schedule, ScheduleSet(*msgspec.structs.astuple(command)))  # the same fields in the same order
    if schedule is None:
        return ()
    if type(command) is RemoveSchedule:
        return (ScheduleRemoved(schedule.name),)
    # Instants before the next one have fired or were passed over.
    if type(command) is FireSchedule and schedule.next is not None and schedule.next <= command.due:
        assert _is_later(command.next, command.due)
        return (ScheduleFired(schedule.name, command.due, command.next),)
    if type(command) is SkipSchedule and schedule.next is not None and _is_later(command.next, schedule.next):
        return (ScheduleSkipped(schedule.name, command.next),)
    return ()


def _is_later(instant: datetime | None, than: datetime) -> bool:
    return instant is None or instant > than


def _set(old: Schedule | None, event: ScheduleSet) -> Events:
    if old is not None and old.next is not None and _timing(old) == _timing(event):
        event = msgspec.structs.replace(event, next_due=old.next)  # setting it again, at each start, keeps its phase
    return () if old is not None and _evolve(old, event) == old else (event,)


def _timing(schedule: Schedule | ScheduleSet) -> tuple[str | None, float | None, str]:
    return schedule.cron, schedule.every, schedule.tz


def _evolve(schedule: Schedule | None, event: ScheduleEvent) -> Schedule | None:
    """Return the schedule as an event leaves it; None: it is removed."""
    if type(event) is ScheduleSet:
        last = None if schedule is None else schedule.last
        if last is not None and last >= event.next_due:
            last = None  # the clock was set back: this is another schedule
        fields = {name: getattr(event, name) for name in _COPIED}
        fields["payload_json"] = event.payload_json.copy()
        return Schedule(next=event.next_due, last=last, **fields)
    if schedule is None or type(event) is ScheduleRemoved:
        return None
    if type(event) is ScheduleFired:
        return msgspec.structs.replace(schedule, next=event.next_due, last=event.due)
    assert type(event) is ScheduleSkipped
    return msgspec.structs.replace(schedule, next=event.next_due)


# --- the table --------------------------------------------------------------------------------------------------------


class Schedules:
    """All schedules: a `Table`."""

    kind: ClassVar[str] = "schedule"
    value: ClassVar[type[Schedule]] = Schedule
    events: ClassVar[tuple[type[Event], ...]] = (ScheduleSet, ScheduleRemoved, ScheduleFired, ScheduleSkipped)

    def __init__(self) -> None:
        self._schedules: dict[str, Schedule] = {}
        self._coming: SortedList[tuple[datetime, str]] = SortedList()  # those that fire again

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedules):
            return NotImplemented
        return self._schedules == other._schedules

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._schedules)

    def get(self, name: str) -> Schedule | None:
        """Return the schedule of this name, or None. O(1)."""
        return self._schedules.get(name)

    def coming(self) -> Iterable[tuple[datetime, str]]:
        """Yield when each fires next, and its name, soonest first. O(1) for each."""
        return iter(self._coming)

    def due(self, now: datetime) -> list[Schedule]:
        """Return the schedules with an instant that has come by `now`, soonest first. O(log n), and O(1) for each."""
        return [self._schedules[name] for _, name in self._coming.irange(maximum=(now, _LAST))]

    def apply(self, event: ScheduleEvent, seq: int, at: datetime) -> tuple[Schedule | None]:  # noqa: ARG002 - as in `Table`
        """Fold an event; return what `undo` needs: the schedule before it. O(log n).

        Raises:
            KharonError: there is no such schedule, or the event gives it wrong values.
        """
        old = self._schedules.get(event.name)
        if old is None and type(event) is not ScheduleSet:
            raise KharonError(f"record {seq}: {type(event).__name__} of {event.name!r}, which is not scheduled there")
        new = _evolve(old, event)
        if new is not None and (flaw := new.flaw()) is not None:
            raise KharonError(f"record {seq}: {flaw}")
        self._put(event.name, new)
        return (old,)

    def undo(self, event: ScheduleEvent, displaced: object) -> None:
        """Undo the newest event that was applied. O(log n)."""
        assert isinstance(displaced, tuple)
        self._put(event.name, *displaced)

    def _put(self, name: str, new: Schedule | None) -> None:
        old = self._schedules.pop(name, None)
        if old is not None and old.next is not None:
            self._coming.remove((old.next, name))
        if new is not None:
            self._schedules[name] = new
            if new.next is not None:
                self._coming.add((new.next, name))

    def values(self) -> list[Schedule]:
        """Return the schedules, by name. O(n log n)."""
        return [schedule for _, schedule in sorted(self._schedules.items())]

    def load(self, values: Sequence[Schedule]) -> None:
        """Begin with the schedules that `values` returned. O(n log n)."""
        self._schedules = {value.name: value for value in values}
        self._coming = SortedList((value.next, value.name) for value in values if value.next is not None)

    def check(self, seq: int, at: datetime | None) -> None:
        """Raise `AssertionError` if a schedule has wrong values, or is not indexed by its `next`. O(n log n)."""
        for name, schedule in self._schedules.items():
            assert at is not None, f"schedule {name!r} is there before the first record"
            assert schedule.name == name, f"schedule {schedule.name!r} is filed as {name!r}"
            fault = schedule.fault(seq, at)
            assert fault is None, fault
        expected = Schedules()
        expected.load(list(self._schedules.values()))
        assert self._coming == expected._coming, f"{self._coming} is not {expected._coming}"
