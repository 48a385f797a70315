"""A durable queue of delayed tickets that lives inside a Trio application, and can prove its own history.

    async with kharon.open("queue") as kh:
        await kh.add(kharon.Ticket("task-1", "email", payload={"to": "ann@example.org"}))
        await kh.run(router)

Everything public is named here. The events are in `kharon.model.events`, tools for tests in `kharon.testing`.
"""

from __future__ import annotations

from kharon.audit import Follower, Report, UnknownEvents, follow, read, replay, verify
from kharon.errors import (
    Closed,
    CommitOutcomeUnknown,
    CorruptLog,
    FinalizerInGroup,
    HandlerNotFound,
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
from kharon.model.ticket import Status, Ticket
from kharon.model.versions import RELEASE
from kharon.runtime.kharon import Kharon, RecordStream
from kharon.runtime.kharon import open_queue as open  # noqa: A004 - kharon.open is the name
from kharon.runtime.router import Router
from kharon.runtime.stats import Counts, Histogram, Stats
from kharon.settings import Settings
from kharon.store.protocol import Clock

__version__ = RELEASE

__all__ = [
    "BackoffDelay",
    "Clock",
    "Closed",
    "CommitOutcomeUnknown",
    "CorruptLog",
    "Counts",
    "Cut",
    "EventLog",
    "FinalizerInGroup",
    "FixedDelay",
    "Follower",
    "HandlerNotFound",
    "Histogram",
    "InvalidSettings",
    "InvalidTicket",
    "InvalidTransition",
    "Kharon",
    "KharonError",
    "LeaseLost",
    "LogReader",
    "LogReplaced",
    "Projection",
    "QueueLocked",
    "Record",
    "RecordStream",
    "Repair",
    "Report",
    "Router",
    "Settings",
    "Stats",
    "Status",
    "StorageFull",
    "Ticket",
    "TicketExists",
    "TicketFailedError",
    "TicketNotFound",
    "UnknownEvents",
    "UnknownFormat",
    "follow",
    "open",
    "read",
    "repair",
    "replay",
    "verify",
]
