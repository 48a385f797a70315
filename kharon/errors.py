"""Every error that Kharon raises on purpose: `KharonError` and its children.

Two families, as in Trio: what *you* did (`InvalidTicket`, `InvalidTransition`, `LeaseLost` …: fix the call) and what
the *world* did (`QueueLocked`, `CorruptLog`, `StorageFull`, `CommitOutcomeUnknown`: look at the machine). Each message
names the thing, the place and the remedy. This module holds no logic.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AnchorMissing",
    "Closed",
    "CommitOutcomeUnknown",
    "CorruptLog",
    "FinalizerInGroup",
    "HandlerNotFound",
    "InvalidAnchor",
    "InvalidSettings",
    "InvalidTicket",
    "InvalidTransition",
    "KharonError",
    "LeaseLost",
    "LogReplaced",
    "QueueLocked",
    "StorageFull",
    "TicketExists",
    "TicketFailedError",
    "TicketNotFound",
    "UnknownFormat",
]


class KharonError(Exception):
    """The base of all errors that Kharon raises."""


# --- what you did -----------------------------------------------------------------------------------------------------


class InvalidTicket(KharonError, ValueError):
    """A field of a ticket, or an argument of a verb, has a wrong value. The message names it.

    Attributes:
        outcome_of: the id (str) of the ticket whose result or error reason cannot be stored; None: it is another value.
            No other attempt could store it, so a handler that lets this through fails its ticket at once.
    """

    outcome_of: str | None = None


class InvalidSettings(KharonError, ValueError):
    """A setting has a wrong value. The message names the setting."""


class InvalidAnchor(KharonError, ValueError):
    """This text is not an anchor."""


class TicketNotFound(KharonError, LookupError):
    """No ticket has this id: it was never added, or it has been removed."""


class TicketExists(KharonError):
    """A ticket has this id already, and `add` was called with `on_conflict="raise"`."""


class TicketFailedError(KharonError):
    """The ticket that `run_and_wait` waited for failed, or was cancelled or deleted. The message says which.

    Attributes:
        ticket: the `Ticket` as it was when it ended.
        reason: its `error_reason` (str); None: there is none, as when it was deleted.
    """

    def __init__(self, message: str, ticket: Any, reason: str | None) -> None:
        super().__init__(message)
        self.ticket = ticket
        self.reason = reason


class InvalidTransition(KharonError):
    """The command is not for a ticket in this state, or the call is not allowed now. The message says why."""


class LeaseLost(KharonError):
    """The claim under which this ticket was received has ended: it lapsed, or something else settled the ticket."""


class FinalizerInGroup(KharonError, ValueError):
    """A group cannot block a ticket that is a member of it."""


class HandlerNotFound(KharonError, LookupError):
    """The router has no handler for this type, and no `not_found` handler either."""


class Closed(KharonError):
    """The queue is closed: its `async with` block ended, it closed itself after a failed write, or this is a fork."""


# --- what the world did -----------------------------------------------------------------------------------------------


class QueueLocked(KharonError):
    """The directory is open already, in this or another process; or the queue is being run by another `run`."""


class CorruptLog(KharonError):
    """The log is damaged: it is not as it was written. The message names file, line and byte; nothing was changed.

    Attributes:
        file: the path of the damaged file.
        line: the number of the damaged line in that file, counted from 1; 0: the file as a whole.
        byte: where that line begins in the file, in bytes from 0.
        why: the fault, without the place.
    """

    def __init__(self, file: str, line: int, byte: int, why: str) -> None:
        super().__init__(f"{file}, line {line} (byte {byte}): {why}")
        self.file = file
        self.line = line
        self.byte = byte
        self.why = why


class AnchorMissing(CorruptLog):
    """The log does not contain the record that an anchor names: it is another log, or was rewritten, cut or trimmed."""


class LogReplaced(KharonError):
    """The log is not the one that was being followed: it is another one, or lacks a record that was delivered."""


class UnknownFormat(KharonError):
    """The log is whole, but holds something that only a later version of Kharon knows."""


class StorageFull(KharonError):
    """The disk had no room for a commit. Nothing of it was kept, and the queue stays open: try again later."""


class CommitOutcomeUnknown(KharonError):
    """A write or a sync failed: this commit may or may not be in the queue when it is opened again."""
