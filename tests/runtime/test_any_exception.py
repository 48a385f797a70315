"""An exception of any class that a handler raises is the outcome of its attempt, and of nothing else."""

from __future__ import annotations

import asyncio
import logging

import pytest
import trio
from handlers import names, nothing, router_of

from kharon import FixedDelay, Status, Ticket


class Panic(BaseException):
    """As of an extension that panics."""


def stray() -> trio.Cancelled:
    """Return a Cancelled that is of no scope around the handler."""
    found = []

    async def be_cancelled():
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                found.append(error)
                raise

    trio.run(be_cancelled)
    return found[0]


def nested(error: BaseException, depth: int) -> BaseException:
    for _ in range(depth):
        error = BaseExceptionGroup("a nursery", [error])
    return error


class Unspeakable(Exception):
    def __str__(self):
        raise Panic


TROUBLE = {
    "asyncio": (asyncio.CancelledError("gone"), "CancelledError: gone"),
    "panic": (Panic("in Rust"), "Panic: in Rust"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit"),
    "stray Cancelled": (stray(), "Cancelled"),
    "group": (BaseExceptionGroup("g", [Panic("one"), ValueError("two")]), "Panic: one; ValueError: two"),
    "group of a stray": (BaseExceptionGroup("g", [stray(), ValueError("two")]), "ValueError: two"),
    "group in group": (nested(asyncio.CancelledError("gone"), 2), "CancelledError: gone"),
    "unspeakable": (Unspeakable(), "Unspeakable"),
}


async def check_it_fails_the_attempt(opened, caplog, handle, words):
    """Check that its ticket fails after two attempts, and that the worker goes on."""
    async with opened(workers=1, max_attempts=2, backoff=FixedDelay(0)) as kh, trio.open_nursery() as nursery:
        router = router_of(handle)
        router.handler("innocent")(nothing)
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        with trio.fail_after(60):
            assert (await kh.wait("a")).status is Status.FAILED
            await kh.add(Ticket("b", "innocent"))
            assert (await kh.wait("b")).status is Status.DONE
        assert words in (await kh.get("a")).error_reason
        assert await names(kh, "a") == [
            *("TicketAdded", "TicketClaimed", "TicketRetried", "TicketClaimed"),
            "TicketFailed",
        ]
        await kh.drain()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text for text in said if "'a' (t): attempt 1 raised" in text]


@pytest.mark.parametrize("name", TROUBLE)
async def test_an_exception_of_any_class_fails_only_its_attempt(opened, caplog, autojump_clock, name):
    error, words = TROUBLE[name]

    async def handle(_kh, _ticket):
        raise error

    await check_it_fails_the_attempt(opened, caplog, handle, words)


@pytest.mark.parametrize("name", TROUBLE)
async def test_an_exception_of_any_class_in_a_thread_fails_only_its_attempt(opened, caplog, name):
    error, words = TROUBLE[name]

    def handle(_kh, _ticket):
        raise error

    await check_it_fails_the_attempt(opened, caplog, handle, words)


async def test_a_group_that_is_nested_deeply_fails_only_its_attempt(opened, autojump_clock):
    async def handle(_kh, _ticket):
        raise nested(ValueError("deep down"), 2000)

    async with opened(workers=1, max_attempts=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).error_reason.startswith("ValueError: deep down (no attempts left")
        await kh.drain()


async def test_what_a_cancelled_handler_raises_beside_is_logged_and_does_not_leave_run(opened, caplog, autojump_clock):
    """Its claim is released: the cancellation is not the handler's doing."""

    async def groan(error):
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def handle(_kh, _ticket):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(groan, ValueError("told"))
            nursery.start_soon(groan, asyncio.CancelledError("told as well"))
            nursery.start_soon(trio.sleep_forever)

    async with opened() as kh:
        await kh.add(Ticket("a", "t"))
        with trio.move_on_after(1):
            await kh.run(router_of(handle))
        ticket = await kh.get("a")
        assert (ticket.attempts, ticket.claim) == (0, None)
    said = {str(record.exc_info[1]) for record in caplog.records if record.exc_info}
    assert said == {"told", "told as well"}


async def test_a_handler_that_turns_its_cancellation_into_another_exception_leaves_no_claim(opened, autojump_clock):
    async def handle(_kh, _ticket):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise asyncio.CancelledError from None

    async with opened() as kh:
        await kh.add(Ticket("a", "t"))
        with trio.move_on_after(1) as scope:
            await kh.run(router_of(handle))
        assert scope.cancelled_caught
        ticket = await kh.get("a")
        assert (ticket.attempts, ticket.claim, ticket.error_reason) == (1, None, "CancelledError")


# --- a result or a reason that cannot be stored -----------------------------------------------------------------------


@pytest.mark.parametrize("within", ["bare", "atomic", "group"])
@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("done", {"result": object()}, "result: object is not JSON"),
        ("ack", {"keep": True, "result": {"x": [float("nan")]}}, "result['x'][0]: nan is not JSON"),
        ("done", {"result": "x" * (1 << 20)}, "result: more than"),
        ("fail", {"error_reason": "\ud800"}, "error_reason"),
        ("cancel", {"error_reason": "\ud800"}, "error_reason"),
        ("retry", {"error_reason": "\ud800"}, "error_reason"),
    ],
)
async def test_an_outcome_that_cannot_be_stored_fails_the_ticket_at_once(
    opened, caplog, autojump_clock, within, verb, arguments, words
):
    """No other attempt could store it, so the work runs once."""
    runs = []

    async def handle(kh, ticket):
        runs.append(ticket.attempts)
        if within == "atomic":
            async with kh.atomic() as tx:
                getattr(tx, verb)(ticket, **arguments)
        elif within == "group":
            async with trio.open_nursery():
                await getattr(kh, verb)(ticket, **arguments)
        else:
            await getattr(kh, verb)(ticket, **arguments)

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        ticket = await kh.wait("a")
        assert ticket.status is Status.FAILED
        assert words in ticket.error_reason
        await kh.drain()
    assert runs == [1]
    assert [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("wrong", ["a name", "an outcome of another ticket"])
async def test_another_wrong_argument_is_retried(opened, autojump_clock, wrong):
    """It is the handler's mistake, but not one of the outcome of its ticket."""

    async def handle(kh, ticket):
        if ticket.attempts == 1:
            if wrong == "a name":
                await kh.cancel("")
            await kh.done("another", result=object())

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.add(Ticket("a", "t"))
        assert (await kh.wait("a")).attempts == 2
        await kh.drain()
