"""What a log must do for the store: implement this to keep Kharon's records somewhere else.

A log is given commits and keeps them in order, whole, for good. It is called from one thread at a time and never knows
of Trio. Encoding with `kharon.log.record.Chain` gives it the hash chain; it may keep records in any other way as long
as a `Record` comes back equal. `kharon.testing.check_log` is the conformance suite that every log must pass.
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
    """A place in a log from which reading goes on, while the log grows.

    Attributes:
        seq: of the last record looked at.
    """

    seq: int

    def read(self, limit: int, until: int) -> list[Record]:
        """Look at the next `limit` records, or fewer, none behind the seq `until`; return those that are wanted.

        Raises:
            CorruptLog: what is there is not what was written.
            KharonError: records that this reader had yet to read have been dropped.
        """

    def close(self) -> None:
        """Give back what the reader holds. May be called twice."""


@runtime_checkable
class HasSnapshots(Protocol):
    """What a log may do besides: save the state at a seq, so that opening need not replay what came before."""

    def load_snapshot(self) -> Snapshot | None:
        """Take the log for this process alone, and return the newest usable snapshot; `open` then goes on behind it.

        Raises:
            QueueLocked, CorruptLog, UnknownFormat, OSError: as `EventLog.open`.
        """


class EventLog(Protocol):
    """A durable sequence of commits.

    Attributes:
        seq: of the last record appended, written or not.
        written: the seq up to which records are written.
        durable: the highest seq known to be on disk.
        first: the seq at which the history that can be read begins.
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
        """Take the log for this process alone, mend what a crash left unfinished, and give every record in order.

        Called once, and read to its end, before anything else. When the iterator ends, `seq`, `written` and `durable`
        stand at the last record.

        Args:
            now: the time for what has to be written, UTC.

        Raises:
            QueueLocked: another process, or another opener in this one, has it.
            CorruptLog: it is damaged otherwise than by an unfinished last commit. Nothing was changed.
            UnknownFormat: a later version wrote it.
            OSError: the place cannot be read or written.
        """

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append one commit in memory, numbered from `seq` + 1; return its time, which is `at` or, if that lies before
        the last record's, that one's.

        Raises:
            InvalidTicket: a record is too large. The log is as it was.
        """

    def write(self) -> None:
        """Write what has been appended, to where it survives the end of this process.

        Called again after a `StorageFull`: from time to time with events that let the queue grow, and with those that
        end something (`Event.ends`) as they come. A log may keep room for the latter.

        Raises:
            StorageFull: there was no room. Nothing of what was appended since the last `write` is kept, and `seq` is
                back where it was then.
            OSError: the outcome is not known. The log must not be used again, but for `abandon`.
        """

    def sync(self) -> None:
        """Bring what has been written to where it survives a loss of power.

        Raises:
            OSError: the outcome is not known. The log must not be used again, but for `abandon`.
        """

    def reader(self, after: int = 0, id: str | None = None) -> LogReader:
        """Return a reader of the records behind the seq `after`: all, or those about the ticket `id`."""

    def close(self, now: datetime) -> None:
        """Write and sync what is left, say in the log that it was closed, and give up the place."""

    def abandon(self) -> None:
        """Give up the place without writing anything. May be called twice, and after a failure."""


class Sync(Protocol):
    """A sync that a log needs before it goes on."""

    @property
    def names(self) -> bool:
        """Whether it is of a directory."""

    def sync(self) -> None:
        """Do it here.

        Raises:
            OSError: it failed, or was done before, elsewhere, and had failed there.
        """

    def twin(self) -> int | None:
        """Return a descriptor for somebody else to sync, open until the log goes on; None: there is none."""


Rotation: TypeAlias = Generator[Sync, None, None]
"""The beginning of a new segment: it gives each sync that it needs, and is told of a failure by `throw`.

It raises what ends the log. `append` and reading may come between; `write`, `sync` and `begin_sync` do not.
"""


@runtime_checkable
class SyncedElsewhere(Protocol):
    """What a log may do besides: offer the file that a sync is about, so that a slow one need not stop the event loop.

    A log without these is synced by `sync`. `write`, also one that calls `sync` itself, `append` and reading may come
    between `begin_sync` and `end_sync`, as may anything else of an `EventLog`; a second `begin_sync` does not.

    Attributes:
        rotates: whether `write` begins a new segment by itself when it is time for one, with its syncs. Whoever sets it
            to False asks `rotation` after each `end_sync`.
    """

    rotates: bool

    def rotation(self) -> Rotation | None:
        """Return what begins a new segment, to be gone through now; None: it is not time for one. O(1)."""

    def begin_sync(self) -> int | None:
        """Return a descriptor whose sync, in another process, brings all that is written now to where `sync` would.

        It stays open until the next call of a method of the log. Where its sync fails, and nobody hears of that, a
        `sync` that is called then must still fail; on other systems than Linux that is not asked for.

        Returns:
            The descriptor; None: nothing is left to be synced, or it has been done in here.

        Raises:
            OSError: as `sync`.
        """

    def end_sync(self, seq: int, error: OSError | None) -> None:
        """Hear how it went; if well, `durable` is at least `seq`, which was `written` at `begin_sync`.

        Raises:
            OSError: `error`, if there is one. The log must not be used again, but for `abandon`.
        """
