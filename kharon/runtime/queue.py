"""One open queue: its store, its workers, its counts, and those who wait; what all views of it share.

All of it is put together here, and told of each durable commit. What users call is in `kharon`, and how a queue is
opened and closed in `opening`; where it is kept is the store's business alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kharon.runtime.stats import Collector
from kharon.runtime.waits import GroupWaits, Waits
from kharon.runtime.workers import Crew
from kharon.settings import Settings
from kharon.store.protocol import Change, Clock, Deliver, Store

__all__ = ["MakeStore", "Queue"]


class MakeStore(Protocol):
    """Makes the store of a queue, as `open_store` does once it knows where."""

    def __call__(self, settings: Settings, clock: Clock, *, deliver: Deliver, closed: Callable[[], None]) -> Store: ...


class Queue:
    """What all views of one queue share.

    Args:
        make_store: makes its store.
        settings: the queue's.
        clock: tells the time.
        view: returns a view of a queue that acts in the name it is given.
    """

    def __init__(
        self, make_store: MakeStore, settings: Settings, clock: Clock, view: Callable[[Queue, str], Any]
    ) -> None:
        self.settings = settings
        self.stats = Collector()
        self.waits = Waits()
        self.group_waits = GroupWaits()
        self.store = make_store(settings, clock, deliver=self._deliver, closed=self._closed)
        self.crew = Crew(self.store, settings, clock, self.stats, functools.partial(view, self))

    def _deliver(self, commit: Sequence[Change]) -> None:
        self.stats.deliver(commit)
        self.crew.attempts.deliver(commit)
        self.group_waits.deliver(commit)
        self.waits.deliver(commit)

    def _closed(self) -> None:
        """Wake those who wait for what will not end here any more."""
        self.group_waits.closed()
        self.waits.closed()
