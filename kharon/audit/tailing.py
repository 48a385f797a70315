"""Following a live log from another process: `follow`. Without Trio, without the lock; nothing is written.

What is durable, only the writer knows; to an outsider a record is as soon as the log itself says so:

- a later line's `durable` is its seq or more: each line says what was known to be on disk when it was written;
- or a later segment is there: a segment is begun once all before it is on disk.

So of a queue that falls silent the last commit group is not vouched for until the next one comes, the segment ends, or
the queue is closed: `LogClosed` vouches for all before it (and nothing for it, until the queue is opened again). Who
would rather have every whole commit at once says `durable=False`: a loss of power may then take back records that were
given; the follower says so if it sees it.

The follower keeps its place as a segment, an offset and the hash of the line in front. A segment that was written anew
(by recovery, compression, archiving) holds the same bytes up to there: they are read again, and compared by that hash.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, Self

from kharon.audit.reading import _Still
from kharon.errors import CorruptLog, InvalidTicket, KharonError, LogReplaced
from kharon.log.directory import segments
from kharon.log.packed import open_segment
from kharon.log.record import BadLine, Chain, Record, Seal, check_line, open_header
from kharon.log.segment import (
    HEADER_LINES,
    Broken,
    first_of,
    judge,
    read_records,
    read_segment,
    stem,
    stem_of,
    trusted_start,
)
from kharon.model.delays import as_seconds
from kharon.model.limits import MAX_LINE_BYTES

__all__ = ["Follower", "follow"]

_LIMIT: Final = 1000


def follow(
    path: str | os.PathLike[str],
    after: int = 0,
    *,
    poll_interval: float | timedelta = 0.1,
    durable: bool = True,
) -> Follower:
    """Follow the log of a queue that another process may have open: give its records, and wait for more.

    Args:
        path: the queue's directory.
        after: the records up to this seq are passed over; 0: none, from where the history begins.
        poll_interval: seconds, or a timedelta, between two looks at the directory while nothing comes.
        durable: whether to give only records that the log itself says were on disk; else every whole commit.

    Raises:
        InvalidTicket: `poll_interval` is not more than 0 seconds.

    See `Follower` for what reading raises. Cost of beginning: that of the segment that holds the record behind `after`.
    """
    seconds = as_seconds("poll_interval", poll_interval)
    if not 0 < seconds < math.inf:
        raise InvalidTicket(f"poll_interval: {poll_interval!r} is not more than 0 seconds")
    return Follower(path, after, seconds, durable=durable)


class Follower:
    """An iterator over the records of a live log: it waits for the next one, and ends when it is told to stop.

        for record in kharon.follow("queue", after=97): ...

    Each line is checked like `read` checks it: its hash, and its place. Rotation, compression, archiving and trimming
    are followed. Use it from one thread; `stop` from any.

    Raises, from iterating and from `poll`:
        CorruptLog: the log is damaged where it is read.
        LogReplaced: the log was replaced by another, or lacks records that it had: it was rewound.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: there is no queue there; or what comes next was trimmed before it was read.
        OSError: it cannot be read.

    Attributes:
        seq: of the last record given; `after` before the first.
    """

    def __init__(self, path: str | os.PathLike[str], after: int, poll_interval: float, *, durable: bool) -> None:
        self._directory = Path(path)
        self._after = after
        self._interval = poll_interval
        self._durable = durable
        self._stopped = threading.Event()
        self._log = ""
        self._stem = ""
        self._place = _Place(Chain(), 0, 0)
        self._listed: AbstractSet[str] = frozenset()
        self._sealed = False
        self._stat = self._seen = (0, 0, 0, 0)  # how the file is, and was when it was last looked at
        self._file: BinaryIO | None = None
        self._items: Iterator[Record | Seal] = iter(())
        self._held: deque[Record] = deque()  # read, and not vouched for
        self._ready: deque[Record] = deque()
        self.seq = after

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        while not self._stopped.is_set():
            records = self.poll(1)
            if records:
                return records[0]
            self._stopped.wait(self._interval)
        self.close()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stop(self) -> None:
        """End the iterator, at the latest when it would wait. May be called from another thread, or on a signal."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and give back what the follower holds. May be called twice."""
        self._stopped.set()
        self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def poll(self, limit: int = _LIMIT) -> list[Record]:
        """Return the next records, `limit` at most, without waiting; none if there are none now.

        Cost: O(bytes read); two looks at the directory if nothing is new. The memory of what is not vouched for.
        """
        while len(self._ready) < limit and not self._stopped.is_set() and self._advance():
            pass
        records = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        if records:
            self.seq = records[-1].seq
        return records

    # --- reading on ---------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Read one item; return False if there is none now."""
        if self._file is None and not self._enter():
            return False
        assert self._file is not None
        try:
            item = next(self._items, None)
        except Broken as broken:
            self._look_at(broken)
            return False
        if isinstance(item, Record):
            self._take(item)
        elif item is not None:
            self._sealed = True
        else:
            self._place.byte = self._file.tell()
            self._leave()
            return self._sealed
        return True

    def _take(self, record: Record) -> None:
        self._place.lines += 1
        if record.seq > self._after:
            self._held.append(record)
        self._vouch(record.durable if self._durable else record.seq)

    def _vouch(self, upto: int) -> None:
        while self._held and self._held[0].seq <= upto:
            self._ready.append(self._held.popleft())

    def _look_at(self, broken: Broken) -> None:
        """What comes next is not whole: it is being written, or was left by a crash, or the log is another one now."""
        assert self._file is not None
        self._place.byte = broken.commit_byte
        try:
            self._check_same(self._file, Path(broken.path))
            # If its successor is there by name, all of its records were read: its seal is torn.
            if stem(broken.commit_seq) not in self._listed - {self._stem}:
                judge(self._file, broken, last=max(self._listed) == self._stem)
        finally:
            self._leave()

    # --- where to read on ---------------------------------------------------------------------------------------------

    def _enter(self) -> bool:
        """Open the file in which the next record stands, or will; return False if nothing has changed."""
        paths = {stem_of(path): path for path in self._list()}
        self._listed = paths.keys()  # before opening: one that has a successor will not grow any more
        coming = paths.get(stem(self._place.chain.seq + 1))
        if not self._stem:
            path = self._first(list(paths.values()))
        elif coming is not None and stem_of(coming) != self._stem:
            self._vouch(self._place.chain.seq)  # a segment is begun once all before it is on disk
            path = coming
        elif self._stem in paths:
            if self._sealed:
                why = (
                    f"it is sealed, so a segment beginning at record {self._place.chain.seq + 1} follows; it is missing"
                )
                raise CorruptLog(str(paths[self._stem]), 0, 0, why)
            path = paths[self._stem]
        else:
            raise self._gone(list(paths.values()))
        try:
            file = open_segment(self._open, path)
        except FileNotFoundError:  # it was moved, or trimmed, since: the next look says which
            return False
        self._file = file
        try:
            return self._begin(file, path) if stem_of(path) != self._stem else self._go_on(file, path)
        except BaseException:
            self._leave()
            raise

    def _open(self, path: Path) -> BinaryIO:
        still = _Still(path)  # its end stays where it is, so that what is being written is not taken for damage
        stat = os.fstat(still.fileno())
        self._stat = (stat.st_dev, stat.st_ino, still.size, stat.st_mtime_ns)
        return io.BufferedReader(still)

    def _list(self) -> list[Path]:
        try:
            paths = segments(self._directory)
        except FileNotFoundError:
            paths = []
        if not paths:
            if self._stem:
                raise LogReplaced(f"{self._directory}: the log that was being followed is gone")
            raise KharonError(f"{self._directory} is no queue: there is no segment in {self._directory / 'log'}")
        return paths

    def _first(self, paths: list[Path]) -> Path:
        """Return the segment to begin with: the one that holds the record behind `after`, by its name."""
        first = first_of(paths[0])
        if self._after and self._after + 1 < first:
            raise KharonError(
                f"{self._directory}: the history begins at record {first}, so {self._after + 1} was trimmed before it "
                f"was read; begin at 0 to have what is left"
            )
        return max((path for path in paths if first_of(path) <= self._after + 1), key=first_of, default=paths[0])

    def _begin(self, file: BinaryIO, path: Path) -> bool:
        """Begin a segment at its header."""
        if not self._stem:
            chain = trusted_start(file, path) if first_of(path) != 1 else Chain()
            self._place = _Place(chain, 0, 0)
        line = file.readline(MAX_LINE_BYTES + 1)
        chain = self._place.chain
        try:
            header = open_header(line, check_line(line, None))
        except BadLine as bad:
            raise CorruptLog(str(path), 1, 0, str(bad)) from None
        if self._log not in ("", header.log):
            raise LogReplaced(f"{path}: its log id is {header.log}; the log that was being followed is {self._log}")
        if (header.first, header.previous) != (chain.seq + 1, chain.hash):
            raise LogReplaced(
                f"{path}: it follows record {header.first - 1} with the hash {header.previous}; that of record "
                f"{chain.seq} was {chain.hash}: the log was rewound and written anew"
            )
        chain.hash = check_line(line, chain.hash)
        self._log, self._stem = header.log, stem_of(path)
        self._place.byte, self._place.lines = len(line), HEADER_LINES
        self._seen, self._sealed = self._stat, False
        self._items = read_records(file, str(path), chain, len(line), HEADER_LINES)
        return True

    def _go_on(self, file: BinaryIO, path: Path) -> bool:
        """Go on in a segment at the place that was reached; return False if nothing has changed."""
        place = self._place
        device, inode, size, _ = self._stat
        if self._stat == self._seen:
            self._check_reached()
            self._leave()
            return False
        if self._seen[:2] != (device, inode) or size <= place.byte:
            self._check_same(file, path)
        self._seen = self._stat
        file.seek(place.byte)
        self._items = read_records(file, str(path), place.chain, place.byte, place.lines)
        return True

    def _check_reached(self) -> None:
        if self._place.chain.seq < self._after:
            raise LogReplaced(
                f"{self._directory}: the log ends at record {self._place.chain.seq}, and was to be followed after "
                f"{self._after}: it was rewound, or replaced"
            )

    def _check_same(self, file: BinaryIO, path: Path) -> None:
        """Check that a segment still holds what was read of it. O(bytes read of it)."""
        place = self._place
        file.seek(0)
        start = trusted_start(file, path)
        reached = start.seq
        header_hash = ""
        items = read_segment(file, str(path), start, None)
        with contextlib.suppress(Broken):
            for item in items:
                if isinstance(item, Record):
                    reached, header_hash = item.seq, item.hash
                elif not isinstance(item, Seal):
                    header_hash = item.hash
                    if item.log != self._log:
                        raise LogReplaced(f"{path}: its log id is {item.log}; the one being followed is {self._log}")
                if reached == place.chain.seq:
                    break
        if (reached, header_hash) != (place.chain.seq, place.chain.hash):
            what = f"it ends at record {reached}" if reached < place.chain.seq else f"the hash there is {header_hash}"
            raise LogReplaced(
                f"{path}: record {place.chain.seq} was read with the hash {place.chain.hash}, and now {what}: the log "
                f"was rewound, or written anew"
            )

    def _gone(self, paths: list[Path]) -> KharonError:
        """Return the error for a segment that is not there any more, and neither is its successor."""
        first = first_of(paths[0])
        if first > self._place.chain.seq + 1:
            return KharonError(
                f"{self._directory}: record {self._place.chain.seq + 1} was trimmed before it was read; the history "
                f"now begins at record {first}: read faster, or trim later"
            )
        return LogReplaced(
            f"{self._directory}: record {self._place.chain.seq} was read, and the log now begins at record {first} and "
            f"lacks the segment of that one: it was rewound, or replaced"
        )


class _Place:
    """How far a segment was read: the end of the chain there, the offset, and the lines in front of it."""

    __slots__ = ("byte", "chain", "lines")

    def __init__(self, chain: Chain, byte: int, lines: int) -> None:
        self.chain = chain
        self.byte = byte
        self.lines = lines
