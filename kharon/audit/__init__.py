"""Reading a directory's log without opening the queue: `read`, `replay`, `verify`. Without Trio, and without the lock.

For audits, scripts and whoever wants to know what happened. Nothing in here writes, and none of it stands in the way of
the process that has the queue open.
"""

from kharon.audit.reading import Report, UnknownEvents, read, replay, verify

__all__ = ["Report", "UnknownEvents", "read", "replay", "verify"]
