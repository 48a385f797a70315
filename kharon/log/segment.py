"""The files of the log, read from the beginning: verified line by line, commit by commit.

`read_segment` is the reading that trusts nothing, and `Reading` goes over all segments with it, for recovery and audit.
`judge` is the judgement on a line that is not right: whether it was never finished, or was damaged after it had been
(`is_vouched`). `LiveReader` follows the files that this process itself writes. Nothing here writes.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from kharon.errors import CorruptLog, KharonError, UnknownFormat
from kharon.log.files import Files
from kharon.log.packed import PACKED, open_segment
from kharon.log.record import (
    GENESIS,
    BadLine,
    Chain,
    Header,
    Record,
    Seal,
    check_line,
    is_seal,
    open_header,
    open_record,
    open_seal,
    seal_line,
    unknown_format,
)
from kharon.model.events import LogClosed, SegmentTrimmed
from kharon.model.limits import MAX_LINE_BYTES, ascii_json
from kharon.model.versions import Unknown

__all__ = [
    "HEADER_LINES",
    "Broken",
    "Ended",
    "LiveReader",
    "Place",
    "Reading",
    "first_of",
    "is_about",
    "is_numbered",
    "is_segment",
    "is_vouched",
    "judge",
    "needle",
    "place_of",
    "read_records",
    "read_segment",
    "segment_name",
    "stem",
    "stem_of",
    "trusted_start",
]

_SUFFIX: Final = ".jsonl"
_STEM: Final = re.compile(r"(?!0{20})[0-9]{20}")
HEADER_LINES: Final = 1
"""How many lines stand in front of a segment's first record."""
_READ_BYTES: Final = 256 << 10  # a reader's slice, so that it stays short with records of a megabyte: about 1 ms
# All that is fixed of a line's beginning, so that what only resembles one, in a payload, costs no copy of what follows.
_BEGINNINGS: Final = re.compile(rb'\{"hash":"(?=.{64}","crc":"[0-9a-f]{8}",)', re.DOTALL)


class Broken(Exception):
    """From this line on the file is not what a log should be.

    Attributes:
        line: number of the line that is wrong, from 1; byte: the offset of its beginning.
        commit_byte: the offset of the beginning of the commit that it belongs to: all before it is whole.
        commit_seq: the seq of that commit's first record.
        why: what is wrong.
    """

    def __init__(self, path: str, line: int, byte: int, commit_byte: int, commit_seq: int, why: str) -> None:
        super().__init__(why)
        self.path = path
        self.line = line
        self.byte = byte
        self.commit_byte = commit_byte
        self.commit_seq = commit_seq
        self.why = why

    def as_corrupt(self, more: str = "") -> CorruptLog:
        """Return the error for this place."""
        return CorruptLog(self.path, self.line, self.byte, self.why + more)


def read_segment(
    file: BinaryIO, path: str, chain: Chain, log: str | None, *, lenient: bool = False
) -> Iterator[Header | Record | Seal]:
    """Give the header, each record, and the seal of a segment, moving `chain` along: records by whole commits only.

    Args:
        file: the segment, opened for reading at its beginning.
        path: its name for messages.
        chain: the end of the log in front of this segment; moved behind each commit that was given.
        log: the log's id; None if this is the first segment that is read.
        lenient: whether events that are not known are given as `Unknown`.

    Raises:
        CorruptLog: the header is not right: a header is written before the file has its name, so it cannot be torn. Or
            something stands behind the seal: nothing is ever written there.
        UnknownFormat: the segment is in a later format; or, unless `lenient`, an event is not known.
        Broken: a line behind it is not right; the chain stands at the end of what is whole.

    Cost: O(bytes); the memory of one commit.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    try:
        header = open_header(line, check_line(line, chain.hash))
        _check_header(header, chain, log)
    except BadLine as bad:
        raise CorruptLog(path, 1, 0, str(bad)) from None
    except UnknownFormat as unknown:
        raise UnknownFormat(f"{path}, line 1: {unknown}") from None
    chain.hash = header.hash
    yield header
    yield from read_records(file, path, chain, len(line), HEADER_LINES, lenient=lenient)


def read_records(
    file: BinaryIO, path: str, chain: Chain, byte: int, number: int, *, lenient: bool = False
) -> Iterator[Record | Seal]:
    """Give the records and the seal of a segment from a place on, moving `chain` along, as `read_segment` does.

    Args:
        file: the segment, standing at the end of a whole commit or of the header.
        path: its name for messages.
        chain: the end of the log there.
        byte: the offset of that place.
        number: how many lines stand in front of it.
        lenient: whether events that are not known are given as `Unknown`.

    Raises:
        CorruptLog: something stands behind the seal.
        UnknownFormat: unless `lenient`: an event is not known.
        Broken: a line is not right; the chain stands at the end of what is whole.
    """
    commit_byte = byte
    hash, commit, sealed = chain.hash, list[Record](), False
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if sealed:
            raise CorruptLog(path, number, byte, "it stands behind the line that seals the segment")
        try:
            hash = check_line(line, hash)
            item = open_seal(line) if is_seal(line) else open_record(line, hash, lenient=lenient)
            if isinstance(item, Seal):
                _check_seal(item, chain, commit)
            else:
                _check_place(item, chain, commit)
        except BadLine as bad:
            raise Broken(path, number, byte, commit_byte, chain.seq + 1, str(bad)) from None
        except UnknownFormat as unknown:
            raise UnknownFormat(f"{path}, line {number}: {unknown}") from None
        byte += len(line)
        if isinstance(item, Seal):
            sealed = True
            yield item
            continue
        commit.append(item)
        if item.part[0] == item.part[1]:
            chain.seq, chain.hash, chain.at = item.seq, hash, item.at
            commit_byte = byte
            yield from commit
            commit = []
    if commit:
        why = f"the commit ends after {len(commit)} of its {commit[0].part[1]} records"
        raise Broken(path, number + 1, byte, commit_byte, chain.seq + 1, why)


def _check_header(header: Header, chain: Chain, log: str | None) -> None:
    """Check that a header is the one that comes next."""
    if log is not None and header.log != log:
        raise BadLine(f"its log id is {header.log}, that of the segment before it is {log}")
    if header.first != chain.seq + 1:
        raise BadLine(f"it begins at record {header.first}; {chain.seq + 1} should come next")
    if header.previous != chain.hash:
        raise BadLine(f"it says that it follows the line {header.previous}; its hash follows {chain.hash}")


def _check_seal(seal: Seal, chain: Chain, commit: list[Record]) -> None:
    """Check that a seal stands where the segment's last commit ends."""
    if commit or seal.sealed != chain.seq:
        raise BadLine(f"it seals the segment behind record {seal.sealed}; it stands behind {chain.seq + len(commit)}")


def _check_place(record: Record, chain: Chain, commit: list[Record]) -> None:
    """Check that a record is the one that comes next, after those of its commit that have been read."""
    expected = chain.seq + len(commit) + 1
    if record.seq != expected:
        raise BadLine(f"it is record {record.seq}; {expected} should come next")
    count = commit[0].part[1] if commit else record.part[1]
    if record.part != (len(commit) + 1, count) or record.part[0] > count:
        raise BadLine(f"it is part {list(record.part)} of its commit; [{len(commit) + 1},{count}] should come next")
    if record.durable >= record.seq:
        raise BadLine(f"it says that record {record.durable} was on disk, before that was written")
    last = commit[-1].at if commit else chain.at
    if last is not None and record.at < last:
        raise BadLine(f"its time {record.at} lies before that of the record in front of it")


def judge(file: BinaryIO, broken: Broken, *, last: bool, lenient: bool = False) -> None:
    """Return if what is broken is an unfinished commit at the end of the log.

    Args:
        file: the segment.
        broken: what `read_segment` raised about it.
        last: whether it is the log's last segment.
        lenient: whether events that are not known may stand in it.

    Raises:
        CorruptLog: it is damage.
        UnknownFormat: it is not, but a later version wrote it, and `lenient` is False: then it is not for this one to
            cut.

    Cost: that of `is_vouched`.
    """
    if not last:
        raise broken.as_corrupt("; this segment is not the last, so it had been finished. Nothing was changed")
    if is_vouched(file, broken, lenient=lenient):
        raise broken.as_corrupt(
            "; a later line says that it had been on disk, so this is damage and no unfinished commit. "
            "Nothing was changed: restore the file from a copy"
        )


def is_vouched(file: BinaryIO, broken: Broken, *, lenient: bool = False) -> bool:
    """Return whether anything behind the broken place proves that its commit had been on disk.

    A line there that its own crc vouches for, and that says `durable` (or, if it is a seal, `sealed`) of the commit's
    first record or more, was written when that commit was safe: so the commit has been damaged since, and is no
    unfinished tail. Such a line is looked for behind every newline and inside of lines too, because the newline in
    front of it may be what was damaged. No payload can pass for one: in a line an object is followed by at least the
    brace that closes the line. What event it is does not matter for that.

    Raises:
        UnknownFormat: nothing proves it, but there is an event that is not known, and `lenient` is False.

    Cost: O(bytes left). What has the shape of all 92 bytes of a line's beginning costs O(bytes to the end of its line)
    each time, inside of a payload too; what only resembles one costs nothing more. `file` is left anywhere.
    """
    unknown: Record | None = None
    file.seek(broken.byte)
    while line := file.readline(MAX_LINE_BYTES + 1):
        for beginning in _BEGINNINGS.finditer(line):
            rest = line[beginning.start() :]
            try:
                hash = check_line(rest, None)
                item = open_seal(rest) if is_seal(rest) else open_record(rest, hash, lenient=True)
            except BadLine:
                continue
            if (item.sealed if isinstance(item, Seal) else item.durable) >= broken.commit_seq:
                return True
            if isinstance(item, Record) and type(item.event) is Unknown:
                unknown = item
    if unknown is not None and not lenient:
        raise unknown_format(unknown)
    return False


def needle(id: str) -> bytes:
    """Return the bytes that every line about the ticket `id` contains (a line about another may, in a payload)."""
    # A lone surrogate is no text: no line is about such an id, and what is found in place of it is about another.
    text = id.encode("utf-8", "backslashreplace").decode()
    return b'"id":' + ascii_json(msgspec.json.encode(text))


def is_about(record: Record, id: str | None) -> bool:
    """Return whether a record is about the ticket `id`; any is, if that is None."""
    return id is None or getattr(record.event, "id", None) == id


class Place(NamedTuple):
    """Where a segment is: the seq of its first record, and its path."""

    first: int
    path: Path


def place_of(places: Sequence[Place], seq: int, *, begin: bool = False) -> tuple[Place, Place | None]:
    """Return the segment in which a record stands, or will, and the one behind it, if there is one.

    Args:
        places: all segments, oldest first.
        seq: the record's.
        begin: whether a reader begins there: then, if it has been trimmed, with the oldest segment that is left.

    Raises:
        KharonError: it has been trimmed since the reader began.

    Cost: O(log segments).
    """
    index = bisect_right(places, seq, key=lambda place: place.first) - 1
    if index < 0:
        if not begin:
            raise KharonError(
                f"record {seq} has been trimmed: this reader fell behind, and the history now begins at record "
                f"{places[0].first}; read faster, or trim later"
            )
        index = 0
    return places[index], places[index + 1] if index + 1 < len(places) else None


class LiveReader:
    """Reads on in the segments while this process writes them. Lines are checked by their crc.

    Args:
        files: the file system.
        places: all segments, oldest first: the log's own list, to which it adds, and from which retention takes.
        after: the records up to this seq are passed over.
        id: only records about this ticket; None: all.
    """

    def __init__(self, files: Files, places: Sequence[Place], after: int, id: str | None) -> None:
        self._files = files
        self._begun = False
        self._path = Path()
        self._first = 0
        self._ends: int | None = None  # the first seq of the segment behind this one; None: it may still grow
        self._places = places
        self._after = after
        self._id = id
        self._needle = None if id is None else needle(id)
        self._file: BinaryIO | None = None
        self._line = 0
        self.seq = place_of(places, after + 1, begin=True)[0].first - 1

    def read(self, limit: int, until: int) -> list[Record]:
        """Look at the next lines, `limit` at most and none behind `until`; return the records that are wanted.

        Of large lines fewer than `limit`: no more than about `_READ_BYTES` are read at once.

        Raises:
            CorruptLog: a line is not what was written.
            KharonError: what comes next has been trimmed since this reader began; or it is compressed, and zstd is not
                installed.
            OSError: it cannot be read.

        Cost: O(bytes of the lines looked at); those in front of `after` in their segment are, too.
        """
        records = []
        room = _READ_BYTES
        if not self._begun:  # where the history begins is where a reader may begin, but it may not miss any later
            self.seq = place_of(self._places, self._after + 1, begin=True)[0].first - 1
            self._begun = True
        for _ in range(min(limit, until - self.seq)):
            if room <= 0:
                break
            file = self._segment()
            byte = file.tell()
            line = file.readline(MAX_LINE_BYTES + 1)
            room -= len(line)
            self._line += 1
            self.seq += 1
            if self.seq > self._after and (self._needle is None or self._needle in line):
                record = self._open(line, byte)
                if is_about(record, self._id):
                    records.append(record)
        return records

    def _segment(self) -> BinaryIO:
        """Return the segment in which the next record stands, at its line."""
        if self._file is None or self._ends is None or self.seq + 1 == self._ends:
            place, following = place_of(self._places, self.seq + 1)
            self._ends = None if following is None else following.first
            if place.first != self._first:
                self.close()
            if self._file is None:  # one that is open is read on, wherever it has been moved since
                self._first, self._path = place
        if self._file is None:
            self._file = open_segment(self._files.read, self._path)
            self._file.readline(MAX_LINE_BYTES + 1)
            self._line = HEADER_LINES
        return self._file

    def _open(self, line: bytes, byte: int) -> Record:
        try:
            record = open_record(line, check_line(line, None))
            if record.seq != self.seq:
                raise BadLine(f"it is record {record.seq}; {self.seq} should come next")
        except BadLine as bad:
            raise CorruptLog(str(self._path), self._line, byte, str(bad)) from None
        return record

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Ended(NamedTuple):
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


class Reading:
    """One pass over a log, from its first segment to its end, that trusts nothing.

    If the first segment does not begin at record 1, what it says that it follows is trusted, and by the end of the log
    a record must have said that it was trimmed up to there.

    Args:
        list_segments: returns the paths of all segments, oldest first; asked again at the end of each.
        open_segment: opens one for reading.
        chain: where to begin: at the end of a segment, whose successors alone are read; None: at the first segment.
        log: the log's id, if it is known.
        lenient: whether events that are not known are given as `Unknown`: for those who need only the chain.

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
    ) -> None:
        self._lenient = lenient
        self._list_segments = list_segments
        self._open_segment = open_segment
        self._seal: Seal | None = None
        self.chain = chain or Chain()
        self.log = log
        self._header_hash = GENESIS
        self.places: list[Place] = []
        self.before: Ended | None = None
        self.bare = False
        self.closed = False
        self.broken: Broken | None = None
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
            start = trusted_start(file, path)
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
                self.chain = trusted_start(file, path)
                self._trusted = Chain(self.chain.seq, self.chain.hash)
                self.follows = self.chain.hash
            try:
                for item in read_segment(file, str(path), self.chain, self.log, lenient=self._lenient):
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
            except Broken as broken:
                if self.bare:
                    self._leave_header()
                if not self._is_torn_seal(path, file, broken, following):
                    judge(file, broken, last=following is None and path.suffix != PACKED, lenient=self._lenient)
                    self.broken = broken
                    return
                whole = broken.commit_byte
        if path.suffix == PACKED and self._seal is None:
            why = "only a segment that is sealed is compressed, and its seal is missing"
            raise CorruptLog(str(path), 0, whole, why)
        if following is None and self._seal is None:
            return
        if self.bare and self.before is not None and not self.before.sealed:
            raise self.before.as_corrupt()
        line = self.chain.seq - self.places[-1].first + 1 + 2 * HEADER_LINES
        self.finished += whole
        self.before = Ended(path, whole, self.chain.hash, self.chain.seq, line, self._seal is not None)

    def _is_torn_seal(self, path: Path, file: BinaryIO, broken: Broken, following: Path | None) -> bool:
        """Return whether no record is missing in a broken segment, and what is broken is no more than its seal.

        The name of the next one says where this one's records end; its header proves it.
        """
        if following is None or path.suffix == PACKED or stem_of(following) != stem(self.chain.seq + 1):
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
        self.places.append(Place(header.first, path))
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
            seal = open_seal(line)
        except BadLine:
            raise before.as_corrupt() from None
        if seal != Seal(before.last, self._header_hash) or more:
            raise before.as_corrupt()
        self.before = before._replace(sealed=True, whole=before.whole + len(line))


def trusted_start(file: BinaryIO, path: Path) -> Chain:
    """Return what a segment's header says that it follows, unproved; `file` is left at its beginning.

    Raises:
        CorruptLog: there is no such header.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    file.seek(0)
    try:
        header = open_header(line, check_line(line, None))
    except BadLine as bad:
        raise CorruptLog(str(path), 1, 0, str(bad)) from None
    return Chain(header.first - 1, header.previous, header.at)


def stem_of(path: Path) -> str:
    """Return the part of a segment's name that says where it begins, compressed or not."""
    return path.name.removesuffix(PACKED).removesuffix(_SUFFIX)


def first_of(path: Path) -> int:
    """Return the seq of a segment's first record, by its name.

    Raises:
        CorruptLog: that is no segment's name.
    """
    if not is_numbered(path):
        raise CorruptLog(str(path), 0, 0, "its name is not that of a segment: 20 digits and .jsonl")
    return int(stem_of(path))


def is_numbered(path: Path) -> bool:
    """Return whether a file's name is a seq, as those of segments and snapshots are."""
    return _STEM.fullmatch(stem_of(path)) is not None


def is_segment(name: str) -> bool:
    """Return whether a file with this name is a segment, compressed or not; one with a wrong name among them."""
    return name.removesuffix(PACKED).endswith(_SUFFIX)


def stem(first: int) -> str:
    """Return the part of a segment's name that says that it begins at a seq."""
    return f"{first:020}"


def segment_name(first: int) -> str:
    """Return the name of the segment whose first record is `first`."""
    return f"{stem(first)}{_SUFFIX}"
