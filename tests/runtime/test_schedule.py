"""Periodic tickets in a queue that runs: in virtual time, over restarts, kills, steps of the clock and full disks."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

import kharon
from kharon import Schedule, Settings, Ticket
from kharon.log.memory import MemoryLog
from kharon.model.events import ScheduleFired, ScheduleSet, TicketAdded
from kharon.store import calendar
from kharon.testing import EPOCH, FailingLog, TrioClock

DAY = 86400


class Hand:
    """A clock that is set by hand."""

    def __init__(self, now=EPOCH):
        self.time = now

    def now(self):
        return self.time


def template(type="t", **fields):
    return Ticket("template", type, **fields)


def at(seconds):
    return EPOCH + timedelta(seconds=seconds)


class Seen:
    def __init__(self, clock):
        self.clock = clock
        self.runs = []
        self.router = kharon.Router()
        self.router.handler("t")(self.handle)

    async def handle(self, _kh, ticket):
        assert self.clock.now() >= ticket.runat
        self.runs.append((ticket.id, (ticket.runat - EPOCH).total_seconds()))

    @property
    def instants(self):
        return [instant for _, instant in self.runs]


@pytest.fixture
def seen(clock):
    return Seen(clock)


async def ran(kh, seen, seconds):
    """Run the queue for so long."""
    with trio.move_on_after(seconds):
        await kh.run(seen.router)


async def events(kh, *kinds):
    return [record async for record in kh.records() if isinstance(record.event, kinds)]


# --- time that passes -------------------------------------------------------------------------------------------------


async def test_a_day_of_periodic_tickets(autojump_clock, clock, seen):
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("quarter", "*/15 * * * *", ticket=template(payload={"a": 1}))
        await kh.schedule("often", every=timedelta(minutes=10), ticket=template())
        await ran(kh, seen, DAY + 1)
        expected = sorted([*range(900, DAY + 1, 900), *range(600, DAY + 1, 600)])
        assert seen.instants == expected
        assert [id for id, _ in seen.runs[:3]] == [
            "often@2026-01-01T00:10:00Z",
            "quarter@2026-01-01T00:15:00Z",
            "often@2026-01-01T00:20:00Z",
        ]
        fired = await events(kh, ScheduleFired, TicketAdded)
        assert {record.by for record in fired} == {"clock"}
        assert {record.part[1] for record in fired} == {2}, "each is one commit with its ticket"
        [first, second] = await kh.schedules()
        assert (first.name, first.every, first.last, first.next) == ("often", 600, at(DAY), at(DAY + 600))
        assert (second.cron, second.tz, second.catch_up, second.payload) == ("*/15 * * * *", "UTC", "one", {"a": 1})


async def test_it_fires_only_while_run_runs_and_at_once_when_it_runs_again(autojump_clock, clock, seen):
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("s", every=60, ticket=template())
        await trio.sleep(1000)
        assert await kh.list() == []
        await ran(kh, seen, 1)
        assert seen.instants == [960]


async def test_one_scheduled_while_run_waits_is_noticed_and_one_unscheduled_is_gone(autojump_clock, clock, seen):
    async with (
        kharon.open(":memory:", Settings(max_poll_interval=3600), clock=clock) as kh,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(kh.run, seen.router)
        await trio.sleep(5)
        await kh.schedule("s", every=60, ticket=template())
        await trio.sleep(130)
        assert seen.instants == [65, 125]
        await kh.unschedule("s")
        await kh.unschedule("s")
        await trio.sleep(1000)
        assert seen.instants == [65, 125]
        assert await kh.schedules() == []
        nursery.cancel_scope.cancel()


async def test_scheduling_again_at_each_start_writes_nothing_and_keeps_the_phase(tmp_path, autojump_clock, clock, seen):
    for _ in range(4):
        async with kharon.open(tmp_path / "queue", clock=clock) as kh:
            await kh.schedule("s", every=100, ticket=template())
            await kh.schedule("c", "0  0 * * *", ticket=template(), tz="Europe/Berlin")
            assert len(await events(kh, ScheduleSet)) == 2
            await ran(kh, seen, 70)
    assert seen.instants == [100, 200]


async def test_the_ticket_before_may_still_be_pending(autojump_clock, clock, seen):
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("s", every=60, ticket=template(tube="nobody's", group="g", nice=7))
        await ran(kh, seen, 200)
        found = await kh.list()
        assert [(one.runat, one.tube, one.group, one.nice) for one in found] == [
            (at(seconds), "nobody's", "g", 7) for seconds in (60, 120, 180)
        ]


# --- clocks that are set, and put -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("catch_up", "missed"), [("one", [3660]), ("all", range(120, 3661, 60)), ("none", [3660])])
async def test_a_clock_that_is_set_forward_is_caught_up(autojump_clock, clock, seen, catch_up, missed):
    async with kharon.open(":memory:", clock=clock) as kh, trio.open_nursery() as nursery:
        await kh.schedule("s", "* * * * *", ticket=template(), catch_up=catch_up)
        await nursery.start(kh.run, seen.router)
        await trio.sleep(61)
        clock.step(3599)
        await trio.sleep(75)
        assert sorted(seen.instants) == [60, *missed, 3720]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("catch_up", ["one", "all", "none"])
@pytest.mark.parametrize("timing", [{"every": 60}, {"cron": "* * * * *"}])
async def test_a_clock_that_is_set_back_fires_nothing_again(autojump_clock, clock, seen, catch_up, timing):
    async with kharon.open(":memory:", clock=clock) as kh, trio.open_nursery() as nursery:
        await kh.schedule("s", ticket=template(), catch_up=catch_up, **timing)
        await nursery.start(kh.run, seen.router)
        await trio.sleep(605)
        clock.step(-300)
        await kh.schedule("s", ticket=template(nice=1), catch_up=catch_up, **timing)
        await trio.sleep(300)
        assert seen.instants == [60 * number for number in range(1, 11)]
        await trio.sleep(60)
        assert seen.instants == [60 * number for number in range(1, 12)]
        nursery.cancel_scope.cancel()


async def test_other_times_after_a_step_back_begin_behind_what_has_fired(autojump_clock, clock, seen):
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("s", "*/10 * * * *", ticket=template())
        await ran(kh, seen, 1201)
        clock.step(-1000)
        await kh.schedule("s", "*/5 * * * *", ticket=template())
        assert (await kh.schedules())[0].next == at(1500)
        await ran(kh, seen, 1400)
        assert seen.instants == [600, 1200, 1500]


@pytest.mark.parametrize(
    ("tz", "cron", "begin", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", datetime(2026, 3, 27, 12, tzinfo=UTC), ["28 01:30", "29 01:00", "30 00:30"]),
        ("Europe/Berlin", "30 2 * * *", datetime(2026, 10, 23, 12, tzinfo=UTC), ["24 00:30", "25 00:30", "26 01:30"]),
        ("America/New_York", "30 2 * * *", datetime(2026, 3, 6, 12, tzinfo=UTC), ["07 07:30", "08 07:00", "09 06:30"]),
        (
            "America/New_York",
            "30 1 * * *",
            datetime(2026, 10, 30, 12, tzinfo=UTC),
            ["31 05:30", "01 05:30", "02 06:30"],
        ),
    ],
)
async def test_where_clocks_are_put_no_night_fires_twice_or_not_at_all(autojump_clock, tz, cron, begin, expected):
    clock = TrioClock(begin)
    seen = Seen(clock)
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("night", cron, ticket=template(), tz=tz)
        await kh.schedule("day", every=timedelta(days=1), ticket=template())
        await ran(kh, seen, 3 * DAY)
    ids = [id for id, _ in seen.runs]
    assert [f"{datetime.fromisoformat(id[6:]):%d %H:%M}" for id in ids if id.startswith("night")] == expected
    assert [id[4:] for id in ids if id.startswith("day")][:2] == [
        f"{begin + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (1, 2)
    ]


# --- restarts, kills, and what the world does -------------------------------------------------------------------------


@pytest.mark.parametrize(("catch_up", "count"), [("one", 1), ("all", 58), ("none", 2)])
async def test_downtime_is_caught_up_once_however_often_it_is_killed(tmp_path, autojump_clock, catch_up, count):
    """Each time the process is gone right after the firing is on disk, and before anybody heard of it."""
    clock = Hand()
    where = tmp_path / "queue"
    async with kharon.open(where, clock=clock) as kh:
        await kh.schedule("s", "* * * * *", ticket=template(), catch_up=catch_up)
    clock.time = at(58 * 60)
    for _ in range(3):
        opened = kharon.open(where, clock=clock)
        kh = await opened.__aenter__()
        kh._queue._deliver = lambda _commit: None
        await kh._store.tick()
        kh._store._log.abandon()  # killed
        projection = kharon.replay(where)
        projection.check()
        assert len(projection.tickets) == count
        assert (projection.schedules.get("s").last, projection.schedules.get("s").next) == (clock.time, at(59 * 60))
    kharon.verify(where)


async def test_a_thousand_missed_are_done_in_ticks_of_bounded_work(autojump_clock):
    clock = Hand()
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("s", every=60, ticket=template(), catch_up="all")
        clock.time = at(60 * 5000)
        counts = []
        while await kh._store.tick() == 0:
            counts.append(len(await kh.list(limit=None)))
        assert counts == list(range(100, 1000, 100))
        found = await kh.list(limit=None)
        assert [one.runat for one in found] == [at(60 * number) for number in range(4001, 5001)]


async def test_a_full_disk_leaves_nothing_half_done_and_it_fires_when_there_is_room(autojump_clock, clock, seen):
    log = FailingLog(MemoryLog(), error=kharon.StorageFull("no room"))
    async with kharon.open(log, clock=clock) as kh, trio.open_nursery() as nursery:
        await kh.schedule("s", every=60, ticket=template())
        await kh.schedule("all", every=60, ticket=template("u", tube="x"), catch_up="all")
        await nursery.start(kh.run, seen.router)
        await trio.sleep(59)
        log.fail, writes = "write", log.calls["write"]
        await trio.sleep(121)
        assert seen.runs == await kh.list() == []
        assert [one.next for one in await kh.schedules()] == [at(60), at(60)]
        assert log.calls["write"] - writes <= 125, "one try a second, and no more"
        kh._store.projection.check()
        log.fail = None
        await trio.sleep(10)
        assert seen.instants == [180]
        assert [one.runat for one in await kh.list()] == [at(60), at(120), at(180)]
        nursery.cancel_scope.cancel()


async def test_a_tick_without_room_waits_for_the_next_try(autojump_clock, clock):
    log = FailingLog(MemoryLog(), error=kharon.StorageFull("no room"))
    async with kharon.open(log, clock=clock) as kh:
        await kh.schedule("s", every=60, ticket=template())
        await trio.sleep(61)
        log.fail = "write"
        assert await kh._store.tick() == pytest.approx(1, abs=1e-3)
        for _ in range(3):
            assert await kh._store.tick() == pytest.approx(1, abs=1e-3)
        log.fail = None
        await trio.sleep(1.1)
        assert await kh._store.tick() == pytest.approx(120 - 62.1, abs=1e-3)


async def test_without_the_time_zone_the_queue_opens_and_all_else_runs(
    tmp_path, autojump_clock, clock, seen, monkeypatch, caplog
):
    where = tmp_path / "queue"
    async with kharon.open(where, clock=clock) as kh:
        await kh.schedule("s", "*/2 * * * *", ticket=template(), tz="Europe/Berlin")
        await kh.schedule("every", every=60, ticket=template())
    real = calendar._zone

    def missing(name):
        raise kharon.InvalidTicket(f"tz: there is no time zone {name!r} here")

    monkeypatch.setattr(calendar, "_zone", missing)
    kharon.verify(where)
    with caplog.at_level(logging.WARNING, "kharon"):
        async with kharon.open(where, clock=clock) as kh, trio.open_nursery() as nursery:
            await nursery.start(kh.run, seen.router)
            await trio.sleep(301)
            assert seen.instants == [60, 120, 180, 240, 300]
            assert kharon.replay(where).schedules.get("s").next == at(120)
            monkeypatch.setattr(calendar, "_zone", real)
            await trio.sleep(calendar.RETRY_SECONDS)
            assert seen.instants[5:] == [240], "one of those that were missed"
            nursery.cancel_scope.cancel()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "schedule 's' is due but cannot fire on this machine"
    ]


async def test_a_tick_that_cannot_fire_does_not_spin(autojump_clock, clock, monkeypatch):
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("s", "* * * * *", ticket=template())
        monkeypatch.setattr(calendar, "times_of", lambda *_args: (_ for _ in ()).throw(kharon.KharonError("no")))
        await trio.sleep(61)
        assert await kh._store.tick() == pytest.approx(calendar.RETRY_SECONDS, abs=1e-3)


async def test_snapshots_and_trims_keep_schedules(tmp_path):
    where = tmp_path / "queue"
    settings = Settings(
        segment_bytes=4096, snapshot_bytes=1, trim_beyond_bytes=1, max_poll_interval=0.05, fsync="never"
    )
    async with kharon.open(where, settings) as kh:
        await kh.schedule("s", every=3600, ticket=template(payload="x"), catch_up="none")
        before = await kh.schedules()
        with trio.fail_after(60):
            while await kh.first_record() < 50:
                await kh.add_many([Ticket(f"t{number}", "t", payload="x" * 300) for number in range(40)])
                await trio.sleep(0.001)
    async with kharon.open(where, settings) as kh:
        assert await kh.schedules() == before
    assert not kharon.verify(where).bad_snapshots


async def test_a_block_schedules_and_unschedules_with_all_else_or_not_at_all(autojump_clock, clock):
    async with kharon.open(":memory:", clock=clock) as kh:
        async with kh.atomic() as tx:
            tx.add(Ticket("a", "t"))
            tx.schedule("s", every=60, ticket=template())
            tx.schedule("c", "* * * * *", ticket=template(), tz="Asia/Tokyo")
        assert tx.tickets[1:] == [None, None]
        before = await kh.schedules()
        assert [one.name for one in before] == ["c", "s"]
        with pytest.raises(kharon.TicketNotFound, match="command 2 of 2"):  # noqa: PT012 - the end of the block refuses
            async with kh.atomic() as tx:
                tx.unschedule("s")
                tx.done("nobody")
        assert await kh.schedules() == before
        async with kh.atomic() as tx:
            tx.unschedule("s")
            tx.unschedule("c")
        assert await kh.schedules() == []


async def test_a_block_counts_from_its_end_so_that_what_fired_meanwhile_does_not_fire_again(
    autojump_clock, clock, seen
):
    async with kharon.open(":memory:", clock=clock) as kh, trio.open_nursery() as nursery:
        await kh.schedule("s", "*/10 * * * *", ticket=template())
        await nursery.start(kh.run, seen.router)
        await trio.sleep(599)
        async with kh.atomic() as tx:
            tx.schedule("s", "*/5 * * * *", ticket=template())
            await trio.sleep(2)
        await trio.sleep(600)
        assert seen.instants == [600, 900, 1200]
        nursery.cancel_scope.cancel()


async def test_a_block_at_whose_end_nothing_is_left_to_fire_is_refused(autojump_clock, clock):
    clock.step((datetime.max.replace(tzinfo=UTC) - EPOCH).total_seconds() - 100)
    async with kharon.open(":memory:", clock=clock) as kh:
        tx = await kh.atomic().__aenter__()
        tx.schedule("s", every=60, ticket=template())
        await trio.sleep(80)
        with pytest.raises(kharon.InvalidTicket, match="would never fire"), trio.testing.assert_checkpoints():
            await tx.__aexit__(None, None, None)
        assert await kh.schedules() == []


async def test_a_refusal_of_a_schedule_names_its_command(clock):
    clock.step((datetime.max.replace(tzinfo=UTC) - EPOCH).total_seconds() - 30)
    async with kharon.open(":memory:", clock=clock) as kh:
        tx = await kh.atomic().__aenter__()
        tx.add(Ticket("a", "t"))
        tx.schedule("s", every=60, ticket=template())
        with pytest.raises(
            kharon.InvalidTicket, match=r"command 2 of 2, setschedule of schedule 's', is refused, .* would never fire"
        ):
            await tx.__aexit__(None, None, None)
        assert (await kh.list(), await kh.schedules()) == ([], [])


async def test_a_schedule_that_the_same_block_removed_before_has_fired_nothing(mock_clock, clock):
    async with kharon.open(":memory:", clock=clock) as kh:
        await kh.schedule("s", every=60, ticket=template())
        clock.step(60)
        await kh._store.tick()
        clock.step(-60)
        await kh.schedule("s", every=50, ticket=template())
        assert [(one.next, one.last) for one in await kh.schedules()] == [(at(110), at(60))]
        async with kh.atomic() as tx:
            tx.unschedule("s")
            tx.schedule("s", every=60, ticket=template())
        assert [(one.next, one.last) for one in await kh.schedules()] == [(at(60), None)]


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD = {"cron": "* * * * *", "ticket": template()}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": ""}, "name: a name cannot be empty"),
        ({"name": "x" * 173}, "name: .* longer than 172 bytes"),
        ({"name": 5}, "name: a name is a str"),
        ({"cron": None}, r"schedule 's': give either cron \(an expression\) or every \(a duration\)"),
        ({"every": 5}, "schedule 's': give either cron"),
        ({"cron": 5}, "cron: an expression, a str, not int"),
        ({"cron": "* * * *"}, "cron: .* does not have 5 fields"),
        ({"cron": "0 0 30 2 *"}, "cron: '0 0 30 2 \\*' is not a cron expression: Bad day-of-month"),
        ({"cron": None, "every": 0}, "every: 0 seconds are less than 1"),
        ({"cron": None, "every": -5}, "every: -5.0 seconds is not between"),
        ({"cron": None, "every": 60, "tz": "Europe/Berlin"}, "tz: a time zone needs cron"),
        ({"tz": "Mars/Olympus"}, "tz: there is no time zone 'Mars/Olympus'"),
        ({"tz": UTC}, "tz: the name of a time zone, not timezone"),
        ({"catch_up": "some"}, 'catch_up: \'some\' is none of "one", "all", "none"'),
        ({"ticket": "t"}, "ticket: schedule takes a kharon.Ticket, not str"),
        ({"ticket": template(runat=EPOCH)}, "ticket: a scheduled ticket has no runat"),
    ],
)
async def test_what_cannot_be_scheduled_is_refused(arguments, why):
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        arguments = {"name": "s"} | GOOD | arguments
        with trio.testing.assert_checkpoints(), pytest.raises(kharon.InvalidTicket, match=why):
            await kh.schedule(**arguments)
        assert await kh.schedules() == []


async def test_a_cron_expression_that_never_fires_is_refused():
    class Never:
        CronSimError = ValueError

        def CronSim(self, *_args):  # noqa: N802 - the library's name
            return iter(())

    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calendar, "_load", Never)
            with pytest.raises(
                kharon.InvalidTicket, match="schedule 's' would never fire: no instant fits '0 0 31 2 1'"
            ):
                await kh.schedule("s", "0 0 31 2 1", ticket=template())


async def test_a_ticket_that_the_queue_gave_is_a_template_too():
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        given = await kh.add(Ticket("a", "t", payload=[1]))
        await kh.schedule("s", every=60, ticket=given)
        [schedule] = await kh.schedules()
        assert isinstance(schedule, Schedule)
        assert schedule.payload == [1]


async def test_without_the_library_cron_names_the_extra_and_every_works(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cronsim", None)
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        with pytest.raises(kharon.KharonError, match=r"pip install 'kharon\[cron\]'"):
            await kh.schedule("s", "* * * * *", ticket=template())
        await kh.schedule("s", every=60, ticket=template())
