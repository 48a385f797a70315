"""Reading on in a log that this process writes, for what is about one ticket: by the index where there is one.

Where there is none, which is so for the tail always, lines are searched as `LiveReader` does. Indexes are not made
here: that would stop the event loop (`kharon.log.snapshot.main` makes them, in a process of its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kharon.log.files import Files
from kharon.log.index import find_indexed, finish
from kharon.log.live import LiveReader, place_of
from kharon.log.record import Record
from kharon.log.segment import Place

__all__ = ["IndexedReader"]

_LOOKS: Final = 8  # segments looked up in one slice: about 1 ms


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
        for _ in range(_LOOKS):
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
