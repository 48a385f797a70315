"""The window of a limit is over the times of the records, whatever the clock does while a claim is being made."""

from __future__ import annotations

from datetime import timedelta

from jumping import Jumping

import kharon
from kharon import Settings, Ticket
from kharon.testing import EPOCH


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
