"""A clock that is set back between two looks at it: nothing that was found due, or allowed, is refused."""

from __future__ import annotations

from datetime import timedelta

import kharon
from kharon import Settings, Ticket
from kharon.testing import EPOCH, TrioClock


class Jumping(TrioClock):
    """A clock that goes back by a minute each time it has been asked, once it is told to."""

    back = 0.0

    def now(self):
        now = super().now()
        self.step(-self.back)
        return now


async def test_what_has_expired_expires_though_the_clock_is_set_back_in_the_midst_of_it(autojump_clock):
    clock = Jumping()
    async with kharon.open(":memory:", Settings(), clock=clock) as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        await kh.done("a", expire_in=10)
        await kh.done("b", expire_in=10)
        clock.step(11)
        clock.back = 60
        await kh._store.tick()
        clock.back = 0
        assert await kh.list() == []


async def test_a_claim_is_recorded_at_the_time_at_which_it_was_allowed(autojump_clock):
    clock = Jumping()
    async with kharon.open(":memory:", Settings(), clock=clock) as kh:
        turn = kh._store.turn
        await kh.limit("default", claims=1, period=10)
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        assert await turn("w", ("default",), None, settle_by="w", claim=True) is not None
        clock.step(15)
        clock.back = 60
        assert await turn("w", ("default",), None, settle_by="w", claim=True) is not None
        first, second = [record.at async for record in kh.records() if type(record.event).__name__ == "TicketClaimed"]
        assert first == EPOCH
        assert second - first >= timedelta(seconds=10)
        clock.back = 0
