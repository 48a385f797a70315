"""Atomic blocks used wrongly: entered twice, too late, with wrong tickets, by a handler that lost its claim."""

# ruff: noqa: PT012 - a block is refused at its end, so all of it has to be where the refusal is expected

from __future__ import annotations

import pytest
import trio
from handlers import ids, names
from trio.testing import MockClock, wait_all_tasks_blocked

import kharon
from kharon import (
    InvalidTicket,
    InvalidTransition,
    LeaseLost,
    Router,
    Settings,
    Ticket,
    TicketNotFound,
)
from kharon.testing import TrioClock


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
        assert await names(kh, "a") == ["TicketAdded"]


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
            with pytest.raises(InvalidTicket, match="for one ticket use add"):
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
