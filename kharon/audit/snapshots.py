"""What the snapshots of a queue say, held against the log that they were made from.

A snapshot proves nothing, and is never needed to verify a log. But opening begins with the newest one, and looks at
nothing in front of it: so one that says anything else than the log would be believed. Its own chain cannot show that,
since whoever can write a file can write a chain; folding the log up to it can. Nothing here writes.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from kharon.errors import CorruptLog, KharonError, UnknownFormat
from kharon.log.files import OS_FILES
from kharon.log.record import Chain, Record
from kharon.log.segment import Reading
from kharon.log.snapshot import Snapshot, _paths, read_snapshot
from kharon.model.projection import Projection
from kharon.model.versions import Unknown

__all__ = ["Snapshots"]

_logger = logging.getLogger("kharon")


class Snapshots:
    """The snapshots that a queue's directory has when this is made.

    Args:
        directory: the queue's.

    Attributes:
        good: how many say what the log says.
        bad: of the others, what is wrong with each, beginning with its path.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = sorted(_paths(OS_FILES, directory))
        self.good = 0
        self.bad: list[str] = []

    def compare(self, reading: Reading, records: Iterator[Record]) -> None:
        """Read all of a log; fold it up to each snapshot on the way, and compare.

        Of a log whose beginning was trimmed the oldest snapshot is where folding begins: of that one only its place is
        compared. Behind an event that is not known nobody can tell what a snapshot should say.

        Args:
            reading: of the log, from its beginning.
            records: those of the reading, in passing.

        Raises:
            CorruptLog, UnknownFormat: the log is not whole, or is of a later version.
            OSError: a snapshot cannot be read. One that is gone by now is passed over.

        Cost: if there are snapshots O(records), and the memory of the tickets.
        """
        record = next(records, None)
        records = itertools.chain(() if record is None else (record,), records)
        begin = reading.places[0].first
        fold = _Fold(records, Chain(begin - 1, reading.follows))
        based = begin == 1
        for path in self._paths:
            snapshot = self._read(path)
            if snapshot is None or snapshot.seq < begin - 1:  # the latter was of use before the last trim
                continue
            if not based:
                fold.begin_with(snapshot)
                based = True
            try:
                fold.go_on_to(snapshot.seq)
            except KharonError as error:
                if error is fold.failure:
                    raise
                self._bad(f"{path}: the log does not fold to any state: {error}")
                break
            if fold.unknown:
                break
            self._judge(path, snapshot, reading.log, fold)
        for _ in records:
            pass

    def _read(self, path: Path) -> Snapshot | None:
        try:
            with path.open("rb") as file:
                return read_snapshot(file, str(path))
        except FileNotFoundError:  # newer ones have been taken meanwhile
            return None
        except CorruptLog as corrupt:
            self._bad(str(corrupt))
        except UnknownFormat as unknown:
            self._bad(str(unknown))
        return None

    def _judge(self, path: Path, snapshot: Snapshot, log: str | None, fold: _Fold) -> None:
        end = fold.end
        if path.stem != f"{snapshot.seq:020}":
            self._bad(f"{path}: it is the snapshot at record {snapshot.seq}, which is not its name")
        elif end.seq != snapshot.seq:
            self._bad(f"{path}: the log has no record {snapshot.seq}")
        elif (snapshot.log, snapshot.hash) != (log, end.hash) or end.at not in {None, snapshot.at}:
            self._bad(f"{path}: it follows from another record {snapshot.seq} than the log's: it is of another log")
        elif snapshot.tickets != list(fold.projection.tickets.values()):
            self._bad(f"{path}: its tickets are not those that the log gives at record {snapshot.seq}")
        else:
            self.good += 1

    def _bad(self, why: str) -> None:
        _logger.warning("bad snapshot: %s", why)
        self.bad.append(why)


class _Fold:
    """A log that is folded piece by piece.

    Attributes:
        projection: what it has been folded to.
        end: the last record that was read, or what the log begins behind; then without its time.
        unknown: whether an event that is not known was among them, so that the projection says nothing.
        failure: what reading them raised.
    """

    def __init__(self, records: Iterator[Record], end: Chain) -> None:
        self._records = records
        self.projection = Projection()
        self.end = end
        self.unknown = False
        self.failure: BaseException | None = None

    def begin_with(self, snapshot: Snapshot) -> None:
        """Take a snapshot for granted, and read the log up to it."""
        for _ in self._up_to(snapshot.seq):
            pass
        self.projection.load(snapshot.tickets, snapshot.seq, snapshot.at)

    def go_on_to(self, seq: int) -> None:
        """Fold the records up to `seq`.

        Raises:
            KharonError: a record cannot follow from those before it.
        """
        self.projection.fold(self._up_to(seq))

    def _up_to(self, seq: int) -> Iterator[Record]:
        while self.end.seq < seq:
            try:
                record = next(self._records, None)
            except BaseException as error:
                self.failure = error
                raise
            if record is None:
                return
            self.end = Chain(record.seq, record.hash, record.at)
            self.unknown = self.unknown or type(record.event) is Unknown
            yield record
