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
    """The parent of every error of Kharon's own."""


# --- what you did -----------------------------------------------------------------------------------------------------


class InvalidTicket(KharonError, ValueError):
    """A field of a ticket, or of a command about one, has a value that it cannot have. The message names the field."""


class InvalidSettings(KharonError, ValueError):
    """A setting has a value that it cannot have. The message names the setting."""


class InvalidAnchor(KharonError, ValueError):
    """This text is no anchor."""


class TicketNotFound(KharonError, LookupError):
    """No ticket has this id: it was never added, or it has been removed."""


class TicketExists(KharonError):
    """The id is taken, and `add` was told `on_conflict="raise"`."""


class TicketFailedError(KharonError):
    """The ticket that `run_and_wait` waited for has failed, or was cancelled or deleted: the message says which.

    Attributes:
        ticket: the `Ticket` as it was when it ended.
        reason: what was said about it (str); None: nothing was, as when it was deleted.
    """

    def __init__(self, message: str, ticket: Any, reason: str | None) -> None:
        super().__init__(message)
        self.ticket = ticket
        self.reason = reason


class InvalidTransition(KharonError):
    """The command is not for a ticket in this state, as the table in `kharon.model.decide` says."""


class LeaseLost(KharonError):
    """The claim under which this ticket was received has ended: it lapsed, or something else settled the ticket."""


class FinalizerInGroup(KharonError, ValueError):
    """A ticket cannot wait for the group that it is itself a member of."""


class HandlerNotFound(KharonError, LookupError):
    """The router has no handler for this type, and no `not_found` handler either."""


class Closed(KharonError):
    """The queue is closed: its `async with` block ended, it closed itself after a failed write, or this is a fork."""


# --- what the world did -----------------------------------------------------------------------------------------------


class QueueLocked(KharonError):
    """Somebody else has what can be had only once: the directory (another opener), or the workers (another `run`)."""


class CorruptLog(KharonError):
    """The log is not what was written. The message names file, line and byte; nothing was changed.

    Attributes:
        file: the path of the damaged file.
        line: the number of the damaged line in that file, counted from 1; 0 if no line is meant.
        byte: where that line begins in the file, in bytes from 0.
        why: what is wrong there, without the place.
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
    """The log is not the one that was being followed: another one, or the same without a record that was given."""


class UnknownFormat(KharonError):
    """The log is whole, but a later version of Kharon wrote something in it that this one does not know."""


class StorageFull(KharonError):
    """The disk had no room for a commit. Nothing of it was kept; the queue stays open: ask again when there is room."""


class CommitOutcomeUnknown(KharonError):
    """A write or a sync failed: this commit may or may not be found when the queue is opened again."""
