"""Where a check opens its queues, and what all checks share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from os import PathLike
from typing import Any, Final, TypeAlias

import trio

from kharon.errors import (
    KharonError,
    TicketNotFound,
)
from kharon.log.protocol import EventLog
from kharon.log.record import Record
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket
from kharon.runtime.kharon import Kharon
from kharon.runtime.opening import open_queue
from kharon.runtime.router import Router
from kharon.settings import Settings
from kharon.store.protocol import Clock

__all__ = [
    "PATIENCE_SECONDS",
    "SOON",
    "Holding",
    "Place",
    "Where",
    "check_replay",
    "events_of",
    "everything",
    "ids_of",
    "refused",
    "running",
    "same",
    "state_of",
    "together",
    "until",
]

Where: TypeAlias = str | PathLike[str] | EventLog
PATIENCE_SECONDS: Final = 60.0
"""How long a check may have a queue open, by Trio's clock."""
SOON: Final = 0.2
"""Seconds: a lease, a delay or a period that a check waits for."""


class Place:
    """Where a check opens its queues.

    Args:
        make: returns a new, empty place each time, in any form that `kharon.open` takes.
        reopen: returns the place of the last queue again; None: what was there is gone once it is closed.
        clock: what `kharon.open` is given as `clock`.
    """

    def __init__(
        self, make: Callable[[], Where], reopen: Callable[[], Where] | None = None, clock: Clock | None = None
    ) -> None:
        self.returns = reopen is not None
        self._make = make
        self._reopen = reopen
        self._clock = clock

    @asynccontextmanager
    async def open(self, *, again: bool = False, **settings: Any) -> AsyncIterator[Kharon]:
        """Open a new queue, or with `again` the last one once more, with these settings."""
        if again:
            assert self._reopen is not None
            where = self._reopen()
        else:
            where = self._make()
        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            async with open_queue(where, Settings(**settings), clock=self._clock) as kh:
                yield kh
        assert not patience.cancelled_caught, f"a check did not come to an end within {PATIENCE_SECONDS:g} seconds"


async def refused(error: type[KharonError], call: Awaitable[object], what: str) -> str:
    """Assert that a call is refused with an error; return its message."""
    try:
        given = await call
    except error as refused:
        return str(refused)
    except KharonError as other:
        raise AssertionError(f"{what} is refused with {error.__name__}, not {other!r}") from other
    raise AssertionError(f"{what} is refused with {error.__name__}; it returned {given!r}")


def same(found: object, expected: object, what: str) -> None:
    """Assert that two values are equal; `what` says of what they are."""
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def ids_of(tickets: Sequence[Ticket]) -> list[str]:
    """Return the ids of tickets, in their order."""
    return [ticket.id for ticket in tickets]


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something holds, looking again and again."""
    with trio.move_on_after(PATIENCE_SECONDS / 2):
        while not await holds():  # noqa: ASYNC110 - no event is set by what is waited for
            await trio.sleep(SOON / 20)
        return
    raise AssertionError(f"{what} did not come about within {PATIENCE_SECONDS / 2:g} seconds")


@asynccontextmanager
async def together() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that raises the first failure itself, and not a group of what failed."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None


@asynccontextmanager
async def running(kh: Kharon, router: Router) -> AsyncIterator[None]:
    """Run workers while the block runs; what they run at its end is released."""
    async with together() as nursery:
        await nursery.start(kh.run, router)
        yield
        nursery.cancel_scope.cancel()


class Holding:
    """Handlers that hold their tickets until they are told to go on.

    Attributes:
        router: routes every type to them.
        claimed: the tickets as they were claimed, in that order.
    """

    def __init__(self) -> None:
        self.router = Router()
        self.claimed: list[Ticket] = []
        self._gates: dict[str, trio.Event] = {}
        self.router.not_found(self._handle)

    async def _handle(self, _kh: Kharon, ticket: Ticket) -> None:
        self.claimed.append(ticket)
        await self._gates.setdefault(ticket.id, trio.Event()).wait()

    def let_go(self, id: str) -> None:
        """Let the handler of a ticket return; the next attempt of that ticket is held again."""
        self._gates.pop(id).set()

    async def take(self, kh: Kharon, id: str, type: str = "held", **fields: Any) -> Ticket:
        """Add a ticket, wait until it is claimed, and return it as its handler received it."""
        await kh.add(Ticket(id, type, **fields))
        return await self.next(id)

    async def next(self, id: str, attempts: int = 1) -> Ticket:
        """Wait until a ticket has been claimed so often, and return it as its handler received it."""

        async def claimed() -> bool:
            await trio.lowlevel.checkpoint()
            return sum(ticket.id == id for ticket in self.claimed) >= attempts

        await until(claimed, f"claim {attempts} of ticket {id!r}")
        return [ticket for ticket in self.claimed if ticket.id == id][-1]


async def everything(kh: Kharon, after: int = 0) -> list[Record]:
    """Return all durable records behind a seq."""
    return [record async for record in kh.records(after)]


async def events_of(kh: Kharon, id: str) -> list[str]:
    """Return the names of the events of a ticket's history."""
    return [type(record.event).__name__ for record in await kh.history(id)]


async def check_replay(kh: Kharon) -> None:
    """Assert that the records fold to what the queue says it holds."""
    records = await everything(kh)
    same([record.seq for record in records], list(range(1, len(records) + 1)), "the records' seqs have no gap")
    folded = Projection().fold(records)
    for live in await kh.list(limit=None):
        same(live, folded.get(live.id), f"ticket {live.id!r} is what its records fold to")
    same(len(folded.tickets), len(await kh.list(limit=None)), "the number of tickets that the records fold to")
    for tube in await kh.restricted_tubes():
        same((folded.tube(tube.name).limit, folded.tube(tube.name).paused_seq), (tube.limit, tube.paused_seq), "a tube")
    same(await kh.schedules(), list(folded.schedules.values()), "the schedules are what the records fold to")


async def state_of(kh: Kharon, id: str) -> str:
    """Return a ticket's state by name: "unclaimed", "claimed", "done", "failed", "cancelled" or "absent"."""
    try:
        ticket = await kh.get(id)
    except TicketNotFound:
        return "absent"
    if ticket.status is not Status.PENDING:
        return ticket.status.value
    return "unclaimed" if ticket.claim is None else "claimed"
