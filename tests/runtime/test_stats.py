"""What is counted, and by what."""

import math

import msgspec
import pytest
import trio
from handlers import for_ever, nothing
from msgspec import Raw
from trio.testing import wait_all_tasks_blocked

import kharon
from kharon import FixedDelay, Histogram, Settings, Ticket
from kharon.model import events as e
from kharon.model.projection import Change, Projection
from kharon.runtime.stats import BOUNDS, MAX_ROWS, OTHERS, Stats, Tally
from kharon.testing import EPOCH, TrioClock

COUNTERS = (
    *("added", "claimed", "processed", "acked", "done", "failed", "cancelled"),
    *("retried", "released", "lapsed", "deleted", "expired"),
    *("extended", "restarted", "updated", "unblocked"),
)


def opened(**settings):
    return kharon.open(":memory:", Settings(**settings), clock=TrioClock())


def counts(stats):
    return {name: count for name in COUNTERS if (count := getattr(stats, name))}


def router_of(**handlers):
    router = kharon.Router()
    for type, handle in handlers.items():
        router.handler(type)(handle)
    return router


async def groan(_kh, _ticket):
    raise ValueError


# --- counters ---------------------------------------------------------------------------------------------------------


CASES = {
    "added": (lambda kh: kh.add(Ticket("x", "t")), {"added": 1}),
    "added again": (lambda kh: kh.add(Ticket("a", "t")), {"added": 1}),
    "not added": (lambda kh: kh.add(Ticket("a", "t"), on_conflict="skip"), {}),
    "acked": (lambda kh: kh.ack("a"), {"acked": 1}),
    "done": (lambda kh: kh.done("a"), {"done": 1}),
    "failed": (lambda kh: kh.fail("a"), {"failed": 1}),
    "cancelled": (lambda kh: kh.cancel("a"), {"cancelled": 1}),
    "cancelled and kept": (lambda kh: kh.cancel("a", keep=True), {"cancelled": 1}),
    "retried": (lambda kh: kh.retry("a"), {"retried": 1}),
    "deleted": (lambda kh: kh.delete("a"), {"deleted": 1}),
    "deleted nobody": (lambda kh: kh.delete("nobody"), {}),
    "updated": (lambda kh: kh.update("a", nice=1), {"updated": 1}),
    "done and moved": (lambda kh: kh.done("a", tube="x"), {"done": 1, "updated": 1}),
}


@pytest.mark.parametrize("name", CASES)
async def test_each_command_counts_once(name):
    call, expected = CASES[name]
    async with opened() as kh:
        await kh.add(Ticket("a", "t"))
        kh.reset_stats()
        await call(kh)
        assert counts(kh.stats()) == expected


def test_every_event_is_counted():
    """By its name; and each that is about a ticket by one counter, too."""
    ticket = Projection().apply(e.TicketAdded("x", "t", Raw(b"1"), "x", 1, EPOCH), 1, EPOCH).new
    for kind in e.EVENTS.values():
        event = kind(**{field.name: "x" for field in msgspec.structs.fields(kind) if field.required})
        tally, name = Tally(), type(event).__name__
        tally.deliver([Change(2, EPOCH, event, ticket if isinstance(event, e.TicketEvent) else None, None)])
        found = tally.stats()
        assert found.events == {name: 1}
        assert len(counts(found)) == isinstance(event, e.TicketEvent), name
        assert set(counts(found)) <= {"acked" if kind is e.TicketDone else event.word}, name
        tally.reset()
        assert tally.stats() == Stats()


async def test_what_tubes_and_schedules_did_is_counted(tmp_path):
    async with kharon.open(tmp_path / "queue", Settings(segment_bytes=4096, compress_beyond_bytes=1)) as kh:
        await kh.pause("x")
        await kh.pause("x")
        await kh.schedule("s", every=60, ticket=Ticket("s", "t"))
        await kh.unschedule("s")
        await kh.add_many(Ticket(str(number), "t", payload="x" * 400) for number in range(30))
        with trio.fail_after(60):
            while "SegmentCompressed" not in kh.stats().events:  # noqa: ASYNC110 - a thread does it
                await trio.sleep(0.01)
        found = {name: count for name, count in kh.stats().events.items() if name != "SegmentCompressed"}
        assert found == {"TubePaused": 1, "ScheduleSet": 1, "ScheduleRemoved": 1, "TicketAdded": 30}
    async with kharon.open(tmp_path / "queue") as kh:
        assert kh.stats().events == {}


async def test_a_refused_command_counts_nothing():
    async with opened() as kh:
        await kh.add(Ticket("a", "t"))
        kh.reset_stats()
        with pytest.raises(kharon.TicketExists):
            await kh.add_many([Ticket("b", "t"), Ticket("a", "t")], on_conflict="raise")
        assert counts(kh.stats()) == {}


RUNS = {
    "acked": (nothing, {}, {"claimed": 1, "processed": 1, "acked": 1}),
    "done": (nothing, {"on_return": "done"}, {"claimed": 1, "processed": 1, "done": 1}),
    "raised": (groan, {"backoff": FixedDelay(1000)}, {"claimed": 1, "processed": 1, "retried": 1}),
    "raised to the end": (
        *(groan, {"max_attempts": 3, "backoff": FixedDelay(1)}),
        {"claimed": 3, "processed": 3, "retried": 2, "failed": 1},
    ),
    "lapsed": (for_ever, {"backoff": FixedDelay(1000)}, {"claimed": 1, "processed": 1, "lapsed": 1}),
    "lapsed to the end": (
        *(for_ever, {"max_attempts": 1}),
        {"claimed": 1, "processed": 1, "lapsed": 1, "failed": 1},
    ),
    "left": (nothing, {"on_return": "leave", "process_time": 1000}, {"claimed": 1, "processed": 1}),
    "running": (for_ever, {"process_time": 1000}, {"claimed": 1}),
}


@pytest.mark.parametrize("name", RUNS)
async def test_a_run_is_counted(name, autojump_clock):
    handle, settings, expected = RUNS[name]
    async with opened(**settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(t=handle))
        await kh.add(Ticket("a", "t"))
        await trio.sleep(100)
        assert counts(kh.stats()) == {"added": 1, **expected}
        assert kh.stats().workers_running == (name == "running")
        nursery.cancel_scope.cancel()
    assert kh.stats().workers_running == 0
    assert kh.stats().released == (name == "running")


async def test_counts_are_by_type_and_tube():
    async with opened() as kh:
        await kh.add(Ticket("a", "mail"))
        await kh.add(Ticket("b", "mail", tube="slow"))
        await kh.add(Ticket("c", "print", tube="slow"))
        await kh.ack("c")
        await kh.fail("a")
        stats = kh.stats()
        assert {key: counts(of) for key, of in stats.by.items()} == {
            ("mail", "default"): {"added": 1, "failed": 1},
            ("mail", "slow"): {"added": 1},
            ("print", "slow"): {"added": 1, "acked": 1},
        }
        assert counts(stats) == {"added": 3, "failed": 1, "acked": 1}


async def test_adding_again_under_another_type_counts_for_that_one():
    async with opened() as kh:
        await kh.add(Ticket("a", "old"))
        await kh.add(Ticket("a", "new", tube="deep"))
        assert {key: counts(of) for key, of in kh.stats().by.items()} == {
            ("old", "default"): {"added": 1},
            ("new", "deep"): {"added": 1},
        }


async def test_stats_are_of_one_moment():
    async with opened() as kh:
        await kh.add(Ticket("a", "t"))
        before = kh.stats()
        copy = (counts(before), counts(before.by["t", "default"]))
        await kh.add(Ticket("b", "t"))
        assert (counts(before), counts(before.by["t", "default"])) == copy
        assert kh.stats().added == 2


async def test_they_begin_anew_after_a_reset(autojump_clock):
    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(t=nothing, hold=for_ever))
        await kh.add_many([Ticket("a", "t"), Ticket("b", "hold")])
        await trio.sleep(1)
        kh.reset_stats()
        stats = kh.stats()
        assert counts(stats) == {}
        assert stats.by == {}
        assert (stats.queue_wait.count, stats.processing_time.count) == (0, 0)
        assert stats.workers_running == 1  # that is how it is, and no count
        nursery.cancel_scope.cancel()


async def test_all_views_share_the_stats():
    async with opened() as kh:
        await kh.acting_as("ann").add(Ticket("a", "t"))
        assert kh.stats().added == 1


async def test_workers_running_is_what_runs_now(autojump_clock):
    async def handle(_kh, _ticket):
        await trio.sleep(10)

    async with opened(workers=3) as kh, trio.open_nursery() as nursery:
        assert kh.stats().workers_running == 0
        await nursery.start(kh.run, router_of(t=handle))
        await kh.add_many(Ticket(str(number), "t") for number in range(2))
        await wait_all_tasks_blocked()
        assert kh.stats().workers_running == 2
        await kh.drain()
        assert kh.stats().workers_running == 0


# --- histograms -------------------------------------------------------------------------------------------------------


async def test_how_long_tickets_waited_and_ran(autojump_clock):
    """From when one was due, not from when it was added, to its claim; and the run."""

    async def handle(_kh, _ticket):
        await trio.sleep(4)

    async with opened(workers=1) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t"), delay=100)
        await kh.add(Ticket("b", "t"), delay=100)
        await trio.sleep(101)
        await nursery.start(kh.run, router_of(t=handle))
        await kh.wait("b")
        stats = kh.stats()
        assert stats.queue_wait.count == stats.processing_time.count == 2
        assert stats.queue_wait.total == pytest.approx(1 + 5, abs=0.05)
        assert stats.processing_time.mean == pytest.approx(4, abs=0.01)
        assert stats.by["t", "default"].processing_time == stats.processing_time
        assert stats.processing_time.quantile(0.5) == 5
        nursery.cancel_scope.cancel()


async def test_a_runat_in_the_past_is_waited_for_from_the_adding_on(autojump_clock):
    async with opened() as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t", runat=kharon.testing.EPOCH.replace(year=2020)))
        await trio.sleep(7)
        await nursery.start(kh.run, router_of(t=nothing))
        await kh.wait("a")
        assert kh.stats().queue_wait.total == pytest.approx(7, abs=0.01)
        nursery.cancel_scope.cancel()


def test_a_histogram_says_what_it_was_given():
    histogram = Histogram()
    for seconds in (0.0015, 0.0015, 0.03, 4, 0, 1e9):
        histogram.add(seconds)
    assert histogram.count == 6 == sum(histogram.buckets)
    assert histogram.mean == pytest.approx((0.003 + 0.03 + 4 + 1e9) / 6)
    assert histogram.quantile(0) == BOUNDS[0] == 1e-5
    assert [histogram.quantile(share) for share in (1 / 6, 0.5, 4 / 6, 5 / 6, 1)] == pytest.approx(
        [1e-5, 0.002, 0.05, 5, math.inf]
    )


def test_a_bound_belongs_to_its_bucket():
    histogram = Histogram()
    histogram.add(0.5)
    assert histogram.quantile(1) == 0.5
    histogram.add(math.nextafter(0.5, 1))
    assert histogram.quantile(1) == 1


def test_the_bounds_are_1_2_5():
    assert list(BOUNDS) == sorted(BOUNDS)
    assert BOUNDS[:4] == pytest.approx((1e-5, 2e-5, 5e-5, 1e-4))
    assert BOUNDS[-1] == 500_000
    assert len(Histogram().buckets) == len(BOUNDS) + 1


def test_an_empty_histogram_has_no_mean():
    assert math.isnan(Histogram().mean)
    assert math.isnan(Histogram().quantile(0.5))


def test_a_copy_does_not_change():
    histogram = Histogram()
    copy = histogram.copy()
    histogram.add(1)
    assert (copy.count, sum(copy.buckets)) == (0, 0)


async def test_queue_wait_begins_with_the_last_of_due_unblocked_released_and_restarted(mock_clock):
    claims = []

    async def wait_of(kh, id):
        """The queue wait of the next claim of a ticket, three seconds from now."""
        mock_clock.jump(3)
        kh.reset_stats()
        claims.append(await kh._store.turn("w", ("default",), None, settle_by="w", claim=True))
        assert claims[-1].id == id
        return kh.stats().queue_wait.total

    async with opened() as kh:
        await kh.add(Ticket("blocker", "t"), delay=1000)
        await kh.add(Ticket("a", "t"), after=["blocker"])
        mock_clock.jump(100)
        await kh.done("blocker")
        assert await wait_of(kh, "a") == 3
        mock_clock.jump(20)  # it runs
        await kh.update("a", nice=1)
        await kh.release("a")
        await kh.update("a", nice=2)
        assert await wait_of(kh, "a") == 3
        mock_clock.jump(20)
        await kh.add(Ticket("a", "t"))
        mock_clock.jump(20)
        await kh.ack(claims[-1])
        assert await wait_of(kh, "a") == 3
        await kh.fail("a")
        mock_clock.jump(20)
        await kh.restart("a")
        assert await wait_of(kh, "a") == 3


def test_rows_are_bounded_and_the_longest_unseen_are_folded_into_one():
    collector, projection = Tally(), Projection()

    def add(number):
        event = e.TicketAdded(f"{number}", "t", Raw(b"1"), f"tube {number}", 1, EPOCH)
        collector.deliver([projection.apply(event, projection.seq + 1, EPOCH)])

    for number in range(MAX_ROWS):
        add(number)
    assert len(collector.stats().by) == MAX_ROWS
    assert OTHERS not in collector.stats().by
    add(0)  # seen again
    for number in range(MAX_ROWS, MAX_ROWS + 10):
        add(number)
    stats = collector.stats()
    assert len(stats.by) == MAX_ROWS
    assert stats.added == MAX_ROWS + 11
    assert stats.by["t", "tube 0"].added == 2
    assert stats.by[OTHERS].added == 11
    assert ("t", "tube 11") not in stats.by
    assert stats.by["t", "tube 12"].added == 1
    assert next(reversed(stats.by)) == ("t", f"tube {MAX_ROWS + 9}")
