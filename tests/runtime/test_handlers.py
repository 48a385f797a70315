"""Handlers that do the unexpected: they drain, close, exit, or raise what cannot be printed."""

from __future__ import annotations

import contextlib

import pytest
import trio
from handlers import router_of
from trio.testing import MockClock

import kharon
from kharon import FixedDelay, Settings, Status, Ticket
from kharon.testing import TrioClock


async def test_a_handler_that_drains_is_told_that_it_would_wait_for_itself(autojump_clock: MockClock) -> None:
    async def pill(kh, _ticket):
        async with trio.open_nursery() as inner:  # also one level down
            inner.start_soon(kh.drain, 1)

    settings = Settings(max_attempts=1)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(pill))
        await kh.add(Ticket("a", "t"))
        ticket = await kh.wait("a")
        assert ticket.status is Status.FAILED
        assert "InvalidTransition: drain waits for the handlers that run, and this is one" in ticket.error_reason
        await kh.drain()


async def test_a_handler_may_have_the_application_drain() -> None:
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:

        async def pill(kh, _ticket):
            nursery.start_soon(kh.drain)

        await nursery.start(kh.run, router_of(pill))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).status is Status.DONE


async def test_a_handler_that_closes_the_queue_does_not_wait_for_itself() -> None:
    stack = contextlib.AsyncExitStack()
    kh = await stack.enter_async_context(kharon.open(":memory:"))

    async def close(_kh, _ticket):
        await stack.aclose()

    await kh.add(Ticket("a", "t"))
    with trio.fail_after(60), contextlib.suppress(kharon.Closed):
        await kh.run(router_of(close))
    with pytest.raises(kharon.Closed):
        await kh.get("a")


async def test_a_def_that_returns_something_to_await_is_told_so() -> None:
    class Later:
        def __await__(self):
            yield

    async with kharon.open(":memory:", Settings(max_attempts=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(lambda _kh, _ticket: Later()))
        await kh.add(Ticket("a", "t"))
        assert "make it an async def" in (await kh.wait("a")).error_reason
        await kh.drain()


async def test_an_exception_that_cannot_be_printed_is_an_outcome_like_any_other() -> None:
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("str fails")

    async def groan(_kh, _ticket):
        raise Mute

    async with kharon.open(":memory:", Settings(max_attempts=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(groan))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).error_reason.startswith("Mute (no attempts left")
        await kh.drain()


async def test_a_handler_that_exits_comes_to_an_end(tmp_path) -> None:
    async def leave(_kh, _ticket):
        raise SystemExit(3)

    settings = Settings(max_attempts=3, backoff=FixedDelay(0))
    for _ in range(3):
        async with kharon.open(tmp_path / "queue", settings) as kh:
            await kh.add(Ticket("a", "t"), on_conflict="skip")
            with pytest.raises(SystemExit):
                await kh.run(router_of(leave))
    async with kharon.open(tmp_path / "queue") as kh:
        ticket = await kh.get("a")
        assert (ticket.status, ticket.attempts) == (Status.FAILED, 3)
        assert "SystemExit: 3" in ticket.error_reason
