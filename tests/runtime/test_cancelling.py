"""Cancelling, or deleting, a ticket that runs: its handler is interrupted, and all it settles afterwards is refused."""

import logging
import threading

import pytest
import trio
from handlers import names, router_of
from trio.testing import wait_all_tasks_blocked

import kharon
from kharon import Settings, Status, Ticket
from kharon.model import commands as c
from kharon.model.commit import Commit
from kharon.model.projection import Projection
from kharon.runtime.attempts import Attempts
from kharon.testing import EPOCH, TrioClock

TAKE = {
    "cancel": lambda kh: kh.cancel("a", error_reason="a mistake"),
    "cancel keep": lambda kh: kh.cancel("a", keep=True),
    "delete": lambda kh: kh.delete("a"),
}
EVENT = {"cancel": "TicketCancelled", "cancel keep": "TicketCancelled", "delete": "TicketDeleted"}


def opened(**settings):
    return kharon.open(":memory:", Settings(**settings), clock=TrioClock())


@pytest.fixture(params=TAKE)
def take(request):
    return request.param


# --- the handler is interrupted ---------------------------------------------------------------------------------------


async def test_the_handler_is_cancelled_at_its_next_checkpoint_and_the_worker_goes_on(autojump_clock, take, caplog):
    caplog.set_level(logging.INFO, "kharon")
    seen = []

    async def handle(_kh, ticket):
        if ticket.id == "a":
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                seen.append(trio.current_time())
                raise
        seen.append(ticket.id)

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        await trio.sleep(5)
        begun = trio.current_time()
        await TAKE[take](kh.acting_as("ann"))
        await kh.wait("b")
        assert seen == [begun, "b"]
        await trio.sleep(100)  # nor does it lapse
        await kh.drain()
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", EVENT[take]]
        assert (await kh.history("a"))[-1].by == "ann"
        assert (kh.stats().lapsed, kh.stats().processed, kh.stats().workers_running) == (0, 2, 0)
    how = "deleted" if take == "delete" else "cancelled"
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert said == [(logging.INFO, f"ticket 'a' (t): was {how} in attempt 1")]


async def test_what_it_settles_afterwards_is_refused(autojump_clock, take):
    refused = []

    async def handle(kh, ticket):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for verb in ("ack", "done", "fail", "cancel", "retry", "release"):
                    try:
                        await getattr(kh, verb)(ticket)
                    except kharon.LeaseLost:
                        refused.append(verb)

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await wait_all_tasks_blocked()
        await TAKE[take](kh)
        await kh.drain()
        assert refused == ["ack", "done", "fail", "cancel", "retry", "release"]
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", EVENT[take]]


@pytest.mark.parametrize("ending", ["returns", "raises", "goes on"])
async def test_a_handler_that_swallows_it_is_coped_with(autojump_clock, take, ending):
    ran = []

    async def handle(_kh, ticket):
        ran.append(ticket.id)
        if ticket.id == "a":
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                if ending == "raises":
                    raise ValueError("while cleaning up") from None
                if ending == "goes on":
                    with trio.CancelScope(shield=True):
                        await trio.sleep(100)  # longer than its lease

    async with opened(workers=1, on_return="done") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        await trio.sleep(1)
        await TAKE[take](kh)
        await kh.wait("b")
        await kh.drain()
        assert ran == ["a", "b"]
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", EVENT[take]]


async def test_added_again_while_it_ran_both_end_by_the_name(autojump_clock, take):
    ended = []

    async def handle(kh, ticket):
        try:
            await trio.sleep(20)
        finally:
            ended.append((ticket.payload, trio.current_time()))

    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t", payload="old"))
        await trio.sleep(1)
        await kh.add(Ticket("a", "t", payload="new"))
        await TAKE[take](kh)
        assert [ticket.payload for ticket in await kh.list()] == ["new"] * (take == "cancel keep")
        await trio.sleep(100)
        assert ended == [("old", pytest.approx(1))]
        await kh.drain()


async def test_added_again_while_it_ran_a_handler_that_cancels_its_own_run_leaves_the_new_one(autojump_clock):
    ran = []

    async def handle(kh, ticket):
        ran.append(ticket.payload)
        if ticket.payload == "old":
            await kh.add(Ticket("a", "t", payload="new"))
            await kh.cancel(ticket)

    async with opened() as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t", payload="old"))
        await nursery.start(kh.run, router_of(handle))
        assert (await kh.wait("a")).status is Status.DONE
        assert ran == ["old", "new"]
        await kh.drain()


@pytest.mark.parametrize("command", [c.Cancel, c.Delete])
async def test_a_claim_that_ends_before_its_worker_hears_of_it_does_not_run(autojump_clock, command):
    ran = []

    async def handle(_kh, ticket):
        ran.append(ticket.id)

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        expected = []
        reached = number = 0
        while reached < 5:  # whether the claim's group is still open when this task comes to look is Trio's chance
            number += 1
            id = f"{number}"
            await kh.add(Ticket(id, "t"))
            while (ticket := kh._store.projection.get(id)) is not None and ticket.claim is None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            if ticket is not None and ticket.claim > kh._store._log.durable:
                kh._store._execute([command(id)], "ann")
                reached += 1
            else:
                expected.append(id)
            await wait_all_tasks_blocked()
        assert ran == expected
        assert kh.stats().processed == len(expected)
        await kh.drain()


# --- the handler's own end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
async def test_a_handler_that_cancels_its_ticket_itself_is_not_interrupted(autojump_clock, keep):
    cleaned = []

    async def handle(kh, ticket):
        await kh.cancel(ticket, keep=keep)
        await trio.sleep(5)
        cleaned.append(ticket.id)

    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(6)
        assert cleaned == ["a"]
        await kh.drain()


async def test_one_that_was_too_late_to_cancel_itself_is_interrupted(autojump_clock):
    """An operator's cancel was decided first, and is delivered while the handler's own waits to be refused."""
    seen = []

    async def handle(kh, ticket):
        kh._store._execute([c.Cancel("a")], "ann")
        with pytest.raises(kharon.LeaseLost):
            await kh.cancel(ticket)
        try:
            await trio.sleep(5)
        finally:
            seen.append(trio.current_time())

    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(6)
        assert seen == [0]
        await kh.drain()


async def test_of_two_cancels_of_its_own_the_refused_one_interrupts_nothing(autojump_clock):
    cleaned, refused = [], []

    async def handle(kh, ticket):
        async def cancel():
            try:
                await kh.cancel(ticket)
            except kharon.LeaseLost:
                refused.append(ticket.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            nursery.start_soon(cancel)
        await trio.sleep(5)
        cleaned.append(ticket.id)

    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(6)
        assert (cleaned, refused) == (["a"], ["a"])
        await kh.drain()


@pytest.mark.parametrize("verb", ["ack", "done", "fail", "retry", "release"])
async def test_other_ends_by_id_interrupt_nothing(autojump_clock, verb):
    finished = []

    async def handle(kh, ticket):
        await trio.sleep(5)
        finished.append(ticket.attempts)

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(1)
        await getattr(kh, verb)("a")
        await trio.sleep(5)
        assert len(finished) == 1
        await kh.drain()


# --- threads, and a run that ends -------------------------------------------------------------------------------------


async def test_a_thread_runs_on_and_loses_and_can_ask(take):
    begun, asked = threading.Event(), []

    def handle(kh, ticket):
        begun.set()
        while not asked:
            try:
                trio.from_thread.check_cancelled()
            except trio.Cancelled:
                asked.append(ticket.id)

    async with kharon.open(":memory:", Settings(workers=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        await TAKE[take](kh)
        await kh.drain()
        assert asked == ["a"]
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", EVENT[take]]


async def test_what_a_thread_settles_afterwards_is_refused(take):
    begun, go, told = threading.Event(), threading.Event(), []

    def handle(kh, ticket):
        begun.set()
        go.wait(10)
        try:
            trio.from_thread.run(kh.done, ticket, trio_token=token)
        except kharon.LeaseLost as lost:
            told.append(lost)

    token = trio.lowlevel.current_trio_token()
    async with kharon.open(":memory:", Settings(workers=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        await TAKE[take](kh)
        go.set()
        await kh.drain()
        assert len(told) == 1
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", EVENT[take]]


async def test_a_run_that_is_cancelled_in_the_same_moment_releases_nothing(autojump_clock, take):
    async def handle(_kh, _ticket):
        await trio.sleep_forever()

    async with opened(workers=1) as kh:
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router_of(handle))
            await kh.add(Ticket("a", "t"))
            await wait_all_tasks_blocked()
            await TAKE[take](kh)
            nursery.cancel_scope.cancel()
        assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", EVENT[take]]


async def test_what_is_left_of_claims_that_nobody_runs_is_bounded(autojump_clock):
    """With on_return="leave" a ticket may stay claimed when its handler has returned; that nobody hears of its end."""

    async def handle(_kh, _ticket):
        pass

    async with opened(workers=2, on_return="leave", process_time=1000) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add_many([Ticket(f"{number}", "t") for number in range(50)])
        await trio.sleep(1)
        for number in range(50):
            await kh.delete(f"{number}")
        assert len(kh._queue.workers.attempts._early) <= 2
        await kh.drain()


@pytest.mark.parametrize("deleted", ["ab", "ba"])
async def test_of_two_claims_that_end_in_the_group_of_the_second_it_is_the_second_that_is_heard(mock_clock, deleted):
    """The first had been left by its handler; the worker is about to hear of the other."""
    adds = [c.Add(id, Ticket(id, "t")) for id in "ab"]
    commit = Commit(Projection(), c.Context(EPOCH, 0.5, 100))
    commit.run([*adds, *(c.Claim(id, "w") for id in "ab"), *(c.Delete(id) for id in deleted)])
    attempts = Attempts(TrioClock())
    attempts.deliver(commit.effects)
    assert attempts.begin(commit.effects[3].new).taken == "deleted"
