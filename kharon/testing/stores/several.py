"""What is about more than one ticket: finalizers, groups, waits, tubes, schedules, atomic blocks."""

from __future__ import annotations

from datetime import timedelta

import trio
from trio.testing import wait_all_tasks_blocked

from kharon.errors import (
    FinalizerInGroup,
    InvalidTicket,
    InvalidTransition,
    TicketFailedError,
    TicketNotFound,
)
from kharon.model.ticket import Status, Ticket
from kharon.runtime.kharon import Kharon
from kharon.runtime.router import Router
from kharon.testing.stores.place import (
    SOON,
    Holding,
    Place,
    check_replay,
    everything,
    ids_of,
    refused,
    running,
    same,
    together,
)

__all__ = [
    "check_atomic",
    "check_finalizers",
    "check_groups",
    "check_rates",
    "check_run_and_wait",
    "check_schedules",
    "check_tubes",
    "check_waits",
]


async def check_finalizers(place: Place) -> None:
    """A ticket is blocked until all tickets that it was added after have ended, with any outcome."""
    held = Holding()
    async with place.open(workers=4) as kh:
        await kh.add_many([Ticket("a", "x", group="g", tube="off"), Ticket("b", "x", group="g", tube="off")])
        by_id = await kh.add(Ticket("by id", "x"), after=["a", "b", "nobody"])
        same(by_id.blocked_by, ("a", "b"), "what a ticket waits for: of the ids named, those that are pending")
        by_group = await kh.add(Ticket("by group", "x"), after_group="g")
        assert by_group.blocked, "a ticket that waits for a group with pending members is blocked"
        await kh.add(Ticket("joined later", "x", group="g", tube="off"))
        free = await kh.add(Ticket("free", "x"), after_group="nobody's")
        assert not free.blocked, "an empty group blocks nothing"
        await kh.add(Ticket("fragile", "x"), after=["b"], on_failure="cancel")
        await refused(
            FinalizerInGroup, kh.add(Ticket("own", "x", group="g"), after_group="g"), "waiting for its own group"
        )
        await refused(InvalidTicket, kh.add(Ticket("a", "x"), after=["by id"]), "tickets that wait for each other")
        same(await kh.add(Ticket("by group", "x"), after_group="g"), await kh.get("by group"), "adding it again")
        async with running(kh, held.router):
            await held.next("free")
            await kh.ack("a")
            same((await kh.get("by id")).blocked_by, ("b",), "what is left to wait for after one end")
            same(ids_of(held.claimed), ["free"], "what is claimed while others are blocked")
            before = len(await everything(kh))
            await kh.fail("b")
            commit = await everything(kh, before)
            same([record.part for record in commit[:4]], [(n, 4) for n in range(1, 5)], "the parts of the last end")
            events = ["TicketCancelled", "TicketFailed", "TicketUnblocked", "TicketUnblocked"]
            found = sorted(type(record.event).__name__ for record in commit[:4])
            same(found, events, "the commit of the last end")
            await held.next("by id")
            await held.next("by group")
        fragile = await kh.get("fragile")
        same(fragile.status, Status.CANCELLED, 'on_failure="cancel", and what it waited for failed')
        await check_replay(kh)


async def check_groups(place: Place) -> None:
    """A group counts its pending members, and a wait for it ends with the last of them."""
    async with place.open() as kh:
        group = kh.group("g")
        same((await group.pending_count(), await group.all_terminal()), (0, True), "an empty group")
        await group.wait()
        await kh.add_many(Ticket(id, "x", group="g") for id in ("a", "b", "c"))
        same((await group.pending_count(), await group.all_terminal()), (3, False), "a group of three")
        ended = trio.Event()

        async def wait() -> None:
            await group.wait()
            ended.set()

        async with together() as nursery:
            nursery.start_soon(wait)
            await kh.done("a")
            await kh.update("b", group=None)
            await wait_all_tasks_blocked()
            assert not ended.is_set(), "a wait for a group ends before its last member has"
            await kh.delete("c")
            await ended.wait()
        same(await group.pending_count(), 0, "members that have ended, left, or were removed do not count")


async def check_waits(place: Place) -> None:
    """A wait for a ticket ends with the ticket, however that ends, and returns its last state."""
    async with place.open() as kh:
        await kh.add_many(Ticket(id, "x") for id in ("done", "acked", "failed", "deleted"))
        found: dict[str, Ticket] = {}

        async def wait(id: str) -> None:
            found[id] = await kh.wait(id)

        async with together() as nursery:
            for id in ("done", "acked", "failed", "deleted"):
                nursery.start_soon(wait, id)
            await wait_all_tasks_blocked()
            same(found, {}, "waits that ended before their tickets")
            await kh.done("done", result=1)
            await kh.ack("acked")
            await kh.fail("failed", error_reason="no")
            await kh.delete("deleted")
        same((found["done"].status, found["done"].result), (Status.DONE, 1), "a wait for a ticket that is done")
        same(found["acked"].status, Status.DONE, "a wait for a ticket that was acked")
        same(found["failed"].error_reason, "no", "a wait for a ticket that failed")
        same(found["deleted"].id, "deleted", "a wait for a ticket that was deleted")
        same((await kh.wait("acked")).status, Status.DONE, "a wait that begins after the ticket was removed")
        await refused(TicketNotFound, kh.wait("nobody"), "a wait for a ticket that never was")
        await check_run_and_wait(kh)


async def check_run_and_wait(kh: Kharon) -> None:
    """`run_and_wait` returns the result, or raises the reason."""
    router = Router()

    @router.handler("double")
    async def double(kh: Kharon, ticket: Ticket) -> None:
        await kh.done(ticket, result=2 * ticket.payload)

    @router.handler("refuse")
    async def refuse(kh: Kharon, ticket: Ticket) -> None:
        await kh.fail(ticket, error_reason="not today")

    async with running(kh, router):
        same(await kh.run_and_wait(Ticket("21", "double", payload=21)), 42, "run_and_wait returns the result")
        told = await refused(TicketFailedError, kh.run_and_wait(Ticket("no", "refuse")), "run_and_wait of a failure")
        assert "not today" in told, f"the failure of run_and_wait says why: {told}"


async def check_tubes(place: Place) -> None:
    """Claims come from subscribed tubes that are neither paused nor at their limit of claimed tickets."""
    held = Holding()
    async with place.open(tubes=(), workers=6) as kh, running(kh, held.router):
        await kh.add(Ticket("a", "x", tube="one"))
        same((kh.tubes, (await kh.tube("one")).ready), ((), 1), "a tube that nobody claims from")
        kh.subscribe("one", "two")
        await held.next("a")
        await kh.pause("two")
        paused = await kh.tube("two")
        assert paused.paused_since is not None, "a paused tube says since when"
        assert not paused.open, "a paused tube is not open"
        await kh.add(Ticket("b", "x", tube="two"))
        await kh.limit("one", claimed=2)
        same([tube.name for tube in await kh.restricted_tubes()], ["one", "two"], "the tubes that are restricted")
        await kh.add_many([Ticket("c", "x", tube="one"), Ticket("d", "x", tube="one")])
        await held.next("c")
        full = await kh.tube("one")
        same((full.claimed, full.ready, full.open), (2, 1, False), "a tube at its limit: claimed, ready, open")
        same(ids_of(held.claimed), ["a", "c"], "what a paused and a limited tube give")
        held.let_go("a")
        await held.next("d")
        await kh.resume("two")
        await held.next("b")
        kh.unsubscribe("two")
        await kh.add(Ticket("e", "x", tube="two"))
        await kh.limit("one")
        await kh.update("e", tube="one")
        await held.next("e")
        same(await kh.restricted_tubes(), [], "nothing is paused or limited any more")
        await check_replay(kh)


async def check_rates(place: Place) -> None:
    """A tube gives no more claims in any period than its limit says."""
    held = Holding()
    async with place.open(workers=6) as kh:
        await kh.limit("default", claims=2, period=2 * SOON)
        await kh.add_many(Ticket(f"t{number}", "x") for number in range(5))
        async with running(kh, held.router):
            await held.next("t4")
        times = [ticket.mtime for ticket in held.claimed if ticket.mtime is not None]
        for earlier, later in zip(times, times[2:], strict=False):
            apart = later - earlier
            assert apart >= timedelta(seconds=2 * SOON), f"three claims within {apart}, where two may be in a period"
        same(ids_of(held.claimed), [f"t{number}" for number in range(5)], "all are claimed in the end")


async def check_schedules(place: Place) -> None:
    """A schedule adds a ticket at each of its instants, and none twice."""
    held = Holding()
    async with place.open(workers=8) as kh:
        await kh.schedule("tick", every=1.0, ticket=Ticket("ignored", "x", payload="tock", nice=1))
        scheduled = await kh.schedules()
        same([schedule.name for schedule in scheduled], ["tick"], "what is scheduled")
        schedule = scheduled[0]
        before = len(await everything(kh))
        await kh.schedule("tick", every=1.0, ticket=Ticket("ignored", "x", payload="tock", nice=1))
        same(len(await everything(kh)), before, "setting a schedule that is so already writes nothing")
        assert schedule.next is not None
        name = f"tick@{schedule.next.isoformat().replace('+00:00', 'Z')}"
        async with running(kh, held.router):
            fired = await held.next(name)
        same((fired.runat, fired.payload, fired.nice), (schedule.next, "tock", 1), "the ticket of an instant")
        added = (await kh.history(name))[0]
        same((added.by, added.part[1]), ("clock", 2), "it is added by the clock, in the commit that says it fired")
        (schedule,) = await kh.schedules()
        same(schedule.last, fired.runat, "when a schedule fired last")
        await kh.unschedule("tick")
        same(await kh.schedules(), [], "the schedules after unschedule")
        await refused(InvalidTicket, kh.schedule("bad", every=0.1, ticket=Ticket("i", "x")), "a period below a second")
        await check_replay(kh)


async def check_atomic(place: Place) -> None:
    """The commands of a block are one commit, or none."""
    async with place.open() as kh:
        await kh.add(Ticket("old", "x"))
        before = len(await everything(kh))
        async with kh.atomic() as tx:
            tx.done("old", result=1)
            tx.add_many([Ticket("new", "x"), Ticket("next", "x")], after=["old"])
            tx.update("new", nice=1)
            tx.pause("slow")
            tx.schedule("tick", every=3600, ticket=Ticket("ignored", "x"))
        same([None if t is None else t.id for t in tx.tickets], ["old", "new", "next", "new", None, None], "tx.tickets")
        records = await everything(kh, before)
        same({record.part[1] for record in records}, {len(records)}, "an atomic block is one commit")
        assert not (await kh.get("new")).blocked, "a command sees what those before it did"
        before = len(await everything(kh))

        async def block() -> None:
            async with kh.atomic() as tx:
                tx.add(Ticket("not kept", "x"))
                tx.restart("new")

        await refused(InvalidTransition, block(), "an atomic block with a command that is refused")
        try:
            async with kh.atomic() as tx:
                tx.add(Ticket("not kept", "x"))
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        same(len(await everything(kh)), before, "a block that is refused, or raises, leaves no record")
        await refused(TicketNotFound, kh.get("not kept"), "what a refused block added")
        await check_replay(kh)
