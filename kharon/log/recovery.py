"""Recovery: what is done to the files of a log when it is opened, before anything is added to it.

A crash may leave half-written files, names that are in the cache only, a tail whose last commit is unfinished, and a
segment without its seal; and a sync that failed may have left anything in the page cache only, where reading finds it.
So nothing of the tail is trusted for having been read: it is written to a new inode. What is whole, `segment` finds
out; the bytes that are cut are kept in `quarantine/`. Each of these steps can be interrupted, and done again.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime
from itertools import chain as chained
from pathlib import Path
from typing import BinaryIO

from kharon.log.files import File, Files
from kharon.log.locations import ARCHIVE, find_archives
from kharon.log.record import CLOCK, Chain, Seal, seal_line
from kharon.log.replace import (
    copy_chunks,
    remove_unfinished,
    replace_file,
    replace_file_steps,
    run_here,
    temporary_path,
)
from kharon.log.scan import SegmentEnd
from kharon.log.segment import BrokenSegment, stem_of
from kharon.log.zstd import ZSTD_SUFFIX
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import TailCut

__all__ = ["quarantine", "reopen_tail", "rewrite_seal", "rewrite_tail", "tidy"]

_logger = logging.getLogger("kharon")


def tidy(files: Files, where: Path) -> None:
    """Remove what was being written when a process died, and bring the names in `log/` onto the disk.

    It may have died between renaming and syncing, and what follows relies on those names. In an archive elsewhere what
    was being written is left alone: it may be another queue's.

    Raises:
        OSError: it cannot be.
    """
    inside = [folder for folder in find_archives(where, files).reachable if folder.is_relative_to(where)]
    for folder in (where / "log", where / "snapshots", where / "quarantine", *inside):
        remove_unfinished(files, folder)
    files.unlink(temporary_path(where / ARCHIVE))
    files.sync_directory(where / "log")


def reopen_tail(files: Files, path: Path) -> File:
    """Return a tail that was closed, open to be added to, after bringing its last line onto the disk.

    All before the line that says so was on disk when that was written. The line itself may be in the page cache only,
    and if its sync failed a second one would not bring it to the disk: so it is written over itself first.

    Raises:
        OSError: it could not be done.
    """
    with files.read(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LINE_BYTES))
        end = file.read()
    line = end[end.rindex(b"\n", 0, -1) + 1 :]
    files.overwrite(path, size - len(line), line)
    return files.append(path)


def rewrite_tail(
    files: Files, where: Path, path: Path, broken: BrokenSegment | None, chain: Chain, now: datetime
) -> tuple[File, list[bytes]]:
    """Write the whole part of the tail to a new inode: a failed sync may have left it in the page cache only.

    What says that bytes were cut is in that inode too, so that a crash in here either cuts and says so, or neither.
    It vouches for all before it, since the inode has its name only once all of it is on disk.

    Args:
        files: the file system.
        where: the queue's directory.
        path: of the tail.
        broken: where its unfinished last commit stands; None: there is none.
        chain: its end, which is moved along.
        now: the time.

    Returns:
        The tail, open; and the lines that were added to it.

    Raises:
        OSError: it could not be done.

    Cost: O(bytes of the tail).
    """
    with files.read(path) as old:
        whole = old.seek(0, os.SEEK_END)
        lines: list[bytes] = []
        if broken is not None:
            length, whole = whole - broken.commit_byte, broken.commit_byte
            kept_as = quarantine(files, where, path, old, whole, length)
            cut = TailCut(f"log/{path.name}", whole, length, kept_as)
            _logger.warning("%s: cut %d bytes of an unfinished last commit, kept as %s", path, length, kept_as)
            lines = chain.commit([cut], now, CLOCK, chain.seq)
        old.seek(0)
        return run_here(replace_file_steps(files, path, chained(copy_chunks(old, whole, path), lines))), lines


def quarantine(files: Files, where: Path, path: Path, old: BinaryIO, start: int, length: int) -> str:
    """Keep `length` bytes of a segment, from `start` on, aside; return as what, under the queue's directory.

    Raises:
        OSError: it could not be done.
    """
    aside = where / "quarantine"
    if files.kind(aside) is None:
        files.make_directory(aside)
    stem = f"{stem_of(path)}-{start}" + (ZSTD_SUFFIX if path.suffix == ZSTD_SUFFIX else "")
    name, count = stem, 0
    while files.kind(aside / name) is not None:  # an earlier recovery's: nothing kept aside is overwritten
        count += 1
        name = f"{stem}.{count}"
    old.seek(start)
    replace_file(files, aside / name, copy_chunks(old, length, path))
    files.sync_directory(where)
    return f"quarantine/{name}"


def rewrite_seal(files: Files, before: SegmentEnd, next_hash: str) -> None:
    """Write the last segment but one to a new inode, with its seal, which a crash may have kept from it.

    Even if the seal is there to be read: if its sync failed it is in the page cache only. A record in the tail would
    prove that it is on disk; there is none.

    Args:
        files: the file system.
        before: how that segment ends.
        next_hash: the hash of its successor's header.

    Raises:
        OSError: it could not be done.

    Cost: O(bytes of the segment).
    """
    seal = [] if before.sealed else [seal_line(before.hash, Seal(before.last, next_hash))]
    with files.read(before.path) as old:
        replace_file(files, before.path, chained(copy_chunks(old, before.whole, before.path), seal))
