"""Where segments are: in `log/`, or, once they are finished, in an archive; and how one is moved from place to place.

A segment is moved by writing it anew: the new file is complete and on disk before a record says so, and the old one is
removed once that record is. So a crash leaves either the old one with a copy that nobody speaks of, which is removed,
or both with a record, and then the old one is. Which segment is moved, and when, is in `retention`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from kharon.errors import CorruptLog, KharonError
from kharon.log.files import OS_FILES, Files
from kharon.log.packed import open_segment
from kharon.log.segment import is_segment, stem_of
from kharon.model.events import SegmentArchived, SegmentCompressed

__all__ = [
    "ARCHIVE",
    "Moved",
    "archives",
    "chunks",
    "digest",
    "finish_moves",
    "name_archive",
    "open_moving",
    "path_in",
    "places_of",
    "segments",
    "unreachable",
    "write_new",
]

Moved: TypeAlias = SegmentCompressed | SegmentArchived
ARCHIVE: Final = "ARCHIVE"
"""The file that names the archive directories, one a line: read before the log, whose beginning may lie there."""
_MAX_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 18
_TEMPORARY: Final = ".tmp"
_logger = logging.getLogger("kharon")


def segments(directory: Path, files: Files = OS_FILES) -> list[Path]:
    """Return the segments of a queue's directory, oldest first, wherever they are now.

    Of a segment that is in two places, because it is being moved or a crash came between, the older is given: the one
    in `log/` before one in an archive, the plain one before the compressed one.

    Raises:
        OSError: they cannot be listed.
    """
    return [paths[0] for _, paths in sorted(places_of(directory, files).items())]


def places_of(directory: Path, files: Files) -> dict[str, list[Path]]:
    """Return where each segment is, by its stem: at one place, or at several, the one that counts first."""
    found: dict[str, list[Path]] = {}
    for folder in (directory / "log", *archives(directory, files)):  # in this order: what moves, moves to a later one
        for name in files.list(folder):
            if is_segment(name):
                found.setdefault(stem_of(Path(name)), []).append(folder / name)
    return found


def open_moving(files: Files, directory: Path, path: Path) -> BinaryIO:
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


def archives(directory: Path, files: Files) -> list[Path]:
    """Return the archive directories of a queue that can be reached."""
    return [path for path in _named(directory, files) if files.kind(path) == "directory"]


def unreachable(directory: Path, files: Files) -> list[Path]:
    """Return the archive directories of a queue that cannot be reached: not mounted, or removed."""
    return [path for path in _named(directory, files) if files.kind(path) != "directory"]


def name_archive(directory: Path, archive: Path, files: Files) -> None:
    """Make an archive directory if need be, and note it where readers look, all of it on disk.

    Raises:
        KharonError: it is noted, and not there; or cannot be noted.
        OSError: it cannot be made.
    """
    named = _named(directory, files)
    if archive in named:
        if files.kind(archive) != "directory":
            raise KharonError(f"the archive {archive} is not there any more; mount it, or put it back")
        return
    for folder in (archive.parent, archive):
        if files.kind(folder) is None:
            files.make_directory(folder)
            files.sync_directory(folder.parent)
    lines = [os.fsencode(path_in(directory, path)) + b"\n" for path in (*named, archive)]
    data = b"".join(lines)
    if data.count(b"\n") != len(lines) or len(data) > _MAX_BYTES:
        raise KharonError(f"the archive {archive} cannot be noted in {directory / ARCHIVE}: name a simpler directory")
    write_new(files, directory / ARCHIVE, iter([data]))


def path_in(directory: Path, path: Path) -> str:
    """Return a path as records say it: relative to the queue's directory if it lies in there."""
    return os.fspath(path.relative_to(directory) if path.is_relative_to(directory) else path)


def chunks(files: Files, path: Path, *, unpack: bool) -> Iterator[bytes]:
    """Give the bytes of a segment, or, if not to `unpack`, of its file."""
    with open_segment(files.read, path) if unpack else files.read(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def write_new(files: Files, path: Path, source: Iterator[bytes]) -> None:
    """Write a file that has its name only once its bytes are on disk; its name is, too, when this returns.

    Raises:
        OSError: it could not be written. A file that had the name before has it still.
    """
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


def finish_moves(files: Files, directory: Path, moves: Sequence[Moved], whole: Collection[str]) -> None:
    """End what a crash left half done: of a segment that is in two places, keep the one that the log speaks of.

    A copy in an archive elsewhere of which the log does not speak is left alone: it may be another's, of a queue that
    this one is a copy of, and it is taken over when this segment is archived.

    Args:
        files: the file system.
        directory: the queue's.
        moves: what the log says of moves, oldest first.
        whole: the stems of the segments that have been read and are whole where they count.

    Raises:
        OSError: a file could not be read or removed.

    Cost: that of listing; of reading each segment that is there twice.
    """
    spoken = {(directory / move.file, directory / move.kept_as) for move in moves}
    for old, *copies in places_of(directory, files).values():
        for copy in copies:
            same = _is_same(files, old, copy)
            if same and (old, copy) in spoken:
                _remove(files, old)
                old = copy  # noqa: PLW2901 - from now on that is where it is
            elif copy.is_relative_to(directory):
                if same or stem_of(old) in whole:
                    _remove(files, copy)
                else:
                    _logger.warning("%s and %s should hold the same; one of them is damaged", old, copy)


def digest(files: Files, path: Path) -> str:
    """Return the SHA-256 of a segment's bytes, unpacked. O(bytes)."""
    sha = sha256()
    for chunk in chunks(files, path, unpack=True):
        sha.update(chunk)
    return sha.hexdigest()


def _is_same(files: Files, old: Path, copy: Path) -> bool:
    try:
        return digest(files, old) == digest(files, copy)
    except CorruptLog:  # one does not unpack any more
        return False


def _remove(files: Files, path: Path) -> None:
    files.unlink(path)
    files.sync_directory(path.parent)  # before the next: else a later loss of power could bring back one, not another
