"""Messages in the log of the program, and loggers that raise."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
import trio
from handlers import for_ever, nothing, router_of
from trio.testing import MockClock

import kharon
from kharon import Settings, Ticket
from kharon.log.memory import MemoryLog
from kharon.testing import FailingLog, TrioClock


def opened(**settings):
    return kharon.open(":memory:", Settings(**settings), clock=TrioClock())


def router_with(**handlers):
    router = kharon.Router()
    for type, handle in handlers.items():
        router.handler(type)(handle)
    return router


async def groan(_kh, _ticket):
    raise ValueError


async def test_the_log_says_which_ticket_and_never_what_is_in_it(caplog, autojump_clock):
    caplog.set_level(logging.DEBUG)
    secret = "f00dfeed"

    async def settle_twice(kh, ticket):
        await kh.done(ticket, result={"token": secret})

    router = router_with(ok=settle_twice, bad=groan, slow=for_ever)
    router.handler("typed", payload=list[int])(nothing)
    async with opened(max_attempts=1, process_time=5) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add_many(
            Ticket(f"id-{type}", type, payload={"key": secret}) for type in ("ok", "bad", "slow", "typed")
        )
        await kh.add(Ticket("id-unknown", "unknown", payload=secret))
        for type in ("bad", "slow", "typed", "unknown"):
            assert (await kh.wait(f"id-{type}")).status is kharon.Status.FAILED
        nursery.cancel_scope.cancel()
    mine = [record for record in caplog.records if record.name.startswith("kharon")]
    assert {record.name for record in mine} == {"kharon"}
    said = {record.levelno for record in mine}
    assert said == {logging.DEBUG, logging.WARNING}
    for record in mine:
        if record.levelno > logging.DEBUG:
            assert secret not in logging.Formatter().format(record)
    for type, words in {
        "bad": "attempt 1 raised ValueError",
        "unknown": "attempt 1 raised HandlerNotFound",
        "slow": "lapsed in attempt 1: the lease ended",
        "typed": "its payload does not fit",
    }.items():
        [record] = [
            record
            for record in mine
            if f"'id-{type}' ({type})" in record.getMessage() and record.levelno > logging.DEBUG
        ]
        assert words in record.getMessage()
        assert (record.exc_info is not None) == (type in ("bad", "unknown"))


async def test_a_reason_does_not_repeat_the_payload(autojump_clock):
    router = kharon.Router()
    router.handler("t", payload=list[int])(nothing)
    async with opened() as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        await kh.add(Ticket("a", "t", payload=["f00dfeed"]))
        assert "f00dfeed" not in (await kh.wait("a")).error_reason
        nursery.cancel_scope.cancel()


def test_no_handlers_are_installed():
    assert logging.getLogger("kharon").handlers == []
    assert logging.getLogger("kharon").level == logging.NOTSET
    assert logging.getLogger("kharon").propagate


# --- a user's logging that raises -------------------------------------------------------------------------------------


class Raising(logging.Handler):
    raised = 0

    def emit(self, record):
        self.raised += 1
        raise RuntimeError("this logging handler raises")


@pytest.fixture
def raising_logger():
    """What raises whenever something is logged; the test has to bring it about that something is."""
    handler = Raising()
    logger = logging.getLogger("kharon")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert handler.raised > 0


async def test_a_logger_that_raises_hides_no_end_from_those_who_wait(raising_logger, autojump_clock: MockClock) -> None:
    settings = Settings(process_time=1, max_attempts=1)
    async with kharon.open(":memory:", settings, clock=TrioClock()) as kh:
        await kh.add(Ticket("a", "t", group="g"))
        await kh._store.turn("w", ("default",), None, settle_by="w", claim=True)
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kh.wait, "a")
                nursery.start_soon(kh.group("g").wait)
                await trio.sleep(2)
                await kh._store.tick()


async def test_a_logger_that_raises_strands_nobody(raising_logger, autojump_clock: MockClock) -> None:
    added = []

    async def add(kh, number):
        with contextlib.suppress(RuntimeError):
            await kh.add(Ticket(f"b{number}", "other"))
        added.append(number)

    async def sleep(_kh, _ticket):
        await trio.sleep_forever()

    async def run(kh, task_status=trio.TASK_STATUS_IGNORED):
        with contextlib.suppress(RuntimeError):  # if it was the keeper of time that led the group
            await kh.run(router_of(sleep), task_status=task_status)

    settings = Settings(process_time=1, tubes=("lapsing",))
    with trio.fail_after(100):
        async with kharon.open(":memory:", settings, clock=TrioClock()) as kh:
            await kh.add(Ticket("a", "t", tube="lapsing"))
            async with trio.open_nursery() as nursery:
                await nursery.start(run, kh)
                for moment in range(5):
                    await trio.sleep(0.4)
                    for number in range(3):
                        nursery.start_soon(add, kh, moment * 3 + number)
                await kh.drain(timeout=0)
            assert kh.stats().lapsed >= 1
    assert len(added) == 15


async def test_a_logger_that_raises_hides_no_failed_write(raising_logger) -> None:
    log = FailingLog(MemoryLog(), fail="sync")
    told = []

    async def add(kh, number):
        try:
            await kh.add(Ticket(f"b{number}", "t"))
        except (kharon.CommitOutcomeUnknown, RuntimeError) as error:
            told.append(error)

    with trio.fail_after(60):
        async with kharon.open(log) as kh, trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(add, kh, number)
    assert len(told) == 3
    assert sum(isinstance(error, kharon.CommitOutcomeUnknown) for error in told) >= 2


class Panic(BaseException):
    """An exception that is not an Exception, as of an extension that panics."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
@pytest.mark.parametrize("place", ["handler", "filter"])
async def test_a_logger_that_raises_changes_no_attempt(opened, autojump_clock: MockClock, kind, place) -> None:
    """Whatever is said of it: that it begins, raised, lapsed, was cancelled, that its payload does not fit."""
    said = []

    def raising(record):
        said.append(record.levelno)
        raise kind("this logging raises")

    logger = logging.getLogger("kharon")
    handler = logging.Handler()
    handler.emit = raising
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    if place == "filter":
        logger.addFilter(raising)
    router = router_with(ok=nothing, bad=groan, slow=for_ever, cancelled=for_ever)
    router.handler("typed", payload=list[int])(nothing)
    try:
        async with opened(max_attempts=1, process_time=5, heartbeat=False) as kh, trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            types = ("ok", "bad", "slow", "cancelled", "typed")
            await kh.add_many(Ticket(f"id-{type}", type, payload="text") for type in types)
            await trio.sleep(1)
            await kh.cancel("id-cancelled")
            await trio.sleep(100)
            assert {ticket.id: ticket.status for ticket in await kh.list()} == dict.fromkeys(
                ("id-bad", "id-slow", "id-typed"), kharon.Status.FAILED
            )
            await kh.drain()
            assert kh.stats().acked == 1
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        logger.removeFilter(raising)
    assert set(said) == {logging.DEBUG, logging.INFO, logging.WARNING}


def test_a_logger_that_raises_keeps_no_queue_from_opening(raising_logger, tmp_path) -> None:
    async def open_twice():
        async with kharon.open(tmp_path / "queue") as kh:
            await kh.add(Ticket("a", "t"))
        (tmp_path / "queue" / "log" / "~a file of an editor").touch()
        async with kharon.open(tmp_path / "queue") as kh:
            assert (await kh.get("a")).type == "t"

    trio.run(open_twice)


def test_everything_is_said_by_what_never_raises() -> None:
    """`say` is the only way into the log of the program."""
    root = Path(kharon.__file__).parent
    ways = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if "getLogger" in path.read_text()}
    assert ways == {"log/messages.py", "cli/stats.py"}  # the latter silences the logger, and logs nothing
