"""One open queue: its store, its workers, its counts and its waits, which all views of it share.

This module connects them, and delivers each durable commit to them. The methods that users call are in `kharon`.
`opening` opens and closes a queue, and only the store knows where it is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kharon.runtime.stats import Tally
from kharon.runtime.waits import GroupWaits, Waits
from kharon.runtime.workers import Workers
from kharon.settings import Settings
from kharon.store.protocol import Change, Clock, Deliver, Store

__all__ = ["MakeStore", "Queue"]


class MakeStore(Protocol):
    """Makes the store of a queue: `open_store` with its place given."""

    def __call__(self, settings: Settings, clock: Clock, *, deliver: Deliver, closed: Callable[[], None]) -> Store: ...


class Queue:
    """The parts of one queue, which all its views share.

    Args:
        make_store: makes its store.
        settings: the settings of the queue.
        clock: gives the present time.
        view: returns a view of a queue that acts in the given name.
    """

    def __init__(
        self, make_store: MakeStore, settings: Settings, clock: Clock, view: Callable[[Queue, str], Any]
    ) -> None:
        self.settings = settings
        self.tally = Tally()
        self.waits = Waits()
        self.group_waits = GroupWaits()
        self.store = make_store(settings, clock, deliver=self._deliver, closed=self._closed)
        self.workers = Workers(self.store, settings, clock, self.tally, functools.partial(view, self))

    def _deliver(self, commit: Sequence[Change]) -> None:
        self.tally.deliver(commit)
        self.workers.attempts.deliver(commit)
        self.group_waits.deliver(commit)
        self.waits.deliver(commit)

    def _closed(self) -> None:
        """Wake all waiting tasks: nothing more will be delivered."""
        self.group_waits.closed()
        self.waits.closed()
