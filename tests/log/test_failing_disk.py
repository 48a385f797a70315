"""Disks that are full, broken, exchanged, or should not have been trusted in the first place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from log_steps import FIRST_NAME, NOW, added, moment, opened, put, records_in, sample, segment_of

import kharon
import kharon.log.files
from kharon.errors import Closed, KharonError, StorageFull
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES, OsFiles, Permissions, file_system_of
from kharon.log.replace import run_here
from kharon.log.reserve import Reserve
from kharon.model.events import EVENTS, LogClosed, TicketDone

PIECE = 64 << 10


class Disk(OsFiles):
    """The real files on a disk of `room` bytes, and with operations that fail.

    Attributes:
        room: how many bytes may still be written or allocated.
        fail: the name of the operation that fails, by `error`; it works `after` times more before that.
        calls: the operations, in order.
    """

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room
        self.no_room = errno.ENOSPC
        self.fail: str | None = None
        self.error = errno.EIO
        self.after = 0
        self.calls: list[str] = []
        self.uid = os.geteuid()
        self.pid: int | None = None
        self.looks: dict[str, Permissions] = {}
        self.type: str | None = "ext4"
        self.locks = True
        self.read_only = False

    def did(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail:
            if self.after <= 0:
                raise OSError(self.error, os.strerror(self.error))
            self.after -= 1

    def take(self, size: int) -> None:
        if size > self.room:
            raise OSError(self.no_room, os.strerror(self.no_room))
        self.room -= size

    def create(self, path):
        self.did("create")
        return Watched(self, super().create(path))

    def append(self, path):
        self.did("append")
        return Watched(self, super().append(path))

    def rename(self, old, new):
        self.did("rename")
        super().rename(old, new)

    def unlink(self, path):
        if path.exists():
            self.room += path.stat().st_size
        super().unlink(path)

    def sync_directory(self, path, fd=None):
        self.did("sync_directory")
        super().sync_directory(path, fd)

    def permissions(self, path, *, follow=False):
        return self.looks.get(path.name) or super().permissions(path, follow=follow)

    def user(self):
        return self.uid

    def process(self):
        return self.pid or super().process()

    def can_lock(self):
        return self.locks

    def file_system(self, path):
        return self.type

    def writable(self, path):
        return not self.read_only and super().writable(path)


class Watched:
    def __init__(self, disk, file):
        self._disk = disk
        self._file = file
        self.size, self.identity, self.twin, self.close = file.size, file.identity, file.twin, file.close

    def write(self, data):
        self._disk.did("write")
        fits = min(len(data), self._disk.room)
        self._file.write(data[:fits])
        self._disk.room -= fits
        self._disk.take(len(data) - fits)

    def sync(self):
        self._disk.did("sync")
        self._file.sync()

    def truncate(self, size):
        self._disk.did("truncate")
        self._disk.room += self.size() - size
        self._file.truncate(size)

    def allocate(self, size):
        self._disk.did("allocate")
        missing = max(0, size - self.size())
        if missing > self._disk.room:  # half of it is there, as on ext4
            self._file.truncate(self.size() + self._disk.room)
            self._disk.room = 0
        self._disk.take(missing if size > self.size() else 0)
        self._file.allocate(size)


@pytest.fixture
def disk():
    return Disk()


def start(where, disk, **options):
    log = DirectoryLog(where, files=disk, **options)
    try:
        list(log.open(NOW))
    except BaseException:
        log.abandon()
        raise
    return log


def ids_in(where):
    return [getattr(record.event, "id", type(record.event).__name__) for record in records_in(where)]


# --- the proof that there is a log ------------------------------------------------------------------------------------


def test_a_queue_opens_if_there_is_no_room_for_the_proof_that_it_was_begun(where, disk):
    disk.fail, disk.error, disk.after = "create", errno.ENOSPC, 1  # after the segment
    start(where, disk).abandon()
    assert not (where / "begun").exists()
    disk.fail = None
    start(where, disk).abandon()
    assert (where / "begun").exists(), "the next opening makes it"


def test_a_disk_that_fails_to_make_the_proof_refuses_the_opening(where, disk):
    disk.fail, disk.after = "create", 1
    with pytest.raises(OSError, match="Input/output"):
        start(where, disk)


# --- no free descriptors ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def free_descriptors(count):
    """Leave this process as many free descriptors, and no more."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(old[0], taken[0] + 100), old[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for fd in [taken.pop() for _ in range(count)]:
            os.close(fd)
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


@pytest.mark.parametrize("rotates", [True, False])
@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_process_without_free_descriptors_keeps_its_queue_when_a_segment_is_due(where, free, rotates):
    log = start(where, OS_FILES, segment_bytes=4096)
    log.rotates = rotates
    with free_descriptors(free):
        for number in range(40):
            put(log, added(f"a{number}"))
            if not rotates and (rotation := log.rotation()) is not None:
                run_here(rotation)
    assert (len(segments(where)) > 1) == (free == 2), "the directory and the new file take one each"
    put(log, added("b"))
    if not rotates and (rotation := log.rotation()) is not None:
        run_here(rotation)
    assert len(segments(where)) > 1, "the next write tries again"
    log.close(NOW)
    assert ids_in(where) == [*(f"a{number}" for number in range(40)), "b", "LogClosed"]


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_a_reserve_that_cannot_be_opened_for_want_of_descriptors_refuses_and_breaks_nothing(where, disk, error):
    log = start(where, disk, reserve_bytes=1 << 20)
    disk.room = 0
    disk.fail, disk.error = "append", error
    with pytest.raises(StorageFull):
        put(log, TicketDone("a"))
    disk.fail = None
    put(log, TicketDone("a"))
    disk.room = 2 << 20
    disk.fail = "append"
    with pytest.raises(StorageFull, match="reserve"):
        put(log, added("b"))
    disk.fail = None
    put(log, added("b"))
    log.close(NOW)
    assert ids_in(where) == ["a", "b", "LogClosed"]


# --- the reserve ------------------------------------------------------------------------------------------------------


def test_the_reserve_has_room_of_its_own(where):
    log = DirectoryLog(where, reserve_bytes=1 << 20)
    list(log.open(NOW))
    found = (where / "reserve").stat()
    assert found.st_size == 1 << 20
    assert found.st_blocks * 512 >= 1 << 20
    assert found.st_mode & 0o777 == 0o600
    log.close(moment(1))
    assert (where / "reserve").exists()  # for the next opening, should the disk be full then


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("room", [0, 1, 200])
def test_what_ends_something_is_written_from_the_reserve_and_nothing_else(where, disk, room, error):
    log = start(where, disk, reserve_bytes=1 << 20)
    put(log, added("a"), added("b"), added("c"))
    disk.room, disk.no_room = room, error
    log.append([added("d")], NOW, "ann")
    with pytest.raises(StorageFull, match="Make room: what was refused"):
        log.write()
    assert (where / "reserve").stat().st_size == 1 << 20, "adding is not worth the reserve"
    put(log, TicketDone("a"))
    assert (where / "reserve").stat().st_size == (1 << 20) - PIECE, "a piece of it is given up, and not all"
    put(log, TicketDone("b"))
    assert (where / "reserve").stat().st_size == (1 << 20) - PIECE
    log.close(moment(1))
    assert ids_in(where) == ["a", "b", "c", "a", "b", "LogClosed"]


def test_nothing_is_begun_before_the_reserve_is_whole_again(where, disk):
    log = start(where, disk, reserve_bytes=1 << 20)
    put(log, added("a"))
    disk.room = 10
    put(log, TicketDone("a"))
    disk.room = PIECE - 1000  # room enough for an add, but not for the reserve as well
    left = (where / "reserve").stat().st_size
    log.append([added("b")], NOW, "ann")
    with pytest.raises(StorageFull, match="reserve"):
        log.write()
    assert (log.seq, log.written) == (2, 2)
    assert (where / "reserve").stat().st_size == left, "a failed allocation is taken back"
    disk.room = 1 << 30
    put(log, added("c"))
    assert (where / "reserve").stat().st_size == 1 << 20
    log.abandon()
    assert ids_in(where) == ["a", "a", "c"]


def test_a_reserve_is_used_up_at_last(where, disk):
    log = start(where, disk, reserve_bytes=PIECE + 1)
    put(log, *(added(str(number)) for number in range(500)))
    disk.room = 0
    settled = 0
    with contextlib.suppress(StorageFull):
        for number in range(500):
            put(log, TicketDone(str(number)))
            settled += 1
    assert 300 < settled < 500
    assert (where / "reserve").stat().st_size == 0
    assert log.seq == log.written == 500 + settled
    log.close(moment(1))  # has no room either, and needs none
    assert len(records_in(where)) == 500 + settled


def test_without_room_for_a_reserve_it_opens_and_takes_only_what_ends_something(where, disk):
    log = start(where, disk)
    put(log, added("a"))
    log.close(moment(1))
    disk.room = 4000
    log = start(where, disk, reserve_bytes=1 << 20)
    log.append([added("b")], NOW, "ann")
    with pytest.raises(StorageFull):
        log.write()
    put(log, TicketDone("a"))
    log.abandon()


def test_a_disk_without_an_inode_for_the_reserve(where, disk):
    sample(where, closed=True)
    disk.fail, disk.error = "create", errno.ENOSPC
    log = start(where, disk, reserve_bytes=1 << 20)
    put(log, TicketDone("a"))
    log.append([added("b")], NOW, "ann")
    with pytest.raises(StorageFull):
        log.write()
    log.abandon()


@pytest.mark.parametrize("name", ["create", "append", "allocate"])
def test_a_reserve_that_fails_otherwise_is_a_broken_disk(where, disk, name):
    log = start(where, disk, reserve_bytes=PIECE)
    put(log, added("a"))
    log.abandon()
    disk = Disk()
    if name == "create":
        (where / "reserve").unlink()
    reserve = Reserve(disk, where / "reserve", 2 * PIECE)
    disk.fail = name
    with pytest.raises(OSError, match="Input/output"):
        reserve.fill()


def test_a_reserve_that_cannot_be_made_whole_for_another_reason_ends_the_log(where, disk):
    log = start(where, disk, reserve_bytes=1 << 20)
    put(log, added("a"))
    disk.room = 0
    put(log, TicketDone("a"))
    disk.room, disk.fail = 1 << 30, "allocate"
    log.append([added("b")], NOW, "ann")
    with pytest.raises(OSError, match="Input/output error"):
        log.write()
    poisoned(log)
    log.abandon()


def test_a_reserve_that_cannot_be_given_up_ends_the_log(where, disk):
    log = start(where, disk, reserve_bytes=1 << 20)
    put(log, added("a"))
    log.append([TicketDone("a")], NOW, "ann")
    disk.room, disk.fail, disk.after = 0, "truncate", 1  # the first one takes back what was written
    with pytest.raises(OSError, match="Input/output error"):
        log.write()
    poisoned(log)
    log.abandon()
    assert ids_in(where) == ["a"]


def test_every_event_is_known_to_end_something_or_not():
    """Whoever adds an event decides: this list is here to make them."""
    growing = {"TicketAdded", "TicketClaimed", "LeaseExtended", "TicketRestarted", "TicketUpdated"}
    growing |= {"TubePaused", "TubeResumed", "TubeLimited"}
    growing |= {"ScheduleSet", "ScheduleFired", "ScheduleSkipped", "ScheduleRemoved"}
    assert {name for name, event in EVENTS.items() if not event.ends} == growing


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_where_nothing_can_be_allocated_it_is_written(tmp_path, monkeypatch, error):
    if error is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:

        def refuse(*_args):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = OS_FILES.create(tmp_path / "reserve")
    file.write(b"x" * 5)
    file.allocate(100_000)
    file.allocate(50_000)
    assert file.size() == 100_000
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 98_304
    file.close()


def test_an_allocation_that_fails_is_not_made_up_for_by_writing(tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = OS_FILES.create(tmp_path / "reserve")
    with pytest.raises(OSError, match="no room"):
        file.allocate(100_000)
    assert file.size() == 0
    file.close()


def test_a_write_that_writes_nothing_does_not_go_on_for_ever(where, monkeypatch):
    log, _ = opened(where)
    log.append([added("a")], NOW, "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda _fd, _data: 0)
        with pytest.raises(OSError, match="wrote nothing"):
            log.write()
    log.abandon()


def test_the_lock_needs_no_room_of_its_own(tmp_path, monkeypatch):
    """The holder is written over what stands there: had that been cut first, its block could be gone."""
    (tmp_path / "LOCK").write_text("123456789\n")
    sizes = []
    pwrite = os.pwrite

    def see(fd, data, offset):
        sizes.append(os.fstat(fd).st_size)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", see)
    OS_FILES.lock(tmp_path / "LOCK", b"1\n").release()
    assert sizes == [10]
    assert (tmp_path / "LOCK").read_bytes() == b"1\n"


# --- poisoned for good ------------------------------------------------------------------------------------------------


def poisoned(log):
    for use in (log.sync, log.write):
        log.append([added("late")], NOW, "ann")
        if use == log.sync and log.durable == log.written:
            continue
        with pytest.raises(OSError, match="the log is not open"):
            use()


def write_and_sync(log):
    log.write()
    log.sync()


@pytest.mark.parametrize(
    ("call", "error"), [("write", errno.EIO), ("sync", errno.EIO), ("sync", errno.ENOSPC), ("sync", errno.EDQUOT)]
)
def test_a_failed_write_or_sync_ends_the_log(where, disk, call, error):
    log = start(where, disk)
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    disk.fail, disk.error = call, error
    with pytest.raises(OSError, match=os.strerror(error)) as caught:
        write_and_sync(log)
    assert caught.value.errno == error
    assert not isinstance(caught.value, StorageFull)
    disk.fail = None
    poisoned(log)
    log.abandon()


def rotating(where, disk):
    """A log whose next write fills its tail; return it and the operations that this write does."""
    log = DirectoryLog(where, 4096, disk)
    list(log.open(NOW))
    put(log, added("a"))
    disk.calls.clear()
    log.append([added("b", b'"%b"' % (b"x" * 5000))], moment(1), "ann")
    return log


def test_a_rotation_does_all_of_these(where, disk):
    log = rotating(where, disk)
    log.write()
    names = ["write", "sync", "create", "write", "sync", "rename", "sync_directory", "write", "sync"]
    assert disk.calls == names
    log.abandon()


@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 7, 8])
def test_eio_once_a_rotation_wrote_to_the_log_or_synced_ends_the_log(where, step):
    probe = Disk()
    log = rotating(where.with_name("probe"), probe)
    log.write()
    log.abandon()
    disk = Disk()
    log = rotating(where, disk)
    disk.fail = probe.calls[step]
    disk.after = probe.calls[:step].count(disk.fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        log.write()
    assert not isinstance(caught.value, StorageFull)
    assert len(disk.calls) == step + 1, "nothing is done after it"
    disk.fail = None
    poisoned(log)
    log.abandon()
    assert [id for id in ids_in(where) if id != "TailCut"] == (["a", "b"] if step else ["a"])


@pytest.mark.parametrize(
    ("step", "error"), [*((step, errno.ENOSPC) for step in (2, 3, 5)), (2, errno.EIO), (3, errno.EIO)]
)
def test_a_rotation_that_cannot_make_the_new_segment_is_tried_again(where, step, error):
    probe = Disk()
    log = rotating(where.with_name("probe"), probe)
    log.write()
    log.abandon()
    disk = Disk()
    log = rotating(where, disk)
    disk.fail, disk.error = probe.calls[step], error
    disk.after = probe.calls[:step].count(disk.fail)
    log.write()
    assert len(segments(where)) == 1
    disk.fail = None
    put(log, added("c"), at=2)
    assert len(segments(where)) == 2
    log.close(moment(3))
    assert ids_in(where) == ["a", "b", "c", "LogClosed"]


@pytest.mark.parametrize(("call", "after"), [("sync", 0), ("sync", 1), ("sync_directory", 0), ("sync", 2)])
def test_a_sync_that_fails_in_a_rotation_ends_the_log_even_for_lack_of_room(where, disk, call, after):
    """Of the tail, of the new segment, of its name (it has it already; whether it will keep it is not known), the seal.

    A failed sync is final, whatever it says: nothing is tried again.
    """
    log = rotating(where, disk)
    disk.fail, disk.error, disk.after = call, errno.ENOSPC, after
    with pytest.raises(OSError, match="No space") as caught:
        log.write()
    assert not isinstance(caught.value, StorageFull)
    poisoned(log)
    log.abandon()


def full_after_a_rename(disk):
    """Leave room for the new segment, and none for the seal of the one in front of it."""
    rename = disk.rename

    def fill_up(old, new):
        rename(old, new)
        disk.room = 10

    disk.rename = fill_up


def test_a_seal_may_use_the_reserve(where, disk):
    log = DirectoryLog(where, 4096, disk, reserve_bytes=1 << 20)
    list(log.open(NOW))
    log.append([added("b", b'"%b"' % (b"x" * 5000))], moment(1), "ann")
    full_after_a_rename(disk)
    log.write()
    assert len(segments(where)) == 2
    assert (where / "reserve").stat().st_size == (1 << 20) - PIECE
    log.abandon()
    assert kharon.verify(where).segments == 2


def test_a_seal_that_found_no_room_comes_before_the_next_record(where):
    disk = Disk()
    log = rotating(where, disk)
    full_after_a_rename(disk)
    log.write()
    first, second = segments(where)
    for room in (10, 20):  # neither is room for the seal
        disk.room = room
        log.append([TicketDone("a")], moment(2), "ann")
        with pytest.raises(StorageFull):
            log.write()
        assert second.read_bytes().count(b"\n") == 1
        assert b'"sealed"' not in first.read_bytes()
        assert first.read_bytes().endswith(b"\n"), "what was written of the seal is taken back"
    disk.room = 1 << 30
    disk.calls.clear()
    put(log, TicketDone("a"), at=3)
    assert disk.calls == ["write", "sync", "write", "sync"]
    log.abandon()
    assert kharon.verify(where).segments == 2


def test_a_seal_whose_sync_fails_later_ends_the_log_whatever_the_error_says(where):
    disk = Disk()
    log = rotating(where, disk)
    full_after_a_rename(disk)
    log.write()
    disk.room, disk.fail, disk.error = 1 << 30, "sync", errno.ENOSPC
    log.append([TicketDone("a")], moment(2), "ann")
    with pytest.raises(OSError, match="No space") as caught:
        log.write()
    assert not isinstance(caught.value, StorageFull)
    disk.fail = None
    poisoned(log)
    log.abandon()
    assert ids_in(where) == ["a", "b"]


def test_what_found_no_room_is_gone_after_a_crash_too(where, disk):
    log = start(where, disk)
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    disk.room = 200
    disk.calls.clear()
    with pytest.raises(StorageFull):
        log.write()
    assert disk.calls == ["write", "truncate", "sync"]
    log.append([added("c")], NOW, "ann")
    disk.fail, disk.error = "sync", errno.ENOSPC
    with pytest.raises(OSError, match="No space") as caught:
        log.write()
    assert not isinstance(caught.value, StorageFull), "nobody may be told that nothing of it is kept"
    disk.fail = None
    poisoned(log)
    log.abandon()


def test_no_segment_is_begun_while_the_reserve_is_in_use(where, disk):
    log = DirectoryLog(where, 4096, disk, reserve_bytes=1 << 20)
    list(log.open(NOW))
    put(log, *(added(str(number)) for number in range(10)))
    disk.room = 100
    for number in range(10):
        put(log, TicketDone(str(number), result_json=b'"%b"' % (b"x" * 500)))
    assert len(segments(where)) == 1
    disk.room = 1 << 30
    put(log, added("more"))
    assert len(segments(where)) == 2
    log.abandon()


def test_bytes_that_cannot_be_taken_back_are_never_said_to_be(where, disk):
    log = start(where, disk)
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    disk.room, disk.fail, disk.error = 10, "truncate", errno.ENOSPC
    with pytest.raises(OSError, match="a partial write cannot be cut off: No space") as caught:
        log.write()
    assert not isinstance(caught.value, StorageFull)
    poisoned(log)
    log.abandon()


# --- directories that should not be trusted ---------------------------------------------------------------------------


def refused(where, disk, *words):
    with pytest.raises(KharonError) as caught:
        start(where, disk)
    assert type(caught.value) is KharonError
    for word in (str(where), *words):
        assert word in str(caught.value), caught.value


@pytest.mark.parametrize("name", ["queue", "log", "LOCK"])
def test_what_belongs_to_another_user_is_refused(where, disk, name):
    sample(where, closed=True)
    disk.uid = 1000
    everything = {
        "queue": Permissions(False, 1000, 0o700),
        "log": Permissions(False, 1000, 0o700),
        "LOCK": Permissions(False, 1000, 0o600),
        "begun": Permissions(False, 1000, 0o600),
    }
    disk.looks = everything | {name: Permissions(False, 1001, 0o700)}
    refused(where, disk, name, "belongs to user 1001", "acts for user 1000", "chown")
    disk.uid = 0  # root in a container
    start(where, disk).abandon()
    disk.uid, disk.looks = 1000, everything
    start(where, disk).abandon()


def test_a_volume_of_a_group_is_used_if_that_is_allowed(where, disk):
    """A Kubernetes volume with an fsGroup, when a pod starts again: root's, and all of it writable for a group."""
    sample(where, closed=True)
    disk.uid = 1000
    disk.looks = {
        "queue": Permissions(False, 0, 0o2775),
        "log": Permissions(False, 1000, 0o2770),
        "LOCK": Permissions(False, 1001, 0o660),
        "begun": Permissions(False, 1000, 0o660),
    }
    refused(where, disk, "belongs to user 0", "Settings(allow_group_access=True)")
    disk.looks["queue"] = Permissions(False, 1000, 0o2775)
    refused(where, disk, "mode 2775", "Settings(allow_group_access=True)")
    disk.looks["queue"] = Permissions(False, 0, 0o2775)
    start(where, disk, allow_group_access=True).abandon()
    for look in (Permissions(False, 0, 0o2755), Permissions(False, 0, 0o2777), Permissions(False, 1000, 0o777)):
        disk.looks["queue"] = look
        with pytest.raises(KharonError, match=r"belongs to user 0|may be written by others"):
            start(where, disk, allow_group_access=True)


async def test_a_queue_in_a_directory_that_its_group_may_write(where):
    where.mkdir()
    where.chmod(0o2770)
    with pytest.raises(KharonError, match=r"allow_group_access=True"):
        async with kharon.open(where):
            pass
    settings = kharon.Settings(allow_group_access=True)
    for _ in range(2):
        async with kharon.open(where, settings) as kh:
            await kh.add(kharon.Ticket("a", "t"))
        for path in (where, *where.rglob("*")):  # the kubelet does this when the pod starts again
            path.chmod(path.stat().st_mode | (0o2070 if path.is_dir() else 0o060))
    segment = min(segments(where))
    segment.write_bytes(segment.read_bytes().replace(b'"type":"t"', b'"type":"u"'))
    with pytest.raises(KharonError):
        kharon.verify(where)
    assert kharon.repair(where, confirm=True).done, "what could be opened can be repaired"


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702])
@pytest.mark.parametrize("name", ["queue", "log"])
def test_what_others_may_write_is_refused(where, disk, name, mode, uid):
    sample(where, closed=True)
    disk.uid = uid
    everything = {each: Permissions(False, uid, 0o700) for each in ("queue", "log", "LOCK", "begun")}
    disk.looks = everything | {name: Permissions(False, uid, mode)}
    refused(where, disk, f"mode 0{mode:o}", "chmod go-w")


@pytest.mark.parametrize("mode", [0o770, 0o1777, 0o2770])
def test_a_real_directory_that_others_may_write_is_refused(where, mode):
    where.mkdir()
    where.chmod(mode)
    refused(where, OS_FILES, f"mode {mode:04o}", "chmod go-w")
    assert list(where.iterdir()) == []
    log, _ = opened(where / "inside")  # the remedy that it names
    log.abandon()


@pytest.mark.parametrize("name", ["LOCK", "index", "log", "quarantine", "snapshots", "reserve", "begun"])
def test_a_link_inside_of_the_queue_is_refused(where, tmp_path, name):
    sample(where, closed=True)
    if (where / name).exists():
        (where / name).rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").mkdir()
    (where / name).symlink_to(tmp_path / "elsewhere")
    refused(where, OS_FILES, str(where / name), "is a symbolic link", "somebody else put it there")


def test_a_tail_that_is_a_link_is_not_followed(where, tmp_path):
    sample(where, closed=True)
    segment_of(where).rename(tmp_path / "elsewhere")
    segment_of_name = where / "log" / FIRST_NAME
    segment_of_name.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").stat()
    with pytest.raises(OSError, match=FIRST_NAME):
        opened(where)
    assert (tmp_path / "elsewhere").stat().st_mtime_ns == before.st_mtime_ns, "nothing is written through the link"


def test_opening_by_a_snapshot_asks_the_same(where, disk):
    sample(where, closed=True)
    for name, value in {"type": "nfs", "read_only": True, "locks": False}.items():
        disk = Disk()
        setattr(disk, name, value)
        log = DirectoryLog(where, files=disk)
        with pytest.raises(KharonError, match=r"network file system|cannot be written|no flock"):
            log.load_snapshot()
        log.abandon()


def test_a_lock_that_became_a_link_is_not_followed(tmp_path):
    (tmp_path / "LOCK").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="LOCK"):
        OS_FILES.lock(tmp_path / "LOCK", b"1\n")
    assert not (tmp_path / "elsewhere").exists()


def test_links_above_the_queue_are_the_users_business(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    sample(tmp_path / "link" / "queue", closed=True)
    assert ids_in(tmp_path / "home" / "queue")[-1] == "LogClosed"


def test_a_link_to_the_queue_is_followed_if_it_is_the_users_own(where, tmp_path, disk):
    sample(tmp_path / "real", closed=True)
    where.symlink_to(tmp_path / "real")
    assert ids_in(where)[-1] == "LogClosed"
    (tmp_path / "real").chmod(0o777)
    refused(where, OS_FILES, "mode 0777")
    (tmp_path / "real").chmod(0o700)
    disk.uid, disk.looks = 1000, {where.name: Permissions(True, 1001, 0o777)}
    refused(where, disk, "a symbolic link that user 1001 made", "Name the directory that it leads to")


def test_a_root_made_link_is_followed(where, tmp_path):
    class Rooted(Disk):
        def permissions(self, path, *, follow=False):
            found = super().permissions(path, follow=follow)
            return found and found._replace(owner=0 if found.link else 1000)

    sample(tmp_path / "real", closed=True)
    where.symlink_to(tmp_path / "real")
    disk = Rooted()
    disk.uid = 1000
    start(where, disk).abandon()


def test_a_read_only_directory_is_refused(where, disk):
    sample(where, closed=True)
    disk.read_only = True
    refused(where, disk, "cannot be written by this process", "chmod u+rwx", "kharon.read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write in any directory")
def test_a_really_read_only_directory_is_refused(where):  # pragma: no cover - not as root
    sample(where, closed=True)
    where.chmod(0o500)
    try:
        refused(where, OS_FILES, "cannot be written")
    finally:
        where.chmod(0o700)


# --- other writers ----------------------------------------------------------------------------------------------------


def remove(where):
    shutil.rmtree(where)


def rename(where):
    where.rename(where.with_name("moved"))


def exchange(where):
    rename(where)
    shutil.copytree(where.with_name("moved"), where)


def turn_link(where):
    rename(where)
    shutil.copytree(where.with_name("moved"), where.with_name("other"))
    where.symlink_to(where.with_name("other"))


def replace_segment(where):
    segment = segment_of(where)
    data = segment.read_bytes()
    segment.unlink()
    segment.with_name("x").write_bytes(b"so that no inode is used again")
    segment.write_bytes(data)


def grow(where):
    with segment_of(where).open("ab") as file:
        file.write(b"x")


def shrink(where):
    os.truncate(segment_of(where), segment_of(where).stat().st_size - 1)


@pytest.mark.parametrize(
    ("happening", "words"),
    [
        (remove, "it is gone"),
        (rename, "it is gone"),
        (exchange, "exchanged"),
        (turn_link, "exchanged"),
        (replace_segment, "exchanged"),
        (grow, "something else writes it"),
        (shrink, "something else writes it"),
    ],
)
def test_what_happens_to_an_open_log_is_noticed_before_the_next_write(where, happening, words):
    log, _ = opened(where)
    put(log, added("a"))
    happening(where)
    files = {path: path.read_bytes() for path in where.parent.rglob("*") if path.is_file()}
    log.append([added("b")], NOW, "ann")
    with pytest.raises(KharonError, match=words) as caught:
        log.write()
    assert FIRST_NAME in str(caught.value)
    assert "kharon.verify" in str(caught.value)
    with pytest.raises(OSError, match="the log is not open"):
        log.write()
    log.abandon()
    assert {path: path.read_bytes() for path in where.parent.rglob("*") if path.is_file()} == files


def test_a_second_writer_where_locks_lie(where):
    class Liar(OsFiles):
        def lock(self, path, holder):
            class Nothing:
                def release(self):
                    pass

            return Nothing()

    one, two = DirectoryLog(where, files=Liar()), DirectoryLog(where, files=Liar())
    list(one.open(NOW))
    put(one, added("a"))
    one.append([LogClosed()], NOW, "clock")  # so that the second does not begin with a recovery, which is a new inode
    one.write()
    one.sync()
    list(two.open(NOW))
    put(two, added("b"))
    one.append([added("c")], NOW, "ann")
    with pytest.raises(KharonError, match="something else writes it"):
        one.write()
    put(two, added("d"))
    for log in (one, two):
        log.abandon()
    assert ids_in(where) == ["a", "LogClosed", "b", "d"]


def test_rotation_and_recovery_leave_a_log_that_knows_its_tail(where):
    data = sample(where, closed=False)
    segment_of(where).write_bytes(data[:-5])
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    for number in range(60):
        put(log, added(str(number)))
    assert len(segments(where)) > 3
    log.close(moment(1))


# --- forks ------------------------------------------------------------------------------------------------------------

FORKER = """
import os, sys
from datetime import UTC, datetime
import kharon
from kharon.log.directory import DirectoryLog
from kharon.model.events import TicketDeleted
NOW = datetime(2026, 1, 1, tzinfo=UTC)

def put(log, id):
    log.append([TicketDeleted(id)], NOW, "ann")
    log.write()
    log.sync()

log = DirectoryLog(sys.argv[1])
list(log.open(NOW))
put(log, "a")
if os.fork() == 0:
    try:
        if sys.argv[2] == "write":
            put(log, "child")
        else:
            log.close(NOW)
    except kharon.Closed as closed:
        print(closed, flush=True)
    os._exit(0)
os.wait()
try:
    list(DirectoryLog(sys.argv[1]).open(NOW))
except kharon.QueueLocked:
    print("still locked", flush=True)
put(log, "b")
log.close(NOW)
"""


@pytest.mark.parametrize("use", ["write", "close"])
def test_a_forked_child_is_refused_and_does_not_hurt_its_parent(where, use):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(where), use],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
        timeout=60,
    )
    assert ("forked from it: the queue is the parent's" in done.stdout) == (use == "write")
    assert "still locked" in done.stdout
    assert ids_in(where) == ["a", "b", "LogClosed"]


def test_a_fake_fork(where, disk):
    log = start(where, disk)
    put(log, added("a"))
    disk.pid = 12345678
    log.append([added("b")], NOW, "ann")
    with pytest.raises(Closed, match="and this is process 12345678, forked from it"):
        log.write()
    assert ids_in(where) == ["a"]


# --- systems ----------------------------------------------------------------------------------------------------------


def full_sync(monkeypatch, answer):
    """Make this a macOS; return what is synced how."""
    calls = []

    def call(fd, command):
        assert command == 51
        calls.append("full")
        if answer is not None:
            raise OSError(answer, os.strerror(answer))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", call)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: calls.append("fdatasync"))
    monkeypatch.setattr(os, "fsync", lambda _fd: calls.append("fsync"))
    return calls


def test_macos_syncs_through_the_drives_cache(where, monkeypatch):
    log, _ = opened(where)
    calls = full_sync(monkeypatch, None)
    put(log, added("a"))
    assert calls == ["full"]
    OS_FILES.sync_directory(where)
    assert calls == ["full", "full"]
    log.abandon()


def test_a_file_system_that_does_not_know_the_full_sync_gets_the_other(where, monkeypatch):
    log, _ = opened(where)
    calls = full_sync(monkeypatch, errno.ENOTSUP)
    put(log, added("a"))
    OS_FILES.sync_directory(where)
    assert calls == ["full", "fdatasync", "full", "fsync"]
    log.abandon()


def test_a_full_sync_that_failed_is_not_made_up_for_by_a_weaker_one(where, monkeypatch):
    log, _ = opened(where)
    with monkeypatch.context() as patch:
        calls = full_sync(patch, errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            put(log, added("a"))
        assert calls == ["full"]
    log.abandon()


@pytest.mark.parametrize("allow", [False, True])
def test_where_there_is_no_flock_nothing_is_opened(where, disk, allow):
    disk.locks = False
    with pytest.raises(KharonError, match="has no flock"):
        start(where, disk, allow_network_filesystem=allow)
    assert not where.exists()


@pytest.mark.parametrize("module", [None, "without flock"])
def test_flock_is_looked_for(monkeypatch, module):
    assert OS_FILES.can_lock()
    if module is None:
        monkeypatch.setattr(kharon.log.files, "fcntl", None)
    else:
        monkeypatch.delattr(fcntl, "flock")
    assert not OS_FILES.can_lock()


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph"])
def test_a_network_file_system_is_refused_unless_told_otherwise(where, disk, kind):
    disk.type = kind
    with pytest.raises(KharonError, match=rf"network file system \({kind}\).*allow_network_filesystem=True"):
        start(where, disk)
    assert not where.exists()
    start(where, disk, allow_network_filesystem=True).abandon()
    with pytest.raises(KharonError, match="network file system"):
        start(where, disk)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse.gocryptfs", "apfs", None])
def test_a_local_file_system_is_not_refused(where, disk, kind):
    disk.type = kind
    start(where, disk).abandon()


MOUNTS = r"""/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /srv/data nfs4 rw 0 0
/dev/vdb /srv/data/local xfs rw 0 0
me@host: /srv/my\040files fuse.sshfs rw 0 0
one /twice ext4 rw 0 0
two /twice cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv", "ext4"),
        ("/srv/database", "ext4"),
        ("/srv/data", "nfs4"),
        ("/srv/data/queue", "nfs4"),
        ("/srv/data/local/queue", "xfs"),
        ("/srv/my files/queue", "fuse.sshfs"),
        ("/twice/queue", "cifs"),
    ],
)
def test_the_mount_that_a_path_is_on(path, kind):
    assert file_system_of(path, MOUNTS) == kind
    assert file_system_of(path, "") is None


def test_the_file_system_here(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("/proc")
    if Path("/proc/self/mounts").exists():
        assert OS_FILES.file_system(tmp_path / "link") == "proc"

    def refuse(*_args, **_options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert OS_FILES.file_system(tmp_path) is None


def test_what_is_not_there_has_neither_look_nor_mark(tmp_path):
    assert OS_FILES.permissions(tmp_path / "nothing") is None
    assert OS_FILES.identity(tmp_path / "nothing") is None


def test_a_reserve_that_cannot_be_opened_for_another_reason_breaks_the_log(where, disk):
    log = start(where, disk, reserve_bytes=1 << 20)
    disk.room = 0
    disk.fail, disk.error = "append", errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        put(log, TicketDone("a"))
    log.abandon()
