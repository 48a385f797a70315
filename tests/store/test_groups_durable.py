"""Groups, finalizers and atomic blocks: nothing of them leaves the store before it is durable."""

import pytest
import trio
from watched_log import WatchedLog

import kharon
from kharon import Settings, Ticket
from kharon.testing import TrioClock


@pytest.fixture(params=["always", 0.05, "never"])
def fsync(request):
    return request.param


async def refused(kh, id):
    async with kh.atomic() as tx:
        tx.fail(id)
        tx.delete(id)
        tx.release("nobody")


class Witness:
    """Holds what is told of groups to what was durable at that moment."""

    def __init__(self, log, kh):
        self.log, self.kh = log, kh
        self.early = 0
        self.seen = dict.fromkeys(("block", "refusal", "count", "wait", "finalizer"), 0)

    def saw(self, kind, seq):
        assert seq <= self.log.safe, f"{kind} of record {seq} left while {self.log.safe} was durable"
        self.seen[kind] += 1

    def last(self, group):
        """The seq of the record that left the group without members."""
        return max(record.seq for record in self.log.records() if record.event.id.startswith(f"{group}-"))

    async def fan_out(self, group):
        self.early += self.log.seq > self.log.safe
        async with self.kh.atomic() as tx:
            tx.add_many([Ticket(f"{group}-{number}", "t", group=group) for number in range(3)])
            tx.add(Ticket(f"end of {group}", "later"), after_group=group, delay=3600)
        self.saw("block", tx.tickets[-1].version)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait, group)
            nursery.start_soon(self.count, group)
            for number in range(3):
                nursery.start_soon(self.end, group, number)

    async def end(self, group, number):
        seq = self.log.seq
        with pytest.raises(kharon.TicketNotFound):
            await refused(self.kh, f"{group}-{number}")
        self.saw("refusal", seq)
        await self.kh.ack(f"{group}-{number}")

    async def wait(self, group):
        await self.kh.group(group).wait()
        self.saw("wait", self.last(group))
        seq = self.log.seq
        finalizer = await self.kh.get(f"end of {group}")
        assert not finalizer.blocked
        self.saw("finalizer", min(finalizer.version, seq))

    async def count(self, group):
        while True:
            self.early += self.log.seq > self.log.safe
            if not await self.kh.group(group).pending_count():
                break
        self.saw("count", self.last(group))


async def test_nothing_of_a_fan_out_leaves_before_it_is_durable(fsync):
    """Many fan-outs at once, each with one who waits for its group, one who counts, and three who end its members."""
    log = WatchedLog(fsync)
    async with kharon.open(log, Settings(fsync=fsync), clock=TrioClock()) as kh:
        witness = Witness(log, kh)
        for row in range(6):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(witness.fan_out, f"g{row}.{number}")
        assert witness.early > 20
        assert min(witness.seen.values()) >= 30, witness.seen
        kh._store.projection.check()
    parts = {}
    for record in log.records():
        if type(record.event).__name__ == "TicketUnblocked":
            parts[record.event.id] = record.part
    assert parts == {f"end of g{row}.{number}": (2, 2) for row in range(6) for number in range(5)}


async def test_a_refused_block_leaves_no_record_and_its_group_as_it_was(fsync):
    log = WatchedLog(fsync)
    async with kharon.open(log, Settings(fsync=fsync), clock=TrioClock()) as kh:
        await kh.add(Ticket("m", "t", group="g"))
        await kh.add(Ticket("f", "t"), after_group="g")
        with trio.move_on_after(0.01) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kh.group("g").wait)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(kharon.TicketNotFound):
                    await refused(kh, "m")
        assert scope.cancelled_caught
        assert log.names() == ["TicketAdded", "TicketAdded"]
        assert await kh.group("g").pending_count() == 1
        assert kh._queue.group_waits.by_name == {}
