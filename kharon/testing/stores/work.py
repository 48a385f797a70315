"""What workers do: the order of claims, how attempts end, leases, fencing, delays, expiry."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import trio

from kharon.errors import (
    KharonError,
    LeaseLost,
)
from kharon.model.delays import FixedDelay
from kharon.model.ticket import Status, Ticket
from kharon.runtime.kharon import Kharon
from kharon.runtime.router import Router
from kharon.testing.stores.place import (
    SOON,
    Holding,
    Place,
    check_replay,
    events_of,
    ids_of,
    refused,
    running,
    same,
    state_of,
    until,
)

__all__ = [
    "check_delays",
    "check_expiry",
    "check_fencing",
    "check_leases",
    "check_order",
    "check_outcomes",
    "check_policies",
]


async def check_order(place: Place) -> None:
    """Lowest nice first, then the earliest runat, then the order of adding, over all tubes that are claimed from."""
    held = Holding()
    async with place.open(workers=1, tubes=("default", "other")) as kh:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        await kh.add(Ticket("plain", "x"))
        await kh.add(Ticket("second", "x", runat=past))
        await kh.add(Ticket("third", "x", runat=past + timedelta(seconds=1)))
        await kh.add(Ticket("tie", "x", runat=past + timedelta(seconds=1), tube="other"))
        await kh.add(Ticket("first", "x", nice=1, tube="other"))
        await kh.add(Ticket("later", "x", nice=0), delay=3600)
        await kh.add(Ticket("elsewhere", "x", nice=0, tube="nobody's"))
        async with running(kh, held.router):
            for id in ("first", "second", "third", "tie", "plain"):
                await held.next(id)
                held.let_go(id)
            await kh.wait("plain")
        same(ids_of(held.claimed), ["first", "second", "third", "tie", "plain"], "the order of claims")
        same(ids_of(await kh.list()), ["later", "elsewhere"], "what is not due, or in no claimed tube, stays")


async def check_outcomes(place: Place) -> None:
    """What a handler's end comes to: an ack, a retry with its reason, a failure after the last attempt, a release."""
    router = Router()

    @router.handler("returns")
    async def returns(_kh: Kharon, _ticket: Ticket) -> None:
        await trio.lowlevel.checkpoint()

    @router.handler("raises")
    async def raises(_kh: Kharon, ticket: Ticket) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError(f"attempt {ticket.attempts}")

    @router.handler("settles")
    async def settles(kh: Kharon, ticket: Ticket) -> None:
        await kh.done(ticket, result=ticket.worker)

    @router.handler("hangs")
    async def hangs(_kh: Kharon, _ticket: Ticket) -> None:
        await trio.sleep_forever()

    async with place.open(max_attempts=2, backoff=FixedDelay(0), workers=4) as kh:
        await kh.add_many(Ticket(type, type) for type in ("returns", "raises", "settles", "hangs"))
        async with running(kh, router):
            await kh.wait("returns")
            failed = await kh.wait("raises")
            settled = await kh.wait("settles")

            async def hanging() -> bool:
                return (await kh.get("hangs")).claim is not None

            await until(hanging, "the claim of a ticket")
        same(await events_of(kh, "returns"), ["TicketAdded", "TicketClaimed", "TicketDone"], "a handler that returns")
        same((failed.status, failed.attempts), (Status.FAILED, 2), "a ticket that raised as often as it may")
        assert "attempt 2" in (failed.error_reason or ""), f"the reason is the last error: {failed.error_reason!r}"
        events = ["TicketAdded", "TicketClaimed", "TicketRetried", "TicketClaimed", "TicketFailed"]
        same(await events_of(kh, "raises"), events, "a handler that raises")
        worker = (await kh.history("settles"))[1].by
        same(settled.result, worker, "the worker is the `by` of its claim")
        released = await kh.get("hangs")
        same((released.claim, released.attempts), (None, 0), "a cancelled run is released, and not counted")
        stats = kh.stats()
        counted = (stats.added, stats.claimed, stats.acked, stats.done, stats.failed, stats.retried, stats.released)
        same(counted, (4, 5, 1, 1, 1, 1, 1), "stats: added, claimed, acked, done, failed, retried, released")
        await check_replay(kh)


async def check_policies(place: Place) -> None:
    """What a handler's return means is what `on_return` says."""
    router = Router()

    @router.not_found
    async def returns(_kh: Kharon, _ticket: Ticket) -> None:
        await trio.lowlevel.checkpoint()

    async with place.open(on_return="done") as kh, running(kh, router):
        await kh.add(Ticket("a", "x"))
        same((await kh.wait("a")).status, Status.DONE, 'on_return="done": a handler that returns')
        same((await kh.get("a")).status, Status.DONE, 'on_return="done" keeps the ticket, done')
    async with place.open(on_return="leave", process_time=SOON, max_attempts=2, backoff=FixedDelay(0)) as kh:
        async with running(kh, router):
            await kh.add(Ticket("a", "x"))
            same((await kh.wait("a")).status, Status.FAILED, 'on_return="leave", and nobody settles: in the end')
        events = ["TicketAdded", "TicketClaimed", "TicketLapsed", "TicketClaimed", "TicketLapsed", "TicketFailed"]
        same(await events_of(kh, "a"), events, 'on_return="leave": only an explicit settle counts')


async def check_leases(place: Place) -> None:
    """A lease that ends lapses, and counts; the loser's settle is refused; an extended one goes on."""
    held = Holding()
    late: list[KharonError | None] = []
    router = Router()

    @router.handler("slow")
    async def slow(kh: Kharon, ticket: Ticket) -> None:
        held.claimed.append(ticket)
        try:
            await trio.sleep_forever()
        finally:
            if ticket.attempts == 1:
                with trio.CancelScope(shield=True):
                    await _until_lapsed(kh, ticket)
                    late.append(await _error_of(kh.done(ticket)))

    @router.handler("long")
    async def long(kh: Kharon, ticket: Ticket) -> None:
        await kh.extend(ticket, 3600)
        await trio.sleep(3 * SOON)

    async with place.open(process_time=SOON, backoff=FixedDelay(0), workers=3) as kh:
        await kh.add_many([Ticket("slow", "slow"), Ticket("long", "long")])
        async with running(kh, router):
            second = await held.next("slow", 2)
            same(second.attempts, 2, "an attempt that lapsed counts")
            await kh.wait("long")

            async def told() -> bool:
                await trio.lowlevel.checkpoint()
                return bool(late)

            await until(told, "the late settle of a lapsed attempt")
        assert isinstance(late[0], LeaseLost), f"a settle after the lapse is refused with LeaseLost, not {late[0]!r}"
        records = await kh.history("slow")
        lapsed = next(record for record in records if type(record.event).__name__ == "TicketLapsed")
        same(lapsed.by, "clock", "a lapse is by the clock")
        events = ["TicketAdded", "TicketClaimed", "LeaseExtended", "TicketDone"]
        same(await events_of(kh, "long"), events, "an attempt that extends its lease goes on")
        await check_replay(kh)


async def _until_lapsed(kh: Kharon, ticket: Ticket) -> None:
    async def lapsed() -> bool:
        return (await kh.get(ticket.id)).claim != ticket.claim

    await until(lapsed, "the lapse of an attempt")


async def _error_of(call: Awaitable[object]) -> KharonError | None:
    try:
        await call
    except KharonError as error:
        return error
    return None


async def check_fencing(place: Place) -> None:
    """A settle under a claim that is over is refused, and changes nothing."""
    held = Holding()
    async with place.open(workers=4) as kh, running(kh, held.router):
        run = await held.take(kh, "a")
        await kh.retry("a", delay=0, error_reason="by an operator")
        again = await held.next("a", 2)
        assert again.claim != run.claim, "two claims of a ticket have different numbers"
        for verb, settle in (("done", kh.done), ("ack", kh.ack), ("fail", kh.fail)):
            await refused(LeaseLost, settle(run), f"{verb} under a claim that is over")
        await refused(LeaseLost, kh.extend(run, 99), "extend under a claim that is over")
        same((await kh.get("a")).claim, again.claim, "a refused settle leaves the claim that there is")
        await kh.done(again, result="mine")
        same((await kh.get("a")).result, "mine", "the present claim settles")
        await held.take(kh, "b")
        await kh.cancel("b")
        same(await state_of(kh, "b"), "absent", "cancel by id removes a ticket that runs")
        await check_replay(kh)


async def check_delays(place: Place) -> None:
    """A ticket is not claimed before it is due."""
    held = Holding()
    async with place.open() as kh, running(kh, held.router):
        await kh.add(Ticket("never", "x"), delay=3600)
        later = await kh.add(Ticket("later", "x"), delay=SOON)
        claimed = await held.next("later")
        assert claimed.mtime is not None
        assert later.runat is not None
        assert claimed.mtime >= later.runat, f"claimed at {claimed.mtime}, before it was due at {later.runat}"
        same(ids_of(held.claimed), ["later"], "what is claimed while another is not due")
        await kh.update("never", runat=datetime(2020, 1, 1, tzinfo=UTC))
        await held.next("never")


async def check_expiry(place: Place) -> None:
    """A kept ticket is removed when its time has come; its history stays."""
    held = Holding()
    async with place.open() as kh, running(kh, held.router):
        await kh.add_many([Ticket("gone", "x", tube="nobody's"), Ticket("kept", "x", tube="nobody's")])
        await kh.done("gone", expire_in=SOON)
        await kh.done("kept")

        async def expired() -> bool:
            return await state_of(kh, "gone") == "absent"

        await until(expired, "the removal of a ticket that expires")
        same(
            await events_of(kh, "gone"), ["TicketAdded", "TicketDone", "TicketExpired"], "the life of an expired ticket"
        )
        same(await state_of(kh, "kept"), "done", "a ticket that is kept for good")
        same(kh.stats().expired, 1, "stats: expired")
