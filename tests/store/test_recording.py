"""Records about the log itself: on disk whatever the setting, taken back without room, and never a user's only word."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from offering_log import FakeSyncer, OfferingLog
from store_steps import Slow

import kharon
from kharon import Closed, CommitOutcomeUnknown, Settings, StorageFull, Ticket
from kharon.log.memory import MemoryLog
from kharon.model.events import SegmentTrimmed, grows
from kharon.testing import FailingLog

EVENT = SegmentTrimmed("log/x", 1, 2, "ab")
blocked = trio.testing.wait_all_tasks_blocked


async def entered(log, fsync="always"):
    queue = kharon.open(log, Settings(fsync=fsync))
    return await queue.__aenter__(), queue._queue.store


@pytest.mark.parametrize("fsync", ["always", 0.01, "never"])
async def test_it_is_on_disk_whatever_the_setting(fsync):
    log = FailingLog(MemoryLog())
    _, store = await entered(log, fsync)
    await store.record(EVENT)
    assert (log.seq, log.durable) == (1, 1)
    log.fail = "sync"
    with pytest.raises(CommitOutcomeUnknown):
        await store.record(EVENT)
    with pytest.raises(Closed):
        await store.record(EVENT)
    with pytest.raises(CommitOutcomeUnknown):  # a user has yet to hear of it
        await store.close()


async def test_a_failed_write_is_told_to_a_user_too():
    _, store = await entered(FailingLog(MemoryLog(), fail="write"))
    with pytest.raises(CommitOutcomeUnknown):
        await store.record(EVENT)
    with pytest.raises(CommitOutcomeUnknown):
        await store.close()


@pytest.mark.parametrize("user_first", [True, False])
async def test_one_that_shared_its_group_with_a_users_is_not_told_twice(user_first):
    log = FailingLog(MemoryLog(), fail="write")
    kh, store = await entered(log)

    async def expect(call, *args):
        with pytest.raises(CommitOutcomeUnknown):
            await call(*args)

    both = [(kh.add, Ticket("a", "t")), (store.record, EVENT)]
    with trio.testing.assert_checkpoints():
        async with trio.open_nursery() as nursery:
            for call, argument in both if user_first else reversed(both):
                nursery.start_soon(expect, call, argument)
    await store.close()


@pytest.mark.parametrize("user_first", [True, False])
async def test_a_sync_that_fails_behind_a_group_that_landed_is_told_to_a_user_too(user_first):
    """Who shared the group was told that it went well."""
    log = FailingLog(MemoryLog(), fail="sync")
    kh, store = await entered(log, 60.0)

    async def refused():
        with pytest.raises(CommitOutcomeUnknown):
            await store.record(EVENT)

    async def added():
        assert (await kh.add(Ticket("a", "t"))).id == "a"

    with trio.testing.assert_checkpoints():
        async with trio.open_nursery() as nursery:
            for call in (added, refused) if user_first else (refused, added):
                nursery.start_soon(call)
    with pytest.raises(CommitOutcomeUnknown):
        await store.close()


async def test_who_hears_of_it_while_a_sync_of_its_own_goes_wrong_is_not_told_twice(monkeypatch):
    log = FailingLog(MemoryLog(), fail="sync")
    _, store = await entered(log, 60.0)
    fail = store._commits.fail

    def failed(error):
        fail(error)
        with pytest.raises(Closed):
            store._check_open()

    monkeypatch.setattr(store._commits, "fail", failed)
    with pytest.raises(CommitOutcomeUnknown):
        await store.record(EVENT)
    await store.close()


class Tight(MemoryLog):
    """Has room for what ends something, and for nothing else."""

    tight = True
    growing = False

    def append(self, events, at, by):
        self.growing = self.growing or grows(events)
        return super().append(events, at, by)

    def write(self):
        growing, self.growing = self.growing, False
        if growing and self.tight:
            self.take_back()
            raise StorageFull("no room")
        super().write()


async def test_without_room_it_does_not_go_down_with_an_add():
    """It makes room, so it is taken from the reserve: by itself, if it shared its group."""
    log = Tight()
    kh, store = await entered(log)

    async def refused():
        with pytest.raises(StorageFull):
            await kh.add(Ticket("a", "t"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused)
        nursery.start_soon(store.record, EVENT)
    assert (log.seq, log.durable, store.projection.seq) == (1, 1, 1)
    log.tight = False
    await store.record(EVENT)
    await store.close()


async def test_without_any_room_it_is_taken_back():
    log = FailingLog(MemoryLog(), fail="write", error=StorageFull("no room"))
    _, store = await entered(log)
    with pytest.raises(StorageFull):
        await store.record(EVENT)
    assert log.calls["write"] == 2
    assert (log.seq, store.projection.seq) == (0, 0)
    log.fail = None
    await store.record(EVENT)
    assert store.projection.seq == 1
    await store.close()


async def test_it_waits_for_the_sync_that_is_in_flight_before_it_asks_for_its_own():
    log, syncer = OfferingLog(fsync=60.0), FakeSyncer()
    kh, store = await entered(log, 60.0)
    commits = store._commits
    commits._make_helper, commits._pace, commits._helper = (lambda: syncer), Slow(), syncer
    syncer.start()
    await kh.add(Ticket("a", "t"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._commits._sync_in_background)
        await blocked()
        assert len(syncer.fds) == 1
        nursery.start_soon(store.record, EVENT)
        await blocked()
        assert len(syncer.fds) == 1, "one at a time"
        syncer.answer()
        await blocked()
        assert len(syncer.fds) == 2
        assert log.durable == 1
        syncer.answer()
    assert log.durable == 2
    async with trio.open_nursery() as nursery:

        async def refused():
            with pytest.raises(CommitOutcomeUnknown):
                await store.record(EVENT)

        nursery.start_soon(refused)
        await blocked()
        syncer.answer(OSError(5, "Input/output error"))
    with pytest.raises(CommitOutcomeUnknown):
        await store.close()


async def test_it_is_cancelled_before_it_is_decided_or_not_at_all():
    log = FailingLog(MemoryLog())
    _, store = await entered(log)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.record(EVENT)
    assert scope.cancelled_caught
    assert log.seq == 0
    await store.close()
