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
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs

from kharon.audit.anchors import Anchor
from kharon.audit.watching import tell
from kharon.errors import InvalidTicket, KharonError
from kharon.log.directory import segments
from kharon.log.files import OS_FILES
from kharon.log.packed import PACKED, open_segment
from kharon.log.record import Record
from kharon.log.segment import Reading, first_of
from kharon.log.snapshot import usable
from kharon.model.limits import check_instant
from kharon.model.projection import Projection

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in the standard library from Python 3.12 on

__all__ = ["Report", "read", "replay", "verify"]


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
        KharonError: at once: there is no queue at `path`.
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
    projection.load(found.tickets, found.seq, found.at)
    return projection


def verify(path: str | os.PathLike[str], anchor: Anchor | None = None) -> Report:
    """Read the whole log of a queue's directory, and prove that it is what was written.

    Args:
        path: the queue's directory; it may be open in any process.

    Raises:
        CorruptLog: naming file, line and byte where it is not.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: there is no queue at `path`.
        OSError: it cannot be read.

    Cost: O(bytes of the log); the memory of one commit.
    """
    audit = _Pass(path)
    reading = audit.reading
    count = sum(1 for _ in reading.records())
    broken, before = reading.broken, reading.before
    unfinished = 0 if broken is None else audit.sizes[broken.path] - broken.commit_byte
    if before is not None and before.path.suffix != PACKED:  # compressed, it is whole, or it was refused
        unfinished += audit.sizes[str(before.path)] - before.whole
    return Report(
        path=Path(path),
        log=reading.log or "",
        first=reading.places[0].first,
        follows=reading.follows,
        last=reading.chain.seq,
        records=count,
        segments=len(reading.places),
        bytes=sum(audit.sizes.values()) - unfinished,
        hash=reading.last_hash,
        unfinished=unfinished,
        closed=reading.closed and not unfinished,
    )


class _Pass:
    """One pass over the segments of a directory, each as long as it was when it was opened.

    Attributes:
        reading: the pass, and how far it has come.
        sizes: of the segments that were opened, in bytes, by path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        directory = Path(path)
        check_path(directory)
        self.sizes: dict[str, int] = {}
        self.reading = Reading(lambda: segments(directory), lambda path: open_segment(self._open, path))

    def _open(self, path: Path) -> BinaryIO:
        file, self.sizes[str(path)] = open_still(path)
        return file


def open_still(path: Path) -> tuple[BinaryIO, int]:
    """Open a file that ends where it ends now, however it grows; return it, and its size in bytes."""
    still = _Still(path)
    return io.BufferedReader(still), still.size


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
        size: in bytes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = os.fstat(self.fileno()).st_size

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as view:
            count = super().readinto(view[: max(0, self.size - self.tell())])
        tell(count)
        return count
