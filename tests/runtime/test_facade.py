"""The facade: what each method does and returns, who is said to have done it, and reading back."""

from datetime import timedelta

import pytest
import trio
from handlers import names
from trio.testing import wait_all_tasks_blocked

import kharon
from kharon import FixedDelay, Settings, Status, Ticket
from kharon.testing import EPOCH, TrioClock

# --- adding and asking ------------------------------------------------------------------------------------------------


async def test_add_returns_the_ticket_as_it_is_in_the_queue(kh, mock_clock):
    mock_clock.jump(0)
    ticket = await kh.add(Ticket("a", "t", payload={"k": [1, None]}, nice=3, tube="deep", group="g"))
    assert (ticket.id, ticket.type, ticket.payload, ticket.nice) == ("a", "t", {"k": [1, None]}, 3)
    assert (ticket.tube, ticket.group, ticket.status, ticket.attempts) == ("deep", "g", Status.PENDING, 0)
    assert ticket.ctime == ticket.mtime == ticket.runat == EPOCH
    assert ticket.version == 1
    assert await kh.get("a") == ticket


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (1.5, 1.5),
        (0, 0),
        (timedelta(hours=2), 7200),
        (FixedDelay(9), 9),
        (kharon.BackoffDelay(base=7, jitter=0), 1),  # base**0: there have been no attempts
    ],
)
async def test_a_delay_counts_from_now(kh, mock_clock, delay, seconds):
    await kh.add(Ticket("first", "t"))
    mock_clock.jump(100)
    ticket = await kh.add(Ticket("a", "t"), delay=delay)
    assert ticket.runat == EPOCH + timedelta(seconds=100 + seconds)


async def test_on_conflict(kh, mock_clock):
    await kh.add(Ticket("a", "t", nice=1))
    assert (await kh.add(Ticket("a", "t", nice=2))).nice == 2
    assert (await kh.add(Ticket("a", "t", nice=3), on_conflict="skip")).nice == 2
    with pytest.raises(kharon.TicketExists, match=r"'a' exists and is pending"):
        await kh.add(Ticket("a", "t", nice=4), on_conflict="raise")
    assert (await kh.add(Ticket("b", "t", nice=5), on_conflict="raise")).nice == 5
    assert (await kh.get("a")).nice == 2
    assert await names(kh, "a") == ["TicketAdded"] * 2


async def test_a_ticket_that_is_added_again_all_the_time_runs_in_its_turn(autojump_clock):
    ran = []

    async def handle(_kh, ticket):
        ran.append(ticket.id)
        await trio.sleep(1)

    router = kharon.Router()
    router.not_found(handle)
    async with kharon.open(":memory:", Settings(workers=1), clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await kh.add_many(Ticket(id, "t") for id in ("first", "again", "later"))
        await nursery.start(kh.run, router)
        for number in range(20):
            if "again" not in ran:
                await kh.add(Ticket("again", "t", payload=number))
            await kh.add(Ticket(f"more {number}", "t"))
            await trio.sleep(0.9)
        nursery.cancel_scope.cancel()
    assert ran[:3] == ["first", "again", "later"]


async def test_a_refreshed_ticket_is_due_at_once_and_its_attempts_count_on(kh, mock_clock):
    await kh.add(Ticket("a", "t"))
    refreshed = await kh.add(await kh.retry("a", delay=60), on_conflict="refresh")
    assert refreshed.runat == EPOCH
    with pytest.raises(kharon.InvalidTicket, match="'a': a refreshed ticket is due at once"):
        await kh.add(Ticket("a", "t"), delay=5, on_conflict="refresh")
    with pytest.raises(kharon.InvalidTicket, match="'a': a refreshed ticket is due at once"):
        await kh.add(Ticket("a", "t", runat=EPOCH), on_conflict="refresh")


async def test_a_terminal_ticket_added_again_starts_anew(kh):
    await kh.add(Ticket("a", "t"))
    await kh.fail("a", error_reason="no")
    ticket = await kh.add(Ticket("a", "t"))
    assert (ticket.status, ticket.error_reason, ticket.attempts) == (Status.PENDING, None, 0)


async def test_failed_and_returned_tickets_are_kept_as_long_as_the_settings_say(autojump_clock):
    async def handle(_kh, ticket):
        if ticket.id == "fails":
            raise ValueError

    router = kharon.Router()
    router.not_found(handle)
    settings = Settings(max_attempts=1, on_return="done", keep_done=5, keep_failed=10)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await kh.add_many([Ticket("fails", "t"), Ticket("by hand", "t"), Ticket("returns", "t")])
        await kh.fail("by hand")
        await nursery.start(kh.run, router)
        assert (await kh.get("by hand")).expire_at == EPOCH + timedelta(seconds=10)
        for left in (3, 2, 0):
            await trio.sleep(4)
            assert len(await kh.list()) == left
        nursery.cancel_scope.cancel()


async def test_add_many_returns_the_tickets_in_order(kh, mock_clock):
    added = await kh.add_many((Ticket(id, "t") for id in "cab"), delay=5)
    assert [ticket.id for ticket in added] == ["c", "a", "b"]
    assert {ticket.runat for ticket in added} == {EPOCH + timedelta(seconds=5)}
    assert added == [await kh.get(id) for id in "cab"]
    kept = await kh.add_many([Ticket("a", "t", nice=1), Ticket("d", "t", nice=1)], on_conflict="skip")
    assert [ticket.nice for ticket in kept] == [512, 1]


async def test_a_caller_cannot_change_what_is_in_the_queue(kh):
    payload = {"list": [1]}
    ticket = Ticket("a", "t", payload=payload)
    payload["list"].append(2)
    await kh.add(ticket)
    (await kh.get("a")).payload["list"].append(3)
    assert (await kh.get("a")).payload == {"list": [1]}


async def test_list_filters(kh):
    await kh.add_many(
        [Ticket("a", "x", group="g"), Ticket("b", "y", group="g"), Ticket("c", "x", tube="deep"), Ticket("d", "x")]
    )
    await kh.done("a")
    await kh.fail("b")
    await kh.cancel("d", keep=True)

    async def ids(*args, **filters):
        return "".join(ticket.id for ticket in await kh.list(*args, **filters))

    assert await ids() == "abcd"
    assert await ids("done") == await ids(Status.DONE) == await ids(status="done") == "a"
    assert [await ids(status) for status in Status] == ["c", "a", "b", "d"]
    assert await ids(type="x") == "acd"
    assert await ids(tube="deep") == "c"
    assert await ids(group="g") == "ab"
    assert await ids(type="x", group="g", status="failed") == ""
    assert await ids(limit=2) == "ab"
    assert await ids(type="x", limit=2) == "ac"
    assert await ids(limit=0) == ""


async def test_list_gives_all_unless_told_otherwise(kh):
    await kh.add_many(Ticket(str(number), "t") for number in range(1005))
    assert len(await kh.list()) == len(await kh.list(limit=None)) == 1005


async def pages(kh, size, change=None, **filters):
    """The ids of each page of a list, with a change of the queue between any two."""
    found, after = [], None
    while page := await kh.list(limit=size, after=after, **filters):
        found.append([ticket.id for ticket in page])
        after = page[-1]
        if change is not None:
            await change(len(found))
    return found


async def test_list_is_in_the_order_of_adding_and_restarting_is_adding(kh):
    await kh.add_many(Ticket(id, "t") for id in "abcde")
    await kh.done("b")
    await kh.add(Ticket("a", "t"))
    await kh.restart("b")
    await kh.update("d", nice=1)
    assert [ticket.id for ticket in await kh.list()] == list("acdeb")


async def test_pages_of_a_list_are_all_of_it_and_each_ticket_is_in_one(kh):
    await kh.add_many(Ticket(str(number), "t", tube="xy"[number % 2]) for number in range(23))
    whole = [ticket.id for ticket in await kh.list()]
    assert await pages(kh, 5) == [whole[start : start + 5] for start in range(0, 23, 5)]
    assert [id for page in await pages(kh, 3, tube="y") for id in page] == [id for id in whole if int(id) % 2]
    assert await kh.list(after=await kh.get("22")) == []


async def test_a_page_stays_where_it_is_while_tickets_come_and_go(kh):
    await kh.add_many(Ticket(str(number), "t") for number in range(20))

    async def change(page):
        if page > 4:
            return
        await kh.delete(str(page * 5 - 1))  # the last one of the page before, which is `after`
        await kh.delete(str(page * 5 - 4))
        await kh.add(Ticket(f"new {page}", "t"))

    found = await pages(kh, 5, change)
    assert found[:4] == [[str(number) for number in range(start, start + 5)] for start in range(0, 20, 5)]
    assert found[4:] == [["new 1", "new 2", "new 3", "new 4"]]


@pytest.mark.parametrize("after", ["a", 3, Ticket("mine", "t")])
async def test_what_list_cannot_go_on_after(kh, after):
    with (
        trio.testing.assert_checkpoints(),
        pytest.raises(kharon.InvalidTicket, match="after: a ticket that list returned"),
    ):
        await kh.list(after=after)


# --- settling by hand -------------------------------------------------------------------------------------------------


async def test_ack_removes(kh):
    await kh.add(Ticket("a", "t"))
    assert await kh.ack("a") is None
    with pytest.raises(kharon.TicketNotFound, match="'a'"):
        await kh.get("a")


async def test_ack_that_keeps_is_done(kh, mock_clock):
    await kh.add(Ticket("a", "t"))
    ticket = await kh.ack("a", keep=True, result=[1], expire_in=60)
    assert (ticket.status, ticket.result) == (Status.DONE, [1])
    assert ticket.expire_at == EPOCH + timedelta(seconds=60)


async def test_done_keeps_with_a_result(kh, mock_clock):
    await kh.add(Ticket("a", "t"))
    mock_clock.jump(10)
    ticket = await kh.done("a", result={"sum": 3}, expire_in=timedelta(minutes=1))
    assert (ticket.status, ticket.result) == (Status.DONE, {"sum": 3})
    assert ticket.expire_at == EPOCH + timedelta(seconds=70)
    assert ticket.mtime == EPOCH + timedelta(seconds=10)
    assert (await kh.add(Ticket("b", "t"))).expire_at is None


async def test_fail_keeps_with_a_reason(kh, mock_clock):
    await kh.add(Ticket("a", "t"))
    ticket = await kh.fail("a", error_reason="no such host", expire_in=5)
    assert (ticket.status, ticket.error_reason) == (Status.FAILED, "no such host")
    assert ticket.expire_at == EPOCH + timedelta(seconds=5)


async def test_cancel_removes_or_keeps(kh, mock_clock):
    await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
    assert await kh.cancel("a", error_reason="not wanted") is None
    assert (await kh.history("a"))[-1].event.error_reason == "not wanted"
    ticket = await kh.cancel("b", keep=True, error_reason="not wanted", expire_in=5)
    assert (ticket.status, ticket.error_reason) == (Status.CANCELLED, "not wanted")
    assert ticket.expire_at == EPOCH + timedelta(seconds=5)


async def test_retry_by_hand(kh, mock_clock):
    await kh.add(Ticket("a", "t"), delay=100)
    ticket = await kh.retry("a", delay=FixedDelay(7), error_reason="again", nice=1, payload="new", tube="x", group="g")
    assert ticket.runat == EPOCH + timedelta(seconds=7)
    assert (ticket.error_reason, ticket.nice, ticket.payload, ticket.tube, ticket.group) == (
        "again",
        1,
        "new",
        "x",
        "g",
    )
    again = await kh.retry("a")
    assert (
        timedelta(seconds=0.8) <= again.runat - EPOCH <= timedelta(seconds=1)
    )  # Settings.backoff: base**0, and jitter
    runat = EPOCH + timedelta(days=1)
    assert (await kh.retry("a", runat=runat)).runat == runat


async def test_a_wait_that_begins_after_the_end_finds_it_in_the_history():
    async with kharon.open(":memory:") as kh:
        await kh.add(kharon.Ticket("a", "b"))
        await kh.fail("a")
        assert (await kh.wait("a")).status == "failed"
        await kh.restart("a")
        await kh.ack("a")
        assert (await kh.wait("a")).status == "done"
        await kh.add(kharon.Ticket("a", "b", nice=3))
        await kh.delete("a")
        assert (await kh.wait("a")).nice == 3
        with pytest.raises(kharon.TicketNotFound, match="'never'"):
            await kh.wait("never")


async def test_a_wait_finds_the_end_in_what_is_left_of_a_history():
    async with kharon.open(":memory:", kharon.Settings(memory_records=2)) as kh:
        await kh.add(kharon.Ticket("a", "b"))
        await kh.update("a", nice=1)
        await kh.ack("a")
        with pytest.raises(kharon.TicketNotFound):
            await kh.wait("a")
        await kh.add(kharon.Ticket("a", "b"))
        await kh.ack("a")
        assert (await kh.wait("a")).status == "done"


async def test_restart(kh, mock_clock):
    await kh.add(Ticket("a", "t"))
    await kh.done("a", result=1, expire_in=50)
    mock_clock.jump(10)
    ticket = await kh.restart("a")
    assert (ticket.status, ticket.attempts, ticket.result, ticket.expire_at) == (Status.PENDING, 0, None, None)
    assert ticket.runat == EPOCH + timedelta(seconds=10)
    with pytest.raises(kharon.InvalidTransition, match="'a' is pending"):
        await kh.restart("a")


async def test_update(kh):
    await kh.add(Ticket("a", "t", group="g"))
    runat = EPOCH + timedelta(days=1)
    ticket = await kh.update("a", nice=1, payload=[2], tube="x", group=None, runat=runat)
    assert (ticket.nice, ticket.payload, ticket.tube, ticket.group, ticket.runat) == (1, [2], "x", None, runat)
    await kh.done("a")
    ticket = await kh.update("a", payload=None)
    assert (ticket.status, ticket.payload) == (Status.DONE, None)
    with pytest.raises(kharon.TicketNotFound):
        await kh.update("nobody", nice=1)


async def test_delete_is_idempotent(kh):
    await kh.add(Ticket("a", "t"))
    assert await kh.delete("a") is None
    assert await kh.delete("a") is None
    assert await names(kh, "a") == ["TicketAdded", "TicketDeleted"]


async def test_a_terminal_ticket_is_not_settled_again(kh):
    await kh.add(Ticket("a", "t"))
    await kh.done("a")
    for call in (kh.ack, kh.done, kh.fail, kh.cancel, kh.retry, kh.release):
        with pytest.raises(kharon.InvalidTransition, match="'a' is done"):
            await call("a")
    assert await names(kh, "a") == ["TicketAdded", "TicketDone"]


async def test_a_ticket_of_no_claim_is_settled_as_by_its_id(kh):
    """One that was got, and not received by a handler, holds no claim."""
    await kh.add(Ticket("a", "t"))
    assert (await kh.done(await kh.get("a"))).status is Status.DONE


# --- wait -------------------------------------------------------------------------------------------------------------


ENDS = {
    "ack": (lambda kh: kh.ack("a"), Status.DONE),
    "done": (lambda kh: kh.done("a", result=1), Status.DONE),
    "fail": (lambda kh: kh.fail("a", error_reason="no"), Status.FAILED),
    "cancel": (lambda kh: kh.cancel("a", error_reason="no"), Status.CANCELLED),
    "cancel keep": (lambda kh: kh.cancel("a", keep=True), Status.CANCELLED),
    "delete": (lambda kh: kh.delete("a"), Status.PENDING),
}


@pytest.mark.parametrize("name", ENDS)
async def test_wait_returns_the_ticket_as_it_ended(kh, name):
    end, status = ENDS[name]
    found = []

    async def wait():
        found.append(await kh.wait("a"))

    await kh.add(Ticket("a", "t", payload="p"))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await kh.update("a", nice=1)
        await kh.retry("a")
        await wait_all_tasks_blocked()
        assert found == []  # it has changed, and not ended
        await end(kh)
    assert [ticket.status for ticket in found] == [status] * 3
    assert found[0].payload == "p"
    assert found[0].result == (1 if name == "done" else None)
    assert found[0].error_reason == ("no" if name in ("fail", "cancel") else found[0].error_reason)
    assert kh._queue.waits.by_name == {}


async def test_wait_returns_at_once_what_has_ended(kh):
    await kh.add(Ticket("a", "t"))
    done = await kh.done("a")
    assert await kh.wait("a") == done


async def test_wait_goes_on_while_a_ticket_has_a_successor(autojump_clock):
    """Added again while it ran: it has not ended when that run does."""
    runs = []

    async def handle(kh, ticket):
        runs.append(ticket.payload)
        if ticket.payload == 1:
            await kh.add(Ticket("a", "t", payload=2))

    router = kharon.Router()
    router.handler("t")(handle)
    async with kharon.open(":memory:", clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("a", "t", payload=1))
        await nursery.start(kh.run, router)
        assert (await kh.wait("a")).payload == 2
        assert runs == [1, 2]
        nursery.cancel_scope.cancel()


# --- who did it -------------------------------------------------------------------------------------------------------


async def test_every_record_says_who(autojump_clock):
    async def handle(kh, ticket):
        await kh.add(Ticket("child", "u", tube="elsewhere"))
        await kh.acting_as("handler of a").update("child", nice=1)
        if ticket.id == "slow":
            await trio.sleep_forever()

    router = kharon.Router()
    router.handler("t")(handle)
    async with kharon.open(":memory:", Settings(actor="shop", workers=1, process_time=5), clock=TrioClock()) as kh:
        ann = kh.acting_as("ann")
        await kh.add(Ticket("a", "t"))
        await ann.update("a", nice=2)
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            await kh.wait("a")
            await ann.add(Ticket("slow", "t"))
            await trio.sleep(5.5)
            nursery.cancel_scope.cancel()

        async def who(id):
            return [(type(record.event).__name__, record.by) for record in await kh.history(id)]

        assert await who("a") == [
            ("TicketAdded", "shop"),
            ("TicketUpdated", "ann"),
            ("TicketClaimed", "worker-1"),
            ("TicketDone", "worker-1"),
        ]
        assert (await who("child"))[:2] == [("TicketAdded", "worker-1"), ("TicketUpdated", "handler of a")]
        assert await who("slow") == [
            ("TicketAdded", "ann"),
            ("TicketClaimed", "worker-1"),
            ("TicketLapsed", "clock"),
        ]


async def test_a_view_is_of_the_same_queue(kh):
    ann = kh.acting_as("ann")
    await ann.add(Ticket("a", "t"))
    assert (await kh.get("a")).id == "a"
    assert ann.settings is kh.settings
    assert repr(ann) == "<Kharon acting as 'ann'>"


async def test_the_actor_of_the_settings_is_app_unless_told_otherwise(kh):
    await kh.add(Ticket("a", "t"))
    assert [record.by for record in await kh.history("a")] == ["app"]


# --- history and records ----------------------------------------------------------------------------------------------


async def test_history_is_of_one_ticket_and_outlives_it(kh):
    for id in ("a", "ab", "a"):
        await kh.add(Ticket(id, "t", payload={"id": "a"}))
    await kh.ack("a")
    records = await kh.history("a")
    assert [record.seq for record in records] == [1, 3, 4]
    assert [type(record.event).__name__ for record in records] == ["TicketAdded", "TicketAdded", "TicketDone"]
    assert await kh.history("nobody") == []


async def test_history_is_read_to_its_end(tmp_path):
    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add_many(Ticket("a" if number % 500 == 7 else str(number), "t") for number in range(2000))
        assert [record.seq for record in await kh.history("a")] == [8, 508, 1008, 1508]


@pytest.mark.parametrize("where", [":memory:", "directory"])
async def test_an_id_that_is_no_text_has_no_history(where, tmp_path):
    async with kharon.open(where if where == ":memory:" else tmp_path / "queue") as kh:
        await kh.add(Ticket(r"\udcff", "t", payload=r"\udcff"))
        assert len(await kh.history(r"\udcff")) == 1
        assert await kh.history("\udcff") == []
        with pytest.raises(kharon.TicketNotFound, match="udcff"):
            await kh.wait("\udcff")


@pytest.mark.parametrize("where", [":memory:", "directory"])
async def test_records_are_all_there_are_in_order(where, tmp_path):
    async with kharon.open(where if where == ":memory:" else tmp_path / "queue") as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(700))
        await kh.ack("3")
        records = [record async for record in kh.records()]
        assert [record.seq for record in records] == list(range(1, 702))
        assert [record.seq async for record in kh.records(after=698)] == [699, 700, 701]
        assert [record.seq async for record in kh.records(after=701)] == []
        assert [record.seq async for record in kh.records(after=10_000)] == []
        assert await kh.first_record() == 1
        assert type(records[-1].event).__name__ == "TicketDone"


async def test_following_goes_on_with_what_comes(kh):
    seen = []

    async def follow(after):
        async with kh.records(after, follow=True) as records:
            async for record in records:
                seen.append((after, record.seq))  # noqa: PERF401 - it does not end

    await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, 0)
        nursery.start_soon(follow, 2)
        await wait_all_tasks_blocked()
        assert sorted(seen) == [(0, 1), (0, 2)]
        await kh.ack("a")
        await wait_all_tasks_blocked()
        assert sorted(seen) == [(0, 1), (0, 2), (0, 3), (2, 3)]
        nursery.cancel_scope.cancel()


async def test_a_stream_that_was_cancelled_goes_on(kh):
    async with kh.records(follow=True) as records:
        with trio.CancelScope() as scope:
            scope.cancel()
            await records.__anext__()
        assert scope.cancelled_caught
        await kh.add(Ticket("a", "t"))
        assert (await records.__anext__()).seq == 1


async def test_a_stream_can_be_left_and_closed(tmp_path):
    """Files that are left open would be a warning, and warnings are errors here."""
    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        async with kh.records() as records:
            async for record in records:
                assert record.seq == 1
                break
        with pytest.raises(StopAsyncIteration):
            await records.__anext__()
        stream = kh.records()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()


async def test_a_stream_that_fails_is_closed(tmp_path):
    queue = kharon.open(tmp_path / "queue")
    async with queue as kh:
        await kh.add(Ticket("a", "t"))
        stream = kh.records()
    with pytest.raises(kharon.Closed):
        await stream.__anext__()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def test_a_memory_queue_says_where_its_history_begins():
    async with kharon.open(":memory:", Settings(memory_records=10)) as kh:
        for number in range(25):
            await kh.add(Ticket(str(number), "t"))
        assert await kh.first_record() == 16
        assert [record.seq async for record in kh.records()] == list(range(16, 26))
        assert await kh.history("3") == []
        assert (await kh.get("3")).id == "3"  # only its history is gone


async def test_a_follower_that_falls_behind_is_told():
    async with kharon.open(":memory:", Settings(memory_records=10)) as kh:
        await kh.add(Ticket("first", "t"))
        async with kh.records(follow=True) as records:
            assert (await records.__anext__()).seq == 1
            await kh.add_many(Ticket(str(number), "t") for number in range(50))
            with pytest.raises(kharon.KharonError, match=r"record 2 is not kept any more.*memory_records"):
                await records.__anext__()


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_a_directory_keeps_what_a_memory_does_not(tmp_path):
    for place, expected in ((tmp_path / "queue", ["a"]), (":memory:", [])):
        async with kharon.open(place) as kh:
            await kh.add(Ticket("a", "t"))
        async with kharon.open(place) as kh:
            assert [ticket.id for ticket in await kh.list()] == expected
    async with kharon.open(str(tmp_path / "queue")) as kh:
        assert [ticket.id for ticket in await kh.list()] == ["a"]
        assert kh.stats().added == 0  # counted since it was opened


async def test_an_event_log_of_ones_own_is_used():
    log = kharon.testing.FailingLog(kharon.log.memory.MemoryLog())
    async with kharon.open(log) as kh:
        await kh.add(Ticket("a", "t"))
    assert log.seq == 1


async def test_the_quick_start_of_the_design(tmp_path, autojump_clock):
    router = kharon.Router()
    delivered = []

    @router.handler("email")
    async def send_email(_kh, ticket):
        delivered.append(ticket.payload["to"])

    async with kharon.open(tmp_path / "queue") as kh, trio.open_nursery() as nursery:
        await kh.add(Ticket("task-1", "email", payload={"to": "ann@example.org"}, nice=5))
        await nursery.start(kh.run, router)
        await kh.drain()
    assert delivered == ["ann@example.org"]


async def test_the_history_of_one_ticket_does_not_fall_behind() -> None:
    async def flood(kh):
        for batch in range(20):
            await kh.add_many([Ticket(f"b{batch}-{number}", "t") for number in range(300)])

    async with kharon.open(":memory:", Settings(memory_records=600)) as kh, trio.open_nursery() as nursery:
        await kh.add_many([Ticket(f"c{number}", "t") for number in range(600)])
        nursery.start_soon(flood, kh)
        for _ in range(10):
            assert len(await kh.history("c599")) <= 1
        with pytest.raises(kharon.TicketNotFound):
            await kh.wait("never")


async def test_a_ticket_that_the_queue_gave_can_be_added_again_with_a_delay() -> None:
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", payload=[1]))
        again = await kh.add(await kh.get("a"), delay=5)
        assert again.payload == [1]
        assert again.runat - again.mtime == timedelta(seconds=5)
        with pytest.raises(kharon.InvalidTicket, match="not both"):
            await kh.add(Ticket("b", "t", runat=EPOCH), delay=5)
