"""New files, and files in place of old ones: no file has its name before its bytes are on disk.

    a temporary name, the bytes, a sync, the name, a sync of the directory          (design, section 6)

A sync is a step that is yielded, so that a log whose disk is slow may have it done elsewhere (`log.protocol.Sync`);
`replace_file` does each of them here. What a crash leaves has the temporary name, and `remove_unfinished` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias, TypeVar

from kharon.errors import CorruptLog
from kharon.log.files import File, Files, naming

__all__ = [
    "DirectorySync",
    "FileSync",
    "SyncSteps",
    "copy_chunks",
    "remove_unfinished",
    "replace_file",
    "replace_file_steps",
    "run_here",
    "temporary_path",
]

_TEMPORARY: Final = ".tmp"
_CHUNK_BYTES: Final = 1 << 20
_Made = TypeVar("_Made")


class FileSync:
    """The sync of a file, as a step."""

    is_directory = False

    def __init__(self, path: Path, file: File) -> None:
        self.path = path
        self._file = file

    def sync(self) -> None:
        self._file.sync()

    def twin(self) -> int | None:
        return self._file.twin()


class DirectorySync:
    """The sync of a directory, as a step."""

    is_directory = True

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files
        self._fd: int | None = None

    def sync(self) -> None:
        self._files.sync_directory(self.path)

    def twin(self) -> int | None:
        if self._fd is None:
            with contextlib.suppress(OSError):  # no descriptor to spare, perhaps: then it is done here
                self._fd = self._files.directory_twin(self.path)
        return self._fd

    def close(self) -> None:
        """Close the descriptor that `twin` gave. May be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_Sync: TypeAlias = FileSync | DirectorySync
SyncSteps: TypeAlias = Generator[_Sync, None, None]
"""Work that needs syncs: it gives each of them, and is told of a failure by `throw`."""


def run_here(steps: Generator[_Sync, None, _Made]) -> _Made:
    """Do every sync here; return what comes of the steps, or raise what they make of a failure."""
    failure: BaseException | None = None
    while True:
        try:
            step = next(steps) if failure is None else steps.throw(failure)
        except StopIteration as end:
            made: _Made = end.value
            return made
        failure = None
        try:
            step.sync()
        except BaseException as error:  # noqa: BLE001 - raised again, in the steps
            failure = error


def replace_file_steps(
    files: Files,
    path: Path,
    pieces: Iterable[bytes],
    *,
    replace: bool = True,
    check: Callable[[Path], None] | None = None,
    failed: Callable[[], None] = lambda: None,
) -> Generator[_Sync, None, File]:
    """Make `path` hold these bytes, by a new inode; return it open. Its name is on disk when that is returned.

    Args:
        files: the file system.
        path: the file.
        pieces: its bytes.
        replace: whether another file may have the name; if not, that is an error, and it stays.
        check: called with the temporary name, once the bytes are on disk; it raises what the file must not be.
        failed: called when a sync failed, before that is raised.

    Raises:
        OSError: it could not be written. A file that had the name before has it still, unless the last sync failed.
    """
    temporary = temporary_path(path)
    files.unlink(temporary)
    file = files.create(temporary)
    names = DirectorySync(path.parent, files)
    try:
        with naming(temporary):
            for piece in pieces:
                file.write(piece)
        yield from _synced(FileSync(temporary, file), failed)
        if check is not None:
            check(temporary)
        if not replace and files.kind(path) is not None:  # nobody else makes one: who writes a log holds its lock
            raise FileExistsError(errno.EEXIST, "exists already, though the directory did not show it", str(path))
        files.rename(temporary, path)
        yield from _synced(names, failed)
    except GeneratorExit:  # forgotten on the way, perhaps by a forked child: by now the name may be another's
        file.close()
        raise
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    finally:
        names.close()
    return file


def _synced(step: _Sync, failed: Callable[[], None]) -> SyncSteps:
    try:
        with naming(step.path):
            yield step
    except OSError:
        failed()
        raise


def replace_file(
    files: Files, path: Path, pieces: Iterable[bytes], *, check: Callable[[Path], None] | None = None
) -> None:
    """Do what `replace_file_steps` does, here and now. Arguments and errors are its own."""
    run_here(replace_file_steps(files, path, pieces, check=check)).close()


def copy_chunks(source: BinaryIO, length: int, path: Path) -> Iterator[bytes]:
    """Give the next `length` bytes of a file, in pieces.

    Raises:
        CorruptLog: it has become shorter than that.
    """
    while length > 0:
        chunk = source.read(min(length, _CHUNK_BYTES))
        if not chunk:
            raise CorruptLog(str(path), 0, 0, "it became shorter while it was copied; another program writes to it")
        yield chunk
        length -= len(chunk)


def temporary_path(path: Path) -> Path:
    """Return the name of a file that is being written, and is to be `path`."""
    return path.with_name(path.name + _TEMPORARY)


def remove_unfinished(files: Files, folder: Path) -> None:
    """Remove from a directory, if it is there, what was being written when a process died.

    Raises:
        OSError: it cannot be.
    """
    if files.kind(folder) == "directory":
        for name in files.list(folder):
            if name.endswith(_TEMPORARY):
                files.unlink(folder / name)
