"""The interface to the disk: all file operations of the directory log, its snapshots and archives go through a `Files`.

`OsFiles` is the operating system's. A simulated disk with the same methods can lose, tear and reorder unsynced bytes,
and fail on demand, so that tests cover more crashes than any machine would have. Paths are `Path`s, errors are
`OSError`s. Nothing here knows what a file holds.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple, Protocol

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: `can_lock` returns False, and opening is refused with the reason
    fcntl = None  # type: ignore[assignment]

from kharon.log.forks import close_in_children
from kharon.log.syncer import UNSUPPORTED, bring_to_disk

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in the standard library from Python 3.12 on

__all__ = ["OS_FILES", "File", "Files", "Identity", "Kind", "Lock", "OsFiles", "Permissions", "naming"]

Kind = Literal["file", "directory", "other"]
_LINUX: Final = sys.platform == "linux"


class Permissions(NamedTuple):
    """Who may use the file at a path.

    Attributes:
        link: whether it is a symbolic link.
        owner: the id of the user who owns it.
        mode: the permission bits.
    """

    link: bool
    owner: int
    mode: int


class Identity(NamedTuple):
    """Identifies a file, and detects writes by others.

    Attributes:
        device, inode: the file's identity.
        size: in bytes.
    """

    device: int
    inode: int
    size: int


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's path to an `OSError` that lacks it, as those of an open file do. O(1); measured 0.9 µs."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


class File(Protocol):
    """A file open for appending. Its errors may lack its name, which can change: the caller adds it (`naming`)."""

    def write(self, data: bytes) -> None:
        """Append all of the bytes, or raise: after an error any part of them may have been appended."""

    def sync(self) -> None:
        """Bring the file's bytes and size onto the disk. After an error their state is unknown."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def size(self) -> int:
        """Return the size in bytes."""

    def identity(self) -> Identity:
        """Return the file's identity and size, independent of its present name."""

    def allocate(self, size: int) -> None:
        """Make the file `size` bytes long, with disk blocks for each byte. After an error it may have any length."""

    def twin(self) -> int | None:
        """Return a descriptor of the file that another process can sync; None: there is none. `close` closes it.

        On Linux it belongs to a separate open file description, opened at the first call. The kernel reports a failed
        write-back once to each description that was open then (errseq_t; fsync(2)). So a sync of this file still
        reports it after a sync of the twin has.
        """

    def close(self) -> None:
        """Close the file. May be called twice; never raises."""


class Lock(Protocol):
    """A lock that is held until it is released, or the process ends."""

    def release(self) -> None:
        """Release it; a forked child only lets go of its copy. May be called twice; never raises."""


class Files(Protocol):
    """A file system. Its errors name the file or directory."""

    def kind(self, path: Path) -> Kind | None:
        """Return what is at `path`, following links; None if there is nothing."""

    def permissions(self, path: Path, *, follow: bool = False) -> Permissions | None:
        """Return the owner and permissions of the file at `path`, of a link itself unless `follow`; None: no file."""

    def identity(self, path: Path) -> Identity | None:
        """Return the identity of the file at `path`, of a link itself if its last part is one; None: no file."""

    def writable(self, path: Path) -> bool:
        """Return whether this process may create files in the directory `path`."""

    def user(self) -> int:
        """Return the id of the effective user of this process; 0 is root."""

    def process(self) -> int:
        """Return the id of this process; a forked child has another."""

    def machine(self) -> str:
        """Return the name of this machine."""

    def can_lock(self) -> bool:
        """Return whether there are locks that end with the process: flock(2)."""

    def file_system_id(self, path: Path) -> int:
        """Return the id of the file system of `path`: the same wherever it is mounted, if it has one."""

    def file_system(self, path: Path) -> str | None:
        """Return the type of the file system of `path` ("ext4", "nfs4" …); None if it is unknown."""

    def list(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""

    def make_directory(self, path: Path) -> None:
        """Make a directory with mode 0700. Its name is on disk once its parent is synced.

        One that root makes belongs to the owner of the directory it is in, as does a file.
        """

    def sync_directory(self, path: Path, fd: int | None = None) -> None:
        """Bring a directory's names onto the disk; `fd` is its descriptor, from `directory_twin`, or it is opened."""

    def directory_twin(self, path: Path) -> int | None:
        """Return a descriptor by which a directory can be synced, also by another process; None: there is none.

        The caller closes it.
        """

    def create(self, path: Path) -> File:
        """Create a file with mode 0600, and open it. Its name is on disk once its directory is synced."""

    def append(self, path: Path) -> File:
        """Open an existing file for appending."""

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        """Write bytes in the middle of an existing file. They are on disk once the file is synced."""

    def read(self, path: Path) -> BinaryIO:
        """Open a file for reading."""

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file atomically, replacing any file named `new`. On disk once the directory is synced."""

    def unlink(self, path: Path) -> None:
        """Remove a file if it exists."""

    def lock(self, path: Path, holder: bytes) -> Lock:
        """Lock the file `path` and write `holder` into it. The file is created if needed, and never removed.

        The lock is exclusive and taken without waiting: flock(2), so it also excludes other openers in this process.

        Raises:
            BlockingIOError: it is locked; the text is what the present holder wrote.
        """


class _OsFile:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._twin: int | None = None
        close_in_children(self)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.write(self._fd, view)
            if not count:  # else this loop might never end
                raise OSError(errno.EIO, "a write wrote nothing and gave no reason")
            view = view[count:]

    def sync(self) -> None:
        bring_to_disk(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def identity(self) -> Identity:
        return _identity(os.fstat(self._fd))

    def allocate(self, size: int) -> None:
        allocate = getattr(os, "posix_fallocate", None)  # not on macOS
        if allocate is not None:
            try:
                allocate(self._fd, 0, size)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            else:
                return
        self.write(bytes(max(0, size - self.size())))

    def twin(self) -> int | None:
        if self._twin is None:
            with contextlib.suppress(OSError):  # no /proc, or no free descriptor: then there is no twin
                # Opened by its number, since its name changes; for reading only, since a sync needs no more.
                self._twin = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY) if _LINUX else os.dup(self._fd)
        return self._twin

    def close(self) -> None:
        fds, self._fd, self._twin = (self._fd, self._twin), -1, None
        for fd in fds:
            if fd is not None and fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)


class _Reading(io.FileIO):
    """A file open for reading, below its buffer. Its errors name it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def readinto(self, buffer: Buffer, /) -> int:
        with naming(self._path):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with naming(self._path):
            return super().readall()


class _OsLock:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._process = os.getpid()
        close_in_children(self)

    def release(self) -> None:
        if self._fd >= 0 and os.getpid() == self._process:  # also for a child that still has a copy of the descriptor
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """Close this process's descriptor: the lock lasts for as long as another process has one."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _identity(stat: os.stat_result) -> Identity:
    return Identity(stat.st_dev, stat.st_ino, stat.st_size)


def _give_to_owner(made: int | Path, folder: Path) -> None:
    """Give a new file or directory that root made to the owner of the directory it is in, who is to open it later.

    That owner could have exchanged it anyway.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # root in a container may have no right to: it stays root's
            owner = folder.stat()
            if owner.st_uid != 0:
                os.chown(made, owner.st_uid, owner.st_gid)


_ESCAPES: Final = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


def file_system_of(path: str, mounts: str) -> str | None:
    """Return the type of a path's file system from the text of /proc/self/mounts; `path` has no links. proc(5)."""
    found, longest = None, -1
    for line in mounts.splitlines():
        _device, point, kind, *_ = line.split(" ")
        for escape, character in _ESCAPES.items():
            point = point.replace(escape, character)
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # of two mounts at one point, the later hides the earlier
            found, longest = kind, len(point)
    return found


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

    def permissions(self, path: Path, *, follow: bool = False) -> Permissions | None:
        try:
            found = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - like the lstat in `identity`
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Permissions(stat.S_ISLNK(found.st_mode), found.st_uid, stat.S_IMODE(found.st_mode))

    def identity(self, path: Path) -> Identity | None:
        try:
            return _identity(os.lstat(path))  # not Path.lstat, which takes twice as long, and this precedes each write
        except (FileNotFoundError, NotADirectoryError):
            return None

    def writable(self, path: Path) -> bool:
        return os.access(path, os.W_OK | os.X_OK)

    def user(self) -> int:
        return os.geteuid()

    def process(self) -> int:
        return os.getpid()

    def machine(self) -> str:
        return socket.gethostname()

    def can_lock(self) -> bool:
        return hasattr(fcntl, "flock")

    def file_system_id(self, path: Path) -> int:
        return os.statvfs(path).f_fsid

    def file_system(self, path: Path) -> str | None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
        return file_system_of(os.path.realpath(path), mounts)

    def list(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))  # noqa: PTH208 - iterdir and glob ignore other errors

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        _give_to_owner(path, path.parent)

    def sync_directory(self, path: Path, fd: int | None = None) -> None:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY) if fd is None else fd
        try:
            with naming(path):
                bring_to_disk(opened, directory=True)
        finally:
            if fd is None:
                os.close(opened)

    def directory_twin(self, path: Path) -> int | None:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def create(self, path: Path) -> File:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        _give_to_owner(fd, path.parent)
        return _OsFile(fd)

    def append(self, path: Path) -> File:
        return _OsFile(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW))

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)  # not in append mode, where every write goes to the end
        with naming(path), os.fdopen(fd, "wb", buffering=0) as file:
            file.seek(start)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def read(self, path: Path) -> BinaryIO:
        return io.BufferedReader(_Reading(path))

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def lock(self, path: Path, holder: bytes) -> Lock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        _give_to_owner(fd, path.parent)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, holder, 0)  # before truncating, so that on a full disk the file keeps its block
            os.ftruncate(fd, len(holder))
        except BlockingIOError:
            present = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise BlockingIOError(present or "unknown") from None
        except OSError as error:
            os.close(fd)
            error.filename = str(path)
            raise
        return _OsLock(fd)


OS_FILES: Final = OsFiles()
