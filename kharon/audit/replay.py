"""The state of a queue at a place in its log: `replay` folds the records up to there.

If the beginning of the log was trimmed, a snapshot stands for it (`state_at_start`). Nothing is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path

from kharon.audit.read import LogPass
from kharon.errors import InvalidTicket, KharonError
from kharon.log.directory import segments
from kharon.log.files import OS_FILES
from kharon.log.record import Record
from kharon.log.segment import first_of
from kharon.log.snapshot import usable
from kharon.model.checks import check_instant
from kharon.model.projection import Projection

__all__ = ["known_start", "records_after", "replay", "state_at_start"]


def replay(path: str | os.PathLike[str], until: int | datetime | None = None) -> Projection:
    """Return the projection that a queue's log, or its beginning, folds to.

    If the beginning was trimmed, a snapshot stands for it: the oldest usable one, so that most records are folded.

    Args:
        path: the queue's directory; it may be open in any process.
        until: None: the whole log. A seq: the records up to and including it; if the log has not reached it, the whole
            log, and the projection's `seq` tells how far that is. An instant (a timezone-aware datetime): the records
            written at or before it.

    Raises:
        CorruptLog: the log is damaged before `until`, other than by an unfinished last commit.
        UnknownFormat: a later version of Kharon wrote it.
        InvalidTicket: `until` is of another type, or a datetime without a timezone.
        KharonError: there is no queue at `path`, or a record cannot follow from those before it; or the remaining
            history begins after `until`, or after every usable snapshot.
        OSError: the log cannot be read.

    Cost: O(bytes of the log up to `until`) + O(n log n) for the n tickets that are left.
    """
    if until is not None and (not isinstance(until, (int, datetime)) or isinstance(until, bool)):
        raise InvalidTicket(f"until: a seq, a timezone-aware datetime, or None; not {until!r}")
    instant = check_instant("until", until) if isinstance(until, datetime) else None
    seq = until if isinstance(until, int) else None

    def wanted(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            if (seq is not None and record.seq > seq) or (instant is not None and record.at > instant):
                return
            yield record
            if record.seq == seq:
                return  # damage after it does not matter

    log = LogPass(path)
    projection = state_at_start(Path(path), seq, instant)
    with contextlib.closing(records_after(log, projection.seq)) as records:
        return projection.fold(wanted(records))


def records_after(log: LogPass, seq: int) -> Generator[Record, None, None]:
    """Yield the records after the state that a fold begins with. The earlier ones are verified all the same.

    Raises:
        KharonError: the next one was trimmed since that state was found; or as for `LogScan.records`.
        CorruptLog, UnknownFormat, OSError: as for `LogScan.records`.

    Cost: O(bytes).
    """
    expected = seq + 1
    with contextlib.closing(log.reading.records()) as records:
        for record in records:
            if record.seq < expected:
                continue
            if record.seq > expected:
                raise KharonError(f"record {expected} was trimmed just now, before it was read: ask again")
            expected += 1
            yield record


def known_start(path: Path) -> Projection | None:
    """Return the state to begin the lives of tickets with: a snapshot's, if the log's beginning was trimmed.

    None if it was not, or if no usable snapshot vouches for a state.

    Cost: as of `state_at_start`.
    """
    try:
        start = state_at_start(path)
    except KharonError:
        return None
    return start if start.seq else None


def state_at_start(path: Path, seq: int | None = None, instant: datetime | None = None) -> Projection:
    """Return the state to begin a fold with: an empty one, or, if the log's beginning was trimmed, a snapshot's.

    Args:
        path: the queue's directory.
        seq: the snapshot must not be later than this record; None: it may.
        instant: nor later than this instant; None: it may.

    Raises:
        KharonError: the beginning was trimmed, and there is no usable snapshot.

    Cost: O(1); of a trimmed log O(bytes of its snapshots).
    """
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
        when = "" if seq is None and instant is None else f" at or before {seq if instant is None else instant}"
        raise KharonError(
            f"{path}: the history begins at record {first}; earlier records have been trimmed, and there is no usable "
            f"snapshot{when} to begin with"
        )
    projection.load(found.tickets, found.seq, found.at, found.others)
    return projection
