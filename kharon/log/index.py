"""The index beside finished segments: where the records about a ticket stand, found without reading the segment.

    index/<first seq, 20 digits>.idx        one for each segment that has a successor

An index is a cache. It can be made again from its segment at any time, by any process, and may be deleted at any time;
one that is damaged, unfinished, or not of this very segment is not used. It proves nothing. Each record that is found
by it is checked where it stands, and none is found twice, so an index that somebody forged can hide records, and no
more than that; `kharon.audit.verify_indexes` notices it, and reading the log finds what is hidden.

    head       struct `_HEAD`: magic, version, the segment's log id, the hash of its last record, its first and last
               seq, how many entries there are
    table      for each block of `_BLOCK` entries its first key (u64), then for each block its CRC-32 (u32)
    CRC-32     of head and table (u32)
    entries    sorted: (key, byte), two u64 each: the first 8 bytes of BLAKE2b of the ticket's id, and where the line
               about it begins in the uncompressed segment

All numbers are in the byte order of the machine; one of the other order finds a version that it does not know. What is
read of an index is checked by a CRC of its own, so a look-up costs two small reads, however large the segment is.
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
from kharon.log.record import BadLine, Header, Record, check_line, open_header, open_record
from kharon.log.segment import is_about
from kharon.log.zstd import open_segment
from kharon.model.checks import MAX_LINE_BYTES

__all__ = [
    "BLOCK_BYTES",
    "INDEX",
    "Finished",
    "Places",
    "Table",
    "build",
    "find_indexed",
    "finish",
    "finished",
    "id_in",
    "index_path",
    "may_write",
    "pack",
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
"""How many bytes of entries one CRC-32 is for."""
_ROW_BYTES: Final = 12
_CRC_BYTES: Final = 4
_BACK_BYTES: Final = 4096  # how far back a line's beginning is looked for at first
_PROGRESS_LINES: Final = 4096
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Finished(NamedTuple):
    """A segment that has a successor, whose header says how this one ends.

    Attributes:
        path: the segment.
        log: the log's id.
        previous: the hash of the line in front of its header.
        first, last: the seqs of its first and its last record.
        hash: of its last record.
    """

    path: Path
    log: str
    previous: str
    first: int
    last: int
    hash: str


class _Named(msgspec.Struct):
    """Of a record, what an index needs."""

    seq: int
    id: str | UnsetType = UNSET


_named = msgspec.json.Decoder(_Named).decode


# --- which segments ---------------------------------------------------------------------------------------------------


def finished(files: Files, paths: Sequence[Path]) -> Iterator[Finished]:
    """Give the segments that have a successor.

    Args:
        files: the file system.
        paths: all segments, oldest first.

    Raises:
        CorruptLog: a header is not right, or does not follow from the one before it.
        UnknownFormat: a later version wrote it.
        OSError: it cannot be read.

    Cost: O(segments): the header of each is read.
    """
    headers = ((path, _header(files, path)) for path in paths)
    for (path, header), (after, following) in pairwise(headers):
        yield _finished(path, header, after, following)


def finish(files: Files, path: Path, following: Path) -> Finished:
    """Return a segment that is followed by another.

    Raises:
        CorruptLog, UnknownFormat, OSError: as `finished`.

    Cost: O(1): two headers are read.
    """
    return _finished(path, _header(files, path), following, _header(files, following))


def _finished(path: Path, header: Header, after: Path, following: Header) -> Finished:
    if following.log != header.log or following.first <= header.first:
        why = f"it does not follow from {path.name}: it is of log {following.log} from record {following.first} on"
        raise CorruptLog(str(after), 1, 0, why)
    return Finished(path, header.log, header.previous, header.first, following.first - 1, following.previous)


def _header(files: Files, path: Path) -> Header:
    with open_segment(files.read, path) as file:
        return read_header(file, str(path))


def read_header(file: BinaryIO, path: str) -> Header:
    """Read the first line of a segment, which must follow from the line that it names.

    Raises:
        CorruptLog: it is no such header.
        UnknownFormat: a later version wrote it.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    try:
        header = open_header(line, check_line(line, None))
        check_line(line, header.previous)
    except BadLine as bad:
        raise CorruptLog(path, 1, 0, str(bad)) from None
    return header


# --- asking it --------------------------------------------------------------------------------------------------------


def find_indexed(files: Files, directory: Path, segment: Finished, id: str) -> list[Record] | None:
    """Return the records about a ticket in a segment, oldest first; None if its index is not there, or not usable.

    Args:
        files: the file system.
        directory: the queue's.
        segment: the segment.
        id: the ticket's.

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
        return None  # it or the segment is damaged: who reads the whole segment finds out


def index_path(directory: Path, first: int) -> Path:
    """Return where the index is of the segment that begins at the record `first`."""
    return directory / INDEX / f"{first:020}{_SUFFIX}"


def _key(id: str) -> int:
    data = id.encode("utf-8", "backslashreplace")  # a lone surrogate is in no id, and may share a key as any two may
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class Table(NamedTuple):
    """What stands in front of an index's entries.

    Attributes:
        firsts: of each block the first key.
        sums: of each block the CRC-32.
        begin: where the first block begins.
    """

    firsts: memoryview
    sums: memoryview
    begin: int

    def place(self, number: int) -> int:
        """Return where a block begins; it has `BLOCK_BYTES`, the last one may have less."""
        return self.begin + number * BLOCK_BYTES

    def vouches(self, number: int, block: bytes) -> bool:
        """Return whether a block is the one that was written, as far as its CRC-32 tells."""
        crc: int = self.sums[number]
        return zlib.crc32(block) == crc


def read_table(file: BinaryIO, segment: Finished) -> Table | None:
    """Return the table of an index; None if this is not a whole index of this segment: then it is not used.

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


def _look_up(file: BinaryIO, segment: Finished, id: str) -> list[int] | None:
    """Return where the lines about a ticket begin, in order; None if this is not a whole index of this segment."""
    table = read_table(file, segment)
    if table is None:
        return None
    firsts = table.firsts
    key = _key(id)
    places: list[int] = []
    number = max(0, bisect_left(firsts, key) - 1)  # entries of a key may begin in the block before
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
        return None  # nobody but a forger writes one that shows a record twice, or in front of an older one
    return places


def _is_of(segment: Finished) -> list[object]:
    return [_MAGIC, _VERSION, segment.log.encode(), segment.hash.encode(), segment.first, segment.last]


def _crc_bytes(data: bytes) -> bytes:
    return struct.pack("=I", zlib.crc32(data))


def records_at(files: Files, segment: Finished, places: Sequence[int], id: str) -> list[Record]:
    """Return the records whose lines begin at these bytes of a segment, if they are about the ticket.

    Each is checked: its crc, and its hash from the line in front of it.

    Raises:
        BadLine: there is no such line at one of them.
        UnknownFormat: a later version wrote one of them.
        OSError: the segment cannot be read.
    """
    records = []
    with open_segment(files.read, segment.path) as file:
        for byte in places:
            before, line = _two_lines(file, byte)
            record = open_record(line, check_line(line, before[9:73].decode("ascii", "replace")))
            if is_about(record, id):  # two ids may share a key
                records.append(record)
    return records


def _two_lines(file: BinaryIO, byte: int) -> tuple[bytes, bytes]:
    """Return the line in front of a byte, and the one that begins there."""
    back = min(byte, _BACK_BYTES)
    file.seek(byte - back)
    before = file.read(back)
    if b"\n" not in before[:-1] and back < byte:
        back = min(byte, MAX_LINE_BYTES + 1)
        file.seek(byte - back)
        before = file.read(back)
    return before[before.rfind(b"\n", 0, -1) + 1 :], file.readline(MAX_LINE_BYTES + 1)


# --- making it --------------------------------------------------------------------------------------------------------


def build(files: Files, segment: Finished, progress: Callable[[int], None] = lambda _bytes: None) -> Built:
    """Read a segment, verifying its whole chain, and return its index.

    Args:
        files: the file system.
        segment: the segment.
        progress: called now and then with how many bytes more were read.

    Raises:
        CorruptLog: the segment is damaged.
        OSError: it cannot be read.

    Cost: O(bytes of the segment), measured 4 µs a record; the memory of `Places`.
    """
    places = Places()
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
                id = id_in(line, seq)
                if id is not UNSET:
                    places.add(id, byte)
                byte += len(line)
                if seq % _PROGRESS_LINES == 0:
                    progress(byte - told)
                    told = byte
            if hash != segment.hash:
                raise BadLine("its hash is not the one that the next segment says it follows")
        except BadLine as bad:
            raise CorruptLog(str(segment.path), seq - segment.first + 2, byte, str(bad)) from None
        progress(byte - told)
    return Built(segment, places)


def id_in(line: bytes, seq: int) -> str | UnsetType:
    """Return the id of the ticket that a line is about, whatever event it is of; UNSET if it has none.

    Raises:
        BadLine: it is not the record with this seq.
    """
    try:
        named = _named(line)
    except _UNREADABLE as error:
        raise BadLine(f"not a record: {error}") from None
    if named.seq != seq:
        raise BadLine(f"it is record {named.seq}; {seq} should come next")
    return named.id


class Places:
    """Where in a segment the lines about each ticket begin: what its index must say.

    Measured, `entries` and packing included: the memory of 90 bytes a record where each ticket has ten of them in the
    segment, of 350 where each has one.
    """

    def __init__(self) -> None:
        self._of: defaultdict[str, array[int]] = defaultdict(partial(array, "Q"))

    def add(self, id: str, byte: int) -> None:
        """Take down that the next line about a ticket begins at a byte. Measured 0.1 µs."""
        self._of[id].append(byte)

    def of(self, id: str) -> Sequence[int]:
        """Return where the lines about a ticket begin, in order."""
        return self._of.get(id, ())

    def id_at(self, byte: int) -> str:
        """Return the id of the ticket that the line at a byte is about; there must be one. Cost: O(records)."""
        return next(id for id, places in self._of.items() if byte in places)

    def entries(self) -> array[int]:
        """Return the entries of the index: key, byte, key, byte … in their order. Measured 0.3 µs a record."""
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


def pack(segment: Finished, entries: array[int]) -> bytes:
    """Return the index of a segment as it stands in a file, if these are its entries."""
    data = entries.tobytes()
    blocks = (data[begin : begin + BLOCK_BYTES] for begin in range(0, len(data), BLOCK_BYTES))
    sums = array("I", map(zlib.crc32, blocks))
    count = len(entries) // 2
    head = _HEAD.pack(*_is_of(segment), count) + entries[:: 2 * _BLOCK].tobytes() + sums.tobytes()
    return head + _crc_bytes(head) + data


class Built:
    """An index as it was built, in memory."""

    def __init__(self, segment: Finished, places: Places) -> None:
        self._segment = segment
        self._places = places

    def find(self, files: Files, id: str) -> list[Record]:
        """Return the records about a ticket, as `find_indexed` does.

        Raises:
            CorruptLog: a line that is whole is no record.
            UnknownFormat, OSError: as `find_indexed`.
        """
        places = self._places.of(id)
        try:
            return records_at(files, self._segment, places, id)
        except BadLine as bad:
            raise CorruptLog(str(self._segment.path), 0, places[0], f"this line or a later one: {bad}") from None

    def pack(self) -> bytes:
        """Return the index as it stands in a file."""
        return pack(self._segment, self._places.entries())


def may_write(files: Files, directory: Path) -> bool:
    """Return whether an index may be written there: only by the queue's owner, in whose way it would be otherwise."""
    look = files.look(directory, follow=True)
    return look is not None and look.owner == files.user() and files.writable(directory)


def write_index(files: Files, directory: Path, built: Built) -> None:
    """Write an index. It is not synced: one that a crash leaves unfinished is not used, and made again.

    Raises:
        OSError: it could not be written.
    """
    folder = directory / INDEX
    if files.kind(folder) is None:
        with contextlib.suppress(FileExistsError):
            files.make_directory(folder)
    path = index_path(directory, built._segment.first)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")  # several may write the same one
    file = files.create(temporary)
    try:
        file.write(built.pack())
        files.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    finally:
        file.close()


def write_missing(directory: Path, paths: Sequence[Path], files: Files = OS_FILES) -> int:
    """Write the indexes that are missing, and remove those whose segment is gone and what writers that died left.

    Args:
        directory: the queue's.
        paths: its segments, oldest first.
        files: the file system.

    Returns:
        How many were written.

    Raises:
        CorruptLog: a segment is damaged.
        UnknownFormat: a later version wrote it.
        OSError: something cannot be read or written.

    Cost: O(segments), and O(bytes) of those that have none.
    """
    _sweep(files, directory, paths)
    count = 0
    for segment in finished(files, paths):
        if find_indexed(files, directory, segment, "") is None:
            write_index(files, directory, build(files, segment))
            count += 1
    return count


def _sweep(files: Files, directory: Path, paths: Sequence[Path]) -> None:
    folder = directory / INDEX
    if files.kind(folder) != "directory":
        return
    stems = {path.name.partition(".")[0] for path in paths}
    for name in files.list(folder):
        stem = name.partition(".")[0]
        # One that is behind the last segment is of a segment that was begun since.
        if name.endswith(_TEMPORARY) or (stem not in stems and stem < max(stems)):
            files.unlink(folder / name)
