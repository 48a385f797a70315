"""Following a live log from another process: `follow`. It needs no Trio and no lock, and writes nothing.

Only the writer knows which records are durable. To another process, a record is durable once the log itself vouches for
it, by one of these:

- a later line's `durable` is its seq or more: each line says what was known to be on disk when it was written;
- a later segment exists: a segment is begun once all earlier records are on disk.

So if a queue falls silent, nothing vouches for its last commit group until the next one comes, the segment ends, or the
queue is closed. `LogClosed` vouches for all records before it, and nothing for it until the queue is opened again. With
`durable=False` every whole commit is returned at once. A loss of power may then take back returned records; the
follower raises if it sees that.

The follower keeps its place as a segment, an offset and the hash of the line before, and reads on from there. A record
that nothing vouches for may be taken back, by a writer without room or by a loss of power. So if a segment was
rewritten, or does not continue as it should, it is read again from its header, and the records held back are dropped.
Only the last returned record must be found again, by its hash.
"""

from __future__ import annotations

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

from kharon.audit.read import FixedSizeFile
from kharon.errors import CorruptLog, InvalidTicket, KharonError, LogReplaced
from kharon.log.directory import segments
from kharon.log.record import Chain, Header, Record, Seal
from kharon.log.segment import (
    HEADER_LINES,
    BrokenSegment,
    first_of,
    read_records,
    read_segment,
    refuse_damage,
    stem,
    stem_of,
    unproved_start,
)
from kharon.log.zstd import open_segment
from kharon.model.delays import as_seconds

__all__ = ["Follower", "follow"]

_LIMIT: Final = 1000


def follow(
    path: str | os.PathLike[str],
    after: int = 0,
    *,
    poll_interval: float | timedelta = 0.1,
    durable: bool = True,
) -> Follower:
    """Return an iterator over the records of a log that another process may be writing; it waits for more.

    Args:
        path: the queue's directory.
        after: records up to this seq are skipped; 0: none, from the beginning of the history.
        poll_interval: seconds, or a timedelta, between two looks at the directory while nothing comes.
        durable: whether to return only records for which the log vouches; otherwise every whole commit.

    Raises:
        InvalidTicket: `poll_interval` is not more than 0 seconds.

    See `Follower` for the errors of reading. Cost of the first record: O(bytes) of the segment that holds it.
    """
    seconds = as_seconds("poll_interval", poll_interval)
    if not 0 < seconds < math.inf:
        raise InvalidTicket(f"poll_interval: {poll_interval!r} is not more than 0 seconds")
    return Follower(path, after, seconds, durable=durable)


class Follower:
    """An iterator over the records of a live log. It waits for the next one, and ends after `stop`.

        for record in kharon.follow("queue", after=97): ...

    Each line is checked as `read` does: its hash, and its place. Rotation, compression, archiving and trimming are
    followed. Use it from one thread; call `stop` from any.

    Raises, from iterating and from `poll`:
        CorruptLog: the log is damaged where it is read.
        LogReplaced: the log was replaced by another, or lacks a returned record: it was rewound; or, unless `durable`,
            the writer had no room and took the record back, or a loss of power did.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: there is not a queue there; or the next records were trimmed before they were read.
        OSError: it cannot be read.

    Attributes:
        seq: of the last returned record; before the first, `after`.
    """

    def __init__(self, path: str | os.PathLike[str], after: int, poll_interval: float, *, durable: bool) -> None:
        self._directory = Path(path)
        self._interval = poll_interval
        self._durable = durable
        self._stopped = threading.Event()
        self._log = ""
        self._stem = ""
        self._begun = Chain()  # the record that the segment follows
        self._place = _Place(Chain(), 0, 0)
        self._listed: AbstractSet[str] = frozenset()
        self._sealed = False
        self._doubt: tuple[int, str] | None = None  # the end of the chain after which something did not follow
        self._again = False  # whether to read the segment again from its header
        self._stat = self._seen = (0, 0, 0, 0)  # the state of the file, now and when it was last read
        self._file: BinaryIO | None = None
        self._items: Iterator[Header | Record | Seal] = iter(())
        self._held: deque[Record] = deque()  # read, but not vouched for
        self._ready: deque[Record] = deque()
        self._given = ""  # the hash of the last returned record
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
        """End the iterator, at the latest when it would wait. Other threads and signal handlers may call this."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and close the file that the follower holds open. May be called twice."""
        self._stopped.set()
        self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def poll(self, limit: int = _LIMIT) -> list[Record]:
        """Return the next records, at most `limit`, without waiting; none if there are none now.

        Cost: O(bytes read), those of the last segment again if it was rewritten or does not continue as it should; a
        listing of the directory if nothing is new. The memory of the records that nothing vouches for.
        """
        while len(self._ready) < limit and not self._stopped.is_set() and self._advance():
            pass
        records = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        if records:
            self.seq, self._given = records[-1].seq, records[-1].hash
        return records

    # --- reading ------------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Open a file, or read one item of it; return False if there is none now."""
        try:
            return self._enter() if self._file is None else self._read_on(self._file)
        except BaseException:
            self._leave()
            self._again = True  # the next call raises again, and misses nothing after an interrupt
            raise

    def _read_on(self, file: BinaryIO) -> bool:
        try:
            item = next(self._items, None)
        except BrokenSegment as broken:
            return self._look_at(file, broken)
        if item is None:
            self._place.byte = file.tell()
            self._leave()
            return self._sealed
        if isinstance(item, Record):
            self._take(item)
        else:
            self._sealed = True
        return True

    def _take(self, record: Record) -> None:
        self._place.lines += 1
        if record.seq > self.seq:
            self._held.append(record)
            self._vouch(record.durable if self._durable else record.seq)
        elif record.seq == self.seq and self._given not in ("", record.hash):
            raise LogReplaced(
                f"{self._directory}: record {record.seq} was returned with the hash {self._given}, and now it has "
                f"{record.hash}: the log was rewound or rewritten"
            )

    def _vouch(self, upto: int) -> None:
        while self._held and self._held[0].seq <= upto:
            self._ready.append(self._held.popleft())

    def _look_at(self, file: BinaryIO, broken: BrokenSegment) -> bool:
        """Handle an incomplete line: it is being written, or was left by a crash, or the file was replaced."""
        goes_on = True
        if self._is_certain():
            self._place.byte = broken.commit_byte
            # If the next segment is listed, all records of this one were read: its seal is torn.
            goes_on = stem(broken.commit_seq) in self._listed - {self._stem}
            if not goes_on:
                refuse_damage(file, broken, last=max(self._listed) == self._stem)
        self._leave()
        return goes_on

    def _is_certain(self) -> bool:
        """Return whether reading the segment again led to this same place, after which something does not follow.

        If not, have it read again: it may have been cut and rewritten since it was read.
        """
        here = (self._place.chain.seq, self._place.chain.hash)
        certain = self._doubt == here
        self._doubt = None if certain else here
        self._again = not certain
        return certain

    # --- where to read --------------------------------------------------------------------------------------------

    def _enter(self) -> bool:
        """Open the file that has, or will have, the next record; return False if nothing has changed."""
        paths = self._look()
        self._listed = paths.keys()  # before opening: a segment with a successor does not grow any more
        following = paths.get(stem(self._place.chain.seq + 1))
        if not self._stem:
            path = self._first(list(paths.values()))
        elif following is not None and not self._again:
            path = following
        elif self._stem not in paths:
            raise self._gone(list(paths.values()))
        elif self._sealed and not self._again:
            why = f"it is sealed, so a segment beginning at record {self._place.chain.seq + 1} follows; it is missing"
            raise CorruptLog(str(paths[self._stem]), 0, 0, why)
        else:
            path = paths[self._stem]
        try:
            self._file = open_segment(self._open, path)
        except FileNotFoundError:  # it was moved or trimmed since: the next listing shows which
            return False
        return self._go_on(self._file, path) if stem_of(path) == self._stem else self._begin(self._file, path)

    def _look(self) -> dict[str, Path]:
        """List the segments by their stems. If one is missing, list twice: it may have been moved meanwhile."""
        paths = self._list()
        if stem(self._place.chain.seq + 1) in paths or (max(paths) == self._stem and not self._sealed):
            return paths
        return self._list()

    def _open(self, path: Path) -> BinaryIO:
        fixed = FixedSizeFile(path)  # its end is fixed, so that bytes being written are not taken for damage
        stat = fixed.stat
        self._stat = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return io.BufferedReader(fixed)

    def _list(self) -> dict[str, Path]:
        try:
            paths = segments(self._directory)
        except FileNotFoundError:
            paths = []
        if not paths:
            if self._stem:
                raise LogReplaced(f"{self._directory}: the log that was being followed is gone")
            raise KharonError(f"{self._directory} is not a queue: there is no segment in {self._directory / 'log'}")
        return {stem_of(path): path for path in paths}

    def _first(self, paths: list[Path]) -> Path:
        """Return the segment to begin with: by its name, the one that holds the record after `after`."""
        first = first_of(paths[0])
        if self.seq and self.seq + 1 < first:
            raise KharonError(
                f"{self._directory}: the history begins at record {first}, so {self.seq + 1} was trimmed before it "
                f"was read; begin at 0 to read the rest"
            )
        return max((path for path in paths if first_of(path) <= self.seq + 1), key=first_of, default=paths[0])

    def _begin(self, file: BinaryIO, path: Path) -> bool:
        """Read a segment from its header, for the first time or again; return True."""
        start = unproved_start(file, path)
        if start.seq + 1 != first_of(path):
            raise CorruptLog(str(path), 1, 0, f"its name is not that of the segment that begins at {start.seq + 1}")
        again = stem_of(path) == self._stem
        chain = self._begun if again else self._place.chain
        if not self._stem and start.seq:
            chain = start
        elif self._stem and start.hash != chain.hash:
            if not again and not self._is_certain():
                self._leave()
                return True
            raise LogReplaced(
                f"{path}: it follows record {start.seq} with the hash {start.hash}; that of record {chain.seq} was "
                f"{chain.hash}: the log was rewound and rewritten"
            )
        place = _Place(Chain(chain.seq, chain.hash, chain.at), 0, HEADER_LINES)
        items = read_segment(file, str(path), place.chain, None)
        header = next(items)
        assert isinstance(header, Header)
        if self._log not in ("", header.log):
            raise LogReplaced(f"{path}: its log id is {header.log}; the log that was being followed is {self._log}")
        self._vouch(chain.seq)  # a segment is begun once all earlier records are on disk
        self._held.clear()
        while self._ready and self._ready[-1].seq > chain.seq:
            self._ready.pop()
        self._log, self._stem, self._begun = header.log, stem_of(path), chain
        self._place, self._items = place, items
        self._seen, self._sealed, self._again = self._stat, False, False
        return True

    def _go_on(self, file: BinaryIO, path: Path) -> bool:
        """Continue a segment at the current place; return False if nothing has changed."""
        place = self._place
        device, inode, size, _ = self._stat
        if self._again:
            return self._begin(file, path)
        self._doubt = None
        if self._stat == self._seen:
            self._check_reached()
            self._leave()
            return False
        if self._seen[:2] != (device, inode) or size <= place.byte:
            return self._begin(file, path)
        self._seen = self._stat
        file.seek(place.byte)
        self._items = read_records(file, str(path), place.chain, place.byte, place.lines)
        return True

    def _check_reached(self) -> None:
        if self._place.chain.seq < self.seq:
            what = f"record {self.seq} was returned" if self._given else f"was to be followed after {self.seq}"
            raise LogReplaced(
                f"{self._directory}: the log ends at record {self._place.chain.seq}, and {what}: it was rewound or "
                f"replaced"
            )

    def _gone(self, paths: list[Path]) -> KharonError:
        """Return the error for a segment that is missing, together with its successor."""
        first, last = first_of(paths[0]), max(self.seq, self._begun.seq)
        if first > last + 1:
            return KharonError(
                f"{self._directory}: record {last + 1} was trimmed before it was returned; the history now begins at "
                f"record {first}: read faster, or trim later"
            )
        return LogReplaced(
            f"{self._directory}: records up to {last} were read, and the log now begins at record {first} and lacks "
            f"the segment of that one: it was rewound, or replaced"
        )


class _Place:
    """A place in a segment: the end of the chain there, the offset, and the number of lines before it."""

    __slots__ = ("byte", "chain", "lines")

    def __init__(self, chain: Chain, byte: int, lines: int) -> None:
        self.chain = chain
        self.byte = byte
        self.lines = lines
