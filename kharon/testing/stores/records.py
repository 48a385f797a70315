"""History and names, cancellation, and what closing and opening again leave."""

from __future__ import annotations

from itertools import pairwise

import trio

from kharon.errors import (
    Closed,
    InvalidTicket,
)
from kharon.log.record import Record
from kharon.model.events import Event
from kharon.model.ticket import Ticket
from kharon.runtime.kharon import Kharon
from kharon.testing.stores.place import (
    Holding,
    Place,
    check_replay,
    everything,
    refused,
    running,
    same,
    together,
    until,
)

__all__ = ["check_cancelling", "check_closing", "check_history", "check_reopening"]


async def check_history(place: Place) -> None:
    """Records have a place, a time, a name and a hash; readers and followers are given all of them, in order."""
    async with place.open(actor="ann") as kh:
        followed: list[Record] = []

        async def follow() -> None:
            async with kh.records(follow=True) as stream:
                async for record in stream:
                    followed.append(record)  # noqa: PERF401 - looked at meanwhile

        async with together() as nursery:
            nursery.start_soon(follow)
            await kh.add_many([Ticket("a", "x"), Ticket("ab", "x")])
            await kh.acting_as("ben").update("a", nice=1)
            await kh.ack("a")

            async def caught_up() -> bool:
                await trio.lowlevel.checkpoint()
                return len(followed) >= 4

            await until(caught_up, "four records to a follower")
            nursery.cancel_scope.cancel()
        records = await everything(kh)
        same(followed, records, "what a follower was given")
        same([record.by for record in records], ["ann", "ann", "ben", "ann"], "who did it")
        same([record.part for record in records], [(1, 2), (2, 2), (1, 1), (1, 1)], "the parts of commits")
        same(await everything(kh, 3), records[3:], "the records behind a seq")
        same(len({record.hash for record in records}), 4, "each record has a hash of its own")
        same([record.seq for record in await kh.history("a")], [1, 3, 4], "the history of a removed ticket")
        same(await kh.history("nobody"), [], "the history of a ticket that never was")
        assert all(earlier.at <= later.at for earlier, later in pairwise(records)), "time goes on"
        assert all(isinstance(record.event, Event) for record in records), "each record has an event"
        await refused(InvalidTicket, _acting_as(kh), "a name with an end of line in it")


async def _acting_as(kh: Kharon) -> Kharon:
    await trio.lowlevel.checkpoint()
    return kh.acting_as("a\nb")


async def check_cancelling(place: Place) -> None:
    """A call in a cancelled scope does nothing."""
    async with place.open() as kh:
        with trio.CancelScope() as scope:
            scope.cancel()
            await kh.add(Ticket("a", "x"))
        assert scope.cancelled_caught, "a call in a cancelled scope raises Cancelled"
        same(await everything(kh), [], "a cancelled call has done nothing")


async def check_closing(place: Place) -> None:
    """A closed queue refuses every call."""
    async with place.open() as kh:
        await kh.add(Ticket("a", "x"))
    await refused(Closed, kh.get("a"), "a read of a closed queue")
    await refused(Closed, kh.add(Ticket("b", "x")), "an add to a closed queue")


async def check_reopening(place: Place) -> None:
    """Everything is there again after closing and opening again, except claims."""
    if not place.returns:
        await trio.lowlevel.checkpoint()
        return
    held = Holding()
    async with place.open(workers=1) as kh:
        await kh.add_many([Ticket("a", "x", payload=[1], group="g", nice=3), Ticket("b", "x"), Ticket("c", "x")])
        await kh.done("b", result="kept")
        await kh.add(Ticket("after", "x"), after=["c"], after_group="g")
        await kh.pause("slow")
        await kh.limit("default", claimed=1)
        await kh.schedule("tick", every=3600, ticket=Ticket("ignored", "x"))
        async with running(kh, held.router):
            await held.next("a")
        tickets, records = await kh.list(limit=None), await everything(kh)
        tubes, schedules = await kh.restricted_tubes(), await kh.schedules()
        same(held.claimed[0].claim is not None and (await kh.get("a")).claim, None, "a run that ended is released")
    async with place.open(again=True) as kh:
        same(await kh.list(limit=None), tickets, "the tickets after closing and opening again")
        same((await everything(kh))[: len(records)], records, "the records after closing and opening again")
        same(await kh.restricted_tubes(), tubes, "the tubes after closing and opening again")
        same(await kh.schedules(), schedules, "the schedules after closing and opening again")
        await kh.ack("c")
        await kh.ack("a")
        assert not (await kh.get("after")).blocked, "a ticket that waits goes on waiting, and is unblocked"
        await check_replay(kh)
