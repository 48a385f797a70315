"""Reading a queue for a command: with a bar for whoever waits, and an error for a place that is none."""

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

__all__ = ["beginning", "past", "reading", "records", "size_of", "state"]

_T = TypeVar("_T")


def size_of(queue: Path) -> int:
    """Return how many bytes a queue's segments have; 0 if there is no queue. O(segments)."""
    total = 0
    try:
        for path in segments(queue):
            total += os.stat(path).st_size  # noqa: PTH116 - the same, without another object for each of thousands
    except OSError:
        return total  # a file that has just been moved; what is read will say what is wrong
    return total


@contextmanager
def reading(out: Output, queue: Path, what: str = "reading") -> Iterator[None]:
    """Show a bar, if it takes long, for what is read of a queue in the block."""
    with out.bar(what, size_of(queue)) as bar:
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            bar.at(done)

        with watch_bytes(tell):
            yield


def state(out: Output, queue: Path, until: int | datetime | None = None) -> Projection:
    """Return a queue as it is, or was."""
    with reading(out, queue):
        return replay(queue, until)


def beginning(out: Output, queue: Path, what: str = "counted", asked: int = 0) -> Projection:
    """Return the state from which a queue's records can be folded: empty, or, if they were trimmed, a snapshot's.

    If records behind `asked`, which is a seq, are among those that cannot be, it is said from where on they are `what`.
    """
    check_queue(queue)
    start = state_at_start(queue)
    if start.seq > asked:
        out.say(f"{what} from record {start.seq + 1} on: what was before was trimmed, or is only in a snapshot")
    return start


def past(out: Output, queue: Path, id: str) -> list[Record]:
    """Return all records about a ticket; none if there never was such a ticket."""
    check_queue(queue)
    with reading(out, queue):
        return history(queue, id)


def records(out: Output, queue: Path, take: Callable[[Iterator[Record]], _T], after: int = 0) -> _T:
    """Return what `take` makes of a queue's records."""
    with reading(out, queue):
        return take(read(queue, after))
