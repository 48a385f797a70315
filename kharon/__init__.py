"""A durable queue of delayed tickets inside a Trio application, which can prove its own history.

    async with kharon.open("queue") as kh:
        await kh.add(kharon.Ticket("task-1", "email", payload={"to": "ann@example.org"}))
        await kh.run(router)

All public names are here, except the events (`kharon.model.events`) and the tools for tests (`kharon.testing`). The
first use of one of them imports them all (`kharon._face`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kharon._face import *  # noqa: F403 - each name is in `__all__`

__version__ = "0.1.0"

__all__ = [  # noqa: F405 - see above
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


if not TYPE_CHECKING:  # which would take any name for one of this module's

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        face = import_module("kharon._face")  # not `from kharon import …`, which asks for the attribute first
        globals().update({public: getattr(face, public) for public in __all__})
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
