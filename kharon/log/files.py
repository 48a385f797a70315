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
import sys
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

from kharon.log.syncer import bring_to_disk

__all__ = ["OS_FILES", "File", "Files", "Kind", "OsFiles"]

Kind = Literal["file", "directory", "other"]
_LINUX: Final = sys.platform == "linux"


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

    def twin(self) -> int | None:
        """Return a descriptor of the file for somebody else to sync; it is closed with the file. None: there is none.

        On Linux it is of an open file description of its own, opened at the first call. There the kernel reports a
        failed write-back once to each description that was open then: a sync of this file still hears of it after a
        sync of the twin was told.
        """

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
        self._twin: int | None = None

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        bring_to_disk(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def twin(self) -> int | None:
        if self._twin is None:
            with contextlib.suppress(OSError):  # no /proc, or no descriptor to spare: then there is no twin
                # By its number, since its name changes. To read only: whoever syncs it has nothing to write.
                self._twin = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY) if _LINUX else os.dup(self._fd)
        return self._twin

    def close(self) -> None:
        fds, self._fd, self._twin = (self._fd, self._twin), -1, None
        for fd in fds:
            if fd is not None and fd >= 0:
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
