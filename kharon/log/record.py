r"""The record, its line, and the chain of hashes that binds each line to all before it.

A line is ASCII JSON with two fields at fixed offsets in front:

    {"hash":"<64 hex>","crc":"<8 hex>",<body>}\n        body begins at byte 92; here it includes the closing brace

    crc  = CRC-32 (ISO-HDLC, as in zlib) of the body
    hash = SHA-256 of (the previous line's hash as 64 hex digits + the body)

so both are checked over the raw bytes, and nothing is serialised again to be checked. A segment's header is a line of
the same kind and a link of the same chain. This module turns events into lines and lines into records; it opens no
file. Sources: FIPS 180-4 for SHA-256; Haber and Stornetta, "How to Time-Stamp a Digital Document" (1991) for the chain.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

import msgspec

from kharon.errors import InvalidTicket, UnknownFormat
from kharon.model.events import EVENTS, Event
from kharon.model.limits import MAX_DEPTH, MAX_LINE_BYTES, ascii_json

__all__ = [
    "FORMAT_VERSION",
    "GENESIS",
    "BadLine",
    "Chain",
    "Header",
    "Record",
    "Seal",
    "check_line",
    "is_seal",
    "link",
    "open_header",
    "open_record",
    "open_seal",
    "relink",
    "seal_line",
]

FORMAT: Final = "kharon-log"
FORMAT_VERSION: Final = 1
GENESIS: Final = "0" * 64
"""What stands for the previous hash before the first line of a log."""

_BODY: Final = 92
_MAX_NESTING: Final = MAX_DEPTH + 2  # a payload, in the changes of an event, in its line
# Strings as a whole, so that brackets in them do not count.
_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_encode = msgspec.json.Encoder().encode
_Instant: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class Record(msgspec.Struct, frozen=True):
    """An event in the log, with its place, time and hash.

    Attributes:
        seq: its gapless number, from 1.
        at: when it was decided, UTC; never before the record in front of it.
        by: who did it: a worker, the actor of the caller, or "clock".
        event: the event; its class's name is its name in the log.
        hash: 64 hex digits, binding this record to every one before it.
        part: (i, n): the i-th of the n records of its commit, from 1.
        durable: the highest seq known to be on disk when this one was written.
    """

    seq: int
    at: datetime
    by: str
    event: Event
    hash: str
    part: tuple[int, int]
    durable: int


class Header(msgspec.Struct, frozen=True):
    """The first line of a segment.

    Attributes:
        version: of the format.
        log: the log's id, 32 hex digits.
        first: the seq of the first record of the segment.
        previous: the hash of the line in front of it, in the segment before; `GENESIS` in the first.
        at: when it was written.
        hash: this line's hash.
    """

    version: int
    log: str
    first: int
    previous: str
    at: datetime
    hash: str = ""


class Seal(msgspec.Struct, frozen=True):
    """The last line of a segment that has a successor. It is no link of the chain: the successor's header is.

    Attributes:
        sealed: the seq of the last record of the segment.
        next: the hash of the successor's header.
    """

    sealed: int
    next: str


class BadLine(Exception):
    """These bytes are not a line, or not the line that belongs here."""


class _Envelope(msgspec.Struct):
    seq: int
    durable: int
    part: tuple[int, int]
    at: _Instant
    v: int
    event: str
    by: str


class _HeaderBody(msgspec.Struct):
    format: str
    version: int
    log: str
    first: int
    previous: str
    at: _Instant


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_envelope = msgspec.json.Decoder(_Envelope).decode
_header = msgspec.json.Decoder(_HeaderBody).decode
_seal_of = msgspec.json.Decoder(Seal).decode
_SEALED: Final = b'"sealed":'
_DECODERS: Final = {(name, cls.VERSION): msgspec.json.Decoder(cls).decode for name, cls in EVENTS.items()}
_NAMES: Final = {cls: b'"v":%d,"event":"%b","by":' % (cls.VERSION, name.encode()) for name, cls in EVENTS.items()}


class Chain:
    """The end of a log: what the next line follows.

    Attributes:
        seq: of the last record; 0 before the first.
        hash: of the last line; `GENESIS` before the first.
        at: of the last record; None before the first.
    """

    __slots__ = ("at", "hash", "seq")

    def __init__(self, seq: int = 0, hash: str = GENESIS, at: datetime | None = None) -> None:
        self.seq = seq
        self.hash = hash
        self.at = at

    def header(self, log: str, at: datetime) -> bytes:
        """Return the header line of a segment that begins here, and move on behind it. O(1)."""
        body = _HeaderBody(FORMAT, FORMAT_VERSION, log, self.seq + 1, self.hash, at)
        line, self.hash = link(self.hash, _encode(body)[1:])
        return line

    def commit(self, events: Sequence[Event], at: datetime, by: str, durable: int) -> list[bytes]:
        """Return the lines of one commit, and move on behind them.

        Args:
            events: at least one.
            at: the time of the commit; a time before the last record's is taken to be that one.
            by: who did it.
            durable: the highest seq known to be on disk.

        Raises:
            InvalidTicket: a line would be longer than `MAX_LINE_BYTES`. The chain stays where it was.

        Cost: O(bytes); measured 3 µs for a record of 300 bytes.
        """
        if self.at is not None and at < self.at:
            at = self.at
        seq, hash, count = self.seq, self.hash, len(events)
        when, who = _encode(at), ascii_json(_encode(by))
        lines = []
        for index, event in enumerate(events, 1):
            seq += 1
            fields = _encode(event)
            body = ascii_json(
                b'"seq":%d,"durable":%d,"part":[%d,%d],"at":%b,%b%b%b%b'
                % (
                    *(seq, durable, index, count, when, _NAMES[type(event)], who),
                    b"" if fields == b"{}" else b",",
                    fields[1:],
                )
            )
            line, hash = link(hash, body)
            if len(line) > MAX_LINE_BYTES:
                what = f"{type(event).__name__} of {getattr(event, 'id', 'the log')!r}"
                raise InvalidTicket(f"{what}: its line would have {len(line)} bytes; {MAX_LINE_BYTES} are the most")
            lines.append(line)
        self.seq, self.hash, self.at = seq, hash, at
        return lines


def link(previous: str, body: bytes) -> tuple[bytes, str]:
    """Return the line that has this body and follows the line whose hash is `previous`, and its hash. O(bytes)."""
    hash = sha256(previous.encode() + body).hexdigest()
    return b'{"hash":"%b","crc":"%08x",%b\n' % (hash.encode(), zlib.crc32(body), body), hash


def relink(previous: str, lines: Sequence[bytes]) -> tuple[list[bytes], str]:
    """Return lines as they are behind another line than the one they were made for, and the hash of the last.

    For lines that nobody has seen: a record that has been written is never another.

    Args:
        previous: the hash of the line that they follow now.
        lines: one behind the other.

    Cost: O(bytes).
    """
    linked = []
    for line in lines:
        anew, previous = link(previous, line[_BODY:-1])
        linked.append(anew)
    return linked, previous


def seal_line(previous: str, seal: Seal) -> bytes:
    """Return the line that seals a segment, behind its last line, whose hash is `previous`. O(1)."""
    line, _ = link(previous, _encode(seal)[1:])
    return line


def is_seal(line: bytes) -> bool:
    """Return whether a checked line seals a segment. O(1)."""
    return line.startswith(_SEALED, _BODY)


def check_line(line: bytes, previous: str | None, most: int = MAX_LINE_BYTES) -> str:
    """Return the hash that a line carries, after checking its shape and crc and, if `previous` is given, the hash.

    Args:
        line: the line with its newline.
        previous: the hash of the line in front of it; None to let the line vouch only for itself.
        most: how many bytes it may have.

    Raises:
        BadLine: saying which of them is wrong.

    Cost: O(bytes).
    """
    if len(line) > most:
        raise BadLine(f"longer than {most} bytes")
    if line[-1:] != b"\n":
        raise BadLine("unfinished: it has no newline")
    if not (line[:9] == b'{"hash":"' and line[73:82] == b'","crc":"' and line[90:92] == b'",' and line[-2:] == b"}\n"):
        raise BadLine('not a line of this log: it does not begin {"hash":"…","crc":"…", and end }')
    body = line[_BODY:-1]
    if line[82:90] != b"%08x" % zlib.crc32(body):
        raise BadLine("its bytes were altered: the crc does not match them")
    claimed = line[9:73]
    if previous is not None and claimed != sha256(previous.encode() + body).hexdigest().encode():
        raise BadLine("its hash does not follow from the line before it: a line was altered, added, dropped or moved")
    return claimed.decode("ascii", "replace")


def open_record(line: bytes, hash: str) -> Record:
    """Return the record in a checked line.

    Args:
        line: a line that `check_line` has passed.
        hash: what it returned.

    Raises:
        BadLine: the line is no record.
        UnknownFormat: the line is a record of a kind that this version does not know.
    """
    _check_depth(line)
    try:
        envelope = _envelope(line)
        decode = _DECODERS.get((envelope.event, envelope.v))
        if decode is None:
            raise UnknownFormat(
                f"record {envelope.seq} is {envelope.event} in version {envelope.v}, which this version of Kharon does "
                f"not know; a later one wrote it and is needed to open this log"
            )
        event = decode(line)
    except _UNREADABLE as error:
        raise BadLine(f"not a record: {error}") from None
    return Record(envelope.seq, envelope.at, envelope.by, event, hash, envelope.part, envelope.durable)


def open_seal(line: bytes) -> Seal:
    """Return the seal in a checked line.

    Raises:
        BadLine: the line is no seal.
    """
    try:
        return _seal_of(line)
    except _UNREADABLE as error:
        raise BadLine(f"not a seal: {error}") from None


def _check_depth(line: bytes) -> None:
    """Refuse what is nested too deep before it is parsed, on every version of Python alike. O(bytes), if it has to."""
    if line.count(b"[") + line.count(b"{") <= _MAX_NESTING:
        return
    depth = 0
    for token in _STRUCTURE.finditer(line):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth > _MAX_NESTING:
                raise BadLine(f"not a record: nested deeper than {_MAX_NESTING} levels")
        elif mark in (b"]", b"}"):
            depth -= 1


def open_header(line: bytes, hash: str) -> Header:
    """Return the header in a checked line.

    Raises:
        BadLine: the line is no header.
        UnknownFormat: the log is in a later format.
    """
    try:
        body = _header(line)
    except _UNREADABLE as error:
        raise BadLine(f"not a header: {error}") from None
    if body.format != FORMAT:
        raise BadLine(f"not a header: its format is {body.format!r}")
    if body.version != FORMAT_VERSION:
        raise UnknownFormat(
            f"the log is in format {body.version}, this version of Kharon knows {FORMAT_VERSION}; a later one is needed"
        )
    return Header(body.version, body.log, body.first, body.previous, body.at, hash)
