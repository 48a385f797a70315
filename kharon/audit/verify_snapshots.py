"""Comparison of the snapshots of a queue with the log from which they were made, for `verify`.

A snapshot proves nothing, and is never needed to verify a log. But opening begins with the newest one, and reads no
earlier record, so a snapshot that differs from the log would be trusted. Its own chain cannot show this, since anybody
who can write a file can write a chain; folding the log up to the snapshot can. This module writes nothing.

If the beginning of a log was trimmed, only a snapshot holds the state onto which the rest is folded. The oldest one
that fits the chain is used for that, as the *base*. Nothing can show whether its tickets are right, only whether the
later snapshots agree with it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from kharon.errors import CorruptLog, KharonError, UnknownFormat
from kharon.log.files import OS_FILES
from kharon.log.messages import say
from kharon.log.record import Chain, Record
from kharon.log.scan import LogScan
from kharon.log.snapshot import Snapshot, read_snapshot, snapshots_of
from kharon.model.projection import Projection
from kharon.model.versions import Unknown

__all__ = ["SnapshotCheck"]


class SnapshotCheck:
    """Compares the snapshots that a queue's directory has now with its log.

    Args:
        directory: the queue's.

    Attributes:
        good: how many agree with the log.
        bad: for each snapshot that does not: its path and what is wrong.
        unjudged: for each snapshot that cannot be judged: its path and why.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = sorted(snapshots_of(OS_FILES, directory))
        self.good = 0
        self.bad: list[str] = []
        self.unjudged: list[str] = []

    def compare(self, reading: LogScan, records: Iterator[Record]) -> None:
        """Read a whole log; fold it up to each snapshot, and compare.

        Args:
            reading: of the log, from its beginning.
            records: those of the reading.

        Raises:
            CorruptLog, UnknownFormat: the log is not whole, or is of a later version.
            KharonError: it was trimmed faster than it was read; or some of it is compressed, and zstd is not installed.
            OSError: the log or a snapshot cannot be read. A snapshot that was removed meanwhile is skipped.

        Cost: if there are snapshots O(records), and the memory of the tickets.
        """
        record = next(records, None)  # now the first header has been read
        records = itertools.chain(() if record is None else (record,), records)
        fold = _Fold(records, Chain(reading.places[0].first - 1, reading.follows))
        for path in self._paths:
            snapshot = self._read(path)
            if snapshot is not None:
                fold.go_on_to(snapshot.seq)
                self._judge(path, snapshot, reading.log, fold)
        self._leave(fold)
        for _ in records:
            pass

    def _read(self, path: Path) -> Snapshot | None:
        """Return a snapshot if it is whole and has the right name. The name gave its place among the others."""
        try:
            with path.open("rb") as file:
                snapshot = read_snapshot(file, str(path))
        except FileNotFoundError:  # newer ones have been taken meanwhile
            return None
        except CorruptLog as corrupt:
            self._bad(str(corrupt))
            return None
        except UnknownFormat as unknown:
            self.unjudged.append(str(unknown))
            return None
        if path.stem != f"{snapshot.seq:020}":
            self._bad(f"{path}: it is the snapshot at record {snapshot.seq}, which is not its name")
            return None
        return snapshot

    def _judge(self, path: Path, snapshot: Snapshot, log: str | None, fold: _Fold) -> None:
        seq, end = snapshot.seq, fold.end
        if snapshot.log != log or (seq == end.seq and not _stands_at(snapshot, end)):
            self._bad(f"{path}: it follows from a record {seq} that is not the log's: it belongs to another log")
        elif seq < end.seq:
            self.unjudged.append(f"{path}: record {seq}, from which it follows, has been trimmed")
        elif seq > end.seq:
            self._bad(f"{path}: the log has no record {seq}")
        elif fold.unknown:
            self.unjudged.append(f"{path}: it follows an event that this version does not know")
        elif fold.projection is None or (fold.base is not None and fold.failure is not None):
            self._leave(fold)
            fold.begin_with(path, snapshot)
        elif fold.failure is not None:
            self._bad(f"{path}: the log does not fold to any state: {fold.failure}")
        elif (differs := _difference(snapshot, fold.projection)) is None:
            self.good += 1
        elif fold.base is None:
            self._bad(f"{path}: {differs} the log gives at record {seq}")
        else:
            self._bad(
                f"{path}: {differs} {fold.base} and the log after that give at record {seq}: the two disagree, and "
                f"nothing shows which of them is right, since earlier records have been trimmed"
            )

    def _leave(self, fold: _Fold) -> None:
        """Report on the base, which is not needed any more."""
        if fold.base is None:
            return
        if fold.failure is not None and not fold.unknown:
            self._bad(f"{fold.base}: the log after it cannot follow from its tickets: {fold.failure}")
        else:
            self.unjudged.append(
                f"{fold.base}: it stands for the trimmed records before it, so nothing shows whether its tickets are "
                f"right; it fits the chain, and every later snapshot was compared with it"
            )

    def _bad(self, why: str) -> None:
        say(logging.WARNING, "bad snapshot: %s", why)
        self.bad.append(why)


def _stands_at(snapshot: Snapshot, end: Chain) -> bool:
    """Return whether a snapshot follows from the record with its seq. The time of a trimmed record is not known."""
    return snapshot.hash == end.hash and end.at in {None, snapshot.at}


def _difference(snapshot: Snapshot, projection: Projection) -> str | None:
    """Return the beginning of a sentence on how a snapshot differs from a projection; None: it does not."""
    if snapshot.tickets != list(projection.tickets.values()):
        return "its tickets are not those that"
    return None if snapshot.others == projection.others() else "its contents besides tickets are not those that"


class _Fold:
    """A log that is folded in steps.

    Attributes:
        end: the last record that was read; before the first, the one that it follows, without its time.
        projection: the state at `end`; None: there is no state yet onto which to fold.
        base: the snapshot onto which the log is folded; None: the log begins at record 1, or there is no base yet.
        failure: why a record cannot follow from those before it; the projection is meaningless then.
        unknown: whether an unknown event was read; the projection is meaningless then, too.
    """

    def __init__(self, records: Iterator[Record], end: Chain) -> None:
        self._records = records
        self._raised: BaseException | None = None  # by reading
        self.end = end
        self.projection = None if end.seq else Projection()
        self.base: Path | None = None
        self.failure: KharonError | None = None
        self.unknown = False

    def begin_with(self, path: Path, snapshot: Snapshot) -> None:
        """Take a snapshot at `end` as the base."""
        self.projection = Projection()
        self.projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        self.base, self.failure = path, None

    def go_on_to(self, seq: int) -> None:
        """Read the records up to `seq`, and fold them if there is a state onto which to fold."""
        if self.projection is not None and self.failure is None:
            try:
                self.projection.fold(self._up_to(seq))
            except KharonError as error:
                if error is self._raised:
                    raise
                self.failure = error
        for _ in self._up_to(seq):
            pass

    def _up_to(self, seq: int) -> Iterator[Record]:
        while self.end.seq < seq:
            try:
                record = next(self._records, None)
            except BaseException as error:
                self._raised = error
                raise
            if record is None:
                return
            self.end = Chain(record.seq, record.hash, record.at)
            self.unknown = self.unknown or type(record.event) is Unknown
            yield record
