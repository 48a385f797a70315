"""The log as the process that writes it reads it: on and on, in slices, while it grows and retention takes from it.

It wrote the lines itself, and verified those before them when it opened the log; so each is checked by its crc alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from kharon.errors import CorruptLog, KharonError
from kharon.log.files import Files
from kharon.log.index import find_indexed, finish
from kharon.log.record import (
    BadLine,
    Record,
    check_line,
    open_record,
)
from kharon.log.segment import HEADER_LINES, Place, is_about, needle
from kharon.log.zstd import open_segment
from kharon.model.checks import MAX_LINE_BYTES

__all__ = ["IndexedReader", "LiveReader", "place_of"]

_READ_BYTES: Final = 256 << 10  # a reader's slice, so that it stays short with records of a megabyte: about 1 ms
_LOOKUPS: Final = 8  # segments looked up in one slice: about 1 ms


def place_of(places: Sequence[Place], seq: int, *, begin: bool = False) -> tuple[Place, Place | None]:
    """Return the segment in which a record stands, or will, and the one behind it, if there is one.

    Args:
        places: all segments, oldest first.
        seq: the record's.
        begin: whether a reader begins there: then, if it has been trimmed, with the oldest segment that is left.

    Raises:
        KharonError: it has been trimmed since the reader began.

    Cost: O(log segments).
    """
    index = bisect_right(places, seq, key=lambda place: place.first) - 1
    if index < 0:
        if not begin:
            raise KharonError(
                f"record {seq} has been trimmed: this reader fell behind, and the history now begins at record "
                f"{places[0].first}; read faster, or trim later"
            )
        index = 0
    return places[index], places[index + 1] if index + 1 < len(places) else None


class LiveReader:
    """Reads on in the segments while this process writes them. Lines are checked by their crc.

    Args:
        files: the file system.
        places: all segments, oldest first: the log's own list, to which it adds, and from which retention takes.
        after: the records up to this seq are passed over.
        id: only records about this ticket; None: all.
    """

    def __init__(self, files: Files, places: Sequence[Place], after: int, id: str | None) -> None:
        self._files = files
        self._begun = False
        self._path = Path()
        self._first = 0
        self._ends: int | None = None  # the first seq of the segment behind this one; None: it may still grow
        self._places = places
        self._after = after
        self._id = id
        self._needle = None if id is None else needle(id)
        self._file: BinaryIO | None = None
        self._line = 0
        self.seq = place_of(places, after + 1, begin=True)[0].first - 1

    def read(self, limit: int, until: int) -> list[Record]:
        """Look at the next lines, `limit` at most and none behind `until`; return the records that are wanted.

        Of large lines fewer than `limit`: no more than about `_READ_BYTES` are read at once.

        Raises:
            CorruptLog: a line is not what was written.
            KharonError: what comes next has been trimmed since this reader began; or it is compressed, and zstd is not
                installed.
            OSError: it cannot be read.

        Cost: O(bytes of the lines looked at); those in front of `after` in their segment are, too.
        """
        records = []
        room = _READ_BYTES
        if not self._begun:  # where the history begins is where a reader may begin, but it may not miss any later
            self.seq = place_of(self._places, self._after + 1, begin=True)[0].first - 1
            self._begun = True
        for _ in range(min(limit, until - self.seq)):
            if room <= 0:
                break
            file = self._segment()
            byte = file.tell()
            line = file.readline(MAX_LINE_BYTES + 1)
            room -= len(line)
            self._line += 1
            self.seq += 1
            if self.seq > self._after and (self._needle is None or self._needle in line):
                record = self._open(line, byte)
                if is_about(record, self._id):
                    records.append(record)
        return records

    def _segment(self) -> BinaryIO:
        """Return the segment in which the next record stands, at its line."""
        if self._file is None or self._ends is None or self.seq + 1 == self._ends:
            place, following = place_of(self._places, self.seq + 1)
            self._ends = None if following is None else following.first
            if place.first != self._first:
                self.close()
            if self._file is None:  # one that is open is read on, wherever it has been moved since
                self._first, self._path = place
        if self._file is None:
            self._file = open_segment(self._files.read, self._path)
            self._file.readline(MAX_LINE_BYTES + 1)
            self._line = HEADER_LINES
        return self._file

    def _open(self, line: bytes, byte: int) -> Record:
        try:
            record = open_record(line, check_line(line, None))
            if record.seq != self.seq:
                raise BadLine(f"it is record {record.seq}; {self.seq} should come next")
        except BadLine as bad:
            raise CorruptLog(str(self._path), self._line, byte, str(bad)) from None
        return record

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class IndexedReader:
    """Reads the records about one ticket, segment by segment.

    Args:
        files: the file system.
        directory: the queue's.
        places: all segments, oldest first: the log's own list, to which it adds.
        after: the records up to this seq are passed over.
        id: the ticket's.

    Attributes:
        seq: of the last record looked at.
    """

    def __init__(self, files: Files, directory: Path, places: Sequence[Place], after: int, id: str) -> None:
        self._files = files
        self._directory = directory
        self._places = places
        self._after = after
        self._id = id
        self._live: LiveReader | None = None
        self._ends = 0  # the last record of the segment that the live reader is for; 0: it has no successor yet
        self._begun = False
        self.seq = place_of(places, after + 1, begin=True)[0].first - 1

    def read(self, limit: int, until: int) -> list[Record]:
        """Look at some of the next records, none behind `until`; return those that are about the ticket.

        Raises:
            CorruptLog: what is there is not what was written.
            KharonError: what comes next has been trimmed since this reader began; or it is compressed, and zstd is not
                installed.
            OSError: it cannot be read.
        """
        records: list[Record] = []
        if not self._begun:  # where the history begins is where a reader may begin, but it may not miss any later
            self.seq = place_of(self._places, self._after + 1, begin=True)[0].first - 1
            self._begun = True
        for _ in range(_LOOKUPS):
            if self.seq >= until:
                break
            if self._live is None and not self._look_up(records, until):
                self._live = LiveReader(self._files, self._places, max(self.seq, self._after), self._id)
            if self._live is not None:
                records += self._scan(self._live, limit, until)
                break
        return records

    def _look_up(self, records: list[Record], until: int) -> bool:
        """Look at the segment that comes next by its index; return whether that was possible."""
        place, following = place_of(self._places, self.seq + 1)
        self._ends = 0 if following is None else following.first - 1
        if following is None or self._ends > until:
            return False
        found = find_indexed(self._files, self._directory, finish(self._files, place.path, following.path), self._id)
        if found is None:
            return False
        records += [record for record in found if record.seq > self._after]
        self.seq = self._ends
        return True

    def _scan(self, live: LiveReader, limit: int, until: int) -> list[Record]:
        if not self._ends:  # the tail, when this was begun: it may have got a successor
            _, following = place_of(self._places, self.seq + 1)
            self._ends = 0 if following is None else following.first - 1
        records = live.read(limit, min(until, self._ends) if self._ends else until)
        self.seq = live.seq
        if self.seq == self._ends:
            self.close()
        return records

    def close(self) -> None:
        """Close the file."""
        if self._live is not None:
            self._live.close()
            self._live = None
