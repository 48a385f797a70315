"""Atomic blocks: the verbs of the queue, all of them or none, and steps of a workflow that cannot be lost."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from handlers import for_ever, names, router_of, together
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import kharon
from kharon import Settings, Status, Ticket
from kharon.log.memory import MemoryLog
from kharon.runtime.atomic import Atomic
from kharon.runtime.verbs import Verb
from kharon.testing import EPOCH, FailingLog, TrioClock

VERBS = [
    "add",
    "add_many",
    "ack",
    "done",
    "fail",
    "cancel",
    "retry",
    "release",
    "extend",
    "restart",
    "update",
    "delete",
    "pause",
    "resume",
    "limit",
    "schedule",
    "unschedule",
]


async def everything(kh):
    """All that a reader can see."""
    return await kh.list(limit=None), [record async for record in kh.records()], kh.stats().added


# --- the verbs --------------------------------------------------------------------------------------------------------


def verbs_of(kind):
    return {name for base in kind.__mro__ for name, value in vars(base).items() if isinstance(value, Verb)}


def own_methods(kind):
    return {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}


def test_every_verb_of_the_queue_is_a_verb_of_the_block():
    assert verbs_of(Atomic) == verbs_of(kharon.Kharon) == set(VERBS)
    assert not own_methods(Atomic)
    submitting = [name for name, method in own_methods(kharon.Kharon).items() if "submit(" in inspect.getsource(method)]
    assert not submitting, "a method that carries commands out is a verb"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_arguments_of_the_queues(verb):
    mine = inspect.signature(getattr(Atomic, verb))
    theirs = inspect.signature(getattr(kharon.Kharon, verb))
    assert list(mine.parameters.values()) == list(theirs.parameters.values())
    assert mine.return_annotation == "None"
    assert not inspect.iscoroutinefunction(getattr(Atomic, verb))


async def claimed(kh, id, **fields):
    """A ticket as a handler receives it."""
    await kh.add(Ticket(id, "t", **fields))
    ticket = await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
    assert ticket.id == id
    return ticket


SAME = {
    "add": lambda q, t: q.add(Ticket("n", "t", nice=1), delay=timedelta(minutes=1), after=["a"], on_failure="cancel"),
    "add to a group": lambda q, t: q.add(Ticket("n", "t"), after_group="g"),
    "add again": lambda q, t: q.add(Ticket("a", "again")),
    "add skip": lambda q, t: q.add(Ticket("a", "again"), on_conflict="skip"),
    "add_many": lambda q, t: q.add_many(
        (Ticket(i, "t") for i in "xyz"),
        delay=3,
        on_conflict="raise",
        after=(i for i in ["a"]),
        after_group="g",
        on_failure="cancel",
    ),
    "ack": lambda q, t: q.ack(t),
    "ack keep": lambda q, t: q.ack("a", keep=True, result=[1], expire_in=9),
    "done": lambda q, t: q.done(t, result={"x": 1}, expire_in=timedelta(days=1)),
    "fail": lambda q, t: q.fail(t, error_reason="no", expire_in=1),
    "cancel": lambda q, t: q.cancel(t, error_reason="no", keep=True, expire_in=1),
    "retry": lambda q, t: q.retry(t, delay=9, error_reason="no", nice=3, payload=[2]),
    "retry by the settings": lambda q, t: q.retry(t),
    "release": lambda q, t: q.release(t),
    "extend": lambda q, t: q.extend(t, 1000),
    "restart": lambda q, t: q.restart("ended"),
    "update": lambda q, t: q.update("a", tube="slow", group=None),
    "delete": lambda q, t: q.delete("a"),
    "delete nobody": lambda q, t: q.delete("nobody"),
    "pause": lambda q, t: q.pause("default"),
    "resume": lambda q, t: q.resume("paused"),
    "limit": lambda q, t: q.limit("default", claimed=2, claims=9, period=timedelta(minutes=1)),
    "schedule": lambda q, t: q.schedule("hourly", every=3600, ticket=Ticket("hourly", "t")),
    "unschedule": lambda q, t: q.unschedule("daily"),
}


@pytest.mark.parametrize("how", SAME)
async def test_a_verb_does_what_the_queues_does(how, mock_clock):
    seen = []
    for atomic in (False, True):
        async with kharon.open(":memory:", Settings(backoff=kharon.FixedDelay(7)), clock=TrioClock()) as kh:
            await kh.add(Ticket("a", "t", group="g", nice=600))
            await kh.add(Ticket("ended", "t"))
            await kh.fail("ended")
            await kh.pause("paused")
            await kh.schedule("daily", every=86400, ticket=Ticket("daily", "t"))
            ticket = await claimed(kh, "c")
            as_ann = kh.acting_as("ann")
            if atomic:
                async with as_ann.atomic() as tx:
                    assert SAME[how](tx, ticket) is None
            else:
                await SAME[how](as_ann, ticket)
            mock_clock.jump(0)
            seen.append([(record.by, record.event) for record in await records(kh)])
    assert seen[0] == seen[1]


async def records(kh):
    return [record async for record in kh.records()]


WRONG = {
    "a wrong kind": lambda tx: tx.add("a"),
    "both": lambda tx: tx.add(Ticket("b", "t", runat=EPOCH), delay=1),
    "one id for a list of many": lambda tx: tx.add_many([Ticket("b", "t")], after="a"),
    "a wrong kind among many": lambda tx: tx.add_many([Ticket("b", "t"), "c"]),
    "one id for a list": lambda tx: tx.add(Ticket("b", "t"), after="a"),
    "too many ids": lambda tx: tx.add(Ticket("b", "t"), after=[str(number) for number in range(1001)]),
    "no such answer": lambda tx: tx.add(Ticket("b", "t"), on_failure="perhaps"),
    "no such conflict": lambda tx: tx.add(Ticket("b", "t"), on_conflict="perhaps"),
    "no group": lambda tx: tx.add(Ticket("b", "t"), after_group=""),
    "not an id": lambda tx: tx.add(Ticket("b", "t"), after=[1]),
    "not JSON": lambda tx: tx.done("a", result={1, 2}),
    "nothing to change": lambda tx: tx.update("a"),
    "a result of nothing": lambda tx: tx.ack("a", result=1),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_argument_raises_at_once(kh, what):
    await kh.add(Ticket("a", "t"))
    before = await everything(kh)
    reached = []
    with pytest.raises(kharon.InvalidTicket):
        await together(kh, lambda tx: tx.delete("a"), WRONG[what], reached.append)
    assert not reached
    assert await everything(kh) == before


async def test_a_wrong_one_of_many_leaves_none_of_them_in_the_block(kh):
    async with kh.atomic() as tx:
        with pytest.raises(kharon.InvalidTicket):
            tx.add_many([Ticket("a", "t"), "b"])
        tx.add(Ticket("c", "t"))
    assert [ticket.id for ticket in await kh.list()] == ["c"]


# --- all or none ------------------------------------------------------------------------------------------------------


async def test_commands_are_one_commit_in_their_order_and_see_each_other(kh):
    ticket = await claimed(kh, "step-1")
    async with kh.atomic() as tx:
        tx.done(ticket, result=1)
        tx.add(Ticket("step-2", "t", group="g"))
        tx.add(Ticket("end", "t"), after_group="g")
        tx.update("step-2", nice=1)
        tx.delete("step-1")
    told = await records(kh)
    assert [(type(record.event).__name__, record.event.id) for record in told[2:]] == [
        ("TicketDone", "step-1"),
        ("TicketAdded", "step-2"),
        ("TicketAdded", "end"),
        ("TicketUpdated", "step-2"),
        ("TicketDeleted", "step-1"),
    ]
    assert [record.part for record in told[2:]] == [(number, 5) for number in range(1, 6)]
    assert len({record.at for record in told[2:]}) == 1
    assert (await kh.get("end")).blocked


async def test_tickets_are_as_the_commit_left_them(kh):
    await kh.add(Ticket("a", "t"))
    block = kh.atomic()
    assert block.tickets == []
    async with block as tx:
        assert tx is block
        tx.add(Ticket("b", "t"))
        tx.update("b", nice=9)
        tx.ack("a")
        tx.add_many([Ticket("c", "t"), Ticket("b", "t")], on_conflict="skip")
        assert tx.tickets == []
    b = await kh.get("b")
    assert tx.tickets == [b, b, None, await kh.get("c"), b]
    assert b.nice == 9


async def test_nothing_is_done_within_the_block(kh):
    async with kh.atomic() as tx:
        tx.add(Ticket("a", "t"))
        await trio.lowlevel.checkpoint()
        assert await kh.list() == []
    assert [ticket.id for ticket in await kh.list()] == ["a"]


REFUSED = {
    "not found": (kharon.TicketNotFound, lambda tx, stale: tx.ack("nobody"), "done of ticket 'nobody'"),
    "exists": (
        kharon.TicketExists,
        lambda tx, stale: tx.add(Ticket("a", "t"), on_conflict="raise"),
        "add of ticket 'a'",
    ),
    "state": (kharon.InvalidTransition, lambda tx, stale: tx.restart("a"), "restart of ticket 'a'"),
    "lease": (kharon.LeaseLost, lambda tx, stale: tx.done(stale), "done of ticket 'stale'"),
    "own group": (
        kharon.FinalizerInGroup,
        lambda tx, stale: tx.add(Ticket("f", "t", group="g"), after_group="g"),
        "add of ticket 'f'",
    ),
    "cycle": (kharon.InvalidTicket, lambda tx, stale: tx.add(Ticket("a", "t"), after=["w"]), "add of ticket 'a'"),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_a_refusal_names_the_command_and_nothing_is_done(kh, why):
    error, refused, words = REFUSED[why]
    stale = await claimed(kh, "stale")
    await kh.release("stale")
    await kh.add_many([Ticket("a", "t", group="g"), Ticket("b", "t")])
    await kh.add(Ticket("w", "t"), after=["a"])
    before = await everything(kh)
    blocks = []
    with pytest.raises(error) as caught:
        await together(
            kh,
            blocks.append,
            lambda tx: tx.add(Ticket("new", "t")),
            lambda tx: tx.delete("b"),
            lambda tx: refused(tx, stale),
            lambda tx: tx.delete("a"),
        )
    assert str(caught.value).startswith(f"command 3 of 4, {words}, is refused, so none is: ")
    assert blocks[0].tickets == []
    assert await everything(kh) == before
    assert await kh.group("g").pending_count() == 1
    kh._store.projection.check()


async def test_a_block_that_raises_does_nothing(kh):
    before = await everything(kh)
    with pytest.raises(ZeroDivisionError):
        await together(kh, lambda tx: tx.add(Ticket("a", "t")), lambda _tx: 1 / 0)
    assert await everything(kh) == before


async def test_a_block_with_a_single_command_is_refused_as_its_verb_is(kh):
    with pytest.raises(kharon.TicketNotFound, match=r"^ticket 'nobody'"):
        await together(kh, lambda tx: tx.ack("nobody"))


async def test_an_empty_block_writes_nothing_and_checkpoints(kh):
    block = kh.atomic()
    with assert_checkpoints():
        await block.__aenter__()
    with assert_checkpoints():
        await block.__aexit__(None, None, None)
    assert block.tickets == []
    assert await records(kh) == []


async def test_a_block_that_has_ended_takes_nothing_more(kh):
    async with kh.atomic() as tx:
        tx.add(Ticket("a", "t"))
    with pytest.raises(kharon.InvalidTransition, match="has ended"):
        tx.delete("a")
    with pytest.raises(kharon.InvalidTransition, match="has begun before"):
        await tx.__aenter__()
    with pytest.raises(kharon.InvalidTransition, match="has ended"):
        tx.add_many([Ticket("b", "t")])
    assert [ticket.id for ticket in await kh.list()] == ["a"]


async def test_a_block_is_not_begun_within_itself(kh):
    """Its commands would be carried out twice."""
    async with kh.atomic() as tx:
        tx.add(Ticket("a", "t"))
        with pytest.raises(kharon.InvalidTransition, match="has begun"):
            await tx.__aenter__()
    assert len(await records(kh)) == 1


async def test_two_blocks_at_once_do_not_mix(kh):
    async with kh.atomic() as one, kh.atomic() as two:
        one.add(Ticket("a", "t"))
        two.add(Ticket("b", "t"))
    assert [(record.event.id, record.part) for record in await records(kh)] == [("b", (1, 1)), ("a", (1, 1))]


async def test_a_closed_queue_refuses(kh):
    async with kharon.open(":memory:") as other:
        await other.add(Ticket("a", "t"))
    with pytest.raises(kharon.Closed):
        await together(other, lambda tx: tx.add(Ticket("b", "t")))


async def test_cancellation_leaves_no_trace_or_all(kh):
    with trio.CancelScope() as scope:
        async with kh.atomic() as tx:
            tx.add(Ticket("a", "t"))
            scope.cancel()
    assert scope.cancelled_caught
    assert await records(kh) == []
    with trio.CancelScope() as scope:
        scope.cancel()
        async with kh.atomic():
            raise AssertionError("it was cancelled before")
    assert scope.cancelled_caught


async def test_a_failed_write_leaves_the_outcome_unknown(mock_clock):
    log = FailingLog(MemoryLog())
    async with kharon.open(log, clock=TrioClock()) as kh:
        log.fail = "sync"
        blocks = []
        with pytest.raises(kharon.CommitOutcomeUnknown):
            await together(kh, blocks.append, lambda tx: tx.add(Ticket("a", "t")))
        assert blocks[0].tickets == []


# --- in a handler -----------------------------------------------------------------------------------------------------


async def test_a_handler_settles_and_adds_in_one_step(kh, mock_clock):
    mock_clock.autojump_threshold = 0

    async def handle(kh, ticket):
        number = ticket.payload
        async with kh.atomic() as tx:
            tx.ack(ticket)
            if number < 3:
                tx.add(Ticket(f"step-{number + 1}", "t", payload=number + 1))

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("step-1", "t", payload=1))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    told = [(type(record.event).__name__, record.event.id, record.part) for record in await records(kh)]
    assert ("TicketDone", "step-1", (1, 2)) in told
    assert ("TicketAdded", "step-2", (2, 2)) in told
    assert ("TicketDone", "step-3", (1, 1)) in told
    assert {record.by for record in await kh.history("step-2")} <= {f"worker-{n}" for n in range(1, 5)}
    assert await kh.list() == []


async def test_extend_within_a_block_keeps_the_handler_running(kh, mock_clock):
    mock_clock.autojump_threshold = 0
    ran = []

    async def handle(kh, ticket):
        async with kh.atomic() as tx:
            tx.extend(ticket, 100)
            tx.add(Ticket("other", "later"), delay=1000)
        await trio.sleep(60)  # twice `process_time`
        ran.append(ticket.attempts)

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await kh.wait("a")
        nursery.cancel_scope.cancel()
    assert ran == [1]


async def test_a_handler_may_cancel_its_ticket_within_a_block_and_clean_up(kh, mock_clock):
    mock_clock.autojump_threshold = 0
    cleaned = []

    async def handle(kh, ticket):
        async with kh.atomic() as tx:
            tx.cancel(ticket, keep=True, error_reason="no need")
            tx.add(Ticket("instead", "later"), delay=1000)
        await trio.sleep(1)
        cleaned.append(ticket.id)

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert cleaned == ["a"]
    assert await names(kh, "a") == ["TicketAdded", "TicketClaimed", "TicketCancelled"]


async def test_the_loser_of_a_lease_adds_nothing(kh, mock_clock):
    """Its settle is refused, so its follow-ups are not added: no step is made twice."""
    stale = await claimed(kh, "a")
    mock_clock.jump(60)
    await kh._store.tick()
    with pytest.raises(kharon.LeaseLost, match=r"command 2 of 2, done of ticket 'a'"):
        await together(kh, lambda tx: tx.add(Ticket("follow-up", "t")), lambda tx: tx.ack(stale))
    assert [ticket.id for ticket in await kh.list()] == ["a"]


async def test_cancelling_a_blocks_ticket_by_id_interrupts_its_handler(kh, mock_clock):
    mock_clock.autojump_threshold = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(for_ever))
        await kh.add(Ticket("a", "t"))
        await wait_all_tasks_blocked()
        async with kh.atomic() as tx:
            tx.cancel("a")
            tx.add(Ticket("b", "later"))
        await trio.sleep(1)
        assert kh.stats().workers_running == 0
        nursery.cancel_scope.cancel()


# --- killed between ---------------------------------------------------------------------------------------------------

STEPS = """
    import os, signal, sys, trio, kharon
    from kharon import Ticket

    where, point = sys.argv[1:]
    router = kharon.Router()

    def die(name):
        if point == name:
            os.kill(os.getpid(), signal.SIGKILL)

    @router.handler("split")
    async def split(kh, ticket):
        async with kh.atomic() as tx:
            tx.add_many([Ticket(f"part-{n}", "part", group="parts") for n in range(3)], delay=3600)
            tx.add(Ticket("merge", "merge"), after_group="parts")
            die("within")
            tx.done(ticket)
            die("before its end")
        die("after")

    async def main():
        async with kharon.open(where) as kh:
            await kh.add(Ticket("split", "split"))
            async with trio.open_nursery() as nursery:
                await nursery.start(kh.run, router)
                await kh.wait("split")
                await kh.drain()

    trio.run(main)
"""


@pytest.mark.parametrize("point", ["within", "before its end", "after"])
async def test_a_handler_that_is_killed_has_made_its_whole_step_or_none(tmp_path, point):
    """Between settling and its follow-ups there is no place at which a step could be lost."""
    where = tmp_path / "queue"
    root = Path(kharon.__file__).parents[1]
    program = [sys.executable, "-c", textwrap.dedent(STEPS), str(where), point]
    env = {**os.environ, "PYTHONPATH": str(root)}
    ended = await trio.to_thread.run_sync(lambda: subprocess.run(program, env=env, check=False).returncode)
    assert ended == -signal.SIGKILL
    async with kharon.open(where) as kh:
        ids = {ticket.id: ticket for ticket in await kh.list()}
        if point == "after":
            assert ids.keys() == {"split", "part-0", "part-1", "part-2", "merge"}
            assert ids["split"].status is Status.DONE
            assert await kh.group("parts").pending_count() == 3
            assert ids["merge"].blocked
            async with kh.atomic() as tx:
                for number in range(3):
                    tx.ack(f"part-{number}")
            assert not (await kh.get("merge")).blocked
        else:
            assert ids.keys() == {"split"}
            assert (ids["split"].status, ids["split"].attempts) == (Status.PENDING, 1)
            assert await kh.group("parts").all_terminal()
