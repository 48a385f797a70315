"""One segment, read from its beginning and verified line by line, commit by commit.

`read_segment` trusts nothing. `refuse_damage` tells an unfinished commit from one that was damaged after it had been
durable (`is_proved_durable`). Reading all segments is in `scan`; how the process that writes them reads them, in
`live`. Nothing here writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias

import msgspec

from kharon.errors import CorruptLog, UnknownFormat
from kharon.log.record import (
    BadLine,
    Chain,
    Header,
    Record,
    Seal,
    check_line,
    is_seal,
    parse_header,
    parse_record,
    parse_seal,
    unknown_format,
)
from kharon.log.zstd import ZSTD_SUFFIX
from kharon.model.checks import MAX_LINE_BYTES, ascii_json
from kharon.model.versions import Unknown

__all__ = [
    "HEADER_LINES",
    "BrokenSegment",
    "OnRecord",
    "SegmentFile",
    "first_of",
    "is_about",
    "is_numbered",
    "is_proved_durable",
    "is_segment",
    "needle",
    "read_records",
    "read_segment",
    "refuse_damage",
    "segment_name",
    "stem",
    "stem_of",
    "unproved_start",
]

_SUFFIX: Final = ".jsonl"
_STEM: Final = re.compile(r"(?!0{20})[0-9]{20}")
HEADER_LINES: Final = 1
"""How many lines come before a segment's first record."""
# All that is fixed of a line's beginning, so that only a whole beginning costs a copy of the bytes after it.
_BEGINNINGS: Final = re.compile(rb'\{"hash":"(?=.{64}","crc":"[0-9a-f]{8}",)', re.DOTALL)


OnRecord: TypeAlias = Callable[[Record, bytes, int], None]
"""Called with each record before its commit is complete: the record, its line, and the line's byte offset."""


class BrokenSegment(Exception):
    """A segment is wrong from a line on.

    Attributes:
        path: its name for messages.
        line: the number of the wrong line, from 1.
        byte: the offset of that line.
        commit_byte: the offset of its commit; everything before it is whole.
        commit_seq: the seq of that commit's first record.
        why: the fault.
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
        """Return the error that names this line; `more` is added to its reason."""
        return CorruptLog(self.path, self.line, self.byte, self.why + more)


def read_segment(
    file: BinaryIO,
    path: str,
    chain: Chain,
    log: str | None,
    *,
    lenient: bool = False,
    on_record: OnRecord | None = None,
) -> Iterator[Header | Record | Seal]:
    """Yield the header, each record and the seal of a segment, advancing `chain`; records by whole commits only.

    Args:
        file: the segment, opened for reading at its beginning.
        path: its name for messages.
        chain: the end of the log before this segment; advanced past each commit that was yielded.
        log: the log's id; None for the first segment that is read.
        lenient: whether unknown events are yielded as `Unknown`.
        on_record: called with each record.

    Raises:
        CorruptLog: the header is wrong. It is written before the file has its name, so it cannot be torn. Or something
            follows the seal, where nothing is ever written.
        UnknownFormat: the segment is in a later format; or, unless `lenient`, an event is unknown.
        BrokenSegment: a later line is wrong; the chain is at the end of the last whole commit.

    Cost: O(bytes); the memory of one commit.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    try:
        header = parse_header(line, check_line(line, chain.hash))
        _check_header(header, chain, log)
    except BadLine as bad:
        raise CorruptLog(path, 1, 0, str(bad)) from None
    except UnknownFormat as unknown:
        raise UnknownFormat(f"{path}, line 1: {unknown}") from None
    chain.hash = header.hash
    yield header
    yield from read_records(file, path, chain, len(line), HEADER_LINES, lenient=lenient, on_record=on_record)


def read_records(
    file: BinaryIO,
    path: str,
    chain: Chain,
    byte: int,
    number: int,
    *,
    lenient: bool = False,
    on_record: OnRecord | None = None,
) -> Iterator[Record | Seal]:
    """Yield the records and the seal of a segment from an offset on, advancing `chain`, as `read_segment` does.

    Args:
        file: the segment, positioned at the end of a whole commit or of the header.
        path: its name for messages.
        chain: the end of the log there.
        byte: the offset there.
        number: how many lines come before it.
        lenient: whether unknown events are yielded as `Unknown`.
        on_record: called with each record.

    Raises:
        CorruptLog: something follows the seal.
        UnknownFormat: unless `lenient`: an event is unknown.
        BrokenSegment: a line is wrong; the chain is at the end of the last whole commit.
    """
    commit_byte = byte
    hash, commit, sealed = chain.hash, list[Record](), False
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if sealed:
            raise CorruptLog(path, number, byte, "it comes after the line that seals the segment")
        try:
            hash = check_line(line, hash)
            item = parse_seal(line) if is_seal(line) else parse_record(line, hash, lenient=lenient)
            if isinstance(item, Seal):
                _check_seal(item, chain, commit)
            else:
                _check_place(item, chain, commit)
                if on_record is not None:
                    on_record(item, line, byte)
        except BadLine as bad:
            raise BrokenSegment(path, number, byte, commit_byte, chain.seq + 1, str(bad)) from None
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
        raise BrokenSegment(path, number + 1, byte, commit_byte, chain.seq + 1, why)


def _check_header(header: Header, chain: Chain, log: str | None) -> None:
    """Check that a header is the next one."""
    if log is not None and header.log != log:
        raise BadLine(f"its log id is {header.log}, that of the segment before it is {log}")
    if header.first != chain.seq + 1:
        raise BadLine(f"it begins at record {header.first}; {chain.seq + 1} should come next")
    if header.previous != chain.hash:
        raise BadLine(f"it says that it follows the line {header.previous}; the line before it is {chain.hash}")


def _check_seal(seal: Seal, chain: Chain, commit: list[Record]) -> None:
    """Check that a seal comes directly after the segment's last commit."""
    if commit or seal.sealed != chain.seq:
        raise BadLine(f"it seals the segment after record {seal.sealed}; it comes after {chain.seq + len(commit)}")


def _check_place(record: Record, chain: Chain, commit: list[Record]) -> None:
    """Check that a record is the next one, after the records of its commit that were read."""
    expected = chain.seq + len(commit) + 1
    if record.seq != expected:
        raise BadLine(f"it is record {record.seq}; {expected} should come next")
    count = commit[0].part[1] if commit else record.part[1]
    if record.part != (len(commit) + 1, count) or record.part[0] > count:
        raise BadLine(f"it is part {list(record.part)} of its commit; [{len(commit) + 1},{count}] should come next")
    if record.durable >= record.seq:
        raise BadLine(f"it says that record {record.durable} was on disk, before that record was written")
    last = commit[-1].at if commit else chain.at
    if last is not None and record.at < last:
        raise BadLine(f"its time {record.at} is before that of the previous record")


def refuse_damage(file: BinaryIO, broken: BrokenSegment, *, last: bool, lenient: bool = False) -> None:
    """Return if the broken part is an unfinished commit at the end of the log; else raise.

    Args:
        file: the segment.
        broken: the error that `read_segment` raised about it.
        last: whether it is the log's last segment.
        lenient: whether unknown events are allowed.

    Raises:
        CorruptLog: the segment is damaged.
        UnknownFormat: it is not, but a later version wrote it, and `lenient` is False: this version must not cut it.

    Cost: that of `is_proved_durable`.
    """
    if not last:
        raise broken.as_corrupt("; this segment is not the last, so it had been finished. Nothing was changed")
    if is_proved_durable(file, broken, lenient=lenient):
        raise broken.as_corrupt(
            "; a later line says that it was on disk, so this is damage, not an unfinished commit. "
            "Nothing was changed: restore the file from a copy"
        )


def is_proved_durable(file: BinaryIO, broken: BrokenSegment, *, lenient: bool = False) -> bool:
    """Return whether a later line proves that the broken commit was on disk.

    The proof is a line whose own crc is right and whose `durable` (of a seal: `sealed`) is at least the seq of the
    commit's first record. It was written when that commit was on disk, so the commit was damaged since. Such a line is
    sought after every newline, and inside lines too, since the newline before it may be the damaged byte. No payload
    can pass for one: an object inside a line is followed by at least the brace that closes the line. Any event will do.

    Raises:
        UnknownFormat: there is no proof, but an unknown event, and `lenient` is False.

    Cost: O(bytes left). Each text with the shape of a line's first 92 bytes, in a payload too, costs O(bytes to the
    end of its line); one that only resembles it costs nothing more. The position of `file` afterwards is undefined.
    """
    unknown: Record | None = None
    file.seek(broken.byte)
    while line := file.readline(MAX_LINE_BYTES + 1):
        for beginning in _BEGINNINGS.finditer(line):
            rest = line[beginning.start() :]
            try:
                hash = check_line(rest, None)
                item = parse_seal(rest) if is_seal(rest) else parse_record(rest, hash, lenient=True)
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
    """Return bytes that every line about the ticket `id` contains; another line may contain them in a payload."""
    # No line is about an id with a lone surrogate; the lines found in its place are about another id.
    text = id.encode("utf-8", "backslashreplace").decode()
    return b'"id":' + ascii_json(msgspec.json.encode(text))


def is_about(record: Record, id: str | None) -> bool:
    """Return whether a record is about the ticket `id`; with None every record is."""
    return id is None or getattr(record.event, "id", None) == id


class SegmentFile(NamedTuple):
    """A segment's file: the seq of its first record, and its path."""

    first: int
    path: Path


def unproved_start(file: BinaryIO, path: Path) -> Chain:
    """Return the position that a segment's header says it follows, unproved; `file` is left at its beginning.

    Raises:
        CorruptLog: the segment has no valid header.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    file.seek(0)
    try:
        header = parse_header(line, check_line(line, None))
    except BadLine as bad:
        raise CorruptLog(str(path), 1, 0, str(bad)) from None
    return Chain(header.first - 1, header.previous, header.at)


def stem_of(path: Path) -> str:
    """Return the part of a segment's name that tells where it begins, without any suffix."""
    return path.name.removesuffix(ZSTD_SUFFIX).removesuffix(_SUFFIX)


def first_of(path: Path) -> int:
    """Return the seq of a segment's first record, from its name.

    Raises:
        CorruptLog: it is not the name of a segment.
    """
    if not is_numbered(path):
        why = (
            f"its name is not that of a segment: 20 digits and .jsonl. If it is a copy, or not part of the log, move "
            f"it out of {path.parent}; if it is a segment that was renamed, call it by the `first` of its first line"
        )
        raise CorruptLog(str(path), 0, 0, why)
    return int(stem_of(path))


def is_numbered(path: Path) -> bool:
    """Return whether a file is named by a seq, as segments and snapshots are."""
    return _STEM.fullmatch(stem_of(path)) is not None


def is_segment(name: str) -> bool:
    """Return whether a file of this name could be a segment, compressed or not, even if its number is malformed."""
    return not name.startswith(".") and name.removesuffix(ZSTD_SUFFIX).endswith(_SUFFIX)


def stem(first: int) -> str:
    """Return the name, without suffix, of the segment that begins at the seq `first`."""
    return f"{first:020}"


def segment_name(first: int) -> str:
    """Return the name of the segment whose first record is `first`."""
    return f"{stem(first)}{_SUFFIX}"
