"""The readers of the process that writes the log: in slices, while the log grows and retention takes from it.

That process verified the log when it opened it and wrote the later lines itself, so a line's crc is its only check. The
records about one ticket are found by the index where there is one. Indexes are not made here, since that would stop the
event loop: `snapshot_process` makes them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from kharon.errors import CorruptLog, KharonError
from kharon.log.files import Files
from kharon.log.index import find_indexed, finished_segment
from kharon.log.record import (
    BadLine,
    Record,
    check_line,
    parse_record,
)
from kharon.log.segment import HEADER_LINES, SegmentFile, is_about, needle
from kharon.log.zstd import open_segment
from kharon.model.checks import MAX_LINE_BYTES

__all__ = ["IndexedReader", "LiveReader", "segment_of"]

_READ_BYTES: Final = 256 << 10  # a reader's slice, which stays short with records of a megabyte: about 1 ms
_LOOKUPS: Final = 8  # segments looked up in one slice: about 1 ms


def segment_of(
    places: Sequence[SegmentFile], seq: int, *, begin: bool = False
) -> tuple[SegmentFile, SegmentFile | None]:
    """Return the segment that holds a record, or will hold it, and the next segment; None: there is no next one.

    Args:
        places: all segments, oldest first.
        seq: the record's seq.
        begin: whether a reader begins there. Then, if the record was trimmed, the oldest segment is returned.

    Raises:
        KharonError: the record was trimmed since the reader began.

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
    """Reads segments line by line while this process writes them.

    Args:
        files: the file system.
        places: all segments, oldest first: the log's own list, which grows, and from which retention takes.
        after: records up to this seq are skipped.
        id: the ticket whose records are wanted; None: all are.

    Attributes:
        seq: the seq of the last record examined.
    """

    def __init__(self, files: Files, places: Sequence[SegmentFile], after: int, id: str | None) -> None:
        self._files = files
        self._begun = False
        self._path = Path()
        self._first = 0
        self._ends: int | None = None  # the first seq of the next segment; None: this one may still grow
        self._places = places
        self._after = after
        self._id = id
        self._needle = None if id is None else needle(id)
        self._file: BinaryIO | None = None
        self._line = 0
        self.seq = segment_of(places, after + 1, begin=True)[0].first - 1

    def read(self, limit: int, until: int) -> list[Record]:
        """Examine the next lines, at most `limit` and none after `until`; return the wanted records.

        Fewer than `limit` if lines are large: about `_READ_BYTES` are read at most.

        Raises:
            CorruptLog: a line is not as it was written.
            KharonError: the next records were trimmed since this reader began; or they are compressed, and zstd is not
                installed.
            OSError: the log cannot be read.

        Cost: O(bytes of the lines examined), which include those before `after` in the same segment.
        """
        records = []
        room = _READ_BYTES
        if not self._begun:  # a reader may begin with the oldest record that is left, but may miss none after that
            self.seq = segment_of(self._places, self._after + 1, begin=True)[0].first - 1
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
        """Return the open segment, positioned at the next record's line."""
        if self._file is None or self._ends is None or self.seq + 1 == self._ends:
            place, following = segment_of(self._places, self.seq + 1)
            self._ends = None if following is None else following.first
            if place.first != self._first:
                self.close()
            if self._file is None:  # an open file can be read to its end, even after it was moved
                self._first, self._path = place
        if self._file is None:
            self._file = open_segment(self._files.read, self._path)
            self._file.readline(MAX_LINE_BYTES + 1)
            self._line = HEADER_LINES
        return self._file

    def _open(self, line: bytes, byte: int) -> Record:
        try:
            record = parse_record(line, check_line(line, None))
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
    """Reads the records about one ticket, by a segment's index if it has a usable one, else line by line.

    The tail never has an index.

    Args:
        files: the file system.
        directory: the queue's directory.
        places: all segments, oldest first: the log's own list, which grows, and from which retention takes.
        after: records up to this seq are skipped.
        id: the ticket's id.

    Attributes:
        seq: the seq of the last record examined.
    """

    def __init__(self, files: Files, directory: Path, places: Sequence[SegmentFile], after: int, id: str) -> None:
        self._files = files
        self._directory = directory
        self._places = places
        self._after = after
        self._id = id
        self._live: LiveReader | None = None
        self._ends = 0  # the last seq of the segment that the live reader reads; 0: it has no successor yet
        self._begun = False
        self.seq = segment_of(places, after + 1, begin=True)[0].first - 1

    def read(self, limit: int, until: int) -> list[Record]:
        """Examine some of the next records, none after `until`; return those about the ticket.

        Raises:
            CorruptLog: a line is not as it was written.
            KharonError: the next records were trimmed since this reader began; or they are compressed, and zstd is not
                installed.
            OSError: the log cannot be read.
        """
        records: list[Record] = []
        if not self._begun:  # a reader may begin with the oldest record that is left, but may miss none after that
            self.seq = segment_of(self._places, self._after + 1, begin=True)[0].first - 1
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
        """Examine the next segment by its index; return whether that was possible."""
        place, following = segment_of(self._places, self.seq + 1)
        self._ends = 0 if following is None else following.first - 1
        if following is None or self._ends > until:
            return False
        found = find_indexed(
            self._files, self._directory, finished_segment(self._files, place.path, following.path), self._id
        )
        if found is None:
            return False
        records += [record for record in found if record.seq > self._after]
        self.seq = self._ends
        return True

    def _scan(self, live: LiveReader, limit: int, until: int) -> list[Record]:
        if not self._ends:  # it was the tail when it was begun, and may have a successor now
            _, following = segment_of(self._places, self.seq + 1)
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
