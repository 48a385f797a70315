"""The whole log, read from its first segment to its end and verified: for recovery, repair and audit.

`segment` verifies one segment. This module verifies that each segment follows the previous one, that none is missing,
moved or misnamed, and that each seal names the next header. Nothing here writes.
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
    """The end of a segment that has a successor.

    Attributes:
        path: the segment.
        whole: how many of its bytes are whole, including the seal if there is one.
        hash: the hash of its last line before the seal.
        last: the seq of its last record.
        line: the line number of the seal, present or not.
        sealed: whether there is a seal. It is missing if a crash, or another process's rotation, came between the
            creation of the successor and the seal.
    """

    path: Path
    whole: int
    hash: str
    last: int
    line: int
    sealed: bool

    def as_corrupt(self) -> CorruptLog:
        """Return the error for a segment that should have been sealed."""
        why = "something was written after it, so it had been sealed, and the seal is missing or damaged"
        return CorruptLog(str(self.path), self.line, self.whole, why)


class LogScan:
    """One pass over a log, from its first segment to its end, that verifies everything.

    If the first segment does not begin at record 1, its header is trusted at first; some record of the log must then
    say that everything before it was trimmed.

    Args:
        list_segments: returns the paths of all segments, oldest first; called again at the end of each segment.
        open_segment: opens one for reading.
        chain: the end of the segment after which to begin; None: begin with the first segment.
        log: the log's id, if it is known.
        lenient: whether unknown events are yielded as `Unknown`: for callers that only need the chain.
        watch: called with this scan and the path of each segment when it begins, while `before` describes the end of
            the previous one. Returns a callback for each of the segment's records, or None.

    Attributes:
        chain: the position of the scan.
        log: the log's id; None before the first header.
        places: the segments begun so far, oldest first.
        follows: the hash that the first of them follows.
        before: the end of the last segment but one; None if there is only one.
        bare: whether the last segment has nothing after its header. Only then may the one before it lack its seal.
        finished: the number of bytes, decompressed, in the segments before the last one.
        closed: whether the last line was `LogClosed`.
        broken: the unfinished last commit; None if there is none.
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
        self._begun = stem(self.chain.seq)  # segments named later than this are still to be read
        self._missed: Path | None = None  # a segment that was not found when it was opened
        self._trusted: Chain | None = None  # the position that the first header states, until a record confirms it

    @property
    def last_hash(self) -> str:
        """The hash of the last record; of the header if there are no records."""
        no_records = self.before is not None and self.chain.seq < self.places[-1].first
        return self.before.hash if self.before is not None and no_records else self.chain.hash

    def records(self) -> Generator[Record, None, None]:
        """Yield the records, and stop before an unfinished last commit.

        Raises:
            CorruptLog: the log is damaged in another way.
            UnknownFormat: a later version wrote it; unless `lenient`, also for an unknown event.
            KharonError: the next segment was trimmed meanwhile; or it is compressed, and zstd is not installed.
            OSError: the log cannot be read.

        Cost: O(bytes); the memory of one commit.
        """
        while True:
            paths = self._list_segments()  # before opening one: a segment with a successor grows no more
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
        """Open the next segment; None: it was moved or trimmed since it was listed, so list again."""
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
        self._missed = path  # listed again first: it may have been moved while the directories were listed
        return None

    def _check_missing(self, file: BinaryIO, path: Path) -> None:
        """Raise if a segment is missing before this one; return if this one only has the wrong name."""
        try:
            start = unproved_start(file, path)
        except BaseException:
            file.close()
            raise
        if start.seq != self.chain.seq:
            file.close()
            why = (
                f"the segment before it, which begins at record {self.chain.seq + 1}, is missing; if it is in an "
                f"archive, make that reachable"
            )
            raise CorruptLog(str(path), 1, 0, why)

    def _check_trimmed(self, paths: list[Path]) -> None:
        """Raise if this reader fell behind trimming, which removes the oldest segments first."""
        if stem_of(paths[0]) > self._begun:
            raise KharonError(
                f"record {self.chain.seq + 1} was trimmed while the log was being read; its history now begins at "
                f"record {first_of(paths[0])}: read again, faster, or trim later"
            )

    def _check_beginning(self) -> None:
        if self._trusted is not None:
            first = self.places[0]
            why = (
                f"the log begins at record {first.first}, and no record says that earlier ones were trimmed: the "
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
            seen = self._watch(self, path)
            try:
                for item in read_segment(file, str(path), self.chain, self.log, lenient=self._lenient, on_record=seen):
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
        """Return whether every record of a broken segment is whole, and only its seal is not.

        The next segment's name tells where this one's records end; its header proves it.
        """
        if following is None or path.suffix == ZSTD_SUFFIX or stem_of(following) != stem(self.chain.seq + 1):
            return False
        seal = seal_line(self.chain.hash, Seal(self.chain.seq, GENESIS))  # has the length of the right one
        return file.seek(0, os.SEEK_END) - broken.commit_byte <= len(seal)

    def _confirm(self, record: Record) -> None:
        trusted, event = self._trusted, record.event
        if trusted is not None and type(event) is SegmentTrimmed and event.last == trusted.seq:
            if event.last_hash != trusted.hash:
                why = f"a record says that it follows the hash {event.last_hash}; its header says {trusted.hash}"
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
        """Require the seal of the previous segment, since something follows this one's header.

        A missing seal is looked for again: another process may have written it since.
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
        except FileNotFoundError:  # compressed, archived or trimmed since, so it is sealed
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
