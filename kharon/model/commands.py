"""The commands: requests in the imperative, one class each, and the `Context` in which one is decided.

A command carries what its caller asked for, already checked and in the engine's form (JSON as bytes, durations as
seconds); whether it is granted is for `decide` to say. Commands are never written anywhere.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec
from msgspec import Raw

from kharon.model.delays import BackoffDelay, Delay, FixedDelay
from kharon.model.events import Changes
from kharon.model.ticket import Ticket

__all__ = [
    "Add",
    "Cancel",
    "Claim",
    "Command",
    "Context",
    "Delete",
    "Done",
    "Expire",
    "Extend",
    "Fail",
    "FireSchedule",
    "Lapse",
    "Limit",
    "Pause",
    "Release",
    "RemoveSchedule",
    "Request",
    "Restart",
    "Resume",
    "Retry",
    "ScheduleCommand",
    "SetSchedule",
    "Settle",
    "SkipSchedule",
    "TubeCommand",
    "Unblock",
    "Update",
]


class Context(msgspec.Struct, frozen=True):
    """What a decision may know of the world.

    Attributes:
        now: the instant of the decision, UTC.
        jitter: a random number, 0 <= jitter < 1, drawn by the caller.
        lease: how many seconds a claim decided now is granted.
        backoff: the delay of a retry that names none.
    """

    now: datetime
    jitter: float = 0.0
    lease: float = 30.0
    backoff: FixedDelay | BackoffDelay = BackoffDelay()


class Command(msgspec.Struct, frozen=True):
    """A request about the ticket named `id`."""

    id: str


class Add(Command, frozen=True):
    """Add `ticket`, due after `delay` if that is given; `on_conflict` ("replace", "skip", "raise") if its id exists.

    It is to wait for the tickets `after`, and for the group `after_group`; `on_failure` ("run", "cancel") says what
    becomes of it if one of them fails. `blocked_by` and `blocked_by_group` are not for the caller to say, but for
    `commit`: which of those tickets are pending, and whether any member of the group is.
    """

    ticket: Ticket
    delay: Delay | None = None
    on_conflict: str = "replace"
    after: tuple[str, ...] = ()
    after_group: str | None = None
    on_failure: str = "run"
    blocked_by: tuple[str, ...] = ()
    blocked_by_group: bool = False


class Claim(Command, frozen=True):
    """Take the ticket for the worker of this name."""

    worker: str


class Settle(Command, frozen=True):
    """What ends a claim, or is about one.

    `claim` is the claim that the caller holds; None: the caller is an operator, and is not fenced.
    """

    claim: int | None = None


class Extend(Settle, frozen=True, kw_only=True):
    """Let the lease end `seconds` from now, if that is later."""

    seconds: float


class Done(Settle, frozen=True):
    """The work is done. The ticket is kept for `expire_in` seconds (None: for good) if `keep`, else removed.

    If it is kept it moves to `tube` (None: it stays), as what failed and what was cancelled does.
    """

    keep: bool = False
    result: bytes | None = None
    expire_in: float | None = None
    tube: str | None = None


class Fail(Settle, frozen=True):
    """The ticket has failed for good."""

    error_reason: str | None = None
    expire_in: float | None = None
    tube: str | None = None


class Cancel(Settle, frozen=True):
    """The ticket is not wanted any more."""

    keep: bool = False
    error_reason: str | None = None
    expire_in: float | None = None
    tube: str | None = None


class Retry(Settle, frozen=True):
    """Try again after `delay`, None: after the context's backoff; if `max_attempts` have been made, fail instead."""

    delay: Delay | None = 0.0
    error_reason: str | None = None
    changes: Changes | None = None
    max_attempts: int | None = None


class Release(Settle, frozen=True):
    """Give the claim back, uncounted."""

    changes: Changes | None = None


class Lapse(Settle, frozen=True, kw_only=True):
    """The lease has ended, or the process that held it has. Which leases those are is a query of the store's."""

    error_reason: str
    backoff: FixedDelay | BackoffDelay
    max_attempts: int | None


class Restart(Command, frozen=True):
    """Run a terminal ticket once more, as if new."""


class Update(Command, frozen=True):
    """Change fields of the ticket."""

    changes: Changes


class Delete(Command, frozen=True):
    """Remove the ticket, whatever its state; no ticket is no error."""


class Expire(Command, frozen=True):
    """Remove a kept ticket whose time has come."""


class Unblock(Command, frozen=True):
    """The ticket need not wait any more for the ticket `ended`, or, with `group`, for that group; drop it if `failed`.

    Only `commit` asks for this, as part of the commit that ends what was waited for.
    """

    ended: str
    group: str | None = None
    failed: bool = False


class ScheduleCommand(msgspec.Struct, frozen=True):
    """A request about the schedule of this name."""

    name: str


class SetSchedule(ScheduleCommand, frozen=True):
    """Set the schedule to these values, which are those of `ScheduleSet`; the same values change nothing.

    `first`, the instant at which it fires first, is not for the caller to say, but for `commit`.
    """

    type: str
    payload_json: Raw
    tube: str
    nice: int
    first: datetime | None = None
    group: str | None = None
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    catch_up: str = "one"


class RemoveSchedule(ScheduleCommand, frozen=True):
    """Remove it; no schedule is no error."""


class FireSchedule(ScheduleCommand, frozen=True):
    """The instant `due` has come: add its ticket, and let the next one be `next`, if there is one."""

    due: datetime
    next: datetime | None


class SkipSchedule(ScheduleCommand, frozen=True):
    """Pass over what is due before `next`; None: over all that there is."""

    next: datetime | None


class TubeCommand(msgspec.Struct, frozen=True):
    """A request about a tube."""

    tube: str


class Pause(TubeCommand, frozen=True):
    """Let nothing be claimed from the tube any more."""


class Resume(TubeCommand, frozen=True):
    """Let the tube be claimed from again."""


class Limit(TubeCommand, frozen=True):
    """Let at most `claimed` tickets of the tube be claimed at once, and at most `claims` in any `period` seconds."""

    claimed: int | None = None
    claims: int | None = None
    period: float | None = None


Request: TypeAlias = Command | ScheduleCommand | TubeCommand
"""Anything that can be asked for as part of a commit."""
