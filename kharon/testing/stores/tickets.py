"""Adding, asking, settling: what each verb makes of a ticket in each state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from kharon.audit.explain import Reason
from kharon.errors import (
    InvalidTicket,
    InvalidTransition,
    TicketExists,
    TicketNotFound,
)
from kharon.model.ticket import Status, Ticket
from kharon.runtime.kharon import Kharon
from kharon.testing.stores.place import (
    Holding,
    Place,
    check_replay,
    everything,
    ids_of,
    refused,
    running,
    same,
    state_of,
)

__all__ = ["check_adding", "check_conflicts", "check_listing", "check_results", "check_verbs"]


async def check_adding(place: Place) -> None:
    """What is added is there, as it was given; what is refused leaves nothing."""
    async with place.open(actor="ann") as kh:
        due = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
        asked = Ticket(
            "a", "mail", payload={"to": ["ann", "zoë"], "n": 1.5}, tube="post", nice=-3, runat=due, group="g"
        )
        added = await kh.add(asked)
        for field in ("id", "type", "payload", "tube", "nice", "runat", "group"):
            same(getattr(added, field), getattr(asked, field), f"the {field} of an added ticket")
        same((added.status, added.attempts, added.version), (Status.PENDING, 0, 1), "status, attempts and version")
        same(added.ctime, added.mtime, "a new ticket's ctime is its mtime")
        same(await kh.get("a"), added, "get returns what add returned")
        await refused(TicketNotFound, kh.get("nobody"), "get of an id that no ticket has")
        many = await kh.add_many(Ticket(f"m{number}", "bulk") for number in range(5))
        same(ids_of(many), [f"m{number}" for number in range(5)], "add_many returns its tickets in order")
        same({record.part for record in await everything(kh, 1)}, {(n, 5) for n in range(1, 6)}, "parts of a commit")
        late = await kh.add(Ticket("late", "mail"), delay=timedelta(hours=1))
        assert late.runat is not None
        assert late.ctime is not None
        same(late.runat - late.ctime, timedelta(hours=1), "a delay counts from now")
        before = await everything(kh)
        twice = [Ticket("new", "mail"), Ticket("m0", "mail")]
        told = await refused(TicketExists, kh.add_many(twice, on_conflict="raise"), "add_many of an id that exists")
        assert "m0" in told, f"the refusal of add_many names the ticket: {told}"
        await refused(TicketNotFound, kh.get("new"), "what was to be added with a refused ticket")
        same(await everything(kh), before, "a refused commit leaves no record")
        await check_replay(kh)


async def check_listing(place: Place) -> None:
    """Lists are in the order of adding, and filtered by each field that can be asked for."""
    async with place.open() as kh:
        await kh.add_many([Ticket("a", "x", tube="t"), Ticket("b", "y", group="g"), Ticket("c", "x")])
        await kh.fail("b")
        same(ids_of(await kh.list()), ["a", "b", "c"], "list returns the tickets in the order of their ids' coming")
        same(ids_of(await kh.list(type="x")), ["a", "c"], "list by type")
        same(ids_of(await kh.list(tube="t")), ["a"], "list by tube")
        same(ids_of(await kh.list(group="g")), ["b"], "list by group")
        same(ids_of(await kh.list("failed")), ["b"], "list by status")
        same(ids_of(await kh.list(limit=2)), ["a", "b"], "list with a limit")
        none: Any = "finished"
        await refused(InvalidTicket, kh.list(none), "list of a status that is none")
        first = await kh.list(limit=1)
        await kh.delete("a")
        await kh.add(Ticket("d", "x"))
        same(ids_of(await kh.list(limit=2, after=first[-1])), ["b", "c"], "the second page, though the first is gone")


async def check_conflicts(place: Place) -> None:
    """An id that exists is reconciled as `on_conflict` says."""
    async with place.open() as kh:
        first = await kh.add(Ticket("a", "mail", payload=1))
        same(await kh.add(Ticket("a", "mail", payload=2), on_conflict="skip"), first, "skip leaves what is there")
        await refused(TicketExists, kh.add(Ticket("a", "mail"), on_conflict="raise"), "adding an id that exists")
        newest = await kh.add(Ticket("a", "post", payload=3))
        same((newest.type, newest.payload), ("post", 3), "the newest adding wins")
        await kh.done("a", result="old")
        anew = await kh.add(Ticket("a", "mail", payload=4))
        same((anew.status, anew.result, anew.payload), (Status.PENDING, None, 4), "a terminal ticket starts anew")
        held = Holding()
        async with running(kh, held.router):
            run = await held.next("a")
            added = await kh.add(Ticket("a", "mail", payload=5))
            same((added.claim, added.payload), (run.claim, 4), "a claimed ticket that is added again runs on")
            held.let_go("a")
            again = await held.next("a", 2)
            same((again.payload, again.attempts), (5, 1), "it runs again, with the new fields, when it has settled")
        await check_replay(kh)


async def check_reasons(place: Place) -> None:
    """`why` says of each ticket what keeps it from running."""
    held = Holding()
    async with place.open(workers=1, tubes=("default", "paused")) as kh:
        await kh.pause("paused")
        await kh.add(Ticket("later", "x"), delay=3600)
        await kh.add_many([Ticket("off", "x", tube="nobody's"), Ticket("shut", "x", tube="paused")])
        await kh.add(Ticket("blocked", "x"), after=["later"])
        await kh.add(Ticket("failed", "x", tube="nobody's"))
        await kh.fail("failed")
        await kh.add_many([Ticket("first", "x", nice=1), Ticket("second", "x", nice=2)])
        same((await kh.why("second")).ahead, 1, "how many are ahead of the second")
        async with running(kh, held.router):
            await held.next("first")
            for id, reason in (
                ("first", Reason.RUNNING),
                ("second", Reason.NEXT),
                ("later", Reason.DELAYED),
                ("off", Reason.NOT_SUBSCRIBED),
                ("shut", Reason.TUBE_PAUSED),
                ("blocked", Reason.BLOCKED),
                ("failed", Reason.FAILED),
                ("nobody", Reason.ABSENT),
            ):
                same((await kh.why(id)).reason, reason, f"why {id!r}")


_VERBS: Final[dict[str, Callable[[Kharon, str], Awaitable[object]]]] = {
    "ack": lambda kh, name: kh.ack(name),
    "done": lambda kh, name: kh.done(name, result=1),
    "fail": lambda kh, name: kh.fail(name, error_reason="no"),
    "cancel": lambda kh, name: kh.cancel(name),
    "cancel, kept": lambda kh, name: kh.cancel(name, keep=True),
    "retry": lambda kh, name: kh.retry(name, delay=3600),
    "release": lambda kh, name: kh.release(name),
    "extend": lambda kh, name: kh.extend(name, 7200),
    "restart": lambda kh, name: kh.restart(name),
    "update": lambda kh, name: kh.update(name, nice=7),
    "delete": lambda kh, name: kh.delete(name),
}
_BY_STATE: Final = {
    #                 unclaimed    claimed      done         failed       cancelled    absent
    "ack": ("absent", "absent", "refused", "refused", "refused", "not found"),
    "done": ("done", "done", "refused", "refused", "refused", "not found"),
    "fail": ("failed", "failed", "refused", "refused", "refused", "not found"),
    "cancel": ("absent", "absent", "refused", "refused", "refused", "not found"),
    "cancel, kept": ("cancelled", "cancelled", "refused", "refused", "refused", "not found"),
    "retry": ("unclaimed", "unclaimed", "refused", "refused", "refused", "not found"),
    "release": ("refused", "unclaimed", "refused", "refused", "refused", "not found"),
    "extend": ("refused", "claimed", "refused", "refused", "refused", "not found"),
    "restart": ("refused", "refused", "unclaimed", "unclaimed", "unclaimed", "not found"),
    "update": ("unclaimed", "claimed", "done", "failed", "cancelled", "not found"),
    "delete": ("absent", "absent", "absent", "absent", "absent", "absent"),
}
_STATES: Final = ("unclaimed", "claimed", "done", "failed", "cancelled", "absent")


async def _bring(kh: Kharon, held: Holding, id: str, state: str) -> None:
    """Bring a new ticket into a state."""
    if state == "claimed":
        await held.take(kh, id)
    elif state != "absent":
        await kh.add(Ticket(id, "held"), delay=3600)
        if state == "done":
            await kh.done(id)
        elif state == "failed":
            await kh.fail(id)
        elif state == "cancelled":
            await kh.cancel(id, keep=True)


async def check_verbs(place: Place) -> None:
    """Each verb does, in each state, what the table above says."""
    held = Holding()
    async with place.open(workers=2 * len(_VERBS)) as kh, running(kh, held.router):
        for verb, call in _VERBS.items():
            for state, expected in zip(_STATES, _BY_STATE[verb], strict=True):
                id = f"{verb} of {state}"
                await _bring(kh, held, id, state)
                same(await state_of(kh, id), state, f"the state before {id}")
                if expected == "refused":
                    await refused(InvalidTransition, call(kh, id), id)
                    same(await state_of(kh, id), state, f"a refused {id} changes nothing, the state")
                elif expected == "not found":
                    await refused(TicketNotFound, call(kh, id), id)
                else:
                    await kh.pause("default")  # or it may be claimed at once
                    await call(kh, id)
                    same(await state_of(kh, id), expected, f"the state after {id}")
                    await kh.delete(id)
                    await kh.resume("default")
                await kh.delete(id)
        await check_replay(kh)


async def check_results(place: Place) -> None:
    """What a settle, a restart or an update is given is in the ticket."""
    async with place.open(max_attempts=None) as kh:
        await kh.add_many(Ticket(id, "mail") for id in ("a", "b", "c", "d"))
        done = await kh.done("a", result={"sum": [1, None]}, tube="kept")
        same((done.result, done.tube, done.expire_at), ({"sum": [1, None]}, "kept", None), "result, tube, expire_at")
        failed = await kh.fail("b", error_reason="no such address", expire_in=3600)
        assert failed.mtime is not None
        same(failed.error_reason, "no such address", "the reason of a failed ticket")
        same(failed.expire_at, failed.mtime + timedelta(hours=1), "expire_at counts from the settling")
        retried = await kh.retry("c", delay=60, error_reason="busy", nice=3, payload=[1], tube="slow", group="g")
        assert retried.mtime is not None
        same(retried.runat, retried.mtime + timedelta(minutes=1), "the delay of a retry counts from now")
        changed = (retried.error_reason, retried.nice, retried.payload, retried.tube, retried.group)
        same(changed, ("busy", 3, [1], "slow", "g"), "what a retry changes")
        updated = await kh.update("d", nice=1, group="g")
        same((updated.nice, updated.group, updated.payload), (1, "g", None), "what an update changes, and nothing else")
        restarted = await kh.restart("b")
        same((restarted.attempts, restarted.error_reason, restarted.expire_at), (0, None, None), "a restarted ticket")
        await refused(InvalidTicket, kh.update("d"), "an update of nothing")
        await check_replay(kh)
