"""The memory log: the newest records, as the lines that a directory would hold, until the process ends.

It uses no file and no thread. It keeps the newest `keep` records and drops older ones; `first` is the oldest one kept.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from kharon.errors import KharonError
from kharon.log.record import Chain, Record, check_line, parse_record
from kharon.log.segment import is_about, needle
from kharon.model.events import Event

_READ_BYTES: Final = 256 << 10  # the size of a reader's slice: about 1 ms

__all__ = ["MemoryLog"]


class MemoryLog:
    """A log in memory.

    Args:
        keep: how many of the newest records to keep.
    """

    def __init__(self, keep: int = 100_000) -> None:
        self._keep = keep
        self._chain = Chain()
        self._written = Chain()
        self._lines: dict[int, bytes] = {}
        self.first = 1
        self.written = 0
        self.durable = 0

    @property
    def seq(self) -> int:
        """The seq of the last record appended."""
        return self._chain.seq

    def open(self, now: datetime) -> Iterator[Record]:
        """Begin the chain; there are no records yet."""
        self._chain.header(uuid.uuid4().hex, now)
        self.write()
        return iter(())

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append one commit. O(bytes)."""
        seq = self._chain.seq
        for line in self._chain.commit(events, at, by, self.durable):
            seq += 1
            self._lines[seq] = line
        while len(self._lines) > self._keep:
            del self._lines[self.first]
            self.first += 1
        return self._chain.at or at

    def write(self) -> None:
        """Count the appended records as written."""
        self.written = self._chain.seq
        self._written = self._chain.copy()

    def take_back(self) -> None:
        """Discard everything appended since the last `write`, as a log without room does. O(records discarded)."""
        for seq in range(self._written.seq + 1, self._chain.seq + 1):
            self._lines.pop(seq, None)
        self._chain = self._written.copy()

    def sync(self) -> None:
        """Count the written records as durable."""
        self.durable = self.written

    def reader(self, after: int = 0, id: str | None = None) -> _MemoryReader:
        """Return a reader of the kept records after the seq `after`: all of them, or those about the ticket `id`."""
        return _MemoryReader(self, after, id)

    def line(self, seq: int) -> bytes | None:
        """Return the line of a record; None if it is no longer kept."""
        return self._lines.get(seq)

    def close(self, now: datetime) -> None:
        """Do nothing: a memory log ends with its process."""

    def abandon(self) -> None:
        """Do nothing."""


class _MemoryReader:
    def __init__(self, log: MemoryLog, after: int, id: str | None) -> None:
        self._log = log
        self._id = id
        self._needle = None if id is None else needle(id)
        self._begun = False
        self.seq = after

    def read(self, limit: int, until: int) -> list[Record]:
        # Reading may begin at the oldest kept record. After that a reader of all records may miss none; a reader of one
        # ticket gives whatever is still kept.
        if not self._begun or self._id is not None:
            self.seq = max(self.seq, self._log.first - 1)
            self._begun = True
        records: list[Record] = []
        room = _READ_BYTES
        for seq in range(self.seq + 1, min(self.seq + limit, until) + 1):
            if room <= 0:
                break
            line = self._log.line(seq)
            if line is None:
                raise KharonError(
                    f"record {seq} is not kept any more: this reader fell behind, and the memory log now begins at "
                    f"record {self._log.first}; read faster, or raise Settings.memory_records"
                )
            self.seq = seq
            room -= len(line)
            if self._needle is None or self._needle in line:
                record = parse_record(line, check_line(line, None))
                if is_about(record, self._id):
                    records.append(record)
        return records

    def close(self) -> None:
        pass
