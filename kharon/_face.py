"""Imports all public names, for `kharon` to show.

`kharon/__init__.py` imports this module only when one of the names is used, so that the command's help need not wait
for Trio. A new public name is imported here, and listed in both modules.
"""

from __future__ import annotations

from kharon.audit.anchor import Anchor, anchor
from kharon.audit.diff import Diff, TicketChange, diff
from kharon.audit.explain import Explanation, Reason, explain
from kharon.audit.follow import Follower, follow
from kharon.audit.history import history
from kharon.audit.read import read
from kharon.audit.replay import replay
from kharon.audit.timeline import Attempt, Life, Outcome, Phase, Span, Step, Timeline, Totals, Who, timeline
from kharon.audit.verify import Report, UnknownEvents, verify
from kharon.errors import (
    AnchorMissing,
    Closed,
    CommitOutcomeUnknown,
    CorruptLog,
    FinalizerInGroup,
    HandlerNotFound,
    InvalidAnchor,
    InvalidSettings,
    InvalidTicket,
    InvalidTransition,
    KharonError,
    LeaseLost,
    LogReplaced,
    QueueLocked,
    StorageFull,
    TicketExists,
    TicketFailedError,
    TicketNotFound,
    UnknownFormat,
)
from kharon.log.protocol import EventLog, LogReader
from kharon.log.record import Record
from kharon.log.repair import Cut, Repair, repair
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.projection import Projection
from kharon.model.schedules import Schedule
from kharon.model.ticket import Status, Ticket
from kharon.model.tubes import Limit, Tube
from kharon.runtime.atomic import Atomic
from kharon.runtime.kharon import Kharon
from kharon.runtime.opening import open_queue as open  # noqa: A004 - kharon.open is the name
from kharon.runtime.router import Router
from kharon.runtime.stats import Counts, Histogram, Stats
from kharon.runtime.streams import RecordStream
from kharon.runtime.waits import Group
from kharon.settings import Settings
from kharon.store.protocol import Clock

__all__ = [
    "Anchor",
    "AnchorMissing",
    "Atomic",
    "Attempt",
    "BackoffDelay",
    "Clock",
    "Closed",
    "CommitOutcomeUnknown",
    "CorruptLog",
    "Counts",
    "Cut",
    "Diff",
    "EventLog",
    "Explanation",
    "FinalizerInGroup",
    "FixedDelay",
    "Follower",
    "Group",
    "HandlerNotFound",
    "Histogram",
    "InvalidAnchor",
    "InvalidSettings",
    "InvalidTicket",
    "InvalidTransition",
    "Kharon",
    "KharonError",
    "LeaseLost",
    "Life",
    "Limit",
    "LogReader",
    "LogReplaced",
    "Outcome",
    "Phase",
    "Projection",
    "QueueLocked",
    "Reason",
    "Record",
    "RecordStream",
    "Repair",
    "Report",
    "Router",
    "Schedule",
    "Settings",
    "Span",
    "Stats",
    "Status",
    "Step",
    "StorageFull",
    "Ticket",
    "TicketChange",
    "TicketExists",
    "TicketFailedError",
    "TicketNotFound",
    "Timeline",
    "Totals",
    "Tube",
    "UnknownEvents",
    "UnknownFormat",
    "Who",
    "anchor",
    "diff",
    "explain",
    "follow",
    "history",
    "open",
    "read",
    "repair",
    "replay",
    "timeline",
    "verify",
]
