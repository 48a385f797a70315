"""Wrong use answers well: its own error, a message that says what, where and what to do, and nothing is written."""

import os
import re
import sys
from datetime import datetime, timedelta

import pytest
import trio

import kharon
from kharon import Settings, Ticket
from kharon.testing import EPOCH, TrioClock

NAN = float("nan")
INFINITE = float("inf")
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


async def seq(kh):
    return [record.seq async for record in kh.records()]


def said(error, words):
    for word in words:
        assert word in str(error), f"{error!s} does not say {word!r}"


# --- tickets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["id", "type", "tube", "group"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", ["empty"]),
        ("x" * 201, ["200 bytes"]),
        ("a\nb", ["printable"]),
        ("\ud800", ["printable"]),
        (7, ["str", "int"]),
        (b"a", ["str", "bytes"]),
    ],
    ids=["empty", "long", "newline", "surrogate", "int", "bytes"],
)
def test_a_bad_name_of_a_ticket(field, value, words):
    with pytest.raises(kharon.InvalidTicket) as raised:
        Ticket(**{"id": "a", "type": "t", field: value})
    said(raised.value, [f"{field}:", *words])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"payload": NAN}, ["payload:", "nan", "not JSON"]),
        ({"payload": {"a": [1, INFINITE]}}, ["payload['a'][1]:", "inf"]),
        ({"payload": "x" * 1_000_000}, ["payload:", "bytes", "keep the data elsewhere"]),
        ({"payload": deep(65)}, ["payload", "deeper than 64"]),
        ({"payload": {"a": object()}}, ["payload['a']:", "object", "not JSON"]),
        ({"payload": {1: 2}}, ["payload:", "key 1", "str"]),
        ({"payload": ["\ud800"]}, ["payload[0]:", "surrogate"]),
        ({"payload": {"\ud800": 1}}, ["payload", "surrogate"]),
        ({"payload": {1, 2}}, ["payload:", "set"]),
        ({"runat": NAIVE}, ["runat:", "no timezone", "datetime.now(UTC)"]),
        ({"runat": "2026-01-01"}, ["runat:", "datetime", "str"]),
        ({"runat": 1.5}, ["runat:", "datetime", "float"]),
        ({"nice": 1.5}, ["nice:", "int", "float"]),
        ({"nice": True}, ["nice:", "bool"]),
        ({"nice": 2**31}, ["nice:", "between"]),
    ],
)
def test_a_bad_field_of_a_ticket(fields, words):
    with pytest.raises(kharon.InvalidTicket) as raised:
        Ticket("a", "t", **fields)
    said(raised.value, words)


# --- methods ----------------------------------------------------------------------------------------------------------


CALLS = {
    "add no ticket": (lambda kh: kh.add("a"), kharon.InvalidTicket, ["kharon.Ticket", "str"]),
    "add a dict": (lambda kh: kh.add({"id": "a"}), kharon.InvalidTicket, ["kharon.Ticket", "dict"]),
    "add many of others": (
        lambda kh: kh.add_many(iter([Ticket("b", "t"), None])),
        *(kharon.InvalidTicket, ["add_many", "item 1 is NoneType"]),
    ),
    "on_conflict": (
        lambda kh: kh.add(Ticket("a", "t"), on_conflict="merge"),
        *(kharon.InvalidTicket, ["on_conflict: 'merge'", '"replace", "refresh", "skip", "raise"']),
    ),
    "both runat and delay": (
        lambda kh: kh.add(Ticket("b", "t", runat=EPOCH), delay=1),
        *(kharon.InvalidTicket, ["'b'", "runat", "delay", "not both"]),
    ),
    "both, of many": (
        lambda kh: kh.add_many([Ticket("c", "t"), Ticket("b", "t", runat=EPOCH)], delay=1),
        *(kharon.InvalidTicket, ["'b'", "runat", "delay", "not both"]),
    ),
    "negative delay": (lambda kh: kh.add(Ticket("b", "t"), delay=-1), kharon.InvalidTicket, ["delay", "-1"]),
    "NaN delay": (lambda kh: kh.add(Ticket("b", "t"), delay=NAN), kharon.InvalidTicket, ["delay", "nan"]),
    "endless delay": (lambda kh: kh.add(Ticket("b", "t"), delay=1e12), kharon.InvalidTicket, ["delay", "century"]),
    "text delay": (lambda kh: kh.add(Ticket("b", "t"), delay="1h"), kharon.InvalidTicket, ["delay", "str"]),
    "an instant as delay": (lambda kh: kh.add(Ticket("b", "t"), delay=EPOCH), kharon.InvalidTicket, ["datetime"]),
    "taken": (
        lambda kh: kh.add(Ticket("a", "t"), on_conflict="raise"),
        *(kharon.TicketExists, ["'a' exists", "pending"]),
    ),
    "get nobody": (lambda kh: kh.get("nobody"), kharon.TicketNotFound, ["'nobody'", "never added, or has been"]),
    "wait for nobody": (lambda kh: kh.wait("nobody"), kharon.TicketNotFound, ["'nobody'"]),
    "list": (lambda kh: kh.list(status="lost"), kharon.InvalidTicket, ["status: 'lost'", "'pending', 'done'"]),
    "ack nobody": (lambda kh: kh.ack("nobody"), kharon.TicketNotFound, ["'nobody'", "done"]),
    "ack no ticket": (lambda kh: kh.ack(3), kharon.InvalidTicket, ["id:", "int"]),
    "ack with result": (lambda kh: kh.ack("a", result=1), kharon.InvalidTicket, ["ack", "result", "keep=True"]),
    "ack with expiry": (lambda kh: kh.ack("a", expire_in=1), kharon.InvalidTicket, ["ack", "expire_in", "keep=True"]),
    "done result": (lambda kh: kh.done("a", result={"x": NAN}), kharon.InvalidTicket, ["result['x']:", "nan"]),
    "done expiry": (lambda kh: kh.done("a", expire_in=-1), kharon.InvalidTicket, ["expire_in", "-1"]),
    "done again": (
        lambda kh: kh.done("ended"),
        kharon.InvalidTransition,
        ["'ended' is failed", "is for one that is pending"],
    ),
    "fail reason": (lambda kh: kh.fail("a", error_reason=KeyError()), kharon.InvalidTicket, ["error_reason", "str"]),
    "fail long reason": (
        lambda kh: kh.fail("a", error_reason="x" * 4001),
        *(kharon.InvalidTicket, ["error_reason", "4001", "4000"]),
    ),
    "fail surrogate": (lambda kh: kh.fail("a", error_reason="\ud800"), kharon.InvalidTicket, ["lone surrogate"]),
    "cancel expiry": (lambda kh: kh.cancel("a", expire_in=1), kharon.InvalidTicket, ["cancel", "keep=True"]),
    "retry both": (
        lambda kh: kh.retry("a", delay=1, runat=EPOCH),
        *(kharon.InvalidTicket, ["retry", "delay", "runat", "not both"]),
    ),
    "retry unknown": (lambda kh: kh.retry("a", type="u"), TypeError, ["retry()", "'type'"]),
    "retry naive": (lambda kh: kh.retry("a", runat=NAIVE), kharon.InvalidTicket, ["runat:", "no timezone"]),
    "retry ended": (lambda kh: kh.retry("ended"), kharon.InvalidTransition, ["'ended' is failed"]),
    "release waiting": (
        lambda kh: kh.release("a"),
        kharon.InvalidTransition,
        ["'a' is pending and not claimed", "claimed"],
    ),
    "extend waiting": (
        lambda kh: kh.extend("a", 1),
        kharon.InvalidTransition,
        ["'a' is pending and not claimed", "claimed"],
    ),
    "extend by text": (lambda kh: kh.extend("a", "1"), kharon.InvalidTicket, ["seconds", "str"]),
    "restart pending": (
        lambda kh: kh.restart("a"),
        *(kharon.InvalidTransition, ["'a' is pending", "done, failed, cancelled"]),
    ),
    "restart nobody": (lambda kh: kh.restart("nobody"), kharon.TicketNotFound, ["'nobody'"]),
    "restart no id": (lambda kh: kh.restart(None), kharon.InvalidTicket, ["id:", "NoneType"]),
    "update nothing": (lambda kh: kh.update("a"), kharon.InvalidTicket, ["update", "nothing to change", "nice"]),
    "update unknown": (lambda kh: kh.update("a", status="done"), TypeError, ["update()", "'status'"]),
    "update nice": (lambda kh: kh.update("a", nice="high"), kharon.InvalidTicket, ["nice:", "str"]),
    "update tube": (lambda kh: kh.update("a", tube=""), kharon.InvalidTicket, ["tube:", "empty"]),
    "update runat": (lambda kh: kh.update("a", runat=None), kharon.InvalidTicket, ["runat:", "NoneType"]),
    "update payload": (lambda kh: kh.update("a", payload=[NAN]), kharon.InvalidTicket, ["payload[0]:", "nan"]),
    "update nobody": (lambda kh: kh.update("nobody", nice=1), kharon.TicketNotFound, ["'nobody'", "update"]),
    "delete no id": (lambda kh: kh.delete(3), kharon.InvalidTicket, ["id:", "int"]),
    "drain": (lambda kh: kh.drain(timeout=-1), kharon.InvalidTicket, ["timeout", "-1"]),
    "run nothing": (lambda kh: kh.run(kharon.Router()), kharon.HandlerNotFound, ["no handlers", "@router.handler"]),
    "run no router": (lambda kh: kh.run({"t": print}), kharon.HandlerNotFound, ["kharon.Router", "dict"]),
    "run None": (lambda kh: kh.run(None), kharon.HandlerNotFound, ["kharon.Router", "NoneType"]),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_wrong_call_is_refused_and_writes_nothing(name):
    call, error, words = CALLS[name]
    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("ended", "t")])
        await kh.fail("ended")
        before = await kh.list(), await seq(kh)
        with pytest.raises(error) as raised:
            await call(kh)
        assert type(raised.value) is error
        said(raised.value, words)
        assert (await kh.list(), await seq(kh)) == before
        await kh.add(Ticket("after", "t"))  # and the queue goes on


async def test_a_ticket_whose_line_would_be_too_long_is_refused(tmp_path):
    """Each field is within its limit, and non-ASCII ids grow when they are written: the line is what counts."""
    name = "\U0001f600" * 50
    ticket = Ticket(name, name, payload="x" * 982_000, tube=name, group=name)
    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add(ticket)  # the limits leave room even for that
        with pytest.raises(kharon.InvalidTicket, match="payload"):
            Ticket("a", "t", payload="x" * 983_100)
        assert (await kh.get(name)).payload == "x" * 982_000


@pytest.mark.parametrize("actor", ["", "a\n", 7, None, "x" * 201])
async def test_a_bad_actor_is_refused(actor):
    async with kharon.open(":memory:") as kh:
        with pytest.raises(kharon.InvalidTicket, match=r"^actor: "):
            kh.acting_as(actor)


# --- settings and places ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 0}, ["Settings.workers", "0"]),
        ({"fsync": "sometimes"}, ["Settings.fsync", "'sometimes'", '"always"', '"never"']),
        ({"tubes": "default"}, ["Settings.tubes", "('default',)"]),
        ({"on_return": "keep"}, ["Settings.on_return", "'keep'", '"ack"']),
        ({"process_time": -1}, ["Settings.process_time", "-1"]),
        ({"backoff": 3}, ["Settings.backoff", "3", "BackoffDelay"]),
        ({"actor": ""}, ["Settings.actor", "empty"]),
    ],
)
def test_a_wrong_setting_is_refused_at_once(settings, words):
    with pytest.raises(kharon.InvalidSettings) as raised:
        Settings(**settings)
    said(raised.value, words)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", ["''", "directory", '":memory:"']),
        ("postgresql://db/queue", ["postgresql://db/queue", "directory"]),
        (None, ["EventLog", "NoneType"]),
        (3, ["EventLog", "int"]),
        (object(), ["EventLog", "object"]),
    ],
)
def test_a_wrong_place_is_refused_at_once(where, words):
    with pytest.raises(kharon.InvalidSettings) as raised:
        kharon.open(where)
    said(raised.value, ["where:", *words])


@pytest.mark.parametrize(("clock", "given"), [(5, "int"), (TrioClock, "the class TrioClock"), (datetime, "the class")])
def test_what_is_no_clock_is_refused_at_once(clock, given):
    with pytest.raises(kharon.InvalidSettings, match=rf"clock: an object whose now\(\) .*; not {given}"):
        kharon.open(":memory:", clock=clock)


@pytest.mark.parametrize("settings", [{"workers": 3}, 3, "always"])
def test_what_is_no_settings_is_refused_at_once(settings):
    with pytest.raises(kharon.InvalidSettings, match=r"settings: a kharon\.Settings, not"):
        kharon.open(":memory:", settings)


async def test_a_place_that_is_no_queue_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for where, word in [
        (tmp_path / "file", "is a file"),
        (tmp_path / "full", "thesis.txt"),
        (tmp_path / "no" / "parent", "make that first"),
    ]:
        with pytest.raises(kharon.KharonError, match=re.escape(word)):
            async with kharon.open(where):
                pytest.fail("it was opened")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "thesis.txt"]


async def test_a_second_opener_is_refused(tmp_path):
    where = tmp_path / "queue"
    async with kharon.open(where) as kh:
        await kh.add(Ticket("a", "t"))
        with pytest.raises(kharon.QueueLocked, match="open already, in process") as raised:
            async with kharon.open(where):
                pytest.fail("it was opened")
        said(raised.value, [str(where)])
        await kh.add(Ticket("b", "t"))
    async with kharon.open(where) as kh:
        assert [ticket.id for ticket in await kh.list()] == ["a", "b"]


async def test_an_opener_in_another_process_is_refused(tmp_path):
    program = f"""
import trio, kharon
async def main():
    async with kharon.open({str(tmp_path / "queue")!r}):
        pass
trio.run(main)
"""
    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add(Ticket("a", "t"))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        other = await trio.run_process([sys.executable, "-c", program], capture_stderr=True, check=False, env=env)
        assert other.returncode == 1
        assert b"QueueLocked" in other.stderr
        assert [ticket.id for ticket in await kh.list()] == ["a"]
    await trio.run_process([sys.executable, "-c", program], env=env)


# --- after the end ----------------------------------------------------------------------------------------------------


AFTER = {
    "add": lambda kh: kh.add(Ticket("b", "t")),
    "add_many": lambda kh: kh.add_many([Ticket("b", "t")]),
    "get": lambda kh: kh.get("a"),
    "list": lambda kh: kh.list(),
    "ack": lambda kh: kh.ack("a"),
    "done": lambda kh: kh.done("a"),
    "fail": lambda kh: kh.fail("a"),
    "cancel": lambda kh: kh.cancel("a"),
    "retry": lambda kh: kh.retry("a"),
    "release": lambda kh: kh.release("a"),
    "extend": lambda kh: kh.extend("a", 1),
    "restart": lambda kh: kh.restart("a"),
    "update": lambda kh: kh.update("a", nice=1),
    "delete": lambda kh: kh.delete("a"),
    "wait": lambda kh: kh.wait("a"),
    "history": lambda kh: kh.history("a"),
}


@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("where", [":memory:", "directory"])
async def test_every_method_of_a_closed_queue_says_so(name, where, tmp_path):
    async with kharon.open(where if where == ":memory:" else tmp_path / "queue") as kh:
        await kh.add(Ticket("a", "t"))
    with pytest.raises(kharon.Closed, match="`async with` block has ended"):
        await AFTER[name](kh)
    if where != ":memory:":
        assert [type(record.event).__name__ for record in kharon.read(tmp_path / "queue")] == [
            "TicketAdded",
            "LogClosed",
        ]


async def test_running_and_reading_a_closed_queue(tmp_path):
    router = kharon.Router()

    @router.handler("t")
    async def handle(_kh, _ticket):
        pytest.fail("it ran")

    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add(Ticket("a", "t"))
    with pytest.raises(kharon.Closed):
        await kh.run(router)
    with pytest.raises(kharon.Closed):
        kh.records()
    assert kh.stats().added == 1  # what was counted can still be asked for
    await kh.drain()  # nothing runs


async def test_a_queue_that_was_never_opened_is_closed():
    queue = kharon.open(":memory:")
    kh = kharon.Kharon(queue._queue, "app")
    with pytest.raises(kharon.Closed, match="has not been opened"):
        await kh.add(Ticket("a", "t"))


# --- in another thread ------------------------------------------------------------------------------------------------


async def block(kh):
    async with kh.atomic() as tx:
        tx.ack("a")


IN_A_THREAD = {
    **AFTER,
    "atomic": block,
    "run_and_wait": lambda kh: kh.run_and_wait(Ticket("b", "t")),
    "pause": lambda kh: kh.pause("default"),
    "unschedule": lambda kh: kh.unschedule("s"),
    "records": seq,
}


@pytest.mark.parametrize("name", IN_A_THREAD)
async def test_every_method_refuses_another_thread(name):
    """Of a `def` handler that runs Trio anew to call it, say: two threads would be in the one log, without a lock."""
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        with pytest.raises(kharon.InvalidTransition, match=r"in the thread .*through trio\.from_thread\.run\("):
            await trio.to_thread.run_sync(trio.run, IN_A_THREAD[name], kh)
        assert await seq(kh) == [1]


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
async def test_another_thread_changes_no_subscription_and_loses_no_worker(verb):
    refused = []
    router = kharon.Router()

    @router.handler("t")
    def handle(kh, _ticket):
        try:
            getattr(kh, verb)("default", "mail")
        except kharon.KharonError as error:
            refused.append(error)

    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t"))
        await kh.wait("a")
        assert [type(error) for error in refused] == [kharon.InvalidTransition]
        assert kh.tubes == ("default",)
        await kh.drain()


# --- twice -----------------------------------------------------------------------------------------------------------


async def test_a_second_run_is_refused(autojump_clock):
    router = kharon.Router()

    @router.handler("t")
    async def handle(_kh, _ticket):
        await trio.sleep(1)

    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        with pytest.raises(kharon.QueueLocked, match=r"being run already.*Settings\.workers"):
            await kh.run(router)
        with pytest.raises(kharon.QueueLocked):
            await kh.acting_as("ann").run(router)
        await kh.add(Ticket("a", "t"))
        await kh.wait("a")  # the first goes on
        await kh.drain()


def test_durations_are_what_they_say():
    with pytest.raises(kharon.InvalidTicket, match="century"):
        kharon.FixedDelay(timedelta(days=40_000))
    with pytest.raises(kharon.InvalidTicket, match=r"BackoffDelay\.base"):
        kharon.BackoffDelay(base=0.5)
    with pytest.raises(kharon.InvalidTicket, match=r"BackoffDelay\.jitter"):
        kharon.BackoffDelay(jitter=4)


async def test_opening_what_is_damaged_says_what_can_be_done(tmp_path):
    where = tmp_path / "queue"
    async with kharon.open(where) as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
    (log,) = (where / "log").iterdir()
    log.write_bytes(log.read_bytes().replace(b'"id":"a"', b'"id":"c"'))
    damaged = log.read_bytes()
    with pytest.raises(kharon.CorruptLog, match=re.escape(str(log))) as refused:
        async with kharon.open(where):
            raise AssertionError("it was opened")
    (note,) = refused.value.__notes__
    assert "kharon.repair(path)" in note
    assert log.read_bytes() == damaged
    assert kharon.repair(where, confirm=True).done, "what the note says can be done"
    async with kharon.open(where) as kh:
        assert await kh.list() == []


async def test_what_is_no_id_is_refused_by_all_who_ask() -> None:
    async with kharon.open(":memory:") as kh:
        ticket = await kh.add(Ticket("a", "t"))
        for ask in (kh.get, kh.wait, kh.history):
            for wrong in (ticket, None, 3):
                with pytest.raises(kharon.InvalidTicket, match="id: a str, not"):
                    await ask(wrong)
        for wrong in (-1, "x", 1.5):
            with pytest.raises(kharon.InvalidTicket, match="limit"):
                await kh.list(limit=wrong)
            with pytest.raises(kharon.InvalidTicket, match="after: a seq"):
                kh.records(wrong)
