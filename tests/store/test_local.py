"""Effects follow durability, commits share syncs, and a broken write breaks the store for everyone."""

import functools
import logging
import random
from datetime import timedelta
from itertools import pairwise

import pytest
import trio
from msgspec import Raw
from store_steps import outcome_of
from watched_log import WatchedLog

import kharon
from kharon import Settings, Ticket
from kharon.model import commands as c
from kharon.model.delays import BackoffDelay
from kharon.model.projection import Projection
from kharon.store.local import LocalStore
from kharon.testing import EPOCH, TrioClock

MODES = ["always", 0.05, "never"]
ADDED = ["TicketAdded"]


@pytest.fixture(params=MODES)
def fsync(request):
    return request.param


def opened(log, **settings):
    return kharon.open(log, Settings(fsync=log.fsync, **settings), clock=TrioClock())


# --- replies ----------------------------------------------------------------------------------------------------------


VERBS = {
    "add": lambda kh: kh.add(Ticket("new", "t")),
    "add again": lambda kh: kh.add(Ticket("a", "t", nice=1)),
    "add_many": lambda kh: kh.add_many([Ticket("new", "t"), Ticket("newer", "t")]),
    "ack": lambda kh: kh.ack("a"),
    "ack keep": lambda kh: kh.ack("a", keep=True),
    "done": lambda kh: kh.done("a", result=1),
    "fail": lambda kh: kh.fail("a", error_reason="no"),
    "cancel": lambda kh: kh.cancel("a"),
    "retry": lambda kh: kh.retry("a", delay=1),
    "restart": lambda kh: kh.restart("ended"),
    "update": lambda kh: kh.update("a", nice=3),
    "delete": lambda kh: kh.delete("a"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_reply_comes_after_its_records_are_durable(fsync, verb):
    log = WatchedLog(fsync)
    async with opened(log) as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("ended", "t")])
        await kh.fail("ended")
        before = log.seq
        await VERBS[verb](kh)
        assert before < log.seq == log.safe


@pytest.mark.parametrize("verb", ["release", "extend", "done", "ack", "fail", "retry", "cancel"])
async def test_a_settle_of_a_claimed_ticket_comes_after_its_record_is_durable(fsync, verb):
    log = WatchedLog(fsync)
    router = kharon.Router()
    seen = []

    @router.handler("t")
    async def handle(kh, ticket):
        assert ticket.version <= log.safe  # a handler starts after its claim is durable
        before = log.seq
        await (kh.extend(ticket, 100) if verb == "extend" else getattr(kh, verb)(ticket))
        seen.append(before < log.seq == log.safe)
        await trio.sleep_forever()

    async with opened(log) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen[0] is True


async def test_fsync_decides_what_durable_means(autojump_clock):
    for fsync, syncs_at_once in [("always", 1), (0.05, 0), ("never", 0)]:
        log = WatchedLog(fsync)
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
            assert [name for name, _ in log.journal] == ["write", "sync"][: 1 + syncs_at_once]
            await trio.sleep(1)
            assert log.durable == (0 if fsync == "never" else log.seq)


class Witness:
    """Holds everything that leaves a queue to what is durable at that moment."""

    def __init__(self, log):
        self.log = log
        self.kh = None
        self.early = 0  # how often there was something not durable when a call was made
        self.seen = dict.fromkeys(
            ("reply", "refusal", "get", "list", "history", "records", "handler", "wait", "stats"), 0
        )

    def saw(self, kind, seq):
        assert seq <= self.log.safe, f"{kind} of record {seq} left while {self.log.safe} was durable"
        self.seen[kind] += 1

    def count(self, _name):
        """What is counted just before something becomes durable is what was durable before."""
        names = [type(record.event).__name__ for record in self.log.records() if record.seq <= self.log.safe]
        stats = self.kh.stats()
        counted = (stats.added, stats.claimed, stats.done)
        assert counted == tuple(names.count(name) for name in ("TicketAdded", "TicketClaimed", "TicketDone"))
        self.seen["stats"] += 1

    async def handle(self, _kh, ticket):
        self.saw("handler", ticket.claim)

    async def add(self, id):
        self.early += self.log.seq > self.log.safe
        ticket = await self.kh.add(Ticket(id, "later"), delay=60)
        self.saw("reply", ticket.version)

    async def collide(self, id):
        self.early += self.log.seq > self.log.safe
        seq = self.log.seq
        error = await outcome_of(self.kh.add, Ticket(id, "later"), on_conflict="raise", delay=60)
        if isinstance(error, kharon.TicketExists):
            self.saw("refusal", seq)

    async def read(self, id):
        self.early += self.log.seq > self.log.safe
        ticket = await outcome_of(self.kh.get, id)
        if isinstance(ticket, Ticket):
            self.saw("get", ticket.version)
        for ticket in await self.kh.list():
            self.saw("list", ticket.version)
        for record in await self.kh.history(id):
            self.saw("history", record.seq)

    async def follow(self):
        async with self.kh.records(follow=True) as records:
            async for record in records:
                self.saw("records", record.seq)

    async def wait(self, id):
        await self.kh.add(Ticket(id, "t"))
        ticket = await self.kh.wait(id)
        assert ticket.status is kharon.Status.DONE
        self.saw("wait", ticket.version)


async def test_nothing_leaves_a_crowd_before_it_is_durable(fsync):
    """Many at once: adders, refused ones, readers of all kinds, a waiter, workers; each effect is held to its seq."""
    log = WatchedLog(fsync)
    witness = Witness(log)
    router = kharon.Router()
    router.handler("t")(witness.handle)
    async with opened(log, workers=3, on_return="done") as kh, trio.open_nursery() as nursery:
        witness.kh = kh
        log.before = witness.count
        nursery.start_soon(witness.follow)
        await nursery.start(kh.run, router)
        for number in range(40):
            async with trio.open_nursery() as crowd:
                for task in (witness.add, witness.collide, witness.read, witness.read):
                    crowd.start_soon(task, f"id-{number}")
                crowd.start_soon(witness.wait, f"run-{number}")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert witness.early > 20
    assert min(witness.seen.values()) >= 10, witness.seen


async def test_a_record_is_read_back_only_once_it_is_durable():
    """Reading while a group is open waits for that group, and then gives what it holds."""
    log = WatchedLog()
    async with opened(log) as kh:
        await kh.add(Ticket("first", "t"))
        before = log.seq
        kh._store._execute([c.Add("next", Ticket("next", "t"))], "app")
        assert log.durable == before
        found = []
        async with kh.records(after=before) as records:
            async for record in records:
                assert record.seq <= log.durable
                found.append(record.seq)
        assert found == [before + 1]


# --- group commit -----------------------------------------------------------------------------------------------------


async def add_some(kh, name, count):
    for number in range(count):
        await kh.add(Ticket(f"{name}-{number}", "t"))


async def test_a_lone_caller_has_a_sync_for_each_add():
    log = WatchedLog()
    async with opened(log) as kh:
        await add_some(kh, "a", 50)
        assert log.calls == {"append": 50, "write": 50, "sync": 50}


async def test_a_hundred_tasks_share_syncs():
    log = WatchedLog()
    async with opened(log) as kh:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(add_some, kh, str(number), 10)
        assert log.calls["append"] == 1000
        # Each group takes in everybody who can run: ten rounds, and a few more where a round was begun by its first.
        assert 10 <= log.calls["sync"] <= 25
        assert log.calls["write"] == log.calls["sync"]


async def test_add_many_is_one_commit():
    log = WatchedLog()
    async with opened(log) as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(100))
        assert log.calls == {"append": 1, "write": 1, "sync": 1}
        assert {record.part for record in log.records()} == {(number, 100) for number in range(1, 101)}


async def test_add_many_is_all_or_nothing():
    log = WatchedLog()
    async with opened(log) as kh:
        await kh.add(Ticket("taken", "t"))
        with pytest.raises(kharon.TicketExists, match="'taken'"):
            await kh.add_many([Ticket("new", "t"), Ticket("taken", "t"), Ticket("newer", "t")], on_conflict="raise")
        assert log.names() == ADDED
        assert [ticket.id for ticket in await kh.list()] == ["taken"]
        assert await kh.add_many([]) == []


async def test_the_commands_of_one_commit_see_those_before_them():
    log = WatchedLog()
    async with opened(log) as kh:
        with pytest.raises(kharon.TicketExists):
            await kh.add_many([Ticket("a", "t"), Ticket("a", "t")], on_conflict="raise")
        assert log.seq == 0
        first, second = await kh.add_many([Ticket("a", "t", nice=1), Ticket("a", "t", nice=2)])
        assert first == second == await kh.get("a")
        assert second.nice == 2


async def test_a_command_that_changes_nothing_writes_nothing():
    log = WatchedLog()
    async with opened(log) as kh:
        await kh.add(Ticket("a", "t", nice=1))
        calls = dict(log.calls)
        assert (await kh.add(Ticket("a", "t", nice=2), on_conflict="skip")).nice == 1
        await kh.delete("nobody")
        assert log.calls == calls


# --- when a write fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail", "mode"), [("write", "always"), ("sync", "always"), ("write", 0.05), ("write", "never")]
)
async def test_all_in_flight_are_told_and_everybody_later_finds_it_closed(fail, mode):
    log = WatchedLog(mode)
    told = []

    async def in_flight(call, *args, **kwargs):
        told.append(await outcome_of(call, *args, **kwargs))

    async with opened(log) as kh:
        await kh.add(Ticket("a", "t"))
        log.fail = fail
        calls = dict(log.calls)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(in_flight, kh.add, Ticket(str(number), "t"))
            nursery.start_soon(functools.partial(in_flight, kh.add, Ticket("a", "t"), on_conflict="raise"))
        assert log.calls[fail] == calls[fail] + 1  # nothing is retried
        unknown = [error for error in told if isinstance(error, kharon.CommitOutcomeUnknown)]
        assert {type(error) for error in told} <= {kharon.CommitOutcomeUnknown, kharon.TicketExists}
        assert len(unknown) >= 20
        assert len({id(error) for error in unknown}) == len(unknown)
        for error in unknown:
            assert error.__cause__ is log.error
            assert "may or may not" in str(error)
            assert "Input/output error" in str(error)
        for call in (kh.add(Ticket("b", "t")), kh.get("a"), kh.list(), kh.history("a"), kh.wait("a"), kh.ack("a")):
            with pytest.raises(kharon.Closed, match="closed itself when a write failed") as closed:
                await call
            assert closed.value.__cause__ is log.error
        assert log.calls[fail] == calls[fail] + 1
    assert log.abandoned


async def test_a_full_disk_is_told_as_such_each_with_its_own():
    error = kharon.StorageFull("no room for 99 bytes")
    log = WatchedLog(fail="write", error=error)
    told = []

    async def add(kh, number):
        with pytest.raises(kharon.StorageFull, match="no room for 99 bytes") as full:
            await kh.add(Ticket(str(number), "t"))
        told.append(full.value)

    async with opened(log) as kh:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(add, kh, number)
        assert len({id(one) for one in told} - {id(error)}) == 5
        assert all(one.__cause__ is error for one in told)
        with pytest.raises(kharon.TicketNotFound):
            await kh.get("0")  # nothing of it was kept, and the queue is open


async def test_a_refusal_and_a_read_in_flight_are_told_too():
    """They rest on what could not be written: answering would tell of a state that may not exist tomorrow."""
    calls = {
        "get": lambda kh: kh.get("a"),
        "list": lambda kh: kh.list(),
        "restart": lambda kh: kh.restart("a"),
        "history": lambda kh: kh.history("a"),
        "wait": lambda kh: kh.wait("a"),
    }
    kinds = set()

    async def note(kh, name):
        try:
            answer = await calls[name](kh)
        except kharon.KharonError as error:
            answer = error
        if answer != []:  # from before
            kinds.add((name, type(answer)))

    for _ in range(30):
        async with opened(WatchedLog(fail="sync")) as kh, trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, kh.add, Ticket("a", "t"))
            for name in calls:
                nursery.start_soon(note, kh, name)
    # Before the add; while its group was open; after it had failed.
    allowed = {kharon.TicketNotFound, kharon.CommitOutcomeUnknown, kharon.Closed}
    assert {error for _, error in kinds} <= allowed
    for name in ("get", "list", "restart", "wait"):
        assert (name, kharon.CommitOutcomeUnknown) in kinds


async def test_waiters_and_followers_are_woken_when_it_breaks():
    log = WatchedLog()
    told = []

    async def follow(kh):
        async with kh.records(follow=True) as records:
            async for _record in records:
                pass

    async def note(call, *args):
        told.append(await outcome_of(call, *args))

    async with opened(log) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"))
        nursery.start_soon(note, kh.wait, "a")
        nursery.start_soon(note, kh.wait, "a")
        nursery.start_soon(note, follow, kh)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        log.fail = "sync"
        with pytest.raises(kharon.CommitOutcomeUnknown):
            await kh.ack("a")
    assert [type(error) for error in told] == [kharon.Closed] * 3
    assert all(error.__cause__ is log.error for error in told)


async def test_waiters_and_followers_are_woken_when_it_is_closed():
    told = []

    async def follow(kh):
        async for _record in kh.records(follow=True):
            pass

    async def note(call, *args):
        told.append(await outcome_of(call, *args))

    async with trio.open_nursery() as nursery, opened(WatchedLog()) as kh:
        await kh.add(Ticket("a", "t"))
        nursery.start_soon(note, kh.wait, "a")
        nursery.start_soon(note, follow, kh)
        await trio.testing.wait_all_tasks_blocked()
    assert [type(error) for error in told] == [kharon.Closed] * 2
    assert all("`async with` block has ended" in str(error) for error in told)


@pytest.mark.parametrize("busy", [False, True])
async def test_workers_stop_when_it_breaks(busy, mock_clock):
    """At once, and not when somebody next looks at the clock: that does not go on here."""
    log = WatchedLog()
    router = kharon.Router()

    @router.handler("t")
    async def handle(_kh, _ticket):
        await trio.sleep_forever()

    told = []

    async def run(kh, task_status):
        with pytest.raises((kharon.Closed, kharon.CommitOutcomeUnknown)) as raised:
            await kh.run(router, task_status=task_status)
        told.append(raised.value)

    async with opened(log, workers=2) as kh, trio.open_nursery() as nursery:
        await nursery.start(run, kh)
        if busy:
            await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
            await trio.testing.wait_all_tasks_blocked()
        log.fail = "write"
        writes = log.calls["write"]
        with pytest.raises(kharon.CommitOutcomeUnknown):
            await kh.add(Ticket("last", "other"))
    assert len(told) == 1
    assert told[0].__cause__ is log.error
    assert log.calls["write"] == writes + 1


async def test_a_worker_in_flight_is_told_what_happened():
    log = WatchedLog()
    router = kharon.Router()

    @router.handler("t")
    async def handle(_kh, _ticket):
        log.fail = "sync"

    async with opened(log) as kh:
        await kh.add(Ticket("a", "t"))
        with pytest.raises(kharon.CommitOutcomeUnknown) as raised:
            await kh.run(router)
        assert raised.value.__cause__ is log.error


async def test_leaving_the_block_after_a_break_raises_nothing_of_its_own():
    log = WatchedLog(fail="write")
    with pytest.raises(kharon.CommitOutcomeUnknown) as raised:
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
    assert raised.value.__cause__ is log.error
    async with opened(WatchedLog(fail="write")) as kh:
        with pytest.raises(kharon.CommitOutcomeUnknown):
            await kh.add(Ticket("a", "t"))  # a caller that has its answer knows of it


async def test_a_break_is_logged_once(caplog):
    log = WatchedLog(fail="sync")
    async with opened(log) as kh:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(outcome_of, kh.add, Ticket(str(number), "t"))
        assert isinstance(await outcome_of(kh.get, "0"), kharon.Closed)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].name == "kharon"
    assert "Input/output error" in errors[0].getMessage()


# --- the sync in the background ---------------------------------------------------------------------------------------


async def test_it_is_on_disk_within_the_interval(mock_clock):
    log = WatchedLog(0.05)
    async with opened(log) as kh:
        for _ in range(3):
            await kh.add(Ticket("a", "t"))
            assert log.durable < log.written == log.seq
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.03)
            await trio.testing.wait_all_tasks_blocked()
            await kh.add(Ticket("b", "t"))  # does not put it off
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.02)
            await trio.testing.wait_all_tasks_blocked()
            assert log.durable == log.seq
            mock_clock.jump(1)
        assert log.calls["sync"] == 3  # and nothing while nothing was written


async def test_a_failure_in_the_background_breaks_the_store(autojump_clock):
    log = WatchedLog(0.05)
    with pytest.raises(kharon.Closed) as raised:  # noqa: PT012
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
            log.fail = "sync"
            await trio.sleep(1)
            assert log.calls["sync"] == 1
            with pytest.raises(kharon.Closed) as first:
                await kh.add(Ticket("b", "t"))
            assert first.value.__cause__ is log.error
            await kh.get("a")
    assert raised.value.__cause__ is log.error
    assert log.names() == ADDED
    assert log.calls["sync"] == 1


async def test_a_failure_in_the_background_is_not_hidden_by_leaving(autojump_clock):
    """Nobody was in flight, and nobody asked again: leaving the block is where they hear of it."""
    log = WatchedLog(0.05)
    with pytest.raises(kharon.CommitOutcomeUnknown) as raised:  # noqa: PT012
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
            log.fail = "sync"
            await trio.sleep(1)
    assert raised.value.__cause__ is log.error


async def test_a_logging_that_raises_does_not_end_the_run_with_the_store(autojump_clock, monkeypatch):
    """It is a system task that finds the failure: whatever leaves that would cancel all that there is."""

    def raising(*_args, **_more):
        raise RuntimeError("a user's logging")

    log = WatchedLog(0.05)
    monkeypatch.setattr(logging.getLogger("kharon"), "_log", raising)
    with pytest.raises(kharon.CommitOutcomeUnknown):  # noqa: PT012
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
            log.fail = "sync"
            await trio.sleep(1)


async def test_what_was_decided_before_a_failure_in_the_background_is_not_written_after_it(mock_clock):
    """The sync fails between the decision and the write: that command must not be told that all is well."""
    outcomes = []
    for _ in range(20):
        log = WatchedLog(0.05)
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
            await trio.testing.wait_all_tasks_blocked()
            log.fail = "sync"
            mock_clock.jump(0.05)
            outcome = await outcome_of(kh.add, Ticket("b", "t"))
            outcomes.append(type(outcome).__name__)
            if isinstance(outcome, Ticket):  # the sync came later
                assert isinstance(await outcome_of(kh.get, "b"), Ticket)
                await trio.testing.wait_all_tasks_blocked()
                assert isinstance(await outcome_of(kh.get, "b"), kharon.Closed)
            else:
                assert log.written < log.seq
    assert "CommitOutcomeUnknown" in outcomes


async def test_the_syncer_ends_with_the_queue(autojump_clock):
    log = WatchedLog(0.05)
    async with opened(log) as kh:
        await kh.add(Ticket("a", "t"))
    syncs = log.calls["sync"]
    await trio.sleep(10)
    assert log.calls["sync"] == syncs


# --- opening and closing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["always", "never"])
async def test_closing_while_others_write_loses_and_damages_nothing(tmp_path, mode):
    """Callers in time have an answer that holds; late ones find the queue closed."""
    late = []
    for round_number in range(20):
        where = tmp_path / str(round_number)
        acknowledged = []

        async def add_on(kh, name, acknowledged):
            for number in range(100):
                try:
                    ticket = await kh.add(Ticket(f"{name}-{number}", "t"))
                except kharon.Closed:
                    late.append(name)
                    return
                acknowledged.append(ticket.id)

        async with trio.open_nursery() as nursery, kharon.open(where, Settings(fsync=mode)) as kh:
            for name in range(5):
                nursery.start_soon(add_on, kh, name, acknowledged)
            for _ in range(round_number % 4):
                await trio.lowlevel.checkpoint()
        async with kharon.open(where) as kh:
            assert sorted(ticket.id for ticket in await kh.list()) == sorted(acknowledged)
    assert len(late) == 100


async def test_a_closed_queue_whose_last_write_fails_says_so():
    class Unclosable(WatchedLog):
        def close(self, now):
            raise self.error

    log = Unclosable("never")
    with pytest.raises(kharon.CommitOutcomeUnknown) as raised:
        async with opened(log) as kh:
            await kh.add(Ticket("a", "t"))
    assert raised.value.__cause__ is log.error
    assert log.abandoned


async def test_a_log_that_cannot_be_opened_is_given_up():
    class Unopenable(WatchedLog):
        def open(self, now):
            raise kharon.CorruptLog("log/1.jsonl", 3, 99, "its bytes were altered")

    log = Unopenable()
    with pytest.raises(kharon.CorruptLog, match=r"line 3 \(byte 99\)"):
        async with opened(log):
            pytest.fail("it was opened")
    assert log.abandoned


async def test_a_queue_is_opened_once():
    queue = kharon.open(":memory:")
    async with queue as kh:
        with pytest.raises(kharon.Closed, match=r"call kharon\.open again"):
            await queue.__aenter__()
        await kh.add(Ticket("a", "t"))  # which did no harm
    with pytest.raises(kharon.Closed, match=r"call kharon\.open again"):
        await queue.__aenter__()


async def test_a_cancelled_opening_leaves_nothing_locked(tmp_path):
    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(3000))
    with trio.CancelScope() as scope:

        class Cancelling:
            def now(self):  # asked for in the loop, just before the replay begins in its thread
                scope.cancel()
                return EPOCH

        async with kharon.open(tmp_path / "queue", clock=Cancelling()):
            pytest.fail("it was opened")
    assert scope.cancelled_caught
    async with kharon.open(tmp_path / "queue") as kh:
        assert len(await kh.list(limit=None)) == 3000


async def test_a_long_list_is_of_one_moment_and_lets_others_run():
    async with opened(WatchedLog()) as kh:
        await kh.add_many(Ticket(str(number), "t", nice=0) for number in range(10_000))
        steps = []

        async def change():
            for number in range(9_999, 9_900, -1):
                await kh.update(str(number), nice=1)
                steps.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            tickets = await kh.list(limit=None)
            assert len(tickets) == 10_000
            nices = [ticket.nice for ticket in tickets[-100:]]
            nursery.cancel_scope.cancel()
        assert steps  # others ran meanwhile
        assert sum(nices) <= 1  # except what was changed before it began


async def test_pages_of_a_long_list_that_is_out_of_order_are_all_of_it():
    async with opened(WatchedLog()) as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(10_000))
        await kh.add_many(Ticket(str(number), "t") for number in range(0, 10_000, 7))
        whole = await kh.list(limit=None)
        assert [ticket.order for ticket in whole] == sorted(ticket.order for ticket in whole)
        assert len({ticket.id for ticket in whole}) == 10_000
        found, page = [], [None]
        while page:
            page = await kh.list(limit=4500, after=page[-1])
            found += page
        assert found == whole


@pytest.mark.parametrize("limit", [None, 1500])
async def test_no_stretch_of_a_long_list_sorts_more_than_a_slice_whatever_its_order(monkeypatch, limit):
    keys = 0
    seen = [0]  # how many keys there were whenever others ran

    def order(ticket):
        nonlocal keys
        keys += 1
        return ticket.order

    async def look():
        while True:
            seen.append(keys)
            await trio.lowlevel.checkpoint()

    async with opened(WatchedLog()) as kh:
        numbers = list(range(3000))
        await kh.add_many(Ticket(str(number), "t") for number in numbers)
        random.Random(1).shuffle(numbers)
        async with kh.atomic() as tx:
            for number in numbers:
                tx.fail(str(number))
                tx.restart(str(number))
        monkeypatch.setattr("kharon.store.listing._SLICE", 100)
        monkeypatch.setattr("kharon.store.listing._ORDER", order)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            tickets = await kh.list(limit=limit)
            nursery.cancel_scope.cancel()
    assert [ticket.id for ticket in tickets] == [str(number) for number in numbers[:limit]]
    stretches = [later - earlier for earlier, later in pairwise([*seen, keys])]
    assert max(stretches) <= 3 * 100  # two slices where the watcher comes first and then last; one key of each run
    assert keys <= 2 * 3000 + 100


# --- schedules --------------------------------------------------------------------------------------------------------


class Running(TrioClock):
    """A clock that goes on by a second each time it has been asked."""

    def now(self):
        now = super().now()
        self.step(1)
        return now


async def test_a_first_instant_is_found_by_the_time_that_the_commit_is_decided_by(mock_clock):
    clock = Running()
    async with kharon.open(":memory:", clock=clock) as kh:
        set_it = c.SetSchedule("s", "t", Raw(b"1"), "default", 512, every=60.0)
        assert set_it.first is None
        before = clock.now()
        assert await kh._store.submit((set_it,), "app") == [None]
        (schedule,) = await kh.schedules()
        (record,) = [record async for record in kh.records()]
        assert schedule.next == record.event.next_due == record.at + timedelta(seconds=60)
        assert record.at == before + timedelta(seconds=1)


# --- recovery ---------------------------------------------------------------------------------------------------------


def store_on(log, **settings):
    return LocalStore(log, Settings(**settings), TrioClock(), lambda _commit: None, lambda: None, in_thread=False)


async def test_claims_of_a_dead_process_lapse_at_opening(tmp_path, mock_clock):
    where = tmp_path / "queue"
    log = kharon.log.directory.DirectoryLog(where)
    store = store_on(log)
    await store.open()
    await store.submit([c.Add("a", Ticket("a", "t"))], "app")
    await store.submit([c.Add("b", Ticket("b", "t"))], "app")
    claimed = await store.turn("worker-1", ("default",), None, settle_by="worker-1", claim=True)
    assert claimed.id == "a"
    log.abandon()  # as if killed

    async with kharon.open(where, Settings(backoff=BackoffDelay(base=2, jitter=0)), clock=TrioClock()) as kh:
        ticket = await kh.get("a")
        assert (ticket.status, ticket.attempts, ticket.claim) == (kharon.Status.PENDING, 1, None)
        assert ticket.error_reason == "the process that ran it ended"
        assert ticket.runat == ticket.mtime + timedelta(seconds=2)
        lapse = (await kh.history("a"))[-1]
        assert (type(lapse.event).__name__, lapse.by) == ("TicketLapsed", "clock")
        assert (await kh.get("b")).attempts == 0
        assert kh.stats().lapsed == 1


async def test_all_claims_of_a_dead_process_lapse_at_opening_however_many(tmp_path, mock_clock):
    where = tmp_path / "queue"
    log = kharon.log.directory.DirectoryLog(where)
    store = store_on(log)
    await store.open()
    ids = [str(number) for number in range(2 * kharon.store.local._TICK_LIMIT + 3)]
    await store.submit([c.Add(id, Ticket(id, "t")) for id in ids], "app")
    await store.submit([c.Claim(id, "worker-1") for id in ids], "worker-1")
    log.abandon()
    async with kharon.open(where, clock=TrioClock()) as kh:
        assert not list(kh._store.projection.claimed())
        assert kh.stats().lapsed == len(ids)


async def test_a_ticket_that_kills_its_process_comes_to_an_end(tmp_path):
    """Every life claims it and dies; after `max_attempts` lives it has failed, and the next life is safe."""
    where = tmp_path / "queue"
    settings = {"max_attempts": 3, "backoff": kharon.FixedDelay(0)}
    lives = []
    for life in range(5):
        log = kharon.log.directory.DirectoryLog(where)
        store = store_on(log, **settings)
        await store.open()
        if life == 0:
            await store.submit([c.Add("poison", Ticket("poison", "t"))], "app")
        claimed = await store.turn("worker-1", ("default",), None, settle_by="worker-1", claim=True)
        lives.append(claimed.attempts if claimed else None)
        log.abandon()
    assert lives == [1, 2, 3, None, None]
    async with kharon.open(where) as kh:
        ticket = await kh.get("poison")
        assert ticket.status is kharon.Status.FAILED
        assert ticket.attempts == 3
        assert "the process that ran it ended (no attempts left after 3)" in ticket.error_reason


async def test_recovery_is_durable_before_anything_is_answered():
    log = WatchedLog()
    store = store_on(log)
    await store.open()
    await store.submit([c.Add("a", Ticket("a", "t"))], "app")
    await store.turn("worker-1", ("default",), None, settle_by="worker-1", claim=True)

    class Reopened(WatchedLog):
        def open(self, now):
            yield from log.records()
            self._log._chain.seq = log.seq

    again = Reopened(fail="sync")
    with pytest.raises(kharon.CommitOutcomeUnknown):
        await opened(again).__aenter__()
    assert again.abandoned


@pytest.mark.parametrize("what", ["leases", "what is kept"])
async def test_a_tick_that_leaves_something_due_says_so(mock_clock, what):
    store = store_on(WatchedLog(), process_time=10)
    await store.open()
    ids = [str(number) for number in range(kharon.store.local._TICK_LIMIT + 1)]
    await store.submit([c.Add(id, Ticket(id, "t")) for id in ids], "app")
    leases = what == "leases"
    await store.submit([c.Claim(id, "w") if leases else c.Done(id, keep=True, expire_in=10) for id in ids], "w")
    mock_clock.jump(20)
    assert await store.tick() == 0
    assert await store.tick() > 0
    assert not list(store.projection.claimed())
    assert len(store.projection.tickets) == (len(ids) if leases else 0)
    await store.close()


@pytest.mark.parametrize("how", ["closed", "broken"])
async def test_nobody_goes_on_waiting_for_a_store_that_is_gone(how):
    """Whoever it is, and whether or not anybody cancels the waits: the store lets go of each."""
    log, outcomes = WatchedLog(), {}
    store = store_on(log)
    await store.open()

    async def note(name, call, *args):
        outcomes[name] = type(await outcome_of(call, *args)).__name__

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "idle", store.wait_ready, ("default",))
        nursery.start_soon(note, "reader", store.reader(0).wait)
        nursery.start_soon(note, "time", store.wait_earlier)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == {}
        if how == "broken":
            log.fail = "write"
            await outcome_of(store.submit, [c.Add("a", Ticket("a", "t", tube="nobody's"))], "app")
        else:
            await store.close()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert outcomes == {"idle": "Closed", "reader": "Closed", "time": "NoneType"}


async def test_replay_equals_the_live_projection(tmp_path, autojump_clock):
    """All that a queue can do, by workers and by hand; then the log alone tells the same."""
    where = tmp_path / "queue"
    router = kharon.Router()

    @router.handler("flaky")
    async def flaky(kh, ticket):
        if ticket.attempts < 3:
            raise ValueError(ticket.attempts)
        await kh.done(ticket, result=ticket.payload, expire_in=5)

    @router.handler("slow")
    async def slow(_kh, _ticket):
        await trio.sleep(60)

    async with kharon.open(where, Settings(process_time=10, max_attempts=4), clock=TrioClock()) as kh:
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            await kh.add_many(Ticket(f"f{number}", "flaky", payload=number) for number in range(10))
            await kh.add(Ticket("s", "slow"))
            await trio.sleep(1)
            await kh.add(Ticket("f0", "flaky", nice=3))
            await kh.update("s", payload={"changed": True})
            await kh.cancel("f1", keep=True, error_reason="not wanted")
            await trio.sleep(100)
            await kh.restart("s")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        live = kh._store.projection
        live.check()
        assert len(live.tickets) >= 1
        replayed = Projection().fold([record async for record in kh.records()])
        assert replayed == live
    assert kharon.replay(where).tickets == live.tickets
    assert live.at >= EPOCH
