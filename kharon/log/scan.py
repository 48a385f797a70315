"""The whole log, read from its first segment to its end, with nothing trusted: for recovery, repair and audit.

What holds within a segment is in `segment`; this is about what holds between them: that each follows from the one in
front of it, that none is missing, moved or misnamed, and what the end of one says of the next. Nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kharon.errors import CorruptLog, KharonError
from kharon.log.record import (
    GENESIS,
    BadLine,
    Chain,
    Header,
    Record,
    Seal,
    check_line,
    parse_seal,
    seal_line,
)
from kharon.log.segment import (
    HEADER_LINES,
    BrokenSegment,
    OnRecord,
    SegmentFile,
    first_of,
    read_segment,
    refuse_damage,
    stem,
    stem_of,
    unproved_start,
)
from kharon.log.zstd import ZSTD_SUFFIX
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import LogClosed, SegmentTrimmed

__all__ = ["LogScan", "SegmentEnd"]


class SegmentEnd(NamedTuple):
    """How a segment that has a successor ends.

    Attributes:
        path: the segment.
        whole: how many of its bytes are whole; the seal is among them if it is there.
        hash: of its last line in front of the seal.
        last: the seq of its last record.
        line: the number of the line where the seal is, or should be.
        sealed: whether it is there. If not, a crash, or another process's rotation, came between the successor and it.
    """

    path: Path
    whole: int
    hash: str
    last: int
    line: int
    sealed: bool

    def as_corrupt(self) -> CorruptLog:
        """Return the error for a segment that must have been sealed."""
        why = "something was written behind it, so it had been sealed, and the seal is missing or damaged"
        return CorruptLog(str(self.path), self.line, self.whole, why)


class LogScan:
    """One pass over a log, from its first segment to its end, that trusts nothing.

    If the first segment does not begin at record 1, what it says that it follows is trusted, and by the end of the log
    a record must have said that it was trimmed up to there.

    Args:
        list_segments: returns the paths of all segments, oldest first; asked again at the end of each.
        open_segment: opens one for reading.
        chain: where to begin: at the end of a segment, whose successors alone are read; None: at the first segment.
        log: the log's id, if it is known.
        lenient: whether events that are not known are given as `Unknown`: for those who need only the chain.
        watch: called with this reading and the path of each segment that is begun, while `before` says how the one in
            front of it ends; returns what is called with each of its records, or None.

    Attributes:
        chain: where the reading stands.
        log: the log's id; None before the first header.
        places: the segments that were begun, oldest first.
        follows: the hash that the first of them follows.
        before: how the last segment but one ends; None if there is only one.
        bare: whether there is nothing behind the header of the last one. Only then may the one before lack its seal.
        finished: how many bytes the segments in front of the last one hold, unpacked.
        closed: whether the last line was `LogClosed`.
        broken: where the unfinished last commit stands; None if there is none.
    """

    def __init__(
        self,
        list_segments: Callable[[], list[Path]],
        open_segment: Callable[[Path], BinaryIO],
        chain: Chain | None = None,
        log: str | None = None,
        *,
        lenient: bool = False,
        watch: Callable[[LogScan, Path], OnRecord | None] = lambda _reading, _path: None,
    ) -> None:
        self._lenient = lenient
        self._watch = watch
        self._list_segments = list_segments
        self._open_segment = open_segment
        self._seal: Seal | None = None
        self.chain = chain or Chain()
        self.log = log
        self._header_hash = GENESIS
        self.places: list[SegmentFile] = []
        self.before: SegmentEnd | None = None
        self.bare = False
        self.closed = False
        self.broken: BrokenSegment | None = None
        self.finished = 0
        self.follows = self.chain.hash
        self._begun = stem(self.chain.seq)  # what stands behind this name is still to be read
        self._missed: Path | None = None  # what was not to be found when it was looked for
        self._trusted: Chain | None = None  # what the first segment says that it follows, until a record confirms it

    @property
    def last_hash(self) -> str:
        """The hash of the last record; of the header, if there is no record."""
        no_records = self.before is not None and self.chain.seq < self.places[-1].first
        return self.before.hash if self.before is not None and no_records else self.chain.hash

    def records(self) -> Generator[Record, None, None]:
        """Give the records, and stop in front of an unfinished last commit.

        Raises:
            CorruptLog: the log is damaged in another way.
            UnknownFormat: a later version wrote it; unless `lenient`, also if that goes for an event alone.
            KharonError: what comes next was trimmed meanwhile; or is compressed, and zstd is not installed.
            OSError: it cannot be read.

        Cost: O(bytes); the memory of one commit.
        """
        while True:
            paths = self._list_segments()  # before opening: one that has a successor will not grow any more
            coming = [path for path in paths if stem_of(path) > self._begun]
            if not coming:
                if self._seal is not None:
                    why = f"it is sealed, so a segment beginning at record {self.chain.seq + 1} follows; it is missing"
                    raise CorruptLog(str(self.places[-1].path), 0, 0, why)
                break
            following = coming[1] if len(coming) > 1 else None
            file = self._next(paths, coming[0])
            if file is None:
                continue
            yield from self._read(coming[0], file, following)
            if following is None and self._seal is None:
                break
        self._check_beginning()

    def _next(self, paths: list[Path], path: Path) -> BinaryIO | None:
        """Open the segment that comes next; None: it was moved or trimmed since it was listed, so list again."""
        hole = bool(self.places) and stem_of(path) != stem(self.chain.seq + 1)
        if hole:
            self._check_trimmed(paths)
        if not hole or path == self._missed:
            try:
                file = self._open_segment(path)
            except FileNotFoundError:
                if path == self._missed:
                    raise
            else:
                if hole:
                    self._check_missing(file, path)
                return file
        self._missed = path  # else what is missing may have been moved while its directory was being listed
        return None

    def _check_missing(self, file: BinaryIO, path: Path) -> None:
        """Tell a segment that is missing from one that has the wrong name."""
        try:
            start = unproved_start(file, path)
        except BaseException:
            file.close()
            raise
        if start.seq != self.chain.seq:
            file.close()
            why = (
                f"the segment that begins at record {self.chain.seq + 1} is missing in front of it; if that is in an "
                f"archive, make it reachable"
            )
            raise CorruptLog(str(path), 1, 0, why)

    def _check_trimmed(self, paths: list[Path]) -> None:
        """Tell a reader that fell behind from a log with a hole: what is trimmed goes from the oldest on."""
        if stem_of(paths[0]) > self._begun:
            raise KharonError(
                f"record {self.chain.seq + 1} was trimmed while the log was being read; its history now begins at "
                f"record {first_of(paths[0])}: read again, faster, or trim later"
            )

    def _check_beginning(self) -> None:
        if self._trusted is not None:
            first = self.places[0]
            why = (
                f"the log begins at record {first.first}, and no record says that it was trimmed up to there: the "
                f"segments before it are missing; if they are in an archive, make that reachable"
            )
            raise CorruptLog(str(first.path), 1, 0, why)

    def _read(self, path: Path, opened: BinaryIO, following: Path | None) -> Iterator[Record]:
        self._begun = stem_of(path)
        with opened as file:
            if not self.places and not self.chain.seq and self._begun != stem(1):
                self.chain = unproved_start(file, path)
                self._trusted = Chain(self.chain.seq, self.chain.hash)
                self.follows = self.chain.hash
            see = self._watch(self, path)
            try:
                for item in read_segment(file, str(path), self.chain, self.log, lenient=self._lenient, see=see):
                    if isinstance(item, Record):
                        if self.bare:
                            self._leave_header()
                        self.closed = type(item.event) is LogClosed
                        self._confirm(item)
                        yield item
                    elif isinstance(item, Header):
                        self._begin(path, item)
                    else:
                        self._seal = item
                whole = file.tell()
            except BrokenSegment as broken:
                if self.bare:
                    self._leave_header()
                if not self._is_torn_seal(path, file, broken, following):
                    refuse_damage(
                        file, broken, last=following is None and path.suffix != ZSTD_SUFFIX, lenient=self._lenient
                    )
                    self.broken = broken
                    return
                whole = broken.commit_byte
        if path.suffix == ZSTD_SUFFIX and self._seal is None:
            why = "only a segment that is sealed is compressed, and its seal is missing"
            raise CorruptLog(str(path), 0, whole, why)
        if following is None and self._seal is None:
            return
        if self.bare and self.before is not None and not self.before.sealed:
            raise self.before.as_corrupt()
        line = self.chain.seq - self.places[-1].first + 1 + 2 * HEADER_LINES
        self.finished += whole
        self.before = SegmentEnd(path, whole, self.chain.hash, self.chain.seq, line, self._seal is not None)

    def _is_torn_seal(self, path: Path, file: BinaryIO, broken: BrokenSegment, following: Path | None) -> bool:
        """Return whether no record is missing in a broken segment, and what is broken is no more than its seal.

        The name of the next one says where this one's records end; its header proves it.
        """
        if following is None or path.suffix == ZSTD_SUFFIX or stem_of(following) != stem(self.chain.seq + 1):
            return False
        seal = seal_line(self.chain.hash, Seal(self.chain.seq, GENESIS))  # as long as the right one
        return file.seek(0, os.SEEK_END) - broken.commit_byte <= len(seal)

    def _confirm(self, record: Record) -> None:
        trusted, event = self._trusted, record.event
        if trusted is not None and type(event) is SegmentTrimmed and event.last == trusted.seq:
            if event.last_hash != trusted.hash:
                why = f"a record says that it follows the hash {event.last_hash}; it begins behind {trusted.hash}"
                raise CorruptLog(str(self.places[0].path), 1, 0, why)
            self._trusted = None

    def _begin(self, path: Path, header: Header) -> None:
        if stem_of(path) != stem(header.first):
            raise CorruptLog(str(path), 1, 0, f"its name is not that of the segment that begins at {header.first}")
        if self._seal is not None and self._seal.next != header.hash:
            raise CorruptLog(str(path), 1, 0, "the segment before it was sealed with another header as the next")
        self._seal = None
        self.log = header.log
        self.places.append(SegmentFile(header.first, path))
        self._header_hash = header.hash
        self.bare = True
        self.closed = False

    def _leave_header(self) -> None:
        """There is something behind the header, so the segment before must be sealed.

        If its seal was not there when it was read, look again: another process may have written it since.
        """
        self.bare = False
        before = self.before
        if before is None or before.sealed:
            return
        try:
            with self._open_segment(before.path) as file:
                file.seek(before.whole)
                line = file.readline(MAX_LINE_BYTES + 1)
                more = file.read(1)
        except FileNotFoundError:  # compressed, archived or trimmed since, as only a sealed one is
            self.before = before._replace(sealed=True)
            return
        try:
            check_line(line, before.hash)
            seal = parse_seal(line)
        except BadLine:
            raise before.as_corrupt() from None
        if seal != Seal(before.last, self._header_hash) or more:
            raise before.as_corrupt()
        self.before = before._replace(sealed=True, whole=before.whole + len(line))
