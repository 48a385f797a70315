"""The files of the log, each read from the beginning: verified line by line, commit by commit.

`read_segment` trusts nothing. `refuse_damage` tells a commit that was never finished from one that was damaged after it
had been durable (`is_proved_durable`). Reading all segments is in `scan`; how the process that writes them reads them,
in `live`. Nothing here writes.
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
"""How many lines stand in front of a segment's first record."""
# All that is fixed of a line's beginning, so that what only resembles one, in a payload, costs no copy of what follows.
_BEGINNINGS: Final = re.compile(rb'\{"hash":"(?=.{64}","crc":"[0-9a-f]{8}",)', re.DOTALL)


OnRecord: TypeAlias = Callable[[Record, bytes, int], None]
"""Called with a record in its place, before the end of its commit is known: it, its line, and where that begins."""


class BrokenSegment(Exception):
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
    file: BinaryIO, path: str, chain: Chain, log: str | None, *, lenient: bool = False, see: OnRecord | None = None
) -> Iterator[Header | Record | Seal]:
    """Give the header, each record, and the seal of a segment, moving `chain` along: records by whole commits only.

    Args:
        file: the segment, opened for reading at its beginning.
        path: its name for messages.
        chain: the end of the log in front of this segment; moved behind each commit that was given.
        log: the log's id; None if this is the first segment that is read.
        lenient: whether events that are not known are given as `Unknown`.
        see: called with each record.

    Raises:
        CorruptLog: the header is not right: a header is written before the file has its name, so it cannot be torn. Or
            something stands behind the seal: nothing is ever written there.
        UnknownFormat: the segment is in a later format; or, unless `lenient`, an event is not known.
        Broken: a line behind it is not right; the chain stands at the end of what is whole.

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
    yield from read_records(file, path, chain, len(line), HEADER_LINES, lenient=lenient, see=see)


def read_records(
    file: BinaryIO,
    path: str,
    chain: Chain,
    byte: int,
    number: int,
    *,
    lenient: bool = False,
    see: OnRecord | None = None,
) -> Iterator[Record | Seal]:
    """Give the records and the seal of a segment from a place on, moving `chain` along, as `read_segment` does.

    Args:
        file: the segment, standing at the end of a whole commit or of the header.
        path: its name for messages.
        chain: the end of the log there.
        byte: the offset of that place.
        number: how many lines stand in front of it.
        lenient: whether events that are not known are given as `Unknown`.
        see: called with each record.

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
            item = parse_seal(line) if is_seal(line) else parse_record(line, hash, lenient=lenient)
            if isinstance(item, Seal):
                _check_seal(item, chain, commit)
            else:
                _check_place(item, chain, commit)
                if see is not None:
                    see(item, line, byte)
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


def refuse_damage(file: BinaryIO, broken: BrokenSegment, *, last: bool, lenient: bool = False) -> None:
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

    Cost: that of `is_proved_durable`.
    """
    if not last:
        raise broken.as_corrupt("; this segment is not the last, so it had been finished. Nothing was changed")
    if is_proved_durable(file, broken, lenient=lenient):
        raise broken.as_corrupt(
            "; a later line says that it had been on disk, so this is damage and no unfinished commit. "
            "Nothing was changed: restore the file from a copy"
        )


def is_proved_durable(file: BinaryIO, broken: BrokenSegment, *, lenient: bool = False) -> bool:
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
    """Return the bytes that every line about the ticket `id` contains (a line about another may, in a payload)."""
    # A lone surrogate is no text: no line is about such an id, and what is found in place of it is about another.
    text = id.encode("utf-8", "backslashreplace").decode()
    return b'"id":' + ascii_json(msgspec.json.encode(text))


def is_about(record: Record, id: str | None) -> bool:
    """Return whether a record is about the ticket `id`; any is, if that is None."""
    return id is None or getattr(record.event, "id", None) == id


class SegmentFile(NamedTuple):
    """Where a segment is: the seq of its first record, and its path."""

    first: int
    path: Path


def unproved_start(file: BinaryIO, path: Path) -> Chain:
    """Return what a segment's header says that it follows, unproved; `file` is left at its beginning.

    Raises:
        CorruptLog: there is no such header.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    file.seek(0)
    try:
        header = parse_header(line, check_line(line, None))
    except BadLine as bad:
        raise CorruptLog(str(path), 1, 0, str(bad)) from None
    return Chain(header.first - 1, header.previous, header.at)


def stem_of(path: Path) -> str:
    """Return the part of a segment's name that says where it begins, compressed or not."""
    return path.name.removesuffix(ZSTD_SUFFIX).removesuffix(_SUFFIX)


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
    return name.removesuffix(ZSTD_SUFFIX).endswith(_SUFFIX)


def stem(first: int) -> str:
    """Return the part of a segment's name that says that it begins at a seq."""
    return f"{first:020}"


def segment_name(first: int) -> str:
    """Return the name of the segment whose first record is `first`."""
    return f"{stem(first)}{_SUFFIX}"
