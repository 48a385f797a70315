"""Recovery: makes the files of a log sound when it is opened, before anything is added to it.

A crash may leave half-written files, names that are only cached, an unfinished last commit, and a segment without its
seal. A failed sync may have left anything in the page cache only, where reading finds it. So nothing of the tail is
trusted because it could be read: it is written to a new inode. `segment` finds out which part is whole. The bytes that
are cut are kept in `quarantine/`. Each step can be interrupted and repeated.
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
from kharon.log.messages import say
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

__all__ = ["quarantine", "quarantine_of", "reopen_tail", "rewrite_seal", "rewrite_tail", "tidy", "unused_name"]


def tidy(files: Files, where: Path) -> None:
    """Remove unfinished files of a process that died, and bring the names in `log/` onto the disk.

    The process may have died between a rename and its sync, and the next steps rely on those names. Unfinished files in
    an archive elsewhere are left alone: they may be another queue's.

    Raises:
        OSError: a file cannot be removed, or the directory not synced.
    """
    inside = [folder for folder in find_archives(where, files).reachable if folder.is_relative_to(where)]
    for folder in (where / "log", where / "snapshots", where / "quarantine", *inside):
        remove_unfinished(files, folder)
    files.unlink(temporary_path(where / ARCHIVE))
    files.sync_directory(where / "log")


def reopen_tail(files: Files, path: Path) -> File:
    """Bring the last line of a cleanly closed tail onto the disk, and return the tail open for appending.

    That line says that the log was closed; everything before it was on disk when it was written. The line itself may
    be in the page cache only, and after a failed sync a second one would not write it. So it is first overwritten with
    itself.

    Raises:
        OSError: the tail could not be read or written.
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
    """Write the whole part of the tail to a new inode, since a failed sync may have left it in the page cache only.

    The record that bytes were cut is written to that inode too, so a crash leaves both the cut and its record, or
    neither. Its `durable` covers everything before it: the inode gets its name only once all of it is on disk.

    Args:
        files: the file system.
        where: the queue's directory.
        path: the tail.
        broken: its unfinished last commit; None: there is none.
        chain: its end, which is advanced.
        now: the time.

    Returns:
        The tail, open; and the lines that were added to it.

    Raises:
        OSError: the tail could not be read or written.

    Cost: O(bytes of the tail).
    """
    with files.read(path) as old:
        whole = old.seek(0, os.SEEK_END)
        lines: list[bytes] = []
        if broken is not None:
            length, whole = whole - broken.commit_byte, broken.commit_byte
            kept_as = quarantine(files, where, path, old, whole, length)
            cut = TailCut(f"log/{path.name}", whole, length, kept_as)
            say(logging.WARNING, "%s: cut %d bytes of an unfinished last commit, kept as %s", path, length, kept_as)
            lines = chain.commit([cut], now, CLOCK, chain.seq)
        old.seek(0)
        return run_here(replace_file_steps(files, path, chained(copy_chunks(old, whole, path), lines))), lines


def quarantine_of(files: Files, where: Path) -> Path:
    """Return the directory for bytes and files that are set aside; make it if it is missing."""
    aside = where / "quarantine"
    if files.kind(aside) is None:
        files.make_directory(aside)
    return aside


def quarantine(files: Files, where: Path, path: Path, old: BinaryIO, start: int, length: int) -> str:
    """Copy `length` bytes of a segment, from `start` on, to `quarantine/`; return the copy's path in the directory.

    Raises:
        OSError: the bytes could not be copied.
    """
    aside = quarantine_of(files, where)
    stem = f"{stem_of(path)}-{start}" + (ZSTD_SUFFIX if path.suffix == ZSTD_SUFFIX else "")
    kept = unused_name(files, aside, stem)
    old.seek(start)
    replace_file(files, kept, copy_chunks(old, length, path))
    files.sync_directory(where)
    return f"quarantine/{kept.name}"


def unused_name(files: Files, folder: Path, name: str) -> Path:
    """Return a path in `quarantine/` that is not in use, since nothing there is overwritten."""
    path, count = folder / name, 0
    while files.kind(path) is not None:
        count += 1
        path = folder / f"{name}.{count}"
    return path


def rewrite_seal(files: Files, before: SegmentEnd, next_hash: str) -> None:
    """Write the last segment but one to a new inode, with its seal, which a crash may have prevented.

    Even if the seal can be read: after a failed sync it is in the page cache only. A record in the tail would prove
    that it is on disk, but there is none.

    Args:
        files: the file system.
        before: the end of that segment.
        next_hash: the hash of its successor's header.

    Raises:
        OSError: it could not be done.

    Cost: O(bytes of the segment).
    """
    seal = [] if before.sealed else [seal_line(before.hash, Seal(before.last, next_hash))]
    with files.read(before.path) as old:
        replace_file(files, before.path, chained(copy_chunks(old, before.whole, before.path), seal))
