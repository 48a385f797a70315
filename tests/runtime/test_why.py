"""Why a ticket is not running, asked of the live queue: what `explain` says of a replay of it."""

import random

import attrs
import pytest
from trio.testing import assert_checkpoints

import kharon
from kharon import Settings, Ticket
from kharon.audit.explain import Reason
from kharon.testing import TrioClock


async def fill(kh, chance):
    """Tickets in every state that can keep one from running."""
    await kh.add_many([Ticket(f"m{number}", "t", group="g") for number in range(8)])
    await kh.add(Ticket("finalizer", "t"), after=["m1"], after_group="g", on_failure="cancel")
    await kh.add(Ticket("delayed", "t"), delay=100)
    await kh.add_many([Ticket(f"p{number}", "t", tube="paused") for number in range(3)])
    await kh.pause("paused")
    await kh.add_many([Ticket(f"l{number}", "t", tube="limited") for number in range(3)])
    await kh.limit("limited", claimed=1)
    await kh.add(Ticket("elsewhere", "t", tube="elsewhere"))
    for verb, id in (("done", "done"), ("fail", "failed"), ("ack", "gone")):
        await kh.add(Ticket(id, "t"))
        await getattr(kh, verb)(id)
    await kh.add(Ticket("cancelled", "t"))
    await kh.cancel("cancelled", keep=True, expire_in=50)
    for tube in ("default", "limited"):
        for _ in range(chance.randrange(1, 3)):
            await kh._store.turn("w", (tube,), None, settle_by="w", claim=True)
    await kh.add(Ticket("m0", "t", nice=1), after=["delayed"])


@pytest.mark.parametrize("seed", range(4))
async def test_a_live_queue_says_what_a_replay_of_it_says(tmp_path, mock_clock, seed):
    settings, clock = Settings(max_attempts=3, tubes=("default", "paused", "limited")), TrioClock()
    async with kharon.open(tmp_path / "queue", settings, clock=clock) as kh:
        await fill(kh, random.Random(seed))
        found = {}
        ids = [ticket.id for ticket in await kh.list(limit=None)]
        for id in [*ids, "gone", "nobody"]:
            with assert_checkpoints():
                found[id] = await kh.why(id)
        replayed = kharon.replay(tmp_path / "queue")
        for id, why in found.items():
            expected = kharon.explain(replayed, id, clock.now(), max_attempts=3, tubes=settings.tubes)
            assert attrs.asdict(why, recurse=False) == attrs.asdict(expected, recurse=False)
    assert {reason for why in found.values() for reason in why.reasons} == set(Reason) - {Reason.LEASE_ENDED}


async def test_it_goes_by_what_this_process_claims_from_and_by_its_settings(mock_clock):
    async with kharon.open(":memory:", Settings(max_attempts=2), clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", tube="x"))
        assert (await kh.why("a")).reasons == (Reason.NOT_SUBSCRIBED,)
        kh.subscribe("x")
        why = await kh.why("a")
        assert (why.reason, why.ahead, why.attempts_left) == (Reason.NEXT, 0, 2)
        await kh.add(Ticket("b", "t", nice=1))
        assert (await kh.why("a")).sentence.endswith("1 other due ticket will be claimed first.")


async def test_time_that_has_come_counts_though_nobody_looked(mock_clock):
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t"), delay=10)
        assert (await kh.why("a")).reason is Reason.DELAYED
        mock_clock.jump(10)
        assert (await kh.why("a")).reason is Reason.NEXT


async def test_what_is_no_id_is_refused(kh):
    with assert_checkpoints(), pytest.raises(kharon.InvalidTicket, match="id: a str"):
        await kh.why(3)
