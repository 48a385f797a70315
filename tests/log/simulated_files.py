"""A disk in memory that keeps what a disk may keep, for the log's seam `kharon.log.files.Files`.

What programs see is the cache; what survives a loss of power is chosen from what the disk may hold:

- Of a file's bytes since its last sync each sector of 512 bytes holds, independently of all others, what was synced or
  anything that was written to it since: so writes are lost, torn, and reordered. Its size is any that it had since, or
  that a torn write would have given it. A sector that was never written within the size is zeros.
- Of a directory's names each creation, renaming and removal since its last sync happened or did not, independently.
- A sync that fails leaves the bytes to be written by the next one ("keeps"), or marks them as written although they
  are not ("drops"): then the cache shows them, no later sync writes them, and only writing to a sector again does. That
  is what Linux does. A directory's sync that fails keeps the names to be written: a journal stops at its first error.

Every operation is counted. `Plan` says at which one the power fails, or which one fails with which error, once or from
there on. There are one user, who owns all, one process and one device; modes and links are not simulated.
"""

from __future__ import annotations

import copy
import errno
import io
import itertools
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kharon.log.files import File, Kind, Lock, Look, Mark

__all__ = ["SECTOR", "Plan", "PowerLoss", "SimulatedFiles"]

SECTOR = 512
DEVICE, USER, PROCESS = 7, 1000, 4711
_INODES = itertools.count(1)


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
        drops: bool = True,
        late: bool = False,
        room: int | None = None,
    ) -> None:
        self.stop = stop
        self.fail = fail
        self.error = error
        self.for_good = for_good
        self.short = short
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

    def check(self, name: str) -> None:
        """Count an operation, and raise if it fails."""
        if self.step(name):
            raise self.as_error()

    def as_error(self) -> OSError:
        return OSError(self.error, os.strerror(self.error))


class _File:
    """A file's inode. `cache` is what programs see."""

    def __init__(self, data: bytes = b"") -> None:
        self.cache = bytearray(data)
        self.disk = bytes(data)
        self.versions: dict[int, list[bytes]] = {}  # of each sector, since the last sync
        self.sizes: list[int] = []  # since the last sync
        self.lost: set[int] = set()  # sectors of which the cache shows what no sync will write
        self.inode = next(_INODES)

    def write(self, start: int, data: bytes) -> None:
        end = start + len(data)
        first, last = start // SECTOR, (end - 1) // SECTOR
        grows = end > len(self.cache)
        self.cache[start:end] = data
        for sector in range(first, last + 1):
            self.versions.setdefault(sector, []).append(self.sector(sector))
            self.lost.discard(sector)
        if grows:
            self.sizes += [*((sector + 1) * SECTOR for sector in range(first, last)), end]

    def sector(self, number: int) -> bytes:
        return bytes(self.cache[number * SECTOR : (number + 1) * SECTOR])

    def truncate(self, size: int) -> None:
        del self.cache[size:]
        self.sizes.append(size)

    def mark(self) -> Mark:
        return Mark(DEVICE, self.inode, len(self.cache))

    def sync(self) -> None:
        data = bytearray(self.cache)
        for sector in self.lost:
            part = slice(sector * SECTOR, min((sector + 1) * SECTOR, len(data)))
            old = self.disk[part]
            data[part] = old + bytes(max(0, part.stop - part.start - len(old)))
        self.disk = bytes(data)
        self.versions.clear()
        self.sizes.clear()

    def drop(self) -> None:
        """Take all that should be synced for synced. The size is no page: it may yet come to the disk."""
        self.lost |= self.versions.keys()
        self.versions.clear()

    def survive(self, choose: Callable[[int], int]) -> bytes:
        sizes = [len(self.disk), *self.sizes]
        size = sizes[choose(len(sizes))]
        data = bytearray(self.disk[:size].ljust(size, b"\0"))
        for sector, versions in self.versions.items():
            which = choose(len(versions) + 1)
            if which:
                start = sector * SECTOR
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

    def mark(self) -> Mark:
        return Mark(DEVICE, self.inode, 0)

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
            made[name] = what.survive(choose) if isinstance(what, _Directory) else _File(what.survive(choose))
        return _Directory(made)


class _Open:
    """A file that is open for appending."""

    def __init__(self, files: SimulatedFiles, inode: _File) -> None:
        self._files = files
        self._inode = inode

    @property
    def _plan(self) -> Plan:
        return self._files.plan

    def write(self, data: bytes) -> None:
        self._append("write", data)

    def _append(self, name: str, data: bytes) -> None:
        plan, inode = self._plan, self._inode
        if plan.step(name):
            if part := data[: int(len(data) * plan.short)]:
                inode.write(len(inode.cache), part)
            raise plan.as_error()
        room = len(data) if plan.room is None else min(len(data), plan.room)
        if plan.room is not None:
            plan.room -= room
        if room:
            inode.write(len(inode.cache), data[:room])
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        if self._plan.step("sync"):
            if self._plan.drops:
                self._inode.drop()
            raise self._plan.as_error()
        self._inode.sync()

    def truncate(self, size: int) -> None:
        self._plan.check("truncate")
        self._inode.truncate(size)

    def size(self) -> int:
        self._plan.check("size")
        return len(self._inode.cache)

    def mark(self) -> Mark:
        self._plan.check("mark")
        return self._inode.mark()

    def allocate(self, size: int) -> None:
        self._append("allocate", bytes(max(0, size - len(self._inode.cache))))

    def twin(self) -> int | None:
        return None

    def close(self) -> None:
        pass


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

    def __init__(self, root: _Directory | None = None, plan: Plan | None = None) -> None:
        self.root = root or _Directory()
        self.plan = plan or Plan()
        self.locked = False

    # --- what survives ------------------------------------------------------------------------------------------------

    def survivor(self, choose: Callable[[int], int]) -> SimulatedFiles:
        """Return the disk after a loss of power. `choose(n)` picks one of n possibilities; 0 is "not on disk"."""
        return SimulatedFiles(self.root.survive(choose))

    def survivors(self, limit: int, chance: random.Random) -> Iterator[SimulatedFiles]:
        """Give disks that may survive a loss of power, each once: all, or a sample if there are more than `limit`."""
        counts: list[int] = []

        def keep_all(count: int) -> int:
            counts.append(count)
            return count - 1

        everything = self.survivor(keep_all)
        disks: Iterator[SimulatedFiles] = self._each()
        if math.prod(counts) > limit:
            sample = (self.survivor(_at_random(chance)) for _ in range(limit - 2))
            disks = itertools.chain([everything, self.survivor(lambda _count: 0)], sample)
        seen = set()
        for disk in disks:
            state = disk.state()
            if state not in seen:
                seen.add(state)
                yield disk

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

    def state(self) -> frozenset[tuple[str, bytes]]:
        """Return all that is on a disk, as programs see it, but for the lock."""
        return frozenset(self._state("", self.root))

    def _state(self, path: str, folder: _Directory) -> Iterator[tuple[str, bytes]]:
        for name, what in folder.names.items():
            if isinstance(what, _Directory):
                yield f"{path}/{name}", b"/"
                yield from self._state(f"{path}/{name}", what)
            elif name != "LOCK":
                yield f"{path}/{name}", bytes(what.cache)

    def killed(self) -> SimulatedFiles:
        """Return a copy of the disk for another process: the cache is as it was, and nobody holds the lock."""
        return SimulatedFiles(copy.deepcopy(self.root))

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
        self.plan.check("kind")
        what = self._find(path)
        return None if what is None else "file" if isinstance(what, _File) else "directory"

    def look(self, path: Path, *, follow: bool = False) -> Look | None:
        self.plan.check("look")
        what = self._find(path)
        return None if what is None else Look(False, USER, 0o600 if isinstance(what, _File) else 0o700)

    def mark(self, path: Path) -> Mark | None:
        self.plan.check("mark_path")
        what = self._find(path)
        return None if what is None else what.mark()

    def writable(self, path: Path) -> bool:
        self.plan.check("writable")
        return isinstance(self._find(path), _Directory)

    def user(self) -> int:
        return USER

    def process(self) -> int:
        return PROCESS

    def can_lock(self) -> bool:
        return True

    def file_system(self, path: Path) -> str | None:
        self.plan.check("file_system")
        return "ext4"

    def list(self, path: Path) -> list[str]:
        self.plan.check("list")
        return sorted(self._folder(path).names)

    def make_directory(self, path: Path) -> None:
        self.plan.check("make_directory")
        self._add(path, _Directory())

    def _add(self, path: Path, what: _File | _Directory) -> None:
        folder = self._folder(path.parent)
        if path.name in folder.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        folder.change(None, path.name, what)

    def sync_directory(self, path: Path) -> None:
        self.plan.check("sync_directory")
        self._folder(path).sync()

    def create(self, path: Path) -> File:
        self.plan.check("create")
        file = _File()
        self._add(path, file)
        return _Open(self, file)

    def append(self, path: Path) -> File:
        self.plan.check("append")
        return _Open(self, self._file(path))

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        self.plan.check("overwrite")
        self._file(path).write(start, data)

    def read(self, path: Path) -> BinaryIO:
        self.plan.check("read")
        return io.BytesIO(self._file(path).cache)

    def rename(self, old: Path, new: Path) -> None:
        fails = self.plan.step("rename")
        if not fails or self.plan.late:
            self._folder(old.parent).change(old.name, new.name, self._file(old))
        if fails:
            raise self.plan.as_error()

    def unlink(self, path: Path) -> None:
        self.plan.check("unlink")
        folder = self._folder(path.parent)
        if path.name in folder.names:
            folder.change(path.name, None, folder.names[path.name])

    def lock(self, path: Path, holder: bytes) -> Lock:
        self.plan.check("lock")
        if self.locked:
            raise BlockingIOError("somebody")
        if self._find(path) is None:
            self._add(path, _File())
        self.locked = True
        return _Locked(self)
