"""Repair: what a user does, and nothing else ever does, about a log that is damaged.

`repair(path)` says what is wrong, where, and what would be lost; `repair(path, confirm=True)` does it. The log is kept
up to its last whole commit in front of the damage. What stands behind cannot be kept, although it may be readable: each
line is bound to all lines before it. All bytes that are cut are kept in `quarantine/`, and `LogRepaired` records say
so. If nothing but a seal is damaged, that is written anew, and no record is lost.

What is cut is copied to `quarantine/` first. Then the tail is written, in which the records are, then the seals, and
what is not kept is removed last: so after a crash in between the log is still refused as damaged, and repair can be
called again. A log without damage is left alone; an unfinished last commit is for the next opening to cut.
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
from kharon.log.locations import is_ours, path_in, places_of, segments
from kharon.log.ownership import lock_directory
from kharon.log.record import BadLine, Chain, Header, Record, Seal, check_line, open_record, seal_line
from kharon.log.recovery import quarantine
from kharon.log.replace import copied, write_new
from kharon.log.scan import Reading
from kharon.log.segment import Broken, first_of, read_segment, segment_name, stem, stem_of, trusted_start
from kharon.log.snapshot import Snapshot, usable
from kharon.log.zstd import PACKED, open_segment
from kharon.model.checks import MAX_LINE_BYTES, check_name
from kharon.model.events import Event, LogRepaired, SegmentTrimmed, TicketAdded, TicketEvent
from kharon.model.projection import Projection

__all__ = ["Cut", "Repair", "repair"]


@attrs.frozen(slots=True, kw_only=True)
class Cut:
    """Bytes that a repair takes out of a log.

    Attributes:
        file: the file, under the queue's directory: "log/….jsonl"; if it is in an archive elsewhere, its path.
        byte: where they begin; 0: the whole file, as always of a compressed one.
        length: how many there are, to the end of the file.
        records: how many records can be read in them that are not kept. Those are lost, with whatever cannot be read.
        kept_as: where they are kept, under the queue's directory; None as long as nothing has been done.
    """

    file: str
    byte: int
    length: int
    records: int
    kept_as: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class Repair:
    """What `repair` would do to a log, or has done.

    Attributes:
        path: the queue's directory.
        damage: what is wrong, with file, line and byte; None: nothing is, and nothing is to be done.
        last: the seq of the last record that is kept.
        lost: the first and the last seq that would be lost, as far as can be known; None: no record.
        records: how many records that can still be read would be lost.
        tickets: how many tickets those are about. They go back to what they were at `last`.
        gone: how many of those tickets would not be there at all, since they were added behind `last`.
        cuts: the bytes that are cut.
        seals: the files whose seal is written anew.
        missing: the first and the last seq in front of the log's beginning, if no record that is kept says that they
            were trimmed: one is written that says so. None: the log begins with record 1, or such a record is kept.
        done: whether it has been done.
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
        """Say it to a person, in a few lines, however many files are cut."""
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
    """Say what it would take to make a damaged log whole again, and, if told so, do it.

    Args:
        path: the queue's directory; it must not be open anywhere. Call it on a copy first if you can.
        confirm: whether to do it. Without, nothing is written but the holder's name in `LOCK`.
        actor: the `by` of the records that say what was done.
        files: the file system.

    Returns:
        The plan; with `confirm`, what was done. With `damage` None nothing was.

    Raises:
        QueueLocked: the queue is open.
        UnknownFormat: a later version of Kharon wrote it. That is no damage.
        CorruptLog: not even the beginning is whole, so there is nothing to keep; or it was trimmed, and no usable
            snapshot would stand for it: restore the log from a copy.
        InvalidTicket: `actor` is no name.
        KharonError: there is no queue at `path`, or its directory should not be trusted.
        OSError: it cannot be read or written.

    Cost: O(bytes of the log), read twice; and the memory of the tickets.
    """
    check_name("actor", actor)
    where = Path(path)
    if files.kind(where / "log") != "directory" or not segments(where, files):
        raise KharonError(f"{where} is no queue: there is no segment in {where / 'log'}; there is nothing to repair")
    lock, _ = lock_directory(where, files, allow_network=True)  # who has a log there has said so before
    try:
        reading = Reading(lambda: segments(where, files), lambda path: open_segment(files.read, path))
        try:
            for _record in reading.records():
                pass
        except CorruptLog as corrupt:
            look = _Look(where, files)
            plan = look.plan(corrupt)
            return _Work(look, files, actor).do(plan) if confirm else plan
        return Repair(path=where, damage=None, last=reading.chain.seq)
    finally:
        lock.release()


@attrs.define(slots=True)
class _Part:
    """A segment that is kept, as far as it is whole: `whole` bytes, up to a line with this hash and this seq."""

    path: Path
    whole: int
    hash: str
    seq: int
    header: str
    seal: Seal | None = None


class _Look:
    """What is whole of a log, and what is not: a walk that goes as far as records follow from one another."""

    def __init__(self, where: Path, files: Files) -> None:
        self.where = where
        self.files = files
        self.chain = Chain()
        self.log: str | None = None
        self.parts: list[_Part] = []
        self.rest: list[Path] = []
        self.projection = Projection()
        self.begins = 1
        self.trimmed: SegmentTrimmed | None = None  # what a record that is kept should say of the log's beginning
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
        """Begin where the log does since its beginning was trimmed; return whether its first segment says where."""
        try:
            with open_segment(self.files.read, path) as file:
                self.chain = trusted_start(file, path)
        except CorruptLog:
            return False
        self.begins = self.chain.seq + 1
        self.trimmed = SegmentTrimmed(f"log/{segment_name(1)}", 1, self.chain.seq, self.chain.hash)
        return True

    def _walk(self, path: Path) -> bool:
        """Read a segment; return whether its header belongs here. `_torn`: what follows is not whole up to its end."""
        self._torn = False
        with open_segment(self.files.read, path) as file:
            try:
                if self.begins == 1:
                    self.projection.fold(self._items(path, file))
                else:  # with a snapshot, once it is known how far the log is whole: `_load`
                    for record in self._items(path, file):
                        self._confirm(record)
            except CorruptLog:
                return False
            except Broken:
                self._torn = True
        return True

    def _confirm(self, record: Record) -> None:
        event, trimmed = record.event, self.trimmed
        if trimmed is not None and type(event) is SegmentTrimmed and event.last == trimmed.last:
            if event.last_hash != trimmed.last_hash:
                why = "which is not what its header says; what is right cannot be known: restore the log from a copy"
                raise KharonError(
                    f"{self.where}: record {record.seq} says that the log follows {event.last_hash}, {why}"
                )
            self.trimmed = None

    def _load(self, corrupt: CorruptLog) -> None:
        """Find out the state at the end of what is kept of a log whose beginning was trimmed.

        Raises:
            CorruptLog: there is no snapshot for it.
        """
        snapshot = next(usable(self.files, self.where, [part.path for part in self.parts]), None)
        if snapshot is None:
            more = (
                f"; the history begins at record {self.begins}, and no usable snapshot stands at {self.chain.seq} or "
                f"before, so what could be kept could not be opened: restore the log from a copy"
            )
            raise CorruptLog(corrupt.file, corrupt.line, corrupt.byte, corrupt.why + more)
        self.projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        self.projection.fold(self._behind(snapshot))

    def _behind(self, snapshot: Snapshot) -> Iterator[Record]:
        chain = snapshot.end()
        for part in self.parts:
            if first_of(part.path) > snapshot.seq:
                with open_segment(self.files.read, part.path) as file, contextlib.suppress(Broken, CorruptLog):
                    for item in read_segment(file, str(part.path), chain, self.log):
                        if isinstance(item, Record):
                            yield item

    def _items(self, path: Path, file: BinaryIO) -> Iterator[Record]:
        part: _Part | None = None
        for item in read_segment(file, str(path), self.chain, self.log):
            if isinstance(item, Header):
                self._check_header(path, item)
                self.log = item.log
                part = _Part(path, file.tell(), item.hash, item.first - 1, item.hash)
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
            raise CorruptLog(str(path), 1, 0, "it is not the segment that comes next")

    def plan(self, corrupt: CorruptLog) -> Repair:
        """Return what is to be done about it.

        Raises:
            CorruptLog: there is nothing to keep.
        """
        if not self.parts:
            more = "; nothing in front of it is whole, so nothing could be kept: restore the log from a copy"
            raise CorruptLog(corrupt.file, corrupt.line, corrupt.byte, corrupt.why + more)
        if self.begins != 1:
            self._load(corrupt)
        places = [(part.path, part.whole) for part in (*self.unsealed(), self.parts[-1])]
        places += [(path, 0) for path in self.rest]
        cuts, lost = [], list[Record]()
        for path, whole in places:
            byte = 0 if path.suffix == PACKED else whole
            with self.files.read(path) as file:
                size = file.seek(0, os.SEEK_END)
            if size > byte:
                found = list(_readable(self.files, path, whole))
                lost += found
                file_name = path_in(self.where, path)
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
            seals=tuple(path_in(self.where, part.path) for part in self.unsealed()),
            missing=None if self.trimmed is None else (1, self.trimmed.last),
        )

    def unsealed(self) -> list[_Part]:
        """Return the segments in front of the tail that lack their seal."""
        return [part for part in self.parts[:-1] if part.seal is None]


def _readable(files: Files, path: Path, byte: int) -> Iterator[Record]:
    """Give the records in the lines from `byte` on that their own crc vouches for, as far as it can be unpacked."""
    with open_segment(files.read, path) as file, contextlib.suppress(CorruptLog):
        file.seek(byte)
        while line := file.readline(MAX_LINE_BYTES + 1):
            try:
                yield open_record(line, check_line(line, None))
            except BadLine:
                continue


class _Work:
    """The doing, with the directory held."""

    def __init__(self, look: _Look, files: Files, actor: str) -> None:
        self._look = look
        self._files = files
        self._actor = actor

    def do(self, plan: Repair) -> Repair:
        """Do it; return the plan with what came of it."""
        look, files = self._look, self._files
        places = places_of(look.where, files)  # before the tail is written: what is behind it does not count then
        cuts = []
        for cut in plan.cuts:
            path = look.where / cut.file
            with files.read(path) as old:
                kept_as = quarantine(files, look.where, path, old, cut.byte, cut.length)
            cuts.append(attrs.evolve(cut, kept_as=kept_as))
        events: list[Event] = [
            LogRepaired(cut.file, cut.byte, cut.length, cut.kept_as or "", cut.records) for cut in cuts
        ]
        if not events:  # a seal that was missing without a trace: the record names where it is now
            events += [LogRepaired(file, 0, 0, "", 0) for file in plan.seals]
        if look.trimmed is not None:
            events.append(look.trimmed)
        tail = look.parts[-1]
        chain = Chain(tail.seq, tail.hash, look.chain.at)  # the walk's own may stand behind a header that is cut
        lines = chain.commit(events, datetime.now(UTC), self._actor, tail.seq)
        self._write(tail, lines)
        for part, following in zip(look.parts, look.parts[1:], strict=False):
            if part.seal is None:
                self._write(part, [seal_line(part.hash, Seal(part.seq, following.header))])
        self._remove_rest(places)
        return attrs.evolve(plan, cuts=tuple(cuts), done=True)

    def _path(self, part: _Part) -> Path:
        """Where a segment is written anew, never compressed: the tail in `log/`, any other where it is."""
        name = segment_name(first_of(part.path))
        return self._look.where / "log" / name if part is self._look.parts[-1] else part.path.with_name(name)

    def _write(self, part: _Part, more: list[bytes]) -> None:
        with open_segment(self._files.read, part.path) as old:
            write_new(self._files, self._path(part), chained(copied(old, part.whole, part.path), more))

    def _remove_rest(self, places: dict[str, list[Path]]) -> None:
        """Remove what is not kept, and what was written anew elsewhere, wherever it is; the newest first."""
        look, files = self._look, self._files
        tail = look.parts[-1]
        written = {stem_of(part.path): self._path(part) for part in (*look.unsealed(), tail)}
        gone = {stem_of(path) for path in look.rest} | written.keys()
        for name in sorted(gone, reverse=True):
            for path in places[name]:
                # In the archive of a queue that this is a copy of it is left, and does not count: log/ has older ones.
                if path != written.get(name) and is_ours(look.where, path.parent, files):
                    files.unlink(path)
                    files.sync_directory(path.parent)
