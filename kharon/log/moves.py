"""Where sealed segments go when they are compressed or archived, and what a crash on the way there leaves behind.

A segment is moved by writing it anew: the new file is complete and on disk before a record says so, and the old one is
removed once that record is. So a crash leaves either the old one with a copy that nobody speaks of, which is removed,
or both with a record, and then the old one is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from kharon.errors import CorruptLog
from kharon.log.files import Files
from kharon.log.packed import PACKED, open_segment
from kharon.model.events import SegmentArchived, SegmentCompressed

__all__ = ["ARCHIVE", "Moved", "archives", "chunks", "finish_moves", "name_archive", "path_in", "write_new"]

Moved: TypeAlias = SegmentCompressed | SegmentArchived
ARCHIVE: Final = "ARCHIVE"
"""The file that names the archive directories, one a line: read before the log, whose beginning may lie there."""
_MAX_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 18
_TEMPORARY: Final = ".tmp"


def archives(directory: Path, files: Files) -> list[Path]:
    """Return the archive directories of a queue that can be reached."""
    if files.kind(directory / ARCHIVE) is None:
        return []
    with files.read(directory / ARCHIVE) as file:
        names = file.read(_MAX_BYTES).decode("utf-8", "surrogateescape").splitlines()
    return [path for name in names if files.kind(path := directory / name) == "directory"]


def name_archive(directory: Path, archive: Path, files: Files) -> None:
    """Make an archive directory if need be, and note it where readers look, all of it on disk."""
    for folder in (archive.parent, archive):
        if files.kind(folder) is None:
            files.make_directory(folder)
            files.sync_directory(folder.parent)
    if archive in archives(directory, files):
        return
    known = b""
    if files.kind(directory / ARCHIVE) is not None:
        with files.read(directory / ARCHIVE) as file:
            known = file.read(_MAX_BYTES)
    line = path_in(directory, archive).encode("utf-8", "surrogateescape") + b"\n"
    write_new(files, directory / ARCHIVE, iter([known, line]))


def path_in(directory: Path, path: Path) -> str:
    """Return a path as records say it: relative to the queue's directory if it lies in there."""
    return os.fspath(path.relative_to(directory) if path.is_relative_to(directory) else path)


def chunks(files: Files, path: Path, *, unpack: bool) -> Iterator[bytes]:
    """Give the bytes of a segment, or, if not to `unpack`, of its file."""
    with open_segment(files.read, path) if unpack else files.read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def write_new(files: Files, path: Path, source: Iterator[bytes]) -> None:
    """Write a file that has its name only once its bytes are on disk; its name is, too, when this returns."""
    temporary = path.with_name(path.name + _TEMPORARY)
    files.unlink(temporary)
    file = files.create(temporary)
    try:
        for chunk in source:
            file.write(chunk)
        file.sync()
        files.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    finally:
        file.close()
    files.sync_directory(path.parent)


def finish_moves(files: Files, directory: Path, moves: Sequence[Moved]) -> None:
    """End what a crash left half done: of a segment that is in two places, keep the one that the log speaks of.

    Args:
        files: the file system.
        directory: the queue's.
        moves: what the log says of moves, oldest first.

    Raises:
        OSError: a file could not be read or removed.

    Cost: that of listing; of reading each segment that is there twice.
    """
    spoken = {(directory / move.file, directory / move.kept_as) for move in moves}
    found: dict[str, list[Path]] = {}
    for folder in (directory / "log", *archives(directory, files)):
        for name in files.list(folder):
            path = folder / name
            if name.endswith((f".jsonl{PACKED}{_TEMPORARY}", f".jsonl{_TEMPORARY}")):
                _remove(files, path)
            elif name.endswith((".jsonl", f".jsonl{PACKED}")):
                found.setdefault(name.partition(".")[0], []).append(path)
    for old, *copies in found.values():
        for copy in copies:
            if (old, copy) in spoken and _is_same(files, old, copy):
                _remove(files, old)
            else:
                _remove(files, copy)


def digest(files: Files, path: Path) -> str:
    """Return the SHA-256 of a segment's bytes, unpacked. O(bytes)."""
    sha = sha256()
    for chunk in chunks(files, path, unpack=True):
        sha.update(chunk)
    return sha.hexdigest()


def _is_same(files: Files, old: Path, copy: Path) -> bool:
    try:
        return digest(files, old) == digest(files, copy)
    except CorruptLog:  # the copy does not unpack any more; the old one was read when the log was opened
        return False


def _remove(files: Files, path: Path) -> None:
    files.unlink(path)
    files.sync_directory(path.parent)  # before the next: else a later loss of power could bring back one, not another
