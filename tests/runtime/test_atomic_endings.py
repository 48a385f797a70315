"""Atomic blocks that are cancelled, or interrupted by Ctrl-C, or whose disk is full or breaks."""

# ruff: noqa: PT012 - a block is refused at its end, so all of it has to be where the refusal is expected

from __future__ import annotations

import signal

import pytest
import trio
from handlers import ids
from trio.testing import MockClock

import kharon
from kharon import (
    Closed,
    CommitOutcomeUnknown,
    FixedDelay,
    Router,
    Settings,
    StorageFull,
    Ticket,
)
from kharon.log.memory import MemoryLog
from kharon.testing import FailingLog, TrioClock


async def test_a_block_that_is_cancelled_before_its_end_does_nothing() -> None:
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        with trio.CancelScope() as scope:
            async with kh.atomic() as tx:
                tx.ack("a")
                tx.add(Ticket("b", "t"))
                scope.cancel()
        assert scope.cancelled_caught
        assert await ids(kh) == ["a"]
        with trio.CancelScope() as scope:
            scope.cancel()
            async with kh.atomic():
                pytest.fail("entering is a checkpoint")
        with trio.CancelScope() as scope:
            async with kh.atomic():
                scope.cancel()  # and there is nothing to do at the end
        assert await ids(kh) == ["a"]


class Hooked(FailingLog):
    """A memory log that calls `hook` in the midst of a write."""

    def __init__(self):
        super().__init__(MemoryLog())
        self.hook = None

    def write(self):
        if self.hook is not None:
            self.hook()
        super().write()


async def test_a_block_that_is_cancelled_in_the_midst_of_its_end_is_carried_out_whole() -> None:
    log = Hooked()
    async with kharon.open(log) as kh:
        await kh.add(Ticket("a", "t"))
        after = False
        with trio.CancelScope() as scope:
            log.hook = scope.cancel
            async with kh.atomic() as tx:
                tx.ack("a")
                tx.add(Ticket("b", "t"))
            after = True
            assert [ticket and ticket.id for ticket in tx.tickets] == [None, "b"]
            await trio.lowlevel.checkpoint()
        assert (after, scope.cancelled_caught) == (True, True)
        assert await ids(kh) == ["b"]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("where", ["body", "write"])
def test_ctrl_c_leaves_all_of_a_block_or_nothing(where) -> None:
    log = Hooked()
    ended = []

    async def main():
        async with kharon.open(log) as kh:
            await kh.add(Ticket("a", "t"))
            if where == "write":
                log.hook = lambda: signal.raise_signal(signal.SIGINT)
            try:
                async with kh.atomic() as tx:
                    tx.ack("a")
                    tx.add(Ticket("b", "t"))
                    if where == "body":
                        signal.raise_signal(signal.SIGINT)
                await trio.sleep(1)
            finally:
                log.hook = None
                ended.extend(await ids(kh))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ended == (["a"] if where == "body" else ["b"])


async def test_without_room_nothing_of_a_block_is_kept_and_it_can_be_done_again(autojump_clock: MockClock) -> None:
    log = FailingLog(MemoryLog(), error=StorageFull("no room"))
    async with kharon.open(log, clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", group="g"))
        await kh.add(Ticket("end", "t"), after_group="g")
        log.fail = "write"
        for _ in range(2):
            with pytest.raises(StorageFull):
                async with kh.atomic() as tx:
                    tx.ack("a")
                    tx.add(Ticket("b", "t"))
            assert tx.tickets == []
            assert sorted(await ids(kh)) == ["a", "end"]
            assert (await kh.get("end")).blocked
        log.fail = None
        await trio.sleep(5)
        async with kh.atomic() as tx:
            tx.ack("a")
            tx.add(Ticket("b", "t"))
        assert await ids(kh) == ["end", "b"]
        assert not (await kh.get("end")).blocked


async def test_a_step_that_finds_no_room_is_done_when_there_is_some(autojump_clock: MockClock) -> None:
    log = FailingLog(MemoryLog(), error=StorageFull("no room"))
    tries = []

    async def step(kh, ticket):
        tries.append(ticket.attempts)
        if len(tries) == 1:
            log.fail = "write"
        async with kh.atomic() as tx:
            tx.done(ticket, result="whole")
            tx.add(Ticket("next", "u"))

    router = Router()
    router.handler("t")(step)
    settings = Settings(backoff=FixedDelay(1))
    async with kharon.open(log, settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await trio.sleep(3)
        assert await ids(kh) == ["a"]
        log.fail = None
        assert (await kh.wait("a")).result == "whole"
        assert tries == [1, 2]
        assert await ids(kh) == ["a", "next"]
        await kh.cancel("next")
        await kh.drain()


async def test_what_a_block_did_on_a_failing_disk_is_said_to_be_unknown() -> None:
    log = FailingLog(MemoryLog())
    async with kharon.open(log) as kh:
        await kh.add(Ticket("a", "t"))
        log.fail = "sync"
        with pytest.raises(CommitOutcomeUnknown):
            async with kh.atomic() as tx:
                tx.ack("a")
                tx.add(Ticket("b", "t"))
        with pytest.raises(Closed):
            async with kh.atomic() as tx:
                tx.add(Ticket("c", "t"))
        with pytest.raises(Closed):
            await kh.group("g").wait()
