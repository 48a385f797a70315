"""Where segments are: in `log/`, or in an archive once they are finished; and how one is moved between them.

A segment is moved by copying it. The copy is complete and on disk before a record of the move is written, and the
original is removed once that record is on disk. So a crash may leave an unrecorded copy, which is removed; or a
recorded one beside the original, which is removed instead. Which segment is moved, and when, is in `retention`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias

from kharon.errors import CorruptLog, KharonError
from kharon.log.files import OS_FILES, Files
from kharon.log.messages import say
from kharon.log.replace import replace_file
from kharon.log.segment import first_of, is_segment, stem_of
from kharon.log.zstd import open_segment
from kharon.model.events import SegmentArchived, SegmentCompressed

__all__ = [
    "ARCHIVE",
    "OWNER",
    "Archives",
    "Moved",
    "choose_archive",
    "digest",
    "find_archives",
    "finish_moves",
    "locate_segments",
    "open_relocated",
    "owns_archive",
    "read_chunks",
    "recorded_path",
    "register_archive",
    "segments",
]

Moved: TypeAlias = SegmentCompressed | SegmentArchived
ARCHIVE: Final = "ARCHIVE"
"""The file that lists the archive directories, one a line: read before the log, whose beginning may be in one."""
OWNER: Final = "OWNER"
"""The file in an archive directory that identifies its queue, in three lines: the id of the file system and the inode
of the queue's `log/`; the name of the machine; the path of the queue.
"""
_MAX_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 18
_SURE: Final = 2  # how many of the three lines of `OWNER` must match


def segments(directory: Path, files: Files = OS_FILES) -> list[Path]:
    """Return the segments of a queue's directory, oldest first, wherever they are now.

    A segment is in two places while it is moved, or after a crash. Then the original is returned: the one in `log/`
    before one in an archive, the plain one before the compressed one.

    Raises:
        CorruptLog: a file among them has a malformed name, so its place in the log is unknown.
        OSError: they cannot be listed.

    Cost: that of listing `log/` and each archive directory.
    """
    return [paths[0] for _, paths in sorted(locate_segments(directory, files).items())]


def locate_segments(directory: Path, files: Files, known: Archives | None = None) -> dict[str, list[Path]]:
    """Return each segment's paths by its stem: one, or several of which the first is the original.

    The oldest segments are archived first, and into the archive listed last. So a file in an archive that is not older
    than those in the next archive, or in `log/`, belongs to another queue: a copy of this one that shares the archive.

    Args:
        directory: the queue's directory.
        files: the file system.
        known: its archives, for a caller that holds the lock; None: they are looked up.

    Raises:
        CorruptLog: a file among them has a malformed name.
        OSError: they cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    # In this order, also of the archives: a segment only moves to a later directory in this list.
    listed = [(directory / "log", files.list(directory / "log"))]
    there = (known or find_archives(directory, files)).reachable
    listed += [(folder, files.list(folder)) for folder in reversed(there)]
    for folder, names in listed:
        oldest = min(found, default="~")
        for name in names:
            stem = stem_of(Path(name))
            if is_segment(name):
                first_of(folder / name)
                if stem <= oldest:
                    found.setdefault(stem, []).append(folder / name)
    return found


def open_relocated(files: Files, directory: Path, path: Path) -> BinaryIO:
    """Open a segment for reading, wherever another process may have moved it.

    Raises:
        FileNotFoundError: it is in no place any more.
        KharonError: it is compressed, and zstd is not installed.
        OSError: it cannot be read.
    """
    try:
        return open_segment(files.read, path)
    except FileNotFoundError:
        moved = next((each for each in segments(directory, files) if stem_of(each) == stem_of(path)), path)
        return open_segment(files.read, moved)


def _named(directory: Path, files: Files) -> list[Path]:
    if files.kind(directory / ARCHIVE) is None:
        return []
    with files.read(directory / ARCHIVE) as file:
        lines = file.read(_MAX_BYTES).split(b"\n")
    return [directory / os.fsdecode(line) for line in lines if line]


class Archives(NamedTuple):
    """The archive directories of a queue, in the order of their use: those that can be reached, and the others."""

    reachable: list[Path]
    unreachable: list[Path]


def find_archives(directory: Path, files: Files) -> Archives:
    """Return the archive directories of a queue. Raises `OSError` if their list cannot be read."""
    found = Archives([], [])
    for path in _named(directory, files):
        (found.reachable if files.kind(path) == "directory" else found.unreachable).append(path)
    return found


def choose_archive(directory: Path, root: Path, log: str, files: Files) -> Path:
    """Return the directory to archive segments in: the one used last, or another in `root`.

    Another one is chosen if `root` has changed, or if this queue is a copy and the directory belongs to the original.
    """
    named = _named(directory, files)
    if named and named[-1].parent == root and owns_archive(directory, named[-1], files):
        return named[-1]
    archive, count = root / log, 1
    while archive in named or not owns_archive(directory, archive, files):
        count += 1
        archive = root / f"{log}-{count}"
    return archive


def owns_archive(directory: Path, archive: Path, files: Files) -> bool:
    """Return whether an archive directory is free or this queue's, and not that of a queue of which this is a copy.

    Decided by the directory (its file system and inode), the machine and the path. Two of the three must match, since
    the queue may have been moved or restored, or the machine renamed. A copy on the same machine shares only the
    machine; a copy at the same path of another machine shares only the path. A copy of a whole machine shares all
    three, and cannot be told from the original.
    """
    if archive.is_relative_to(directory) or files.kind(archive / OWNER) is None:
        return True
    with files.read(archive / OWNER) as file:
        was = file.read(_MAX_BYTES).split(b"\n", 2)
    now = _owner(directory, files)
    return sum(old == new for old, new in zip(was, now, strict=False)) >= _SURE


def _owner(directory: Path, files: Files) -> tuple[bytes, bytes, bytes]:
    mark = files.identity(directory / "log")
    assert mark is not None
    where = directory.absolute()
    itself = b"%x %d" % (files.file_system_id(where / "log"), mark.inode)
    return itself, os.fsencode(files.machine()), os.fsencode(where)


def register_archive(directory: Path, archive: Path, files: Files) -> None:
    """Make an archive directory if needed, and add it to the list of archives, all of it on disk.

    Raises:
        KharonError: it is listed but does not exist; or its name cannot be listed.
        OSError: it cannot be made.
    """
    named = _named(directory, files)
    if archive in named:
        if files.kind(archive) != "directory":
            raise KharonError(f"the archive {archive} is not there any more; mount it, or put it back")
        files.sync_directory(directory)  # here and below: after a failed sync, existing names may not be on disk
        return
    lines = [os.fsencode(recorded_path(directory, path)) + b"\n" for path in (*named, archive)]
    data = b"".join(lines)
    if data.count(b"\n") != len(lines) or len(data) > _MAX_BYTES:
        raise KharonError(f"the archive {archive} cannot be listed in {directory / ARCHIVE}: name a simpler directory")
    inside = archive.is_relative_to(directory)
    for folder in (archive.parent, archive) if inside else (archive,):
        if files.kind(folder) is None:
            files.make_directory(folder)
        files.sync_directory(folder.parent)
    if not inside:
        replace_file(files, archive / OWNER, [b"\n".join(_owner(directory, files))])
    replace_file(files, directory / ARCHIVE, [data])


def recorded_path(directory: Path, path: Path) -> str:
    """Return a path as records state it: relative to the queue's directory if it is inside."""
    return os.fspath(path.relative_to(directory) if path.is_relative_to(directory) else path)


def read_chunks(files: Files, path: Path, *, unpack: bool) -> Iterator[bytes]:
    """Yield a segment's bytes, decompressed if `unpack`, in pieces of `_CHUNK_BYTES`.

    Raises:
        CorruptLog: it cannot be decompressed.
        KharonError: it is compressed, and zstd is not installed.
        OSError: it cannot be read.
    """
    with open_segment(files.read, path) if unpack else files.read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def finish_moves(
    files: Files, directory: Path, known: Archives, moves: Sequence[Moved], whole: Collection[str]
) -> list[Path]:
    """Finish what a crash interrupted: of two copies of a segment, keep the one that the log's records name.

    A copy in an archive is left alone if the archive belongs to a queue of which this one is a copy.

    Args:
        files: the file system.
        directory: the queue's directory.
        known: its archives.
        moves: the records of moves, oldest first.
        whole: the stems of segments whose original was read and is whole.

    Returns:
        The path of each segment, oldest first.

    Raises:
        OSError: a file could not be read or removed.

    Cost: that of listing; of reading each segment that is there twice.
    """
    spoken = {(directory / move.file, directory / move.kept_as) for move in moves}
    places = []
    for _, (counts, *copies) in sorted(locate_segments(directory, files, known).items()):
        old = counts
        for copy in copies:
            same = _is_same(files, old, copy)
            if same and (old, copy) in spoken:
                _remove(files, old)
                old = copy
            elif owns_archive(directory, copy.parent, files):
                if same or stem_of(old) in whole:
                    _remove(files, copy)
                else:
                    say(logging.WARNING, "%s and %s should hold the same; one of them is damaged", old, copy)
        places.append(old)
    return places


def digest(source: Iterable[bytes]) -> str:
    """Return the SHA-256 of the bytes that `read_chunks` yields. O(bytes)."""
    sha = sha256()
    for chunk in source:
        sha.update(chunk)
    return sha.hexdigest()


def _is_same(files: Files, old: Path, copy: Path) -> bool:
    try:
        was, now = (digest(read_chunks(files, path, unpack=True)) for path in (old, copy))
    except CorruptLog:  # one of them can no longer be decompressed
        return False
    return was == now


def _remove(files: Files, path: Path) -> None:
    files.unlink(path)
    files.sync_directory(path.parent)  # before the next removal: a loss of power must not bring back only the later one
