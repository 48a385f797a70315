"""The directory log: JSON Lines in one directory, held by one process.

    LOCK                                held with flock while the queue is open; never unlinked
    log/<first seq, 20 digits>.jsonl    segments; the last one is the tail, which grows
    log/<first seq, 20 digits>.jsonl.zst   a sealed segment that was compressed
    ARCHIVE                             the directories that segments were moved to
    archive/, or where ARCHIVE points   sealed segments that were moved there
    snapshots/                          the state at some seqs, so that opening need not read all of the log
    quarantine/                         bytes that recovery, or the user's repair, cut off
    index/                              where the records about each ticket are: a cache (`index`)
    reserve                             space set aside for settling on a full disk
    begun                               empty; says that there was a log, should its segments be gone

`DirectoryLog` appends, writes, syncs and begins new segments; another process may do a sync (`protocol`). The store
decides when to write and sync. Other modules decide who may open the directory (`ownership`), recover its files after a
crash (`recovery`), and mend damage (`repair`). The rest is in `record` (lines), `segment` (reading them), `replace`
(creating files), `locations` (where segments are), `retention` (which are compressed, archived or trimmed) and
`snapshot`.
"""

from __future__ import annotations

import errno
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from kharon.errors import Closed, CorruptLog, KharonError, StorageFull
from kharon.log.files import OS_FILES, File, Files, Lock, naming
from kharon.log.live import IndexedReader, LiveReader
from kharon.log.locations import ARCHIVE, Archives, Moved, find_archives, finish_moves, locate_segments, segments
from kharon.log.messages import say
from kharon.log.ownership import lock_directory
from kharon.log.protocol import LogReader
from kharon.log.record import CLOCK, Chain, Record, Seal, check_line, parse_record, relink, seal_line
from kharon.log.recovery import reopen_tail, rewrite_seal, rewrite_tail, tidy
from kharon.log.replace import FileSync, SyncSteps, replace_file_steps, run_here
from kharon.log.reserve import NO_ROOM, RESERVE, Reserve
from kharon.log.scan import LogScan
from kharon.log.segment import SegmentFile, first_of, is_segment, segment_name, stem_of
from kharon.log.snapshot import Snapshot, newest
from kharon.log.zstd import open_segment
from kharon.model.events import Event, LogClosed, grows

__all__ = ["DEFAULT_SEGMENT_BYTES", "DirectoryLog", "segments"]

DEFAULT_SEGMENT_BYTES: Final = 8 << 20
_BEGUN: Final = "begun"
_PROOFS: Final = {
    "snapshots": "there are snapshots of them",
    ARCHIVE: "some were archived",
    "quarantine": "bytes were cut out of one",
    "index": "there are indexes of them",
    RESERVE: "there is a reserve for settling",
    _BEGUN: "a log was begun here",
}
"""What a queue's directory has only once it has a segment, and why that is known."""


class _Unsealed(NamedTuple):
    """The segment before the tail while its seal is unwritten: its open file, its size, and the seal's line."""

    path: Path
    file: File
    size: int
    line: bytes


class DirectoryLog:
    """A log in a directory.

    Args:
        where: the directory; made, with mode 0700, if it does not exist.
        segment_bytes: the size at which the tail gets a successor.
        files: the file system.
        reserve_bytes: the space to set aside for events that end something, for when the disk is full; 0: none.
        allow_network_filesystem: whether the directory may be on one.
        allow_group_access: whether the directory's group may write it.

    Attributes:
        directory: the directory.
        rotates: whether `write` begins a new segment when one is due; if not, `rotation` does.
        unsaved: the number of bytes in segments that were finished since the last snapshot was begun. The caller that
            begins a snapshot sets it to 0.
        on_new_segment: called after a segment was begun, and the previous one sealed if there was room for that.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        files: Files = OS_FILES,
        *,
        reserve_bytes: int = 0,
        allow_network_filesystem: bool = False,
        allow_group_access: bool = False,
    ) -> None:
        self._where = self.directory = Path(where)
        self._segment_bytes = segment_bytes
        self._files = files
        self._allow_network = allow_network_filesystem
        self._allow_group = allow_group_access
        self._reserve = Reserve(files, self._where / RESERVE, reserve_bytes)
        self._process = files.process()
        self._mark = (0, 0)
        self._grows = False
        self._lock: Lock | None = None
        self._tail: File | None = None
        self._unsealed: _Unsealed | None = None
        self._offered: File | None = None  # the tail, if its twin was opened before any unsynced byte was written
        self._places: list[SegmentFile] = []
        self._size = 0
        self._log_id = ""
        self._chain = Chain()
        self._written = Chain()
        self._pending: list[bytes] = []
        self._closed_cleanly = False
        self._made = False
        self._snapshot: Snapshot | None = None
        self._archives = Archives([], [])  # as found on opening
        self.rotates = True
        self.written = 0
        self.durable = 0
        self.unsaved = 0
        self.on_new_segment: Callable[[], None] = lambda: None

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
        """Lock the directory, recover, and yield every record in order.

        Raises:
            QueueLocked: the directory is already open, in this process or another.
            CorruptLog: the log is damaged, by more than an unfinished last commit. Nothing was changed.
            UnknownFormat: a later version wrote it.
            KharonError: the directory is not a queue's, or should not be trusted (`ownership`).
            OSError: the directory cannot be read or written.

        Cost: O(bytes of the log), or of the part after the loaded snapshot. After an unclean stop the tail is copied
        once, and so is the segment before it if the tail has no records.
        """
        snapshot = self._snapshot
        if self._lock is None:
            snapshot = None
            self._prepare()
        self._files.sync_directory(self._where)
        found = self._list()
        if not found:
            self._create(now, made=self._made)
        elif snapshot is None and first_of(found[0]) != 1:
            raise self._beheaded(found[0], "of the records before it was loaded")
        else:
            yield from self._read_and_recover(found, snapshot, now)
        with naming(self._tail_path):
            size = self._open_tail().size()
        self._use_tail(self._tail_path, self._open_tail(), size)
        self._mark_written()
        self.durable = self.written
        self._mark_begun()
        # Without room for the reserve the queue still opens, and refuses events that let it grow until there is room.
        self._reserve.fill()

    def _mark_begun(self) -> None:
        """Leave the file that says that there is a log; not synced, since the next opening makes a lost one again."""
        if self._files.kind(self._where / _BEGUN) is None:
            try:
                self._files.create(self._where / _BEGUN).close()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise

    def _read_and_recover(self, found: list[Path], snapshot: Snapshot | None, now: datetime) -> Iterator[Record]:
        if snapshot is None:
            reading = LogScan(self._list, self._read)
        else:
            reading = LogScan(self._list, self._read, snapshot.end(), snapshot.log)
            self._snapshot = None  # the caller has its tickets now
        moves = []
        for record in reading.records():
            if isinstance(record.event, Moved):
                moves.append(record.event)
            yield record
        self._chain, self._log_id = reading.chain, reading.log or ""
        self._places = [SegmentFile(first_of(path), path) for path in found]
        self._check_tail()
        self.unsaved = reading.finished
        self._closed_cleanly = reading.closed and reading.broken is None
        tidy(self._files, self._where)
        if reading.bare and reading.before is not None:
            rewrite_seal(self._files, reading.before, self._chain.hash)
        if self._closed_cleanly:
            self._tail = reopen_tail(self._files, self._tail_path)
            self._sync_or_close(self._tail_path, self._tail.sync)
        else:
            self._tail, lines = rewrite_tail(
                self._files, self._where, self._tail_path, reading.broken, self._chain, now
            )
            yield from (parse_record(line, check_line(line, None)) for line in lines)
        read = {stem_of(place.path) for place in reading.places}
        found = finish_moves(self._files, self._where, self._archives, moves, read)
        self._places = [SegmentFile(first_of(path), path) for path in found]
        strange = [name for name in self._files.list(self._where / "log") if not is_segment(name)]
        if strange:
            say(logging.WARNING, "%s: left alone, as these are not segments: %s", self._where / "log", strange)
        for path in self._archives.unreachable:
            say(logging.WARNING, "%s: its archive %s cannot be reached; segments in it are not read", self._where, path)

    def _check_tail(self) -> None:
        """Check that the last segment is in `log/`, where it can be written."""
        path = self._tail_path
        if path.parent != self._where / "log":
            why = "it is the last segment, and in an archive, where only sealed ones belong; put it back into log/"
            raise CorruptLog(str(path), 0, 0, why)

    def load_snapshot(self) -> Snapshot | None:
        """Lock the directory, and return the newest usable snapshot; None if there is none.

        Called at most once, before `open`, which then yields only the records after the snapshot.

        Raises:
            CorruptLog: there are snapshots, and no log; or the log's beginning is gone, and no snapshot is usable.
            QueueLocked, KharonError, OSError: as `open`.

        Cost: O(tickets).
        """
        self._prepare()
        found = self._list()
        self._snapshot = newest(self._files, self._where, found)
        if self._snapshot is None and found and first_of(found[0]) != 1:
            raise self._beheaded(found[0], "of the records before it is usable")
        return self._snapshot

    def _beheaded(self, path: Path, what: str) -> CorruptLog:
        why = f"the log begins at record {first_of(path)}, and no snapshot {what}"
        if self._archives.unreachable:
            why += (
                f"; it may be in {self._archives.unreachable[0]}, which cannot be reached: mount that, or put it back"
            )
        return CorruptLog(str(path), 1, 0, why)

    def _prepare(self) -> None:
        self._process = self._files.process()
        self._lock, self._made = lock_directory(
            self._where, self._files, allow_network=self._allow_network, allow_group=self._allow_group
        )
        self._archives = find_archives(self._where, self._files)
        if not self._list():
            self._check_new()

    def _check_new(self) -> None:
        """Check that a directory without segments never had any: an empty log must not take the place of a lost one."""
        proof = next((name for name in _PROOFS if self._files.kind(self._where / name) is not None), None)
        if proof is not None:
            why = (
                f"its segments are gone: {_PROOFS[proof]} ({proof}). Put them back, or restore the queue from a copy; "
                f"to begin a new queue, name another directory"
            )
            raise CorruptLog(str(self._where / "log"), 0, 0, why)

    def _list(self) -> list[Path]:
        return [paths[0] for _, paths in sorted(locate_segments(self._where, self._files, self._archives).items())]

    def _read(self, path: Path) -> BinaryIO:
        return open_segment(self._files.read, path)

    @property
    def _tail_path(self) -> Path:
        return self._places[-1].path if self._places else self._where

    def _create(self, now: datetime, *, made: bool) -> None:
        try:  # even if the directory existed: the process that made it may have died before this sync
            self._files.sync_directory(self._where.absolute().parent)
        except PermissionError:
            if made:
                raise
            # The user made it in a directory that this process may not read, so its name is the user's business.
        self._log_id = uuid.uuid4().hex
        path = self._where / "log" / segment_name(1)
        line = self._chain.header(self._log_id, now)
        self._tail = run_here(replace_file_steps(self._files, path, [line], replace=False))
        self._places = [SegmentFile(1, path)]
        self._closed_cleanly = True  # there are no records yet, so none that says it was closed

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append one commit in memory. O(bytes)."""
        self._pending += self._chain.commit(events, at, by, self.durable)
        self._grows = self._grows or grows(events)
        self._closed_cleanly = False
        return self._chain.at or at

    def write(self) -> None:
        """Write all appended records to the operating system, with one call.

        A full tail gets a successor, unless `rotates` is False.

        Events that end something may use the reserve. If there are other events, the reserve must be whole first, so
        that the queue can always settle what it has begun.

        Raises:
            StorageFull: there was no room. Everything appended since the last `write` is discarded.
            KharonError: the tail is not as this log left it; the log is closed for good. Nothing was written.
            Closed: this process was forked from the one that opened the log.
            OSError: the outcome is unknown; the log is closed for good.
        """
        if self._pending:
            self._check_alone()
            self._write_pending()
            if self.rotates and (rotation := self.rotation()) is not None:
                run_here(rotation)

    def _check_alone(self) -> None:
        """Check that no other process writes this log: locks may lie. Measured: 7 µs; the sync takes 1400 µs."""
        if self._files.process() != self._process:
            self.abandon()  # closes only this process's copies: the parent keeps the lock
            raise Closed(
                f"{self._where} was opened by process {self._process}, and this is process {self._files.process()}, "
                f"forked from it: the queue is the parent's. Open queues after forking"
            )
        self._open_tail()
        path = self._tail_path
        try:
            found = self._files.identity(path)
        except OSError:  # the pending records are refused, so no later write may bring them
            self._close_tail()
            raise
        if found is not None and found == (*self._mark, self._size):
            return
        self._close_tail()
        if found is None:
            what = "it is gone: the queue's directory was removed or renamed, or the file was"
        elif found[:2] != self._mark:
            what = "another file has its name: the directory, or a link to it, was exchanged"
        else:
            what = f"it has {found.size} bytes, and this process left it with {self._size}: something else writes it"
        raise KharonError(
            f"{path}: {what}. This log writes no more: see what else uses the queue, run kharon.verify, open it again"
        )

    def _write_pending(self) -> None:
        data = b"".join(self._pending)
        try:
            self._write_seal()  # if there was no room for it earlier: it must come before any record
            if self._grows and not self._reserve.fill():
                raise OSError(errno.ENOSPC, "the reserve for settling could not be made whole")
            self._write_with_room(self._tail_path, self._open_tail(), self._size, data, may_give=not self._grows)
        except OSError as error:
            if error.errno not in NO_ROOM or self._tail is None:
                self._close_tail()
                raise
            self._take_back()
            raise StorageFull(
                f"{self._tail_path}: no room for {len(data)} bytes ({error.strerror}); none of them was kept. "
                f"Make room: what was refused can then be repeated, without opening the queue again"
            ) from error
        self._pending.clear()
        self._grows = False
        self._size += len(data)
        self._mark_written()

    def _write_with_room(self, path: Path, file: File, size: int, data: bytes, *, may_give: bool) -> None:
        """Append to a file of `size` bytes, using the reserve if `may_give`; without room, cut it back to `size`."""
        while True:
            try:
                with naming(path):
                    file.write(data)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self._cut(path, file, size)
                if not (may_give and self._reserve.give_up(len(data))):
                    raise
            else:
                return

    def _mark_written(self) -> None:
        self._written = self._chain.copy()
        self.written = self._chain.seq

    def _take_back(self) -> None:
        """Discard everything since the last write: what callers are told was not kept must not reappear.

        Not after a crash either, so the cut is synced: an earlier commit that did find room would be whole on disk.
        `_write_with_room` has already cut the file.
        """
        self._sync_or_close(self._tail_path, self._open_tail().sync)
        self.durable = self.written
        self._pending.clear()
        self._grows = False
        self._chain = self._written.copy()

    def _cut(self, path: Path, file: File, size: int) -> None:
        try:
            file.truncate(size)
        except OSError as error:
            self._close_tail()
            # Never reported as a lack of room, whatever the cause: half a line is in the file.
            raise OSError(errno.EIO, f"a partial write cannot be cut off: {error.strerror}", str(path)) from error

    def sync(self) -> None:
        """Bring the written records onto the disk. A failure is final: the kernel may have dropped the pages."""
        tail = self._open_tail()
        if self.durable == self.written:
            return
        self._sync_or_close(self._tail_path, tail.sync)
        self.durable = self.written

    def _sync_or_close(self, path: Path, sync: Callable[[], None]) -> None:
        try:
            with naming(path):
                sync()
        except OSError:
            self._close_tail()
            raise

    def begin_sync(self) -> int | None:
        """Return a descriptor whose sync is as good as `sync`; None: everything is now on disk.

        The first sync of each tail is done here: only this file's own description is sure to report a failed
        write-back from before the twin was opened. A new tail is already synced, so its first one costs nothing.

        Raises:
            OSError: as `sync`.
        """
        tail = self._open_tail()
        twin = tail.twin()
        if twin is None or tail is not self._offered:
            self.sync()
            self._offered = tail
        return None if self.durable == self.written else twin

    def end_sync(self, seq: int, error: OSError | None) -> None:
        """Take the result of the sync of `begin_sync`. A failure is as final as one of `sync`.

        Raises:
            OSError: `error`.
        """
        if error is not None:
            self._close_tail()
            with naming(self._tail_path):
                raise error
        self.durable = max(self.durable, seq)  # a segment begun meanwhile may have synced more

    def rotation(self) -> SyncSteps | None:
        """Return the steps that begin a new segment if the tail is full and room is not short; else None. O(1)."""
        if self._size < self._segment_bytes or not self._reserve.whole:
            return None
        return self._begin_segment()

    def _begin_segment(self) -> SyncSteps:
        """Begin a new segment after the tail, then seal the old tail.

        In this order, and each on disk before the next. So a sealed segment without a successor is damage, and so is
        an unsealed one whose successor has records. Written records are synced first, so that none is lost if the new
        segment cannot be made; then the old one goes on, and the next write tries again. Costs three syncs, and one for
        the written records, once per `segment_bytes`. Records appended between the steps are written to the new
        segment.
        """
        old = self._open_tail()
        if self.durable != self.written:
            yield from self._synced(FileSync(self._tail_path, old))
            self.durable = self.written
        end = self._written
        assert end.at is not None  # there are records: they filled the tail
        ahead = end.copy()
        line = ahead.header(self._log_id, end.at)
        path = self._where / "log" / segment_name(end.seq + 1)
        named = False  # whether the new segment may have got its name

        def about_to_be_named(_temporary: Path) -> None:
            nonlocal named
            named = True

        try:
            tail = yield from replace_file_steps(
                self._files, path, [line], replace=False, check=about_to_be_named, failed=self._close_tail
            )
        except OSError as error:
            if (not named or error.errno in NO_ROOM) and self._may_go_on(path):
                return
            self._close_tail()
            raise
        self.unsaved += self._size
        seal = seal_line(end.hash, Seal(end.seq, ahead.hash))
        self._unsealed = _Unsealed(self._tail_path, old, self._size, seal)
        self._written = ahead
        self._pending, hash = relink(ahead.hash, self._pending)
        self._chain = Chain(self._chain.seq, hash, self._chain.at)
        self._use_tail(path, tail, len(line))
        self._places.append(SegmentFile(ahead.seq + 1, path))
        if not self.rotates and tail.twin() is not None:
            self._offered = tail  # all of it is on disk, so the twin misses no failed write-back
        try:
            yield from self._seal_tail()
        except OSError:
            if self._tail is None:
                raise
        self.on_new_segment()

    def _synced(self, step: FileSync) -> SyncSteps:
        """Yield the sync of a file. A failure is final."""
        try:
            with naming(step.path):
                yield step
        except OSError:
            self._close_tail()
            raise

    def _may_go_on(self, successor: Path) -> bool:
        """Return whether the tail is still the last segment and no sync has failed. A sync that failed closed it."""
        try:
            return self._tail is not None and self._files.kind(successor) is None
        except OSError:
            return False

    def _write_seal(self) -> None:
        """Seal the segment before the tail if it is unsealed; the reserve may be used.

        After any error except a lack of room the tail is closed.
        """
        run_here(self._seal_tail())

    def _seal_tail(self) -> SyncSteps:
        if self._unsealed is None:
            return
        path, file, size, line = self._unsealed
        try:
            self._write_with_room(path, file, size, line, may_give=True)
        except OSError as error:
            if error.errno not in NO_ROOM:
                self._close_tail()
            raise
        yield from self._synced(FileSync(path, file))
        file.close()
        self._unsealed = None

    def _use_tail(self, path: Path, tail: File, size: int) -> None:
        self._tail, self._size = tail, size
        try:
            with naming(path):
                self._mark = tail.identity()[:2]
        except OSError:
            self._close_tail()
            raise

    def _open_tail(self) -> File:
        if self._tail is None:
            raise OSError(errno.EBADF, "the log is not open", str(self._where))
        return self._tail

    # --- reading ------------------------------------------------------------------------------------------------------

    def reader(self, after: int = 0, id: str | None = None) -> LogReader:
        """Return a reader of the records after the seq `after`: all of them, or those about the ticket `id`."""
        if id is None:
            return LiveReader(self._files, self._places, after, id)
        return IndexedReader(self._files, self._where, self._places, after, id)

    # --- retention ----------------------------------------------------------------------------------------------------

    @property
    def files(self) -> Files:
        """The file system."""
        return self._files

    @property
    def log_id(self) -> str:
        """The log's id, 32 hex digits."""
        return self._log_id

    @property
    def tail_bytes(self) -> int:
        """The size of the last segment."""
        return self._size

    def finished(self) -> list[tuple[SegmentFile, SegmentFile]]:
        """Return each sealed segment's file, oldest first, with its successor's. O(segments).

        May be called from another thread while this one begins a segment.
        """
        places = list(self._places)  # copied first, so that the segment without its seal is still the last but one
        if self._unsealed is not None:
            places.pop()
        return list(pairwise(places))

    def moved(self, first: int, path: Path) -> None:
        """Read the sealed segment that begins at `first` from `path` from now on. O(segments)."""
        index = [place.first for place in self._places].index(first)
        self._places[index] = SegmentFile(first, path)

    def trimmed(self, first: int) -> None:
        """Forget the first segment, which begins at `first` and is being removed. O(segments)."""
        assert self._places[0].first == first, "segments are trimmed from the oldest on"
        assert len(self._places) > 1, "the tail is never trimmed"
        del self._places[0]

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self, now: datetime) -> None:
        """Write and sync the rest, record that the log was closed, and unlock. O(1) if nothing is left to write.

        A forked child only closes its copies of the files.
        """
        try:
            if not self._closed_cleanly and self._files.process() == self._process:
                self.write()
                self.sync()  # so that the closing record's `durable` covers everything before it
                self._say_closed(now)
        finally:
            self.abandon()

    def _say_closed(self, now: datetime) -> None:
        whole = self._size
        self.append([LogClosed()], now, CLOCK)
        try:
            self._write_pending()
        except StorageFull:
            return  # everything promised to a caller is on disk; the next opening recovers as after a crash
        with naming(self._tail_path):
            try:
                self._open_tail().sync()
            except OSError:
                self._open_tail().truncate(whole)  # it is not closed in good order: the next opener must recover
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
        """Write and sync no more: after a failure the next opener starts from the file."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None
        if self._unsealed is not None:
            self._unsealed.file.close()
            self._unsealed = None
