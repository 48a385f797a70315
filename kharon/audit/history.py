"""Every record about one ticket, found by the indexes of finished segments rather than by reading the whole log.

`kharon.log.index` describes an index. A segment that has none is read, and gets one; the tail, which still grows, is
searched for the bytes of the id. No lock is taken. Each record that is found is checked: its crc, and its hash from the
previous line. That no record is hidden can be proved by `verify`, which compares indexes with the log, or by
`index=False`, which reads and verifies the whole log.
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
from kharon.log.index import (
    FinishedSegment,
    build_index,
    find_indexed,
    finished_segments,
    may_write,
    read_header,
    write_index,
)
from kharon.log.record import BadLine, Record, check_line, is_seal, parse_record
from kharon.log.segment import BrokenSegment, first_of, is_about, needle, refuse_damage
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import TicketEvent
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket

__all__ = ["Progress", "history", "latest"]

_ATTEMPTS: Final = 20

Progress: TypeAlias = Callable[[int, int], None]
"""A function that is called with the bytes read so far of segments without an index, and with their total."""


def history(
    path: str | os.PathLike[str], id: str, *, index: bool = True, progress: Progress | None = None
) -> list[Record]:
    """Return every record about the ticket `id`, oldest first; none if there never was such a ticket.

    Records of an unfinished last commit are left out. Records written meanwhile may be missing.

    Args:
        path: the queue's directory; it may be open in any process.
        id: the ticket's.
        index: whether to use indexes, and to write missing ones if the queue belongs to this user. An index can be made
            again at any time, and proves nothing: a user who can write it can hide records, until `verify` finds out.
            False: read and verify the whole log instead.
        progress: called while segments without an index are read.

    Raises:
        CorruptLog: a record about the ticket, a segment that had no index, or the tail is damaged.
        UnknownFormat: a later version of Kharon wrote a line that was read.
        InvalidTicket: `id` is not a str.
        KharonError: there is no queue at `path`.
        OSError: the log cannot be read.

    Cost: three small reads for each finished segment; O(bytes) of the tail and of the segments without an index. At the
        first call these are all segments if the queue's process takes no snapshots. Memory: the records found, and 90
        to 350 bytes for each record of one segment.
    """
    if not isinstance(id, str):
        raise InvalidTicket(f"id: a str, not {type(id).__name__}")
    if not index:
        return [record for record in read(path) if is_about(record, id)]
    directory = Path(path)
    check_queue(directory)
    for _ in range(_ATTEMPTS - 1):
        # A missing segment was compressed, archived or trimmed since it was listed: list again.
        with contextlib.suppress(FileNotFoundError):
            return _search(directory, id, progress)
    return _search(directory, id, progress)


def latest(path: str | os.PathLike[str], id: str) -> tuple[Ticket | None, list[Record]]:
    """Return the ticket `id` as it is now, None if there is none, and every record about it.

    A ticket depends only on its own records, so `replay` gives the same one. Other records are not read, so they may be
    damaged or of a later version. An index that hides a record leaves the ticket as it was before that record. If the
    beginning of the log was trimmed, a snapshot and the whole log are read.

    Raises:
        KharonError: a record cannot follow from those before it; or as for `history` and `replay`.
        CorruptLog, UnknownFormat, InvalidTicket, OSError: as for `history` and `replay`.

    Cost: that of `history`; for a trimmed log also that of `replay`.
    """
    records = history(path, id)
    if first_of(segments(Path(path))[0]) > 1:  # checked afterwards, so nothing had been trimmed when it was read
        return replay(path).tickets.get(id), records
    ticket: Ticket | None = None
    for record in records:
        assert isinstance(record.event, TicketEvent)
        ticket = evolve(ticket, record.event, record.seq, record.at)
    return ticket, records


def _search(directory: Path, id: str, progress: Progress | None) -> list[Record]:
    paths = segments(directory)
    known = list(finished_segments(OS_FILES, paths))
    found = [find_indexed(OS_FILES, directory, segment, id) for segment in known]
    missing = [number for number, records in enumerate(found) if records is None]
    reporter = _Reporter(progress, sum(known[number].path.stat().st_size for number in missing))
    for number in missing:
        found[number] = _read(OS_FILES, directory, known[number], id, reporter)
    tail, _ = open_fixed(paths[-1])
    with tail:
        found.append(search_tail(tail, str(paths[-1]), id))
    return [record for records in found for record in records or ()]


class _Reporter:
    """The progress of a call of `history`, reported to its caller."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _read(files: Files, directory: Path, segment: FinishedSegment, id: str, reporter: _Reporter) -> list[Record]:
    """Return the records about a ticket in a segment without an index, and write its index if this user may."""
    built = build_index(files, segment, reporter.add)
    if may_write(files, directory):
        with contextlib.suppress(OSError):  # a full disk, for example: the answer does not need the index
            write_index(files, directory, built)
    return built.find(files, id)


def search_tail(file: BinaryIO, path: str, id: str) -> list[Record]:
    """Return the records about a ticket in the last segment, oldest first, of whole commits only.

    The chain is verified, but only records about the ticket, and the rest of their commits, are decoded: measured
    2.9 µs a line, against 5.2 for `read_segment`.

    Args:
        file: the segment, opened for reading at its beginning.
        path: its path, for messages.
        id: the ticket's.

    Raises:
        CorruptLog: it is damaged, other than by an unfinished last commit.
        UnknownFormat: a later version wrote a record about the ticket.

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
                record = parse_record(line, hash)
                missing = record.part[1] - record.part[0]
                if is_about(record, id):
                    commit.append(record)
        except BadLine as bad:
            number = seq - header.first + 2
            # The beginning of its commit is not known, nor needed: a line that vouches for this record does for all.
            refuse_damage(file, BrokenSegment(path, number, byte, byte, seq, str(bad)), last=True)
            break
        byte += len(line)
        if not missing:
            records += commit
            commit = []
    return records
