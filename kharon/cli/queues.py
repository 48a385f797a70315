"""Reading a queue for a command: with a progress bar if it takes long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from kharon.audit.history import history
from kharon.audit.progress import watch_bytes
from kharon.audit.read import check_queue, read
from kharon.audit.replay import replay, state_at_start
from kharon.cli.output import Output
from kharon.log.directory import segments
from kharon.log.record import Record
from kharon.model.projection import Projection

__all__ = ["history_of", "reading", "size_of", "state_at_start_of", "state_of_queue", "with_records"]

_T = TypeVar("_T")


def size_of(queue: Path) -> int:
    """Return the total size of a queue's segments in bytes; 0 if there is no queue. O(segments)."""
    total = 0
    try:
        for path in segments(queue):
            total += os.stat(path).st_size  # noqa: PTH116 - the same, without another object for each of thousands
    except OSError:
        return total  # a file was moved just now; the reading that follows reports what is wrong
    return total


@contextmanager
def reading(out: Output, queue: Path, what: str = "reading") -> Iterator[None]:
    """Show a progress bar while a queue is read in the block, if that takes long."""
    with out.bar(what, size_of(queue)) as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(done)

        with watch_bytes(advance):
            yield


def state_of_queue(out: Output, queue: Path, until: int | datetime | None = None) -> Projection:
    """Return the state of a queue, now or after `until`."""
    with reading(out, queue):
        return replay(queue, until)


def state_at_start_of(out: Output, queue: Path, what: str = "counted", asked: int = 0) -> Projection:
    """Return the state from which a queue's records can be folded: empty, or a snapshot's if they were trimmed.

    Args:
        out: where to warn if records after `asked` cannot be folded.
        queue: the queue's directory.
        what: what is done with the records, for that warning.
        asked: the seq after which records are asked for.
    """
    check_queue(queue)
    start = state_at_start(queue)
    if start.seq > asked:
        out.say(f"{what} from record {start.seq + 1} on: earlier records were trimmed, or are only in a snapshot")
    return start


def history_of(out: Output, queue: Path, id: str) -> list[Record]:
    """Return all records about a ticket; none if there never was such a ticket."""
    check_queue(queue)
    with reading(out, queue):
        return history(queue, id)


def with_records(out: Output, queue: Path, take: Callable[[Iterator[Record]], _T], after: int = 0) -> _T:
    """Return the result of `take`, called with a queue's records after a seq."""
    with reading(out, queue):
        return take(read(queue, after))
