"""Reading a directory's log without opening it: `read`, `replay`, `verify`, `follow`. Without Trio, without the lock.

For audits, scripts and whoever wants to know what happened. Nothing in here writes, and none of it stands in the way of
the process that has the queue open.
"""

from kharon.audit.reading import Report, UnknownEvents, read, replay, verify
from kharon.audit.tailing import Follower, follow

__all__ = ["Follower", "Report", "UnknownEvents", "follow", "read", "replay", "verify"]
