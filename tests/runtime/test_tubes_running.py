"""Tubes while running: paused, limited, subscribed to; who is woken then, and that it all holds after a restart."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
import trio
import trio.testing

import kharon
from kharon import FixedDelay, InvalidTicket, Limit, Status, Ticket
from kharon.log.memory import MemoryLog
from kharon.log.snapshot import take
from kharon.model.events import TicketUpdated
from kharon.testing import EPOCH, FailingLog


class Crowd:
    """Handlers that note when they ran, by the queue's clock, and how many at once; they take as long as they say."""

    def __init__(self, clock):
        self.clock = clock
        self.runs = []
        self.running = 0
        self.most = 0
        self.router = kharon.Router()
        self.router.handler("t")(self.handle)

    async def handle(self, _kh, ticket):
        self.runs.append((ticket.id, (self.clock.now() - EPOCH).total_seconds()))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(ticket.payload or 0)
        finally:
            self.running -= 1

    @property
    def ids(self):
        return [id for id, _ in self.runs]

    @property
    def times(self):
        return [int(time * 10) / 10 for _, time in self.runs]


@pytest.fixture
def crowd(clock):
    return Crowd(clock)


def tickets(*ids, tube="default", seconds=0):
    return [Ticket(id, "t", tube=tube, payload=seconds) for id in ids]


async def names(kh):
    return [type(record.event).__name__ async for record in kh.records()]


class Turns:
    """Counts how often workers look for a ticket."""

    def __init__(self, kh):
        self.count = 0
        self._turn = kh._store.turn
        kh._store.turn = self

    async def __call__(self, *args, **kwargs):
        self.count += 1
        return await self._turn(*args, **kwargs)


# --- pause and resume -------------------------------------------------------------------------------------------------


async def test_nothing_is_claimed_from_a_paused_tube(autojump_clock, opened, crowd):
    async with opened() as kh, trio.open_nursery() as nursery:
        await kh.pause("default")
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a", "b"))
        await trio.sleep(100)
        assert crowd.runs == []
        assert [ticket.attempts for ticket in await kh.list()] == [0, 0]
        turns = Turns(kh)
        await trio.sleep(100)
        assert turns.count == 0, "idle workers sleep"
        await kh.resume("default")
        await kh.wait("b")
        assert crowd.times == [200, 200], "and are woken"
        await kh.drain()


async def test_what_runs_goes_on_when_its_tube_is_paused(autojump_clock, opened, crowd):
    async with opened(on_return="done") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a", seconds=10))
        await trio.sleep(1)
        await kh.pause("default")
        await kh.add_many(tickets("b"))
        assert (await kh.wait("a")).status == "done"
        await kh.drain()
        assert (await kh.get("b")).attempts == 0


async def test_a_pause_is_recorded_once_and_says_who(opened):
    async with opened() as kh:
        ann = kh.acting_as("ann")
        await ann.resume("mail")
        await ann.pause("mail")
        await kh.pause("mail")
        await kh.resume("mail")
        await kh.resume("mail")
        await kh.limit("mail")
        await ann.limit("mail", claimed=1)
        await kh.limit("mail", claimed=1)
        records = [record async for record in kh.records()]
        assert [(type(record.event).__name__, record.by) for record in records] == [
            ("TubePaused", "ann"),
            ("TubeResumed", "app"),
            ("TubeLimited", "ann"),
        ]


async def test_a_tube_says_how_it_is(autojump_clock, opened, crowd):
    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        assert await kh.tube("default") == kharon.Tube("default", None, None, 0, 0, True, None)
        assert await kh.restricted_tubes() == []
        await kh.add_many(tickets("a", "b", "c", seconds=5))
        await kh.add_many(tickets("later"), delay=60)
        await kh.limit("default", claims=1, period=timedelta(seconds=10))
        await nursery.start(kh.run, crowd.router)
        await trio.sleep(1)
        tube = await kh.tube("default")
        assert (tube.limit, tube.ready, tube.claimed, tube.open) == (Limit(None, 1, 10.0), 2, 1, False)
        assert abs(tube.reopens_at - EPOCH - timedelta(seconds=10)) < timedelta(seconds=0.1)
        await kh.pause("default")
        tube = await kh.tube("default")
        assert (tube.open, tube.reopens_at) == (False, None)
        assert abs(tube.paused_since - EPOCH - timedelta(seconds=1)) < timedelta(seconds=0.1)
        await kh.resume("default")
        await kh.limit("default", claimed=1)
        tube = await kh.tube("default")
        assert (tube.limit, tube.open, tube.reopens_at) == (Limit(1, None, None), False, None)
        await kh.limit("default")
        await kh.pause("another")
        assert [(tube.name, tube.limit) for tube in await kh.restricted_tubes()] == [("another", None)]
        assert (await kh.tube("default")).open
        await kh.drain()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"claimed": 0}, "claimed: 0 is neither"),
        ({"claimed": True}, "claimed: True"),
        ({"claimed": 1.5}, "claimed: 1.5"),
        ({"claims": 0, "period": 1}, "claims: 0"),
        ({"claims": 10_001, "period": 1}, "claims: 10001 is neither a whole number, 1 to 10000"),
        ({"claims": "1", "period": 1}, "claims: '1'"),
        ({"claims": 1}, "go together"),
        ({"period": 1}, "go together"),
        ({"claims": 1, "period": 0}, "period: 0 seconds"),
        ({"claims": 1, "period": -1}, "period: -1"),
        ({"claims": 1, "period": float("nan")}, "period"),
        ({"claims": 1, "period": "1"}, "period"),
    ],
)
async def test_a_limit_that_cannot_be_is_refused(opened, arguments, words):
    async with opened() as kh:
        with pytest.raises(kharon.InvalidTicket, match=words), trio.testing.assert_checkpoints():
            await kh.limit("default", **arguments)
        assert await kh.restricted_tubes() == []
        assert await names(kh) == []


@pytest.mark.parametrize("verb", ["pause", "resume", "limit", "tube"])
async def test_a_name_that_cannot_be_is_refused(opened, verb):
    async with opened() as kh:
        for name in ("", "\n", "x" * 201, 7):
            with pytest.raises(kharon.InvalidTicket, match="tube"):
                await getattr(kh, verb)(name)


async def test_on_a_full_disk_tubes_are_told_nothing(clock):
    log = FailingLog(MemoryLog())
    async with kharon.open(log, clock=clock) as kh:
        await kh.limit("a", claims=2, period=5)
        await kh.pause("b")
        before = await kh.restricted_tubes()
        log.fail, log.error = "write", kharon.StorageFull("no room")
        for tell in (kh.pause("a"), kh.resume("b"), kh.limit("a", claimed=3), kh.limit("a")):
            with pytest.raises(kharon.StorageFull):
                await tell
        assert await kh.restricted_tubes() == before
        log.fail = None


async def test_an_atomic_block_tells_tubes_too_or_nothing(opened):
    async with opened() as kh:
        async with kh.atomic() as tx:
            tx.add(Ticket("a", "t", tube="mail"))
            tx.pause("mail")
            tx.limit("mail", claimed=2)
            tx.limit("other", claims=3, period=timedelta(minutes=1))
        assert [ticket and ticket.id for ticket in tx.tickets] == ["a", None, None, None]
        before = await kh.restricted_tubes()
        assert [(tube.name, tube.limit) for tube in before] == [
            ("mail", Limit(2, None, None)),
            ("other", Limit(None, 3, 60.0)),
        ]

        async def refused():
            async with kh.atomic() as tx:
                tx.resume("mail")
                tx.limit("other")
                tx.done("none")

        with pytest.raises(kharon.TicketNotFound, match="command 3 of 3, done of ticket 'none'"):
            await refused()
        assert await kh.restricted_tubes() == before


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_never_more_are_claimed_at_once_than_may_be(autojump_clock, opened, crowd):
    async with opened(workers=8) as kh, trio.open_nursery() as nursery:
        await kh.limit("default", claimed=3)
        await nursery.start(kh.run, crowd.router)
        turns = Turns(kh)
        await kh.add_many(tickets(*map(str, range(30)), seconds=10))
        await kh.wait("29")
        await kh.drain()
        assert crowd.most == 3
        assert crowd.times == [number // 3 * 10 for number in range(30)], "and never fewer"
        assert turns.count <= 3 * 30, "workers that may not claim sleep"


async def lapse(_kh):
    await trio.sleep(30)


ENDS = {
    "ack": lambda kh: kh.ack("a"),
    "done": lambda kh: kh.done("a"),
    "fail": lambda kh: kh.fail("a"),
    "cancel": lambda kh: kh.cancel("a"),
    "retry": lambda kh: kh.retry("a", delay=99),
    "retry in another tube": lambda kh: kh.retry("a", delay=0, tube="other"),
    "delete": lambda kh: kh.delete("a"),
    "move": lambda kh: kh.update("a", tube="other"),
    "lapse": lapse,
    "a higher limit": lambda kh: kh.limit("default", claimed=2),
    "no limit": lambda kh: kh.limit("default"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_ends_a_claim_lets_the_next_one_begin(autojump_clock, opened, crowd, end):
    async with opened(workers=2, backoff=FixedDelay(99)) as kh, trio.open_nursery() as nursery:
        await kh.limit("default", claimed=1)
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a", "b", seconds=1000))
        await trio.sleep(1)
        assert crowd.ids == ["a"]
        await ENDS[end](kh)
        await trio.sleep(0.1)
        assert crowd.ids == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_a_ticket_that_moves_into_a_full_tube_closes_it(autojump_clock, opened, crowd):
    async with opened(workers=4, tubes=("default", "other")) as kh, trio.open_nursery() as nursery:
        await kh.limit("other", claimed=1)
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a", seconds=100))
        await trio.sleep(1)
        await kh.update("a", tube="other")
        await kh.add_many(tickets("b", tube="other"))
        await trio.sleep(10)
        assert crowd.ids == ["a"]
        await kh.update("a", tube="default")
        await trio.sleep(1)
        assert crowd.ids == ["a", "b"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("workers", [1, 4])
async def test_never_more_are_claimed_in_a_period_than_may_be(autojump_clock, opened, crowd, workers):
    async with opened(workers=workers) as kh, trio.open_nursery() as nursery:
        await kh.limit("default", claims=2, period=60)
        await nursery.start(kh.run, crowd.router)
        turns = Turns(kh)
        await kh.add_many(tickets(*map(str, range(10))))
        await kh.wait("9")
        await kh.drain()
        assert crowd.times == [number // 2 * 60 for number in range(10)], "the clock's task wakes workers in time"
        exact = [time for _, time in crowd.runs]
        assert all(later - earlier >= 60 for earlier, later in zip(exact, exact[2:], strict=False))
        assert turns.count <= 3 * 10 + 2 * workers


async def test_the_window_slides(autojump_clock, opened, crowd):
    async with opened(workers=4) as kh, trio.open_nursery() as nursery:
        await kh.limit("default", claims=2, period=60)
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a"))
        await trio.sleep(50)
        await kh.add_many(tickets("b", "c", "d", "e"))
        await kh.wait("e")
        await kh.drain()
        assert crowd.times == [0, 50, 60, 110, 120], "each claim makes room for one when it is a period old"


async def test_a_longer_limit_counts_what_the_one_before_knew(autojump_clock, opened, crowd):
    async with opened(workers=4) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("before"))
        await kh.wait("before")
        await kh.limit("default", claims=1, period=10)
        await kh.add_many(tickets("a", "b", "c", "d"))
        await trio.sleep(5)
        assert crowd.ids == ["before", "a"], "what was claimed without a limit does not count"
        await kh.limit("default", claims=3, period=100)
        await trio.sleep(1)
        assert sorted(crowd.ids) == ["a", "b", "before", "c"]
        await kh.wait("d")
        assert crowd.times[-1] == 100
        await kh.drain()


async def test_a_closed_tube_is_no_obstacle_to_others(autojump_clock, opened, crowd):
    async with opened(workers=2, tubes=("slow", "fast")) as kh, trio.open_nursery() as nursery:
        await kh.limit("slow", claims=1, period=100)
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("s1", "s2", tube="slow"))
        await trio.sleep(1)
        await kh.add_many(tickets("f1", "f2", "f3", tube="fast"))
        await trio.sleep(1)
        assert sorted(crowd.ids) == ["f1", "f2", "f3", "s1"]
        await kh.wait("s2")
        assert crowd.times[-1] == 100
        await kh.drain()


@pytest.mark.parametrize("step", [-1000, -30, 30, 1000])
async def test_a_clock_that_is_set_never_makes_room_in_a_period(autojump_clock, opened, crowd, clock, step):
    """By the records' times: a step forward ends the period earlier, one back later, and no window has too many."""
    async with opened(workers=4) as kh, trio.open_nursery() as nursery:
        await kh.limit("default", claims=2, period=60)
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets(*map(str, range(4))))
        await trio.sleep(10)
        clock.step(step)
        await kh.wait("3")
        await kh.drain()
        claims = [record.at async for record in kh.records() if type(record.event).__name__ == "TicketClaimed"]
        assert len(claims) == 4
        assert claims[2] - claims[0] >= timedelta(seconds=60)
        assert claims[3] - claims[1] >= timedelta(seconds=60)
        waited = trio.current_time()
        assert waited == pytest.approx(max(60 - step, 10), abs=15.1), "noticed within max_poll_interval"


# --- after a restart --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", [False, True])
async def test_all_that_was_told_holds_after_a_restart(autojump_clock, opened, crowd, tmp_path, snapshot):
    where = tmp_path / "queue"
    settings = {"segment_bytes": 4096, "snapshot_bytes": None, "tubes": ("default", "paused")}
    async with opened(where, **settings) as kh, trio.open_nursery() as nursery:
        await kh.pause("paused")
        await kh.pause("resumed")
        await kh.resume("resumed")
        await kh.limit("default", claimed=5, claims=3, period=100)
        await kh.add_many(tickets("p", tube="paused"))
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets(*map(str, range(8))))
        await trio.sleep(40)
        before = await kh.restricted_tubes()
        await kh.add_many([Ticket(f"filler-{number}", "t", tube="nobody's") for number in range(30)])
        await kh.drain()
    if snapshot:
        assert take(where) is not None
    async with opened(where, **settings) as kh, trio.open_nursery() as nursery:
        assert await kh.restricted_tubes() == before
        assert [tube.name for tube in before] == ["default", "paused"]
        await nursery.start(kh.run, crowd.router)
        await trio.sleep(59)
        assert len(crowd.runs) == 3
        await trio.sleep(2)
        assert len(crowd.runs) == 6, "the period began before the restart"
        assert (await kh.get("p")).attempts == 0
        await kh.resume("paused")
        await kh.wait("p")
        await kh.drain()
    assert kharon.replay(where).tubes.names() == ["default"]
    assert kharon.verify(where).bad_snapshots == ()


# --- subscriptions ----------------------------------------------------------------------------------------------------


async def test_without_subscriptions_nothing_is_claimed(autojump_clock, opened, crowd):
    async with opened(tubes=()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        assert kh.tubes == ()
        await trio.testing.wait_all_tasks_blocked()
        turns = Turns(kh)
        await kh.add_many(tickets("a", "b"))
        await trio.sleep(1000)
        assert turns.count == 0
        assert [ticket.attempts for ticket in await kh.list()] == [0, 0]
        kh.subscribe("default")
        await kh.wait("b")
        assert crowd.times == [1000, 1000]
        await kh.drain()


async def test_a_new_subscription_wakes_idle_workers(autojump_clock, opened, crowd):
    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a", tube="other"))
        await trio.sleep(100)
        assert crowd.runs == []
        kh.subscribe("other", "default", "third")
        assert kh.tubes == ("default", "other", "third")
        await kh.wait("a")
        await kh.add_many(tickets("b", tube="third"))
        await kh.wait("b")
        await kh.drain()
        assert crowd.times == [100, 100]


async def test_a_new_subscription_to_a_tube_at_its_limit_is_claimed_from_when_that_reopens(
    autojump_clock, opened, crowd
):
    async with opened(max_poll_interval=3600, tubes=("default", "slow")) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        await kh.limit("slow", claims=1, period=600)
        await kh.add_many(tickets("a", "b", tube="slow"))
        await kh.wait("a")
        kh.unsubscribe("slow")
        await kh.add(Ticket("c", "t"), delay=5)
        await kh.wait("c")
        await trio.sleep(100)  # and nothing is to come any more
        kh.subscribe("slow")
        await kh.wait("b")
        await kh.drain()
        assert list(zip(crowd.ids, crowd.times, strict=True)) == [("a", 0), ("c", 5), ("b", 600)]


async def test_what_is_unsubscribed_from_is_claimed_from_no_more(autojump_clock, opened, crowd):
    async with opened(workers=1, tubes=("default", "other")) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        await kh.add_many([*tickets("a", "b", tube="other", seconds=10), *tickets("c")])
        await trio.sleep(1)
        kh.unsubscribe("other", "unknown")
        assert kh.tubes == ("default",)
        await kh.wait("c")
        assert crowd.ids == ["a", "c"], "and what ran went on"
        turns = Turns(kh)
        await kh.add_many(tickets("d", tube="other"))
        await trio.sleep(100)
        assert turns.count == 0, "nobody is woken for what nobody claims"
        await kh.drain()


async def test_the_tubes_are_the_same_for_all_views(opened):
    async with opened() as kh:
        kh.acting_as("ann").subscribe("x")
        assert kh.tubes == ("default", "x")
        kh.subscribe("x")
        kh.subscribe()
        assert kh.tubes == ("default", "x")
        for name in ("", "\n", 7):
            with pytest.raises(kharon.InvalidTicket, match="tube"):
                kh.subscribe("y", name)
            with pytest.raises(kharon.InvalidTicket, match="tube"):
                kh.unsubscribe("x", name)
        assert kh.tubes == ("default", "x")
        assert await names(kh) == []


async def test_a_change_in_the_middle_of_a_turn_is_seen_before_the_worker_sleeps(autojump_clock, opened, crowd):
    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await kh.add_many([*tickets("a"), *tickets("b", tube="other")])

        @crowd.router.handler("last")
        async def _(kh, _ticket):
            nursery.start_soon(subscribing, kh)

        async def subscribing(kh):
            kh.subscribe("other")

        await kh.add(Ticket("z", "last", nice=999))
        await nursery.start(kh.run, crowd.router)
        await kh.wait("b")
        await kh.drain()
        assert crowd.ids == ["a", "b"]


# --- moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["update", "retry", "release"])
async def test_a_ticket_that_moves_wakes_who_claims_from_its_new_tube(autojump_clock, opened, crowd, verb):
    async with opened(tubes=("there",)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, crowd.router)
        await kh.add_many(tickets("a", tube="here"))
        await trio.sleep(10)
        assert crowd.runs == []
        if verb == "update":
            await kh.update("a", tube="there")
        elif verb == "release":
            claimed = await kh._store.turn("w", ("here",), None, settle_by="w", claim=True)
            assert (await kh.release(claimed, tube="there", payload=0)).attempts == 0
        else:
            await kh.retry("a", delay=0, tube="there")
        await kh.wait("a")
        assert crowd.times == [10]
        await kh.drain()


async def test_a_handler_moves_its_ticket_on(autojump_clock, opened, clock):
    seen = []
    router = kharon.Router()

    @router.handler("t")
    async def handle(kh, ticket):
        seen.append(ticket.tube)
        if ticket.tube == "first":
            await kh.retry(ticket, delay=0, tube="second")

    async with opened(tubes=("first", "second")) as kh, trio.open_nursery() as nursery:
        await kh.limit("first", claimed=1)
        await nursery.start(kh.run, router)
        await kh.add_many(tickets("a", "b", tube="first"))
        await kh.wait("a")
        await kh.wait("b")
        await kh.drain()
    assert sorted(seen) == ["first", "first", "second", "second"]


@pytest.mark.parametrize("fenced", [True, False])
@pytest.mark.parametrize(
    ("verb", "more"), [("done", {}), ("ack", {"keep": True}), ("fail", {}), ("cancel", {"keep": True})]
)
async def test_what_ends_can_move_in_the_same_commit(autojump_clock, opened, verb, more, fenced):
    """And it is not claimed there until it is restarted; room in the tube that it leaves is there at once."""
    seen = []
    router = kharon.Router()

    @router.handler("t")
    async def handle(kh, ticket):
        seen.append((ticket.id, ticket.tube))
        if ticket.tube == "first":
            settled = await getattr(kh, verb)(ticket if fenced else ticket.id, tube="second", **more)
            assert (settled.tube, settled.blocked) == ("second", False)

    async with opened(tubes=("first", "second")) as kh, trio.open_nursery() as nursery:
        await kh.limit("first", claimed=1)
        await nursery.start(kh.run, router)
        await kh.add_many(tickets("a", "b", tube="first"))
        await kh.wait("a")
        await kh.wait("b")
        assert seen == [("a", "first"), ("b", "first")]
        records = [record async for record in kh.records()]
        pairs = [pair for pair in pairwise(records) if isinstance(pair[1].event, TicketUpdated)]
        assert [(moved.event.id, ended.event.id) for ended, moved in pairs] == [("a", "a"), ("b", "b")]
        assert all((ended.part, moved.part, ended.by) == ((1, 2), (2, 2), moved.by) for ended, moved in pairs)
        assert [ticket.id for ticket in await kh.list(tube="second")] == ["a", "b"]
        await kh.restart("a")
        await kh.wait("a")
        assert seen[2:] == [("a", "second")]
        await kh.drain()


async def test_what_ends_in_a_block_can_move_too(autojump_clock, opened):
    async with opened() as kh:
        await kh.add_many(tickets("a", "b", "c", "d"))
        async with kh.atomic() as tx:
            tx.done("a", tube="second")
            tx.fail("b", tube="second")
            tx.cancel("c", keep=True, tube="second")
            tx.ack("d", keep=True, tube="second")
        assert [(ticket.id, ticket.status) for ticket in await kh.list(tube="second")] == [
            *(("a", Status.DONE), ("b", Status.FAILED), ("c", Status.CANCELLED), ("d", Status.DONE))
        ]


async def test_what_is_removed_moves_nowhere(autojump_clock, opened):
    async with opened() as kh:
        await kh.add_many(tickets("a"))
        for remove in (kh.ack, kh.cancel):
            with pytest.raises(InvalidTicket, match=r"tube.*keep=True"):
                await remove("a", tube="second")
        with pytest.raises(InvalidTicket, match="tube: a name is a str"):
            await kh.fail("a", tube=2)
        assert (await kh.get("a")).tube == "default"


async def test_many_tubes_are_claimed_from_in_the_order_of_their_tickets(autojump_clock, opened, crowd):
    names = [f"tube-{number}" for number in range(200)]
    async with opened(workers=1, tubes=names) as kh, trio.open_nursery() as nursery:
        await kh.add_many(
            Ticket(str(number), "t", tube=names[number * 7919 % 200], nice=number * 31 % 1000) for number in range(1000)
        )
        await nursery.start(kh.run, crowd.router)
        expected = [str(number) for number in sorted(range(1000), key=lambda number: (number * 31 % 1000, number))]
        await kh.wait(expected[-1])
        await kh.drain()
        assert crowd.ids == expected
