"""Comparison of the indexes of finished segments with the segments, for `verify`.

An index proves nothing, and is never needed to verify a log. But `history` takes from it which records are about a
ticket, and checks only those. So an index that omits records hides them, and anybody can compute its checksums. While
its segment is read for `verify`, the right contents of the index are gathered, and the file is compared with them. This
module writes nothing.

An index that is missing hides nothing, and neither does one that is not used because it is unfinished, damaged, or of
another segment or version: `history` reads the segment instead. This holds for each block: if one block is damaged, the
others are used, and must be right.
"""

from __future__ import annotations

import logging
import os
import struct
from array import array
from pathlib import Path
from typing import Final

from kharon.log.index import BLOCK_BYTES, FinishedSegment, LineOffsets, encode_index, id_of_line, index_path, read_table
from kharon.log.messages import say
from kharon.log.record import BadLine, Record
from kharon.log.scan import LogScan
from kharon.log.segment import OnRecord, first_of
from kharon.model.events import TicketEvent

__all__ = ["IndexCheck"]

_ENTRY: Final = struct.Struct("=QQ")


class IndexCheck:
    """Compares the indexes of a queue's directory with its segments while these are read.

    Args:
        directory: the queue's.

    Attributes:
        good: how many agree with their segments.
        bad: for each index that does not: its path and what is wrong.
        unused: for each index that `history` does not use, or only in part: its path and why.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._begun: tuple[int, str, LineOffsets] | None = None  # the segment being read: first seq, hash before it
        self.good = 0
        self.bad: list[str] = []
        self.unused: list[str] = []

    def watch(self, reading: LogScan, path: Path) -> OnRecord | None:
        """Compare the index of the segment just read; return a function to be called with the next one's records.

        The last segment has no index yet, and a file with the name of its index is never used.

        Args:
            reading: of the log.
            path: of the next segment.

        Cost: O(records of the segment), if it has an index; the memory of `LineOffsets`.
        """
        if self._begun is not None:
            first, previous, places = self._begun
            ended, log = reading.before, reading.log
            assert ended is not None
            assert log is not None
            self._compare(FinishedSegment(ended.path, log, previous, first, ended.last, ended.hash), places)
        if not os.path.lexists(index_path(self._directory, first_of(path))):
            self._begun = None
            return None
        places = LineOffsets()
        self._begun = (first_of(path), reading.chain.hash, places)

        def see(record: Record, line: bytes, byte: int) -> None:
            event = record.event
            if isinstance(event, TicketEvent):
                places.add(event.id, byte)
            else:
                _add_unknown(places, record, line, byte)

        return see

    def _compare(self, segment: FinishedSegment, places: LineOffsets) -> None:
        path = index_path(self._directory, segment.first)
        try:
            with path.open("rb") as file:
                table = read_table(file, segment)
                file.seek(0)
                data = b"" if table is None else file.read()
        except FileNotFoundError:  # deleted since
            return
        except OSError as error:
            self.unused.append(f"{path}: it cannot be read: {error.strerror}")
            return
        if table is None:
            self.unused.append(f"{path}: it is unfinished, damaged, or of another segment or version")
            return
        entries = places.entries()
        packed = encode_index(segment, entries)
        if data == packed:
            self.good += 1
            return
        begins = [table.place(number) for number in range(len(table.sums))]
        blocks = [slice(begin, begin + BLOCK_BYTES) for begin in begins]
        used = [block for number, block in enumerate(blocks) if table.vouches(number, data[block])]
        if data[: table.begin] == packed[: table.begin] and all(data[block] == packed[block] for block in used):
            self.unused.append(f"{path}: it is damaged in {len(blocks) - len(used)} of {len(blocks)} parts")
            return
        why = f"{path}: {_difference(segment, places, entries, data[table.begin :])}"
        say(logging.WARNING, "bad index: %s", why)
        self.bad.append(why)


def _add_unknown(places: LineOffsets, record: Record, line: bytes, byte: int) -> None:
    """Add the place of an unknown event, if its line has the id of a ticket."""
    try:
        id = id_of_line(line, record.seq)
    except BadLine:  # a later event whose `id` is not text
        return
    if isinstance(id, str):
        places.add(id, byte)


def _difference(segment: FinishedSegment, places: LineOffsets, entries: array[int], data: bytes) -> str:
    """Return how an index differs from its segment."""
    right, said = set(_ENTRY.iter_unpack(entries.tobytes())), set(_ENTRY.iter_unpack(data))
    hidden = sorted(byte for _, byte in right - said)
    if hidden:
        return (
            f"it hides from history {len(hidden):,} of the {len(right):,} records about tickets in "
            f"{segment.path.name}; the first of them is about {places.id_at(hidden[0])!r}, at byte {hidden[0]}"
        )
    more = len(said - right)
    if more:
        return f"it names {more:,} places in {segment.path.name} where no record about that ticket begins"
    return "its entries are in an order, or have a table before them, by which some of them are not found"
