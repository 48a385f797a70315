"""What an unkind reader tried with atomic blocks, finalizers and groups: misuse, cancellation, Ctrl-C, a full disk."""

# ruff: noqa: PT012 - a block is refused at its end, so all of it has to be where the refusal is expected

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kharon
from kharon import (
    Closed,
    CommitOutcomeUnknown,
    FixedDelay,
    InvalidTicket,
    InvalidTransition,
    LeaseLost,
    Router,
    Settings,
    StorageFull,
    Ticket,
    TicketNotFound,
)
from kharon.log.memory import MemoryLog
from kharon.testing import FailingLog, TrioClock


async def events(kh, id: str) -> list[str]:
    return [type(record.event).__name__ for record in await kh.history(id)]


async def ids(kh) -> list[str]:
    return [ticket.id for ticket in await kh.list()]


# --- misuse -----------------------------------------------------------------------------------------------------------


async def test_a_block_is_entered_once() -> None:
    async with kharon.open(":memory:") as kh:
        with pytest.raises(InvalidTransition, match="has begun before"):
            async with kh.atomic() as tx:
                tx.add(Ticket("a", "t"))
                async with tx:
                    pass
        assert await ids(kh) == []
        async with kh.atomic() as tx:
            tx.add(Ticket("a", "t"))
        with pytest.raises(InvalidTransition, match="begin another"):
            async with tx:
                pass
        assert await events(kh, "a") == ["TicketAdded"]


async def test_a_block_that_has_not_begun_takes_nothing() -> None:
    async with kharon.open(":memory:") as kh:
        tx = kh.atomic()
        with pytest.raises(InvalidTransition, match="has not begun; use it as `async with"):
            tx.add(Ticket("a", "t"))
        with pytest.raises(InvalidTransition, match="has not begun"):
            tx.add_many([Ticket("a", "t")])
        async with tx:
            tx.add(Ticket("b", "t"))
        assert await ids(kh) == ["b"]


@pytest.mark.parametrize("how", ["end", "refusal", "error"])
async def test_a_block_that_has_ended_takes_nothing_however_it_ended(how) -> None:
    async with kharon.open(":memory:") as kh:
        try:
            async with kh.atomic() as tx:
                tx.add(Ticket("a", "t"))
                if how == "refusal":
                    tx.ack("nobody")
                if how == "error":
                    raise ZeroDivisionError
        except (TicketNotFound, ZeroDivisionError):
            assert how != "end"
        verbs = [
            lambda: tx.add(Ticket("b", "t")),
            lambda: tx.add_many([Ticket("b", "t")]),
            *(lambda verb=verb: getattr(tx, verb)("a") for verb in ("ack", "done", "fail", "cancel", "retry")),
            *(lambda verb=verb: getattr(tx, verb)("a") for verb in ("release", "restart", "delete")),
            lambda: tx.extend("a", 5),
            lambda: tx.update("a", nice=1),
        ]
        for verb in verbs:
            with pytest.raises(InvalidTransition, match="has ended"):
                verb()
        assert await ids(kh) == (["a"] if how == "end" else [])


async def test_of_a_wrong_list_of_tickets_none_is_taken_even_if_the_error_is_swallowed() -> None:
    async with kharon.open(":memory:") as kh:
        async with kh.atomic() as tx:
            with pytest.raises(InvalidTicket, match="item 1 is str"):
                tx.add_many([Ticket("a", "t"), "b"])
            tx.add(Ticket("c", "t"))
        assert await ids(kh) == ["c"]


async def test_what_to_wait_for_may_be_an_iterator() -> None:
    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        async with kh.atomic() as tx:
            tx.add_many([Ticket("c", "t"), Ticket("d", "t")], after=iter(["a", "b"]))
        assert [ticket.blocked_by for ticket in tx.tickets] == [("a", "b")] * 2
        added = await kh.add_many((Ticket(id, "t") for id in "ef"), after=iter(["a"]))
        assert [ticket.blocked_by for ticket in added] == [("a",)] * 2


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("a", "'a' is one id; give a list of ids"),
        ("", "'' is one id"),
        (None, "a list of ids, not NoneType"),
        (5, "a list of ids, not int"),
        (Ticket("a", "t"), "a list of ids, not Ticket"),
        ([Ticket("a", "t")], "after: .*str"),
        ([""], "after: "),
    ],
)
async def test_what_cannot_be_waited_for_is_refused_by_each_way_of_adding(after, message) -> None:
    async with kharon.open(":memory:") as kh:
        with pytest.raises(InvalidTicket, match=message):
            await kh.add(Ticket("b", "t"), after=after)
        with pytest.raises(InvalidTicket, match=message):
            await kh.add_many([Ticket("b", "t")], after=after)
        async with kh.atomic() as tx:
            with pytest.raises(InvalidTicket, match=message):
                tx.add(Ticket("b", "t"), after=after)
            with pytest.raises(InvalidTicket, match=message):
                tx.add_many([Ticket("b", "t")], after=after)
        assert await ids(kh) == []


@pytest.mark.parametrize("tickets", [Ticket("a", "t"), 5, None])
async def test_add_many_of_one_ticket_says_what_to_use(tickets) -> None:
    async with kharon.open(":memory:") as kh:
        with pytest.raises(InvalidTicket, match="add_many takes a list of tickets"):
            await kh.add_many(tickets)
        async with kh.atomic() as tx:
            with pytest.raises(InvalidTicket, match="for one there is add"):
                tx.add_many(tickets)


async def test_more_to_wait_for_than_a_line_has_room_for_is_refused_and_nothing_is_left_of_it() -> None:
    names = [f"{number:04}{'é' * 98}" for number in range(1000)]  # a name is 200 bytes, and 592 as ASCII JSON
    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket(name, "t") for name in names])
        with pytest.raises(InvalidTicket, match="TicketAdded of 'c': its line would have"):
            async with kh.atomic() as tx:
                tx.ack(names[0])
                tx.add(Ticket("c", "t"), after=names)
        assert await kh.get(names[0])
        async with kh.atomic() as tx:
            tx.add(Ticket("c", "t"), after=names[:500])
            for name in names:
                tx.ack(name)
        assert not (await kh.get("c")).blocked


async def test_a_block_in_a_block_is_another_commit() -> None:
    async with kharon.open(":memory:") as kh:
        with pytest.raises(ZeroDivisionError):
            async with kh.atomic() as outer:
                outer.add(Ticket("outer", "t"))
                async with kh.acting_as("ann").atomic() as inner:
                    inner.add(Ticket("inner", "t"))
                assert await ids(kh) == ["inner"]
                raise ZeroDivisionError
        assert await ids(kh) == ["inner"]
        assert [record.by for record in await kh.history("inner")] == ["ann"]


async def test_two_settles_of_one_claim_in_one_block_are_refused_together() -> None:
    refusals = []

    async def twice(kh, ticket):
        try:
            async with kh.atomic() as tx:
                tx.done(ticket)
                tx.add(Ticket("b", "u"))
                tx.retry(ticket)
        except LeaseLost as refused:
            refusals.append(str(refused))
        async with kh.atomic() as tx:
            tx.done(ticket, result=1)
            tx.add(Ticket("a", "u"), on_conflict="skip")

    router = Router()
    router.handler("t")(twice)
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).result == 1
        assert await ids(kh) == ["a"]
        await kh.drain()
    assert len(refusals) == 1
    assert refusals[0].startswith("command 3 of 3, retry of ticket 'a', is refused, so none is: ")


async def test_a_step_whose_claim_is_over_adds_nothing() -> None:
    seen = []

    async def late(kh, ticket):
        if not seen:
            await kh.release(ticket.id)  # by its id: as if an operator had given it to somebody else
            with pytest.raises(LeaseLost, match="command 2 of 2, done of ticket 'a'"):
                async with kh.atomic() as tx:
                    tx.add(Ticket("b", "u", group="g"))
                    tx.done(ticket)
            seen.append(await ids(kh))
            return
        async with kh.atomic() as tx:
            tx.done(ticket)

    router = Router()
    router.handler("t")(late)
    async with kharon.open(":memory:", Settings(workers=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await wait_all_tasks_blocked()
        await kh.drain()
        assert seen == [["a"]]
        assert await kh.group("g").all_terminal()


async def test_a_block_interrupts_what_it_cancels_by_its_id_and_not_who_cancels_itself(
    autojump_clock: MockClock,
) -> None:
    ended = {}

    async def handle(kh, ticket):
        try:
            if ticket.id == "itself":
                async with kh.atomic() as tx:
                    tx.cancel(ticket, keep=True)
                    tx.add(Ticket("after", "u"))
            await trio.sleep(5)
            ended[ticket.id] = "in peace"
        except trio.Cancelled:
            ended[ticket.id] = "interrupted"
            raise

    router = Router()
    router.handler("t")(handle)
    async with kharon.open(":memory:", clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add_many([Ticket("itself", "t"), Ticket("other", "t")])
        await kh.add(Ticket("waits", "u"), after=["itself", "other"], on_failure="cancel")
        await trio.sleep(1)
        async with kh.atomic() as tx:
            tx.cancel("other")
            tx.add(Ticket("instead", "u"))
        await kh.drain()
        assert ended == {"itself": "in peace", "other": "interrupted"}
        assert await ids(kh) == ["itself", "waits", "after", "instead"]
        assert (await kh.get("waits")).status == "cancelled"


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [False, True])
async def test_a_group_that_one_commit_empties_and_fills_was_never_empty(more) -> None:
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        ended = []

        async def wait():
            await kh.group("g").wait()
            ended.append(await ids(kh))

        await kh.add(Ticket("1", "t", group="g"))
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        for number in range(1, 5):
            async with kh.atomic() as tx:
                tx.ack(str(number))
                tx.add(Ticket(str(number + 1), "t", group="g"))
                if more:
                    tx.add(Ticket("other", "t", group="h"))
                    tx.ack("other")
            await wait_all_tasks_blocked()
            assert ended == []
        await kh.ack("5")
        await wait_all_tasks_blocked()
        assert ended == [[]]


# --- cancellation, and Ctrl-C -----------------------------------------------------------------------------------------


async def test_a_block_that_is_cancelled_before_its_end_does_nothing() -> None:
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        with trio.CancelScope() as scope:
            async with kh.atomic() as tx:
                tx.ack("a")
                tx.add(Ticket("b", "t"))
                scope.cancel()
        assert scope.cancelled_caught
        assert await ids(kh) == ["a"]
        with trio.CancelScope() as scope:
            scope.cancel()
            async with kh.atomic():
                pytest.fail("entering is a checkpoint")
        with trio.CancelScope() as scope:
            async with kh.atomic():
                scope.cancel()  # and there is nothing to do at the end
        assert await ids(kh) == ["a"]


class Hooked(FailingLog):
    """A memory log that calls `hook` in the midst of a write."""

    def __init__(self):
        super().__init__(MemoryLog())
        self.hook = None

    def write(self):
        if self.hook is not None:
            self.hook()
        super().write()


async def test_a_block_that_is_cancelled_in_the_midst_of_its_end_is_carried_out_whole() -> None:
    log = Hooked()
    async with kharon.open(log) as kh:
        await kh.add(Ticket("a", "t"))
        after = False
        with trio.CancelScope() as scope:
            log.hook = scope.cancel
            async with kh.atomic() as tx:
                tx.ack("a")
                tx.add(Ticket("b", "t"))
            after = True
            assert [ticket and ticket.id for ticket in tx.tickets] == [None, "b"]
            await trio.lowlevel.checkpoint()
        assert (after, scope.cancelled_caught) == (True, True)
        assert await ids(kh) == ["b"]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("where", ["body", "write"])
def test_ctrl_c_leaves_all_of_a_block_or_nothing(where) -> None:
    log = Hooked()
    ended = []

    async def main():
        async with kharon.open(log) as kh:
            await kh.add(Ticket("a", "t"))
            if where == "write":
                log.hook = lambda: signal.raise_signal(signal.SIGINT)
            try:
                async with kh.atomic() as tx:
                    tx.ack("a")
                    tx.add(Ticket("b", "t"))
                    if where == "body":
                        signal.raise_signal(signal.SIGINT)
                await trio.sleep(1)
            finally:
                log.hook = None
                ended.extend(await ids(kh))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ended == (["a"] if where == "body" else ["b"])


# --- the disk ---------------------------------------------------------------------------------------------------------


async def test_without_room_nothing_of_a_block_is_kept_and_it_can_be_done_again(autojump_clock: MockClock) -> None:
    log = FailingLog(MemoryLog(), error=StorageFull("no room"))
    async with kharon.open(log, clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", group="g"))
        await kh.add(Ticket("end", "t"), after_group="g")
        log.fail = "write"
        for _ in range(2):
            with pytest.raises(StorageFull):
                async with kh.atomic() as tx:
                    tx.ack("a")
                    tx.add(Ticket("b", "t"))
            assert tx.tickets == []
            assert sorted(await ids(kh)) == ["a", "end"]
            assert (await kh.get("end")).blocked
        log.fail = None
        await trio.sleep(5)
        async with kh.atomic() as tx:
            tx.ack("a")
            tx.add(Ticket("b", "t"))
        assert await ids(kh) == ["end", "b"]
        assert not (await kh.get("end")).blocked


async def test_a_step_that_finds_no_room_is_done_when_there_is_some(autojump_clock: MockClock) -> None:
    log = FailingLog(MemoryLog(), error=StorageFull("no room"))
    tries = []

    async def step(kh, ticket):
        tries.append(ticket.attempts)
        if len(tries) == 1:
            log.fail = "write"
        async with kh.atomic() as tx:
            tx.done(ticket, result="whole")
            tx.add(Ticket("next", "u"))

    router = Router()
    router.handler("t")(step)
    settings = Settings(backoff=FixedDelay(1))
    async with kharon.open(log, settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await trio.sleep(3)
        assert await ids(kh) == ["a"]
        log.fail = None
        assert (await kh.wait("a")).result == "whole"
        assert tries == [1, 2]
        assert await ids(kh) == ["a", "next"]
        await kh.cancel("next")
        await kh.drain()


async def test_what_a_block_did_on_a_failing_disk_is_said_to_be_unknown() -> None:
    log = FailingLog(MemoryLog())
    async with kharon.open(log) as kh:
        await kh.add(Ticket("a", "t"))
        log.fail = "sync"
        with pytest.raises(CommitOutcomeUnknown):
            async with kh.atomic() as tx:
                tx.ack("a")
                tx.add(Ticket("b", "t"))
        with pytest.raises(Closed):
            async with kh.atomic() as tx:
                tx.add(Ticket("c", "t"))
        with pytest.raises(Closed):
            await kh.group("g").wait()
