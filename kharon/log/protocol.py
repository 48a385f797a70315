"""What a log must do for the store: implement `EventLog` to keep Kharon's records somewhere else.

A log is given commits, and keeps them whole, in order and for good. One thread at a time calls it, and it knows nothing
of Trio. `kharon.log.record.Chain` encodes records as lines of the hash chain; a log may store them in any other way, as
long as each `Record` comes back equal. Every log must pass the conformance suite, `kharon.testing.check_log`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

from kharon.log.record import Record
from kharon.log.snapshot import Snapshot
from kharon.model.events import Event

__all__ = ["EventLog", "HasSnapshots", "LogReader", "Rotation", "Sync", "SyncedElsewhere"]


class LogReader(Protocol):
    """A position in a log, from which records are read while the log grows.

    Attributes:
        seq: the seq of the last record examined.
    """

    seq: int

    def read(self, limit: int, until: int) -> list[Record]:
        """Examine the next records, at most `limit` and none after the seq `until`; return the wanted ones.

        Raises:
            CorruptLog: a record is not as it was written.
            KharonError: records that this reader had not yet read were dropped.
        """

    def close(self) -> None:
        """Release the reader's resources. May be called twice."""


@runtime_checkable
class HasSnapshots(Protocol):
    """Optional for a log: the state saved at a seq, so that opening does not replay everything before it."""

    def load_snapshot(self) -> Snapshot | None:
        """Take the log for this process alone and return its newest usable snapshot; `open` then continues after it.

        Returns:
            The snapshot; None if no snapshot is usable.

        Raises:
            QueueLocked, CorruptLog, UnknownFormat, OSError: as `EventLog.open`.
        """


class EventLog(Protocol):
    """A durable sequence of commits.

    Attributes:
        seq: the seq of the last record appended, written or not.
        written: the seq of the last record written.
        durable: the highest seq known to be on disk.
        first: the seq at which the readable history begins.
    """

    @property
    def seq(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def durable(self) -> int: ...
    @property
    def first(self) -> int: ...

    def open(self, now: datetime) -> Iterator[Record]:
        """Take the log for this process alone, finish what a crash interrupted, and yield every record in order.

        Called once, before every other method, and read to its end. At the end of the iterator, `seq`, `written` and
        `durable` are those of the last record.

        Args:
            now: the time of records that recovery writes, UTC.

        Raises:
            QueueLocked: another process, or another opener in this process, has the log.
            CorruptLog: the log is damaged, by more than an unfinished last commit. Nothing was changed.
            UnknownFormat: a later version wrote the log.
            OSError: the log cannot be read or written.
        """

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append one commit in memory, numbered from `seq` + 1, and return its time.

        Returns:
            `at`; the time of the last record if that is later.

        Raises:
            InvalidTicket: a record is too large. The log is unchanged.
        """

    def write(self) -> None:
        """Write the appended records, so that they survive the end of this process.

        After a `StorageFull` it is called again: from time to time with events that let the queue grow, and at once
        with events that end something (`Event.ends`). A log may reserve room for the latter.

        Raises:
            StorageFull: there was no room. Everything appended since the last `write` is discarded, and `seq` is what
                it was then.
            OSError: the outcome is unknown. Only `abandon` may be called afterwards.
        """

    def sync(self) -> None:
        """Make the written records survive a loss of power.

        Raises:
            OSError: the outcome is unknown. Only `abandon` may be called afterwards.
        """

    def reader(self, after: int = 0, id: str | None = None) -> LogReader:
        """Return a reader of the records after the seq `after`: all of them, or those about the ticket `id`."""

    def close(self, now: datetime) -> None:
        """Write and sync the rest, record that the log was closed, and release it."""

    def abandon(self) -> None:
        """Release the log without writing anything. May be called twice, and after a failure."""


class Sync(Protocol):
    """A sync that a log needs before it can continue."""

    @property
    def is_directory(self) -> bool:
        """Whether a directory is synced, not a file."""

    def sync(self) -> None:
        """Sync in this process.

        Raises:
            OSError: the sync failed; or an earlier one, in another process, failed.
        """

    def twin(self) -> int | None:
        """Return a descriptor that another process can sync, open until the log continues; None: there is none."""


Rotation: TypeAlias = Generator[Sync, None, None]
"""The steps that begin a new segment: it yields each sync that it needs, and receives a failed one by `throw`.

It raises the errors that end the log. Between steps, `append` and reading are allowed; `write`, `sync` and `begin_sync`
are not.
"""


@runtime_checkable
class SyncedElsewhere(Protocol):
    """Optional for a log: the descriptor to sync, so that a slow sync can run in another process.

    A log without these methods is synced by `sync`. Every method of `EventLog` may be called between `begin_sync` and
    `end_sync`, including a `write` that itself calls `sync`; a second `begin_sync` may not.

    Attributes:
        rotates: whether `write` itself begins a new segment, with its syncs, when one is due. A caller that sets this
            to False calls `rotation` after each `end_sync`.
    """

    rotates: bool

    def rotation(self) -> Rotation | None:
        """Return the steps that begin a new segment, to be run now; None: none is due. O(1)."""

    def begin_sync(self) -> int | None:
        """Return a descriptor; syncing it in another process is as good as `sync` for everything written now.

        It stays open until the next call of a method of the log. If that sync fails and its failure is lost, a `sync`
        called afterwards must still fail. This is required on Linux only.

        Returns:
            The descriptor; None: nothing needs a sync, or it was done in this process.

        Raises:
            OSError: as `sync`.
        """

    def end_sync(self, seq: int, error: OSError | None) -> None:
        """Take the result of that sync. After a success `durable` is at least `seq`, as `written` was at `begin_sync`.

        Raises:
            OSError: `error`, if it is not None. Only `abandon` may be called afterwards.
        """
