"""The directory log: JSON Lines under one directory, held by one process.

    LOCK                                held with flock while the queue is open; never unlinked
    log/<first seq, 20 digits>.jsonl    segments; the last one is the tail, which grows
    quarantine/                         bytes that recovery cut off

`DirectoryLog` takes the lock, recovers, appends, writes and syncs. When to do which is the store's decision. What a
line is, is in `record`; how a file is read, in `segment`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import uuid
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from kharon.errors import CorruptLog, KharonError, QueueLocked, StorageFull
from kharon.log.record import Chain, Header, Record, check_line, open_record
from kharon.log.segment import Broken, LiveReader, judge, read_segment
from kharon.model.events import Event, LogClosed, TailCut

__all__ = ["DirectoryLog", "segments"]

_KNOWN: Final = frozenset({"LOCK", "log", "quarantine", "snapshots"})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CLOCK: Final = "clock"
_TEMPORARY: Final = ".tmp"


def segments(directory: Path) -> list[Path]:
    """Return the segments under a queue's directory, oldest first.

    Raises:
        OSError: they cannot be listed. (`Path.glob` would say that there are none, and a new log would be begun.)
    """
    return sorted(path for path in (directory / "log").iterdir() if path.suffix == ".jsonl")


class DirectoryLog:
    """A log in a directory.

    Args:
        where: the directory; made, with mode 0700, if it does not exist.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self._where = Path(where)
        self._lock: int | None = None
        self._tail: int | None = None
        self._tail_path = self._where
        self._size = 0
        self._log_id = ""
        self._chain = Chain()
        self._written = Chain()
        self._pending: list[bytes] = []
        self._closed_cleanly = False
        self.written = 0
        self.durable = 0
        self.first = 1

    @property
    def seq(self) -> int:
        """The seq of the last record appended."""
        return self._chain.seq

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
        self._lock = _take_lock(self._where)
        found = segments(self._where)
        if not found:
            self._create(now)
            return
        broken = yield from self._replay(found)
        self._tail_path = found[-1]
        if broken is not None or not self._closed_cleanly:
            yield from self._recover(broken, now)
        else:
            self._tail = os.open(self._tail_path, os.O_WRONLY | os.O_APPEND)
            _sync_data(self._tail)  # the process may have died between writing that it closed the log and the sync
        self._size = os.fstat(self._open_tail()).st_size
        self._mark_written()
        self.durable = self.written

    def _make_directory(self) -> None:
        where = self._where
        if where.is_dir():
            strange = sorted(path.name for path in where.iterdir() if path.name not in _KNOWN)
            if strange and not ((where / "LOCK").is_file() and (where / "log").is_dir()):
                raise KharonError(f"{where} is no queue, and is not empty ({strange[0]} …); name a new directory")
        elif where.exists():
            raise KharonError(f"{where} is a file; a queue is a directory")
        else:
            if not where.absolute().parent.is_dir():
                raise KharonError(f"{where} cannot be made: {where.absolute().parent} is no directory; make that first")
            where.mkdir(mode=0o700)
            _sync_directory(where.absolute().parent)
        (where / "log").mkdir(mode=0o700, exist_ok=True)
        _sync_directory(where)

    def _create(self, now: datetime) -> None:
        self._log_id = uuid.uuid4().hex
        self._tail_path = self._where / "log" / f"{1:020}.jsonl"
        line = self._chain.header(self._log_id, now)
        self._tail = _write_new(self._tail_path, io.BytesIO(line), len(line), replace=False)
        self._size = len(line)
        self._mark_written()
        self._closed_cleanly = True  # nothing has happened yet that would have to be said closed

    def _replay(self, found: list[Path]) -> Generator[Record, None, Broken | None]:
        """Give the records of all segments. Return, as a generator does, where the tail is broken, if it is."""
        log: str | None = None
        for path in found:
            with path.open("rb") as file:
                try:
                    for read in read_segment(file, str(path), self._chain, log):
                        if isinstance(read, Header):
                            log = self._log_id = read.log
                            self.first = read.first
                        else:
                            self._closed_cleanly = type(read.event) is LogClosed
                            yield read
                except Broken as broken:
                    judge(file, broken, last=path is found[-1])
                    return broken
        return None

    def _recover(self, broken: Broken | None, now: datetime) -> Iterator[Record]:
        """Write the whole part of the tail to a new inode: a failed sync may have left it in the page cache only.

        What says that bytes were cut is in that inode too, so that a crash in here either cuts and says so, or neither.
        It vouches for all before it, since the inode has its name only once all of it is on disk.
        """
        path = self._tail_path
        with path.open("rb") as old:
            whole = os.fstat(old.fileno()).st_size
            lines: list[bytes] = []
            if broken is not None:
                length, whole = whole - broken.commit_byte, broken.commit_byte
                kept_as = self._quarantine(old, whole, length)
                cut = TailCut(f"log/{path.name}", whole, length, kept_as)
                lines = self._chain.commit([cut], now, _CLOCK, self._chain.seq)
            old.seek(0)
            self._tail = _write_new(path, old, whole, b"".join(lines))
        yield from (open_record(line, check_line(line, None)) for line in lines)

    def _quarantine(self, old: BinaryIO, start: int, length: int) -> str:
        aside = self._where / "quarantine"
        aside.mkdir(mode=0o700, exist_ok=True)
        stem = f"{self._tail_path.stem}-{start}"
        name, count = stem, 0
        while (aside / name).exists():  # a crash in an earlier recovery left it; nothing kept aside is overwritten
            count += 1
            name = f"{stem}.{count}"
        old.seek(start)
        os.close(_write_new(aside / name, old, length))
        _sync_directory(self._where)
        return f"quarantine/{name}"

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append one commit in memory. O(bytes)."""
        self._pending += self._chain.commit(events, at, by, self.durable)
        self._closed_cleanly = False
        return self._chain.at or at

    def write(self) -> None:
        """Write what has been appended to the operating system: one call for all of it."""
        if not self._pending:
            return
        data = b"".join(self._pending)
        try:
            _write_all(self._open_tail(), data)
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
            os.ftruncate(self._open_tail(), self._size)
        except OSError:
            self._close_tail()
            raise
        self._pending.clear()
        self._chain = Chain(self._written.seq, self._written.hash, self._written.at)

    def sync(self) -> None:
        """Bring what has been written onto the disk. A failure is final: the kernel may have dropped the pages."""
        try:
            _sync_data(self._open_tail())
        except OSError:
            self._close_tail()
            raise
        self.durable = self.written

    def _open_tail(self) -> int:
        if self._tail is None:
            raise OSError(errno.EBADF, "the log is not open", str(self._where))
        return self._tail

    # --- reading and closing ------------------------------------------------------------------------------------------

    def reader(self, after: int = 0, id: str | None = None) -> LiveReader:
        """Return a reader of the tail."""
        return LiveReader(str(self._tail_path), self.first, after, id)

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
        self.write()
        try:
            _sync_data(self._open_tail())
        except OSError:
            os.ftruncate(self._open_tail(), whole)  # else the next opener would trust a tail that is not on the disk
            raise
        self.durable = self.written
        self._closed_cleanly = True

    def abandon(self) -> None:
        """Unlock, and close the files as they are."""
        self._close_tail()
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None

    def _close_tail(self) -> None:
        """Make sure that this log writes and syncs no more: after a failure the next opener starts from the file."""
        if self._tail is not None:
            with contextlib.suppress(OSError):
                os.close(self._tail)
            self._tail = None


def _take_lock(where: Path) -> int:
    path = where / "LOCK"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise QueueLocked(
            f"{where} is open already, in process {holder} (this is process {os.getpid()}); a queue has one opener "
            f"at a time. Close it there, or ask that process to do the work"
        ) from None
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_new(path: Path, source: BinaryIO, length: int, more: bytes = b"", *, replace: bool = True) -> int:
    """Make `path` hold the next `length` bytes of `source`, then `more`, by a new inode; return it open for appending.

    The file has its name only once its bytes are on disk, and the name is on disk when this returns. Without `replace`
    a file that has the name already is an error, and stays.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while length > 0:
            chunk = source.read(min(length, 1 << 20))
            if not chunk:
                raise CorruptLog(str(path), 0, 0, "it became shorter while it was read; another program writes to it")
            _write_all(fd, chunk)
            length -= len(chunk)
        _write_all(fd, more)
        os.fsync(fd)
        if not replace and path.exists():  # nobody else makes one: we hold the lock
            raise FileExistsError(errno.EEXIST, "exists already, though the directory did not show it", str(path))
        temporary.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_data(fd: int) -> None:
    getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
