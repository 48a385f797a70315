"""Groups and finalizers of a queue: the count, the wait, adding many, and after a restart."""

import pytest
import trio
from handlers import ids, names, router_of
from msgspec import Raw
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import kharon
from kharon import Status, Ticket
from kharon.model import events as e
from kharon.model.projection import Projection
from kharon.runtime.waits import GroupWaits
from kharon.testing import EPOCH, TrioClock


def members(count, group="g"):
    return [Ticket(f"m{number}", "t", group=group) for number in range(count)]


def no_trace(kh):
    return kh._queue.group_waits.by_name == {}


# --- the count --------------------------------------------------------------------------------------------------------


async def test_a_group_that_no_ticket_is_in(kh):
    group = kh.group("nobody's")
    assert (group.name, repr(group)) == ("nobody's", '<Group "nobody\'s">')
    assert await group.pending_count() == 0
    assert await group.all_terminal() is True
    await group.wait()
    assert no_trace(kh)


@pytest.mark.parametrize("name", ["", "a\n", "x" * 201, None, 3])
async def test_what_cannot_be_the_name_of_a_group(kh, name):
    with pytest.raises(kharon.InvalidTicket, match="group"):
        kh.group(name)


async def test_pending_members_count_whatever_they_are_doing(kh):
    group = kh.group("g")
    await kh.add(Ticket("delayed", "t", group="g"), delay=100)
    await kh.add(Ticket("blocked", "t", group="g"), after=["delayed"])
    await kh.add(Ticket("ready", "t", group="g"))
    assert (await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)).id == "ready"
    assert await group.pending_count() == 3
    await kh.done("ready")
    await kh.fail("delayed")
    assert await group.pending_count() == 1
    assert await group.all_terminal() is False
    await kh.update("blocked", group="h")
    assert await group.all_terminal() is True
    assert await kh.group("h").pending_count() == 1
    await kh.restart("ready")
    assert await group.pending_count() == 1


async def test_every_method_is_a_checkpoint(kh):
    await kh.add(Ticket("m", "t", group="g"))
    for method in (kh.group("g").pending_count, kh.group("g").all_terminal, kh.group("nobody's").wait):
        with assert_checkpoints():
            await method()


# --- the wait ---------------------------------------------------------------------------------------------------------


class Waits:
    """Tasks that wait for a group, and which of them have come back."""

    def __init__(self, nursery, group, count=1):
        self.back = []
        for number in range(count):
            nursery.start_soon(self._wait, group, number)

    async def _wait(self, group, number):
        try:
            self.back.append(await group.wait() or number)
        except kharon.Closed as error:
            self.back.append(type(error))


ENDS = {
    "done": lambda kh: kh.done("m0"),
    "ack": lambda kh: kh.ack("m0"),
    "fail": lambda kh: kh.fail("m0"),
    "cancel": lambda kh: kh.cancel("m0"),
    "delete": lambda kh: kh.delete("m0"),
    "another group": lambda kh: kh.update("m0", group="h"),
    "replaced": lambda kh: kh.add(Ticket("m0", "t")),
}


@pytest.mark.parametrize("how", ENDS)
async def test_the_last_member_wakes_all_who_wait(kh, how):
    await kh.add_many(members(2))
    async with trio.open_nursery() as nursery:
        waits = Waits(nursery, kh.group("g"), 3)
        await wait_all_tasks_blocked()
        await kh.done("m1")
        await wait_all_tasks_blocked()
        assert waits.back == []
        await ENDS[how](kh)
        await wait_all_tasks_blocked()
        assert sorted(waits.back) == [0, 1, 2]
    assert no_trace(kh)


async def test_a_wait_that_began_after_the_end_returns_at_once(kh):
    await kh.add_many(members(2))
    async with kh.atomic() as tx:
        tx.ack("m0")
        tx.fail("m1")
    await kh.group("g").wait()


async def test_late_members_are_waited_for_by_those_who_wait(kh):
    await kh.add_many(members(1))
    async with trio.open_nursery() as nursery:
        waits = Waits(nursery, kh.group("g"))
        await wait_all_tasks_blocked()
        await kh.add(Ticket("late", "t", group="g"))
        await kh.ack("m0")
        await wait_all_tasks_blocked()
        assert waits.back == []
        await kh.ack("late")
    assert waits.back == [0]


async def test_a_group_that_ended_and_began_again_had_ended(kh):
    """The wait is for the first instant at which no member is pending, whatever comes after it."""
    await kh.add_many(members(1))
    async with trio.open_nursery() as nursery:
        waits = Waits(nursery, kh.group("g"))
        await wait_all_tasks_blocked()
        await kh.ack("m0")
        await kh.add(Ticket("next", "t", group="g"))
        await wait_all_tasks_blocked()
        assert waits.back == [0]
    assert await kh.group("g").pending_count() == 1


async def test_waits_for_different_groups_do_not_mix(kh):
    await kh.add_many([*members(1), Ticket("h", "t", group="h")])
    async with trio.open_nursery() as nursery:
        g, h = Waits(nursery, kh.group("g")), Waits(nursery, kh.group("h"))
        await wait_all_tasks_blocked()
        await kh.ack("h")
        await wait_all_tasks_blocked()
        assert (g.back, h.back) == ([], [0])
        await kh.ack("m0")


async def test_cancelling_a_wait_leaves_no_trace(kh):
    await kh.add_many(members(1))
    async with trio.open_nursery() as nursery:
        waits = Waits(nursery, kh.group("g"))
        await wait_all_tasks_blocked()
        with trio.move_on_after(0) as scope:
            await kh.group("g").wait()
        assert scope.cancelled_caught
        await kh.ack("m0")
    assert waits.back == [0]
    assert no_trace(kh)
    with trio.CancelScope() as scope:
        scope.cancel()
        await kh.group("nobody's").wait()
    assert scope.cancelled_caught
    assert no_trace(kh)


async def test_closing_the_queue_ends_the_waits(mock_clock):
    async with trio.open_nursery() as nursery, kharon.open(":memory:", clock=TrioClock()) as kh:
        await kh.add_many(members(1))
        waits = Waits(nursery, kh.group("g"), 2)
        await wait_all_tasks_blocked()
    assert waits.back == [kharon.Closed, kharon.Closed]
    assert no_trace(kh)
    for method in (kh.group("g").wait, kh.group("g").pending_count, kh.group("g").all_terminal):
        with pytest.raises(kharon.Closed):
            await method()


async def test_a_group_that_ended_just_before_the_queue_was_closed_had_ended(mock_clock):
    """Its waiter has not run yet when the queue is closed."""
    async with trio.open_nursery() as nursery, kharon.open(":memory:", clock=TrioClock()) as kh:
        await kh.add_many(members(1))
        waits = Waits(nursery, kh.group("g"))
        await wait_all_tasks_blocked()
        tell = kh._queue.group_waits.deliver

        def tell_and_close(effects):
            tell(effects)
            kh._queue.store._closed = "the queue was closed"

        kh._queue.group_waits.deliver = tell_and_close
        await kh.ack("m0")
        await wait_all_tasks_blocked()
        kh._queue.store._closed = None
    assert waits.back == [0]


class Told:
    """Changes as a store delivers them, made by hand: a commit for each."""

    def __init__(self):
        self.waits = GroupWaits()
        self.projection = Projection()

    def deliver(self, *events):
        commit = [self.projection.apply(event, self.projection.seq + 1, EPOCH) for event in events]
        self.waits.deliver(commit)

    def add(self, id, group="g"):
        self.deliver(added(id, group))


def added(id, group="g"):
    return e.TicketAdded(id, "t", Raw(b"null"), "default", 512, EPOCH, group)


async def wait_for(wait, count, seq, ended):
    ended.append(await wait.until_empty(count, seq))


async def test_what_is_told_before_the_store_answers_counts_if_the_answer_does_not_count_it(nursery):
    """A store may answer later than it delivers, or earlier: it says as of which seq."""
    told, ended = Told(), []
    told.add("a")
    told.add("b")
    with told.waits.begin("g") as wait, told.waits.begin("g") as other:
        told.deliver(e.TicketDone("a"))
        nursery.start_soon(wait_for, wait, 2, 2, ended)  # as it was before that end
        nursery.start_soon(wait_for, other, 1, 3, ended)  # as it was after it
        await wait_all_tasks_blocked()
        assert ended == []
        told.deliver(e.TicketDone("b"))
        await wait_all_tasks_blocked()
        assert ended == [True, True]


async def test_a_group_that_was_empty_before_the_store_answered_had_ended():
    told = Told()
    told.add("a")
    with told.waits.begin("g") as wait:
        told.deliver(e.TicketDone("a"))
        told.add("next")
        assert await wait.until_empty(1, 1)
        assert await wait.until_empty(0, 2)


async def test_a_ticket_that_was_added_again_with_another_group_leaves_both(nursery):
    told, ended = Told(), {"g": [], "h": []}
    told.add("a")
    told.deliver(e.TicketClaimed("a", 1, EPOCH, "w"))
    with told.waits.begin("g") as g, told.waits.begin("h") as h:
        told.add("a", "h")
        nursery.start_soon(wait_for, g, 1, 2, ended["g"])
        nursery.start_soon(wait_for, h, 1, 3, ended["h"])
        await wait_all_tasks_blocked()
        told.deliver(e.TicketReleased("a"))
        await wait_all_tasks_blocked()
        assert ended == {"g": [True], "h": []}
        told.deliver(e.TicketUpdated("a", e.Changes(nice=1)))
        await wait_all_tasks_blocked()
        assert ended == {"g": [True], "h": []}
        told.deliver(e.TicketDeleted("a"))
        await wait_all_tasks_blocked()
        assert ended == {"g": [True], "h": [True]}


async def test_one_commit_is_one_instant(nursery):
    told, ended = Told(), []
    told.add("a")
    with told.waits.begin("g") as wait:
        nursery.start_soon(wait_for, wait, 1, 1, ended)
        await wait_all_tasks_blocked()
        told.deliver(e.TicketDone("a"), added("b"))
        await wait_all_tasks_blocked()
        assert ended == []
        told.waits.closed()
        await wait_all_tasks_blocked()
        assert ended == [False]


# --- finalizers -------------------------------------------------------------------------------------------------------


async def test_a_fan_out_ends_in_its_finalizer(kh, mock_clock):
    mock_clock.autojump_threshold = 0
    ran = []

    async def handle(kh, ticket):
        await trio.sleep(ticket.payload or 0)
        ran.append(ticket.id)

    async with kh.atomic() as tx:
        tx.add_many([Ticket(f"m{n}", "t", payload=n, group="g") for n in range(5)])
        tx.add(Ticket("end", "t"), after_group="g")
    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await kh.wait("end")
        nursery.cancel_scope.cancel()
    assert ran == ["m0", "m1", "m2", "m3", "m4", "end"]
    assert await names(kh, "end") == ["TicketAdded", "TicketUnblocked", "TicketClaimed", "TicketDone"]
    (unblocked,) = [record for record in await kh.history("end") if type(record.event).__name__ == "TicketUnblocked"]
    (done,) = [record for record in await kh.history("m4") if type(record.event).__name__ == "TicketDone"]
    assert (done.part, unblocked.part) == ((1, 2), (2, 2))


async def test_add_many_with_finalizers_of_a_group(kh):
    await kh.add_many(members(3))
    finalizers = await kh.add_many([Ticket("f1", "t"), Ticket("f2", "t")], after_group="g", on_failure="cancel")
    assert [ticket.blocked for ticket in finalizers] == [True, True]
    assert [(ticket.after_group, ticket.on_failure) for ticket in finalizers] == [("g", "cancel")] * 2
    last = await kh.add_many([Ticket("last", "t"), Ticket("very last", "t")], after=iter(["f1", "f2"]))
    assert [ticket.blocked_by for ticket in last] == [("f1", "f2")] * 2
    await kh.fail("m1")
    assert [ticket.status for ticket in [await kh.get("f1"), await kh.get("f2")]] == [Status.CANCELLED] * 2
    assert not (await kh.get("last")).blocked


async def test_add_many_with_one_that_is_in_the_group_is_refused_whole(kh):
    with pytest.raises(kharon.FinalizerInGroup, match=r"command 2 of 2, add of ticket 'm0'"):
        await kh.add_many([Ticket("f", "t"), *members(1)], after_group="g")
    assert await kh.list() == []


async def test_who_waits_for_a_cancelled_finalizer_is_told(kh):
    await kh.add_many(members(1))
    await kh.add(Ticket("f", "t"), after_group="g", on_failure="cancel")
    found = []

    async def wait():
        found.append(await kh.wait("f"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await kh.fail("m0")
    assert (found[0].status, "'m0'" in found[0].error_reason) == (Status.CANCELLED, True)


async def test_a_member_that_lapses_for_good_and_one_that_expires(mock_clock):
    """What the clock does unblocks as well as what a caller does."""
    settings = kharon.Settings(max_attempts=1, process_time=5)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh:
        await kh.add_many(members(1))
        await kh.add(Ticket("f", "t"), after_group="g", delay=1)
        await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
        mock_clock.jump(6)
        await kh._store.tick()
        assert (await kh.get("m0")).status is Status.FAILED
        assert not (await kh.get("f")).blocked
        assert [record.by for record in await kh.history("f")] == ["app", "clock"]


async def test_a_worker_that_is_idle_runs_what_a_settle_by_hand_unblocked(kh, mock_clock):
    mock_clock.autojump_threshold = 0
    await kh.add(Ticket("m", "nobody's", tube="other", group="g"))
    await kh.add(Ticket("f", "t"), after_group="g")
    ran = []

    async def handle(_kh, ticket):
        ran.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(handle))
        await trio.sleep(1)
        await kh.ack("m")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ran == [1]


# --- after a restart --------------------------------------------------------------------------------------------------


async def test_groups_are_the_same_after_a_restart(tmp_path):
    where = tmp_path / "queue"
    async with kharon.open(where) as kh:
        async with kh.atomic() as tx:
            tx.add_many(members(4))
            tx.add(Ticket("f", "t"), after=["m0"], after_group="g", on_failure="cancel")
            tx.add(Ticket("late", "t", group="g"))
        await kh.done("m0")
    async with kharon.open(where) as kh:
        assert await kh.group("g").pending_count() == 4
        assert (await kh.get("f")).blocked_by == ()
        assert (await kh.get("f")).blocked
        async with trio.open_nursery() as nursery:
            waits = Waits(nursery, kh.group("g"))
            await wait_all_tasks_blocked()
            for number in (3, 1):
                await kh.ack(f"m{number}")
            assert (await kh.get("f")).blocked
            await kh.ack("m2")
            assert not (await kh.get("f")).blocked
            assert waits.back == []
            await kh.delete("late")
        assert waits.back == [0]
    assert kharon.replay(where).groups.pending_count("g") == 0


async def test_a_claim_that_lapses_for_good_at_opening_unblocks(tmp_path):
    """Nobody is left blocked by what a dead process ran."""
    where = tmp_path / "queue"
    log = kharon.log.directory.DirectoryLog(where)
    settings = kharon.Settings(max_attempts=1)
    store = kharon.store.local.LocalStore(
        log, settings, TrioClock(), lambda _commit: None, lambda: None, in_thread=False
    )
    await store.open()
    from kharon.model import commands as c  # noqa: PLC0415 - only here

    add = [c.Add(t.id, t) for t in members(1)]
    await store.submit([*add, c.Add("f", Ticket("f", "t"), after_group="g"), c.Add("z", Ticket("z", "t"), None)], "app")
    assert await store.turn("w", ("default",), None, settle_by="w", claim=True) is not None
    log.abandon()
    async with kharon.open(where, settings) as kh:
        assert (await kh.get("m0")).status is Status.FAILED
        assert not (await kh.get("f")).blocked
        assert await kh.group("g").all_terminal()


@pytest.mark.parametrize("more", [False, True])
async def test_a_group_that_one_commit_empties_and_fills_was_never_empty(more) -> None:
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        ended = []

        async def wait():
            await kh.group("g").wait()
            ended.append(await ids(kh))

        await kh.add(Ticket("1", "t", group="g"))
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        for number in range(1, 5):
            async with kh.atomic() as tx:
                tx.ack(str(number))
                tx.add(Ticket(str(number + 1), "t", group="g"))
                if more:
                    tx.add(Ticket("other", "t", group="h"))
                    tx.ack("other")
            await wait_all_tasks_blocked()
            assert ended == []
        await kh.ack("5")
        await wait_all_tasks_blocked()
        assert ended == [[]]
