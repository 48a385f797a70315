"""A clock that is set back while a tick works refuses nothing of what the tick found due."""

from __future__ import annotations

from jumping import Jumping

import kharon
from kharon import Settings, Ticket


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
