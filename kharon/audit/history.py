"""Every record about one ticket, by the index beside finished segments (`kharon.log.index`) and not by reading all.

What has no index yet is read, and gets one; the tail, which still grows, is searched for the bytes of the id. No lock
is taken. Each record that is found is checked: its crc, and its hash from the line in front of it. That none is hidden
is for `verify` to prove, which compares indexes with the log, and for `index=False`, which reads and verifies it all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from kharon.audit.read import check_queue, open_fixed, read
from kharon.audit.replay import replay
from kharon.errors import InvalidTicket
from kharon.log.directory import segments
from kharon.log.files import OS_FILES, Files
from kharon.log.index import Finished, build, find_indexed, finished, may_write, read_header, write_index
from kharon.log.record import BadLine, Record, check_line, is_seal, open_record
from kharon.log.segment import Broken, first_of, is_about, judge, needle
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import TicketEvent
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket

__all__ = ["Progress", "history", "latest"]

_LOOKS: Final = 20

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many bytes of those segments that have no index were read, and how many there are in all."""


def history(
    path: str | os.PathLike[str], id: str, *, index: bool = True, progress: Progress | None = None
) -> list[Record]:
    """Return every record about the ticket `id`, oldest first; none if there never was such a ticket.

    Records of an unfinished last commit are not there, and those written in the meantime may be missing.

    Args:
        path: the queue's directory; it may be open in any process.
        id: the ticket's.
        index: whether to use the index, and write what is missing of it if the queue is this user's. An index can be
            made again at any time, and proves nothing: who can write it can hide records, until `verify` says so.
            False: read and verify the whole log instead.
        progress: called while segments without an index are read.

    Raises:
        CorruptLog: a record about the ticket, a segment that had no index, or the tail is damaged.
        UnknownFormat: a later version of Kharon wrote what was read.
        InvalidTicket: `id` is no str.
        KharonError: there is no queue at `path`.
        OSError: it cannot be read.

    Cost: for each finished segment three small reads; O(bytes) of the tail and of the segments without an index, which
        is all of them at the first call if the queue's process takes no snapshots. Memory: the records found, and 90 to
        350 bytes for each record of one segment.
    """
    if not isinstance(id, str):
        raise InvalidTicket(f"id: a str, not {type(id).__name__}")
    if not index:
        return [record for record in read(path) if is_about(record, id)]
    directory = Path(path)
    check_queue(directory)
    for _ in range(_LOOKS - 1):
        # A segment that is gone was compressed, archived or trimmed since it was listed: it is listed where it is now.
        with contextlib.suppress(FileNotFoundError):
            return _search(directory, id, progress)
    return _search(directory, id, progress)


def latest(path: str | os.PathLike[str], id: str) -> tuple[Ticket | None, list[Record]]:
    """Return the ticket `id` as it is, None if there is none, and every record about it.

    A ticket is what its own records make it, so `replay` gives the same one from all records. These are not read, so
    what does not concern the ticket may be damaged, or of a later version; and an index that hides a record leaves the
    ticket as it was before. Of a log whose beginning was trimmed all is read, and a snapshot before.

    Raises:
        KharonError: a record cannot follow from those before it; or as `history`, or `replay`.
        CorruptLog, UnknownFormat, InvalidTicket, OSError: as `history`, or `replay`.

    Cost: that of `history`; of a trimmed log that of `replay`, too.
    """
    records = history(path, id)
    if first_of(segments(Path(path))[0]) > 1:  # asked afterwards, so nothing had been trimmed when it was read
        return replay(path).tickets.get(id), records
    ticket: Ticket | None = None
    for record in records:
        assert isinstance(record.event, TicketEvent)
        ticket = evolve(ticket, record.event, record.seq, record.at)
    return ticket, records


def _search(directory: Path, id: str, progress: Progress | None) -> list[Record]:
    paths = segments(directory)
    known = list(finished(OS_FILES, paths))
    found = [find_indexed(OS_FILES, directory, segment, id) for segment in known]
    missing = [number for number, records in enumerate(found) if records is None]
    told = _Told(progress, sum(known[number].path.stat().st_size for number in missing))
    for number in missing:
        found[number] = _read(OS_FILES, directory, known[number], id, told)
    tail, _ = open_fixed(paths[-1])
    with tail:
        found.append(search_tail(tail, str(paths[-1]), id))
    return [record for records in found for record in records or ()]


class _Told:
    """What a caller of `history` was told of its progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _read(files: Files, directory: Path, segment: Finished, id: str, told: _Told) -> list[Record]:
    """Return the records about a ticket in a segment without an index, and write its index if that may be."""
    built = build(files, segment, told.add)
    if may_write(files, directory):
        with contextlib.suppress(OSError):  # no room, say: the answer does not need it
            write_index(files, directory, built)
    return built.find(files, id)


def search_tail(file: BinaryIO, path: str, id: str) -> list[Record]:
    """Return the records about a ticket in the last segment, oldest first, by whole commits only.

    The chain is verified, but only what is about the ticket, and the rest of its commits, is decoded: measured 2.9 µs
    a line, where `read_segment` takes 5.2.

    Args:
        file: the segment, opened for reading at its beginning.
        path: its name for messages.
        id: the ticket's.

    Raises:
        CorruptLog: it is damaged otherwise than by an unfinished last commit.
        UnknownFormat: a later version wrote what is about the ticket.

    Cost: O(bytes); the memory of the records found.
    """
    mark = needle(id)
    records: list[Record] = []
    commit: list[Record] = []
    header = read_header(file, path)
    hash, seq, byte, missing = header.hash, header.first - 1, file.tell(), 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        seq += 1
        try:
            hash = check_line(line, hash)
            if is_seal(line):
                break
            if missing or mark in line:
                record = open_record(line, hash)
                missing = record.part[1] - record.part[0]
                if is_about(record, id):
                    commit.append(record)
        except BadLine as bad:
            number = seq - header.first + 2
            # Where its commit begins is not known, and need not be: what vouches for this record does for all of it.
            judge(file, Broken(path, number, byte, byte, seq, str(bad)), last=True)
            break
        byte += len(line)
        if not missing:
            records += commit
            commit = []
    return records
