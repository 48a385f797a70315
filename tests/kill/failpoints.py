"""Named places in the life of a log, and file operations that end their process at one of them.

A failpoint's name is `<what>.<operation>.<moment>`: which file, what is done with it, and whether the process dies
before that, after it, or, of a write, with half of the bytes written. What dies says the name first, so that a test can
tell that it died there. Nothing of this is known to Kharon: it is a `Files` like any other.

What a file is:

    first         the first segment of a new log, under its temporary name
    successor     the next segment while a log is in use, the same way
    renewed       the tail, written to a new inode by recovery or repair
    resealed      the segment before the tail, written anew with its seal
    seal          the line that seals a segment, and its sync
    trusted       the closing record of a log that was closed, written over itself when it is opened
    closing       the closing record, and its sync
    tail          every other write, sync and cut of the segment that grows
    taken-back    the sync of a tail from which a group was cut for which there was no room
    quarantine    bytes cut from a segment
    snapshot      a snapshot, and old-snapshot one that is dropped
    compressed    a segment that is being compressed
    archived      a segment in an archive; archives is the list of these
    own-archive   the log's own directory in `archive`
    recorded      a commit group with a record of a segment that was compressed, archived or trimmed, and its sync
    dropped       a segment that is taken away: by a repair, or because it was moved or trimmed
    begun, reserve, lock, queue, log, archive, parent   what their names say; the last four are directories

The operation `names` is the sync of a directory: that of the file renamed last in it, if one was.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from kharon.log import snapshot, snapshot_process
from kharon.log.files import File, Lock, OsFiles
from kharon.store.sync_helper import Done, Helper

Die = Callable[[str], object]


def names(text: str) -> tuple[str, ...]:
    """The names in a table: the first word of each line; what follows says where that is."""
    return tuple(line.split()[0] for line in text.splitlines() if line.strip())


# "anew" is no failpoint: the directory is removed.
FIRST_OPENING = names("""
    queue.make.before         nothing is there yet
    queue.make.after          the directory is there
    log.make.after            and the one of the segments
    lock.take.before
    lock.take.after           LOCK is there, and was held
    queue.names.before
    parent.names.after        the directory's own name is on disk
    first.create.after        an empty file under a temporary name
    first.write.half          half a header in it
    first.sync.after          all of it, on disk
    first.rename.after        it has its name, which is not on disk
    anew
    first.names.after         and now it is
    log.names.after           the next one has made sure of that
    begun.create.after        the proof that there is a log
    reserve.create.after      an empty reserve
    reserve.allocate.before
    reserve.allocate.after
""")

GROUPS = names("""
    tail.write.before         a commit group is decided, and nothing of it written
    tail.write.half           half of it
    tail.write.after          all of it, before the sync
    tail.sync.before
    tail.sync.after           on disk, before anybody is told
""")

ROTATION = names("""
    successor.create.before   the tail is full and synced
    successor.create.after    an empty file under a temporary name
    successor.write.half      half a header in it
    successor.write.after     all of it, before its sync
    successor.sync.after      on disk, before it has its name
    successor.rename.after    it has its name, which is not on disk
    successor.names.after     it is, before the seal
    seal.write.half           half a seal
    seal.write.after          all of it, before its sync
    seal.sync.after           on disk, before the first record behind it
""")

# Each is met by a process that opens what the one before it left. Torn: `tail.write.half` comes first.
RECOVERY = names("""
    tail.write.half           a commit group is half written
    quarantine.make.before    it is to be cut, and there is no directory for it
    quarantine.make.after
    quarantine.create.after   an empty copy
    quarantine.write.half     half a copy
    quarantine.write.after    all of it, before its sync
    quarantine.sync.after     on disk, before it has its name
    quarantine.rename.after   it has its name, which is not on disk
    quarantine.names.after    it is; the tail is as it was: the next recovery copies it once more
    queue.names.after         the quarantine's own name is on disk
    renewed.create.before
    renewed.create.after      an empty tail beside the torn one
    renewed.write.half        half of it
    renewed.write.after       the whole part, before the record that says what was cut
    renewed.sync.after        on disk, before it has its name
    renewed.rename.after      it has its name, which is not on disk: nothing is torn from here on
    renewed.names.after
    renewed.create.after      a log that was not closed and is not torn gets a new inode too
    renewed.rename.after
    successor.names.after     a rotation that was not finished
    resealed.create.after     the segment that lacks its seal is written anew: an empty file
    resealed.write.half       half of it
    resealed.write.after      all of it, before the seal
    resealed.sync.after       on disk, before it has its name
    resealed.rename.after     it has its name, which is not on disk
    resealed.names.after
    seal.write.half           a seal that is half written
    resealed.rename.after
    resealed.names.before
    renewed.sync.before       and the bare tail behind it is written anew as well
""")

# "close" is no failpoint: a process that ends in good order, so that there is something to be trusted.
CLOSING = names("""
    closing.write.before      all is on disk, and the closing record is not written
    closing.write.half
    closing.write.after       before its sync
    closing.sync.after        on disk, before the lock is given back
    lock.release.before
    close
    lock.release.after        everything is done
    trusted.write.before      a log that was closed is opened: its closing record is to be written over itself
    close
    trusted.write.half        half of it is
    close
    trusted.write.after       all of it, before its sync
    close
    trusted.sync.after
""")

NO_ROOM = names("""
    tail.no-room.before       nothing of a group has been written when there is no room
    tail.no-room.after        half of it has
    tail.cut.before
    tail.cut.after            it is taken back, and that is not on disk
    taken-back.sync.after     now it is
    reserve.cut.before        room for a settle is to be taken from the reserve
    reserve.cut.after         it has been
    reserve.allocate.before   there is room again, and the reserve is to be filled
    reserve.allocate.after
""")

HELPER = names("""
    helper.start.after        the helper has been started
    helper.ask.before         a group is written, and to be synced by the helper
    helper.ask.after          the helper syncs
    helper.answer.before      it has said that it has, and nobody has been told
    helper.answer.after       those who waited have been woken, and have not run
""")

HELPER_ROTATION = names("""
    successor.create.after
    successor.write.after     the new segment is to be synced by the helper
    successor.rename.before   it has been
    helper.ask-names.before   the name is to be synced by the helper
    helper.ask-names.after    it syncs it
    seal.write.half           it has
    seal.write.after
""")

SNAPSHOT = names("""
    snapshot.begin.before     its process has just been started
    snapshot.create.after     an empty file under a temporary name
    snapshot.write.half
    snapshot.write.after      all of it, before its sync
    snapshot.sync.after       on disk, before it is read back and has its name
    snapshot.rename.before    it has been read back
    snapshot.rename.after     it has its name, which is not on disk
    snapshot.names.after      it is, and the old ones are there
    old-snapshot.unlink.before
    old-snapshot.unlink.after
""")

RECORDED = """
    recorded.write.before     the new file is complete and has its name
    recorded.write.half       half a record says so
    recorded.write.after      it does, and is not on disk
    recorded.sync.after       it is, and the old file is still there
    dropped.unlink.before
    dropped.unlink.after      that is gone, and that is not on disk
"""

COMPRESSING = names(
    """
    compressed.create.after   an empty file under a temporary name
    compressed.write.half
    compressed.write.after    all of it, before its sync
    compressed.sync.after     on disk, before it has its name
    compressed.rename.after   it has its name, which is not on disk
    compressed.names.after    it is, and the two have not been compared
"""
    + RECORDED
)

ARCHIVING = names(
    """
    archive.make.after        the directory is there
    own-archive.make.after    and the log's own in it, whose name is not on disk
    archive.names.before      nor is it here: the process that follows must see to it
    archive.names.after       now it is
    archives.create.after     the list of archives is to be written
    archives.write.half
    archives.sync.after
    archives.rename.after     it names the archive, which is empty
    archived.create.after     an empty file under a temporary name
    archived.write.half
    archived.sync.after       on disk, before it has its name
    archived.rename.after     it has its name, which is not on disk
    archived.names.after      it is, and the two have not been compared
"""
    + RECORDED
)

TRIMMING = names(RECORDED)

REPAIR = names("""
    quarantine.make.after
    quarantine.write.half     the first of the bytes that are cut
    quarantine.rename.after
    quarantine.names.after
    renewed.create.after      the tail that is kept
    renewed.write.half
    renewed.sync.after
    renewed.rename.before
    renewed.rename.after      it has its name; what stands behind it is still there
    dropped.unlink.before
    dropped.unlink.after      the last of that is gone, and that is not on disk
    log.names.before
    log.names.after           it is, and there is more
""")

# Behind all that there is to do.
REPAIRED = names("""
    lock.release.before
""")


class Dying:
    """Calls `die` at the `count`-th passing of the failpoint `name`; not as long as it is not `armed`."""

    def __init__(self, name: str | None, count: int, die: Die) -> None:
        self.name = name
        self.armed = True
        self._left = count
        self._die = die

    def passes(self, place: str) -> None:
        if place == self.name and self.armed:
            self._left -= 1
            if self._left == 0:
                self._die(place)

    @contextlib.contextmanager
    def around(self, operation: str) -> Iterator[None]:
        self.passes(f"{operation}.before")
        yield
        self.passes(f"{operation}.after")


class _DyingFile:
    def __init__(self, files: DyingFiles, file: File, what: str) -> None:
        self._files = files
        self._file = file
        self.what = what
        self._line = what  # what was written last: a seal and a closing record have names of their own

    def write(self, data: bytes) -> None:
        files = self._files
        self._line = what = (_line(data) if self.what == "tail" else None) or self.what
        if files.full and what == "tail":
            files.need_room(self._file, data)
        with files.dying.around(f"{what}.write"):
            half = files.half_of(f"{what}.write", data)
            self._file.write(data[:half])
            files.dying.passes(f"{what}.write.half")
            self._file.write(data[half:])

    def sync(self) -> None:
        with self._files.dying.around(f"{self._line}.sync"):
            self._file.sync()
        self._line = self.what

    def truncate(self, size: int) -> None:
        if self.what == "reserve":
            self._files.room += self._file.size() - size
        with self._files.dying.around(f"{self.what}.cut"):
            self._file.truncate(size)
        self._line = "taken-back"

    def allocate(self, size: int) -> None:
        if self._files.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._files.dying.around(f"{self.what}.allocate"):
            self._file.allocate(size)
        self._files.room = 0

    def __getattr__(self, name: str):  # what is not written is passed on: size, mark, twin, close
        return getattr(self._file, name)


def _line(data: bytes) -> str | None:
    if data.startswith(b'"sealed":', 92):
        return "seal"
    if b'"event":"Segment' in data:
        return "recorded"
    return "closing" if b'"event":"LogClosed"' in data[-1000:] else None


class _DyingLock:
    def __init__(self, files: DyingFiles, lock: Lock) -> None:
        self._files = files
        self._lock = lock

    def release(self) -> None:
        with self._files.dying.around("lock.release"):
            self._lock.release()


class DyingFiles(OsFiles):
    """The operating system's files, and a failpoint in them.

    Args:
        where: the queue's directory.
        dying: the failpoint.

    Attributes:
        full: whether the disk has no room for the tail but what the reserve gave up, `room` bytes. To be set.
    """

    def __init__(self, where: Path, dying: Dying) -> None:
        self._where = where
        self.dying = dying
        self.full = False
        self.room = 0
        self._new: dict[Path, _DyingFile] = {}
        self._renamed: dict[Path, str] = {}
        self._overwritten: Path | None = None

    def half_of(self, operation: str, data: bytes) -> int:
        """How many bytes are written before the failpoint in the middle of a write: all, unless there is one.

        Never whole lines only: of a group that would leave whole commits, and nothing half written.
        """
        if self.dying.name != f"{operation}.half":
            return len(data)
        half = len(data) // 2
        return half + data[:half].endswith(b"\n")

    def need_room(self, file: File, data: bytes) -> None:
        """Take room for `data`, or write a part of it and say that there was no more."""
        if len(data) <= self.room:
            self.room -= len(data)
            return
        with self.dying.around("tail.no-room"):
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _what(self, path: Path) -> str:
        """What a path is, now."""
        folder = path.parent.name
        if folder == "log" and path.parent.parent == self._where:
            if not path.name.endswith(".tmp"):
                return "tail"
            target = path.with_suffix("")
            if target.suffix != ".jsonl":
                return "compressed"
            segments = sorted(path.parent.glob("*.jsonl"))
            if target not in segments:
                return "successor" if segments else "first"
            # A repair renews what will be the tail, whatever stands behind it; recovery the very last only.
            return "resealed" if target in segments[-2:-1] else "renewed"
        if path == self._where:
            return "queue"
        if path == self._where.parent:
            return "parent"
        if path.parent == self._where:
            return {"LOCK": "lock", "ARCHIVE": "archives", "ARCHIVE.tmp": "archives"}.get(path.name, path.name)
        if path.parent == self._where / "archive":
            return "own-archive"
        if path.parent.parent == self._where / "archive":
            return "archived"
        return {"snapshots": "snapshot"}.get(folder, folder)

    def make_directory(self, path: Path) -> None:
        with self.dying.around(f"{self._what(path)}.make"):
            super().make_directory(path)

    def sync_directory(self, path: Path, fd: int | None = None) -> None:
        what = self._renamed.pop(path, None) or self._what(path)
        with self.dying.around(f"{what}.names"):
            super().sync_directory(path, fd)

    def create(self, path: Path) -> File:
        what = self._what(path)
        with self.dying.around(f"{what}.create"):
            file = self._new[path] = _DyingFile(self, super().create(path), what)
        return file

    def append(self, path: Path) -> File:
        file = _DyingFile(self, super().append(path), self._what(path))
        if path == self._overwritten:
            file._line, self._overwritten = "trusted", None
        return file

    def overwrite(self, path: Path, start: int, data: bytes) -> None:
        with self.dying.around("trusted.write"):
            half = self.half_of("trusted.write", data)
            super().overwrite(path, start, data[:half])
            self.dying.passes("trusted.write.half")
            super().overwrite(path, start + half, data[half:])
        self._overwritten = path

    def rename(self, old: Path, new: Path) -> None:
        file = self._new.pop(old)
        with self.dying.around(f"{file.what}.rename"):
            super().rename(old, new)
        self._renamed[new.parent] = file.what
        file.what = file._line = self._what(new)

    def unlink(self, path: Path) -> None:
        what = "stale" if path.suffix == ".tmp" else {"snapshot": "old-snapshot"}.get(self._what(path), "dropped")
        with self.dying.around(f"{what}.unlink"):
            super().unlink(path)

    def lock(self, path: Path, holder: bytes) -> Lock:
        with self.dying.around("lock.take"):
            lock = super().lock(path, holder)
        return _DyingLock(self, lock)


class DyingHelper(Helper):
    """The helper process of a slow disk, with failpoints in what its parent does with it.

    Args:
        dying: the failpoint. At `helper.sync.killed` the helper should be killed: it syncs.
        say: told the helper's pid.
    """

    def __init__(self, dying: Dying, say: Callable[[str], object]) -> None:
        super().__init__(("0.003",))
        self._dying = dying
        dying.armed = dying.name == "helper.start.after"  # else not before it is used
        self._say = say

    async def _start(self):
        process = await super()._start()
        self._say(str(process.pid))
        self._dying.passes("helper.start.after")
        return process

    def request(self, fd: int, done: Done, *, names: bool = False) -> bool:
        with self._dying.around("helper.ask-names" if names else "helper.ask"):
            asked = super().request(fd, done, names=names)
        self._dying.passes("helper.sync.killed")
        return asked

    def _take(self, answer: bytes) -> None:
        if self._done is None:
            super()._take(answer)
            self._dying.armed = True
        else:
            with self._dying.around("helper.answer"):
                super()._take(answer)


# --- the process that takes a snapshot --------------------------------------------------------------------------------

SNAPSHOT_PROGRAM = "import sys; sys.path[:] = {path!r}; import failpoints; sys.exit(failpoints.snapshot_program())"
_SPEC = "KHARON_KILL_SNAPSHOT"


def arrange_snapshots(name: str, victim: str, pipe: str) -> None:
    """Let the first process that takes a snapshot of this process's queue meet a failpoint; there is no second.

    Args:
        name: the failpoint's.
        victim: who is killed there: "child", the one that takes the snapshot, or "parent", the one with the queue.
            Then the child stays where it is for ever: only its own care for its parent can end it.
        pipe: a FIFO that is told the name first.
    """
    os.environ[_SPEC] = json.dumps([name, victim, pipe])
    from kharon.store import background  # noqa: PLC0415 - the process that takes one does not need it

    take = background.SnapshotTask._take

    async def never(_self) -> None:
        await trio.sleep_forever()

    async def take_once(self) -> None:
        background.SnapshotTask._take = never
        await take(self)

    background._PROGRAM = SNAPSHOT_PROGRAM
    background.SnapshotTask._take = take_once


def snapshot_program() -> int:
    """What such a process runs in place of its program: the same, with the failpoint."""
    import sys  # noqa: PLC0415 - as in the program that this stands for

    name, victim, pipe = json.loads(os.environ[_SPEC])
    said = os.open(pipe, os.O_WRONLY)

    def die(place: str) -> None:
        os.write(said, f"{place}\n".encode())
        if victim == "child":
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getppid(), signal.SIGKILL)
        if place != "snapshot.begin.before":  # there it has not begun to care for its parent
            time.sleep(3600)

    os.nice = lambda _step: 0  # on a busy machine the test would wait for it
    dying = Dying(name, 1, die)
    dying.passes("snapshot.begin.before")
    snapshot_process.take = functools.partial(snapshot.take, files=DyingFiles(Path(sys.argv[-1]), dying))
    return snapshot_process.main(lifeline=0)
