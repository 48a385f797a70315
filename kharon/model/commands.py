"""The commands: requests in the imperative, one class each, and the `Context` in which one is decided.

A command carries a caller's request, checked and in the engine's form (JSON as bytes, durations as seconds). `decide`
says whether it is granted. Commands are never written anywhere.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec
from msgspec import Raw

from kharon.model.delays import BackoffDelay, Delay, FixedDelay
from kharon.model.events import Changes
from kharon.model.ticket import Ticket


class Context(msgspec.Struct, frozen=True):
    """Everything that a decision may know of the world.

    Attributes:
        now: the instant of the decision, UTC.
        jitter: a random number, 0 <= jitter < 1, drawn by the caller.
        lease: the seconds that a claim decided now is granted.
        backoff: the delay of a retry that names none.
        keep_failed: seconds for which a failed ticket is kept if nobody says how long; None: for good.
    """

    now: datetime
    jitter: float = 0.0
    lease: float = 30.0
    backoff: FixedDelay | BackoffDelay = BackoffDelay()
    keep_failed: float | None = None


class Command(msgspec.Struct, frozen=True):
    """A request about the ticket named `id`."""

    id: str


class Add(Command, frozen=True):
    """Add `ticket`, due after `delay` if that is given.

    `on_conflict` ("replace", "refresh", "skip", "raise") says what happens if its id exists.

    The tickets `after` and the group `after_group` block it; `on_failure` ("run", "cancel") says what happens to it if
    one of them fails. `commit`, not the caller, sets `blocked_by` (those of the tickets that are pending) and
    `blocked_by_group` (whether a member of the group is pending).
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
    """A request that ends a claim, or changes one.

    `claim` is the claim that the caller holds; None: the caller is an operator, and is not fenced.
    """

    claim: int | None = None


class Extend(Settle, frozen=True, kw_only=True):
    """Let the lease end `seconds` from now, if that is later."""

    seconds: float


class Done(Settle, frozen=True):
    """The work is done. The ticket is kept for `expire_in` seconds (None: for good) if `keep`, else removed.

    A kept ticket moves to `tube` (None: it stays); so do failed and cancelled ones.
    """

    keep: bool = False
    result: bytes | None = None
    expire_in: float | None = None
    tube: str | None = None


class Fail(Settle, frozen=True):
    """The ticket has failed for good. It is kept for `expire_in` seconds (None: the context's `keep_failed`)."""

    error_reason: str | None = None
    expire_in: float | None = None
    tube: str | None = None


class Cancel(Settle, frozen=True):
    """The ticket is no longer wanted."""

    keep: bool = False
    error_reason: str | None = None
    expire_in: float | None = None
    tube: str | None = None


class Retry(Settle, frozen=True):
    """Try again after `delay` (None: the context's backoff); if `max_attempts` have been made, fail instead."""

    delay: Delay | None = 0.0
    error_reason: str | None = None
    changes: Changes | None = None
    max_attempts: int | None = None


class Release(Settle, frozen=True):
    """Give the claim back; its attempt is not counted."""

    changes: Changes | None = None


class Lapse(Settle, frozen=True, kw_only=True):
    """The lease has ended, or the process that held it has. The store finds such leases."""

    error_reason: str
    backoff: FixedDelay | BackoffDelay
    max_attempts: int | None


class Restart(Command, frozen=True):
    """Run a terminal ticket once more, as if new."""


class Update(Command, frozen=True):
    """Change fields of the ticket."""

    changes: Changes


class Delete(Command, frozen=True):
    """Remove the ticket, whatever its state; a missing ticket is not an error."""


class Expire(Command, frozen=True):
    """Remove a kept ticket whose `expire_at` has come."""


class Unblock(Command, frozen=True):
    """Let the ticket `ended`, or with `group` that group, no longer block the ticket; drop the ticket if `failed`.

    Only `commit` asks for this, in the commit that ends the ticket or the last member of the group.
    """

    ended: str
    group: str | None = None
    failed: bool = False


class ScheduleCommand(msgspec.Struct, frozen=True):
    """A request about the schedule of this name."""

    name: str


class SetSchedule(ScheduleCommand, frozen=True):
    """Set the schedule to these values, which are those of `ScheduleSet`; the same values change nothing.

    `commit`, not the caller, sets `first`: the instant at which it fires first.
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
    """Remove it; a missing schedule is not an error."""


class FireSchedule(ScheduleCommand, frozen=True):
    """The instant `due` has come: add its ticket. The next instant is `next`; None: there is none."""

    due: datetime
    next: datetime | None


class SkipSchedule(ScheduleCommand, frozen=True):
    """Pass over the instants before `next`; None: over all of them."""

    next: datetime | None


class TubeCommand(msgspec.Struct, frozen=True):
    """A request about a tube."""

    tube: str


class Pause(TubeCommand, frozen=True):
    """Let nothing be claimed from the tube until it is resumed."""


class Resume(TubeCommand, frozen=True):
    """Let the tube be claimed from again."""


class Limit(TubeCommand, frozen=True):
    """Let at most `claimed` tickets of the tube be claimed at once, and at most `claims` in any `period` seconds."""

    claimed: int | None = None
    claims: int | None = None
    period: float | None = None


Request: TypeAlias = Command | ScheduleCommand | TubeCommand
"""Any request that can be part of a commit."""
