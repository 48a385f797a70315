"""run_and_wait: the result, or why there is none; whatever comes between its adding and its waiting."""

import pytest
import trio
from handlers import router_of
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import kharon
from kharon import Settings, Status, Ticket
from kharon.log.memory import MemoryLog
from kharon.model.events import TicketEvent
from kharon.model.evolve import ended, evolve
from kharon.testing import FailingLog, TrioClock


@pytest.fixture
async def kh():
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        yield kh


async def answer_of(call, *args, **kwargs):
    try:
        return await call(*args, **kwargs)
    except kharon.KharonError as error:
        return error


class Asked:
    """A call in a nursery, and what it answered."""

    def __init__(self, nursery, call, *args, **kwargs):
        self.answers = []
        nursery.start_soon(self._ask, call, args, kwargs)

    async def _ask(self, call, args, kwargs):
        self.answers.append(await answer_of(call, *args, **kwargs))


# --- what it answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [{"sum": [1, 2.5]}, 0, "", None])
async def test_it_returns_what_done_was_given(kh, autojump_clock, result):
    async def handle(kh, ticket):
        await kh.done(ticket, result=result)

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        assert await kh.run_and_wait(Ticket("a", "t"), delay=3600) == result
        assert trio.current_time() >= 3600  # what `add` takes is passed on
        nursery.cancel_scope.cancel()
    assert kh._queue.waits.by_name == {}


async def test_after_an_ack_it_is_none(kh, autojump_clock):
    async def handle(_kh, _ticket):
        pass

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        assert await kh.run_and_wait(Ticket("a", "t")) is None
        nursery.cancel_scope.cancel()


ENDS = {
    "fail": (lambda kh: kh.fail("a", error_reason="no paper"), "'a' (t) has failed: no paper", "no paper"),
    "fail unsaid": (lambda kh: kh.fail("a"), "'a' (t) has failed", None),
    "cancel": (lambda kh: kh.cancel("a", error_reason="too late"), "'a' (t) was cancelled: too late", "too late"),
    "cancel keep": (lambda kh: kh.cancel("a", keep=True), "'a' (t) was cancelled", None),
    "delete": (lambda kh: kh.delete("a"), "'a' (t) was deleted", None),
}


@pytest.mark.parametrize("name", ENDS)
async def test_it_raises_what_else_became_of_it(kh, autojump_clock, name):
    end, message, reason = ENDS[name]
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t", payload="p"))
        await wait_all_tasks_blocked()
        await kh.retry("a", error_reason="not this one")
        await end(kh)
    (error,) = asked.answers
    assert type(error) is kharon.TicketFailedError
    assert str(error) == f"ticket {message}"
    assert error.reason == reason
    assert (error.ticket.id, error.ticket.payload) == ("a", "p")
    assert kh._queue.waits.by_name == {}


async def test_out_of_attempts_is_a_failure_with_what_was_raised(autojump_clock):
    async def handle(_kh, _ticket):
        raise OSError("no paper")

    async with (
        kharon.open(":memory:", Settings(max_attempts=2), clock=TrioClock()) as kh,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(kh.run, router_of(handle))
        with pytest.raises(kharon.TicketFailedError, match="has failed: OSError: no paper") as failed:
            await kh.run_and_wait(Ticket("a", "t"))
        assert failed.value.ticket.attempts == 2
        nursery.cancel_scope.cancel()


# --- a ticket that is there already -----------------------------------------------------------------------------------


async def test_one_that_has_ended_is_answered_from_what_is_kept(kh, autojump_clock):
    await kh.add_many([Ticket("done", "t"), Ticket("failed", "t")])
    await kh.done("done", result=7)
    await kh.fail("failed", error_reason="no")
    with assert_checkpoints():
        assert await kh.run_and_wait(Ticket("done", "t"), on_conflict="skip") == 7
    with pytest.raises(kharon.TicketFailedError, match="has failed: no"):
        await kh.run_and_wait(Ticket("failed", "t"), on_conflict="skip")


async def test_one_that_waits_is_waited_for(kh, autojump_clock):
    await kh.add(Ticket("a", "t"))
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t"), on_conflict="skip")
        await wait_all_tasks_blocked()
        assert asked.answers == []
        await kh.done("a", result=1)
    assert asked.answers == [1]


async def test_one_that_ended_before_runs_again_unless_told_otherwise(kh, autojump_clock):
    await kh.add(Ticket("a", "t"))
    await kh.done("a", result="old")
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t"))
        await wait_all_tasks_blocked()
        assert asked.answers == []
        await kh.done("a", result="new")
    assert asked.answers == ["new"]


@pytest.mark.parametrize("wrong", [None, "a", 3])
async def test_what_add_refuses_it_refuses(kh, autojump_clock, wrong):
    await kh.add(Ticket("a", "t"))
    with assert_checkpoints(), pytest.raises(kharon.InvalidTicket, match=r"add takes a kharon\.Ticket"):
        await kh.run_and_wait(wrong)
    with pytest.raises(kharon.TicketExists):
        await kh.run_and_wait(Ticket("a", "t"), on_conflict="raise")
    with pytest.raises(TypeError, match="unheard_of"):
        await kh.run_and_wait(Ticket("a", "t"), unheard_of=1)
    assert kh._queue.waits.by_name == {}


# --- what comes between -----------------------------------------------------------------------------------------------


async def test_an_end_in_the_very_group_of_its_adding_counts(kh, autojump_clock):
    """The ticket has ended before the adding was durable, so before anybody could begin to wait for it."""
    async with trio.open_nursery() as nursery:
        for number in range(10):  # after a large group the next one is gathered for some passes
            nursery.start_soon(kh.add, Ticket(f"{number}", "t"))
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t"))
        while kh._store.projection.get("a") is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        assert kh._store._log.durable == 10
        kh._store._execute([kharon.model.commands.Done("a", result=b"5", keep=True)], "ann")
        kh._store._execute([kharon.model.commands.Delete("a")], "ann")
    assert asked.answers == [5]
    assert kh._store._log.durable == 13


async def test_an_end_of_what_was_there_before_does_not_count_though_it_is_in_the_same_group(kh, autojump_clock):
    await kh.add(Ticket("a", "t"))
    async with trio.open_nursery() as nursery:
        kh._store._execute([kharon.model.commands.Done("a", result=b'"old"', keep=True)], "ann")
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t"))
        again = Asked(nursery, kh.wait, "a")
        await wait_all_tasks_blocked()
        if again.answers:  # Trio began with it: then it is the end of the old one that it found
            assert again.answers[0].result == "old"
        assert asked.answers == []
        await kh.done("a", result="new")
    assert asked.answers == ["new"]


async def test_added_again_while_it_runs_the_newest_is_waited_for(kh, autojump_clock):
    async def handle(kh, ticket):
        if ticket.payload == 1:
            await kh.add(Ticket("a", "t", payload=2))
        await kh.done(ticket, result=ticket.payload)

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        assert await kh.run_and_wait(Ticket("a", "t", payload=1)) == 2
        nursery.cancel_scope.cancel()


async def test_added_while_another_runs_the_end_of_that_run_does_not_count(kh, autojump_clock):
    begun = trio.Event()

    async def handle(kh, ticket):
        begun.set()
        await trio.sleep(10)
        await kh.done(ticket, result=ticket.payload)

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t", payload="first"))
        await begun.wait()
        assert await kh.run_and_wait(Ticket("a", "t", payload="second")) == "second"
        nursery.cancel_scope.cancel()


async def test_a_ticket_of_a_tube_that_is_not_run_here_is_waited_for(kh, autojump_clock):
    async def handle(_kh, _ticket):
        pytest.fail("it ran here")

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t", tube="elsewhere"))
        await trio.sleep(24 * 3600)
        assert asked.answers == []
        await kh.done("a", result="by hand")
        await wait_all_tasks_blocked()
        assert asked.answers == ["by hand"]
        nursery.cancel_scope.cancel()


async def test_a_handler_may_run_another_and_wait(kh, autojump_clock):
    async def handle(kh, ticket):
        if ticket.id == "outer":
            inner = await kh.run_and_wait(Ticket("inner", "t", payload=20))
            await kh.done(ticket, result=inner + 1)
        else:
            await kh.done(ticket, result=ticket.payload * 2)

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        assert await kh.run_and_wait(Ticket("outer", "t")) == 41
        nursery.cancel_scope.cancel()


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_cancelling_the_wait_leaves_the_ticket_and_no_trace(kh, autojump_clock):
    with trio.move_on_after(5) as scope:
        await kh.run_and_wait(Ticket("a", "t"))
    assert scope.cancelled_caught
    assert (await kh.get("a")).status is Status.PENDING
    assert kh._queue.waits.by_name == {}
    with trio.CancelScope() as scope:
        scope.cancel()
        await kh.run_and_wait(Ticket("b", "t"))
    assert scope.cancelled_caught
    assert [ticket.id for ticket in await kh.list()] == ["a"]
    assert kh._queue.waits.by_name == {}


async def test_closing_ends_it(autojump_clock):
    async with trio.open_nursery() as nursery, kharon.open(":memory:", clock=TrioClock()) as kh:
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t"))
        await wait_all_tasks_blocked()
    assert [type(answer) for answer in asked.answers] == [kharon.Closed]
    assert kh._queue.waits.by_name == {}
    with pytest.raises(kharon.Closed):
        await kh.run_and_wait(Ticket("a", "t"))


@pytest.mark.parametrize("when", ["adding", "waiting"])
async def test_a_disk_that_breaks_ends_it(autojump_clock, when):
    log = FailingLog(MemoryLog())
    async with trio.open_nursery() as nursery, kharon.open(log, clock=TrioClock()) as kh:
        log.fail = "write" if when == "adding" else None
        asked = Asked(nursery, kh.run_and_wait, Ticket("a", "t"))
        await wait_all_tasks_blocked()
        log.fail = "write"
        if when == "waiting":
            assert isinstance(await answer_of(kh.done, "a"), kharon.CommitOutcomeUnknown)
    told = {"adding": kharon.CommitOutcomeUnknown, "waiting": kharon.Closed}
    assert [type(answer) for answer in asked.answers] == [told[when]]
    assert kh._queue.waits.by_name == {}


# --- any order --------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "add", "done", "ack", "fail", "cancel", "delete", "restart", "retry", "wait"]),
        st.integers(0, 4),
    ),
    min_size=3,
    max_size=14,
)


async def do(kh, number, what):
    if what == "ask":
        return await kh.run_and_wait(Ticket("a", "t"))
    if what == "wait":
        return await kh.wait("a")
    if what == "add":
        return await kh.add(Ticket("a", "t"))
    if what == "done":
        return await kh.done("a", result=number)
    return await getattr(kh, what)("a")


def first_end(records, asker):
    """What became, by the log, of the ticket that this one added."""
    ticket, asked = None, False
    for record in records:
        if isinstance(record.event, TicketEvent):
            old, ticket = ticket, evolve(ticket, record.event, record.seq, record.at)
            if asked and (ticket is None or ticket.status is not Status.PENDING):
                return ended(old, record.event, record.seq, record.at)
            asked = asked or record.by == asker
    return None


async def in_any_order(steps):
    answers = {}
    async with kharon.open(":memory:") as kh:
        async with trio.open_nursery() as nursery:

            async def step(number, what, pause):
                for _ in range(pause):
                    await trio.lowlevel.checkpoint()
                answers[number] = await answer_of(do, kh.acting_as(f"step-{number}"), number, what)

            for number, (what, pause) in enumerate(steps):
                nursery.start_soon(step, number, what, pause)
            await wait_all_tasks_blocked()
            await answer_of(kh.delete, "a")  # releases those that still wait
        records = await kh.history("a")
        assert kh._queue.waits.by_name == {}
    for number, (what, _) in enumerate(steps):
        answer = answers[number]
        if what == "ask":
            end = first_end(records, f"step-{number}")
            if end.status is Status.DONE:
                assert answer == end.result
            else:
                assert isinstance(answer, kharon.TicketFailedError)
                assert answer.ticket == end
        elif what == "wait":
            assert isinstance(answer, (Ticket, kharon.TicketNotFound))


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_comes_in_whatever_order_it_is_the_first_end_after_its_adding(steps):
    trio.run(in_any_order, steps)


# --- many -------------------------------------------------------------------------------------------------------------


async def test_many_waits_for_one_ticket_and_their_cancelling() -> None:
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(kh.wait, "a")
            await wait_all_tasks_blocked()
            assert len(kh._queue.waits.by_name["a"]) == 200
            nursery.cancel_scope.cancel()
        assert kh._queue.waits.by_name == {}
