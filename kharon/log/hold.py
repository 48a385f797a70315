"""Holding a queue's directory: it is made if need be, trusted (`guard`), and locked for this process alone.

What is in it is not looked at here, but for telling a queue's directory from one with other things in it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from kharon.errors import KharonError, QueueLocked
from kharon.log.files import Files, Lock
from kharon.log.guard import OURS, check_disk, check_owner

__all__ = ["Hold", "hold"]


class Hold(NamedTuple):
    """A directory that is held.

    Attributes:
        lock: held until it is released, or this process ends.
        made: whether the directory was not there before.
    """

    lock: Lock
    made: bool


def hold(where: Path, files: Files, *, allow_network: bool) -> Hold:
    """Hold a queue's directory.

    Args:
        where: the directory; made, with mode 0700, if it does not exist.
        files: the file system.
        allow_network: whether it may be on a network file system.

    Raises:
        QueueLocked: it is held already, in this process or another.
        KharonError: it is no queue's, or one that should not be trusted (`guard`).
        OSError: it cannot be read or written.
    """
    made = _make_directory(where, files, allow_network=allow_network)
    try:
        return Hold(files.lock(where / "LOCK", b"%d\n" % os.getpid()), made)
    except BlockingIOError as busy:
        raise QueueLocked(
            f"{where} is open already, in process {busy} (this is process {os.getpid()}); a queue has one "
            f"opener at a time. Close it there, or ask that process to do the work"
        ) from None


def _make_directory(where: Path, files: Files, *, allow_network: bool) -> bool:
    """Make what is missing of the directory; return whether all of it was."""
    kind = files.kind(where)
    check_disk(where.absolute() if kind else where.absolute().parent, files, allow_network=allow_network)
    if kind == "directory":
        strange = [name for name in files.list(where) if name not in OURS]
        ours = files.kind(where / "LOCK") == "file" and files.kind(where / "log") == "directory"
        if strange and not ours:
            raise KharonError(f"{where} is no queue, and is not empty ({strange[0]} …); name a new directory")
    elif kind is not None:
        raise KharonError(f"{where} is a file; a queue is a directory")
    else:
        parent = where.absolute().parent
        if files.kind(parent) != "directory":
            raise KharonError(f"{where} cannot be made: {parent} is no directory; make that first")
        _make(where, files)
    check_owner(where, files)
    if files.kind(where / "log") is None:
        _make(where / "log", files)
    return kind is None


def _make(path: Path, files: Files) -> None:
    with contextlib.suppress(FileExistsError):  # another opener was faster: the lock decides who goes on
        files.make_directory(path)
