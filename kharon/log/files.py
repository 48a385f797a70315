"""The seam to the disk: every file operation of the directory log goes through a `Files`.

`OsFiles` is the operating system's. A simulated disk with the same methods can lose, tear and reorder what was not
synced, and fail on demand, so that recovery is tested against more crashes than any machine would ever have. Paths are
`Path`s, errors are `OSError`s. Nothing here knows what is in a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

__all__ = ["OS_FILES", "File", "Files", "Kind", "Lock", "OsFiles"]

Kind = Literal["file", "directory", "other"]


class File(Protocol):
    """A file that is open for appending."""

    def write(self, data: bytes) -> None:
        """Append all of the bytes, or raise: then any part of them may have been appended."""

    def sync(self) -> None:
        """Bring the file's bytes and size onto the disk. After an error nothing is known of them."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def size(self) -> int:
        """Return the size in bytes."""

    def close(self) -> None:
        """Close it. May be called twice; never raises."""


class Lock(Protocol):
    """A lock that is held until it is released, or the process ends."""

    def release(self) -> None:
        """Release it. May be called twice; never raises."""


class Files(Protocol):
    """A file system."""

    def kind(self, path: Path) -> Kind | None:
        """Return what is at `path`, following links; None if there is nothing."""

    def list(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""

    def make_directory(self, path: Path) -> None:
        """Make a directory, with mode 0700. Its name is on disk once its parent is synced."""

    def sync_directory(self, path: Path) -> None:
        """Bring a directory's names onto the disk."""

    def create(self, path: Path) -> File:
        """Make a new file, with mode 0600, and open it. Its name is on disk once its directory is synced."""

    def append(self, path: Path) -> File:
        """Open an existing file."""

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        """Write bytes in the middle of an existing file. They are on disk once the file is synced."""

    def read(self, path: Path) -> BinaryIO:
        """Open a file for reading."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in place of what had that name: at once, and on disk once the directory is."""

    def unlink(self, path: Path) -> None:
        """Remove a file. That there is none is no error."""

    def lock(self, path: Path, holder: bytes) -> Lock:
        """Lock the file `path`, made if need be and never removed, and write `holder` into it.

        Raises:
            BlockingIOError: it is locked; its text is what the present holder wrote.
        """


class _OsFile:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self._fd)  # macOS has no fdatasync

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


class _OsLock:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


class OsFiles:
    """The operating system's files."""

    def kind(self, path: Path) -> Kind | None:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(mode):
            return "directory"
        return "file" if stat.S_ISREG(mode) else "other"

    def list(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))  # noqa: PTH208 - iterdir and glob differ in which errors they pass over

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def create(self, path: Path) -> File:
        return _OsFile(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600))

    def append(self, path: Path) -> File:
        return _OsFile(os.open(path, os.O_WRONLY | os.O_APPEND))

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        with path.open("r+b", buffering=0) as file:  # not in append mode: a write there goes to the end, wherever
            file.seek(start)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def read(self, path: Path) -> BinaryIO:
        return path.open("rb")

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def lock(self, path: Path, holder: bytes) -> Lock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, holder, 0)
        except BlockingIOError:
            present = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise BlockingIOError(present or "unknown") from None
        except OSError:
            os.close(fd)
            raise
        return _OsLock(fd)


OS_FILES: Final = OsFiles()
