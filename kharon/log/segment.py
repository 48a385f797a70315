"""One file of the log, read from its beginning: verified line by line, commit by commit.

`read_segment` is the reading that trusts nothing: recovery and audit use it. `judge` is the judgement on a line that is
not right: whether it was never finished, or was damaged after it had been (`is_vouched`). `LiveReader` follows a file
that this process itself writes. Nothing here writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from kharon.errors import CorruptLog
from kharon.log.record import BadLine, Chain, Header, Record, check_line, open_header, open_record
from kharon.model.limits import MAX_LINE_BYTES, ascii_json

__all__ = ["Broken", "LiveReader", "is_about", "is_vouched", "judge", "needle", "read_segment"]

_HEADER_LINES: Final = 1
_BEGINNINGS: Final = re.compile(rb'\{"hash":"')


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


def read_segment(file: BinaryIO, path: str, chain: Chain, log: str | None) -> Iterator[Header | Record]:
    """Give the header and then each record of a segment, moving `chain` along: a record only if its commit is whole.

    Args:
        file: the segment, opened for reading at its beginning.
        path: its name for messages.
        chain: the end of the log in front of this segment; moved behind each commit that was given.
        log: the log's id; None if this is the first segment that is read.

    Raises:
        CorruptLog: the header is not right: a header is written before the file has its name, so it cannot be torn.
        Broken: a record is not right; the chain stands at the end of what is whole.

    Cost: O(bytes); the memory of one commit.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    try:
        header = open_header(line, check_line(line, chain.hash))
        if log is not None and header.log != log:
            raise BadLine(f"its log id is {header.log}, that of the segment before it is {log}")
        if header.first != chain.seq + 1:
            raise BadLine(f"it begins at record {header.first}; {chain.seq + 1} should come next")
        if header.previous != chain.hash:
            raise BadLine(f"it says that it follows the line {header.previous}; its hash follows {chain.hash}")
    except BadLine as bad:
        raise CorruptLog(path, 1, 0, str(bad)) from None
    chain.hash = header.hash
    yield header
    byte = commit_byte = len(line)
    number = _HEADER_LINES
    hash, commit = chain.hash, list[Record]()
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        try:
            hash = check_line(line, hash)
            record = open_record(line, hash)
            _check_place(record, chain, commit)
        except BadLine as bad:
            raise Broken(path, number, byte, commit_byte, chain.seq + 1, str(bad)) from None
        byte += len(line)
        commit.append(record)
        if record.part[0] == record.part[1]:
            chain.seq, chain.hash, chain.at = record.seq, hash, record.at
            commit_byte = byte
            yield from commit
            commit = []
    if commit:
        why = f"the commit ends after {len(commit)} of its {commit[0].part[1]} records"
        raise Broken(path, number + 1, byte, commit_byte, chain.seq + 1, why)


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


def judge(file: BinaryIO, broken: Broken, *, last: bool) -> None:
    """Return if what is broken is an unfinished commit at the end of the log.

    Args:
        file: the segment.
        broken: what `read_segment` raised about it.
        last: whether it is the log's last segment.

    Raises:
        CorruptLog: it is damage.

    Cost: that of `is_vouched`.
    """
    if not last:
        raise broken.as_corrupt("; this segment is not the last, so it had been finished. Nothing was changed")
    if is_vouched(file, broken):
        raise broken.as_corrupt(
            "; a later line says that it had been on disk, so this is damage and no unfinished commit. "
            "Nothing was changed: restore the file from a copy"
        )


def is_vouched(file: BinaryIO, broken: Broken) -> bool:
    """Return whether anything behind the broken place proves that its commit had been on disk.

    A line there that its own crc vouches for, and that says `durable` of the commit's first record or more, was written
    when that commit was safe: so the commit has been damaged since, and is no unfinished tail. Such a line is looked
    for behind every newline and inside of lines too, because the newline in front of it may be what was damaged. No
    payload can pass for one: in a line an object is followed by at least the brace that closes the line.

    Cost: O(bytes left), and for a payload full of what looks like the beginning of a line O(its bytes) for each of
    them. `file` is left anywhere.
    """
    file.seek(broken.byte)
    while line := file.readline(MAX_LINE_BYTES + 1):
        for beginning in _BEGINNINGS.finditer(line):
            rest = line[beginning.start() :]
            try:
                record = open_record(rest, check_line(rest, None))
            except BadLine:
                continue
            if record.durable >= broken.commit_seq:
                return True
    return False


def needle(id: str) -> bytes:
    """Return the bytes that every line about the ticket `id` contains (a line about another may, in a payload)."""
    return b'"id":' + ascii_json(msgspec.json.encode(id))


def is_about(record: Record, id: str | None) -> bool:
    """Return whether a record is about the ticket `id`; any is, if that is None."""
    return id is None or getattr(record.event, "id", None) == id


class LiveReader:
    """Reads on in a segment while this process writes it. Lines are checked by their crc.

    Args:
        path: the segment.
        first: the seq of its first record.
        after: the records up to this seq are passed over.
        id: only records about this ticket; None: all.
    """

    def __init__(self, path: str, first: int, after: int, id: str | None) -> None:
        self._path = path
        self._file = Path(path).open("rb")  # noqa: SIM115 - closed in close()
        self._file.readline(MAX_LINE_BYTES + 1)
        self._after = after
        self._id = id
        self._needle = None if id is None else needle(id)
        self.seq = first - 1

    def read(self, limit: int, until: int) -> list[Record]:
        """Look at the next lines, `limit` at most and none behind `until`; return the records that are wanted."""
        records = []
        for _ in range(min(limit, until - self.seq)):
            byte = self._file.tell()
            line = self._file.readline(MAX_LINE_BYTES + 1)
            self.seq += 1
            if self.seq > self._after and (self._needle is None or self._needle in line):
                record = self._open(line, byte)
                if is_about(record, self._id):
                    records.append(record)
        return records

    def _open(self, line: bytes, byte: int) -> Record:
        try:
            record = open_record(line, check_line(line, None))
            if record.seq != self.seq:
                raise BadLine(f"it is record {record.seq}; {self.seq} should come next")
        except BadLine as bad:
            raise CorruptLog(self._path, self.seq + _HEADER_LINES, byte, str(bad)) from None
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()
