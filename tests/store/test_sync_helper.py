"""A slow disk is left to a helper: one group in flight, the next one gathering, and the promises as they were."""

import contextlib
import functools
import gc
import logging
import os
import select
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio
from offering_log import FD, FakeSyncer, OfferingLog
from store_steps import Slow
from watched_log import WatchedLog

import kharon
from kharon import Settings, Ticket
from kharon.log import syncer as syncer_module
from kharon.log.directory import DirectoryLog
from kharon.store import group_commit as commits_module
from kharon.store import sync_helper as helper_module
from kharon.store import tasks
from kharon.store.sync_helper import CALM_SYNCS, Helper, Pace
from kharon.testing import TrioClock

blocked = trio.testing.wait_all_tasks_blocked


def queue_on(log, syncer, *, slow=True, fsync="always", **settings):
    """A queue on `log` with this syncer; unless `slow`, the disk has to be found slow first."""
    queue = kharon.open(log, Settings(fsync=fsync, **settings), clock=TrioClock())
    store = queue._queue.store
    store._commits._make_helper = lambda: syncer
    if slow:
        store._commits._pace = Slow()
        store._commits._helper = syncer
        syncer.start()
    return queue


@contextlib.asynccontextmanager
async def opened(log, syncer, **options):
    async with queue_on(log, syncer, **options) as kh:
        try:
            yield kh
        finally:
            if isinstance(syncer, FakeSyncer):
                syncer.stop()  # else a test that fails would wait for ever for an answer


class Calls:
    """Calls in the background, and what has come of them."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.ended = {}

    async def start(self, name, call, *args, **kwargs):
        async def run():
            try:
                self.ended[name] = await call(*args, **kwargs)
            except kharon.KharonError as error:
                self.ended[name] = error

        self.nursery.start_soon(run)
        await blocked()


@pytest.fixture
async def calls():
    async with trio.open_nursery() as nursery:
        yield Calls(nursery)
        nursery.cancel_scope.cancel()


# --- which way --------------------------------------------------------------------------------------------------------


async def test_a_fast_disk_is_synced_in_the_loop(mock_clock):
    syncer = FakeSyncer()
    log = OfferingLog(clock=mock_clock, seconds=0.001)
    async with opened(log, syncer, slow=False) as kh:
        for number in range(200):
            await kh.add(Ticket(str(number), "t"))
        assert log.calls["sync"] == 200
    assert syncer.started == syncer.closed == 0


async def test_a_disk_that_is_found_slow_gets_a_helper_and_a_fast_one_loses_it(mock_clock):
    syncer = FakeSyncer(starts=False)
    log = OfferingLog(clock=mock_clock, seconds=0.02)
    async with opened(log, syncer, slow=False) as kh, trio.open_nursery() as nursery:
        for number in range(3):
            assert syncer.started == 0
            await kh.add(Ticket(str(number), "t"))
        for number in range(3):  # while it starts
            await kh.add(Ticket(str(number), "t"))
            assert syncer.started == 1
        assert log.calls["sync"] == 6
        syncer.ready = True
        answered = 0
        while True:
            nursery.start_soon(kh.add, Ticket("a", "t"))
            await blocked()
            if syncer.done is None:
                break
            answered += 1
            syncer.answer(seconds=0.0001)
            await blocked()
        assert CALM_SYNCS < answered < CALM_SYNCS + 30
        assert syncer.fds == [FD] * answered
        assert log.calls["sync"] == 7
        assert syncer.started == 1


async def test_a_clock_that_stands_still_for_a_hiccup_changes_nothing(mock_clock):
    syncer = FakeSyncer()
    log = OfferingLog(clock=mock_clock)
    async with opened(log, syncer, slow=False) as kh:
        for number in range(100):
            log.seconds = 5 if number % 30 == 0 else 0.0003
            await kh.add(Ticket(str(number), "t"))
    assert syncer.started == 0


@pytest.mark.parametrize("seconds", [0.02, 0.003])
def test_pace_is_slow_after_a_few_slow_syncs(seconds):
    pace = Pace()
    count = 0
    while not pace.slow:
        pace.add(seconds)
        count += 1
    assert 3 <= count < 12


def test_pace_has_hysteresis():
    pace = Pace()
    for seconds, slow in [(0.0019, False), (0.02, True), (0.001, True), (0.0006, True), (0.0001, False)]:
        for _ in range(10 * CALM_SYNCS):
            pace.add(seconds)
        assert pace.slow is slow, seconds
    for _ in range(10):
        pace.add(0.02)
    for _ in range(CALM_SYNCS - 1):
        pace.add(0)
    assert pace.slow
    pace.add(0.02)  # the calm has to begin anew
    for _ in range(CALM_SYNCS - 1):
        pace.add(0)
    assert pace.slow


class WithoutOffer(WatchedLog):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def sync(self):
        self.clock.jump(1)
        super().sync()


async def test_a_log_that_offers_nothing_is_synced_in_the_loop(mock_clock):
    syncer = FakeSyncer()
    log = WithoutOffer(mock_clock)
    async with opened(log, syncer, slow=False) as kh:
        for number in range(20):
            await kh.add(Ticket(str(number), "t"))
        assert log.calls["sync"] == 20
    assert syncer.started == 0


class Steps(trio.abc.Instrument):
    def __init__(self, task):
        self.task = task
        self.count = 0

    def before_task_step(self, task):
        self.count += task is self.task


async def test_a_lone_caller_on_a_fast_disk_passes_through_the_scheduler_once(mock_clock):
    async with opened(OfferingLog(clock=mock_clock, seconds=0.001), FakeSyncer(), slow=False) as kh:
        await kh.add(Ticket("first", "t"))
        steps = Steps(trio.lowlevel.current_task())
        trio.lowlevel.add_instrument(steps)
        for number in range(50):
            await kh.add(Ticket(str(number), "t"))
        trio.lowlevel.remove_instrument(steps)
        assert steps.count == 50


# --- effects follow durability ----------------------------------------------------------------------------------------


async def test_nothing_leaves_while_its_group_is_in_flight(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        reads = {
            "get": functools.partial(kh.get, "a"),
            "list": kh.list,
            "history": functools.partial(kh.history, "a"),
            "refusal": functools.partial(kh.add, Ticket("a", "t"), on_conflict="raise"),
            "missing": functools.partial(kh.get, "nobody"),
        }
        await calls.start("add", kh.add, Ticket("a", "t"))
        assert (log.written, log.durable, len(syncer.fds)) == (1, 0, 1)
        for name, call in reads.items():
            await calls.start(name, call)
        assert calls.ended == {}
        assert kh.stats().added == 0
        syncer.answer()
        await blocked()
        assert set(calls.ended) == {"add", *reads}
        assert calls.ended["get"].id == calls.ended["add"].id == "a"
        assert isinstance(calls.ended["refusal"], kharon.TicketExists)
        assert kh.stats().added == 1


async def test_no_handler_starts_and_no_wait_ends_while_the_cause_is_in_flight(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    router = kharon.Router()
    seen = []

    @router.handler("t")
    async def handle(_kh, ticket):
        seen.append(ticket.id)
        await trio.sleep_forever()

    async with opened(log, syncer) as kh:
        await calls.start("add", kh.add, Ticket("a", "t"))
        syncer.answer()
        await calls.start("run", kh.run, router)
        await calls.start("wait", kh.wait, "a")
        assert (log.written, log.durable, seen, kh.stats().claimed) == (2, 1, [], 0)
        syncer.answer()
        await blocked()
        assert (seen, kh.stats().claimed) == (["a"], 1)
        await calls.start("done", kh.done, "a")
        assert set(calls.ended) == {"add"}
        assert kh.stats().done == 0
        syncer.answer()
        await blocked()
        assert {"wait", "done"} <= set(calls.ended)
        assert kh.stats().done == 1


async def test_the_next_group_gathers_and_is_written_after_the_one_in_flight(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"))
        for number in range(20):
            await calls.start(number, kh.add, Ticket(str(number), "t"))
        await calls.start("get", kh.get, "first")  # a read now has seen the next group too
        assert (log.seq, log.written, len(syncer.fds), calls.ended) == (21, 1, 1, {})
        syncer.answer()
        await blocked()
        assert list(calls.ended) == ["first"]
        syncer.answer()
        await blocked()
        assert set(calls.ended) == {"first", "get", *range(20)}
        assert log.journal == [("write", 1), ("begin", 1), ("end", 1), ("write", 21), ("begin", 21), ("end", 21)]
        assert log.calls["sync"] == 0


async def test_a_follower_is_not_shown_what_is_in_flight(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    seen = []

    async def follow(kh):
        async with kh.records(follow=True) as records:
            async for record in records:
                assert record.seq <= log.durable
                seen.append(record.seq)

    async with opened(log, syncer) as kh:
        await calls.start("follow", follow, kh)
        await calls.start("a", kh.add, Ticket("a", "t"))
        await calls.start("b", kh.add, Ticket("b", "t"))
        assert seen == []
        syncer.answer()  # "b" is written and in flight before the follower runs
        await blocked()
        assert log.written == 2
        # It looks at the queue as it is then, and so it waits for "b", too; it must not have been given "b".
        assert seen in ([], [1])
        syncer.answer()
        await blocked()
        assert seen == [1, 2]


async def test_a_reader_that_has_waited_stops_at_what_is_durable(calls):
    """Between the end of its wait and its turn to run, the next group may be written, and be in flight."""
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        await calls.start("a", kh.add, Ticket("a", "t"))
        reader = kh._store.reader(0)
        await calls.start("read", reader.read)
        await calls.start("b", kh.add, Ticket("b", "t"))
        syncer.answer()
        await blocked()
        assert (log.written, log.durable) == (2, 1)
        assert [record.seq for record in calls.ended["read"]] == [1]
        assert reader.at_end  # as far as may be shown
        syncer.answer()
        await blocked()
        assert [record.seq for record in await reader.read()] == [2]


async def test_a_call_in_flight_is_not_cancelled(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    scope = trio.CancelScope()

    async def add(kh):
        with scope:
            ticket = await kh.add(Ticket("a", "t"))
            assert log.durable == 1
            return ticket

    async with opened(log, syncer) as kh:
        await calls.start("add", add, kh)
        scope.cancel()
        await blocked()
        assert calls.ended == {}
        syncer.answer()
        await blocked()
        assert calls.ended["add"].id == "a"


# --- failure ----------------------------------------------------------------------------------------------------------


async def test_a_failed_sync_breaks_the_store_for_both_groups(calls, caplog):
    syncer, log = FakeSyncer(), OfferingLog()
    error = OSError(5, "Input/output error")
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"))
        await calls.start("read", kh.get, "first")
        for number in range(5):
            await calls.start(number, kh.add, Ticket(str(number), "t"))
        syncer.answer(error)
        await blocked()
        assert set(calls.ended) == {"first", "read", *range(5)}
        for told in calls.ended.values():
            assert isinstance(told, kharon.CommitOutcomeUnknown)
            assert told.__cause__ is error
        assert len({id(told) for told in calls.ended.values()}) == 7
        assert log.journal == [("write", 1), ("begin", 1), ("end", 1)]  # the second group was not written
        with pytest.raises(kharon.Closed):
            await kh.get("first")
    assert log.calls["sync"] == 0  # nothing was tried again
    assert log.abandoned
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_failed_write_of_the_second_group_is_told_to_that_one(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"))
        await calls.start("second", kh.add, Ticket("second", "t"))
        log.fail, log.error = "write", kharon.StorageFull("no room for 99 bytes")
        syncer.answer()
        await blocked()
        assert isinstance(calls.ended["first"], Ticket)
        assert isinstance(calls.ended["second"], kharon.StorageFull)
        assert (await kh.get("first")).id == "first"
        with pytest.raises(kharon.TicketNotFound):
            await kh.get("second")
        assert (kh._store.projection.seq, log.seq, log.written, log.durable) == (1, 1, 1, 1)


def without_room(log, writes=1):
    """The next writes find no room, and those after them do."""
    left = iter(range(writes))

    def before(name):
        if name == "write":
            log.fail = "write" if next(left, None) is not None else None

    log.before, log.error = before, kharon.StorageFull("no room for 99 bytes")


async def test_a_gathered_group_without_room_is_taken_back_alone(calls):
    """Each of its callers is told; what reads, and what ends something, goes on from what has landed."""
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"), delay=1000)
        for number in range(5):
            await calls.start(number, kh.add, Ticket(str(number), "t"))
        await calls.start("update", kh.update, "first", nice=7)
        await calls.start("read", kh.get, "0")
        await calls.start("list", kh.list)
        await calls.start("done", kh.fail, "first")
        without_room(log)
        syncer.answer()
        await blocked()
        # "done" was decided once more, on the state without what was taken back; whoever runs after it waits for it.
        assert "done" not in calls.ended
        assert (log.written, log.durable, kh.stats().added) == (2, 1, 1)
        syncer.answer()
        await blocked()
        told = [calls.ended[name] for name in (*range(5), "update")]
        assert [type(error) for error in told] == [kharon.StorageFull] * 6
        assert len({id(error) for error in told}) == 6
        assert isinstance(calls.ended["read"], kharon.TicketNotFound)
        assert [ticket.id for ticket in calls.ended["list"]] == ["first"]
        assert (calls.ended["done"].version, calls.ended["done"].nice) == (2, 512)
        assert log.names() == ["TicketAdded", "TicketFailed"]
        kh._store.projection.check()
        assert kh._store.projection.seq == log.seq == log.written == log.durable == 2


async def test_closing_while_a_group_gathers_for_which_there_is_no_room(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    queue = queue_on(log, syncer)
    kh = await queue.__aenter__()
    await calls.start("first", kh.add, Ticket("first", "t"))
    await calls.start("second", kh.add, Ticket("second", "t"))
    await calls.start("close", queue.__aexit__, None, None, None)
    without_room(log)
    syncer.answer()
    await blocked()
    assert isinstance(calls.ended["first"], Ticket)
    assert isinstance(calls.ended["second"], kharon.KharonError)
    assert calls.ended["close"] is None
    assert log.names() == ["TicketAdded"]
    assert log.abandoned


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_sync_without_room_breaks_the_store_since_its_group_was_written(calls, elsewhere):
    syncer, log = FakeSyncer(starts=elsewhere), OfferingLog()
    full = kharon.StorageFull("no room")
    async with opened(log, syncer) as kh:
        log.fail, log.error = "sync", full
        await calls.start("first", kh.add, Ticket("first", "t"))
        if elsewhere:
            await calls.start("second", kh.add, Ticket("second", "t"))
            log.end_sync = lambda _seq, _error: log.sync()
            syncer.answer()
            await blocked()
        assert {type(told) for told in calls.ended.values()} == {kharon.CommitOutcomeUnknown}
        assert len(calls.ended) == 1 + elsewhere
        assert kh._store.projection.seq == log.seq
        with pytest.raises(kharon.Closed):
            await kh.get("first")


class Loud(Exception):
    """What a user's logging raises."""


class Spoken(Calls):
    async def start(self, name, call, *args, **kwargs):
        async def tolerant():
            try:
                return await call(*args, **kwargs)
            except Loud as loud:
                return loud

        await super().start(name, tolerant)


async def test_what_delivering_raises_in_the_helpers_task_is_the_leaders_and_the_others_go_on(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    calls = Spoken(calls.nursery)
    async with opened(log, syncer) as kh:
        deliver, loud = kh._store._commits._deliver, Loud()

        def raising(effects):
            deliver(effects)
            raise loud

        await calls.start("first", kh.add, Ticket("first", "t"))
        await calls.start("reader", kh.get, "first")
        await calls.start("second", kh.add, Ticket("second", "t"))
        kh._store._commits._deliver = raising
        syncer.answer()
        await blocked()
        assert calls.ended["first"] is loud
        assert calls.ended["reader"].id == "first"
        kh._store._commits._deliver = deliver
        assert "second" not in calls.ended
        syncer.answer()
        await blocked()
        assert calls.ended["second"].id == "second"
        assert log.durable == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [(kharon.StorageFull("no room"), kharon.StorageFull), (OSError(5, "no"), kharon.CommitOutcomeUnknown)],
)
async def test_what_logging_raises_in_the_helpers_task_is_told_to_nobody(calls, monkeypatch, error, told):
    syncer, log = FakeSyncer(), OfferingLog()
    calls = Spoken(calls.nursery)
    async with opened(log, syncer) as kh:

        def raising(*_args, **_more):
            raise Loud

        await calls.start("first", kh.add, Ticket("first", "t"))
        for number in range(3):
            await calls.start(number, kh.add, Ticket(str(number), "t"))
        log.fail, log.error = "write", error
        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger("kharon"), "_log", raising)
            syncer.answer()
            await blocked()
        assert isinstance(calls.ended["first"], Ticket)
        assert [type(calls.ended[number]) for number in range(3)] == [told] * 3


async def test_a_sync_whose_answer_was_lost_is_done_again_where_that_is_safe(calls, monkeypatch):
    monkeypatch.setattr(commits_module, "_LOST_SYNC_IS_REPEATED", True)
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"))
        await calls.start("second", kh.add, Ticket("second", "t"))
        log.before = lambda name: calls.ended.update({"early": name}) if name == "sync" and calls.ended else None
        syncer.die()
        await blocked()
        assert {"first", "second"} == set(calls.ended)
        assert log.journal == [("write", 1), ("begin", 1), ("sync", 1), ("write", 2), ("sync", 2)]
        await kh.add(Ticket("third", "t"))
        assert log.journal[-1] == ("sync", 3)
    assert (syncer.started, len(syncer.fds)) == (1, 1)


async def test_a_lost_sync_that_fails_when_it_is_done_again_breaks_the_store(calls, monkeypatch):
    monkeypatch.setattr(commits_module, "_LOST_SYNC_IS_REPEATED", True)
    syncer, log = FakeSyncer(), OfferingLog(fail="sync")
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"))
        await calls.start("second", kh.add, Ticket("second", "t"))
        syncer.die()
        await blocked()
        assert [type(told) for told in calls.ended.values()] == [kharon.CommitOutcomeUnknown] * 2
        assert log.calls["sync"] == 1
        assert log.written == 1


async def test_a_lost_sync_counts_as_failed_where_the_kernel_promises_nothing(calls, monkeypatch):
    monkeypatch.setattr(commits_module, "_LOST_SYNC_IS_REPEATED", False)
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        await calls.start("first", kh.add, Ticket("first", "t"))
        syncer.die()
        await blocked()
        assert isinstance(calls.ended["first"], kharon.CommitOutcomeUnknown)
        assert log.calls["sync"] == 0


async def test_a_request_that_was_not_taken_is_synced_in_the_loop():
    syncer, log = FakeSyncer(), OfferingLog()
    async with opened(log, syncer) as kh:
        syncer.alive = False
        await kh.add(Ticket("a", "t"))
        assert log.durable == 1
        await kh.add(Ticket("b", "t"))
        assert log.calls["sync"] == 2


# --- closing, and the sync in the background --------------------------------------------------------------------------


async def test_closing_waits_for_both_groups(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    queue = queue_on(log, syncer)
    kh = await queue.__aenter__()
    await calls.start("first", kh.add, Ticket("first", "t"))
    await calls.start("second", kh.add, Ticket("second", "t"))
    await calls.start("close", queue.__aexit__, None, None, None)
    assert not log.abandoned
    syncer.answer()
    await blocked()
    assert "close" not in calls.ended
    assert not log.abandoned
    syncer.answer()
    await blocked()
    assert set(calls.ended) == {"first", "second", "close"}
    assert log.abandoned
    assert syncer.closed == 1


async def test_an_opening_that_fails_leaves_no_helper_behind(tmp_path, monkeypatch):
    """Claims of a dead process lapse when it is opened; on a slow disk the helper is started for that."""
    log = DirectoryLog(tmp_path / "queue")
    dead = queue_on(log, FakeSyncer(), slow=False)
    kh = await dead.__aenter__()
    await kh.add(Ticket("a", "t"))
    await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
    log.abandon()

    syncer, log = FakeSyncer(), DirectoryLog(tmp_path / "queue")
    abandon, closed = log.abandon, []

    def failing():
        raise OSError(5, "Input/output error")

    def abandoned():
        closed.append(syncer.closed)
        abandon()

    monkeypatch.setattr(log, "begin_sync", failing)
    monkeypatch.setattr(log, "abandon", abandoned)
    with pytest.raises(kharon.CommitOutcomeUnknown):
        await queue_on(log, syncer).__aenter__()
    assert syncer.started == 1
    assert closed == [1], "first: it may be syncing a file of the log"
    async with kharon.open(tmp_path / "queue"):
        pass


async def test_a_drain_ends_with_a_sync_in_flight(calls):
    syncer, log = FakeSyncer(), OfferingLog()
    router = kharon.Router()

    @router.handler("t")
    async def handle(_kh, _ticket):
        pass

    async with opened(log, syncer) as kh:
        await calls.start("run", kh.run, router)
        await calls.start("add", kh.add, Ticket("a", "t"))
        syncer.answer()
        await blocked()
        await calls.start("drain", kh.drain)
        while syncer.done is not None:
            assert "drain" not in calls.ended
            syncer.answer()
            await blocked()
        assert {"run", "drain"} <= set(calls.ended)
        assert log.names()[-1] == "TicketDone"


async def test_in_interval_mode_only_the_background_waits(calls, mock_clock):
    syncer, log = FakeSyncer(), OfferingLog(0.05)
    queue = queue_on(log, syncer, fsync=0.05)
    kh = await queue.__aenter__()
    await kh.add(Ticket("a", "t"))
    assert syncer.done is None
    await blocked()
    mock_clock.jump(0.05)
    await blocked()
    assert syncer.done is not None
    await kh.add(Ticket("b", "t"))
    assert (await kh.get("b")).id == "b"
    assert (log.written, log.durable) == (2, 0)
    syncer.answer()
    await blocked()
    assert log.durable == 1  # what was written when it began, and not what has been since
    assert syncer.done is None
    mock_clock.jump(0.05)
    await blocked()
    assert syncer.done is not None
    await calls.start("close", queue.__aexit__, None, None, None)
    assert not log.abandoned
    syncer.answer()
    await blocked()
    assert calls.ended == {"close": None}
    assert (log.durable, log.abandoned) == (2, True)


async def test_a_failure_in_the_background_is_heard_by_whoever_comes_first(calls, mock_clock):
    for ask in (True, False):
        syncer, log = FakeSyncer(), OfferingLog(0.05)
        error = OSError(5, "Input/output error")
        with pytest.raises((kharon.Closed, kharon.CommitOutcomeUnknown)) as raised:  # noqa: PT012
            async with opened(log, syncer, fsync=0.05) as kh:
                await kh.add(Ticket("a", "t"))
                await blocked()
                mock_clock.jump(0.05)
                await blocked()
                syncer.answer(error)
                await blocked()
                if ask:
                    await kh.get("a")
        assert raised.type is (kharon.Closed if ask else kharon.CommitOutcomeUnknown)
        assert raised.value.__cause__ is error


async def test_closing_hears_of_a_failure_that_comes_while_it_waits(calls, mock_clock):
    syncer, log = FakeSyncer(), OfferingLog(0.05)
    queue = queue_on(log, syncer, fsync=0.05)
    kh = await queue.__aenter__()
    await kh.add(Ticket("a", "t"))
    await blocked()
    mock_clock.jump(0.05)
    await blocked()
    await calls.start("close", queue.__aexit__, None, None, None)
    syncer.answer(OSError(5, "Input/output error"))
    await blocked()
    assert isinstance(calls.ended["close"], kharon.CommitOutcomeUnknown)
    assert log.abandoned


async def test_closing_a_broken_store_waits_for_what_is_in_flight(calls, mock_clock):
    syncer, log = FakeSyncer(), OfferingLog(0.05)
    queue = queue_on(log, syncer, fsync=0.05)
    kh = await queue.__aenter__()
    await kh.add(Ticket("a", "t"))
    await blocked()
    mock_clock.jump(0.05)
    await blocked()
    log.fail = "write"
    with pytest.raises(kharon.CommitOutcomeUnknown):
        await kh.add(Ticket("b", "t"))
    await calls.start("close", queue.__aexit__, None, None, None)
    assert not log.abandoned
    syncer.answer()
    await blocked()
    assert calls.ended == {"close": None}
    assert log.abandoned


# --- on a directory ---------------------------------------------------------------------------------------------------


async def test_a_queue_with_a_real_helper(tmp_path):
    helper = Helper()
    async with opened(DirectoryLog(tmp_path / "queue", 4096), helper) as kh:
        await until(lambda: helper.ready)
        taken = []
        request = helper.request
        helper.request = lambda fd, done, **kind: taken.append(fd) or request(fd, done, **kind)
        async with trio.open_nursery() as nursery:
            for task in range(5):

                async def add(task):
                    for number in range(20):
                        await kh.add(Ticket(f"{task}-{number}", "t"))

                nursery.start_soon(add, task)
        assert len(taken) >= 5
        # It has its three standard streams and nothing else: not LOCK, and no segment between two syncs.
        if sys.platform == "linux":
            assert {fd.name for fd in Path(f"/proc/{helper.pid}/fd").iterdir()} == {"0", "1", "2"}  # noqa: ASYNC240 - of /proc
        inherited = await trio.run_process([sys.executable, "-c", LIST_SOCKETS], close_fds=False, capture_stdout=True)
        assert inherited.stdout == b"[]\n"
        assert os.getsid(helper.pid) == helper.pid  # the terminal's Ctrl-C goes to another session
        os.kill(helper.pid, signal.SIGINT)
        await kh.add(Ticket("after", "t"))
        assert helper.ready
    assert kharon.verify(tmp_path / "queue").closed
    assert len(kharon.replay(tmp_path / "queue").tickets) == 101
    assert reaped(helper)


LIST_SOCKETS = """
import os, stat
print([fd for fd in range(3, 256) if os.path.exists(f"/dev/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode)])
"""


def reaped(helper):
    try:
        os.waitpid(helper.pid, 0)
    except ChildProcessError:
        return True
    return False


async def until(condition):
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - it is about what another process does
            await trio.sleep(0.005)


async def test_a_killed_helper_is_missed_once_and_the_queue_goes_on(tmp_path, calls, caplog, monkeypatch):
    monkeypatch.setattr(commits_module, "_LOST_SYNC_IS_REPEATED", True)
    helper = Helper(["60"])
    async with opened(DirectoryLog(tmp_path / "queue"), helper) as kh:
        await until(lambda: helper.ready)
        await kh.add(Ticket("first", "t"))  # in the loop, as the first of each tail
        await calls.start("in flight", kh.add, Ticket("a", "t"))
        await calls.start("gathering", kh.add, Ticket("b", "t"))
        assert calls.ended == {}
        os.kill(helper.pid, signal.SIGKILL)
        await until(lambda: len(calls.ended) == 2)
        assert {ticket.id for ticket in calls.ended.values()} == {"a", "b"}
        await kh.add(Ticket("c", "t"))
        assert not helper.ready
    assert [(record.levelno, "helper process" in record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    assert reaped(helper)


async def test_a_helper_that_was_killed_unnoticed_refuses_the_request(tmp_path):
    """Its socket is dead, but its task has not run yet."""
    helper = Helper()
    helper.start()
    await until(lambda: helper.ready)
    os.kill(helper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - its task must not run meanwhile
    called = []
    with (tmp_path / "file").open("wb") as file:
        assert not helper.request(file.fileno(), lambda *answer: called.append(answer))
    assert not helper.ready
    await helper.close()
    await helper.close()
    assert called == []


async def test_a_failed_sync_of_a_real_helper_comes_with_its_errno():
    helper = Helper()
    helper.start()
    await until(lambda: helper.ready)
    answers = []
    reading, writing = os.pipe()
    assert helper.request(writing, lambda *answer: answers.append(answer))  # a pipe cannot be synced
    await until(lambda: answers)
    os.close(reading)
    os.close(writing)
    ((error, seconds),) = answers
    assert isinstance(error, OSError)
    assert error.errno == 22
    assert 0 <= seconds < 60
    await helper.close()


class Frozen:
    frozen = True
    executable = sys.executable


class Elsewhere:
    executable = "/nonexistent/python"


class Embedded:
    executable = ""


class Strange:
    """A program that is no Python, and says nothing that makes sense."""

    executable = "/bin/false"


@pytest.mark.parametrize("fake", [Frozen, Elsewhere, Embedded, Strange])
async def test_a_helper_that_cannot_be_started_is_missed_once(tmp_path, monkeypatch, caplog, fake):
    monkeypatch.setattr(tasks, "sys", fake)
    helper = Helper()
    async with opened(DirectoryLog(tmp_path / "queue"), helper) as kh:
        for number in range(5):
            await kh.add(Ticket(str(number), "t"))
        await until(lambda: caplog.records)
        await kh.add(Ticket("last", "t"))
    assert [(record.levelno, "helper process" in record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    assert len(kharon.replay(tmp_path / "queue").tickets) == 6


async def test_a_helper_that_does_not_end_is_killed(monkeypatch):
    """One whose sync takes for ever, here by sleeping: closing does not wait for that."""
    monkeypatch.setattr(tasks, "REAP_SECONDS", 0.05)
    helper = Helper(["3600"])
    helper.start()
    await until(lambda: helper.ready)
    lost = []
    reading, writing = os.pipe()
    helper.request(writing, lambda *answer: lost.append(answer))
    os.close(writing)
    os.close(reading)
    await trio.sleep(0.05)
    monkeypatch.setattr(tasks, "REAP_SECONDS", 30)  # for the wait after the kill
    monkeypatch.setattr(tasks.trio, "move_on_after", impatient_once(tasks.trio.move_on_after))
    with trio.fail_after(30):
        await helper.close()
    assert isinstance(lost[0][0], helper_module.AnswerLost)
    assert reaped(helper)


def impatient_once(move_on_after):
    waits = iter([0.01])
    return lambda seconds: move_on_after(next(waits, seconds))


async def test_a_forked_child_takes_no_answer_from_its_parent(tmp_path):
    """It has a copy of the socket, and of the request; and the process is no child of its own."""
    helper, answers, processes = Helper(), [], []
    start = helper._start

    async def remember():
        processes.append(await start())
        return processes[0]

    helper._start = remember
    helper.start()
    await until(lambda: helper.ready)
    with (tmp_path / "a").open("wb") as a:
        assert helper.request(a.fileno(), lambda *answer: answers.append(answer))
        helper._process = -1  # as if this were another process
        await until(lambda: select.select([helper._socket], [], [], 0)[0])
        await blocked()
        assert len(helper._socket.recv(100, socket.MSG_PEEK)) == syncer_module.ANSWER_BYTES
    assert not helper._scope.cancel_called
    await helper.close()
    assert answers == []
    assert processes[0]._proc.returncode is None, "it was left to its parent"
    await tasks.reap(processes[0])


async def test_closing_while_it_starts_leaves_nothing_behind():
    for passes in range(6):
        helper = Helper()
        helper.start()
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        await helper.close()
        if helper.pid is not None:
            assert reaped(helper)
    gc.collect()  # a socket left open would warn, and warnings are errors
