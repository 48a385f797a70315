"""On a slow disk a new segment is begun by the helper's syncs too: none in the loop, and the promises as they were."""

import errno
import os
from pathlib import Path

import pytest
import trio
from offering_log import FakeSyncer
from test_sync_helper import blocked, opened, queue_on

import kharon
from kharon import Ticket
from kharon.log.directory import DirectoryLog
from kharon.log.files import OsFiles
from kharon.store.sync_helper import AnswerLost

SEGMENT_BYTES = 1500  # a few records fill one
STEPS = ["segment", "names", "sealed"]  # what the helper syncs for a rotation, behind the group that filled the tail


class CountingFiles(OsFiles):
    """Counts syncs that are done in this process, and fails at creating a segment when told to."""

    def __init__(self):
        self.syncs = 0
        self.full = False

    def create(self, path):
        if self.full and path.parent.name == "log":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.watched(super().create(path))

    def append(self, path):
        return self.watched(super().append(path))

    def watched(self, file):
        sync = file.sync

        def count():
            self.syncs += 1
            sync()

        file.sync = count
        return file

    def sync_directory(self, path, fd=None):
        self.syncs += 1
        super().sync_directory(path, fd)


class NamingSyncer(FakeSyncer):
    """Knows what it is asked to sync: the "tail", a "segment" that has no name yet, "names", or what is "sealed"."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.kinds = []
        self.on_request = lambda fd: self.kinds.append(self.kind_of(Path(f"/proc/self/fd/{fd}").resolve()))

    def kind_of(self, path):
        if path == self.where / "log":
            return "names"
        if path.name.endswith(".tmp"):
            return "segment"
        last = max((self.where / "log").glob("*.jsonl"))
        return "tail" if path == last else "sealed"


@pytest.fixture
def files():
    return CountingFiles()


@pytest.fixture
def log(tmp_path, files):
    return DirectoryLog(tmp_path / "queue", SEGMENT_BYTES, files)


@pytest.fixture
def syncer(tmp_path):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a descriptor is of is asked of /proc")
    return NamingSyncer(tmp_path / "queue")


async def add(nursery, kh, *ids):
    for id in ids:
        nursery.start_soon(kh.add, Ticket(id, "t"))
    await blocked()


async def answer(syncer, *results):
    for error in results:
        syncer.answer(error)
        await blocked()


async def fill(nursery, kh, syncer):
    """Fill the tail; the helper has been asked for the first sync of the rotation then."""
    number = 0
    while syncer.kinds[-1:] != ["segment"]:
        if syncer.done is not None:
            await answer(syncer, None)
        else:
            await add(nursery, kh, f"f{number}")
            number += 1
    return number


def ids(where):
    report = kharon.verify(where)
    assert report.records == kharon.replay(where).seq
    return set(kharon.replay(where).tickets)


@pytest.mark.parametrize("fsync", ["always", 0.05])
async def test_nothing_is_synced_in_the_loop_across_rotations(tmp_path, files, log, syncer, fsync, mock_clock):
    token = trio.lowlevel.current_trio_token()
    note = syncer.on_request
    syncer.on_request = lambda fd: (note(fd), token.run_sync_soon(syncer.answer))
    async with opened(log, syncer, fsync=fsync) as kh:
        await kh.add(Ticket("first", "t"))
        await blocked()
        mock_clock.jump(1)
        await blocked()
        files.syncs = 0
        for number in range(60):
            await kh.add(Ticket(str(number), "t"))
            await blocked()
            mock_clock.jump(0.05)
            await blocked()
        assert files.syncs == 0
        assert log.durable == log.written
    turns = [kind for kind in syncer.kinds if kind != "tail"]
    assert turns == STEPS * (len(turns) // 3)
    assert len(list((tmp_path / "queue/log").iterdir())) == 1 + len(turns) // 3 > 10
    assert len(ids(tmp_path / "queue")) == 61


@pytest.mark.parametrize("when", [0, 1, 2])
async def test_what_comes_during_a_rotation_is_written_behind_it(tmp_path, log, syncer, when):
    async with opened(log, syncer) as kh, trio.open_nursery() as nursery:
        count = await fill(nursery, kh, syncer)
        await answer(syncer, *[None] * when)
        written = log.written
        await add(nursery, kh, "a", "b")
        assert (log.written, log.seq) == (written, written + 2)
        await answer(syncer, *[None] * (3 - when))
        assert syncer.kinds[-4:] == [*STEPS, "tail"]
        assert (log.written, log.durable) == (written + 2, written)
        assert len(nursery.child_tasks) == 2
        await answer(syncer, None)
        assert not nursery.child_tasks
    assert ids(tmp_path / "queue") == {"a", "b", *(f"f{number}" for number in range(count))}


async def test_what_is_durable_already_may_be_read_during_a_rotation(log, syncer):
    async with opened(log, syncer) as kh, trio.open_nursery() as nursery:
        await fill(nursery, kh, syncer)
        assert (await kh.get("f0")).id == "f0"
        assert len(await kh.history("f0")) == 1


@pytest.mark.parametrize("step", [0, 1, 2])
async def test_a_sync_of_a_rotation_that_fails_ends_the_log(tmp_path, log, syncer, step):
    told = []

    async def refused(kh):
        with pytest.raises(kharon.CommitOutcomeUnknown) as unknown:
            await kh.add(Ticket("a", "t"))
        told.append(unknown.value)

    async with opened(log, syncer) as kh, trio.open_nursery() as nursery:
        count = await fill(nursery, kh, syncer)
        await answer(syncer, *[None] * step)
        nursery.start_soon(refused, kh)
        await blocked()
        error = OSError(errno.EIO, "Input/output error")
        await answer(syncer, error)
        assert told[0].__cause__ is error
        with pytest.raises(kharon.Closed):
            await kh.get("f0")
    async with kharon.open(tmp_path / "queue") as kh:
        assert {ticket.id for ticket in await kh.list()} == {f"f{number}" for number in range(count)}


@pytest.mark.parametrize("step", [0, 1, 2])
async def test_a_helper_that_dies_in_a_rotation_has_it_ended_in_the_loop(
    tmp_path, files, log, syncer, step, monkeypatch
):
    monkeypatch.setattr("kharon.store.group_commit._LOST_SYNC_IS_REPEATED", True)
    async with opened(log, syncer) as kh, trio.open_nursery() as nursery:
        count = await fill(nursery, kh, syncer)
        await answer(syncer, *[None] * step)
        files.syncs = 0
        syncer.die()
        assert files.syncs == 3 - step
        await kh.add(Ticket("a", "t"))
    assert ids(tmp_path / "queue") == {"a", *(f"f{number}" for number in range(count))}


async def test_a_lost_answer_counts_as_a_failure_where_it_must(log, syncer, monkeypatch):
    monkeypatch.setattr("kharon.store.group_commit._LOST_SYNC_IS_REPEATED", False)
    async with opened(log, syncer) as kh, trio.open_nursery() as nursery:
        await fill(nursery, kh, syncer)
        syncer.die()
        with pytest.raises(kharon.Closed) as closed:
            await kh.get("f0")
        assert isinstance(closed.value.__cause__, AnswerLost)


async def test_without_room_for_a_segment_the_tail_goes_on(tmp_path, files, log, syncer):
    async with opened(log, syncer) as kh, trio.open_nursery() as nursery:
        files.full = True
        await kh.add(Ticket("f0", "t"))
        for number in range(1, 8):
            await add(nursery, kh, f"f{number}")
            await answer(syncer, None)
        assert not nursery.child_tasks
        assert set(syncer.kinds) == {"tail"}
        files.full = False
        await add(nursery, kh, "a")
        await answer(syncer, None, None, None, None)
        assert syncer.kinds[-3:] == STEPS
    assert ids(tmp_path / "queue") == {"a", *(f"f{number}" for number in range(8))}
    assert len(list((tmp_path / "queue/log").iterdir())) == 2


async def test_a_snapshot_that_a_rotation_makes_due_is_taken_though_nothing_comes_behind_it(tmp_path, log, syncer):
    snapshots = tmp_path / "queue" / "snapshots"
    async with opened(log, syncer, snapshot_bytes=1, compress_beyond_bytes=1) as kh, trio.open_nursery() as nursery:
        looks = []
        kh._store._background.retention.wake = lambda: looks.append(log.finished())
        await fill(nursery, kh, syncer)
        await answer(syncer, None, None)
        assert looks == []
        await answer(syncer, None)
        assert [len(finished) for finished in looks] == [1], "once it is sealed"
        with trio.fail_after(60):
            while not snapshots.is_dir() or not any(snapshots.glob("*.jsonl")):  # noqa: ASYNC110 - another process
                await trio.sleep(0.01)


async def test_closing_waits_for_a_rotation(tmp_path, log, syncer):
    queue = queue_on(log, syncer)
    kh = await queue.__aenter__()
    async with trio.open_nursery() as nursery:
        await fill(nursery, kh, syncer)
        nursery.start_soon(queue.__aexit__, None, None, None)
        await blocked()
        await answer(syncer, None, None)
        assert nursery.child_tasks
        syncer.answer()
    assert syncer.closed == 1
    assert kharon.verify(tmp_path / "queue").closed


async def test_a_segment_that_a_fast_disk_has_begun_is_synced_in_the_loop_once(log, files, syncer, mock_clock):
    async with opened(log, syncer, slow=False) as kh, trio.open_nursery() as nursery:
        while len(log._places) < 2:
            await kh.add(Ticket(str(log.seq), "t"))
        kh._store._commits._pace.slow = True
        kh._store._commits._helper = syncer
        syncer.start()
        files.syncs = 0
        await kh.add(Ticket("a", "t"))
        assert files.syncs == 1
        await add(nursery, kh, "b")
        assert (files.syncs, syncer.kinds) == (1, ["tail"])
        await answer(syncer, None)


@pytest.mark.parametrize("fsync", ["always", "never"])
async def test_segments_are_begun_though_no_sync_is_left_to_the_helper(tmp_path, log, syncer, fsync, monkeypatch):
    """No descriptor to be had, or nothing that is synced: then no answer ever comes that could begin one."""
    monkeypatch.setattr(DirectoryLog, "begin_sync", lambda log: log.sync())
    token = trio.lowlevel.current_trio_token()
    syncer.on_request = lambda _fd: token.run_sync_soon(syncer.answer)
    async with opened(log, syncer, fsync=fsync) as kh:
        for number in range(40):
            await kh.add(Ticket(str(number), "t"))
            await blocked()
        assert max(len(path.read_bytes()) for path in (tmp_path / "queue/log").iterdir()) < 3 * SEGMENT_BYTES
    assert len(ids(tmp_path / "queue")) == 40


async def test_two_who_waited_for_the_helper_ask_it_one_after_the_other(log, syncer):
    """Whoever was woken first may have given it something to do again."""
    commits = None
    async with opened(log, syncer, fsync=60) as kh:
        commits = kh._store._commits
        await kh.add(Ticket("a", "t"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits._sync_written)
            await blocked()
            for number in range(5):
                await kh.add(Ticket(f"b{number}", "t"))
                nursery.start_soon(commits._sync_written)
            await blocked()
            while nursery.child_tasks:
                if syncer.done is not None:
                    syncer.answer()
                await blocked()
    assert commits.failure is None
