"""Trio's manners: checkpoints, cancellation that never half-applies, exceptions that pass through unchanged, Ctrl-C."""

import signal

import pytest
import trio
import trio.lowlevel
from handlers import for_ever, nothing, router_of
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import kharon
from kharon import Settings, Status, Ticket
from kharon.log.memory import MemoryLog
from kharon.model.projection import Projection
from kharon.testing import FailingLog, TrioClock


def events_of(log, id):
    return [type(r.event).__name__ for r in log.reader().read(log.seq, log.seq) if getattr(r.event, "id", "") == id]


# --- every async method is a checkpoint -------------------------------------------------------------------------------


SUCCEEDS = {
    "add": lambda kh: kh.add(Ticket("b", "t")),
    "add skip": lambda kh: kh.add(Ticket("a", "t"), on_conflict="skip"),
    "add_many": lambda kh: kh.add_many([Ticket("b", "t")]),
    "add_many none": lambda kh: kh.add_many([]),
    "get": lambda kh: kh.get("a"),
    "list": lambda kh: kh.list(),
    "ack": lambda kh: kh.ack("a"),
    "done": lambda kh: kh.done("a"),
    "fail": lambda kh: kh.fail("a"),
    "cancel": lambda kh: kh.cancel("a"),
    "retry": lambda kh: kh.retry("a"),
    "restart": lambda kh: kh.restart("ended"),
    "update": lambda kh: kh.update("a", nice=1),
    "delete": lambda kh: kh.delete("a"),
    "delete nobody": lambda kh: kh.delete("nobody"),
    "wait": lambda kh: kh.wait("ended"),
    "history": lambda kh: kh.history("a"),
    "drain": lambda kh: kh.drain(),
}

RAISES = {
    "add": (kharon.InvalidTicket, lambda kh: kh.add("a")),
    "add raise": (kharon.TicketExists, lambda kh: kh.add(Ticket("a", "t"), on_conflict="raise")),
    "add_many": (kharon.InvalidTicket, lambda kh: kh.add_many(["a"])),
    "get": (kharon.TicketNotFound, lambda kh: kh.get("nobody")),
    "list": (kharon.InvalidTicket, lambda kh: kh.list(status="lost")),
    "ack": (kharon.TicketNotFound, lambda kh: kh.ack("nobody")),
    "ack wrong": (kharon.InvalidTicket, lambda kh: kh.ack("a", result=1)),
    "done": (kharon.InvalidTransition, lambda kh: kh.done("ended")),
    "done wrong": (kharon.InvalidTicket, lambda kh: kh.done("a", result=float("nan"))),
    "fail": (kharon.InvalidTicket, lambda kh: kh.fail("a", error_reason=1)),
    "cancel": (kharon.InvalidTicket, lambda kh: kh.cancel("a", expire_in=1)),
    "retry": (kharon.InvalidTicket, lambda kh: kh.retry("a", delay=-1)),
    "release": (kharon.InvalidTransition, lambda kh: kh.release("a")),
    "release wrong": (kharon.InvalidTicket, lambda kh: kh.release(1)),
    "extend": (kharon.InvalidTicket, lambda kh: kh.extend("a", -1)),
    "restart": (kharon.InvalidTransition, lambda kh: kh.restart("a")),
    "restart wrong": (kharon.InvalidTicket, lambda kh: kh.restart(1)),
    "update": (kharon.InvalidTicket, lambda kh: kh.update("a")),
    "delete": (kharon.InvalidTicket, lambda kh: kh.delete(1)),
    "wait": (kharon.TicketNotFound, lambda kh: kh.wait("nobody")),
    "run_and_wait": (kharon.TicketFailedError, lambda kh: kh.run_and_wait(Ticket("ended", "t"), on_conflict="skip")),
    "run": (kharon.HandlerNotFound, lambda kh: kh.run(kharon.Router())),
    "drain": (kharon.InvalidTicket, lambda kh: kh.drain(-1)),
}


@pytest.mark.parametrize("name", SUCCEEDS)
async def test_a_method_that_succeeds_is_a_checkpoint(name):
    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("ended", "t")])
        await kh.fail("ended")
        with assert_checkpoints():
            await SUCCEEDS[name](kh)


@pytest.mark.parametrize("name", RAISES)
async def test_a_method_that_raises_is_a_checkpoint(name):
    error, call = RAISES[name]
    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("ended", "t")])
        await kh.fail("ended")
        with assert_checkpoints(), pytest.raises(error):
            await call(kh)


@pytest.mark.parametrize("name", [*(name for name in SUCCEEDS if name != "drain")])
async def test_a_method_of_a_closed_queue_is_a_checkpoint(name):
    async with kharon.open(":memory:") as kh:
        pass
    with assert_checkpoints(), pytest.raises(kharon.Closed):
        await SUCCEEDS[name](kh)


async def test_running_is_a_checkpoint():
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        with assert_checkpoints():
            await nursery.start(kh.run, router_of(nothing))
        with assert_checkpoints():
            await kh.drain()


async def test_opening_and_closing_are_checkpoints():
    queue = kharon.open(":memory:")
    with assert_checkpoints():
        await queue.__aenter__()
    task = trio.lowlevel.current_task()
    steps = task._schedule_points
    await queue.__aexit__(None, None, None)
    assert task._schedule_points > steps


async def test_a_stream_of_records_is_made_of_checkpoints():
    async with kharon.open(":memory:") as kh:
        await kh.add_many(Ticket(str(number), "t") for number in range(3))
        stream = kh.records()
        with assert_checkpoints():
            await stream.__aenter__()
        for seq in (1, 2, 3):
            with assert_checkpoints():
                assert (await stream.__anext__()).seq == seq
        with assert_checkpoints(), pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        with assert_checkpoints(), pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        with assert_checkpoints():
            await stream.aclose()
        late = kh.records()
    with assert_checkpoints(), pytest.raises(kharon.Closed):
        await late.__anext__()


async def test_a_cancelled_method_raises_cancelled():
    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("ended", "t")])
        await kh.fail("ended")
        before = [record async for record in kh.records()]
        for call in (*SUCCEEDS.values(), *(call for _, call in RAISES.values())):
            with trio.CancelScope() as scope:
                scope.cancel()
                await call(kh)
            assert scope.cancelled_caught
        assert [record async for record in kh.records()] == before


# --- cancellation at every await of a command -------------------------------------------------------------------------


class CancelAt(trio.abc.Instrument):
    """Cancels a scope just before a task takes its n-th step."""

    def __init__(self, task, step, scope):
        self.task, self.step, self.scope = task, step, scope
        self.steps = 0

    def before_task_step(self, task):
        if task is self.task:
            self.steps += 1
            if self.steps == self.step:
                self.scope.cancel()


COMMANDS = {  # the command, and what the ticket's history says once it is applied
    "add": (lambda kh, t: kh.add(Ticket("x", "t")), ["TicketAdded"]),
    "ack": (lambda kh, t: kh.ack(t), ["TicketDone"]),
    "done": (lambda kh, t: kh.done(t), ["TicketDone"]),
    "fail": (lambda kh, t: kh.fail(t), ["TicketFailed"]),
    "cancel": (lambda kh, t: kh.cancel(t), ["TicketCancelled"]),
    "retry": (lambda kh, t: kh.retry(t), ["TicketRetried"]),
    "release": (lambda kh, t: kh.release(t), ["TicketReleased"]),
    "extend": (lambda kh, t: kh.extend(t, 1000), ["LeaseExtended"]),
    "update": (lambda kh, t: kh.update("x", nice=1), ["TicketUpdated"]),
    "delete": (lambda kh, t: kh.delete("x"), ["TicketDeleted"]),
    "add_many": (lambda kh, t: kh.add_many([Ticket("x", "t"), Ticket("x", "t")]), ["TicketAdded"] * 2),
}


@pytest.mark.parametrize("led_by_another", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_cancelled_command_is_applied_and_durable_or_not_at_all(name, led_by_another):
    call, applied = COMMANDS[name]
    ends = set()
    for step in range(12):
        log = FailingLog(MemoryLog())
        held = []

        async def hold(_kh, ticket, held=held):
            held.append(ticket)
            await trio.sleep_forever()

        async with kharon.open(log, Settings(on_return="leave")) as kh, trio.open_nursery() as nursery:
            await kh.add(Ticket("x", "t"))
            await nursery.start(kh.run, router_of(hold))
            await wait_all_tasks_blocked()
            before = len(events_of(log, "x"))
            if led_by_another:
                nursery.start_soon(kh.add, Ticket("other", "unknown", tube="nobody's"))
            returned = False
            with trio.CancelScope() as scope:
                instrument = CancelAt(trio.lowlevel.current_task(), step, scope)
                trio.lowlevel.add_instrument(instrument)
                if led_by_another and step % 2:
                    await trio.lowlevel.checkpoint()
                if step == 0:
                    scope.cancel()
                await call(kh, held[0])
                returned = True
            trio.lowlevel.remove_instrument(instrument)
            happened = [name for name in events_of(log, "x")[before:] if name != "TicketClaimed"]
            assert happened == (applied if returned else [])  # Cancelled says that nothing was done
            if returned:
                assert log.durable == log.seq
            kh._store.projection.check()
            ends.add(returned)
            nursery.cancel_scope.cancel()
        if instrument.steps < step:
            break
    assert ends == {True, False}


async def test_a_command_in_flight_cannot_be_cancelled_and_answers():
    """It waits for a group led by another task when it is cancelled: it is durable when it returns, and it returns."""
    answers = []
    for _ in range(20):
        log = FailingLog(MemoryLog())
        async with kharon.open(log) as kh, trio.open_nursery() as nursery:

            async def add(id, scope, kh=kh, log=log):
                with scope:
                    ticket = await kh.add(Ticket(id, "t"))
                    assert log.durable >= ticket.version
                    answers.append(id)
                    await trio.lowlevel.checkpoint()
                    pytest.fail("the cancellation was lost")

            scopes = [trio.CancelScope() for _ in range(5)]
            for number, scope in enumerate(scopes):
                nursery.start_soon(add, str(number), scope)
            while log.seq < 5:
                await trio.lowlevel.checkpoint()
            for scope in scopes:
                scope.cancel()
        assert all(scope.cancelled_caught for scope in scopes)
        assert log.durable == log.seq
    assert len(answers) == 100


async def test_a_cancelled_wait_leaves_no_trace():
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kh.wait, "a")
            nursery.start_soon(kh.wait, "a")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert kh._queue.waits.by_name == {}
        with pytest.raises(kharon.TicketNotFound):
            await kh.wait("nobody")
        assert kh._queue.waits.by_name == {}


# --- what passes through open -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        ExceptionGroup("mine", [ValueError("one"), KeyError("two")]),
        BaseExceptionGroup("mine", [KeyboardInterrupt(), ValueError()]),
        KeyboardInterrupt(),
        SystemExit(3),
        kharon.TicketNotFound("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", [":memory:", "directory"])
@pytest.mark.parametrize("running", [False, True])
async def test_what_the_block_raises_leaves_it_unchanged(error, where, running, tmp_path):
    place = where if where == ":memory:" else tmp_path / "queue"
    async with trio.open_nursery() as nursery:
        with pytest.raises(type(error)) as raised:  # noqa: PT012
            async with kharon.open(place) as kh:
                await kh.add(Ticket("a", "t"))
                if running:
                    await nursery.start(kh.run, router_of(for_ever))
                    await wait_all_tasks_blocked()
                raise error
    assert raised.value is error
    assert error.__context__ is None
    assert error.__cause__ is None


async def test_a_cancellation_passes_through_and_closes_in_good_order(tmp_path):
    with trio.CancelScope() as scope:
        async with kharon.open(tmp_path / "queue") as kh:
            await kh.add(Ticket("a", "t"))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert kharon.verify(tmp_path / "queue").closed


async def test_closing_under_cancellation_releases_what_runs(tmp_path):
    async with trio.open_nursery() as outer:
        with trio.CancelScope() as scope:
            async with kharon.open(tmp_path / "queue") as kh:
                await kh.add(Ticket("a", "t"))
                await outer.start(kh.run, router_of(for_ever))
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
    last = [type(record.event).__name__ for record in kharon.read(tmp_path / "queue")]
    assert last == ["TicketAdded", "TicketClaimed", "TicketReleased", "LogClosed"]


# --- run --------------------------------------------------------------------------------------------------------------


async def test_start_returns_when_the_workers_are_there():
    async with kharon.open(":memory:", Settings(workers=3)) as kh, trio.open_nursery() as nursery:
        assert await nursery.start(kh.run, router_of(nothing)) is None
        with pytest.raises(kharon.QueueLocked):
            await kh.run(router_of(nothing))
        nursery.cancel_scope.cancel()


async def test_a_refused_start_raises_its_own_error():
    async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
        with pytest.raises(kharon.HandlerNotFound):
            await nursery.start(kh.run, kharon.Router())


async def test_cancelling_run_releases_everything_uncounted_in_one_go():
    log = FailingLog(MemoryLog())
    async with kharon.open(log, Settings(workers=8)) as kh:
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router_of(for_ever))
            await kh.add_many(Ticket(str(number), "t") for number in range(8))
            await wait_all_tasks_blocked()
            assert kh.stats().workers_running == 8
            syncs = log.calls["sync"]
            nursery.cancel_scope.cancel()
        assert log.calls["sync"] - syncs <= 2  # shared
        for ticket in await kh.list():
            assert (ticket.status, ticket.attempts, ticket.claim) == (Status.PENDING, 0, None)
        assert kh.stats().released == 8
        assert kh.stats().workers_running == 0


async def test_cancelling_run_raises_one_cancelled_and_no_group():
    seen = []

    async def run(kh):
        try:
            await kh.run(router_of(for_ever))
        except BaseException as error:
            seen.append(error)
            raise

    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, kh)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert [type(error) for error in seen] == [trio.Cancelled]


async def test_a_handler_that_raises_while_it_is_cancelled_is_released_and_leaks_nothing():
    async def stubborn(_kh, _ticket):
        async def fail_when_cancelled():
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the handler's own nursery")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail_when_cancelled)

    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kh.run, router_of(stubborn))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        ticket = await kh.get("a")
        assert (ticket.status, ticket.attempts, ticket.claim) == (Status.PENDING, 0, None)
        assert kh.stats().released == 1


async def test_a_handler_that_finishes_in_spite_of_a_cancellation_is_settled():
    async def finish(_kh, _ticket):
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()

    async with kharon.open(":memory:", Settings(on_return="done", workers=1)) as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("b", "t")])
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kh.run, router_of(finish))
                while kh.stats().workers_running == 0:
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert (await kh.get("a")).status is Status.DONE
        assert (await kh.get("b")).status is Status.PENDING  # nothing new is claimed by a cancelled worker
        assert kh.stats().claimed == 1


async def test_a_cancelled_run_claims_nothing_more():
    async with kharon.open(":memory:") as kh:
        await kh.add(Ticket("a", "t"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await kh.run(router_of(nothing))
        assert scope.cancelled_caught
        assert len(await kh.history("a")) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("grouped", [False, True])
async def test_what_no_handler_may_catch_stops_run_as_itself(kind, grouped):
    error = kind()

    async def stop(_kh, ticket):
        if ticket.id == "other":
            await trio.sleep_forever()
        await wait_all_tasks_blocked()
        raise BaseExceptionGroup("of the handler's nursery", [ValueError(), error]) if grouped else error

    async with kharon.open(":memory:") as kh:
        await kh.add_many([Ticket("a", "t"), Ticket("other", "t")])
        with pytest.raises(kind) as raised:
            await kh.run(router_of(stop))
        assert raised.value is error
        ended, other = await kh.list()
        # A Ctrl-C is not the handler's doing. A SystemExit is, and has to come to an end some day, as a crash does.
        assert (ended.attempts, ended.claim) == (0 if kind is KeyboardInterrupt else 1, None)
        assert (other.attempts, other.claim) == (0, None)
        assert kh.stats().released == (2 if kind is KeyboardInterrupt else 1)
        await kh.add(Ticket("c", "t"))  # the queue goes on


async def test_an_exception_of_a_handler_never_leaves_run():
    async def groan(_kh, _ticket):
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])

    async with kharon.open(":memory:", Settings(max_attempts=1)) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(groan))
        await kh.add(Ticket("a", "t"))
        ticket = await kh.wait("a")
        assert ticket.error_reason.startswith("ValueError: one; KeyError: 'two'")
        await kh.drain()


async def test_closing_the_queue_ends_run_without_an_error():
    ended = []

    async def run(kh, task_status):
        await kh.run(router_of(for_ever), task_status=task_status)
        ended.append(True)

    async with trio.open_nursery() as nursery:
        async with kharon.open(":memory:") as kh:
            await nursery.start(run, kh)
            await kh.add(Ticket("a", "t"))
            await wait_all_tasks_blocked()
            assert ended == []
        assert kh.stats().released == 1
    assert ended == [True]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


class InterruptedLog(FailingLog):
    """A log during whose writing the user presses Ctrl-C."""

    def __init__(self, at, method):
        super().__init__(MemoryLog())
        self.at, self.method = at, method
        self.hits = 0

    def _hit(self, method):
        if method == self.method:
            self.hits += 1
            if self.hits == self.at:
                signal.raise_signal(signal.SIGINT)

    def append(self, events, at, by):
        self._hit("append")
        done = super().append(events, at, by)
        self._hit("after append")
        return done

    def write(self):
        self._hit("write")
        super().write()

    def sync(self):
        super().sync()
        self._hit("sync")


@pytest.mark.parametrize("method", ["append", "after append", "write", "sync"])
@pytest.mark.parametrize("reader_leads", [False, True])
def test_a_ctrl_c_never_tears_a_command(method, reader_leads, ctrl_c):
    """The interrupt strikes inside of the engine, at the worst places; it surfaces later, and nothing is half done."""
    for at in (1, 2, 7, 15):
        log = InterruptedLog(at, method)
        replies = []
        live = Projection()

        async def add_on(kh, name, log=log, replies=replies):
            for number in range(20):
                if reader_leads:
                    await kh.list()
                ticket = await kh.add(Ticket(f"{name}-{number}", "t"))
                assert ticket.version <= log.durable
                replies.append(ticket)

        async def main(log=log):
            nonlocal live
            async with kharon.open(log) as kh:
                live = kh._store.projection
                async with trio.open_nursery() as nursery:
                    for name in range(4):
                        nursery.start_soon(add_on, kh, name)

        with pytest.raises(BaseException) as raised:
            trio.run(main)
        interrupts, others = (
            raised.value.split(KeyboardInterrupt)
            if isinstance(raised.value, BaseExceptionGroup)
            else (raised.value, None)
        )
        assert interrupts is not None
        assert others is None, others  # no CommitOutcomeUnknown: nothing went wrong
        live.check()
        records = log.reader().read(log.seq, log.seq)
        assert Projection().fold(records) == live
        assert log.durable == log.seq
        assert {ticket.id for ticket in replies} <= set(live.tickets)


class InterruptedList(list):
    """Whose user presses Ctrl-C just behind an append."""

    def append(self, item):
        super().append(item)
        signal.raise_signal(signal.SIGINT)


def test_a_ctrl_c_while_a_reader_joins_a_group_tears_nothing(ctrl_c):
    """It has put itself on the list of those to be woken: it must be asleep before anything else happens to it."""
    joined = 0
    for _ in range(20):
        answers = []

        async def join(kh, answers=answers):
            nonlocal joined
            for _ in range(5):
                if kh._store._commits._group is not None:
                    joined += 1
                    kh._store._commits._group.waiting = InterruptedList(kh._store._commits._group.waiting)
                    answers.append((await kh.get("a")).id)
                    return
                await trio.lowlevel.checkpoint()

        async def main(join=join):
            async with kharon.open(":memory:") as kh, trio.open_nursery() as nursery:
                nursery.start_soon(kh.add, Ticket("a", "t"))
                nursery.start_soon(join, kh)

        before = joined
        try:
            trio.run(main)
        except* KeyboardInterrupt:
            pass
        assert answers == ["a"] * (joined - before)  # the interrupt is all that was raised
    assert joined > 0


def test_a_ctrl_c_while_readers_wait_is_no_failure_of_the_disk(ctrl_c):
    for _ in range(20):
        log = InterruptedLog(1, "write")
        answers = []

        async def ask(kh, answers=answers):
            try:
                answers.append(await kh.get("a"))
            except kharon.KharonError as error:
                answers.append(error)

        async def main(log=log):
            async with kharon.open(log) as kh:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(kh.add, Ticket("a", "t"))
                    for _ in range(4):
                        nursery.start_soon(ask, kh)
                await trio.sleep(1)

        with pytest.raises(BaseException) as raised:
            trio.run(main)
        group = raised.value
        assert isinstance(group, KeyboardInterrupt) or group.split(KeyboardInterrupt)[1] is None
        assert len(answers) == 4, "nobody is left waiting"
        assert all(isinstance(answer, (Ticket, kharon.TicketNotFound)) for answer in answers)


def test_a_ctrl_c_while_the_main_task_runs_the_workers_leaves_run_as_itself(ctrl_c):
    seen = []
    log = FailingLog(MemoryLog())

    async def interrupt(_kh, ticket):
        if ticket.id == "other":
            await trio.sleep_forever()
        await wait_all_tasks_blocked()
        trio.lowlevel.spawn_system_task(press)  # protected, so that Trio gives it to the main task
        await trio.sleep_forever()

    async def press():
        signal.raise_signal(signal.SIGINT)

    async def main():
        async with kharon.open(log) as kh:
            await kh.add_many([Ticket("a", "t"), Ticket("other", "t")])
            try:
                await kh.run(router_of(interrupt))
            except BaseException as error:
                seen.append(error)
                raise

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert [type(error) for error in seen] == [KeyboardInterrupt]
    assert events_of(log, "a")[-1] == events_of(log, "other")[-1] == "TicketReleased"


# --- virtual time -----------------------------------------------------------------------------------------------------


async def test_a_queue_in_memory_uses_no_thread(autojump_clock, monkeypatch):
    async def no_threads(*_args, **_options):
        pytest.fail("a thread was used")

    monkeypatch.setattr(trio.to_thread, "run_sync", no_threads)
    async with kharon.open(":memory:", clock=TrioClock()) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router_of(nothing))
        await kh.add(Ticket("a", "t"), delay=3600)
        await kh.wait("a")
        await kh.drain()
