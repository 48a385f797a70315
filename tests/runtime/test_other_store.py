"""The facade on a store that is not `LocalStore`: what it needs of one is in the protocol."""

import contextlib

import pytest
import trio
from plain_store import PlainStore
from trio.testing import wait_all_tasks_blocked

import kharon
from kharon import FixedDelay, Settings, Ticket
from kharon.runtime.kharon import Kharon
from kharon.runtime.queue import Queue
from kharon.store.protocol import Store
from kharon.testing import TrioClock


@contextlib.asynccontextmanager
async def opened(**settings):
    """A queue on a `PlainStore`."""
    queue = Queue(PlainStore, Settings(**settings), TrioClock(), Kharon)
    await queue.store.open()
    try:
        yield Kharon(queue, "ann")
    finally:
        await queue.workers.stop()
        await queue.store.close()


def test_it_has_what_the_protocol_asks_for_and_nothing_else_is_asked():
    asked = {name for name in vars(Store) if not name.startswith("_")}
    assert all(callable(getattr(PlainStore, name)) for name in asked)
    assert asked == {
        *("open", "close", "submit", "turn", "tick", "wait_ready", "wait_earlier", "wake_all"),
        *("get", "list", "why", "tube", "restricted", "schedules", "pending_count", "reader", "first"),
    }


async def test_a_life(autojump_clock):
    async with opened(backoff=FixedDelay(10)) as kh, trio.open_nursery() as nursery:
        seen = []
        router = kharon.Router()

        @router.handler("email")
        async def send(kh, ticket):
            seen.append((trio.current_time(), ticket.id))
            if ticket.attempts == 1 and ticket.payload == "late":
                raise OSError("no route")
            await kh.done(ticket, result=ticket.id.upper())

        await kh.add(Ticket("a", "email", payload="late", group="g"))
        async with kh.atomic() as tx:
            tx.add(Ticket("b", "email", group="g"), delay=5)
            tx.add(Ticket("c", "email"), after_group="g")
            tx.schedule("s", every=60, ticket=Ticket("s", "email"))
        await nursery.start(kh.run, router)
        assert await kh.run_and_wait(Ticket("d", "email")) == "D"
        await kh.group("g").wait()
        assert trio.current_time() == 10
        assert (await kh.wait("c")).result == "C"
        await trio.sleep(55)
        await kh.drain()
        assert [(time, id) for time, id in seen if id in "abcd"] == [(0, "a"), (0, "d"), (5, "b"), (10, "a"), (10, "c")]
        assert [id for _, id in seen[5:]] == ["s@2026-01-01T00:01:00Z"]
        assert kh.stats().by["email", "default"].retried == 1
        assert kh.stats().events["ScheduleFired"] == 1


async def test_asking(mock_clock):
    async with opened() as kh:
        await kh.add_many([Ticket(id, "t", tube=tube) for id, tube in zip("abcd", "xyxy", strict=True)])
        await kh.pause("x")
        page = await kh.list(limit=3)
        assert [ticket.id for ticket in [*page, *await kh.list(after=page[-1])]] == list("abcd")
        assert [tube.name for tube in await kh.restricted_tubes()] == ["x"]
        assert (await kh.tube("y")).ready == 2
        kh.subscribe("x", "y")
        assert ((await kh.why("a")).reason, (await kh.why("b")).reason) == ("tube paused", "next")
        assert [record.event.id for record in await kh.history("a")] == ["a"]
        assert await kh.first_record() == 1
        async with kh.records(follow=True) as records:
            assert [(await anext(records)).by for _ in range(5)] == ["ann"] * 5
    with pytest.raises(kharon.Closed):
        await kh.get("a")


async def test_who_waits_is_told_that_it_was_closed(mock_clock):
    ended = []

    async def wait(what, *args):
        with pytest.raises(kharon.Closed):
            await what(*args)
        ended.append(what.__name__)

    async with trio.open_nursery() as nursery, opened() as kh:
        await kh.add(Ticket("a", "t", group="g"))
        nursery.start_soon(wait, kh.wait, "a")
        nursery.start_soon(wait, kh.group("g").wait)
        await wait_all_tasks_blocked()
    assert ended == ["wait", "wait"]
