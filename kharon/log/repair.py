"""Repair of a damaged log: done when a user asks for it, and never otherwise.

`repair(path)` reports the damage and what a repair would lose; `repair(path, confirm=True)` does it. The log is kept up
to its last whole commit before the damage. Later records cannot be kept, even readable ones, since each line is bound
to all lines before it. All bytes that are cut are kept in `quarantine/`, and `LogRepaired` records say so. If only a
seal is damaged, it is rewritten, and no record is lost.

The cut bytes are copied to `quarantine/` first, and snapshots of records that are cut are moved there. Then the tail is
written with the records of the repair, then the seals; the rest is removed last. So after a crash in between the log is
still refused as damaged, and repair can be called again. A log without damage is left alone; an unfinished last commit
is for the next opening to cut.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain as chained
from pathlib import Path
from typing import BinaryIO

import attrs

from kharon.errors import CorruptLog, KharonError
from kharon.log.files import OS_FILES, Files
from kharon.log.locations import locate_segments, owns_archive, recorded_path, segments
from kharon.log.ownership import lock_directory
from kharon.log.record import BadLine, Chain, Header, Record, Seal, check_line, parse_record, seal_line
from kharon.log.recovery import quarantine, quarantine_of, unused_name
from kharon.log.replace import copy_chunks, replace_file
from kharon.log.scan import LogScan
from kharon.log.segment import (
    BrokenSegment,
    first_of,
    is_numbered,
    read_segment,
    segment_name,
    stem,
    stem_of,
    unproved_start,
)
from kharon.log.snapshot import Snapshot, snapshots_of, usable
from kharon.log.zstd import ZSTD_SUFFIX, open_segment
from kharon.model.checks import MAX_LINE_BYTES, check_name
from kharon.model.events import Event, LogRepaired, SegmentTrimmed, TicketAdded, TicketEvent
from kharon.model.projection import Projection

__all__ = ["Cut", "Repair", "repair"]


@attrs.frozen(slots=True, kw_only=True)
class Cut:
    """Bytes that a repair cuts out of a log.

    Attributes:
        file: the file's path in the queue's directory: "log/….jsonl"; if it is in an archive elsewhere, its full path.
        byte: the offset of the first cut byte; 0: the whole file, as always for a compressed one.
        length: the number of bytes, up to the end of the file.
        records: how many records can be read in them. They are lost, as is everything in them that cannot be read.
        kept_as: the path of the copy in the queue's directory; None: nothing has been done yet.
    """

    file: str
    byte: int
    length: int
    records: int
    kept_as: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class Repair:
    """A repair that `repair` proposes, or has done.

    Attributes:
        path: the queue's directory.
        damage: the fault, with file, line and byte; None: there is none, and nothing to do.
        last: the seq of the last record that is kept.
        lost: the first and the last seq that would be lost, as far as is known; None: no record is.
        records: how many readable records would be lost.
        tickets: how many tickets those records are about. They return to their state at `last`.
        gone: how many of those tickets would disappear, since they were added after `last`.
        cuts: the bytes that are cut.
        seals: the files whose seal is rewritten.
        missing: the first and the last seq before the log's beginning, if no kept record says that they were trimmed:
            the repair writes one that does. None: the log begins with record 1, or such a record is kept.
        done: whether the repair has been done.
    """

    path: Path
    damage: str | None
    last: int
    lost: tuple[int, int] | None = None
    records: int = 0
    tickets: int = 0
    gone: int = 0
    cuts: tuple[Cut, ...] = ()
    seals: tuple[str, ...] = ()
    missing: tuple[int, int] | None = None
    done: bool = False

    def __str__(self) -> str:
        """Return a description for people, of a few lines, however many files are cut."""
        if self.damage is None:
            return f"{self.path} is whole: there is nothing to repair"
        told = [f"damage: {self.damage}", f"kept: the log up to record {self.last}"]
        if self.lost is not None:
            upto = f"records {self.lost[0]} to {self.lost[1]}, of which {self.records} can still be read"
            told.append(f"lost: {upto}; they are about {self.tickets} tickets, and {self.gone} of those will be gone")
        if self.cuts:
            size = sum(cut.length for cut in self.cuts)
            told.append(f"cut: {size} bytes in {len(self.cuts)} files, which are kept in quarantine/")
        if self.seals:
            told.append(f"sealed anew: {', '.join(self.seals)}")
        if self.missing is not None:
            told.append(f"missing at the beginning: records {self.missing[0]} to {self.missing[1]}, said to be trimmed")
        told.append("this has been done" if self.done else "nothing has been done yet: confirm=True does it")
        return "\n".join(told)


def repair(
    path: str | os.PathLike[str], *, confirm: bool = False, actor: str = "repair", files: Files = OS_FILES
) -> Repair:
    """Return the repair that would make a damaged log whole again; with `confirm`, do it first.

    Args:
        path: the queue's directory; the queue must not be open anywhere. Try it on a copy first if you can.
        confirm: whether to do the repair. If not, nothing is written except the holder's name in `LOCK`.
        actor: the `by` of the records that describe the repair.
        files: the file system.

    Returns:
        The repair, proposed or done. If its `damage` is None, the log was whole, and nothing was done.

    Raises:
        QueueLocked: the queue is open.
        UnknownFormat: a later version of Kharon wrote it, which is not damage.
        CorruptLog: not even the beginning is whole, so there is nothing to keep; or it was trimmed, and no usable
            snapshot replaces it: restore the log from a copy.
        InvalidTicket: `actor` is not a valid name.
        KharonError: there is no queue at `path`, or its directory should not be trusted.
        OSError: the log cannot be read or written.

    Cost: O(bytes of the log), read twice; and the memory of the tickets.
    """
    check_name("actor", actor)
    where = Path(path)
    if files.kind(where / "log") != "directory" or not segments(where, files):
        raise KharonError(f"{where} is not a queue: there is no segment in {where / 'log'}; there is nothing to repair")
    lock, _ = lock_directory(
        where, files, allow_network=True, allow_group=True
    )  # a log is there, so this was allowed when the queue was made
    try:
        reading = LogScan(lambda: segments(where, files), lambda path: open_segment(files.read, path))
        try:
            for _record in reading.records():
                pass
        except CorruptLog as corrupt:
            diagnosis = _Diagnosis(where, files)
            plan = diagnosis.plan(corrupt)
            return _Repairer(diagnosis, files, actor).do(plan) if confirm else plan
        return Repair(path=where, damage=None, last=reading.chain.seq)
    finally:
        lock.release()


@attrs.define(slots=True)
class _KeptSegment:
    """A segment to keep, as far as it is whole: `whole` bytes, up to the record `seq`, with this hash."""

    path: Path
    whole: int
    hash: str
    seq: int
    header: str
    seal: Seal | None = None


class _Diagnosis:
    """Finds the whole part of a log: reads segments for as long as their records follow from one another."""

    def __init__(self, where: Path, files: Files) -> None:
        self.where = where
        self.files = files
        self.chain = Chain()
        self.log: str | None = None
        self.parts: list[_KeptSegment] = []
        self.rest: list[Path] = []
        self.projection = Projection()
        self.begins = 1
        self.trimmed: SegmentTrimmed | None = None  # the trimming of the log's beginning, until a kept record states it
        paths = segments(where, files)
        if stem_of(paths[0]) != stem(1) and not self._begin_behind(paths[0]):
            paths = []
        for index, path in enumerate(paths):
            if not self._walk(path):
                self.rest = paths[len(self.parts) :]
                break
            following = paths[index + 1] if index + 1 < len(paths) else None
            if self._torn and (following is None or stem_of(following) != stem(self.chain.seq + 1)):
                self.rest = paths[index + 1 :]
                break

    def _begin_behind(self, path: Path) -> bool:
        """Begin at the first segment of a trimmed log; return whether its header is valid."""
        try:
            with open_segment(self.files.read, path) as file:
                self.chain = unproved_start(file, path)
        except CorruptLog:
            return False
        self.begins = self.chain.seq + 1
        self.trimmed = SegmentTrimmed(f"log/{segment_name(1)}", 1, self.chain.seq, self.chain.hash)
        return True

    def _walk(self, path: Path) -> bool:
        """Read a segment; return whether its header is the next one. Sets `_torn` if a later line is not whole."""
        self._torn = False
        with open_segment(self.files.read, path) as file:
            try:
                if self.begins == 1:
                    self.projection.fold(self._items(path, file))
                else:  # `_load` folds from a snapshot later, once the whole part is known
                    for record in self._items(path, file):
                        self._confirm(record)
            except CorruptLog:
                return False
            except BrokenSegment:
                self._torn = True
        return True

    def _confirm(self, record: Record) -> None:
        event, trimmed = record.event, self.trimmed
        if trimmed is not None and type(event) is SegmentTrimmed and event.last == trimmed.last:
            if event.last_hash != trimmed.last_hash:
                why = "which is not what its header says; which is right cannot be known: restore the log from a copy"
                raise KharonError(
                    f"{self.where}: record {record.seq} says that the log follows {event.last_hash}, {why}"
                )
            self.trimmed = None

    def _load(self, corrupt: CorruptLog) -> None:
        """Restore the state at the end of the kept part of a log whose beginning was trimmed.

        Raises:
            CorruptLog: no usable snapshot is old enough.
        """
        snapshot = next(usable(self.files, self.where, [part.path for part in self.parts]), None)
        if snapshot is None:
            more = (
                f"; the history begins at record {self.begins}, and no usable snapshot is of {self.chain.seq} or "
                f"earlier, so the part to keep could not be opened: restore the log from a copy"
            )
            raise CorruptLog(corrupt.file, corrupt.line, corrupt.byte, corrupt.why + more)
        self.projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        self.projection.fold(self._behind(snapshot))

    def _behind(self, snapshot: Snapshot) -> Iterator[Record]:
        chain = snapshot.end()
        for part in self.parts:
            if first_of(part.path) > snapshot.seq:
                with open_segment(self.files.read, part.path) as file, contextlib.suppress(BrokenSegment, CorruptLog):
                    for item in read_segment(file, str(part.path), chain, self.log):
                        if isinstance(item, Record):
                            yield item

    def _items(self, path: Path, file: BinaryIO) -> Iterator[Record]:
        part: _KeptSegment | None = None
        for item in read_segment(file, str(path), self.chain, self.log):
            if isinstance(item, Header):
                self._check_header(path, item)
                self.log = item.log
                part = _KeptSegment(path, file.tell(), item.hash, item.first - 1, item.hash)
                self.parts.append(part)
                continue
            assert part is not None  # a segment begins with its header
            if isinstance(item, Seal):
                part.seal = item
            else:
                part.hash, part.seq = item.hash, item.seq
                if item.part[0] == item.part[1]:
                    part.whole = file.tell()
                yield item

    def _check_header(self, path: Path, header: Header) -> None:
        seal = self.parts[-1].seal if self.parts else None
        if stem_of(path) != stem(header.first) or (seal is not None and seal.next != header.hash):
            raise CorruptLog(str(path), 1, 0, "it is not the next segment")

    def plan(self, corrupt: CorruptLog) -> Repair:
        """Return the repair to propose.

        Raises:
            CorruptLog: there is nothing to keep.
        """
        if not self.parts:
            more = "; nothing before it is whole, so nothing could be kept: restore the log from a copy"
            raise CorruptLog(corrupt.file, corrupt.line, corrupt.byte, corrupt.why + more)
        if self.begins != 1:
            self._load(corrupt)
        places = [(part.path, part.whole) for part in (*self.unsealed(), self.parts[-1])]
        places += [(path, 0) for path in self.rest]
        cuts, lost = [], list[Record]()
        for path, whole in places:
            byte = 0 if path.suffix == ZSTD_SUFFIX else whole
            with self.files.read(path) as file:
                size = file.seek(0, os.SEEK_END)
            if size > byte:
                found = list(_readable(self.files, path, whole))
                lost += found
                file_name = recorded_path(self.where, path)
                cuts.append(Cut(file=file_name, byte=byte, length=size - byte, records=len(found)))
        first = self.chain.seq + 1
        known = [seq for record in lost for seq in (record.seq, record.durable) if seq >= first]
        events = [record.event for record in lost if isinstance(record.event, TicketEvent)]
        gone = {event.id for event in events if type(event) is TicketAdded} - set(self.projection.tickets)
        return Repair(
            path=self.where,
            damage=str(corrupt),
            last=self.chain.seq,
            lost=(first, max(known)) if known else None,
            records=len(lost),
            tickets=len({event.id for event in events}),
            gone=len(gone),
            cuts=tuple(cuts),
            seals=tuple(recorded_path(self.where, part.path) for part in self.unsealed()),
            missing=None if self.trimmed is None else (1, self.trimmed.last),
        )

    def unsealed(self) -> list[_KeptSegment]:
        """Return the segments before the tail that lack their seal."""
        return [part for part in self.parts[:-1] if part.seal is None]


def _readable(files: Files, path: Path, byte: int) -> Iterator[Record]:
    """Yield the records in lines from `byte` on whose crc is right, as far as the file can be decompressed."""
    with open_segment(files.read, path) as file, contextlib.suppress(CorruptLog):
        file.seek(byte)
        while line := file.readline(MAX_LINE_BYTES + 1):
            try:
                yield parse_record(line, check_line(line, None))
            except BadLine:
                continue


class _Repairer:
    """Does a repair, while the directory is locked."""

    def __init__(self, diagnosis: _Diagnosis, files: Files, actor: str) -> None:
        self._diagnosis = diagnosis
        self._files = files
        self._actor = actor

    def do(self, plan: Repair) -> Repair:
        """Do the repair; return it with the paths of the copies."""
        diagnosis, files = self._diagnosis, self._files
        places = locate_segments(diagnosis.where, files)  # now: once the tail is written, later ones are not listed
        cuts = []
        for cut in plan.cuts:
            path = diagnosis.where / cut.file
            with files.read(path) as old:
                kept_as = quarantine(files, diagnosis.where, path, old, cut.byte, cut.length)
            cuts.append(attrs.evolve(cut, kept_as=kept_as))
        self._set_snapshots_aside(plan.last)
        events: list[Event] = [
            LogRepaired(cut.file, cut.byte, cut.length, cut.kept_as or "", cut.records) for cut in cuts
        ]
        if not events:  # a seal was missing without a trace: the record names its file
            events += [LogRepaired(file, 0, 0, "", 0) for file in plan.seals]
        if diagnosis.trimmed is not None:
            events.append(diagnosis.trimmed)
        tail = diagnosis.parts[-1]
        chain = Chain(tail.seq, tail.hash, diagnosis.chain.at)  # the scan may be past a header that is cut
        lines = chain.commit(events, datetime.now(UTC), self._actor, tail.seq)
        self._write(tail, lines)
        for part, following in zip(diagnosis.parts, diagnosis.parts[1:], strict=False):
            if part.seal is None:
                self._write(part, [seal_line(part.hash, Seal(part.seq, following.header))])
        self._remove_rest(places)
        return attrs.evolve(plan, cuts=tuple(cuts), done=True)

    def _set_snapshots_aside(self, last: int) -> None:
        """Move snapshots of records that are cut to `quarantine/`: they fit no log any more."""
        where, files = self._diagnosis.where, self._files
        stale = [path for path in snapshots_of(files, where) if is_numbered(path) and first_of(path) > last]
        for path in stale:
            files.rename(path, unused_name(files, quarantine_of(files, where), f"snapshot-{stem_of(path)}"))
        if stale:
            files.sync_directory(where / "quarantine")
            files.sync_directory(where)
            files.sync_directory(where / "snapshots")

    def _path(self, part: _KeptSegment) -> Path:
        """Return where a segment is rewritten, never compressed: the tail in `log/`, any other where it is."""
        name = segment_name(first_of(part.path))
        return self._diagnosis.where / "log" / name if part is self._diagnosis.parts[-1] else part.path.with_name(name)

    def _write(self, part: _KeptSegment, more: list[bytes]) -> None:
        with open_segment(self._files.read, part.path) as old:
            replace_file(self._files, self._path(part), chained(copy_chunks(old, part.whole, part.path), more))

    def _remove_rest(self, places: dict[str, list[Path]]) -> None:
        """Remove, newest first, segments that are not kept, and old copies of those that were rewritten elsewhere."""
        diagnosis, files = self._diagnosis, self._files
        tail = diagnosis.parts[-1]
        written = {stem_of(part.path): self._path(part) for part in (*diagnosis.unsealed(), tail)}
        gone = {stem_of(path) for path in diagnosis.rest} | written.keys()
        for name in sorted(gone, reverse=True):
            for path in places[name]:
                # Left alone in the archive of a queue of which this is a copy: log/ has older ones, so it is ignored.
                if path != written.get(name) and owns_archive(diagnosis.where, path.parent, files):
                    files.unlink(path)
                    files.sync_directory(path.parent)
