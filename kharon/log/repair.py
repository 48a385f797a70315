"""Repair: what a user does, and nothing else ever does, about a log that is damaged.

`repair(path)` says what is wrong, where, and what would be lost; `repair(path, confirm=True)` does it. The log is kept
up to its last whole commit in front of the damage. What stands behind cannot be kept, although it may be readable: each
line is bound to all lines before it. All bytes that are cut are kept in `quarantine/`, and `LogRepaired` records say
so. A seal that is damaged, and nothing else, is written anew and costs no record.

The tail, which has these records, is written first, then the seals, and what stands behind it is moved last: so after a
crash in between the log is still refused as damaged, and repair can be called again. A log without damage, unfinished
commit included, is left alone: opening sees to that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import attrs

from kharon.errors import CorruptLog, KharonError
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES, Files
from kharon.log.record import BadLine, Chain, Header, Record, Seal, check_line, open_record, seal_line
from kharon.log.segment import Broken, Reading, read_segment, segment_name
from kharon.model.events import LogRepaired, TicketAdded, TicketEvent
from kharon.model.limits import MAX_LINE_BYTES, check_name
from kharon.model.projection import Projection

__all__ = ["Cut", "Repair", "repair"]


@attrs.frozen(slots=True, kw_only=True)
class Cut:
    """Bytes that a repair takes out of a log.

    Attributes:
        file: the file, under the queue's directory: "log/….jsonl".
        byte: where they begin; 0: the whole file.
        length: how many there are, to the end of the file.
        records: how many records can be read in them. Those are lost, with whatever cannot be read.
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
    done: bool = False


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
        CorruptLog: not even the beginning is whole, so there is nothing to keep: restore it from a copy.
        InvalidTicket: `actor` is no name.
        KharonError: there is no queue at `path`, or its directory should not be trusted.
        OSError: it cannot be read or written.

    Cost: O(bytes of the log), read twice; and the memory of the tickets.
    """
    check_name("actor", actor)
    where = Path(path)
    if files.kind(where / "log") != "directory" or not segments(where, files):
        raise KharonError(f"{where} is no queue: there is no segment in {where / 'log'}; there is nothing to repair")
    log = DirectoryLog(where, files=files, allow_network_filesystem=True)  # who has a log there has said so before
    try:
        log._prepare()
        reading = Reading(lambda: segments(where, files), files.read)
        try:
            for _record in reading.records():
                pass
        except CorruptLog as corrupt:
            look = _Look(where, files)
            plan = look.plan(corrupt)
            return _Work(look, log, files, actor).do(plan) if confirm else plan
        return Repair(path=where, damage=None, last=reading.chain.seq)
    finally:
        log.abandon()


@attrs.define(slots=True)
class _Part:
    """A segment that is kept, as far as it is whole: `whole` bytes, up to a line with this hash and this seq."""

    path: Path
    whole: int
    size: int
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
        paths = segments(where, files)
        for index, path in enumerate(paths):
            if not self._walk(path):
                self.rest = paths[len(self.parts) :]
                break
            following = paths[index + 1] if index + 1 < len(paths) else None
            if self._torn and (following is None or following.name != segment_name(self.chain.seq + 1)):
                self.rest = paths[index + 1 :]
                break

    def _walk(self, path: Path) -> bool:
        """Read a segment; return whether its header belongs here. `_torn`: what follows is not whole up to its end."""
        self._torn = False
        with self.files.read(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            try:
                self.projection.fold(self._items(path, file, size))
            except CorruptLog:
                return False
            except Broken:
                self._torn = True
        return True

    def _items(self, path: Path, file: BinaryIO, size: int) -> Iterator[Record]:
        part: _Part | None = None
        for item in read_segment(file, str(path), self.chain, self.log):
            if isinstance(item, Header):
                self._check_header(path, item)
                self.log = item.log
                part = _Part(path, file.tell(), size, item.hash, item.first - 1, item.hash)
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
        if path.name != segment_name(header.first) or (seal is not None and seal.next != header.hash):
            raise CorruptLog(str(path), 1, 0, "it is not the segment that comes next")

    def plan(self, corrupt: CorruptLog) -> Repair:
        """Return what is to be done about it.

        Raises:
            CorruptLog: there is nothing to keep.
        """
        if not self.parts:
            more = "; nothing in front of it is whole, so nothing could be kept: restore the log from a copy"
            raise CorruptLog(corrupt.file, corrupt.line, corrupt.byte, corrupt.why + more)
        tail = self.parts[-1]
        places = [(part.path, part.whole, part.size) for part in self.unsealed()]
        places.append((tail.path, tail.whole, tail.size))
        for path in self.rest:
            with self.files.read(path) as file:
                places.append((path, 0, file.seek(0, os.SEEK_END)))
        cuts, lost = [], list[Record]()
        for path, byte, size in places:
            if size > byte:
                found = list(_readable(self.files, path, byte))
                lost += found
                cuts.append(Cut(file=f"log/{path.name}", byte=byte, length=size - byte, records=len(found)))
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
            seals=tuple(f"log/{part.path.name}" for part in self.unsealed()),
        )

    def unsealed(self) -> list[_Part]:
        """Return the segments in front of the tail that lack their seal."""
        return [part for part in self.parts[:-1] if part.seal is None]


def _readable(files: Files, path: Path, byte: int) -> Iterator[Record]:
    """Give the records in the lines from `byte` on that their own crc vouches for."""
    with files.read(path) as file:
        file.seek(byte)
        while line := file.readline(MAX_LINE_BYTES + 1):
            try:
                yield open_record(line, check_line(line, None))
            except BadLine:
                continue


class _Work:
    """The doing, with the lock held by `log`."""

    def __init__(self, look: _Look, log: DirectoryLog, files: Files, actor: str) -> None:
        self._look = look
        self._log = log
        self._files = files
        self._actor = actor

    def do(self, plan: Repair) -> Repair:
        """Do it; return the plan with what came of it."""
        look, log, files = self._look, self._log, self._files
        cuts = []
        for cut in plan.cuts:
            path = look.where / cut.file
            with files.read(path) as old:
                cuts.append(attrs.evolve(cut, kept_as=log._quarantine(path, old, cut.byte, cut.length)))
        events = [LogRepaired(cut.file, cut.byte, cut.length, cut.kept_as or "", cut.records) for cut in cuts]
        if not events:  # a seal that was missing without a trace: the record names where it is now
            events = [LogRepaired(file, 0, 0, "", 0) for file in plan.seals]
        tail = look.parts[-1]
        chain = Chain(tail.seq, tail.hash, look.chain.at)  # the walk's own may stand behind a header that is cut
        lines = chain.commit(events, datetime.now(UTC), self._actor, tail.seq)
        self._write(tail, b"".join(lines))
        for part, following in zip(look.parts, look.parts[1:], strict=False):
            if part.seal is None:
                self._write(part, seal_line(part.hash, Seal(part.seq, following.header)))
        for path in reversed(look.rest):
            files.unlink(path)
        files.sync_directory(look.where / "log")
        return attrs.evolve(plan, cuts=tuple(cuts), done=True)

    def _write(self, part: _Part, more: bytes) -> None:
        with self._files.read(part.path) as old:
            self._log._write_new(part.path, old, part.whole, more).close()
