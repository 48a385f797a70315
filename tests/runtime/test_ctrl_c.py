"""A Ctrl-C at places where it would do harm: it waits there, and the queue is closed in good order all the same."""

import logging
import signal

import pytest
import trio
from handlers import router_of

import kharon
from kharon import Ticket
from kharon.log.memory import MemoryLog
from kharon.runtime.workers import Workers
from kharon.store.background import SnapshotTask
from kharon.store.tasks import wait_out

pytestmark = pytest.mark.usefixtures("ctrl_c")


def press(*_ignored) -> bool:
    signal.raise_signal(signal.SIGINT)
    return True


def check_released(where):
    """Check that the log was closed in good order, and that nothing in it is still claimed, or has lapsed."""
    assert kharon.verify(where).closed
    assert list(kharon.replay(where).claimed()) == []
    names = [type(record.event).__name__ for record in kharon.read(where)]
    assert names.count("TicketReleased") == names.count("TicketClaimed") == 1
    assert "TicketLapsed" not in names


def run_one(where, handler):
    """Run one ticket until a Ctrl-C ends it all."""
    router = kharon.Router()
    router.handler("x")(handler)

    async def main():
        async with kharon.open(where) as kh:
            await kh.add(kharon.Ticket("t", "x"))
            await kh.run(router)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


def test_between_a_claim_and_its_handler_it_waits_until_the_claim_can_be_released(tmp_path, caplog):
    async def handler(_kh, _ticket):
        await trio.sleep_forever()

    logger = logging.getLogger("kharon")
    caplog.set_level(logging.DEBUG, "kharon")

    def begins(record):
        return press() if "begins" in record.msg else True

    logger.addFilter(begins)
    try:
        run_one(tmp_path / "queue", handler)
    finally:
        logger.removeFilter(begins)
    check_released(tmp_path / "queue")


def test_it_reaches_a_handler_that_never_waits(tmp_path):
    async def handler(_kh, _ticket):
        press()
        raise AssertionError("it did not")

    run_one(tmp_path / "queue", handler)
    check_released(tmp_path / "queue")


def test_a_second_one_does_not_keep_the_first_from_releasing_what_runs(tmp_path):
    """The task that opened the queue waits for the handlers to end when the second one comes."""
    where = tmp_path / "queue"
    router = kharon.Router()

    @router.handler("x")
    async def handler(_kh, _ticket):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                press()
                await trio.testing.wait_all_tasks_blocked()

    async def main():
        async with trio.open_nursery() as nursery, kharon.open(where) as kh:
            await kh.add(kharon.Ticket("t", "x"))
            await nursery.start(kh.run, router)
            await trio.testing.wait_all_tasks_blocked()
            press()
            await trio.sleep_forever()

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as raised:
        trio.run(main)
    assert isinstance(raised.value, KeyboardInterrupt) or raised.value.split(KeyboardInterrupt)[1] is None
    check_released(where)


class PressedEvent:
    """An event; Ctrl-C is pressed when it is about to be set."""

    def __init__(self, event):
        self.is_set, self.wait, self._set = event.is_set, event.wait, event.set

    def set(self):
        press()
        self._set()


def test_running_ends_with_all_that_belongs_to_its_end(tmp_path, monkeypatch):
    """Otherwise a task that waits for it, to drain or to close, would wait for ever."""
    run, seen = Workers._run, []

    async def pressed(workers, *args):
        seen.append(workers)
        workers._ended = PressedEvent(workers._ended)
        await run(workers, *args)

    monkeypatch.setattr(Workers, "_run", pressed)

    async def main():
        async with kharon.open(tmp_path / "queue") as kh, trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            await kh.drain()
            await trio.sleep_forever()

    router = kharon.Router()
    router.handler("x")(lambda _kh, _ticket: None)
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        trio.run(main)
    assert seen[0]._ended.is_set()


@pytest.mark.parametrize("place", ["start", "stop"])
def test_opening_and_closing_are_finished_first(tmp_path, monkeypatch, place):
    where = tmp_path / "queue"
    step = getattr(SnapshotTask, place)
    seen = []

    def pressed(snapshots):
        seen.append(snapshots)
        press()
        return step(snapshots)

    monkeypatch.setattr(SnapshotTask, place, pressed)

    async def main():
        async with kharon.open(where) as kh:
            await kh.add(kharon.Ticket("t", "x"))
        assert seen[0]._ended.is_set()
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert seen[0]._ended.is_set()
    if place == "start":  # it came before anything was added
        assert kharon.verify(where).records == 0
    else:
        assert kharon.verify(where).closed
    monkeypatch.undo()

    async def again():
        async with kharon.open(where):  # in the same process: nothing holds the lock
            pass

    trio.run(again)


async def test_waiting_out_ends_with_what_is_waited_for_and_not_before():
    event, ended = trio.Event(), []

    async def wait():
        await wait_out(event.wait)
        ended.append(True)
        await trio.lowlevel.checkpoint()
        ended.append("not cancelled")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert ended == []
            event.set()
            await trio.testing.wait_all_tasks_blocked()
        assert ended == [True]
    await wait_out(event.wait)


def test_a_ctrl_c_while_the_workers_are_stopped_does_not_keep_them_from_releasing() -> None:
    log = MemoryLog()
    cleaning = trio.Event()

    async def slow_to_end(_kh, _ticket):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                cleaning.set()
                await trio.sleep(0.05)

    async def interrupt():
        await cleaning.wait()
        signal.raise_signal(signal.SIGINT)

    async def main():
        async with trio.open_nursery() as nursery, kharon.open(log) as kh:
            await kh.add(Ticket("a", "t"))
            await nursery.start(kh.run, router_of(slow_to_end))
            while kh.stats().claimed == 0:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(interrupt)

    interrupted = False
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        interrupted = True
    assert interrupted
    events = [type(record.event).__name__ for record in log.reader().read(100, log.written)]
    assert events == ["TicketAdded", "TicketClaimed", "TicketReleased"]
