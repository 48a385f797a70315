"""Creating and replacing files: no file has its name before its bytes are on disk.

    write under a temporary name, sync the file, rename it, sync the directory

Each sync is a step that is yielded, so that a log whose disk is slow can have it done in another process
(`log.protocol.Sync`); `replace_file` does every step here. A crash leaves a file with a temporary name, which
`remove_unfinished` removes.
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
    """A step: the sync of a file."""

    is_directory = False

    def __init__(self, path: Path, file: File) -> None:
        self.path = path
        self._file = file

    def sync(self) -> None:
        self._file.sync()

    def twin(self) -> int | None:
        return self._file.twin()


class DirectorySync:
    """A step: the sync of a directory. It is opened now, so that no lack of descriptors can make the sync fail.

    Raises:
        OSError: the directory cannot be opened.
    """

    is_directory = True

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files
        self._fd = files.directory_twin(path)

    def sync(self) -> None:
        self._files.sync_directory(self.path, self._fd)

    def twin(self) -> int | None:
        return self._fd

    def close(self) -> None:
        """Close the directory. May be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_Sync: TypeAlias = FileSync | DirectorySync
SyncSteps: TypeAlias = Generator[_Sync, None, None]
"""Work that needs syncs: it yields each of them, and receives a failed one by `throw`."""


def run_here(steps: Generator[_Sync, None, _Made]) -> _Made:
    """Run the steps, doing every sync here; return their result, or raise the error that they make of a failed sync."""
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
    """Write a new file that replaces `path`; return it, open, once its name is on disk.

    Args:
        files: the file system.
        path: the file.
        pieces: its bytes.
        replace: whether a file at `path` is replaced; if not, one that exists is an error, and stays.
        check: called with the temporary path once the bytes are on disk; raises to reject the file.
        failed: called when a sync failed, before its error is raised.

    Raises:
        OSError: the file could not be written. A previous file at `path` is unchanged, unless the last sync failed.
    """
    temporary = temporary_path(path)
    with contextlib.closing(DirectorySync(path.parent, files)) as names:
        files.unlink(temporary)
        file = files.create(temporary)
        try:
            with naming(temporary):
                for piece in pieces:
                    file.write(piece)
            yield from _synced(FileSync(temporary, file), failed)
            if check is not None:
                check(temporary)
            if not replace and files.kind(path) is not None:  # the lock excludes other writers, so this cannot race
                raise FileExistsError(errno.EEXIST, "exists already, though the directory did not show it", str(path))
            files.rename(temporary, path)
            yield from _synced(names, failed)
        except GeneratorExit:  # dropped midway, perhaps by a forked child: the name may by now be another file's
            file.close()
            raise
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                files.unlink(temporary)
            raise
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
    """Do what `replace_file_steps` does, with every sync here. Same arguments and errors."""
    run_here(replace_file_steps(files, path, pieces, check=check)).close()


def copy_chunks(source: BinaryIO, length: int, path: Path) -> Iterator[bytes]:
    """Yield the next `length` bytes of a file, in pieces.

    Raises:
        CorruptLog: the file has become shorter.
    """
    while length > 0:
        chunk = source.read(min(length, _CHUNK_BYTES))
        if not chunk:
            raise CorruptLog(str(path), 0, 0, "it became shorter while it was copied; another program writes to it")
        yield chunk
        length -= len(chunk)


def temporary_path(path: Path) -> Path:
    """Return the temporary path of a file that is being written and will be `path`."""
    return path.with_name(path.name + _TEMPORARY)


def remove_unfinished(files: Files, folder: Path) -> None:
    """Remove from a directory, if it exists, the files whose writer died before renaming them.

    Raises:
        OSError: a file cannot be removed.
    """
    if files.kind(folder) == "directory":
        for name in files.list(folder):
            if name.endswith(_TEMPORARY) and not name.startswith("."):  # none of Kharon's begins with a dot
                files.unlink(folder / name)
