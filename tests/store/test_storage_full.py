"""A disk without room: nothing of a group is kept, what runs is settled, and everything goes on when there is room."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from offering_log import FakeSyncer
from store_steps import Fast, Slow, outcome_of

import kharon
from kharon import Settings, StorageFull, Ticket
from kharon.log.directory import DirectoryLog
from kharon.log.files import OsFiles
from kharon.log.memory import MemoryLog
from kharon.model import commands as c
from kharon.model.commit import Commit
from kharon.model.events import TicketEvent, grows
from kharon.model.projection import Projection
from kharon.testing import EPOCH, FailingLog, TrioClock

RESERVE = 1 << 18


class Disk(OsFiles):
    """The real files on a disk of `room` bytes."""

    def __init__(self):
        self.room = 1 << 40

    def create(self, path):
        return Watched(self, super().create(path))

    def append(self, path):
        return Watched(self, super().append(path))


class Watched:
    def __init__(self, disk, file):
        self._disk = disk
        self._file = file
        self.size, self.identity, self.close, self.sync = file.size, file.identity, file.close, file.sync
        self.twin = file.twin

    def _take(self, size):
        if size > self._disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.room -= size

    def write(self, data):
        self._take(len(data))
        self._file.write(data)

    def truncate(self, size):
        self._disk.room += self.size() - size
        self._file.truncate(size)

    def allocate(self, size):
        self._take(max(0, size - self.size()))
        self._file.allocate(size)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """A busy machine's disk may seem slow, and is left to a helper then: what has no room shows at another moment."""
    monkeypatch.setattr("kharon.store.group_commit.Pace", Fast)


@pytest.fixture
def disk():
    return Disk()


def opened(where, disk, reserve=RESERVE, **settings):
    segment_bytes = settings.get("segment_bytes", Settings().segment_bytes)
    log = DirectoryLog(where, segment_bytes, files=disk, reserve_bytes=reserve)
    return kharon.open(log, Settings(**settings), clock=TrioClock())


def holds(kh, where=None):
    """The projection is right in itself, and is what the log says."""
    projection = kh._store.projection
    projection.check()
    log = kh._store._log
    assert projection.seq == log.seq == log.written
    if where is not None:
        assert kharon.replay(where) == projection


# --- undo -------------------------------------------------------------------------------------------------------------


def random_command(chance, ticket, id, now):
    group = chance.choice([None, "g", "h"])
    waits = {"after_group": chance.choice([None, "g", "h"]), "on_failure": chance.choice(["run", "cancel"])}
    waits["after"] = tuple(chance.sample("abcdef", chance.choice([0, 0, 0, 2])))
    if ticket is None:
        return c.Add(id, Ticket(id, "t", nice=chance.randrange(3), group=group), chance.choice([None, 0, 3]), **waits)
    return chance.choice(
        [
            c.Add(id, Ticket(id, "t", tube=chance.choice("xy"), group=group), chance.choice([None, 5]), **waits),
            c.Update(id, kharon.model.events.Changes(group=group)),
            c.Claim(id, "w"),
            c.Claim(id, "w"),
            c.Extend(id, seconds=chance.randrange(100)),
            c.Done(id, keep=chance.random() < 0.5, expire_in=chance.choice([None, 4])),
            c.Fail(id, expire_in=chance.choice([None, 9])),
            c.Cancel(id, keep=True),
            c.Retry(id, delay=chance.randrange(9)),
            c.Release(id),
            c.Lapse(id, error_reason="no", backoff=kharon.FixedDelay(3), max_attempts=2),
            c.Restart(id),
            c.Update(id, kharon.model.events.Changes(nice=chance.randrange(9), tube=chance.choice("xy"))),
            c.Delete(id),
            c.Expire(id),
        ]
    )


@pytest.mark.parametrize("seed", range(30))
def test_undo_is_exact_whatever_happened_and_whatever_time_did(seed):
    """Groups of random commands, half of them taken back, with time going on (and back) inside of them."""
    chance = random.Random(seed)
    projection, twin, now, kinds = Projection(), Projection(), EPOCH, set()
    for _ in range(120):
        undone, taken = chance.random() < 0.5, []
        for _ in range(chance.randrange(1, 6)):
            now += timedelta(seconds=chance.choice([0, 0, 1, 7, -3]))
            projection.promote(now)
            id = chance.choice("abcdef")
            commit = Commit(projection, c.Context(now, 0.5, 5.0))
            try:
                commit.run([random_command(chance, projection.get(id), id, now)])
            except kharon.KharonError:
                commit.undo()
            else:
                commit.keep()
                taken += commit.effects
                kinds.update(type(effect.event) for effect in commit.effects)
        if undone:
            for effect in reversed(taken):
                projection.undo(effect)
        else:
            for effect in taken:
                twin.apply(effect.event, effect.seq, effect.at)
        projection.check()
        twin.promote(now)
        assert projection == twin
        for index in ("_delayed", "_leases", "_expiring", "groups"):
            assert getattr(projection, index) == getattr(twin, index)
        for index in ("ready", "claimed"):
            assert getattr(projection._ready, index) == getattr(twin._ready, index)
    assert len(kinds) > 8
    assert kharon.model.events.TicketUnblocked in kinds


def test_undo_of_an_event_about_no_ticket():
    projection = Projection()
    projection.undo(projection.apply(kharon.model.events.LogClosed(), 1, EPOCH))
    assert projection == Projection()


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_all_in_flight_are_told_and_nothing_of_it_was(where, disk):
    told = []

    async def in_flight(call, *args, **kwargs):
        told.append(await outcome_of(call, *args, **kwargs))

    async with opened(where, disk) as kh:
        await kh.add(Ticket("a", "t"))
        before = await kh.get("a")
        disk.room = 0
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(in_flight, kh.add, Ticket(str(number), "t"))
            nursery.start_soon(lambda: in_flight(kh.update, "a", nice=1))
        assert [type(error) for error in told] == [StorageFull] * 21
        assert len({id(error) for error in told}) == 21
        assert await kh.list() == [before]
        assert len(await kh.history("a")) == 1
        holds(kh, where)
        assert kh.stats().added == 1


# --- commits of several commands, and those that wait ----------------------------------------------------------------


async def waiting(kh):
    """A member and who waits for it: one that runs, one that does not if it fails, and one behind that."""
    await kh.add_many([Ticket("first", "t"), Ticket("m", "t", group="g"), Ticket("last", "t")])
    await kh.add(Ticket("runs", "t"), after_group="g")
    await kh.add(Ticket("stops", "t"), after=["m"], on_failure="cancel")
    await kh.add(Ticket("behind", "t"), after=["stops"])


async def fail_and_add(kh):
    async with kh.atomic() as tx:
        tx.delete("first")
        tx.fail("m")
        tx.add(Ticket("new", "t", group="g"))
        tx.update("last", group="g")


@pytest.mark.parametrize("known", [False, True])
async def test_a_commit_with_what_follows_from_it_is_taken_back_whole(where, disk, known):
    """Whether that there is no room shows when it is written, or is known before."""
    async with opened(where, disk) as kh, trio.open_nursery() as nursery:
        await waiting(kh)
        nursery.start_soon(kh.group("g").wait)
        await trio.testing.wait_all_tasks_blocked()
        before = await kh.list()
        disk.room = 0
        if known:
            assert isinstance(await outcome_of(kh.add, Ticket("no", "t")), StorageFull)
        seq = kh._store._log.seq
        for _ in range(3):
            assert isinstance(await outcome_of(fail_and_add, kh), StorageFull)
            after = await kh.list()
            assert after == before
            # Only one that was removed by a commit which was kept until it was written has lost its place there.
            held = list(kh._store.projection.tickets.values())
            assert held == (before if known else [*before[1:], before[0]])
            assert kh._store._log.seq == seq
            assert await kh.group("g").pending_count() == 1
            assert [ticket.blocked for ticket in after if ticket.id in ("runs", "stops", "behind")] == [True] * 3
            holds(kh, where)
        assert len(nursery.child_tasks) == 1, "who waits for the group has heard nothing"
        disk.room = 1 << 30
        kh._store._commits._retry_at = 0
        await fail_and_add(kh)
        assert not (await kh.get("runs")).blocked
        assert (await kh.get("stops")).status is kharon.Status.CANCELLED
        holds(kh, where)
        assert [ticket.id for ticket in await kh.list()] == list(kharon.replay(where).tickets)
        assert await kh.group("g").pending_count() == 2
        assert len(nursery.child_tasks) == 1, "within a commit there is no instant at which the group is empty"
        for ticket in await kh.list(status="pending", group="g"):
            await kh.ack(ticket.id)


async def test_an_end_unblocks_and_cancels_from_the_reserve(where, disk):
    async with opened(where, disk) as kh:
        await waiting(kh)
        disk.room = 0
        assert isinstance(await outcome_of(kh.add, Ticket("no", "t")), StorageFull)
        await kh.fail("m")
        told = [(type(record.event).__name__, record.part) async for record in kh.records(after=6)]
        assert told == [
            ("TicketFailed", (1, 4)),
            ("TicketCancelled", (2, 4)),
            ("TicketUnblocked", (3, 4)),
            ("TicketUnblocked", (4, 4)),
        ]
        holds(kh, where)


async def test_an_end_that_unblocks_does_not_suffer_from_its_group(where, disk):
    async with opened(where, disk) as kh:
        await waiting(kh)
        disk.room = 0
        answers = {}

        async def call(name, verb, *args):
            answers[name] = await outcome_of(verb, *args)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "atomic", fail_and_add, kh)
            nursery.start_soon(call, "ack", kh.ack, "m")
            nursery.start_soon(call, "wait", kh.group("g").wait)
            nursery.start_soon(call, "add", kh.add, Ticket("new", "t"))
        assert type(answers["add"]) is StorageFull
        assert type(answers["atomic"]) in (StorageFull, kharon.TicketNotFound)  # by then the other may have ended it
        assert (answers["ack"], answers["wait"]) == (None, None)
        assert [ticket.blocked for ticket in await kh.list() if ticket.id in ("runs", "stops")] == [False, False]
        assert (await kh.get("first")).version == 1
        holds(kh, where)


GROWING = {
    "add": lambda kh: kh.add(Ticket("new", "t")),
    "add again": lambda kh: kh.add(Ticket("a", "t")),
    "add_many": lambda kh: kh.add_many([Ticket("new", "t"), Ticket("newer", "t")]),
    "extend": lambda kh: kh.extend("claimed", 1000),
    "restart": lambda kh: kh.restart("ended"),
    "update": lambda kh: kh.update("a", nice=3),
}
ENDING = {
    "ack": lambda kh: kh.ack("a"),
    "done": lambda kh: kh.done("a", result=1),
    "fail": lambda kh: kh.fail("a", error_reason="no"),
    "cancel": lambda kh: kh.cancel("a"),
    "retry": lambda kh: kh.retry("a", delay=1),
    "release": lambda kh: kh.release("claimed"),
    "delete": lambda kh: kh.delete("a"),
    "delete ended": lambda kh: kh.delete("ended"),
}


async def prepare(kh):
    await kh.add_many([Ticket("claimed", "t"), Ticket("a", "t"), Ticket("ended", "t")])
    await kh.fail("ended")
    claimed = await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
    assert claimed.id == "claimed"


@pytest.mark.parametrize("verb", GROWING)
async def test_what_grows_is_refused_at_once(where, disk, verb):
    async with opened(where, disk) as kh:
        await prepare(kh)
        disk.room = 0
        seq = kh._store._log.seq
        writes = []
        for _ in range(3):
            with pytest.raises(StorageFull, match=r"no room for .* bytes") as full:
                await GROWING[verb](kh)
            assert full.value.__cause__ is not None
            kh._store._log.write = lambda: writes.append(1)  # after the first nobody tries, for a while
        del kh._store._log.write
        assert writes == []
        assert kh._store._log.seq == seq
        holds(kh, where)
        disk.room = 1 << 30


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("verb", ENDING)
async def test_what_ends_something_goes_on(where, disk, verb, known):
    async with opened(where, disk) as kh:
        await prepare(kh)
        disk.room = 0
        if known:
            with pytest.raises(StorageFull):
                await kh.add(Ticket("new", "t"))
        seq = kh._store._log.seq
        await ENDING[verb](kh)
        assert kh._store._log.seq == seq + 1
        holds(kh, where)


async def test_a_refusal_that_is_not_about_room_is_told_as_such(where, disk):
    async with opened(where, disk) as kh:
        await kh.add(Ticket("a", "t"))
        disk.room = 0
        assert isinstance(await outcome_of(kh.add, Ticket("b", "t")), StorageFull)
        with pytest.raises(kharon.TicketExists):
            await kh.add(Ticket("a", "t"), on_conflict="raise")
        assert (await kh.add(Ticket("a", "t"), on_conflict="skip")).version == 1
        with pytest.raises(kharon.TicketNotFound):
            await kh.ack("b")


async def test_what_ends_something_does_not_suffer_from_its_group(where, disk):
    """It shares a group with an add that finds no room: the add is refused, the end is kept."""
    shared = 0
    async with opened(where, disk) as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(20))
        for number in range(20):
            disk.room = 0
            answers = {}

            async def call(name, verb, *args, answers=answers):
                answers[name] = await outcome_of(verb, *args)

            write = kh._store._log.write

            pending = []

            def see(write=write, pending=pending):
                nonlocal shared
                group = {type(event).__name__ for event in pending}
                shared += group == {"TicketAdded", "TicketDone"}
                pending.clear()
                write()

            append = kh._store._log.append

            def note(events, at, by, append=append, pending=pending):
                pending.extend(events)
                return append(events, at, by)

            kh._store._log.write, kh._store._log.append = see, note
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, "add", kh.add, Ticket("new", "t"))
                nursery.start_soon(call, "ack", kh.ack, str(number))
                nursery.start_soon(call, "get", kh.get, str(number))
                nursery.start_soon(call, "list", kh.list)
            del kh._store._log.write, kh._store._log.append
            assert isinstance(answers["add"], StorageFull)
            assert answers["ack"] is None
            assert isinstance(answers["get"], Ticket | kharon.TicketNotFound)
            assert len(answers["list"]) in (20 - number, 19 - number)
            disk.room = 1 << 30
            kh._store._commits._retry_at = 0
            await kh.add(Ticket("new", "t"))
            await kh.ack("new")
        holds(kh, where)
    assert shared == 20


async def test_a_read_in_flight_looks_again(where, disk):
    """What it saw was taken back; the state without that is what there is."""
    seen = set()

    async def read(kh, name, call):
        answer = await outcome_of(call)
        assert not isinstance(answer, StorageFull)
        if name == "history":
            answer = [record.seq for record in answer]
        seen.add((name, getattr(answer, "nice", None) or str(answer)))

    async with opened(where, disk) as kh:
        await kh.add(Ticket("a", "t", nice=7))
        for _ in range(20):
            disk.room = 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: outcome_of(kh.update, "a", nice=1))
                nursery.start_soon(read, kh, "get", lambda: kh.get("a"))
                nursery.start_soon(read, kh, "list", kh.list)
                nursery.start_soon(read, kh, "history", lambda: kh.history("a"))
                nursery.start_soon(read, kh, "restart", lambda: kh.restart("nobody"))
            kh._store._commits._retry_at = 0
    assert {value for name, value in seen if name == "get"} == {7}
    assert len({value for name, value in seen if name == "list"}) == 1
    assert len({value for name, value in seen if name == "history"}) == 1
    assert all("'nobody'" in value for name, value in seen if name == "restart")


async def test_it_goes_on_when_there_is_room_and_says_each_change_once(where, disk, caplog, autojump_clock):
    caplog.set_level(logging.WARNING)

    def lines():
        found = [record.getMessage() for record in caplog.records if "room" in record.getMessage()]
        caplog.clear()
        return found

    async with opened(where, disk) as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(30))
        for _ in range(2):
            disk.room = 0
            for number in range(5):
                assert isinstance(await outcome_of(kh.add, Ticket(f"no-{number}", "t")), StorageFull)
                await trio.sleep(number)
            await kh.ack((await kh.list(limit=1))[0].id)
            (line,) = lines()
            assert line.startswith("no room: only commands that end something are accepted")
            disk.room = 1 << 30
            await trio.sleep(1)
            await kh.add(Ticket("yes", "t"))
            await kh.add(Ticket("and yes", "t"))
            (line,) = lines()
            assert line.startswith("there is room again")
        assert (where / "reserve").stat().st_size == RESERVE
        holds(kh, where)
    async with opened(where, disk) as kh:
        assert len(await kh.list()) == 30


async def test_it_tries_once_a_second(where, disk, autojump_clock):
    async with opened(where, disk) as kh:
        disk.room = 0
        tries = []
        write = kh._store._log.write
        kh._store._log.write = lambda: (tries.append(trio.current_time()), write())
        start = trio.current_time()
        for _ in range(100):
            assert isinstance(await outcome_of(kh.add, Ticket("a", "t")), StorageFull)
            await trio.sleep(0.1)
        assert len(tries) in (10, 11)
        assert trio.current_time() - start == pytest.approx(10)


@pytest.mark.parametrize("fsync", [0.05, "never"])
async def test_in_every_mode(where, disk, fsync, autojump_clock):
    async with opened(where, disk, fsync=fsync) as kh:
        await kh.add(Ticket("a", "t"))
        disk.room = 0
        assert isinstance(await outcome_of(kh.add, Ticket("b", "t")), StorageFull)
        await kh.ack("a")
        await trio.sleep(1)
        disk.room = 1 << 30
        await kh.add(Ticket("c", "t"))
        holds(kh, where)


async def test_a_log_of_memory_or_of_your_own_can_run_out_of_room_too():
    error = StorageFull("no room for 99 bytes")
    log = FailingLog(MemoryLog(), error=error)
    async with kharon.open(log, clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t"))
        log.fail = "write"
        for call in (kh.add(Ticket("b", "t")), kh.ack("a")):  # it keeps nothing in reserve
            with pytest.raises(StorageFull, match="99 bytes") as full:
                await call
            assert full.value.__cause__ is error
        holds(kh)
        log.fail = None
        await kh.ack("a")
        kh._store._commits._retry_at = 0
        await kh.add(Ticket("c", "t"))
        holds(kh)
        assert [record.seq async for record in kh.records()] == [1, 2, 3]


async def test_closing_on_a_full_disk(where, disk):
    async with opened(where, disk, reserve=0) as kh:
        await kh.add(Ticket("a", "t"))
        disk.room = 0
        assert isinstance(await outcome_of(kh.add, Ticket("b", "t")), StorageFull)
    report = kharon.verify(where)
    assert (report.last, report.closed, report.unfinished) == (1, False, 0)
    disk.room = 1 << 30
    async with opened(where, disk) as kh:
        assert [ticket.id for ticket in await kh.list()] == ["a"]


async def test_a_log_of_your_own_without_room_to_be_closed(caplog):
    class Unclosable(MemoryLog):
        def close(self, now):
            raise StorageFull("no room")

    async with kharon.open(Unclosable()) as kh:
        await kh.add(Ticket("a", "t"))
    assert "no room to record in the log that the queue was closed" in caplog.text


async def test_a_logging_that_raises_costs_nobody_their_answer(where, disk):
    class BrokenSegment(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())
            raise RuntimeError(said[-1])

    answers, said = [], []

    async def add(kh, id):
        answers.append(await outcome_of(kh.add, Ticket(id, "t")))

    handler = BrokenSegment()
    logging.getLogger("kharon").addHandler(handler)
    try:
        async with opened(where, disk) as kh:
            for room, told in ((10, StorageFull), (1 << 30, Ticket)):
                disk.room = room
                kh._store._commits._retry_at = 0
                answers.clear()
                with trio.fail_after(30):
                    async with trio.open_nursery() as nursery:
                        for number in range(5):
                            nursery.start_soon(add, kh, str(number))
                assert [type(answer) for answer in answers] == [told] * 5
            assert [text.partition(":")[0] for text in said] == ["no room", "there is room again"]
            holds(kh, where)
    finally:
        logging.getLogger("kharon").removeHandler(handler)


async def test_closing_while_an_add_finds_no_room(where, disk):
    for _ in range(10):
        disk.room = 1 << 30
        answers = []

        async def add(kh, answers):
            answers.append(await outcome_of(kh.add, Ticket("b", "t")))

        async with trio.open_nursery() as nursery, opened(where, disk) as kh:
            disk.room = 0
            nursery.start_soon(add, kh, answers)
            await trio.lowlevel.checkpoint()
        assert type(answers[0]) in {StorageFull, kharon.Closed}
    assert "TicketAdded" not in {type(record.event).__name__ for record in kharon.read(where)}


async def test_claims_of_a_dead_process_lapse_from_the_reserve(where, disk):
    log = DirectoryLog(where, files=disk, reserve_bytes=RESERVE)
    queue = kharon.open(log, clock=TrioClock())
    kh = await queue.__aenter__()
    await prepare(kh)
    log.abandon()  # as if killed
    disk.room = 2000  # for the copy of the tail
    async with opened(where, disk) as kh:
        assert (await kh.get("claimed")).error_reason == "the process that ran it ended"
    kh._store._closed = "gone"


async def test_claims_of_a_dead_process_lapse_later_if_there_is_no_room_at_all(where, disk, autojump_clock):
    log = DirectoryLog(where, files=disk)
    kh = await kharon.open(log, Settings(process_time=30), clock=TrioClock()).__aenter__()
    await prepare(kh)
    log.abandon()
    kh._store._closed = "gone"
    size = (where / "log").joinpath("00000000000000000001.jsonl").stat().st_size
    disk.room = size + 10
    async with opened(where, disk, reserve=0) as kh, trio.open_nursery() as nursery:
        assert (await kh.get("claimed")).claim is not None
        router = kharon.Router()
        router.handler("other")(Crew().handle)
        await nursery.start(kh.run, router)
        await trio.sleep(40)
        assert (await kh.get("claimed")).claim is not None
        disk.room = 1 << 30
        await trio.sleep(2)
        assert (await kh.get("claimed")).claim is None
        nursery.cancel_scope.cancel()


# --- workers ----------------------------------------------------------------------------------------------------------


class Crew:
    """A router whose handlers note what they run, and wait for a gate."""

    def __init__(self):
        self.router = kharon.Router()
        self.ran = []
        self.gate = trio.Event()
        self.router.handler("t")(self.handle)

    async def handle(self, _kh, ticket):
        self.ran.append(ticket.id)
        await self.gate.wait()


async def test_workers_go_on_settling_and_claim_again_when_there_is_room(where, disk, autojump_clock):
    crew = Crew()
    async with opened(where, disk, workers=2, process_time=1000) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crew.router)
        await kh.add_many(Ticket(str(number), "t") for number in range(6))
        await trio.sleep(1)
        assert sorted(crew.ran) == ["0", "1"]
        disk.room = 0
        crew.gate.set()
        await trio.sleep(60)
        assert sorted(crew.ran) == ["0", "1"], "no claims that could not be settled"
        assert sorted(ticket.id for ticket in await kh.list()) == ["2", "3", "4", "5"], "what ran is settled"
        holds(kh, where)
        disk.room = 1 << 30
        await trio.sleep(kh.settings.max_poll_interval)
        assert sorted(crew.ran) == ["0", "1", "2", "3", "4", "5"]
        assert await kh.list() == []
        holds(kh, where)
        nursery.cancel_scope.cancel()


async def test_idle_workers_sleep_on_a_full_disk(where, disk, autojump_clock):
    crew = Crew()
    async with opened(where, disk, workers=4) as kh, trio.open_nursery() as nursery:
        disk.room = 1500
        await kh.add(Ticket("a", "t", payload="x" * 1000))
        turns = []
        turn = kh._store.turn

        def count(*args, **kwargs):
            turns.append(trio.current_time())
            return turn(*args, **kwargs)

        kh._store.turn = count
        disk.room = 0
        await nursery.start(kh.run, crew.router)
        await trio.sleep(150)
        assert crew.ran == []
        assert len(turns) < 40, "a try for each look at the clock, and no busy loop"
        holds(kh, where)
        disk.room = 1 << 30
        await trio.sleep(15)
        assert crew.ran == ["a"]
        nursery.cancel_scope.cancel()


async def test_leases_lapse_and_kept_tickets_expire_from_the_reserve(where, disk, autojump_clock):
    crew = Crew()
    async with opened(where, disk, workers=1, process_time=10) as kh, trio.open_nursery() as nursery:
        await kh.add_many([Ticket("a", "t"), Ticket("kept", "t"), Ticket("b", "t")])
        await kh.done("kept", expire_in=5)
        await nursery.start(kh.run, crew.router)
        await trio.sleep(1)
        disk.room = 0
        assert isinstance(await outcome_of(kh.add, Ticket("no", "t")), StorageFull)
        await trio.sleep(30)
        assert sorted(ticket.id for ticket in await kh.list()) == ["a", "b"]
        assert (await kh.get("a")).error_reason == "the lease ended"
        assert crew.ran == ["a"]
        holds(kh, where)
        nursery.cancel_scope.cancel()


async def test_a_settle_waits_for_room_when_even_the_reserve_is_used_up(where, disk, autojump_clock):
    crew = Crew()
    async with opened(where, disk, reserve=0, workers=1, process_time=1000) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crew.router)
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        await trio.sleep(1)
        disk.room = 0
        crew.gate.set()
        await trio.sleep(100)
        assert (await kh.get("a")).claim is not None
        assert crew.ran == ["a"]
        disk.room = 1 << 30
        await trio.sleep(30)
        assert crew.ran == ["a", "b"]
        assert await kh.list() == []
        nursery.cancel_scope.cancel()


async def test_a_tick_that_finds_no_room_at_all_says_when_to_try_again(where, disk, autojump_clock):
    async with opened(where, disk, reserve=0, process_time=10) as kh:
        await kh.add(Ticket("a", "t"))
        await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
        disk.room = 0
        await trio.sleep(20)
        for _ in range(3):
            assert 1 <= await kh._store.tick() < 2
        disk.room = 1 << 30
        await trio.sleep(1)
        assert await kh._store.tick() > 0
        assert (await kh.get("a")).claim is None


async def test_a_settle_that_waits_for_room_does_not_hold_up_the_end(where, disk, autojump_clock, caplog):
    crew = Crew()
    async with opened(where, disk, reserve=0, workers=1, process_time=1000) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crew.router)
        await kh.add(Ticket("a", "t"))
        await trio.sleep(1)
        disk.room = 0
        crew.gate.set()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert "ticket 'a': the outcome of its attempt is lost, so it will run again" in caplog.text
    disk.room = 1 << 30
    async with opened(where, disk) as kh:
        assert (await kh.get("a")).attempts == 1


@pytest.mark.parametrize("how", ["gone", "written to again"])
async def test_a_settle_that_waits_for_room_hears_what_becomes_of_the_store(where, disk, how, autojump_clock):
    outcomes = []
    async with opened(where, disk, reserve=0) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"))
        ticket = await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)

        async def settle():
            done = c.Done("a", ticket.claim)
            outcomes.append(await outcome_of(lambda: kh._store.turn("w", (), done, settle_by="w", claim=False)))

        disk.room = 0
        nursery.start_soon(settle)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == []
        if how == "gone":
            await kh._store.close()
        else:
            disk.room = 1 << 30
            await trio.sleep(1)
            await kh.add(Ticket("b", "t"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(outcome) for outcome in outcomes] == [kharon.Closed if how == "gone" else type(None)]


@pytest.mark.parametrize("settle", [c.Release, c.Done])
async def test_what_a_worker_ends_does_not_suffer_from_its_group(where, disk, settle, autojump_clock):
    """It is decided once more without what there is no room for, and does not wait until there is some."""
    async with opened(where, disk) as kh:
        await kh.add(Ticket("a", "t"))
        ticket = await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
        disk.room = 0
        kh._store._execute([c.Add("new", Ticket("new", "t"))], "app")
        with trio.move_on_after(0.5):
            await kh._store.turn("w", (), settle("a", ticket.claim), settle_by="w", claim=False)
        assert [(each.id, each.claim) for each in await kh.list()] == ([("a", None)] if settle is c.Release else [])
        holds(kh, where)


async def test_a_claim_that_cannot_be_released_is_said_and_ends_nothing_else(where, disk, autojump_clock, caplog):
    crew = Crew()
    async with opened(where, disk, reserve=0, workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crew.router)
        await kh.add(Ticket("a", "t"))
        await trio.sleep(1)
        disk.room = 0
        nursery.cancel_scope.cancel()
    assert "ticket 'a' (t): could not be released" in caplog.text


async def test_drain_on_a_full_disk(where, disk, autojump_clock):
    crew = Crew()
    async with opened(where, disk, workers=2) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crew.router)
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t"), Ticket("c", "t")])
        await trio.sleep(1)
        disk.room = 0
        crew.gate.set()
        with trio.fail_after(60):
            await kh.drain()
        assert [ticket.id for ticket in await kh.list()] == ["c"]


async def test_a_queue_that_breaks_on_a_full_disk_lets_go_of_everybody(where, disk, autojump_clock):
    crew = Crew()
    async with opened(where, disk, reserve=0, workers=1, process_time=1000) as kh:
        await kh.add(Ticket("a", "t"))
        async with trio.open_nursery() as nursery:

            async def run():
                with pytest.raises(kharon.KharonError):
                    await kh.run(crew.router)

            nursery.start_soon(run)
            await trio.sleep(1)
            disk.room = 0
            crew.gate.set()
            await trio.sleep(0.5)
            (where / "log").rename(where / "elsewhere")
            await trio.sleep(20)
            assert isinstance(await outcome_of(kh.get, "a"), kharon.Closed)


def leave_syncs_to(syncer, store):
    store._commits._pace = Slow()
    store._commits._helper = syncer
    syncer.start()
    syncer.on_request = os.fsync


async def answer_by_and_by(syncer, chance):
    while True:
        await trio.sleep(chance.random() * 0.2)
        if syncer.done is not None:
            syncer.answer()


@pytest.mark.parametrize("fsync", ["always", 0.3])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_random_life_on_a_disk_that_fills_and_empties(where, disk, autojump_clock, elsewhere, fsync):
    """What was acknowledged is there, what was refused is not, and the log tells the same as the projection.

    Also while groups are in flight, and segments are begun.
    """
    chance = random.Random(8)
    there, refused, syncer = set(), 0, FakeSyncer()
    async with opened(where, disk, 1 << 22, fsync=fsync, segment_bytes=4096) as kh:
        store = kh._store
        if elsewhere:
            leave_syncs_to(syncer, store)

        async def live(name):
            nonlocal refused
            for number in range(60):
                id = f"{name}-{number}"
                answer = await outcome_of(kh.add, Ticket(id, "t"), delay=1000)
                if isinstance(answer, StorageFull):
                    refused += 1
                else:
                    there.add(id)
                if there and chance.random() < 0.5:
                    gone = chance.choice(sorted(there))
                    there.discard(gone)
                    assert not isinstance(await outcome_of(kh.delete, gone), StorageFull)
                await trio.sleep(chance.random())

        async def weather():
            # There is room every other time: whether there was any must not depend on the order of Trio's tasks.
            for disk.room in itertools.cycle([0, 1 << 30, 100, 1 << 30, 500, 1 << 30]):
                await trio.sleep(chance.random() * 5)
                store.projection.check()
                assert store.projection.seq == store._log.seq
                if store._commits._group is None:
                    holds(kh)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(weather)
            nursery.start_soon(answer_by_and_by, syncer, chance)
            async with trio.open_nursery() as living:
                for name in "abcde":
                    living.start_soon(live, name)
            assert {ticket.id for ticket in await kh.list(limit=None)} == there
            nursery.cancel_scope.cancel()
        holds(kh, where)
        assert refused > 20
        assert (len(syncer.fds) > 20) == elsewhere
        assert len(list((where / "log").iterdir())) > 3
        disk.room = 1 << 30
        syncer.stop()
    assert {ticket.id for ticket in kharon.replay(where).tickets.values()} == there


def test_growing_is_the_default():
    class TicketPraised(TicketEvent, frozen=True):
        pass

    assert grows([TicketPraised("a")])
    assert not grows([kharon.model.events.TicketDone("a")])


# --- a real disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A file system of 1 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs", str(point)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


async def count_until_full(call):
    for number in range(1000):
        if isinstance(await outcome_of(call, number), StorageFull):
            return number
    raise AssertionError("it is never full")


def fill_up(path):
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(b"x" * 512):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
async def test_a_disk_that_is_really_full(small, autojump_clock):
    where = small / "queue"
    settings = Settings(reserve_bytes=1 << 18, process_time=1000, workers=2)
    crew = Crew()
    async with kharon.open(where, settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crew.router)
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t"), Ticket("c", "t")])
        await trio.sleep(1)
        number = await count_until_full(
            lambda n: kh.add(Ticket(f"fill-{n}", "other", payload="x" * 2000), delay=10_000)
        )
        assert number > 100
        fill_up(small / "neighbour")
        await trio.sleep(2)
        # The rest of the tail's last page: a claim takes more bytes than this.
        await count_until_full(lambda n: kh.update("fill-0", nice=n))
        crew.gate.set()
        await trio.sleep(20)
        assert sorted(crew.ran) == ["a", "b"]
        assert [ticket.id for ticket in await kh.list(type="t")] == ["c"]
        for each in range(number):
            await kh.delete(f"fill-{each}")
        holds(kh, where)
        assert isinstance(await outcome_of(kh.add, Ticket("d", "t")), StorageFull)
        (small / "neighbour").unlink()
        await trio.to_thread.run_sync(subprocess.check_call, ["mount", "-o", "remount,size=4m", str(small)])
        await trio.sleep(20)
        assert sorted(crew.ran) == ["a", "b", "c"]
        await kh.add(Ticket("d", "other"), delay=10_000)
        assert (where / "reserve").stat().st_size == 1 << 18
        nursery.cancel_scope.cancel()
    assert kharon.verify(where).closed
    assert list(kharon.replay(where).tickets) == ["d"]


# --- forks ------------------------------------------------------------------------------------------------------------

FORKER = """
import os, sys, trio, kharon

async def main():
    async with kharon.open(sys.argv[1]) as kh:
        await kh.add(kharon.Ticket("a", "t"))
        if os.fork() == 0:
            for call in (kh.add(kharon.Ticket("child", "t")), kh.get("a"), kh.list()):
                try:
                    await call
                except kharon.Closed as closed:
                    print(closed, flush=True)
            await kh._store.close()
            os._exit(0)
        os.wait()
        await kh.add(kharon.Ticket("b", "t"))

trio.run(main)
"""


def test_a_forked_child_is_refused_and_does_not_hurt_its_parent(where):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(where)], stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    assert done.stdout.count("forked from it. Open queues after forking") == 3
    events = [record.event for record in kharon.read(where)]
    assert [getattr(event, "id", "closed") for event in events] == ["a", "b", "closed"]


async def test_a_forked_child_that_leaves_the_block_closes_nothing():
    """Whatever the log is: one of your own need not know of forks."""

    class Closable(MemoryLog):
        closed = abandoned = 0

        def close(self, now):
            self.closed += 1

        def abandon(self):
            self.abandoned += 1

    log = Closable()
    async with kharon.open(log) as kh:
        await kh.add(Ticket("a", "t"))
        kh._store._process = -1  # as if this were another process
    assert (log.closed, log.abandoned) == (0, 1)
