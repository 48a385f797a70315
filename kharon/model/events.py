"""The events: facts in the past participle, one class each, as they stand in the log.

An event's class name is its name in the log, and its fields are the rest of its line there. So a field here is a
promise for ever; `versions` says how an event may still be changed, and is to be read before a class here is touched.
Instants are UTC datetimes. What an event does to a ticket is in `evolve`, why it happens in `decide`.

To add an event, write its class here, below its base; `EVENTS` then has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kharon.model.checks import from_json

Instant: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""An instant as it is read. One without a timezone is refused, since it cannot be compared with the others."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """The base of all events. A field that has its default is not written.

    Attributes:
        ends: whether the event ends something, so that less is left to do. A log on a disk without room takes such
            events from its reserve; all others let the queue grow, and are refused there.
        word: the name that people are shown.
    """

    ends: ClassVar[bool] = False
    word: ClassVar[str]


class TicketEvent(Event, frozen=True):
    """A fact about one ticket."""

    id: str


class TicketAdded(TicketEvent, frozen=True):
    """A ticket was added, or added again.

    It comes after the tickets `after` and the group `after_group`. Those of `after` that were pending block it:
    `blocked_by`. `blocked_by_group` says whether the group had pending members, which then block it too.

    If `keeps_place`, it was pending and unclaimed (or was to be after its run), and stays where it is in line: `order`
    and `ctime` stay. If `keeps_attempts`, its attempts go on counting.
    """

    word: ClassVar[str] = "added"

    type: str
    payload_json: Raw = msgspec.field(name="payload")
    tube: str
    nice: int
    runat: Instant
    group: str | None = None
    after: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    after_group: str | None = None
    blocked_by_group: bool = False
    on_failure: str = "run"
    keeps_place: bool = False
    keeps_attempts: bool = False

    @property
    def payload(self) -> Any:
        """The payload as a value; a new one at each reading."""
        return from_json(self.payload_json)


class TicketClaimed(TicketEvent, frozen=True):
    """A worker took the ticket; its lease ends at `lease_until`. `attempt` counts from 1."""

    word: ClassVar[str] = "claimed"

    attempt: int
    lease_until: Instant
    worker: str


class LeaseExtended(TicketEvent, frozen=True):
    """The lease now ends at `lease_until`, later than before."""

    word: ClassVar[str] = "extended"

    lease_until: Instant


class TicketDone(TicketEvent, frozen=True):
    """The ticket was done: kept with its result if `keep`, else removed."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "done"

    keep: bool = False
    # UNSET and not None: msgspec does not decode `Raw | None`.
    result_json: Raw | UnsetType = msgspec.field(default=UNSET, name="result")
    expire_at: Instant | None = None

    @property
    def result(self) -> Any:
        """The result as a value, or None; a new one at each reading."""
        return None if self.result_json is UNSET else from_json(self.result_json)


class TicketFailed(TicketEvent, frozen=True):
    """The ticket failed for good, and is kept."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "failed"

    error_reason: str | None = None
    expire_at: Instant | None = None


class TicketCancelled(TicketEvent, frozen=True):
    """The ticket was cancelled: kept if `keep`, else removed.

    If `dropped`, its successor was cancelled with it. A kept ticket then has the fields of the successor, the newest.
    """

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "cancelled"

    keep: bool = False
    error_reason: str | None = None
    expire_at: Instant | None = None
    dropped: bool = False


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """New values of the fields that a user may change. An absent field stays as it is."""

    nice: int | UnsetType = UNSET
    payload_json: Raw | UnsetType = msgspec.field(default=UNSET, name="payload")
    tube: str | UnsetType = UNSET
    group: str | UnsetType | None = UNSET
    runat: Instant | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """Return the new values by the names of their fields, JSON as `Raw`. O(fields)."""
        return {name: value for name, field in _CHANGEABLE if (value := getattr(self, field)) is not UNSET}


_CHANGEABLE: Final = tuple((field.encode_name, field.name) for field in msgspec.structs.fields(Changes))
"""The name and the attribute of each such field. `given` takes 1 µs; asking msgspec at each call took 60 µs."""


class TicketRetried(TicketEvent, frozen=True):
    """The ticket is pending again, due at `runat`, with the changes that were asked for."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "retried"

    runat: Instant
    error_reason: str | None = None
    changes: Changes | None = None


class TicketReleased(TicketEvent, frozen=True):
    """The claim was given back, with the changes that were asked for. Its attempt is not counted."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "released"

    changes: Changes | None = None


class TicketLapsed(TicketEvent, frozen=True):
    """The lease ended before anything settled the ticket; it is pending again, due at `runat`."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "lapsed"

    runat: Instant
    error_reason: str


class TicketRestarted(TicketEvent, frozen=True):
    """A terminal ticket is pending again as if new, due at `runat`."""

    word: ClassVar[str] = "restarted"

    runat: Instant


class TicketUpdated(TicketEvent, frozen=True):
    """Fields of the ticket were changed; its status was not."""

    word: ClassVar[str] = "updated"

    changes: Changes


class TicketUnblocked(TicketEvent, frozen=True):
    """The ticket `ended` no longer blocks this one; or, with `group`, that group, whose last member `ended` was.

    If `dropped`, the ticket's successor was removed: it was to be cancelled if a ticket that blocked it failed.
    """

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "unblocked"

    ended: str
    group: str | None = None
    dropped: bool = False


class TicketDeleted(TicketEvent, frozen=True):
    """The ticket was removed, whatever its status."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "deleted"


class TicketExpired(TicketEvent, frozen=True):
    """A kept ticket was removed because its `expire_at` had come."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "expired"


class TubeEvent(Event, frozen=True):
    """A fact about a tube."""

    tube: str


class TubePaused(TubeEvent, frozen=True):
    """Nothing is claimed from the tube any more. Running tickets go on."""

    # It ends nothing: on a disk without room nothing is claimed from any tube, so neither a pause nor its end helps.
    word: ClassVar[str] = "TubePaused"


class TubeResumed(TubeEvent, frozen=True):
    """The tube is not paused any more."""

    word: ClassVar[str] = "TubeResumed"


class TubeLimited(TubeEvent, frozen=True):
    """At most `claimed` tickets of the tube are claimed at once from now on; None: any number.

    At most `claims` claims are made in any `period` seconds, by the times of the records; None: any number. Earlier
    claims count only if an earlier period limit tracked them.
    """

    word: ClassVar[str] = "TubeLimited"

    claimed: int | None = None
    claims: int | None = None
    period: float | None = None


class ScheduleEvent(Event, frozen=True):
    """A fact about a schedule."""

    name: str


class ScheduleSet(ScheduleEvent, frozen=True):
    """A ticket with these fields is added at `next_due`, and then again and again.

    The instants are those of the expression `cron` in the time zone `tz`, or `every` so many seconds. Replaces any
    schedule of this name and keeps its last firing.
    """

    word: ClassVar[str] = "ScheduleSet"

    type: str
    payload_json: Raw = msgspec.field(name="payload")
    tube: str
    nice: int
    next_due: Instant
    group: str | None = None
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    catch_up: str = "one"

    @property
    def payload(self) -> Any:
        """The payload as a value; a new one at each reading."""
        return from_json(self.payload_json)


class ScheduleFired(ScheduleEvent, frozen=True):
    """The instant `due` had come; its ticket is added by the same commit. Earlier instants are passed over.

    The next instant is `next_due`; None: there is none.
    """

    word: ClassVar[str] = "ScheduleFired"

    due: Instant
    next_due: Instant | None = None


class ScheduleSkipped(ScheduleEvent, frozen=True):
    """The instants before `next_due` are passed over and add no ticket. None: there is no further instant."""

    word: ClassVar[str] = "ScheduleSkipped"

    next_due: Instant | None = None


class ScheduleRemoved(ScheduleEvent, frozen=True):
    """The schedule was removed. The tickets that it added stay."""

    word: ClassVar[str] = "ScheduleRemoved"


class LogClosed(Event, frozen=True):
    """The log was closed in good order: all earlier records were on disk when this one was written."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "LogClosed"


class TailCut(Event, frozen=True):
    """Recovery cut an unfinished last commit: `length` bytes of `file`, from `byte` on, which are kept as `kept_as`."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "TailCut"

    file: str
    byte: int
    length: int
    kept_as: str


class LogRepaired(Event, frozen=True):
    """The user's repair cut `length` bytes of `file`, from `byte` on, which are kept as `kept_as`.

    `records` of their lines could be read, and are lost from the log; nothing is known of the other bytes. With
    `length` 0 nothing was cut: the seal of `file` was missing, and was written anew.
    """

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "LogRepaired"

    file: str
    byte: int
    length: int
    kept_as: str
    records: int


class SegmentCompressed(Event, frozen=True):
    """The segment `file`, records `first` to `last`, is kept as `kept_as` from here on: the same bytes under zstd.

    `last_hash` is the hash of its last record. `bytes` and `sha256` are the length and digest of the unpacked segment.
    """

    # Compressing, archiving and trimming make room on the disk, so they end something.
    ends: ClassVar[bool] = True
    word: ClassVar[str] = "SegmentCompressed"

    file: str
    first: int
    last: int
    last_hash: str
    kept_as: str
    bytes: int
    sha256: str


class SegmentArchived(Event, frozen=True):
    """The segment `file`, records `first` to `last`, is kept as `kept_as`, in the archive, from here on.

    `last_hash` is the hash of its last record. A relative path is relative to the queue's directory.
    """

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "SegmentArchived"

    file: str
    first: int
    last: int
    last_hash: str
    kept_as: str


class SegmentTrimmed(Event, frozen=True):
    """The segment `file`, records `first` to `last`, is removed. The log now begins after the hash `last_hash`."""

    ends: ClassVar[bool] = True
    word: ClassVar[str] = "SegmentTrimmed"

    file: str
    first: int
    last: int
    last_hash: str


def _leaves(base: type[Event]) -> Iterator[type[Event]]:
    """Yield the events below a base, in the order of their classes."""
    for event in base.__subclasses__():
        if hasattr(event, "word"):
            yield event
        else:
            yield from _leaves(event)


EVENTS: Final[dict[str, type[Event]]] = {event.__name__: event for event in _leaves(Event)}
"""Every event by its name in the log."""


def grows(events: Iterable[Event]) -> bool:
    """Return whether any of these events lets the queue grow. O(events)."""
    return not all(event.ends for event in events)
