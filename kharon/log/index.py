"""The index of a finished segment: the offsets of each ticket's records, so that the segment need not be read.

    index/<first seq, 20 digits>.idx        one for each segment that has a successor

An index is a cache. Any process can make it again from its segment, or delete it, at any time. One that is damaged,
unfinished, or of another segment is not used. An index proves nothing: each record found by it is checked in the
segment, and none is returned twice. So a forged index can hide records, but do nothing else.
`kharon.audit.verify_indexes` detects that, and reading the log finds the hidden records.

    head       struct `_HEAD`: magic, version, the segment's log id, the hash of its last record, its first and last
               seq, the number of entries
    table      for each block of `_BLOCK` entries its first key (u64), then for each block its CRC-32 (u32)
    CRC-32     of head and table (u32)
    entries    sorted: (key, byte), two u64 each: the first 8 bytes of BLAKE2b of the ticket's id, and the offset of the
               line about it in the uncompressed segment

All numbers are in the byte order of the machine; a machine of the other order reads an unknown version. Each part has
its own CRC, so a look-up costs two small reads, however large the segment is.
"""

from __future__ import annotations

import contextlib
import os
import struct
import uuid
import zlib
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from kharon.errors import CorruptLog
from kharon.log.files import OS_FILES, Files
from kharon.log.record import BadLine, Header, Record, check_line, parse_header, parse_record
from kharon.log.segment import is_about
from kharon.log.zstd import open_segment
from kharon.model.checks import MAX_LINE_BYTES

__all__ = [
    "BLOCK_BYTES",
    "INDEX",
    "FinishedSegment",
    "LineOffsets",
    "Table",
    "build_index",
    "encode_index",
    "find_indexed",
    "finished_segment",
    "finished_segments",
    "id_of_line",
    "index_path",
    "may_write",
    "read_header",
    "read_table",
    "records_at",
    "write_index",
    "write_missing",
]

INDEX: Final = "index"
"""The name of the folder in a queue's directory."""
_SUFFIX: Final = ".idx"
_TEMPORARY: Final = ".tmp"
_MAGIC: Final = b"kharonix"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("=8sI32s64sQQQ")
_BLOCK: Final = 256
_ENTRY_BYTES: Final = 16
BLOCK_BYTES: Final = _BLOCK * _ENTRY_BYTES
"""How many bytes of entries share one CRC-32."""
_ROW_BYTES: Final = 12
_CRC_BYTES: Final = 4
_BACK_BYTES: Final = 4096  # how far back the search for a line's beginning goes at first
_PROGRESS_LINES: Final = 4096
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class FinishedSegment(NamedTuple):
    """A segment that has a successor, whose header states where this one ends.

    Attributes:
        path: the segment.
        log: the log's id.
        previous: the hash that its header follows.
        first, last: the seqs of its first and its last record.
        hash: the hash of its last record.
    """

    path: Path
    log: str
    previous: str
    first: int
    last: int
    hash: str


class _Named(msgspec.Struct):
    """The fields of a record that an index needs."""

    seq: int
    id: str | UnsetType = UNSET


_named = msgspec.json.Decoder(_Named).decode


# --- which segments ---------------------------------------------------------------------------------------------------


def finished_segments(files: Files, paths: Sequence[Path]) -> Iterator[FinishedSegment]:
    """Yield the segments that have a successor.

    Args:
        files: the file system.
        paths: all segments, oldest first.

    Raises:
        CorruptLog: a header is wrong, or does not follow the previous one.
        UnknownFormat: a later version wrote it.
        OSError: it cannot be read.

    Cost: O(segments): the header of each is read.
    """
    headers = ((path, _header(files, path)) for path in paths)
    for (path, header), (after, following) in pairwise(headers):
        yield _finished(path, header, after, following)


def finished_segment(files: Files, path: Path, following: Path) -> FinishedSegment:
    """Return the segment at `path`, which has the successor `following`.

    Raises:
        CorruptLog, UnknownFormat, OSError: as `finished_segments`.

    Cost: O(1): two headers are read.
    """
    return _finished(path, _header(files, path), following, _header(files, following))


def _finished(path: Path, header: Header, after: Path, following: Header) -> FinishedSegment:
    if following.log != header.log or following.first <= header.first:
        why = f"it does not follow {path.name}: it is of log {following.log} from record {following.first} on"
        raise CorruptLog(str(after), 1, 0, why)
    return FinishedSegment(path, header.log, header.previous, header.first, following.first - 1, following.previous)


def _header(files: Files, path: Path) -> Header:
    with open_segment(files.read, path) as file:
        return read_header(file, str(path))


def read_header(file: BinaryIO, path: str) -> Header:
    """Return the header of a segment, checked against the hash that it says it follows.

    Raises:
        CorruptLog: the first line is not a valid header.
        UnknownFormat: a later version wrote it.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    try:
        header = parse_header(line, check_line(line, None))
        check_line(line, header.previous)
    except BadLine as bad:
        raise CorruptLog(path, 1, 0, str(bad)) from None
    return header


# --- asking it --------------------------------------------------------------------------------------------------------


def find_indexed(files: Files, directory: Path, segment: FinishedSegment, id: str) -> list[Record] | None:
    """Return the records about a ticket in a segment, oldest first; None if it has no usable index.

    Args:
        files: the file system.
        directory: the queue's directory.
        segment: the segment.
        id: the ticket's id.

    Raises:
        UnknownFormat: a later version wrote one of them.
        OSError: the segment cannot be read.

    Cost: O(log(records) + records found). Measured with 370 segments of ten million records: 32 ms of processor time
        for all of them.
    """
    try:
        with files.read(index_path(directory, segment.first)) as file:
            places = _look_up(file, segment, id)
    except OSError:
        return None
    if not places:
        return places if places is None else []
    try:
        return records_at(files, segment, places, id)
    except BadLine:
        return None  # the index or the segment is damaged: reading the whole segment tells which


def index_path(directory: Path, first: int) -> Path:
    """Return the path of the index of the segment that begins at the record `first`."""
    return directory / INDEX / f"{first:020}{_SUFFIX}"


def _key(id: str) -> int:
    data = id.encode("utf-8", "backslashreplace")  # no id has a lone surrogate; two ids may share a key
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class Table(NamedTuple):
    """The table in an index that precedes its entries.

    Attributes:
        firsts: the first key of each block.
        sums: the CRC-32 of each block.
        begin: the offset of the first block.
    """

    firsts: memoryview
    sums: memoryview
    begin: int

    def place(self, number: int) -> int:
        """Return the offset of a block, which has `BLOCK_BYTES` bytes; the last one may have fewer."""
        return self.begin + number * BLOCK_BYTES

    def vouches(self, number: int, block: bytes) -> bool:
        """Return whether a block has the CRC-32 that was written for it."""
        crc: int = self.sums[number]
        return zlib.crc32(block) == crc


def read_table(file: BinaryIO, segment: FinishedSegment) -> Table | None:
    """Return the table of an index; None if the file is not a whole index of this segment.

    Cost: two reads of 140 bytes, and 12 for each block.
    """
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    *is_of, count = _HEAD.unpack(head)
    if is_of != _is_of(segment) or count > segment.last - segment.first + 1:
        return None
    blocks = -(-count // _BLOCK)
    begin = _HEAD.size + blocks * _ROW_BYTES + _CRC_BYTES
    if file.seek(0, os.SEEK_END) != begin + count * _ENTRY_BYTES:
        return None
    file.seek(_HEAD.size)
    table = file.read(begin - _HEAD.size)
    if _crc_bytes(head + table[:-_CRC_BYTES]) != table[-_CRC_BYTES:]:
        return None
    view = memoryview(table)
    return Table(view[: 8 * blocks].cast("Q"), view[8 * blocks : -_CRC_BYTES].cast("I"), begin)


def _look_up(file: BinaryIO, segment: FinishedSegment, id: str) -> list[int] | None:
    """Return the offsets of the lines about a ticket, in order; None if the file is not its whole index."""
    table = read_table(file, segment)
    if table is None:
        return None
    firsts = table.firsts
    key = _key(id)
    places: list[int] = []
    number = max(0, bisect_left(firsts, key) - 1)  # entries with this key may begin in the previous block
    while number < len(firsts) and firsts[number] <= key:
        file.seek(table.place(number))
        block = file.read(BLOCK_BYTES)
        if not table.vouches(number, block):
            return None
        entries = memoryview(block).cast("Q")
        keys = entries[::2].tolist()
        at = bisect_left(keys, key)
        while at < len(keys) and keys[at] == key:
            places.append(entries[2 * at + 1])
            at += 1
        number += 1
    if any(place >= after for place, after in pairwise(places)):
        return None  # only a forged index repeats or reorders records
    return places


def _is_of(segment: FinishedSegment) -> list[object]:
    return [_MAGIC, _VERSION, segment.log.encode(), segment.hash.encode(), segment.first, segment.last]


def _crc_bytes(data: bytes) -> bytes:
    return struct.pack("=I", zlib.crc32(data))


def records_at(files: Files, segment: FinishedSegment, places: Sequence[int], id: str) -> list[Record]:
    """Return the records at these offsets of a segment, except those about another ticket.

    The crc of each is checked, and its hash against the previous line.

    Raises:
        BadLine: one of the offsets is not that of a valid line.
        UnknownFormat: a later version wrote one of them.
        OSError: the segment cannot be read.
    """
    records = []
    with open_segment(files.read, segment.path) as file:
        for byte in places:
            before, line = _two_lines(file, byte)
            record = parse_record(line, check_line(line, before[9:73].decode("ascii", "replace")))
            if is_about(record, id):  # two ids may share a key
                records.append(record)
    return records


def _two_lines(file: BinaryIO, byte: int) -> tuple[bytes, bytes]:
    """Return the line before an offset, and the line that begins there."""
    back = min(byte, _BACK_BYTES)
    file.seek(byte - back)
    before = file.read(back)
    if b"\n" not in before[:-1] and back < byte:
        back = min(byte, MAX_LINE_BYTES + 1)
        file.seek(byte - back)
        before = file.read(back)
    return before[before.rfind(b"\n", 0, -1) + 1 :], file.readline(MAX_LINE_BYTES + 1)


# --- making it --------------------------------------------------------------------------------------------------------


def build_index(
    files: Files, segment: FinishedSegment, progress: Callable[[int], None] = lambda _bytes: None
) -> BuiltIndex:
    """Read a segment, verifying its whole chain, and return its index.

    Args:
        files: the file system.
        segment: the segment.
        progress: called from time to time with the number of further bytes read.

    Raises:
        CorruptLog: the segment is damaged.
        OSError: it cannot be read.

    Cost: O(bytes of the segment), measured 4 µs a record; the memory of `LineOffsets`.
    """
    offsets = LineOffsets()
    seq = segment.first - 1
    with open_segment(files.read, segment.path) as file:
        line = file.readline(MAX_LINE_BYTES + 1)
        byte, told = len(line), 0
        try:
            hash = check_line(line, segment.previous)
            while seq < segment.last:
                seq += 1
                line = file.readline(MAX_LINE_BYTES + 1)
                hash = check_line(line, hash)
                id = id_of_line(line, seq)
                if id is not UNSET:
                    offsets.add(id, byte)
                byte += len(line)
                if seq % _PROGRESS_LINES == 0:
                    progress(byte - told)
                    told = byte
            if hash != segment.hash:
                raise BadLine("its hash is not the one that the next segment says it follows")
        except BadLine as bad:
            raise CorruptLog(str(segment.path), seq - segment.first + 2, byte, str(bad)) from None
        progress(byte - told)
    return BuiltIndex(segment, offsets)


def id_of_line(line: bytes, seq: int) -> str | UnsetType:
    """Return the id of the ticket that a line is about, of any event, even an unknown one; UNSET if it has none.

    Raises:
        BadLine: the line is not the record with this seq.
    """
    try:
        named = _named(line)
    except _UNREADABLE as error:
        raise BadLine(f"not a record: {error}") from None
    if named.seq != seq:
        raise BadLine(f"it is record {named.seq}; {seq} should come next")
    return named.id


class LineOffsets:
    """The offsets of the lines about each ticket in a segment: the content of its index.

    Measured, including `entries` and encoding: 90 bytes of memory a record if each ticket has ten of them in the
    segment, 350 if each has one.
    """

    def __init__(self) -> None:
        self._of: defaultdict[str, array[int]] = defaultdict(partial(array, "Q"))

    def add(self, id: str, byte: int) -> None:
        """Add the offset of the next line about a ticket. Measured 0.1 µs."""
        self._of[id].append(byte)

    def of(self, id: str) -> Sequence[int]:
        """Return the offsets of the lines about a ticket, in order."""
        return self._of.get(id, ())

    def id_at(self, byte: int) -> str:
        """Return the id of the ticket whose line is at an offset, which must be one of a line. Cost: O(records)."""
        return next(id for id, places in self._of.items() if byte in places)

    def entries(self) -> array[int]:
        """Return the entries of the index, sorted: key, byte, key, byte …. Measured 0.3 µs a record."""
        by_key: dict[int, array[int]] = {}
        for id, places in self._of.items():
            key = _key(id)
            shared = by_key.get(key)
            by_key[key] = places if shared is None else array("Q", sorted(shared + places))
        keys, bytes_ = array("Q"), array("Q")
        for key in sorted(by_key):
            keys.extend(array("Q", (key,)) * len(by_key[key]))
            bytes_.extend(by_key[key])
        entries = array("Q", bytes(2 * 8 * len(keys)))
        entries[::2], entries[1::2] = keys, bytes_
        return entries


def encode_index(segment: FinishedSegment, entries: array[int]) -> bytes:
    """Return the bytes of a segment's index with these entries."""
    data = entries.tobytes()
    blocks = (data[begin : begin + BLOCK_BYTES] for begin in range(0, len(data), BLOCK_BYTES))
    sums = array("I", map(zlib.crc32, blocks))
    count = len(entries) // 2
    head = _HEAD.pack(*_is_of(segment), count) + entries[:: 2 * _BLOCK].tobytes() + sums.tobytes()
    return head + _crc_bytes(head) + data


class BuiltIndex:
    """An index in memory.

    Attributes:
        segment: the segment.
        offsets: the offsets of its lines.
    """

    def __init__(self, segment: FinishedSegment, offsets: LineOffsets) -> None:
        self.segment = segment
        self.offsets = offsets

    def find(self, files: Files, id: str) -> list[Record]:
        """Return the records about a ticket, as `find_indexed` does.

        Raises:
            CorruptLog: a line with the right hash is not a record.
            UnknownFormat, OSError: as `find_indexed`.
        """
        found = self.offsets.of(id)
        try:
            return records_at(files, self.segment, found, id)
        except BadLine as bad:
            raise CorruptLog(str(self.segment.path), 0, found[0], f"this line or a later one: {bad}") from None

    def encode(self) -> bytes:
        """Return the bytes of the index."""
        return encode_index(self.segment, self.offsets.entries())


def may_write(files: Files, directory: Path) -> bool:
    """Return whether this process may write an index: only the queue's owner may, who could not replace another's."""
    look = files.permissions(directory, follow=True)
    return look is not None and look.owner == files.user() and files.writable(directory)


def write_index(files: Files, directory: Path, built: BuiltIndex) -> None:
    """Write an index. It is not synced: one that a crash leaves unfinished is not used, and is made again.

    Raises:
        OSError: it could not be written.
    """
    folder = directory / INDEX
    if files.kind(folder) is None:
        with contextlib.suppress(FileExistsError):
            files.make_directory(folder)
    path = index_path(directory, built.segment.first)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")  # several writers may write the same one
    file = files.create(temporary)
    try:
        file.write(built.encode())
        files.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    finally:
        file.close()


def write_missing(directory: Path, paths: Sequence[Path], files: Files = OS_FILES) -> int:
    """Write the missing indexes; remove those whose segment is gone, and unfinished ones of writers that died.

    Args:
        directory: the queue's directory.
        paths: its segments, oldest first.
        files: the file system.

    Returns:
        The number of indexes written.

    Raises:
        CorruptLog: a segment is damaged.
        UnknownFormat: a later version wrote it.
        OSError: something cannot be read or written.

    Cost: O(segments), and O(bytes) of those without an index.
    """
    _sweep(files, directory, paths)
    count = 0
    for segment in finished_segments(files, paths):
        if find_indexed(files, directory, segment, "") is None:
            write_index(files, directory, build_index(files, segment))
            count += 1
    return count


def _sweep(files: Files, directory: Path, paths: Sequence[Path]) -> None:
    folder = directory / INDEX
    if files.kind(folder) != "directory":
        return
    stems = {path.name.partition(".")[0] for path in paths}
    for name in files.list(folder):
        stem = name.partition(".")[0]
        # An index beyond the last segment is of a segment that was begun since.
        if name.endswith(_TEMPORARY) or (stem not in stems and stem < max(stems)):
            files.unlink(folder / name)
