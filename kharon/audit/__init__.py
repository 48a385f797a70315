"""Reading a directory's log without opening the queue: without Trio, and without the lock.

For audits, scripts and whoever wants to know what happened. None of it stands in the way of the process that has the
queue open, and nothing is written but, by `history`, the index beside sealed segments, which can be made again.
"""

from kharon.audit.anchors import Anchor
from kharon.audit.diffs import Diff, TicketChange, diff
from kharon.audit.explanations import Explanation, Reason, explain
from kharon.audit.histories import Progress, history
from kharon.audit.reading import Report, UnknownEvents, anchor, read, replay, verify
from kharon.audit.tailing import Follower, follow
from kharon.audit.timelines import Attempt, Life, Outcome, Phase, Span, Step, Timeline, Totals, Who, timeline

__all__ = [
    "Anchor",
    "Attempt",
    "Diff",
    "Explanation",
    "Follower",
    "Life",
    "Outcome",
    "Phase",
    "Progress",
    "Reason",
    "Report",
    "Span",
    "Step",
    "TicketChange",
    "Timeline",
    "Totals",
    "UnknownEvents",
    "Who",
    "anchor",
    "diff",
    "explain",
    "follow",
    "history",
    "read",
    "replay",
    "timeline",
    "verify",
]
