"""The events: facts in the past participle, one class each, as they stand in the log.

An event's class name is its name in the log, and its fields are the rest of its line there, so a field here is a
promise for ever. How one may be changed all the same is in `versions`: read that before you touch a class here.
Instants are UTC datetimes. `EVENTS` lists all there are. What an event does to a ticket is in `evolve`, why it happens
in `decide`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kharon.model.checks import from_json

__all__ = [
    "EVENTS",
    "Changes",
    "Event",
    "Instant",
    "LeaseExtended",
    "LogClosed",
    "LogRepaired",
    "ScheduleEvent",
    "ScheduleFired",
    "ScheduleRemoved",
    "ScheduleSet",
    "ScheduleSkipped",
    "SegmentArchived",
    "SegmentCompressed",
    "SegmentTrimmed",
    "TailCut",
    "TicketAdded",
    "TicketCancelled",
    "TicketClaimed",
    "TicketDeleted",
    "TicketDone",
    "TicketEvent",
    "TicketExpired",
    "TicketFailed",
    "TicketLapsed",
    "TicketReleased",
    "TicketRestarted",
    "TicketRetried",
    "TicketUnblocked",
    "TicketUpdated",
    "TubeEvent",
    "TubeLimited",
    "TubePaused",
    "TubeResumed",
]


Instant: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""An instant as it is read: one without a timezone is refused, since it cannot be compared with the others."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all events are. Defaults mean "absent" and are not written."""


class TicketEvent(Event, frozen=True):
    """A fact about one ticket."""

    id: str


class TicketAdded(TicketEvent, frozen=True):
    """A ticket was added, or added again.

    It was told to wait for the tickets `after`, of which those in `blocked_by` were pending, and for the group
    `after_group`, which had pending members if `blocked_by_group`.
    """

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

    @property
    def payload(self) -> Any:
        """The payload as a value; a new one at each reading."""
        return from_json(self.payload_json)


class TicketClaimed(TicketEvent, frozen=True):
    """A worker took the ticket; its lease ends at `lease_until`. `attempt` counts from 1."""

    attempt: int
    lease_until: Instant
    worker: str


class LeaseExtended(TicketEvent, frozen=True):
    """The lease ends later than it would have."""

    lease_until: Instant


class TicketDone(TicketEvent, frozen=True):
    """The ticket was done: kept with its result if `keep`, else removed."""

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

    error_reason: str | None = None
    expire_at: Instant | None = None


class TicketCancelled(TicketEvent, frozen=True):
    """The ticket was cancelled: kept if `keep`, else removed."""

    keep: bool = False
    error_reason: str | None = None
    expire_at: Instant | None = None


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """New values of a ticket's own fields; a field that is absent stays as it is."""

    nice: int | UnsetType = UNSET
    payload_json: Raw | UnsetType = msgspec.field(default=UNSET, name="payload")
    tube: str | UnsetType = UNSET
    group: str | UnsetType | None = UNSET
    runat: Instant | UnsetType = UNSET


class TicketRetried(TicketEvent, frozen=True):
    """The ticket is pending again, due at `runat`, with the changes that were asked for."""

    runat: Instant
    error_reason: str | None = None
    changes: Changes | None = None


class TicketReleased(TicketEvent, frozen=True):
    """The claim was given back, with the changes that were asked for; its attempt is not counted."""

    changes: Changes | None = None


class TicketLapsed(TicketEvent, frozen=True):
    """The lease ended before anything settled the ticket; it is pending again, due at `runat`."""

    runat: Instant
    error_reason: str


class TicketRestarted(TicketEvent, frozen=True):
    """A terminal ticket is pending again as if new, due at `runat`."""

    runat: Instant


class TicketUpdated(TicketEvent, frozen=True):
    """Fields of the ticket were changed; its status was not."""

    changes: Changes


class TicketUnblocked(TicketEvent, frozen=True):
    """The ticket waits no more for the ticket `ended`; with `group`, for that group, in which that one was the last.

    If `dropped`, what waited was a successor that was not to run if one that it waited for failed, and is no more.
    """

    ended: str
    group: str | None = None
    dropped: bool = False


class TicketDeleted(TicketEvent, frozen=True):
    """The ticket was removed, whatever its status."""


class TicketExpired(TicketEvent, frozen=True):
    """A kept ticket was removed because its `expire_at` had come."""


class TubeEvent(Event, frozen=True):
    """A fact about a tube."""

    tube: str


class TubePaused(TubeEvent, frozen=True):
    """Nothing is claimed from the tube any more; what runs goes on."""


class TubeResumed(TubeEvent, frozen=True):
    """The tube is not paused any more."""


class TubeLimited(TubeEvent, frozen=True):
    """From here on at most `claimed` tickets of the tube are claimed at once, and at most `claims` claims are made in
    any `period` seconds, by the times of the records. Without them: any number.

    Of a limit per period the claims made before it do not count, unless there was one then: those which that one had to
    know of still do.
    """

    claimed: int | None = None
    claims: int | None = None
    period: float | None = None


class ScheduleEvent(Event, frozen=True):
    """A fact about a schedule."""

    name: str


class ScheduleSet(ScheduleEvent, frozen=True):
    """From now on a ticket with these fields is to be added at `next_due`, and then again and again: by the expression
    `cron` in the time zone `tz`, or `every` so many seconds. What a schedule of this name was before, it is no more,
    but for when it fired last.
    """

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
    """The instant `due` had come, and its ticket is added by the same commit; what is before `due` is passed over.

    The next one is `next_due`; None: there is none.
    """

    due: Instant
    next_due: Instant | None = None


class ScheduleSkipped(ScheduleEvent, frozen=True):
    """What was due before `next_due` is passed over, and adds no ticket. None: there is nothing behind it."""

    next_due: Instant | None = None


class ScheduleRemoved(ScheduleEvent, frozen=True):
    """There is no such schedule any more; the tickets that it added are what they are."""


class LogClosed(Event, frozen=True):
    """The log was closed in good order: everything before this record was on disk when it was written."""


class TailCut(Event, frozen=True):
    """Recovery cut an unfinished last commit: `length` bytes from `byte` on in `file`, kept aside as `kept_as`."""

    file: str
    byte: int
    length: int
    kept_as: str


class LogRepaired(Event, frozen=True):
    """The user's repair cut `length` bytes from `byte` on in `file`, kept aside as `kept_as`.

    `records` of the lines in them could be read, and are lost from the log; what else they were cannot be known. With
    `length` 0 nothing was cut: the seal of `file` was missing, and was written anew.
    """

    file: str
    byte: int
    length: int
    kept_as: str
    records: int


class SegmentCompressed(Event, frozen=True):
    """The segment `file`, records `first` to `last`, is kept as `kept_as` from here on: the same bytes under zstd.

    `last_hash` is the hash of its last record; `bytes` and `sha256` are of the segment as it was, and is when unpacked.
    """

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

    file: str
    first: int
    last: int
    last_hash: str
    kept_as: str


class SegmentTrimmed(Event, frozen=True):
    """The segment `file`, records `first` to `last`, is removed. `last_hash` is the hash that the log begins behind."""

    file: str
    first: int
    last: int
    last_hash: str


EVENTS: Final[dict[str, type[Event]]] = {
    event.__name__: event
    for event in (
        TicketAdded,
        TicketClaimed,
        LeaseExtended,
        TicketDone,
        TicketFailed,
        TicketCancelled,
        TicketRetried,
        TicketReleased,
        TicketLapsed,
        TicketRestarted,
        TicketUpdated,
        TicketUnblocked,
        TicketDeleted,
        TicketExpired,
        TubePaused,
        TubeResumed,
        TubeLimited,
        ScheduleSet,
        ScheduleFired,
        ScheduleSkipped,
        ScheduleRemoved,
        LogClosed,
        TailCut,
        LogRepaired,
        SegmentCompressed,
        SegmentArchived,
        SegmentTrimmed,
    )
}
"""Every event by its name in the log."""
