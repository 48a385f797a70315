"""The heartbeat: leases are extended while handlers run, in few records, and never after their end."""

import threading
from datetime import timedelta
from itertools import pairwise

import pytest
import trio
from handlers import router_of

import kharon
from kharon import FixedDelay, Settings, Status, StorageFull, Ticket
from kharon.log.memory import MemoryLog
from kharon.model.events import LeaseExtended
from kharon.testing import FailingLog


@pytest.fixture
def opened(clock):
    def open_with(log=":memory:", **settings):
        return kharon.open(log, Settings(**{"heartbeat": True, "max_attempts": 1, **settings}), clock=clock)

    return open_with


async def extensions(kh, id="a"):
    """How many seconds each was, and who did it."""
    records = [record for record in await kh.history(id) if isinstance(record.event, LeaseExtended)]
    return [((record.event.lease_until - record.at).total_seconds(), record.by) for record in records]


async def run(kh, handle, ticket=None):
    """Run a ticket to its end."""
    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(ticket or Ticket("a", "t"))
        ended = await kh.wait("a")
        await kh.drain()
    return ended


@pytest.mark.parametrize("step", [3, 7.5, 15])
async def test_an_hour_is_a_handful_of_records_each_twice_as_long(opened, autojump_clock, step):
    async def handle(_kh, _ticket):
        await trio.sleep(3600)

    async with opened(process_time=30, workers=1, max_poll_interval=step) as kh:
        assert (await run(kh, handle)).status is Status.DONE
        lengths = [seconds for seconds, _ in await extensions(kh)]
        assert lengths == [30, 60, 120, 240, 480, 960, 1920, 3600]
        assert {by for _, by in await extensions(kh)} == {"worker-1"}
        assert kh.stats().lapsed == 0


async def test_none_is_longer_than_an_hour(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(24 * 3600)

    async with opened(process_time=2 * 3600) as kh:
        assert (await run(kh, handle)).status is Status.DONE
        assert {seconds for seconds, _ in await extensions(kh)} == {3600}
        assert len(await extensions(kh)) <= 36


async def test_each_is_made_before_the_lease_ends(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(1000)

    async with opened(process_time=30, workers=1) as kh:
        await run(kh, handle)
        claimed, *extended = (record for record in (await kh.history("a"))[1:-1])
        for before, after in pairwise([claimed, *extended]):
            assert after.at < before.event.lease_until


async def test_without_it_there_are_none_and_the_lease_ends(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(3600)

    async with opened(heartbeat=False) as kh:
        assert (await run(kh, handle)).status is Status.FAILED
        assert await extensions(kh) == []


async def test_what_ends_within_its_lease_costs_no_record(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(19)

    async with opened() as kh:
        await run(kh, handle)
        assert await extensions(kh) == []


async def test_many_are_extended_each_by_its_worker(opened, autojump_clock):
    async def handle(_kh, ticket):
        await trio.sleep(100 + ticket.payload)

    async with opened(workers=20, process_time=10) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        for number in range(20):
            await kh.add(Ticket(f"{number}", "t", payload=number))
            await trio.sleep(0.3)
        await kh.drain()
        assert kh.stats().acked == 20
        for number in range(20):
            worker = (await kh.history(f"{number}"))[1].by
            assert {by for _, by in await extensions(kh, f"{number}")} == {worker}


# --- a lease whose end has passed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", range(8))  # who is first when the loop comes back is Trio's chance
@pytest.mark.parametrize("wall", ["goes on", "is set back"])
async def test_a_handler_that_holds_up_the_loop_lapses(opened, mock_clock, clock, wall, again):
    """By Trio's clock the end has passed, whatever the wall's says."""
    mock_clock.autojump_threshold = 0

    async def handle(_kh, _ticket):
        await trio.sleep(5)
        mock_clock.jump(26)  # what a time.sleep(26) would do
        if wall == "is set back":
            clock.step(-3600)
        await trio.sleep(1000)

    async with opened(process_time=30) as kh:
        ticket = await run(kh, handle)
        assert (ticket.status, ticket.error_reason) == (Status.FAILED, "the lease ended (no attempts left after 1)")
        assert await extensions(kh) == []
        assert [type(record.event).__name__ for record in await kh.history("a")][-2:] == [
            "TicketLapsed",
            "TicketFailed",
        ]
        assert kh.stats().lapsed == 1


@pytest.mark.parametrize("heartbeat", [True, False])
@pytest.mark.parametrize("settles", [True, False])
async def test_what_settles_before_anybody_saw_its_end_has_settled(opened, mock_clock, clock, settles, heartbeat):
    """Nobody else has the ticket, and the work is done: to do it once more would help nobody."""
    mock_clock.autojump_threshold = 0

    async def handle(kh, ticket):
        mock_clock.jump(100)  # what a time.sleep(100) would do
        if settles:
            await kh.done(ticket, result="late")

    async with opened(process_time=30, heartbeat=heartbeat, on_return="done") as kh:
        ticket = await run(kh, handle)
        assert (ticket.status, ticket.result) == (Status.DONE, "late" if settles else None)
        assert kh.stats().lapsed == 0


async def test_a_lease_that_a_step_of_the_wall_clock_ends_is_not_extended(opened, autojump_clock, clock):
    async def handle(_kh, _ticket):
        await trio.sleep(5)
        clock.step(26)
        await trio.sleep(1000)

    async with opened(process_time=30, max_poll_interval=100) as kh:  # so that it is not the clock that looks first
        assert (await run(kh, handle)).status is Status.FAILED
        assert await extensions(kh) == []


async def test_after_a_backward_step_the_handler_runs_on(opened, autojump_clock, clock):
    async def handle(_kh, _ticket):
        await trio.sleep(5)
        clock.step(-3600)
        await trio.sleep(1000)

    async with opened(process_time=30) as kh:
        assert (await run(kh, handle)).status is Status.DONE
        assert kh.stats().lapsed == 0


# --- threads, handlers that extend, and what ended --------------------------------------------------------------------


async def test_a_thread_is_extended_as_long_as_it_runs():
    def handle(_kh, _ticket):
        go.wait(10)

    go = threading.Event()
    settings = Settings(heartbeat=True, process_time=0.3, max_attempts=1, max_poll_interval=0.05)
    async with kharon.open(":memory:", settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        async with kh.records(follow=True) as records:
            seen = 0
            while seen < 2:
                seen += isinstance((await anext(records)).event, LeaseExtended)
        go.set()
        assert (await kh.wait("a")).status is Status.DONE
        await kh.drain()


async def test_a_handler_that_extends_itself_and_the_heartbeat_get_along(opened, autojump_clock):
    async def handle(kh, ticket):
        await trio.sleep(5)
        extended = await kh.extend(ticket, 100)
        assert extended.lease_until - ticket.lease_until == timedelta(seconds=75)
        await trio.sleep(90)
        assert await extensions(kh) == [(100, "worker-1")]  # there was nothing to do before
        await trio.sleep(300)
        await kh.extend(ticket, 1)
        await trio.sleep(300)

    async with opened(process_time=30, workers=1) as kh:
        assert (await run(kh, handle)).status is Status.DONE
        assert [seconds for seconds, _ in await extensions(kh)] == [100, 30, 60, 120, 240, 480]


async def test_what_a_handler_has_settled_is_extended_no_more(opened, autojump_clock):
    async def handle(kh, ticket):
        await kh.done(ticket)
        await trio.sleep(29)

    async with opened(process_time=30) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(100)
        assert await extensions(kh) == []
        assert kh.stats().processed == 1
        await kh.drain()


# --- without room -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room_after", [4, 60])
async def test_without_room_it_is_tried_again_and_lapses_at_last(opened, autojump_clock, room_after):
    log = FailingLog(MemoryLog(), error=StorageFull("no room"))
    begun = trio.Event()

    async def handle(_kh, ticket):
        begun.set()
        await trio.sleep(100 if ticket.attempts == 1 else 0)

    settings = {"process_time": 30, "max_attempts": 5, "backoff": FixedDelay(1), "workers": 1}
    async with opened(log, **settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await begun.wait()
        await trio.sleep(19)
        log.fail = "write"
        await trio.sleep(room_after)
        log.fail = None
        ticket = await kh.wait("a")
        assert ticket.status is Status.DONE
        assert (ticket.attempts, kh.stats().lapsed) == ((1, 0) if room_after == 4 else (2, 1))
        await kh.drain()


async def test_a_disk_that_breaks_ends_the_run(opened, autojump_clock):
    log = FailingLog(MemoryLog())

    async def handle(_kh, _ticket):
        log.fail = "write"
        await trio.sleep(100)

    async with opened(log) as kh:
        await kh.add(Ticket("a", "t"))
        with pytest.raises(kharon.CommitOutcomeUnknown):
            await kh.run(router_of(handle))


@pytest.mark.parametrize("delay", [0.5, 1.5, 1.9, 2.05, 2.5, 2.9])
async def test_an_attempt_that_begins_late_is_extended_in_time(opened, autojump_clock, delay):
    async def handle(_kh, _ticket):
        await trio.sleep(10)

    async with opened(process_time=3, workers=1) as kh:
        turn = kh._store.turn

        async def slow(*args, **kwargs):  # as on a disk that stalls
            ticket = await turn(*args, **kwargs)
            if ticket is not None:
                await trio.sleep(delay)
            return ticket

        kh._store.turn = slow
        assert (await run(kh, handle)).status is Status.DONE
        assert kh.stats().lapsed == 0
