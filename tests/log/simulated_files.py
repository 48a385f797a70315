"""A disk in memory that keeps what a disk may keep, for the log's seam `kharon.log.files.Files`.

What programs see is the cache; what survives a loss of power is chosen from what the disk may hold:

- Of a file's bytes since its last sync each sector holds, independently of all others, what was synced or anything
  that was written to it since. So writes are lost and torn, and come to the disk in any order: the sectors of one
  write, those of several writes to one file, and those of several files. A sector is written whole or not at all, and
  has 512 bytes or 4096, as disks do. A file's size is any that it had since its last sync, or that a torn write would
  have given it. A sector that was never written within the size is zeros.
- Of a directory's names each creation, renaming and removal since its last sync happened or did not, independently.
- A sync that fails leaves the bytes to be written by the next one ("keeps"), or marks them as written although they
  are not ("drops"): then the cache shows them, no later sync writes them, and only writing to a sector again does. That
  is what Linux does, and like Linux each open file description hears once of each such failure, whoever asked for the
  sync that met it. A directory's sync that fails keeps the names to be written: a journal stops at its first error.

Every operation is counted, those that only read too. `Plan` says at which one the power fails, or which one fails with
which error, once or from there on. As with the operating system, an error names its file if the operation was given a
path, and does not if it was given an open file. There are one user, who owns all, one process and one device; modes and
links are not simulated.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kharon.log.files import File, Identity, Kind, Lock, Permissions

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in the standard library from Python 3.12 on

__all__ = ["CHANGING", "SECTOR", "Plan", "PowerLoss", "SimulatedFiles", "check_named", "disks_of"]

SECTOR = 512
CHANGING = frozenset(
    {"write", "allocate", "truncate", "sync", "sync_twin", "sync_names", "overwrite"}
    | {"make_directory", "sync_directory", "create", "rename", "unlink", "lock"}
)
"""The operations in front of which another disk may be left than in front of the one before."""
DEVICE, USER, PROCESS = 7, 1000, 4711
_INODES = itertools.count(1)


def check_named(error: OSError, *errnos: int) -> None:
    """An error of the disk says which file it is about; and it is one of these, if any are given."""
    assert error.filename, f"{error!r} says nothing of where it was"
    assert not errnos or error.errno in errnos


class PowerLoss(BaseException):
    """The machine is off. Not an `Exception`, so that nobody handles it."""


class Plan:
    """What goes wrong, and when. Operations are counted from 0.

    Args:
        stop: the power fails in front of this operation.
        fail: this operation fails.
        error: with this errno.
        for_good: and so does every later one of the same kind.
        short: a write that fails appends this share of its bytes first.
        shorter: the read that should fail gives one byte less than this share of what was asked for instead, but not
            nothing, which would be the end of the file.
        drops: a sync that fails marks as written what it did not write.
        late: a renaming that fails has happened nevertheless.
        room: how many bytes can be written before there is no room; None: no end.
    """

    def __init__(
        self,
        *,
        stop: int | None = None,
        fail: int | None = None,
        error: int = errno.EIO,
        for_good: bool = False,
        short: float = 0.0,
        shorter: float | None = None,
        drops: bool = True,
        late: bool = False,
        room: int | None = None,
    ) -> None:
        self.stop = stop
        self.fail = fail
        self.error = error
        self.for_good = for_good
        self.short = short
        self.shorter = shorter
        self.drops = drops
        self.late = late
        self.room = room
        self.count = 0
        self.done: list[str] = []
        self.failed = ""

    def step(self, name: str) -> bool:
        """Count an operation; return whether it fails."""
        number, self.count = self.count, self.count + 1
        if self.stop is not None and number >= self.stop:
            raise PowerLoss
        self.done.append(name)
        if self.fail == number:
            self.failed = name
            return True
        return bool(self.for_good and self.failed == name)

    def check(self, name: str, path: Path | None = None) -> None:
        """Count an operation, and raise if it fails."""
        if self.step(name):
            raise self.as_error(path)

    def as_error(self, path: Path | None = None) -> OSError:
        return OSError(self.error, os.strerror(self.error), None if path is None else str(path))

    def take(self, size: int) -> int:
        """Take room for `size` bytes; return how many there are."""
        if self.room is None:
            return size
        taken = min(size, self.room)
        self.room -= taken
        return taken

    def give_back(self, size: int) -> None:
        if self.room is not None:
            self.room += size


class _File:
    """A file's inode. `cache` is what programs see."""

    def __init__(self, bytes_in_sector: int, data: bytes = b"") -> None:
        self.bytes_in_sector = bytes_in_sector
        self.cache = bytearray(data)
        self.disk = data
        self.versions: dict[int, list[bytes]] = {}  # of each sector, since the last sync
        self.sizes: list[int] = []  # since the last sync
        self.lost: set[int] = set()  # sectors of which the cache shows what no sync will write
        self.failures = 0  # of syncs: an open file has heard of so many, or has yet to
        self.inode = next(_INODES)

    def copy(self) -> _File:
        made = _File(self.bytes_in_sector, self.disk)
        made.cache = bytearray(self.cache)
        made.versions = {sector: list(versions) for sector, versions in self.versions.items()}
        made.sizes, made.lost = list(self.sizes), set(self.lost)
        made.failures, made.inode = self.failures, self.inode
        return made

    def inner(self, _numbers: dict[int, int]) -> object:
        return (self.cache, self.disk, self.versions, self.sizes, sorted(self.lost), self.failures)

    def write(self, start: int, data: bytes) -> None:
        end, bytes_in_sector = start + len(data), self.bytes_in_sector
        first, last = start // bytes_in_sector, (end - 1) // bytes_in_sector
        grows = end > len(self.cache)
        self.cache[start:end] = data
        for sector in range(first, last + 1):
            self.versions.setdefault(sector, []).append(self.sector(sector))
            self.lost.discard(sector)
        if grows:
            self.sizes += [*((sector + 1) * bytes_in_sector for sector in range(first, last)), end]

    def sector(self, number: int) -> bytes:
        return bytes(self.cache[number * self.bytes_in_sector : (number + 1) * self.bytes_in_sector])

    def resize(self, size: int) -> None:
        """Cut it, or make it longer by bytes that are zeros wherever they are."""
        del self.cache[size:]
        self.cache += bytes(size - len(self.cache))
        self.sizes.append(size)

    def identity(self) -> Identity:
        return Identity(DEVICE, self.inode, len(self.cache))

    def sync(self) -> None:
        data = bytearray(self.cache)
        for sector in self.lost:
            part = slice(sector * self.bytes_in_sector, min((sector + 1) * self.bytes_in_sector, len(data)))
            old = self.disk[part]
            data[part] = old + bytes(max(0, part.stop - part.start - len(old)))
        self.disk = bytes(data)
        self.versions.clear()
        self.sizes.clear()

    def fail(self, *, drops: bool) -> None:
        """A sync failed. If it drops what should be synced, that counts as synced; not the size, which is no page."""
        self.failures += 1
        if drops:
            self.lost |= self.versions.keys()
            self.versions.clear()

    def survive(self, choose: Callable[[int], int]) -> bytes:
        sizes = [len(self.disk), *self.sizes]
        size = sizes[choose(len(sizes))]
        data = bytearray(self.disk[:size].ljust(size, b"\0"))
        for sector, versions in self.versions.items():
            which = choose(len(versions) + 1)
            if which:
                start = sector * self.bytes_in_sector
                version = versions[which - 1]
                data[start : start + len(version)] = version
        del data[size:]
        return bytes(data)


class _Directory:
    """A directory's inode. `names` is what programs see."""

    def __init__(self, names: dict[str, _File | _Directory] | None = None) -> None:
        self.names: dict[str, _File | _Directory] = dict(names or {})
        self.disk = dict(self.names)
        self.changes: list[tuple[str | None, str | None, _File | _Directory]] = []  # (old name, new name, what)
        self.inode = next(_INODES)

    def identity(self) -> Identity:
        return Identity(DEVICE, self.inode, 0)

    def change(self, old: str | None, new: str | None, what: _File | _Directory) -> None:
        self.changes.append((old, new, what))
        self._apply(self.names, old, new, what)

    @staticmethod
    def _apply(
        names: dict[str, _File | _Directory], old: str | None, new: str | None, what: _File | _Directory
    ) -> None:
        if old is not None and names.get(old) is what:
            del names[old]
        if new is not None:
            names[new] = what

    def sync(self) -> None:
        self.disk = dict(self.names)
        self.changes.clear()

    def survive(self, choose: Callable[[int], int]) -> _Directory:
        names = dict(self.disk)
        for change in self.changes:
            if choose(2):
                self._apply(names, *change)
        made: dict[str, _File | _Directory] = {}
        for name, what in names.items():
            if isinstance(what, _Directory):
                made[name] = what.survive(choose)
            else:
                made[name] = _File(what.bytes_in_sector, what.survive(choose))
        return _Directory(made)

    def inner(self, numbers: dict[int, int]) -> object:
        """Return all that there is, with inodes by the order in which they are met."""

        def of(what: _File | _Directory) -> object:
            if what.inode in numbers:
                return numbers[what.inode]
            numbers[what.inode] = len(numbers)
            return what.inner(numbers)

        names = [(name, of(what)) for name, what in self.names.items()]
        disk = [(name, of(what)) for name, what in self.disk.items()]
        return names, disk, [(old, new, of(what)) for old, new, what in self.changes]

    def copy(self, copies: dict[int, _File | _Directory]) -> _Directory:
        """Return a copy; `copies` has what was copied, by inode: what has several names stays one."""

        def of(what: _File | _Directory) -> _File | _Directory:
            if what.inode not in copies:
                copies[what.inode] = what.copy(copies) if isinstance(what, _Directory) else what.copy()
            return copies[what.inode]

        made = _Directory()
        made.names = {name: of(what) for name, what in self.names.items()}
        made.disk = {name: of(what) for name, what in self.disk.items()}
        made.changes = [(old, new, of(what)) for old, new, what in self.changes]
        made.inode = self.inode
        return made


class _Open:
    """A file that is open for appending: an open file description, and a descriptor of its own for a twin."""

    def __init__(self, files: SimulatedFiles, inode: _File) -> None:
        self._files = files
        self._inode = inode
        self._heard = inode.failures
        self._twin: int | None = None
        files.unclosed.add(self)

    @property
    def _plan(self) -> Plan:
        return self._files.plan

    def write(self, data: bytes) -> None:
        plan, inode = self._plan, self._inode
        if plan.step("write"):
            if part := data[: int(len(data) * plan.short)]:
                inode.write(len(inode.cache), part)
            raise plan.as_error()
        room = plan.take(len(data))
        if room:
            inode.write(len(inode.cache), data[:room])
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        self.bring_to_disk("sync")

    def bring_to_disk(self, name: str) -> None:
        plan, inode = self._plan, self._inode
        if fails := plan.step(name):
            inode.fail(drops=plan.drops)
        if inode.failures > self._heard:
            self._heard = inode.failures
            raise plan.as_error() if fails else OSError(errno.EIO, os.strerror(errno.EIO))
        inode.sync()

    def truncate(self, size: int) -> None:
        self._plan.check("truncate")
        self._plan.give_back(len(self._inode.cache) - size)
        self._inode.resize(size)

    def size(self) -> int:
        self._plan.check("size")
        return len(self._inode.cache)

    def identity(self) -> Identity:
        self._plan.check("mark")
        return self._inode.identity()

    def allocate(self, size: int) -> None:
        plan, inode = self._plan, self._inode
        missing = max(0, size - len(inode.cache))
        if plan.step("allocate"):
            inode.resize(len(inode.cache) + int(missing * plan.short))
            raise plan.as_error()
        room = plan.take(missing)
        if room:
            inode.resize(len(inode.cache) + room)
        if room < missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def twin(self) -> int | None:
        if self._twin is None and self._files.twins is not None:
            self._twin = 100_000 + len(self._files.twins)
            self._files.twins[self._twin] = twin = _Open(self._files, self._inode)
            twin.close()  # as soon as this one is; its receiver has a descriptor of its own
        return self._twin

    def close(self) -> None:
        self._files.unclosed.discard(self)


class _Raw(io.RawIOBase):
    """A file that is open for reading, below its buffer."""

    def __init__(self, files: SimulatedFiles, path: Path, inode: _File) -> None:
        self._plan = files.plan
        self._path = path
        self._inode = inode
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = offset + (0, self._place, len(self._inode.cache))[whence]
        return self._place

    def readinto(self, buffer: Buffer, /) -> int:
        plan = self._plan
        with memoryview(buffer) as view:
            size = len(view)
            if plan.step("read_bytes"):
                if plan.shorter is None:
                    raise plan.as_error(self._path)
                size = max(1, int(size * plan.shorter) - 1)
            data = self._inode.cache[self._place : self._place + size]
            view[: len(data)] = data
        self._place += len(data)
        return len(data)


class _Locked:
    def __init__(self, files: SimulatedFiles) -> None:
        self._files = files

    def release(self) -> None:
        self._files.locked = False


def _at_random(chance: random.Random) -> Callable[[int], int]:
    """Choose at random: on most disks most is kept, on some about half, on some little."""
    kept = chance.choice((0.1, 0.5, 0.9))
    return lambda count: count - 1 if chance.random() < kept else chance.randrange(count)


class SimulatedFiles:
    """A file system in memory. See the module."""

    def __init__(
        self, root: _Directory | None = None, plan: Plan | None = None, *, bytes_in_sector: int = SECTOR
    ) -> None:
        self.root = root or _Directory()
        self.plan = plan or Plan()
        self.bytes_in_sector = bytes_in_sector
        self.locked = False
        self.unclosed: set[_Open] = set()  # the files that are open for appending
        # What the descriptors stand for that were given out for others to sync; None: there are no twins.
        self.twins: dict[int, _Open | Path] | None = None

    @classmethod
    def holding(cls, contents: Mapping[str, bytes]) -> SimulatedFiles:
        """Return a disk that holds these files, by their paths from the root on, and the directories they are in."""
        root = _Directory()
        for path, data in contents.items():
            *folders, name = path.split("/")
            folder = root
            for each in folders:
                inside = folder.names.get(each)
                if not isinstance(inside, _Directory):
                    inside = folder.names[each] = folder.disk[each] = _Directory()
                folder = inside
            folder.names[name] = folder.disk[name] = _File(SECTOR, data)
        return cls(root)

    # --- what survives ------------------------------------------------------------------------------------------------

    def survivor(self, choose: Callable[[int], int]) -> SimulatedFiles:
        """Return the disk after a loss of power. `choose(n)` picks one of n possibilities; 0 is "not on disk"."""
        return SimulatedFiles(self.root.survive(choose), bytes_in_sector=self.bytes_in_sector)

    def survivors(self, limit: int, chance: random.Random) -> Iterator[SimulatedFiles]:
        """Give disks that may survive a loss of power, each once: all, or a sample if there are more than `limit`."""
        counts: list[int] = []

        def keep_all(count: int) -> int:
            counts.append(count)
            return count - 1

        everything = self.survivor(keep_all)
        disks: Iterable[SimulatedFiles] = ()
        if few := math.prod(counts) <= limit:  # else there are more for sure; but as many may hide in what is not kept
            disks = list(itertools.islice(self._each(), limit + 1))
            few = len(disks) <= limit
        if not few:
            sample = (self.survivor(_at_random(chance)) for _ in range(2 * limit))
            disks = itertools.chain([everything, self.survivor(lambda _count: 0)], sample)
        seen = set()
        for disk in disks:
            state = disk.state()
            if state not in seen:
                seen.add(state)
                yield disk
                if len(seen) == limit:
                    return

    def _each(self) -> Iterator[SimulatedFiles]:
        """Give a disk for each way to choose. Which choices there are depends on those before."""
        picks: list[list[int]] = []  # of each choice what is picked, of how many
        while True:
            depth = 0

            def choose(count: int) -> int:
                nonlocal depth
                if depth == len(picks):
                    picks.append([0, count])
                depth += 1
                return picks[depth - 1][0]

            yield self.survivor(choose)
            while picks and picks[-1][0] == picks[-1][1] - 1:
                picks.pop()
            if not picks:
                return
            picks[-1][0] += 1

    def state(self) -> bytes:
        """Return what tells all that is on a disk, as programs see it, from any other: a hash.

        Of the lock, and of the content of the reserve, which means nothing, nothing is in it.
        """
        hash = hashlib.blake2b(digest_size=16)
        self._state(hash.update, self.root)
        return hash.digest()

    def _state(self, add: Callable[[bytes], None], folder: _Directory) -> None:
        add(b"%d:" % len(folder.names))
        for name, what in sorted(folder.names.items()):
            if isinstance(what, _Directory):
                add(b"%b/" % name.encode())
                self._state(add, what)
            elif name != "LOCK":
                add(b"%b %d:" % (name.encode(), len(what.cache)))
                if name != "reserve":
                    add(what.cache)

    def contents(self) -> frozenset[tuple[str, bytes]]:
        """Return all that is on a disk, as programs see it, except the lock; the bytes of a directory are "/"."""
        return frozenset(self._contents("", self.root))

    def _contents(self, path: str, folder: _Directory) -> Iterator[tuple[str, bytes]]:
        for name, what in folder.names.items():
            if isinstance(what, _Directory):
                yield f"{path}/{name}", b"/"
                yield from self._contents(f"{path}/{name}", what)
            elif name != "LOCK":
                yield f"{path}/{name}", bytes(what.cache)

    def whole_state(self) -> bytes:
        """Return what tells all that may come of a disk from any other: `state`, and what is not synced. A hash."""
        return hashlib.blake2b(repr(self.root.inner({})).encode(), digest_size=16).digest()

    def killed(self) -> SimulatedFiles:
        """Return a copy of the disk for another process: the cache is as it was, and nobody holds the lock."""
        return SimulatedFiles(self.root.copy({}), bytes_in_sector=self.bytes_in_sector)

    def write_back(self, path: Path) -> None:
        """What the system may do by itself with what is not synced. If it fails, each open file hears of it."""
        if self.plan.step("write_back"):
            self._file(path).fail(drops=self.plan.drops)

    def sync_twin(self, descriptor: int) -> None:
        """Do what another process does that was given the descriptor of a twin."""
        assert self.twins is not None
        twin = self.twins[descriptor]
        if isinstance(twin, Path):
            self.plan.check("sync_names")
            self._folder(twin).sync()
        else:
            twin.bring_to_disk("sync_twin")

    # --- the seam -----------------------------------------------------------------------------------------------------

    def _find(self, path: Path) -> _File | _Directory | None:
        what: _File | _Directory | None = self.root
        for name in path.parts[1:]:
            what = what.names.get(name) if isinstance(what, _Directory) else None
        return what

    def _folder(self, path: Path) -> _Directory:
        folder = self._find(path)
        if not isinstance(folder, _Directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return folder

    def _file(self, path: Path) -> _File:
        file = self._find(path)
        if not isinstance(file, _File):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return file

    def kind(self, path: Path) -> Kind | None:
        self.plan.check("kind", path)
        what = self._find(path)
        return None if what is None else "file" if isinstance(what, _File) else "directory"

    def permissions(self, path: Path, *, follow: bool = False) -> Permissions | None:
        self.plan.check("look", path)
        what = self._find(path)
        return None if what is None else Permissions(False, USER, 0o600 if isinstance(what, _File) else 0o700)

    def identity(self, path: Path) -> Identity | None:
        self.plan.check("mark_path", path)
        what = self._find(path)
        return None if what is None else what.identity()

    def writable(self, path: Path) -> bool:
        self.plan.check("writable", path)
        return isinstance(self._find(path), _Directory)

    def user(self) -> int:
        return USER

    def process(self) -> int:
        return PROCESS

    def machine(self) -> str:
        return "simulated"

    def can_lock(self) -> bool:
        return True

    def file_system_id(self, path: Path) -> int:
        self.plan.check("file_system_id", path)
        return DEVICE

    def file_system(self, path: Path) -> str | None:
        self.plan.check("file_system", path)
        return "ext4"

    def list(self, path: Path) -> list[str]:
        self.plan.check("list", path)
        return sorted(self._folder(path).names)

    def make_directory(self, path: Path) -> None:
        self.plan.check("make_directory", path)
        self._add(path, _Directory())

    def _add(self, path: Path, what: _File | _Directory) -> None:
        folder = self._folder(path.parent)
        if path.name in folder.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        folder.change(None, path.name, what)

    def directory_twin(self, path: Path) -> int | None:
        self.plan.check("directory_twin", path)
        if self.twins is None:
            return None
        descriptor = os.open(os.devnull, os.O_RDONLY)  # the caller closes it, so it must be one
        self.twins[descriptor] = path
        return descriptor

    def sync_directory(self, path: Path, fd: int | None = None) -> None:
        self.plan.check("sync_directory", path)
        self._folder(path).sync()

    def create(self, path: Path) -> File:
        self.plan.check("create", path)
        file = _File(self.bytes_in_sector)
        self._add(path, file)
        return _Open(self, file)

    def append(self, path: Path) -> File:
        self.plan.check("append", path)
        return _Open(self, self._file(path))

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        self.plan.check("overwrite", path)
        self._file(path).write(start, data)

    def read(self, path: Path) -> BinaryIO:
        self.plan.check("read", path)
        return io.BufferedReader(_Raw(self, path, self._file(path)))

    def rename(self, old: Path, new: Path) -> None:
        fails = self.plan.step("rename")
        if not fails or self.plan.late:
            if isinstance(replaced := self._find(new), _File):
                self.plan.give_back(len(replaced.cache))
            self._folder(old.parent).change(old.name, new.name, self._file(old))
        if fails:
            raise self.plan.as_error(old)

    def unlink(self, path: Path) -> None:
        self.plan.check("unlink", path)
        folder = self._folder(path.parent)
        what = folder.names.get(path.name)
        if what is not None:
            if isinstance(what, _File):
                self.plan.give_back(len(what.cache))
            folder.change(path.name, None, what)

    def lock(self, path: Path, holder: bytes) -> Lock:
        self.plan.check("lock", path)
        if self.locked:
            raise BlockingIOError("somebody")
        if self._find(path) is None:
            self._add(path, _File(self.bytes_in_sector))
        self.locked = True
        return _Locked(self)


def disks_of(files: SimulatedFiles) -> Iterator[SimulatedFiles]:
    """Disks that a loss of power may leave, and at most 64 of them: the same ones each time."""
    return files.survivors(64, random.Random(1))
