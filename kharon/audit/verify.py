"""Verification of a whole log, and of the snapshots and indexes that are derived from it: `verify`.

One pass reads the log; `verify_snapshots` and `verify_indexes` compare along the way. Nothing is written or repaired.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from kharon.audit.anchor import Anchor, AnchorCheck
from kharon.audit.read import LogPass
from kharon.audit.verify_indexes import IndexCheck
from kharon.audit.verify_snapshots import SnapshotCheck
from kharon.log.record import Record
from kharon.log.zstd import ZSTD_SUFFIX
from kharon.model.versions import Unknown

__all__ = ["Report", "UnknownEvents", "verify"]


@attrs.frozen(slots=True, kw_only=True)
class UnknownEvents:
    """Records whose event this Kharon does not know, at least not in the version in which they were written.

    Attributes:
        event: the event's name.
        version: the version in which it was written.
        needs: the first release of Kharon that knows it; None: the records do not say.
        first: the seq of the first of these records.
        records: the number of these records.
    """

    event: str
    version: int
    needs: str | None
    first: int
    records: int


@attrs.frozen(slots=True, kw_only=True)
class Report:
    """The result of `verify` for a log that is whole.

    Attributes:
        path: the queue's directory.
        log: the log's id, 32 hex digits.
        first: the seq of the first record, or of the next one if there is none. If it is more than 1, earlier records
            were trimmed, and the chain is verified from this record on.
        follows: the hash that the first record's segment follows: 64 zeros, or the hash of the last trimmed record.
        last: the seq of the last record; `first` - 1 if there is none.
        records: the number of records.
        segments: the number of segment files.
        bytes: how many bytes of files were verified, headers included.
        hash: of the last record, or of the header if there is none; 64 hex digits. Kept elsewhere together with `last`,
            it shows later whether whole lines were dropped from the end.
        unfinished: the size in bytes of an unfinished last commit, or of an unfinished seal, after the verified bytes:
            being written right now, or left by a crash. Usually 0.
        closed: whether the log ends with `LogClosed`, and nothing follows.
        unknown: events that a later version of Kharon wrote, in the order of the log. Their place in the chain was
            verified like any other, but their contents cannot be read; this Kharon neither opens nor replays the log.
            Usually empty.
        snapshots: how many snapshots agree with the log.
        bad_snapshots: for each snapshot that does not: its path and what is wrong. The log itself is whole. Opening
            skips a damaged snapshot, but would trust one whose tickets are not the log's. If `first` is 1, remove the
            file: another one will be made. If it is more, remove none: nothing else holds the trimmed records.
        unjudged_snapshots: for each snapshot that cannot be judged: its path and why. It is in a later format, or
            follows an unknown event, or comes before `first`; or it is the one onto which the rest of a trimmed log
            was folded, and with which the later ones were compared. None of these is a reason to remove it.
        indexes: how many indexes, which `history` uses, agree with their segments.
        bad_indexes: for each index with correct checksums that does not, so that `history` misses records: its path
            and what is wrong. No crash and no bad disk causes this; somebody wrote it. The log itself is whole. Remove
            the file: an index is a cache, and is made again.
        unused_indexes: for each index that `history` does not use, reading the segment instead: its path and why. It
            is unfinished, wholly or partly damaged, or of another segment or version. It hides nothing, and the next
            call of `history` makes it again.
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


def verify(path: str | os.PathLike[str], anchor: Anchor | None = None) -> Report:
    """Read the whole log of a queue's directory, and prove that it is what was written.

    Two kinds of files are derived from the log and trusted: snapshots, with which opening begins, and indexes, by
    which `history` finds records. They are compared with the log. A log is whole even if one of them is wrong; the
    report names those.

    Args:
        path: the queue's directory; it may be open in any process.
        anchor: a record that the log must still contain, as `anchor` returned it, kept elsewhere since. Without one, a
            log that was rewritten as a whole, or lost its end, is whole like any other.

    Raises:
        CorruptLog: the log is damaged or altered; the error names file, line and byte.
        AnchorMissing: a `CorruptLog`: the log is whole, but does not contain the anchor; the message says what differs.
        UnknownFormat: the segments are in a later format. Unknown events are in the report instead.
        KharonError: there is no queue at `path`; or it was trimmed faster than it was read; or some of it is
            compressed, and zstd is not installed.
        OSError: the log cannot be read.

    Cost: O(bytes of the log); the memory of one commit, or of the tickets if there are snapshots to compare with, and
        90 to 350 bytes for each record of one segment if there are indexes.
    """
    indexes = IndexCheck(Path(path))
    log = LogPass(path, lenient=True, watch=indexes.watch)
    reading = log.reading
    anchored = None if anchor is None else AnchorCheck(anchor)
    unknown = dict[Unknown, list[int]]()

    def records() -> Iterator[Record]:
        for record in reading.records():
            if type(record.event) is Unknown:
                unknown.setdefault(record.event, [record.seq, 0])[1] += 1
            if anchored is not None:
                anchored.see(record)
            yield record

    snapshots = SnapshotCheck(Path(path))  # lists them first: those written from now on lie beyond this pass
    snapshots.compare(reading, records())
    if anchored is not None:
        anchored.finish(reading)
    unfinished = _unfinished(log)
    return Report(
        path=Path(path),
        log=reading.log or "",
        first=reading.places[0].first,
        follows=reading.follows,
        last=reading.chain.seq,
        records=reading.chain.seq - reading.places[0].first + 1,
        segments=len(reading.places),
        bytes=sum(log.sizes.values()) - unfinished,
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


def _unfinished(log: LogPass) -> int:
    """Return how many bytes an unfinished last commit and an unfinished seal have."""
    broken, before = log.reading.broken, log.reading.before
    unfinished = 0 if broken is None else log.sizes[broken.path] - broken.commit_byte
    if before is not None and before.path.suffix != ZSTD_SUFFIX:  # a compressed one is whole, or was refused
        unfinished += log.sizes[str(before.path)] - before.whole
    return unfinished
