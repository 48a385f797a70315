"""Workers: what ends a claim, the lease, drain, who is woken and when, and that none is woken in vain."""

import dataclasses
import functools
import itertools
import random
import threading
from datetime import timedelta

import attrs
import msgspec
import pytest
import trio
import trio.lowlevel
from handlers import for_ever, names, nothing, router_of
from trio.testing import wait_all_tasks_blocked

import kharon
from kharon import FixedDelay, Settings, Status, Ticket
from kharon.log.memory import MemoryLog
from kharon.testing import EPOCH, FailingLog, TrioClock


async def ended(kh, router, *tickets):
    """Run the router until these tickets have ended; return them as they were then."""
    await kh.add_many(tickets)
    found = {}

    async def wait(id):
        found[id] = await kh.wait(id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kh.run, router)
        async with trio.open_nursery() as waiting:
            for ticket in tickets:
                waiting.start_soon(wait, ticket.id)
        nursery.cancel_scope.cancel()
    return [found[ticket.id] for ticket in tickets]


# --- returning, raising, settling -------------------------------------------------------------------------------------


async def test_returning_acks(opened, autojump_clock):
    async with opened() as kh:
        (ticket,) = await ended(kh, router_of(nothing), Ticket("a", "t"))
        assert ticket.status is Status.DONE
        with pytest.raises(kharon.TicketNotFound):
            await kh.get("a")
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", "TicketDone"]


async def test_returning_keeps_with_on_return_done(opened, autojump_clock):
    async with opened(on_return="done") as kh:
        await ended(kh, router_of(nothing), Ticket("a", "t"))
        ticket = await kh.get("a")
        assert (ticket.status, ticket.attempts, ticket.claim) == (Status.DONE, 1, None)


async def test_returning_settles_nothing_with_on_return_leave(opened, autojump_clock):
    """Only an explicit settle counts; without one the lease ends, and the ticket runs again."""
    runs = []

    async def handle(kh, ticket):
        runs.append(trio.current_time())
        if len(runs) == 3:
            await kh.done(ticket)

    async with opened(on_return="leave", process_time=7, backoff=FixedDelay(1)) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert ticket.attempts == 3
        assert [runs[1] - runs[0], runs[2] - runs[1]] == pytest.approx([8, 8], abs=0.03)
        assert (await names(kh, "a")).count("TicketLapsed") == 2


@pytest.mark.parametrize(
    ("verb", "options", "status", "last"),
    [
        ("ack", {}, None, "TicketDone"),
        ("ack", {"keep": True, "result": [1]}, Status.DONE, "TicketDone"),
        ("done", {"result": {"sum": 3}}, Status.DONE, "TicketDone"),
        ("fail", {"error_reason": "no"}, Status.FAILED, "TicketFailed"),
        ("cancel", {}, None, "TicketCancelled"),
        ("cancel", {"keep": True}, Status.CANCELLED, "TicketCancelled"),
        ("retry", {"delay": 3600, "nice": 7}, Status.PENDING, "TicketRetried"),
    ],
)
@pytest.mark.parametrize("raises", [False, True])
async def test_what_the_handler_settles_is_settled(opened, autojump_clock, verb, options, status, last, raises):
    """Neither its return nor what it raises afterwards settles the ticket a second time."""

    async def handle(kh, ticket):
        await getattr(kh, verb)(ticket, **options)
        if raises:
            raise ValueError("afterwards")

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"))
        await nursery.start(kh.run, router_of(handle))
        await trio.sleep(1)
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", last]
        assert (await kh.history("a"))[-1].by == "worker-1"
        if status is not None:
            ticket = await kh.get("a")
            assert (ticket.status, ticket.result) == (status, options.get("result"))
            assert ticket.nice == options.get("nice", 512)
        await kh.drain()


async def test_a_handler_that_releases_gives_the_claim_back_uncounted(opened, autojump_clock):
    attempts = []

    async def handle(kh, ticket):
        attempts.append(ticket.attempts)
        if len(attempts) < 3:
            await kh.release(ticket)

    async with opened(workers=1) as kh:
        await ended(kh, router_of(handle), Ticket("a", "t"))
    assert attempts == [1, 1, 1]


async def test_raising_retries_with_backoff_and_says_why(opened, autojump_clock):
    starts = []

    async def handle(kh, ticket):
        starts.append((ticket.attempts, trio.current_time(), ticket.error_reason))
        if ticket.attempts < 4:
            raise ValueError(f"no {ticket.attempts}")

    async with opened(backoff=kharon.BackoffDelay(base=3, max_delay=20, jitter=0)) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
    assert ticket.attempts == 4
    assert [reason for _, _, reason in starts] == [None, "ValueError: no 1", "ValueError: no 2", "ValueError: no 3"]
    times = [time for _, time, _ in starts]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([3, 9, 20], abs=0.011)


async def test_after_max_attempts_it_has_failed(opened, autojump_clock):
    async def handle(_kh, _ticket):
        raise ExceptionGroup("both", [ValueError("one"), ExceptionGroup("", [KeyError("two"), OSError()])])

    async with opened(max_attempts=3) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert ticket.status is Status.FAILED
        assert ticket.error_reason == "ValueError: one; KeyError: 'two'; OSError (no attempts left after 3)"
        assert (await names(kh, "a")).count("TicketClaimed") == 3
        assert (await kh.get("a")) == ticket


async def test_without_max_attempts_there_is_no_end(opened, autojump_clock):
    async def handle(_kh, ticket):
        if ticket.attempts < 60:
            raise ValueError

    async with opened(max_attempts=None, backoff=FixedDelay(0)) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert (ticket.status, ticket.attempts) == (Status.DONE, 60)


async def test_a_reason_too_long_is_shortened(opened, autojump_clock):
    async def handle(_kh, _ticket):
        raise ValueError("x" * 1_000_000)

    async with opened(max_attempts=1) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert ticket.status is Status.FAILED
        assert 1000 < len(ticket.error_reason) <= 4000


async def test_added_again_while_running_it_runs_once_more_with_the_new_fields(opened, autojump_clock):
    seen = []

    async def handle(kh, ticket):
        seen.append((ticket.payload, ticket.attempts))
        if len(seen) == 1:
            for version in (2, 3):
                await kh.add(Ticket("a", "t", payload=version))
        assert (await kh.get("a")).claim == ticket.claim  # the run goes on

    async with opened(on_return="done") as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t", payload=1))
        assert (ticket.payload, ticket.status) == (3, Status.DONE)
    assert seen == [(1, 1), (3, 1)]


# --- which handler ----------------------------------------------------------------------------------------------------


async def test_a_type_without_a_handler_is_retried_and_fails_at_last(opened, autojump_clock):
    """Another deployment may know it; so it gets its attempts."""
    async with opened(max_attempts=3) as kh:
        (ticket,) = await ended(kh, router_of(nothing, "known"), Ticket("a", "unknown"))
        assert (ticket.status, ticket.attempts) == (Status.FAILED, 3)
        for words in ("HandlerNotFound", "'unknown'", "'known'", "@router.handler('unknown')", "not_found"):
            assert words in ticket.error_reason


async def test_not_found_handles_all_other_types(opened, autojump_clock):
    seen = []
    router = router_of(nothing, "known")

    @router.not_found
    async def other(kh, ticket):
        seen.append(ticket.type)
        await kh.cancel(ticket, keep=True, error_reason="who?")

    async with opened() as kh:
        tickets = await ended(kh, router, Ticket("a", "known"), Ticket("b", "unknown"), Ticket("c", "strange"))
        assert [ticket.status for ticket in tickets] == [Status.DONE, Status.CANCELLED, Status.CANCELLED]
    assert sorted(seen) == ["strange", "unknown"]


# --- typed payloads ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Address:
    street: str
    number: int = 1


@pytest.mark.parametrize("kind", ["attrs", "msgspec", "dataclass", "list"])
async def test_a_payload_is_given_as_its_class(opened, autojump_clock, kind):
    class Struct(msgspec.Struct):
        street: str
        number: int = 1

    @dataclasses.dataclass
    class Data:
        street: str
        number: int = 1

    cls = {"attrs": Address, "msgspec": Struct, "dataclass": Data, "list": list[int]}[kind]
    seen = []
    router = kharon.Router()

    @router.handler("t", payload=cls)
    async def handle(kh, ticket):
        seen.append(ticket.payload)
        await kh.done(ticket)  # it is fenced as any other

    payload = [1, 2] if kind == "list" else {"street": "Styx"}
    async with opened(max_attempts=2) as kh:
        (ticket,) = await ended(kh, router, Ticket("a", "t", payload=payload))
        assert ticket.status is Status.DONE
        assert ticket.payload == payload
    assert seen == [[1, 2] if kind == "list" else cls("Styx", 1)]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"street": 3}, ["Address", "str", "$.street"]),
        ({}, ["Address", "street"]),
        (None, ["Address", "null"]),
        ("text", ["Address"]),
    ],
)
async def test_a_payload_that_does_not_fit_fails_at_once(opened, autojump_clock, payload, words):
    router = kharon.Router()

    @router.handler("t", payload=Address)
    async def handle(_kh, _ticket):
        pytest.fail("it was called")

    async with opened() as kh:
        (ticket,) = await ended(kh, router, Ticket("a", "t", payload=payload))
        assert (ticket.status, ticket.attempts) == (Status.FAILED, 1)
        assert ticket.error_reason.startswith("the payload does not fit")
        for word in words:
            assert word in ticket.error_reason
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", "TicketFailed"]


async def test_a_validator_of_a_payload_class_has_its_say(opened, autojump_clock):
    @attrs.frozen
    class Positive:
        number: int = attrs.field(validator=attrs.validators.gt(0))

    router = kharon.Router()
    router.handler("t", payload=Positive)(nothing)
    async with opened() as kh:
        good, bad = await ended(
            kh, router, Ticket("a", "t", payload={"number": 1}), Ticket("b", "t", payload={"number": -1})
        )
        assert (good.status, bad.status) == (Status.DONE, Status.FAILED)
        assert "must be > 0" in bad.error_reason


# --- handlers in threads ----------------------------------------------------------------------------------------------


async def test_a_def_runs_in_a_thread(opened):
    threads = []

    def handle(kh, ticket):
        threads.append(threading.current_thread())
        trio.from_thread.run(functools.partial(kh.done, ticket, result=ticket.payload))

    async with opened() as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t", payload=[1]))
        assert ticket.result == [1]
    assert threads[0] is not threading.main_thread()


async def test_what_a_thread_raises_is_retried(opened):
    def handle(_kh, ticket):
        if ticket.attempts == 1:
            raise ValueError("in the thread")

    async with opened(backoff=FixedDelay(0)) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert ticket.attempts == 2
        assert [getattr(record.event, "error_reason", None) for record in await kh.history("a")][2] == (
            "ValueError: in the thread"
        )


async def test_a_def_that_returns_a_coroutine_fails_clearly(opened):
    async def really(_kh, _ticket):
        pytest.fail("it was awaited")

    def handle(kh, ticket):
        return really(kh, ticket)

    async with opened(max_attempts=1) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert ticket.status is Status.FAILED
        assert "make it an async def" in ticket.error_reason


async def test_a_cancelled_run_waits_for_its_threads_and_settles_them(opened):
    go, finished = threading.Event(), []

    def handle(_kh, _ticket):
        go.wait(10)
        finished.append(True)

    async with opened(on_return="done") as kh:
        await kh.add(Ticket("a", "t"))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kh.run, router_of(handle))
                while kh.stats().workers_running == 0:
                    await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                scope.cancel()
                go.set()
        assert finished == [True]
        assert (await kh.get("a")).status is Status.DONE


async def test_a_thread_that_outlives_its_lease_has_lapsed_and_loses(opened, clock):
    """The thread cannot be stopped, so its worker waits for it; but what it returns does not count any more."""
    go = threading.Event()
    runs = []

    def handle(_kh, ticket):
        runs.append(ticket.attempts)
        if ticket.attempts == 1:
            go.wait(10)

    async with opened(workers=2, backoff=FixedDelay(0), max_poll_interval=0.01) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"))
        await nursery.start(kh.run, router_of(handle))
        while runs != [1]:
            await trio.lowlevel.checkpoint()
        clock.step(31)  # the lease of 30 seconds is over by the clock
        ticket = await kh.wait("a")
        assert runs == [1, 2]
        assert ticket.attempts == 2
        before = await names(kh, "a")
        assert before[-2:] == ["TicketClaimed", "TicketDone"]
        go.set()
        await kh.drain()
        assert await names(kh, "a") == before


async def test_as_many_threads_as_workers(opened):
    barrier = threading.Barrier(4, timeout=10)

    def handle(_kh, _ticket):
        barrier.wait()

    async with opened(workers=4, max_attempts=1) as kh:
        tickets = await ended(kh, router_of(handle), *(Ticket(str(number), "t") for number in range(8)))
    assert all(ticket.status is Status.DONE for ticket in tickets)


# --- the lease --------------------------------------------------------------------------------------------------------


async def test_a_handler_is_cancelled_when_its_lease_ends(opened, autojump_clock):
    runs = []

    async def handle(_kh, ticket):
        started = trio.current_time()
        try:
            await trio.sleep(5 if ticket.attempts == 3 else 1000)
        finally:
            runs.append((ticket.attempts, started, trio.current_time() - started))

    async with opened(process_time=10, backoff=FixedDelay(2)) as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert (ticket.status, ticket.attempts) == (Status.DONE, 3)
        assert [length for *_, length in runs] == pytest.approx([10, 10, 5], abs=0.02)
        assert runs[1][1] - runs[0][1] == pytest.approx(12, abs=0.03)
        lapses = [record for record in await kh.history("a") if type(record.event).__name__ == "TicketLapsed"]
        assert [(record.by, record.event.error_reason) for record in lapses] == [("clock", "the lease ended")] * 2
        assert kh.stats().lapsed == 2


async def test_a_lease_that_ends_too_often_fails_the_ticket(opened, autojump_clock):
    async with opened(process_time=10, max_attempts=2) as kh:
        (ticket,) = await ended(kh, router_of(for_ever), Ticket("a", "t"))
        assert (ticket.status, ticket.attempts) == (Status.FAILED, 2)
        assert ticket.error_reason == "the lease ended (no attempts left after 2)"


async def test_a_handler_that_ignores_the_end_of_its_lease_is_fenced(opened, autojump_clock):
    """The clock takes the ticket from it, another worker runs it; whatever the first does then is refused."""
    log = []

    async def handle(kh, ticket):
        log.append(f"start {ticket.attempts}")
        if ticket.attempts > 1:
            await trio.sleep(5)
        else:
            with trio.CancelScope(shield=True):
                await trio.sleep(13)
                assert (await kh.get("a")).attempts == 2  # the other one runs
                for verb in ("ack", "done", "fail", "cancel", "retry", "release"):
                    with pytest.raises(kharon.LeaseLost, match=r"'a'.*is over"):
                        await getattr(kh, verb)(ticket)
                with pytest.raises(kharon.LeaseLost):
                    await kh.extend(ticket, 100)
        log.append(f"end {ticket.attempts}")

    async with opened(process_time=10, backoff=FixedDelay(1), on_return="done") as kh:
        (ticket,) = await ended(kh, router_of(handle), Ticket("a", "t"))
        assert ticket.attempts == 2
        assert log == ["start 1", "start 2", "end 1", "end 2"]
        assert await names(kh, "a") == [
            "TicketAdded",
            "TicketClaimed",
            "TicketLapsed",
            "TicketClaimed",
            "TicketDone",
        ]


async def test_the_loser_of_a_lapsed_lease_settles_nothing_by_returning(opened, autojump_clock):
    async def handle(_kh, ticket):
        with trio.CancelScope(shield=True):
            await trio.sleep(15 if ticket.attempts == 1 else 8)

    async with opened(process_time=10, backoff=FixedDelay(1), on_return="done") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(16)
        ticket = await kh.get("a")  # the first has returned; the second still has it
        assert (ticket.status, ticket.attempts, ticket.claim is None) == (Status.PENDING, 2, False)
        assert (await kh.wait("a")).status is Status.DONE
        await kh.drain()


@pytest.mark.parametrize("ending", ["returns", "raises", "doesn't fit"])
async def test_the_loser_of_a_removed_ticket_settles_nothing(opened, autojump_clock, ending):
    async def handle(kh, ticket):
        with trio.CancelScope(shield=True):  # or the first would end it
            await kh.delete("a")
            await kh.add(Ticket("a", "other", payload="new"))
        if ending != "returns":
            raise ValueError

    async with opened() as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"))
        await nursery.start(kh.run, router_of(handle))
        await trio.sleep(0.1)
        await kh.drain()
        assert (await names(kh, "a"))[:4] == ["TicketAdded", "TicketClaimed", "TicketDeleted", "TicketAdded"]
        assert (await kh.get("a")).payload == "new"


async def test_extending_moves_the_deadline_of_the_running_handler(opened, autojump_clock):
    lengths = []

    async def handle(kh, ticket):
        started = trio.current_time()
        try:
            await trio.sleep(8)
            extended = await kh.extend(ticket, 20)
            assert extended.lease_until == EPOCH + timedelta(seconds=trio.current_time() - zero + 20)
            await kh.extend(ticket, timedelta(seconds=1))  # never earlier
            await trio.sleep(1000)
        finally:
            lengths.append(trio.current_time() - started)

    async with opened(process_time=10, max_attempts=1) as kh:
        zero = trio.current_time()
        await ended(kh, router_of(handle), Ticket("a", "t"))
    assert lengths == pytest.approx([28], abs=0.02)


async def test_an_operator_extends_by_id(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(50)

    async with opened(process_time=10, max_attempts=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(5)
        await kh.extend("a", 60)
        assert (await kh.wait("a")).status is Status.DONE
        await kh.drain()


async def test_an_operator_takes_a_running_ticket_away(opened, autojump_clock):
    refused = []

    async def handle(kh, ticket):
        try:
            await trio.sleep(5)
        finally:
            with trio.CancelScope(shield=True), pytest.raises(kharon.LeaseLost):
                await kh.ack(ticket)
            refused.append(trio.current_time() - began)

    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        began = trio.current_time()
        await kh.add(Ticket("a", "t"))
        await trio.sleep(1)
        await kh.acting_as("ann").cancel("a", keep=True, error_reason="a mistake")
        await kh.drain()
        assert refused == [1]
        ticket = await kh.get("a")
        assert (ticket.status, ticket.error_reason) == (Status.CANCELLED, "a mistake")
        assert (await kh.history("a"))[-1].by == "ann"


# --- drain ------------------------------------------------------------------------------------------------------------


async def test_drain_lets_what_runs_finish_and_claims_no_more(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(10)

    ran = []

    async def run(kh, router, task_status):
        await kh.run(router, task_status=task_status)
        ran.append(trio.current_time())

    async with opened(workers=2, on_return="done") as kh, trio.open_nursery() as nursery:
        started = trio.current_time()
        await nursery.start(run, kh, router_of(handle))
        await kh.add_many(Ticket(str(number), "t") for number in range(5))
        await trio.sleep(1)
        await kh.drain()
        assert trio.current_time() - started == pytest.approx(10, abs=0.02)
        await wait_all_tasks_blocked()
        assert len(ran) == 1
        assert [ticket.status for ticket in await kh.list()] == [Status.DONE] * 2 + [Status.PENDING] * 3
        await kh.add(Ticket("later", "t"))
        await trio.sleep(100)
        assert kh.stats().claimed == 2

        await nursery.start(run, kh, router_of(handle))  # and it can be run again
        await trio.sleep(100)
        assert {ticket.status for ticket in await kh.list()} == {Status.DONE}
        await kh.drain()


async def test_drain_wakes_idle_workers(opened):
    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(nothing))
        await wait_all_tasks_blocked()
        await kh.drain()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_drain_releases_after_its_timeout(opened, autojump_clock):
    async with opened(process_time=1000) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(for_ever))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(1)
        started = trio.current_time()
        await kh.drain(timeout=timedelta(seconds=5))
        assert trio.current_time() - started == 5
        ticket = await kh.get("a")
        assert (ticket.status, ticket.attempts, ticket.claim) == (Status.PENDING, 0, None)


async def test_drain_without_a_run_returns(opened):
    async with opened() as kh:
        await kh.drain()
        await kh.drain(timeout=0)


async def test_a_cancelled_drain_stops_waiting_but_not_draining(opened, autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(10)

    async with opened(workers=1, on_return="done") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        await trio.sleep(1)
        with trio.move_on_after(2):
            await kh.drain()
        assert (await kh.get("a")).claim is not None
        await trio.sleep(100)
        assert [ticket.status for ticket in await kh.list()] == [Status.DONE, Status.PENDING]


# --- who runs what, and how many --------------------------------------------------------------------------------------


async def test_workers_pull_in_the_order_of_claims(opened, autojump_clock):
    order = []

    async def handle(_kh, ticket):
        order.append(ticket.id)

    tickets = [
        Ticket("late", "t", runat=EPOCH + timedelta(hours=2), nice=-5),
        Ticket("nice", "t", nice=900),
        Ticket("first", "t", runat=EPOCH - timedelta(hours=1)),
        Ticket("third", "t", runat=EPOCH - timedelta(minutes=1)),
        Ticket("second", "t", runat=EPOCH - timedelta(minutes=30)),
        Ticket("urgent", "t", nice=1),
        Ticket("fourth", "t", runat=EPOCH - timedelta(minutes=1)),
    ]
    async with opened(workers=1) as kh:
        await ended(kh, router_of(handle), *tickets)
    assert order == ["urgent", "first", "second", "third", "fourth", "nice", "late"]


async def test_only_the_tubes_of_the_settings_are_claimed_from(opened, autojump_clock):
    async with opened(tubes=("mail", "print"), on_return="done") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(nothing))
        await kh.add_many(Ticket(tube, "t", tube=tube) for tube in ("mail", "default", "print", "other"))
        await trio.sleep(60)
        done = {ticket.id for ticket in await kh.list(status="done")}
        assert done == {"mail", "print"}
        await kh.update("other", tube="mail")
        await trio.sleep(1)
        assert (await kh.get("other")).status is Status.DONE
        await kh.drain()


async def test_no_tubes_no_claims(opened, autojump_clock):
    async with opened(tubes=()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(nothing))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(60)
        assert (await kh.get("a")).attempts == 0
        await kh.drain()


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 10), (3, 10), (5, 2), (8, 1)])
async def test_workers_bound_what_runs_at_once(opened, autojump_clock, workers, batch_size):
    running, most = 0, 0

    async def handle(_kh, _ticket):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    async with opened(workers=workers, batch_size=batch_size) as kh:
        started = trio.current_time()
        await ended(kh, router_of(handle), *(Ticket(str(number), "t") for number in range(40)))
        assert trio.current_time() - started == pytest.approx(-(-40 // workers), abs=0.1)
    assert most == workers


WAKERS = {
    "add": lambda kh: kh.add(Ticket("x", "t")),
    "add_many": lambda kh: kh.add_many([Ticket("x", "t")]),
    "add again": lambda kh: kh.add(Ticket("later", "t")),
    "restart": lambda kh: kh.restart("ended"),
    "retry": lambda kh: kh.retry("later", delay=0),
    "retry at": lambda kh: kh.retry("later", runat=EPOCH),
    "update": lambda kh: kh.update("later", runat=EPOCH),
    "update tube": lambda kh: kh.update("elsewhere", tube="default"),
    "release": lambda kh: kh.release("held"),
}


@pytest.mark.parametrize("name", WAKERS)
async def test_an_idle_worker_is_woken_at_once(opened, mock_clock, name):
    """The clock stands still here: only the command can have woken it."""
    seen = []

    async def handle(kh, ticket):
        seen.append(ticket.id)
        if ticket.type == "hold" and len(seen) == 1:
            await trio.sleep_forever()

    router = router_of(handle)
    router.handler("hold")(handle)
    async with opened(workers=2) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("held", "hold"))
        await kh.add(Ticket("later", "t"), delay=3600)
        await kh.add(Ticket("elsewhere", "t", tube="elsewhere"))
        await kh.add(Ticket("ended", "t"), delay=3600)
        await kh.fail("ended")
        await wait_all_tasks_blocked()
        assert seen == ["held"]
        await WAKERS[name](kh)
        await wait_all_tasks_blocked()
        expected = {"add": "x", "add_many": "x", "restart": "ended", "update tube": "elsewhere", "release": "held"}
        assert seen[1:] == [expected.get(name, "later")]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["add", "retry", "update", "add again"])
async def test_something_due_earlier_moves_the_next_look_at_the_clock(opened, autojump_clock, name):
    earlier = {
        "add": lambda kh: kh.add(Ticket("x", "t"), delay=3),
        "retry": lambda kh: kh.retry("later", delay=3),
        "update": lambda kh: kh.update("later", runat=EPOCH + timedelta(seconds=trio.current_time() - zero + 3)),
        "add again": lambda kh: kh.add(Ticket("later", "t"), delay=3),
    }
    starts = []

    async def handle(_kh, _ticket):
        starts.append(trio.current_time())

    async with opened(max_poll_interval=3600) as kh, trio.open_nursery() as nursery:
        zero = trio.current_time()
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("later", "t"), delay=1000)
        await trio.sleep(10)
        await earlier[name](kh)
        await trio.sleep(100)
        assert starts == pytest.approx([zero + 13], abs=0.011)
        nursery.cancel_scope.cancel()


# --- none is forgotten, and nobody spins ------------------------------------------------------------------------------


class CountingClock(TrioClock):
    def __init__(self):
        super().__init__()
        self.asked = 0

    def now(self):
        self.asked += 1
        return super().now()


@pytest.mark.parametrize("seed", range(6))
async def test_no_wake_up_is_lost_and_nobody_spins(autojump_clock, seed):
    """Many tasks add, delay, retry, release and cancel while workers run; everything is handled, with bounded work."""
    chance = random.Random(seed)
    clock = CountingClock()
    settings = Settings(
        workers=chance.choice([1, 2, 7]),
        batch_size=chance.choice([1, 3, 10]),
        process_time=5,
        max_poll_interval=100_000,  # so that no look at the clock can make up for a wake-up that was lost
        backoff=FixedDelay(1),
        on_return="done",
        max_attempts=None,
    )
    runs = 0

    async def handle(kh, ticket):
        nonlocal runs
        runs += 1
        what = chance.random()
        if what < 0.2:
            raise ValueError
        if what < 0.3:
            await kh.release(ticket)
        elif what < 0.4:
            await kh.retry(ticket, delay=chance.choice([0, 0.5]))
        elif what < 0.45:
            await trio.sleep(60)  # beyond its lease
        elif what < 0.7:
            await trio.sleep(chance.random())

    async def add(kh, name):
        for number in range(25):
            delay = chance.choice([None, None, 0, 0.001, 1, 30])
            await kh.add(Ticket(f"{name}-{number}", "t", nice=chance.randrange(3)), delay=delay)
            if chance.random() < 0.3:
                await trio.sleep(chance.random())

    async with kharon.open(":memory:", settings, clock=clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        async with trio.open_nursery() as adders:
            for name in range(8):
                adders.start_soon(add, kh, name)
        with trio.fail_after(20_000):
            while await kh.list(status="pending", limit=1):  # noqa: ASYNC110 - asked seldom, in virtual time
                await trio.sleep(10)
        assert len(await kh.list(status="done")) == 200
        assert runs >= 200
        asked = clock.asked
        await trio.sleep(50_000)
        assert clock.asked - asked <= 2  # an idle queue does nothing
        events = kh._store.projection.seq
        assert asked < 8 * events + 20_000 / 10
        nursery.cancel_scope.cancel()


async def test_a_busy_worker_costs_one_group_for_each_ticket():
    """It settles its last ticket and claims its next in the same one."""
    log = FailingLog(MemoryLog())
    async with kharon.open(log, Settings(workers=1, on_return="done")) as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(100))
        before = log.calls["sync"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kh.run, router_of(nothing))
            await kh.wait("99")
            nursery.cancel_scope.cancel()
        assert log.calls["sync"] - before == 101


async def test_due_tickets_are_handled_by_as_many_workers_as_there_are(opened, autojump_clock):
    """Time makes many due at once: all idle workers are woken, not one."""

    async def handle(_kh, _ticket):
        await trio.sleep(10)

    async with opened(workers=4) as kh:
        started = trio.current_time()
        runat = EPOCH + timedelta(seconds=100)
        await ended(kh, router_of(handle), *(Ticket(str(number), "t", runat=runat) for number in range(4)))
        assert trio.current_time() - started == pytest.approx(110, abs=0.1)


async def test_one_ticket_wakes_one_worker_and_not_the_crowd(mock_clock):
    clock = CountingClock()
    async with kharon.open(":memory:", Settings(workers=100), clock=clock) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(nothing))
        await wait_all_tasks_blocked()
        asked = clock.asked
        await kh.add(Ticket("a", "t"))
        await wait_all_tasks_blocked()
        assert kh.stats().acked == 1
        assert clock.asked - asked < 15  # each worker that wakes up asks for the time
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("task", ["tick", "turn"])
async def test_what_fails_in_one_of_its_tasks_ends_the_run(opened, autojump_clock, task):
    """Not only that task: without the one that keeps the time nothing would ever be due."""
    async with opened(workers=2) as kh:
        real = getattr(kh._store, task)
        calls = []

        async def fail_once(*args, **more):
            calls.append(args)
            if len(calls) == 3:
                raise ZeroDivisionError
            return await real(*args, **more)

        setattr(kh._store, task, fail_once)
        await kh.add(Ticket("a", "t"))
        with trio.move_on_after(100) as patience, pytest.raises(ZeroDivisionError):
            await kh.run(router_of(nothing))
        assert not patience.cancel_called, "it ended by itself"


async def test_tickets_that_come_one_by_one_wake_one_worker_each(mock_clock):
    """Also while those that were woken before have not run yet."""
    turns = []
    async with kharon.open(":memory:", Settings(workers=100)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(nothing))
        await wait_all_tasks_blocked()
        turn = kh._store.turn

        def count(*args, **more):
            turns.append(args)
            return turn(*args, **more)

        kh._store.turn = count
        async with trio.open_nursery() as adders:
            for number in range(10):
                adders.start_soon(kh.add, Ticket(str(number), "t"))
        await wait_all_tasks_blocked()
        assert kh.stats().acked == 10
        assert len(turns) == 20, "one for the claim, and one for the end"
        nursery.cancel_scope.cancel()
