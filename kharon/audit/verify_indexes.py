"""What the indexes beside finished segments say, held against the segments.

An index proves nothing, and is never needed to verify a log. But `history` asks it which records are about a ticket,
and checks only those: an index that leaves some out hides them, and its sums have no secret in them. So what each must
say is gathered while its segment is read anyway, and the file is compared with that. Nothing here writes.

An index that is not there, or that nobody uses because it is unfinished, damaged, or of another segment or version,
hides nothing: `history` reads the segment then. That goes block by block: where one block is damaged, the others are
used, and have to be right.
"""

from __future__ import annotations

import logging
import os
import struct
from array import array
from pathlib import Path
from typing import Final

from kharon.log.index import BLOCK_BYTES, Finished, Places, id_in, index_path, pack, read_table
from kharon.log.record import BadLine, Record
from kharon.log.scan import Reading
from kharon.log.segment import See, first_of
from kharon.model.events import TicketEvent

__all__ = ["IndexCheck"]

_logger = logging.getLogger("kharon")
_ENTRY: Final = struct.Struct("=QQ")


class IndexCheck:
    """The indexes of a queue's directory, compared with its segments as these are read.

    Args:
        directory: the queue's.

    Attributes:
        good: how many say what their segment says.
        bad: of the others, what is wrong with each, beginning with its path.
        unused: of the rest, why `history` does not use it, or not all of it, beginning with its path.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._begun: tuple[int, str, Places] | None = None  # a segment with an index: where it begins, and what it says
        self.good = 0
        self.bad: list[str] = []
        self.unused: list[str] = []

    def watch(self, reading: Reading, path: Path) -> See | None:
        """Compare the index of the segment that has just been read; return what takes down what the next one says.

        The last segment has no index yet, and nobody asks the file that has its name.

        Args:
            reading: of the log.
            path: of the segment that comes next.

        Cost: O(records of the segment), if it has an index; the memory of `Places`.
        """
        if self._begun is not None:
            first, previous, places = self._begun
            ended, log = reading.before, reading.log
            assert ended is not None
            assert log is not None
            self._compare(Finished(ended.path, log, previous, first, ended.last, ended.hash), places)
        if not os.path.lexists(index_path(self._directory, first_of(path))):
            self._begun = None
            return None
        places = Places()
        self._begun = (first_of(path), reading.chain.hash, places)

        def see(record: Record, line: bytes, byte: int) -> None:
            event = record.event
            if isinstance(event, TicketEvent):
                places.add(event.id, byte)
            else:
                _add_unknown(places, record, line, byte)

        return see

    def _compare(self, segment: Finished, places: Places) -> None:
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
        packed = pack(segment, entries)
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
        _logger.warning("bad index: %s", why)
        self.bad.append(why)


def _add_unknown(places: Places, record: Record, line: bytes, byte: int) -> None:
    """Take down an event that is of no ticket, or not known: then its line says whether it is of one."""
    try:
        id = id_in(line, record.seq)
    except BadLine:  # a later event whose `id` is no text
        return
    if isinstance(id, str):
        places.add(id, byte)


def _difference(segment: Finished, places: Places, entries: array[int], data: bytes) -> str:
    """Return what an index says that its segment does not."""
    right, said = set(_ENTRY.iter_unpack(entries.tobytes())), set(_ENTRY.iter_unpack(data))
    hidden = sorted(byte for _, byte in right - said)
    if hidden:
        return (
            f"it hides from history {len(hidden):,} of the {len(right):,} records about tickets in "
            f"{segment.path.name}; the first of them is about {places.id_at(hidden[0])!r}, at byte {hidden[0]}"
        )
    more = len(said - right)
    if more:
        return f"it names {more:,} places in {segment.path.name} at which no record about that ticket begins"
    return "its entries are in an order, or have a table in front, by which some of them are not found"
