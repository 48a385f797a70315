"""One open queue: the store, the workers, those who wait, and what is done with the log in the background.

All of it is put together here, and told of each durable commit group. What users call is in `kharon`; how a queue is
opened and closed in `opening`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kharon.log.directory import DirectoryLog
from kharon.log.protocol import EventLog
from kharon.log.retention import Retention
from kharon.runtime.retention import Keeper, rules_of
from kharon.runtime.snapshots import Snapshots
from kharon.runtime.stats import Collector
from kharon.runtime.waits import GroupWaits, Waits
from kharon.runtime.workers import Crew
from kharon.settings import Settings
from kharon.store.local import LocalStore
from kharon.store.protocol import Clock, Effect, Store

__all__ = ["Queue"]


class Queue:
    """What all views of one queue share.

    Args:
        log: where its records are kept.
        settings: the queue's.
        clock: what tells the time.
        view: returns a view of a queue that acts in the name it is given.
        in_thread: whether the log may be opened in a thread.
    """

    def __init__(
        self, log: EventLog, settings: Settings, clock: Clock, view: Callable[[Queue, str], Any], *, in_thread: bool
    ) -> None:
        self.settings = settings
        self.stats = Collector()
        self.waits = Waits()
        self.group_waits = GroupWaits()
        store = LocalStore(log, settings, clock, self._deliver, self._closed, in_thread=in_thread)
        self.store: Store = store
        self.snapshots: Snapshots | None = None
        self.keeper: Keeper | None = None
        if isinstance(log, DirectoryLog):
            self._keep(log, store, clock)
        self.crew = Crew(self.store, settings, clock, self.stats, functools.partial(view, self))

    def _keep(self, log: DirectoryLog, store: LocalStore, clock: Clock) -> None:
        """Set up what is done with the log in the background."""
        settings = self.settings
        policy = rules_of(settings)
        if settings.snapshot_bytes is not None:
            self.snapshots = Snapshots(log, settings.snapshot_bytes, trims=bool(policy.trim), taken=self._look_again)
        log.begun = self._begun
        if policy:
            archive = settings.archive_directory
            retention = Retention(log, policy, None if archive is None else Path(archive), self._may_trim)
            self.keeper = Keeper(retention, store.record, clock, settings.max_poll_interval)

    def _begun(self) -> None:
        if self.snapshots is not None:
            self.snapshots.look()
        self._look_again()

    def _may_trim(self, upto: int) -> bool:
        return self.snapshots is not None and self.snapshots.may_trim(upto)

    def _look_again(self) -> None:
        if self.keeper is not None:
            self.keeper.wake()

    def _deliver(self, effects: Sequence[Effect]) -> None:
        self.stats.deliver(effects)
        self.crew.attempts.deliver(effects)
        self.group_waits.deliver(effects)
        self.waits.deliver(effects)

    def _closed(self) -> None:
        """Wake those who wait for what will not end here any more."""
        self.group_waits.closed()
        self.waits.closed()
