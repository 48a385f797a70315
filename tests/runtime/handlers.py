"""Handlers and routers that many tests of the workers need, and what is asked of a queue."""

from __future__ import annotations

import trio

import kharon


def router_of(handle, type: str = "t") -> kharon.Router:
    router = kharon.Router()
    router.handler(type)(handle)
    return router


async def nothing(_kh, _ticket) -> None:
    pass


async def for_ever(_kh, _ticket) -> None:
    await trio.sleep_forever()


async def names(kh: kharon.Kharon, id: str) -> list[str]:
    """The names of a ticket's events."""
    return [type(record.event).__name__ for record in await kh.history(id)]


async def ids(kh: kharon.Kharon) -> list[str]:
    """The ids of all tickets of the queue."""
    return [ticket.id for ticket in await kh.list()]


async def together(kh: kharon.Kharon, *steps) -> kharon.runtime.atomic.Atomic:
    """An atomic block of these steps, each of which is given the block."""
    async with kh.atomic() as tx:
        for step in steps:
            step(tx)
    return tx
