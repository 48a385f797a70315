"""Retention in an open queue: what is done in the background, that nothing else notices, and that it ends with it."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading

import pytest
import trio

import kharon
from kharon import Settings, Ticket
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OsFiles
from kharon.log.record import Record
from kharon.model.events import SegmentArchived, SegmentCompressed, SegmentTrimmed
from kharon.store.background import RetentionTask
from kharon.testing import TrioClock

SMALL = {"segment_bytes": 4096, "max_poll_interval": 0.05}


async def fill(kh: kharon.Kharon, count: int = 40) -> None:
    for number in range(count):
        await kh.add(Ticket(f"t{number}", "email", payload="x" * 300))


async def until(kh: kharon.Kharon, event: type, count: int) -> list[Record]:
    """Wait for records that threads and processes cause: in real time, and not for ever."""
    found = []
    with trio.fail_after(60):
        async with kh.records(follow=True) as records:
            async for record in records:
                if isinstance(record.event, event):
                    found.append(record)
                    if len(found) == count:
                        return found
    raise AssertionError


async def said(caplog, what: str) -> None:
    with trio.fail_after(60):
        while what not in caplog.text:  # noqa: ASYNC110 - a log message sets no event
            await trio.sleep(0.01)


@pytest.mark.parametrize("fsync", ["always", 0.01, "never"])
async def test_a_queue_compresses_and_archives_while_it_is_used(where, fsync):
    settings = Settings(compress_beyond_bytes=1, archive_beyond_bytes=4096, fsync=fsync, **SMALL)
    async with kharon.open(where, settings) as kh:
        await fill(kh)
        records = await until(kh, SegmentArchived, 2)
        assert {record.by for record in records} == {"clock"}
        assert [type(record.event).__name__ for record in await kh.history("t0")] == ["TicketAdded"]
    async with kharon.open(where, settings) as kh:
        assert len(await kh.list(limit=None)) == 40
        assert (await kh.get("t0")).payload == "x" * 300
    assert kharon.verify(where).closed
    assert any(path.suffix == ".zst" for path in segments(where))


async def test_relative_paths_are_found_once_wherever_the_process_goes(tmp_path, monkeypatch):
    for name in ("here", "here/archive", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = Settings(archive_beyond_bytes=1, archive_directory="archive", **SMALL)
    async with kharon.open("queue", settings) as kh:
        monkeypatch.chdir(tmp_path / "there")
        await fill(kh)
        await until(kh, SegmentArchived, 2)
        assert len(await kh.history("t0")) == 1
    assert list((tmp_path / "there").iterdir()) == []
    assert kharon.verify(tmp_path / "here" / "queue").closed


@pytest.mark.parametrize("archived", [True, False])
async def test_a_queue_trims_what_two_snapshots_hold(where, archived):
    more = {"archive_after": 0.001} if archived else {}
    settings = Settings(snapshot_bytes=1, trim_beyond_bytes=1, fsync="never", **more, **SMALL)
    async with kharon.open(where, settings) as kh:
        with trio.fail_after(60):
            while await kh.first_record() < 50:
                await fill(kh)
                for number in range(1, 40):
                    await kh.delete(f"t{number}")
        trimmed = await until(kh, SegmentTrimmed, 1)
        assert trimmed[0].by == "clock"
        expected = await kh.list(limit=None)
        assert [type(record.event).__name__ for record in await kh.history("t0")][-1:] == ["TicketAdded"]
    older = min((where / "snapshots").iterdir())
    report = kharon.verify(where)
    assert 50 <= report.first <= int(older.stem) + 1
    async with kharon.open(where) as kh:
        assert await kh.list(limit=None) == expected
        assert await kh.first_record() == report.first
    assert {ticket.id for ticket in expected} == set(kharon.replay(where).tickets)


async def test_a_queue_that_is_opened_again_trims_with_the_snapshots_that_are_there(where):
    settings = Settings(snapshot_bytes=1, fsync="never", **SMALL)
    async with kharon.open(where, settings) as kh:
        with trio.fail_after(60):
            while not (where / "snapshots").is_dir() or len(list((where / "snapshots").glob("*.jsonl"))) < 2:
                await fill(kh, 10)
    settings = Settings(snapshot_bytes=1 << 30, trim_after=0.001, fsync="never", **SMALL)
    async with kharon.open(where, settings) as kh:
        await until(kh, SegmentTrimmed, 1)
    assert kharon.verify(where).first > 1


async def test_a_queue_trims_though_its_index_cannot_be_written(where, caplog):
    """The index is a cache; and room for it may be what is lacking."""
    async with kharon.open(where):
        pass
    (where / "index").write_text("in the way")
    settings = Settings(snapshot_bytes=1, trim_after=0.001, fsync="never", **SMALL)
    async with kharon.open(where, settings) as kh:
        with trio.fail_after(60):
            while await kh.first_record() == 1:
                await fill(kh, 10)
    assert "no index of" in caplog.text
    assert kharon.verify(where).first > 1


async def test_nothing_is_trimmed_that_only_one_snapshot_holds_or_that_is_not_there_any_more(where):
    settings = Settings(snapshot_bytes=1 << 30, trim_beyond_bytes=1, fsync="never", **SMALL)
    async with kharon.open(where, settings) as kh:
        snapshots = kh._store._background.snapshots
        with trio.fail_after(60):
            await fill(kh)
            assert not snapshots.may_trim(1)
            snapshots._trimmable = 100  # as if it had said so before somebody removed them
            assert not snapshots.may_trim(1)
        await trio.sleep(0.2)
        assert await kh.first_record() == 1
    async with kharon.open(where, settings) as kh:
        assert len(await kh.list(limit=None)) == 40


async def test_a_queue_without_settings_keeps_all_as_it_is(where):
    async with kharon.open(where, Settings(segment_bytes=4096)) as kh:
        await fill(kh)
        assert kh._store._background.retention is None
    assert {path.suffix for path in segments(where)} == {".jsonl"}


class FullForCopies(OsFiles):
    """A disk on which there is no room for the copy of a segment."""

    def create(self, path):
        if ".zst" in path.name or "archive" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return super().create(path)


@pytest.mark.parametrize("what", ["compress_beyond_bytes", "archive_beyond_bytes"])
async def test_without_room_for_it_retention_waits_and_nothing_else_does(where, caplog, what):
    log = DirectoryLog(where, 4096, FullForCopies())
    async with kharon.open(log, Settings(**{what: 1}, **SMALL)) as kh:
        await fill(kh)
        action = what.removesuffix("_beyond_bytes")
        await said(caplog, f"retention cannot {action}, and will try again: [Errno 28] No space left on device")
        await kh.add(Ticket("last", "email"))
        await kh.ack("t0")
    assert {path.suffix for path in (where / "log").iterdir()} == {".jsonl"}
    assert kharon.verify(where).closed


class Failing(OsFiles):
    """Syncs fail when told so."""

    fails = False

    def create(self, path):
        return _Failing(self, super().create(path))


class _Failing:
    def __init__(self, files, file):
        self._files, self._file = files, file
        self.write, self.size, self.identity, self.close = file.write, file.size, file.identity, file.close
        self.truncate, self.allocate = file.truncate, file.allocate
        self.twin = lambda: None  # else a helper would sync it, on a slow disk, and that does not fail

    def sync(self):
        if self._files.fails:
            raise OSError(errno.EIO, "Input/output error")
        self._file.sync()


async def test_a_failed_sync_of_its_record_breaks_the_queue_and_a_user_hears_of_it(where, monkeypatch):
    files = Failing()
    log = DirectoryLog(where, 4096, files)
    settings = Settings(archive_beyond_bytes=1, **SMALL)
    prepare = kharon.log.retention.Retention.prepare

    def then_fail(self, step):
        event = prepare(self, step)
        files.fails = True
        return event

    queue = kharon.open(log, settings)
    kh = await queue.__aenter__()
    await fill(kh, 8)
    monkeypatch.setattr(kharon.log.retention.Retention, "prepare", then_fail)
    with trio.fail_after(60):
        with pytest.raises((kharon.CommitOutcomeUnknown, kharon.Closed)):  # noqa: PT012 - whenever it is noticed
            while True:
                await fill(kh)
        await kh._store._background.retention._ended.wait()
    await queue.__aexit__(None, None, None)
    files.fails = False
    assert kharon.verify(where).last >= 8


async def test_closing_does_not_wait_for_what_is_being_written(where, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    source = kharon.log.retention.read_chunks

    def slow(*args, **kwargs):
        for chunk in source(*args, **kwargs):
            begun.set()
            go_on.wait(60)
            yield chunk

    monkeypatch.setattr(kharon.log.retention, "read_chunks", slow)
    before = threading.active_count()
    async with kharon.open(where, Settings(compress_beyond_bytes=1, **SMALL)) as kh:
        await fill(kh)
        with trio.fail_after(60):
            await trio.to_thread.run_sync(begun.wait)
        stop = kh._store._background.retention._retention.stop

        def stop_and_go():
            stop()
            go_on.set()

        monkeypatch.setattr(kh._store._background.retention._retention, "stop", stop_and_go)
    assert {path.name[20:] for path in (where / "log").iterdir()} == {".jsonl"}
    assert not any(isinstance(record.event, SegmentCompressed) for record in kharon.read(where))
    assert threading.active_count() <= before + 2, "Trio keeps idle threads for a while; none of ours is left"


class Planned:
    """Plans trimming, archiving, compressing, in this order, as long as they are not left out; refuses some of it.

    Attributes:
        refused: why an action is refused.
        tried: the actions, in the order in which they were tried.
        planning: why nothing can be planned.
    """

    def __init__(self, **refused):
        self.refused = refused
        self.tried = []
        self.done = set()
        self.planning = None

    def plan(self, now, without=()):
        if self.planning is not None:
            raise self.planning
        return next((self for self.action in ACTIONS if self.action not in self.done.union(without)), None)

    def prepare(self, _step):
        self.tried.append(self.action)
        if self.action in self.refused:
            raise self.refused[self.action]
        return self.action

    def switch(self, _step):
        self.done.add(self.action)

    def finish(self, _step):
        pass

    def stop(self):
        pass


ACTIONS = ["trim", "archive", "compress"]


@contextlib.asynccontextmanager
async def keeping(planned: Planned):
    async def record(_event):
        await trio.lowlevel.checkpoint()

    keeper = RetentionTask(planned, TrioClock(), 15)
    keeper.start(record)
    await planned_by(keeper)
    try:
        yield keeper
    finally:
        await keeper.stop()


async def test_a_step_that_was_recorded_when_it_is_stopped_is_finished(mock_clock):
    """Else a segment would be in two places until the queue is opened again."""
    planned, finished = Planned(), []
    planned.finish = lambda _step: finished.append(planned.action)

    async def record(_event):
        keeper._scope.cancel()
        await trio.lowlevel.checkpoint()

    keeper = RetentionTask(planned, TrioClock(), 15)
    keeper.start(record)
    keeper.wake()
    await keeper._ended.wait()
    assert finished == ACTIONS[:1] == list(planned.done)


async def while_true(condition) -> None:
    """Wait in real time, though the clock stands still, and not for ever."""
    for _ in range(10_000):
        if not condition():
            return
        await trio.to_thread.run_sync(threading.Event().wait, 0.001)
    raise TimeoutError


async def planned_by(keeper: RetentionTask) -> None:
    """Wait until it has done what there is to do: in threads, while the clock stands still."""
    for _ in range(2):  # the second time is noticed once the work of the first is done
        keeper.wake()
        await while_true(lambda: keeper._due.is_set())  # noqa: PLW0108 - each time another event


async def test_what_is_refused_keeps_nothing_else_from_being_done_and_is_said_once(mock_clock, caplog):
    planned = Planned(trim=kharon.KharonError("the archive is another's"))
    async with keeping(planned) as keeper:
        assert planned.tried == ACTIONS
        for _ in range(3):
            mock_clock.jump(59)
            await planned_by(keeper)
            mock_clock.jump(1)
            await planned_by(keeper)
        assert planned.tried == [*ACTIONS, *["trim"] * 3], "each minute, and no more often"
        assert caplog.messages == ["retention cannot trim, and will try again: the archive is another's"]
        planned.refused["trim"] = OSError(5, "Input/output error")
        mock_clock.jump(60)
        await planned_by(keeper)
        assert caplog.messages[1:] == ["retention cannot trim, and will try again: [Errno 5] Input/output error"]
        again = planned.refused.pop("trim")
        mock_clock.jump(60)
        await planned_by(keeper)
        assert planned.done == set(ACTIONS)
        planned.refused["trim"] = again
        planned.done.clear()
        await planned_by(keeper)
        assert len(caplog.messages) == 3, "it had gone meanwhile"


async def test_what_is_refused_is_tried_again_though_nothing_wakes_it(mock_clock):
    planned = Planned(trim=kharon.KharonError("the archive is another's"))
    async with keeping(planned) as keeper:
        keeper._interval = 3600
        await planned_by(keeper)
        tried = len(planned.tried)
        mock_clock.jump(60)
        await while_true(lambda: len(planned.tried) == tried)


async def test_neither_a_bug_in_planning_nor_a_logging_that_raises_ends_it(mock_clock, caplog, monkeypatch):
    planned = Planned()
    planned.planning = ZeroDivisionError("a bug")
    async with keeping(planned) as keeper:
        await planned_by(keeper)
        assert caplog.messages == ["retention cannot plan its next step, and will try again: a bug"]

        def raising(*_args, **_more):
            raise RuntimeError("a user's logging")

        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger("kharon"), "_log", raising)
            planned.planning = ZeroDivisionError("another bug")
            await planned_by(keeper)
        planned.planning = None
        await planned_by(keeper)
        assert planned.done == set(ACTIONS)


class Stubborn(OsFiles):
    def unlink(self, path):
        if path.suffix == ".jsonl":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        super().unlink(path)


async def test_what_cannot_be_removed_is_said_and_left_to_the_next_opening(where, caplog):
    async with kharon.open(DirectoryLog(where, 4096, Stubborn()), Settings(compress_beyond_bytes=1, **SMALL)) as kh:
        await fill(kh)
        await said(caplog, "retention cannot compress, and will try again: [Errno 13]")
        assert len(await kh.history("t0")) == 1
    names = sorted(path.name for path in (where / "log").iterdir())
    assert names[1] == names[0] + ".zst"
    async with kharon.open(where) as kh:
        assert len(await kh.list(limit=None)) == 40
    assert not (where / "log" / names[0]).exists()


async def test_a_bug_in_it_is_a_warning(where, caplog, monkeypatch):
    def bug(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr(kharon.log.retention, "replace_file", bug)
    with caplog.at_level(logging.WARNING):
        async with kharon.open(where, Settings(compress_beyond_bytes=1, **SMALL)) as kh:
            await fill(kh)
            await said(caplog, "retention cannot compress, and will try again")


async def test_archives_elsewhere_may_be_shared(tmp_path):
    root = tmp_path / "archive"
    root.mkdir()
    settings = Settings(archive_beyond_bytes=1, archive_directory=root, **SMALL)
    queues = [tmp_path / "one", tmp_path / "two"]
    for where in queues:
        async with kharon.open(where, settings) as kh:
            await fill(kh)
            await until(kh, SegmentArchived, 2)
    assert len(list(root.iterdir())) == 2
    for where in queues:
        assert kharon.verify(where).closed
        assert kharon.verify(where).first == 1
