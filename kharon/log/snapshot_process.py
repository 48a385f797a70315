"""The program that takes a snapshot, and writes missing indexes, in a process of its own.

A process, since folding and writing a million tickets takes seconds. It needs only the queue's directory, and nothing
from the process that has the queue open. The store decides when to run it. What a snapshot is, and how it is taken, is
in `snapshot`; what an index is, in `index`.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from kharon.errors import KharonError
from kharon.log.index import write_missing
from kharon.log.locations import segments
from kharon.log.snapshot import take, trimmable

__all__ = ["main"]


def main(lifeline: int | None = None) -> int:
    """Take a snapshot of the queue in the directory that the last argument names, then write its missing indexes.

    If the previous argument is `trimmable`, print the seq up to which records may then be trimmed.

    Args:
        lifeline: one end of a pipe whose other end the parent holds: this process ends when that closes, however the
            parent ended. None: there is none.

    Returns:
        The exit status: 0; or, with the reason on stderr, 1: no snapshot; 2: no index.
    """
    if lifeline is not None:
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    directory = Path(sys.argv[-1])
    missing = 1
    try:
        os.nice(10)  # the process that has the queue open takes precedence
        take(directory)
        if sys.argv[-2] == "trimmable":
            print(trimmable(directory))  # noqa: T201 - a program of its own
        missing = 2
        write_missing(directory, segments(directory))
    except (KharonError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program of its own
        return missing
    return 0


def _end_with(lifeline: int) -> None:
    """End this process when the other end of the pipe closes: at once, as a kill would, without cleaning up."""
    while os.read(lifeline, 1):
        pass
    os._exit(1)
