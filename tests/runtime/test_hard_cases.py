"""What an unkind reader tried: handlers that drain, exit, yield or cannot be printed; loggers that raise; storms."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
from datetime import date, timedelta

import pytest
import trio
from handlers import router_of
from trio.testing import MockClock

import kharon
from kharon import FixedDelay, Router, Settings, Status, Ticket
from kharon.log.memory import MemoryLog
from kharon.testing import EPOCH, FailingLog, TrioClock

# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_a_handler_that_drains_is_told_that_it_would_wait_for_itself(autojump_clock: MockClock) -> None:
    async def pill(kh, _ticket):
        async with trio.open_nursery() as inner:  # also one level down
            inner.start_soon(kh.drain, 1)

    settings = Settings(max_attempts=1)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(pill))
        await kh.add(Ticket("a", "t"))
        ticket = await kh.wait("a")
        assert ticket.status is Status.FAILED
        assert "InvalidTransition: drain waits for the handlers that run, and this is one" in ticket.error_reason
        await kh.drain()


async def test_a_handler_may_have_the_application_drain() -> None:
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:

        async def pill(kh, _ticket):
            nursery.start_soon(kh.drain)

        await nursery.start(kh.run, router_of(pill))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).status is Status.DONE


async def test_a_handler_that_closes_the_queue_does_not_wait_for_itself() -> None:
    stack = contextlib.AsyncExitStack()
    kh = await stack.enter_async_context(kharon.open(":memory:"))

    async def close(_kh, _ticket):
        await stack.aclose()

    await kh.add(Ticket("a", "t"))
    with trio.fail_after(60), contextlib.suppress(kharon.Closed):
        await kh.run(router_of(close))
    with pytest.raises(kharon.Closed):
        await kh.get("a")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_handler_with_a_yield_is_refused(wrapped) -> None:
    def generator(kh, ticket):
        yield

    async def async_generator(kh, ticket):
        yield

    for function in (generator, async_generator):
        with pytest.raises(kharon.InvalidSettings, match="has a yield, so calling it would run nothing"):
            Router().handler("t")(functools.partial(function) if wrapped else function)


async def test_a_def_that_returns_something_to_await_is_told_so() -> None:
    class Later:
        def __await__(self):
            yield

    async with kharon.open(":memory:", Settings(max_attempts=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(lambda _kh, _ticket: Later()))
        await kh.add(Ticket("a", "t"))
        assert "make it an async def" in (await kh.wait("a")).error_reason
        await kh.drain()


async def test_an_exception_that_cannot_be_printed_is_an_outcome_like_any_other() -> None:
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("str fails")

    async def groan(_kh, _ticket):
        raise Mute

    async with kharon.open(":memory:", Settings(max_attempts=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(groan))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).error_reason.startswith("Mute (no attempts left")
        await kh.drain()


async def test_a_handler_that_exits_comes_to_an_end(tmp_path) -> None:
    async def leave(_kh, _ticket):
        raise SystemExit(3)

    settings = Settings(max_attempts=3, backoff=FixedDelay(0))
    for _ in range(3):
        async with kharon.open(tmp_path / "queue", settings) as kh:
            await kh.add(Ticket("a", "t"), on_conflict="skip")
            with pytest.raises(SystemExit):
                await kh.run(router_of(leave))
    async with kharon.open(tmp_path / "queue") as kh:
        ticket = await kh.get("a")
        assert (ticket.status, ticket.attempts) == (Status.FAILED, 3)
        assert "SystemExit: 3" in ticket.error_reason


# --- a user's logging that raises -------------------------------------------------------------------------------------


class Raising(logging.Handler):
    raised = 0

    def emit(self, record):
        self.raised += 1
        raise RuntimeError("this logging handler raises")


@pytest.fixture
def raising_logger():
    """What raises whenever something is logged; the test has to bring it about that something is."""
    handler = Raising()
    logger = logging.getLogger("kharon")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert handler.raised > 0


async def test_a_logger_that_raises_hides_no_end_from_those_who_wait(raising_logger, autojump_clock: MockClock) -> None:
    settings = Settings(process_time=1, max_attempts=1)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", group="g"))
        await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kh.wait, "a")
                nursery.start_soon(kh.group("g").wait)
                await trio.sleep(2)
                await kh._store.tick()


async def test_a_logger_that_raises_strands_nobody(raising_logger, autojump_clock: MockClock) -> None:
    added = []

    async def add(kh, number):
        with contextlib.suppress(RuntimeError):
            await kh.add(Ticket(f"b{number}", "other"))
        added.append(number)

    async def sleep(_kh, _ticket):
        await trio.sleep_forever()

    async def run(kh, task_status=trio.TASK_STATUS_IGNORED):
        with contextlib.suppress(RuntimeError):  # if it was the keeper of time that led the group
            await kh.run(router_of(sleep), task_status=task_status)

    settings = Settings(process_time=1, tubes=("lapsing",))
    with trio.fail_after(100):
        async with kharon.open(":memory:", settings, clock=TrioClock()) as kh:
            await kh.add(Ticket("a", "t", tube="lapsing"))
            async with trio.open_nursery() as nursery:
                await nursery.start(run, kh)
                for moment in range(5):
                    await trio.sleep(0.4)
                    for number in range(3):
                        nursery.start_soon(add, kh, moment * 3 + number)
                await kh.drain(timeout=0)
            assert kh.stats().lapsed >= 1
    assert len(added) == 15


async def test_a_logger_that_raises_hides_no_failed_write(raising_logger) -> None:
    log = FailingLog(MemoryLog(), fail="sync")
    told = []

    async def add(kh, number):
        try:
            await kh.add(Ticket(f"b{number}", "t"))
        except (kharon.CommitOutcomeUnknown, RuntimeError) as error:
            told.append(error)

    with trio.fail_after(60):
        async with kharon.open(log) as kh, trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(add, kh, number)
    assert len(told) == 3
    assert sum(isinstance(error, kharon.CommitOutcomeUnknown) for error in told) >= 2


# --- time -------------------------------------------------------------------------------------------------------------


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


# --- closing, waiting, asking -----------------------------------------------------------------------------------------


def test_a_ctrl_c_while_the_workers_are_stopped_does_not_keep_them_from_releasing() -> None:
    log = MemoryLog()
    cleaning = trio.Event()

    async def slow_to_end(_kh, _ticket):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                cleaning.set()
                await trio.sleep(0.05)

    async def interrupt():
        await cleaning.wait()
        signal.raise_signal(signal.SIGINT)

    async def main():
        async with trio.open_nursery() as nursery, kharon.open(log) as kh:
            await kh.add(Ticket("a", "t"))
            await nursery.start(kh.run, router_of(slow_to_end))
            while kh.stats().claimed == 0:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(interrupt)

    interrupted = False
    # Python's own answer to SIGINT, which a process that was started in the background does not have.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted
    events = [type(record.event).__name__ for record in log.reader().read(100, log.written)]
    assert events == ["TicketAdded", "TicketClaimed", "TicketReleased"]


async def test_the_history_of_one_ticket_does_not_fall_behind() -> None:
    async def flood(kh):
        for batch in range(20):
            await kh.add_many([Ticket(f"b{batch}-{number}", "t") for number in range(300)])

    async with kharon.open(":memory:", Settings(memory_records=600)) as kh, trio.open_nursery() as nursery:
        await kh.add_many([Ticket(f"c{number}", "t") for number in range(600)])
        nursery.start_soon(flood, kh)
        for _ in range(10):
            assert len(await kh.history("c599")) <= 1
        with pytest.raises(kharon.TicketNotFound):
            await kh.wait("never")


async def test_many_waits_for_one_ticket_and_their_cancelling() -> None:
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(kh.wait, "a")
            await trio.testing.wait_all_tasks_blocked()
            assert len(kh._queue.waits.by_name["a"]) == 200
            nursery.cancel_scope.cancel()
        assert kh._queue.waits.by_name == {}


async def test_what_is_no_id_is_refused_by_all_who_ask() -> None:
    async with kharon.open(":memory:") as kh:
        ticket = await kh.add(Ticket("a", "t"))
        for ask in (kh.get, kh.wait, kh.history):
            for wrong in (ticket, None, 3):
                with pytest.raises(kharon.InvalidTicket, match="id: a str, not"):
                    await ask(wrong)
        for wrong in (-1, "x", 1.5):
            with pytest.raises(kharon.InvalidTicket, match="limit"):
                await kh.list(limit=wrong)
            with pytest.raises(kharon.InvalidTicket, match="after: a seq"):
                kh.records(wrong)


async def test_a_ticket_that_the_queue_gave_can_be_added_again_with_a_delay() -> None:
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", payload=[1]))
        again = await kh.add(await kh.get("a"), delay=5)
        assert again.payload == [1]
        assert again.runat - again.mtime == timedelta(seconds=5)
        with pytest.raises(kharon.InvalidTicket, match="not both"):
            await kh.add(Ticket("b", "t", runat=EPOCH), delay=5)


def test_replay_until_something_else_is_refused(tmp_path) -> None:
    for wrong in ("2020-01-01", 1.0, date(2020, 1, 1), True):
        with pytest.raises(kharon.InvalidTicket, match="until: a seq"):
            kharon.replay(tmp_path, until=wrong)
