from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from log_steps import (
    FIRST_NAME,
    NOW,
    added,
    chained,
    hash_of,
    header_body,
    moment,
    opened,
    place,
    put,
    read_from,
    record_body,
    records_in,
    sample,
    segment_of,
    two_segments,
)

import kharon
from kharon.errors import CorruptLog, KharonError, QueueLocked, StorageFull, UnknownFormat
from kharon.log import files as files_module
from kharon.log.directory import DirectoryLog, segments
from kharon.log.record import Chain
from kharon.model.events import LogClosed
from kharon.testing import check_log


@pytest.fixture
def log(where):
    """An open log in `where`, abandoned at the end."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    yield log
    log.abandon()


def ids_in(where: Path) -> list[str]:
    return [getattr(record.event, "id", type(record.event).__name__) for record in records_in(where)]


def test_it_is_a_log(tmp_path):
    numbers = itertools.count()
    last = tmp_path

    def make() -> DirectoryLog:
        nonlocal last
        last = tmp_path / str(next(numbers))
        return DirectoryLog(last)

    check_log(make, lambda: DirectoryLog(last))


# --- what is on the disk ----------------------------------------------------------------------------------------------


def test_the_files_of_a_new_queue(where, log):
    assert sorted(path.name for path in where.iterdir()) == ["LOCK", "begun", "log"]
    assert [path.name for path in segments(where)] == [FIRST_NAME]
    assert (where / "LOCK").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("proof", ["snapshots", "ARCHIVE", "quarantine", "index", "reserve", "begun"])
def test_a_queue_whose_segments_were_moved_away_does_not_open_as_an_empty_one(where, tmp_path, proof):
    sample(where, closed=True)
    (segment,) = segments(where)
    segment.rename(tmp_path / segment.name)
    (where / "begun").unlink()  # as in a queue of an earlier version
    if proof in {"ARCHIVE", "reserve", "begun"}:
        (where / proof).touch()
    else:
        (where / proof).mkdir()
    for _ in range(2):
        with pytest.raises(CorruptLog, match=rf"its segments are gone: .*\({proof}\). Put them back"):
            opened(where)
    assert segments(where) == []
    (tmp_path / segment.name).rename(segment)
    (where / "ARCHIVE").unlink(missing_ok=True)
    log, records = opened(where)
    log.abandon()
    assert records, "once they are back it opens"


def test_an_archive_that_was_made_beforehand_is_no_proof(where):
    """A disk may be mounted there before the queue is opened for the first time."""
    (where / "archive").mkdir(parents=True)
    where.chmod(0o700)
    log, records = opened(where)
    log.abandon()
    assert records == []


def test_every_queue_keeps_a_proof_that_it_was_begun(where, tmp_path):
    sample(where, closed=True)
    (where / "begun").unlink()
    opened(where)[0].abandon()  # an earlier version made it: the proof is made now
    (where / "log").rename(tmp_path / "log")
    with pytest.raises(CorruptLog, match=r"a log was begun here \(begun\)"):
        opened(where)


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        f"._{FIRST_NAME}",
        f".{FIRST_NAME}.swp",
        f".syncthing.{FIRST_NAME}.tmp",
        f".{FIRST_NAME}.zst",
        f"{FIRST_NAME}~",
        f"{FIRST_NAME}.bak",
        f"#{FIRST_NAME}#",
        "notes.txt",
    ],
)
def test_files_in_the_log_that_cannot_be_segments_are_left_alone_with_a_warning(where, caplog, name):
    sample(where, closed=True)
    before = records_in(where)
    (where / "log" / name).write_bytes(b"\0not ours")
    caplog.clear()
    log, records = opened(where)
    assert records == before
    assert [(each.levelname, name in each.getMessage()) for each in caplog.records] == [("WARNING", True)]
    put(log, added("z"))
    log.close(NOW)
    assert kharon.verify(where).records == len(records_in(where))
    assert kharon.repair(where).damage is None
    assert (where / "log" / name).read_bytes() == b"\0not ours"


@pytest.mark.parametrize(
    "name",
    [
        FIRST_NAME.replace(".jsonl", " (conflicted copy).jsonl"),
        FIRST_NAME.replace(".jsonl", ".sync-conflict-20260101-120000-ABCDEFG.jsonl"),
        "1.jsonl",
        f"copy of {FIRST_NAME}",
        FIRST_NAME.replace(".jsonl", "~.jsonl.zst"),
    ],
)
@pytest.mark.parametrize(
    "use", [opened, kharon.verify, kharon.repair, kharon.replay, lambda path: list(kharon.read(path))]
)
def test_a_file_that_could_be_a_segment_is_named_with_what_to_do(where, name, use):
    sample(where, closed=True)
    stray = where / "log" / name
    stray.write_bytes(segment_of(where).read_bytes())
    with pytest.raises(CorruptLog, match=rf"move it out of {where / 'log'}; if it is a segment") as caught:
        use(where)
    assert caught.value.file == str(stray)
    stray.rename(where.parent / name)
    log, _ = opened(where)
    log.abandon()


def test_the_segment_holds_a_header_and_the_lines_of_a_chain(where, log):
    put(log, added("a"), added("b"))
    put(log, added("c"))
    header, *lines = segment_of(where).read_bytes().splitlines(keepends=True)
    chain = Chain()
    assert chain.header(header[header.index(b'"log":"') + 7 :][:32].decode(), NOW) == header
    assert lines == [
        *chain.commit([added("a"), added("b")], NOW, "ann", 0),
        *chain.commit([added("c")], NOW, "ann", 2),
    ]


def test_each_log_has_its_own_id(tmp_path):
    headers = [sample(tmp_path / name, closed=False).splitlines()[0] for name in ("one", "two")]
    assert headers[0] != headers[1]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        where = tmp_path / "queue"
        data = sample(where, closed=False)
        (where / "log" / FIRST_NAME).write_bytes(data[:-5])
        records_in(where)  # recovers: a new tail, and something in quarantine
    finally:
        os.umask(before)
    everything = [where, *where.rglob("*")]
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in everything}
    kept = f"queue/quarantine/{FIRST_NAME.removesuffix('.jsonl')}-"
    assert {name for name, mode in modes.items() if mode == 0o700} == {"queue", "queue/log", "queue/quarantine"}
    files = {name for name, mode in modes.items() if mode == 0o600}
    assert {name.rstrip("0123456789") if name.startswith(kept) else name for name in files} == {
        "queue/LOCK",
        "queue/begun",
        f"queue/log/{FIRST_NAME}",
        kept,
    }
    assert len(modes) == 7


def test_a_directory_that_the_user_made_is_taken_as_it_is(where):
    where.mkdir(mode=0o755)
    assert sample(where, closed=False)
    assert stat.S_IMODE(where.stat().st_mode) == 0o755


# --- one opener -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["close", "abandon"])
def test_the_lock_is_given_up_and_never_unlinked(where, leave):
    log, _ = opened(where)
    inode = (where / "LOCK").stat().st_ino
    with pytest.raises(QueueLocked):
        opened(where)
    if leave == "close":
        log.close(moment(1))
    else:
        log.abandon()
    assert (where / "LOCK").stat().st_ino == inode
    assert records_in(where) == []
    assert (where / "LOCK").stat().st_ino == inode


def test_a_second_opener_in_this_process_is_told_who_has_it(where, log):
    second = DirectoryLog(where)
    with pytest.raises(QueueLocked, match=rf"in process {os.getpid()}, which is this one"):
        list(second.open(NOW))
    second.abandon()
    put(log, added("a"))
    with pytest.raises(QueueLocked):
        opened(where)
    assert len(read_from(log)) == 1


OPENER = """
import sys
from datetime import UTC, datetime
from kharon.errors import QueueLocked
from kharon.log.directory import DirectoryLog
log = DirectoryLog(sys.argv[1])
try:
    list(log.open(datetime(2026, 1, 1, tzinfo=UTC)))
except QueueLocked as locked:
    print(locked, flush=True)
else:
    print("opened", flush=True)
    sys.stdin.read()  # and dies with the lock
"""


def start_opener(where: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-c", OPENER, str(where)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_an_opener_in_another_process_is_told_who_has_it(where, log):
    with start_opener(where) as other:
        said, _ = other.communicate()
    assert f"in process {os.getpid()} (this is process {other.pid})" in said


def test_another_process_has_it_until_it_dies(where):
    with start_opener(where) as other:
        assert other.stdout.readline() == "opened\n"
        with pytest.raises(QueueLocked, match=f"in process {other.pid} "):
            opened(where)
        other.kill()
        other.communicate()
    assert records_in(where) == []


def test_a_lock_whose_holder_has_not_yet_said_its_name(where, log):
    (where / "LOCK").write_bytes(b"")
    with pytest.raises(QueueLocked, match="in process unknown"):
        opened(where)


@pytest.mark.parametrize("name", ["flock", "pwrite"])
def test_a_lock_that_cannot_be_taken_leaves_nothing_open(where, monkeypatch, name):
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    with monkeypatch.context() as patch:
        patch.setattr(f"kharon.log.files.{'fcntl' if name == 'flock' else 'os'}.{name}", refuse)
        log = DirectoryLog(where)
        with pytest.raises(OSError, match="no locks"):
            list(log.open(NOW))
    assert records_in(where) == []  # without having abandoned the first


# --- directories that are not a queue ---------------------------------------------------------------------------------


def test_a_file_is_no_queue(where):
    where.write_text("mine")
    with pytest.raises(KharonError, match=r"queue is a file; a queue is a directory"):
        opened(where)
    assert where.read_text() == "mine"


@pytest.mark.parametrize("names", [["notes.txt"], ["CURRENT", "LOCK"], ["notes.txt", "log/"]])
def test_a_foreign_directory_is_left_alone(where, names):
    where.mkdir()
    for name in names:
        if name.endswith("/"):
            (where / name).mkdir()
        else:
            (where / name).write_text("mine")
    with pytest.raises(KharonError, match=rf"is not a queue, and is not empty \({names[0]} …\); name a new directory"):
        opened(where)
    assert sorted(path.name for path in where.iterdir()) == sorted(name.rstrip("/") for name in names)


def test_a_strange_file_in_a_queue_does_not_hurt(where):
    sample(where, closed=True)
    (where / "notes.txt").write_text("mine")
    assert ids_in(where)[0] == "a"


@pytest.mark.parametrize("parent", ["nowhere", "file"])
def test_a_queue_is_not_made_where_there_is_no_directory(tmp_path, parent):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KharonError, match=rf"cannot be made: .*{parent} is not a directory; make that first"):
        opened(tmp_path / parent / "queue")
    assert not (tmp_path / "nowhere").exists()


def test_a_relative_path(where, monkeypatch):
    monkeypatch.chdir(where.parent)
    assert records_in(Path("queue")) == []
    assert (where / "LOCK").is_file()


# --- several segments -------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DirectoryLog(tmp_path / "queue")
    list(log.open(NOW))
    log.append([added("a")], NOW, "app")
    log.close(NOW)
    segment = tmp_path / "queue" / "log" / FIRST_NAME
    before = segment.read_bytes()

    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [] if str(path).endswith("log") else real(path))
    log = DirectoryLog(tmp_path / "queue")
    with pytest.raises(CorruptLog, match="a log was begun here"):
        list(log.open(NOW))
    log.abandon()
    (tmp_path / "queue" / "begun").unlink()
    log = DirectoryLog(tmp_path / "queue")
    with pytest.raises(FileExistsError, match="exists already"):
        list(log.open(NOW))
    log.abandon()

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refused)
    log = DirectoryLog(tmp_path / "queue")
    with pytest.raises(PermissionError):
        list(log.open(NOW))
    log.abandon()
    assert segment.read_bytes() == before


def test_segments_are_read_in_order_and_the_last_one_grows(where):
    one, two = two_segments(where)
    before = one.read_bytes(), two.read_bytes()
    log, records = opened(where)
    assert [record.seq for record in records] == [1, 2, 3, 4]
    assert (log.first, log.seq, log.durable) == (1, 4, 4)
    put(log, added("d"))
    assert [record.seq for record in read_from(log)] == [1, 2, 3, 4, 5]
    log.abandon()
    assert one.read_bytes() == before[0]
    assert two.read_bytes().startswith(before[1])
    assert ids_in(where) == ["a", "b", "c", "LogClosed", "d"]


def test_a_segment_that_is_not_the_last_may_not_be_unfinished(where):
    one, two = two_segments(where)
    one.write_bytes(one.read_bytes()[: one.read_bytes().index(b'"sealed"') - 93])
    before = one.read_bytes(), two.read_bytes()
    with pytest.raises(CorruptLog, match=r"0001\.jsonl, line 3 .*not the last"):
        opened(where)
    assert (one.read_bytes(), two.read_bytes()) == before


def test_a_segment_that_is_missing(where):
    one, _ = two_segments(where)
    one.unlink()
    with pytest.raises(CorruptLog, match=r"0003\.jsonl, line 1 .*no snapshot of the records before it was loaded"):
        opened(where)


def test_a_segment_of_another_log(where):
    one, two = two_segments(where)
    end = hash_of(one.read_bytes().splitlines()[-2])
    two.write_bytes(chained(header_body(first=3, previous=end), previous=end))
    with pytest.raises(CorruptLog, match="its log id is ffff"):
        opened(where)


@pytest.mark.parametrize("fields", [{"event": "TicketPraised"}, {"v": 2}])
def test_what_a_later_version_wrote_is_not_touched(where, fields):
    data = chained(header_body(), record_body(), record_body(seq=2, **fields))
    place(where, data)
    with pytest.raises(UnknownFormat, match="record 2"):
        opened(where)
    assert segment_of(where).read_bytes() == data
    assert not (where / "quarantine").exists()


# --- disks that break -------------------------------------------------------------------------------------------------


class Disk:
    """The real os.write, up to a number of bytes; each call writes at most `at_once`."""

    def __init__(self, room: int, error: int = errno.ENOSPC, at_once: int = 1 << 30) -> None:
        self.room = room
        self.error = error
        self.at_once = at_once
        self.calls = 0
        self._write = os.write

    def write(self, fd: int, data: memoryview) -> int:
        self.calls += 1
        size = min(len(data), self.at_once, self.room)
        if not size:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= size
        return self._write(fd, data[:size])


def test_short_writes_are_written_on(where, log, monkeypatch):
    disk = Disk(room=1 << 20, at_once=7)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk.write)
        put(log, added("a"), added("b"))
    assert disk.calls > 50
    assert log.written == 2
    log.abandon()
    assert ids_in(where) == ["a", "b"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("room", [0, 1, 300])
def test_without_room_nothing_is_kept(where, log, monkeypatch, error, room):
    put(log, added("a"))
    whole = segment_of(where).read_bytes()
    log.append([added("b"), added("c")], moment(1), "ann")
    log.append([added("d")], moment(2), "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Disk(room, error).write)
        with pytest.raises(StorageFull, match=rf"{FIRST_NAME}: no room for \d+ bytes .*Make room: what was refused"):
            log.write()
    assert segment_of(where).read_bytes() == whole
    assert (log.seq, log.written, log.durable) == (1, 1, 1)
    put(log, added("e"))  # with room it goes on from there
    log.close(moment(3))
    assert ids_in(where) == ["a", "e", "LogClosed"]


def test_what_found_no_room_does_not_appear_by_closing(where, log, monkeypatch):
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Disk(5).write)
        with pytest.raises(StorageFull):
            log.write()
    log.close(moment(1))
    assert ids_in(where) == ["a", "LogClosed"]


def test_the_first_commit_of_all_may_find_no_room(where, log, monkeypatch):
    log.append([added("a")], moment(9), "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Disk(5).write)
        with pytest.raises(StorageFull):
            log.write()
    put(log, added("b"), at=1)
    log.abandon()
    (record,) = records_in(where)
    assert (record.seq, record.event.id, record.at) == (1, "b", moment(1))


def test_a_write_that_failed_otherwise_ends_the_log(where, log, monkeypatch):
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Disk(50, errno.EIO).write)
        with pytest.raises(OSError, match="Input/output error") as caught:
            log.write()
    assert not isinstance(caught.value, StorageFull)
    for use in (log.write, log.sync, lambda: log.close(moment(1))):
        with pytest.raises(OSError, match="the log is not open"):
            use()
    assert log.written == 1
    assert ids_in(where) == ["a", "TailCut"]


def test_bytes_that_cannot_be_taken_back_end_the_log(where, log, monkeypatch):
    def refuse(*_args: object) -> None:
        raise OSError(errno.EIO, "no truncate")

    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Disk(50).write)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="no truncate") as caught:
            log.write()
    assert not isinstance(caught.value, StorageFull)
    with pytest.raises(OSError, match="the log is not open"):
        log.write()
    log.abandon()
    assert ids_in(where) == ["a", "TailCut"]


class Sync:
    """An os.fdatasync that fails from its nth call on."""

    def __init__(self, works: int) -> None:
        self.works = works
        self.calls = 0

    def __call__(self, fd: int) -> None:
        os.fstat(fd)
        self.calls += 1
        if self.calls > self.works:
            raise OSError(errno.EIO, "the disk is gone")


def test_a_failed_sync_is_final(where, log, monkeypatch):
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    log.write()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", Sync(works=0))
        with pytest.raises(OSError, match="the disk is gone"):
            log.sync()
    assert (log.written, log.durable) == (2, 1)
    for use in (log.sync, lambda: log.close(moment(1))):
        with pytest.raises(OSError, match="the log is not open"):
            use()
    assert log.durable == 1
    inode = segment_of(where).stat().st_ino
    assert ids_in(where) == ["a", "b"]
    assert segment_of(where).stat().st_ino != inode


@pytest.mark.parametrize("works", [0, 1])
def test_a_log_whose_last_sync_failed_is_not_closed(where, log, monkeypatch, works):
    """Else the next opener would trust the page cache."""
    log.append([added("a")], NOW, "ann")
    with monkeypatch.context() as patch:
        sync = Sync(works)
        patch.setattr(os, "fdatasync", sync)
        with pytest.raises(OSError, match="the disk is gone"):
            log.close(moment(1))
    assert sync.calls == works + 1
    inode = segment_of(where).stat().st_ino
    assert ids_in(where) == ["a"]
    assert segment_of(where).stat().st_ino != inode


def test_what_was_closed_is_synced_before_it_is_trusted(where, monkeypatch):
    sample(where, closed=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", Sync(works=0))
        with pytest.raises(OSError, match="the disk is gone"):
            opened(where)
    assert ids_in(where)[-1] == "LogClosed"


def test_where_there_is_no_fdatasync(where, monkeypatch):
    synced = []
    fsync = os.fsync

    def see(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(os, "fsync", see)
    log, _ = opened(where)
    synced.clear()
    put(log, added("a"))
    log.abandon()
    assert synced == [segment_of(where).stat().st_ino]


def test_sync_syncs_the_segment(where, log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    log.append([added("a")], NOW, "ann")
    log.write()
    assert (log.written, log.durable, synced) == (1, 0, [])
    log.sync()
    assert (log.durable, synced) == (1, [segment_of(where).stat().st_ino])


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_closing_writes_what_is_left_and_vouches_for_all(where, log):
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    log.close(moment(1))
    records = records_in(where)
    assert [record.seq for record in records] == [1, 2, 3]
    assert records[-1].event == LogClosed()
    assert (records[-1].durable, records[-1].by, records[-1].at) == (2, "clock", moment(1))
    assert (log.written, log.durable) == (3, 3)


def test_a_log_in_which_nothing_happened_is_not_said_closed_again(where):
    for _ in range(3):
        log, _ = opened(where)
        log.close(moment(1))
        log.close(moment(2))  # nothing is left to do
    data = segment_of(where).read_bytes()
    assert data.count(b"LogClosed") == 1, (
        "once, since an empty log was opened the second time without a word of closing"
    )
    log, records = opened(where)
    assert [record.event for record in records] == [LogClosed()]
    log.close(moment(3))
    assert segment_of(where).read_bytes() == data


def test_what_was_abandoned_before_it_was_written_is_gone(where, log):
    put(log, added("a"))
    log.append([added("b")], NOW, "ann")
    log.abandon()
    log.abandon()
    assert ids_in(where) == ["a"]


def test_an_opening_that_was_not_read_to_its_end_can_be_given_up(where):
    sample(where, closed=True)
    log = DirectoryLog(where)
    records = log.open(NOW)
    assert next(records).seq == 1
    with pytest.raises(QueueLocked):
        opened(where)
    log.abandon()
    records.close()
    assert ids_in(where)[0] == "a"


def test_a_log_that_is_not_open_writes_nothing(where):
    log = DirectoryLog(where)
    log.append([added("a")], NOW, "ann")
    with pytest.raises(OSError, match="the log is not open"):
        log.write()
    log.abandon()
    assert not where.exists()


def test_no_file_stays_open(where):
    def open_files() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    before = open_files()
    data = sample(where, closed=False)
    segment_of(where).write_bytes(data[:-5])
    log, _ = opened(where)
    log.close(moment(9))
    with pytest.raises(CorruptLog):
        opened(place(where.with_name("other"), data[100:]))
    assert open_files() == before


@pytest.mark.parametrize(
    "name",
    [
        f"{1:020} (copy).jsonl",  # sorts in front of what it is a copy of
        f"{0:020}.jsonl",
        "-1.jsonl",
        "1.jsonl",
        f"{10**20}.jsonl",
        "x.jsonl",
        "\u0661" * 20 + ".jsonl",  # digits, to Python
    ],
)
def test_a_file_among_the_segments_that_has_no_segment_s_name(where, name):
    """Nobody can say where it belongs: opening and verifying report it in the same words."""
    log, _ = opened(where)
    put(log, added("a"))
    log.close(NOW)
    path = where / "log" / name
    path.write_bytes(segment_of(where).read_bytes())
    for read in (lambda: records_in(where), lambda: kharon.verify(where), lambda: kharon.repair(where)):
        with pytest.raises(CorruptLog, match="its name is not that of a segment") as caught:
            read()
        assert caught.value.file == str(path)
    path.rename(where / "copy.jsonl")
    assert [record.seq for record in records_in(where)] == [1, 2]


@pytest.mark.parametrize("user", [0, 1000])
def test_only_root_gives_what_it_makes_to_the_owner_of_the_directory(tmp_path, monkeypatch, user):
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "chown", lambda made, *ids: given.append(ids))
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: os.stat_result((*real(path, **how)[:4], 7, 8, *([0] * 4))))
    files_module._give_to_owner(tmp_path / "new", tmp_path)
    assert given == ([(7, 8)] if user == 0 else [])
