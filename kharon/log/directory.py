"""The directory log: JSON Lines under one directory, held by one process.

    LOCK                                held with flock while the queue is open; never unlinked
    log/<first seq, 20 digits>.jsonl    segments; the last one is the tail, which grows
    log/<first seq, 20 digits>.jsonl.zst   a sealed segment that was compressed
    archive/, or where ARCHIVE points   sealed segments that were moved out of the way
    quarantine/                         bytes that recovery cut off

`DirectoryLog` takes the lock, recovers, appends, writes, syncs and begins new segments. When to write and sync is the
store's decision. What a line is, is in `record`; how files are read, in `segment`; how they are written, in `files`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from kharon.errors import CorruptLog, KharonError, QueueLocked, StorageFull
from kharon.log.files import OS_FILES, File, Files, Lock
from kharon.log.moves import Moved, archives, finish_moves
from kharon.log.packed import PACKED, open_segment
from kharon.log.record import Chain, Record, Seal, check_line, open_record, seal_line
from kharon.log.segment import Broken, LiveReader, Place, Reading, Unsealed, first_of, segment_name
from kharon.model.events import Event, LogClosed, TailCut

__all__ = ["DEFAULT_SEGMENT_BYTES", "DirectoryLog", "segments"]

DEFAULT_SEGMENT_BYTES: Final = 8 << 20
_KNOWN: Final = frozenset({"ARCHIVE", "LOCK", "archive", "log", "quarantine", "snapshots"})
_SEGMENTS: Final = (".jsonl", ".jsonl" + PACKED)
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CLOCK: Final = "clock"
_TEMPORARY: Final = ".tmp"


def segments(directory: Path, files: Files = OS_FILES) -> list[Path]:
    """Return the segments of a queue's directory, oldest first, wherever they are now.

    Of a segment that a crash left in two places, the older is given: it was whole before the newer was begun.

    Raises:
        OSError: they cannot be listed.
    """
    found: dict[str, Path] = {}
    for folder in (directory / "log", *archives(directory, files)):  # in this order: what moves, moves to a later one
        for name in files.list(folder):
            if name.endswith(_SEGMENTS):
                found.setdefault(name.partition(".")[0], folder / name)
    return [found[stem] for stem in sorted(found)]


class DirectoryLog:
    """A log in a directory.

    Args:
        where: the directory; made, with mode 0700, if it does not exist.
        segment_bytes: when the tail has so many bytes, a new segment is begun.
        files: the file system.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        files: Files = OS_FILES,
    ) -> None:
        self._where = Path(where)
        self._segment_bytes = segment_bytes
        self._files = files
        self._lock: Lock | None = None
        self._tail: File | None = None
        self._places: list[Place] = []
        self._size = 0
        self._log_id = ""
        self._chain = Chain()
        self._written = Chain()
        self._pending: list[bytes] = []
        self._closed_cleanly = False
        self.written = 0
        self.durable = 0

    @property
    def seq(self) -> int:
        """The seq of the last record appended."""
        return self._chain.seq

    @property
    def first(self) -> int:
        """The seq at which the history begins."""
        return self._places[0].first if self._places else 1

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self, now: datetime) -> Iterator[Record]:
        """Lock the directory, recover, and give every record in order.

        Raises:
            QueueLocked: the directory is open already, in this process or another.
            CorruptLog: the log is damaged otherwise than by an unfinished last commit. Nothing was changed.
            UnknownFormat: a later version wrote it.
            KharonError: this is no queue's directory.
            OSError: the directory cannot be read or written.

        Cost: O(bytes of the log). After an unclean stop the tail is copied once.
        """
        self._make_directory()
        self._take_lock()
        found = segments(self._where, self._files)
        if not found:
            self._create(now)
            return
        if first_of(found[0]) != 1:
            why = f"the log begins at record {first_of(found[0])}, and no snapshot of what came before it is usable"
            raise CorruptLog(str(found[0]), 1, 0, why)
        reading = Reading(lambda: segments(self._where, self._files), lambda path: open_segment(self._files.read, path))
        moves: list[Moved] = []
        for record in reading.records():
            if isinstance(record.event, Moved):
                moves.append(record.event)
            yield record
        self._chain, self._places, self._log_id = reading.chain, reading.places, reading.log or ""
        self._closed_cleanly = reading.closed and reading.broken is None
        if reading.unsealed is not None:
            self._seal_after_crash(reading.unsealed)
        if self._closed_cleanly:
            self._tail = self._files.append(self._tail_path)
            self._tail.sync()  # the process may have died between writing that it closed the log and the sync
        else:
            yield from self._recover(reading.broken, now)
        self._size = self._open_tail().size()
        self._mark_written()
        self.durable = self.written
        finish_moves(self._files, self._where, moves)
        self._places = [Place(first_of(path), path) for path in segments(self._where, self._files)]

    @property
    def _tail_path(self) -> Path:
        return self._places[-1].path if self._places else self._where

    def _make_directory(self) -> None:
        where, files = self._where, self._files
        kind = files.kind(where)
        if kind == "directory":
            strange = [name for name in files.list(where) if name not in _KNOWN]
            ours = files.kind(where / "LOCK") == "file" and files.kind(where / "log") == "directory"
            if strange and not ours:
                raise KharonError(f"{where} is no queue, and is not empty ({strange[0]} …); name a new directory")
        elif kind is not None:
            raise KharonError(f"{where} is a file; a queue is a directory")
        else:
            parent = where.absolute().parent
            if files.kind(parent) != "directory":
                raise KharonError(f"{where} cannot be made: {parent} is no directory; make that first")
            files.make_directory(where)
            files.sync_directory(parent)
        if files.kind(where / "log") is None:
            files.make_directory(where / "log")
        files.sync_directory(where)

    def _take_lock(self) -> None:
        try:
            self._lock = self._files.lock(self._where / "LOCK", b"%d\n" % os.getpid())
        except BlockingIOError as busy:
            raise QueueLocked(
                f"{self._where} is open already, in process {busy} (this is process {os.getpid()}); a queue has one "
                f"opener at a time. Close it there, or ask that process to do the work"
            ) from None

    def _create(self, now: datetime) -> None:
        self._log_id = uuid.uuid4().hex
        path = self._where / "log" / segment_name(1)
        line = self._chain.header(self._log_id, now)
        self._tail = self._write_new(path, io.BytesIO(line), len(line), replace=False)
        self._places = [Place(1, path)]
        self._size = len(line)
        self._mark_written()
        self._closed_cleanly = True  # nothing has happened yet that would have to be said closed

    def _recover(self, broken: Broken | None, now: datetime) -> Iterator[Record]:
        """Write the whole part of the tail to a new inode: a failed sync may have left it in the page cache only.

        What says that bytes were cut is in that inode too, so that a crash in here either cuts and says so, or neither.
        It vouches for all before it, since the inode has its name only once all of it is on disk.
        """
        path = self._tail_path
        with self._files.read(path) as old:
            whole = old.seek(0, os.SEEK_END)
            lines: list[bytes] = []
            if broken is not None:
                length, whole = whole - broken.commit_byte, broken.commit_byte
                kept_as = self._quarantine(old, whole, length)
                cut = TailCut(f"log/{path.name}", whole, length, kept_as)
                lines = self._chain.commit([cut], now, _CLOCK, self._chain.seq)
            old.seek(0)
            self._tail = self._write_new(path, old, whole, b"".join(lines))
        yield from (open_record(line, check_line(line, None)) for line in lines)

    def _quarantine(self, old: BinaryIO, start: int, length: int) -> str:
        aside = self._where / "quarantine"
        if self._files.kind(aside) is None:
            self._files.make_directory(aside)
        stem = f"{self._tail_path.stem}-{start}"
        name, count = stem, 0
        while self._files.kind(aside / name) is not None:  # an earlier recovery's: nothing kept aside is overwritten
            count += 1
            name = f"{stem}.{count}"
        old.seek(start)
        self._write_new(aside / name, old, length).close()
        self._files.sync_directory(self._where)
        return f"quarantine/{name}"

    def _seal_after_crash(self, unsealed: Unsealed) -> None:
        """Give the last segment but one the seal that a crash kept from it."""
        line = seal_line(unsealed.hash, Seal(unsealed.last, self._chain.hash))
        with self._files.read(unsealed.path) as old:
            self._write_new(unsealed.path, old, unsealed.whole, line).close()

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append one commit in memory. O(bytes)."""
        self._pending += self._chain.commit(events, at, by, self.durable)
        self._closed_cleanly = False
        return self._chain.at or at

    def write(self) -> None:
        """Write what has been appended to the operating system: one call for all of it. A full tail gets a successor.

        Raises:
            StorageFull: there was no room. Nothing of what was appended since the last `write` is kept.
            OSError: the outcome is not known; the log is closed for good.
        """
        if self._pending:
            self._write_pending()
            if self._size >= self._segment_bytes:
                self._begin_segment()

    def _write_pending(self) -> None:
        data = b"".join(self._pending)
        try:
            self._open_tail().write(data)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self._close_tail()
                raise
            self._take_back()
            raise StorageFull(
                f"{self._tail_path}: no room for {len(data)} bytes ({error.strerror}); nothing of them was kept. "
                f"Make room, then open the queue again"
            ) from error
        self._pending.clear()
        self._size += len(data)
        self._mark_written()

    def _mark_written(self) -> None:
        self._written = Chain(self._chain.seq, self._chain.hash, self._chain.at)
        self.written = self._chain.seq

    def _take_back(self) -> None:
        """Go back to the last write, in the file and in memory: what callers were told is not kept must not appear."""
        try:
            self._open_tail().truncate(self._size)
        except OSError:
            self._close_tail()
            raise
        self._pending.clear()
        self._chain = Chain(self._written.seq, self._written.hash, self._written.at)

    def sync(self) -> None:
        """Bring what has been written onto the disk. A failure is final: the kernel may have dropped the pages."""
        if self.durable == self.written:
            return
        try:
            self._open_tail().sync()
        except OSError:
            self._close_tail()
            raise
        self.durable = self.written

    def _begin_segment(self) -> None:
        """Begin a new segment behind the tail, then seal the tail.

        In this order, and each on disk before the next, so that a sealed segment without a successor is damage, and so
        is an unsealed one whose successor has records. Costs four syncs, once in `segment_bytes`.
        """
        self.sync()
        assert self._chain.at is not None  # there are records: they filled the tail
        ahead = Chain(self._chain.seq, self._chain.hash, self._chain.at)
        line = ahead.header(self._log_id, self._chain.at)
        path = self._where / "log" / segment_name(self._chain.seq + 1)
        try:
            tail = self._write_new(path, io.BytesIO(line), len(line), replace=False)
        except OSError as error:
            if error.errno in _NO_ROOM and self._files.kind(path) is None:
                return  # the tail is as good as before; the next write tries again
            self._close_tail()
            raise
        old = self._open_tail()
        try:
            old.write(seal_line(self._chain.hash, Seal(self._chain.seq, ahead.hash)))
            old.sync()
        except OSError:
            tail.close()
            self._close_tail()
            raise
        old.close()
        self._tail, self._chain, self._size = tail, ahead, len(line)
        self._places.append(Place(ahead.seq + 1, path))
        self._mark_written()

    def _open_tail(self) -> File:
        if self._tail is None:
            raise OSError(errno.EBADF, "the log is not open", str(self._where))
        return self._tail

    # --- reading ------------------------------------------------------------------------------------------------------

    def reader(self, after: int = 0, id: str | None = None) -> LiveReader:
        """Return a reader of all segments. It begins at the segment that holds the record behind `after`."""
        return LiveReader(self._files, self._places, after, id)

    # --- retention ----------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """The queue's directory."""
        return self._where

    @property
    def files(self) -> Files:
        """The file system."""
        return self._files

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the segments are now, oldest first; all but the last are sealed."""
        return tuple(self._places)

    @property
    def log_id(self) -> str:
        """The log's id, 32 hex digits."""
        return self._log_id

    @property
    def tail_first(self) -> int:
        """The seq at which the last segment begins."""
        return self._places[-1].first

    @property
    def tail_bytes(self) -> int:
        """How large the last segment is."""
        return self._size

    def moved(self, first: int, path: Path) -> None:
        """Take note that a sealed segment is at `path` from now on. O(segments)."""
        index = [place.first for place in self._places].index(first)
        self._places[index] = Place(first, path)

    def trimmed(self, first: int) -> None:
        """Take note that the first segment, which begins at `first`, is being removed. O(segments)."""
        assert self._places[0].first == first, "segments are trimmed from the oldest on"
        assert len(self._places) > 1, "the tail is never trimmed"
        del self._places[0]

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self, now: datetime) -> None:
        """Write and sync what is left, record that the log was closed, and unlock. O(1) if nothing is left."""
        try:
            if not self._closed_cleanly:
                self.write()
                self.sync()  # so that the closing record, as the last witness, vouches for everything before it
                self._say_closed(now)
        finally:
            self.abandon()

    def _say_closed(self, now: datetime) -> None:
        whole = self._size
        self.append([LogClosed()], now, _CLOCK)
        self._write_pending()
        try:
            self._open_tail().sync()
        except OSError:
            self._open_tail().truncate(whole)  # else the next opener would trust a tail that is not on the disk
            raise
        self.durable = self.written
        self._closed_cleanly = True

    def abandon(self) -> None:
        """Unlock, and close the files as they are."""
        self._close_tail()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _close_tail(self) -> None:
        """Make sure that this log writes and syncs no more: after a failure the next opener starts from the file."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _write_new(self, path: Path, source: BinaryIO, length: int, more: bytes = b"", *, replace: bool = True) -> File:
        """Make `path` hold the next `length` bytes of `source`, then `more`, by a new inode; return it open.

        The file has its name only once its bytes are on disk, and the name is on disk when this returns. Without
        `replace` a file that has the name already is an error, and stays.
        """
        files = self._files
        temporary = path.with_name(path.name + _TEMPORARY)
        files.unlink(temporary)
        file = files.create(temporary)
        try:
            while length > 0:
                chunk = source.read(min(length, 1 << 20))
                if not chunk:
                    raise CorruptLog(str(path), 0, 0, "it became shorter while it was read; another program writes it")
                file.write(chunk)
                length -= len(chunk)
            file.write(more)
            file.sync()
            if not replace and files.kind(path) is not None:  # nobody else makes one: we hold the lock
                raise FileExistsError(errno.EEXIST, "exists already, though the directory did not show it", str(path))
            files.rename(temporary, path)
            files.sync_directory(path.parent)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                files.unlink(temporary)
            raise
        return file
