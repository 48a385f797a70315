"""What the snapshots of a queue say, held against the log that they were made from.

A snapshot proves nothing, and is never needed to verify a log. But opening begins with the newest one, and looks at
nothing in front of it: so one that says anything else than the log would be believed. Its own chain cannot show that,
since whoever can write a file can write a chain; folding the log up to it can. Nothing here writes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from kharon.errors import CorruptLog, KharonError, UnknownFormat
from kharon.log.files import OS_FILES
from kharon.log.record import Record
from kharon.log.segment import Reading
from kharon.log.snapshot import Snapshot, _paths, read_snapshot
from kharon.model.projection import Projection

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

    def compare(self, reading: Reading) -> None:
        """Read all of a log; fold it up to each snapshot on the way, and compare.

        Args:
            reading: of the log, from its beginning.

        Raises:
            CorruptLog, UnknownFormat: the log is not whole, or is of a later version.
            OSError: a snapshot cannot be read. One that is gone by now is passed over.

        Cost: if there are snapshots O(records), and the memory of the tickets.
        """
        records = reading.records()
        projection = Projection()
        last: Record | None = None
        for path in self._paths:
            try:
                with path.open("rb") as file:
                    snapshot = read_snapshot(file, str(path))
            except FileNotFoundError:
                continue  # newer ones have been taken meanwhile
            except CorruptLog as corrupt:
                self._bad(str(corrupt))
                continue
            except UnknownFormat as unknown:
                self._bad(f"{path}: {unknown}")
                continue
            try:
                last = _fold(projection, records, snapshot.seq) or last
            except (CorruptLog, UnknownFormat):
                raise
            except KharonError as error:
                self._bad(f"{path}: the log does not fold to any state: {error}")
                break
            self._judge(path, snapshot, reading.log, projection, last)
        for _ in records:
            pass

    def _judge(
        self, path: Path, snapshot: Snapshot, log: str | None, projection: Projection, last: Record | None
    ) -> None:
        if path.stem != f"{snapshot.seq:020}":
            self._bad(f"{path}: it is the snapshot at record {snapshot.seq}, which is not its name")
        elif last is None or last.seq != snapshot.seq:
            self._bad(f"{path}: the log has no record {snapshot.seq}")
        elif (snapshot.log, snapshot.hash, snapshot.at) != (log, last.hash, last.at):
            self._bad(f"{path}: it follows from another record {snapshot.seq} than the log's: it is of another log")
        elif snapshot.tickets != list(projection.tickets.values()):
            self._bad(f"{path}: its tickets are not those that the log gives at record {snapshot.seq}")
        else:
            self.good += 1

    def _bad(self, why: str) -> None:
        _logger.warning("bad snapshot: %s", why)
        self.bad.append(why)


def _fold(projection: Projection, records: Iterator[Record], seq: int) -> Record | None:
    """Fold the next records, up to `seq`; return the last one, None if there was none."""
    last: Record | None = None

    def wanted() -> Iterator[Record]:
        nonlocal last
        reached = projection.seq
        while reached < seq and (record := next(records, None)) is not None:
            last, reached = record, record.seq
            yield record

    projection.fold(wanted())
    return last
