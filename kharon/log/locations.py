"""Where segments are: in `log/`, or, once they are finished, in an archive; and how one is moved from place to place.

A segment is moved by writing it anew: the new file is complete and on disk before a record says so, and the old one is
removed once that record is. So a crash leaves either the old one with a copy that nobody speaks of, which is removed,
or both with a record, and then the old one is. Which segment is moved, and when, is in `retention`.
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
"""The file that names the archive directories, one a line: read before the log, whose beginning may lie there."""
OWNER: Final = "OWNER"
"""The file in an archive directory that says whose it is, in three lines: the id of the file system and the inode of a
queue's `log/`; the name of the machine; the path of the queue.
"""
_MAX_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 18
_SURE: Final = 2  # of the three lines of `OWNER` so many must be right
_logger = logging.getLogger("kharon")


def segments(directory: Path, files: Files = OS_FILES) -> list[Path]:
    """Return the segments of a queue's directory, oldest first, wherever they are now.

    Of a segment that is in two places, because it is being moved or a crash came between, the older is given: the one
    in `log/` before one in an archive, the plain one before the compressed one.

    Raises:
        CorruptLog: a file is among them whose name is not that of a segment, so nobody can say where it belongs.
        OSError: they cannot be listed.

    Cost: that of listing `log/` and each archive directory.
    """
    return [paths[0] for _, paths in sorted(locate_segments(directory, files).items())]


def locate_segments(directory: Path, files: Files, known: Archives | None = None) -> dict[str, list[Path]]:
    """Return where each segment is, by its stem: at one place, or at several, the one that counts first.

    Args:
        directory: the queue's.
        files: the file system.
        known: its archives, for whoever has the lock; None: they are looked up.

    The oldest are archived first, and into the archive that is named last. So what is in an archive and not older than
    what is in the next one, or in `log/`, is not this queue's: another one, a copy of it, shares the archive.

    Raises:
        CorruptLog: a file is among them whose name is not that of a segment.
        OSError: they cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    # In this order, of the list of archives too: what moves, moves to a later one of these.
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
    """Open a segment for reading that another process may be moving: where it is now.

    Raises:
        FileNotFoundError: it is nowhere any more.
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
    """The archive directories of a queue, in the order of their use: those that are there, and those that are not."""

    reachable: list[Path]
    unreachable: list[Path]


def find_archives(directory: Path, files: Files) -> Archives:
    """Return the archive directories of a queue. An `OSError` is raised if it cannot be known which they are."""
    found = Archives([], [])
    for path in _named(directory, files):
        (found.reachable if files.kind(path) == "directory" else found.unreachable).append(path)
    return found


def choose_archive(directory: Path, root: Path, log: str, files: Files) -> Path:
    """Return the directory to archive segments in: the one that was used last, or, if need be, another in `root`.

    Another one if `root` is another than before; or if this queue is a copy, and the directory the original's.
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
    """Return whether an archive directory is this queue's, or nobody's: not that of a queue of which this is a copy.

    Told by the directory itself (its file system and inode), the machine and the path: it is this queue's if two of the
    three are still the same, since it may have been moved, or restored, or the machine renamed. A copy on the same
    machine shares that alone, and one at the same path of another machine the path. The copy of a whole machine shares
    all of them: it cannot be told from the original.
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
    """Make an archive directory if need be, and note it where readers look, all of it on disk.

    Raises:
        KharonError: it is noted, and not there; or cannot be noted.
        OSError: it cannot be made.
    """
    named = _named(directory, files)
    if archive in named:
        if files.kind(archive) != "directory":
            raise KharonError(f"the archive {archive} is not there any more; mount it, or put it back")
        files.sync_directory(directory)  # here and below: what is there may not be on disk, if an earlier sync failed
        return
    lines = [os.fsencode(recorded_path(directory, path)) + b"\n" for path in (*named, archive)]
    data = b"".join(lines)
    if data.count(b"\n") != len(lines) or len(data) > _MAX_BYTES:
        raise KharonError(f"the archive {archive} cannot be noted in {directory / ARCHIVE}: name a simpler directory")
    inside = archive.is_relative_to(directory)
    for folder in (archive.parent, archive) if inside else (archive,):
        if files.kind(folder) is None:
            files.make_directory(folder)
        files.sync_directory(folder.parent)
    if not inside:
        replace_file(files, archive / OWNER, [b"\n".join(_owner(directory, files))])
    replace_file(files, directory / ARCHIVE, [data])


def recorded_path(directory: Path, path: Path) -> str:
    """Return a path as records say it: relative to the queue's directory if it lies in there."""
    return os.fspath(path.relative_to(directory) if path.is_relative_to(directory) else path)


def read_chunks(files: Files, path: Path, *, unpack: bool) -> Iterator[bytes]:
    """Give the bytes of a segment, or, if not to `unpack`, of its file, in pieces of `_CHUNK_BYTES`.

    Raises:
        CorruptLog: it does not unpack.
        KharonError: it is compressed, and zstd is not installed.
        OSError: it cannot be read.
    """
    with open_segment(files.read, path) if unpack else files.read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def finish_moves(
    files: Files, directory: Path, known: Archives, moves: Sequence[Moved], whole: Collection[str]
) -> list[Path]:
    """End what a crash left half done: of a segment that is in two places, keep the one that the log speaks of.

    A copy in the archive of a queue that this one is a copy of is left alone.

    Args:
        files: the file system.
        directory: the queue's.
        known: its archives.
        moves: what the log says of moves, oldest first.
        whole: the stems of the segments that have been read and are whole where they count.

    Returns:
        Where each segment is now, oldest first.

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
                    _logger.warning("%s and %s should hold the same; one of them is damaged", old, copy)
        places.append(old)
    return places


def digest(source: Iterable[bytes]) -> str:
    """Return the SHA-256 of what `chunks` gives. O(bytes)."""
    sha = sha256()
    for chunk in source:
        sha.update(chunk)
    return sha.hexdigest()


def _is_same(files: Files, old: Path, copy: Path) -> bool:
    try:
        was, now = (digest(read_chunks(files, path, unpack=True)) for path in (old, copy))
    except CorruptLog:  # one does not unpack any more
        return False
    return was == now


def _remove(files: Files, path: Path) -> None:
    files.unlink(path)
    files.sync_directory(path.parent)  # before the next: else a later loss of power could bring back one, not another
