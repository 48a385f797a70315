"""What the snapshots of a queue say, held against the log that they were made from.

A snapshot proves nothing, and is never needed to verify a log. But opening begins with the newest one, and looks at
nothing in front of it: so one that says anything else than the log would be believed. Its own chain cannot show that,
since whoever can write a file can write a chain; folding the log up to it can. Nothing here writes.

Of a log whose beginning was trimmed only a snapshot says what the rest is to be folded onto. The oldest that fits the
chain is taken for that, its *base*. Whether its tickets are right nobody can tell; that the others agree with it, or do
not, is all that can be said.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from kharon.errors import CorruptLog, KharonError, UnknownFormat
from kharon.log.files import OS_FILES
from kharon.log.record import Chain, Record
from kharon.log.scan import Reading
from kharon.log.snapshot import Snapshot, _paths, read_snapshot
from kharon.model.projection import Projection
from kharon.model.versions import Unknown

__all__ = ["SnapshotCheck"]

_logger = logging.getLogger("kharon")


class SnapshotCheck:
    """The snapshots that a queue's directory has when this is made.

    Args:
        directory: the queue's.

    Attributes:
        good: how many say what the log says.
        bad: of the others, what is wrong with each, beginning with its path.
        unjudged: of the rest, why nobody can tell, beginning with its path.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = sorted(_paths(OS_FILES, directory))
        self.good = 0
        self.bad: list[str] = []
        self.unjudged: list[str] = []

    def compare(self, reading: Reading, records: Iterator[Record]) -> None:
        """Read all of a log; fold it up to each snapshot on the way, and compare.

        Args:
            reading: of the log, from its beginning.
            records: those of the reading, in passing.

        Raises:
            CorruptLog, UnknownFormat: the log is not whole, or is of a later version.
            KharonError: it was trimmed faster than it was read; or some of it is compressed, and zstd is not installed.
            OSError: the log or a snapshot cannot be read. A snapshot that is gone by now is passed over.

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
        """Return a snapshot that is whole and has its own name: by that it was put in its place, before it is read."""
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
            self._bad(f"{path}: it follows from another record {seq} than the log's: it is of another log")
        elif seq < end.seq:
            self.unjudged.append(f"{path}: record {seq}, from which it follows, has been trimmed")
        elif seq > end.seq:
            self._bad(f"{path}: the log has no record {seq}")
        elif fold.unknown:
            self.unjudged.append(f"{path}: it stands behind an event that this version does not know")
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
                f"{path}: {differs} {fold.base} and the log behind that give at record {seq}: the "
                f"two disagree, and nobody can tell which of them is right, since what was before has been trimmed"
            )

    def _leave(self, fold: _Fold) -> None:
        """Say of the base, now that it is done with, what it was."""
        if fold.base is None:
            return
        if fold.failure is not None and not fold.unknown:
            self._bad(f"{fold.base}: the log behind it cannot follow from its tickets: {fold.failure}")
        else:
            self.unjudged.append(
                f"{fold.base}: it stands for what was before it and has been trimmed, so nothing shows whether its "
                f"tickets are right; it fits the chain, and any later snapshot was held against it"
            )

    def _bad(self, why: str) -> None:
        _logger.warning("bad snapshot: %s", why)
        self.bad.append(why)


def _stands_at(snapshot: Snapshot, end: Chain) -> bool:
    """Return whether a snapshot follows from the record with its seq. The time of one that was trimmed is not known."""
    return snapshot.hash == end.hash and end.at in {None, snapshot.at}


def _difference(snapshot: Snapshot, projection: Projection) -> str | None:
    """Return the beginning of what to say of a snapshot that is not what it should be; None: it is."""
    if snapshot.tickets != list(projection.tickets.values()):
        return "its tickets are not those that"
    return None if snapshot.others == projection.others() else "what it says besides tickets is not what"


class _Fold:
    """A log that is folded piece by piece.

    Attributes:
        end: the last record that was read, or what the log begins behind; then without its time.
        projection: what it has been folded to; None: there is nothing yet to fold it onto.
        base: the snapshot that it is folded onto; None: it begins at the first record, or there is none yet.
        failure: why a record cannot follow from those before it; the projection says nothing then.
        unknown: whether an event that is not known was read; the projection says nothing then either.
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
        """Fold what comes onto a snapshot at the place that was reached."""
        self.projection = Projection()
        self.projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        self.base, self.failure = path, None

    def go_on_to(self, seq: int) -> None:
        """Read the records up to `seq`, and fold them if there is something to fold them onto."""
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
