"""Context variables: each attempt has a fresh copy of the context in which `run` was called."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import trio
from handlers import router_of

import kharon
from kharon import FixedDelay, Ticket

tenant: ContextVar[str] = ContextVar("tenant")


async def seen_by(kh, handle, caller: str) -> None:
    """Run the handler for three tickets, one after another, by a `run` that was called with this tenant."""
    for id in "abc":
        await kh.add(Ticket(id, "t"))
    tenant.set(caller)
    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        tenant.set("set later by the caller")
        for id in "abc":
            await kh.wait(id)
        await kh.drain()


async def test_an_async_handler_sees_no_variables_of_another_attempt(opened, autojump_clock):
    seen = []

    async def handle(_kh, ticket):
        seen.append(tenant.get())
        token = tenant.set(ticket.id)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:  # its tasks have the variables of the attempt
            nursery.start_soon(trio.sleep, 1)
            nursery.start_soon(check, ticket.id)
        if ticket.id == "b":
            tenant.reset(token)

    async def check(id):
        assert tenant.get() == id

    async with opened(workers=1, max_attempts=1) as kh:
        await seen_by(kh, handle, "caller")
        assert kh.stats().failed == 0
    assert seen == ["caller"] * 3


async def test_a_def_handler_sees_no_variables_of_another_attempt(opened):
    seen = []

    def handle(_kh, ticket):
        seen.append(tenant.get())
        tenant.set(ticket.id)
        trio.from_thread.run(trio.sleep, 0)
        assert tenant.get() == ticket.id

    async with opened(workers=1, max_attempts=1) as kh:
        with trio.fail_after(60):
            await seen_by(kh, handle, "caller")
        assert kh.stats().failed == 0
    assert seen == ["caller"] * 3


@pytest.mark.parametrize("trouble", [ValueError, None])
async def test_the_next_attempt_of_a_ticket_sees_no_variables_of_the_last(opened, autojump_clock, trouble):
    """Neither after a failure nor after a lapse."""
    seen = []

    async def handle(_kh, ticket):
        seen.append(tenant.get())
        tenant.set("an attempt")
        if ticket.attempts < 3:
            if trouble is not None:
                raise trouble
            await trio.sleep_forever()

    async with opened(workers=1, process_time=5, backoff=FixedDelay(1)) as kh:
        await seen_by(kh, handle, "caller")
    assert seen == ["caller"] * 9


async def test_a_def_handler_sees_no_variables_of_an_async_one(opened):
    seen = []
    router = kharon.Router()

    @router.handler("async")
    async def one(_kh, _ticket):
        tenant.set("async")

    @router.handler("def")
    def other(_kh, _ticket):
        seen.append(tenant.get())

    tenant.set("caller")
    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await kh.add_many([Ticket("a", "async"), Ticket("b", "def")])
        await nursery.start(kh.run, router)
        with trio.fail_after(60):
            await kh.wait("b")
        await kh.drain()
    assert seen == ["caller"]
