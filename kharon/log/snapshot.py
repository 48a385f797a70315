"""Snapshots: the projection at a seq, saved so that opening costs O(tickets) and not O(history).

    snapshots/<seq, 20 digits>.jsonl

A snapshot is JSON Lines of the same kind as the log's: each line begins with its hash and crc, and follows the previous
line. The first line names the log, the seq, and the hash of the record there, which it follows. Then comes a line per
ticket, in the projection's order, and one for each other value of the projection. The last line states how many there
were. A snapshot is a saved fold and never the truth: a bad one is skipped, and the log is read from further back.

`take` makes the next snapshot from the last one and the segments finished since. It needs neither the queue's lock nor
the process that holds it, and runs in a process of its own (`snapshot_process`), so that no event loop waits for it,
however many tickets there are. Finished segments are on disk, so the seq of a snapshot is always durable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs
import msgspec
from msgspec import UNSET, Raw, UnsetType

from kharon.errors import CorruptLog, UnknownFormat
from kharon.log.files import OS_FILES, Files
from kharon.log.locations import open_relocated, segments
from kharon.log.messages import say
from kharon.log.record import BadLine, Chain, Record, check_depth, check_format, check_line, link, parse_header
from kharon.log.replace import remove_unfinished, replace_file
from kharon.log.segment import BrokenSegment, first_of, is_numbered, read_segment, stem_of
from kharon.model.checks import MAX_DEPTH, MAX_LINE_BYTES, ascii_json, from_json
from kharon.model.events import Instant
from kharon.model.projection import Projection
from kharon.model.ticket import FIELDS, Draft, Field, Status, Ticket, memberships, waits_of
from kharon.model.ticket import seal as seal_ticket

__all__ = [
    "KEPT",
    "Snapshot",
    "kept_since",
    "newest",
    "read_snapshot",
    "snapshots_of",
    "take",
    "trimmable",
    "usable",
]


FORMAT: Final = "kharon-snapshot"
FORMAT_VERSION: Final = 1
KEPT: Final = 2
"""How many snapshots are kept: the newest, and one to fall back to."""
_MAX_BYTES: Final = 4 * MAX_LINE_BYTES  # a ticket's payload and result, and those of its successor
_MAX_NESTING: Final = MAX_DEPTH + 3  # a payload, in the successor of a ticket, in its line
_encode = msgspec.json.Encoder().encode


class Snapshot(msgspec.Struct, frozen=True):
    """A projection at a seq.

    Attributes:
        log: the log's id.
        seq: the seq of the last record folded into it.
        at: that record's time.
        hash: that record's hash.
        tickets: the tickets, in the projection's order.
        others: the projection's other values, in its order.
    """

    log: str
    seq: int
    at: datetime
    hash: str
    tickets: list[Ticket]
    others: list[Any] = []

    def end(self) -> Chain:
        """Return the end of the log at this snapshot."""
        return Chain(self.seq, self.hash, self.at)


class _Head(msgspec.Struct):
    format: str
    version: int
    log: str
    seq: int
    at: Instant
    record: str


class _End(msgspec.Struct, omit_defaults=True):
    tickets: int
    others: int = 0


def _stored_type(field: Field) -> Any:
    """Return the type of a ticket's field in a snapshot."""
    if field.type == datetime | None:
        return Instant if field.always else Instant | None
    return {bytes: Raw, bytes | None: Raw | UnsetType, Ticket | None: "_Stored | None"}.get(field.type, field.type)


def _stored_default(field: Field) -> Any:
    """Return the value of a ticket's field if a snapshot omits it."""
    if field.type == bytes | None:
        return UNSET
    return None if field.default is attrs.NOTHING else field.default


_IN_ORDER: Final = sorted(FIELDS, key=lambda field: not field.always)
"""The fields in the order of a snapshot: first those that every ticket has."""
_Stored: Any = msgspec.defstruct(
    "_Stored",
    [(field.name, _stored_type(field), *([] if field.always else [_stored_default(field)])) for field in _IN_ORDER],
    module=__name__,
    omit_defaults=True,
)
"""A ticket in a snapshot."""
_attributes_of: Final = attrgetter(*(field.attribute for field in _IN_ORDER))
_fields_of: Final = attrgetter(*(field.name for field in FIELDS))


_head = msgspec.json.Decoder(_Head).decode
_TicketLine: Any = msgspec.defstruct("_TicketLine", [("ticket", _Stored)])
_ticket_line = msgspec.json.Decoder(_TicketLine).decode
_end = msgspec.json.Decoder(_End).decode
_OTHERS: Final = {
    b'"%b":' % table.kind.encode(): (
        number,
        table.kind,
        msgspec.json.Decoder(msgspec.defstruct("_Other", [(table.kind, table.value)])).decode,
    )
    for number, table in enumerate(Projection().tables)
}
"""By how a line of a table's begins: its place among the tables, its kind, and what reads it."""
_KINDS: Final = {table.value: table.kind for table in Projection().tables}


def _stored(ticket: Ticket) -> Any:
    """Return a ticket as a snapshot stores it."""
    stored = _Stored(*_attributes_of(ticket))
    stored.payload = Raw(ticket.payload_json)
    stored.result = UNSET if ticket.result_json is None else Raw(ticket.result_json)
    if ticket.successor is not None:
        stored.successor = _stored(ticket.successor)
    if ticket.joined == ticket.order:
        stored.joined = 0
    return stored


def _ticket(stored: Any, default: int = 0) -> Ticket:
    """Return the ticket that a snapshot stores.

    Args:
        stored: what `_stored` returned.
        default: for a successor in the same group as its claimed ticket, the seq at which that joined; else 0.
    """
    draft = Draft(*_fields_of(stored))
    draft.type, draft.tube = sys.intern(stored.type), sys.intern(stored.tube)
    draft.payload_json = bytes(stored.payload)
    draft.result_json = None if stored.result is UNSET else bytes(stored.result)
    if not draft.joined and draft.status is Status.PENDING and draft.group is not None:
        draft.joined = default or draft.order
    if stored.successor is not None:
        shared = stored.successor.group == draft.group
        draft.successor = _ticket(stored.successor, draft.joined if shared else 0)
    return seal_ticket(draft)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_snapshot(file: BinaryIO, path: str) -> Snapshot:
    """Read and verify a snapshot.

    Raises:
        CorruptLog: it is damaged or incomplete.
        UnknownFormat: a later version wrote it.

    Cost: O(bytes); measured 6 µs a ticket.
    """
    number, byte = 0, 0
    previous: str | None = None
    head: _Head | None = None
    tickets: dict[str, Ticket] = {}
    others = _Others()
    try:
        while line := file.readline(_MAX_BYTES + 1):
            number += 1
            hash = check_line(line, previous, _MAX_BYTES)
            if head is None:
                head = _open_head(line)
                check_line(line, head.record)
            elif line.startswith(b'"tickets":', 92):
                values, end = others.values, _end(line)
                if (end.tickets, end.others) != (len(tickets), len(values)) or file.read(1):
                    raise BadLine(f"it ends after {len(tickets)} tickets, {len(values)} others, or does not end here")
                _check_waits(tickets)
                return Snapshot(head.log, head.seq, head.at, head.record, list(tickets.values()), values)
            elif others.values or not line.startswith(b'"ticket":', 92):
                others.read(line, head)
            else:
                ticket = _open_ticket(line, head.seq)
                if tickets.setdefault(ticket.id, ticket) is not ticket:
                    raise BadLine(f"it is the second ticket {ticket.id!r}")
            previous = hash
            byte += len(line)
        raise BadLine("it has no last line, so it is incomplete")
    except (BadLine, msgspec.MsgspecError, ValueError, RecursionError) as bad:
        raise CorruptLog(path, number, byte, str(bad)) from None
    except UnknownFormat as unknown:
        raise UnknownFormat(f"{path}, line {number}: {unknown}") from None


def _open_head(line: bytes) -> _Head:
    check_format(line, FORMAT, FORMAT_VERSION)
    return _head(line)


class _Others:
    """What the lines of the tables say.

    Attributes:
        values: the values read so far.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._last = (-1, "")

    def read(self, line: bytes, head: _Head) -> None:
        """Read a checked line; raise `BadLine` if it is none of a table's, or not in its place, or cannot be."""
        found = _OTHERS.get(line[92 : line.find(b":", 92) + 1])
        if found is None:
            raise BadLine("it is neither a ticket in its place, nor anything else that a snapshot holds")
        number, kind, decode = found
        check_depth(line, _MAX_NESTING, f"a {kind}")
        value = getattr(decode(line), kind)
        if (fault := value.fault(head.seq, head.at)) is not None:
            raise BadLine(fault)
        if (number, value.name) <= self._last:
            raise BadLine(f"{kind} {value.name!r}: it is there twice, or out of order")
        self._last = number, value.name
        self.values.append(value)


def _open_ticket(line: bytes, seq: int) -> Ticket:
    """Return the ticket in a checked line of a snapshot at `seq`; raise `BadLine` if no log folds to such a ticket."""
    check_depth(line, _MAX_NESTING, "a ticket")
    ticket = _ticket(_ticket_line(line).ticket)
    _check_fields(ticket, seq)
    if ticket.successor is not None:
        _check_successor(ticket, ticket.successor, seq)
    return ticket


def _check_successor(ticket: Ticket, successor: Ticket, seq: int) -> None:
    """Check that a ticket can have a successor, and that this is a valid one."""
    unclaimed = successor.claim is None and successor.successor is None
    if ticket.claim is None or not unclaimed or successor.id != ticket.id:
        raise BadLine(f"ticket {ticket.id!r}: only a claimed ticket has a successor, which has its id and is unclaimed")
    _check_fields(successor, seq)
    if successor.group == ticket.group and successor.joined not in (0, ticket.joined):
        raise BadLine(f"ticket {ticket.id!r}: it and its successor joined the group {ticket.group!r} at two records")


def _check_waits(tickets: dict[str, Ticket]) -> None:
    """Check that each blocker exists and is pending: else its ticket would be blocked for ever. O(tickets)."""
    blocked = [ticket for ticket in tickets.values() if waits_of(ticket).blocked]
    if not blocked:
        return
    first: dict[str, int] = {}
    for ticket in tickets.values():
        for group, joined in memberships(ticket):
            first[group] = min(joined, first.get(group, joined))
    for ticket in blocked:
        waits = waits_of(ticket)
        for id in waits.blocked_by:
            if id not in tickets or tickets[id].status is not Status.PENDING:
                raise BadLine(f"ticket {ticket.id!r}: it is blocked by {id!r}, which is not pending")
        gate = waits.gate
        if gate is not None and gate.since and not 0 < first.get(gate.after_group or "", 0) <= gate.since:
            raise BadLine(f"ticket {ticket.id!r}: it is blocked by the group {gate.after_group!r}, but by no member")


def _check_fields(ticket: Ticket, seq: int) -> None:
    """Check a ticket as `Projection.check` would, so that opening refuses the file instead of using it."""
    why = None
    pending = ticket.status is Status.PENDING
    claimed = ticket.claim is not None
    if not 0 < ticket.order <= ticket.version <= seq:
        why = f"it was added by record {ticket.order} and changed by {ticket.version}, in a snapshot at {seq}"
    elif ticket.attempts < 0:
        why = f"{ticket.attempts} attempts"
    elif (ticket.lease_until is not None) != claimed or (ticket.worker is not None) != claimed:
        why = "only a part of its claim is there"
    elif claimed and not pending:
        why = f"it is {ticket.status} and claimed"
    elif pending and ticket.expire_at is not None:
        why = "it is pending and expires"
    elif not 0 <= ticket.joined <= (seq if pending and ticket.group is not None else 0):
        why = f"it joined the group {ticket.group!r} at record {ticket.joined}, in a snapshot at {seq}"
    elif (gate := ticket.gate) is not None and not 0 <= gate.since <= (0 if gate.after_group is None else seq):
        why = f"it is blocked by the group {gate.after_group!r} since record {gate.since}, in a snapshot at {seq}"
    elif not set(ticket.blocked_by) <= set(() if gate is None else gate.after):
        why = f"it is blocked by {ticket.blocked_by}, and was added to run after {() if gate is None else gate.after}"
    elif (ticket.blocked_by or (gate and gate.since)) and (claimed or not pending):
        why = "it is blocked, and claimed or ended"
    if why is not None:
        raise BadLine(f"ticket {ticket.id!r}: {why}")
    from_json(ticket.payload_json)
    if ticket.result_json is not None:
        from_json(ticket.result_json)


def snapshots_of(files: Files, directory: Path) -> list[Path]:
    """Return the snapshots in a queue's directory, newest first."""
    folder = directory / "snapshots"
    if files.kind(folder) != "directory":
        return []
    names = [name for name in files.list(folder) if name.endswith(".jsonl") and not name.startswith(".")]
    return [folder / name for name in reversed(names)]


def kept_since(files: Files, directory: Path) -> int:
    """Return the seq of the `KEPT`-th newest snapshot, from its name; 0 if there are fewer. O(1)."""
    paths = [path for path in snapshots_of(files, directory) if is_numbered(path)][:KEPT]
    return first_of(paths[-1]) if len(paths) == KEPT else 0


def trimmable(directory: Path, files: Files = OS_FILES) -> int:
    """Return the seq up to which opening needs no record, even if one snapshot goes bad; 0: it needs all records.

    That is the seq of the `KEPT`-th newest usable snapshot.

    Raises:
        OSError: something cannot be read.

    Cost: O(bytes of the snapshots).
    """
    found = [snapshot.seq for snapshot in islice(usable(files, directory, segments(directory, files)), KEPT)]
    return found[-1] if len(found) == KEPT else 0


def newest(files: Files, directory: Path, segments: list[Path]) -> Snapshot | None:
    """Return the newest usable snapshot; None if there is none. Arguments, errors and cost as of `usable`."""
    return next(usable(files, directory, segments), None)


def usable(files: Files, directory: Path, segments: list[Path]) -> Iterator[Snapshot]:
    """Yield the usable snapshots, newest first: those that are whole and that a segment of this log follows.

    Others are passed over with a warning.

    Args:
        files: the file system.
        directory: the queue's directory.
        segments: the paths of its segments.

    Raises:
        UnknownFormat: none is usable, one of them is in a later format, and the log's beginning is gone.
        OSError: something cannot be read.

    Cost: O(bytes of each).
    """
    found, later = False, None
    for path in snapshots_of(files, directory):
        try:
            with files.read(path) as file:
                snapshot = read_snapshot(file, str(path))
            _check_fits(files, snapshot, path, segments)
        except (CorruptLog, UnknownFormat, FileNotFoundError) as error:  # the last: replaced by newer ones meanwhile
            say(logging.WARNING, "snapshot passed over: %s", error)
            if isinstance(error, UnknownFormat):
                later = later or error
        else:
            found = True
            yield snapshot
    if later is not None and not found and segments and first_of(segments[0]) != 1:
        raise UnknownFormat(f"{later}; no other snapshot holds the state before {segments[0].name}")


def _check_fits(files: Files, snapshot: Snapshot, path: Path, segments: list[Path]) -> None:
    """Check that a segment begins where the snapshot ends, and that its header follows it."""
    if path.stem != f"{snapshot.seq:020}":
        raise CorruptLog(str(path), 1, 0, f"it is the snapshot at record {snapshot.seq}, which is not its name")
    following = next((path for path in segments if stem_of(path) == f"{snapshot.seq + 1:020}"), None)
    if following is None:
        raise CorruptLog(str(path), 1, 0, f"no segment follows it at record {snapshot.seq + 1}")
    with open_relocated(files, path.parent.parent, following) as file:
        line = file.readline(MAX_LINE_BYTES + 1)
        bare = not file.read(1)
    if bare and following == segments[-1]:
        why = f"{following.name} has just been begun: the segment before it must be read, since it may lack its seal"
        raise CorruptLog(str(path), 1, 0, why)
    try:
        header = parse_header(line, check_line(line, snapshot.hash))
    except BadLine as bad:
        raise CorruptLog(str(path), 1, 0, f"{following.name} does not follow it: {bad}") from None
    if header.log != snapshot.log:
        raise CorruptLog(str(path), 1, 0, f"it is of the log {snapshot.log}; {following.name} is of {header.log}")


# --- taking -----------------------------------------------------------------------------------------------------------


def take(directory: Path, files: Files = OS_FILES) -> Path | None:
    """Write and verify a snapshot at the end of the last finished segment; remove old snapshots.

    `KEPT` are kept: this one, and the one it was made from. Others are removed too: they are bad, or at records
    that a repair has since cut off. May run beside the process that has the queue open: it reads only files that no
    longer change, and finds them where they are moved to.

    Returns:
        The snapshot's path; None if no segment was finished since the last one.

    Raises:
        CorruptLog: the segments are damaged; or their beginning is gone, and no snapshot is usable; or the new file
            cannot be read back.
        UnknownFormat: a later version wrote them.
        OSError: something cannot be read or written. An unfinished snapshot has another name, and does not count.

    Cost: O(tickets + records since the last snapshot), in time; the memory of the tickets.
    """
    there = segments(directory, files)
    base = newest(files, directory, there)
    projection, chain = Projection(), Chain()
    if base is not None:
        projection.load(base.tickets, base.seq, base.at, base.others)
        chain = base.end()
    elif there and first_of(there[0]) != 1:
        why = f"the log begins at record {first_of(there[0])}, and no snapshot of the records before it is usable"
        raise CorruptLog(str(there[0]), 1, 0, why)
    finished = [path for path in there[:-1] if first_of(path) > chain.seq]  # the last segment may still change
    if not finished:
        return None
    log = _log_id(files, directory, finished[0])
    projection.fold(record for each in finished for record in _records(files, directory, each, chain, log))
    assert projection.at is not None  # a finished segment has records
    path = directory / "snapshots" / f"{projection.seq:020}.jsonl"
    tickets, others = list(projection.tickets.values()), projection.others()
    _write(files, path, Snapshot(log, projection.seq, projection.at, chain.hash, tickets, others))
    kept = {path.name} if base is None else {path.name, f"{base.seq:020}.jsonl"}
    for old in snapshots_of(files, directory):
        if old.name not in kept:
            files.unlink(old)
    return path


def _log_id(files: Files, directory: Path, path: Path) -> str:
    with open_relocated(files, directory, path) as file:
        line = file.readline(MAX_LINE_BYTES + 1)
    try:
        return parse_header(line, check_line(line, None)).log
    except BadLine as bad:
        raise CorruptLog(str(path), 1, 0, str(bad)) from None


def _records(files: Files, directory: Path, path: Path, chain: Chain, log: str) -> Iterator[Record]:
    with open_relocated(files, directory, path) as file:
        try:
            for item in read_segment(file, str(path), chain, log):
                if isinstance(item, Record):
                    yield item
        except BrokenSegment as broken:
            raise broken.as_corrupt("; this segment is not the last, so it had been finished") from None


def _write(files: Files, path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot under a temporary name, read it back, and then rename it."""

    def check(temporary: Path) -> None:
        with files.read(temporary) as written:
            if read_snapshot(written, str(temporary)) != snapshot:
                raise CorruptLog(str(temporary), 0, 0, "it does not read back as it was written")

    folder = path.parent
    if files.kind(folder) is None:
        files.make_directory(folder)
    files.sync_directory(folder.parent)  # even if the folder existed: an earlier sync may have failed
    remove_unfinished(files, folder)
    replace_file(files, path, _batched(_lines(snapshot), 1 << 20), check=check)


def _lines(snapshot: Snapshot) -> Iterator[bytes]:
    head = _Head(FORMAT, FORMAT_VERSION, snapshot.log, snapshot.seq, snapshot.at, snapshot.hash)
    line, hash = link(snapshot.hash, ascii_json(_encode(head)[1:]))
    yield line
    for ticket in snapshot.tickets:
        line, hash = link(hash, ascii_json(_encode({"ticket": _stored(ticket)})[1:]))
        yield line
    for value in snapshot.others:
        line, hash = link(hash, ascii_json(_encode({_KINDS[type(value)]: value})[1:]))
        yield line
    line, _ = link(hash, _encode(_End(len(snapshot.tickets), len(snapshot.others)))[1:])
    yield line


def _batched(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Join lines into pieces of about `size` bytes."""
    piece: list[bytes] = []
    length = 0
    for line in lines:
        piece.append(line)
        length += len(line)
        if length >= size:
            yield b"".join(piece)
            piece, length = [], 0
    yield b"".join(piece)
