"""The program that takes a snapshot, and writes missing indexes, in a process of its own.

A process, since folding and writing a million tickets takes seconds. It needs the queue's directory and nothing from
the process that has the queue open. When to run it is the store's decision; what a snapshot is, and how it is taken,
is in `snapshot`; what an index is, in `index`.
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
    """Take a snapshot of the queue in the directory that the last argument names, and write the indexes it lacks.

    If the argument in front of it is `trimmable`, say on stdout up to which seq records may be trimmed then.

    Args:
        lifeline: a descriptor of which the process that wants the snapshot has the other end: when that closes,
            however that process ended, this one ends too. None: there is none.

    Returns:
        0; or, with the reason on stderr, 1: no snapshot; 2: no index.
    """
    if lifeline is not None:
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    directory = Path(sys.argv[-1])
    missing = 1
    try:
        os.nice(10)  # whoever has the queue open goes first
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
    """End this process when the other end of a descriptor closes: as a kill would, so nothing has to be in order."""
    while os.read(lifeline, 1):
        pass
    os._exit(1)
