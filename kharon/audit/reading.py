"""The log of a directory, read and verified from its beginning while somebody else may be writing it.

What a line is and how a segment is read is the log's business (`kharon.log.segment`); here the segments are put one
behind the other and folded, or counted. No lock is taken and nothing is written. Each segment is read as long as it was
when it was opened, so that the writer's next bytes are not taken for damage; a commit that is not finished by then is
where reading stops.
"""

from __future__ import annotations

import contextlib
import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs

from kharon.audit.anchors import Anchor
from kharon.audit.indexes import Indexes
from kharon.audit.snapshots import Snapshots
from kharon.audit.watching import tell
from kharon.errors import AnchorMissing, InvalidTicket, KharonError
from kharon.log.directory import segments
from kharon.log.files import OS_FILES, naming
from kharon.log.index import read_header
from kharon.log.record import Chain, Record
from kharon.log.scan import LogScan
from kharon.log.segment import OnRecord, first_of
from kharon.log.snapshot import usable
from kharon.log.zstd import ZSTD_SUFFIX, open_segment
from kharon.model.checks import check_instant
from kharon.model.projection import Projection
from kharon.model.versions import Unknown

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in the standard library from Python 3.12 on

__all__ = ["Report", "UnknownEvents", "anchor", "check_path", "open_still", "read", "replay", "verify"]


@attrs.frozen(slots=True, kw_only=True)
class UnknownEvents:
    """Records whose event this Kharon does not know, or not in the version in which they were written.

    Attributes:
        event: its name.
        version: that version.
        needs: the first release of Kharon that knows it; None: the records do not say.
        first: the seq of the first of these records.
        records: how many there are.
    """

    event: str
    version: int
    needs: str | None
    first: int
    records: int


@attrs.frozen(slots=True, kw_only=True)
class Report:
    """What `verify` found in a log that is whole.

    Attributes:
        path: the queue's directory.
        log: the log's id, 32 hex digits.
        first: the seq of the first record, or of the one to come if there is none. If it is more than 1, what was
            before was trimmed, and the chain is verified from this record on.
        follows: the hash that the first record's segment follows: 64 zeros, or that of the last record trimmed.
        last: the seq of the last record; `first` - 1 if there is none.
        records: how many there are.
        segments: how many files they are in.
        bytes: how many bytes of files were verified, headers included.
        hash: of the last record, or of the header if there is none; 64 hex digits. Kept elsewhere together with `last`,
            it is the anchor that shows later whether whole lines were dropped from the end.
        unfinished: how many bytes of an unfinished last commit, or of an unfinished seal, stand behind what was
            verified: being written right now, or left by a crash. 0 as a rule.
        closed: whether the log ends with `LogClosed`, with nothing behind it.
        unknown: what a later version of Kharon wrote, in the order of the log. Its place in the chain was verified like
            all else, what it says could not be read; this Kharon neither opens nor replays the log. Empty as a rule.
        snapshots: how many snapshots say what the log says.
        bad_snapshots: of the others, what is wrong with each, beginning with its path. The log is whole all the same,
            and opening passes over those that are damaged; one whose tickets are not the log's it would believe. If
            `first` is 1, remove the file: another one will be made. If it is more, remove none: what was trimmed is in
            nothing else.
        unjudged_snapshots: of the rest, why nobody can tell, beginning with its path: it is in a later format, or
            stands behind an event that is not known, or in front of `first`; or it is the one on which the rest of a
            trimmed log was folded, and against which those behind it were held. None of this is a reason to remove it.
        indexes: how many of the indexes that `history` asks say what their segments say.
        bad_indexes: of the others, those with the right sums that say anything else, so that `history` misses records:
            what is wrong with each, beginning with its path. No crash and no bad disk leaves such a one, somebody wrote
            it. The log is whole all the same. Remove the file: an index is a cache, and is made again.
        unused_indexes: of the rest, why `history` does not use it and reads the segment, beginning with its path: it is
            unfinished, damaged in all or some of its parts, or of another segment or version. It hides nothing, and is
            made again by whoever asks next.
    """

    path: Path
    log: str
    first: int
    follows: str
    last: int
    records: int
    segments: int
    bytes: int
    hash: str
    unfinished: int
    closed: bool
    unknown: tuple[UnknownEvents, ...] = ()
    snapshots: int = 0
    bad_snapshots: tuple[str, ...] = ()
    unjudged_snapshots: tuple[str, ...] = ()
    indexes: int = 0
    bad_indexes: tuple[str, ...] = ()
    unused_indexes: tuple[str, ...] = ()


def read(path: str | os.PathLike[str], after: int = 0) -> Iterator[Record]:
    """Give the records of a queue's directory in order, each once its whole commit is verified.

    An unfinished last commit is where it stops. Records that are written in the meantime may be missing: read again,
    with the last seq as `after`.

    Args:
        path: the queue's directory; it may be open in any process.
        after: the records up to this seq are verified too, but not given.

    Raises:
        CorruptLog: when it gets there: the log is damaged otherwise than by an unfinished last commit.
        UnknownFormat: when it gets there: a later version of Kharon wrote this.
        KharonError: at once: there is no queue at `path`. When it gets there: what comes next was trimmed since; or is
            compressed, and zstd is not installed.
        OSError: it cannot be read.

    Cost: O(bytes of the log up to where you stop), whatever `after` is; the memory of one commit.
    """
    return (record for record in _Pass(path).reading.records() if record.seq > after)


def replay(path: str | os.PathLike[str], until: int | datetime | None = None) -> Projection:
    """Fold a queue's log, or the beginning of it, to the projection that it was then.

    If the beginning was trimmed, a snapshot stands for it: the oldest that is usable, so that most is folded anew.

    Args:
        path: the queue's directory; it may be open in any process.
        until: None: the whole log. A seq: the records up to it, itself included; one that the log has not reached means
            the whole log, and the projection's `seq` says how far that is. An instant (a timezone-aware datetime): the
            records written at it or before.

    Raises:
        CorruptLog: the log is damaged before `until`, otherwise than by an unfinished last commit.
        UnknownFormat: a later version of Kharon wrote it.
        InvalidTicket: `until` is none of these, or a datetime without a timezone.
        KharonError: there is no queue at `path`, or a record cannot follow from those before it; or the history that is
            left begins behind `until`, or behind every usable snapshot.
        OSError: it cannot be read.

    Cost: O(bytes of the log up to `until`) + O(n log n) for the n tickets that are left.
    """
    if until is not None and (not isinstance(until, (int, datetime)) or isinstance(until, bool)):
        raise InvalidTicket(f"until: a seq, a timezone-aware datetime, or None; not {until!r}")
    instant = check_instant("until", until) if isinstance(until, datetime) else None
    seq = until if isinstance(until, int) else None

    def wanted(records: Iterator[Record]) -> Iterator[Record]:
        expected = projection.seq + 1
        for record in records:
            if record.seq < expected:  # the snapshot holds it; it is verified all the same
                continue
            if record.seq > expected:
                raise KharonError(f"{path}: record {expected} was trimmed just now: replay it again")
            expected += 1
            if (seq is not None and record.seq > seq) or (instant is not None and record.at > instant):
                return
            yield record
            if record.seq == seq:
                return  # what is behind it, even if damaged, does not matter

    audit = _Pass(path)
    projection = _start(Path(path), seq, instant)
    with contextlib.closing(audit.reading.records()) as records:
        return projection.fold(wanted(records))


def _start(path: Path, seq: int | None, instant: datetime | None) -> Projection:
    """Return what to begin a replay with: no tickets, or, if the log's beginning was trimmed, those of a snapshot."""
    projection = Projection()
    there = segments(path)
    first = first_of(there[0])
    if first == 1:
        return projection
    found = None
    for snapshot in usable(OS_FILES, path, there):
        if (seq is None or snapshot.seq <= seq) and (instant is None or snapshot.at <= instant):
            found = snapshot
    if found is None:
        when = "" if seq is None and instant is None else f" at {seq if instant is None else instant} or before"
        raise KharonError(
            f"{path}: the history begins at record {first}; what was before has been trimmed, and no usable snapshot "
            f"stands{when} to begin with"
        )
    projection.load(found.tickets, found.seq, found.at, found.others)
    return projection


def verify(path: str | os.PathLike[str], anchor: Anchor | None = None) -> Report:
    """Read the whole log of a queue's directory, and prove that it is what was written.

    Nor may what was derived from it and is believed say anything else: snapshots, which opening begins with, and the
    indexes, by which `history` finds records. A log is whole though one of those is not; the report names them.

    Args:
        path: the queue's directory; it may be open in any process.
        anchor: a record that the log must still contain, as `anchor` gave it and as it was kept elsewhere. Without one,
            a log that was written anew as a whole, or lost its end, is whole like any other.

    Raises:
        CorruptLog: naming file, line and byte where it is not.
        AnchorMissing: a `CorruptLog`, too: the log is whole, and does not contain the anchor; it says what differs.
        UnknownFormat: its segments are in a later format. Events that are not known are in the report instead.
        KharonError: there is no queue at `path`; or it was trimmed faster than it was read; or some of it is
            compressed, and zstd is not installed.
        OSError: it cannot be read.

    Cost: O(bytes of the log); the memory of one commit, or of the tickets if there are snapshots to compare with, and
        90 to 350 bytes for each record of one segment if there are indexes.
    """
    indexes = Indexes(Path(path))
    audit = _Pass(path, lenient=True, watch=indexes.watch)
    reading = audit.reading
    anchored = None if anchor is None else _Anchored(anchor)
    unknown = dict[Unknown, list[int]]()

    def records() -> Iterator[Record]:
        for record in reading.records():
            if type(record.event) is Unknown:
                unknown.setdefault(record.event, [record.seq, 0])[1] += 1
            if anchored is not None and record.seq == anchored.anchor.seq:
                anchored.hash = record.hash
            yield record

    snapshots = Snapshots(Path(path))  # listed first: what is written while the log is read is not in this reading
    snapshots.compare(reading, records())
    if anchored is not None:
        anchored.check(reading)
    broken, before = reading.broken, reading.before
    unfinished = 0 if broken is None else audit.sizes[broken.path] - broken.commit_byte
    if before is not None and before.path.suffix != ZSTD_SUFFIX:  # compressed, it is whole, or it was refused
        unfinished += audit.sizes[str(before.path)] - before.whole
    return Report(
        path=Path(path),
        log=reading.log or "",
        first=reading.places[0].first,
        follows=reading.follows,
        last=reading.chain.seq,
        records=reading.chain.seq - reading.places[0].first + 1,
        segments=len(reading.places),
        bytes=sum(audit.sizes.values()) - unfinished,
        hash=reading.last_hash,
        unfinished=unfinished,
        closed=reading.closed and not unfinished,
        unknown=tuple(
            UnknownEvents(event=event.name, version=event.version, needs=event.needs, first=first, records=records)
            for event, (first, records) in unknown.items()
        ),
        snapshots=snapshots.good,
        bad_snapshots=tuple(snapshots.bad),
        unjudged_snapshots=tuple(snapshots.unjudged),
        indexes=indexes.good,
        bad_indexes=tuple(indexes.bad),
        unused_indexes=tuple(indexes.unused),
    )


def anchor(path: str | os.PathLike[str]) -> Anchor:
    """Return the newest record that is known to be on disk, to be kept elsewhere and given to `verify` later.

    The very last records of a log that is being written, or was closed just now, no later line vouches for yet: a loss
    of power may take them, and nobody would have rewritten anything. So the anchor is a little further back.

    Args:
        path: the queue's directory; it may be open in any process.

    Raises:
        CorruptLog: the last segment is damaged otherwise than by an unfinished last commit.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: there is no queue at `path`.
        OSError: it cannot be read.

    Cost: O(bytes of the last segment), which alone is verified; the memory of the hashes of its records.
    """
    directory = Path(path)
    check_path(directory)
    tail = segments(directory)[-1]
    with tail.open("rb") as file:
        header = read_header(file, str(tail))
    # In front of it everything is on disk: else nothing would have been written here.
    hashes = {header.first - 1: header.previous}
    durable = header.first - 1
    with contextlib.closing(
        _Pass(path, Chain(header.first - 1, header.previous), header.log).reading.records()
    ) as records:
        for record in records:
            hashes[record.seq] = record.hash
            durable = max(durable, record.durable)
    return Anchor(header.log, durable, hashes[durable])


class _Anchored:
    """An anchor, and the hash that the log has in its place.

    Attributes:
        anchor: what must be there.
        hash: what is; None: there is no such record.
    """

    def __init__(self, anchor: Anchor) -> None:
        self.anchor = anchor
        self.hash: str | None = None

    def check(self, reading: LogScan) -> None:
        """Check that a log that has been read contains the anchor.

        Raises:
            AnchorMissing: it does not.
        """
        anchor, places = self.anchor, reading.places
        first, last = places[0], reading.chain.seq
        if reading.log != anchor.log:
            why = f"this is the log {reading.log}; the anchor is of the log {anchor.log}"
        elif anchor.seq == 0 or self.hash == anchor.hash:
            return
        elif anchor.seq > last:
            why = f"the log ends at record {last}; the anchor is record {anchor.seq}: what was behind was cut off"
        elif anchor.seq < first.first:
            why = (
                f"the history begins at record {first.first}; the anchor is record {anchor.seq}, which was trimmed: "
                f"keep a newer one"
            )
        else:
            place = places[bisect_right(places, anchor.seq, key=lambda place: place.first) - 1]
            why = f"record {anchor.seq} has the hash {self.hash}; the anchor says {anchor.hash}: the log was rewritten"
            raise AnchorMissing(str(place.path), anchor.seq - place.first + 2, 0, why)
        raise AnchorMissing(str(first.path if anchor.seq <= last else places[-1].path), 0, 0, why)


class _Pass:
    """One pass over the segments of a directory, each as long as it was when it was opened.

    Args:
        path: the directory.
        chain, log, lenient, watch: as `LogScan` has them.

    Attributes:
        reading: the pass, and how far it has come.
        sizes: of the segments that were opened, in bytes, by path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        chain: Chain | None = None,
        log: str | None = None,
        *,
        lenient: bool = False,
        watch: Callable[[LogScan, Path], OnRecord | None] = lambda _reading, _path: None,
    ) -> None:
        directory = Path(path)
        check_path(directory)
        self.sizes: dict[str, int] = {}
        self.reading = LogScan(
            lambda: segments(directory),
            lambda path: open_segment(self._open, path),
            chain,
            log,
            lenient=lenient,
            watch=watch,
        )

    def _open(self, path: Path) -> BinaryIO:
        file, self.sizes[str(path)] = open_still(path)
        return file


def open_still(path: Path) -> tuple[BinaryIO, int]:
    """Open a file that ends where it ends now, however it grows; return it, and its size in bytes."""
    still = _Still(path)
    return io.BufferedReader(still), still.stat.st_size


def check_path(path: Path) -> None:
    """Check that there is a queue.

    Raises:
        KharonError: there is none.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise KharonError(f"{path} {what}; a queue is a directory: name the one that was given to kharon.open")
    if not (path / "log").is_dir() or not segments(path):
        raise KharonError(
            f"{path} is no queue: there is no segment in {path / 'log'}; name the directory that was given to "
            f"kharon.open, or open the queue once to begin its log"
        )


class _Still(io.FileIO):
    """A file that does not grow: it ends where it ended when it was opened.

    Attributes:
        path: of the file.
        stat: of the file, when it was opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path
        self.stat = os.fstat(self.fileno())

    def readinto(self, buffer: Buffer, /) -> int:
        with naming(self.path), memoryview(buffer) as view:
            count = super().readinto(view[: max(0, self.stat.st_size - self.tell())])
        tell(count)
        return count
