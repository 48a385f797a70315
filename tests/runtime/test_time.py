"""Time: virtual hours, exact due times, expiry, and clocks that are set forward and back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import trio
from handlers import router_of
from trio.testing import MockClock, wait_all_tasks_blocked

import kharon
from kharon import FixedDelay, Settings, Status, Ticket
from kharon.testing import EPOCH, TrioClock


class Recorder:
    """A router whose handler notes when each ticket ran, by Trio's clock and the queue's."""

    def __init__(self, clock):
        self.clock = clock
        self.runs = []
        self.router = kharon.Router()
        self.router.handler("t")(self.handle)

    async def handle(self, _kh, ticket):
        self.runs.append((ticket.id, self.clock.now()))


@pytest.fixture
def recorder(clock):
    return Recorder(clock)


def opened(clock, **settings):
    return kharon.open(":memory:", Settings(**settings), clock=clock)


async def test_ten_hours_of_delays(autojump_clock, clock, recorder):
    """A ticket a minute, each added hours ahead, in any order: each runs in its minute."""
    started = trio.current_time()
    async with opened(clock, on_return="done") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        minutes = sorted(range(600), key=lambda minute: minute * 7919 % 601)
        for minute in minutes:
            await kh.add(Ticket(str(minute), "t"), delay=timedelta(minutes=minute))
        await kh.wait("599")
        await kh.drain()
        assert len(await kh.list(status="done")) == 600
    assert trio.current_time() - started == pytest.approx(599 * 60, abs=1)
    for id, at in recorder.runs:
        assert timedelta(0) <= at - EPOCH - timedelta(minutes=int(id)) <= timedelta(seconds=0.05)


@pytest.mark.parametrize("delay", [0.004, 0.5, 14.9, 15.0, 15.1, 3600.25])
async def test_a_ticket_runs_when_it_is_due(autojump_clock, clock, recorder, delay):
    async with opened(clock, workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        await trio.sleep(3)
        runat = (await kh.add(Ticket("a", "t"), delay=delay)).runat
        await kh.wait("a")
        late = recorder.runs[0][1] - runat
        assert timedelta(0) <= late <= timedelta(seconds=0.01 + 1e-5)  # min_poll_interval
        nursery.cancel_scope.cancel()


async def test_tickets_due_closer_together_than_min_poll_interval_share_a_look(autojump_clock, clock, recorder):
    async with opened(clock, min_poll_interval=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        for number in range(5):
            await kh.add(Ticket(str(number), "t"), delay=10 + number / 10)
        await kh.wait("4")
        seconds = [(at - EPOCH).total_seconds() for _, at in recorder.runs]
        assert seconds == pytest.approx([10, 11, 11, 11, 11], abs=0.01)
        nursery.cancel_scope.cancel()


async def test_a_runat_in_another_zone_is_the_same_instant(autojump_clock, clock, recorder):
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    runat = (EPOCH + timedelta(hours=3)).astimezone(kathmandu)
    async with opened(clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        ticket = await kh.add(Ticket("a", "t", runat=runat))
        assert ticket.runat == runat
        assert ticket.runat.tzinfo is UTC
        await kh.wait("a")
        assert recorder.runs[0][1] - runat < timedelta(seconds=0.02)
        nursery.cancel_scope.cancel()


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_kept_tickets_expire(autojump_clock, clock, recorder):
    async with opened(clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        for id, expire_in in [("a", 60), ("b", timedelta(hours=1)), ("c", None)]:
            await kh.add(Ticket(id, "t"), delay=100)
            await kh.done(id, expire_in=expire_in)
        await kh.add(Ticket("d", "t"), delay=100)
        await kh.fail("d", expire_in=61)
        await trio.sleep(59)
        assert [ticket.id for ticket in await kh.list()] == ["a", "b", "c", "d"]
        await trio.sleep(1.02)
        assert [ticket.id for ticket in await kh.list()] == ["b", "c", "d"]
        await trio.sleep(3600)
        assert [ticket.id for ticket in await kh.list()] == ["c"]
        last = (await kh.history("b"))[-1]
        assert (type(last.event).__name__, last.by) == ("TicketExpired", "clock")
        assert timedelta(0) <= last.at - EPOCH - timedelta(hours=1) < timedelta(seconds=0.02)
        assert kh.stats().expired == 3
        nursery.cancel_scope.cancel()


async def test_restarting_takes_the_expiry_away(autojump_clock, clock, recorder):
    async with opened(clock) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "other", tube="nobody's"))
        await kh.fail("a", expire_in=60)
        await nursery.start(kh.run, recorder.router)
        await kh.restart("a")
        await trio.sleep(100)
        assert (await kh.get("a")).expire_at is None
        nursery.cancel_scope.cancel()


async def test_without_expiration_they_stay(autojump_clock, clock, recorder):
    async with opened(clock, expiration=False) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        await kh.add(Ticket("a", "t"), delay=100)
        await kh.done("a", expire_in=60)
        await trio.sleep(1000)
        assert (await kh.get("a")).status is Status.DONE
        nursery.cancel_scope.cancel()


async def test_many_expire_at_once(autojump_clock, clock, recorder):
    """More than one look takes: they all go, and soon."""
    async with opened(clock) as kh, trio.open_nursery() as nursery:
        await kh.add_many((Ticket(str(number), "t") for number in range(450)), delay=100)
        for number in range(450):
            await kh.fail(str(number), expire_in=10)
        await nursery.start(kh.run, recorder.router)
        await trio.sleep(10.1)
        assert await kh.list() == []
        nursery.cancel_scope.cancel()


async def test_many_leases_end_at_once(autojump_clock, clock):
    async def for_ever(_kh, _ticket):
        await trio.sleep_forever()

    router = kharon.Router()
    router.handler("t")(for_ever)
    async with opened(clock, workers=450, process_time=10, backoff=FixedDelay(1000)) as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(450))
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            await trio.sleep(10.1)
            assert kh.stats().lapsed == 450
            nursery.cancel_scope.cancel()


# --- a clock that is set ----------------------------------------------------------------------------------------------


async def test_a_step_forward_is_noticed_within_max_poll_interval(autojump_clock, clock, recorder):
    async with opened(clock, max_poll_interval=7) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        await kh.add(Ticket("a", "t"), delay=3600)
        await trio.sleep(100)
        stepped = trio.current_time()
        clock.step(7200)
        await kh.wait("a")
        assert 0 <= trio.current_time() - stepped <= 7
        nursery.cancel_scope.cancel()


async def test_a_step_forward_ends_leases(autojump_clock, clock):
    ran = []

    async def handle(_kh, ticket):
        try:
            await trio.sleep(1000 if ticket.attempts == 1 else 0)
        finally:
            ran.append((ticket.attempts, trio.current_time()))

    router = kharon.Router()
    router.handler("t")(handle)
    settings = {"max_poll_interval": 7, "process_time": 600, "backoff": FixedDelay(0)}
    async with opened(clock, **settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await trio.sleep(10)
        stepped = trio.current_time()
        clock.step(3600)
        await kh.wait("a")
        assert [attempts for attempts, _ in ran] == [1, 2]
        assert ran[0][1] - stepped <= 7.01
        nursery.cancel_scope.cancel()


async def test_a_step_back_keeps_the_order_of_the_log(autojump_clock, clock, recorder):
    async with opened(clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        await kh.add(Ticket("before", "t"))
        await trio.sleep(10)
        clock.step(-3600)
        for number in range(3):
            await kh.add(Ticket(f"after-{number}", "t"))
            await trio.sleep(1)
        records = [record async for record in kh.records()]
        times = [record.at for record in records]
        assert times == sorted(times)
        assert max(times) < EPOCH + timedelta(seconds=20)
        # What is added is due now, by the clock that there is now, and runs.
        assert [id for id, _ in recorder.runs] == ["before", "after-0", "after-1", "after-2"]
        nursery.cancel_scope.cancel()


async def test_after_a_step_back_nothing_is_due_before_its_runat(autojump_clock, clock, recorder):
    async with opened(clock, max_poll_interval=7) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"), delay=100)
        await trio.sleep(101)
        await kh.add(Ticket("b", "other", tube="nobody's"))  # by now "a" is ready, and nobody runs it
        clock.step(-60)
        await nursery.start(kh.run, recorder.router)
        await trio.sleep(50)
        assert recorder.runs == []
        kh._store.projection.check()
        await trio.sleep(16)
        [(id, at)] = recorder.runs
        assert id == "a"
        assert timedelta(0) <= at - (EPOCH + timedelta(seconds=100)) <= timedelta(seconds=7)
        nursery.cancel_scope.cancel()


async def test_a_step_back_does_not_lengthen_a_lease(autojump_clock, clock):
    lengths = []

    async def handle(_kh, _ticket):
        started = trio.current_time()
        try:
            await trio.sleep(10_000)
        finally:
            lengths.append(trio.current_time() - started)

    router = kharon.Router()
    router.handler("t")(handle)
    async with opened(clock, process_time=30, max_attempts=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await trio.sleep(10)
        clock.step(-3600)
        await kh.wait("a")
        assert lengths == pytest.approx([30], abs=0.02)
        nursery.cancel_scope.cancel()


async def test_the_default_clock_is_the_walls(tmp_path):
    before = datetime.now(UTC)
    async with kharon.open(":memory:") as kh:
        ticket = await kh.add(Ticket("a", "t"), delay=10)
    after = datetime.now(UTC)
    assert before <= ticket.ctime <= after
    assert before <= ticket.runat - timedelta(seconds=10) <= after


async def test_due_times_survive_a_restart(autojump_clock, clock, recorder, tmp_path):
    async with kharon.open(tmp_path / "queue", clock=clock) as kh:
        await kh.add(Ticket("a", "t"), delay=3600)
    await trio.sleep(1800)
    async with kharon.open(tmp_path / "queue", clock=clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, recorder.router)
        await wait_all_tasks_blocked()
        await trio.sleep(1790)
        assert recorder.runs == []
        await trio.sleep(20)
        assert [id for id, _ in recorder.runs] == ["a"]
        assert recorder.runs[0][1] - EPOCH - timedelta(hours=1) < timedelta(seconds=0.02)
        nursery.cancel_scope.cancel()


# --- many at once, and a step back while a handler extends ------------------------------------------------------------


async def test_a_storm_of_expiries_does_not_wait_for_the_next_look(autojump_clock: MockClock) -> None:
    settings = Settings(min_poll_interval=10)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await kh.add_many([Ticket(f"a{number}", "t") for number in range(1000)])
        for number in range(1000):
            await kh.done(f"a{number}", expire_in=5)
        await nursery.start(kh.run, router_of(lambda _kh, _ticket: None))
        await trio.sleep(16)
        assert kh.stats().expired == 1000
        await kh.drain()


async def test_a_handler_that_extends_goes_on_after_a_backward_step_of_the_clock(autojump_clock: MockClock) -> None:
    clock = TrioClock()
    ended = []

    async def work(kh, ticket):
        for _ in range(10):
            await trio.sleep(10)
            await kh.extend(ticket, 25)
            if not ended and trio.current_time() > 30:
                ended.append("stepped")
                clock.step(-3600)
        ended.append("worked")

    async with kharon.open(":memory:", Settings(process_time=25), clock=clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(work))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).attempts == 1
        assert ended == ["stepped", "worked"]
        assert kh.stats().lapsed == 0
        await kh.drain()


async def test_many_tickets_due_at_one_instant_are_claimed_in_order(autojump_clock: MockClock) -> None:
    ran = []

    async def note(_kh, ticket):
        ran.append(ticket.id)

    async with kharon.open(":memory:", Settings(workers=1), clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(note))
        tickets = [Ticket(f"a{number}", "t", nice=number % 7) for number in range(500)]
        await kh.add_many(tickets, delay=60)
        await trio.sleep(61)
        assert ran == [ticket.id for ticket in sorted(tickets, key=lambda ticket: ticket.nice)]
        await kh.drain()
